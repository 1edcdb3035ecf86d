"""One connection of a session, lent to other threads: to which, whether it still is, and whose turn it is."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from django.db import InterfaceError

from testdb_app.exceptions import SessionBrokenError, SessionClosedError
from testdb_app.sessions.borrowed import borrow
from testdb_app.sessions.raised import make_error
from testdb_app.sessions.turns import Turn
from testdb_app.transactions import is_lost

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.sessions.opened import OpenSession


class _TurnTaker:
    """An execute wrapper for the session's own thread, whose statements take their turn too."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        with self.turn.taken("a statement of the session's own thread"):
            return execute(sql, params, many, context)


class Loan:
    """One connection of a session, lent to one thread, the jobs of one executor, or every other thread."""

    def __init__(
        self, session: OpenSession, connection: BaseDatabaseWrapper, aliases: Iterable[str], *, turn: Turn
    ) -> None:
        self.session = session
        self.connection = connection
        self.aliases = frozenset(aliases)
        self.turn = turn
        self.is_open = True
        self.owner = threading.current_thread()
        self.to_all = False
        self._threads: weakref.WeakKeyDictionary[threading.Thread, Any] = weakref.WeakKeyDictionary()
        self._raw = connection.connection
        self._taker = _TurnTaker(turn)
        self._base = len(connection.atomic_blocks)

    def admit(self, thread: threading.Thread) -> None:
        """Lend it to *thread*."""
        self._threads[thread] = None

    def dismiss(self, thread: threading.Thread) -> None:
        """Lend it to *thread* no more."""
        self._threads.pop(thread, None)

    def find(self, thread: threading.Thread) -> Any:
        """Return the connection for *thread*, or None if it is not lent to it."""
        if thread is self.owner or not (self.to_all or thread in self._threads):
            return None
        found = self._threads.get(thread)
        if found is None:
            found = self._threads[thread] = borrow(self.connection, self)
            # Below its own, which waits for its turn: that time is no statement's.
            found.execute_wrappers += [
                each for each in self.connection.execute_wrappers if not isinstance(each, _TurnTaker)
            ]
        return found

    def get_connection(self) -> Any:
        """Return the driver's connection; raise an error if the thread may not use it any more."""
        if not self.is_open:
            self._refuse(
                SessionClosedError,
                f"The thread {threading.current_thread().name} uses the connection of {self.session.owner}, which was lent to it "
                "and is not any more. Wait for the thread (join()) before the allow() block ends.",
            )
        if self.connection.connection is not self._raw or is_lost(self.connection):
            self._refuse(
                SessionBrokenError,
                f"{self.session.owner} cannot go on in the thread {threading.current_thread().name}: its connection was closed. "
                "Open another session.",
            )
        return self._raw

    def collect(self, entries: Iterable[tuple[set[str], Callable[[], Any], bool]]) -> None:
        """Add callbacks of a borrower to the session's."""
        with self.turn.taken("on_commit()"):
            inside = {name for name in self.connection.savepoint_ids if name is not None}
            django: Any = self.connection  # the stubs leave out whether one is robust
            django.run_on_commit += [(inside, function, robust) for _, function, robust in entries]

    def leave_atomic(self) -> None:
        """Give it back with the block, unless that was entered before the loan."""
        if len(self.connection.atomic_blocks) >= self._base:
            self.turn.give_back()

    def begin(self) -> None:
        """Serialise what the session's own thread does from now on."""
        self.connection.execute_wrappers.insert(0, self._taker)

    def end(self) -> None:
        """Wait for the transaction of a borrower to end, and take the connection back.

        Raises :class:`LendingTimeoutError`, with the connection taken back, if it takes too long.
        """
        try:
            self.turn.take("the end of allow()")
        finally:
            self.is_open = False
            self.turn.give_up()
            wrappers = self.connection.execute_wrappers
            wrappers[:] = [each for each in wrappers if each is not self._taker]

    def _refuse(self, kind: Any, message: str) -> None:
        raise make_error(kind, InterfaceError(message), message, owner=self.session.owner)
