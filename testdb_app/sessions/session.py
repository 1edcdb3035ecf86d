"""A test session: connections that it owns, and everything in them undone at its end."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from django.db import connections, transaction
from django.utils.asyncio import async_unsafe

from testdb_app.exceptions import ConfigurationError, SessionClosedError, SessionNestingError
from testdb_app.sessions.callbacks import run_callbacks
from testdb_app.sessions.decorating import decorate
from testdb_app.sessions.durations import Duration, parse_duration
from testdb_app.sessions.ending import end_session
from testdb_app.sessions.forgetting import abandon, forget_session
from testdb_app.sessions.lending import DEFAULT_TIMEOUT, Borrower, lending
from testdb_app.sessions.opened import OpenSession, sessions_on
from testdb_app.sessions.opening import open_session
from testdb_app.sessions.options import SessionOptions
from testdb_app.sessions.setting_up import SessionData
from testdb_app.transactions import caller

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.sessions.pools import SharedPool

P = ParamSpec("P")
R = TypeVar("R")


class TestSession(SessionData):
    """What :class:`testdb_app.sessions.TestSessionFactory` makes. One thread at a time, the one that has opened it.

    A context manager, also for ``enterContext()``; a decorator, which opens a new one around each call; or ``open()`` and
    ``close()``. It can be opened again after its end.
    """

    __test__ = False

    def __init__(
        self,
        options: SessionOptions,
        pool: SharedPool,
        *,
        name: str | None,
        independent: str | None = None,
        opened_at: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.options = options
        self._pool = pool
        self._independent = independent
        self._opened_at = opened_at
        self._session: OpenSession | None = None

    def __repr__(self) -> str:
        state = f"{self._session}" if self.is_open else "not open"
        return f"<{type(self).__name__} {self.name or 'without a name'}: {state}>"

    # Opening and closing

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and not closed since."""
        return self._session is not None and self._session.is_open

    @async_unsafe("You cannot open a test session in an event loop: open it in the thread that the queries run in.")
    def open(self) -> Self:
        """Open it, on all of its databases or none, and return it. One round trip for each, if the connection is there.

        Raises :class:`UnsafeSessionError` if the guard refuses a database, :class:`SessionNestingError`,
        :class:`SessionBrokenError` inside a transaction that has failed, :class:`PoolTimeoutError`,
        :class:`UnsupportedError` for limits that a database does not have, and Django's database errors.
        """
        if self.is_open:
            raise SessionNestingError(
                f"{self._checked.owner} is open already. Make another one inside it: factory(…).",
                ending=self._checked.owner,
                still_open=self._checked.owner,
            )
        session = OpenSession(self.name, self._opened_at or caller(), self.options)
        open_session(session, self._pool, independent=self._independent)
        session.handle = weakref.ref(self)
        self._session = session
        return self

    def close(self) -> None:
        """Undo what was done in it, and give the connections back. Twice is once.

        Raises :class:`SessionNestingError`, with nothing undone, if another one inside it is open; :class:`SessionLeakError`
        if something was committed; :class:`SessionBrokenError` if the transaction had ended before.
        """
        self._close(with_inner=False)

    def _close(self, *, with_inner: bool) -> None:
        session = self._session
        if session is None or not session.is_open:
            return
        if not session.thread.is_alive():
            abandon(session)
            return
        session.check_thread()
        end_session(session, self._tear_down, with_inner=with_inner)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            # An error has left those inside without anybody who would close them.
            self._close(with_inner=error is not None)
        except Exception as of_closing:
            if error is None:
                raise
            error.add_note(f"While its session was closed: {type(of_closing).__name__}: {of_closing}")

    def __del__(self) -> None:
        # At the end of the process the server undoes it.
        session = getattr(self, "_session", None)
        if session is not None and session.is_open and not sys.is_finalizing():
            forget_session(session)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function: each call has a session of its own. The function finds it by :func:`current_session`."""

        def make() -> AbstractContextManager[object]:
            return type(self)(
                self.options,
                self._pool,
                name=self.name or function.__qualname__,
                independent=self._independent,
            )

        return decorate(function, make)

    # Its connections

    @property
    def alias(self) -> str:
        """The name to use with ``.using()``: of its only database, or of its first."""
        return self.connection.alias

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """Django's connection of its only database, or of its first."""
        return self._checked.parts[0].connection

    @property
    def _checked(self) -> OpenSession:
        if self._session is None:
            owner = f'the session "{self.name}"' if self.name else "the session"
            raise SessionClosedError(
                f"{owner} was not opened yet. Use it inside its with block, or between open() and close().", owner=owner
            )
        self._session.check_usable()
        self._session.check_thread()
        return self._session

    def _connection(self, using: str | None) -> BaseDatabaseWrapper:
        if using is None:
            return self.connection
        for connection, aliases in self._checked.aliases.items():
            if using in aliases:
                return connection
        known = sorted(alias for aliases in self._checked.aliases.values() for alias in aliases)
        raise ConfigurationError(f"{self._checked.owner} has no database {using!r}, but {', '.join(known)}.")

    # Parts

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo the block alone if it raises; an ``atomic()`` on each of the session's databases."""
        parts, marks = self._checked.parts, self._marks()
        try:
            with ExitStack() as stack:
                for part in parts:
                    stack.enter_context(transaction.atomic(using=part.connection.alias))
                yield
        except BaseException:
            self._forget_since(marks)
            raise

    def run_on_commit(self, using: str | None = None) -> list[Callable[[], Any]]:
        """Run the callbacks of ``on_commit()`` collected so far, and those that they register; return them in order.

        As a commit would: a robust one that raises is logged, after another one's error the rest does not run. Those of an
        ``atomic()`` block that is open wait for its end. With isolation="reset" commits run them, and there are none.
        """
        session, connection = self._checked, self._connection(using)
        callbacks, savepoints = session.collected[connection]
        return run_callbacks(connection, outside_of=savepoints, after=callbacks)

    @contextmanager
    def allow(self, borrower: Borrower = None, *, timeout: Duration = DEFAULT_TIMEOUT) -> Iterator[None]:
        """Lend the session's connections to a thread, to the jobs of an executor, or to every other thread, for the block.

        There ``connections[alias]`` is the session's transaction, for one thread at a time: from the beginning of an
        ``atomic()`` block to its end, else for a statement. *timeout* is how long one waits for its turn, before it gets a
        :class:`LendingTimeoutError`. A thread that goes on after the block gets a :class:`SessionClosedError`.
        With isolation="reset" nothing has to be lent: threads see what is committed.
        """
        session = self._checked
        seconds = (parse_duration("timeout", timeout) or 0) / 1_000
        if self.options.isolation == "reset":
            yield
            return
        with lending(session, dict(session.aliases), borrower, seconds):
            yield


def current_session(using: str = "default") -> TestSession:
    """Return the innermost session that is open on the connection of *using* in this thread.

    Raises :class:`SessionClosedError` if there is none.
    """
    for each in reversed(sessions_on(connections[using])):
        found = each.handle() if each.handle is not None else None
        if isinstance(found, TestSession):
            return found
    owner = "a test session"
    raise SessionClosedError(f'No test session is open on the connection "{using}" in this thread.', owner=owner)
