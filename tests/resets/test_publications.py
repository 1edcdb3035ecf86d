"""Publications: the server refuses DELETE and UPDATE on a published table whose rows a subscriber could not tell apart."""

from __future__ import annotations

import psycopg
import pytest

from testdb_app.backends.base import Action
from testdb_app.baseline import capture_baseline, drop_baseline
from testdb_app.database_setup import refit_baseline
from testdb_app.exceptions import PublicationError
from testdb_app.schema import QualifiedName

LOG = "CREATE TABLE log (line text); INSERT INTO log VALUES ('of a migration');"
IDENTITIES = "SELECT relname, relreplident FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY relname"


def publish(scratch, what="FOR ALL TABLES"):
    with scratch.superuser() as superuser:
        superuser.execute(f'CREATE PUBLICATION "every thing" {what}')


@pytest.mark.parametrize("strategy", ["auto", "delete", "truncate"])
@pytest.mark.parametrize("to", ["empty", "baseline"])
def test_a_published_table_without_a_key_is_reset_and_keeps_its_identity(scratch, strategy, to):
    scratch.execute(LOG + "CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING")
    publish(scratch)
    before = scratch.query(IDENTITIES)
    capture_baseline("scratch", allow_database=scratch.name)
    resetter = scratch.resetter(strategy=strategy, to=to)
    for _ in range(3):
        scratch.execute("INSERT INTO log VALUES ('of a test'); INSERT INTO nothing VALUES (1)")
        resetter.reset()
        assert scratch.query("SELECT line FROM log") == ([("of a migration",)] if to == "baseline" else [])
        assert scratch.count("nothing") == 0
    scratch.execute("TRUNCATE log")
    resetter.reset()
    assert scratch.count("log") == int(to == "baseline")
    assert scratch.query(IDENTITIES) == before


def test_a_publication_that_comes_between_two_resets_is_noticed(scratch):
    scratch.execute(LOG)
    resetter = scratch.resetter()
    resetter.reset()
    for statement in ("CREATE PUBLICATION p FOR TABLE log", "ALTER PUBLICATION p SET (publish = 'update, delete')"):
        scratch.execute(f"{statement}; INSERT INTO log VALUES ('of a test')")
        resetter.reset()
        assert scratch.count("log") == 0


def test_a_key_that_is_dropped_between_two_resets_is_noticed(scratch):
    scratch.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE item")
    resetter = scratch.resetter()
    resetter.reset()
    scratch.execute("ALTER TABLE item DROP CONSTRAINT item_pkey; INSERT INTO item VALUES (1)")
    resetter.reset()
    assert scratch.count("item") == 0


def test_a_key_that_cascades_into_a_published_table_does_not_stop_the_reset(scratch):
    """The key's own DELETE is refused, too, also where there is no row to delete."""
    scratch.execute(
        "CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE line (item_id int REFERENCES item ON DELETE CASCADE);"
        "INSERT INTO item VALUES (1), (2); INSERT INTO line VALUES (1)"
    )
    publish(scratch)
    capture_baseline("scratch", allow_database=scratch.name)
    resetter = scratch.resetter()
    for _ in range(3):
        scratch.execute("INSERT INTO item VALUES (3)")
        resetter.reset()
        assert scratch.query("SELECT id FROM item ORDER BY 1") == [(1,), (2,)]
        assert scratch.query("SELECT item_id FROM line") == [(1,)]


def test_a_key_that_is_put_back_and_would_change_a_table_that_refuses_has_both_truncated_and_filled(scratch):
    tables, publication = UNSWITCHABLE["column list"]
    scratch.execute(
        "CREATE TABLE thing (id int PRIMARY KEY, name text UNIQUE); INSERT INTO thing VALUES (1, 'one');"
        + tables
        + "ALTER TABLE item ADD FOREIGN KEY (name) REFERENCES thing (name) ON UPDATE CASCADE; INSERT INTO item VALUES (1, 'one')"
    )
    capture_baseline("scratch", allow_database=scratch.name)
    scratch.execute("UPDATE thing SET name = 'two'")
    publish(scratch, publication)
    scratch.reset()
    assert scratch.query("SELECT * FROM thing") == [(1, "one")]
    assert scratch.query("SELECT * FROM item") == [(1, "one")]


