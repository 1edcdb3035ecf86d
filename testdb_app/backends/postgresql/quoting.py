"""Identifiers, texts and durations as PostgreSQL's SQL: the one place where they are quoted."""

from __future__ import annotations

from testdb_app.schema import QualifiedName


def quote(name: QualifiedName | str) -> str:
    """Quote an identifier, or a qualified one, for SQL."""
    if isinstance(name, QualifiedName):
        return f"{quote(name.schema)}.{quote(name.name)}"
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a text for SQL, whatever ``standard_conforming_strings`` says."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'" if "\\" in text else f"'{escaped}'"


def milliseconds(seconds: float) -> int:
    """Return *seconds* as the server takes a time-out: 0 would mean none."""
    return max(1, round(seconds * 1000))
