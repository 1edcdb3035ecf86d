"""What a backend does for :mod:`testdb_app.data`: the protocols that set-up, teardown and verification speak.

A part of :mod:`testdb_app.backends.protocols`, apart from it because a reset needs none of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from testdb_app.backends.base import DatabaseIdentity
from testdb_app.baseline_state import Baseline
from testdb_app.diff import LateSequence, TableDifference, Violation
from testdb_app.schema import QualifiedName, Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class StoredState(Protocol):
    """The rows of some tables as they were, wherever they are kept. It belongs to one session of the database."""

    def compare(self, connection: BaseDatabaseWrapper, later: StoredState | None, limit: int) -> list[TableDifference]:
        """Return what differs from *later*, another state of the same database, or from what is there now.

        At most *limit* rows of each kind and table are told. Raises :class:`~testdb_app.exceptions.SnapshotError` where the
        rows that were kept are gone, or the tables are other ones.
        """
        ...

    def close(self, connection: BaseDatabaseWrapper) -> None:
        """Take what was kept out of the database. Twice is once, and a session that has ended has nothing left."""
        ...


class DataBackend(Protocol):
    """What one vendor does for the data helpers. Stateless; nothing here commits inside the caller's transaction."""

    def quote(self, connection: BaseDatabaseWrapper, name: QualifiedName | str) -> str:
        """Quote an identifier for SQL. Where it goes with parameters, ``%`` in it is to be doubled."""
        ...

    def read_schema(self, connection: BaseDatabaseWrapper, known: Schema | None) -> Schema:
        """Return the map: *known* itself if it is still true, which is cheaper to find out than to read it."""
        ...

    def read_keys(
        self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]
    ) -> Mapping[QualifiedName, tuple[str, ...]]:
        """Return the columns that tell the rows of each table apart; none for a table without such a key."""
        ...

    def prove(self, connection: BaseDatabaseWrapper, identity: DatabaseIdentity, schema: Schema) -> None:
        """Fail, and with it the transaction that is open, unless it is where *identity* was read and may still be written to.

        Raises :class:`~testdb_app.exceptions.UnsafeDatabaseError`.
        """
        ...

    def comparison(self, sign: str) -> str:
        """Write the operator ``=``, ``>=`` or ``<=`` of numbers, whatever the names that the session offers."""
        ...

    def read_equality(
        self, connection: BaseDatabaseWrapper, table: QualifiedName, columns: Sequence[str]
    ) -> tuple[str, ...]:
        """Return the operators by which values of key *columns* are equal."""
        ...

    def accepting_deletes(
        self, connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
    ) -> AbstractContextManager[None]:
        """Have the server delete from *tables*, inside an open transaction, also where a publication makes it refuse.

        Raises :class:`~testdb_app.exceptions.PublicationError` where it would refuse all the same.
        """
        ...

    def delete_together(
        self, connection: BaseDatabaseWrapper, deletes: Sequence[tuple[QualifiedName, str, Sequence[Any]]]
    ) -> list[int]:
        """Delete rows that may refer to each other, inside an open transaction; return how many of each table.

        Each entry has a table, a condition in which ``%`` is doubled, and its parameters.
        Foreign keys between the tables are checked after all of it.
        """
        ...

    def insert_rows(
        self, connection: BaseDatabaseWrapper, table: QualifiedName | str, columns: Sequence[str], rows: Iterable[Any]
    ) -> int:
        """Insert rows of values for *columns* by the fastest way there is; return how many. All or nothing."""
        ...

    def reserve_keys(self, connection: BaseDatabaseWrapper, table: str, column: str, number: int) -> Sequence[int]:
        """Take so many values of the sequence behind a column, for rows that are about to be inserted with them.

        *table* is its name as SQL has it.
        """
        ...

    def store_state(self, connection: BaseDatabaseWrapper, tables: frozenset[QualifiedName] | None) -> StoredState:
        """Keep the rows of *tables*, or of all that a reset may touch, as this session sees them now."""
        ...

    def compare_with_baseline(
        self,
        connection: BaseDatabaseWrapper,
        baseline: Baseline | None,
        tables: Iterable[QualifiedName],
        limit: int,
    ) -> list[TableDifference]:
        """Return what differs in *tables* from the baseline, or, where there is none, from no rows."""
        ...

    def find_violations(self, connection: BaseDatabaseWrapper, schema: Schema, limit: int) -> list[Violation]:
        """Find constraints that rows break, those among them that are to be checked only at the end of the transaction."""
        ...

    def find_late_sequences(self, connection: BaseDatabaseWrapper, schema: Schema) -> list[LateSequence]:
        """Find sequences whose next value is not beyond all values of a column that uses them."""
        ...
