"""Identifiers as people read them: on one line, never cut, two different ones never alike; and text of strangers. Pure."""

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


def on_one_line(text: str, *, keep: str = "") -> str:
    """Return *text* with what cannot be seen escaped, as in a Python string, but for the characters of *keep*.

    Control characters would command the terminal, and bidirectional marks turn round what follows.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


def _escaped(char: str) -> str:
    if char == '"':
        return '""'
    if char == "\\":
        return r"\\"
    if char.isprintable():
        return char
    return f"\\{ord(char):04X}" if ord(char) <= 0xFFFF else f"\\+{ord(char):06X}"
