"""What may happen to a transaction that somebody else holds open, and how it is found out: the driver knows, nothing is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction

from testdb_app.backends import get_backend
from testdb_app.backends.base import TransactionStatus

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.connection_hooks import ConnectionHooks


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


_LOST = "the server has ended the session, or the network has"


def find_damage(connection: BaseDatabaseWrapper, atomic: Any, raw: Any, hooks: ConnectionHooks | None) -> Damage | None:
    """Return what has happened to the transaction of the block *atomic* on the driver's connection *raw*; None if nothing."""
    if atomic not in connection.atomic_blocks:
        return Damage(what="its atomic() block was left before its end")
    if connection.closed_in_transaction or connection.connection is not raw:
        return Damage(what=f"the connection was closed{hooks.closed_where if hooks else ''}")
    status = get_backend(connection).transaction_status(connection)
    if status is TransactionStatus.LOST:
        return Damage(what=_LOST)
    if status is TransactionStatus.NONE:
        return describe_end(connection, hooks)
    if status is TransactionStatus.FAILED or connection.needs_rollback:
        return Damage(what=f"a statement has failed in it{hooks.failure if hooks else ''}", is_fatal=False)
    return None


def describe_end(connection: BaseDatabaseWrapper, hooks: ConnectionHooks | None) -> Damage:
    """Say who has ended a transaction of which nothing is there any more."""
    if is_lost(connection):
        return Damage(what=_LOST)
    by = (hooks.ended_by if hooks else "") or "by SQL (COMMIT or ROLLBACK)"
    return Damage(what=f"the transaction was ended {by}", committed=True)


def is_lost(connection: BaseDatabaseWrapper) -> bool:
    """Whether the driver knows that there is no connection any more."""
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
    """Close *connection*, also one of a pool, whose next user must not get a session of which nothing is known."""
    if connection.settings_dict["OPTIONS"].get("pool") and connection.connection is not None:
        connection.connection.close()
    connection.close()


def find_dangling(connection: BaseDatabaseWrapper) -> Damage | None:
    """Return which deferred constraint a commit would find violated; None if none. A few round trips, nothing changes."""
    try:
        with transaction.atomic(using=connection.alias):
            get_backend(connection).check_deferred(connection)
            transaction.set_rollback(True, using=connection.alias)
    except IntegrityError as error:
        why = " ".join(str(error).split()).rstrip(".")
        return Damage(what=f"a deferred constraint is violated, which a commit would have found: {why}", is_fatal=False)
    return None
