"""The schema that is read from SQLite's pragmas and from the text in its catalog."""

from __future__ import annotations

import time

import pytest

from testdb_app.backends.sqlite.backend import BACKEND
from testdb_app.graph import DependencyGraph
from testdb_app.schema import ForeignKey, OnDelete, QualifiedName, SequenceUse

MAIN = "main"


def keys(database):
    return {key.name: key for key in database.schema().foreign_keys}


def reasons(database):
    return {str(left.name): left.reason for left in database.schema().left_out}


def test_a_foreign_key_tells_its_columns_action_and_when_it_is_checked(database):
    database.run(
        "CREATE TABLE a (x integer, Y integer, PRIMARY KEY (Y, x))",
        "CREATE TABLE b (id integer PRIMARY KEY, p, q, "
        "CONSTRAINT [the key] FOREIGN KEY (q, p) REFERENCES A ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED)",
    )
    assert database.schema().foreign_keys == (
        ForeignKey(
            name="the key",
            table=QualifiedName(MAIN, "b"),
            columns=("q", "p"),
            referenced=QualifiedName(MAIN, "a"),
            referenced_columns=("Y", "x"),
            on_delete=OnDelete.SET_NULL,
            deferrable=True,
            initially_deferred=True,
        ),
    )


@pytest.mark.parametrize("action", list(OnDelete))
def test_every_action_is_read(memory, action):
    memory.run(f"CREATE TABLE a (id integer PRIMARY KEY, up integer REFERENCES a ON DELETE {action})")
    (key,) = memory.schema().foreign_keys
    assert key.on_delete is action


def test_deferrability_is_told_per_key_whatever_stands_between(database):
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY)",
        """CREATE TABLE b (
            one integer CONSTRAINT "REFERENCES a" REFERENCES a, -- DEFERRABLE INITIALLY DEFERRED
            two integer REFERENCES a NOT NULL CHECK (two > 0) DEFERRABLE INITIALLY DEFERRED,
            "REFERENCES" text DEFAULT 'REFERENCES a DEFERRABLE INITIALLY DEFERRED',
            three integer REFERENCES a DEFERRABLE, /* REFERENCES a */
            four integer REFERENCES a NOT DEFERRABLE INITIALLY DEFERRED,
            five integer references a on update cascade match full deferrable initially immediate,
            CONSTRAINT named CHECK (one > 0),
            CONSTRAINT "six""th" FOREIGN KEY ("REFERENCES") REFERENCES `a` (`id`) DEFERRABLE INITIALLY DEFERRED)""",
        "ALTER TABLE b ADD COLUMN seven integer REFERENCES a DEFERRABLE INITIALLY DEFERRED",
    )
    assert {name: (key.deferrable, key.initially_deferred) for name, key in keys(database).items()} == {
        "REFERENCES a": (False, False),
        "b_two_fk": (True, True),
        "b_three_fk": (True, False),
        "b_four_fk": (False, False),
        "b_five_fk": (True, False),
        'six"th': (True, True),
        "b_seven_fk": (True, True),
    }


def test_what_is_read_as_deferred_is_what_sqlite_defers(memory):
    memory.run(
        "CREATE TABLE a (id integer PRIMARY KEY)",
        "CREATE TABLE b (one integer REFERENCES a, two integer REFERENCES a NOT NULL DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO a VALUES (1)",
        "BEGIN",
        "INSERT INTO b VALUES (1, 99)",
    )
    with pytest.raises(Exception, match="FOREIGN KEY"):
        memory.run("INSERT INTO b VALUES (99, 1)")
    memory.run("ROLLBACK")
    assert [key.initially_deferred for key in memory.schema().foreign_keys] == [False, True]


