"""Long lines for a narrow terminal: broken between words, never inside a name, which may have spaces between its quotes."""

from __future__ import annotations

import re

from testdb_app.rendering.names import cells

_WORD = re.compile(r'(?:"[^"]*"|[^\s"]|"(?![^"]*"))+')
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_HANG = 4


def fold(line: str, width: int, *, used: int = 0) -> str:
    """Break *line* where it is wider than *width* columns; *used* are those that something before it takes.

    What follows is indented by four more than the line. A word that is too long for any line stays whole. Codes of colours
    take no columns.
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
