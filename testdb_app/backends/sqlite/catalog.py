"""The catalog of all attached databases: which tables a reset may look at, and which are left out and why."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from testdb_app.backends.sqlite.errors import execute, fetch
from testdb_app.backends.sqlite.scope import DOCUMENTS, Entry, reasons_left_out
from testdb_app.backends.sqlite.snapshot import Database, read_databases
from testdb_app.backends.sqlite.sql import chunks, fold, quote_name, quote_qualified
from testdb_app.backends.sqlite.virtual import VirtualTable, describe, is_part
from testdb_app.exceptions import ResetError
from testdb_app.schema import LeftOut, QualifiedName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

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
"""Terms of one compound query: SQLite's own limit is 500, and the cost per term grows from here on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The catalog at one moment. ``tables`` are those that a reset may empty; the ``token`` changes with any text in it.

    ``names`` are the tables' names in order, and ``probes`` the queries that return the numbers of those with rows.
    ``captures`` are the texts of the baselines' document tables, in which every capture leaves its time.
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
        """Return the table that tells whether *name* holds rows."""
        return self.virtual[name].source if name in self.virtual else name


class _Known(NamedTuple):
    """A catalog, and the state of the connection in which it is still true."""

    connection: object
    state: tuple[object, ...]
    catalog: Catalog


# The name of the attribute of a connection that keeps it: a proxy of a connection passes it on, and hashes as nothing.
_KNOWN = "_testdb_known_catalog"


def read_catalog(connection: BaseDatabaseWrapper, cursor: CursorWrapper, *, keep: bool = False) -> Catalog:
    """Return the catalog: the one kept from the last look if the schema has not changed since, or a new one.

    *keep* must be off inside a transaction of the caller: after its rollback the next change has the same number.
    """
    databases = read_databases(connection, cursor)
    state = (databases, *_schema_versions(connection, cursor, databases))
    known: _Known | None = getattr(connection, _KNOWN, None)
    if known is not None and known.connection is connection.connection and known.state == state:
        return known.catalog
    catalog = _read_catalog(connection, cursor, databases)
    # Another database can be attached under the same name and with the same number; a module can be loaded.
    is_plain = {database.name for database in databases} <= {"main", "temp"} and not catalog.has_unreadable
    if keep and is_plain:
        setattr(connection, _KNOWN, _Known(connection.connection, state, catalog))
    return catalog


def _schema_versions(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, databases: tuple[Database, ...]
) -> Iterator[int]:
    for database in databases:
        ((version,),) = fetch(connection, cursor, f"PRAGMA {quote_name(database.name)}.schema_version")
        yield version


def _read_catalog(connection: BaseDatabaseWrapper, cursor: CursorWrapper, databases: tuple[Database, ...]) -> Catalog:
    """Read and sort out the catalogs of all attached databases. One query for each of them."""
    entries: list[Entry] = []
    for database in databases:
        # "temp".sqlite_master is not known to SQLite before 3.33.
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
        probes=tuple(" UNION ALL ".join(chunk) for chunk in chunks(terms, TERMS)),
        virtual={name: table for name, table in virtual.items() if name in kept},
        triggers=tuple(entry for entry in entries if entry.kind == "trigger"),
        left_out=tuple(LeftOut(name=name, reason=reasons[name]) for name in sorted(reasons)),
        has_sequences=frozenset(entry.name.schema for entry in tables if entry.name.name == "sqlite_sequence"),
        has_unreadable=bool(broken),
        captures=tuple(entry.sql for entry in tables if entry.name in DOCUMENTS.values()),
        token=_token(databases, entries, broken),
    )


def _token(databases: tuple[Database, ...], entries: list[Entry], broken: dict[QualifiedName, str]) -> str:
    """Hash the texts themselves: ``schema_version`` is the same number in another file or another memory database,
    and moves when a reset puts a trigger back as it was."""
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
    """Return the tables that store the rows of virtual ones: as SQLite says (3.37 and later), and by name."""
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
