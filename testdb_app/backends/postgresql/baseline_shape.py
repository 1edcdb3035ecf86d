"""The shape of a baseline: the columns, keys, partitions and kinds that its copies depend on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any

from testdb_app.backends.postgresql.sql import quote, quote_literal
from testdb_app.baseline_state import KEPT_STATES, KIND_OF, MIGRATIONS_IN, BaselineColumn, describe_tables
from testdb_app.exceptions import first_line_of
from testdb_app.schema import QualifiedName, Schema

# For this transaction: names, types and values must be spelled alike in every session, whatever its settings.
_EXACT = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
}
_SPELLING = {"search_path": "pg_catalog, pg_temp"}
_KEPT = "testdb.kept_{}"


def _set(values: Mapping[str, str]) -> str:
    return "SELECT " + ", ".join(f"pg_catalog.set_config('{name}', {value}, true)" for name, value in values.items())


EXACT_TEXT = _set({name: f"'{value}'" for name, value in _EXACT.items()})
"""Gives every value a text that reads back as the same value, to the end of the transaction."""

KEEP_SETTINGS = _set({_KEPT.format(name): f"pg_catalog.current_setting('{name}')" for name in _EXACT})
"""Keeps the settings that :data:`EXACT_TEXT` changes, for a transaction of the caller's."""

PUT_SETTINGS_BACK = _set({name: f"pg_catalog.current_setting('{_KEPT.format(name)}')" for name in _EXACT})
"""Undoes :data:`EXACT_TEXT` after :data:`KEEP_SETTINGS`."""

PLAIN_SPELLING = _set({name: f"'{value}'" for name, value in {**_EXACT, **_SPELLING}.items()})
"""The settings for the queries of this module, so that the names in their results depend on no search path."""

# label, schema, name, its kind and parents, as lines
KINDS = """
SELECT 'kind', n.nspname::text, c.relname::text,
       pg_catalog.concat_ws(E'\\n',
           pg_catalog.concat(CASE WHEN c.relpersistence = 'u' THEN 'unlogged ' END,
                             CASE c.relkind WHEN 'p' THEN 'partitioned by ' || pg_catalog.pg_get_partkeydef(c.oid)
                                            ELSE 'table' END),
           CASE WHEN m.amname <> 'heap' THEN 'using ' || pg_catalog.quote_ident(m.amname) END,
           (SELECT pg_catalog.string_agg(
                       pg_catalog.concat(CASE WHEN c.relispartition THEN 'partition of ' ELSE 'inherits ' END,
                                         i.inhparent::pg_catalog.regclass::text,
                                         CASE WHEN i.inhdetachpending THEN ', which is being detached' END),
                       E'\\n' ORDER BY i.inhseqno)
              FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid),
           pg_catalog.pg_get_expr(c.relpartbound, c.oid))
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

# Objects with lower numbers are the server's own, and no dependency on them is recorded (FirstUnpinnedObjectId in
# transam.h).
_FIRST_USER_OID = 12_000

# The user's types of a table's columns, as lines: a value's text has a meaning only with them.
_TYPES_OF_TABLE = f"""
WITH RECURSIVE used (oid) AS (
    SELECT f.atttypid FROM pg_catalog.pg_attribute f
     WHERE f.attrelid = c.oid AND f.attnum > 0 AND NOT f.attisdropped AND f.atttypid >= {_FIRST_USER_OID}
     UNION
    SELECT x.oid
      FROM used u
      JOIN pg_catalog.pg_type t ON t.oid = u.oid
     CROSS JOIN LATERAL (
        SELECT t.typelem UNION ALL SELECT t.typbasetype
         UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid
         UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngmultitypid = t.oid
         UNION ALL SELECT f.atttypid FROM pg_catalog.pg_attribute f
                    WHERE f.attrelid = t.typrelid AND t.typrelid <> 0 AND f.attnum > 0 AND NOT f.attisdropped) x (oid)
     WHERE x.oid >= {_FIRST_USER_OID}
)
SELECT pg_catalog.string_agg(l.line, E'\\n' ORDER BY pg_catalog.format_type(t.oid, NULL), l.place, l.line)
  FROM used u
  JOIN pg_catalog.pg_type t ON t.oid = u.oid
 CROSS JOIN LATERAL (
    SELECT pg_catalog.concat('(enum) ', pg_catalog.format_type(t.oid, NULL), ': ', pg_catalog.quote_literal(e.enumlabel)),
           e.enumsortorder
      FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid
     UNION ALL
    SELECT pg_catalog.concat('(domain) ', pg_catalog.format_type(t.oid, NULL), ' ',
                             pg_catalog.format_type(t.typbasetype, t.typtypmod), CASE WHEN t.typnotnull THEN ' not null' END), 0
     WHERE t.typtype = 'd'
     UNION ALL
    SELECT pg_catalog.concat('(domain) ', pg_catalog.format_type(t.oid, NULL), ' ', pg_catalog.pg_get_constraintdef(k.oid)), 1
      FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'
     UNION ALL
    SELECT pg_catalog.concat('(type) ', pg_catalog.format_type(t.oid, NULL), ' ', pg_catalog.quote_ident(f.attname), ' ',
                             pg_catalog.format_type(f.atttypid, f.atttypmod)), f.attnum
      FROM pg_catalog.pg_attribute f
     WHERE f.attrelid = t.typrelid AND t.typrelid <> 0 AND f.attnum > 0 AND NOT f.attisdropped
     UNION ALL
    SELECT pg_catalog.concat('(range) ', pg_catalog.format_type(t.oid, NULL), ' of ',
                             pg_catalog.format_type(r.rngsubtype, NULL)), 0
      FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid) l (line, place)
