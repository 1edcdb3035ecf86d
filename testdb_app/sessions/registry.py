"""The registry of open sessions, by connection and in the order of opening, and the errors of sessions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ReferenceType, WeakKeyDictionary

from testdb_app.exceptions import OwnershipTimeoutError, SessionClosedError, SessionNestingError, TestSessionError
from testdb_app.transactions import TransactionFault

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.sessions.options import SessionOptions

_stacks: WeakKeyDictionary[BaseDatabaseWrapper, list[OpenSession]] = WeakKeyDictionary()
_all: dict[OpenSession, None] = {}
_changing = threading.Lock()


class Part(Protocol):
    """The isolation of one connection of a session."""

    connection: BaseDatabaseWrapper

    def open(self) -> None:
        """Begin the isolation. If this raises, nothing is open."""
        ...

    def close(self) -> TransactionFault | None:
        """Undo the changes, and return the fault that occurred meanwhile. Raises an error if they cannot be undone."""
        ...


class OpenSession:
    """The internal state of a session. It has only a weak reference to the user's session, which may be forgotten.

    - ``owner``: the session in messages; ``opened_at``: file and line.
    - ``parts``: the isolation of each connection, in the order of opening.
    - ``aliases``: the names of each connection in the session.
    - ``collected``: the numbers of callbacks and savepoints on each connection at the opening.
    - ``stacks``: the open sessions on each connection.
    - ``clean_up``: the callbacks to run after the parts are closed; ``handle``: the weak reference.
    """

    def __init__(self, name: str | None, opened_at: str, options: SessionOptions) -> None:
        self.name = name
        self.opened_at = opened_at
        self.options = options
        self.owner = f'the session "{name}"' if name else f"the session of {opened_at}"
        self.since = time.monotonic()
        self.thread = threading.current_thread()
        self.parts: list[Part] = []
        self.aliases: dict[BaseDatabaseWrapper, tuple[str, ...]] = {}
        self.collected: dict[BaseDatabaseWrapper, tuple[int, int]] = {}
        self.stacks: dict[BaseDatabaseWrapper, list[OpenSession]] = {}
        self.clean_up = ExitStack()
        self.handle: ReferenceType[Any] | None = None
        self.is_open = False
        self.is_overdue = False
        self.is_forgotten = False
        self.when_used: Callable[[], None] | None = None

    def __str__(self) -> str:
        seconds = time.monotonic() - self.since
        where = f", opened at {self.opened_at}" if self.name else ""
        return f"{self.owner} ({self.thread.name}{where}, {seconds:.1f} s ago)"

    def check_usable(self) -> None:
        """Raise :class:`SessionClosedError` or :class:`OwnershipTimeoutError` if the session is closed or overdue."""
        if not self.is_open:
            raise SessionClosedError(
                f"{self.owner} is not open. Use it inside its with block, or between open() and close().",
                owner=self.owner,
            )
        if self.is_overdue:
            raise OwnershipTimeoutError(
                f"{self.describe_overdue()} Nothing more is done in it.",
                owner=self.owner,
                limit="ownership_timeout",
                seconds=self.options.ownership_timeout or 0.0,
                opened_at=self.opened_at,
            )

    def check_thread(self) -> None:
        """Raise :class:`TestSessionError` in each thread except the one that opened the session."""
        me = threading.current_thread()
        if me is not self.thread:
            raise TestSessionError(
                f"{self.owner} belongs to the thread {self.thread.name}, which has opened it, and is used in {me.name}. Use and "
                "close it there; session.allow() shares its connections."
            )

    def describe_overdue(self) -> str:
        """Return a message that the session has been open for too long, and how to fix that."""
        return (
            f"{self.owner}, opened at {self.opened_at} by the thread {self.thread.name}, is still open after "
            f"{self.options.ownership_timeout:g} s, which is its ownership_timeout. Close it (with, enterContext or close()), "
            "or allow it more time."
        )


def push(session: OpenSession, connection: BaseDatabaseWrapper) -> None:
    """Record *session* as the last one opened on *connection*."""
    with _changing:
        stack = session.stacks[connection] = _stacks.setdefault(connection, [])
        stack.append(session)
        _all[session] = None


def pop(session: OpenSession, connection: BaseDatabaseWrapper) -> None:
    """Record that *session* is closed on *connection*."""
    with _changing:
        stack = session.stacks.pop(connection)
        stack.remove(session)
        if not stack:
            _stacks.pop(connection, None)
        _all.pop(session, None)


def sessions_on(connection: BaseDatabaseWrapper) -> tuple[OpenSession, ...]:
    """Return the sessions that are open on *connection*, the outermost first."""
    return tuple(_stacks.get(connection, ()))


def open_sessions() -> list[OpenSession]:
    """Return all open sessions of this process, in every thread, the oldest first."""
    with _changing:
        found = [each for each in _all if each.is_open]
    return sorted(found, key=lambda each: each.since)


def is_last(session: OpenSession) -> bool:
    """Whether no session that was opened inside *session* is still open."""
    return all(stack[-1] is session for stack in session.stacks.values())


def check_is_last(session: OpenSession) -> None:
    """Raise :class:`SessionNestingError`, with both names, if a session inside *session* is still open."""
    for connection, stack in session.stacks.items():
        last = stack[-1]
        if last is not session:
            raise SessionNestingError(
                f'{session.owner} cannot end while {last}, which was opened inside it on the connection "{connection.alias}", '
                f"is open. Nothing was undone. End {last.owner} first.",
                ending=session.owner,
                still_open=last.owner,
            )


def find_session_of(pid: Any) -> OpenSession | None:
    """Return the session of this process whose connection has the server process *pid*; None if there is none."""
    for each in open_sessions():
        for part in each.parts:
            raw = part.connection.connection
            if raw is not None and getattr(getattr(raw, "info", None), "backend_pid", None) == pid:
                return each
    return None


_made: dict[Any, Any] = {}


def _combine(ours: Any, theirs: Any) -> Any:
    if (ours, theirs) in _made:
        return _made[ours, theirs]

    def reduce(self: TestSessionError) -> tuple[Any, ...]:
        # Pickle cannot import a class that is made at run time, so the receiver makes it again.
        return _rebuild, (ours, theirs, self.message), self.__dict__

    # The class gets the name of this module, so that it cannot be confused with the plain class.
    made = type(
        ours.__name__,
        (ours, theirs),
        {"__module__": __name__, "__doc__": ours.__doc__, "__test__": False, "__reduce__": reduce},
    )
    return _made.setdefault((ours, theirs), made)


def _rebuild(ours: type[TestSessionError], theirs: type[BaseException], message: str) -> TestSessionError:
    error: TestSessionError = _combine(ours, theirs)(message)
    return error


def make_error(ours: type[TestSessionError], error: BaseException, message: str, **details: Any) -> TestSessionError:
    """Return an error of the class *ours* that is also an instance of the class of Django's *error*, with its cause.

    So ``except OperationalError`` in the code under test works as it does without a session. ``error.__cause__`` is
    still the driver's error.
    """
    made: TestSessionError = _combine(ours, type(error))(message, **details)
    made.__cause__ = error.__cause__ or error
    return made
