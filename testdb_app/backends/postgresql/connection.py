"""Sending several statements in one round trip, and reading all their results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import TransactionStatus, has_autocommit
from testdb_app.backends.postgresql._psycopg_private import own_statements
from testdb_app.exceptions import UnsupportedError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


SAFE_PATH = "SET LOCAL search_path = pg_catalog, pg_temp"
"""Has a transaction take operators, functions and types from the catalog. Temporary tables come last, and shadow none of it."""

WITHOUT_JIT = "SET LOCAL jit = off"
"""Has a transaction compile nothing. The planner overrates queries of the catalog, and to compile one takes seconds."""

# libpq's PQTRANS_IDLE, PQTRANS_ACTIVE, PQTRANS_INTRANS and PQTRANS_INERROR; psycopg is imported late, because it is optional.
_IDLE = 0
_STATUS = {
    _IDLE: TransactionStatus.NONE,
    1: TransactionStatus.OPEN,
    2: TransactionStatus.OPEN,
    3: TransactionStatus.FAILED,
}


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one statement: its rows (None if it returns none) and its row count."""

    rows: list[tuple[Any, ...]] | None
    row_count: int


@contextmanager
def raw_cursor(connection: BaseDatabaseWrapper) -> Iterator[Any]:
    """Yield the psycopg cursor below Django's, connecting first where necessary; errors become Django's.

    Django's own would let psycopg prepare a statement that runs often (with ``prepare_threshold`` set), and several
    statements in one string cannot be prepared.
    """
    with connection.cursor() as cursor, connection.wrap_database_errors:
        raw = cursor.cursor
        if not _is_psycopg_3(raw):
            raise UnsupportedError(
                "testdb_app needs psycopg 3 on PostgreSQL, and this connection uses another driver. "
                'Install it with: pip install "django-testdb-app[postgresql]"'
            )
        with own_statements():
            yield raw


def _is_psycopg_3(cursor: object) -> bool:
    try:
        from psycopg import Cursor  # noqa: PLC0415 - the driver is optional
    except ImportError:
        return False
    return isinstance(cursor, Cursor)


def run_sql(connection: BaseDatabaseWrapper, sql: str) -> list[Result]:
    """Send *sql*, one or several statements without parameters, and return one result for each. One round trip.

    ``%`` is literal. Raises Django's database errors.
    """
    results: list[Result] = []
    with raw_cursor(connection) as cursor:
        cursor.execute(sql, prepare=False)
        while True:
            results.append(Result(cursor.fetchall() if cursor.description else None, cursor.rowcount))
            if not cursor.nextset():
                return results


def server_version(connection: BaseDatabaseWrapper) -> int:
    """Return the version of the server that the connection leads to now, as 180000. Django remembers that of the first one."""
    connection.ensure_connection()
    with connection.wrap_database_errors:
        return int(connection.connection.info.server_version)


def is_nested(connection: BaseDatabaseWrapper) -> bool:
    """Whether a message of ours would be part of a transaction: one that is open, or one that the driver begins."""
    raw = connection.connection
    return not has_autocommit(connection) or (raw is not None and not raw.closed and not is_idle(connection))


def is_idle(connection: BaseDatabaseWrapper) -> bool:
    """Whether no transaction is open on the connection, as the driver knows; also one that was begun behind Django."""
    return bool(connection.connection.pgconn.transaction_status == _IDLE)


def transaction_status(connection: BaseDatabaseWrapper) -> TransactionStatus:
    """Return what the driver knows of the transaction; see :class:`testdb_app.backends.base.Backend`."""
    return _STATUS.get(connection.connection.pgconn.transaction_status, TransactionStatus.LOST)


def read_safely(
    connection: BaseDatabaseWrapper,
    queries: Sequence[str],
    *,
    first: Sequence[str] = (),
    settings: Sequence[str] = (),
    safe_path: bool = True,
    one_snapshot: bool = False,
) -> list[Result]:
    """Run queries that change nothing; return the results of *first*, then those of *queries*. One round trip.

    The operators and types in *queries* come from ``pg_catalog``, whatever the ``search_path`` offers. Those of *first*, and of
    *queries* with *safe_path* off, must be qualified one by one: they see the ``search_path`` as it is. *settings* are
    statements for the transaction; no setting stays. With *one_snapshot* all see the same, unless a transaction is open.
    """
    nested = is_nested(connection)
    # Several statements in one message are one transaction, in which SET LOCAL holds.
    before, after = [WITHOUT_JIT, *settings], list[str]()
    if nested:
        before.insert(0, "SAVEPOINT testdb_reset")
        after = ["ROLLBACK TO SAVEPOINT testdb_reset", "RELEASE SAVEPOINT testdb_reset"]
    elif one_snapshot:
        before.insert(0, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        after = ["COMMIT"]
    pin = [SAFE_PATH] if safe_path else []
    with rolled_back_on_error(connection, savepoint=nested):
        results = run_sql(connection, ";\n".join((*before, *first, *pin, *queries, *after)))
    start = len(before)
    then = start + len(first) + len(pin)
    return results[start : start + len(first)] + results[then : then + len(queries)]


@contextmanager
def rolled_back_on_error(connection: BaseDatabaseWrapper, *, savepoint: bool = False) -> Iterator[None]:
    """Leave no transaction of ours open, however the block ends; in the caller's, go back to our savepoint."""
    try:
        yield
    except BaseException:
        with suppress(DatabaseError, InterfaceError):
            if savepoint:
                run_sql(connection, "ROLLBACK TO SAVEPOINT testdb_reset;\nRELEASE SAVEPOINT testdb_reset")
            elif has_autocommit(connection) and connection.connection is not None and not connection.connection.closed:
                run_sql(connection, "ROLLBACK")
        raise