"""


def _qualified(schema: str, name: str) -> str:
    return f"pg_catalog.concat(pg_catalog.quote_ident({schema}), '.', pg_catalog.quote_ident({name}))"


_TEXT = "'pg_catalog.text'::pg_catalog.regtype"
# PostgreSQL's own types of which two values have one hash only if they are the same in every byte, unlike 1.0 and 1.00:
# bool, bytea, "char", name, int8, int2, int4, text, oid, varchar, date, time, timestamp, timestamptz, uuid.
_EXACT_TYPES = "(16, 17, 18, 19, 20, 21, 23, 25, 26, 1043, 1082, 1083, 1114, 1184, 2950)"

# type that a kept text is cast to, type of the copy, collation, whether its hash tells values apart; of a column t, a.
#
# A domain is kept as its base type, the name of an object as its OID, which a rename does not change. If the user has a
# cast between the type and text, that is not the type's text: then varchar.
_KEPT_AS = f"""
SELECT CASE WHEN b.oid >= {_FIRST_USER_OID} THEN {_qualified("bn.nspname", "b.typname")} END AS type,
       CASE WHEN b.oid >= {_FIRST_USER_OID} THEN
                CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_cast w WHERE w.castmethod = 'f'
                                     AND (w.castsource, w.casttarget) IN ((b.oid, {_TEXT}), ({_TEXT}, b.oid)))
                     THEN 'pg_catalog.varchar' ELSE 'pg_catalog.text' END
            WHEN b.typname ~ '^reg[a-z]+$' THEN 'pg_catalog.oid'
            WHEN b.typname ~ '^_reg[a-z]+$' THEN 'pg_catalog._oid'
            WHEN t.oid >= {_FIRST_USER_OID} THEN {_qualified("bn.nspname", "b.typname")} END AS kept_as,
       CASE WHEN a.attcollation >= {_FIRST_USER_OID} THEN
            (SELECT {_qualified("ln.nspname", "l.collname")}
               FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace ln ON ln.oid = l.collnamespace
              WHERE l.oid = a.attcollation) END AS collation,
       b.oid >= {_FIRST_USER_OID} OR b.oid IN {_EXACT_TYPES} OR b.typname ~ '^reg[a-z]+$' AS is_exact
  FROM pg_catalog.pg_type b
  JOIN pg_catalog.pg_namespace bn ON bn.oid = b.typnamespace
 WHERE b.oid = CASE WHEN t.typtype <> 'd' THEN t.oid ELSE (
    WITH RECURSIVE d (oid, base) AS (
        SELECT t.typbasetype, e.typtype <> 'd' FROM pg_catalog.pg_type e WHERE e.oid = t.typbasetype
         UNION ALL
        SELECT e.typbasetype, g.typtype <> 'd'
          FROM d JOIN pg_catalog.pg_type e ON e.oid = d.oid AND NOT d.base
          JOIN pg_catalog.pg_type g ON g.oid = e.typbasetype)
    SELECT d.oid FROM d WHERE d.base) END
