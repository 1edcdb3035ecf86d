"""From the map, the scope and one look at the database to a plan: a value that can be printed, compared and run.

The scope is static: which tables may be emptied, which stay and why, which sequences go along. It depends on the
schema and the options alone. The plan narrows it to what the look found: tables that may hold rows, sequences that moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from testdb_app.backends.base import Action, Observation, Restoration, Step
from testdb_app.exceptions import MissingPrivilegeError
from testdb_app.graph import DependencyGraph
from testdb_app.schema import ForeignKey, LeftOut, QualifiedName, Schema
from testdb_app.scope import Scope
from testdb_app.states import Baseline
from testdb_app.ties import events_of_action, tied_groups
from testdb_app.truncation import choose_new, choose_truncations, find_refused


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
        """The tables that the plan empties or restores, in order."""
        return tuple(
            dict.fromkeys(name for step in self.steps if step.action is not Action.RESTART for name in step.names)
        )

    @property
    def sequences(self) -> tuple[QualifiedName, ...]:
        """The sequences that it restarts."""
        return tuple(name for step in self.steps if step.action is Action.RESTART for name in step.names)


def plan_reset(
    schema: Schema,
    graph: DependencyGraph[QualifiedName],
    scope: Scope,
    observation: Observation,
    *,
    strategy: str,
    truncate_above: int,
    baseline: Baseline | None = None,
    differing: frozenset[QualifiedName] | None = None,
    restoration: Restoration = Restoration.DIFFERENCES,
    new_tables: frozenset[QualifiedName] = frozenset(),
) -> ResetPlan:
    """Plan to empty the tables in *scope* that may hold rows, and to restart the sequences that moved.

    *strategy* is "delete", "truncate" or "auto"; *truncate_above* the bytes a table from which "auto" truncates. With a
    *baseline* its rows are put back, and the sequences to where they were then; *differing* are the tables of the baseline
    that were found not to be as they were (None: any may be); *restoration* says how their rows are put back. As the others may
    have been written to since, they are compared under the locks; not where *restoration* is DIFFERENCES, for a plan to be read.
    *new_tables* came after the baseline: "auto" truncates those that stand alone.
    Raises :class:`ResetError` if truncation was asked for and a table that stays references one that goes, and
    :class:`MissingPrivilegeError`. Cost: O(tables + foreign keys of the written tables).
    """
    restorable = frozenset(baseline.tables if baseline is not None else ()) & scope.tables
    written = frozenset(observation.sizes) & scope.tables
    found = written if differing is None else (written - restorable) | (differing & restorable)
    if differing is not None and restoration is Restoration.DIFFERENCES:
        written = found
    elif not observation.is_precise:
        # A table with a baseline may have lost all its rows, and has no size then.
        written |= restorable
        if differing is None:
            found = written
    if restoration is Restoration.ANEW:
        found |= _dependents(schema, found & restorable) & scope.tables
        written |= found
    _check_privileges(observation, written | scope.sequences)
    sizes = {**observation.sizes, **_grown(baseline, observation.sizes)}
    truncated = choose_truncations(schema, scope.tables, written, sizes, strategy, truncate_above)
    refused = find_refused(schema, scope.tables, written, restorable)
    if strategy == "auto" and not refused:
        truncated |= choose_new(schema, scope.tables, written & new_tables)
    truncated |= refused
    filled = (written | truncated) & restorable
    _check_switchable(observation, schema, filled)
    deletes = tuple(_deletions(schema, graph, written - truncated - filled))
    steps, tied = _tie(schema, graph, deletes, filled, restoration, found | truncated)
    may_refill = _may_refill(schema, deletes)
    # A trigger that fires meanwhile may move any sequence.
    moved = scope.sequences if may_refill else _moved(observation, baseline) & scope.sequences
    return ResetPlan(
        steps=(
            *_truncation(graph, truncated, strategy, refused),
            *steps,
            *tied,
            *(Step(action=Action.RESTART, names=(name,)) for name in sorted(moved)),
        ),
        checks=tuple(_checks(schema, scope, observation, written | truncated)),
        verify=tuple(sorted((scope.tables - filled) & _storing(schema))) if may_refill else (),
        kept=scope.kept,
        stale_views=tuple(view.name for view in schema.materialized_views if (written | truncated) & set(view.tables)),
    )


def _grown(baseline: Baseline | None, sizes: Mapping[QualifiedName, int]) -> dict[QualifiedName, int]:
    """Return, for tables with a baseline, how much larger they are than their copy with room for an update of each row."""
    tables = baseline.tables.values() if baseline is not None else ()
    return {table.name: sizes.get(table.name, 0) - 2 * sizes.get(table.copy, 0) for table in tables}


def _moved(observation: Observation, baseline: Baseline | None) -> frozenset[QualifiedName]:
    """Return the sequences that are not where they belong: at the baseline's state, else at their start."""
    states = observation.states
    if baseline is None or observation.is_precise:
        return frozenset(states)
    there = {name for name, state in states.items() if state is None or state != baseline.sequences.get(name)}
    return frozenset(there | (baseline.sequences.keys() - states.keys()))


def _dependents(schema: Schema, names: Iterable[QualifiedName]) -> frozenset[QualifiedName]:
    """Return *names* and all tables that reference them, directly or not."""
    found = set(names)
    work = list(found)
    while work:
        for key in schema.referencing.get(work.pop(), ()):
            if key.table not in found:
                found.add(key.table)
                work.append(key.table)
    return frozenset(found)


