"""What foreign keys do by themselves, and which tables they tie together, so that one statement must restore them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from testdb_app.backends.base import Action
from testdb_app.schema import ForeignKey, OnDelete, QualifiedName, Schema


def is_immediate(key: ForeignKey) -> bool:
    """Whether the key is checked at the end of each statement: RESTRICT is, also where the key is deferrable."""
    return not key.deferrable or key.on_delete is OnDelete.RESTRICT


def events_of_action(key: ForeignKey, action: Action) -> frozenset[str]:
    """Return what the key's own actions do to its table when rows of the referenced one are deleted or restored.

    They are statements of their own, which fire triggers for each statement also where they find no row.
    """
    events = set()
    if key.on_delete.changes_rows:
        events.add("DELETE" if key.on_delete is OnDelete.CASCADE else "UPDATE")
    if action is Action.RESTORE and key.on_update.changes_rows:
        events.add("UPDATE")
    return frozenset(events)


def tied_groups(schema: Schema, names: Iterable[QualifiedName]) -> list[frozenset[QualifiedName]]:
    """Return *names* in groups: two are in one if immediate foreign keys connect them, directly or through others of them.

    A key of a partitioned table, or to one, ties its partitions. Cost: O(names + their foreign keys).
    """
    wanted = set(names)
    neighbours: dict[QualifiedName, set[QualifiedName]] = {name: set() for name in wanted}
    for key in schema.enforced_foreign_keys:
        if is_immediate(key):
            ends = [*_stored(schema, key.table, wanted), *_stored(schema, key.referenced, wanted)]
            for end in ends[1:]:
                neighbours[ends[0]].add(end)
                neighbours[end].add(ends[0])
    groups: list[frozenset[QualifiedName]] = []
    seen: set[QualifiedName] = set()
    for name in sorted(wanted):
        if name in seen:
            continue
        group = {name}
        work = [name]
        while work:
            for other in neighbours[work.pop()] - group:
                group.add(other)
                work.append(other)
        seen |= group
        groups.append(frozenset(group))
    return groups


def _stored(schema: Schema, name: QualifiedName, wanted: set[QualifiedName]) -> list[QualifiedName]:
    """Return those of *wanted* whose rows a key of the table *name* is about: itself, or its partitions at any level."""
    found: list[QualifiedName] = []
    work = [name]
    while work:
        table = work.pop()
        if table in wanted:
            found.append(table)
        work.extend(schema.partitions.get(table, ()))
    return sorted(found)
