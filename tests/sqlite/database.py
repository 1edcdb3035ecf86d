"""A SQLite database of a test's own, through Django's own wrapper, and a reset of it by the backend alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from django.db import connections
from django.db.utils import ConnectionHandler

from testdb_app.backends.base import Action, ResetPlan, Script, ScriptContext, Step
from testdb_app.backends.sqlite.backend import BACKEND
from testdb_app.baseline import capture_baseline
from testdb_app.baseline_state import Baseline, RowChanges
from testdb_app.graph import DependencyGraph
from testdb_app.report import ResetReport
from testdb_app.resetter import Resetter
from testdb_app.schema import ForeignKey, QualifiedName, Schema


class SQLiteDatabase:
    """A connection to *name*; every helper works on that connection, with Django's settings of it."""

    def __init__(self, name: str | Path, **settings: Any) -> None:
        configuration = {"ENGINE": "django.db.backends.sqlite3", "NAME": name, **settings}
        self.connection = ConnectionHandler({"default": configuration})["default"]
        self.connection.ensure_connection()

    def close(self) -> None:
        # Django's close() keeps an in-memory database open.
        if self.connection.connection is not None:
            self.connection.connection.close()

    def run(self, *statements: str) -> None:
        """Execute statements one by one, literally."""
        with self.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def value(self, query: str) -> Any:
        return self.rows(query)[0][0]

    def count(self, table: str) -> int:
        return int(self.value(f"SELECT COUNT(*) FROM {table}"))

    def dump(self) -> list[tuple[Any, ...]]:
        """All schema objects of all databases with their text; triggers on DELETE in the order that they fire in."""
        found: list[tuple[Any, ...]] = []
        for _, name, _ in self.rows("PRAGMA database_list"):
            catalog = "sqlite_temp_master" if name == "temp" else '"' + name.replace('"', '""') + '".sqlite_master'
            rows = self.rows(f"SELECT type, name, tbl_name, sql FROM {catalog} ORDER BY rowid")
            firing = [row for row in rows if row[0] == "trigger" and " DELETE ON" in row[3]]
            # Only the order among those of one table tells anything.
            found += sorted(((name, *row) for row in firing), key=lambda row: row[3])
            found += sorted((name, *map(str, row)) for row in rows if row not in firing)
        return found

    def schema(self) -> Schema:
        return BACKEND.read_schema(self.connection)

    def table(self, name: str, schema: str = "main") -> QualifiedName:
        return QualifiedName(schema, name)

    def keys(self, *, to: Iterable[str]) -> tuple[ForeignKey, ...]:
        """The foreign keys to the named tables, from any other."""
        names = set(to)
        return tuple(
            key for key in self.schema().foreign_keys if key.referenced.name in names and key.table.name not in names
        )

    def steps(self, only: Sequence[str] = ()) -> tuple[Step, ...]:
        """What a plan would do: all tables with rows (or those named), and the sequences that moved."""
        schema, seen = self.schema(), BACKEND.read_state(self.connection, lock_timeout=5)
        chosen = {name for name in seen.sizes if not only or name.name in only}
        groups = DependencyGraph.from_schema(schema).deletion_groups()
        deletes = [tuple(name for name in group if name in chosen) for group in groups]
        restarts = sorted(name for name in seen.moved if not only or name.name in only)
        return (
            *(Step(action=Action.DELETE, names=names) for names in deletes if names),
            *(Step(action=Action.RESTART, names=(name,)) for name in restarts),
        )

    def script(
        self,
        only: Sequence[str] = (),
        *,
        checks: Sequence[ForeignKey] = (),
        lock_timeout: float = 0.2,
        within_transaction: bool = False,
    ) -> Script:
        schema = self.schema()
        plan = ResetPlan(
            steps=self.steps(only),
            checks=tuple(checks),
            verify=() if only else tuple(table.name for table in schema.tables),
        )
        context = ScriptContext(schema=schema, lock_timeout=lock_timeout, within_transaction=within_transaction)
        return BACKEND.write_sql(self.connection, plan, context)

    def reset(self, only: Sequence[str] = (), **options: Any) -> dict[str, int]:
        """Reset by the backend and return the rows removed by bare name; nothing else may have been done to any."""
        script = self.script(only, **options)
        changes = BACKEND.run(self.connection, script, within_transaction=options.get("within_transaction", False))
        assert all(done == RowChanges(removed=done.removed) for done in changes.values())
        return {name.name: done.removed for name, done in changes.items()}


_others: list[sqlite3.Connection] = []


def other_connection(path: str | Path) -> sqlite3.Connection:
    """Another connection, outside of Django, that waits for nothing; it is closed after the test."""
    _others.append(sqlite3.connect(path, isolation_level=None, timeout=0, uri=True, check_same_thread=False))
    return _others[-1]


def close_other_connections() -> None:
    while _others:
        _others.pop().close()


class KnownDatabase(SQLiteDatabase):
    """A database that Django knows under an alias, so that a resetter and a capture find it."""

    def __init__(self, name: str | Path, alias: str, **settings: Any) -> None:
        default = connections.settings["default"]
        connections.settings[alias] = {
            **default, "ENGINE": "django.db.backends.sqlite3", "NAME": str(name), "OPTIONS": {}, **settings,
            "TEST": {**default["TEST"], "NAME": None},
        }  # fmt: skip
        self.alias = alias
        self.name = str(name)
        self.connection = connections[alias]
        self.connection.ensure_connection()

    def close(self) -> None:
        super().close()
        del connections[self.alias]
        del connections.settings[self.alias]

    def capture(self, **options: Any) -> Baseline:
        return capture_baseline(self.alias, **{"allow_database": self.name, **options})

    def resetter(self, **options: Any) -> Resetter:
        return Resetter(self.alias, **{"allow_database": self.name, **options})

    def restore(self, **options: Any) -> ResetReport:
        """Reset with a new resetter."""
        return self.resetter(**options).reset()

    def changes(self, **options: Any) -> dict[str, tuple[int | None, int, int]]:
        """Reset with a new resetter; return the rows removed, updated and inserted by bare name."""
        report = self.restore(**options)
        return {table.name.name: (table.rows, table.updated, table.inserted) for table in report.tables}

    def content(self) -> dict[str, Any]:
        """Every row of every table but the baseline's own: with its rowid, and every value as Python writes it, which
        tells 1, 1.0, '1', b'1' and -0.0 apart."""
        found: dict[str, Any] = {}
        raw = self.connection.connection
        for _, schema, _ in raw.execute("PRAGMA database_list").fetchall():
            prefix = '"' + schema.replace('"', '""') + '"'
            catalog = f"SELECT name, sql FROM {prefix}.sqlite_master WHERE type = 'table'"
            for name, sql in raw.execute(catalog).fetchall() if schema != "temp" else []:
                if name.startswith("testdb_") or any(name.startswith(f"{virtual}_") for virtual in ("ft", "rt")):
                    continue
                table = f'{prefix}."' + name.replace('"', '""') + '"'
                rowid = "" if "WITHOUT ROWID" in sql or "oid" in sql else "rowid, "
                if name == "sqlite_sequence":
                    rowid = ""
                found[f"{schema}.{name}"] = sorted(self._read(f"SELECT {rowid}* FROM {table}"))
        return found

    def _read(self, query: str) -> list[str]:
        raw = self.connection.connection
        # Text need not be UTF-8.
        raw.text_factory = bytearray
        try:
            return [repr(row) for row in raw.execute(query)]
        finally:
            raw.text_factory = str
