"""Random foreign keys: to other tables, to the own one, in cycles, of several columns, with every action, deferrable or not."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from testdb_app.backends.postgresql.sql import quote
from tests.differential.model import Column, Model, Table

Draw = Any

ACTIONS = ("NO ACTION", "CASCADE", "SET NULL", "RESTRICT", "SET DEFAULT")
_DEFERRABLE = ("", "", "", " DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED")


def add_keys(draw: Draw, model: Model) -> None:
    """Tie tables of *model* to each other, by new columns or by the key itself."""
    targets = [table for table in model.tables if table.is_referable and table.key]
    sources = [table for table in model.tables if table.kind in {"plain", "unlogged", "partitioned", "ancestor"}]
    if not targets or not sources:
        return
    pairs = st.tuples(st.sampled_from(targets), st.sampled_from(sources))
    for number, (target, source) in enumerate(draw(st.lists(pairs, max_size=4))):
        if (target.kind == "unlogged") != (source.kind == "unlogged"):
            continue
        _add_key(draw, model, source, target, number)


def _add_key(draw: Draw, model: Model, source: Table, target: Table, number: int) -> None:
    name = quote(draw(st.sampled_from(("fk", "f%s", 'f"k', "f" * 62))) + str(number))
    # What ON … SET NULL would set must be settable, or no row of the target can ever be deleted.
    by_key = (
        source is not target
        and not any(column.source == "always" for column in source.keys)
        and [column.type for column in source.keys] == [column.type for column in target.keys]
        and not draw(st.integers(0, 4))
    )
    columns = source.keys if by_key else _new_columns(draw, target, number)
    for table in (source, *source.heirs):
        if not by_key:
            table.columns.extend(columns)
    on_delete, on_update = draw(st.sampled_from(ACTIONS)), draw(st.sampled_from(ACTIONS))
    match = " MATCH FULL" if len(columns) > 1 and draw(st.booleans()) else ""
    deferrable = draw(st.sampled_from(_DEFERRABLE))
    added = "" if by_key else "".join(f"ADD COLUMN {column.name} {column.type}, " for column in columns)
    listed = ", ".join(column.name for column in columns)
    what = "itself" if source is target else f"{target.kind}{' by key' if by_key else ''}"
    model.add(
        f"key to {what}, on delete {on_delete.lower()}, on update {on_update.lower()}{deferrable.lower()}",
        f"ALTER TABLE {source.sql} {added}ADD CONSTRAINT {name} FOREIGN KEY ({listed}) REFERENCES {target.sql} "
        f"({', '.join(target.key)}){match} ON DELETE {on_delete} ON UPDATE {on_update}{deferrable}",
    )


def _new_columns(draw: Draw, target: Table, number: int) -> list[Column]:
    stem = draw(st.sampled_from(("ref", "r%s", 'r"', "on")))
    return [
        Column(name=quote(f"{stem}{number}{part}"), type=column.type, values=column.values)
        for part, column in zip(("", "b"), target.keys, strict=False)
    ]
