"""What Django's connection says and notes while somebody else than the code that uses it owns its transaction."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError
from django.db.transaction import TransactionManagementError

from testdb_app.backends.base import TransactionStatus

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# Whose frames do not tell who did it.
_BELOW = ("django.db", "django.utils.asyncio", "testdb_app", "contextlib", "psycopg", "threading", "unittest")
_MOST_OF_A_STATEMENT = 200


class ConnectionHooks:
    """Hooks into one connection: who closed it and where, which statement failed, whose transaction must not be committed.

    ``transactions`` are those that own its transaction (each with an ``owner``, a text), the innermost last. *status* tells
    what the driver knows of it; the statement that ended it is noted.
    """

    def __init__(self, connection: BaseDatabaseWrapper, status: Callable[[], TransactionStatus]) -> None:
        self.connection = connection
        self.status = status
        self.ended_by = ""
        self.transactions: list[Any] = []
        self.ignores_close = 0
        self.closed_where = ""
        self.failure = ""
        self._close: Callable[[], None] = connection.close
        self._hooked: dict[str, Any] = {"close": self._note_close, "validate_no_atomic_block": self._refuse}
        for name, function in self._hooked.items():
            setattr(connection, name, function)
        # Not at the end: execute_wrapper() takes the last one away when it is left.
        connection.execute_wrappers.insert(0, self._note_failure)

    def remove(self) -> None:
        """Leave the connection as it was found."""
        for name, function in self._hooked.items():
            if self.connection.__dict__.get(name) == function:
                delattr(self.connection, name)
        wrappers = self.connection.execute_wrappers
        wrappers[:] = [each for each in wrappers if each != self._note_failure]

    def _note_close(self) -> None:
        if self.ignores_close:
            return
        if not self.connection.closed_in_transaction:
            self.closed_where = f" ({caller()})"
        self._close()

    def _note_failure(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        try:
            result = execute(sql, params, many, context)
        except (DatabaseError, InterfaceError) as error:
            # What fails because something has failed before is not what did it.
            if type(error.__cause__).__name__ != "InFailedSqlTransaction":
                self.failure = f", and was not rolled back: {shorten(sql)} ({' '.join(str(error).split())})"
            raise
        finally:
            if not self.ended_by and self.status() is TransactionStatus.NONE:
                self.ended_by = f"by {shorten(sql)} ({caller()})"
        return result

    def _refuse(self) -> None:
        if self.connection.in_atomic_block:
            owner = self.transactions[-1].owner
            raise TransactionManagementError(
                "This is forbidden when an 'atomic' block is active. The transaction belongs to "
                f"{owner}, which rolls it back at its end: use atomic() for a part that commits or rolls back "
                'on its own, or a test with real commits (reset_db, ResetTransactionTestCase, isolation="reset").'
            )


def shorten(sql: object) -> str:
    """Return a statement in one line that is not too long for a message."""
    return " ".join(str(sql).split())[:_MOST_OF_A_STATEMENT]


def caller() -> str:
    """Return file and line of the innermost frame that is not part of the machinery."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_BELOW):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
