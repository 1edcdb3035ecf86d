"""Whether a connection is in a state in which a reset means what its caller thinks."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