def test_a_key_to_a_table_that_is_missing_or_a_view_is_left_out_and_a_later_one_is_not_confused(database):
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY)",
        "CREATE VIEW v AS SELECT id FROM a",
        "CREATE TABLE b (x integer REFERENCES a DEFERRABLE INITIALLY DEFERRED, y REFERENCES nowhere (id), z REFERENCES v)",
        "INSERT INTO a VALUES (1)",
    )
    assert [(key.columns, key.deferrable) for key in database.schema().foreign_keys] == [(("x",), True)]
    assert database.reset() == {"a": 1}


def test_names_are_compared_as_sqlite_does_by_ascii_letters_only(database):
    database.run(
        'CREATE TABLE "Éa" (ID integer PRIMARY KEY)',
        'CREATE TABLE "éa" (ID integer PRIMARY KEY)',
        'CREATE TABLE b (x integer REFERENCES "ÉA" (id))',
    )
    (key,) = database.schema().foreign_keys
    assert (key.referenced.name, key.referenced_columns) == ("Éa", ("ID",))


def test_the_same_constraint_name_in_two_tables_and_databases_makes_no_edges(database):
    database.run("ATTACH ':memory:' AS aux")
    for schema in ("main", "aux"):
        database.run(f"CREATE TABLE {schema}.a (id integer PRIMARY KEY)")
        for table in ("b", "c"):
            database.run(
                f"CREATE TABLE {schema}.{table} (x integer, CONSTRAINT same FOREIGN KEY (x) REFERENCES a (id))"
            )
    assert [(str(key.table), str(key.referenced)) for key in database.schema().foreign_keys] == [
        ("aux.b", "aux.a"), ("aux.c", "aux.a"), ("main.b", "main.a"), ("main.c", "main.a"),
    ]  # fmt: skip


def test_autoincrement_and_nothing_else_is_a_sequence(database):
    database.run(
        'CREATE TABLE a ("Id" integer PRIMARY KEY AUTOINCREMENT)',
        "CREATE TABLE b (id integer PRIMARY KEY /* AUTOINCREMENT */, \"AUTOINCREMENT\" text DEFAULT 'AUTOINCREMENT')",
    )
    (sequence,) = database.schema().sequences
    assert sequence.name == QualifiedName(MAIN, "a")
    assert sequence.uses == (SequenceUse(table=QualifiedName(MAIN, "a"), column="Id", how="rowid"),)


def test_triggers_tell_their_event_whatever_their_name_and_comments(database):
    database.run(
        'CREATE TABLE "a ON" (id integer PRIMARY KEY, "delete" integer)',
        'CREATE TRIGGER "DELETE ON b" /* DELETE */ AFTER UPDATE OF "delete" ON "A on" BEGIN DELETE FROM "a ON"; END',
        "CREATE TRIGGER IF NOT EXISTS main.[d d] DELETE ON `a ON` FOR EACH ROW WHEN old.id > 1 BEGIN SELECT 1; END",
        'CREATE TEMP TRIGGER t INSERT ON main."a ON" BEGIN SELECT 1; END',
    )
    (table,) = database.schema().tables
    assert [(trigger.name, trigger.events, trigger.fires_on("DELETE")) for trigger in table.triggers] == [
        ("DELETE ON b", ("UPDATE",), False),
        ("d d", ("DELETE",), True),
        ("t", ("INSERT",), False),
    ]
    assert table.triggers[1].definition.startswith('CREATE TRIGGER "main".[d d] DELETE ON `a ON`')
    assert table.triggers[2].definition.startswith('CREATE TRIGGER "temp".t INSERT')


