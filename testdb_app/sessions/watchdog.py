"""Finds sessions that are open for longer than they may be: one thread for all, which sleeps until the next one is due."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testdb_app.sessions.opened import OpenSession

logger = logging.getLogger("testdb_app")


class Watchdog:
    """Logs, once, that a session is overdue, and tells it so: its next use raises.

    The thread is a daemon that begins with the first session that has a limit. Sessions that end in time cost it nothing: it
    is woken only for one that is due earlier than what it waits for.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Know of no session, and have no thread."""
        self._changed = threading.Condition()
        self._due: dict[OpenSession, float] = {}
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    def watch(self, session: OpenSession, seconds: float) -> None:
        """Wait for that time to pass."""
        with self._changed:
            due = self._due[session] = time.monotonic() + seconds
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="testdb_app sessions", daemon=True)
                self._thread.start()
            elif due < self._wakes_at:
                self._changed.notify()

    def forget(self, session: OpenSession) -> None:
        """It is closed."""
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
        """Sleep until something is due or the next one to be has changed; return what is due."""
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
    # Its thread and its lock are the other process's.
    watchdog.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
