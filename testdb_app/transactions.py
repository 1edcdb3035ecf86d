"""Open and roll back the outer transaction of sessions and scopes, and detect the faults that break it.

The outer transaction is Django's ``atomic()``, entered and left by hand, and marked like the one of ``TestCase``. Inside
it ``atomic()`` is a savepoint, ``durable=True`` is allowed, and callbacks of ``on_commit()`` are collected. Inside
another ``atomic()`` it is itself a savepoint. The outer transaction that was opened last ends first.

A fault is described with its cause: the connection was closed, the server ended the session, SQL committed, a statement
failed without a rollback, or a row references a missing row.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from django.db import DatabaseError, IntegrityError, InterfaceError, transaction
from django.db.transaction import TransactionManagementError

from testdb_app import _django_private as django_private
from testdb_app.backends import get_backend
from testdb_app.backends.base import TransactionStatus
from testdb_app.exceptions import SessionBrokenError, SessionNestingError, reason_of
from testdb_app.guard import check_may_write, check_no_transaction, leave_blocks

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_numbers = itertools.count(1)
_hooks: WeakKeyDictionary[BaseDatabaseWrapper, ConnectionHooks] = WeakKeyDictionary()
# A pool may have several connections that the server has ended meanwhile.
_MOST_ATTEMPTS = 10


class OuterTransaction:
    """A transaction or savepoint on *connection*, which is open until it is rolled back. Not thread-safe.

    *owner* is a text for messages. *allow* names databases that may be written to although nothing marks them as test
    databases. *limits* are timeouts in milliseconds, which end with the transaction; see
    :meth:`testdb_app.backends.base.BaseBackend.begin`.
    """

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        owner: str,
        *,
        allow: tuple[str, ...] = (),
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.connection = connection
        self.backend = get_backend(connection)
        self.owner = owner
        self.allow = allow
        self.limits = limits or {}
        self._atomic: Any = None
        self._raw: Any = None
        self._savepoint: str | None = None
        self._hooks: ConnectionHooks | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and not rolled back since."""
        return self._atomic is not None

    @property
    def is_last(self) -> bool:
        """Whether no transaction that was opened inside it is still open."""
        return self._hooks is None or self._hooks.transactions[-1] is self

    @property
    def is_innermost(self) -> bool:
        """Whether no ``atomic()`` block inside it is still open."""
        return self.connection.atomic_blocks[-1:] == [self._atomic]

    def open(self) -> None:
        """Begin the transaction or savepoint. A connection that the server has ended meanwhile is replaced.

        It costs one round trip. It costs one more if the guard has not checked the connection's session, or if there
        are limits inside another transaction. Raises the guard's :class:`UnsafeDatabaseError`,
        :class:`TransactionStateError` for a connection with autocommit off, :class:`SessionBrokenError` inside a
        transaction that has failed, and Django's database errors. Then nothing is open.
        """
        connection = self.connection
        if connection.in_atomic_block:
            self._check_may_nest()
            self._open()
        else:
            check_no_transaction(connection, f"open {self.owner}")
            self._open_replacing_lost_connections()
        self._hook()

    def _open_replacing_lost_connections(self) -> None:
        for attempt in itertools.count(1):
            was_open = self.connection.connection is not None
            try:
                self._open()
            except (DatabaseError, InterfaceError):
                if attempt == _MOST_ATTEMPTS or not is_lost(self.connection):
                    raise
                self.connection.close()
                # If a new connection is lost at once, another one would be lost too.
                if not was_open and not self.connection.settings_dict["OPTIONS"].get("pool"):
                    raise
            else:
                return

    def _open(self) -> None:
        connection = self.connection
        connection.ensure_connection()
        check_may_write(connection, self.allow)
        is_nested = connection.in_atomic_block
        atomic: Any = transaction.atomic(using=connection.alias)
        django_private.mark_as_of_test_case(atomic)
        atomic.__enter__()
        self._atomic, self._raw = atomic, connection.connection
        try:
            if not is_nested:
                self._savepoint = self._begin()
            elif self.limits:
                self.backend.limit(connection, self.limits, local=True)
        except BaseException:
            self._leave()
            raise

    def find_fault(self) -> TransactionFault | None:
        """Return the fault of this transaction, as the driver reports it; None if there is none. Sends no query."""
        return find_fault(self.connection, self._atomic, self._raw, self._hooks)

    def find_dangling_rows(self) -> TransactionFault | None:
        """Return the violated deferred constraint at which a commit would fail; None if there is none.

        It costs a few round trips, and changes nothing.
        """
        return find_dangling_rows(self.connection)

    @property
    def statements(self) -> int:
        """The number of statements that were sent since the outermost transaction on the connection was opened."""
        return self._hooks.statements if self._hooks is not None else 0

    def forget_refused(self, statements: int) -> None:
        """Let the transaction continue if no statement was sent since there were so many *statements*.

        Django marks it as failed also where only Python has raised in an ``atomic()`` block: access was blocked.
        """
        if self.is_open and self.statements == statements:
            self.connection.needs_rollback = False

    def roll_back(self) -> TransactionFault | None:
        """Roll back everything written in it, and return its fault, or None.

        It costs one round trip, or two for a savepoint. A connection that was closed or lost meanwhile stays closed, and
        the next statement opens a new one. Raises :class:`SessionNestingError`, and changes nothing, if an outer
        transaction that was opened later is still open.
        """
        if not self.is_open:
            return None
        self._check_is_last()
        connection = self.connection
        fault = self.find_fault()
        try:
            left_open = self._leave_blocks_above()
            if fault is None or not fault.is_fatal:
                fault = self._undo() or fault or left_open
        except BaseException:
            # After an interruption the state of the connection is unknown. When it is closed, the server rolls back.
            with suppress(DatabaseError, InterfaceError):
                close_for_good(connection)
            raise
        finally:
            self._unhook()
            self._leave()
        if fault is not None and fault.is_fatal and not connection.in_atomic_block:
            close_for_good(connection)
        return fault

    def _check_may_nest(self) -> None:
        """Refuse to open a savepoint in a failed transaction. No savepoint is possible there, and nothing would be undone."""
        if has_failed(self.connection):
            hooks = _hooks.get(self.connection)
            raise SessionBrokenError(
                f'{self.owner} cannot be opened: the transaction around it, on the connection "{self.connection.alias}", '
                f"has failed{hooks.failure if hooks else ''}. End that transaction, or put the failing part into its own "
                "atomic() block.",
                owner=self.owner,
            )

    def _begin(self) -> str:
        """Begin the transaction with a savepoint. If the savepoint exists at the end, no SQL has committed."""
        name = f"testdb_outer_{next(_numbers)}"
        self.backend.begin(self.connection, name, self.limits)
        return name

    def _undo(self) -> TransactionFault | None:
        connection = self.connection
        connection.needs_rollback = False
        if len(connection.atomic_blocks) > 1:
            # Django rolls back to its savepoint, and sets a flag if the savepoint is missing.
            self._leave()
            is_there = not connection.needs_rollback
            connection.needs_rollback = False
            return None if is_there else describe_end(connection, self._hooks)
        try:
            self.backend.undo(connection, str(self._savepoint))
        except (DatabaseError, InterfaceError):
            return describe_end(connection, self._hooks)
        return None

    def _leave(self) -> None:
        """Leave the ``atomic()`` block with a rollback."""
        connection, atomic = self.connection, self._atomic
        self._atomic = self._raw = None
        if atomic is not None and atomic in connection.atomic_blocks:
            transaction.set_rollback(True, using=connection.alias)
            atomic.__exit__(None, None, None)

    def _leave_blocks_above(self) -> TransactionFault | None:
        """Leave the ``atomic()`` blocks inside it that were entered by hand and not left. Return that fault, or None."""
        if not leave_blocks(self.connection, above=self._atomic):
            return None
        return TransactionFault(what="an atomic() block was entered in it, and not left", is_fatal=False)

    def _check_is_last(self) -> None:
        if not self.is_last:
            last = open_transactions(self.connection)[-1]
            raise SessionNestingError(
                f'{self.owner} cannot end while {last.owner}, which was opened inside it on the connection "'
                f'{self.connection.alias}", is open. Nothing was rolled back. End {last.owner} first.',
                ending=self.owner,
                still_open=last.owner,
            )

    def _hook(self) -> None:
        hooks = _hooks.get(self.connection)
        if hooks is None:
            status = partial(self.backend.transaction_status, self.connection)
            hooks = _hooks[self.connection] = ConnectionHooks(self.connection, status)
        hooks.transactions.append(self)
        self._hooks = hooks

    def _unhook(self) -> None:
        hooks, self._hooks = self._hooks, None
        if hooks is not None:
            hooks.transactions.remove(self)
            if not hooks.transactions:
                del _hooks[self.connection]
                hooks.remove()


