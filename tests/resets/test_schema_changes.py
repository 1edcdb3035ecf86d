"""Tables created, dropped, altered or renamed since the last reset are noticed: no plan is made from an old schema."""

from __future__ import annotations

import pytest

from testdb_app.exceptions import ConcurrencyError
from testdb_app.resetter import read_context

TABLE = "CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t DEFAULT VALUES"


CHANGES = {
    "a table made": "CREATE TABLE made (id serial PRIMARY KEY, t_id int REFERENCES t); INSERT INTO made (t_id) SELECT id FROM t",
    "a table dropped": "DROP TABLE other",
    "a table renamed": "ALTER TABLE other RENAME TO renamed",
    "a table moved": "CREATE SCHEMA elsewhere; ALTER TABLE other SET SCHEMA elsewhere",
    "a schema renamed": "CREATE SCHEMA s; CREATE TABLE s.x (id int); INSERT INTO s.x VALUES (1); ALTER SCHEMA s RENAME TO r",
    "a key added": "ALTER TABLE t ADD other_id int DEFAULT 1 REFERENCES other",
    "a key turned round": "ALTER TABLE other DROP CONSTRAINT other_t_id_fkey; ALTER TABLE t ADD o int DEFAULT 1 REFERENCES other",
    "a trigger made": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$;"
    "CREATE TRIGGER no BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION f()",
    "a rule made": "CREATE RULE keep AS ON DELETE TO other DO INSTEAD NOTHING",
    "row security forced": "ALTER TABLE other ENABLE ROW LEVEL SECURITY; ALTER TABLE other FORCE ROW LEVEL SECURITY",
    "a sequence's start changed": "ALTER SEQUENCE t_id_seq START 50",
    "a sequence made": "CREATE SEQUENCE made; SELECT nextval('made')",
    "a table partitioned": "CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT; INSERT INTO p VALUES (1)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_schema_is_noticed_by_the_next_reset(scratch, change):
    scratch.execute(
        "CREATE TABLE t (id serial PRIMARY KEY); CREATE TABLE other (id serial PRIMARY KEY, t_id int REFERENCES t)"
    )
    resetter = scratch.resetter()
    resetter.reset()
    scratch.execute("INSERT INTO t DEFAULT VALUES; INSERT INTO other (t_id) VALUES (1)")
    scratch.execute(CHANGES[change])
    resetter.reset()
    with scratch.superuser() as superuser:
        tables = superuser.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text !~ '^(pg_|information)'"
        ).fetchall()
        assert all(superuser.execute(f"SELECT count(*) FROM {name}").fetchone() == (0,) for (name,) in tables)
        moved = superuser.execute(
            "SELECT sequencename FROM pg_sequences WHERE last_value IS NOT NULL AND schemaname = 'public'"
        ).fetchall()
        assert moved == []
    if change == "a sequence's start changed":
        assert scratch.sequence_state("t_id_seq") == (50, False)


def test_a_schema_that_changes_while_it_is_read_is_never_used_stale(scratch, monkeypatch):
    scratch.execute(TABLE)
    resetter = scratch.resetter()
    changes = iter(range(100))

    def read_then_change(*arguments, **options):
        found = read_context(*arguments, **options)
        scratch.execute(f"CREATE TABLE more_{next(changes)} (id int)")
        return found

    monkeypatch.setattr("testdb_app.resetter.read_context", read_then_change)
    with pytest.raises(ConcurrencyError, match="changes faster than it can be read"):
        resetter.reset()
    monkeypatch.undo()
    assert resetter.reset().rows == 1
