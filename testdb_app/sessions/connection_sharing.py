"""Share a session's connections with other threads: ``session.allow()``.

Each sharing thread has a Django connection with its own state, over the session's transaction. To the thread it behaves
like any other connection. Statements outside of ``atomic()`` are committed at once, and an ``atomic()`` block commits at
its end, even a durable one. Each of these is a savepoint in the session's transaction, and no other thread uses the
transaction meanwhile. So an error in the thread undoes only the thread's part.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from django.db import DatabaseError, InterfaceError, OperationalError, transaction

from testdb_app import _django_private as django_private
from testdb_app.exceptions import ConfigurationError, LendingTimeoutError, SessionBrokenError, SessionClosedError
from testdb_app.sessions.registry import make_error
from testdb_app.transactions import is_lost, shorten

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.sessions.registry import OpenSession

Recipient = threading.Thread | Executor | None
"""The thread or executor that a session's connections are shared with; None means every other thread."""

DEFAULT_TIMEOUT = 10.0
"""Seconds that a thread waits for its turn."""


@contextmanager
def sharing(
    session: OpenSession, connections: dict[BaseDatabaseWrapper, Iterable[str]], recipient: Recipient, timeout: float
) -> Iterator[None]:
    """Share *connections*, each with its aliases, with *recipient* while the block runs. *timeout* is in seconds."""
    _check(recipient)
    loans = [
        # Each connection has only one turn, even if several sessions share it.
        SharedConnection(session, connection, aliases, turn=find_turn(connection) or Turn(session.owner, timeout))
        for connection, aliases in connections.items()
    ]
    with ExitStack() as stack:
        for loan in loans:
            loan.begin()
            stack.callback(loan.end)
            _admit(loan, recipient)
            put_up(loan)
            stack.callback(take_down, loan)
        if isinstance(recipient, Executor):
            stack.enter_context(_submitting(recipient, loans))
        yield


def _check(recipient: object) -> None:
    if isinstance(recipient, ProcessPoolExecutor):
        raise ConfigurationError(
            "allow() is for threads: a connection cannot be shared with the processes of an executor."
        )
    if not isinstance(recipient, threading.Thread | Executor | None):
        raise ConfigurationError(
            f"allow() takes a thread, an executor with threads, or nothing for every other thread, not {recipient!r}. A live "
            "server starts a thread for each request: share with every thread."
        )


def _admit(loan: SharedConnection, recipient: Recipient) -> None:
    if recipient is None:
        loan.to_all = True
    elif isinstance(recipient, threading.Thread):
        loan.admit(recipient)


