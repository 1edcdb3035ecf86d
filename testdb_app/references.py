"""Rows that stay and refer to rows that would be deleted: refused, with the paths of keys and what would have to go too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from testdb_app.exceptions import ExclusionError
from testdb_app.schema import ForeignKey, QualifiedName, Schema
from testdb_app.scope import Scope


def check_references(schema: Schema, scope: Scope, keys: Sequence[ForeignKey], counts: Sequence[int]) -> None:
    """Raise :class:`ExclusionError` if a row of a table that stays refers to a table that goes.

    Parameters: *keys* with, in *counts*, the number of rows that refer by each. The message names every such key, its
    rows, and behind it the tables that stay and depend on it, which the same reset would have to take along.
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
