"""The dependency graph against brute force, and its speed."""

from __future__ import annotations

import itertools
import math
import random
import sys
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from testdb_app.graph import DependencyGraph
from testdb_app.schema import ForeignKey, QualifiedName, Schema, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Edges = list[tuple[int, int]]

MANY = 10_000

# A deadline an example would fail on a busy machine and find nothing; speed has its own tests.
unhurried = settings(deadline=None)


@st.composite
def edge_lists(draw: st.DrawFn) -> tuple[int, Edges]:
    """Draw a graph of up to 12 nodes: sparse ones, dense ones, loops and parallel edges."""
    size = draw(st.integers(1, 12))
    node = st.integers(0, size - 1)
    return size, draw(st.lists(st.tuples(node, node), max_size=30))


def distances(size: int, edges: Edges) -> list[list[float]]:
    """Lengths of shortest chains of at least one edge, by Floyd and Warshall."""
    table = [[math.inf] * size for _ in range(size)]
    for a, b in edges:
        table[a][b] = 1
    for middle, a, b in itertools.product(range(size), repeat=3):
        table[a][b] = min(table[a][b], table[a][middle] + table[middle][b])
    return table


def components(size: int, edges: Edges) -> list[frozenset[int]]:
    """For each node, the nodes that it reaches and that reach it, by the definition."""
    far = distances(size, edges)
    return [
        frozenset({a} | {b for b in range(size) if far[a][b] < math.inf and far[b][a] < math.inf}) for a in range(size)
    ]


def longest_chain(size: int, edges: Edges) -> list[int]:
    """For each node the number of components on the longest chain below it, by repeated relaxation."""
    component = components(size, edges)
    level = [0] * size
    for _ in range(size):
        for a, b in edges:
            if component[a] != component[b]:
                level[a] = max(level[a], level[b] + 1)
        for a in range(size):
            level[a] = max(level[b] for b in component[a])
    return level


@unhurried
@given(edge_lists())
@example((2, [(0, 1), (1, 0)]))
@example((1, [(0, 0)]))
def test_deletion_groups_are_the_components_by_definition(drawn: tuple[int, Edges]) -> None:
    size, edges = drawn
    groups = DependencyGraph(range(size), edges).deletion_groups()
    assert sorted(groups) == sorted({tuple(sorted(group)) for group in components(size, edges)})


@unhurried
@given(edge_lists())
def test_no_group_is_deleted_while_a_table_outside_it_still_references_it(drawn: tuple[int, Edges]) -> None:
    size, edges = drawn
    remaining = set(range(size))
    for group in DependencyGraph(range(size), edges).deletion_groups():
        remaining -= set(group)
        assert not [(a, b) for a, b in edges if a in remaining and b in group]
    assert not remaining


@unhurried
@given(edge_lists())
def test_the_level_is_the_longest_chain_of_references_by_brute_force(drawn: tuple[int, Edges]) -> None:
    size, edges = drawn
    graph = DependencyGraph(range(size), edges)
    expected = longest_chain(size, edges)
    assert [graph.level(node) for node in range(size)] == expected
    assert graph.levels() == tuple(
        tuple(node for node in range(size) if expected[node] == number) for number in range(max(expected) + 1)
    )


@unhurried
@given(edge_lists())
def test_groups_are_ordered_by_descending_level_then_by_name(drawn: tuple[int, Edges]) -> None:
    size, edges = drawn
    level = longest_chain(size, edges)
    groups = DependencyGraph(range(size), edges).deletion_groups()
    assert list(groups) == sorted(groups, key=lambda group: (-level[group[0]], group))


@unhurried
@given(edge_lists())
def test_cycles_are_all_nodes_that_reach_themselves(drawn: tuple[int, Edges]) -> None:
    size, edges = drawn
    far = distances(size, edges)
    on_cycle = {node for node in range(size) if far[node][node] < math.inf}
    cycles = DependencyGraph(range(size), edges).cycles()
    assert {node for cycle in cycles for node in cycle} == on_cycle
    assert set(map(frozenset, cycles)) == {components(size, edges)[node] for node in on_cycle}
    assert list(cycles) == sorted(cycles)


@unhurried
@given(edge_lists(), st.data())
def test_closures_are_what_can_be_reached_by_definition(drawn: tuple[int, Edges], data: st.DataObject) -> None:
    size, edges = drawn
    start = data.draw(st.lists(st.integers(0, size - 1), max_size=3))
    graph, far = DependencyGraph(range(size), edges), distances(size, edges)
    assert graph.dependencies(*start) == {b for a in start for b in range(size) if far[a][b] < math.inf}
    assert graph.dependents(*start) == {a for b in start for a in range(size) if far[a][b] < math.inf}


@unhurried
@given(edge_lists(), st.data())
def test_a_path_follows_edges_and_none_is_shorter(drawn: tuple[int, Edges], data: st.DataObject) -> None:
    size, edges = drawn
    source, target = data.draw(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)))
    path = DependencyGraph(range(size), edges).path(source, target)
    shortest = 0 if source == target else distances(size, edges)[source][target]
    if shortest == math.inf:
        assert path == ()
    else:
        assert (path[0], path[-1], len(path) - 1) == (source, target, shortest)
        assert set(itertools.pairwise(path)) <= set(edges)


