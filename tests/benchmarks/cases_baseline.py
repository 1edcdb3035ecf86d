"""The case of a baseline with rows: 50 tables with 200 rows each, of which five lose, change and gain a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from tests.benchmarks import candidates as who
from tests.benchmarks.cases_tables import Bench
from tests.benchmarks.databases import BenchmarkDatabase
from tests.benchmarks.results import Case, Target
from tests.benchmarks.rounds import measure, same

TABLES, ROWS_EACH = 50, 200
GONE, CHANGED, NEW = 150, 120, ROWS_EACH + 1

FOREIGN_KEYS = """
SELECT a.attname
FROM pg_attribute AS a
WHERE a.attrelid = 't{table}'::regclass
AND a.attname ~ '^k[0-9]+$'
AND NOT a.attisdropped
"""


def fill(database: BenchmarkDatabase) -> None:
    """Put 200 rows into each table; every foreign key refers to one of the first 100 rows, which stay."""
    with database.connect() as connection:
        for table in range(TABLES):
            keys = [name for (name,) in connection.execute(FOREIGN_KEYS.format(table=table)).fetchall()]
            columns = "".join(f", {name}" for name in keys)
            values = ", 1 + n % 100" * len(keys)
            connection.execute(
                f"INSERT INTO t{table} (name{columns}) "
                f"SELECT 'row ' || n{values} FROM generate_series(1, {ROWS_EACH}) AS n"
            )
        connection.execute("VACUUM ANALYZE")


class _Changing(who.Candidate):
    """Inserts, updates and deletes a row; proves with each that the reset before put everything back."""

    def write(self, tables: Sequence[int]) -> None:
        for table in tables:
            new = self.send(f"INSERT INTO t{table} (name) VALUES ('new') RETURNING id")
            changed = self.send(
                f"UPDATE t{table} SET name = 'changed' WHERE id = {CHANGED} AND name = 'row {CHANGED}' RETURNING id"
            )
            gone = self.send(f"DELETE FROM t{table} WHERE id = {GONE} RETURNING name")
            expected = [(NEW,)], [(CHANGED,)], [(f"row {GONE}",)]
            assert (new, changed, gone) == expected, (self.name, table, new, changed, gone)

    def check_empty(self, tables: Sequence[int]) -> None:
        """Compare the rows with those of an untouched copy, at the end."""
        assert _contents(self.database) == self.contents, self.name

    def prepare(self) -> None:
        self.contents = _contents(self.database)
        super().prepare()


def _contents(database: BenchmarkDatabase) -> list[object]:
    with database.connect() as connection:
        return [
            connection.execute(f"SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t{table} AS t").fetchone()
            for table in range(TABLES)
        ]


class _Ours(_Changing, who.Ours):
    pass


class _ByHand(_Changing, who.Sender):
    """Someone who has copies of the tables, and the statements at hand."""

    def prepare(self) -> None:
        super().prepare()
        with self.database.connect() as connection:
            connection.execute("CREATE SCHEMA copy")
            for table in range(TABLES):
                connection.execute(f"CREATE TABLE copy.t{table} (LIKE public.t{table}, PRIMARY KEY (id))")
                connection.execute(f"INSERT INTO copy.t{table} TABLE public.t{table}")
            connection.execute("VACUUM ANALYZE")

    def message(self, tables: Sequence[int]) -> str:
        statements = [statement for table in tables for statement in self.restore(table)]
        values = ", ".join(f"setval('t{table}_id_seq', {ROWS_EACH})" for table in tables)
        return "; ".join(["BEGIN", *statements, f"SELECT {values}", "COMMIT"])

    def restore(self, table: int) -> list[str]:
        """Return the statements for one table."""
        raise NotImplementedError


class _ByComparing(_ByHand):
    name = "floor, by comparing the tables"
    role = "floor"

    def restore(self, table: int) -> list[str]:
        there = f"(SELECT FROM {{}}.t{table} AS other WHERE other.id = t.id)"
        return [
            f"DELETE FROM public.t{table} AS t WHERE NOT EXISTS {there.format('copy')}",
            (
                f"UPDATE public.t{table} AS t SET name = old.name FROM copy.t{table} AS old "
                "WHERE old.id = t.id AND ROW(t.*) IS DISTINCT FROM ROW(old.*)"
            ),
            f"INSERT INTO public.t{table} SELECT * FROM copy.t{table} AS t WHERE NOT EXISTS {there.format('public')}",
        ]


class _ByReplacing(_ByHand):
    name = "by hand, all rows of the tables anew"

    def restore(self, table: int) -> list[str]:
        # The foreign keys are deferred: a row may be gone for a moment.
        return [f"DELETE FROM public.t{table}", f"INSERT INTO public.t{table} TABLE copy.t{table}"]


class _ByRows(_ByHand):
    name = "by hand, knowing the rows"

    def restore(self, table: int) -> list[str]:
        return [
            f"DELETE FROM public.t{table} WHERE id = {NEW}",
            f"UPDATE public.t{table} SET name = 'row {CHANGED}' WHERE id = {CHANGED}",
            f"INSERT INTO public.t{table} SELECT * FROM copy.t{table} WHERE id = {GONE}",
        ]


def run_baseline(bench: Bench) -> Iterator[Case]:
    """Measure the restore beside three that are written by hand; the floor is the one that knows the tables, not the rows."""
    with ExitStack() as stack:
        make = stack.enter_context(bench.databases.copies(tables=TABLES, fill=fill))
        classes = [_ByComparing, _Ours, _ByRows, _ByReplacing]
        everybody = [chosen(make(), tables=TABLES) for chosen in classes]
        series = measure(everybody, rounds=bench.rounds, choose=same(TABLES))
    case = Case(
        key="baseline",
        title=f"A baseline of {TABLES} tables with {TABLES * ROWS_EACH:,} rows, five tables written (insert, update, delete)",
        series=series,
        base=_ByComparing.name,
    )
    text = "baseline of 50 tables with 10,000 rows, 5 written"
    target = Target(text=text, measured=case.ratio("testdb_app"), limit=4, unit="× floor")
    beside_rows = f"beside someone who knows even the rows: {case.ratio('testdb_app', _ByRows.name):.2f}"
    yield replace(case, targets=(target,), note=beside_rows)