"""

# The expressions of a table's generated columns, as lines.
_GENERATED_OF_TABLE = """
SELECT pg_catalog.string_agg(pg_catalog.concat('(generated) ', pg_catalog.quote_ident(f.attname), ' as ',
                                               pg_catalog.pg_get_expr(g.adbin, g.adrelid)), E'\\n' ORDER BY f.attnum)
  FROM pg_catalog.pg_attribute f
  JOIN pg_catalog.pg_attrdef g ON g.adrelid = f.attrelid AND g.adnum = f.attnum
 WHERE f.attrelid = c.oid AND f.attgenerated <> ''
"""

# label, schema, name, columns as lines of a description, more such lines, columns as JSON, key as JSON
#
# The key is the primary key, or else the narrowest unique index over plain columns that are never null. A deferrable key
# can have been broken by session_replication_role; a key WITHOUT OVERLAPS is no B-tree. Each column has its operator
# class's own "=".
TABLE_SHAPES = f"""
SELECT 'table', n.nspname::text, c.relname::text,
       pg_catalog.string_agg(pg_catalog.concat_ws(' ', pg_catalog.quote_ident(a.attname),
           pg_catalog.format_type(a.atttypid, a.atttypmod),
           CASE WHEN a.attnotnull THEN 'not null' END,
           CASE WHEN a.attgenerated <> '' THEN 'generated' END,
           CASE WHEN a.attidentity <> '' THEN 'identity ' || a.attidentity::text END,
           CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::pg_catalog.regcollation::text END),
           E'\\n' ORDER BY a.attnum),
       pg_catalog.concat_ws(E'\\n',
           CASE WHEN pg_catalog.bool_or(a.attgenerated <> '') THEN ({_GENERATED_OF_TABLE}) END,
           CASE WHEN pg_catalog.max(a.atttypid::bigint) >= {_FIRST_USER_OID} THEN ({_TYPES_OF_TABLE}) END),
       pg_catalog.json_agg(pg_catalog.json_build_array(a.attname, a.attgenerated <> '', a.attidentity = 'a',
           k.type, k.kept_as, k.collation,
           coalesce(k.is_exact, t.oid IN {_EXACT_TYPES})) ORDER BY a.attnum) FILTER (WHERE a.attname IS NOT NULL),
       (SELECT (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                           f.attname, pg_catalog.concat(pg_catalog.quote_ident(s.nspname), '.', o.oprname)) ORDER BY u.place)
                  FROM ROWS FROM (pg_catalog.unnest(i.indkey::int2[]), pg_catalog.unnest(i.indclass::oid[]))
                       WITH ORDINALITY u (number, class, place)
                  JOIN pg_catalog.pg_attribute f ON f.attrelid = c.oid AND f.attnum = u.number
                  JOIN pg_catalog.pg_opclass p ON p.oid = u.class
                  JOIN pg_catalog.pg_amop q ON q.amopfamily = p.opcfamily AND q.amopstrategy = 3
                                           AND q.amoplefttype = p.opcintype AND q.amoprighttype = p.opcintype
                  JOIN pg_catalog.pg_operator o ON o.oid = q.amopopr AND (o.oprcanmerge OR o.oprcanhash)
                  JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace
                 WHERE u.place <= i.indnkeyatts
                HAVING pg_catalog.count(*) = i.indnkeyatts)
          FROM pg_catalog.pg_index i
          JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
          JOIN pg_catalog.pg_am m ON m.oid = x.relam AND m.amname = 'btree'
         WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
           AND i.indpred IS NULL AND i.indexprs IS NULL
           AND NOT EXISTS (SELECT FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY u(number, place)
                             LEFT JOIN pg_catalog.pg_attribute k ON k.attrelid = c.oid AND k.attnum = u.number
                            WHERE u.place <= i.indnkeyatts AND k.attnotnull IS NOT TRUE)
         ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid
         LIMIT 1)
  FROM (VALUES {{names}}) v (schema, name)
  JOIN pg_catalog.pg_namespace n ON n.nspname = v.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = v.name AND c.relkind IN ('r', 'p')
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  LEFT JOIN LATERAL ({_KEPT_AS}) k
    ON t.oid >= {_FIRST_USER_OID} OR a.attcollation >= {_FIRST_USER_OID} OR t.typname ~ '^_?reg'
 GROUP BY n.nspname, c.relname, c.oid
"""

# label, schema, name, the rows as lines: the migrations that were applied, not when.
MIGRATIONS = """
SELECT 'migrations', {schema}, {name}, pg_catalog.string_agg(line, E'\\n' ORDER BY line)
  FROM (SELECT (pg_catalog.to_jsonb(m) - 'id' - 'applied')::text AS line FROM {table} m) l
