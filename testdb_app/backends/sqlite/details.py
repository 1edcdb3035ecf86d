"""Columns, unique keys and numbers of rows, for pictures. SQLite keeps no estimate, so that rows are counted or not known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testdb_app.backends.sqlite.catalog import Catalog, read_catalog
from testdb_app.backends.sqlite.errors import fetch
from testdb_app.backends.sqlite.introspection import count_rows as count
from testdb_app.backends.sqlite.relations import in_schema
from testdb_app.backends.sqlite.snapshot import snapshot
from testdb_app.backends.sqlite.sql import quote_literal
from testdb_app.schema import Column, QualifiedName, Schema, TableDetails, UniqueKey, gather_details

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

# Hidden 1 are the hidden columns of virtual tables; 2 and 3 are generated. A primary key of one INTEGER column is the rowid.
COLUMNS = """
SELECT m.name, c.name, c.type, c."notnull", c.dflt_value, c.hidden, c.pk
FROM {schema}.sqlite_master AS m
JOIN pragma_table_xinfo(m.name, {literal}) AS c
WHERE m.type = 'table'
AND m.rootpage > 0
ORDER BY m.name, c.cid
"""

# A virtual table whose module is not loaded would fail the query above.
COLUMNS_OF_ONE = """
SELECT {table}, c.name, c.type, c."notnull", c.dflt_value, c.hidden, c.pk
FROM pragma_table_xinfo({table}, {schema}) AS c
WHERE c.hidden <> 1
ORDER BY c.cid
"""

# Indexes on expressions have no name in their place.
UNIQUE_KEYS = """
SELECT m.name, i.name, i.partial, x.name
FROM {schema}.sqlite_master AS m
JOIN pragma_index_list(m.name, {literal}) AS i
JOIN pragma_index_info(i.name, {literal}) AS x
WHERE m.type = 'table'
AND m.rootpage > 0
AND i."unique"
AND i.origin <> 'pk'
ORDER BY m.name, i.seq, x.seqno
"""


def read_details(
    connection: BaseDatabaseWrapper, schema: Schema, *, count_rows: bool
) -> dict[QualifiedName, TableDetails]:
    """Read the details of all tables of *schema*, from one snapshot; with *count_rows* the rows are read, from another."""
    columns: dict[QualifiedName, list[Column]] = {}
    keys: dict[QualifiedName, list[UniqueKey]] = {}
    with snapshot(connection) as cursor:
        catalog = read_catalog(connection, cursor)
        for namespace in sorted({name.schema for name in catalog.tables}):
            _read_columns(connection, cursor, catalog, namespace, columns, keys)
            _read_unique_keys(connection, cursor, namespace, keys)
    rows: dict[QualifiedName, int | None] = {}
    if count_rows:
        rows.update(count(connection, schema.by_name.keys() & catalog.tables.keys()))
    return gather_details(schema.by_name, columns=columns, unique_keys=keys, rows=rows)


def _read_columns(
    connection: BaseDatabaseWrapper,
    cursor: CursorWrapper,
    catalog: Catalog,
    namespace: str,
    columns: dict[QualifiedName, list[Column]],
    keys: dict[QualifiedName, list[UniqueKey]],
) -> None:
    found = fetch(connection, cursor, in_schema(COLUMNS, namespace))
    for name in catalog.virtual:
        if name.schema == namespace:
            query = COLUMNS_OF_ONE.format(table=quote_literal(name.name), schema=quote_literal(namespace))
            found += fetch(connection, cursor, query)
    primary: dict[QualifiedName, list[tuple[int, str]]] = {}
    for table, name, data_type, is_required, default, hidden, place in found:
        qualified = QualifiedName(namespace, table)
        column = Column(
            name=name,
            data_type=data_type or "",
            nullable=not is_required,
            default="" if default is None else str(default),
            generated="generated" if hidden else "",
        )
        columns.setdefault(qualified, []).append(column)
        if place:
            primary.setdefault(qualified, []).append((place, name))
    for qualified, parts in primary.items():
        key = UniqueKey(columns=tuple(name for _, name in sorted(parts)), is_primary=True)
        keys.setdefault(qualified, []).append(key)


def _read_unique_keys(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, namespace: str, keys: dict[QualifiedName, list[UniqueKey]]
) -> None:
    parts: dict[tuple[str, str, int], list[str | None]] = {}
    for table, index, is_partial, column in fetch(connection, cursor, in_schema(UNIQUE_KEYS, namespace)):
        parts.setdefault((table, index, is_partial), []).append(column)
    for (table, index, is_partial), names in parts.items():
        key = UniqueKey(columns=tuple(names), partial_index=index if is_partial else "")
        keys.setdefault(QualifiedName(namespace, table), []).append(key)
