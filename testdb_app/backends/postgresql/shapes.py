"""What a baseline depends on in a PostgreSQL database: the columns and the key of each table with a copy, the migrations."""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Sequence as Many
from typing import Any

from testdb_app.backends.postgresql.quoting import quote, quote_literal
from testdb_app.schema import QualifiedName
from testdb_app.states import KEPT_STATES, BaselineColumn

# Names and types are to be spelled alike in every session, whatever its search path; for this transaction.
PLAIN_SPELLING = """
SELECT pg_catalog.set_config('quote_all_identifiers', 'off', true),
       pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)
"""

# schema, name, columns as lines of a description, column names, generated ones, ones that no UPDATE can set, key
# The key is the primary key, or else the narrowest unique index over plain columns that are never null. A deferrable one can
# have been broken by session_replication_role.
TABLE_SHAPES = """
SELECT n.nspname::text, c.relname::text,
       pg_catalog.string_agg(pg_catalog.concat_ws(' ', pg_catalog.quote_ident(a.attname),
           pg_catalog.format_type(a.atttypid, a.atttypmod),
           CASE WHEN a.attnotnull THEN 'not null' END,
           CASE WHEN a.attgenerated <> '' THEN 'generated' END,
           CASE WHEN a.attidentity <> '' THEN 'identity ' || a.attidentity::text END,
           CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::pg_catalog.regcollation::text END),
           E'\\n' ORDER BY a.attnum),
       pg_catalog.array_agg(a.attname::text ORDER BY a.attnum),
       pg_catalog.array_agg(a.attname::text) FILTER (WHERE a.attgenerated <> ''),
       pg_catalog.array_agg(a.attname::text) FILTER (WHERE a.attidentity = 'a'),
       (SELECT ARRAY(SELECT k.attname::text
                       FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY u(number, place)
                       JOIN pg_catalog.pg_attribute k ON k.attrelid = c.oid AND k.attnum = u.number
                      WHERE u.place <= i.indnkeyatts
                      ORDER BY u.place)
          FROM pg_catalog.pg_index i
         WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
           AND i.indpred IS NULL AND i.indexprs IS NULL
           AND NOT EXISTS (SELECT FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY u(number, place)
                             LEFT JOIN pg_catalog.pg_attribute k ON k.attrelid = c.oid AND k.attnum = u.number
                            WHERE u.place <= i.indnkeyatts AND k.attnotnull IS NOT TRUE)
         ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid
         LIMIT 1)
  FROM (VALUES {names}) v (schema, name)
  JOIN pg_catalog.pg_namespace n ON n.nspname = v.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = v.name
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 GROUP BY n.nspname, c.relname, c.oid
"""

# schema, name, the rows as lines: which migrations were applied, not when.
MIGRATIONS = """
SELECT {schema}, {name}, pg_catalog.string_agg(line, E'\\n' ORDER BY line)
  FROM (SELECT (pg_catalog.to_jsonb(m) - 'id' - 'applied')::text AS line FROM {table} m) l
"""


_OWN = re.compile(rf"({'|'.join(KEPT_STATES)})(_[0-9]+)?\Z")


def is_baseline_table(name: str) -> bool:
    """Whether a table of the schema ``testdb`` is one that a baseline is kept in, by its name there."""
    return _OWN.match(name) is not None


def shape_queries(tables: Iterable[QualifiedName], migrations: Iterable[QualifiedName]) -> list[str]:
    """Return the queries for :func:`parse_shape`: of *tables* that have copies, and of *migrations*, Django's own table."""
    queries = [
        MIGRATIONS.format(schema=quote_literal(name.schema), name=quote_literal(name.name), table=quote(name))
        for name in migrations
    ]
    names = ", ".join(f"({quote_literal(name.schema)}, {quote_literal(name.name)})" for name in sorted(tables))
    if names:
        queries.insert(0, TABLE_SHAPES.format(names=names))
    return [PLAIN_SPELLING, *queries] if queries else []


def unreadable(name: QualifiedName, error: BaseException) -> dict[str, str]:
    """Return what stands in the shape for a list of migrations that cannot be read, now or any more."""
    why = str(error).strip().split("\n")[0]
    return {_migrations_in(name): f"cannot be read: {why}"}


def _migrations_in(name: QualifiedName) -> str:
    return f"the list of migrations in {name}"


def parse_shape(results: Iterable[Iterable[Many[Any]]]) -> dict[str, str]:
    """Make of the rows of :func:`shape_queries` what a baseline depends on."""
    shape: dict[str, str] = {}
    for rows in results:
        for schema, name, *others in rows:
            # The settings of the spelling are no part of it.
            if not others:
                continue
            text, *rest = others
            if rest:
                key = f"\nkey ({', '.join(rest[-1])})" if rest[-1] else ""
                shape[f"table {QualifiedName(schema, name)}"] = f"{text or ''}{key}"
            else:
                shape[_migrations_in(QualifiedName(schema, name))] = text or ""
    return shape


def parse_columns(row: Many[Any]) -> tuple[tuple[BaselineColumn, ...], tuple[str, ...]]:
    """Make of one row of :data:`TABLE_SHAPES` the columns and the key."""
    _, _, _, names, generated, fixed, key = row
    columns = tuple(
        BaselineColumn(name=name, is_generated=name in (generated or ()), is_fixed=name in (fixed or ()))
        for name in names
        if name is not None
    )
    return columns, tuple(key or ())
