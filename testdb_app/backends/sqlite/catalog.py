"""SQLite's catalog over all attached databases: which tables a reset may touch, and why others are left out.

For virtual tables it also finds which of their tables shows whether they hold rows, and what empties them. An FTS table
with external content reads the *content* table, and one without content reads nothing. So neither ``SELECT`` nor
``DELETE`` reaches its index: https://www.sqlite.org/fts5.html#the_delete_all_command.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from testdb_app.backends.base import OWN_SCHEMA
from testdb_app.backends.sqlite.connection import Database, execute, fetch, read_databases
from testdb_app.backends.sqlite.parser import chunks, fold, quote_name, quote_qualified, virtual_module
from testdb_app.baseline_state import KEPT_STATES
from testdb_app.exceptions import ResetError
from testdb_app.schema import LeftOut, QualifiedName

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

    from testdb_app.backends.sqlite.connection import Database

ENTRIES = """
SELECT type, name, tbl_name, rootpage, sql
FROM {catalog}
WHERE type IN ('table', 'trigger')
ORDER BY rowid
"""

SHADOWS = """
SELECT schema, name
FROM pragma_table_list
WHERE type = 'shadow'
"""


EXISTS = "SELECT {number} AS number WHERE EXISTS (SELECT 1 FROM {table})"
TERMS = 100
"""The maximum terms of one compound query. SQLite's own limit is 500."""
_FEWEST, _MOST, _PROBES = 50, 500, 64
"""The terms of a probe: few cost less each, but more than 64 probes would fall out of Python's cache of 128 statements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The catalog at one moment. ``tables`` are those that a reset may empty; the ``token`` changes with any text in it.

    ``names`` are the tables' names in order, and ``probes`` the queries that return the numbers of those with rows.
    ``captures`` are the texts of the baselines' document tables; every capture writes its time into them.
    """

    databases: tuple[Database, ...]
    tables: dict[QualifiedName, Entry]
    names: tuple[QualifiedName, ...]
    probes: tuple[str, ...]
    virtual: dict[QualifiedName, VirtualTable]
    triggers: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...]
    has_sequences: frozenset[str]
    has_unreadable: bool
    captures: tuple[str, ...]
    token: str

    def source(self, name: QualifiedName) -> QualifiedName:
        """Return the table that shows whether *name* holds rows."""
        return self.virtual[name].source if name in self.virtual else name


class _KeptCatalog(NamedTuple):
    """A catalog, and the state of the connection in which it is still valid."""

    connection: object
    state: tuple[object, ...]
    catalog: Catalog


# The attribute of a connection that keeps it: a proxy of a connection passes attributes on, and cannot be hashed.
_KEPT = "_testdb_known_catalog"


def read_catalog(connection: BaseDatabaseWrapper, cursor: CursorWrapper, *, keep: bool = False) -> Catalog:
    """Return the catalog: the one kept from the last reading if the schema has not changed since, or a new one.

    *keep* must be off inside a transaction of the caller: after its rollback the next change has the same number.
    """
    state = tuple(_read_schema_state(connection, cursor))
    databases: tuple[Database, ...] = state[0]
    kept = _find_kept(connection, state)
    if kept is not None:
        return kept
    catalog = _read_catalog(connection, cursor, databases)
    # Another database can be attached under the same name and with the same number; a module can be loaded.
    is_plain = {database.name for database in databases} <= {"main", "temp"} and not catalog.has_unreadable
    if keep and is_plain:
        setattr(connection, _KEPT, _KeptCatalog(connection.connection, state, catalog))
    return catalog


def read_kept_catalog(connection: BaseDatabaseWrapper, cursor: CursorWrapper) -> Catalog | None:
    """Return the catalog that was kept; None if there is none, or the schema has changed since."""
    return _find_kept(connection, tuple(_read_schema_state(connection, cursor)))


def _find_kept(connection: BaseDatabaseWrapper, state: tuple[object, ...]) -> Catalog | None:
    kept: _KeptCatalog | None = getattr(connection, _KEPT, None)
    is_valid = kept is not None and kept.connection is connection.connection and kept.state == state
    return kept.catalog if kept is not None and is_valid else None


def _read_schema_state(connection: BaseDatabaseWrapper, cursor: CursorWrapper) -> Iterator[Any]:
    """Yield the attached databases, and the number of the schema of each."""
    databases = read_databases(connection, cursor)
    yield databases
    for database in databases:
        ((version,),) = fetch(connection, cursor, f"PRAGMA {quote_name(database.name)}.schema_version")
        yield version


