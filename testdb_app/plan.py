"""The plan of a reset: from the schema, the scope and the state of the database to ordered steps.

The scope depends on the schema and the options alone: which tables may be emptied, which stay and why, and which
sequences are restarted. The plan narrows it to the state: tables that may have rows, and sequences that have moved.

TRUNCATE is used instead of DELETE for tables that

- are large, or slow to delete from;
- a test created and left;
- have a publication because of which the server refuses DELETE;
- have their rows stored by another access method than the default one.

TRUNCATE must name all tables that reference the truncated ones, empty or not. CASCADE would include them silently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from testdb_app.backends.base import Action, DatabaseState, Restoration, Step
from testdb_app.backends.base import ResetPlan as ResetPlan  # noqa: PLC0414 - this is its public path
from testdb_app.baseline_state import Baseline
from testdb_app.exceptions import ExclusionError, MissingPrivilegeError, PublicationError, ResetError, StorageError
from testdb_app.graph import DependencyGraph, events_of_action, tied_groups
from testdb_app.schema import HEAP, ForeignKey, QualifiedName, Schema, Table, TableKind, show_part
from testdb_app.selection import Scope


def plan_reset(
    schema: Schema,
    graph: DependencyGraph[QualifiedName],
    scope: Scope,
    observation: DatabaseState,
    *,
    strategy: str,
    truncate_above: int,
    baseline: Baseline | None = None,
    differing: frozenset[QualifiedName] | None = None,
    restoration: Restoration = Restoration.DIFFERENCES,
    new_tables: frozenset[QualifiedName] = frozenset(),
) -> ResetPlan:
    """Plan to empty the tables in *scope* that may have rows, and to restart the sequences that have moved.

    Parameters:

    - *strategy*: "delete", "truncate" or "auto".
    - *truncate_above*: bytes; "auto" truncates a table that is larger.
    - *baseline*: its rows are restored, and its sequences set to their state in it.
    - *differing*: the tables known to differ from the baseline; None if any may. Others may have been written to
      since, so they are compared under the locks. They are left out if *restoration* is DIFFERENCES: that plan is
      only read.
    - *restoration*: how rows are restored.
    - *new_tables*: tables created after the baseline; "auto" truncates those that stand alone.

    Raises :class:`ResetError` for a required truncation if a table that stays references a truncated one, and
    :class:`MissingPrivilegeError`. Cost: O(tables + foreign keys of the written tables).
    """
    # After a full scan these are the tables that may have rows, written to or not.
    written = frozenset(observation.sizes) & scope.tables
    in_baseline = baseline.tables if baseline is not None else {}
    # Of a precise observation, which comes between two tests, nothing is looked at but what it names.
    restorable = frozenset(written if observation.is_precise else scope.tables) & in_baseline.keys()
    found = written if differing is None else (written - restorable) | (differing & restorable)
    if differing is not None and restoration is Restoration.DIFFERENCES:
        written = found
    elif not observation.is_precise:
        # A table with a baseline may have lost all its rows. It has no size then.
        written |= restorable
        if differing is None:
            found = written
    if restoration is Restoration.ANEW:
        found |= _dependents(schema, found & restorable) & scope.tables
        written |= found
    if observation.missing:
        _check_privileges(observation, written | scope.sequences)
    sizes = {**observation.sizes, **_grown(baseline, observation.sizes)}
    truncated = choose_truncations(schema, scope.tables, written, sizes, strategy, truncate_above)
    refused = find_refused(schema, scope.tables, written, in_baseline)
    if strategy == "auto" and not refused:
        truncated |= choose_new(schema, scope.tables, written & new_tables)
    truncated |= refused
    filled = (written | truncated) & in_baseline.keys()
    _check_switchable(observation, schema, filled)
    deletes = tuple(_deletions(schema, graph, written - truncated - filled))
    steps, tied = _tie(schema, graph, deletes, filled, restoration, found | truncated)
    truncations = tuple(_truncation(graph, truncated, strategy, refused))
    may_refill = _may_refill(schema, (*truncations, *deletes))
    # A trigger that fires meanwhile may move any sequence.
    moved = scope.sequences if may_refill else _moved(observation, baseline) & scope.sequences
    return ResetPlan(
        steps=(
            *truncations,
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
    """Return for each table with a baseline its growth: its size less its copy's, with room for an update of each row."""
    tables = baseline.tables if baseline is not None else {}
    return {name: size - 2 * sizes.get(tables[name].copy, 0) for name, size in sizes.items() if name in tables}


