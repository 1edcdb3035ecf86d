"""A reset to the baseline inside the caller's transaction: exact, or refused by the key that stands in the way."""

from __future__ import annotations

import pytest
from django.db import transaction

from testdb_app.exceptions import UnsupportedError

DJANGO = "DEFERRABLE INITIALLY DEFERRED"
ACTIONS = ["CASCADE", "RESTRICT", "SET NULL", "SET DEFAULT"]


def tables(clause, up=""):
    return (
        f"CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT, v text UNIQUE, up integer REFERENCES a {up})",
        f"CREATE TABLE b (id integer PRIMARY KEY, a_id integer NOT NULL DEFAULT 1 REFERENCES a {clause})",
        f"CREATE TABLE c (id integer PRIMARY KEY, b_id integer REFERENCES b {clause}, d_id integer REFERENCES d {clause})",
        f"CREATE TABLE d (id integer PRIMARY KEY, c_id integer REFERENCES c {clause})",
        "CREATE TABLE log (what text)",
        *(
            f"CREATE TRIGGER {table}_{event} AFTER {event} ON {table} BEGIN INSERT INTO log VALUES ('{event}'); END"
            for table in "abcd"
            for event in ("INSERT", "UPDATE", "DELETE")
        ),
        "INSERT INTO a (v, up) VALUES ('one', NULL), ('two', 1), ('three', 3)",
        "INSERT INTO b VALUES (1, 1), (2, 1), (3, 2)",
        "INSERT INTO c VALUES (1, 1, NULL), (2, NULL, NULL)",
        "DELETE FROM log",
    )


WRITES = {
    "changed": "UPDATE a SET v = 'x' WHERE id = 1; UPDATE a SET v = 'one' WHERE id = 2; UPDATE b SET a_id = 3",
    "gone": "DELETE FROM c; DELETE FROM b; UPDATE a SET up = NULL; DELETE FROM a",
    "come": "INSERT INTO a (v, up) VALUES ('four', 2); INSERT INTO b VALUES (9, 4); UPDATE c SET b_id = 9",
    "a cycle with rows that go": "INSERT INTO d VALUES (1, NULL); INSERT INTO c VALUES (9, NULL, 1); UPDATE d SET c_id = 9; "
    "UPDATE c SET d_id = 1 WHERE id = 1",
}


def write(known, writes):
    known.run(*writes.split("; "))


@pytest.mark.parametrize("clause", ["", DJANGO])
@pytest.mark.parametrize("writes", WRITES.values(), ids=WRITES.keys())
def test_it_is_exact_and_part_of_the_transaction(known, writes, clause):
    known.run(*tables(clause, clause))
    known.capture()
    before, schema = known.content(), known.dump()
    with transaction.atomic(using=known.alias):
        write(known, writes)
        dirty = known.content()
        assert dirty != before
        with transaction.atomic(using=known.alias):
            known.restore(within_transaction=True)
            assert (known.content(), known.dump()) == (before, schema)
            assert known.value("PRAGMA foreign_keys") == 1
            assert known.value("PRAGMA ignore_check_constraints") == 0
            transaction.set_rollback(True, using=known.alias)
        assert (known.content(), known.dump()) == (dirty, schema)
        known.restore(within_transaction=True)
        assert known.restore(within_transaction=True).tables == ()
    assert (known.content(), known.dump()) == (before, schema)
    assert known.rows("PRAGMA foreign_key_check") == []


def test_violations_of_the_caller_are_still_found_at_the_commit(known):
    known.run(*tables(DJANGO), "CREATE TABLE other (a_id integer REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
    known.capture(exclude=["*.other"])
    with pytest.raises(Exception, match="FOREIGN KEY constraint failed"), transaction.atomic(using=known.alias):
        known.run("INSERT INTO other VALUES (99)", "UPDATE a SET v = 'x' WHERE id = 1")
        assert known.restore(within_transaction=True).tables


@pytest.mark.parametrize("deferred", ["", DJANGO])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("also", ["SELECT 1", "UPDATE c SET b_id = NULL; UPDATE b SET id = 7 WHERE id = 3"])
def test_rows_that_refer_by_a_key_that_acts_at_once_are_refused_and_nothing_is_done(known, action, deferred, also):
    known.run(*tables(f"ON DELETE {action} {deferred}"))
    known.capture()
    before = known.content()
    with transaction.atomic(using=known.alias):
        write(known, f"UPDATE a SET v = 'x' WHERE id = 1; {also}")
        dirty = known.content()
        with pytest.raises(UnsupportedError, match=rf"main\.b\(a_id\) → main\.a\(id\), which is ON DELETE {action}"):
            known.restore(within_transaction=True)
        assert known.content() == dirty
    known.restore()
    assert known.content() == before


@pytest.mark.parametrize("deferred", ["", DJANGO])
@pytest.mark.parametrize("action", ACTIONS)
def test_tables_to_which_no_row_refers_are_restored_whatever_the_action_of_their_keys(known, action, deferred):
    known.run(*tables(f"ON DELETE {action} {deferred}"))
    known.capture()
    before, schema = known.content(), known.dump()
    with transaction.atomic(using=known.alias):
        write(
            known, "INSERT INTO d VALUES (1, NULL); UPDATE c SET d_id = 1; DELETE FROM c WHERE id = 2; DELETE FROM log"
        )
        known.restore(within_transaction=True)
        assert (known.content(), known.dump()) == (before, schema)
    assert known.rows("PRAGMA foreign_key_check") == []


def test_with_foreign_keys_off_nothing_is_refused(known):
    known.run("PRAGMA foreign_keys = OFF", *tables("ON DELETE RESTRICT"))
    known.capture()
    before = known.content()
    with transaction.atomic(using=known.alias):
        write(known, "UPDATE a SET v = 'x' WHERE id = 1; DELETE FROM b")
        known.restore(within_transaction=True)
        assert known.content() == before


def test_a_capture_is_seen_and_a_full_text_table_is_restored_within_a_transaction(known):
    known.run("CREATE VIRTUAL TABLE ft USING fts5(body)", "INSERT INTO ft (rowid, body) VALUES (1, 'hello')")
    known.capture()
    with transaction.atomic(using=known.alias):
        known.run("UPDATE ft SET body = 'goodbye'", "INSERT INTO ft (rowid, body) VALUES (2, 'hello')")
        known.restore(within_transaction=True)
        assert known.rows("SELECT rowid FROM ft WHERE ft MATCH 'hello'") == [(1,)]
    known.run("INSERT INTO ft (ft) VALUES ('integrity-check')")