def open_transactions(connection: BaseDatabaseWrapper) -> tuple[OuterTransaction, ...]:
    """Return the outer transactions that are open on *connection*, the outermost first."""
    hooks = _hooks.get(connection)
    return () if hooks is None else tuple(hooks.transactions)


@contextmanager
def connections_kept_open() -> Iterator[None]:
    """Make ``close()`` do nothing on connections with an outer transaction, while the block runs.

    ``TestCase.tearDownClass()`` needs it, because it closes every connection, even one that others use.
    """
    hooks = list(_hooks.values())
    for each in hooks:
        each.ignores_close += 1
    try:
        yield
    finally:
        for each in hooks:
            each.ignores_close -= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionFault:
    """The reason that an outer transaction cannot continue, as a clause: "the connection was closed (shop/tests.py:12)".

    If ``is_fatal``, the transaction is lost with everything written in it; otherwise it can be rolled back. If
    ``committed``, SQL ended the transaction, and its changes may have been committed.
    """

    what: str
    is_fatal: bool = True
    committed: bool = False

    def __str__(self) -> str:
        return self.what


_LOST = "the server or the network has ended its connection"


def find_fault(
    connection: BaseDatabaseWrapper, atomic: Any, raw: Any, hooks: ConnectionHooks | None
) -> TransactionFault | None:
    """Return the fault of the block *atomic* on the driver's connection *raw*; None if there is none."""
    if atomic not in connection.atomic_blocks:
        return TransactionFault(what="its atomic() block was left before its end")
    if connection.closed_in_transaction or connection.connection is not raw:
        return TransactionFault(what=f"the connection was closed{hooks.closed_where if hooks else ''}")
    status = get_backend(connection).transaction_status(connection)
    if status is TransactionStatus.LOST:
        return TransactionFault(what=_LOST)
    if status is TransactionStatus.NONE:
        return describe_end(connection, hooks)
    if status is TransactionStatus.FAILED or connection.needs_rollback:
        return TransactionFault(what=f"a statement has failed in it{hooks.failure if hooks else ''}", is_fatal=False)
    return None


