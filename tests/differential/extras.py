"""Random triggers, rules, row security, functions and publications: what writes, hides or refuses behind the statement's back."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from testdb_app.backends.postgresql.sql import quote
from tests.differential.model import Column, Model, Table

Draw = Any

_ENABLED = ("", "", "", "ENABLE ALWAYS", "ENABLE REPLICA", "DISABLE")
_AUDITS = (
    "AFTER INSERT OR UPDATE OR DELETE ON {0} FOR EACH ROW",
    "AFTER INSERT OR UPDATE OR DELETE ON {0} FOR EACH STATEMENT",
    "AFTER DELETE ON {0} FOR EACH ROW",
    "AFTER TRUNCATE ON {0} FOR EACH STATEMENT",
    "BEFORE UPDATE ON {0} FOR EACH ROW",
)
_RULES = (
    "ON DELETE TO {0} DO INSTEAD NOTHING",
    "ON UPDATE TO {0} DO INSTEAD NOTHING",
    "ON INSERT TO {0} DO INSTEAD NOTHING",
    "ON INSERT TO {0} DO ALSO INSERT INTO {1} VALUES ('rule')",
    "ON DELETE TO {0} DO ALSO INSERT INTO {1} VALUES ('rule')",
)
_POLICIES = ("true", "false", "{0} IS NULL", "{0}::text > '1'")


def add_extras(draw: Draw, model: Model) -> None:
    """Add what fires on writes. It comes after the rows of the baseline, which it would keep out."""
    tables = [table for table in model.tables if table.kind != "branch"]
    log = Table(
        schema=model.home,
        name="log %s",
        columns=[Column(name="what", type="text", values=("'x'", "'y'"))],
        key_is="no key",
    )
    for number, table in enumerate(draw(st.lists(st.sampled_from(tables), max_size=3))):
        if not number:
            _add_functions(model, log)
        _add_trigger(draw, model, table, log, number)
    if draw(st.integers(0, 4)) == 4:
        _add_rule(draw, model, draw(st.sampled_from(tables)), log)
    if draw(st.integers(0, 5)) == 5:
        _add_policy(draw, model, draw(st.sampled_from(tables)))
    if draw(st.integers(0, 5)) == 5:
        _add_publication(draw, model)


OF_ALL_TABLES = "publication of all tables"
"""What only a superuser may make."""


def _add_publication(draw: Draw, model: Model) -> None:
    """Add a publication, under which the server refuses DELETE and UPDATE on tables without a replica identity."""
    publish = draw(
        st.sampled_from(("", "", "publish = 'insert, delete'", "publish = 'update'", "publish_via_partition_root"))
    )
    options = f" WITH ({publish})" if publish else ""
    for table in draw(st.lists(st.sampled_from(model.tables), max_size=2)):
        identity = draw(st.sampled_from(("NOTHING", "NOTHING", "FULL", "USING INDEX gone")))
        first, after = "", ""
        if identity == "USING INDEX gone":
            columns = [column.name for column in table.keys] or [table.columns[0].name]
            index = quote(f"gone {len(model.made)}")
            identity = f"USING INDEX {index}"
            first = f"CREATE UNIQUE INDEX {index} ON {table.sql} ({', '.join(columns)});\n"
            after = f";\nDROP INDEX {quote(table.schema)}.{index}"
        model.add("replica identity", f"{first}ALTER TABLE {table.sql} REPLICA IDENTITY {identity}{after}")
    if draw(st.integers(0, 2)):
        model.add(OF_ALL_TABLES, f"CREATE PUBLICATION everything FOR ALL TABLES{options}")
        return
    listed = []
    for table in draw(
        st.lists(st.sampled_from(model.tables), min_size=1, max_size=3, unique_by=lambda table: table.sql)
    ):
        columns = draw(st.sampled_from(("", "", "keys", "some")))
        names = [column.name for column in (table.settable if columns == "some" else table.keys)][:2]
        condition = f" WHERE ({table.columns[-1].name} IS NOT NULL)" if not draw(st.integers(0, 3)) else ""
        listed.append(f"{table.sql}{f' ({chr(44).join(names)})' if columns and names else ''}{condition}")
    model.add("publication", f"CREATE PUBLICATION listed FOR TABLE {', '.join(listed)}{options}")


def _add_functions(model: Model, log: Table) -> None:
    home = quote(model.home)
    if log not in model.tables:
        model.tables.append(log)
        model.add("log", f"CREATE TABLE {log.sql} (what text)")
    model.add(
        "trigger functions",
        f"CREATE FUNCTION {home}.audit() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN INSERT INTO {log.sql} VALUES (TG_OP); RETURN NEW; END$$;\n"
        f"CREATE FUNCTION {home}.refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE 'append-only'; END$$;\n"
        f"CREATE FUNCTION {home}.swallow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$",
    )


def _add_trigger(draw: Draw, model: Model, table: Table, log: Table, number: int) -> None:
    name = quote(draw(st.sampled_from(("trg", "t%s", 't"g'))) + str(number))
    kind = draw(st.sampled_from(("audit", "audit", "refuse", "swallow", "change", "deferred", "elsewhere")))
    home, event = quote(model.home), draw(st.sampled_from(("INSERT", "UPDATE", "DELETE")))
    made = ""
    if table is log:
        kind = "refuse"
    if kind == "audit":
        how = f"{draw(st.sampled_from(_AUDITS)).format(table.sql)} EXECUTE FUNCTION {home}.audit()"
    elif kind in {"refuse", "swallow"}:
        how = f"BEFORE {event} ON {table.sql} FOR EACH ROW EXECUTE FUNCTION {home}.{kind}()"
    elif kind == "deferred":
        how = f"AFTER {event} ON {table.sql} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {home}.audit()"
    else:
        function = f"{home}.f{number}"
        body = _change(draw, table) if kind == "change" else _elsewhere(draw, model)
        made = f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $${body}$$;\n"
        when = "BEFORE INSERT OR UPDATE" if kind == "change" else f"AFTER {event}"
        how = f"{when} ON {table.sql} FOR EACH ROW EXECUTE FUNCTION {function}()"
    enabled = draw(st.sampled_from(_ENABLED))
    switch = f";\nALTER TABLE {table.sql} {enabled} TRIGGER {name}" if enabled else ""
    constraint = "CONSTRAINT " if kind == "deferred" else ""
    model.triggers.append((table, name))
    model.add(f"trigger {kind} {enabled.lower()}".strip(), f"{made}CREATE {constraint}TRIGGER {name} {how}{switch}")


def _change(draw: Draw, table: Table) -> str:
    column = draw(st.sampled_from(table.columns))
    if column.source == "generated" or column.name in table.key:
        return "BEGIN RETURN NEW; END"
    return f"BEGIN NEW.{column.name} := {draw(st.sampled_from((*column.values, 'NULL')))}; RETURN NEW; END"


def _elsewhere(draw: Draw, model: Model) -> str:
    other = draw(st.sampled_from(model.tables))
    write = f"DELETE FROM {other.sql}"
    if other.plain and draw(st.booleans()):
        column = draw(st.sampled_from(other.plain))
        write = f"UPDATE {other.sql} SET {column.name} = {draw(st.sampled_from((*column.values, 'NULL')))}"
    # Two such triggers would call each other for ever.
    return f"BEGIN IF pg_trigger_depth() < 3 THEN {write}; END IF; RETURN NULL; END"


def _add_rule(draw: Draw, model: Model, table: Table, log: Table) -> None:
    rule = draw(st.sampled_from(_RULES))
    if log not in model.tables:
        model.tables.append(log)
        model.add("log", f"CREATE TABLE {log.sql} (what text)")
    if table is log:
        return
    name, enabled = quote(draw(st.sampled_from(("rule", "r%s", 'r"')))), draw(st.sampled_from(_ENABLED))
    switch = f";\nALTER TABLE {table.sql} {enabled} RULE {name}" if enabled else ""
    model.add(
        f"rule {rule.split(' TO')[0].lower()} {enabled.lower()}".strip(),
        f"CREATE RULE {name} AS {rule.format(table.sql, log.sql)}{switch}",
    )


def _add_policy(draw: Draw, model: Model, table: Table) -> None:
    condition = draw(st.sampled_from(_POLICIES)).format(draw(st.sampled_from(table.columns)).name)
    force = draw(st.sampled_from((f";\nALTER TABLE {table.sql} FORCE ROW LEVEL SECURITY", "")))
    model.add(
        f"row security{' forced' if force else ''}",
        f"CREATE POLICY p ON {table.sql} USING ({condition}) WITH CHECK (true);\n"
        f"ALTER TABLE {table.sql} ENABLE ROW LEVEL SECURITY{force}",
    )
