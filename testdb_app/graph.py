"""The dependency graph of a schema: the order to delete in, levels, cycles, paths, and groups of tied tables.

The order of a reset is :meth:`DependencyGraph.deletion_groups`; :mod:`testdb_app.plan` makes its steps from these groups.

Pure and iterative: a chain of 10,000 tables needs no recursion. Every result depends on the graph alone: nodes are
sorted before they are visited, so the order of a set never reaches the SQL.

Strongly connected components by R. Tarjan, "Depth-first search and linear graph algorithms", SIAM J. Comput. 1 (1972),
in the iterative form with an explicit stack. All methods cost O(nodes + edges), those that sort O(n log n) more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import groupby
from typing import Any, Generic, Protocol, Self, TypeVar

from testdb_app.schema import ForeignKey, OnDelete, QualifiedName, Schema


class Node(Protocol):
    """A node must be hashable and sortable."""

    def __hash__(self) -> int: ...
    def __lt__(self, other: Any, /) -> bool: ...


N = TypeVar("N", bound=Node)


class DependencyGraph(Generic[N]):
    """A directed graph from referencing to referenced nodes; usually of tables and foreign keys.

    Parameters: *nodes*; *edges*, pairs of (referencing, referenced). Raises ``KeyError`` for an edge to an unknown node.
    Parallel edges count once; a node may reference itself.
    """

    def __init__(self, nodes: Iterable[N], edges: Iterable[tuple[N, N]]) -> None:
        self.nodes: tuple[N, ...] = tuple(sorted(set(nodes)))
        index = {node: number for number, node in enumerate(self.nodes)}
        references: list[set[int]] = [set() for _ in self.nodes]
        for referencing, referenced in edges:
            references[index[referencing]].add(index[referenced])
        self._index: Mapping[N, int] = index
        self._references: list[list[int]] = [sorted(targets) for targets in references]

    @classmethod
    def from_schema(cls, schema: Schema) -> DependencyGraph[QualifiedName]:
        """Make the graph of all tables and all enforced foreign keys, the copies for partitions included."""
        return DependencyGraph(
            (table.name for table in schema.tables),
            ((key.table, key.referenced) for key in schema.enforced_foreign_keys),
        )

    @cached_property
    def _referenced_by(self) -> list[list[int]]:
        back: list[list[int]] = [[] for _ in self.nodes]
        for source, targets in enumerate(self._references):
            for target in targets:
                back[target].append(source)
        return back

    @cached_property
    def _components(self) -> list[list[int]]:
        """The strongly connected components by Tarjan's algorithm, referenced ones first, each sorted."""
        order = [-1] * len(self.nodes)
        low = [0] * len(self.nodes)
        on_stack = [False] * len(self.nodes)
        stack: list[int] = []
        found: list[list[int]] = []
        counter = 0
        for root in range(len(self.nodes)):
            if order[root] >= 0:
                continue
            work = [(root, iter(self._references[root]))]
            order[root] = low[root] = counter
            counter += 1
            stack.append(root)
            on_stack[root] = True
            while work:
                node, targets = work[-1]
                for target in targets:
                    if order[target] < 0:
                        order[target] = low[target] = counter
                        counter += 1
                        stack.append(target)
                        on_stack[target] = True
                        work.append((target, iter(self._references[target])))
                        break
                    if on_stack[target]:
                        low[node] = min(low[node], order[target])
                else:
                    work.pop()
                    if work:
                        low[work[-1][0]] = min(low[work[-1][0]], low[node])
                    if low[node] == order[node]:
                        found.append(_pop_component(stack, on_stack, node))
        return found

    @cached_property
    def _levels(self) -> list[int]:
        """The level of every node: 0 without references out of its component, else one above the highest referenced level."""
        level = [0] * len(self.nodes)
        for component in self._components:
            members = set(component)
            highest = max(
                (level[target] + 1 for node in component for target in self._references[node] if target not in members),
                default=0,
            )
            for node in component:
                level[node] = highest
        return level

    def level(self, node: N) -> int:
        """Return the length of the longest chain of references from *node*; a cycle counts as one node."""
        return self._levels[self._index[node]]

    def levels(self) -> tuple[tuple[N, ...], ...]:
        """Return the nodes by level, each level sorted. Level 0 comes first: the nodes that reference nothing."""
        found: list[list[N]] = [[] for _ in range(max(self._levels, default=-1) + 1)]
        for number, node in enumerate(self.nodes):
            found[self._levels[number]].append(node)
        return tuple(tuple(nodes) for nodes in found)

    @cached_property
    def _deletion_groups(self) -> tuple[tuple[N, ...], ...]:
        ordered = sorted(self._components, key=lambda component: (-self._levels[component[0]], component[0]))
        return tuple(tuple(self.nodes[number] for number in component) for component in ordered)

    def deletion_groups(self) -> tuple[tuple[N, ...], ...]:
        """Return the components in the order to delete in: referencing tables before the tables that they reference.

        A group of several tables is a cycle; one statement must empty it. Groups are sorted by descending level, then by
        name.
        """
        return self._deletion_groups

    @cached_property
    def _places(self) -> dict[N, int]:
        return {node: number for number, node in enumerate(self.deletion_order())}

    @cached_property
    def _group_numbers(self) -> dict[N, int]:
        return {node: number for number, group in enumerate(self._deletion_groups) for node in group}

    def sort(self, nodes: Iterable[N]) -> tuple[N, ...]:
        """Return *nodes* in the order of :meth:`deletion_order`. The cost depends on their number alone, after the first call."""
        return tuple(sorted(nodes, key=self._places.__getitem__))

    def sort_groups(self, nodes: Iterable[N]) -> Iterator[tuple[N, ...]]:
        """Yield *nodes* in the groups and the order of :meth:`deletion_groups`. The cost is that of :meth:`sort`."""
        return (tuple(group) for _, group in groupby(self.sort(nodes), key=self._group_numbers.__getitem__))

    def deletion_order(self) -> tuple[N, ...]:
        """Return all nodes in the order to delete in; the reverse is the order to insert in."""
        return tuple(node for group in self._deletion_groups for node in group)

    def cycles(self) -> tuple[tuple[N, ...], ...]:
        """Return the components of more than one node, and the nodes that reference themselves, sorted."""
        return tuple(
            sorted(
                group
                for group in self._deletion_groups
                if len(group) > 1 or self._index[group[0]] in self._references[self._index[group[0]]]
            )
        )

    def references(self, node: N) -> tuple[N, ...]:
        """Return what *node* references directly."""
        return tuple(self.nodes[number] for number in self._references[self._index[node]])

    def dependencies(self, *start: N) -> frozenset[N]:
        """Return all nodes that *start* references, directly or not; *start* itself only if a cycle leads back to it."""
        return self._closure(start, self._references)

    def dependents(self, *start: N) -> frozenset[N]:
        """Return all nodes that reference *start*, directly or not; *start* itself only if a cycle leads back to it."""
        return self._closure(start, self._referenced_by)

    def _closure(self, start: Iterable[N], neighbours: list[list[int]]) -> frozenset[N]:
        seen: set[int] = set()
        work = [self._index[node] for node in start]
        while work:
            for target in neighbours[work.pop()]:
                if target not in seen:
                    seen.add(target)
                    work.append(target)
        return frozenset(self.nodes[number] for number in seen)

    def path(self, source: N, target: N) -> tuple[N, ...]:
        """Return a shortest chain of references from *source* to *target*, both included; empty if there is none."""
        begin, end = self._index[source], self._index[target]
        came_from: dict[int, int] = {begin: begin}
        frontier = [begin]
        while frontier and end not in came_from:
            following: list[int] = []
            for node in frontier:
                for neighbour in self._references[node]:
                    if neighbour not in came_from:
                        came_from[neighbour] = node
                        following.append(neighbour)
            frontier = following
        if end not in came_from:
            return ()
        chain = [end]
        while chain[-1] != begin:
            chain.append(came_from[chain[-1]])
        return tuple(self.nodes[number] for number in reversed(chain))

    def subgraph(self, nodes: Iterable[N]) -> Self:
        """Return the graph of *nodes* and the edges between them."""
        kept = {self._index[node] for node in nodes}
        return type(self)(
            (self.nodes[number] for number in kept),
            ((self.nodes[a], self.nodes[b]) for a in kept for b in self._references[a] if b in kept),
        )


