"""A progress bar that shows up only where somebody waits and watches."""

from __future__ import annotations

from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

SECONDS_BEFORE_SHOWN = 1.0


class Bar(Protocol):
    """A bar on the screen from the moment it is made until it is closed."""

    def show(self, done: int) -> None:
        """Show that *done* rows are in."""
        ...

    def close(self) -> None:
        """Take the bar off the screen."""
        ...


@contextmanager
def progress(total: int, *, stream: TextIO | None, color: bool) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the number of rows just done; show a bar of `total` rows meanwhile.

    Nothing is written if `stream` is None or not a terminal, nor in the first second. The bar is rich's where
    rich is installed, otherwise plain text, and is gone from the screen in the end, also after an error.
    """
    terminal = stream if stream is not None and stream.isatty() else None
    started = monotonic()
    done = 0
    bar: Bar | None = None

    def advance(rows: int) -> None:
        nonlocal done, bar
        done += rows
        if bar is None and terminal and monotonic() - started >= SECONDS_BEFORE_SHOWN:
            bar = make_bar(total, stream=terminal, color=color)
        if bar is not None:
            bar.show(done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()


def make_bar(total: int, *, stream: TextIO, color: bool) -> Bar:
    """Return rich's bar where rich is installed, else the plain one."""
    try:
        return RichBar(total, stream=stream, color=color)
    except ImportError:
        return PlainBar(total, stream=stream)


class PlainBar:
    """One line of text, written over in place. All it needs of the terminal is a carriage return."""

    def __init__(self, total: int, *, stream: TextIO) -> None:
        self._total = total
        self._stream = stream
        self._width = 0

    def show(self, done: int) -> None:
        """Write the line over the one of before."""
        line = f"Loading rows: {done * 100 // self._total:3} % ({done:,} of {self._total:,})"
        self._stream.write(f"\r{line.ljust(self._width)}")
        self._stream.flush()
        self._width = len(line)

    def close(self) -> None:
        """Write spaces over the line."""
        self._stream.write(f"\r{' ' * self._width}\r")
        self._stream.flush()


class RichBar:
    """Rich's bar with the time that is left. Raises ImportError where rich is not installed."""

    def __init__(self, total: int, *, stream: TextIO, color: bool) -> None:
        # Rich is no dependency of this package.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("Loading rows"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            # None leaves the decision to rich, which knows of NO_COLOR.
            console=Console(file=stream, no_color=None if color else True),
            transient=True,
        )
        self._task = self._progress.add_task("", total=total)
        self._progress.start()

    def show(self, done: int) -> None:
        """Move the bar; rich draws it in its own time."""
        self._progress.update(self._task, completed=done)

    def close(self) -> None:
        """Stop drawing; the bar is transient."""
        self._progress.stop()
