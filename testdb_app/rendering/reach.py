"""How far a picture reaches: what depends on what, partitions together with their root."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testdb_app.graph import DependencyGraph

if TYPE_CHECKING:
    from collections.abc import Iterable

    from testdb_app.schema import QualifiedName, Schema


def reach(schema: Schema, start: Iterable[QualifiedName], *, reverse: bool = False) -> frozenset[QualifiedName]:
    """Return *start* and all that it depends on; with *reverse*, all that depends on it.

    A partition stands for the whole of its partitioned table, so that no key is lost with a sibling.
    """
    graph = DependencyGraph.from_schema(schema)
    roots = partition_roots(schema)
    trees: dict[QualifiedName, list[QualifiedName]] = {}
    for name, root in roots.items():
        trees.setdefault(root, [root]).append(name)
    found: set[QualifiedName] = set()
    new = frozenset(start)
    while new:
        found |= new
        closure = graph.dependents(*new) if reverse else graph.dependencies(*new)
        siblings = frozenset(name for part in closure | new for name in trees.get(roots.get(part, part), ()))
        new = (closure | siblings) - found
    return frozenset(found)


def partition_roots(schema: Schema) -> dict[QualifiedName, QualifiedName]:
    """Return, for each partition, the topmost table that it is a partition of."""
    found: dict[QualifiedName, QualifiedName] = {}
    for table in schema.tables:
        top = table
        while top.is_partition and top.inherits and top.inherits[0] in schema.by_name:
            top = schema.by_name[top.inherits[0]]
        if top is not table:
            found[table.name] = top.name
    return found
