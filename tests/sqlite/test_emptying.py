"""A reset on SQLite: every row and sequence goes, whatever the schema, and no schema object is changed."""

from __future__ import annotations

import sqlite3

import pytest

from testdb_app.backends.base import Action, ResetPlan, ScriptContext, Step
from testdb_app.backends.sqlite.backend import BACKEND
from testdb_app.baseline_state import RowChanges
from testdb_app.exceptions import ConcurrencyError, ExclusionError, UnsupportedError
from testdb_app.schema import QualifiedName


def assert_reset(database, **expected):
    """Reset everything and check what was removed, that nothing is left, and that the schema is as it was."""
    before, settings = database.dump(), database.rows("PRAGMA foreign_keys")
    removed = database.reset()
    seen = BACKEND.read_state(database.connection, lock_timeout=5)
    assert (seen.sizes, seen.moved) == ({}, frozenset())
    assert database.dump() == before
    assert database.rows("PRAGMA foreign_keys") == settings
    assert removed == expected


def test_all_rows_and_autoincrement_counters_go(database):
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT, x)",
        "CREATE TABLE b (id integer PRIMARY KEY AUTOINCREMENT, a_id integer NOT NULL REFERENCES a)",
        "INSERT INTO a (id, x) VALUES (7, 1), (8, 2)",
        "INSERT INTO b (a_id) VALUES (7)",
    )
    assert_reset(database, a=2, b=1)
    database.run("INSERT INTO a (x) VALUES (1)")
    assert database.value("SELECT id FROM a") == 1


def test_a_counter_that_moved_while_its_table_stayed_clean_goes_back(database):
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO a VALUES (41)",
        "DELETE FROM a",
    )
    assert_reset(database)
    database.run("INSERT INTO a DEFAULT VALUES")
    assert database.value("SELECT id FROM a") == 1


@pytest.mark.parametrize("action", ["NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"])
@pytest.mark.parametrize("deferred", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_cycles_and_self_references_go_whatever_their_action(database, action, deferred):
    clause = f"ON DELETE {action} {deferred}"
    database.run(
        f"CREATE TABLE a (id integer PRIMARY KEY, b_id integer NOT NULL REFERENCES b {clause})",
        f"CREATE TABLE b (id integer PRIMARY KEY, a_id integer NOT NULL REFERENCES a {clause})",
        f"CREATE TABLE tree (id integer PRIMARY KEY, up integer NOT NULL REFERENCES tree {clause})",
        "PRAGMA foreign_keys = OFF",
        "INSERT INTO a VALUES (1, 2), (3, 4)",
        "INSERT INTO b VALUES (2, 1), (4, 3)",
        "INSERT INTO tree VALUES (1, 1), (2, 1), (3, 2)",
        "PRAGMA foreign_keys = ON",
    )
    assert_reset(database, a=2, b=2, tree=3)


def test_a_ring_of_100_tables_goes(memory):
    memory.run("PRAGMA foreign_keys = OFF")
    for number in range(100):
        following = (number + 1) % 100
        memory.run(
            f"CREATE TABLE ring{number} (id integer PRIMARY KEY, next integer NOT NULL REFERENCES ring{following})",
            f"INSERT INTO ring{number} VALUES (1, 1)",
        )
    memory.run("PRAGMA foreign_keys = ON")
    assert_reset(memory, **{f"ring{number}": 1 for number in range(100)})


def test_a_chain_of_2000_rows_that_cascade_goes(memory):
    # A cascade on its own ends at SQLite's trigger depth of 1,000.
    memory.run("CREATE TABLE tree (id integer PRIMARY KEY, up integer REFERENCES tree ON DELETE CASCADE)")
    with memory.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO tree VALUES (%s, %s)", [(n, n - 1 if n > 1 else None) for n in range(1, 2001)])
    assert_reset(memory, tree=2000)


def test_foreign_keys_that_the_user_switched_off_stay_off(memory):
    memory.run("CREATE TABLE a (id integer PRIMARY KEY)", "INSERT INTO a VALUES (1)", "PRAGMA foreign_keys = OFF")
    assert_reset(memory, a=1)


NAMES = [
    'quo"te', "per%cent", "%s", "two words", "do.t", "Capitals", "ünïcödé", "select", "x" * 200, "[date]", "it's", "a;b",
    "{brace}", "new\nline", "back`tick", "--dash", "😀",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_table_column_trigger_and_database_works(database, name):
    quoted = '"' + name.replace('"', '""') + '"'
    database.run(
        f"ATTACH ':memory:' AS {quoted}",
        "CREATE TABLE log (what)",
        f"CREATE TABLE {quoted}.log (what)",
    )
    for schema in ("main", quoted):
        database.run(
            f"CREATE TABLE {schema}.{quoted} ({quoted} integer PRIMARY KEY AUTOINCREMENT)",
            f"CREATE TABLE {schema}.other (id integer PRIMARY KEY, {quoted} integer REFERENCES {quoted} ({quoted}))",
            f"CREATE TRIGGER {schema}.{quoted} AFTER DELETE ON {quoted} BEGIN INSERT INTO log VALUES (1); END",
            f"INSERT INTO {schema}.{quoted} VALUES (5)",
            f"INSERT INTO {schema}.other VALUES (1, 5)",
        )
    found = {(str(key.table), key.columns, key.referenced.name) for key in database.schema().foreign_keys}
    assert {(columns, referenced) for _, columns, referenced in found} == {((name,), name)}
    assert len(found) == 2
    before, rows = database.dump(), {QualifiedName(s, t): 1 for s in ("main", name) for t in (name, "other")}
    assert BACKEND.count_rows(database.connection, rows) == rows
    assert BACKEND.count_references(database.connection, database.schema().foreign_keys) == (1, 1)
    changes = BACKEND.run(database.connection, database.script(), within_transaction=False)
    assert changes == dict.fromkeys(rows, RowChanges(removed=1))
    assert BACKEND.read_state(database.connection, lock_timeout=5).sizes == {}
    assert BACKEND.read_state(database.connection, lock_timeout=5).moved == frozenset()
    assert database.dump() == before


def test_a_temporary_table_that_shadows_a_real_one_keeps_its_rows_and_gets_no_trigger(database):
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY)",
        "CREATE TABLE log (what)",
        "CREATE TRIGGER audit AFTER DELETE ON a BEGIN INSERT INTO log VALUES ('main'); END",
        "INSERT INTO a VALUES (1)",
        "CREATE TEMP TABLE a (id integer PRIMARY KEY)",
        "INSERT INTO temp.a VALUES (1), (2)",
        "CREATE TEMP TRIGGER spy AFTER DELETE ON main.a BEGIN SELECT RAISE(ABORT, 'spied'); END",
    )
    assert_reset(database, a=1)
    assert database.count("temp.a") == 2


