"""The rows of small tables as the text that PostgreSQL makes of them, to be kept in this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from testdb_app.backends.postgresql import differing
from testdb_app.backends.postgresql.known import ask
from testdb_app.backends.postgresql.pipeline import Command
from testdb_app.backends.postgresql.queries import chunks
from testdb_app.backends.postgresql.signs import Relations

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_MOST_BYTES = 128 * 1024
"""Of a table that is kept in this process; one that is larger is kept in the database."""
_MOST_BYTES_IN_ALL = 16 * 1024 * 1024
_TABLES_A_STATEMENT = 40


def read_texts(connection: BaseDatabaseWrapper, relations: Relations, oids: Sequence[int]) -> dict[int, str | None]:
    """Return the rows of tables as text: empty where there are none, None where they are too many."""
    return parse_texts(oids, ask(connection, text_commands(relations, oids))) if oids else {}


def text_commands(relations: Relations, oids: Sequence[int]) -> list[Command]:
    """Write the queries of the rows of tables, for :func:`parse_texts`."""
    return [
        Command("SELECT " + ", ".join(differing.rows_as_text(relations.tables[oid], _MOST_BYTES) for oid in chunk))
        for chunk in chunks(oids, _TABLES_A_STATEMENT)
    ]


def parse_texts(oids: Sequence[int], results: Iterable[Sequence[tuple[Any, ...]]]) -> dict[int, str | None]:
    """Return the rows of tables by OID, as :func:`read_texts` does."""
    values = iter([value for rows in results for value in rows[0]])
    pairs = zip(oids, zip(values, values, strict=True), strict=True)
    return {oid: rows or ("" if int(size) <= _MOST_BYTES else None) for oid, (size, rows) in pairs}


def find_large(kept: Mapping[int, str | None], chosen: Iterable[int]) -> list[int]:
    """Return the tables to be kept in the database: those that are large (None), and what is too much in all."""
    left = _MOST_BYTES_IN_ALL
    large = []
    for oid in sorted(chosen, key=lambda oid: len(kept[oid] or "")):
        rows = kept[oid]
        left -= len(rows or "")
        if rows is None or left < 0:
            large.append(oid)
    return large
