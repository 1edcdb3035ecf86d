"""What :mod:`testdb_app.data` can have of any Django backend: no snapshots, and rows inserted as Django itself would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from django.db import IntegrityError

from testdb_app.backends.base import DatabaseIdentity
from testdb_app.backends.data_protocols import StoredState
from testdb_app.backends.generic.introspection import read_schema
from testdb_app.baseline_state import Baseline
from testdb_app.diff import LateSequence, TableDifference, Violation
from testdb_app.exceptions import UnsupportedError
from testdb_app.schema import QualifiedName, Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_ROWS_A_CALL = 1_000


class GenericData:
    """See :class:`testdb_app.backends.data_protocols.DataBackend`."""

    def quote(self, connection: BaseDatabaseWrapper, name: QualifiedName | str) -> str:
        """Quote as Django does."""
        return connection.ops.quote_name(name.name if isinstance(name, QualifiedName) else name)

    def read_schema(self, connection: BaseDatabaseWrapper, known: Schema | None) -> Schema:
        """Read the map, each time: nothing tells cheaply whether it has changed."""
        return read_schema(connection)

    def read_keys(
        self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]
    ) -> Mapping[QualifiedName, tuple[str, ...]]:
        """Return the primary keys, as Django's introspection tells them."""
        introspection: Any = connection.introspection
        with connection.cursor() as cursor:
            return {name: tuple(introspection.get_primary_key_columns(cursor, name.name) or ()) for name in tables}

    def prove(self, connection: BaseDatabaseWrapper, identity: DatabaseIdentity, schema: Schema) -> None:
        """Do nothing: who else a proxy might lead to is not known here."""

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
        """Delete one after the other; a cycle of keys that are checked at once fails, as it does in Django."""
        removed = []
        with connection.cursor() as cursor:
            for table, condition, parameters in deletes:
                cursor.execute(
                    f"DELETE FROM {self.quote(connection, table).replace('%', '%%')} WHERE {condition}",
                    list(parameters),
                )
                removed.append(cursor.rowcount)
        return removed

    def insert_rows(
        self, connection: BaseDatabaseWrapper, table: QualifiedName | str, columns: Sequence[str], rows: Iterable[Any]
    ) -> int:
        """Insert by ``executemany()``; all or nothing in the caller's transaction alone."""
        listed = ", ".join(self.quote(connection, column) for column in columns).replace("%", "%%")
        places = ", ".join("%s" for _ in columns)
        sql = f"INSERT INTO {self.quote(connection, table).replace('%', '%%')} ({listed}) VALUES ({places})"
        count, remaining = 0, iter(rows)
        with connection.cursor() as cursor:
            while batch := list(islice(remaining, _ROWS_A_CALL)):
                cursor.executemany(sql, batch)
                count += len(batch)
        return count

    def reserve_keys(self, connection: BaseDatabaseWrapper, table: str, column: str, number: int) -> Sequence[int]:
        """Raise :class:`UnsupportedError`."""
        _refuse(connection, "reserving the keys of rows")

    def store_state(self, connection: BaseDatabaseWrapper, tables: frozenset[QualifiedName] | None) -> StoredState:
        """Raise :class:`UnsupportedError`: how rows are copied and compared exactly is not known here."""
        _refuse(connection, "a snapshot")

    def compare_with_baseline(
        self,
        connection: BaseDatabaseWrapper,
        baseline: Baseline | None,
        tables: Iterable[QualifiedName],
        limit: int,
    ) -> list[TableDifference]:
        """Tell how many rows there are, and not which: there is no baseline here."""
        found = []
        with connection.cursor() as cursor:
            for name in sorted(tables):
                cursor.execute(f"SELECT COUNT(*) FROM {self.quote(connection, name)}")
                if rows := int(cursor.fetchone()[0]):
                    found.append(TableDifference(table=name, added=rows))
        return found

    def find_violations(self, connection: BaseDatabaseWrapper, schema: Schema, limit: int) -> list[Violation]:
        """Find what ``connection.check_constraints()`` finds: on most vendors the first dangling key, on others nothing."""
        try:
            connection.check_constraints()
        except IntegrityError as error:
            return [Violation(constraint="", kind="constraint", table="", detail=" ".join(str(error).split()))]
        return []

    def find_late_sequences(self, connection: BaseDatabaseWrapper, schema: Schema) -> list[LateSequence]:
        """Raise :class:`UnsupportedError`: Django has no way to ask where a sequence is."""
        _refuse(connection, "a look at where sequences are")


def _refuse(connection: BaseDatabaseWrapper, what: str) -> NoReturn:
    raise UnsupportedError(
        f"Not supported on {connection.display_name}: {what}. Compare what the test is about by queries of its own."
    )