def test_triggers_on_delete_do_not_fire_and_come_back_as_they_were_in_their_order(database):
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY, x)",
        "CREATE TABLE log (what)",
        "CREATE TRIGGER z_first AFTER DELETE ON A /* ON log */ BEGIN INSERT INTO log VALUES ('z;'); END",
        "CREATE TRIGGER main.a_second BEFORE DELETE ON a BEGIN SELECT RAISE(ABORT, 'append only'); END",
        "CREATE TEMP TRIGGER spy AFTER DELETE ON a BEGIN INSERT INTO log VALUES ('temp'); END",
        'CREATE TRIGGER "AFTER DELETE" AFTER INSERT ON a BEGIN SELECT 1; END',
        "CREATE TRIGGER watch AFTER UPDATE OF x, id ON a BEGIN SELECT 1; END",
        "INSERT INTO a VALUES (1, 1)",
    )
    assert_reset(database, a=1)
    database.run("INSERT INTO a VALUES (1, 1)")
    with pytest.raises(Exception, match="append only"):
        database.run("DELETE FROM a")


def test_triggers_of_tables_that_stay_are_not_touched(database):
    database.run(
        "CREATE TABLE a (id)", "CREATE TABLE b (id)",
        "CREATE TRIGGER t AFTER DELETE ON b BEGIN SELECT 1; END",
        "INSERT INTO a VALUES (1)",
    )  # fmt: skip
    assert not [s for s in database.script().statements if "TRIGGER" in s.sql]


def test_views_with_instead_of_triggers_are_left_alone(database):
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY)",
        "CREATE VIEW v AS SELECT id FROM a",
        "CREATE VIEW broken AS SELECT id FROM nowhere",
        "CREATE TRIGGER vd INSTEAD OF DELETE ON v BEGIN SELECT RAISE(ABORT, 'no'); END",
        "INSERT INTO a VALUES (1)",
    )
    assert [table.name.name for table in database.schema().tables] == ["a"]
    assert_reset(database, a=1)


def test_without_rowid_strict_and_generated_columns_work(database):
    database.run(
        "CREATE TABLE w (k text PRIMARY KEY) WITHOUT ROWID",
        "CREATE TABLE s (id integer PRIMARY KEY, n int) STRICT",
        "CREATE TABLE g (id integer PRIMARY KEY, d AS (id * 2) STORED UNIQUE, v AS (id + 1))",
        "CREATE TABLE r (id integer PRIMARY KEY, d integer REFERENCES g (D))",
        "INSERT INTO w VALUES ('x'), ('y')",
        "INSERT INTO s VALUES (1, 1)",
        "INSERT INTO g VALUES (1)",
        "INSERT INTO r VALUES (1, 2)",
    )
    (key,) = database.schema().foreign_keys
    assert key.referenced_columns == ("d",)
    assert_reset(database, w=2, s=1, g=1, r=1)


