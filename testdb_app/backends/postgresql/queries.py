"""Queries of this backend: with bounded waits, many of one kind in one round trip, results by statement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import DatabaseError

from testdb_app.backends.base import Statement
from testdb_app.backends.postgresql.connection import Result, read_safely, run_sql
from testdb_app.backends.postgresql.errors import LOCK_NOT_AVAILABLE, sqlstate, translate
from testdb_app.backends.postgresql.preconditions import explain_refusal, find_refusal
from testdb_app.backends.postgresql.quoting import EQUALS, equals, milliseconds, quote
from testdb_app.exceptions import UnsupportedError
from testdb_app.schema import ForeignKey, QualifiedName
from testdb_app.states import RowChanges

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_T = TypeVar("_T")

# Scalar subqueries in one statement: planning costs more than linearly in their number.
_TABLES_A_STATEMENT = 50


def read_rows(
    connection: BaseDatabaseWrapper,
    queries: Sequence[str],
    *,
    first: Sequence[str] = (),
    lock_timeout: float | None = None,
    safe_path: bool = True,
    one_snapshot: bool = False,
) -> list[list[tuple[Any, ...]]]:
    """Return the rows of *first* and of *queries*; see :func:`~testdb_app.backends.postgresql.connection.read_safely`.

    Waits at most *lock_timeout* seconds for each lock. Raises :class:`~testdb_app.exceptions.LockTimeoutError`, and for a proof
    among the queries (:mod:`~testdb_app.backends.postgresql.preconditions`) that fails its error.
    """
    settings = [] if lock_timeout is None else [f"SET LOCAL lock_timeout = '{milliseconds(lock_timeout)}ms'"]
    try:
        results = read_safely(
            connection, queries, first=first, settings=settings, safe_path=safe_path, one_snapshot=one_snapshot
        )
    except DatabaseError as error:
        if sqlstate(error) == LOCK_NOT_AVAILABLE:
            raise translate(connection, error, None) from error
        if reason := find_refusal(error):
            raise explain_refusal(connection, reason) from error
        raise
    return [rows_of(result) for result in results]


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


def scalars(connection: BaseDatabaseWrapper, queries: Sequence[str], *, proof: str | None = None) -> list[int]:
    """Run queries of one number each, some in one statement, all in one round trip; none if *proof*, a query, fails."""
    if not queries:
        return []
    statements = [
        "SELECT ARRAY[" + ", ".join(f"({query})" for query in chunk) + "]::bigint[]"
        for chunk in chunks(queries, _TABLES_A_STATEMENT)
    ]
    before = [] if proof is None else [proof]
    results = run_sql(connection, ";\n".join((*before, *statements)))[len(before) :]
    return [number for result in results for number in rows_of(result)[0][0]]


def count_referring(key: ForeignKey, copy: QualifiedName | None = None) -> str:
    """Count the rows whose key columns are all set: with MATCH SIMPLE and MATCH FULL alike only those refer.

    Rows that refer to a row of *copy*, which stays, do not count: as the key's own operators compare them.
    """
    condition = " AND ".join(f"k.{quote(column)} IS NOT NULL" for column in key.columns)
    if copy is not None:
        columns = zip(key.columns, key.referenced_columns, strict=True)
        same = " AND ".join(
            equals(f"c.{quote(there)}", f"k.{quote(here)}", operator)
            for (here, there), operator in zip(columns, operators_of(key), strict=True)
        )
        condition += f" AND NOT EXISTS (SELECT FROM {quote(copy)} c WHERE {same})"
    return f"SELECT pg_catalog.count(*) FROM ONLY {quote(key.table)} k WHERE {condition}"


def operators_of(key: ForeignKey) -> tuple[str, ...]:
    """Return the operator that compares each referenced column with the referencing one, as the key itself does."""
    return key.operators or (EQUALS,) * len(key.columns)


def chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Cut *items* into pieces of *size*, the last one perhaps shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
