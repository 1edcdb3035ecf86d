"""Names that break careless quoting, and types with values that careless comparison takes for equal."""

from __future__ import annotations

from dataclasses import dataclass

from testdb_app.backends.postgresql.sql import quote

SCHEMAS = ("public", 'Other "Schema"', "per%cent%s", "s.s", "żółć {0}")
TABLES = (
    "a",
    "b",
    "x0",
    'we"ird',
    "per%cent%s",
    "dot.ted",
    "Mixed Case",
    "żółć 😀",
    "select",
    "brace{0}d",
    "l" * 62 + "1",
    "l" * 62 + "2",
    "back\\slash",
    "semi;--",
    "it's",
    "$1",
    "new\nline",
    " ",
    "baseline_1",
    "t",
    "c",
)
COLUMNS = (
    "v",
    "w",
    "old",
    "new",
    'q"q',
    "p%s",
    "t",
    "c",
    "user",
    "image",
    "number",
    "{name}",
    "a.b",
    "Ü",
    "k" * 63,
    "it's",
    "x\\y",
)

_BIG = "(SELECT string_agg(md5(({0} + i)::text), '') FROM generate_series(1, 250) i)"


@dataclass(frozen=True, slots=True)
class Type:
    """A type as SQL writes it, and values as literals. ``{s}`` stands for the schema of the user's own types."""

    name: str
    values: tuple[str, ...]


INTEGER = Type("integer", ("1", "2", "3", "4", "5"))
TYPES = (
    Type("text", ("'a'", "'A'", "''", "'it''s'", "'\\'", "'%s {0}'", "E'tab\\tnew\\nline'", "'é'")),
    INTEGER,
    Type("numeric", ("1.0", "1.00", "1", "'NaN'", "'Infinity'", "0")),
    Type("double precision", ("0", "'-0'", "'NaN'", "0.1", "0.30000000000000004", "0.3", "1e-300")),
    Type("real", ("0", "'-0'", "0.1", "16777216", "'-Infinity'")),
    Type("text", (_BIG.format(0), _BIG.format(1), "repeat('x', 9000)", "'short'")),
    Type("bytea", (r"'\x'", r"'\x00ff27'", r"decode(repeat('00ff', 5000), 'hex')")),
    Type("json", ("""'{"a": 1}'""", """'{"a":1}'""", "'[1, 1.0]'", "'null'")),
    Type("jsonb", ("""'{"a": 1.0}'""", """'{"a": 1.00}'""", "'[]'")),
    Type("integer[]", ("'{}'", "'{1,NULL,2}'", "'[0:1]={1,2}'", "'{1,2}'")),
    Type("text[]", ("'{}'", """'{"a,b",NULL,"NULL"}'""", "'{a}'")),
    Type("int4range", ("'[1,3)'", "'[2,5]'", "'empty'", "'(,)'", "'[7,8)'")),
    Type("point", ("'(1,2)'", "'(1,2.0000000001)'", "'(0,-0)'")),
    Type("interval", ("'1 day'", "'24 hours'", "'1 month'", "'30 days'")),
    Type(
        "timestamptz", ("'2024-10-27 00:30:00.000001+00'", "'infinity'", "'2024-10-27 01:30:00+00'", "'1000-01-01 BC'")
    ),
    Type("character(3)", ("'a'", "'a  '", "'abc'")),
    Type("bit varying", ("B''", "B'010'")),
    Type("boolean", ("true", "false")),
    Type("uuid", ("'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'")),
    Type("xid", ("'1'", "'2'")),
    Type("{s}.mood", ("'sad'", "'it''s'")),
    Type("{s}.price", ("1.0", "1.00", "2")),
    Type("{s}.pair", ("'(1,a)'", "'(1,)'", "'(,\"b c\")'")),
    Type("{s}.mood[]", ("'{sad}'", "'{}'")),
)
KEY_TYPES = (
    INTEGER,
    INTEGER,
    Type("text", ("'a'", "'A'", "'b'", "'it''s'", "''")),
    Type("numeric", ("1.0", "1.00", "2", "2.0", "3")),
    Type("numeric", ("1.0", "1.00")),
    Type("double precision", ("0", "'-0'", "1", "'NaN'")),
    Type("{s}.price", ("1.0", "1.00", "2", "2.0")),
    Type("{s}.mood", ("'sad'", "'it''s'", "'ok'")),
    Type("bigint", ("1", "2", "3", "9223372036854775807")),
)


def own_types(schema: str) -> str:
    """Write the making of the user's own types: an enum, a domain and a row type."""
    where = quote(schema)
    return (
        f"CREATE TYPE {where}.mood AS ENUM ('sad', 'ok', 'it''s');\n"
        f"CREATE DOMAIN {where}.price AS numeric CHECK (VALUE > 0);\n"
        f"CREATE TYPE {where}.pair AS (n integer, t text)"
    )
