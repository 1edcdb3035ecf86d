"""Makes test sessions, all with the same options."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from django.db import DEFAULT_DB_ALIAS

from testdb_app.sessions.durations import Duration
from testdb_app.sessions.options import check_session_options
from testdb_app.sessions.pools import SharedPool
from testdb_app.sessions.session import TestSession

P = ParamSpec("P")
R = TypeVar("R")


class TestSessionFactory:
    """Makes sessions: connections that are owned, an outer transaction or a reset at the end, limits, and named clean-up.

    Parameters:

    - *databases*: the aliases that a session opens, all or none; ``"__all__"`` for every one.
    - *isolation*: ``"rollback"``, one transaction that is undone at the end, or ``"reset"``, real commits and a reset of the
      database to its baseline at the end.
    - *statement_timeout*, *lock_timeout*, *idle_in_transaction_timeout*: the server's limits, for the session alone;
      *connect_timeout*, for connections that it makes; *ownership_timeout*, for how long it may be open. A number of seconds,
      a ``timedelta``, a text with a unit ("500ms", "30s", "5min"), or None for no limit.
    - *pool*: options of psycopg_pool, as Django's ``OPTIONS["pool"]`` takes them, for the connections of
      :meth:`independent` sessions. It is closed with :meth:`close`.
    - *allow_database*: names of databases that may be written to although nothing marks them as test ones.
    - *around*: a function that returns a context manager, entered before a session is opened and left after it is closed.

    Raises :class:`ConfigurationError`, which names the option and what it takes. It is safe to share between threads; a
    session belongs to the thread that has opened it.
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
        """Make a session, which ``with``, ``open()`` or ``enterContext()`` opens; or decorate a function with one.

        *name* is how messages call it; *opened_at* what they say in place of the line that opens it.
        """
        if callable(name):
            return TestSession(self.options, SharedPool(), name=None)(name)
        return TestSession(self.options, SharedPool(), name=name, opened_at=opened_at)

    def independent(
        self, name: str | None = None, *, using: str | None = None, opened_at: str | None = None
    ) -> TestSession:
        """Make a session on a second connection to the database of *using* (the first of ``databases``, if not given).

        The ORM reaches it with ``.using(session.alias)``, in the thread that has opened it.
        """
        alias = self.options.aliases[0] if using is None else using
        pool = self._pools.setdefault(alias, SharedPool())
        return TestSession(self.options, pool, name=name, independent=alias, opened_at=opened_at)

    def replace(self, **changes: Any) -> TestSessionFactory:
        """Return another factory, with some options changed and a pool of its own."""
        return type(self)(**{**self._given, **changes})

    def close(self) -> None:
        """Close the pools. Sessions that are open give their connections back to nobody. Sessions can be made again."""
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