def _pop_component(stack: list[int], on_stack: list[bool], root: int) -> list[int]:
    component: list[int] = []
    while True:
        node = stack.pop()
        on_stack[node] = False
        component.append(node)
        if node == root:
            return sorted(component)


def is_immediate(key: ForeignKey) -> bool:
    """Whether the key is checked at the end of each statement. RESTRICT always is, even if the key is deferrable."""
    return not key.deferrable or key.on_delete is OnDelete.RESTRICT


_UPDATE = frozenset({"UPDATE"})
_CHANGING = frozenset(action for action in OnDelete if action.changes_rows)
_EVENTS = {action: _UPDATE if action in _CHANGING else frozenset() for action in OnDelete}
_EVENTS[OnDelete.CASCADE] = frozenset({"DELETE"})


def events_of_action(key: ForeignKey, *, restored: bool = False) -> frozenset[str]:
    """Return the events that the key's actions cause on its table when referenced rows are deleted, or *restored*.

    The actions are statements of their own. They fire statement triggers even if they find no row.
    """
    events = _EVENTS[key.on_delete]
    return events | _UPDATE if restored and key.on_update in _CHANGING else events


def tied_groups(schema: Schema, names: Iterable[QualifiedName]) -> list[frozenset[QualifiedName]]:
    """Return *names* in groups of tables that immediate foreign keys connect, directly or through other *names*.

    A key from or to a partitioned table ties its partitions. Cost: O(names + their foreign keys).
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
    """Return the tables of *wanted* that store the rows of *name*: itself, or its partitions at any level."""
    found: list[QualifiedName] = []
    work = [name]
    while work:
        table = work.pop()
        if table in wanted:
            found.append(table)
        work.extend(schema.partitions.get(table, ()))
    return sorted(found)