def _moved(observation: DatabaseState, baseline: Baseline | None) -> frozenset[QualifiedName]:
    """Return the sequences that are not in the baseline's state, or not at their start if there is no baseline."""
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
    """Return separate deletions, and restorations together with the deletions that foreign keys tie to them.

    Tables in *found* differ and are restored by *restoration*; the others are restored by their differences.
    """
    if not restored:
        return deletes, ()
    everything = restored | {name for step in deletes for name in step.names}
    anew: tuple[Step, ...] = ()
    if restoration is Restoration.ANEW:
        stored = [name for name in everything if name in found and schema.by_name[name].stores_rows]
        names = graph.sort(stored)
        anew = (Step(action=Action.RESTORE, names=names, rewrites=True, reason="inserted again"),) if names else ()
        deletes, everything = (), restored - found
    groups = {
        group[0]: group for each in tied_groups(schema, everything) if restored & each if (group := graph.sort(each))
    }
    tied = {name for group in groups.values() for name in group}
    steps = tuple(step for step in deletes if tied.isdisjoint(step.names))
    left = [name for step in deletes if not tied.isdisjoint(step.names) for name in step.names if name not in tied]
    steps += tuple(Step(action=Action.DELETE, names=(name,)) for name in left)
    restores = (
        Step(
            action=Action.RESTORE,
            names=groups[first],
            reason="tied by foreign keys: one statement" if len(groups[first]) > 1 else "",
            in_passes=restoration is Restoration.IN_PASSES and not found.isdisjoint(groups[first]),
        )
        for first in graph.sort(groups)
    )
    return steps, (*anew, *restores)


def _check_privileges(observation: DatabaseState, wanted: frozenset[QualifiedName]) -> None:
    missing = {str(name): lacks for name, lacks in sorted(observation.missing.items()) if name in wanted}
    if missing:
        listed = ", ".join(f"{lacks} on {name}" for name, lacks in missing.items())
        raise MissingPrivilegeError(
            f'The role "{observation.identity.user}" cannot reset database "{observation.identity.name}": it lacks {listed}. '
            "Nothing was changed. Grant the privileges, connect as the owner of the tables, or exclude the tables.",
            missing=missing,
        )


def _check_switchable(observation: DatabaseState, schema: Schema, restored: frozenset[QualifiedName]) -> None:
    """Raise if a trigger or a rule would affect the restored rows and this role may not switch it off."""
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
            f'"{observation.identity.name}": it may not switch off their triggers and rules, which would change or copy the '
            "rows. Nothing was changed. Connect as the owner, or exclude the tables.",
            missing=missing,
        )


def _storing(schema: Schema) -> frozenset[QualifiedName]:
    return frozenset(table.name for table in schema.tables if table.stores_rows)


def _checks(
    schema: Schema, scope: Scope, observation: DatabaseState, emptied: frozenset[QualifiedName]
) -> Iterator[ForeignKey]:
    """Yield the keys by which a table that stays, and may have rows, references an emptied table."""
    for name in sorted(emptied):
        for key in schema.referencing.get(name, ()):
            may_hold_rows = observation.is_precise or key.table in observation.sizes
            if key.table not in scope.tables and may_hold_rows:
                yield key


def _deletions(
    schema: Schema, graph: DependencyGraph[QualifiedName], names: frozenset[QualifiedName]
) -> Iterator[Step]:
    for members in graph.sort_groups(names):
        yield Step(action=Action.DELETE, names=members, reason=_why_delete_so(schema, members))


def _why_delete_so(schema: Schema, members: tuple[QualifiedName, ...]) -> str:
    reasons = ["a cycle of foreign keys: one statement"] if len(members) > 1 else []
    if schema.inert.issuperset(members):
        return "; ".join(reasons)
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
        reason = "requested" if strategy == "truncate" else reason
        if refused and strategy != "truncate":
            only = "a publication refuses DELETE, or another access method stores the rows"
            reason = only if refused == truncated else f"{reason}; {only}"
        # Wait for the lock only where no other way exists.
        yield Step(action=Action.TRUNCATE, names=names, reason=reason, waits=strategy == "truncate" or bool(refused))


