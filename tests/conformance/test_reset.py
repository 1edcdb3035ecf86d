"""What a reset promises on every backend, with SQL that PostgreSQL and SQLite both understand."""

from __future__ import annotations

import threading

import pytest
from django.db import transaction

from testdb_app.exceptions import (
    ConfigurationError,
    ExclusionError,
    LockTimeoutError,
    TransactionStateError,
    UnknownNameError,
    UnsafeDatabaseError,
)

CHAIN = """
CREATE TABLE publisher (id integer PRIMARY KEY);
CREATE TABLE book (id integer PRIMARY KEY, publisher_id integer NOT NULL REFERENCES publisher (id) {action});
CREATE TABLE loan (id integer PRIMARY KEY, book_id integer NOT NULL REFERENCES book (id));
INSERT INTO publisher VALUES (1), (2); INSERT INTO book VALUES (1, 1), (2, 1); INSERT INTO loan VALUES (1, 1);
"""
ACTIONS = ["", "ON DELETE CASCADE", "ON DELETE RESTRICT", "ON DELETE SET NULL", "DEFERRABLE INITIALLY DEFERRED"]


def names(report):
    return [table.name.name for table in report.tables]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_chain_is_emptied_referencing_tables_first_and_every_row_is_counted(database, action):
    database.execute(CHAIN.format(action=action))
    report = database.reset()
    assert [(table.name.name, table.rows) for table in report.tables] == [("loan", 1), ("book", 2), ("publisher", 2)]
    assert [database.count(name) for name in ("publisher", "book", "loan")] == [0, 0, 0]


@pytest.mark.parametrize("action", ACTIONS)
def test_rows_that_stay_are_never_touched_and_the_path_is_named(database, action):
    database.execute(CHAIN.format(action=action))
    resetter = database.resetter(include=["*.publisher"])
    with pytest.raises(ExclusionError, match=r"book\(publisher_id\) → .*publisher\(id\): 2 row") as refusal:
        resetter.reset()
    assert "behind it: " in str(refusal.value)
    assert [database.count(name) for name in ("publisher", "book", "loan")] == [2, 2, 1]
    database.execute("DELETE FROM loan; DELETE FROM book")
    assert names(resetter.reset()) == ["publisher"]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("within", [False, True])
def test_cycles_and_self_references_are_emptied(database, action, within):
    database.execute(
        f"CREATE TABLE a (id integer PRIMARY KEY, b_id integer REFERENCES b (id) {action});"
        f"CREATE TABLE b (id integer PRIMARY KEY, a_id integer REFERENCES a (id) {action});"
        f"CREATE TABLE node (id integer PRIMARY KEY, up integer REFERENCES node (id) {action});"
        "INSERT INTO a VALUES (1, NULL); INSERT INTO b VALUES (1, 1); UPDATE a SET b_id = 1;"
        "INSERT INTO node VALUES (1, NULL), (2, 1); UPDATE node SET up = 2 WHERE id = 1"
        if database.connection.vendor == "sqlite"
        else f"CREATE TABLE a (id integer PRIMARY KEY, b_id integer); "
        f"CREATE TABLE b (id integer PRIMARY KEY, a_id integer REFERENCES a (id) {action});"
        f"ALTER TABLE a ADD FOREIGN KEY (b_id) REFERENCES b (id) {action};"
        f"CREATE TABLE node (id integer PRIMARY KEY, up integer REFERENCES node (id) {action});"
        "INSERT INTO a VALUES (1, NULL); INSERT INTO b VALUES (1, 1); UPDATE a SET b_id = 1;"
        "INSERT INTO node VALUES (1, NULL), (2, 1); UPDATE node SET up = 2 WHERE id = 1"
    )
    if within:
        with transaction.atomic(using=database.alias):
            database.reset(within_transaction=True)
    else:
        database.reset()
    assert [database.count(name) for name in ("a", "b", "node")] == [0, 0, 0]


def test_only_tables_with_rows_are_touched_and_a_second_reset_finds_nothing(database):
    database.execute(CHAIN.format(action="") + "DELETE FROM loan; DELETE FROM book")
    resetter = database.resetter()
    assert names(resetter.reset()) == ["publisher"]
    assert names(resetter.reset()) == []


def test_a_plan_changes_nothing_and_tells_the_order_the_rows_and_the_sql(database):
    database.execute(CHAIN.format(action=""))
    preview = database.resetter().plan()
    assert [name.name for name in preview.plan.tables] == ["loan", "book", "publisher"]
    assert {name.name: rows for name, rows in preview.rows.items()} == {"loan": 1, "book": 2, "publisher": 2}
    assert sum("DELETE FROM" in sql for sql in preview.sql) == 3
    assert database.count("book") == 2


