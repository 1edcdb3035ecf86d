"""Whether anybody has committed since an earlier look, cheaply told by the transaction ids used in between.

Who writes a row takes an id, and an id's fate can be asked for: ``pg_xact_status()``. Those that were rolled back wrote nothing
that stays. What committed may have written elsewhere, as all databases of a server share the ids: a superset, to be
followed by a real look. ``pg_snapshot_xmax()`` is one more than the latest id that has completed, so an id that is still
in use is either not counted yet, or remembered as unfinished.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from testdb_app.backends.postgresql.connection import is_idle, run_sql
from testdb_app.backends.postgresql.pipeline import COMMAND_OK, TUPLES_OK, unique_prefix
from testdb_app.backends.postgresql.queries import rows_of

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_NEXT = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text"
_FATES = (
    "SELECT id::pg_catalog.text, pg_catalog.pg_xact_status(id::pg_catalog.text::pg_catalog.xid8) "
    "FROM pg_catalog.unnest('{{{}}}'::bigint[]) id"
)
_MOST = 5_000
"""Where more ids were used than this, somebody may have committed: it is not worth asking for each."""
_NAME = f"{unique_prefix()}next".encode()
# By the driver's connection, whether the query for the next id is prepared there by that name; False where that goes wrong.
_is_prepared: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The next id at one moment, and the earlier ones that were in use then."""

    next: int
    unfinished: tuple[int, ...] = ()


def look_for_commits(connection: BaseDatabaseWrapper, since: object | None) -> tuple[object, bool]:
    """Return the present position, and whether anybody may have committed rows after *since*.

    One round trip where no id was used since, else two; and one more the first time on a connection.
    """
    following = _ask_for_next(connection)
    if not isinstance(since, Position):
        return Position(next=following), True
    if following == since.next and not since.unfinished:
        return since, False
    if following - since.next > _MOST:
        return Position(next=following), True
    ids = [*since.unfinished, *range(since.next, following)]
    fates = rows_of(run_sql(connection, _FATES.format(",".join(map(str, ids))))[0])
    unfinished = sorted(int(number) for number, fate in fates if fate == "in progress")
    return Position(next=following, unfinished=tuple(unfinished)), any(fate == "committed" for _, fate in fates)


def _ask_for_next(connection: BaseDatabaseWrapper) -> int:
    """Return the next id. Past the driver's cursors, and prepared, as it is asked after every test: in half the time."""
    connection.ensure_connection()
    raw = connection.connection
    with connection.wrap_database_errors, raw.lock:
        answer = _execute_next(raw.pgconn, raw, may_prepare=is_idle(connection))
    if answer.status != TUPLES_OK:
        # To have the driver's error.
        ((following,),) = rows_of(run_sql(connection, _NEXT)[0])
        return int(following)
    return int(answer.get_value(0, 0))


def _execute_next(conn: Any, raw: Any, *, may_prepare: bool) -> Any:
    # In a transaction, the error of a pooler that has another server by then would end that.
    if may_prepare and raw not in _is_prepared:
        _is_prepared[raw] = conn.prepare(_NAME, _NEXT.encode()).status == COMMAND_OK
    if may_prepare and _is_prepared[raw]:
        answer = conn.exec_prepared(_NAME, [])
        if answer.status == TUPLES_OK:
            return answer
        _is_prepared[raw] = False
    return conn.exec_(_NEXT.encode())
