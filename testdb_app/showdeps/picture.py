"""Prepare the picture that every format draws: tables, levels, cycles, notes, and the colours of a terminal."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from testdb_app.graph import DependencyGraph
from testdb_app.schema import TableKind, show_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from testdb_app.schema import ForeignKey, QualifiedName, Schema, TableDetails


def reach(schema: Schema, start: Iterable[QualifiedName], *, reverse: bool = False) -> frozenset[QualifiedName]:
    """Return *start* and all tables that it depends on; with *reverse*, all tables that depend on it.

    A partition includes its whole partitioned table, so that the keys of its siblings are included.
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
    """Return for each partition its root: the topmost table that it is a partition of."""
    found: dict[QualifiedName, QualifiedName] = {}
    for table in schema.tables:
        top = table
        while top.is_partition and top.inherits and top.inherits[0] in schema.by_name:
            top = schema.by_name[top.inherits[0]]
        if top is not table:
            found[table.name] = top.name
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """Tables that reference each other in a ring or in several connected rings, or a table that references itself.

    - ``number``: from 1, in the order of the names.
    - ``members``: all tables on it, sorted.
    - ``tables``: the same with partitions replaced by their root.
    - ``keys``: the declared foreign keys between them.
    - ``ring``: a shortest ring of these keys; a ring that is not deferrable, if there is one.
    - ``deferrable``: whether each ring has a deferrable key. If so, rows that reference each other can be inserted and
      deleted one by one in a transaction.
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
    """Return a shortest ring of *keys* through the first table that is on a ring. Partitions are replaced by their root."""
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


def show_parts(parts: tuple[str, ...]) -> str:
    """Return the names of columns as text, with commas between them."""
    return ", ".join(map(show_part, parts))


def action_of(key: ForeignKey) -> str:
    """Return what the database does with a key whose row is deleted, and when it checks the key."""
    if not key.deferrable:
        return key.on_delete.value
    return f"{key.on_delete.value}, {'deferred' if key.initially_deferred else 'deferrable'}"


def counted(number: int, noun: str) -> str:
    """Return "1 table", "2,000 tables", "no tables"."""
    return f"{number:,} {noun}s" if number > 1 else f"1 {noun}" if number else f"no {noun}s"


def cells(text: str) -> int:
    """Return the number of terminal columns of *text*. Wide characters take two columns, and combining ones take none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in {"W", "F"} for char in text)
    # These are marks, and characters that select a variant of the preceding character.
    marks = sum(unicodedata.category(char) in {"Mn", "Me"} for char in text)
    return len(text) + wide - marks


def notes(name: QualifiedName, picture: Picture) -> Iterator[str]:
    """Yield short notes about the special properties of a table."""
    table = picture.whole.by_name[name]
    if table.kind is TableKind.PARTITIONED:
        yield counted(picture.partition_counts.get(name, 0), "partition")
    if table.kind is TableKind.VIRTUAL:
        yield "virtual"
    if table.inherits:
        verb = "partition of" if table.is_partition else "inherits"
        yield f"{verb} {', '.join(map(str, table.inherits))}"
    if table.extension is not None:
        yield f"extension {show_part(table.extension)}"
    if table.unlogged:
        yield "unlogged"
    if not picture.unmanaged.isdisjoint(picture.labels.get(name, ())):
        yield "unmanaged"