def test_the_sql_of_a_plan_run_by_hand_does_the_same(database):
    database.execute(CHAIN.format(action=""))
    database.execute(";\n".join(database.resetter().plan().sql))
    assert [database.count(name) for name in ("publisher", "book", "loan")] == [0, 0, 0]


def test_a_trigger_that_would_refill_a_table_does_not_fire_and_is_there_afterwards(database):
    database.execute(
        "CREATE TABLE item (id integer PRIMARY KEY); CREATE TABLE a_log (n integer); CREATE TABLE z_log (n integer);"
        "INSERT INTO item VALUES (1); INSERT INTO a_log VALUES (0); INSERT INTO z_log VALUES (0)"
    )
    body = "INSERT INTO a_log VALUES (1); INSERT INTO z_log VALUES (1);"
    if database.connection.vendor == "sqlite":
        database.execute(f"CREATE TRIGGER log AFTER DELETE ON item BEGIN {body} END")
    else:
        database.execute(
            f"CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END$$;"
            "CREATE TRIGGER log AFTER DELETE ON item FOR EACH ROW EXECUTE FUNCTION log()"
        )
    database.reset()
    assert [database.count(name) for name in ("item", "a_log", "z_log")] == [0, 0, 0]
    database.execute("INSERT INTO item VALUES (1); DELETE FROM item")
    assert [database.count(name) for name in ("a_log", "z_log")] == [1, 1]


def test_a_changed_schema_is_noticed(database):
    database.execute(CHAIN.format(action=""))
    resetter = database.resetter()
    resetter.reset()
    database.execute(
        "CREATE TABLE fine (id integer PRIMARY KEY, loan_id integer REFERENCES loan (id));"
        "INSERT INTO publisher VALUES (1); INSERT INTO book VALUES (1, 1); INSERT INTO loan VALUES (1, 1);"
        "INSERT INTO fine VALUES (1, 1)"
    )
    assert names(resetter.reset()) == ["fine", "loan", "book", "publisher"]


def test_an_unknown_database_is_refused_and_keeps_its_rows(database):
    database.execute(CHAIN.format(action=""))
    with pytest.raises(UnsafeDatabaseError, match="not known to be a test database") as refusal:
        database.resetter(allow_database=()).reset()
    assert (refusal.value.rule, refusal.value.alias) == ("unknown", "scratch")
    assert database.count("book") == 2


def test_a_writer_that_does_not_end_is_waited_for_and_nothing_is_changed(database):
    database.execute(CHAIN.format(action=""))
    blocked, release = threading.Event(), threading.Event()

    def hold() -> None:
        connection = database.connection
        with transaction.atomic(using=database.alias), connection.cursor() as cursor:
            cursor.execute("INSERT INTO publisher VALUES (3)")
            blocked.set()
            release.wait(10)
        connection.close()

    writer = threading.Thread(target=hold)
    writer.start()
    blocked.wait(10)
    try:
        with pytest.raises(LockTimeoutError):
            database.reset(lock_timeout=0.3)
    finally:
        release.set()
        writer.join()
    assert [database.count(name) for name in ("publisher", "book", "loan")] == [3, 2, 1]
    database.reset()
    assert database.count("publisher") == 0


def test_inside_atomic_it_is_refused_unless_asked_for_and_then_undone_with_it(database):
    database.execute(CHAIN.format(action=""))
    with transaction.atomic(using=database.alias), pytest.raises(TransactionStateError):
        database.reset()
    with transaction.atomic(using=database.alias):
        assert database.reset(within_transaction=True).rows == 5
        transaction.set_rollback(True, using=database.alias)
    assert [database.count(name) for name in ("publisher", "book", "loan")] == [2, 2, 1]


def test_a_name_that_matches_nothing_is_an_error_with_the_nearest_names(database):
    database.execute(CHAIN.format(action=""))
    with pytest.raises(UnknownNameError, match=r"Did you mean .*publisher"):
        database.resetter(exclude=["publishr"]).reset()


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "drop"},
        {"lock_timeout": 0},
        {"lock_timeout": True},
        {"to": "nowhere"},
        {"include": [""]},
        {"include": [3]},
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(database, options):
    with pytest.raises(ConfigurationError):
        database.resetter(**options)
