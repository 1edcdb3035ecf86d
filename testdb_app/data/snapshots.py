"""The state of a database at one moment, and what differs from it later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from django.db import DEFAULT_DB_ALIAS, connections

from testdb_app.backends import get_backend
from testdb_app.data.model_index import cached_index, select
from testdb_app.diff import StateDifference, TableDifference
from testdb_app.exceptions import SnapshotError

if TYPE_CHECKING:
    from types import TracebackType

    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.backends.base import StoredState


class Snapshot:
    """The rows of some tables of one database, as the session that took it saw them. Made by :func:`snapshot`.

    A context manager, which closes it. Use it in the thread that took it. The rows are kept in the database; on
    PostgreSQL, small tables are kept in this process. Nothing is left of them after it is closed, or after the
    session ends.
    """

    def __init__(self, using: str, state: StoredState) -> None:
        self.using = using
        self._state = state

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Snapshot of {self.using!r}>"

    def diff(self, after: Snapshot | None = None, *, limit: int = 20) -> StateDifference:
        """Return what is different now, or in a later snapshot; see :func:`diff`."""
        if after is not None and after.using != self.using:
            raise SnapshotError(
                f'A snapshot of "{self.using}" cannot be compared with one of "{after.using}". Compare two of the same alias.'
            )
        connection = connections[self.using]
        found = self._state.compare(connection, after._state if after is not None else None, limit)
        return with_labels(connection, found)

    def close(self) -> None:
        """Remove the kept rows from the database. Idempotent."""
        self._state.close(connections[self.using])


def snapshot(*labels: str, using: str = DEFAULT_DB_ALIAS) -> Snapshot:
    """Keep the present state of the tables that *labels* name; without labels, of all tables that a reset may touch.

    Labels are those of ``resetdb``: an app, ``app.Model``, ``schema.table``, a pattern. Rows that this session has
    written and not yet committed are included. On PostgreSQL it costs one round trip, and reading the tables whose
    rows are not known yet. A table above 128 kB is copied to a temporary table. On SQLite all rows are copied to
    temporary tables.

    Raises :class:`~testdb_app.exceptions.UnknownNameError` for a label that matches nothing, and
    :class:`~testdb_app.exceptions.UnsupportedError` if rows are hidden, or the database has no snapshots.
    """
    connection = connections[using]
    tables = select(connection, labels) if labels else None
    return Snapshot(using, get_backend(connection).data.store_state(connection, tables))


def diff(before: Snapshot, after: Snapshot | None = None, *, limit: int = 20) -> StateDifference:
    """Return the rows that were added, changed and removed since *before*, or between it and *after*, by table.

    Rows are identified by their primary key, or by a unique key that is never null, and compared byte by byte. All
    differences are counted; at most *limit* rows of each kind and table are listed. The result is false if nothing
    differs, and its text is a diff.

    Raises :class:`~testdb_app.exceptions.SnapshotError` if a snapshot is closed, if it kept a large table and its
    savepoint was rolled back, or if its tables were altered or dropped since.
    """
    return before.diff(after, limit=limit)


def with_labels(connection: BaseDatabaseWrapper, found: Iterable[TableDifference]) -> StateDifference:
    """Return the differences of the tables as one, with the labels of their models."""
    tables = sorted(found, key=lambda difference: difference.table)
    if not tables:
        return StateDifference()
    index = cached_index(connection)
    return StateDifference(
        tables=tuple(replace(difference, labels=index.labels_of(difference.table)) for difference in tables)
    )