@pytest.mark.parametrize("column_list", [False, True])
def test_a_key_of_a_partitioned_table_asks_every_partition(scratch, column_list):
    """Also one that holds no row: the reset writes to one partition, and the key's own UPDATE goes to them all."""
    scratch.execute(
        "CREATE TABLE node (id int PRIMARY KEY, above int REFERENCES node ON DELETE SET NULL, name text) PARTITION BY LIST (id);"
        "CREATE TABLE node_1 PARTITION OF node FOR VALUES IN (1, 2); CREATE TABLE node_2 PARTITION OF node FOR VALUES IN (3, 4);"
        "ALTER TABLE node_1 REPLICA IDENTITY NOTHING; INSERT INTO node VALUES (3, NULL, 'a')"
    )
    publish(scratch, "FOR TABLE node_1 (id)" if column_list else "FOR ALL TABLES")
    before = scratch.query(IDENTITIES)
    capture_baseline("scratch", allow_database=scratch.name)
    resetter = scratch.resetter()
    for _ in range(3):
        scratch.execute("INSERT INTO node VALUES (4, 3, 'b')")
        resetter.reset()
        assert scratch.query("SELECT * FROM node") == [(3, None, "a")]
    assert scratch.query(IDENTITIES) == before


UNSWITCHABLE = {
    # The index of the identity is gone, and nothing would put that state back.
    "index that is gone": (
        (
            "CREATE TABLE item (id int NOT NULL, name text); CREATE UNIQUE INDEX identity ON item (id);"
            "ALTER TABLE item REPLICA IDENTITY USING INDEX identity; DROP INDEX identity;"
        ),
        "FOR ALL TABLES",
    ),
    # With a column list REPLICA IDENTITY FULL is refused, too.
    "column list": ("CREATE TABLE item (id int, name text UNIQUE);", "FOR TABLE item (name)"),
}


@pytest.mark.parametrize("case", UNSWITCHABLE)
@pytest.mark.parametrize("strategy", ["auto", "delete", "truncate"])
def test_a_table_that_cannot_get_another_identity_is_truncated_and_filled(scratch, case, strategy):
    tables, publication = UNSWITCHABLE[case]
    scratch.execute(
        tables + "INSERT INTO item VALUES (1, 'one'), (2, 'two');"
        "CREATE TABLE line (id int PRIMARY KEY, name text); INSERT INTO line VALUES (1, 'one')"
    )
    publish(scratch, publication)
    before = scratch.query(IDENTITIES)
    capture_baseline("scratch", allow_database=scratch.name)
    resetter = scratch.resetter(strategy=strategy)
    for _ in range(3):
        scratch.execute("INSERT INTO item VALUES (3, 'three'); UPDATE line SET name = 'x'")
        report = resetter.reset()
        assert {(table.name.name, table.action) for table in report.tables} >= {("item", Action.RESTORE)}
        assert scratch.query("SELECT * FROM item ORDER BY 1") == [(1, "one"), (2, "two")]
        assert scratch.query("SELECT * FROM line") == [(1, "one")]
    scratch.execute("TRUNCATE item")
    resetter.reset()
    assert scratch.query("SELECT * FROM item ORDER BY 1") == [(1, "one"), (2, "two")]
    assert scratch.query(IDENTITIES) == before


def test_where_truncation_needs_a_table_that_stays_the_capture_names_publication_and_remedies(scratch):
    tables, publication = UNSWITCHABLE["column list"]
    scratch.execute(
        tables + "CREATE TABLE stays (name text REFERENCES item (name)); INSERT INTO item VALUES (1, 'one')"
    )
    publish(scratch, publication)
    with pytest.raises(
        PublicationError, match=r'"every thing".* public\.stays .*REPLICA IDENTITY FULL.*EXCLUDE'
    ) as refusal:
        capture_baseline("scratch", allow_database=scratch.name, exclude="public.stays")
    assert (refusal.value.publications, refusal.value.tables) == (["every thing"], ["public.item"])
    with pytest.raises(PublicationError):
        scratch.resetter(exclude=["public.stays"]).plan()
    # Both excluded, or none.
    scratch.reset(exclude=["public.stays", "public.item"])
    scratch.reset()
    assert scratch.count("item") == 0


def test_a_role_that_may_delete_and_neither_alter_nor_truncate_is_refused_with_the_remedies(scratch):
    scratch.execute(LOG)
    publish(scratch)
    with scratch.superuser() as superuser:
        superuser.execute(
            "ALTER TABLE log OWNER TO CURRENT_USER; GRANT SELECT, INSERT, UPDATE, DELETE ON log TO PUBLIC"
        )
        with pytest.raises(PublicationError, match=r"the role may not TRUNCATE public\.log"):
            scratch.reset()
        superuser.execute("GRANT TRUNCATE ON log TO PUBLIC")
    scratch.reset()
    assert scratch.count("log") == 0


