"""The situation of the real MusicBrainz: triggers that write a row to a queue, keyed by a sequence, on every DELETE.

A reset that restarts the sequence before it deletes, with those triggers on, ends in a duplicate key; one that empties
the queue first leaves it full again.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.real.loading import dump_structure, read_content
from tests.scratch import ScratchDatabase

_QUEUE = """
CREATE SCHEMA dbmirror2;
CREATE TABLE dbmirror2.pending_ts (xid bigint PRIMARY KEY, ts timestamptz NOT NULL);
CREATE TABLE dbmirror2.pending_keys (tablename text PRIMARY KEY, keys text[] NOT NULL);
CREATE TABLE dbmirror2.pending_data (
    seqid bigserial PRIMARY KEY,
    tablename text NOT NULL REFERENCES dbmirror2.pending_keys,
    op "char" NOT NULL,
    xid bigint NOT NULL REFERENCES dbmirror2.pending_ts,
    olddata json,
    newdata json,
    CHECK ((newdata IS NULL) = (op = 'd'))
);
"""
_FUNCTION = """
CREATE FUNCTION dbmirror2.record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO dbmirror2.pending_ts VALUES (txid_current(), now()) ON CONFLICT DO NOTHING;
    INSERT INTO dbmirror2.pending_keys VALUES (TG_RELID::regclass::text, '{id}') ON CONFLICT DO NOTHING;
    INSERT INTO dbmirror2.pending_data (tablename, op, xid, olddata, newdata)
    VALUES (TG_RELID::regclass::text, lower(left(TG_OP, 1))::"char", txid_current(),
            CASE WHEN TG_OP <> 'INSERT' THEN row_to_json(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN row_to_json(NEW) END);
    RETURN NULL;
END$$;
"""
_TRIGGERS = """
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'dbmirror2')
    LOOP
        EXECUTE 'CREATE TRIGGER reptg2 AFTER INSERT OR UPDATE OR DELETE ON ' || name
                || ' FOR EACH ROW EXECUTE FUNCTION dbmirror2.record()';
    END LOOP;
END$$;
"""


def make_small_one(database: ScratchDatabase) -> None:
    """Make a chain of tables with a cycle at its end, and rows, all through the triggers."""
    tables = "".join(
        f"CREATE TABLE t{n} (id serial PRIMARY KEY, other integer{f' REFERENCES t{n - 1}' if n else ''});\n"
        for n in range(20)
    )
    rows = "".join(f"INSERT INTO t{n} (other) SELECT 1 + i % 5 FROM generate_series(1, 5) i;\n" for n in range(20))
    database.execute(_QUEUE + _FUNCTION + tables + "ALTER TABLE t0 ADD FOREIGN KEY (other) REFERENCES t19 NOT VALID;")
    database.execute(_TRIGGERS)
    database.execute(rows.replace("INSERT INTO t0 (other) SELECT 1 + i % 5", "INSERT INTO t0 (other) SELECT NULL"))
    database.execute("UPDATE t0 SET other = id")


def check_reset(database: ScratchDatabase, triggers: int) -> None:
    query = "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"
    structure, enabled = dump_structure(database), database.query(query)
    before = read_content(database)
    assert len(enabled) == triggers
    assert "dbmirror2.pending_data" in before.filled
    assert "dbmirror2.pending_data_seqid_seq" in before.moved
    database.reset()
    after = read_content(database)
    assert not after.filled
    assert not after.moved
    assert database.query(query) == enabled
    assert dump_structure(database) == structure
    assert database.value("SELECT nextval('dbmirror2.pending_data_seqid_seq')") == 1


def test_naive_deletion_fills_the_queue_again_so_that_the_tests_below_can_fail(scratch: ScratchDatabase) -> None:
    make_small_one(scratch)
    with scratch.connect() as connection, pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
        connection.execute("ALTER SEQUENCE dbmirror2.pending_data_seqid_seq RESTART")
        connection.execute("ALTER TABLE t0 DROP CONSTRAINT t0_other_fkey")
        connection.execute("DELETE FROM t19")


def test_triggers_that_queue_every_deletion_leave_nothing_behind(scratch: ScratchDatabase) -> None:
    make_small_one(scratch)
    check_reset(scratch, triggers=20)


def test_musicbrainz_with_a_trigger_on_each_table_is_reset(make_real: Callable[[str], ScratchDatabase]) -> None:
    database = make_real("musicbrainz")
    database.execute(_FUNCTION.replace("'{id}'", "ARRAY['id']"))
    database.execute(_TRIGGERS)
    database.execute("UPDATE musicbrainz.artist SET comment = comment; DELETE FROM documentation.l_area_area_example")
    triggers = database.value("SELECT count(*) FROM pg_trigger WHERE tgname = 'reptg2'")
    assert triggers > 500
    check_reset(database, triggers)