def _read_catalog(connection: BaseDatabaseWrapper, cursor: CursorWrapper, databases: tuple[Database, ...]) -> Catalog:
    """Read and sort the catalogs of all attached databases. One query for each of them."""
    entries: list[Entry] = []
    for database in databases:
        # SQLite before 3.33 has no "temp".sqlite_master.
        catalog = "sqlite_temp_master" if database.name == "temp" else f"{quote_name(database.name)}.sqlite_master"
        entries += (
            Entry(name=QualifiedName(database.name, name), kind=kind, table=table, root=root or 0, sql=sql or "")
            for kind, name, table, root, sql in fetch(connection, cursor, ENTRIES.format(catalog=catalog))
        )
    tables = [entry for entry in entries if entry.kind == "table"]
    virtual = _read_virtual(tables)
    broken = {
        name: reason for name in sorted(virtual) if (reason := _why_unreadable(connection, cursor, virtual[name]))
    }
    shadows = _read_shadows(connection, cursor, tables, virtual, broken)
    reasons = reasons_left_out(databases, tables, virtual, broken=broken, shadows=shadows)
    kept = {entry.name: entry for entry in tables if entry.name not in reasons}
    names = tuple(sorted(kept))
    sources = [virtual[name].source if name in virtual else name for name in names]
    terms = [EXISTS.format(number=n, table=quote_qualified(source)) for n, source in enumerate(sources)]
    return Catalog(
        databases=databases,
        tables=kept,
        names=names,
        probes=tuple(
            " UNION ALL ".join(chunk) for chunk in chunks(terms, min(_MOST, max(_FEWEST, len(terms) // _PROBES + 1)))
        ),
        virtual={name: table for name, table in virtual.items() if name in kept},
        triggers=tuple(entry for entry in entries if entry.kind == "trigger"),
        left_out=tuple(LeftOut(name=name, reason=reasons[name]) for name in sorted(reasons)),
        has_sequences=frozenset(entry.name.schema for entry in tables if entry.name.name == "sqlite_sequence"),
        has_unreadable=bool(broken),
        captures=tuple(entry.sql for entry in tables if entry.name in DOCUMENTS.values()),
        token=_token(databases, entries, broken),
    )


def _token(databases: tuple[Database, ...], entries: list[Entry], broken: dict[QualifiedName, str]) -> str:
    """Hash the texts themselves.

    ``schema_version`` is not enough. Another file or memory database can have the same number, and it moves when a reset puts
    a trigger back as it was.
    """
    # Copies that are gone at the end of their transaction count for nothing.
    entries = [entry for entry in entries if entry.name.schema != "temp" or not entry.table.startswith(CARRIED)]
    has_temporary = any(entry.name.schema == "temp" for entry in entries)
    databases = tuple(database for database in databases if has_temporary or database.name != "temp")
    rows = sorted((entry.name, entry.kind, entry.table, entry.sql) for entry in entries)
    return hashlib.sha256(repr((databases, rows, sorted(broken))).encode("utf-8", "surrogatepass")).hexdigest()


def _read_virtual(tables: list[Entry]) -> dict[QualifiedName, VirtualTable]:
    virtual = [entry for entry in tables if entry.root == 0]
    names: dict[str, set[str]] = {entry.name.schema: set() for entry in virtual}
    for entry in tables:
        if entry.name.schema in names:
            names[entry.name.schema].add(fold(entry.name.name))
    return {entry.name: describe(entry.name, entry.sql, names[entry.name.schema]) for entry in virtual}


def _why_unreadable(connection: BaseDatabaseWrapper, cursor: CursorWrapper, virtual: VirtualTable) -> str | None:
    try:
        execute(connection, cursor, f"SELECT 1 FROM {quote_qualified(virtual.name)} LIMIT 0")
    except ResetError as error:
        return f"a virtual table that cannot be read: {error.__cause__}"
    return None


def _read_shadows(
    connection: BaseDatabaseWrapper,
    cursor: CursorWrapper,
    tables: list[Entry],
    virtual: dict[QualifiedName, VirtualTable],
    broken: dict[QualifiedName, str],
) -> frozenset[QualifiedName]:
    """Return the tables that store the rows of virtual ones: as SQLite reports (3.37 and later), and by name."""
    if not virtual:
        return frozenset()
    found: set[QualifiedName] = set()
    if getattr(connection, "Database").sqlite_version_info >= (3, 37):  # noqa: B009 - the base class does not declare it
        found |= {QualifiedName(schema, name) for schema, name in fetch(connection, cursor, SHADOWS)}
    for table in virtual.values():
        found |= {
            entry.name
            for entry in tables
            if entry.name.schema == table.name.schema
            and is_part(entry.name.name, table, is_loaded=table.name not in broken)
        }
    return frozenset(found)


MARK_TABLES = frozenset({f"{OWN_SCHEMA}_protected", f"{OWN_SCHEMA}_test", f"{OWN_SCHEMA}_clone"})
CARRIED = f"{OWN_SCHEMA}_migrated_"
"""The beginning of the names of temporary copies, whose rows come from another database."""
DOCUMENTS = {state: QualifiedName("main", f"{OWN_SCHEMA}_{state}") for state in KEPT_STATES}
"""The tables that describe the baseline, and the other kept states."""

_BASELINE = re.compile(rf"{OWN_SCHEMA}_({'|'.join(KEPT_STATES)})(_[0-9]+)?\Z")

_SPATIALITE = frozenset(
    {
        "data_licenses", "geometry_columns", "geometry_columns_auth", "geometry_columns_field_infos",
        "geometry_columns_statistics", "geometry_columns_time", "raster_coverages", "spatial_ref_sys",
        "spatial_ref_sys_all", "spatial_ref_sys_aux", "spatialite_history", "sql_statements_log",
        "views_geometry_columns", "views_geometry_columns_auth", "views_geometry_columns_field_infos",
        "views_geometry_columns_statistics", "virts_geometry_columns", "virts_geometry_columns_auth",
        "virts_geometry_columns_field_infos", "virts_geometry_columns_statistics",
    }
)  # fmt: skip
"""The tables that SpatiaLite (GeoDjango's SQLite) needs, as ``InitSpatialMetaData()`` makes them."""


def is_baseline_table(folded: str) -> bool:
    """Whether a table of "main" belongs to a baseline, by its folded name."""
    return _BASELINE.match(folded) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of a catalog: a table (``root`` 0: a virtual one) or a trigger."""

    name: QualifiedName
    kind: str
    table: str
    root: int
    sql: str


def reasons_left_out(
    databases: Sequence[Database],
    tables: Sequence[Entry],
    virtual: Mapping[QualifiedName, VirtualTable],
    *,
    broken: Mapping[QualifiedName, str],
    shadows: Collection[QualifiedName],
) -> dict[QualifiedName, str]:
    """Return the tables that no reset touches, each with its reason.

    Parameters: *broken*, the virtual tables that cannot be read, with SQLite's reason; *shadows*, the tables that store
    the rows of virtual ones.
    """
    files = {database.name: database.file for database in databases}
    names = {(entry.name.schema, entry.name.name) for entry in tables}
    spatial = {name for name in files if {(name, "spatial_ref_sys"), (name, "geometry_columns")} <= names}

    def reasons(name: QualifiedName) -> Iterator[str]:
        folded = fold(name.name)
        if name.schema == "temp":
            yield "a temporary table of this connection"
        if name.schema != "main" and files[name.schema]:
            yield f"in the attached file {files[name.schema]}, which is not known to be a test database"
        if folded.startswith("sqlite_"):
            yield "an internal table of SQLite"
        if name.schema == "main" and folded in MARK_TABLES:
            yield "a mark of testdb_app"
        if name.schema == "main" and is_baseline_table(folded):
            yield "kept by testdb_app itself"
        if name in shadows:
            yield "storage of a virtual table"
        if name.schema in spatial and folded in _SPATIALITE:
            yield "metadata of SpatiaLite"
        if name in virtual and virtual[name].shows_other_tables:
            yield f"a virtual table that shows others ({virtual[name].module})"
        if name in broken:
            yield broken[name]

    return {entry.name: why for entry in tables if (why := next(reasons(entry.name), None))}


_SHADOWS: Mapping[str, tuple[str, ...]] = {
    "fts3": ("content", "segdir", "segments", "docsize", "stat"),
    "fts4": ("content", "segdir", "segments", "docsize", "stat"),
    "fts5": ("data", "idx", "content", "docsize", "config"),
    "rtree": ("node", "parent", "rowid"),
    "rtree_i32": ("node", "parent", "rowid"),
    "geopoly": ("node", "parent", "rowid"),
}
"""The tables that a module keeps its rows in, by the ends of their names, which are the same in every version."""

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
        """Whether its rows can be read and inserted again without loss: not with languages or locales."""
        if self.module == "fts5":
            # FTS5 accepts abbreviated option names.
            return not self.is_external and not any("locale".startswith(option) for option in self.options)
        if self.module in {"fts3", "fts4"}:
            return not self.is_external and "languageid" not in self.options
        return self.module in {"rtree", "rtree_i32"}

    @property
    def leading_key(self) -> int:
        """The number of its columns, from the first, that are its key; 0 if the rowid is the key."""
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
        # FTS4 does this itself when its last row is deleted (fts3DeleteAll); it has no command for it.
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

    A module that is not loaded cannot report its own tables: every table that begins with the name may be one.
    """
    prefix = fold(virtual.name.name) + "_"
    if not fold(name).startswith(prefix):
        return False
    return fold(name).removeprefix(prefix) in virtual.parts or (not is_loaded and virtual.module not in _SHADOWS)
