"""Transactions with limits in one round trip, and which of PostgreSQL's errors say that a limit was reached, by SQLSTATE."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from testdb_app.backends.base import Failure
from testdb_app.backends.postgresql.connection import run_sql
from testdb_app.backends.postgresql.errors import LOCK_NOT_AVAILABLE, sqlstate
from testdb_app.backends.postgresql.queries import rows_of
from testdb_app.backends.postgresql.quoting import quote_literal

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_FAILURES = {
    "57014": Failure.STATEMENT_TIMEOUT,
    LOCK_NOT_AVAILABLE: Failure.LOCK_TIMEOUT,
    "25P03": Failure.IDLE_TIMEOUT,
    "25P02": Failure.ABORTED,
}


def begin(connection: BaseDatabaseWrapper, savepoint: str, limits: Mapping[str, int]) -> None:
    """Begin, make the savepoint and set the limits, in one message.

    By itself psycopg sends BEGIN before the first statement, in a message of its own; it sends none in a transaction.
    """
    _send(connection, _begin(connection.connection), f"SAVEPOINT {savepoint}", *_set(limits, "LOCAL"))


def undo(connection: BaseDatabaseWrapper, savepoint: str) -> None:
    """Go back to the savepoint, which proves that it is there, and end the transaction, in one message."""
    _send(connection, f"ROLLBACK TO SAVEPOINT {savepoint}", "ROLLBACK")


def limit(connection: BaseDatabaseWrapper, limits: Mapping[str, int], *, local: bool = False) -> dict[str, str]:
    """Set the limits for the session, or the transaction, and return the earlier ones. One round trip."""
    names = list(limits)
    columns = ", ".join(f"pg_catalog.current_setting({quote_literal(name)})" for name in names)
    earlier, *_ = run_sql(connection, ";\n".join((f"SELECT {columns}", *_set(limits, "LOCAL" if local else "SESSION"))))
    return dict(zip(names, rows_of(earlier)[0], strict=True))


def lift(connection: BaseDatabaseWrapper, earlier: Mapping[str, str]) -> None:
    """Put the session's limits back. One round trip."""
    run_sql(
        connection,
        ";\n".join(f"SET SESSION {name} = {quote_literal(value)}" for name, value in earlier.items()),
    )


def classify(error: BaseException) -> Failure:
    """Return why the server refused, by SQLSTATE."""
    return _FAILURES.get(sqlstate(error), Failure.OTHER)


def _set(limits: Mapping[str, int], scope: str) -> list[str]:
    return [f"SET {scope} {name} = {value}" for name, value in limits.items()]


def _begin(raw: Any) -> str:
    """Write BEGIN with the options of the driver's connection, as psycopg would."""
    parts = ["BEGIN"]
    if raw.isolation_level is not None:
        parts.append("ISOLATION LEVEL " + raw.isolation_level.name.replace("_", " "))
    if raw.read_only is not None:
        parts.append("READ ONLY" if raw.read_only else "READ WRITE")
    if raw.deferrable is not None:
        parts.append("DEFERRABLE" if raw.deferrable else "NOT DEFERRABLE")
    return " ".join(parts)


def _send(connection: BaseDatabaseWrapper, *statements: str) -> None:
    """Send statements in one message, below the driver's cursors, which would take as long as the server."""
    raw: Any = connection.connection
    with connection.wrap_database_errors, raw.lock:
        raw.wait(_run(raw, ";\n".join(statements)))


def _run(raw: Any, sql: str) -> Any:
    """Send a message and take all its answers; a generator for the driver's ``wait()``, which heeds Ctrl-C."""
    driver = _driver()
    raw.pgconn.send_query(sql.encode())
    answers = yield from driver.generators.execute(raw.pgconn)
    for answer in answers:
        if answer.error_message:
            raise driver.errors.error_from_result(answer, encoding=raw.info.encoding)


@cache
def _driver() -> Any:
    import psycopg  # noqa: PLC0415 - the driver is optional
    import psycopg.generators  # noqa: PLC0415

    return psycopg
