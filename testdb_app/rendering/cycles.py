"""The cycles of a map, each with its keys."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from testdb_app.graph import DependencyGraph

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from testdb_app.schema import ForeignKey, QualifiedName, Schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """Tables that reference each other in a ring or in several that meet, or one that references itself.

    - ``number``: from 1, in the order of the names.
    - ``members``: all tables on it, sorted; ``tables``: the same with partitions replaced by their root.
    - ``keys``: the declared foreign keys between them; ``ring``: a shortest ring of them, one that is not
      deferrable if there is one.
    - ``deferrable``: whether each ring has a deferrable key, so that rows which refer to each other can be
      loaded and removed one by one in a transaction.
    """

    number: int
    members: tuple[QualifiedName, ...]
    tables: tuple[QualifiedName, ...]
    keys: tuple[ForeignKey, ...]
    ring: tuple[ForeignKey, ...]
    deferrable: bool


def find_cycles(
    schema: Schema, graph: DependencyGraph[QualifiedName], root_of: Mapping[QualifiedName, QualifiedName]
) -> tuple[Cycle, ...]:
    """Return the cycles of *graph*, the graph of *schema*; *root_of* maps partitions to their root."""
    groups = graph.cycles()
    number_of = {name: number for number, group in enumerate(groups, start=1) for name in group}
    keys_of: dict[int, list[ForeignKey]] = {}
    for key in schema.enforced_foreign_keys:
        number = number_of.get(key.table)
        if number is not None and number == number_of.get(key.referenced):
            keys_of.setdefault(number, []).append(key)
    found = []
    for number, members in enumerate(groups, start=1):
        keys = keys_of[number]
        edges = ((key.table, key.referenced) for key in keys if not key.deferrable)
        stuck = bool(DependencyGraph(members, edges).cycles())
        declared = tuple(key for key in keys if not key.inherited)
        cycle = Cycle(
            number=number,
            members=members,
            tables=tuple(sorted({root_of.get(name, name) for name in members})),
            keys=declared,
            ring=_ring([key for key in declared if not (stuck and key.deferrable)], root_of),
            deferrable=not stuck,
        )
        found.append(cycle)
    return tuple(found)


def _ring(keys: Iterable[ForeignKey], root_of: Mapping[QualifiedName, QualifiedName]) -> tuple[ForeignKey, ...]:
    """Find a shortest ring of *keys* through the first table that is on one, roots instead of partitions."""
    by_pair: dict[tuple[QualifiedName, QualifiedName], ForeignKey] = {}
    for key in keys:
        pair = (root_of.get(key.table, key.table), root_of.get(key.referenced, key.referenced))
        by_pair.setdefault(pair, key)
    graph = DependencyGraph({name for pair in by_pair for name in pair}, by_pair)
    cycles = graph.cycles()
    if not cycles:
        return ()
    first = cycles[0][0]
    ways = ((first, *graph.path(target, first)) for target in graph.references(first))
    names = min((way for way in ways if len(way) > 1), key=len)
    return tuple(by_pair[pair] for pair in pairwise(names))