def _may_refill(schema: Schema, steps: Iterable[Step]) -> bool:
    """Whether something that cannot be switched off may write or keep rows while *steps* empty the tables."""
    for step in steps:
        for name in step.names:
            if name in schema.inert:
                continue
            events = {name: {step.action.value.upper()}}
            # TRUNCATE fires no action of a key.
            for key in schema.referencing.get(name, ()) if step.action is Action.DELETE else ():
                events.setdefault(key.table, set()).update(events_of_action(key))
            for table in (schema.by_name[other] for other in events):
                fires = any(trigger.fires_on(event) for trigger in table.triggers for event in events[table.name])
                rewrites = any(rule.event in events[table.name] for rule in table.rules)
                if (fires or rewrites) and (not table.owned or schema.has_ddl_event_triggers):
                    return True
    return False


_BYTES_A_PAGE = 8192
_BYTES_A_ROW = 80
# Pages read for deleted rows: 1.4 to 1.6 microseconds each, measured, so about 20 ms. A truncation of some tables costs as much.
_SLOW_CHECKS = 12_500


def choose_truncations(
    schema: Schema,
    scope: frozenset[QualifiedName],
    written: frozenset[QualifiedName],
    sizes: Mapping[QualifiedName, int],
    strategy: str,
    truncate_above: int,
) -> frozenset[QualifiedName]:
    """Return the tables of *written* to truncate, with all tables of *scope* that reference them.

    Parameters: *sizes*, bytes of the written tables; *strategy*, "delete", "truncate" or "auto"; *truncate_above*,
    bytes a table. Raises :class:`ResetError` for a required truncation if a table that stays references a truncated
    one.
    """
    if strategy == "delete" or schema.vendor != "postgresql":
        return frozenset()
    if strategy == "truncate":
        closure = _truncation_closure(schema, written)
        _check_closure(schema, scope, closure)
        return closure
    chosen: set[QualifiedName] = set()
    for name in sorted(written):
        is_large = sizes.get(name, 0) > truncate_above
        is_slow = _is_slow_to_check(schema, name, sizes)
        if name in chosen or not (is_large or is_slow):
            continue
        closure = _truncation_closure(schema, {name})
        size = sum(sizes.get(member, 0) for member in closure)
        if closure <= scope and (is_slow or size > truncate_above * len(closure)):
            chosen |= closure
    return frozenset(chosen)


def choose_new(
    schema: Schema, scope: frozenset[QualifiedName], written: frozenset[QualifiedName]
) -> frozenset[QualifiedName]:
    """Return the tables of *written*, left by a test, to truncate: they and the tables that reference them are plain.

    A table keeps its pages after a DELETE. Each later full scan would find it again, and delete from it again.
    """
    if schema.vendor != "postgresql":
        return frozenset()
    plain = frozenset(name for name in written if name in scope and _is_plain(schema.by_name[name]))
    chosen: set[QualifiedName] = set()
    for name in sorted(plain):
        closure = _truncation_closure(schema, {name})
        if closure <= plain:
            chosen |= closure
    return frozenset(chosen)


def _is_plain(table: Table) -> bool:
    """Whether a truncation has exactly the effect of a DELETE of all rows, and this role may do it."""
    return (
        table.owned
        and table.kind is TableKind.ORDINARY
        and not (table.inherits or table.triggers or table.rules or table.hides_rows)
        and table.extension is None
        and table.replica_identity is None
        and table.access_method == HEAP
    )


def find_refused(
    schema: Schema,
    scope: frozenset[QualifiedName],
    written: frozenset[QualifiedName],
    restorable: Collection[QualifiedName],
) -> frozenset[QualifiedName]:
    """Return the tables of *written* that only TRUNCATE can empty, with all tables that reference them.

    There are two causes. A publication makes the server refuse DELETE, or UPDATE, which restores rows of *restorable*
    tables. Or another access method stores the rows. Nothing shows whether such a table was written to, so all of
    them in *scope* are returned.

    Raises :class:`PublicationError` or :class:`StorageError` if TRUNCATE would need a table outside of *scope*, or a
    privilege that the role lacks. Cost: nothing without such a publication or table.
    """
    if not (schema.refusing or schema.outside_heap):
        return frozenset()
    written |= schema.outside_heap & scope
    causes = _find_causes(schema)
    found: set[QualifiedName] = set()
    for name in sorted(written):
        events = {"DELETE", "UPDATE"} if name in restorable else {"DELETE"}
        cause = next((causes[name, event] for event in sorted(events) if (name, event) in causes), None)
        if cause is not None and name not in found:
            closure = _truncation_closure(schema, {name})
            _check_truncatable(schema, scope, name, cause, closure)
            found |= closure
    return frozenset(found)


