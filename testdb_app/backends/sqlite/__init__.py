"""SQLite, 3.31 and later: the same promises as on PostgreSQL, as far as SQLite has the thing.

Its "schemas" are the attached databases: "main", and those in memory. Attached files are left out, because nothing says that
they are test databases.
"""

from __future__ import annotations

from sqlite3 import ProgrammingError
from typing import TYPE_CHECKING

from testdb_app.backends.base import (
    OWN_SCHEMA,
    Mark,
    Restoration,
    TransactionStatus,
    begin_with_savepoint,
    catalog_is_first,
    check_deferred,
    close_session,
    is_never_unwritten,
    leave_session,
    nobody_blocks,
    nobody_knows_schema,
    undo_to_savepoint,
    without_kept_sessions,
    without_start,
    without_watch,
    write_restarts,
    written_unknown,
)
from testdb_app.backends.sqlite import baseline, details, execution, identity, introspection, limits, operations
from testdb_app.backends.sqlite.data import SQLiteData
from testdb_app.backends.sqlite.errors import translate
from testdb_app.baseline_state import KEPT_STATES
from testdb_app.exceptions import TestDBError

if TYPE_CHECKING:
    from django.db import Error
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.backends.base import Backend


class SQLiteBackend:
    """The backend for SQLite, SpatiaLite included. Every method does as its function says."""

    vendor = "sqlite"
    data = SQLiteData()
    warning: str | None = None
    has_local_limits = False
    ways_to_restore: tuple[Restoration, ...] = (Restoration.DIFFERENCES, Restoration.ANEW)

    identify = staticmethod(identity.identify)
    set_mark = staticmethod(identity.set_mark)
    read_schema = staticmethod(introspection.read_schema)
    read_details = staticmethod(details.read_details)
    observe = staticmethod(introspection.observe)
    count_rows = staticmethod(introspection.count_rows)
    count_references = staticmethod(introspection.count_references)
    script = staticmethod(operations.script)
    run = staticmethod(execution.run)
    count_changes = staticmethod(introspection.count_changes)
    read_baseline = staticmethod(baseline.read_baseline)
    read_shape = staticmethod(baseline.read_shape)
    write_baseline = staticmethod(baseline.write_baseline)
    rewrite_baseline = staticmethod(baseline.rewrite_baseline)
    watch = staticmethod(without_watch)
    renew_session = staticmethod(close_session)
    release_session = staticmethod(leave_session)
    begin = staticmethod(begin_with_savepoint)
    undo = staticmethod(undo_to_savepoint)
    limit = staticmethod(limits.limit)
    lift = staticmethod(limits.lift)
    classify = staticmethod(limits.classify)
    find_blockers = staticmethod(nobody_blocks)

    def explain(self, connection: BaseDatabaseWrapper, error: Error, *, doing: str) -> TestDBError:
        """Return the package's error; see :func:`testdb_app.backends.sqlite.errors.translate`."""
        return translate(error, connection, doing)

    check_deferred = staticmethod(check_deferred)
    write_restarts = staticmethod(write_restarts)
    catalog_first = staticmethod(catalog_is_first)
    note_start = staticmethod(without_start)
    is_unwritten = staticmethod(is_never_unwritten)
    drop_stale_session = staticmethod(without_kept_sessions)
    drop_baseline = staticmethod(baseline.drop_baseline)
    compare_earlier = staticmethod(baseline.compare_earlier)

    is_schema_same = staticmethod(nobody_knows_schema)
    find_written = staticmethod(written_unknown)

    def read_objects(self, connection: BaseDatabaseWrapper) -> frozenset[str]:
        """Return what ``sqlite_master`` lists, but for what SQLite makes itself and the copies of baselines."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT type, name, tbl_name FROM sqlite_master")
            rows = cursor.fetchall()
        return frozenset(
            f"{kind} {name}" for kind, name, table in rows if not name.startswith("sqlite_") and not _is_own(table)
        )

    def look_for_commits(self, connection: BaseDatabaseWrapper, since: object | None) -> tuple[object, bool]:
        """Return the counts of changes by this connection, rolled back ones too, and of those that others committed."""
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA data_version")
            (version,) = cursor.fetchone()
        position = (version, connection.connection.total_changes)
        return position, position != since

    def transaction_status(self, connection: BaseDatabaseWrapper) -> TransactionStatus:
        """Return whether a transaction is open; LOST if the connection was closed."""
        try:
            return TransactionStatus.OPEN if connection.connection.in_transaction else TransactionStatus.NONE
        except ProgrammingError:
            return TransactionStatus.LOST


def _is_own(table: str) -> bool:
    return any(table.startswith(f"{OWN_SCHEMA}_{name}") for name in (*KEPT_STATES, *Mark))


BACKEND: Backend = SQLiteBackend()
