"""Two states of a table, row by row: a live table, or a copy in its place, and a copy of an earlier moment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from testdb_app.backends.sqlite.errors import fetch
from testdb_app.backends.sqlite.restoring import SIGN, any_of, differs, key_of, match
from testdb_app.backends.sqlite.shapes import TableShape
from testdb_app.backends.sqlite.sql import quote_name, quote_qualified
from testdb_app.baseline_state import BaselineColumn, BaselineTable
from testdb_app.diff import RowDifference, TableDifference
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The later side of a comparison: a table ``t``, its ``shape``, and its key; the names of its columns may be a copy's."""

    table: BaselineTable
    shape: TableShape

    @classmethod
    def live(cls, name: QualifiedName, shape: TableShape) -> Side:
        """Return the table itself."""
        return cls(table=BaselineTable(name=name, copy=name, rows=0, columns=shape.columns, key=shape.key), shape=shape)

    @classmethod
    def copied(cls, table: BaselineTable, shape: TableShape) -> Side:
        """Return the copy of a table in its place: columns ``c1`` …, which keep every value as it is."""
        names = {column.name: f"c{number}" for number, column in enumerate(table.columns, 1)}
        columns = tuple(
            BaselineColumn(name=names[column.name], is_generated=column.is_generated) for column in table.columns
        )
        key = tuple(names[name] for name in table.key)
        every = frozenset(names.values())
        return cls(
            table=replace(table, name=table.copy, columns=columns, key=key),
            shape=replace(shape, columns=columns, key=key, loose=every, numeric=every),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Query:
    """Rows of one kind: FROM and what follows, and the columns before and after."""

    kind: str
    tail: str
    old: Sequence[str]
    new: Sequence[str]


def tell_signs(connection: BaseDatabaseWrapper) -> None:
    """Give the connection the function that tells the sign of a zero."""
    connection.connection.create_function(SIGN, 1, lambda number: math.copysign(1, number) < 0, deterministic=True)


def compare(
    connection: BaseDatabaseWrapper,
    cursor: CursorWrapper,
    name: QualifiedName,
    shape: TableShape,
    *,
    before: QualifiedName | None,
    after: Side | None,
    limit: int,
) -> TableDifference | None:
    """Compare the copy *before* (None: no rows) with *after* (None: no rows), two states of the table *name*."""
    counts = {"+": 0, "~": 0, "-": 0}
    rows: list[RowDifference] = []
    for query in _queries(shape, before, after):
        counts[query.kind] = fetch(connection, cursor, f"SELECT COUNT(*) AS found {query.tail}")[0][0]
        if counts[query.kind]:
            rows += _read(connection, cursor, shape, query, limit)
    if not any(counts.values()):
        return None
    return TableDifference(table=name, added=counts["+"], changed=counts["~"], removed=counts["-"], rows=tuple(rows))


def _queries(shape: TableShape, before: QualifiedName | None, after: Side | None) -> Iterator[_Query]:
    old = [f"c.c{number}" for number in range(1, len(shape.columns) + 1)]
    copy = f"{quote_qualified(before)} AS c" if before is not None else ""
    if after is None:
        if before is not None:
            yield _Query(kind="-", tail=f"FROM {copy}", old=old, new=())
        return
    new = [f"t.{quote_name(column.name)}" for column in after.table.columns]
    table = f"{quote_qualified(after.table.name)} AS t"
    if before is None:
        yield _Query(kind="+", tail=f"FROM {table}", old=(), new=new)
        return
    paired = replace(after.table, copy=before)
    on = match(paired)
    there, kept = (", ".join(names) for names in zip(*key_of(paired), strict=True))
    yield _Query(kind="+", tail=f"FROM {table} WHERE NOT EXISTS (SELECT 1 FROM {copy} WHERE {on})", old=(), new=new)
    if others := list(differs(paired, after.shape, knows_sign=True)):
        yield _Query(kind="~", tail=f"FROM {table} JOIN {copy} ON {on} WHERE {any_of(others)}", old=old, new=new)
    # Not a correlated subquery: what it looks for has an index in the copy only.
    gone = f"({kept}) NOT IN (SELECT {there} FROM {table} WHERE {_is_complete(paired)})"
    yield _Query(kind="-", tail=f"FROM {copy} WHERE {gone}", old=old, new=())


def _is_complete(table: BaselineTable) -> str:
    return " AND ".join(f"{live} IS NOT NULL" for live, _ in key_of(table))


def _read(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, shape: TableShape, query: _Query, limit: int
) -> Iterator[RowDifference]:
    names = [column.name for column in shape.columns]
    listed = [*query.old, *query.new]
    values = ", ".join(f"{_text(column)} AS v{number}" for number, column in enumerate(listed))
    order = ", ".join(listed[names.index(name)] for name in shape.key) or ", ".join(listed)
    for row in fetch(connection, cursor, f"SELECT {values} {query.tail} ORDER BY {order} LIMIT {limit}"):
        before = dict(zip(names, row[: len(query.old)], strict=True)) if query.old else None
        after = dict(zip(names, row[len(query.old) :], strict=True)) if query.new else None
        changed: tuple[str, ...] = ()
        if before is not None and after is not None:
            changed = tuple(name for name in names if before[name] != after[name])
        yield RowDifference(before=before, after=after, key=shape.key, changed=changed)


def _text(column: str) -> str:
    """Write a value as text, or a blob's digits."""
    text = f"CASE typeof({column}) WHEN 'blob' THEN 'x' || hex({column}) ELSE CAST({column} AS TEXT) END"
    return f"substr({text}, 1, {_MOST_CHARACTERS})"
