"""Names as people read them: on one line, never cut, two different names never alike."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testdb_app.schema import QualifiedName


def show_name(name: QualifiedName) -> str:
    """Return *name* qualified, its parts as :func:`show_part` writes them. Different names, different
    texts."""
    return f"{show_part(name.schema)}.{show_part(name.name)}"


def show_part(part: str) -> str:
    """Return one identifier: bare where that is plain, else in double quotes as in SQL.

    What cannot be seen (control characters, line ends, bidirectional marks, unusual spaces) is escaped in
    SQL's own ``U&"…"`` form, so that every name is one line and none hides a character.
    """
    if part.isidentifier() and part == part.lower():
        return part
    if part.isprintable():
        return '"' + part.replace('"', '""') + '"'
    return 'U&"' + "".join(map(_escaped, part)) + '"'


def show_parts(parts: tuple[str, ...]) -> str:
    """Return a list of columns, with a comma between them."""
    return ", ".join(map(show_part, parts))


def on_one_line(text: str) -> str:
    """Return *text* with what cannot be seen escaped, as in a Python string."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def counted(number: int, noun: str) -> str:
    """Return "1 table", "2,000 tables", "no tables"."""
    return f"{number:,} {noun}s" if number > 1 else f"1 {noun}" if number else f"no {noun}s"


def cells(text: str) -> int:
    """Return how many columns of a terminal *text* takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in {"W", "F"} for char in text)
    combining = sum(unicodedata.combining(char) > 0 for char in text)
    return len(text) + wide - combining


def _escaped(char: str) -> str:
    if char == '"':
        return '""'
    if char == "\\":
        return r"\\"
    if char.isprintable():
        return char
    return f"\\{ord(char):04X}" if ord(char) <= 0xFFFF else f"\\+{ord(char):06X}"