def check_deletable(schema: Schema, names: Iterable[QualifiedName]) -> None:
    """Raise :class:`PublicationError` if a publication makes the server refuse to delete rows of *names* in any way."""
    causes = _find_causes(schema) if schema.refusing else {}
    for name in sorted(names):
        cause = causes.get((name, "DELETE"))
        if cause is not None and cause.replica_identity is not None:
            raise _refused_by_publication(name, cause, "")


def check_storage(schema: Schema, scope: frozenset[QualifiedName]) -> None:
    """Raise :class:`StorageError` for tables of *scope* whose rows an extension stores where no reset reliably reaches them."""
    found = [table for table in schema.tables if table.stored_by is not None and table.name in scope]
    if found:
        raise StorageError(
            f"The rows of {', '.join(f'{table.name} ({table.stored_by})' for table in found[:5])}"
            f"{f' and {len(found) - 5} more tables' if len(found) > 5 else ''} are not in this server's own tables, and this "
            'version cannot restore them. Nothing was changed. Exclude them from resets, in TESTDB["EXCLUDE"], and empty '
            "them in the tests that write to them; or leave the tables undistributed and uncompressed in the test database.",
            tables=[str(table.name) for table in found],
        )


def _find_causes(schema: Schema) -> dict[tuple[QualifiedName, str], Table]:
    """Return the events that the server refuses, by table, each with the published table that is the cause.

    The server also refuses to delete or update a row if a foreign key would delete or change rows of a table that
    refuses.
    """
    causes = {(table.name, event): table for table in schema.refusing for event in table.refused}
    causes |= {(name, event): schema.by_name[name] for name in schema.outside_heap for event in ("DELETE", "UPDATE")}
    keys: dict[QualifiedName, list[ForeignKey]] = {}
    for key in schema.foreign_keys:
        if key.on_delete.changes_rows or key.on_update.changes_rows:
            keys.setdefault(key.table, []).append(key)
    work = sorted(causes)
    while work:
        name, event = work.pop()
        table = schema.by_name[name]
        # Foreign keys query the partitioned table, and the server then checks every partition.
        reached_at: list[tuple[QualifiedName, str]] = [(above, event) for above in table.inherits if table.is_partition]
        for key in keys.get(name, ()):
            reached = {"DELETE"} if event in events_of_action(key) else set()
            if event == "UPDATE" and key.on_update.changes_rows:
                reached.add("UPDATE")
            reached_at += sorted((key.referenced, each) for each in reached)
        for above in reached_at:
            if above not in causes and above[0] in schema.by_name:
                causes[above] = causes[name, event]
                work.append(above)
    return causes


def _check_truncatable(
    schema: Schema,
    scope: frozenset[QualifiedName],
    name: QualifiedName,
    cause: Table,
    closure: frozenset[QualifiedName],
) -> None:
    tables = [schema.by_name[member] for member in sorted(closure)]
    staying = [str(table.name) for table in tables if table.name not in scope]
    lacking = [
        str(table.name)
        for table in tables
        if not table.owned and not (table.replica_identity is not None and table.replica_identity.may_truncate)
    ]
    if staying:
        why = f"it would need {', '.join(staying)} too, which stays and references it"
    elif lacking:
        why = f"the role may not TRUNCATE {', '.join(lacking)}"
    else:
        return
    if cause.access_method != HEAP:
        raise StorageError(
            f"The rows of {cause.name} are stored by the access method {show_part(cause.access_method)}, which testdb_app "
            f"trusts only with TRUNCATE. But TRUNCATE cannot empty {name}: {why}. Nothing was changed. Reset these tables "
            f'together, as their owner, or exclude {name} from resets, in TESTDB["EXCLUDE"].',
            tables=[str(name)],
        )
    raise _refused_by_publication(name, cause, f" TRUNCATE does not help: {why}.")


