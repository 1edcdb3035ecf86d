"""Write to the terminal of a command: width, colours, encoding, folded lines and elapsed time."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from django.core.management.base import BaseCommand, CommandError

from testdb_app.schema import on_one_line
from testdb_app.showdeps.picture import PLAIN, Paint, cells


class TerminalCommand(BaseCommand):
    """A command that treats the variable NO_COLOR (https://no-color.org), which Django ignores, as ``--no-color``."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command."""
        if os.environ.get("NO_COLOR") and not options.get("force_color"):
            options["no_color"] = True
        return super().execute(*args, **options)


NARROWEST = 40
"""The minimum number of columns for folding. A narrower terminal breaks the lines itself."""


def width_of(stream: Any) -> int | None:
    """Return the number of columns of the terminal *stream*. None if it is no terminal: then lines stay whole."""
    return max(NARROWEST, shutil.get_terminal_size().columns) if stream.isatty() else None


def folded(text: str, stream: Any, *, used: int = 0) -> str:
    """Fold every line of *text* to the width of the terminal *stream*. *used* columns of the first line are occupied."""
    width = width_of(stream)
    if width is None:
        return text
    return "\n".join(fold(line, width, used=0 if number else used) for number, line in enumerate(text.split("\n")))


def explained(message: str, stream: Any) -> str:
    """Fold the text of a ``CommandError``. Django writes the name of the class before it."""
    return folded(on_one_line(message, keep="\n\t"), stream, used=len("CommandError: "))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return *rows* as lines, with their columns aligned."""
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_padded(text, width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def confirmed(command: Any, lines: Sequence[str], answer: str) -> bool:
    """Write *lines* to the standard error of *command*, the first highlighted, and return whether *answer* is typed.

    So standard output has only the report. Raises :class:`CommandError` if standard input has ended and nobody can type.
    """
    first, *rest = lines
    command.stderr.write(folded(first, command.stderr), command.style.ERROR)
    command.stderr.write(folded("\n".join(rest), command.stderr), str)
    # Python has none where the descriptor was closed.
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    is_typed = command.stderr.isatty() and is_terminal
    if is_typed:
        command.stderr.write("> ", str, ending="")
        command.stderr.flush()
    try:
        if sys.stdin is None:
            raise EOFError
        return input().strip() == answer
    except EOFError:
        if not is_terminal:
            raise CommandError(
                "Nothing was changed: standard input has ended, so nobody can answer. "
                "Add --no-input to go on without the question."
            ) from None
        if is_typed:
            command.stderr.write("", str)  # Ctrl-D ends no line.
        return False


def is_coloured(stream: Any, options: dict[str, Any]) -> bool:
    """Whether to use colours on *stream*. True on a terminal unless they are switched off, and if they are forced."""
    return bool(options["force_color"] or (stream.isatty() and not options["no_color"]))


def paint_of(style: Any) -> Paint:
    """Return the colours of Django's *style* without yellow, which is unreadable on a light background.

    So cycles have the magenta of server errors instead of the yellow of warnings. This is the same in Django's dark and
    light palettes.
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
    """Return the encoding of *stream*. It is UTF-8 for a stream in memory."""
    return getattr(stream, "encoding", None) or "utf-8"


def write_text(stream: Any, text: str) -> None:
    """Write *text*. Characters that the encoding does not have are escaped.

    A reader that closes the pipe early (head, a pager) causes no error.
    """
    encoding = encoding_of(stream)
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding), ending="")
        stream.flush()
    except BrokenPipeError:
        # Otherwise Python reports the error again when it flushes the stream at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


DELAY = 1.0
"""Seconds before the line is shown. Most work takes less time."""


@contextmanager
def elapsed_time(stream: TextIO, text: str, *, silent: bool = False) -> Iterator[None]:
    """Show *text* and the elapsed seconds on *stream*, if it is a terminal and the block takes longer than a second.

    The line is updated in place, and removed at the end.
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
    """Break *line* into lines of at most *width* columns. *used* columns before it are occupied.

    Continuation lines are indented by four more columns than the line. A word that is too long for any line stays whole.
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
