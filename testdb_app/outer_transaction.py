"""A transaction around tests that is rolled back at its end: what test sessions and the scopes of pytest have in common.

It is Django's own ``atomic()``, entered and left by hand and marked as ``TestCase`` marks its own: ``atomic()`` inside it
is a savepoint, ``durable=True`` is allowed, and callbacks of ``on_commit()`` are collected. Inside another one, or any
``atomic()``, it is a savepoint. They end last in, first out.

What may happen to it is found out, and who did it: the connection was closed, the server ended the session, somebody
committed by SQL, a statement failed and nothing rolled it back, a row refers to one that is not there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from django.db import DatabaseError, IntegrityError, InterfaceError, transaction

from testdb_app import guard
from testdb_app.backends import get_backend
from testdb_app.backends.base import TransactionStatus
from testdb_app.connection_hooks import ConnectionHooks
from testdb_app.exceptions import SessionBrokenError, SessionNestingError
from testdb_app.transaction_state import check_no_transaction

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_numbers = itertools.count(1)
_open: WeakKeyDictionary[BaseDatabaseWrapper, list[OuterTransaction]] = WeakKeyDictionary()
_hooks: WeakKeyDictionary[BaseDatabaseWrapper, ConnectionHooks] = WeakKeyDictionary()
# The driver's connection that the guard was asked about last.
_permitted: WeakKeyDictionary[BaseDatabaseWrapper, Any] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Why an outer transaction cannot go on, as a clause: "the connection was closed (shop/tests.py:12)".

    ``is_fatal`` tells that the transaction is gone, and everything that was written in it; otherwise it can be rolled back.
    ``committed`` tells that it was ended by SQL: what was written in it may have been committed.
    """

    what: str
    is_fatal: bool = True
    committed: bool = False

    def __str__(self) -> str:
        return self.what