def test_the_packages_own_tables_can_be_written_under_a_publication_of_all_tables(scratch):
    scratch.execute(LOG)
    publish(scratch)
    capture_baseline("scratch", allow_database=scratch.name)
    scratch.execute("CREATE TABLE more (id int PRIMARY KEY)")
    scratch.resetter().backend.set_mark(scratch.connection, "test", present=True)
    refit_baseline("scratch")
    scratch.reset(to="baseline")
    scratch.resetter().backend.set_mark(scratch.connection, "test", present=False)
    capture_baseline("scratch", allow_database=scratch.name, replace=True)
    drop_baseline("scratch", allow_database=scratch.name)


TABLES = {
    "keyless": "(id int, name text)",
    "keyed": "(id int PRIMARY KEY, name text)",
    "deferred": "(id int PRIMARY KEY DEFERRABLE, name text)",
    "nothing": "(id int PRIMARY KEY, name text)",
    "whole": "(id int, name text)",
    "indexed": "(id int NOT NULL, name text NOT NULL)",
    "lost": "(id int NOT NULL, name text NOT NULL)",
    "generated": "(id int, name text, more text GENERATED ALWAYS AS (name || 'x') STORED)",
    "of_generated": "(id int GENERATED ALWAYS AS (length(name)) STORED PRIMARY KEY, name text)",
}
IDENTITY = (
    "ALTER TABLE nothing REPLICA IDENTITY NOTHING; ALTER TABLE whole REPLICA IDENTITY FULL;"
    "CREATE UNIQUE INDEX by_name ON indexed (name); ALTER TABLE indexed REPLICA IDENTITY USING INDEX by_name;"
    "CREATE UNIQUE INDEX gone ON lost (id); ALTER TABLE lost REPLICA IDENTITY USING INDEX gone; DROP INDEX gone;"
    "CREATE TABLE parts (id int, name text) PARTITION BY LIST (id);"
    "CREATE TABLE part PARTITION OF parts (name, id) FOR VALUES IN (1);"
    "CREATE UNLOGGED TABLE unlogged (id int, name text)"
)
PUBLICATIONS = {
    "all": "FOR ALL TABLES",
    "schema": "FOR TABLES IN SCHEMA public",
    "of inserts": "FOR ALL TABLES WITH (publish = 'insert, truncate')",
    "of updates": "FOR ALL TABLES WITH (publish = 'update')",
    "of deletes": "FOR ALL TABLES WITH (publish = 'delete')",
    **{f"filter by {column}": f"FOR {{tables}} WHERE ({column} IS NOT NULL)" for column in ("id", "name")},
    **{f"list of {columns}": f"FOR {{tables}} ({columns})" for columns in ("id", "name", "id, name")},
    "filter and list": "FOR {tables} (id, name) WHERE (id > 0)",
    "filter of the root": "FOR TABLE parts WHERE (name IS NOT NULL) WITH (publish_via_partition_root)",
    "list of the root": "FOR TABLE parts (id) WITH (publish_via_partition_root)",
    "the root": "FOR TABLE parts",
}


@pytest.mark.parametrize("publication", PUBLICATIONS)
def test_what_the_server_refuses_is_known_beforehand(scratch, publication):
    """Compared with the server's own word, for every kind of identity, and for the identity that a reset would give it."""
    scratch.execute(";".join(f"CREATE TABLE {name} {columns}" for name, columns in TABLES.items()) + ";" + IDENTITY)
    what = PUBLICATIONS[publication]
    if "{tables}" in what:
        _, _, after = what.partition("{tables}")
        # Before PostgreSQL 18 a list, or a filter, cannot name a generated column.
        named = [
            name
            for name in (*TABLES, "part")
            if name != "of_generated" or scratch.value("SELECT current_setting('server_version_num')::int") >= 180_000
        ]
        what = "FOR TABLE " + ", ".join(f"{name}{after}" for name in named)
    publish(scratch, what)
    tables = scratch.schema().by_name
    for name in (*TABLES, "part", "unlogged"):
        identity = tables[QualifiedName("public", name)].replica_identity
        assert refused_events(scratch, name) == (identity.refused if identity else frozenset()), name
        if identity is not None and identity.clause is not None:
            assert refused_events(scratch, name, first=f"ALTER TABLE {name} REPLICA IDENTITY FULL") == frozenset(), name


def refused_events(scratch, name, first="SELECT"):
    refused = set()
    for event, statement in (("DELETE", f"DELETE FROM ONLY {name}"), ("UPDATE", f"UPDATE ONLY {name} SET name = name")):
        with scratch.connect() as session, session.transaction(force_rollback=True):
            session.execute(first)
            try:
                session.execute(statement)
            except (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.InvalidColumnReference):
                refused.add(event)
    return frozenset(refused)
