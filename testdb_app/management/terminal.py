"""Where a command's text goes: as wide as the terminal, in its colours, and in an encoding that it may not share."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

from testdb_app.rendering import PLAIN, Paint
from testdb_app.rendering.folding import fold
from testdb_app.schema import on_one_line

NARROWEST = 40
"""Columns below which lines are broken no more: the terminal does it then."""


def width_of(stream: Any) -> int | None:
    """Return the columns of the terminal that *stream* is; None if it is none, and lines stay whole."""
    return max(NARROWEST, shutil.get_terminal_size().columns) if stream.isatty() else None


def folded(text: str, stream: Any, *, used: int = 0) -> str:
    """Fold every line of *text* to the terminal that *stream* is; *used* columns of the first are taken."""
    width = width_of(stream)
    if width is None:
        return text
    return "\n".join(fold(line, width, used=0 if number else used) for number, line in enumerate(text.split("\n")))


def explained(message: str, stream: Any) -> str:
    """Fold the text of a ``CommandError``, before which Django writes its name."""
    return folded(on_one_line(message, keep="\n\t"), stream, used=len("CommandError: "))


def is_coloured(stream: Any, options: dict[str, Any]) -> bool:
    """Whether colours are wanted on *stream*: on a terminal, unless they were switched off, or by force."""
    return bool(options["force_color"] or (stream.isatty() and not options["no_color"]))


def paint_of(style: Any) -> Paint:
    """Return the colours of Django's *style*: none of them yellow, which cannot be read on a light background.

    So cycles have the magenta of server errors instead of the yellow of warnings, in Django's dark and light palette alike.
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
    """Return the encoding of *stream*; that of text in memory is UTF-8."""
    return getattr(stream, "encoding", None) or "utf-8"


def write_text(stream: Any, text: str) -> None:
    """Write *text* as it is, but for characters that the encoding lacks, which are escaped.

    A reader that has seen enough (head, a pager) is no error.
    """
    encoding = encoding_of(stream)
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding), ending="")
        stream.flush()
    except BrokenPipeError:
        # Python would complain once more at its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
