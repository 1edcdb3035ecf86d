"""The terminal of a command: width, colours, encoding, folded lines, elapsed seconds."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from testdb_app.schema import on_one_line
from testdb_app.showdeps.picture import PLAIN, Paint, cells

NARROWEST = 40
"""Lines are not folded below this number of columns: the terminal breaks them."""


def width_of(stream: Any) -> int | None:
    """Return the columns of the terminal that *stream* is; None if it is no terminal: lines then stay whole."""
    return max(NARROWEST, shutil.get_terminal_size().columns) if stream.isatty() else None


def folded(text: str, stream: Any, *, used: int = 0) -> str:
    """Fold every line of *text* to the terminal that *stream* is; *used* columns of the first line are occupied."""
    width = width_of(stream)
    if width is None:
        return text
    return "\n".join(fold(line, width, used=0 if number else used) for number, line in enumerate(text.split("\n")))


def explained(message: str, stream: Any) -> str:
    """Fold the text of a ``CommandError``; Django writes its name before it."""
    return folded(on_one_line(message, keep="\n\t"), stream, used=len("CommandError: "))


def is_coloured(stream: Any, options: dict[str, Any]) -> bool:
    """Whether to use colours on *stream*: on a terminal, unless they are switched off, or if they are forced."""
    return bool(options["force_color"] or (stream.isatty() and not options["no_color"]))


def paint_of(style: Any) -> Paint:
    """Return the colours of Django's *style*, but no yellow, which is unreadable on a light background.

    So cycles have the magenta of server errors instead of the yellow of warnings, in Django's dark and light palette
    alike.
    """
    return Paint(
        heading=style.MIGRATE_HEADING,
        table=style.SQL_TABLE,
        model=style.SQL_COLTYPE,
        column=style.SQL_FIELD,
        cycle=style.HTTP_SERVER_ERROR,
        warning=style.ERROR,
    )


def paint_for(stream: Any, style: Any, options: dict[str, Any]) -> Paint:
    """Return the colours to use on *stream*."""
    return paint_of(style) if is_coloured(stream, options) else PLAIN


def encoding_of(stream: Any) -> str:
    """Return the encoding of *stream*; UTF-8 for text in memory."""
    return getattr(stream, "encoding", None) or "utf-8"


def write_text(stream: Any, text: str) -> None:
    """Write *text* unchanged, except that characters missing in the encoding are escaped.

    A reader that closes the pipe early (head, a pager) causes no error.
    """
    encoding = encoding_of(stream)
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding), ending="")
        stream.flush()
    except BrokenPipeError:
        # Python would report the error once more at its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


DELAY = 1.0
"""Seconds before anything is shown: most work is done by then."""


@contextmanager
def elapsed_time(stream: TextIO, text: str, *, silent: bool = False) -> Iterator[None]:
    """Show *text* and the elapsed seconds on *stream*, if it is a terminal and the block takes longer than a second.

    The line is overwritten in place, and removed at the end.
    """
    if silent or not stream.isatty():
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(stream, text, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show(stream: TextIO, text: str, done: threading.Event) -> None:
    started = time.monotonic()
    wait, line = DELAY, ""
    while not done.wait(wait):
        wait, line = 0.5, f"{text} … {time.monotonic() - started:.0f} s"
        stream.write(f"\r{line}")
        stream.flush()
    if line:
        stream.write(f"\r{' ' * len(line)}\r")
        stream.flush()


_WORD = re.compile(r'(?:"[^"]*"|[^\s"]|"(?![^"]*"))+')
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_HANG = 4


def fold(line: str, width: int, *, used: int = 0) -> str:
    """Break *line* where it is wider than *width* columns; *used* columns are occupied by something before it.

    Continuation lines are indented by four more than the line. A word that is too long for any line stays whole.
    Colour codes take no columns.
    """
    indent = len(line) - len(line.lstrip(" "))
    hang = " " * (indent + _HANG if indent else 2)
    folded, column, end = "", used, 0
    for match in _WORD.finditer(line):
        gap, word = line[end : match.start()], match.group()
        size = cells(_COLOUR.sub("", word))
        if end and column + len(gap) + size > width:
            gap, column = f"\n{hang}", len(hang)
        else:
            column += len(gap)
        folded += gap + word
        column, end = column + size, match.end()
    return folded + line[end:].rstrip(" ")
