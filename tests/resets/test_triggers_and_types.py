"""User triggers do not fire and stay as they were; every kind of column and constraint is emptied; so are thousands of tables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testdb_app.exceptions import RowsRemainError, TooManyLocksError
from tests.benchmarks.databases import BenchmarkDatabase
from tests.benchmarks.disk import own_server

AUDIT = """
CREATE TABLE item (id serial PRIMARY KEY);
CREATE TABLE a_audit (id serial PRIMARY KEY, item_id int);
CREATE TABLE z_audit (id serial PRIMARY KEY, item_id int);
CREATE FUNCTION write_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO a_audit (item_id) VALUES (OLD.id); INSERT INTO z_audit (item_id) VALUES (OLD.id); RETURN NULL; END$$;
CREATE TRIGGER audit AFTER DELETE ON item FOR EACH ROW EXECUTE FUNCTION write_audit();
INSERT INTO item DEFAULT VALUES; INSERT INTO a_audit (item_id) VALUES (0); INSERT INTO z_audit (item_id) VALUES (0);
"""
TRIGGERS = "SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname"


@pytest.mark.parametrize("strategy", ["auto", "delete", "truncate"])
@pytest.mark.parametrize("enabled", ["ENABLE", "ENABLE ALWAYS", "ENABLE REPLICA", "DISABLE"])
def test_an_audit_trigger_refills_nothing_and_stays_as_it_was(scratch, strategy, enabled):
    scratch.execute(AUDIT)
    scratch.execute(f"ALTER TABLE item {enabled} TRIGGER audit")
    before = scratch.query(TRIGGERS)
    scratch.reset(strategy=strategy)
    assert [scratch.count(name) for name in ("item", "a_audit", "z_audit")] == [0, 0, 0]
    assert [scratch.sequence_state(f"{name}_id_seq") for name in ("item", "a_audit", "z_audit")] == [(1, False)] * 3
    assert scratch.query(TRIGGERS) == before


@pytest.mark.parametrize("strategy", ["auto", "delete", "truncate"])
@pytest.mark.parametrize("level", ["ROW", "STATEMENT"])
def test_an_append_only_table_whose_trigger_raises_is_emptied(scratch, strategy, level):
    scratch.execute(
        "CREATE TABLE ledger (id serial PRIMARY KEY);"
        "CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'append only'; END$$;"
        f"CREATE TRIGGER no_delete BEFORE DELETE ON ledger FOR EACH {level} EXECUTE FUNCTION forbid();"
        "CREATE TRIGGER no_truncate BEFORE TRUNCATE ON ledger EXECUTE FUNCTION forbid();"
        "INSERT INTO ledger DEFAULT VALUES"
    )
    before = scratch.query(TRIGGERS)
    scratch.reset(strategy=strategy)
    assert scratch.count("ledger") == 0
    assert scratch.query(TRIGGERS) == before


def test_a_deferred_constraint_trigger_that_would_raise_halfway_does_not_fire(scratch):
    scratch.execute(
        'CREATE TABLE "order" (id int PRIMARY KEY);'
        'CREATE TABLE line (order_id int REFERENCES "order" DEFERRABLE INITIALLY DEFERRED);'
        "CREATE FUNCTION need_line() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        "  IF EXISTS (SELECT FROM \"order\" WHERE id = OLD.order_id) THEN RAISE EXCEPTION 'no line'; END IF; RETURN NULL; END$$;"
        "CREATE CONSTRAINT TRIGGER need AFTER DELETE ON line DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION need_line();"
        'INSERT INTO "order" VALUES (1); INSERT INTO line VALUES (1)'
    )
    scratch.reset()
    assert scratch.count('"order"') == 0


def test_triggers_of_partitions_are_switched_off_and_on(scratch):
    scratch.execute(
        "CREATE TABLE part (id int) PARTITION BY LIST (id); CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);"
        "CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'append only'; END$$;"
        "CREATE TRIGGER no_delete BEFORE DELETE ON part FOR EACH ROW EXECUTE FUNCTION forbid(); INSERT INTO part VALUES (1)"
    )
    before = scratch.query("SELECT tgrelid::regclass::text, tgenabled FROM pg_trigger ORDER BY 1")
    scratch.reset()
    assert scratch.count("part") == 0
    assert scratch.query("SELECT tgrelid::regclass::text, tgenabled FROM pg_trigger ORDER BY 1") == before


def _hand_to_superuser(scratch, *tables):
    with scratch.superuser() as superuser:
        for table in tables:
            superuser.execute(f"ALTER TABLE {table} OWNER TO CURRENT_USER; GRANT ALL ON {table} TO PUBLIC")
            superuser.execute(f"GRANT ALL ON SEQUENCE {table}_id_seq TO PUBLIC")


def test_a_trigger_that_the_role_may_not_switch_off_is_noticed_and_nothing_is_changed(scratch):
    scratch.execute(AUDIT)
    _hand_to_superuser(scratch, "item")
    with pytest.raises(RowsRemainError, match=r"rows again in public\.a_audit: ") as refusal:
        scratch.reset()
    assert refusal.value.tables == ["public.a_audit"]
    assert [scratch.count(name) for name in ("item", "a_audit", "z_audit")] == [1, 1, 1]


def test_such_a_trigger_on_truncate_is_noticed_and_nothing_is_changed(scratch):
    scratch.execute(
        "CREATE TABLE item (id serial PRIMARY KEY); CREATE TABLE audit (id serial PRIMARY KEY);"
        "CREATE FUNCTION write_audit() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO audit DEFAULT VALUES; RETURN NULL; END$$;"
        "CREATE TRIGGER log AFTER TRUNCATE ON item FOR EACH STATEMENT EXECUTE FUNCTION write_audit();"
        "INSERT INTO item DEFAULT VALUES"
    )
    _hand_to_superuser(scratch, "item")
    with pytest.raises(RowsRemainError, match=r"rows again in public\.audit: "):
        scratch.reset(strategy="truncate")
    assert (scratch.count("item"), scratch.count("audit")) == (1, 0)


def test_a_sequence_that_such_a_trigger_moves_meanwhile_is_restarted(scratch):
    scratch.execute(AUDIT)
    scratch.execute(
        "CREATE OR REPLACE FUNCTION write_audit() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM nextval('z_audit_id_seq'); RETURN NULL; END$$"
    )
    scratch.execute("TRUNCATE z_audit RESTART IDENTITY")
    _hand_to_superuser(scratch, "item")
    scratch.reset()
    assert scratch.sequence_state("z_audit_id_seq") == (1, False)


def test_a_sequence_that_the_role_does_not_own_is_restarted_all_the_same(scratch):
    scratch.execute("CREATE TABLE item (id serial PRIMARY KEY); INSERT INTO item DEFAULT VALUES")
    _hand_to_superuser(scratch, "item")
    scratch.reset()
    assert scratch.sequence_state("item_id_seq") == (1, False)


def test_every_kind_of_column_and_constraint_is_emptied(scratch):
    scratch.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);"
        "CREATE TABLE every (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n positive, double int GENERATED ALWAYS AS (n * 2) STORED,"
        " m mood, tags text[], span int4range, doc jsonb, raw bytea,"
        " place int UNIQUE DEFERRABLE INITIALLY DEFERRED, EXCLUDE USING gist (span WITH &&));"
        "INSERT INTO every (n, m, tags, span, doc, raw, place) VALUES (1, 'ok', '{a,b}', '[1,3)', '{\"k\": 1}', '\\x00ff', 1);"
        "INSERT INTO every (raw) VALUES (decode(repeat('ab', 10000000), 'hex'))"
    )
    assert scratch.reset().rows == 2
    assert scratch.sequence_state("every_id_seq") == (1, False)


@pytest.mark.parametrize("number", [1_000, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_thousands_of_tables_in_one_chain_need_no_more_locks_than_the_default(scratch, number):
    with scratch.connect() as session:
        for start in range(0, number, 250):
            session.execute(
                ";".join(
                    f"CREATE TABLE t{n} (id int PRIMARY KEY, next int" + (f" REFERENCES t{n - 1})" if n else ")")
                    for n in range(start, start + 250)
                )
            )
        for n in (0, 1, 2, number // 2, number - 1):
            session.execute(f"INSERT INTO t{n} VALUES (1)")
    report = scratch.reset()
    assert [table.name.name for table in report.tables] == [
        f"t{number - 1}",
        f"t{number // 2}",
        "t2",
        "t1",
        "t0",
    ]


@pytest.mark.postgresql
@pytest.mark.skipif("DATABASE_URL" in os.environ, reason="needs a server of its own, whose lock table is small")
def test_more_written_tables_than_the_lock_table_holds_are_refused_whole(django_db_blocker, tmp_path_factory):
    """In a server that other tests use at the same time they would meet the full lock table, too."""
    number = 2_000
    memory = Path("/dev/shm")
    folder = memory if memory.is_dir() else tmp_path_factory.getbasetemp()
    small = {"max_locks_per_transaction": "10", "max_connections": "10", "autovacuum": "off", "fsync": "off"}
    with django_db_blocker.unblock(), own_server(folder, **small) as host:
        database = BenchmarkDatabase(host=host)
        database.create()
        try:
            with database.connect() as session:
                for start in range(0, number, 50):
                    session.execute(
                        ";".join(
                            f"CREATE TABLE t{n} (id int PRIMARY KEY, x int UNIQUE); INSERT INTO t{n} VALUES (1)"
                            for n in range(start, start + 50)
                        )
                    )
            with pytest.raises(TooManyLocksError, match="max_locks_per_transaction") as refusal:
                database.reset()
            assert refusal.value.tables == number
            assert database.count("t0") == 1
            database.reset(include=["public.t1?"])
            assert database.count("t10") == 0
        finally:
            database.drop()


@pytest.mark.parametrize(
    ("action", "event"), [("CASCADE", "DELETE"), ("SET NULL", "UPDATE"), ("SET DEFAULT", "UPDATE")]
)
def test_a_statement_trigger_does_not_fire_where_a_foreign_keys_own_action_finds_no_row(scratch, action, event):
    """The action of the key is a statement of its own, on a table that the reset has no reason to touch."""
    scratch.execute(
        "CREATE TABLE log (what text); CREATE TABLE a (id integer PRIMARY KEY);"
        f"CREATE TABLE b (id integer PRIMARY KEY, a_id integer REFERENCES a (id) ON DELETE {action});"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO log VALUES (TG_OP); RETURN NULL; END$$;"
        f"CREATE TRIGGER note AFTER {event} ON b FOR EACH STATEMENT EXECUTE FUNCTION note();"
        "CREATE TRIGGER other AFTER INSERT ON b FOR EACH STATEMENT EXECUTE FUNCTION note();"
    )
    resetter = scratch.resetter()
    for _ in range(3):
        scratch.execute("INSERT INTO a VALUES (1)")
        assert resetter.reset().rows == 1
        assert scratch.count("log") == 0
    assert scratch.query("SELECT DISTINCT tgenabled::text FROM pg_trigger WHERE NOT tgisinternal") == [("O",)]
