"""Find out whether anybody has committed in the database since an earlier :class:`PostgreSQLPosition`.

The proof has two steps:

1. Each transaction that writes a row takes a transaction id, and ``pg_xact_status()`` reports its outcome. A transaction
   that was rolled back left nothing. ``pg_snapshot_xmax()`` is one more than the latest id that has completed. So an id
   that is still in use is either not counted yet, or remembered as unfinished.
2. A transaction that committed may have written in another database, because all databases of a server share the ids. So
   the counts of rows ever written in this database are compared, catalogs included. If the counters can be trusted
   (:mod:`testdb_app.backends.postgresql.counters`) and have not moved, nobody has written here. Otherwise somebody may
   have, and the caller must compare the rows.

The check for leaks and a late capture of the baseline use this. A reset uses
:mod:`testdb_app.backends.postgresql.change_tracker` instead.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError

from testdb_app.backends.base import Position
from testdb_app.backends.postgresql import counters
from testdb_app.backends.postgresql.connection import (
    COMMAND_OK,
    TUPLES_OK,
    Command,
    is_idle,
    pipeline_of,
    run_sql,
    unique_prefix,
)
from testdb_app.backends.postgresql.counters import CounterReading, read_counters
from testdb_app.backends.postgresql.introspection import read_all_states, sequence_states
from testdb_app.backends.postgresql.open_sessions import sessions_opened
from testdb_app.backends.postgresql.queries import read_rows, rows_of

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_NEXT = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text"
_FATES = (
    "SELECT id::pg_catalog.text, pg_catalog.pg_xact_status(id::pg_catalog.text::pg_catalog.xid8) "
    "FROM pg_catalog.unnest('{{{}}}'::bigint[]) id"
)
_UNFINISHED = (
    "SELECT id::pg_catalog.text, 'in progress' FROM pg_catalog.pg_snapshot_xip(pg_catalog.pg_current_snapshot()) id"
)
_MOST = 5_000
"""The most ids that are checked one by one. If more were used, somebody may have committed."""
_COUNTED = Command(counters.COUNTED, often=True)
_WRITTEN = Command(counters.WRITTEN, often=True)
_NAME = f"{unique_prefix()}next".encode()
# For each connection of the driver: whether the query for the next id is prepared there; False after a failure.
_is_prepared: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgreSQLPosition(Position):
    """The transaction ids and counters of a server at one moment.

    - ``next``: the next id.
    - ``unfinished``: the earlier ids that were in use then.
    - ``counted``: the rows written up to then or later, also for each table that is no catalog, together with its toast
      table. None if that cannot be trusted.
    - ``opened``: how many sessions this process had opened when ``counted`` was read.
    - ``sequences``: the states of all sequences as a text; None unless :func:`note_start` has read them.
    """

    next: int
    unfinished: tuple[int, ...] = ()
    counted: CounterReading | None = None
    opened: int = 0
    sequences: str | None = None

    def is_quiet_until(self, later: PostgreSQLPosition) -> bool:
        """Whether nothing was written up to *later*."""
        both = self.compare(later)
        return both is not None and both[0].rows == both[1].rows

    def compare(self, later: PostgreSQLPosition) -> tuple[CounterReading, CounterReading] | None:
        """Return both readings if their difference shows what was written up to *later*, else None.

        It does if the conditions are the same, apart from the sessions that this process has opened meanwhile.
        """
        was, now = self.counted, later.counted
        if was is None or now is None or now.conditions != was.conditions.with_more(later.opened - self.opened):
            return None
        return was, now


def check_for_commits(connection: BaseDatabaseWrapper, since: Position | None) -> tuple[PostgreSQLPosition, bool]:
    """Return the present position, and whether anybody may have committed rows in this database after *since*.

    Cost: one round trip if no id was used since, otherwise two. A third if one of the ids was committed, and a fourth if
    that was in this database. One more the first time on a connection.
    """
    following = _read_next(connection)
    if not isinstance(since, PostgreSQLPosition):
        return _count(connection, PostgreSQLPosition(next=following), None), True
    if following == since.next and not since.unfinished:
        return since, False
    # A lower id is that of another server, behind the same alias.
    are_few = 0 <= following - since.next <= _MOST
    ids = [*since.unfinished, *range(since.next, following)] if are_few else []
    (result,) = run_sql(connection, _FATES.format(",".join(map(str, ids))) if are_few else _UNFINISHED)
    fates = rows_of(result)
    unfinished = tuple(sorted(int(number) for number, fate in fates if fate == "in progress"))
    if are_few and all(fate != "committed" for _, fate in fates):
        return replace(since, next=following, unfinished=unfinished), False
    position = _count(connection, PostgreSQLPosition(next=following, unfinished=unfinished), since.counted)
    return position, not since.is_quiet_until(position)


def is_schema_same(before: Position | None, after: Position | None) -> bool:
    """Whether nothing was created, dropped or altered between two positions: no row of a catalog was written."""
    if not isinstance(before, PostgreSQLPosition) or not isinstance(after, PostgreSQLPosition):
        return False
    was, now = before.counted, after.counted
    return (
        was is not None
        and now is not None
        and was.catalogs == now.catalogs
        and was.conditions.others == now.conditions.others
    )


def find_written(before: Position | None, after: Position | None) -> frozenset[int] | None:
    """Return the OIDs of the tables that were written between two positions; None if the counts do not show it.

    They show it under two conditions. No catalog was written (TRUNCATE writes to one). The counts of these tables add up
    to the count of the database.
    """
    if not is_schema_same(before, after):
        return None
    assert isinstance(before, PostgreSQLPosition)
    assert isinstance(after, PostgreSQLPosition)
    both = before.compare(after)
    if both is None or both[0].writes.keys() != both[1].writes.keys():
        return None
    was, now = both
    moved = {oid: count - was.writes[oid] for oid, count in now.writes.items() if count != was.writes[oid]}
    return frozenset(moved) if sum(moved.values()) == now.rows - was.rows else None


def note_start(connection: BaseDatabaseWrapper) -> PostgreSQLPosition:
    """Return the present position of the database, before anybody has written to it, for :func:`is_unwritten`."""
    sequences = _read_sequences(connection)
    return replace(check_for_commits(connection, None)[0], sequences=sequences)


def is_unwritten(connection: BaseDatabaseWrapper, start: Position) -> bool:
    """Whether nothing was committed to the database, and no sequence moved, since *start*.

    Other sessions may have come and gone, if none is connected now and none was then: a session that ends reports what it
    wrote.
    """
    connection.ensure_connection()
    if not isinstance(start, PostgreSQLPosition) or not is_idle(connection):
        return False
    if _read_sequences(connection) != start.sequences:
        return False
    position, may_differ = check_for_commits(connection, start)
    was, now = start.counted, position.counted
    return not may_differ or (
        was is not None
        and now is not None
        and was.rows == now.rows
        and was.conditions.epoch == now.conditions.epoch
        and not (was.conditions.others or now.conditions.others)
    )


def _read_next(connection: BaseDatabaseWrapper) -> int:
    """Return the next id. It runs after every test, so it is prepared and avoids the driver's cursors. This halves the time."""
    connection.ensure_connection()
    raw = connection.connection
    with connection.wrap_database_errors, raw.lock:
        answer = _execute_next(raw.pgconn, raw, may_prepare=is_idle(connection))
    if answer.status != TUPLES_OK:
        # Run it again to get the driver's error.
        ((following,),) = rows_of(run_sql(connection, _NEXT)[0])
        return int(following)
    return int(answer.get_value(0, 0))


