"""Isolate a connection of a session: with a transaction that is rolled back, or with commits and a reset."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError

from testdb_app.backends import get_backend
from testdb_app.database_setup import find_obstacle, get_resetter, prepare_test_database
from testdb_app.exceptions import SessionNestingError, UnsupportedError
from testdb_app.guard import check_may_write, check_no_transaction, end_transaction, leave_blocks
from testdb_app.sessions.independent import database_of
from testdb_app.sessions.registry import OpenSession, sessions_on
from testdb_app.transactions import OuterTransaction, TransactionFault, open_transactions

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# The session that resets each database at its end. A second one would delete the rows that the first has committed.
_resetting: dict[tuple[str, ...], OpenSession] = {}
_claiming = threading.Lock()


class RollbackIsolation:
    """One outer transaction. Limits end with it. A vendor without limits for a transaction restores the earlier ones."""

    def __init__(self, connection: BaseDatabaseWrapper, session: OpenSession) -> None:
        self.connection = connection
        self.session = session
        limits = session.options.limits
        self._has_local_limits = get_backend(connection).has_local_limits
        self._earlier: Mapping[str, str] = {}
        self.outer = OuterTransaction(
            connection,
            session.owner,
            allow=session.options.allow_database,
            limits=limits if self._has_local_limits else None,
        )

    def open(self) -> None:
        """Begin the transaction, with the session's limits. Nothing is open if this raises an error."""
        options = self.session.options
        if options.limits and not self._has_local_limits:
            self._earlier = get_backend(self.connection).limit(self.connection, options.limits)
        try:
            if options.connect_timeout is None:
                self.outer.open()
            else:
                with connecting_within(self.connection, options.connect_timeout):
                    self.outer.open()
        except BaseException:
            self._lift()
            raise

    def close(self) -> TransactionFault | None:
        """Roll the transaction back, and return its fault, or None."""
        try:
            return self.outer.roll_back()
        finally:
            self._lift()

    def _lift(self) -> None:
        earlier, self._earlier = self._earlier, {}
        if earlier and self.connection.connection is not None:
            get_backend(self.connection).lift(self.connection, earlier)


class ResetIsolation:
    """Real commits, and a reset to the baseline at the end.

    An independent connection inside another session that resets the same database does not reset it. The other session
    does.
    """

    def __init__(self, connection: BaseDatabaseWrapper, session: OpenSession, *, primary: str) -> None:
        self.connection = connection
        self.session = session
        self.primary = primary
        self._database = database_of(connection)
        self._earlier: Mapping[str, str] = {}
        self._raw: Any = None

    @property
    def is_independent(self) -> bool:
        """Whether its connection is not Django's connection for the alias."""
        return self.primary != self.connection.alias

    def open(self) -> None:
        """Capture a baseline if there is none, and set the limits.

        Raises :class:`SessionNestingError` inside a transaction or another session that resets the database, and
        :class:`UnsupportedError` if there can be no baseline.
        """
        options = self.session.options
        self._check_may_commit()
        with connecting_within(self.connection, options.connect_timeout):
            self.connection.ensure_connection()
        self._raw = self.connection.connection
        check_may_write(self.connection, options.allow_database)
        self._claim()
        try:
            prepare_test_database(self.primary, allow_database=options.allow_database)
            if (obstacle := find_obstacle(self.primary)) is not None:
                raise UnsupportedError(
                    f"{self.session.owner} resets to the baseline (isolation='reset'), and there is none: {obstacle} Or "
                    "roll back (isolation='rollback')."
                ) from obstacle
            if options.limits:
                self._earlier = get_backend(self.connection).limit(self.connection, options.limits)
        except BaseException:
            self._disclaim()
            raise

    def close(self) -> TransactionFault | None:
        """Roll back uncommitted changes, restore the limits, and reset."""
        try:
            self._check_nothing_is_open()
            leave_blocks(self.connection)
            end_transaction(self.connection)
            if self._earlier and self.connection.connection is self._raw:
                with suppress(DatabaseError, InterfaceError):
                    get_backend(self.connection).lift(self.connection, self._earlier)
            if _resetting.get(self._database) is self.session:
                get_resetter(self.primary, "baseline", allow_database=self.session.options.allow_database).reset()
        finally:
            self._disclaim()
        return None

    def _check_nothing_is_open(self) -> None:
        for outer in open_transactions(self.connection):
            raise SessionNestingError(
                f"{self.session.owner} cannot end while {outer.owner}, which was opened inside it, is open. End that first.",
                ending=self.session.owner,
                still_open=outer.owner,
            )

    def _check_may_commit(self) -> None:
        around = sessions_on(self.connection)
        if around and self.connection.in_atomic_block:
            raise SessionNestingError(
                f"{self.session.owner} cannot be opened with isolation='reset' inside {around[-1]}, which is one transaction: "
                "nothing could be committed. End that first, or open an independent() session.",
                ending=self.session.owner,
                still_open=around[-1].owner,
            )
        check_no_transaction(self.connection, f"open {self.session.owner} with isolation='reset'")

    def _claim(self) -> None:
        with _claiming:
            other = _resetting.setdefault(self._database, self.session)
        if other is self.session or self.is_independent:
            return
        raise SessionNestingError(
            f"{self.session.owner} cannot be opened with isolation='reset' while {other} is, on the same database: the reset "
            "at the end of one would take away what the other has committed. End that first, or open an independent() "
            "session inside it, which leaves the reset to it.",
            ending=self.session.owner,
            still_open=other.owner,
        )

    def _disclaim(self) -> None:
        with _claiming:
            if _resetting.get(self._database) is self.session:
                del _resetting[self._database]


def take_back(connection: BaseDatabaseWrapper, allow_database: tuple[str, ...]) -> bool:
    """Undo by a reset what a session should not have committed. Return False inside a transaction or without a baseline."""
    if connection.in_atomic_block or get_backend(connection).read_baseline(connection) is None:
        return False
    get_resetter(connection.alias, "baseline", allow_database=allow_database).reset()
    return True


@contextmanager
def connecting_within(connection: BaseDatabaseWrapper, seconds: int | None) -> Iterator[None]:
    """Limit the time to make a new connection to *seconds*, while the block runs. A pool has its own timeout."""
    if seconds is None or connection.vendor != "postgresql":
        yield
        return
    parameters = connection.get_connection_params
    setattr(connection, "get_connection_params", lambda: {**parameters(), "connect_timeout": seconds})  # noqa: B010
    try:
        yield
    finally:
        delattr(connection, "get_connection_params")