def describe_end(connection: BaseDatabaseWrapper, hooks: ConnectionHooks | None) -> TransactionFault:
    """Return the fault of a transaction that no longer exists: how it ended."""
    if is_lost(connection):
        return TransactionFault(what=_LOST)
    by = (hooks.ended_by if hooks else "") or "by SQL (COMMIT or ROLLBACK)"
    return TransactionFault(what=f"the transaction was ended {by}", committed=True)


def is_lost(connection: BaseDatabaseWrapper) -> bool:
    """Whether the driver knows that the connection is lost."""
    return (
        connection.connection is None
        or get_backend(connection).transaction_status(connection) is TransactionStatus.LOST
    )


def has_failed(connection: BaseDatabaseWrapper) -> bool:
    """Whether no savepoint can be made in the transaction on *connection*."""
    if connection.needs_rollback or is_lost(connection):
        return True
    return get_backend(connection).transaction_status(connection) is TransactionStatus.FAILED


def close_for_good(connection: BaseDatabaseWrapper) -> None:
    """Close *connection*. A pooled one is really closed, because its next user must not get it in an unknown state."""
    if connection.settings_dict["OPTIONS"].get("pool") and connection.connection is not None:
        connection.connection.close()
    connection.close()


def find_dangling_rows(connection: BaseDatabaseWrapper) -> TransactionFault | None:
    """Return the violated deferred constraint at which a commit would fail; None if there is none.

    It costs a few round trips, and changes nothing.
    """
    try:
        with transaction.atomic(using=connection.alias):
            get_backend(connection).check_deferred(connection)
            transaction.set_rollback(True, using=connection.alias)
    except IntegrityError as error:
        return TransactionFault(
            what=f"a deferred constraint is violated, which a commit would have found: {reason_of(error)}",
            is_fatal=False,
        )
    return None


# Frames of these modules are skipped when a message names the caller.
_BELOW = ("django.db", "django.utils.asyncio", "testdb_app", "contextlib", "psycopg", "threading", "unittest")
_MOST_OF_A_STATEMENT = 200


class ConnectionHooks:
    """Hooks into one connection. They record the closing line, the failed statement and the statement that ended the transaction.

    They count the statements, and refuse a commit or rollback by hand. ``transactions`` are the outer transactions on the
    connection, the innermost last; each has an ``owner``, a text. *status* returns the driver's status of the transaction.
    """

    def __init__(self, connection: BaseDatabaseWrapper, status: Callable[[], TransactionStatus]) -> None:
        self.connection = connection
        self.status = status
        self.ended_by = ""
        self.statements = 0
        self.transactions: list[Any] = []
        self.ignores_close = 0
        self.closed_where = ""
        self.failure = ""
        self._close: Callable[[], None] = connection.close
        self._hooked: dict[str, Any] = {"close": self._note_close, "validate_no_atomic_block": self._refuse}
        for name, function in self._hooked.items():
            setattr(connection, name, function)
        # It is not appended at the end, because execute_wrapper() removes the last wrapper when it is left.
        connection.execute_wrappers.insert(0, self._note_failure)

    def remove(self) -> None:
        """Remove the hooks from the connection."""
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
        self.statements += 1
        try:
            result = execute(sql, params, many, context)
        except (DatabaseError, InterfaceError) as error:
            # An error that follows from an earlier failure is not the cause.
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
    """Return a statement on one line, short enough for a message."""
    return " ".join(str(sql).split())[:_MOST_OF_A_STATEMENT]


def caller() -> str:
    """Return file and line of the innermost frame outside of Django's database code, the driver and this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_BELOW):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
