"""Open and end sessions, including forgotten, abandoned and overdue ones.

A session is forgotten if it was never closed and nothing references it any more. It is reported, and ended as soon as
that is safe. Python may collect it at any time: as soon as its last reference disappears, in another thread, or during a
statement. During a statement its connection must not be used.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import DatabaseError, InterfaceError, connections

from testdb_app.backends import get_backend
from testdb_app.exceptions import (
    SessionBrokenError,
    SessionLeakError,
    SessionNestingError,
    TestDBError,
    UnsafeDatabaseError,
    UnsafeSessionError,
)
from testdb_app.sessions.independent import find_primary, group_aliases, independent_connection, sharing
from testdb_app.sessions.isolation import ResetIsolation, RollbackIsolation, take_back
from testdb_app.sessions.registry import OpenSession, Part, check_is_last, is_last, pop, push, sessions_on
from testdb_app.sessions.statements import StatementWatch
from testdb_app.transactions import TransactionFault, open_transactions

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.sessions.independent import SharedPool
    from testdb_app.sessions.registry import OpenSession


def open_session(session: OpenSession, pool: SharedPool, *, independent: str | None = None) -> None:
    """Open *session* on Django's connections for its aliases, or on a new connection to the alias *independent*.

    Raises an error of :mod:`testdb_app.exceptions`, or one of Django's database errors. Then nothing is open.
    """
    sweep()
    try:
        _connect(session, pool, independent)
        _open_all(session)
    except BaseException:
        session.clean_up.close()
        raise
    session.is_open = True
    if session.options.ownership_timeout is not None:
        watchdog.watch(session, session.options.ownership_timeout)


def _connect(session: OpenSession, pool: SharedPool, independent: str | None) -> None:
    stack = session.clean_up
    if session.options.around is not None:
        stack.enter_context(session.options.around())
    if independent is not None:
        connection = stack.enter_context(independent_connection(independent, session, pool))
        _add(session, connection, (connection.alias,), find_primary(independent))
        return
    for primary, others in group_aliases(session.options.aliases).items():
        connection = connections[primary]
        if others:
            stack.enter_context(sharing(primary, others))
        _add(session, connection, (primary, *others), primary)


def _add(session: OpenSession, connection: BaseDatabaseWrapper, aliases: tuple[str, ...], primary: str) -> None:
    part: Part
    if session.options.isolation == "reset":
        part = ResetIsolation(connection, session, primary=primary)
    else:
        part = RollbackIsolation(connection, session)
    session.parts.append(part)
    session.aliases[connection] = aliases


def _open_all(session: OpenSession) -> None:
    opened: list[Part] = []
    try:
        for part in session.parts:
            part.open()
            opened.append(part)
    except BaseException as error:
        for part in reversed(opened):
            with suppress(TestDBError, DatabaseError, InterfaceError):
                part.close()
        if isinstance(error, UnsafeDatabaseError):
            raise UnsafeSessionError(
                f"{session.owner} was not opened. {error.message}",
                rule=error.rule,
                database=error.database,
                alias=error.alias,
            ) from error
        raise
    for part in session.parts:
        connection = part.connection
        session.collected[connection] = len(connection.run_on_commit), len(connection.savepoint_ids)
        _watch(session, connection)
        push(session, connection)


def _watch(session: OpenSession, connection: BaseDatabaseWrapper) -> None:
    """Insert the statement watch inside those of the outer sessions, and outside of the wrappers of the code under test."""
    wrappers = connection.execute_wrappers
    ours = [number for number, each in enumerate(wrappers) if isinstance(each, StatementWatch)]
    wrappers.insert(ours[-1] + 1 if ours else 0, StatementWatch(session))


_R = TypeVar("_R")


class _Errors:
    """Collects errors, so that all steps run. An interruption takes precedence over any other error."""

    def __init__(self) -> None:
        self.found: list[BaseException] = []

    def keep(self, function: Callable[..., _R], *args: Any) -> _R | None:
        """Call *function*; keep its error and return None if it raises one."""
        try:
            return function(*args)
        except BaseException as error:  # noqa: BLE001 - raised at the end
            self.found.append(error)
            return None

    def first(self) -> BaseException:
        """Return the error to raise, with the others as notes."""
        self.found.sort(key=lambda error: isinstance(error, Exception))
        for other in self.found[1:]:
            self.found[0].add_note(f"And then: {type(other).__name__}: {other}")
        return self.found[0]


def end_session(session: OpenSession, before: Callable[[], object] | None = None, *, with_inner: bool = False) -> None:
    """Undo everything that was done in *session*, and restore its connections. *before* runs first, still in the session.

    With *with_inner*, the sessions that were opened inside it are ended first, instead of a :class:`SessionNestingError`.

    Raises :class:`SessionNestingError`, with nothing undone, if a session inside it is open;
    :class:`SessionLeakError` if something was committed; :class:`SessionBrokenError` if the transaction ended before
    it; and the first error of *before* or of the clean-up, with the others as notes.
    """
    if not is_last(session):
        for part in session.parts:
            _sweep_above(session, part.connection, everything=with_inner)
        check_is_last(session)
    _check_scopes(session)
    watchdog.forget(session)
    errors = _Errors()
    session.is_overdue = False
    if before is not None:
        errors.keep(before)
    session.is_open = False
    faults: list[tuple[Part, TransactionFault]] = []
    for part in reversed(session.parts):
        _unwatch(session, part.connection)
        fault = errors.keep(part.close)
        if fault is not None:
            faults.append((part, fault))
        pop(session, part.connection)
    if faults:
        errors.keep(_report, session, faults)
    errors.keep(session.clean_up.close)
    if errors.found:
        raise errors.first()


def _check_scopes(session: OpenSession) -> None:
    """Refuse to end before another outer transaction, such as a scope of pytest, that was opened inside."""
    for part in session.parts:
        if isinstance(part, RollbackIsolation) and not part.outer.is_last:
            found = open_transactions(part.connection)
            raise SessionNestingError(
                f"{session.owner} cannot end while {found[-1].owner}, which was opened inside it, is open. Nothing was undone. "
                f"End {found[-1].owner} first.",
                ending=session.owner,
                still_open=found[-1].owner,
            )


def _unwatch(session: OpenSession, connection: BaseDatabaseWrapper) -> None:
    wrappers = connection.execute_wrappers
    wrappers[:] = [each for each in wrappers if not (isinstance(each, StatementWatch) and each.session is session)]


def _report(session: OpenSession, faults: list[tuple[Part, TransactionFault]]) -> None:
    for part, fault in faults:
        if fault.committed:
            raise SessionLeakError(
                f"Something was committed in {session.owner}, opened at {session.opened_at}: {fault}. "
                f"{_take_back(session, part)} Use atomic() in place of COMMIT, or a session with isolation='reset'.",
                owner=session.owner,
            )
    for part, fault in faults:
        if fault.is_fatal:
            raise SessionBrokenError(
                f'{session.owner} ended before its time, on the connection "{part.connection.alias}": {fault}. What was written '
                "before is undone, and what came after it was not part of the session. Leave the transaction and the connection "
                "of the session open in the test.",
                owner=session.owner,
            )


def _take_back(session: OpenSession, part: Part) -> str:
    around = [*sessions_on(part.connection)]
    if around or part.connection.in_atomic_block:
        return "The transaction around it has ended too, and says so at its own end."
    try:
        done = take_back(part.connection, session.options.allow_database)
    except (TestDBError, DatabaseError, InterfaceError) as error:
        return f"It could not be taken back by a reset: {error}"
    if done:
        return "A reset to the baseline has taken it back."
    can_capture = get_backend(part.connection).supports_baseline
    how = " (resetdb --capture makes one)" if can_capture else f": {part.connection.display_name} has none"
    return f"It stays there, as there is no baseline to reset to{how}."


def _sweep_above(session: OpenSession, connection: BaseDatabaseWrapper, *, everything: bool) -> None:
    for above in reversed(sessions_on(connection)):
        if above is session:
            return
        if not (everything or above.is_forgotten) or above.thread is not threading.current_thread():
            return
        end_session(above)


_forgotten: list[OpenSession] = []


def forget_session(session: OpenSession) -> None:
    """Warn that *session* was never closed. End it now, or at the next use of its connection at which that is safe."""
    if not session.is_open:
        return
    session.when_used = sweep
    session.is_forgotten = True
    _forgotten.append(session)
    try:
        warnings.warn(
            f"{session.owner} was opened at {session.opened_at} and never closed. It is rolled back now; use with, "
            "enterContext() or close().",
            ResourceWarning,
            stacklevel=2,
        )
    finally:
        sweep()


def sweep() -> None:
    """End the forgotten sessions that this thread can end now, the latest first."""
    for session in reversed(tuple(_forgotten)):
        if not session.thread.is_alive():
            abandon(session)
        elif session.is_open and not (is_last(session) and _may_be_ended(session)):
            continue
        elif session.is_open:
            _end(session)
        with suppress(ValueError):
            _forgotten.remove(session)


def abandon(session: OpenSession) -> None:
    """Close the connections of a session whose thread has ended. No thread can roll it back; the server does."""
    if not session.is_open:
        return
    session.is_open = False
    watchdog.forget(session)
    for part in session.parts:
        raw: Any = part.connection.connection
        # The connection belongs to the ended thread, and no other thread uses it any more.
        part.connection.inc_thread_sharing()
        with suppress(Exception):
            raw.close()
        pop(session, part.connection)
    # This also releases what is shared between threads, such as a place in a pool.
    with suppress(Exception):
        session.clean_up.close()


def _end(session: OpenSession) -> None:
    try:
        end_session(session)
    except (TestDBError, DatabaseError, InterfaceError) as error:
        warnings.warn(f"{session.owner}, which nobody has closed: {error}", ResourceWarning, stacklevel=2)


def _may_be_ended(session: OpenSession) -> bool:
    if session.thread is not threading.current_thread():
        return False
    for part in session.parts:
        lock = getattr(part.connection.connection, "lock", None)
        if lock is not None and lock.locked():
            return False
        if isinstance(part, RollbackIsolation) and not part.outer.is_innermost:
            return False
    return True


logger = logging.getLogger("testdb_app")


class Watchdog:
    """Logs each overdue session once, and marks it so that its next use raises an error.

    The daemon thread starts with the first session that has a limit. A session that ends in time never wakes it. Only a
    session with an earlier deadline than the present one wakes it.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all sessions and the thread."""
        self._changed = threading.Condition()
        self._due: dict[OpenSession, float] = {}
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    def watch(self, session: OpenSession, seconds: float) -> None:
        """Watch *session* for that many seconds."""
        with self._changed:
            due = self._due[session] = time.monotonic() + seconds
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="testdb_app sessions", daemon=True)
                self._thread.start()
            elif due < self._wakes_at:
                self._changed.notify()

    def forget(self, session: OpenSession) -> None:
        """Stop watching a closed session."""
        if session not in self._due:
            return
        with self._changed:
            self._due.pop(session, None)

    def _run(self) -> None:
        while True:
            for session in self._wait():
                session.is_overdue = True
                logger.warning("%s", session.describe_overdue())

    def _wait(self) -> list[OpenSession]:
        """Sleep until a session is overdue or the next deadline has changed. Return the overdue sessions."""
        with self._changed:
            self._wakes_at = min(self._due.values(), default=math.inf)
            left = self._wakes_at - time.monotonic()
            if left > 0:
                self._changed.wait(None if left == math.inf else left)
            now = time.monotonic()
            overdue = [session for session, due in self._due.items() if due <= now]
            for session in overdue:
                del self._due[session]
            return overdue


watchdog = Watchdog()


def _begin_anew() -> None:
    # The thread and the lock belong to the parent process.
    watchdog.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
