"""What a reset may touch: all that belongs to nobody else, was not excluded and is not kept always. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from testdb_app.schema import LeftOut, QualifiedName, Schema
from testdb_app.states import MIGRATIONS_TABLE

ALWAYS_KEPT = frozenset({MIGRATIONS_TABLE})
"""Names of tables that no reset touches, in whatever schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a reset may touch. ``kept`` tells for every table and sequence that stays why it does."""

    tables: frozenset[QualifiedName]
    sequences: frozenset[QualifiedName]
    kept: tuple[LeftOut, ...]


def make_scope(
    schema: Schema,
    *,
    included: frozenset[QualifiedName] | None,
    excluded: frozenset[QualifiedName],
    uncaptured: frozenset[QualifiedName] = frozenset(),
    reset_sequences: bool,
) -> Scope:
    """Decide what a reset may touch.

    Parameters: *included*, None for every table; *excluded*, tables to keep; *uncaptured*, tables that the baseline
    knows nothing of; *reset_sequences*, whether sequences go along. A sequence is in scope if all tables that use it
    are; one that no table uses, if everything is.
    """
    tables: set[QualifiedName] = set()
    kept: list[LeftOut] = list(schema.left_out)
    for table in schema.tables:
        reason = None
        if table.extension:
            reason = f"belongs to the extension {table.extension}"
        elif table.name.name in ALWAYS_KEPT:
            reason = "kept always"
        elif table.name in excluded:
            reason = "excluded"
        elif table.name in uncaptured:
            reason = "excluded from the baseline"
        elif included is not None and table.name not in included:
            reason = "not named"
        if reason is None:
            tables.add(table.name)
        else:
            kept.append(LeftOut(name=table.name, reason=reason))
    sequences: set[QualifiedName] = set()
    for sequence in schema.sequences:
        outside = sorted(sequence.tables - tables)
        if sequence.extension or not reset_sequences or (not sequence.uses and included is not None):
            continue
        if outside:
            kept.append(LeftOut(name=sequence.name, reason=f"sequence of {outside[0]}, which stays"))
        else:
            sequences.add(sequence.name)
    return Scope(tables=frozenset(tables), sequences=frozenset(sequences), kept=tuple(sorted(kept)))
