"""Words of the pictures: columns of a key, counts, the width of a text on a terminal."""

from __future__ import annotations

import unicodedata

from testdb_app.schema import show_part


def show_parts(parts: tuple[str, ...]) -> str:
    """Return a list of columns, with a comma between them."""
    return ", ".join(map(show_part, parts))


def counted(number: int, noun: str) -> str:
    """Return "1 table", "2,000 tables", "no tables"."""
    return f"{number:,} {noun}s" if number > 1 else f"1 {noun}" if number else f"no {noun}s"


def cells(text: str) -> int:
    """Return how many columns of a terminal *text* takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in {"W", "F"} for char in text)
    # Marks, and what chooses a variant of the character before.
    marks = sum(unicodedata.category(char) in {"Mn", "Me"} for char in text)
    return len(text) + wide - marks
