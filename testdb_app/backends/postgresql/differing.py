"""Two states of a table, row by row, as PostgreSQL's SQL. Pure: nothing is sent from here.

As in a restoration rows are paired by the table's key and compared byte by byte (record_image_ne); where there is no key by
their text, numbered among their equals. What comes back is bounded: some rows of each kind, and how many there are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from testdb_app.backends.postgresql.quoting import equals, quote, quote_literal
from testdb_app.diff import RowDifference, TableDifference
from testdb_app.schema import QualifiedName

_MOST_CHARACTERS = 200

_ADDED, _CHANGED, _REMOVED = "+", "~", "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """A table's columns and key, with the operators by which its values are equal; ``text`` is other where they are."""

    names: tuple[str, ...]
    key: tuple[str, ...]
    operators: tuple[str, ...]
    text: str


def live(table: QualifiedName) -> str:
    """Write the rows that are in *table* itself now."""
    return f"ONLY {quote(table)}"


def kept_as_text(table: QualifiedName, parameter: int) -> str:
    """Write the rows of :func:`rows_as_text`, which are given as a parameter of that number."""
    return f"pg_catalog.unnest(${parameter}::{quote(table)}[])"


def no_rows(table: QualifiedName) -> str:
    """Write a source of the table's columns without a row."""
    return f"(SELECT * FROM ONLY {quote(table)} WHERE false)"


def rows_as_text(table: QualifiedName, most_bytes: int) -> str:
    """Write two values: the bytes of *table*, and its rows as the text of an array; NULL where it is empty, or too large."""
    # ROW(), because an alias alone may be the name of a column.
    rows = f"SELECT pg_catalog.array_agg(ROW(t.*))::pg_catalog.text FROM ONLY {quote(table)} t"
    size = f"pg_catalog.pg_relation_size({quote_literal(quote(table))}::pg_catalog.regclass)"
    return f"{size}, CASE WHEN {size} OPERATOR(pg_catalog.<=) {most_bytes} THEN ({rows}) END"


def differences(columns: Columns, before: str, after: str, limit: int) -> str:
    """Write the query of the rows that differ between two sources.

    Columns: kind, how many of that kind there are, and as JSON the values before, those after, whether each is another one.
    """
    kind, pairs = _pairs_by_key(columns, before, after) if columns.key else _pairs_by_text(columns, before, after)
    sorted_by = columns.key or (_free("image", columns),)
    order = ", ".join(f"coalesce(n.{quote(name)}, o.{quote(name)})" for name in sorted_by)
    old, new = (
        ", ".join(
            f"pg_catalog.left({side}.{quote(name)}::pg_catalog.text, {_MOST_CHARACTERS})" for name in columns.names
        )
        for side in "on"
    )
    others = "NULL"
    if columns.key:
        others = (
            "pg_catalog.to_json(ARRAY["
            + ", ".join(
                f"pg_catalog.record_image_ne(ROW(o.{quote(name)}), ROW(n.{quote(name)}))" for name in columns.names
            )
            + "])::pg_catalog.text"
        )
    return f"""SELECT kind, total, before, after, others
  FROM (SELECT {kind} AS kind, pg_catalog.count(*) OVER (PARTITION BY {kind}) AS total,
               pg_catalog.row_number() OVER (PARTITION BY {kind} ORDER BY {order}) AS place,
               pg_catalog.to_json(ARRAY[{old}]::pg_catalog.text[])::pg_catalog.text AS before,
               pg_catalog.to_json(ARRAY[{new}]::pg_catalog.text[])::pg_catalog.text AS after, {others} AS others
          FROM {pairs}) d
 WHERE place OPERATOR(pg_catalog.<=) {limit}
 ORDER BY pg_catalog.strpos('{_ADDED}{_CHANGED}{_REMOVED}', kind), place"""


def _pairs_by_key(columns: Columns, before: str, after: str) -> tuple[str, str]:
    first = quote(columns.key[0])
    old, new = (", ".join(f"{side}.{quote(name)}" for name in columns.names) for side in "on")
    pairs = zip(columns.key, columns.operators, strict=True)
    on = " AND ".join(f"o.{quote(name)} {equals} n.{quote(name)}" for name, equals in pairs)
    kind = f"CASE WHEN o.{first} IS NULL THEN '{_ADDED}' WHEN n.{first} IS NULL THEN '{_REMOVED}' ELSE '{_CHANGED}' END"
    return kind, (
        f"{before} AS o FULL JOIN {after} AS n ON {on} WHERE o.{first} IS NULL OR n.{first} IS NULL "
        f"OR pg_catalog.record_image_ne(ROW({old}), ROW({new}))"
    )


def _pairs_by_text(columns: Columns, before: str, after: str) -> tuple[str, str]:
    image, number = _free("image", columns), _free("number", columns)
    text = f"ROW({', '.join(f'r.{quote(name)}' for name in columns.names)})::pg_catalog.text"
    counted = f"pg_catalog.row_number() OVER (PARTITION BY {text})"
    old, new = (
        f"(SELECT r.*, {text} AS {image}, {counted} AS {number} FROM {source} AS r)" for source in (before, after)
    )
    kind = f"CASE WHEN o.{image} IS NULL THEN '{_ADDED}' ELSE '{_REMOVED}' END"
    return kind, (
        f"{old} AS o FULL JOIN {new} AS n ON {equals(f'o.{image}', f'n.{image}')} "
        f"AND {equals(f'o.{number}', f'n.{number}')} "
        f"WHERE o.{image} IS NULL OR n.{image} IS NULL"
    )


def _free(name: str, columns: Columns) -> str:
    while name in columns.names:
        name += "_"
    return name


def parse_differences(table: QualifiedName, columns: Columns, rows: list[tuple[Any, ...]]) -> TableDifference | None:
    """Make the difference of the rows of :func:`differences`; None where there are none."""
    if not rows:
        return None
    totals = {kind: int(total) for kind, total, *_ in rows}
    return TableDifference(
        table=table,
        added=totals.get(_ADDED, 0),
        changed=totals.get(_CHANGED, 0),
        removed=totals.get(_REMOVED, 0),
        rows=tuple(_row(columns, *row) for row in rows),
    )


def _row(columns: Columns, kind: str, _: str, before: str, after: str, others: str | None) -> RowDifference:
    old, new = (dict(zip(columns.names, json.loads(values), strict=True)) for values in (before, after))
    pairs = zip(columns.names, json.loads(others or "[]"), strict=False)
    return RowDifference(
        before=None if kind == _ADDED else old,
        after=None if kind == _REMOVED else new,
        key=columns.key,
        changed=tuple(name for name, is_other in pairs if is_other) if kind == _CHANGED else (),
    )
