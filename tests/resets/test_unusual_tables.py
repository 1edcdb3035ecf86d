"""Tables that few people make: captured, reset to the baseline and emptied like others."""

from __future__ import annotations

import pytest

from testdb_app.baseline import capture_baseline

RAISES = "CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'forbidden'; END $$;"

TABLES = {
    "no column": ("CREATE TABLE item (); INSERT INTO item DEFAULT VALUES; INSERT INTO item DEFAULT VALUES", "()"),
    "dropped columns only": (
        (
            "CREATE TABLE item (a int, b text); INSERT INTO item VALUES (1, 'x'), (2, 'y');"
            "ALTER TABLE item DROP COLUMN a, DROP COLUMN b"
        ),
        "()",
    ),
    "many dropped columns": (
        (
            "CREATE TABLE item (id int PRIMARY KEY, name text);"
            "DO $$ BEGIN FOR n IN 1..1500 LOOP EXECUTE format('ALTER TABLE item ADD c%s int', n); END LOOP;"
            "FOR n IN 1..1500 LOOP EXECUTE format('ALTER TABLE item DROP c%s', n); END LOOP; END $$;"
            "INSERT INTO item VALUES (1, 'one'), (2, 'two')"
        ),
        "(id, name) VALUES (3, 'three')",
    ),
    "generated only": (
        "CREATE TABLE item (n int GENERATED ALWAYS AS (7) STORED); INSERT INTO item DEFAULT VALUES",
        "()",
    ),
    "names of our own": (
        (
            "CREATE TABLE item (t int, c int, old int, new int, image text, number int, x0 int, d0 int, n0 int, oid int, rows int);"
            "INSERT INTO item VALUES (1, 2, 3, 4, 'a', 5, 6, 7, 8, 9, 10), (1, 2, 3, 4, 'a', 5, 6, 7, 8, 9, 10)"
        ),
        "(t, c) VALUES (1, 2)",
    ),
    "keyed by names of our own": (
        "CREATE TABLE item (t int, c int, old int, new int, PRIMARY KEY (old, new)); INSERT INTO item VALUES (1, 2, 3, 4), (5, 6, 7, 8)",
        "VALUES (1, 2, 5, 6)",
    ),
    "of a type": (
        "CREATE TYPE thing AS (id int, name text); CREATE TABLE item OF thing (PRIMARY KEY (id)); INSERT INTO item VALUES (1, 'one')",
        "VALUES (2, 'two')",
    ),
    "rows of another table": (
        (
            "CREATE TABLE thing (id int, name text); CREATE TABLE item (id int PRIMARY KEY, things thing[]);"
            "INSERT INTO item VALUES (1, ARRAY[(1, 'one')::thing, NULL])"
        ),
        "VALUES (2, NULL)",
    ),
    "rules that do nothing": (
        "CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item VALUES (1, 'one'), (2, 'two');"
        + "".join(
            f"CREATE RULE no_{event} AS ON {event} TO item DO INSTEAD NOTHING;" for event in ("UPDATE", "DELETE")
        ),
        "VALUES (3, 'three')",
    ),
    "triggers that raise, always": (
        RAISES + "CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item VALUES (1, 'one'), (2, 'two');"
        "CREATE TRIGGER no BEFORE UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION forbid();"
        "CREATE TRIGGER no_truncate BEFORE TRUNCATE ON item EXECUTE FUNCTION forbid();"
        "ALTER TABLE item ENABLE ALWAYS TRIGGER no; ALTER TABLE item ENABLE ALWAYS TRIGGER no_truncate",
        "VALUES (3, 'three')",
    ),
    "forced row security that shows nothing": (
        (
            "CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item VALUES (1, 'one'), (2, 'two');"
            "ALTER TABLE item ENABLE ROW LEVEL SECURITY; ALTER TABLE item FORCE ROW LEVEL SECURITY;"
            "CREATE POLICY write ON item FOR INSERT WITH CHECK (true)"
        ),
        "VALUES (3, 'three')",
    ),
    "partition in another schema": (
        (
            "CREATE SCHEMA apart; CREATE TABLE item (id int, name text) PARTITION BY RANGE (id);"
            "CREATE TABLE apart.item_1 PARTITION OF item FOR VALUES FROM (0) TO (10) PARTITION BY LIST (id);"
            "CREATE TABLE apart.item_1_1 PARTITION OF apart.item_1 FOR VALUES IN (1, 2);"
            "CREATE TABLE apart.other PARTITION OF item DEFAULT; INSERT INTO item VALUES (1, 'one'), (2, 'two'), (50, 'fifty')"
        ),
        "VALUES (60, 'sixty')",
    ),
    "unlogged, with a trigger": (
        RAISES
        + "CREATE UNLOGGED TABLE item (id int GENERATED ALWAYS AS IDENTITY, name text); INSERT INTO item (name) VALUES ('one');"
        "CREATE TRIGGER no BEFORE DELETE ON item FOR EACH ROW EXECUTE FUNCTION forbid()",
        "(name) VALUES ('two')",
    ),
    "key index that is not valid": (
        "CREATE TABLE item (id int NOT NULL, name text); INSERT INTO item VALUES (1, 'one'), (1, 'two');",
        "VALUES (1, 'three')",
    ),
    "published, with rules, row security and a trigger": (
        RAISES + "CREATE TABLE item (id int, name text); INSERT INTO item VALUES (1, 'one'), (1, 'one');"
        "CREATE RULE no_update AS ON UPDATE TO item DO INSTEAD NOTHING;"
        "CREATE TRIGGER no BEFORE DELETE ON item FOR EACH ROW EXECUTE FUNCTION forbid();"
        "ALTER TABLE item ENABLE ROW LEVEL SECURITY; ALTER TABLE item FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY write ON item USING (id < 2); CREATE PUBLICATION p FOR TABLE item",
        "VALUES (1, 'two')",
    ),
}


