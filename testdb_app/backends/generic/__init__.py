"""Any other vendor, through what every Django backend has: ``connection.introspection`` and ``sql_flush``.

It keeps fewer promises, and its warning says which. A vendor that is to keep them all gets a folder of its own.
"""

from __future__ import annotations

from testdb_app.backends.base import Failure, Restoration
from testdb_app.backends.defaults import (
    begin_with_savepoint,
    catalog_is_first,
    check_deferred,
    close_session,
    compare_earlier,
    explain,
    is_never_unwritten,
    leave_session,
    lift_no_limits,
    look_for_commits_nowhere,
    nobody_blocks,
    nobody_knows_schema,
    read_tables_and_views,
    refuse_limits,
    status_as_django_knows,
    undo_to_savepoint,
    without_kept_sessions,
    without_start,
    without_watch,
    write_restarts,
    written_unknown,
)
from testdb_app.backends.generic import details, introspection, operations
from testdb_app.backends.generic.data import GenericData
from testdb_app.backends.protocols import Backend

WARNING = (
    "This database has no backend of its own in testdb_app, so Django's introspection and sql_flush are used. What is lost: "
    "no lock is taken and no lock wait is bounded, so rows that others write meanwhile may stay; triggers fire; a cycle of "
    "foreign keys goes only where the database defers its checks or Django switches them off; every sequence is reset by "
    "Django's own SQL, each time; on databases that commit at ALTER TABLE or TRUNCATE a failure may leave half of it done; "
    "tables that Django's introspection does not list are not seen; marks are not supported; and the name of the live "
    "database is asked only of MySQL, MariaDB, Oracle, SQL Server and CockroachDB."
)


class GenericBackend:
    """The backend for a vendor without a folder. Every method does as its function says."""

    vendor = "generic"
    data = GenericData()
    warning: str | None = WARNING
    has_local_limits = False
    ways_to_restore: tuple[Restoration, ...] = (Restoration.DIFFERENCES, Restoration.ANEW)

    identify = staticmethod(introspection.identify)
    read_schema = staticmethod(introspection.read_schema)
    read_details = staticmethod(details.read_details)
    observe = staticmethod(introspection.observe)
    count_rows = staticmethod(introspection.count_rows)
    count_references = staticmethod(introspection.count_references)
    script = staticmethod(operations.script)
    run = staticmethod(operations.run)
    set_mark = staticmethod(operations.set_mark)
    count_changes = staticmethod(operations.count_changes)
    read_baseline = staticmethod(operations.read_baseline)
    read_shape = staticmethod(operations.read_shape)
    write_baseline = staticmethod(operations.write_baseline)
    rewrite_baseline = staticmethod(operations.rewrite_baseline)
    watch = staticmethod(without_watch)
    renew_session = staticmethod(close_session)
    release_session = staticmethod(leave_session)
    transaction_status = staticmethod(status_as_django_knows)
    begin = staticmethod(begin_with_savepoint)
    undo = staticmethod(undo_to_savepoint)
    limit = staticmethod(refuse_limits)
    lift = staticmethod(lift_no_limits)
    explain = staticmethod(explain)
    find_blockers = staticmethod(nobody_blocks)
    check_deferred = staticmethod(check_deferred)
    write_restarts = staticmethod(write_restarts)
    compare_earlier = staticmethod(compare_earlier)
    catalog_first = staticmethod(catalog_is_first)
    look_for_commits = staticmethod(look_for_commits_nowhere)
    is_schema_same = staticmethod(nobody_knows_schema)
    find_written = staticmethod(written_unknown)
    read_objects = staticmethod(read_tables_and_views)
    note_start = staticmethod(without_start)
    is_unwritten = staticmethod(is_never_unwritten)
    drop_stale_session = staticmethod(without_kept_sessions)
    drop_baseline = staticmethod(operations.drop_baseline)

    def classify(self, error: BaseException) -> Failure:
        """Return that nobody knows."""
        return Failure.OTHER


BACKEND: Backend = GenericBackend()
