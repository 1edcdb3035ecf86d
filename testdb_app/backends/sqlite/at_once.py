"""Foreign keys whose on-delete action comes at once, also where checks are deferred: inside a cycle, or to restored rows.

Only within a transaction do they matter: RESTRICT refuses, SET NULL and SET DEFAULT fire triggers on UPDATE, and CASCADE
ends at SQLite's trigger depth of 1,000. A key that refers to nothing any more does none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from testdb_app.backends.base import Action, Step
from testdb_app.backends.sqlite.errors import fetch
from testdb_app.backends.sqlite.relations import REQUIRED_COLUMNS
from testdb_app.backends.sqlite.snapshot import snapshot
from testdb_app.backends.sqlite.sql import quote_literal, quote_name, quote_qualified
from testdb_app.exceptions import UnsupportedError
from testdb_app.schema import ForeignKey, OnDelete, QualifiedName, Schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.baseline_state import Baseline


def _keys_inside(schema: Schema, steps: Iterable[Step]) -> Iterator[ForeignKey]:
    """Yield the foreign keys of cycles and self-references."""
    for step in steps:
        if step.action is Action.DELETE:
            inside = set(step.names)
            for name in step.names:
                yield from (key for key in schema.referencing.get(name, ()) if key.table in inside)


def needs_deferral(schema: Schema, steps: Sequence[Step]) -> bool:
    """Whether a cycle of several tables, or a table to restore, has a key that is checked after each statement."""
    restored = {name for step in steps if step.action is Action.RESTORE for name in step.names}
    return any(
        key.table != key.referenced and not key.initially_deferred for key in _keys_inside(schema, steps)
    ) or any(
        not key.initially_deferred and not restored.isdisjoint((key.table, key.referenced))
        for key in schema.foreign_keys
    )


def cascading(
    schema: Schema, steps: Iterable[Step], broken: Iterable[tuple[ForeignKey, str]]
) -> frozenset[QualifiedName]:
    """Return the tables whose rows may still go by a cascade, which no row count tells."""
    keys = {key for key in _keys_inside(schema, steps) if key.on_delete is OnDelete.CASCADE}
    return frozenset(key.table for key in keys - {key for key, _ in broken})


def broken_references(
    connection: BaseDatabaseWrapper, schema: Schema, steps: Sequence[Step]
) -> tuple[tuple[ForeignKey, str], ...]:
    """Return the keys of cycles that act at once, also when deferred, each with a column that may be NULL."""
    keys = [key for key in _keys_inside(schema, steps) if key.on_delete is not OnDelete.NO_ACTION]
    found = []
    if not keys:
        return ()
    with snapshot(connection) as cursor:
        if not fetch(connection, cursor, "PRAGMA foreign_keys")[0][0]:
            return ()
        for key in keys:
            query = REQUIRED_COLUMNS.format(table=quote_literal(key.table.name), schema=quote_literal(key.table.schema))
            required = {name for (name,) in fetch(connection, cursor, query)}
            free = [column for column in key.columns if column not in required]
            if free:
                found.append((key, free[0]))
            elif key.on_delete in {OnDelete.RESTRICT, OnDelete.SET_NULL}:
                raise UnsupportedError(
                    f"Within a transaction SQLite cannot empty {', '.join(map(str, {key.table, key.referenced}))}: the "
                    f"foreign key {key} is part of a cycle, is ON DELETE {key.on_delete} and cannot be NULL. Nothing was "
                    "changed. Reset outside of a transaction, where SQLite can switch foreign keys off."
                )
    return tuple(found)


def refuse_actions(
    connection: BaseDatabaseWrapper, schema: Schema, steps: Sequence[Step], baseline: Baseline | None
) -> None:
    """Raise :class:`UnsupportedError` for rows that refer to a table to restore by a key that acts at once.

    A row of it that changed is deleted and put in again, and what the key does meanwhile cannot be waited out.
    """
    order = [name for step in steps if step.action in {Action.DELETE, Action.RESTORE} for name in step.names]
    places = {name: place for place, name in enumerate(order)}
    kept = baseline.tables.keys() if baseline is not None else frozenset()
    keys = [
        key
        for step in steps
        if step.action is Action.RESTORE
        for name in step.names
        for key in schema.referencing.get(name, ())
        # Where all referring rows go before, nothing refers any more.
        if key.on_delete is not OnDelete.NO_ACTION
        and (places.get(key.table, len(order)) >= places[name] or {key.table, name} <= kept)
    ]
    if not keys:
        return
    with snapshot(connection) as cursor:
        if not fetch(connection, cursor, "PRAGMA foreign_keys")[0][0]:
            return
        for key in keys:
            refers = " AND ".join(f"{quote_name(column)} IS NOT NULL" for column in key.columns)
            query = f"SELECT 1 AS found FROM {quote_qualified(key.table)} WHERE {refers} LIMIT 1"
            if fetch(connection, cursor, query):
                raise UnsupportedError(
                    f"Within a transaction SQLite cannot restore {key.referenced}: rows of {key.table} refer to it by the "
                    f"foreign key {key}, which is ON DELETE {key.on_delete}. Nothing was changed. Reset outside of a "
                    "transaction, where SQLite can switch foreign keys off."
                )


def set_null(key: ForeignKey, column: str) -> str:
    """Return the statement that sets one column of a key to NULL."""
    name = quote_name(column)
    return f"UPDATE {quote_qualified(key.table)} SET {name} = NULL WHERE {name} IS NOT NULL"