@unhurried
@given(edge_lists(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(drawn: tuple[int, Edges], shuffler: random.Random) -> None:
    size, edges = drawn
    nodes, shuffled = list(range(size)), edges * 2
    shuffler.shuffle(nodes)
    shuffler.shuffle(shuffled)
    one, other = DependencyGraph(range(size), edges), DependencyGraph(nodes, shuffled)
    assert one.deletion_groups() == other.deletion_groups()
    assert (one.levels(), one.cycles()) == (other.levels(), other.cycles())
    assert [one.references(n) for n in range(size)] == [other.references(n) for n in range(size)]
    assert [one.path(0, n) for n in range(size)] == [other.path(0, n) for n in range(size)]


@unhurried
@given(edge_lists(), st.data())
def test_a_subgraph_keeps_the_edges_between_its_nodes_only(drawn: tuple[int, Edges], data: st.DataObject) -> None:
    size, edges = drawn
    kept = data.draw(st.sets(st.integers(0, size - 1)))
    part = DependencyGraph(range(size), edges).subgraph(kept)
    expected = {(a, b) for a, b in edges if a in kept and b in kept}
    assert part.nodes == tuple(sorted(kept))
    assert [(a, b) for a in part.nodes for b in part.references(a)] == sorted(expected)
    assert all(a in part.dependents(b) for a, b in expected)


def test_the_order_is_that_of_the_deletion_groups() -> None:
    graph = DependencyGraph("abcde", [("a", "b"), ("b", "c"), ("c", "b"), ("d", "d")])
    assert graph.deletion_groups() == (("a",), ("b", "c"), ("d",), ("e",))
    assert graph.deletion_order() == ("a", "b", "c", "d", "e")
    assert graph.cycles() == (("b", "c"), ("d",))


def test_an_empty_graph_has_no_levels_and_no_order() -> None:
    graph: DependencyGraph[str] = DependencyGraph([], [])
    assert (graph.nodes, graph.levels(), graph.deletion_order(), graph.cycles()) == ((), (), (), ())
    assert graph.dependencies() == frozenset()


@pytest.mark.parametrize("edge", [("a", "missing"), ("missing", "a")])
def test_an_edge_to_a_node_that_is_not_there_is_an_error(edge: tuple[str, str]) -> None:
    with pytest.raises(KeyError, match="missing"):
        DependencyGraph(["a"], [edge])


def test_a_start_is_in_its_own_closure_only_if_a_cycle_leads_back() -> None:
    graph = DependencyGraph("abc", [("a", "b"), ("b", "a"), ("b", "c")])
    assert graph.dependencies("a") == {"a", "b", "c"}
    assert graph.dependencies("c") == frozenset()
    assert graph.dependents("c") == {"a", "b"}
    assert graph.path("a", "a") == ("a",)


def test_the_graph_of_a_schema_has_every_table_and_the_inherited_keys_too() -> None:
    root, part, other, lonely = (QualifiedName("public", name) for name in ("root", "part", "other", "lonely"))
    keys = [
        ForeignKey(
            name="k",
            table=source,
            columns=("c",),
            referenced=other,
            referenced_columns=("id",),
            inherited=source is part,
        )
        for source in (root, part)
    ]
    schema = Schema(
        vendor="postgresql",
        tables=tuple(Table(name=name) for name in (lonely, other, part, root)),
        foreign_keys=tuple(keys),
    )
    assert DependencyGraph.from_schema(schema).deletion_order() == (part, root, lonely, other)


def chain(size: int) -> Edges:
    return list(itertools.pairwise(range(size)))


def backward_chain(size: int) -> Edges:
    return [(b, a) for a, b in chain(size)]


def ring(size: int) -> Edges:
    return [*chain(size), (size - 1, 0)]


def at_random(size: int) -> Edges:
    choose = random.Random(8)
    return [(choose.randrange(size), choose.randrange(size)) for _ in range(3 * size)]


def at_random_without_cycles(size: int) -> Edges:
    return [(max(a, b), min(a, b)) for a, b in at_random(size) if a != b]


@pytest.mark.parametrize("shape", [chain, backward_chain, ring, at_random, at_random_without_cycles])
def test_ten_thousand_tables_are_ordered_in_under_a_second_without_recursion(shape: Callable[[int], Edges]) -> None:
    names = [QualifiedName("public", f"table_{number:05}") for number in range(MANY)]
    edges = [(names[a], names[b]) for a, b in shape(MANY)]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(_stack_depth() + 30)
    try:
        elapsed, order = min(_timed(names, edges) for _ in range(3))
    finally:
        sys.setrecursionlimit(limit)
    assert elapsed < 1
    place = {name: number for number, name in enumerate(order)}
    graph = DependencyGraph(names, edges)
    group_of = {name: number for number, group in enumerate(graph.deletion_groups()) for name in group}
    assert all(place[a] < place[b] for a, b in edges if group_of[a] != group_of[b])


def _timed(
    names: Iterable[QualifiedName], edges: Iterable[tuple[QualifiedName, QualifiedName]]
) -> tuple[float, tuple[QualifiedName, ...]]:
    begin = time.process_time()
    graph = DependencyGraph(names, edges)
    order = graph.deletion_order()
    graph.cycles()
    graph.levels()
    return time.process_time() - begin, order


def _stack_depth() -> int:
    frame, depth = sys._getframe(), 0
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


def test_the_path_along_a_chain_of_ten_thousand_tables_is_found() -> None:
    graph = DependencyGraph(range(MANY), chain(MANY))
    assert graph.path(0, MANY - 1) == tuple(range(MANY))
    assert len(graph.dependencies(0)) == len(graph.dependents(MANY - 1)) == MANY - 1
