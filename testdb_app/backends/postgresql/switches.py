"""What would fire on, hide from or rewrite the statements of a reset: switched off for its transaction, and back as it was.

Pure. Only the owner of a table may do that; for a role that is not, the plan looks at the tables once more instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many

from testdb_app.backends.base import Action, Step
from testdb_app.backends.postgresql.quoting import quote
from testdb_app.graph import events_of_action
from testdb_app.schema import QualifiedName, Schema, Table

BY_ROW = frozenset({Action.DELETE, Action.RESTORE})
"""The actions that go row by row, and fire and obey what is tied to rows."""

_ENABLE = {"origin": "ENABLE", "always": "ENABLE ALWAYS"}


def needs_exclusive(table: Table, events: frozenset[str]) -> bool:
    """Whether switching for *events* takes a lock that readers wait for, too."""
    return table.owned and (
        table.hides_rows
        or _needs_identity(table, events)
        or any(_fires(rule.enabled) for rule in table.rules if rule.event in events)
    )


def events_of(step: Step) -> frozenset[str]:
    """What the step does to a table, as triggers and rules call it."""
    if step.action is Action.RESTORE:
        return frozenset({"DELETE", "UPDATE", "INSERT"})
    return frozenset({step.action.value.upper()})


def _needs_identity(table: Table, events: Iterable[str]) -> bool:
    """Whether the server refuses these events as long as the table has no other replica identity."""
    identity = table.replica_identity
    return identity is not None and identity.clause is not None and not identity.refused.isdisjoint(events)


def _fires(enabled: str) -> bool:
    return enabled in _ENABLE


def switches(schema: Schema, steps: Many[Step]) -> tuple[list[str], list[str]]:
    """Return what to switch off before the rows go, and what puts it back exactly as it was."""
    off: list[str] = []
    on: list[str] = []
    by_row = {name for step in steps if step.action in BY_ROW for name in step.names}
    for name, events in _events_by_table(schema, steps).items():
        table = schema.by_name[name]
        pairs = dict(_switches_of(table, events)) if table.owned else {}
        if table.owned and name in by_row and table.hides_rows and table.row_security_forced:
            pairs["NO FORCE ROW LEVEL SECURITY"] = "FORCE ROW LEVEL SECURITY"
        if pairs:
            off.append(f"ALTER TABLE ONLY {quote(name)} {', '.join(pairs)}")
            on.append(f"ALTER TABLE ONLY {quote(name)} {', '.join(pairs.values())}")
    return off, on


def accept_deletes(schema: Schema, names: Iterable[QualifiedName]) -> tuple[list[str], list[str]]:
    """Return what has the server delete from published tables without a key, and what gives them their identity back."""
    tables = sorted({*names, *(below for name in names for below in _partitions_below(schema, name))})
    steps = [Step(action=Action.DELETE, names=(name,)) for name in tables]
    found = [
        schema.by_name[name]
        for name, events in _events_by_table(schema, steps).items()
        if schema.by_name[name].owned and _needs_identity(schema.by_name[name], events)
    ]
    return (
        [f"ALTER TABLE ONLY {quote(table.name)} REPLICA IDENTITY FULL" for table in found],
        [
            f"ALTER TABLE ONLY {quote(table.name)} REPLICA IDENTITY {table.replica_identity.clause}"
            for table in found
            if table.replica_identity is not None
        ],
    )


def _events_by_table(schema: Schema, steps: Many[Step]) -> dict[QualifiedName, set[str]]:
    found: dict[QualifiedName, set[str]] = {}
    for step in steps:
        if step.action is Action.RESTART:
            continue
        # The queries of foreign keys go to the partitioned table, and obey its rules.
        for name in (*step.names, *_partitioned_above(schema, step.names)):
            found.setdefault(name, set()).update(events_of(step))
        if step.action in BY_ROW:
            for name in step.names:
                for key in schema.referencing.get(name, ()):
                    if events := events_of_action(key, step.action):
                        found.setdefault(key.table, set()).update(events)
                        # Its query goes to the partitioned table, and the server asks every partition for its identity.
                        for below in _partitions_below(schema, key.table):
                            if schema.by_name[below].replica_identity is not None:
                                found.setdefault(below, set()).update(events)
    return found


def _switches_of(table: Table, events: set[str]) -> Iterator[tuple[str, str]]:
    for trigger in table.triggers:
        if any(trigger.fires_on(event) for event in events):
            yield f"DISABLE TRIGGER {quote(trigger.name)}", f"{_ENABLE[trigger.enabled]} TRIGGER {quote(trigger.name)}"
    for rule in table.rules:
        if rule.event in events and _fires(rule.enabled):
            yield f"DISABLE RULE {quote(rule.name)}", f"{_ENABLE[rule.enabled]} RULE {quote(rule.name)}"
    if table.replica_identity is not None and _needs_identity(table, events):
        yield "REPLICA IDENTITY FULL", f"REPLICA IDENTITY {table.replica_identity.clause}"


def _partitions_below(schema: Schema, name: QualifiedName) -> list[QualifiedName]:
    """Return the partitions of a table, at every level."""
    found: list[QualifiedName] = []
    work = [name]
    while work:
        below = schema.partitions.get(work.pop(), ())
        found += below
        work += below
    return sorted(found)


def _partitioned_above(schema: Schema, names: Many[QualifiedName]) -> list[QualifiedName]:
    """Return the tables that *names* are partitions of, at every level."""
    found: list[QualifiedName] = []
    work = [name for name in names if schema.by_name[name].is_partition]
    while work:
        for above in schema.by_name[work.pop()].inherits:
            if above in schema.by_name and above not in found:
                found.append(above)
                work.append(above)
    return sorted(found)
