"""From the map, the scope and one look at the database to a plan: a value that can be printed, compared and run.

The scope is static: which tables may be emptied, which stay and why, which sequences go along. It depends on the
schema and the options alone. The plan narrows it to what the look found: tables that may hold rows, sequences that moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from testdb_app.backends.base import Action, Observation, Step
from testdb_app.exceptions import MissingPrivilegeError
from testdb_app.graph import DependencyGraph
from testdb_app.schema import ForeignKey, LeftOut, QualifiedName, Schema
from testdb_app.truncation import choose_truncations

ALWAYS_KEPT = frozenset({"django_migrations"})
"""Names of tables that no reset touches, in whatever schema: without their rows every migration would run again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a reset may touch. ``kept`` tells for every table and sequence that stays why it does."""

    tables: frozenset[QualifiedName]
    sequences: frozenset[QualifiedName]
    kept: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPlan:
    """What a reset does, in order.

    ``steps`` empty tables, referencing ones first, then restart sequences. ``checks`` are the foreign keys of tables
    that stay, which must have no row when the tables they reference go. ``verify`` are tables to look at once more
    before the commit, because a trigger that this role cannot switch off may write to them. ``stale_views`` are
    materialized views over the emptied tables.
    """

    steps: tuple[Step, ...]
    checks: tuple[ForeignKey, ...] = ()
    verify: tuple[QualifiedName, ...] = ()
    kept: tuple[LeftOut, ...] = ()
    stale_views: tuple[QualifiedName, ...] = ()

    @property
    def tables(self) -> tuple[QualifiedName, ...]:
        """The tables that the plan empties, in order."""
        return tuple(name for step in self.steps if step.action is not Action.RESTART for name in step.names)

    @property
    def sequences(self) -> tuple[QualifiedName, ...]:
        """The sequences that it restarts."""
        return tuple(name for step in self.steps if step.action is Action.RESTART for name in step.names)


def make_scope(
    schema: Schema,
    *,
    included: frozenset[QualifiedName] | None,
    excluded: frozenset[QualifiedName],
    reset_sequences: bool,
) -> Scope:
    """Decide what a reset may touch.

    Parameters: *included*, None for every table; *excluded*, tables to keep; *reset_sequences*, whether sequences go
    along. A sequence is in scope if all tables that use it are; one that no table uses, if everything is.
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


def plan_reset(
    schema: Schema,
    graph: DependencyGraph[QualifiedName],
    scope: Scope,
    observation: Observation,
    *,
    strategy: str,
    truncate_above: int,
) -> ResetPlan:
    """Plan to empty the tables in *scope* that may hold rows, and to restart the sequences that moved.

    *strategy* is "delete", "truncate" or "auto"; *truncate_above* the bytes a table from which "auto" truncates.
    Raises :class:`ResetError` if truncation was asked for and a table that stays references one that goes, and
    :class:`MissingPrivilegeError`. Cost: O(tables + foreign keys of the written tables).
    """
    written = frozenset(observation.sizes) & scope.tables
    _check_privileges(observation, written | scope.sequences)
    truncated = choose_truncations(schema, scope.tables, written, observation.sizes, strategy, truncate_above)
    emptied = written | truncated
    deletes = tuple(_deletions(schema, graph, written - truncated))
    may_refill = _may_refill(schema, deletes)
    # A trigger that fires meanwhile may move any sequence.
    moved = scope.sequences if may_refill else frozenset(observation.moved) & scope.sequences
    steps = (
        *_truncation(graph, truncated, strategy),
        *deletes,
        *(Step(action=Action.RESTART, names=(name,)) for name in sorted(moved)),
    )
    return ResetPlan(
        steps=steps,
        checks=tuple(_checks(schema, scope, observation.sizes, emptied)),
        verify=tuple(sorted(scope.tables & _storing(schema))) if may_refill else (),
        kept=scope.kept,
        stale_views=tuple(view.name for view in schema.materialized_views if emptied & set(view.tables)),
    )


def _check_privileges(observation: Observation, wanted: frozenset[QualifiedName]) -> None:
    missing = {str(name): lacks for name, lacks in sorted(observation.missing.items()) if name in wanted}
    if missing:
        listed = ", ".join(f"{lacks} on {name}" for name, lacks in missing.items())
        raise MissingPrivilegeError(
            f'The role "{observation.identity.user}" cannot reset database "{observation.identity.name}": it lacks {listed}. '
            "Nothing was changed. Grant it, connect as the owner of the tables, or exclude them.",
            missing=missing,
        )


def _storing(schema: Schema) -> frozenset[QualifiedName]:
    return frozenset(table.name for table in schema.tables if table.stores_rows)


def _checks(
    schema: Schema, scope: Scope, sizes: Mapping[QualifiedName, int], emptied: frozenset[QualifiedName]
) -> Iterator[ForeignKey]:
    """Yield the keys by which a table that stays, and may hold rows, references one that goes."""
    for name in sorted(emptied):
        for key in schema.referencing.get(name, ()):
            if key.table not in scope.tables and key.table in sizes:
                yield key


def _deletions(
    schema: Schema, graph: DependencyGraph[QualifiedName], names: frozenset[QualifiedName]
) -> Iterator[Step]:
    for group in graph.deletion_groups():
        members = tuple(name for name in group if name in names)
        if members:
            yield Step(action=Action.DELETE, names=members, reason=_why_delete_so(schema, members))


def _why_delete_so(schema: Schema, members: tuple[QualifiedName, ...]) -> str:
    reasons = ["a cycle of foreign keys: one statement"] if len(members) > 1 else []
    tables = [schema.by_name[name] for name in members]
    if any(trigger.fires_on("DELETE") for table in tables for trigger in table.triggers):
        reasons.append("its triggers are off meanwhile")
    if any(rule.event == "DELETE" for table in tables for rule in table.rules):
        reasons.append("its rules are off meanwhile")
    if any(table.hides_rows for table in tables):
        reasons.append("its row security is off meanwhile")
    return "; ".join(reasons)


def _truncation(
    graph: DependencyGraph[QualifiedName], truncated: frozenset[QualifiedName], strategy: str
) -> Iterator[Step]:
    if truncated:
        names = tuple(name for name in graph.deletion_order() if name in truncated)
        reason = "asked for" if strategy == "truncate" else "large or slow to delete, with all that references it"
        yield Step(action=Action.TRUNCATE, names=names, reason=reason, waits=strategy == "truncate")


def _may_refill(schema: Schema, deletes: Iterable[Step]) -> bool:
    """Whether something that cannot be switched off may write rows, or keep them, while the tables are emptied."""
    for step in deletes:
        for table in (schema.by_name[name] for name in step.names):
            fires = any(trigger.fires_on("DELETE") for trigger in table.triggers)
            rewrites = any(rule.event == "DELETE" for rule in table.rules)
            if (fires or rewrites) and (not table.owned or schema.has_ddl_event_triggers):
                return True
    return False