def test_rows_that_refer_by_a_key_of_a_table_that_stays_are_refused_under_the_lock(database):
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY)",
        "CREATE TABLE b (id integer PRIMARY KEY, a_id integer REFERENCES a ON DELETE CASCADE)",
        "INSERT INTO a VALUES (1)",
        "INSERT INTO b VALUES (1, 1), (2, NULL)",
    )
    with pytest.raises(ExclusionError, match=r"main\.b\(a_id\) → main\.a\(id\): 1 row") as refusal:
        database.reset(["a"], checks=database.keys(to=["a"]))
    assert refusal.value.references == [("main.b(a_id) → main.a(id)", 1)]
    assert (database.count("a"), database.count("b")) == (1, 2)
    assert not database.connection.connection.in_transaction
    database.run("UPDATE b SET a_id = NULL")
    assert database.reset(["a"], checks=database.keys(to=["a"])) == {"a": 1}
    assert database.count("b") == 2


def test_a_reference_written_after_the_look_is_noticed_also_from_a_table_that_was_empty(database):
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY)",
        "CREATE TABLE b (id integer PRIMARY KEY, a_id integer REFERENCES a)",
        "INSERT INTO a VALUES (1)",
    )
    script = database.script()
    database.run("INSERT INTO b VALUES (1, 1)")
    with pytest.raises(ConcurrencyError, match="Rows that refer"):
        BACKEND.run(database.connection, script, within_transaction=False)
    assert (database.count("a"), database.count("b")) == (1, 1)
    assert database.reset() == {"a": 1, "b": 1}


def test_rows_written_after_the_look_to_a_table_without_a_step_are_noticed(database):
    database.run("CREATE TABLE a (id)", "CREATE TABLE b (id)", "INSERT INTO a VALUES (1)")
    script = database.script()
    database.run("INSERT INTO b VALUES (1)")
    with pytest.raises(ConcurrencyError, match=r"main\.b"):
        BACKEND.run(database.connection, script, within_transaction=False)
    assert (database.count("a"), database.count("b")) == (1, 1)


def test_a_trigger_made_after_the_look_is_noticed(database):
    database.run("CREATE TABLE a (id)", "CREATE TABLE log (x)", "INSERT INTO a VALUES (1)")
    script = database.script()
    database.run("CREATE TRIGGER t AFTER DELETE ON a BEGIN INSERT INTO log VALUES (1); END")
    with pytest.raises(ConcurrencyError, match="schema was changed"):
        BACKEND.run(database.connection, script, within_transaction=False)
    assert (database.count("a"), database.count("log")) == (1, 0)


def test_a_table_that_another_database_references_by_name_only_is_no_reference(database):
    database.run(
        "ATTACH ':memory:' AS aux",
        "CREATE TABLE a (id integer PRIMARY KEY)",
        "CREATE TABLE aux.b (id integer PRIMARY KEY, a_id integer REFERENCES a)",
        "INSERT INTO a VALUES (1)",
    )
    assert database.schema().foreign_keys == ()
    assert_reset(database, a=1)


def test_truncate_is_refused_with_what_to_do(memory):
    memory.run("CREATE TABLE a (id)")
    with pytest.raises(UnsupportedError, match="no TRUNCATE"):
        BACKEND.write_sql(
            memory.connection,
            ResetPlan(steps=(Step(action=Action.TRUNCATE, names=(memory.table("a"),)),)),
            ScriptContext(schema=memory.schema(), lock_timeout=1),
        )


def test_the_printed_sql_alone_resets_the_database(file, path):
    file.run(
        'CREATE TABLE "a%" (id integer PRIMARY KEY AUTOINCREMENT, up integer NOT NULL REFERENCES "a%" ON DELETE RESTRICT)',
        "CREATE TRIGGER t BEFORE DELETE ON \"a%\" BEGIN SELECT RAISE(ABORT, 'no'); END",
        "CREATE VIRTUAL TABLE ft USING fts5(x, content='')",
        'INSERT INTO "a%" VALUES (1, 1), (2, 1)',
        "INSERT INTO ft (rowid, x) VALUES (1, 'word')",
    )
    before = file.dump()
    text = "".join(statement.sql + ";\n" for statement in file.script().statements)
    shell = sqlite3.connect(path)
    shell.executescript(text)
    shell.close()
    assert BACKEND.read_state(file.connection, lock_timeout=5).sizes == {}
    assert BACKEND.read_state(file.connection, lock_timeout=5).moved == frozenset()
    assert file.dump() == before


def test_a_reset_of_nothing_is_empty_and_changes_nothing(memory):
    memory.run("CREATE TABLE a (id)")
    assert memory.reset() == {}
    assert BACKEND.count_rows(memory.connection, []) == {}
    assert BACKEND.count_references(memory.connection, []) == ()


def test_more_tables_than_a_compound_query_may_have_terms_are_emptied(memory):
    memory.run("BEGIN")
    for number in range(1200):
        memory.run(
            f"CREATE TABLE t{number} (id integer PRIMARY KEY AUTOINCREMENT)", f"INSERT INTO t{number} VALUES (3)"
        )
    memory.run("COMMIT")
    names = [memory.table(f"t{number}") for number in range(1200)]
    assert BACKEND.count_rows(memory.connection, names) == dict.fromkeys(names, 1)
    assert_reset(memory, **{name.name: 1 for name in names})
