"""``session.allow()``: whom a session's connections are lent to, and for how long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from testdb_app.exceptions import ConfigurationError
from testdb_app.sessions.handing import find_turn, get_storage, own_connection, put_up, take_down
from testdb_app.sessions.loans import Loan
from testdb_app.sessions.turns import Turn

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.sessions.opened import OpenSession

Borrower = threading.Thread | Executor | None
"""Whom a session's connections are lent to; None stands for every other thread."""

DEFAULT_TIMEOUT = 10.0
"""Seconds that a thread waits for its turn."""


@contextmanager
def lending(
    session: OpenSession, connections: dict[BaseDatabaseWrapper, Iterable[str]], borrower: Borrower, timeout: float
) -> Iterator[None]:
    """Lend *connections*, each with its aliases, while the block runs."""
    _check(borrower)
    loans = [
        # Of one connection there is one turn, whichever session lends it.
        Loan(session, connection, aliases, turn=find_turn(connection) or Turn(session.owner, timeout))
        for connection, aliases in connections.items()
    ]
    with ExitStack() as stack:
        for loan in loans:
            loan.begin()
            stack.callback(loan.end)
            _admit(loan, borrower)
            put_up(loan)
            stack.callback(take_down, loan)
        if isinstance(borrower, Executor):
            stack.enter_context(_submitting(borrower, loans))
        yield


def _check(borrower: object) -> None:
    if isinstance(borrower, ProcessPoolExecutor):
        raise ConfigurationError(
            "allow() lends to threads: a connection cannot be shared with the processes of an executor."
        )
    if not isinstance(borrower, threading.Thread | Executor | None):
        raise ConfigurationError(
            f"allow() takes a thread, an executor with threads, or nothing for every other thread, not {borrower!r}. A live "
            "server starts a thread for each request: lend to every thread."
        )


def _admit(loan: Loan, borrower: Borrower) -> None:
    if borrower is None:
        loan.to_all = True
    elif isinstance(borrower, threading.Thread):
        loan.admit(borrower)


@contextmanager
def _submitting(executor: Executor, loans: Sequence[Loan]) -> Iterator[None]:
    """Have what is submitted meanwhile run with what is lent, and the threads be as before after each job."""
    submit: Callable[..., Any] = executor.submit

    def submit_lent(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return submit(partial(_run, loans, function), *args, **kwargs)

    setattr(executor, "submit", submit_lent)  # noqa: B010 - a method, to mypy
    try:
        yield
    finally:
        delattr(executor, "submit")


def _run(loans: Sequence[Loan], function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    thread, storage = threading.current_thread(), get_storage()
    earlier: dict[str, Any] = {}
    for loan in loans:
        loan.admit(thread)
        for alias in loan.aliases:
            earlier[alias] = own_connection(alias)
            setattr(storage, alias, loan.find(thread))
    try:
        return function(*args, **kwargs)
    finally:
        for loan in loans:
            loan.dismiss(thread)
        for alias, connection in earlier.items():
            if connection is None:
                delattr(storage, alias)
            else:
                setattr(storage, alias, connection)
