"""Random tables: keys, partitions, inheritance, unique and exclusion constraints, and the sequences that number them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from testdb_app.backends.postgresql.sql import quote, quote_literal
from tests.differential.model import Column, Model, Table
from tests.differential.values import COLUMNS, INTEGER, KEY_TYPES, SCHEMAS, TABLES, TYPES, Type, own_types

Draw = Any

_KEYS = (
    "serial",
    "always",
    "by default",
    "shared",
    "plain",
    "composite",
    "no key",
    "unique",
    "serial",
    "plain",
)
_KINDS = ("plain",) * 6 + ("partitioned",) * 2 + ("ancestor", "unlogged")
_SEQUENCES = (
    "",
    "START 1000",
    "INCREMENT -1",
    "MINVALUE 100",
    "MAXVALUE 3 CYCLE",
    "CACHE 20",
    "AS smallint START 7 INCREMENT 3",
    "MINVALUE -5 START 0",
)
_IDENTITIES = ("", " (START 1000)", " (CACHE 10)", " (INCREMENT -1)", " (MAXVALUE 4 CYCLE)")


@st.composite
def models(draw: Draw, *, version: int) -> Model:
    """Draw schemas, types, sequences and tables, without their keys to each other."""
    others = draw(st.lists(st.sampled_from(SCHEMAS[1:]), max_size=2, unique=True))
    model = Model(schemas=("public", *others))
    for schema in others:
        model.add("schema", f"CREATE SCHEMA {quote(schema)}")
    model.add("types", own_types(model.home))
    for number in range(draw(st.integers(0, 2))):
        _add_sequence(draw, model, number)
    names = draw(st.lists(st.sampled_from(TABLES), min_size=2, max_size=5, unique=True))
    for name in names:
        _add_table(draw, model, draw(st.sampled_from(model.schemas)), name, version)
    return model


def _add_sequence(draw: Draw, model: Model, number: int) -> None:
    schema = draw(st.sampled_from(model.schemas))
    stem = draw(st.sampled_from(("s", "S%s", 's"q', "it's")))
    name = f"{quote(schema)}.{quote(f'{stem}{number}')}"
    unlogged = "UNLOGGED " if draw(st.integers(0, 5)) == 5 else ""
    options = draw(st.sampled_from(_SEQUENCES))
    model.sequences.append(name)
    model.add(f"sequence {unlogged}{options}".strip(), f"CREATE {unlogged}SEQUENCE {name} {options}".strip())


def _typed(model: Model, kind: Type, **options: Any) -> dict[str, Any]:
    return {"type": kind.name.replace("{s}", quote(model.home)), "values": kind.values, **options}


def _add_table(draw: Draw, model: Model, schema: str, name: str, version: int) -> None:
    kind = draw(st.sampled_from(_KINDS))
    key_is = draw(st.sampled_from(_KEYS))
    if key_is == "shared" and not model.sequences:
        key_is = "serial"
    if kind == "partitioned" and key_is in {"always", "by default", "no key"}:
        key_is = "plain"  # partitions have identities only since PostgreSQL 17
    names = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=3, unique=True))
    columns = _key_columns(draw, model, key_is, numbered=kind == "partitioned")
    columns += [Column(name=quote(each), **_typed(model, draw(st.sampled_from(TYPES)))) for each in names]
    if draw(st.integers(0, 5)) == 5:
        columns.append(_generated(draw, columns, version))
    key = {"no key": (), "composite": ("id", '"Id 2"')}.get(key_is, ("id",))
    table = Table(schema=schema, name=name, columns=columns, key=key, key_is=key_is, kind=kind)
    parts = [_column_sql(draw, model, column) for column in columns]
    if key:
        rest = draw(st.sampled_from(("",) * 8 + (" DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED")))
        table.is_referable = not rest
        parts.append(f"{'UNIQUE' if key_is == 'unique' else 'PRIMARY KEY'} ({', '.join(key)}){rest}")
    parts += _constraints(draw, table)
    how = "UNLOGGED " if kind == "unlogged" else ""
    method = draw(st.sampled_from(("RANGE", "LIST", "HASH"))) if kind == "partitioned" else ""
    by = f" PARTITION BY {method} (id)" if method else ""
    model.tables.append(table)
    model.add(f"table {kind}, {key_is}", f"CREATE {how}TABLE {table.sql} ({', '.join(parts)}){by}")
    if kind == "partitioned":
        _add_partitions(draw, model, table, method)
    elif kind == "ancestor":
        _add_heir(draw, model, table)


def _key_columns(draw: Draw, model: Model, key_is: str, *, numbered: bool) -> list[Column]:
    if key_is == "no key":
        return []
    if key_is in {"serial", "always", "by default", "shared"}:
        return [Column(name="id", type="integer", values=INTEGER.values, source=key_is, nullable=False)]
    kind = INTEGER if numbered else draw(st.sampled_from(KEY_TYPES))
    columns = [Column(name="id", nullable=False, **_typed(model, kind))]
    if key_is == "composite":
        columns.append(Column(name='"Id 2"', nullable=False, **_typed(model, draw(st.sampled_from(KEY_TYPES)))))
    return columns


def _generated(draw: Draw, columns: list[Column], version: int) -> Column:
    source = draw(st.sampled_from([column for column in columns if column.source != "generated"]))
    how = draw(st.sampled_from(("STORED", "VIRTUAL"))) if version >= 18 else "STORED"
    return Column(
        name="made", type=f"boolean GENERATED ALWAYS AS ({source.name} IS NULL) {how}", values=(), source="generated"
    )


def _column_sql(draw: Draw, model: Model, column: Column) -> str:
    what = column.type
    if column.source == "serial":
        what = "serial"
    elif column.source in {"always", "by default"}:
        what += f" GENERATED {column.source.upper()} AS IDENTITY{draw(st.sampled_from(_IDENTITIES))}"
    elif column.source == "shared":
        what += f" DEFAULT nextval({quote_literal(draw(st.sampled_from(model.sequences)))})"
    return f"{column.name} {what}" + ("" if column.nullable or column.source == "serial" else " NOT NULL")


def _constraints(draw: Draw, table: Table) -> list[str]:
    if table.kind == "partitioned" or draw(st.integers(0, 3)) < 3:
        return []
    column = draw(st.sampled_from(table.settable))
    if column.type == "int4range":
        return [f"EXCLUDE USING gist ({column.name} WITH &&){draw(st.sampled_from(('', ' DEFERRABLE')))}"]
    if column.type in {"json", "point", "xid"} or column.name in table.key:
        return []
    rest = ("", " DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED")
    return [f"UNIQUE{draw(st.sampled_from(('', ' NULLS NOT DISTINCT')))} ({column.name}){draw(st.sampled_from(rest))}"]


_BOUNDS = {
    "RANGE": ("FROM (MINVALUE) TO (3)", "FROM (3) TO (MAXVALUE)"),
    "LIST": ("IN (1, 2)", "DEFAULT"),
    "HASH": ("WITH (MODULUS 2, REMAINDER 0)", "WITH (MODULUS 2, REMAINDER 1)"),
}


def _add_partitions(draw: Draw, model: Model, root: Table, method: str) -> None:
    first, second = _BOUNDS[method]
    _add_partition(draw, model, root, 1, first, attached=draw(st.booleans()))
    if not draw(st.booleans()):
        _add_partition(draw, model, root, 2, second)
        return
    branch = _add_partition(draw, model, root, 2, second, by=" PARTITION BY HASH (id)")
    for number, bound in enumerate(_BOUNDS["HASH"], 3):
        _add_partition(draw, model, branch, number, bound)


def _add_partition(
    draw: Draw, model: Model, root: Table, number: int, bound: str, *, by: str = "", attached: bool = False
) -> Table:
    kind = "branch" if by else "partition"
    schema = draw(st.sampled_from(model.schemas))
    table = Table(schema=schema, name=f"{root.name[:50]}_{number}", columns=root.columns, key=root.key, kind=kind)
    bound = bound if bound == "DEFAULT" else f"FOR VALUES {bound}"
    if attached:
        # Other positions of the columns, and one that is gone.
        columns = [
            f"{column.name} {'integer' if column.source == 'serial' else column.type}{'' if column.nullable else ' NOT NULL'}"
            for column in reversed(root.columns)
        ]
        model.add(
            "partition attached",
            f"CREATE TABLE {table.sql} (gone integer, {', '.join(columns)});\n"
            f"ALTER TABLE {table.sql} DROP COLUMN gone;\nALTER TABLE {root.sql} ATTACH PARTITION {table.sql} {bound}",
        )
    else:
        model.add(kind, f"CREATE TABLE {table.sql} PARTITION OF {root.sql} {bound}{by}")
    model.tables.append(table)
    model.partitions.append((root, table, bound))
    return table


def _add_heir(draw: Draw, model: Model, ancestor: Table) -> None:
    schema = draw(st.sampled_from(model.schemas))
    # Identities are not inherited; what is left is a column that must be given.
    columns = [
        replace(column, source="") if column.source in {"always", "by default"} else column
        for column in ancestor.columns
    ]
    table = Table(schema=schema, name=f"{ancestor.name[:50]}_heir", columns=columns, key=ancestor.key, kind="heir")
    key = f", PRIMARY KEY ({', '.join(table.key)})" if table.key and draw(st.booleans()) else ""
    table.key_is, table.is_referable = ("plain", True) if key else ("no key", False)
    ancestor.heirs.append(table)
    model.tables.append(table)
    model.add("heir", f"CREATE TABLE {table.sql} (mine integer{key}) INHERITS ({ancestor.sql})")
