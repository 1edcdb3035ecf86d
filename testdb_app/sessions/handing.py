"""How a thread finds the connection that was lent to it: ``connections[alias]``, and ``atomic()`` in the session's own thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction

from testdb_app.sessions.borrowed import Borrowed
from testdb_app.sessions.loans import Loan
from testdb_app.sessions.turns import Turn

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_loans: list[Loan] = []
_changing = threading.RLock()
_handler: Any = connections
_atomic: Any = transaction.Atomic


def put_up(loan: Loan) -> None:
    """Let the threads find what *loan* lends."""
    with _changing:
        _loans.append(loan)
        if len(_loans) == 1:
            _install()


def take_down(loan: Loan) -> None:
    """Let them find it no more. Those that have it stay with it, and are told that it is over."""
    with _changing:
        _loans.remove(loan)
        if not _loans:
            _uninstall()


def find_turn(connection: BaseDatabaseWrapper) -> Turn | None:
    """Return whose turn it is on *connection*, if it is lent already."""
    return next((loan.turn for loan in _loans if loan.connection is connection), None)


def get_storage() -> Any:
    """Return the storage behind ``django.db.connections``, whether anything is lent or not."""
    storage = _handler._connections
    return storage.storage if isinstance(storage, LentConnections) else storage


def own_connection(alias: str) -> Any:
    """Return the connection that this thread has of its own, or None."""
    found = getattr(get_storage(), alias, None)
    return found.earlier if isinstance(found, Borrowed) else found


class LentConnections:
    """Stands in for the storage behind ``django.db.connections`` while anything is lent, and looks there first."""

    def __init__(self, storage: Any) -> None:
        object.__setattr__(self, "storage", storage)

    def __getattr__(self, alias: str) -> Any:
        lent = _find(alias)
        return getattr(self.storage, alias) if lent is None else lent

    def __setattr__(self, alias: str, connection: Any) -> None:
        setattr(self.storage, alias, connection)

    def __delattr__(self, alias: str) -> None:
        delattr(self.storage, alias)


def _find(alias: str) -> Any:
    thread = threading.current_thread()
    for loan in reversed(tuple(_loans)):
        if alias in loan.aliases and (found := loan.find(thread)) is not None:
            if not _is_of_executor(thread):
                # It stays there after the loan, and says that it is over. The threads of an executor go on to other work.
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
    if self._from_testcase:
        # A session inside a session: who borrows takes part in it.
        loan.turn.give_back()


def _exit_in_turn(self: Any, *exc: Any) -> None:
    loan = _loan_of(self)
    if loan is None:
        _exit(self, *exc)
    elif self._from_testcase:
        with loan.turn.taken("the end of a session"):
            _exit(self, *exc)
    else:
        try:
            _exit(self, *exc)
        finally:
            loan.leave_atomic()


def _loan_of(block: transaction.Atomic) -> Loan | None:
    """Return the loan of the connection that *block* is on, if this is the thread of its session."""
    connection = transaction.get_connection(block.using)
    return next((loan for loan in reversed(_loans) if loan.connection is connection), None)


def _install() -> None:
    _handler._connections = LentConnections(_handler._connections)
    _atomic.__enter__, _atomic.__exit__ = _enter_in_turn, _exit_in_turn


def _uninstall() -> None:
    _handler._connections = get_storage()
    _atomic.__enter__, _atomic.__exit__ = _enter, _exit