def _execute_next(conn: Any, raw: Any, *, may_prepare: bool) -> Any:
    # Never prepare in a transaction: behind a pooler that has switched servers, the error would end that transaction.
    if may_prepare and raw not in _is_prepared:
        _is_prepared[raw] = conn.prepare(_NAME, _NEXT.encode()).status == COMMAND_OK
    if may_prepare and _is_prepared[raw]:
        answer = conn.exec_prepared(_NAME, [])
        if answer.status == TUPLES_OK:
            return answer
        _is_prepared[raw] = False
    return conn.exec_(_NEXT.encode())


def _count(
    connection: BaseDatabaseWrapper, position: PostgreSQLPosition, before: CounterReading | None
) -> PostgreSQLPosition:
    """Return *position* with the counters, unless they cannot be trusted. This session reports its own counts first.

    Cost: one round trip, and another for the tables if anything was written since *before*. The next id was read earlier.
    So a later commit, which perhaps only one of the two readings counts, is found again next time.
    """
    if not is_idle(connection):
        # Inside a transaction a session does not report its earlier writes.
        return position
    try:
        pipeline = pipeline_of(connection)
        counted = read_counters(connection, pipeline, _COUNTED)
        if not counted.conditions.are_trusted:
            return position
        if before is not None and before.rows == counted.rows:
            writes = before.writes
        else:
            (result,) = pipeline.run(connection, [_WRITTEN])
            writes = {int(oid): int(count) for oid, count in rows_of(result)}
    except DatabaseError:
        return position
    return replace(position, counted=replace(counted, writes=writes), opened=sessions_opened(connection))


def _read_sequences(connection: BaseDatabaseWrapper) -> str:
    """Return the states of the sequences that are not at their start, as a text to compare. Round trips as in a full scan."""
    states, unreadable = read_all_states(
        partial(read_rows, connection), read_rows(connection, sequence_states(connection))
    )
    return repr((sorted(states.items()), sorted(unreadable)))
