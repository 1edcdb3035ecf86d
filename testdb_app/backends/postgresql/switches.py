"""What would fire on, hide from or rewrite the statements of a reset: switched off for its transaction, and back as it was.

Pure. Only the owner of a table may do that; for a role that is not, the plan looks at the tables once more instead.
"""

from __future__ import annotations

from collections.abc import Sequence as Many

from testdb_app.backends.base import Action, Step
from testdb_app.backends.postgresql.quoting import quote
from testdb_app.schema import Schema, Table

BY_ROW = frozenset({Action.DELETE, Action.RESTORE})
"""The actions that go row by row, and fire and obey what is tied to rows."""

_ENABLE = {"origin": "ENABLE", "always": "ENABLE ALWAYS"}


def needs_exclusive(table: Table, events: frozenset[str]) -> bool:
    """Whether switching for *events* takes a lock that readers wait for, too."""
    return table.owned and (
        table.hides_rows or any(_fires(rule.enabled) for rule in table.rules if rule.event in events)
    )


def events_of(step: Step) -> frozenset[str]:
    """What the step does to a table, as triggers and rules call it."""
    if step.action is Action.RESTORE:
        return frozenset({"DELETE", "UPDATE", "INSERT"})
    return frozenset({step.action.value.upper()})


def _fires(enabled: str) -> bool:
    return enabled in _ENABLE


def switches(schema: Schema, steps: Many[Step]) -> tuple[list[str], list[str]]:
    """Return what to switch off before the rows go, and what puts it back exactly as it was."""
    off: list[str] = []
    on: list[str] = []
    for step in steps:
        if step.action is Action.RESTART:
            continue
        events = events_of(step)
        for name in step.names:
            table = schema.by_name[name]
            if not table.owned:
                continue
            switches = [
                (
                    f"DISABLE TRIGGER {quote(trigger.name)}",
                    f"{_ENABLE[trigger.enabled]} TRIGGER {quote(trigger.name)}",
                )
                for trigger in table.triggers
                if any(trigger.fires_on(event) for event in events)
            ]
            if step.action in BY_ROW:
                switches += [
                    (f"DISABLE RULE {quote(rule.name)}", f"{_ENABLE[rule.enabled]} RULE {quote(rule.name)}")
                    for rule in table.rules
                    if rule.event in events and _fires(rule.enabled)
                ]
                if table.hides_rows and table.row_security_forced:
                    switches.append(("NO FORCE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY"))
            if switches:
                off.append(f"ALTER TABLE ONLY {quote(name)} " + ", ".join(switch[0] for switch in switches))
                on.append(f"ALTER TABLE ONLY {quote(name)} " + ", ".join(switch[1] for switch in switches))
    return off, on