def _tie(
    schema: Schema,
    graph: DependencyGraph[QualifiedName],
    deletes: tuple[Step, ...],
    restored: frozenset[QualifiedName],
    restoration: Restoration,
    found: frozenset[QualifiedName],
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Split into deletions of their own, and restorations with the deletions that keys tie to them.

    What was *found* to differ is restored by *restoration*, and what was not by its differences.
    """
    if not restored:
        return deletes, ()
    order = {name: number for number, name in enumerate(graph.deletion_order())}
    everything = restored | {name for step in deletes for name in step.names}
    anew: tuple[Step, ...] = ()
    if restoration is Restoration.ANEW:
        stored = [name for name in everything if name in found and schema.by_name[name].stores_rows]
        names = tuple(sorted(stored, key=order.__getitem__))
        anew = (Step(action=Action.RESTORE, names=names, rewrites=True, reason="put in anew"),) if names else ()
        deletes, everything = (), restored - found
    groups = [
        tuple(sorted(group, key=order.__getitem__)) for group in tied_groups(schema, everything) if restored & group
    ]
    tied = {name for group in groups for name in group}
    steps = tuple(step for step in deletes if tied.isdisjoint(step.names))
    left = [name for step in deletes if not tied.isdisjoint(step.names) for name in step.names if name not in tied]
    steps += tuple(Step(action=Action.DELETE, names=(name,)) for name in left)
    restores = (
        Step(
            action=Action.RESTORE,
            names=group,
            reason="tied by foreign keys: one statement" if len(group) > 1 else "",
            in_passes=restoration is Restoration.IN_PASSES and not found.isdisjoint(group),
        )
        for group in sorted(groups, key=lambda group: order[group[0]])
    )
    return steps, (*anew, *restores)


def _check_privileges(observation: Observation, wanted: frozenset[QualifiedName]) -> None:
    missing = {str(name): lacks for name, lacks in sorted(observation.missing.items()) if name in wanted}
    if missing:
        listed = ", ".join(f"{lacks} on {name}" for name, lacks in missing.items())
        raise MissingPrivilegeError(
            f'The role "{observation.identity.user}" cannot reset database "{observation.identity.name}": it lacks {listed}. '
            "Nothing was changed. Grant it, connect as the owner of the tables, or exclude them.",
            missing=missing,
        )


def _check_switchable(observation: Observation, schema: Schema, restored: frozenset[QualifiedName]) -> None:
    """Raise where a trigger or a rule would meddle with rows that are put back, and this role may not switch it off."""
    events = ("DELETE", "UPDATE", "INSERT")
    missing = {
        str(table.name): "ownership"
        for table in (schema.by_name[name] for name in sorted(restored))
        if not table.owned
        and (
            any(trigger.fires_on(event) for trigger in table.triggers for event in events)
            or any(rule.event in events and rule.enabled in {"origin", "always"} for rule in table.rules)
        )
    }
    if missing:
        raise MissingPrivilegeError(
            f'The role "{observation.identity.user}" cannot restore {", ".join(missing)} in database '
            f'"{observation.identity.name}": it may not switch off the triggers and rules there, which would change or copy the '
            "rows. Nothing was changed. Connect as the owner, or exclude the tables.",
            missing=missing,
        )


def _storing(schema: Schema) -> frozenset[QualifiedName]:
    return frozenset(table.name for table in schema.tables if table.stores_rows)


def _checks(
    schema: Schema, scope: Scope, observation: Observation, emptied: frozenset[QualifiedName]
) -> Iterator[ForeignKey]:
    """Yield the keys by which a table that stays, and may hold rows, references one that goes."""
    for name in sorted(emptied):
        for key in schema.referencing.get(name, ()):
            may_hold_rows = observation.is_precise or key.table in observation.sizes
            if key.table not in scope.tables and may_hold_rows:
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
    graph: DependencyGraph[QualifiedName],
    truncated: frozenset[QualifiedName],
    strategy: str,
    refused: frozenset[QualifiedName],
) -> Iterator[Step]:
    if truncated:
        names = tuple(name for name in graph.deletion_order() if name in truncated)
        reason = "large or slow to delete, with all that references it, or new since the baseline"
        reason = "asked for" if strategy == "truncate" else reason
        if refused and strategy != "truncate":
            only = "a publication refuses DELETE, or another access method stores the rows"
            reason = only if refused == truncated else f"{reason}; {only}"
        # Where there is no other way, the lock is waited for.
        yield Step(action=Action.TRUNCATE, names=names, reason=reason, waits=strategy == "truncate" or bool(refused))


def _may_refill(schema: Schema, deletes: Iterable[Step]) -> bool:
    """Whether something that cannot be switched off may write rows, or keep them, while the tables are emptied."""
    for step in deletes:
        for name in step.names:
            events = {name: {"DELETE"}}
            for key in schema.referencing.get(name, ()):
                events.setdefault(key.table, set()).update(events_of_action(key, step.action))
            for table in (schema.by_name[other] for other in events):
                fires = any(trigger.fires_on(event) for trigger in table.triggers for event in events[table.name])
                rewrites = any(rule.event in events[table.name] for rule in table.rules)
                if (fires or rewrites) and (not table.owned or schema.has_ddl_event_triggers):
                    return True
    return False
