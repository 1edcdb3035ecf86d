"""Watch the statements of a session. Errors name the limit that was exceeded, or the statement that broke the session."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError
from django.db.utils import load_backend

from testdb_app.backends import get_backend
from testdb_app.backends.base import Failure
from testdb_app.exceptions import (
    Blocker,
    IdleTimeoutError,
    SessionBrokenError,
    SessionLockTimeoutError,
    StatementTimeoutError,
    TestSessionError,
)
from testdb_app.sessions.options import describe_duration
from testdb_app.sessions.registry import find_session_of, make_error
from testdb_app.transactions import caller, shorten

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.sessions.registry import OpenSession

_ASKING_TIMEOUT = 5
"""Seconds to connect to the server for the query that finds the holders of a lock."""
_SHARE = 0.9
"""This share of a limit counts as the whole limit, because clocks differ. An earlier error comes from NOWAIT or a cancel.
"""


class StatementWatch:
    """An execute wrapper for a Django connection, which watches the statements of one session."""

    def __init__(self, session: OpenSession) -> None:
        self.session = session
        self.culprit = ""

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        """Run a statement. A database error that concerns the session becomes the session's error, chained to the driver's."""
        if self.session.when_used is not None:
            # The session is forgotten. A statement ends it if that is safe, unless it ends a block inside the session.
            if not str(sql).startswith(("SAVEPOINT", "RELEASE", "ROLLBACK")):
                self.session.when_used()
            return execute(sql, params, many, context)
        if self.session.is_overdue or not self.session.is_open:
            self.session.check_usable()
        started = time.monotonic()
        try:
            return execute(sql, params, many, context)
        except (DatabaseError, InterfaceError) as error:
            if isinstance(error, TestSessionError):
                raise
            elapsed = (time.monotonic() - started) * 1_000
            explained = self._explain(context["connection"], error, shorten(sql), elapsed)
            if explained is None:
                raise
            raise explained from explained.__cause__

    def _explain(
        self, connection: BaseDatabaseWrapper, error: DatabaseError | InterfaceError, sql: str, elapsed: float
    ) -> TestSessionError | None:
        owner, limits = self.session.owner, self.session.options.limits
        failure = get_backend(connection).classify(error)
        if failure is Failure.ABORTED:
            culprit = f" The first was: {self.culprit}." if self.culprit else ""
            return make_error(
                SessionBrokenError,
                error,
                f"{owner} cannot go on: a statement has failed in it, and nothing has rolled that back.{culprit} Put the part "
                "that may fail into atomic() or session.savepoint(), or let the error end the session.",
                owner=owner,
            )
        self.culprit = f"{sql} ({caller()}: {' '.join(str(error).split())})"
        if failure is Failure.STATEMENT_TIMEOUT and elapsed >= _SHARE * limits.get("statement_timeout", float("inf")):
            return self._explain_statement(error, sql, limits["statement_timeout"])
        if failure is Failure.LOCK_TIMEOUT and self._waited_for_lock(connection, elapsed):
            return self._explain_lock(connection, error, sql, limits.get("lock_timeout") or elapsed)
        if failure is Failure.IDLE_TIMEOUT and "idle_in_transaction_session_timeout" in limits:
            most = limits["idle_in_transaction_session_timeout"]
            return make_error(
                IdleTimeoutError,
                error,
                f"{owner} did nothing for more than {describe_duration(most)}, its idle_in_transaction_timeout, and the server "
                "has ended it. Raise that limit, or open the session later.",
                owner=owner,
                limit="idle_in_transaction_timeout",
                seconds=most / 1_000,
            )
        return None

    def _waited_for_lock(self, connection: BaseDatabaseWrapper, elapsed: float) -> bool:
        # SQLite has only one lock, and always waits for it.
        least = self.session.options.limits.get("lock_timeout")
        return connection.vendor == "sqlite" if least is None else elapsed >= _SHARE * least

    def _explain_statement(self, error: DatabaseError | InterfaceError, sql: str, most: int) -> TestSessionError:
        return make_error(
            StatementTimeoutError,
            error,
            f"A statement of {self.session.owner} took longer than {describe_duration(most)}, its statement_timeout: {sql}. "
            "Make it faster, or raise that limit.",
            owner=self.session.owner,
            limit="statement_timeout",
            seconds=most / 1_000,
            statement=sql,
        )

    def _explain_lock(
        self, connection: BaseDatabaseWrapper, error: DatabaseError | InterfaceError, sql: str, most: float
    ) -> TestSessionError:
        blockers = _find_blockers(connection, sql, error)
        if connection.vendor == "sqlite":
            who = "SQLite has one writer at a time, and another connection is writing; it does not tell which"
        else:
            who = "; ".join(map(_describe, blockers)) or "the session that held it has let go since"
        return make_error(
            SessionLockTimeoutError,
            error,
            f"{self.session.owner} waited for a lock for more than {describe_duration(most)}, its lock_timeout, with: {sql}. "
            f"{who}. End that transaction first, or raise the limit.",
            owner=self.session.owner,
            limit="lock_timeout",
            seconds=most / 1_000,
            statement=sql,
            blockers=blockers,
        )


def _describe(blocker: Blocker) -> str:
    session = find_session_of(blocker.pid)
    return f"{session}: {blocker}" if session is not None else str(blocker)


def _find_blockers(connection: BaseDatabaseWrapper, sql: str, error: BaseException) -> list[Blocker]:
    """Query the holders of the lock over a new connection, because the failed one accepts no query. Empty if that fails."""
    if connection.vendor != "postgresql":
        return []
    pid = getattr(getattr(connection.connection, "info", None), "backend_pid", None)
    settings = {**connection.settings_dict, "CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": False}
    settings["OPTIONS"] = {k: v for k, v in settings["OPTIONS"].items() if k != "pool"} | {
        "connect_timeout": _ASKING_TIMEOUT
    }
    asking = load_backend(settings["ENGINE"]).DatabaseWrapper(settings, connection.alias)
    try:
        with suppress(DatabaseError, InterfaceError):
            return get_backend(connection).find_blockers(asking, pid, sql, error)
    finally:
        asking.close()
    return []
