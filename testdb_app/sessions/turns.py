"""Whose turn it is on a connection that several threads share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import OperationalError

from testdb_app.exceptions import LendingTimeoutError
from testdb_app.sessions.raised import make_error


class Turn:
    """A lock for one thread at a time, which may take it again; who waits too long for it is told who has it.

    *owner* is the session's text for messages, *timeout* seconds.
    """

    def __init__(self, owner: str, timeout: float) -> None:
        self.owner = owner
        self.timeout = timeout
        self._free = threading.Condition()
        self._holder: threading.Thread | None = None
        self._depth = 0
        self._since = 0.0
        self._doing = ""

    def take(self, doing: str) -> None:
        """Wait for the turn; *doing* tells others what for. Raises :class:`LendingTimeoutError`, an ``OperationalError`` too."""
        me = threading.current_thread()
        with self._free:
            if self._holder is not me:
                if not self._free.wait_for(lambda: self._holder is None, self.timeout):
                    raise self._too_long(me)
                self._holder, self._since, self._doing = me, time.monotonic(), doing
            self._depth += 1

    def give_back(self) -> None:
        """Let others have it, as often as it was taken."""
        with self._free:
            if self._holder is not threading.current_thread():
                return
            self._depth -= 1
            if not self._depth:
                self._holder = None
                self._free.notify()

    def give_up(self) -> None:
        """Let others have it, however often this thread has taken it."""
        with self._free:
            if self._holder is threading.current_thread():
                self._depth, self._holder = 0, None
                self._free.notify()

    @contextmanager
    def taken(self, doing: str) -> Iterator[None]:
        """Have it while the block runs."""
        self.take(doing)
        try:
            yield
        finally:
            self.give_back()

    def _too_long(self, me: threading.Thread) -> BaseException:
        name = self._holder.name if self._holder is not None else "nobody"
        holder = f"the thread {name}, for {time.monotonic() - self._since:.1f} s, with: {self._doing}"
        message = (
            f"The thread {me.name} has waited {self.timeout:g} s for the connection of {self.owner}, which threads use one at a "
            f"time, a transaction each. It is held by {holder}. Leave atomic() before you wait for another thread, or allow "
            "more time: session.allow(…, timeout=…)."
        )
        return make_error(
            LendingTimeoutError,
            OperationalError(message),
            message,
            owner=self.owner,
            limit="lending",
            seconds=self.timeout,
            holder=holder,
        )
