"""The state of a SQLite database: which tables have rows, which sequences moved, whether the schema is the one that was read."""

from __future__ import annotations

import threading
import time

import pytest

from testdb_app.backends.sqlite.backend import BACKEND
from testdb_app.exceptions import LockTimeoutError
from testdb_app.schema import QualifiedName
from tests.sqlite.database import other_connection


def read_state(database):
    return BACKEND.read_state(database.connection, lock_timeout=5)


def named(names):
    return sorted(str(name) for name in names)


def test_tables_with_rows_and_only_those_are_named_whoever_wrote_them(file, path):
    file.run(
        "CREATE TABLE a (id)", "CREATE TABLE b (id)", "CREATE TABLE log (id)",
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN INSERT INTO log VALUES (1); END",
    )  # fmt: skip
    assert read_state(file).sizes == {}
    other = other_connection(path)
    other.execute("INSERT INTO a VALUES (NULL)")
    assert read_state(file).sizes == {QualifiedName("main", "a"): 0, QualifiedName("main", "log"): 0}


def test_a_counter_moves_by_a_row_that_is_gone_and_not_by_a_rollback(database):
    database.run("CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT)", "CREATE TABLE b (id integer PRIMARY KEY)")
    assert read_state(database).moved == frozenset()
    database.run("BEGIN", "INSERT INTO a DEFAULT VALUES", "ROLLBACK", "INSERT INTO b DEFAULT VALUES")
    assert read_state(database).moved == frozenset()
    database.run("INSERT INTO a DEFAULT VALUES", "DELETE FROM a")
    assert named(read_state(database).moved) == ["main.a"]


def test_a_counter_set_by_hand_is_seen_and_one_of_no_sequence_is_not(database):
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT)",
        "CREATE TABLE b (id integer PRIMARY KEY)",
        "INSERT INTO sqlite_sequence VALUES ('a', 0), ('a', 7), ('b', 7), ('gone', 7)",
    )
    assert named(read_state(database).moved) == ["main.a"]
    database.reset()
    assert database.rows("SELECT name FROM sqlite_sequence") == [("b",), ("gone",)]


