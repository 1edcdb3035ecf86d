"""Identifiers as people read them: on one line, never cut, two different ones never alike. Pure."""

from __future__ import annotations


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


def _escaped(char: str) -> str:
    if char == '"':
        return '""'
    if char == "\\":
        return r"\\"
    if char.isprintable():
        return char
    return f"\\{ord(char):04X}" if ord(char) <= 0xFFFF else f"\\+{ord(char):06X}"
