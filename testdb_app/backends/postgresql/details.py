"""Columns, unique keys and numbers of rows, for pictures: from the catalog alone, unless rows are to be counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testdb_app.backends.postgresql.catalog import USER_SCHEMAS
from testdb_app.backends.postgresql.queries import chunks, read_rows
from testdb_app.backends.postgresql.quoting import qualify, quote
from testdb_app.schema import Column, QualifiedName, Schema, TableDetails, UniqueKey, gather_details

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# No query here waits for whoever holds a table, as a map may be wanted just then. So a default is read without its table
# (it has no columns in it), the expressions of generated columns and indexes not at all, and no size is asked for.

# schema, table, column, type, nullable, default, generated
# Types and defaults are spelled as the session's search path has it, so the query sees that path.
COLUMNS = qualify(f"""
SELECT n.nspname::text, c.relname::text, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
       NOT a.attnotnull, CASE WHEN a.attgenerated = '' THEN coalesce(pg_catalog.pg_get_expr(f.adbin, 0), '') ELSE '' END,
       CASE WHEN a.attidentity <> '' THEN 'identity' WHEN a.attgenerated <> '' THEN 'generated' ELSE '' END
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
 WHERE c.relkind = ANY ('{{r,p}}') AND c.relpersistence <> 't' AND {USER_SCHEMAS}
 ORDER BY a.attrelid, a.attnum
""")

# schema, table, columns (null: an expression), is primary, the index if it is partial
UNIQUE_KEYS = f"""
SELECT n.nspname::text, c.relname::text,
       ARRAY(SELECT a.attname::text
               FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY u(number, place)
               LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.number AND u.number > 0
              WHERE u.place <= i.indnkeyatts
              ORDER BY u.place),
       i.indisprimary, CASE WHEN i.indpred IS NULL THEN '' ELSE x.relname::text END
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE i.indisunique AND i.indisvalid AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {USER_SCHEMAS}
"""

# schema, table, rows as the server's statistics have them; null where they have nothing
# A copy of a database has the statistics of the last ANALYZE and no counters yet.
ESTIMATES = f"""
SELECT n.nspname::text, c.relname::text,
       CASE WHEN pg_catalog.pg_stat_get_tuples_inserted(c.oid) > 0 THEN pg_catalog.pg_stat_get_live_tuples(c.oid)
            WHEN c.reltuples >= 0 THEN c.reltuples::bigint END
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {USER_SCHEMAS}
"""

# schema, table, whether the role may read it
READABLE = f"""
SELECT n.nspname::text, c.relname::text,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {USER_SCHEMAS}
"""

# Each table that is read stays locked to the end of its message.
_TABLES_A_MESSAGE = 500
LOCK_TIMEOUT = 5.0
"""Seconds to wait for whoever holds a table."""


def read_details(
    connection: BaseDatabaseWrapper, schema: Schema, *, count_rows: bool
) -> dict[QualifiedName, TableDetails]:
    """Read the details of all tables of *schema*. One round trip, and with *count_rows* another one for every 500 tables.

    Raises :class:`~testdb_app.exceptions.LockTimeoutError` where another session keeps a table from being counted.
    """
    column_rows, key_rows, number_rows = read_rows(
        connection, (UNIQUE_KEYS, READABLE if count_rows else ESTIMATES), first=[COLUMNS], lock_timeout=LOCK_TIMEOUT
    )
    columns: dict[QualifiedName, list[Column]] = {}
    for namespace, table, name, data_type, nullable, default, generated in column_rows:
        column = Column(name=name, data_type=data_type, nullable=nullable, default=default, generated=generated)
        columns.setdefault(QualifiedName(namespace, table), []).append(column)
    keys: dict[QualifiedName, list[UniqueKey]] = {}
    for namespace, table, parts, is_primary, partial_index in key_rows:
        key = UniqueKey(columns=tuple(parts), is_primary=is_primary, partial_index=partial_index)
        keys.setdefault(QualifiedName(namespace, table), []).append(key)
    numbers = {QualifiedName(namespace, table): number for namespace, table, number in number_rows}
    if count_rows:
        numbers = _count(connection, schema, {name for name, is_readable in numbers.items() if is_readable})
    return gather_details(schema.by_name, columns=columns, unique_keys=keys, rows=numbers, is_estimate=not count_rows)


def _count(
    connection: BaseDatabaseWrapper, schema: Schema, readable: set[QualifiedName]
) -> dict[QualifiedName, int | None]:
    # Where row security hides rows from the role, a count would be of those that it sees.
    names = [table.name for table in schema.tables if table.name in readable and not table.hides_rows]
    found: dict[QualifiedName, int | None] = {}
    for part in chunks(names, _TABLES_A_MESSAGE):
        queries = [f"SELECT pg_catalog.count(*) FROM ONLY {quote(name)}" for name in part]
        results = read_rows(connection, queries, lock_timeout=LOCK_TIMEOUT, safe_path=False)
        found |= {name: rows[0][0] for name, rows in zip(part, results, strict=True)}
    return found
