"""Ending a session: everything is cleaned up whatever goes wrong, and the first error is raised, unless the body's is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import DatabaseError, InterfaceError

from testdb_app.exceptions import SessionBrokenError, SessionLeakError, SessionNestingError, TestDBError
from testdb_app.sessions.opened import OpenSession, Part, check_is_last, is_last, pop, sessions_on
from testdb_app.sessions.parts import RolledBack, take_back
from testdb_app.sessions.statements import StatementWatch
from testdb_app.sessions.watchdog import watchdog
from testdb_app.transactions import Damage, open_transactions

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_R = TypeVar("_R")


class _Errors:
    """What went wrong on the way, so that the way is gone to its end. An interruption is raised before anything else."""

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
        """Return the one to raise, with the others as notes."""
        self.found.sort(key=lambda error: isinstance(error, Exception))
        for other in self.found[1:]:
            self.found[0].add_note(f"And then: {type(other).__name__}: {other}")
        return self.found[0]


def end_session(session: OpenSession, before: Callable[[], object] | None = None, *, with_inner: bool = False) -> None:
    """Undo what was done in *session*, and leave its connections as they were. *before* runs first, in it still.

    *with_inner* ends those first that were opened inside it and are still open, instead of refusing.

    Raises :class:`SessionNestingError`, with nothing undone, if another one inside it is open; :class:`SessionLeakError` if
    something was committed; :class:`SessionBrokenError` if the transaction came to its end before it; and the first error of
    *before* or of the clean-up, with the others as notes.
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
    damages: list[tuple[Part, Damage]] = []
    for part in reversed(session.parts):
        _unwatch(session, part.connection)
        damage = errors.keep(part.close)
        if damage is not None:
            damages.append((part, damage))
        pop(session, part.connection)
    if damages:
        errors.keep(_report, session, damages)
    errors.keep(session.clean_up.close)
    if errors.found:
        raise errors.first()


def _check_scopes(session: OpenSession) -> None:
    """Refuse to end before an outer transaction of somebody else, such as a scope of pytest, that was opened inside."""
    for part in session.parts:
        if isinstance(part, RolledBack) and not part.outer.is_last:
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


def _report(session: OpenSession, damages: list[tuple[Part, Damage]]) -> None:
    for part, damage in damages:
        if damage.committed:
            raise SessionLeakError(
                f"Something was committed in {session.owner}, opened at {session.opened_at}: {damage}. "
                f"{_take_back(session, part)} Use atomic() in place of COMMIT, or a session with isolation='reset'.",
                owner=session.owner,
            )
    for part, damage in damages:
        if damage.is_fatal:
            raise SessionBrokenError(
                f'{session.owner} ended before its time, on the connection "{part.connection.alias}": {damage}. What was written '
                "before is undone, and what came after it was not part of the session.",
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
    return "It stays there, as there is no baseline to reset to (resetdb --capture makes one)."


def _sweep_above(session: OpenSession, connection: BaseDatabaseWrapper, *, everything: bool) -> None:
    for above in reversed(sessions_on(connection)):
        if above is session:
            return
        if not (everything or above.is_forgotten) or above.thread is not threading.current_thread():
            return
        end_session(above)
