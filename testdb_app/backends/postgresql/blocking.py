"""Who holds the locks that a statement has waited for in vain, asked over another connection, as its own is aborted by then."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from testdb_app.backends.postgresql.errors import describe_blocker
from testdb_app.backends.postgresql.queries import read_rows
from testdb_app.exceptions import Blocker
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# pid, user, application, state, age in seconds, query, identifier of a prepared transaction, schema, name (None: an
# advisory lock), lock mode
# Whoever waits for a row waits for its writer's transaction, and the writer holds a lock on the table too.
_HOLDERS = """
SELECT l.pid, a.usename::text, a.application_name, a.state,
       EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.xact_start)::float8, a.query,
       (SELECT x.gid FROM pg_catalog.pg_locks o JOIN pg_catalog.pg_prepared_xacts x ON x.transaction = o.transactionid
         WHERE l.pid IS NULL AND o.pid IS NULL AND o.virtualtransaction = l.virtualtransaction LIMIT 1),
       n.nspname::text, c.relname::text, l.mode
  FROM pg_catalog.pg_locks l
  LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() AND l.pid IS DISTINCT FROM {pid}
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
   AND (l.locktype = 'advisory'
        OR (l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'S') AND n.nspname <> 'pg_catalog'))
 ORDER BY a.xact_start NULLS FIRST, n.nspname, c.relname, l.mode
"""


def find_blockers(connection: BaseDatabaseWrapper, pid: object, sql: str, error: BaseException) -> list[Blocker]:
    """Return who holds locks on what the statement or the error names, the oldest transaction first. One round trip.

    Where they name none of what is locked, everybody who holds a lock.
    """
    number = int(pid) if isinstance(pid, int) else -1
    (rows,) = read_rows(connection, [_HOLDERS.format(pid=number)])
    context = getattr(getattr(error.__cause__, "diag", None), "context", None) or ""
    words = set(re.findall(r"[\w$]+", f"{sql} {context}".lower()))
    named = [row for row in rows if (row[8] or "advisory").lower() in words or (row[8] is None and "advisory" in sql)]
    return [_blocker(row) for row in named or rows]


def _blocker(row: tuple[Any, ...]) -> Blocker:
    *session, schema, name, mode = row
    return describe_blocker(session, "an advisory lock" if name is None else str(QualifiedName(schema, name)), mode)
