"""Whether a connection is in a state in which a reset means what its caller thinks."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import has_autocommit
from testdb_app.exceptions import TransactionStateError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


def check_no_transaction(connection: BaseDatabaseWrapper, doing: str) -> None:
    """Raise :class:`TransactionStateError` if *connection* is in a transaction, or would be in one at its next statement."""
    if connection.in_atomic_block or not has_autocommit(connection):
        raise TransactionStateError(
            f'Refusing to {doing}: the connection "{connection.alias}" is in a transaction, or has autocommit off. It has to be '
            "committed and seen by others: do it outside of atomic(), with autocommit on."
        )


def check_transaction_state(connection: BaseDatabaseWrapper, *, within_transaction: bool) -> None:
    """Raise :class:`TransactionStateError` unless *connection* is in a transaction exactly if *within_transaction* says so.

    Asks Django's wrapper, not the server: no round trip, and a closed connection stays closed.
    """
    what = None
    if connection.in_atomic_block and connection.needs_rollback:
        what = "is in a transaction that has failed. Let its atomic() block end first"
    elif not within_transaction and connection.in_atomic_block:
        what = (
            "is inside atomic(). A reset commits, and would see the rows of that transaction but not end it. Call it "
            "outside, or pass within_transaction=True to make it part of that transaction"
        )
    elif not within_transaction and not has_autocommit(connection):
        what = "has autocommit off. Commit and switch it on, or pass within_transaction=True and commit yourself"
    elif within_transaction and has_autocommit(connection):
        what = "is in no transaction, though within_transaction=True says so. Wrap the call in atomic()"
    if what is not None:
        raise TransactionStateError(f'Refusing to reset: the connection "{connection.alias}" {what}.')


def leave_blocks(connection: BaseDatabaseWrapper, *, above: object = None) -> bool:
    """Leave the ``atomic()`` blocks that somebody has entered by hand, rolling back; return whether there was any.

    *above* is the block to stop at. If that was left already, nothing is done.
    """
    blocks = connection.atomic_blocks
    if not blocks or blocks[-1] is above or (above is not None and above not in blocks):
        return False
    while blocks and blocks[-1] is not above:
        connection.needs_rollback = True
        with suppress(DatabaseError, InterfaceError):
            blocks[-1].__exit__(None, None, None)
    return True


def end_transaction(connection: BaseDatabaseWrapper) -> None:
    """Undo what a test has left uncommitted outside of ``atomic()``, as Django does by closing the connection."""
    if connection.connection is None or connection.in_atomic_block:
        return
    try:
        # The driver knows where there is nothing to undo.
        connection.rollback()
        if not connection.get_autocommit():
            connection.set_autocommit(True)
    except (DatabaseError, InterfaceError):
        # It is lost. The reset makes a new one.
        connection.close()
