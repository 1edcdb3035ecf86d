"""Foreign keys, triggers and sequences of SQLite tables, from the pragmas and from the text in the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from testdb_app.backends.sqlite.errors import fetch
from testdb_app.backends.sqlite.sql import (
    ReferenceClause,
    fold,
    parse_trigger,
    qualified_definition,
    quote_literal,
    quote_name,
    reference_clauses,
)
from testdb_app.schema import ForeignKey, OnDelete, QualifiedName, SequenceInfo, SequenceUse, Trigger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

    from testdb_app.backends.sqlite.catalog import Catalog
    from testdb_app.backends.sqlite.scope import Entry

# Virtual tables (rootpage 0) have no keys, and one whose module is not loaded would fail the query.
COLUMNS = """
SELECT m.name, c.name, c.pk
FROM {schema}.sqlite_master AS m
JOIN pragma_table_xinfo(m.name, {literal}) AS c
WHERE m.type = 'table'
AND m.rootpage > 0
ORDER BY m.name, c.pk, c.cid
"""

FOREIGN_KEYS = """
SELECT m.name, f.id, f."from", f."table", f."to", f.on_delete
FROM {schema}.sqlite_master AS m
JOIN pragma_foreign_key_list(m.name, {literal}) AS f
WHERE m.type = 'table'
AND m.rootpage > 0
ORDER BY m.name, f.id, f.seq
"""

# A generated column (hidden 2 and 3) cannot be written to, nor a key set to NULL.
REQUIRED_COLUMNS = """
SELECT name
FROM pragma_table_xinfo({table}, {schema})
WHERE "notnull" OR pk > 0 OR hidden > 0
"""


class Columns(NamedTuple):
    """A table's columns: those of the primary key, in its order, and all of them by folded name."""

    primary_key: tuple[str, ...]
    by_name: Mapping[str, str]


def in_schema(query: str, schema: str) -> str:
    """Fill a query's schema in, as an identifier and as a constant."""
    return query.format(schema=quote_name(schema), literal=quote_literal(schema))


def read_columns(connection: BaseDatabaseWrapper, cursor: CursorWrapper, schema: str) -> dict[str, Columns]:
    """Return the columns of every table of one database."""
    keys: dict[str, list[str]] = {}
    names: dict[str, dict[str, str]] = {}
    for table, column, position in fetch(connection, cursor, in_schema(COLUMNS, schema)):
        names.setdefault(table, {})[fold(column)] = column
        keys.setdefault(table, []).extend([column] if position else [])
    return {table: Columns(tuple(keys[table]), names[table]) for table in names}


def sequence(name: QualifiedName, columns: Columns) -> SequenceInfo:
    """Return the sequence of an AUTOINCREMENT table; it bears the table's name."""
    return SequenceInfo(name=name, uses=(SequenceUse(table=name, column=columns.primary_key[0], how="rowid"),))


def foreign_keys(
    catalog: Catalog,
    schema: str,
    rows: list[tuple[str, int, str, str, str | None, str]],
    columns: dict[str, Columns],
) -> list[ForeignKey]:
    """Make the keys of one database; one that refers to a table that is missing or left out constrains nothing."""
    by_folded = {fold(name.name): name for name in catalog.tables if name.schema == schema}
    parts: dict[tuple[str, int], list[tuple[str, int, str, str, str | None, str]]] = {}
    for row in rows:
        parts.setdefault((row[0], row[1]), []).append(row)
    clauses: dict[str, list[ReferenceClause]] = {}
    found = []
    for (table, number), columns_of_key in parts.items():
        name, referenced = QualifiedName(schema, table), by_folded.get(fold(columns_of_key[0][3]))
        if name not in catalog.tables or referenced is None or referenced.name not in columns:
            continue
        if table not in clauses:
            clauses[table] = reference_clauses(catalog.tables[name].sql)[::-1]
        clause = clauses[table][number] if number < len(clauses[table]) else ReferenceClause()
        target = columns[referenced.name]
        own = tuple(part[2] for part in columns_of_key)
        to = [part[4] for part in columns_of_key if part[4] is not None]
        found.append(
            ForeignKey(
                name=clause.name or "_".join((table, *own, "fk")),
                table=name,
                columns=own,
                referenced=referenced,
                referenced_columns=tuple(target.by_name.get(fold(c), c) for c in to) or target.primary_key,
                on_delete=OnDelete(columns_of_key[0][5]),
                deferrable=clause.deferrable,
                initially_deferred=clause.initially_deferred,
            )
        )
    return found


def triggers(catalog: Catalog) -> dict[QualifiedName, list[Trigger]]:
    """Return the triggers by table, in the order of their making: SQLite fires them by it."""
    schemas = [database.name for database in catalog.databases]
    folded = {(name.schema, fold(name.name)): name for name in catalog.tables}
    temporary = {fold(left.name.name) for left in catalog.left_out if left.name.schema == "temp"}
    found: dict[QualifiedName, list[Trigger]] = {}
    for entry in catalog.triggers:
        table = _table_of(entry, schemas, folded, temporary)
        if table is not None:
            found.setdefault(table, []).append(
                Trigger(
                    name=entry.name.name,
                    events=(parse_trigger(entry.sql).event,),
                    definition=qualified_definition(entry.name.schema, entry.sql),
                )
            )
    return found


def _table_of(
    entry: Entry, schemas: list[str], folded: Mapping[tuple[str, str], QualifiedName], temporary: set[str]
) -> QualifiedName | None:
    """Resolve a trigger's table as SQLite does: in its own database; a temporary one anywhere, "temp" first."""
    name = fold(entry.table)
    if entry.name.schema != "temp":
        return folded.get((entry.name.schema, name))
    schema = parse_trigger(entry.sql).schema
    if schema is None and name in temporary:
        return None
    searched = [candidate for candidate in schemas if schema is None or fold(candidate) == fold(schema)]
    return next((folded[candidate, name] for candidate in searched if (candidate, name) in folded), None)