def test_a_temporary_trigger_belongs_to_the_table_that_its_name_means(database):
    database.run("ATTACH ':memory:' AS aux", "ATTACH ':memory:' AS bux")
    database.run(
        "CREATE TABLE aux.a (id)", "CREATE TABLE bux.a (id)", "CREATE TABLE bux.b (id)",
        "CREATE TEMP TRIGGER bare AFTER DELETE ON a BEGIN SELECT 1; END",
        "CREATE TEMP TRIGGER qualified AFTER DELETE ON BUX.a BEGIN SELECT 1; END",
        "CREATE TEMP TABLE b (id)",
        "CREATE TEMP TRIGGER own AFTER DELETE ON b BEGIN SELECT 1; END",
    )  # fmt: skip
    assert {str(t.name): [trigger.name for trigger in t.triggers] for t in database.schema().tables} == {
        "aux.a": ["bare"], "bux.a": ["qualified"], "bux.b": [],
    }  # fmt: skip


def test_what_a_reset_must_not_touch_is_left_out_with_its_reason(database, tmp_path):
    other = tmp_path / "other.db"
    database.run(
        f"ATTACH '{other}' AS file",
        "ATTACH ':memory:' AS aux",
        "CREATE TABLE file.production (id)",
        "CREATE TABLE aux.scratch (id integer PRIMARY KEY AUTOINCREMENT)",
        "CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT)",
        "CREATE INDEX i ON a (id)",
        "CREATE TEMP TABLE t (id)",
        "ANALYZE",
        "INSERT INTO file.production VALUES (1)",
    )
    assert [str(table.name) for table in database.schema().tables] == ["aux.scratch", "main.a"]
    found = reasons(database)
    assert found["file.production"] == f"in the attached file {other}, which is not known to be a test database"
    assert found["temp.t"] == "a temporary table of this connection"
    assert found["main.sqlite_sequence"] == found["aux.sqlite_sequence"] == "an internal table of SQLite"
    assert database.schema().search_path == ("main", "file", "aux")
    assert database.reset() == {}
    assert database.count("file.production") == 1


def test_metadata_of_spatialite_is_left_out_only_where_it_is_spatialite(database):
    database.run(
        "CREATE TABLE spatial_ref_sys (srid integer PRIMARY KEY)",
        "CREATE TABLE data_licenses (id integer)",
        "INSERT INTO spatial_ref_sys VALUES (4326)",
    )
    assert reasons(database) == {}
    database.run("CREATE TABLE geometry_columns (srid integer REFERENCES spatial_ref_sys)", "CREATE TABLE shop (id)")
    assert [str(table.name) for table in database.schema().tables] == ["main.shop"]
    assert reasons(database)["main.spatial_ref_sys"] == "metadata of SpatiaLite"
    assert database.reset() == {}
    assert database.count("spatial_ref_sys") == 1


def test_everything_is_sorted_and_equal_in_a_copy(make_database, tmp_path):
    statements = [
        "CREATE TABLE b (id integer PRIMARY KEY AUTOINCREMENT, a_id integer REFERENCES a)",
        "CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT)",
    ]
    one, two = make_database(tmp_path / "1.db"), make_database(":memory:")
    one.run(*statements)
    two.run(*reversed(statements))
    assert one.schema() == two.schema()
    names = [table.name for table in one.schema().tables]
    assert names == sorted(names)


def test_a_chain_of_2000_tables_with_4000_keys_is_read_in_a_second(memory):
    memory.run("BEGIN")
    for number in range(2000):
        memory.run(
            f"CREATE TABLE t{number:04} (id integer PRIMARY KEY AUTOINCREMENT, "
            f"a integer NOT NULL REFERENCES t{max(number - 1, 0):04} (id) DEFERRABLE INITIALLY DEFERRED, "
            f"b integer REFERENCES t{number // 2:04} DEFERRABLE INITIALLY DEFERRED)"
        )
    memory.run("COMMIT")
    started = time.process_time()
    schema = BACKEND.read_schema(memory.connection)
    assert time.process_time() - started < 1
    assert (len(schema.tables), len(schema.foreign_keys), len(schema.sequences)) == (2000, 4000, 2000)
    order = DependencyGraph.from_schema(schema).deletion_order()
    assert [name.name for name in order] == [f"t{number:04}" for number in reversed(range(2000))]
