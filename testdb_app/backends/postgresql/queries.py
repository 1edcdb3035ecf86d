"""Queries with bounded lock waits, many in one round trip; and the sessions that hold a lock."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import DatabaseError

from testdb_app.backends.base import Statement
from testdb_app.backends.postgresql.connection import Result, read_safely, run_sql
from testdb_app.backends.postgresql.errors import LOCK_NOT_AVAILABLE, describe_blocker, sqlstate, translate
from testdb_app.backends.postgresql.operations import live_value
from testdb_app.backends.postgresql.preconditions import explain_refusal, find_refusal
from testdb_app.backends.postgresql.sql import EQUALS, equals, milliseconds, quote
from testdb_app.baseline_state import BaselineTable, RowChanges
from testdb_app.exceptions import Blocker, UnsupportedError
from testdb_app.schema import ForeignKey, QualifiedName

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_T = TypeVar("_T")

# Scalar subqueries in one statement. Planning time grows faster than their number.
_TABLES_A_STATEMENT = 50


def read_rows(
    connection: BaseDatabaseWrapper,
    queries: Sequence[str],
    *,
    first: Sequence[str] = (),
    lock_timeout: float | None = None,
    safe_path: bool = True,
    one_snapshot: bool = False,
    often: bool = False,
) -> list[list[tuple[Any, ...]]]:
    """Return the rows of *first* and of *queries*; see :func:`~testdb_app.backends.postgresql.connection.read_safely`.

    Waits at most *lock_timeout* seconds for each lock. Raises :class:`~testdb_app.exceptions.LockTimeoutError`. If a
    proof among the queries (:mod:`~testdb_app.backends.postgresql.preconditions`) fails, raises its error.
    """
    settings = [] if lock_timeout is None else [f"SET LOCAL lock_timeout = '{milliseconds(lock_timeout)}ms'"]
    try:
        results = read_safely(
            connection,
            queries,
            first=first,
            settings=settings,
            safe_path=safe_path,
            one_snapshot=one_snapshot,
            often=often,
        )
    except DatabaseError as error:
        if sqlstate(error) == LOCK_NOT_AVAILABLE:
            raise translate(connection, error, None) from error
        if reason := find_refusal(error):
            raise explain_refusal(connection, reason) from error
        raise
    return [rows_of(result) for result in results]


def rows_of(result: Result) -> list[tuple[Any, ...]]:
    """Return the rows of a query's result. Raises :class:`UnsupportedError` if something between has lost them."""
    if result.rows is None:
        raise UnsupportedError(
            "The server returned no rows for a query: a proxy between does not pass several statements in one message. "
            "Connect to PostgreSQL directly, or through a pool that passes the simple query protocol."
        )
    return result.rows


def execute(connection: BaseDatabaseWrapper, statements: Sequence[Statement]) -> dict[QualifiedName, RowChanges]:
    """Run statements and return what they changed per table, as their results report. One round trip."""
    if not statements:
        return {}
    results = run_sql(connection, ";\n".join(statement.sql for statement in statements))
    return sum_changes(statements, results)


def sum_changes(statements: Sequence[Statement], results: Sequence[Result]) -> dict[QualifiedName, RowChanges]:
    """Return what *statements* changed per table, as their *results* report."""
    found: dict[QualifiedName, RowChanges] = {}
    for statement, result in zip(statements, results, strict=True):
        if len(statement.counts) == 1:
            found[statement.counts[0]] = RowChanges(removed=result.row_count)
        elif statement.counts:
            removed = zip(statement.counts, map(int, rows_of(result)[0]), strict=True)
            found |= {name: RowChanges(removed=rows) for name, rows in removed}
        elif statement.changes:
            numbers = map(int, rows_of(result)[0])
            for name, changes in zip(statement.changes, zip(numbers, numbers, numbers, strict=True), strict=True):
                before = found.get(name, RowChanges())
                found[name] = RowChanges(
                    removed=before.removed + changes[0],
                    updated=before.updated + changes[1],
                    inserted=before.inserted + changes[2],
                )
    return found


def scalars(connection: BaseDatabaseWrapper, queries: Sequence[str], *, proof: str | None = None) -> list[int]:
    """Run queries of one number each, some in one statement, all in one round trip. None runs if the query *proof* fails."""
    if not queries:
        return []
    statements = [
        "SELECT ARRAY[" + ", ".join(f"({query})" for query in chunk) + "]::bigint[]"
        for chunk in chunks(queries, _TABLES_A_STATEMENT)
    ]
    before = [] if proof is None else [proof]
    results = run_sql(connection, ";\n".join((*before, *statements)))[len(before) :]
    return [number for result in results for number in rows_of(result)[0][0]]


def count_referring(key: ForeignKey, copied: BaselineTable | None = None) -> str:
    """Write the count of the rows whose key columns are all set: with MATCH SIMPLE and MATCH FULL alike, only those refer.

    Rows that refer to a row of the copy of *copied*, which stays, do not count.
    """
    condition = " AND ".join(f"k.{quote(column)} IS NOT NULL" for column in key.columns)
    if copied is not None:
        found = partial(live_value, copied)
        condition += f" AND {lacks_referenced(key, quote(copied.copy), lambda column: found(column, 'r'))}"
    return f"SELECT pg_catalog.count(*) FROM ONLY {quote(key.table)} k WHERE {condition}"


def lacks_referenced(key: ForeignKey, source: str, value: Callable[[str], str]) -> str:
    """Write the condition that a row ``k`` refers to no row ``r`` of *source*; *value* writes a column's value there.

    The operators are those of the key itself. The last column of a key with PERIOD must be covered by several rows
    together.
    """
    operators = key.operators or (EQUALS,) * len(key.columns)
    pairs = zip(key.columns, key.referenced_columns, operators, strict=True)
    terms = [equals(value(there), f"k.{quote(here)}", operator) for here, there, operator in pairs]
    rows = f"FROM {source} r WHERE {' AND '.join(terms)}"
    if not key.has_period:
        return f"NOT EXISTS (SELECT {rows})"
    period, covered = f"k.{quote(key.columns[-1])}", value(key.referenced_columns[-1])
    aggregate = f"(SELECT pg_catalog.range_agg({covered}) {rows})"
    return f"({period} OPERATOR(pg_catalog.<@) {aggregate}) IS NOT TRUE"


def chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Cut *items* into pieces of *size*; the last one may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


# pid, user, application, state, age in seconds, query, identifier of a prepared transaction, schema, name (None: an
# advisory lock), lock mode
#
# A session that waits for a row waits for its writer's transaction, and the writer holds a lock on the table too.
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
    """Return the sessions that hold locks on what the statement or the error names, the oldest transaction first. One round trip.

    If they name nothing that is locked, return every session that holds a lock.
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
