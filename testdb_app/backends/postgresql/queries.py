"""Queries of this backend: with bounded waits, many of one kind in one round trip, results by statement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import DatabaseError

from testdb_app.backends.base import Statement, has_autocommit
from testdb_app.backends.postgresql.connection import Result, rolled_back_on_error, run_sql
from testdb_app.backends.postgresql.errors import LOCK_NOT_AVAILABLE, sqlstate, translate
from testdb_app.backends.postgresql.quoting import milliseconds, quote
from testdb_app.exceptions import UnsupportedError
from testdb_app.schema import ForeignKey, QualifiedName
from testdb_app.states import RowChanges

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_T = TypeVar("_T")

# Scalar subqueries in one statement: planning costs more than linearly in their number.
_TABLES_A_STATEMENT = 50


def read_rows(
    connection: BaseDatabaseWrapper, queries: Sequence[str], *, lock_timeout: float
) -> list[list[tuple[Any, ...]]]:
    """Run queries with bounded waits for locks, and leave no trace of that in the session. One round trip.

    Raises :class:`~testdb_app.exceptions.LockTimeoutError`.
    """
    nested = not has_autocommit(connection)
    # Several statements in one message are one transaction, in which SET LOCAL holds.
    before = [f"SET LOCAL lock_timeout = '{milliseconds(lock_timeout)}ms'"]
    after: list[str] = []
    if nested:
        before.insert(0, "SAVEPOINT testdb_reset")
        after = ["ROLLBACK TO SAVEPOINT testdb_reset", "RELEASE SAVEPOINT testdb_reset"]
    try:
        with rolled_back_on_error(connection, savepoint=nested):
            results = run_sql(connection, ";\n".join((*before, *queries, *after)))
    except DatabaseError as error:
        if sqlstate(error) == LOCK_NOT_AVAILABLE:
            raise translate(connection, error, None) from error
        raise
    return [rows_of(result) for result in results[len(before) : len(before) + len(queries)]]


def rows_of(result: Result) -> list[tuple[Any, ...]]:
    """Return the rows of a query's result; raise :class:`UnsupportedError` where something between has lost them."""
    if result.rows is None:
        raise UnsupportedError(
            "The server returned no rows for a query: a proxy between does not pass several statements in one message. "
            "Connect to PostgreSQL directly, or through a pool that passes the simple query protocol."
        )
    return result.rows


def execute(connection: BaseDatabaseWrapper, statements: Sequence[Statement]) -> dict[QualifiedName, RowChanges]:
    """Run statements and return what they changed per table, as their results tell. One round trip."""
    if not statements:
        return {}
    results = run_sql(connection, ";\n".join(statement.sql for statement in statements))
    return sum_changes(statements, results)


def sum_changes(statements: Sequence[Statement], results: Sequence[Result]) -> dict[QualifiedName, RowChanges]:
    """Return what *statements* changed per table, as their *results* tell."""
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


def scalars(connection: BaseDatabaseWrapper, queries: Sequence[str]) -> list[int]:
    """Run queries of one number each, some in one statement, all in one round trip."""
    if not queries:
        return []
    statements = [
        "SELECT ARRAY[" + ", ".join(f"({query})" for query in chunk) + "]::bigint[]"
        for chunk in chunks(queries, _TABLES_A_STATEMENT)
    ]
    return [number for result in run_sql(connection, ";\n".join(statements)) for number in rows_of(result)[0][0]]


def count_referring(key: ForeignKey, copy: QualifiedName | None = None) -> str:
    """Count the rows whose key columns are all set: with MATCH SIMPLE and MATCH FULL alike only those refer.

    Rows that refer to a row of *copy*, which stays, do not count.
    """
    condition = " AND ".join(f"k.{quote(column)} IS NOT NULL" for column in key.columns)
    if copy is not None:
        columns = zip(key.columns, key.referenced_columns, strict=True)
        same = " AND ".join(f"c.{quote(there)} = k.{quote(here)}" for here, there in columns)
        condition += f" AND NOT EXISTS (SELECT FROM {quote(copy)} c WHERE {same})"
    return f"SELECT pg_catalog.count(*) FROM ONLY {quote(key.table)} k WHERE {condition}"


def chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Cut *items* into pieces of *size*, the last one perhaps shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
