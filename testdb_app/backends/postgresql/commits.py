"""Whether anybody has committed since an earlier look, in one cheap query: by the transaction ids used in between.

Who writes a row takes an id, and an id's fate can be asked for: ``pg_xact_status()``. Those that were rolled back wrote nothing
that stays. What committed may have written elsewhere, as all databases of a server share the ids: a superset, to be
followed by a real look. ``pg_snapshot_xmax()`` is one more than the latest id that has completed, so an id that is still
in use is either not counted yet, or remembered as unfinished.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from testdb_app.backends.postgresql.connection import run_sql
from testdb_app.backends.postgresql.queries import rows_of

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_NEXT = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text"
_FATES = """
SELECT m.next::text, pg_catalog.array_agg(f.id::text) FILTER (WHERE f.fate = 'in progress'),
       coalesce(pg_catalog.bool_or(f.fate = 'committed'), false)
  FROM (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS next) m
  LEFT JOIN LATERAL (
       SELECT i.id, pg_catalog.pg_xact_status(i.id::text::xid8) AS fate
         FROM (SELECT pg_catalog.generate_series({since}, least(m.next, {since} + {most}) - 1) AS id
               UNION ALL
               SELECT pg_catalog.unnest('{{{unfinished}}}'::bigint[])) i) f ON true
 GROUP BY m.next
"""
_MOST = 10_000
"""Where more ids were used than this, somebody may have committed: it is not worth asking for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The next id at one moment, and the earlier ones that were in use then."""

    next: int
    unfinished: tuple[int, ...] = ()


def look_for_commits(connection: BaseDatabaseWrapper, since: object | None) -> tuple[object, bool]:
    """Return the present position, and whether anybody may have committed rows after *since*. One round trip."""
    if not isinstance(since, Position):
        ((text,),) = rows_of(run_sql(connection, _NEXT)[0])
        return Position(next=int(text)), True
    listed = ",".join(map(str, since.unfinished))
    query = _FATES.format(since=since.next, most=_MOST, unfinished=listed)
    ((text, unfinished, committed),) = rows_of(run_sql(connection, query)[0])
    position = Position(next=int(text), unfinished=tuple(sorted(int(each) for each in unfinished or ())))
    return position, bool(committed) or position.next - since.next > _MOST
