"""Sessions that nobody has closed and nobody can any more: told, and ended as soon as that is safe.

Garbage is collected at any time: at once where the last name of a session goes, or in another thread, or while a statement is
on its way, when its connection must not be touched.
"""

from __future__ import annotations

import threading
import warnings
from contextlib import suppress
from typing import Any

from django.db import DatabaseError, InterfaceError

from testdb_app.exceptions import TestDBError
from testdb_app.sessions.ending import end_session
from testdb_app.sessions.opened import OpenSession, is_last, pop
from testdb_app.sessions.parts import RolledBack
from testdb_app.sessions.watchdog import watchdog

_forgotten: list[OpenSession] = []


def forget_session(session: OpenSession) -> None:
    """Warn that nobody has closed *session*, and end it, at once or at the next use of its connection that allows it."""
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
    """End the forgotten sessions that can be ended by this thread now, the last ones first."""
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
    """Close the connections of a session whose thread has ended: nobody else can roll it back, and the server does."""
    if not session.is_open:
        return
    session.is_open = False
    watchdog.forget(session)
    for part in session.parts:
        raw: Any = part.connection.connection
        # Nobody else uses it any more.
        part.connection.inc_thread_sharing()
        with suppress(Exception):
            raw.close()
        pop(session, part.connection)
    # It gives back what is not the thread's own, such as a place in a pool.
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
        if isinstance(part, RolledBack) and not part.outer.is_innermost:
            return False
    return True
