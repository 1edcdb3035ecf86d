"""Virtual tables: which of their tables tells whether they hold rows, and what empties them.

An FTS table with external content reads the *content* table, and one without content reads nothing, so neither
``SELECT`` nor ``DELETE`` reaches its index: https://www.sqlite.org/fts5.html#the_delete_all_command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from testdb_app.backends.sqlite.sql import fold, quote_name, quote_qualified, virtual_module
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_SHADOWS: Mapping[str, tuple[str, ...]] = {
    "fts3": ("content", "segdir", "segments", "docsize", "stat"),
    "fts4": ("content", "segdir", "segments", "docsize", "stat"),
    "fts5": ("data", "idx", "content", "docsize", "config"),
    "rtree": ("node", "parent", "rowid"),
    "rtree_i32": ("node", "parent", "rowid"),
    "geopoly": ("node", "parent", "rowid"),
}
"""The tables that a module keeps its rows in, by the ends of their names: their names tell on every version."""

_DERIVED = frozenset(
    {
        "bytecode", "csv", "dbstat", "fsdir", "fts3tokenize", "fts4aux", "fts5vocab", "generate_series", "json_each",
        "json_tree", "sqlite_stmt", "tables_used", "virtualelementary", "virtualkmeans", "virtualknn", "virtualknn2",
        "virtualnetwork", "virtualrouting", "virtualshape", "virtualspatialindex", "virtualtext", "zipfile",
    }
)  # fmt: skip
"""Modules whose tables show what is stored elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualTable:
    """A virtual table: its module, and the ends of the names of the tables that store its rows."""

    name: QualifiedName
    module: str
    is_external: bool
    parts: tuple[str, ...]
    options: frozenset[str] = frozenset()

    @property
    def shows_other_tables(self) -> bool:
        """Whether the rows are stored elsewhere, so that there is nothing to empty."""
        return self.module in _DERIVED

    @property
    def gives_back_rows(self) -> bool:
        """Whether its rows can be read, and put in again, with all that was put in: not with languages or locales."""
        if self.module == "fts5":
            # FTS5 takes the beginnings of its options' names.
            return not self.is_external and not any("locale".startswith(option) for option in self.options)
        if self.module in {"fts3", "fts4"}:
            return not self.is_external and "languageid" not in self.options
        return self.module in {"rtree", "rtree_i32"}

    @property
    def leading_key(self) -> int:
        """How many of its columns, from the first, are its key; 0 where that is the rowid."""
        return 1 if self.module.startswith("rtree") else 0

    def part(self, end: str) -> QualifiedName:
        """Return the name of the table that stores one part."""
        return QualifiedName(self.name.schema, f"{self.name.name}_{end}")

    @property
    def source(self) -> QualifiedName:
        """The table whose rows are the virtual table's own."""
        if not self.is_external:
            return self.name
        ends = ("docsize", "idx") if self.module == "fts5" else ("docsize", "segdir")
        return self.part(next(end for end in ends if end in self.parts))

    @property
    def emptying(self) -> tuple[str, ...]:
        """The statements that empty it, or none where a plain DELETE does."""
        if not self.is_external:
            return ()
        if self.module == "fts5":
            command = f"({quote_name(self.name.name)}) VALUES ('delete-all')"
            return (f"INSERT INTO {quote_qualified(self.name)}{command}",)
        # What FTS4 does itself when its last row goes (fts3DeleteAll); it has no command for it.
        return tuple(f"DELETE FROM {quote_qualified(self.part(end))}" for end in self.parts)


def describe(name: QualifiedName, sql: str, names: Collection[str]) -> VirtualTable:
    """Describe a virtual table from its CREATE text; *names* are the folded names of its schema's tables."""
    module, options = virtual_module(sql)
    ends = _SHADOWS.get(module, ())
    parts = tuple(end for end in ends if fold(f"{name.name}_{end}") in names)
    # FTS accepts abbreviated option names, but makes no "content" table then; contentless_unindexed makes one.
    is_external = "content" in ends and (
        "content" not in parts or any(option.startswith("content") for option in options)
    )
    return VirtualTable(name=name, module=module, is_external=is_external, parts=parts, options=options)


def is_part(name: str, virtual: VirtualTable, *, is_loaded: bool) -> bool:
    """Whether the table *name* stores rows of *virtual*, by its name.

    A module that is not loaded cannot say which tables are its own: every one that begins with the name may be.
    """
    prefix = fold(virtual.name.name) + "_"
    if not fold(name).startswith(prefix):
        return False
    return fold(name).removeprefix(prefix) in virtual.parts or (not is_loaded and virtual.module not in _SHADOWS)
