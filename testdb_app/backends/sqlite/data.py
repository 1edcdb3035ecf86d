"""What :mod:`testdb_app.data` asks of SQLite: rows by executemany(), keys, the states of tables, foreign keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

from testdb_app.backends.base import DatabaseIdentity
from testdb_app.backends.sqlite.catalog import read_catalog
from testdb_app.backends.sqlite.errors import execute, fetch
from testdb_app.backends.sqlite.introspection import read_schema
from testdb_app.backends.sqlite.shapes import read_shapes
from testdb_app.backends.sqlite.snapshot import all_or_nothing, snapshot
from testdb_app.backends.sqlite.sql import quote_literal, quote_name, quote_qualified
from testdb_app.backends.sqlite.stored import compare_with_baseline, store_state
from testdb_app.backends.sqlite.violations import find_violations
from testdb_app.diff import LateSequence
from testdb_app.schema import QualifiedName, Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_ROWS_A_CALL = 5_000


class SQLiteData:
    """See :class:`testdb_app.backends.base.DataBackend`."""

    store_state = staticmethod(store_state)
    compare_with_baseline = staticmethod(compare_with_baseline)
    find_violations = staticmethod(find_violations)

    def quote(self, connection: BaseDatabaseWrapper, name: QualifiedName | str) -> str:
        """Quote an identifier, or a qualified one."""
        return quote_qualified(name) if isinstance(name, QualifiedName) else quote_name(name)

    def read_schema(self, connection: BaseDatabaseWrapper, known: Schema | None) -> Schema:
        """Return *known* if the catalog has the same texts still."""
        if known is not None:
            with snapshot(connection) as cursor:
                if read_catalog(connection, cursor).token == known.token:
                    return known
        return read_schema(connection)

    def read_keys(
        self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]
    ) -> Mapping[QualifiedName, tuple[str, ...]]:
        """Return the primary key of each table."""
        with snapshot(connection) as cursor:
            shapes = read_shapes(connection, cursor, read_catalog(connection, cursor), tables)
        return {name: shape.key or shape.primary_key for name, shape in shapes.items()}

    def prove(self, connection: BaseDatabaseWrapper, identity: DatabaseIdentity, schema: Schema) -> None:
        """Do nothing: a connection leads to one file, for as long as it is open."""

    def comparison(self, sign: str) -> str:
        """Return the sign: no name of an operator can be taken by another one."""
        return sign

    def read_equality(
        self, connection: BaseDatabaseWrapper, table: QualifiedName, columns: Sequence[str]
    ) -> tuple[str, ...]:
        """Return the one there is."""
        return ("=",) * len(columns)

    def accepting_deletes(
        self, connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
    ) -> AbstractContextManager[None]:
        """Do nothing: nobody refuses."""
        return nullcontext()

    def delete_together(
        self, connection: BaseDatabaseWrapper, deletes: Sequence[tuple[QualifiedName, str, Sequence[Any]]]
    ) -> list[int]:
        """Delete one after the other, with the checks of foreign keys put off where it is more than one."""
        removed = []
        with connection.cursor() as cursor:
            ((deferred,),) = fetch(connection, cursor, "PRAGMA defer_foreign_keys")
            if len(deletes) > 1 and not deferred:
                # It ends with the transaction. To switch it off before would forget what is broken by then.
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
            # Django's own cursor would look for %s in the statement.
            raw = cursor.connection.cursor()
            with connection.wrap_database_errors:
                while batch := list(islice(remaining, _ROWS_A_CALL)):
                    raw.executemany(sql, batch)
                    count += len(batch)
        return count

    def reserve_keys(self, connection: BaseDatabaseWrapper, table: str, column: str, number: int) -> Sequence[int]:
        """Return the rowids that SQLite would give next. They are taken once the rows are inserted with them."""
        with connection.cursor() as cursor:
            ((last,),) = fetch(connection, cursor, f"SELECT COALESCE(MAX({quote_name(column)}), 0) AS v FROM {table}")
            name = table.rpartition(".")[2].strip('"').replace('""', '"')
            if fetch(connection, cursor, "SELECT 1 AS v FROM sqlite_master WHERE name = 'sqlite_sequence'"):
                counters = f"SELECT seq FROM sqlite_sequence WHERE name = {quote_literal(name)}"
                last = max([last, *(value for (value,) in fetch(connection, cursor, counters))])
        return range(last + 1, last + 1 + number)

    def find_late_sequences(self, connection: BaseDatabaseWrapper, schema: Schema) -> list[LateSequence]:
        """Return none: SQLite itself takes the greatest key that is there into account, whatever the counter says."""
        return []
