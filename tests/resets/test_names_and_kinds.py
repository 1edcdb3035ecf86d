"""Hostile names, partitions and inheritance; what is not touched: tables of extensions, foreign tables, views.

Rules and row-level security neither hide rows from a reset nor keep them.
"""

from __future__ import annotations

import pytest

from testdb_app.backends.postgresql.sql import quote
from testdb_app.exceptions import MissingPrivilegeError
from testdb_app.schema import QualifiedName
from tests.scratch import ScratchDatabase

HOSTILE = [
    'with "quotes"',
    "per%cent %s %(x)s",
    "with space",
    "with.dots",
    "CamelCase",
    "ünïcödé ☃",
    "x" * 63,
    "é" * 31,
    "select",
    "semi;colon--comment",
    "back\\slash",
    "new\nline",
    "'single'",
    "$$dollar$$",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_emptied_and_their_sequences_restarted(scratch, name):
    schema = QualifiedName(name, name)
    scratch.execute(
        f"CREATE SCHEMA {quote(name)};"
        f"CREATE TABLE {quote(schema)} ({quote(name)} serial PRIMARY KEY, parent int REFERENCES {quote(schema)});"
        f"INSERT INTO {quote(schema)} DEFAULT VALUES; INSERT INTO {quote(schema)} (parent) VALUES (1)"
    )
    resetter = scratch.resetter(include=[quote(schema)])
    assert resetter.plan().rows == {schema: 2}
    report = resetter.reset()
    assert (report.rows, len(report.sequences)) == (2, 1)
    assert scratch.count(quote(schema)) == 0


def test_a_temporary_table_of_the_same_name_does_not_shadow_the_real_one(scratch):
    scratch.execute("CREATE TABLE item (id serial PRIMARY KEY); INSERT INTO item DEFAULT VALUES")
    with scratch.connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE item (id int); INSERT INTO item VALUES (1), (2)")
    report = scratch.reset()
    assert report.rows == 1
    assert scratch.count("item") == 0
    with scratch.connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM item")
        assert cursor.fetchone() == (2,)
    assert [item.reason for item in report.kept] == ["temporary table"]


PARTITIONS = """
CREATE TABLE event (id bigserial, day date, kind int, PRIMARY KEY (id, day, kind)) PARTITION BY RANGE (day);
CREATE TABLE event_2025 PARTITION OF event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE event_2026 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (kind);
CREATE TABLE event_2026_1 PARTITION OF event_2026 FOR VALUES IN (1);
CREATE TABLE event_default PARTITION OF event DEFAULT;
CREATE TABLE event_detached PARTITION OF event FOR VALUES FROM ('2030-01-01') TO ('2031-01-01');
CREATE TABLE note (id serial PRIMARY KEY, event_id bigint, day date, kind int,
                   FOREIGN KEY (event_id, day, kind) REFERENCES event);
INSERT INTO event (day, kind) VALUES ('2025-05-05', 1), ('2026-05-05', 1), ('2029-01-01', 9), ('2030-05-05', 1);
INSERT INTO note (event_id, day, kind) SELECT id, day, kind FROM event WHERE day < '2030-01-01';
ALTER TABLE event DETACH PARTITION event_detached;
"""


@pytest.mark.parametrize("strategy", ["auto", "delete", "truncate"])
def test_partitions_of_several_levels_are_emptied_and_a_key_to_the_root_is_obeyed(scratch, strategy):
    scratch.execute(PARTITIONS)
    scratch.reset(strategy=strategy)
    assert [scratch.count(name) for name in ("event", "note", "event_detached")] == [0, 0, 0]
    assert scratch.sequence_state("event_id_seq") == (1, False)


def test_excluding_the_root_keeps_its_partitions_but_not_a_detached_one(scratch):
    scratch.execute(PARTITIONS)
    scratch.reset(exclude=["public.event"])
    assert [scratch.count(name) for name in ("event", "note", "event_detached")] == [3, 0, 0]


def test_excluding_one_partition_keeps_only_that_one(scratch):
    scratch.execute(PARTITIONS)
    scratch.execute("DELETE FROM note")
    scratch.reset(exclude=["public.event_2025"])
    assert [scratch.count(name) for name in ("event", "event_2025")] == [1, 1]
    assert scratch.sequence_state("event_id_seq")[1] is True, "a row that stays uses that sequence"


@pytest.mark.parametrize("strategy", ["auto", "delete", "truncate"])
def test_an_inheritance_child_that_stays_keeps_its_rows(scratch, strategy):
    scratch.execute(
        "CREATE TABLE city (id serial PRIMARY KEY, name text); CREATE TABLE capital (country text) INHERITS (city);"
        "INSERT INTO city (name) VALUES ('Ulm'); INSERT INTO capital (name, country) VALUES ('Rome', 'IT')"
    )
    report = scratch.reset(exclude=["public.capital"], strategy=strategy)
    assert [str(table.name) for table in report.tables] == ["public.city"]
    assert (scratch.count("ONLY city"), scratch.count("capital")) == (0, 1)
    scratch.reset()
    assert scratch.count("city") == 0


def test_tables_of_extensions_and_foreign_tables_are_not_touched(scratch):
    with scratch.superuser() as superuser:
        extension = superuser.execute(
            "SELECT name FROM pg_available_extensions WHERE name IN ('postgres_fdw', 'file_fdw') LIMIT 1"
        ).fetchone()
        owner = scratch.value("SELECT current_user")
        superuser.execute(f'CREATE TABLE reference (id serial PRIMARY KEY); ALTER TABLE reference OWNER TO "{owner}"')
        superuser.execute("INSERT INTO reference DEFAULT VALUES; ALTER EXTENSION plpgsql ADD TABLE reference")
        if extension:
            superuser.execute(f"CREATE EXTENSION {extension[0]}; CREATE SERVER s FOREIGN DATA WRAPPER {extension[0]}")
            options = "OPTIONS (filename '/nowhere')" if extension[0] == "file_fdw" else ""
            superuser.execute(f"CREATE FOREIGN TABLE far (id int) SERVER s {options}")
    kept = {str(item.name): item.reason for item in scratch.reset().kept}
    assert kept["public.reference"] == "belongs to the extension plpgsql"
    assert scratch.count("reference") == 1
    if extension:
        assert kept["public.far"] == "foreign table"


def test_unlogged_tables_are_emptied_and_materialized_views_are_reported_as_stale(scratch):
    scratch.execute(
        "CREATE UNLOGGED TABLE draft (id int); INSERT INTO draft VALUES (1);"
        "CREATE TABLE sale (amount int); INSERT INTO sale VALUES (3);"
        "CREATE TABLE untouched (id int);"
        "CREATE VIEW big_sale AS SELECT * FROM sale WHERE amount > 1;"
        "CREATE MATERIALIZED VIEW total AS SELECT sum(amount) FROM big_sale;"
        "CREATE MATERIALIZED VIEW unrelated AS SELECT * FROM untouched;"
        "CREATE MATERIALIZED VIEW unfilled AS SELECT * FROM sale WITH NO DATA"
    )
    report = scratch.reset()
    assert scratch.count("draft") == 0
    assert [str(name) for name in report.stale_views] == ["public.total"]


@pytest.mark.parametrize("strategy", ["auto", "delete", "truncate"])
@pytest.mark.parametrize("enabled", ["ENABLE", "ENABLE ALWAYS"])
def test_a_rule_that_keeps_the_rows_is_survived_and_stays_as_it_was(scratch, strategy, enabled):
    scratch.execute(
        "CREATE TABLE log (id int); CREATE RULE keep AS ON DELETE TO log DO INSTEAD NOTHING;"
        f"ALTER TABLE log {enabled} RULE keep; INSERT INTO log VALUES (1), (2)"
    )
    before = scratch.query("SELECT rulename, ev_enabled FROM pg_rewrite WHERE rulename = 'keep'")
    scratch.reset(strategy=strategy)
    assert scratch.count("log") == 0
    assert scratch.query("SELECT rulename, ev_enabled FROM pg_rewrite WHERE rulename = 'keep'") == before


@pytest.mark.parametrize("strategy", ["auto", "delete", "truncate"])
@pytest.mark.parametrize("force", ["FORCE", "NO FORCE"])
def test_row_security_hides_no_row_from_the_reset(scratch, strategy, force):
    scratch.execute(
        "CREATE TABLE secret (id int); INSERT INTO secret VALUES (1), (2);"
        "CREATE POLICY one ON secret USING (id = 1);"
        f"ALTER TABLE secret ENABLE ROW LEVEL SECURITY; ALTER TABLE secret {force} ROW LEVEL SECURITY"
    )
    flags = "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname = 'secret'"
    before = scratch.query(flags)
    scratch.reset(strategy=strategy)
    with scratch.superuser() as superuser:
        assert superuser.execute("SELECT count(*) FROM secret").fetchone() == (0,)
    assert scratch.query(flags) == before


def test_row_security_that_cannot_be_switched_off_is_an_error_and_nothing_is_deleted(
    scratch: ScratchDatabase,
):
    with scratch.superuser() as superuser:
        superuser.execute(
            "CREATE TABLE secret (id int); INSERT INTO secret VALUES (1), (2);"
            "CREATE POLICY one ON secret USING (id = 1); ALTER TABLE secret ENABLE ROW LEVEL SECURITY;"
            "GRANT ALL ON secret TO PUBLIC"
        )
    with pytest.raises(MissingPrivilegeError, match="row-level security"):
        scratch.reset()
    with scratch.superuser() as superuser:
        assert superuser.execute("SELECT count(*) FROM secret").fetchone() == (2,)


def test_views_in_front_of_tables_are_left_alone(scratch):
    scratch.execute(
        "CREATE TABLE base (id int); INSERT INTO base VALUES (1); CREATE VIEW front AS SELECT * FROM base;"
        "CREATE RULE no_delete AS ON DELETE TO front DO INSTEAD NOTHING"
    )
    scratch.reset()
    assert scratch.count("front") == 0
