"""Pools for independent sessions: one for all of a factory, and who holds what when it is exhausted."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from django.db import OperationalError

from testdb_app.exceptions import PoolTimeoutError
from testdb_app.sessions.raised import make_error

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.sessions.opened import OpenSession


class SharedPool:
    """One pool of the driver for all independent sessions of a factory to one alias, and who holds its connections.

    It is opened with the first session, and closed with the factory.
    """

    def __init__(self) -> None:
        self.pool: Any = None
        self._holders: list[OpenSession] = []
        self._lock = threading.Lock()

    def attach(self, connection: BaseDatabaseWrapper) -> None:
        """Have *connection*, whose settings ask for a pool, take its connections out of this one."""
        pooled: Any = connection
        with self._lock:
            if self.pool is not None:
                pooled._connection_pools[connection.alias] = self.pool
            else:
                self.pool = pooled.pool

    def detach(self, connection: BaseDatabaseWrapper) -> None:
        """Leave the pool open when *connection* is forgotten."""
        pooled: Any = connection
        pooled._connection_pools.pop(connection.alias, None)

    def close(self) -> None:
        """Close the connections that are in the pool, and the others when they come back."""
        with self._lock:
            pool, self.pool = self.pool, None
        if pool is not None:
            pool.close()

    def take_note(self, session: OpenSession, *, holds: bool) -> None:
        """Take note that *session* has a connection out of the pool, or has given it back."""
        with self._lock:
            if holds:
                self._holders.append(session)
            else:
                self._holders.remove(session)

    def explain(self, error: OperationalError, session: OpenSession) -> BaseException:
        """Return the error for a pool that had no connection in time: who has them, or that none could be made."""
        with self._lock:
            holders = [str(each) for each in self._holders]
            pool = self.pool
        if type(error.__cause__).__module__.partition(".")[0] != "psycopg_pool" or pool is None:
            return error
        seconds = float(pool.timeout)
        if len(holders) >= pool.max_size:
            what = f"its {pool.max_size} connections are held by {'; '.join(holders)}"
            remedy = 'Close one of these, or raise pool["max_size"]'
        else:
            what = f"{len(holders)} of its {pool.max_size} connections are held, and no other could be made"
            remedy = (
                "Check that the server runs and takes that many connections; psycopg_pool logs why it could not connect"
            )
        return make_error(
            PoolTimeoutError,
            error,
            f"{session.owner} got no connection out of the pool within {seconds:g} s: {what}. {remedy}.",
            owner=session.owner,
            limit="pool",
            seconds=seconds,
            holders=holders,
        )