def rows(scratch):
    with scratch.superuser() as superuser:
        return sorted(row for (row,) in superuser.execute("SELECT item::text FROM item").fetchall())


@pytest.mark.parametrize("name", TABLES)
def test_it_is_reset_to_its_baseline_and_emptied(scratch, name):
    setup, values = TABLES[name]
    scratch.execute(setup)
    if name == "key index that is not valid":
        with scratch.connect() as session, pytest.raises(Exception, match="duplicate"):
            session.execute("CREATE UNIQUE INDEX CONCURRENTLY ON item (id)")
    insert = f"INSERT INTO item {'DEFAULT VALUES' if values == '()' else values}"
    before = rows(scratch)
    capture_baseline("scratch", allow_database=scratch.name)
    resetter = scratch.resetter()
    for _ in range(4):
        scratch.execute(insert)
        resetter.reset()
        assert rows(scratch) == before
    with scratch.superuser() as superuser:
        superuser.execute("ALTER TABLE item DISABLE TRIGGER USER; TRUNCATE item; ALTER TABLE item ENABLE TRIGGER USER")
        for trigger in ("no", "no_truncate") if "always" in name else ():
            superuser.execute(f"ALTER TABLE item ENABLE ALWAYS TRIGGER {trigger}")
    resetter.reset()
    assert rows(scratch) == before
    for strategy in ("delete", "truncate"):
        scratch.execute(insert)
        scratch.reset(to="empty", strategy=strategy)
        assert rows(scratch) == []


def test_rows_of_a_partition_that_is_a_foreign_table_stay_and_the_others_are_reset(scratch):
    with scratch.superuser() as superuser:
        try:
            superuser.execute("CREATE EXTENSION postgres_fdw")
        except Exception as error:
            pytest.skip(str(error))
        user = scratch.value("SELECT current_user")
        port, folder = (superuser.execute(f"SHOW {name}").fetchone()[0] for name in ("port", "unix_socket_directories"))
        superuser.execute(
            f"CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{folder}', port '{port}', dbname '{scratch.name}');"
            f'CREATE USER MAPPING FOR CURRENT_USER SERVER here; GRANT USAGE ON FOREIGN SERVER here TO "{user}"'
        )
        scratch.execute(
            "CREATE TABLE item (id int NOT NULL, name text) PARTITION BY RANGE (id);"
            "CREATE TABLE near PARTITION OF item FOR VALUES FROM (0) TO (10); INSERT INTO near VALUES (1, 'one');"
            "CREATE TABLE kept (id int NOT NULL, name text); INSERT INTO kept VALUES (11, 'eleven')"
        )
        scratch.execute(
            "CREATE FOREIGN TABLE far PARTITION OF item FOR VALUES FROM (10) TO (20) SERVER here OPTIONS (table_name 'kept')"
        )
        capture_baseline("scratch", allow_database=scratch.name, exclude="public.kept")
        scratch.execute("INSERT INTO near VALUES (2, 'two'); INSERT INTO kept VALUES (12, 'twelve')")
        report = scratch.reset()
    assert scratch.query("SELECT * FROM near") == [(1, "one")]
    assert scratch.count("kept") == 2
    assert ("public.far", "foreign table") in {(str(item.name), item.reason) for item in report.kept}


def test_a_parent_and_a_child_of_different_owners_are_reset_each_by_itself(scratch):
    scratch.execute("CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1)")
    with scratch.superuser() as superuser:
        superuser.execute(
            "CREATE TABLE child () INHERITS (parent); INSERT INTO child VALUES (2);"
            "GRANT SELECT, INSERT, UPDATE, DELETE ON child TO PUBLIC"
        )
    capture_baseline("scratch", allow_database=scratch.name)
    resetter = scratch.resetter()
    for _ in range(3):
        scratch.execute("UPDATE parent SET id = id + 10")
        resetter.reset()
        assert scratch.query("SELECT tableoid::regclass::text, id FROM parent ORDER BY id") == [
            ("parent", 1),
            ("child", 2),
        ]
