"""What every format draws: the part of the map that is shown, its levels, its cycles."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from testdb_app.graph import DependencyGraph
from testdb_app.rendering.cycles import Cycle, find_cycles
from testdb_app.rendering.paint import PLAIN, Paint
from testdb_app.rendering.reach import partition_roots

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from testdb_app.rendering.assets import Assets
    from testdb_app.schema import ForeignKey, QualifiedName, Schema, TableDetails


class Arrow(NamedTuple):
    """What is drawn from one table to another: a foreign key, or the like keys of several partitions."""

    keys: tuple[ForeignKey, ...]
    source: QualifiedName
    target: QualifiedName

    @property
    def key(self) -> ForeignKey:
        """The key, or one of the like ones."""
        return self.keys[0]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A part of a schema, and how to draw it.

    Parameters: *whole*, all of the schema: levels, order and cycles are always those of the whole; *title*,
    what database it is; *alias* and *database*, its names for machines; *shown*, the tables to draw (None:
    all; see :func:`reach`); *labels*, the models of each table; *tables_without_model*;
    *models_without_table*, pairs of label and name of the missing table; *unmanaged*, labels of models that
    no migration creates; *reverse*, referenced tables first; *cycles_only*, only tables and keys that are
    on a cycle; *width*, columns of the terminal; *ascii_only*, no line-drawing characters; *paint*, the
    colours; *details*, the columns and rows of tables, and *assets*, the parts of a page, both for
    ``html`` only.
    """

    whole: Schema
    title: str = ""
    alias: str = ""
    database: str = ""
    shown: frozenset[QualifiedName] | None = None
    labels: Mapping[QualifiedName, tuple[str, ...]] = field(default_factory=dict)
    tables_without_model: frozenset[QualifiedName] = frozenset()
    models_without_table: tuple[tuple[str, str], ...] = ()
    unmanaged: frozenset[str] = frozenset()
    reverse: bool = False
    cycles_only: bool = False
    width: int = 80
    ascii_only: bool = False
    paint: Paint = PLAIN
    details: Mapping[QualifiedName, TableDetails] = field(default_factory=dict)
    assets: Assets | None = None

    @cached_property
    def graph(self) -> DependencyGraph[QualifiedName]:
        """The graph of the whole schema, each partition a node of its own."""
        return DependencyGraph.from_schema(self.whole)

    @cached_property
    def cycles(self) -> tuple[Cycle, ...]:
        """The cycles with a table that is shown, all of them complete."""
        return tuple(
            cycle
            for cycle in find_cycles(self.whole, self.graph, self.root_of)
            if self.shown is None or not self.shown.isdisjoint(cycle.members)
        )

    @cached_property
    def cycle_of(self) -> Mapping[QualifiedName, Cycle]:
        """For each table on a cycle, that cycle."""
        return {name: cycle for cycle in self.cycles for name in cycle.members}

    def cycle_of_key(self, key: ForeignKey) -> Cycle | None:
        """Return the cycle that *key* is part of, if any."""
        cycle = self.cycle_of.get(key.table)
        return cycle if cycle is not None and self.cycle_of.get(key.referenced) is cycle else None

    @cached_property
    def schema(self) -> Schema:
        """The schema, restricted to what is shown: the sequences too, unless everything is."""
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
        """The tables in the order to delete in, partitions among them; reversed, the order to insert in."""
        order = tuple(name for name in self.graph.deletion_order() if name in self.schema.by_name)
        return order[::-1] if self.reverse else order

    @cached_property
    def root_of(self) -> Mapping[QualifiedName, QualifiedName]:
        """For each partition of the whole schema, the topmost table that it is a partition of."""
        return partition_roots(self.whole)

    def root(self, name: QualifiedName) -> QualifiedName:
        """Return the table that people know: the root if *name* is a partition, else itself."""
        return self.root_of.get(name, name)

    @cached_property
    def partition_counts(self) -> Mapping[QualifiedName, int]:
        """For each partitioned table, how many tables its rows are spread over."""
        counts: dict[QualifiedName, int] = {}
        for name, root in self.root_of.items():
            counts[root] = counts.get(root, 0) + self.whole.by_name[name].stores_rows
        return counts

    @cached_property
    def levels(self) -> tuple[tuple[int, tuple[QualifiedName, ...]], ...]:
        """The tables that people know by level, with its number: the highest first; in reverse, 0 first.

        Partitions count with their root, which has the level of the highest of them.
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
        """The tables that people know, sorted."""
        return tuple(sorted(name for _, names in self.levels for name in names))

    @cached_property
    def keys(self) -> tuple[ForeignKey, ...]:
        """The declared foreign keys that are shown."""
        return self.schema.declared_foreign_keys

    @cached_property
    def arrows_of(self) -> Mapping[QualifiedName, tuple[Arrow, ...]]:
        """For each table that people know, its arrows. Like keys of several partitions are one."""
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
