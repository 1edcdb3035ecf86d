"""Foreign keys that rows of a SQLite database break; SQLite checks everything else at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from testdb_app.backends.sqlite.errors import fetch
from testdb_app.backends.sqlite.snapshot import snapshot
from testdb_app.backends.sqlite.sql import quote_literal, quote_name
from testdb_app.diff import Violation
from testdb_app.schema import Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

# table, number of the key, how many rows, whether a rowid leads to them
BROKEN = """
SELECT "table" AS broken, fkid, COUNT(*) AS found, COUNT(rowid) = COUNT(*) AS has_rowid
FROM pragma_foreign_key_check
GROUP BY "table", fkid
ORDER BY "table", fkid
"""

COLUMNS = """
SELECT "from" AS here, "table" AS there, "to" AS target
FROM pragma_foreign_key_list({table})
WHERE id = {number}
ORDER BY seq
"""


def find_violations(connection: BaseDatabaseWrapper, schema: Schema, limit: int) -> list[Violation]:
    """Find dangling foreign keys, at most *limit* values of each, those among them that the open transaction may still mend."""
    with snapshot(connection) as cursor:
        return [
            violation
            for table, number, rows, has_rowid in fetch(connection, cursor, BROKEN)
            for violation in _describe(connection, cursor, schema, table, number, rows, bool(has_rowid), limit)
        ]


def _describe(
    connection: BaseDatabaseWrapper,
    cursor: CursorWrapper,
    schema: Schema,
    table: str,
    number: int,
    rows: int,
    has_rowid: bool,
    limit: int,
) -> Iterator[Violation]:
    pairs = fetch(connection, cursor, COLUMNS.format(table=quote_literal(table), number=number))
    columns = tuple(here for here, _, _ in pairs)
    key = next((key for key in schema.foreign_keys if key.table.name == table and key.columns == columns), None)
    name, shown = (key.name, str(key.table)) if key is not None else (f"number {number}", table)
    referenced = f"{key.referenced}({', '.join(key.referenced_columns)})" if key is not None else str(pairs[0][1])
    if not has_rowid:
        detail = f"{rows} row(s) refer to what is not in {referenced}"
        yield Violation(constraint=name, kind="foreign key", table=shown, rows=rows, detail=detail)
        return
    listed = ", ".join(f"CAST({quote_name(column)} AS TEXT) AS v{place}" for place, column in enumerate(columns))
    places = ", ".join(f"v{place}" for place in range(len(columns)))
    broken = f"SELECT rowid FROM pragma_foreign_key_check({quote_literal(table)}) WHERE fkid = {number}"
    for *values, count in fetch(
        connection,
        cursor,
        f"SELECT {listed}, COUNT(*) AS found FROM {quote_name(table)} WHERE rowid IN ({broken}) "
        f"GROUP BY {places} ORDER BY {places} LIMIT {limit}",
    ):
        yield Violation(
            constraint=name,
            kind="foreign key",
            table=shown,
            columns=columns,
            values=tuple(values),
            referenced=referenced,
            rows=count,
        )
