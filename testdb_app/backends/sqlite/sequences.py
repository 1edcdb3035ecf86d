"""The counters of AUTOINCREMENT tables: rows of ``sqlite_sequence``, an ordinary table that SQLite keeps by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testdb_app.backends.base import Action
from testdb_app.backends.sqlite.errors import fetch
from testdb_app.backends.sqlite.sql import chunks, has_autoincrement, quote_literal, quote_name
from testdb_app.baseline_state import SequenceState
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

    from testdb_app.backends.base import Step
    from testdb_app.backends.sqlite.catalog import Catalog

_NAMES = 400
"""Names in one IN list."""


def read_states(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, catalog: Catalog
) -> dict[QualifiedName, SequenceState | None]:
    """Return the sequences that have a row, and where they are: None for a row, or several, that SQLite never wrote."""
    states: dict[QualifiedName, SequenceState | None] = {}
    for schema in sorted(catalog.has_sequences):
        for table, value in fetch(connection, cursor, f"SELECT name, seq FROM {quote_name(schema)}.sqlite_sequence"):
            name = QualifiedName(schema, table)
            if name in catalog.tables and has_autoincrement(catalog.tables[name].sql):
                is_plain = isinstance(value, int) and name not in states
                states[name] = SequenceState(last_value=value, is_called=True) if is_plain else None
    return states


def displaced(
    states: Mapping[QualifiedName, SequenceState | None], wanted: Mapping[QualifiedName, SequenceState]
) -> dict[QualifiedName, SequenceState | None]:
    """Return those of *states* that are not the *wanted* ones, and, as unknown, the wanted ones that are gone."""
    there = {name: state for name, state in states.items() if state is None or state != wanted.get(name)}
    return there | {name: None for name in wanted if name not in states}


def restart(steps: Iterable[Step], states: Mapping[QualifiedName, SequenceState]) -> Iterator[str]:
    """Write the statements that put sequences back: to those of *states*, or to their start, which is no row."""
    names = [name for step in steps if step.action is Action.RESTART for name in step.names]
    return put_back({name: states.get(name) for name in names})


def put_back(states: Mapping[QualifiedName, SequenceState | None]) -> Iterator[str]:
    """Write the statements that put sequences to *states*; None is their start."""
    by_schema: dict[str, list[QualifiedName]] = {}
    for name in states:
        by_schema.setdefault(name.schema, []).append(name)
    for schema, names in by_schema.items():
        table = f"{quote_name(schema)}.sqlite_sequence"
        for chunk in chunks(names, _NAMES):
            yield f"DELETE FROM {table} WHERE name IN ({', '.join(quote_literal(name.name) for name in chunk)})"
            values = [
                f"({quote_literal(name.name)}, {state.last_value})"
                for name in chunk
                if (state := states[name]) is not None
            ]
            if values:
                yield f"INSERT INTO {table} (name, seq) VALUES {', '.join(values)}"
