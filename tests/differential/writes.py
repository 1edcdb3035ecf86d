"""Random statements that write rows and move sequences, alone and wrapped: rolled back, in functions, prepared, …"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from testdb_app.backends.postgresql.sql import quote_literal
from tests.differential.model import Column, Model, Table

Draw = Any
Written = tuple[str, str]
"""What kind of statement it is, and the statement."""


def value(draw: Draw, column: Column) -> str:
    """Draw a literal for a column."""
    choices = [*column.values]
    if column.nullable:
        choices.append("NULL")
    return str(draw(st.sampled_from(choices)))


def row(draw: Draw, table: Table) -> tuple[list[Column], list[str]]:
    """Draw columns and values of a row; a column with a default may be left out."""
    columns = [column for column in table.settable if not column.has_default or not draw(st.integers(0, 2))]
    return columns, [value(draw, column) for column in columns]


def _is_fixed(columns: list[Column]) -> str:
    return " OVERRIDING SYSTEM VALUE" if any(column.source == "always" for column in columns) else ""


def insert(draw: Draw, table: Table) -> Written:
    columns, values = row(draw, table)
    if not columns:
        return "insert", f"INSERT INTO {table.sql} DEFAULT VALUES"
    names = ", ".join(column.name for column in columns)
    return "insert", f"INSERT INTO {table.sql} ({names}){_is_fixed(columns)} VALUES ({', '.join(values)})"


def upsert(draw: Draw, table: Table) -> Written:
    _, sql = insert(draw, table)
    if not table.key or not table.plain or not table.is_referable or draw(st.booleans()):
        return "on conflict do nothing", f"{sql} ON CONFLICT DO NOTHING"
    column = draw(st.sampled_from(table.plain))
    return (
        "on conflict do update",
        f"{sql} ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {column.name} = {value(draw, column)}",
    )


def _where(draw: Draw, table: Table) -> str:
    ways = ["", f" WHERE ctid = (SELECT min(ctid) FROM ONLY {table.sql})"] if table.stores_rows else [""]
    if table.keys:
        column = table.keys[0]
        ways += [f" WHERE {column.name} = {draw(st.sampled_from(column.values))}"] * 3
    return str(draw(st.sampled_from(ways)))


def update(draw: Draw, table: Table) -> Written:
    columns = [column for column in table.settable if column.source != "always"]
    if not columns:
        return insert(draw, table)
    chosen = draw(st.lists(st.sampled_from(columns), min_size=1, max_size=2, unique_by=lambda column: column.name))
    only = "ONLY " if table.kind == "ancestor" and draw(st.booleans()) else ""
    sets = ", ".join(
        f"{column.name} = {draw(st.sampled_from((column.name, value(draw, column))))}" for column in chosen
    )
    if len(chosen) == 1 and chosen[0].type == "integer" and chosen[0].name in table.key and draw(st.booleans()):
        sets = f"{chosen[0].name} = {chosen[0].name} + 1"
    return "update", f"UPDATE {only}{table.sql} SET {sets}{_where(draw, table)}"


def delete(draw: Draw, table: Table) -> Written:
    only = "ONLY " if table.kind == "ancestor" and draw(st.booleans()) else ""
    return "delete", f"DELETE FROM {only}{table.sql}{_where(draw, table)}"


def merge(draw: Draw, table: Table) -> Written:
    if not table.keys or not table.plain:
        return insert(draw, table)
    key, column = table.keys[0], draw(st.sampled_from(table.plain))
    source = f"(SELECT CAST({draw(st.sampled_from(key.values))} AS {key.type}) AS k) s"
    matched = draw(st.sampled_from((f"UPDATE SET {column.name} = {value(draw, column)}", "DELETE", "DO NOTHING")))
    columns, values = row(draw, table)
    names = f" ({', '.join(each.name for each in columns)}){_is_fixed(columns)}" if columns else ""
    new = f"INSERT{names} " + (f"VALUES ({', '.join(values)})" if columns else "DEFAULT VALUES")
    return (
        "merge",
        f"MERGE INTO {table.sql} m USING {source} ON m.{key.name} = s.k WHEN MATCHED THEN {matched} WHEN NOT MATCHED THEN {new}",
    )


_ROWS = (insert, insert, insert, update, update, update, delete, delete, upsert, merge)


def row_write(draw: Draw, model: Model) -> Written:
    """Draw one statement that writes rows of one table."""
    return draw(st.sampled_from(_ROWS))(draw, draw(st.sampled_from(model.tables)))  # type: ignore[no-any-return]


def truncate(draw: Draw, model: Model) -> Written:
    """Draw a TRUNCATE."""
    tables = draw(st.lists(st.sampled_from(model.tables), min_size=1, max_size=2, unique_by=lambda table: table.sql))
    rest = draw(st.sampled_from(("", " RESTART IDENTITY", " CASCADE", " RESTART IDENTITY CASCADE")))
    return f"truncate{rest.lower()}", f"TRUNCATE {', '.join(table.sql for table in tables)}{rest}"


def sequence_move(draw: Draw, model: Model) -> Written:
    """Draw something that moves a sequence: one of its own, or the one of a column."""
    owned = [
        f"pg_get_serial_sequence({table.literal}, {quote_literal(column.name)})"
        for table in model.tables
        for column in table.columns
        if column.source in {"serial", "always", "by default"}
    ]
    names = [quote_literal(name) for name in model.sequences]
    if not names + owned:
        return truncate(draw, model)
    name = draw(st.sampled_from(names + owned))
    number = draw(st.sampled_from((1, 2, 3, 100, 1000)))
    if name in names and not draw(st.integers(0, 2)):
        sequence = model.sequences[names.index(name)]
        return "alter sequence", f"ALTER SEQUENCE {sequence} RESTART{draw(st.sampled_from(('', f' WITH {number}')))}"
    call = draw(
        st.sampled_from(
            (
                "nextval({0})",
                "nextval({0}), nextval({0})",
                "nextval({0})",
                "setval({0}, {1})",
                "setval({0}, {1}, false)",
            )
        )
    )
    return call.split("(")[0], f"SELECT {call.format(name, number)}"


def any_write(draw: Draw, model: Model) -> Written:
    """Draw a statement that writes, of whatever kind."""
    number = draw(st.integers(0, 9))
    if number < 7:
        return row_write(draw, model)
    return sequence_move(draw, model) if number < 9 else truncate(draw, model)


def wrapped(draw: Draw, model: Model) -> Written:
    """Draw several statements in a wrapping: a transaction, a savepoint, a function, a prepared statement, …"""
    kind = draw(st.sampled_from(sorted(_WRAPPINGS)))
    count = _WRAPPINGS[kind].count("{")
    inner = [any_write(draw, model)[1] for _ in range(count)]
    return kind, _WRAPPINGS[kind].format(*inner)


_WRAPPINGS = {
    "transaction": "BEGIN; {}; {}; COMMIT",
    "rolled back": "BEGIN; {}; {}; ROLLBACK",
    "savepoint rolled back": "BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s; RELEASE s; COMMIT",
    "savepoint kept": "BEGIN; SAVEPOINT s; {}; RELEASE s; SAVEPOINT s; {}; COMMIT",
    "written and truncated": "BEGIN; {}; {}; SAVEPOINT s; {}; ROLLBACK TO s; {}; COMMIT",
    "serializable": "BEGIN ISOLATION LEVEL SERIALIZABLE; {}; COMMIT",
    "deferred": "BEGIN; SET CONSTRAINTS ALL DEFERRED; {}; {}; {}; COMMIT",
    "several at once": "{}; {}; {}",
}


def in_function(draw: Draw, model: Model) -> Written:
    """Draw statements inside a PL/pgSQL block, with one of them undone by an exception."""
    calls = [any_write(draw, model)[1].replace("SELECT nextval", "PERFORM nextval") for _ in range(2)]
    first, second = (call.replace("SELECT setval", "PERFORM setval") for call in calls)
    undone = draw(st.sampled_from(("", " RAISE division_by_zero;")))
    return (
        "plpgsql",
        f"DO $do$BEGIN {first}; BEGIN {second};{undone} EXCEPTION WHEN OTHERS THEN NULL; END; END$do$",
    )


def committing(draw: Draw, model: Model) -> Written:
    """Draw a block that commits and rolls back in its middle."""
    (_, first), (_, second) = row_write(draw, model), row_write(draw, model)
    return "commit in a block", f"DO $do$BEGIN {first}; COMMIT; {second}; ROLLBACK; END$do$"


def prepared(draw: Draw, model: Model) -> Written:
    """Draw a prepared statement, executed twice; the session keeps it."""
    _, sql = row_write(draw, model)
    again = draw(st.sampled_from(("", "; DEALLOCATE p")))
    return "prepared statement", f"DEALLOCATE ALL; PREPARE p AS {sql}; EXECUTE p{again}"


def in_cte(draw: Draw, model: Model) -> Written:
    """Draw writes in common table expressions."""
    parts = [
        draw(st.sampled_from((insert, update, delete)))(draw, draw(st.sampled_from(model.tables)))[1] for _ in range(2)
    ]
    return "writable cte", "WITH " + ", ".join(
        f"w{n} AS ({sql} RETURNING 1)" for n, sql in enumerate(parts)
    ) + " SELECT 1"


def copy(draw: Draw, model: Model) -> Written:
    """Draw a COPY of rows with integers and texts; of other columns NULL."""
    table = draw(st.sampled_from(model.tables))
    columns = [column for column in table.settable if column.name in table.key or column.type in {"integer", "text"}]
    columns = [column for column in columns if column.type in {"integer", "bigint", "text", "numeric"}]
    if not columns:
        return insert(draw, table)
    lines = []
    for _ in range(draw(st.integers(1, 2))):
        values = [value(draw, column) for column in columns]
        lines.append("\t".join(each.strip("'") if each.strip("'").isalnum() else "\\N" for each in values))
    names = ", ".join(column.name for column in columns)
    return "copy", f"COPY {table.sql} ({names}) FROM STDIN\n" + "\n".join(lines)
