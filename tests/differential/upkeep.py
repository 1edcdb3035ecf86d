"""Random statements that keep the rows and change where they lie, what is known of them, or the session itself."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from testdb_app.backends.postgresql.sql import quote
from tests.differential.model import Model
from tests.differential.writes import Written, any_write, row_write

Draw = Any

_MAINTENANCE = {
    "vacuum": "VACUUM {0}",
    "vacuum freeze": "VACUUM (FREEZE) {0}",
    "vacuum full": "VACUUM FULL {0}",
    "vacuum everything": "VACUUM",
    "analyze": "ANALYZE {0}",
    "reindex": "REINDEX TABLE {0}",
    "set unlogged and back": "ALTER TABLE {0} SET {other}; ALTER TABLE {0} SET {own}",
    "column added and dropped": "ALTER TABLE {0} ADD COLUMN added integer DEFAULT 1; ALTER TABLE {0} DROP COLUMN added",
    "column added volatile": "ALTER TABLE {0} ADD COLUMN added float DEFAULT random(); ALTER TABLE {0} DROP COLUMN added",
    "disabled and enabled": "ALTER TABLE {0} DISABLE TRIGGER USER; ALTER TABLE {0} ENABLE TRIGGER USER",
    "locked": "BEGIN; LOCK TABLE {0}; COMMIT",
    "locked rows": "BEGIN; SELECT FROM {0} FOR UPDATE; COMMIT",
    "read": "SELECT * FROM {0}",
    "index made": "CREATE INDEX made_now ON {0} ((1)); DROP INDEX {schema}.made_now",
    "table renamed and back": "ALTER TABLE {0} RENAME TO renamed; ALTER TABLE {schema}.renamed RENAME TO {name}",
}


def maintenance(draw: Draw, model: Model) -> Written:
    """Draw maintenance of one table, and changes of the schema that are undone at once."""
    table = draw(st.sampled_from(model.tables))
    kind = draw(st.sampled_from(sorted(_MAINTENANCE)))
    own, other = ("UNLOGGED", "LOGGED") if table.kind == "unlogged" else ("LOGGED", "UNLOGGED")
    names = {"schema": quote(table.schema), "name": quote(table.name)}
    return kind, _MAINTENANCE[kind].format(table.sql, own=own, other=other, **names)


def rewriting(draw: Draw, model: Model) -> Written:
    """Draw a rewrite of a table: by CLUSTER, or by a type changed and changed back, or the values changed with it."""
    table = draw(st.sampled_from(model.tables))
    if table.is_referable and table.stores_rows and draw(st.booleans()):
        clustering = (
            f"DO $do$BEGIN EXECUTE (SELECT format('CLUSTER %s USING %I', i.indrelid::regclass, c.relname) "
            f"FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = {table.literal}::regclass "
            "AND i.indisunique LIMIT 1); END$do$"
        )
        return "cluster", clustering
    columns = [column for column in table.plain if column.values and table.kind not in {"partition", "heir"}]
    if not columns:
        return maintenance(draw, model)
    column = draw(st.sampled_from(columns))
    alter = f"ALTER TABLE {table.sql} ALTER COLUMN {column.name} TYPE"
    if draw(st.booleans()):
        using = draw(st.sampled_from((*column.values, "NULL")))
        # A subquery cannot stand there.
        using = "NULL" if using.startswith("(SELECT") else using
        return "values altered", f"{alter} {column.type} USING CAST({using} AS {column.type})"
    return (
        "type altered and back",
        f"{alter} text USING {column.name}::text; {alter} {column.type} USING {column.name}::{column.type}",
    )


def passing(draw: Draw, model: Model) -> Written:
    """Draw tables that are made and dropped again, or hide a real one."""
    table = draw(st.sampled_from(model.tables))
    kind, sql = draw(
        st.sampled_from(
            (
                ("table made and dropped", "CREATE TABLE passing (id serial PRIMARY KEY); INSERT INTO passing DEFAULT VALUES; DROP TABLE passing"),
                ("table like another", "CREATE TABLE passing (LIKE {0} INCLUDING ALL); INSERT INTO passing SELECT * FROM {0}; DROP TABLE passing"),
                ("table made and rolled back", "BEGIN; CREATE TABLE passing AS SELECT * FROM {0}; ROLLBACK"),
                ("rows kept in passing", "CREATE TABLE passing AS SELECT * FROM {0}; DELETE FROM {0}; DROP TABLE passing"),
                ("temporary table", "CREATE TEMP TABLE IF NOT EXISTS {name} (id integer, what text); INSERT INTO pg_temp.{name} VALUES (1, 'x')"),
                ("temporary table dropped", "CREATE TEMP TABLE IF NOT EXISTS {name} (id integer); DROP TABLE pg_temp.{name}"),
                ("temporary on commit", "BEGIN; CREATE TEMP TABLE passing ON COMMIT DROP AS SELECT * FROM {0}; COMMIT"),
                ("temporary sequence", "CREATE TEMP SEQUENCE IF NOT EXISTS passing_seq; SELECT nextval('pg_temp.passing_seq')"),
                ("view made and dropped", "CREATE VIEW passing AS SELECT * FROM {0}; DROP VIEW passing"),
            )
        )
    )  # fmt: skip
    return kind, sql.format(table.sql, name=quote(table.name))


def partition_moves(draw: Draw, model: Model) -> Written:
    """Draw a partition that is detached and attached again, perhaps written to meanwhile."""
    if not model.partitions:
        return passing(draw, model)
    root, partition, bound = draw(st.sampled_from(model.partitions))
    between = f"{row_write(draw, model)[1]}; " if draw(st.booleans()) else ""
    detach, attach = f"DETACH PARTITION {partition.sql}", f"ATTACH PARTITION {partition.sql} {bound}"
    sql = f"ALTER TABLE {root.sql} {detach}; {between}ALTER TABLE {root.sql} {attach}"
    return "partition detached and attached", sql


def remade(draw: Draw, model: Model) -> Written:
    """Draw a table that is dropped and made again by the same definition, or two that change their names."""
    tables = [
        table for table in model.tables if table.kind == "plain" and not any(c.has_default for c in table.columns)
    ]
    if not tables:
        return passing(draw, model)
    table = draw(st.sampled_from(tables))
    schema = quote(table.schema)
    columns = ", ".join(column.name for column in table.settable)
    rows = draw(st.sampled_from(("", " WHERE false")))
    sql = (
        f"BEGIN; ALTER TABLE {table.sql} RENAME TO remade; CREATE TABLE {table.sql} (LIKE {schema}.remade INCLUDING ALL); "
        f"INSERT INTO {table.sql} ({columns}) SELECT {columns} FROM {schema}.remade{rows}; "
        f"DROP TABLE {schema}.remade CASCADE; COMMIT"
    )
    return "table remade", sql


_OTHER_BOUNDS = {
    "FOR VALUES FROM (MINVALUE) TO (3)": "FOR VALUES FROM (-1000) TO (3)",
    "FOR VALUES FROM (3) TO (MAXVALUE)": "FOR VALUES FROM (3) TO (1000)",
    "FOR VALUES IN (1, 2)": "FOR VALUES IN (1, 2, 77)",
    "DEFAULT": "FOR VALUES IN (3, 4, 5)",
    "FOR VALUES WITH (MODULUS 2, REMAINDER 0)": "FOR VALUES WITH (MODULUS 4, REMAINDER 0)",
    "FOR VALUES WITH (MODULUS 2, REMAINDER 1)": "FOR VALUES WITH (MODULUS 4, REMAINDER 1)",
}


def left_behind(draw: Draw, model: Model) -> tuple[str, str, str]:
    """Draw a change of the schema that stays, and what undoes it; empty where nothing does."""
    home = quote(model.home)
    changes = [_left_alone(draw), _left_alone(draw), *_types_left(home)]
    for root, partition, bound in model.partitions:
        detach, attach = (f"ALTER TABLE {root.sql} {how} PARTITION {partition.sql}" for how in ("DETACH", "ATTACH"))
        back, other = f"{attach} {bound}", f"{attach} {_OTHER_BOUNDS[bound]}"
        changes += [("partition detached", detach, back)] * 2
        changes += [("partition of other bounds", f"{detach}; {other}", f"{detach}; {back}")] * 2
    for ancestor in model.tables:
        for heir in ancestor.heirs:
            alone, back = (f"ALTER TABLE {heir.sql} {how} {ancestor.sql}" for how in ("NO INHERIT", "INHERIT"))
            changes += [("heir alone", alone, back)] * 3
    return draw(st.sampled_from(changes))  # type: ignore[no-any-return]


def _left_alone(draw: Draw) -> tuple[str, str, str]:
    name = quote(draw(st.sampled_from(("left behind", "left%s"))))
    kind = draw(st.sampled_from(("TABLE", "SEQUENCE")))
    made = f"CREATE {kind} public.{name}" + (" (id integer)" if kind == "TABLE" else "")
    return kind.lower(), made, f"DROP {kind} public.{name}"


def _types_left(home: str) -> list[tuple[str, str, str]]:
    rename = f"ALTER TYPE {home}.mood RENAME VALUE"
    made = f"CREATE TYPE {home}.mood AS ENUM ('ok', 'sad')"
    return [
        ("enum dropped", f"DROP TYPE {home}.mood CASCADE", ""),
        ("enum made anew", f"DROP TYPE {home}.mood CASCADE; {made}", ""),
        ("row type dropped", f"DROP TYPE {home}.pair CASCADE", ""),
        ("domain dropped", f"DROP DOMAIN {home}.price CASCADE", ""),
        ("enum value renamed", f"{rename} 'sad' TO 'blue'", f"{rename} 'blue' TO 'sad'"),
        ("enum values swapped", f"{rename} 'sad' TO 'x'; {rename} 'ok' TO 'sad'; {rename} 'x' TO 'ok'", ""),
    ]


def any_upkeep(draw: Draw, model: Model) -> Written:
    """Draw one of all these."""
    kinds = (maintenance, maintenance, rewriting, passing, partition_moves, remade)
    return draw(st.sampled_from(kinds))(draw, model)  # type: ignore[no-any-return]


_SESSION = (
    ("discard all", "DISCARD ALL"),
    ("deallocate all", "DEALLOCATE ALL"),
    ("discard temp", "DISCARD TEMP"),
    ("setting", "SET extra_float_digits = 0"),
    ("setting", "SET DateStyle = 'German'"),
    ("setting", "SET IntervalStyle = 'sql_standard'"),
    ("setting", "SET bytea_output = 'escape'"),
    ("setting", "SET row_security = off"),
    ("setting", "SET stats_fetch_consistency = 'snapshot'"),
    ("setting", "SET stats_fetch_consistency = 'none'"),
    ("setting", "SET default_transaction_isolation = 'serializable'"),
    ("setting", "SET default_transaction_deferrable = on"),
    ("setting", "SET TimeZone = 'Pacific/Apia'"),
    ("setting", "SET standard_conforming_strings = off"),
    ("setting", "SET quote_all_identifiers = on"),
    ("setting", "SET plan_cache_mode = force_generic_plan"),
    ("setting", "SET enable_hashjoin = off"),
    ("setting", "SET enable_mergejoin = off"),
    ("setting", "SET check_function_bodies = off"),
    ("setting", "SET transform_null_equals = on"),
    ("setting", "SET array_nulls = off"),
    ("setting", "SET xmloption = document"),
)


def on_session(draw: Draw, model: Model) -> Written:
    """Draw a change of the session itself."""
    paths = tuple(("search path", f"SET search_path = {quote(schema)}") for schema in model.schemas)
    return draw(st.sampled_from(_SESSION + paths))  # type: ignore[no-any-return]


def statistics_reset(draw: Draw, model: Model) -> Written:
    """Draw a reset of the statistics: of all, or of one table."""
    if draw(st.booleans()):
        return "stat reset", "SELECT pg_stat_reset()"
    relation = draw(st.sampled_from([table.literal for table in model.storing] + ["'pg_catalog.pg_class'"]))
    return "stat reset single", f"SELECT pg_stat_reset_single_table_counters({relation}::regclass)"


def by_superuser(draw: Draw, model: Model) -> Written:
    """Draw what takes the statistics away, those there are or those of all new sessions; or a write.

    Not a write without statistics by a session that then ends: no counter shows it, as ``exactness.md`` says.
    """
    kind = draw(st.sampled_from(("reset", "reset", "shared", "blind", "seeing", "unchecked", "write")))
    if kind == "reset":
        return statistics_reset(draw, model)
    if kind == "shared":
        return "stat reset shared", "SELECT pg_stat_reset_shared('bgwriter')"
    if kind in {"blind", "seeing"}:
        how = "SET track_counts = off" if kind == "blind" else "RESET track_counts"
        alter = f"EXECUTE format('ALTER DATABASE %I {how}', current_database())"
        return f"{kind} database", f"DO $do$BEGIN {alter}; END$do$"
    write = any_write(draw, model)[1]
    if kind == "unchecked":
        return "write as replica", f"SET session_replication_role = replica; {write}; RESET session_replication_role"
    return "write as superuser", write