def _refused_by_publication(name: QualifiedName, cause: Table, truncate: str) -> PublicationError:
    assert cause.replica_identity is not None
    publications = ", ".join(map(show_part, cause.replica_identity.publications))
    through = "" if cause.name == name else f", because a foreign key would write to {cause.name} with it"
    return PublicationError(
        f"The server refuses to delete rows of {name}{through}: a subscriber of the publication {publications} could not "
        f"identify the rows of {cause.name}.{truncate} Nothing was changed. Give {cause.name} a primary key "
        f"that the publication publishes, or ALTER TABLE {cause.name} REPLICA IDENTITY FULL and have all its columns published; "
        f'or DROP PUBLICATION {publications} in the test database; or exclude {name} from resets, in TESTDB["EXCLUDE"].',
        publications=list(cause.replica_identity.publications),
        tables=[str(name)],
    )


def _is_slow_to_check(schema: Schema, name: QualifiedName, sizes: Mapping[QualifiedName, int]) -> bool:
    """Whether the checks of foreign keys would make a DELETE of the table slow.

    For each deleted row PostgreSQL searches for rows that refer to it. Without an index it reads the whole
    referencing table, whose rows are dead by then but still stored.
    """
    rows = sizes.get(name, 0) / _BYTES_A_ROW
    pages = sum(sizes.get(key.table, 0) / _BYTES_A_PAGE for key in schema.referencing.get(name, ()) if not key.indexed)
    return rows * pages > _SLOW_CHECKS


def _truncation_closure(schema: Schema, names: Iterable[QualifiedName]) -> frozenset[QualifiedName]:
    """Return what one TRUNCATE of *names* must name: all tables that reference them, and the partitions of those."""
    found = set(names)
    work = list(found)
    # TRUNCATE also respects keys that are not enforced.
    unenforced = [key for key in schema.foreign_keys if not key.enforced]
    while work:
        name = work.pop()
        following = [key.table for key in schema.referencing.get(name, ())]
        following += [key.table for key in unenforced if key.referenced == name]
        following += schema.partitions.get(name, ())
        for other in following:
            if other not in found:
                found.add(other)
                work.append(other)
    return frozenset(found)


def _check_closure(schema: Schema, scope: frozenset[QualifiedName], closure: frozenset[QualifiedName]) -> None:
    for name in sorted(closure - scope):
        keys = [key for key in schema.foreign_keys if key.table == name and key.referenced in closure]
        path = f" by {keys[0]}" if keys else ""
        raise ResetError(
            f"TRUNCATE cannot empty the tables in scope without {name}, which stays and references them{path}. Nothing was "
            "changed. Use the strategy delete or auto, or reset that table too."
        )


def check_references(schema: Schema, scope: Scope, keys: Sequence[ForeignKey], counts: Sequence[int]) -> None:
    """Raise :class:`ExclusionError` if a row of a table that stays refers to an emptied table.

    Parameters: *keys*, and in *counts* the number of rows that refer by each. The message names each such key and its
    rows. It also names the further tables that stay and depend on it: the same reset would have to include them.
    """
    violated = [(key, count) for key, count in zip(keys, counts, strict=True) if count]
    if not violated:
        return
    lines = [f"  {key}: {count} row(s)" for key, count in violated]
    tables = {key.table for key, _ in violated}
    behind = _staying_dependents(schema, scope, tables)
    lines += [f"  behind it: {key}" for key in behind]
    names = ", ".join(str(name) for name in sorted(tables | {key.table for key in behind}))
    gone = ", ".join(str(name) for name in sorted({key.referenced for key, _ in violated}))
    raise ExclusionError(
        "Rows that stay refer to rows that would be deleted:\n"
        + "\n".join(lines)
        + f"\nNothing was changed. Reset {names} too, or keep {gone} as well.",
        references=[(str(key), count) for key, count in violated],
    )


def _staying_dependents(schema: Schema, scope: Scope, tables: Iterable[QualifiedName]) -> list[ForeignKey]:
    """Return the keys, breadth first, by which further tables that stay depend on *tables*."""
    found: list[ForeignKey] = []
    seen = set(tables)
    work = sorted(seen)
    while work:
        following: list[QualifiedName] = []
        for name in work:
            for key in schema.referencing.get(name, ()):
                if key.table not in scope.tables and key.table not in seen and not key.inherited:
                    seen.add(key.table)
                    following.append(key.table)
                    found.append(key)
        work = following
    return found