class OuterTransaction:
    """One transaction, or savepoint, on *connection*, that *owner* (a text for messages) holds open and rolls back.

    *allow* names databases that may be written to although nothing marks them as test ones. One thread at a time.
    """

    def __init__(self, connection: BaseDatabaseWrapper, owner: str, *, allow: tuple[str, ...] = ()) -> None:
        self.connection = connection
        self.owner = owner
        self.allow = allow
        self._atomic: Any = None
        self._raw: Any = None
        self._savepoint: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and not rolled back since."""
        return self._atomic is not None

    def open(self) -> None:
        """Begin. Two round trips for a transaction, and one more where the guard has not been asked about the session.

        Raises the guard's :class:`UnsafeDatabaseError`, :class:`TransactionStateError` for a connection with autocommit
        off, and Django's database errors; nothing is open then.
        """
        connection = self.connection
        if not connection.in_atomic_block:
            check_no_transaction(connection, f"open {self.owner}")
        connection.ensure_connection()
        self._ask_the_guard()
        is_nested = connection.in_atomic_block
        atomic: Any = transaction.atomic(using=connection.alias)
        atomic._from_testcase = True
        atomic.__enter__()
        self._atomic, self._raw = atomic, connection.connection
        try:
            self._savepoint = connection.savepoint_ids[-1] if is_nested else self._begin()
        except BaseException:
            self._leave()
            raise
        _open.setdefault(connection, []).append(self)
        self._hook()

    def find_damage(self) -> Damage | None:
        """Return what has happened to it, as the driver knows; None if nothing. Sends nothing."""
        connection, hooks = self.connection, _hooks.get(self.connection)
        if self._atomic not in connection.atomic_blocks:
            return Damage(what="its atomic() block was left before its end")
        if connection.closed_in_transaction or connection.connection is not self._raw:
            return Damage(what=f"the connection was closed{hooks.closed_where if hooks else ''}")
        status = get_backend(connection).transaction_status(connection)
        if status is TransactionStatus.LOST:
            return Damage(what="the server has ended the session, or the network has")
        if status is TransactionStatus.NONE:
            return Damage(what="the transaction was ended by SQL (COMMIT or ROLLBACK)", committed=True)
        if status is TransactionStatus.FAILED or connection.needs_rollback:
            return Damage(what=f"a statement has failed in it{hooks.failure if hooks else ''}", is_fatal=False)
        return None

    def find_dangling(self) -> Damage | None:
        """Return which deferred constraint a commit would find violated; None if none. A few round trips, nothing changes."""
        try:
            with transaction.atomic(using=self.connection.alias):
                get_backend(self.connection).check_deferred(self.connection)
                transaction.set_rollback(True, using=self.connection.alias)
        except IntegrityError as error:
            why = " ".join(str(error).split()).rstrip(".")
            return Damage(
                what=f"a deferred constraint is violated, which a commit would have found: {why}", is_fatal=False
            )
        return None

    def roll_back(self) -> Damage | None:
        """Undo all that was written in it, and return what had happened to it. Two round trips; one for a savepoint.

        A connection that was closed or lost meanwhile is left closed, so that the next statement makes a new one. Raises
        :class:`SessionNestingError`, and leaves everything as it is, if another that was opened later is still open.
        """
        if not self.is_open:
            return None
        self._check_is_last()
        connection = self.connection
        damage = self.find_damage()
        left_open = self._leave_blocks_above()
        if damage is None or not damage.is_fatal:
            damage = self._undo() or damage or left_open
        self._unhook()
        self._leave()
        if damage is not None and damage.is_fatal and not connection.in_atomic_block:
            connection.close()
        return damage

    def _ask_the_guard(self) -> None:
        if _permitted.get(self.connection) is not self.connection.connection:
            guard.check_may_reset(get_backend(self.connection).identify(self.connection), allow=self.allow)
            _permitted[self.connection] = self.connection.connection

    def _begin(self) -> str | None:
        """Begin with a savepoint: that it is still there at the end proves that nobody has committed by SQL."""
        if not self.connection.features.uses_savepoints:
            return None
        name = f"testdb_outer_{next(_numbers)}"
        with self.connection.cursor() as cursor:
            cursor.execute(f"SAVEPOINT {name}")
        return name

    def _undo(self) -> Damage | None:
        if self._savepoint is None:
            return None
        connection = self.connection
        connection.needs_rollback = False
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"ROLLBACK TO SAVEPOINT {connection.ops.quote_name(self._savepoint)}")
        except (DatabaseError, InterfaceError):
            return Damage(what="the transaction was ended by SQL (COMMIT or ROLLBACK)", committed=True)
        return None

    def _leave(self) -> None:
        """Leave the block, rolling back."""
        connection, atomic = self.connection, self._atomic
        self._atomic = self._raw = None
        if atomic in connection.atomic_blocks:
            transaction.set_rollback(True, using=connection.alias)
            atomic.__exit__(None, None, None)

    def _leave_blocks_above(self) -> Damage | None:
        """Leave what somebody has entered by hand inside, and has not left."""
        blocks = self.connection.atomic_blocks
        if self._atomic not in blocks or blocks[-1] is self._atomic:
            return None
        while blocks[-1] is not self._atomic:
            transaction.set_rollback(True, using=self.connection.alias)
            with suppress(DatabaseError, InterfaceError):
                blocks[-1].__exit__(None, None, None)
        return Damage(what="an atomic() block was entered in it, and not left", is_fatal=False)

    def _check_is_last(self) -> None:
        last = _open[self.connection][-1]
        if last is not self:
            raise SessionNestingError(
                f'{self.owner} cannot end while {last.owner}, which was opened inside it on the connection "'
                f'{self.connection.alias}", is open. Nothing was rolled back. End {last.owner} first.',
                ending=self.owner,
                still_open=last.owner,
            )

    def _hook(self) -> None:
        if self.connection not in _hooks:
            _hooks[self.connection] = ConnectionHooks(self.connection)
        _hooks[self.connection].owners.append(self.owner)

    def _unhook(self) -> None:
        _open[self.connection].remove(self)
        _hooks[self.connection].owners.pop()
        if not _open[self.connection]:
            _hooks.pop(self.connection).remove()


def open_transactions(connection: BaseDatabaseWrapper) -> tuple[OuterTransaction, ...]:
    """Return the outer transactions that are open on *connection*, the outermost first."""
    return tuple(_open.get(connection, ()))


def check_unharmed(connection: BaseDatabaseWrapper) -> None:
    """Raise :class:`SessionBrokenError`, which names the outer transaction, if one of *connection* cannot go on."""
    for each in open_transactions(connection):
        damage = each.find_damage()
        if damage is not None:
            raise SessionBrokenError(f"{each.owner} cannot go on: {damage}.", owner=each.owner)


@contextmanager
def connections_kept_open() -> Iterator[None]:
    """Have ``close()`` do nothing to connections with an outer transaction, while the block runs.

    For ``TestCase.tearDownClass()``, which closes every connection whoever else uses it.
    """
    hooks = list(_hooks.values())
    for each in hooks:
        each.ignores_close += 1
    try:
        yield
    finally:
        for each in hooks:
            each.ignores_close -= 1
