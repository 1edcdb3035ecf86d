"""Make test sessions (:class:`TestSessionFactory`) and use them (:class:`TestSession`). The end of a session undoes all of it."""

from __future__ import annotations

import inspect
import logging
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.utils.asyncio import async_unsafe

from testdb_app.data import DataLedger, Values, assert_clean, assert_constraints
from testdb_app.exceptions import ConfigurationError, SessionClosedError, SessionNestingError
from testdb_app.sessions.connection_sharing import DEFAULT_TIMEOUT, Recipient, sharing
from testdb_app.sessions.independent import SharedPool
from testdb_app.sessions.lifecycle import abandon, end_session, forget_session, open_session
from testdb_app.sessions.options import Duration, SessionOptions, check_session_options, parse_duration
from testdb_app.sessions.registry import OpenSession, sessions_on
from testdb_app.transactions import caller

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model


class TestSessionFactory:
    """Makes test sessions. A session owns its connections, has time limits, and ends with a rollback or a reset.

    Parameters:

    - *databases*: the aliases that a session opens, all or none; ``"__all__"`` for every alias.
    - *isolation*: ``"rollback"`` runs the session in one transaction and rolls it back at the end. ``"reset"`` permits
      real commits and resets the database to its baseline at the end.
    - *statement_timeout*, *lock_timeout*, *idle_in_transaction_timeout*: the server's limits, only for the session.
    - *connect_timeout*: the limit for connections that the session makes.
    - *ownership_timeout*: how long the session may be open.
    - *pool*: options of psycopg_pool for the connections of :meth:`independent` sessions, as Django's
      ``OPTIONS["pool"]`` accepts them. :meth:`close` closes the pool.
    - *allow_database*: names of databases that a session may write to although nothing marks them as test databases.
    - *around*: a function that returns a context manager. The session enters it before it opens, and leaves it after it
      has closed.

    Each timeout is a number of seconds, a ``timedelta``, a text with a unit ("500ms", "30s", "5min"), or None for no
    limit.

    Raises :class:`ConfigurationError` with the option and its valid values. Threads may share a factory; a session
    belongs to the thread that opened it.
    """

    __test__ = False

    def __init__(
        self,
        databases: str | Iterable[str] = (DEFAULT_DB_ALIAS,),
        isolation: str = "rollback",
        *,
        connect_timeout: Duration | None = None,
        statement_timeout: Duration | None = None,
        lock_timeout: Duration | None = None,
        idle_in_transaction_timeout: Duration | None = None,
        ownership_timeout: Duration | None = None,
        pool: Mapping[str, Any] | bool | None = None,
        allow_database: str | Iterable[str] = (),
        around: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> None:
        self._given: dict[str, Any] = {
            "databases": databases,
            "isolation": isolation,
            "connect_timeout": connect_timeout,
            "statement_timeout": statement_timeout,
            "lock_timeout": lock_timeout,
            "idle_in_transaction_timeout": idle_in_transaction_timeout,
            "ownership_timeout": ownership_timeout,
            "pool": pool,
            "allow_database": allow_database,
            "around": around,
        }
        self.options = check_session_options(**self._given)
        self._pools: dict[str, SharedPool] = {}
        self._finalizer = weakref.finalize(self, _close_pools, self._pools)

    @overload
    def __call__(self, name: Callable[P, R]) -> Callable[P, R]: ...
    @overload
    def __call__(self, name: str | None = None, *, opened_at: str | None = None) -> TestSession: ...
    def __call__(self, name: Any = None, *, opened_at: str | None = None) -> Any:
        """Make a session, or decorate a function with one. ``with``, ``open()`` or ``enterContext()`` opens a session.

        *name* is the session's name in messages. Messages show *opened_at* instead of the line that opens the session.
        """
        if callable(name):
            return TestSession(self.options, SharedPool(), name=None)(name)
        return TestSession(self.options, SharedPool(), name=name, opened_at=opened_at)

    def independent(
        self, name: str | None = None, *, using: str | None = None, opened_at: str | None = None
    ) -> TestSession:
        """Make a session on a second connection to the database of the alias *using*; by default the first alias.

        Use it in the ORM with ``.using(session.alias)``, in the thread that opened it.
        """
        alias = self.options.aliases[0] if using is None else using
        pool = self._pools.setdefault(alias, SharedPool())
        return TestSession(self.options, pool, name=name, independent=alias, opened_at=opened_at)

    def replace(self, **changes: Any) -> TestSessionFactory:
        """Return another factory with some options changed. It has its own pool."""
        return type(self)(**{**self._given, **changes})

    def close(self) -> None:
        """Close the pools. Open sessions close their connections at their end. The factory stays usable."""
        _close_pools(self._pools)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _close_pools(pools: dict[str, SharedPool]) -> None:
    for pool in pools.values():
        pool.close()


_P = ParamSpec("_P")
_R = TypeVar("_R")
_M = TypeVar("_M", bound="Model")


class SessionData:
    """The methods of a session for rows. *using* is an alias of the session; None means its first alias.

    The session's rollback or reset undoes these rows. Callbacks of :meth:`on_teardown` run before that.
    """

    options: SessionOptions

    def __init__(self) -> None:
        self._ledgers: dict[str, DataLedger] = {}

    def _connection(self, using: str | None) -> BaseDatabaseWrapper:
        raise NotImplementedError

    def ledger(self, using: str | None = None) -> DataLedger:
        """Return the ledger of one of the session's databases. It lists the rows and callbacks registered there."""
        alias = self._connection(using).alias
        if alias not in self._ledgers:
            self._ledgers[alias] = DataLedger(alias, allow_database=self.options.allow_database)
        return self._ledgers[alias]

    @property
    def values(self) -> Values:
        """Sequences and seeded random values, the same in every session; see :class:`testdb_app.data.Values`."""
        return self.ledger().values

    def setup(self, build: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call *build*, and register the rows that it makes; see :meth:`testdb_app.data.DataLedger.setup`."""
        return self.ledger().setup(build, *args, **kwargs)

    def register(self, *instances: Model) -> None:
        """Register existing rows; see :meth:`testdb_app.data.DataLedger.register`."""
        self.ledger().register(*instances)

    def load(self, source: Any, /, *, using: str | None = None, **options: Any) -> list[Model]:
        """Load a fixture, a file, dicts or factories; see :func:`testdb_app.data.load`."""
        return self.ledger(using).load(source, **options)

    def bulk(self, model: type[Model], rows: Iterable[Any], /, *, using: str | None = None) -> int:
        """Insert many rows; see :func:`testdb_app.data.loading`."""
        return self.ledger(using).bulk(model, rows)

    def make(self, model: type[_M], /, **given: Any) -> _M:
        """Make a row, and the rows that it references; see :func:`testdb_app.data.make`."""
        return self.ledger().make(model, **given)

    def seed(self, name: str, /, *, using: str | None = None) -> Any:
        """Make a named data set, once; see :meth:`testdb_app.data.DataLedger.seed`."""
        return self.ledger(using).seed(name)

    def on_teardown(self, function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Callable[_P, _R]:
        """Register *function*, which the end of the session calls before it undoes anything. The last one runs first."""
        return self.ledger().on_teardown(function, *args, **kwargs)

    def verify_clean(self, using: str | None = None, **options: Any) -> None:
        """Assert that the database has only the rows of the baseline; see :func:`testdb_app.data.assert_clean`."""
        assert_clean(self._connection(using).alias, **options)

    def verify_constraints(self, using: str | None = None, **options: Any) -> None:
        """Assert the constraints that a commit checks, deferred ones too; see :func:`testdb_app.data.assert_constraints`."""
        assert_constraints(self._connection(using).alias, **options)

    def verify(self, assertion: Callable[..., object], /, *args: Any, using: str | None = None, **options: Any) -> None:
        """Call an assertion of :mod:`testdb_app.data`, or one of yours that accepts *using*, on the session's database."""
        assertion(*args, using=self._connection(using).alias, **options)

    def _tear_down(self) -> None:
        """Call the callbacks before everything is undone. The rows need no deletion."""
        ledgers, self._ledgers = self._ledgers, {}
        first: BaseException | None = None
        for ledger in ledgers.values():
            try:
                ledger.teardown(rows=False)
            except BaseException as error:  # noqa: BLE001 - raised below
                if first is None:
                    first = error
                else:
                    first.add_note(f"And then: {type(error).__name__}: {error}")
        if first is not None:
            raise first

    def _marks(self) -> dict[str, int]:
        return {alias: ledger.mark() for alias, ledger in self._ledgers.items()}

    def _forget_since(self, marks: dict[str, int]) -> None:
        for alias, ledger in self._ledgers.items():
            ledger.forget_since(marks.get(alias, 0))


P = ParamSpec("P")
R = TypeVar("R")


class TestSession(SessionData):
    """A test session, made by :class:`testdb_app.sessions.TestSessionFactory`. Use it only in the thread that opened it.

    It is a context manager, also for ``enterContext()``. As a decorator it opens a new session for each call. You can
    also call ``open()`` and ``close()``. You can open it again after its end.
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
        """Open the session on all of its databases or none, and return it.

        It costs one round trip for each database, if the connection exists.

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
        """Undo everything that was done in the session, and release its connections. Idempotent.

        Raises :class:`SessionNestingError`, with nothing undone, if a session inside it is open;
        :class:`SessionLeakError` if something was committed; :class:`SessionBrokenError` if the transaction had
        already ended.
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
            # After an error nothing else closes the sessions inside.
            self._close(with_inner=error is not None)
        except Exception as of_closing:
            if error is None:
                raise
            error.add_note(f"While its session was closed: {type(of_closing).__name__}: {of_closing}")

    def __del__(self) -> None:
        # At the end of the process the server rolls the session back.
        session = getattr(self, "_session", None)
        if session is not None and session.is_open and not sys.is_finalizing():
            forget_session(session)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function. Each call has its own session, which :func:`current_session` returns."""

        def make() -> AbstractContextManager[object]:
            return type(self)(
                self.options,
                self._pool,
                name=self.name or function.__qualname__,
                independent=self._independent,
            )

        return decorate(function, make)

    # Connections

    @property
    def alias(self) -> str:
        """The alias for ``.using()``: the one of the session's only or first database."""
        return self.connection.alias

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """Django's connection to the session's only or first database."""
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
        raise ConfigurationError(
            f"{self._checked.owner} has no database {using!r}, but {', '.join(known)}. Name one of "
            f"these, or open the session with databases=[{using!r}, …]."
        )

    # Savepoints, callbacks and sharing

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Roll back only the block if it raises. This is an ``atomic()`` on each of the session's databases."""
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
        """Run the callbacks of ``on_commit()`` collected so far, and those that they register. Return them in order.

        Errors are handled as in a commit. The error of a robust callback is logged. After the error of another callback
        the rest does not run. Callbacks of an open ``atomic()`` block wait for its end. With isolation="reset" there are
        no callbacks here, because commits run them.
        """
        session, connection = self._checked, self._connection(using)
        callbacks, savepoints = session.collected[connection]
        return run_callbacks(connection, outside_of=savepoints, after=callbacks)

    @contextmanager
    def allow(self, borrower: Recipient = None, *, timeout: Duration = DEFAULT_TIMEOUT) -> Iterator[None]:
        """Share the session's connections with a thread, the jobs of an executor, or every other thread, for the block.

        In these threads ``connections[alias]`` uses the session's transaction. One thread uses it at a time: for a whole
        ``atomic()`` block, or for a single statement outside of such a block. *timeout* limits the wait for a turn;
        after it the thread gets a :class:`LendingTimeoutError`. A thread that uses the connection after the block gets a
        :class:`SessionClosedError`. With isolation="reset" sharing is not needed, because threads see committed rows.
        """
        session = self._checked
        seconds = (parse_duration("timeout", timeout) or 0) / 1_000
        if self.options.isolation == "reset":
            yield
            return
        with sharing(session, dict(session.aliases), borrower, seconds):
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


# Django's own logger, because users look for its message there.
logger = logging.getLogger("django.db.backends.base")

_Entry = tuple[set[str], Callable[[], Any], bool]


def run_callbacks(connection: BaseDatabaseWrapper, *, outside_of: int, after: int) -> list[Callable[[], Any]]:
    """Run the callbacks registered in a session, and those that they register, in order. Return those that ran.

    *after* is the number of callbacks when the session was opened, and *outside_of* the number of open savepoints then.
    Callbacks of an open ``atomic()`` block wait for its end. The error of a robust callback is logged. The error of
    another callback is raised, and the later callbacks do not run, as in a commit.
    """
    ran: list[Callable[[], Any]] = []
    while due := _take_due(connection, outside_of, after):
        for _, function, robust in due:
            ran.append(function)
            if not robust:
                function()
                continue
            try:
                function()
            except Exception as error:
                name = getattr(function, "__qualname__", repr(function))
                logger.error("Error calling %s in on_commit() (%s).", name, error, exc_info=True)
    return ran


def _take_due(connection: BaseDatabaseWrapper, outside_of: int, after: int) -> list[_Entry]:
    django: Any = connection  # the stubs leave out whether one is robust
    entries: list[_Entry] = django.run_on_commit
    inside = {name for name in connection.savepoint_ids[outside_of:] if name is not None}
    due = [entry for entry in entries[after:] if not inside & entry[0]]
    django.run_on_commit = entries[:after] + [entry for entry in entries[after:] if inside & entry[0]]
    return due


def decorate(function: Callable[P, R], make: Callable[[], AbstractContextManager[object]]) -> Callable[P, R]:
    """Return *function*, wrapped so that each call runs inside the context manager that *make* returns.

    Raises :class:`ConfigurationError` for async functions and generators, because their body runs after the call.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{function.__qualname__}() is async: its body runs after the call, and Django's connections are for synchronous "
            "code. Open the session around sync_to_async() or async_to_sync(), in the thread that the queries run in."
        )
    if inspect.isgeneratorfunction(function):
        raise ConfigurationError(
            f"{function.__qualname__}() is a generator: its body runs after the call. Use with, in its body."
        )

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with make():
            return function(*args, **kwargs)

    return call
