"""The data helpers on SQLite: insert, delete, keys, and violated foreign keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

from testdb_app.backends.base import BaseDataBackend, DatabaseIdentity
from testdb_app.backends.sqlite.baseline_shape import read_shapes
from testdb_app.backends.sqlite.catalog import read_catalog
from testdb_app.backends.sqlite.connection import all_or_nothing, execute, fetch, snapshot
from testdb_app.backends.sqlite.introspection import read_schema
from testdb_app.backends.sqlite.parser import quote_literal, quote_name, quote_qualified
from testdb_app.backends.sqlite.snapshots import compare_with_baseline, store_state
from testdb_app.diff import LateSequence, Violation
from testdb_app.schema import QualifiedName, Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

    from testdb_app.backends.base import StoredState
    from testdb_app.baseline_state import Baseline
    from testdb_app.diff import TableDifference

# table, number of the key, how many rows, whether a rowid leads to them
BROKEN = """
SELECT "table" AS broken, fkid, COUNT(*) AS found, COUNT(rowid) = COUNT(*) AS has_rowid
FROM pragma_foreign_key_check
GROUP BY "table", fkid
ORDER BY "table", fkid
"""

COLUMNS = """
SELECT "from" AS here, "table" AS there, "to" AS target
FROM pragma_foreign_key_list({table})
WHERE id = {number}
ORDER BY seq
"""


def find_violations(connection: BaseDatabaseWrapper, schema: Schema, limit: int) -> list[Violation]:
    """Find dangling foreign keys, at most *limit* values of each, including those that the open transaction may still repair."""
    with snapshot(connection) as cursor:
        return [
            violation
            for table, number, rows, has_rowid in fetch(connection, cursor, BROKEN)
            for violation in _describe(connection, cursor, schema, table, number, rows, bool(has_rowid), limit)
        ]


def _describe(
    connection: BaseDatabaseWrapper,
    cursor: CursorWrapper,
    schema: Schema,
    table: str,
    number: int,
    rows: int,
    has_rowid: bool,
    limit: int,
) -> Iterator[Violation]:
    pairs = fetch(connection, cursor, COLUMNS.format(table=quote_literal(table), number=number))
    columns = tuple(here for here, _, _ in pairs)
    key = next((key for key in schema.foreign_keys if key.table.name == table and key.columns == columns), None)
    name, shown = (key.name, str(key.table)) if key is not None else (f"number {number}", table)
    referenced = f"{key.referenced}({', '.join(key.referenced_columns)})" if key is not None else str(pairs[0][1])
    if not has_rowid:
        detail = f"{rows} row(s) refer to what is not in {referenced}"
        yield Violation(constraint=name, kind="foreign key", table=shown, rows=rows, detail=detail)
        return
    listed = ", ".join(f"CAST({quote_name(column)} AS TEXT) AS v{place}" for place, column in enumerate(columns))
    places = ", ".join(f"v{place}" for place in range(len(columns)))
    broken = f"SELECT rowid FROM pragma_foreign_key_check({quote_literal(table)}) WHERE fkid = {number}"
    for *values, count in fetch(
        connection,
        cursor,
        f"SELECT {listed}, COUNT(*) AS found FROM {quote_name(table)} WHERE rowid IN ({broken}) "
        f"GROUP BY {places} ORDER BY {places} LIMIT {limit}",
    ):
        yield Violation(
            constraint=name,
            kind="foreign key",
            table=shown,
            columns=columns,
            values=tuple(values),
            referenced=referenced,
            rows=count,
        )


_ROWS_A_CALL = 5_000


class SQLiteData(BaseDataBackend):
    """See :class:`testdb_app.backends.base.BaseDataBackend`."""

    def store_state(self, connection: BaseDatabaseWrapper, tables: frozenset[QualifiedName] | None) -> StoredState:
        return store_state(connection, tables)

    def compare_with_baseline(
        self, connection: BaseDatabaseWrapper, baseline: Baseline | None, tables: Iterable[QualifiedName], limit: int
    ) -> list[TableDifference]:
        return compare_with_baseline(connection, baseline, tables, limit)

    def find_violations(self, connection: BaseDatabaseWrapper, schema: Schema, limit: int) -> list[Violation]:
        return find_violations(connection, schema, limit)

    def quote(self, connection: BaseDatabaseWrapper, name: QualifiedName | str) -> str:
        """Quote an identifier, or a qualified one."""
        return quote_qualified(name) if isinstance(name, QualifiedName) else quote_name(name)

    def read_schema(self, connection: BaseDatabaseWrapper, before: Schema | None) -> Schema:
        """Return *before* if the catalog still has the same texts."""
        if before is not None:
            with snapshot(connection) as cursor:
                if read_catalog(connection, cursor).token == before.token:
                    return before
        return read_schema(connection)

    def read_keys(
        self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]
    ) -> Mapping[QualifiedName, tuple[str, ...]]:
        """Return the primary key of each table."""
        with snapshot(connection) as cursor:
            shapes = read_shapes(connection, cursor, read_catalog(connection, cursor), tables)
        return {name: shape.key or shape.primary_key for name, shape in shapes.items()}

    def prove(self, connection: BaseDatabaseWrapper, identity: DatabaseIdentity, schema: Schema) -> None:
        """Do nothing: a connection leads to one file as long as it is open."""

    def comparison(self, sign: str) -> str:
        """Return the sign: nothing else can have an operator's name."""
        return sign

    def read_equality(
        self, connection: BaseDatabaseWrapper, table: QualifiedName, columns: Sequence[str]
    ) -> tuple[str, ...]:
        """Return the only one."""
        return ("=",) * len(columns)

    def accepting_deletes(
        self, connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
    ) -> AbstractContextManager[None]:
        """Do nothing: SQLite does not refuse."""
        return nullcontext()

    def delete_together(
        self, connection: BaseDatabaseWrapper, deletes: Sequence[tuple[QualifiedName, str, Sequence[Any]]]
    ) -> list[int]:
        """Delete one after the other, with the checks of foreign keys deferred if it is more than one."""
        removed = []
        with connection.cursor() as cursor:
            ((deferred,),) = fetch(connection, cursor, "PRAGMA defer_foreign_keys")
            if len(deletes) > 1 and not deferred:
                # It ends with the transaction. Switching it off earlier would forget the violations so far.
                execute(connection, cursor, "PRAGMA defer_foreign_keys = ON")
            for table, condition, parameters in deletes:
                cursor.execute(
                    f"DELETE FROM {quote_qualified(table).replace('%', '%%')} WHERE {condition}", list(parameters)
                )
                removed.append(cursor.rowcount)
        return removed

    def insert_rows(
        self, connection: BaseDatabaseWrapper, table: QualifiedName | str, columns: Sequence[str], rows: Iterable[Any]
    ) -> int:
        """Insert by one statement that is compiled once, in one transaction or savepoint."""
        listed = ", ".join(map(quote_name, columns))
        places = ", ".join("?" for _ in columns)
        sql = f"INSERT INTO {self.quote(connection, table)} ({listed}) VALUES ({places})"
        if not columns:
            sql = f"INSERT INTO {self.quote(connection, table)} DEFAULT VALUES"
        count, remaining = 0, iter(rows)
        with all_or_nothing(connection, "testdb_bulk"), connection.cursor() as cursor:
            # Django's own cursor would search for %s in the statement.
            raw = cursor.connection.cursor()
            with connection.wrap_database_errors:
                while batch := list(islice(remaining, _ROWS_A_CALL)):
                    raw.executemany(sql, batch)
                    count += len(batch)
        return count

    def reserve_keys(self, connection: BaseDatabaseWrapper, table: str, column: str, number: int) -> Sequence[int]:
        """Return the rowids that SQLite would give next. They are taken when the rows are inserted with them."""
        with connection.cursor() as cursor:
            ((last,),) = fetch(connection, cursor, f"SELECT COALESCE(MAX({quote_name(column)}), 0) AS v FROM {table}")
            name = table.rpartition(".")[2].strip('"').replace('""', '"')
            if fetch(connection, cursor, "SELECT 1 AS v FROM sqlite_master WHERE name = 'sqlite_sequence'"):
                counters = f"SELECT seq FROM sqlite_sequence WHERE name = {quote_literal(name)}"
                last = max([last, *(value for (value,) in fetch(connection, cursor, counters))])
        return range(last + 1, last + 1 + number)

    def find_late_sequences(self, connection: BaseDatabaseWrapper, schema: Schema) -> list[LateSequence]:
        """Return none: SQLite itself considers the greatest existing key, whatever the counter is."""
        return []