@contextmanager
def _submitting(executor: Executor, loans: Sequence[SharedConnection]) -> Iterator[None]:
    """Run the jobs that are submitted in the block with the shared connections. Restore the thread after each job."""
    submit: Callable[..., Any] = executor.submit

    def submit_shared(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return submit(partial(_run, loans, function), *args, **kwargs)

    setattr(executor, "submit", submit_shared)  # noqa: B010 - a method, to mypy
    try:
        yield
    finally:
        delattr(executor, "submit")


def _run(loans: Sequence[SharedConnection], function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    thread, storage = threading.current_thread(), get_storage()
    earlier: dict[str, Any] = {}
    for loan in loans:
        loan.admit(thread)
        for alias in loan.aliases:
            earlier[alias] = own_connection(alias)
            setattr(storage, alias, loan.find(thread))
    try:
        return function(*args, **kwargs)
    finally:
        for loan in loans:
            loan.dismiss(thread)
        for alias, connection in earlier.items():
            if connection is None:
                delattr(storage, alias)
            else:
                setattr(storage, alias, connection)


class _TurnTaker:
    """An execute wrapper for the session's own thread, whose statements also wait for their turn."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        with self.turn.taken("a statement of the session's own thread"):
            return execute(sql, params, many, context)


class SharedConnection:
    """One connection of a session, shared with one thread, the jobs of one executor, or every other thread."""

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
        """Share the connection with *thread*."""
        self._threads[thread] = None

    def dismiss(self, thread: threading.Thread) -> None:
        """Stop sharing the connection with *thread*."""
        self._threads.pop(thread, None)

    def find(self, thread: threading.Thread) -> Any:
        """Return the connection for *thread*, or None if it is not shared with it."""
        if thread is self.owner or not (self.to_all or thread in self._threads):
            return None
        found = self._threads.get(thread)
        if found is None:
            found = self._threads[thread] = make_thread_connection(self.connection, self)
            # They go inside the connection's own wrapper, which waits for the turn. So the wait is no part of a statement's time.
            found.execute_wrappers += [
                each for each in self.connection.execute_wrappers if not isinstance(each, _TurnTaker)
            ]
        return found

    def get_connection(self) -> Any:
        """Return the driver's connection.

        Raises :class:`SessionClosedError` if the sharing has ended, and :class:`SessionBrokenError` if the connection
        was closed.
        """
        if not self.is_open:
            self._refuse(
                SessionClosedError,
                f"The thread {threading.current_thread().name} uses the connection of {self.session.owner}, which was shared "
                "with it and is not any more. Wait for the thread (join()) before the allow() block ends.",
            )
        if self.connection.connection is not self._raw or is_lost(self.connection):
            self._refuse(
                SessionBrokenError,
                f"{self.session.owner} cannot go on in the thread {threading.current_thread().name}: its connection was closed. "
                "Open another session.",
            )
        return self._raw

    def collect(self, entries: Iterable[tuple[set[str], Callable[[], Any], bool]]) -> None:
        """Add callbacks of a sharing thread to those of the session."""
        with self.turn.taken("on_commit()"):
            inside = {name for name in self.connection.savepoint_ids if name is not None}
            django: Any = self.connection  # the stubs leave out whether one is robust
            django.run_on_commit += [(inside, function, robust) for _, function, robust in entries]

    def leave_atomic(self) -> None:
        """Release the turn at the end of the block, unless the block was entered before the sharing began."""
        if len(self.connection.atomic_blocks) >= self._base:
            self.turn.give_back()

    def begin(self) -> None:
        """From now on let the statements of the session's own thread wait for their turn."""
        self.connection.execute_wrappers.insert(0, self._taker)

    def end(self) -> None:
        """Wait until the transaction of a sharing thread has ended, and stop sharing.

        Raises :class:`LendingTimeoutError` if that takes too long. The sharing has ended then, too.
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


_loans: list[SharedConnection] = []
_changing = threading.RLock()
_atomic: Any = transaction.Atomic


def put_up(loan: SharedConnection) -> None:
    """Let the threads find the connection that *loan* shares."""
    with _changing:
        _loans.append(loan)
        if len(_loans) == 1:
            _install()


def take_down(loan: SharedConnection) -> None:
    """Hide the connection that *loan* shares from new threads. Threads that have it keep it, and its next use raises an error."""
    with _changing:
        _loans.remove(loan)
        if not _loans:
            _uninstall()


def find_turn(connection: BaseDatabaseWrapper) -> Turn | None:
    """Return the turn of *connection*, if it is already shared."""
    return next((loan.turn for loan in _loans if loan.connection is connection), None)


def get_storage() -> Any:
    """Return the storage behind ``django.db.connections``, whether or not anything is shared."""
    storage = django_private.get_connection_storage()
    return storage.storage if isinstance(storage, SharedStorage) else storage


def own_connection(alias: str) -> Any:
    """Return this thread's own connection, or None."""
    found = getattr(get_storage(), alias, None)
    return found.earlier if isinstance(found, ThreadConnection) else found


class SharedStorage:
    """Replaces the storage behind ``django.db.connections`` during sharing. It searches the shared connections first."""

    def __init__(self, storage: Any) -> None:
        object.__setattr__(self, "storage", storage)

    def __getattr__(self, alias: str) -> Any:
        shared = _find(alias)
        return getattr(self.storage, alias) if shared is None else shared

    def __setattr__(self, alias: str, connection: Any) -> None:
        setattr(self.storage, alias, connection)

    def __delattr__(self, alias: str) -> None:
        delattr(self.storage, alias)


def _find(alias: str) -> Any:
    thread = threading.current_thread()
    for loan in reversed(tuple(_loans)):
        if alias in loan.aliases and (found := loan.find(thread)) is not None:
            if not _is_of_executor(thread):
                # The thread keeps it after the sharing has ended, and its next use raises an error. Threads of an executor do
                # not keep it, because they go on to other work.
                found.earlier = own_connection(alias)
                setattr(get_storage(), alias, found)
            return found
    return None


def _is_of_executor(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", "") == "concurrent.futures.thread"


_enter, _exit = _atomic.__enter__, _atomic.__exit__


def _enter_in_turn(self: Any) -> None:
    loan = _loan_of(self)
    if loan is None:
        _enter(self)
        return
    loan.turn.take("atomic() in the session's own thread")
    try:
        _enter(self)
    except BaseException:
        loan.turn.give_back()
        raise
    if django_private.is_of_test_case(self):
        # This is a session inside the session, and sharing threads take part in it.
        loan.turn.give_back()


def _exit_in_turn(self: Any, *exc: Any) -> None:
    loan = _loan_of(self)
    if loan is None:
        _exit(self, *exc)
    elif django_private.is_of_test_case(self):
        with loan.turn.taken("the end of a session"):
            _exit(self, *exc)
    else:
        try:
            _exit(self, *exc)
        finally:
            loan.leave_atomic()


def _loan_of(block: transaction.Atomic) -> SharedConnection | None:
    """Return the shared connection that *block* uses in the session's own thread; None if there is none."""
    connection = transaction.get_connection(block.using)
    return next((loan for loan in reversed(_loans) if loan.connection is connection), None)


def _install() -> None:
    django_private.set_connection_storage(SharedStorage(django_private.get_connection_storage()))
    _atomic.__enter__, _atomic.__exit__ = _enter_in_turn, _exit_in_turn


def _uninstall() -> None:
    django_private.set_connection_storage(get_storage())
    _atomic.__enter__, _atomic.__exit__ = _enter, _exit


if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper as _Base

else:
    _Base = object

_numbers = itertools.count(1)


class ConnectionSharer(Protocol):
    """The interface of :class:`testdb_app.sessions.connection_sharing.SharedConnection` for the connections of threads."""

    turn: Turn
    is_open: bool

    def get_connection(self) -> Any:
        """Return the driver's connection. Raises an error if the thread may not use it any more."""
        ...

    def collect(self, entries: Any) -> None:
        """Add callbacks of ``on_commit()`` to those of the session."""
        ...


class ThreadConnection(_Base):
    """The methods in which a thread's connection differs from the session's, whose class is the other base class.

    :func:`make_thread_connection` makes the combined class.
    """

    pool = None
    earlier: Any = None
    """The thread's own connection, from before the sharing."""

    def attach(self, loan: ConnectionSharer) -> None:
        """Attach this connection to *loan*, for the calling thread."""
        self._loan = loan
        self._savepoint_of_thread: str | None = None
        self.autocommit = True
        self.execute_wrappers.append(self._take_turn)

    # Opening and closing: the thread does not have its own connection.

    def ensure_connection(self) -> None:
        """Use the session's connection. Raises an error if the sharing has ended, or the session is broken."""
        self.connection = self._loan.get_connection()

    def connect(self) -> None:
        """Do the same as :meth:`ensure_connection`."""
        self.ensure_connection()

    def close(self) -> None:
        """Roll back what the thread has left open. The session keeps the connection open."""
        if self.in_atomic_block:
            return
        self.run_on_commit = []
        if self._savepoint_of_thread is not None:
            with suppress(DatabaseError, InterfaceError):
                self._end("ROLLBACK TO")
        self.autocommit = True
        self._loan.turn.give_up()

    def is_usable(self) -> bool:
        """Whether the connection is still shared."""
        return self._loan.is_open

    def close_if_unusable_or_obsolete(self) -> None:
        """Do nothing: the session handles age and errors."""

    def close_if_health_check_failed(self) -> None:
        """Do nothing: the session handles this."""

    # Transactions are savepoints, each within one turn.

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
        """Run a statement in the thread's turn. Outside of a transaction, it gets its own savepoint."""
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

    # Callbacks go to the session, which decides when they run.

    def on_commit(self, func: Callable[[], Any], robust: bool = False) -> None:
        """Add a callback to those of the session, inside ``atomic()`` at the end of the block."""
        if self.in_atomic_block:
            super().on_commit(func, robust=robust)
        else:
            self._loan.collect([(set(), func, robust)])

    def run_and_clear_commit_hooks(self) -> None:
        """Move the callbacks of a transaction that has "committed" to the session."""
        entries, self.run_on_commit = self.run_on_commit, []
        self._loan.collect(entries)


_classes: dict[Any, Any] = {}


def _class_of(cls: Any) -> Any:
    if cls not in _classes:
        _classes[cls] = type(f"Shared{cls.__name__}", (ThreadConnection, cls), {"__module__": cls.__module__})
    return _classes[cls]


def make_thread_connection(connection: _Base, loan: ConnectionSharer) -> Any:
    """Return a connection for the calling thread. It uses *connection*, which belongs to another thread."""
    made = _class_of(type(connection))(connection.settings_dict, connection.alias)
    made.attach(loan)
    return made


class Turn:
    """A reentrant lock for one thread at a time. Its timeout error names the thread that holds it.

    *owner* is the session's text for messages. *timeout* is in seconds.
    """

    def __init__(self, owner: str, timeout: float) -> None:
        self.owner = owner
        self.timeout = timeout
        self._free = threading.Condition()
        self._holder: threading.Thread | None = None
        self._depth = 0
        self._since = 0.0
        self._doing = ""

    def take(self, doing: str) -> None:
        """Wait for the turn. *doing* describes its use in the errors of other threads.

        Raises :class:`LendingTimeoutError`, which is also an ``OperationalError``.
        """
        me = threading.current_thread()
        with self._free:
            if self._holder is not me:
                if not self._free.wait_for(lambda: self._holder is None, self.timeout):
                    raise self._too_long(me)
                self._holder, self._since, self._doing = me, time.monotonic(), doing
            self._depth += 1

    def give_back(self) -> None:
        """Release the turn once. Call this as often as the turn was taken."""
        with self._free:
            if self._holder is not threading.current_thread():
                return
            self._depth -= 1
            if not self._depth:
                self._holder = None
                self._free.notify()

    def give_up(self) -> None:
        """Release the turn completely, however often this thread has taken it."""
        with self._free:
            if self._holder is threading.current_thread():
                self._depth, self._holder = 0, None
                self._free.notify()

    @contextmanager
    def taken(self, doing: str) -> Iterator[None]:
        """Hold the turn while the block runs."""
        self.take(doing)
        try:
            yield
        finally:
            self.give_back()

    def _too_long(self, me: threading.Thread) -> BaseException:
        name = self._holder.name if self._holder is not None else "nobody"
        holder = f"the thread {name}, for {time.monotonic() - self._since:.1f} s, with: {self._doing}"
        message = (
            f"The thread {me.name} has waited {self.timeout:g} s for the connection of {self.owner}, which threads use one at a "
            f"time, a transaction each. It is held by {holder}. Leave atomic() before you wait for another thread, or allow "
            "more time: session.allow(…, timeout=…)."
        )
        return make_error(
            LendingTimeoutError,
            OperationalError(message),
            message,
            owner=self.owner,
            limit="lending",
            seconds=self.timeout,
            holder=holder,
        )
