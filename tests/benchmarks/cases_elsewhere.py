"""The cases of other storage: a disk with ``fsync`` on, and SQLite."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.db import connections

from testdb_app.baseline import capture_baseline
from testdb_app.exceptions import UnsupportedError
from testdb_app.resetter import Resetter
from tests.benchmarks import candidates as who
from tests.benchmarks.cases_tables import Bench, take_part
from tests.benchmarks.disk import filesystem, is_in_memory, own_server
from tests.benchmarks.results import Case, Series, Target
from tests.benchmarks.rounds import measure, same
from tests.benchmarks.schemas import sqlite_statements
from tests.scratch import ScratchFile

SQLITE_TABLES = 1_000
EVERY = 10
"""On some disks TRUNCATE takes seconds: those that use it come in one round of so many."""


def run_disk(bench: Bench) -> Iterator[Case]:
    """Measure everybody on 100 and on 300 tables, on a server whose data are on a disk with ``fsync`` on."""
    if bench.disk is None or is_in_memory(bench.disk):
        print(f"No disk: {bench.disk} is in memory. Choose a folder on a disk with --disk FOLDER.\n")
        return
    with own_server(bench.disk) as host:
        for tables in (100, 300):
            with ExitStack() as stack:
                classes = [who.Floor, who.Ours, who.DeleteAll, who.TruncateWritten, who.Flush]
                everybody = take_part(stack, bench, classes, tables=tables, host=host, every=EVERY)
                series = measure(everybody, rounds=bench.rounds, choose=same(tables))
            case = Case(
                key=f"disk-{tables}",
                title=f"{tables} tables, the same five written, fsync=on, {filesystem(bench.disk) or 'disk'}",
                series=series,
                base="floor",
            )
            times = case.ratio("Django's flush", "testdb_app")
            note = f"against Django's flush: {times:.0f} × faster (TRUNCATE's time depends on the last checkpoint)"
            yield Case(key=case.key, title=case.title, series=series, base="floor", note=note)


class _OnSQLite(who.Candidate):
    """A candidate on a file or in memory; it writes over Django's connection."""

    database: Any

    def send(self, message: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            return list(cursor.cursor.execute(message).fetchall())

    def write(self, tables: Sequence[int]) -> None:
        for table in tables:
            self.send(f"INSERT INTO t{table} (name) VALUES ('a'), ('b'), ('c')")
            rows = self.send(f"SELECT min(id), max(id), count(*) FROM t{table}")
            assert rows == [(1, who.ROWS, who.ROWS)], (self.name, table, rows)

    def check_empty(self, tables: Sequence[int]) -> None:
        for table in tables:
            assert self.send(f"SELECT count(*) FROM t{table}") == [(0,)], (self.name, table)


class _Ours(_OnSQLite):
    role = "ours"

    def prepare(self) -> None:
        # Until there are baselines on SQLite, back to empty tables, which is the same here.
        try:
            capture_baseline(self.alias, allow_database=self.database.name)
        except UnsupportedError:
            print("(a baseline on SQLite is not supported yet: its rows are resets to empty)")
        self.resetter = Resetter(self.alias, allow_database=self.database.name)

    def ready(self, tables: Sequence[int]) -> Callable[[], object]:
        return self.resetter.reset


class _Script(_OnSQLite):
    """One script, in one transaction, with the rows that AUTOINCREMENT keeps."""

    knows = False

    def ready(self, tables: Sequence[int]) -> Callable[[], object]:
        chosen = tables if self.knows else range(self.tables - 1, -1, -1)
        deletes = "; ".join(f"DELETE FROM t{table}" for table in chosen)
        names = ", ".join(f"'t{table}'" for table in chosen)
        script = f"BEGIN; {deletes}; DELETE FROM sqlite_sequence WHERE name IN ({names}); COMMIT;"
        self.connection.ensure_connection()
        return lambda: self.connection.connection.executescript(script)


class _Floor(_Script):
    role = "floor"
    knows = True


def run_sqlite(bench: Bench) -> Iterator[Case]:
    """Measure ourselves, the floor and DELETE of all, on files and in memory."""
    memory = Path("/dev/shm")
    for place in ("memory", "file"):
        with ExitStack() as stack:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)  # where the server's data are
            )
            everybody = []
            for name, chosen in (("floor", _Floor), ("testdb_app", _Ours), ("DELETE of all", _Script)):
                alias = f"sqlite_{place}_{len(everybody)}"
                database = ScratchFile(Path(folder, alias), alias)
                if place == "memory":
                    database.name = f"file:{alias}?mode=memory"
                database.create()
                stack.callback(_drop, database)
                with database.connection.cursor() as cursor:
                    for statement in sqlite_statements(tables=SQLITE_TABLES, keys=SQLITE_TABLES * 3 // 2):
                        cursor.execute(statement)
                candidate = chosen(database, tables=SQLITE_TABLES)  # type: ignore[arg-type]
                candidate.name = name
                everybody.append(candidate)
            where = f"SQLite {'in memory' if place == 'memory' else 'in a file'}, 1,000 tables"
            series = measure(everybody, rounds=bench.rounds, choose=same(SQLITE_TABLES))
            yield _sqlite_case(place, f"sqlite-{place}", f"{where}, the same five written", series, 1.0)
            series = measure(everybody[:2], rounds=bench.rounds, choose=list)
            yield _sqlite_case(place, f"sqlite-{place}-nothing", f"{where}, nothing written", series, 0.05)


def _sqlite_case(place: str, key: str, title: str, series: tuple[Series, ...], limit: float) -> Case:
    case = Case(key=key, title=title, series=series, base="floor")
    target = Target(text=title, measured=case.find("testdb_app").median, limit=limit, unit="ms")
    return replace(case, targets=(target,) if place == "memory" else ())


def _drop(database: ScratchFile) -> None:
    connection = connections[database.alias]
    if connection.connection is not None:
        connection.connection.close()  # Django keeps one in memory open, whatever it is told
        connection.connection = None
    del connections[database.alias]
    del connections.settings[database.alias]
