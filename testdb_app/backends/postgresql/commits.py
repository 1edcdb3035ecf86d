"""Whether anybody has committed since an earlier look, cheaply told by the transaction ids used in between.

Who writes a row takes an id, and an id's fate can be asked for: ``pg_xact_status()``. Those that were rolled back wrote nothing
that stays. What committed may have written elsewhere, as all databases of a server share the ids: a superset, to be
followed by a real look. ``pg_snapshot_xmax()`` is one more than the latest id that has completed, so an id that is still
in use is either not counted yet, or remembered as unfinished.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from testdb_app.backends.postgresql.connection import ask, run_sql
from testdb_app.backends.postgresql.queries import rows_of

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_NEXT = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text"
_FATES = "SELECT id::text, pg_catalog.pg_xact_status(id::text::xid8) FROM pg_catalog.unnest('{{{}}}'::bigint[]) id"
_MOST = 5_000
"""Where more ids were used than this, somebody may have committed: it is not worth asking for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The next id at one moment, and the earlier ones that were in use then."""

    next: int
    unfinished: tuple[int, ...] = ()


def look_for_commits(connection: BaseDatabaseWrapper, since: object | None) -> tuple[object, bool]:
    """Return the present position, and whether anybody may have committed rows after *since*.

    One round trip where no id was used since, else two.
    """
    following = int(ask(connection, _NEXT))
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