CHANGES = [
    "CREATE TABLE c (id)",
    "DROP TABLE b",
    "ALTER TABLE b RENAME TO c",
    "ALTER TABLE b ADD COLUMN x integer REFERENCES a",
    "CREATE TRIGGER t AFTER DELETE ON a BEGIN SELECT 1; END",
    "CREATE TEMP TRIGGER t AFTER DELETE ON a BEGIN SELECT 1; END",
    "CREATE TEMP TABLE a (id)",
    "CREATE VIRTUAL TABLE ft USING fts5(x)",
    "ATTACH ':memory:' AS aux",
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_token_is_the_schemas_and_moves_with_every_change_of_it(database, change):
    database.run("CREATE TABLE a (id integer PRIMARY KEY)", "CREATE TABLE b (id)", "INSERT INTO a VALUES (1)")
    token = database.schema().token
    database.run("DELETE FROM a", "VACUUM")
    assert read_state(database).token == token
    database.run(change)
    assert read_state(database).token == database.schema().token != token


def test_the_token_tells_a_memory_database_from_another_with_as_many_changes(make_database):
    one, two = make_database(), make_database()
    one.run("CREATE TABLE a (id)")
    two.run("CREATE TABLE b (id)")
    assert one.rows("PRAGMA schema_version") == two.rows("PRAGMA schema_version")
    assert one.schema().token != two.schema().token


def test_a_change_of_the_schema_that_was_rolled_back_is_not_taken_for_the_next_one(database):
    # Both changes have the same schema_version.
    database.run(
        "CREATE TABLE a (id)", "INSERT INTO a VALUES (1)", "BEGIN", "CREATE TABLE b (id)", "INSERT INTO b VALUES (1)"
    )
    assert named(read_state(database).sizes) == ["main.a", "main.b"]
    database.run("ROLLBACK", "CREATE TABLE c (id)", "INSERT INTO c VALUES (1)")
    assert named(read_state(database).sizes) == ["main.a", "main.c"]
    assert read_state(database).token == database.schema().token


def test_a_memory_database_attached_anew_is_not_taken_for_the_last_one(database):
    for table in ("a", "b"):
        database.run(
            "ATTACH ':memory:' AS aux", f"CREATE TABLE aux.{table} (id)", f"INSERT INTO aux.{table} VALUES (1)"
        )
        assert named(read_state(database).sizes) == [f"aux.{table}"]
        database.run("DETACH aux")


def test_a_new_connection_is_not_taken_for_the_last_one(make_database):
    database = make_database()
    for table in ("a", "b"):
        database.run(f"CREATE TABLE {table} (id)", f"INSERT INTO {table} VALUES (1)")
        assert named(read_state(database).sizes) == [f"main.{table}"]
        database.close()
        database.connection.connection = None


def test_a_change_by_another_connection_is_seen_by_the_next_reading(file, path):
    file.run("CREATE TABLE a (id)")
    token = read_state(file).token
    other = other_connection(path)
    other.execute("CREATE TABLE b (id)")
    other.execute("INSERT INTO b VALUES (1)")
    assert named(read_state(file).sizes) == ["main.b"]
    assert read_state(file).token == file.schema().token != token


def test_a_reset_that_switches_triggers_off_leaves_the_token(database):
    database.run(
        "CREATE TABLE a (id)",
        "CREATE TRIGGER t AFTER DELETE ON a BEGIN SELECT 1; END",
        "INSERT INTO a VALUES (1)",
    )
    token = database.schema().token
    database.reset()
    assert read_state(database).token == token


def test_reading_waits_for_rows_that_another_connection_has_not_committed(file, path):
    file.run("CREATE TABLE a (id)")
    other = other_connection(path)
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO a VALUES (1)")
    threading.Timer(0.3, other.commit).start()
    started = time.monotonic()
    assert named(read_state(file).sizes) == ["main.a"]
    assert time.monotonic() - started > 0.2


def test_reading_ends_with_an_error_if_the_other_connection_does_not_end(make_database, path):
    database = make_database(path, OPTIONS={"timeout": 60})
    database.run("CREATE TABLE a (id)")
    other = other_connection(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LockTimeoutError, match=f'"{path}"'):
        BACKEND.read_state(database.connection, lock_timeout=0.1)
    assert database.value("PRAGMA busy_timeout") == 60_000
    assert not database.connection.connection.in_transaction
    assert BACKEND.identify(database.connection).name == str(path)
    assert [str(table.name) for table in BACKEND.read_schema(database.connection).tables] == ["main.a"]


def test_reading_leaves_a_transaction_and_an_open_cursor_of_the_caller_alone(database):
    database.run("CREATE TABLE a (id)", "INSERT INTO a VALUES (1), (2)")
    cursor = database.connection.connection.execute("SELECT id FROM a")
    assert cursor.fetchone() == (1,)
    read_state(database)
    assert cursor.fetchone() == (2,)
    database.run("BEGIN", "INSERT INTO a VALUES (3)")
    assert named(read_state(database).sizes) == ["main.a"]
    database.run("ROLLBACK")
    assert database.count("a") == 2


def test_counts_are_per_table_and_per_key_and_null_refers_to_nothing(database):
    database.run(
        "CREATE TABLE a (x integer, y integer, PRIMARY KEY (x, y))",
        "CREATE TABLE b (id integer PRIMARY KEY, x, y, z, FOREIGN KEY (x, y) REFERENCES a, FOREIGN KEY (z, y) REFERENCES a)",
        "INSERT INTO a VALUES (1, 1)",
        "INSERT INTO b VALUES (1, 1, 1, NULL), (2, NULL, 1, NULL), (3, NULL, NULL, NULL)",
    )
    assert BACKEND.count_references(database.connection, database.schema().foreign_keys) == (1, 0)
    names = [QualifiedName("main", "b"), QualifiedName("main", "a"), QualifiedName("main", "b")]
    assert BACKEND.count_rows(database.connection, names) == {names[0]: 3, names[1]: 1}