"""


_OWN = re.compile(rf"({'|'.join(KEPT_STATES)})(_[0-9]+)?\Z")


def is_baseline_table(name: str) -> bool:
    """Whether a table of the schema ``testdb`` belongs to a baseline, by its name there."""
    return _OWN.match(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableShape:
    """A table's columns and its key, with the operator of each of the key's columns; ``text`` describes them."""

    name: QualifiedName
    text: str
    columns: tuple[BaselineColumn, ...]
    key: tuple[str, ...]
    operators: tuple[str, ...]

    @classmethod
    def from_row(cls, row: Many[Any]) -> TableShape:
        """Make it from a row of :data:`TABLE_SHAPES`."""
        _, schema, name, text, more, columns, key = row
        key_columns, operators = zip(*_json(key), strict=True) if key else ((), ())
        lines = [text or ""]
        if key:
            lines.append(f"key ({', '.join(key_columns)})")
        if any(operator != "pg_catalog.=" for operator in operators):
            lines.append(f"(operators) {', '.join(operators)}")
        return cls(
            name=QualifiedName(schema, name),
            text="\n".join([*lines, *([more] if more else [])]),
            columns=tuple(
                BaselineColumn(
                    name=column,
                    is_generated=generated,
                    is_fixed=fixed,
                    type=kind or "",
                    kept_as=kept_as or "",
                    collation=collation or "",
                    is_exact=is_exact,
                )
                for column, generated, fixed, kind, kept_as, collation, is_exact in _json(columns or "[]")
            ),
            key=tuple(key_columns),
            operators=tuple(f"OPERATOR({operator})" for operator in operators),
        )


def _json(value: Any) -> Any:
    # The driver may have parsed it already.
    return json.loads(value) if isinstance(value, str) else value


def shape_queries(
    tables: Iterable[QualifiedName], migrations: Iterable[QualifiedName], *, with_kinds: bool = False
) -> list[str]:
    """Return the queries for :func:`parse_shape`: of *tables* that have copies, and of *migrations*, Django's own table.

    The kinds of all tables are left out where the token of the schema, which depends on them, is compared as well.
    """
    queries = [KINDS] if with_kinds else []
    names = ", ".join(f"({quote_literal(name.schema)}, {quote_literal(name.name)})" for name in sorted(tables))
    if names:
        queries.append(TABLE_SHAPES.format(names=names))
    queries += [
        MIGRATIONS.format(schema=quote_literal(name.schema), name=quote_literal(name.name), table=quote(name))
        for name in migrations
    ]
    return [PLAIN_SPELLING, *queries] if queries else []


def unreadable(name: QualifiedName, error: BaseException) -> dict[str, str]:
    """Return the entry of the shape for a list of migrations that cannot be read, now or any more."""
    return {_migrations_in(name): f"cannot be read: {first_line_of(error)}"}


def _migrations_in(name: QualifiedName) -> str:
    return f"{MIGRATIONS_IN}{name}"


def parse_shape(results: Iterable[Iterable[Many[Any]]]) -> dict[str, str]:
    """Make the description of what a baseline depends on from the rows of :func:`shape_queries`."""
    shape: dict[str, str] = {}
    for row in (row for rows in results for row in rows):
        match row[0]:
            case "kind":
                shape[f"{KIND_OF}table {QualifiedName(row[1], row[2])}"] = row[3]
            case "table":
                table = TableShape.from_row(row)
                shape[f"table {table.name}"] = table.text
            case "migrations":
                shape[_migrations_in(QualifiedName(row[1], row[2]))] = row[3] or ""
            case _:  # the settings of the spelling are not part of it
                pass
    return shape


def make_shape(schema: Schema, found: Mapping[str, str]) -> dict[str, str]:
    """Describe all that a baseline depends on: *schema*, and what :func:`parse_shape` has *found*, kinds included."""
    shape = describe_tables(schema)
    # Tables that are left out are not part of it.
    return shape | {what: text for what, text in found.items() if what in shape or not what.startswith(KIND_OF)}


def parse_tables(results: Iterable[Iterable[Many[Any]]]) -> dict[QualifiedName, TableShape]:
    """Return the tables among the rows of :func:`shape_queries`."""
    shapes = [TableShape.from_row(row) for rows in results for row in rows if row[0] == "table"]
    return {shape.name: shape for shape in shapes}