def _unpainted(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Paint:
    """Colours for people: functions that wrap a text in a terminal's colour codes. By default there are no colours."""

    heading: Callable[[str], str] = _unpainted
    table: Callable[[str], str] = _unpainted
    model: Callable[[str], str] = _unpainted
    column: Callable[[str], str] = _unpainted
    cycle: Callable[[str], str] = _unpainted
    warning: Callable[[str], str] = _unpainted


PLAIN = Paint()


class Arrow(NamedTuple):
    """An arrow from one table to another: a foreign key, or the same key of several partitions."""

    keys: tuple[ForeignKey, ...]
    source: QualifiedName
    target: QualifiedName

    @property
    def key(self) -> ForeignKey:
        """The foreign key, or the first of the same keys of several partitions."""
        return self.keys[0]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A part of a schema, and how to draw it.

    Parameters:

    - *whole*: the whole schema. Levels, order and cycles are always those of the whole schema.
    - *title*: the database, for people; *alias* and *database*: its names for machines.
    - *shown*: the tables to draw; None for all. See :func:`reach`.
    - *labels*: the models of each table; *on_delete*: what Django's foreign keys do, by table and columns.
    - *tables_without_model*; *models_without_table*: pairs of label and name of the missing table; *unmanaged*:
      labels of models that no migration creates.
    - *reverse*: referenced tables first; *cycles_only*: only tables and keys that are on a cycle.
    - *width*: columns of the terminal (default: no limit); *ascii_only*: no line-drawing characters; *paint*: the colours.
    - *details* (the columns and rows of tables) and *assets* (the parts of a page): only for ``html``.
    """

    whole: Schema
    title: str = ""
    alias: str = ""
    database: str = ""
    shown: frozenset[QualifiedName] | None = None
    labels: Mapping[QualifiedName, tuple[str, ...]] = field(default_factory=dict)
    on_delete: Mapping[tuple[QualifiedName, tuple[str, ...]], str] = field(default_factory=dict)
    tables_without_model: frozenset[QualifiedName] = frozenset()
    models_without_table: tuple[tuple[str, str], ...] = ()
    unmanaged: frozenset[str] = frozenset()
    reverse: bool = False
    cycles_only: bool = False
    width: float = math.inf
    ascii_only: bool = False
    paint: Paint = PLAIN
    details: Mapping[QualifiedName, TableDetails] = field(default_factory=dict)
    assets: Assets | None = None

    @cached_property
    def graph(self) -> DependencyGraph[QualifiedName]:
        """The graph of the whole schema. Each partition is a separate node."""
        return DependencyGraph.from_schema(self.whole)

    @cached_property
    def cycles(self) -> tuple[Cycle, ...]:
        """The cycles that contain a shown table. Each of them is complete."""
        return tuple(
            cycle
            for cycle in find_cycles(self.whole, self.graph, self.root_of)
            if self.shown is None or not self.shown.isdisjoint(cycle.members)
        )

    @cached_property
    def cycle_of(self) -> Mapping[QualifiedName, Cycle]:
        """The cycle of each table that is on one."""
        return {name: cycle for cycle in self.cycles for name in cycle.members}

    def cycle_of_key(self, key: ForeignKey) -> Cycle | None:
        """Return the cycle that *key* is part of, if any."""
        cycle = self.cycle_of.get(key.table)
        return cycle if cycle is not None and self.cycle_of.get(key.referenced) is cycle else None

    @cached_property
    def schema(self) -> Schema:
        """The schema, restricted to the shown tables and their sequences. If all tables are shown, it has all sequences."""
        if self.shown is None and not self.cycles_only:
            return self.whole
        kept: AbstractSet[QualifiedName] = self.whole.by_name.keys() if self.shown is None else self.shown
        keys = [key for key in self.whole.foreign_keys if key.table in kept and key.referenced in kept]
        if self.cycles_only:
            kept = self.cycle_of.keys()
            keys = [key for key in keys if self.cycle_of_key(key) is not None]
        return replace(
            self.whole,
            tables=tuple(table for table in self.whole.tables if table.name in kept),
            foreign_keys=tuple(keys),
            sequences=tuple(item for item in self.whole.sequences if not item.tables.isdisjoint(kept)),
        )

    @cached_property
    def order(self) -> tuple[QualifiedName, ...]:
        """The shown tables and partitions in the order to delete in; with ``reverse``, in the order to insert in."""
        order = tuple(name for name in self.graph.deletion_order() if name in self.schema.by_name)
        return order[::-1] if self.reverse else order

    @cached_property
    def root_of(self) -> Mapping[QualifiedName, QualifiedName]:
        """The root of each partition of the whole schema: the topmost table that it is a partition of."""
        return partition_roots(self.whole)

    def root(self, name: QualifiedName) -> QualifiedName:
        """Return the root if *name* is a partition, else *name* itself."""
        return self.root_of.get(name, name)

    @cached_property
    def partition_counts(self) -> Mapping[QualifiedName, int]:
        """The number of tables that store the rows of each partitioned table."""
        counts: dict[QualifiedName, int] = {}
        for name, root in self.root_of.items():
            counts[root] = counts.get(root, 0) + self.whole.by_name[name].stores_rows
        return counts

    @cached_property
    def levels(self) -> tuple[tuple[int, tuple[QualifiedName, ...]], ...]:
        """The numbers of the levels, each with its tables without partitions. The highest is first; with ``reverse``, 0 is first.

        Partitions belong to the level of their root, which is the highest level among them.
        """
        roots = {self.root(table.name) for table in self.schema.tables}
        graph = DependencyGraph(
            {self.root(table.name) for table in self.whole.tables},
            ((self.root(key.table), self.root(key.referenced)) for key in self.whole.foreign_keys),
        )
        found = [(number, tuple(n for n in names if n in roots)) for number, names in enumerate(graph.levels())]
        shown = tuple((number, names) for number, names in found if names)
        return shown if self.reverse else shown[::-1]

    @cached_property
    def tables(self) -> tuple[QualifiedName, ...]:
        """The tables without partitions, sorted."""
        return tuple(sorted(name for _, names in self.levels for name in names))

    @cached_property
    def keys(self) -> tuple[ForeignKey, ...]:
        """The declared foreign keys that are shown."""
        return self.schema.declared_foreign_keys

    @cached_property
    def usual_action(self) -> str | None:
        """What most of the shown keys do in the database, as :func:`action_of` says it; None if there is no such thing."""
        (usual, number), *_ = Counter(map(action_of, self.keys)).most_common(1) or [("", 0)]
        return usual if number > max(1, len(self.keys) // 2) else None

    @cached_property
    def arrows_of(self) -> Mapping[QualifiedName, tuple[Arrow, ...]]:
        """The arrows of each table without partitions. The same key of several partitions is one arrow."""
        found: dict[QualifiedName, dict[object, list[ForeignKey]]] = {}
        for key in self.keys:
            source, target = self.root(key.table), self.root(key.referenced)
            like = (key.columns, target, key.on_delete, key.deferrable, key.initially_deferred)
            groups = found.setdefault(source, {})
            groups.setdefault(like if key.table != source else key, []).append(key)
        return {
            source: tuple(Arrow(tuple(keys), source, self.root(keys[0].referenced)) for keys in groups.values())
            for source, groups in found.items()
        }

    @property
    def arrows(self) -> Iterator[Arrow]:
        """All arrows, by table."""
        for name in self.tables:
            yield from self.arrows_of.get(name, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Assets:
    """The template, the style and the script of a page.

    ``template`` contains ``{{title}}``, ``{{policy}}``, ``{{style}}``, ``{{data}}`` and ``{{script}}``.
    """

    template: str
    style: str
    script: str
