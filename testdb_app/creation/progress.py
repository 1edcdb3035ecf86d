"""What a run says about its templates, and a bar while migrations run."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_APPLIED = re.compile(r'INSERT INTO ["`]django_migrations["`]')
_DELAY, _PAUSE = 2.0, 0.2
_WIDTH = 30
_ERASED = "\x1b[K"


def write_line(text: str) -> None:
    """Write a line to standard error, where Django reports on test databases."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def find_terminal(stream: Any) -> Callable[[str], None] | None:
    """Return a function that draws on *stream*, or None if it is no terminal."""
    if not stream.isatty():
        return None

    def draw(text: str) -> None:
        stream.write(text)
        stream.flush()

    return draw


class Progress:
    """Writes lines that begin with "testdb:".

    Parameters:

    - *write*: writes one line.
    - *draw*: writes the text of the bar to a terminal; None where there is no terminal.
    - *is_quiet*: whether to leave out what :meth:`report` writes.
    """

    def __init__(
        self,
        write: Callable[[str], None] = write_line,
        *,
        draw: Callable[[str], None] | None = None,
        is_quiet: bool = False,
    ) -> None:
        self.write = write
        self.is_quiet = is_quiet
        self.draw = draw
        # By alias: the key of the template that the header named.
        self.known: dict[str, str] = {}

    def say(self, text: str) -> None:
        """Write a line."""
        self.write(f"testdb: {text}")

    def report(self, alias: str, text: str, *, about: str = "") -> None:
        """Write what was done for *alias*, unless the header said it of the same template."""
        if not about or self.known.get(alias) != about:
            self.known[alias] = about
            if not self.is_quiet:
                self.say(text)

    @contextmanager
    def of_migrations(self, connection: BaseDatabaseWrapper, total: int) -> Iterator[None]:
        """Draw a bar of *total* migrations, as *connection* records them, if that takes longer than two seconds."""
        draw = self.draw
        if draw is None:
            yield
            return
        done, began, drawn = 0, time.monotonic(), 0.0

        def count(execute: Any, query: Any, parameters: Any, many: bool, context: Any) -> Any:
            nonlocal done, drawn
            if _APPLIED.match(str(query)):
                done += 1
            now = time.monotonic()
            if now - began > _DELAY and now - drawn > _PAUSE:
                drawn = now
                draw(f"\rtestdb: {_bar(done, total)}{_ERASED}")
            return execute(query, parameters, many, context)

        try:
            with connection.execute_wrapper(count):
                yield
        finally:
            if drawn:
                draw(f"\r{_ERASED}")


def _bar(done: int, total: int) -> str:
    filled = min(_WIDTH, _WIDTH * done // max(total, 1))
    return f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {done} of {total} migrations"
