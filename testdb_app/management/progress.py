"""A sign of life on a terminal, for work whose end nobody knows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

DELAY = 1.0
"""Seconds before anything is shown: most work is done by then."""


@contextmanager
def elapsed_time(stream: TextIO, text: str, *, color: bool, silent: bool = False) -> Iterator[None]:
    """Show *text* and the seconds that have passed on *stream*, if it is a terminal and the block takes longer than a second.

    With rich installed it is a spinner, in colour where *color* allows it; otherwise a line that is written over.
    Nothing of it remains.
    """
    if silent or not stream.isatty():
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(stream, text, color, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show(stream: TextIO, text: str, color: bool, done: threading.Event) -> None:
    started = time.monotonic()
    if done.wait(DELAY):
        return

    def line() -> str:
        return f"{text} … {time.monotonic() - started:.0f} s"

    try:
        from rich.console import Console  # noqa: PLC0415 - optional
    except ImportError:
        stream.write(f"\r{line()}")
        stream.flush()
        while not done.wait(0.5):
            stream.write(f"\r{line()}")
            stream.flush()
        stream.write("\r" + " " * (len(text) + 12) + "\r")
        stream.flush()
        return
    with Console(file=stream, no_color=not color).status(line()) as status:
        while not done.wait(0.5):
            status.update(line())
