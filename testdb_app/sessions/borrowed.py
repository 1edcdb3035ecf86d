"""Django's connection for a thread that a session's was lent to: its own state, over the session's transaction.

To the thread it is a connection like any other: what it does outside of ``atomic()`` is committed at once, an ``atomic()``
block commits at its end, also a durable one. Each of these is a savepoint in the session's transaction, during which no other
thread uses that. So an error of the thread's undoes the thread's part and nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Protocol

from django.db import DatabaseError, InterfaceError

from testdb_app.sessions.turns import Turn
from testdb_app.transactions import shorten

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper as _Base

else:
    _Base = object

_numbers = itertools.count(1)


class Lender(Protocol):
    """What lends: :class:`testdb_app.sessions.loans.Loan`."""

    turn: Turn
    is_open: bool

    def get_connection(self) -> Any:
        """Return the driver's connection, or raise."""
        ...

    def collect(self, entries: Any) -> None:
        """Add callbacks of ``on_commit()`` to the session's."""
        ...


class Borrowed(_Base):
    """The methods that differ; mixed into the class of the session's connection by :func:`borrow`."""

    pool = None
    earlier: Any = None
    """What the thread had before, which stays its own."""

    def begin_borrowing(self, loan: Lender) -> None:
        """Belong to *loan*, in the thread that calls this."""
        self._loan = loan
        self._savepoint_of_thread: str | None = None
        self.autocommit = True
        self.execute_wrappers.append(self._take_turn)

    # Opening and closing: the thread has no connection of its own.

    def ensure_connection(self) -> None:
        """Have the session's connection, or raise: the loan is over, or the session is broken."""
        self.connection = self._loan.get_connection()

    def connect(self) -> None:
        """Do the same."""
        self.ensure_connection()

    def close(self) -> None:
        """Undo what the thread has left open; the connection stays the session's."""
        if self.in_atomic_block:
            return
        self.run_on_commit = []
        if self._savepoint_of_thread is not None:
            with suppress(DatabaseError, InterfaceError):
                self._end("ROLLBACK TO")
        self.autocommit = True
        self._loan.turn.give_up()

    def is_usable(self) -> bool:
        """Whether the loan is not over."""
        return self._loan.is_open

    def close_if_unusable_or_obsolete(self) -> None:
        """Do nothing: age and errors are the session's affair."""

    def close_if_health_check_failed(self) -> None:
        """Do nothing."""

    # Transactions: savepoints, and the turn that lasts as long.

    def _set_autocommit(self, autocommit: bool) -> None:
        if autocommit:
            try:
                if self._savepoint_of_thread is not None:
                    self._end("RELEASE")
            finally:
                self._loan.turn.give_up()
        elif self.autocommit:
            self._begin()

    def _start_transaction_under_autocommit(self) -> None:
        self._begin()

    def _commit(self) -> None:
        if self._savepoint_of_thread is not None:
            self._end("RELEASE")

    def _rollback(self) -> None:
        if self._savepoint_of_thread is not None:
            self._end("ROLLBACK TO")

    def _begin(self) -> None:
        self._loan.turn.take("a transaction")
        name = f"testdb_lent_{next(_numbers)}"
        try:
            self._run(f"SAVEPOINT {name}")
        except BaseException:
            self._loan.turn.give_up()
            raise
        self._savepoint_of_thread = name

    def _end(self, how: str) -> None:
        name, self._savepoint_of_thread = self._savepoint_of_thread, None
        self._run(f"{how} SAVEPOINT {name}")
        if how != "RELEASE":
            self._run(f"RELEASE SAVEPOINT {name}")

    def _run(self, sql: str) -> None:
        self.ensure_connection()
        with self.wrap_database_errors, closing(self.create_cursor()) as cursor:
            cursor.execute(sql)

    def _take_turn(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        """Run a statement in the thread's turn; outside of a transaction in a savepoint of its own."""
        with self._loan.turn.taken(shorten(sql)):
            if self._savepoint_of_thread is not None:
                return execute(sql, params, many, context)
            self._begin()
            try:
                result = execute(sql, params, many, context)
            except BaseException:
                with suppress(DatabaseError, InterfaceError):
                    self._end("ROLLBACK TO")
                raise
            else:
                if self.autocommit:
                    self._end("RELEASE")
                return result
            finally:
                if self.autocommit:
                    self._loan.turn.give_back()

    # Callbacks: the session's, which runs them when it is told to.

    def on_commit(self, func: Callable[[], Any], robust: bool = False) -> None:
        """Collect a callback with the session's."""
        if self.in_atomic_block:
            super().on_commit(func, robust=robust)
        else:
            self._loan.collect([(set(), func, robust)])

    def run_and_clear_commit_hooks(self) -> None:
        """Hand the callbacks of a transaction that has "committed" over to the session."""
        entries, self.run_on_commit = self.run_on_commit, []
        self._loan.collect(entries)


_classes: dict[Any, Any] = {}


def _class_of(cls: Any) -> Any:
    if cls not in _classes:
        _classes[cls] = type(f"Borrowed{cls.__name__}", (Borrowed, cls), {"__module__": cls.__module__})
    return _classes[cls]


def borrow(connection: _Base, loan: Lender) -> Any:
    """Return a connection over *connection*, which is another thread's, for the thread that calls this."""
    made = _class_of(type(connection))(connection.settings_dict, connection.alias)
    made.begin_borrowing(loan)
    return made
