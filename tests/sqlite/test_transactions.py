"""A reset inside the caller's transaction: part of it, all or nothing, with foreign keys on."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from testdb_app.backends.sqlite.backend import BACKEND
from testdb_app.exceptions import ResetError, TransactionStateError, UnsupportedError

PRAGMAS = ("foreign_keys", "busy_timeout", "defer_foreign_keys", "ignore_check_constraints")


@contextmanager
def transaction(database, end="COMMIT"):
    database.run("BEGIN")
    yield
    database.run(end)
    assert database.value("PRAGMA defer_foreign_keys") == 0


def settings(database):
    return {name: database.value(f"PRAGMA {name}") for name in PRAGMAS}


def reset(database):
    """Reset within the open transaction; nothing may be left, and schema and settings stay, but for a deferral of
    checks, which SQLite ends with the transaction."""
    before, dump = settings(database), database.dump()
    removed = database.reset(within_transaction=True)
    assert database.connection.connection.in_transaction
    assert (settings(database) | {"defer_foreign_keys": 0}, database.dump()) == (before, dump)
    assert BACKEND.read_state(database.connection, lock_timeout=5).sizes == {}
    return removed


def test_an_open_transaction_that_was_not_declared_is_refused_also_one_that_django_does_not_know_of(database):
    database.run("CREATE TABLE a (id)", "INSERT INTO a VALUES (1)")
    script = database.script()
    with transaction(database), pytest.raises(TransactionStateError, match="within_transaction=True"):
        BACKEND.run(database.connection, script, within_transaction=False)
    assert database.count("a") == 1


def test_it_is_undone_by_the_callers_rollback_with_counters_and_triggers(database):
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT)",
        "CREATE TABLE b (id integer PRIMARY KEY, a_id integer NOT NULL REFERENCES a)",
        "CREATE TRIGGER t BEFORE DELETE ON a BEGIN SELECT RAISE(ABORT, 'no'); END",
        "INSERT INTO a VALUES (7)",
        "INSERT INTO b VALUES (1, 7)",
    )
    dump = database.dump()
    with transaction(database, "ROLLBACK"):
        assert reset(database) == {"a": 1, "b": 1}
        assert database.rows("SELECT * FROM sqlite_sequence") == []
    assert (database.count("a"), database.count("b"), database.dump()) == (1, 1, dump)
    assert database.rows("SELECT * FROM sqlite_sequence") == [("a", 7)]


ACTIONS = ["NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"]


@pytest.mark.parametrize("deferred", ["", "DEFERRABLE INITIALLY DEFERRED"])
@pytest.mark.parametrize("action", ACTIONS)
def test_cycles_that_may_be_null_go_whatever_their_action_and_no_trigger_fires(database, action, deferred):
    clause = f"ON DELETE {action} {deferred}"
    database.run(
        f"CREATE TABLE a (id integer PRIMARY KEY, b_id integer REFERENCES b {clause})",
        f"CREATE TABLE b (id integer PRIMARY KEY, a_id integer REFERENCES a {clause})",
        f"CREATE TABLE tree (id integer PRIMARY KEY, up integer CHECK (up IS NOT NULL) REFERENCES tree {clause})",
        "CREATE TABLE log (what)",
        *(
            f"CREATE TRIGGER {event}_{table} AFTER {event} ON {table} BEGIN INSERT INTO log VALUES ('{event}'); END"
            for event in ("UPDATE", "DELETE")
            for table in ("a", "b", "tree")
        ),
        "PRAGMA foreign_keys = OFF",
        "INSERT INTO a VALUES (1, 2), (3, 4)",
        "INSERT INTO b VALUES (2, 1), (4, 3)",
        "INSERT INTO tree VALUES (1, 1), (2, 1), (3, 2)",
        "PRAGMA foreign_keys = ON",
    )
    with transaction(database):
        assert reset(database) == {"a": 2, "b": 2, "tree": 3}
    assert database.rows("PRAGMA foreign_key_check") == []


@pytest.mark.parametrize("action", ["NO ACTION", "CASCADE", "SET DEFAULT"])
def test_cycles_that_may_not_be_null_go_where_sqlite_can_defer_them(database, action):
    database.run(
        f"CREATE TABLE a (id integer PRIMARY KEY, b_id integer NOT NULL DEFAULT 2 REFERENCES b ON DELETE {action})",
        f"CREATE TABLE b (id integer PRIMARY KEY, a_id integer NOT NULL DEFAULT 1 REFERENCES a ON DELETE {action})",
        f"CREATE TABLE tree (id integer PRIMARY KEY, up integer NOT NULL DEFAULT 1 REFERENCES tree ON DELETE {action})",
        "PRAGMA foreign_keys = OFF",
        "INSERT INTO a VALUES (1, 2), (3, 4)",
        "INSERT INTO b VALUES (2, 1), (4, 3)",
        "INSERT INTO tree VALUES (1, 1), (2, 1), (3, 2)",
        "PRAGMA foreign_keys = ON",
    )
    with transaction(database):
        removed = reset(database)
        # By a cascade some rows went uncounted: then no number is given.
        assert removed == ({} if action == "CASCADE" else {"a": 2, "b": 2, "tree": 3})


@pytest.mark.parametrize("action", ["RESTRICT", "SET NULL"])
def test_a_cycle_that_sqlite_cannot_delete_in_a_transaction_is_refused_with_its_key_and_nothing_is_done(
    database, action
):
    database.run(
        f"CREATE TABLE tree (id integer PRIMARY KEY, up integer NOT NULL REFERENCES tree ON DELETE {action})",
        "INSERT INTO tree VALUES (1, 1), (2, 1)",
    )
    with transaction(database):
        with pytest.raises(UnsupportedError, match=rf"main\.tree\(up\) → main\.tree\(id\) .* ON DELETE {action}"):
            database.reset(within_transaction=True)
        assert database.connection.connection.in_transaction
        assert database.count("tree") == 2
    with transaction(database, "ROLLBACK"):
        database.run("DELETE FROM tree WHERE id > 1", "DELETE FROM tree")
    assert database.reset() == {"tree": 2}


def test_with_foreign_keys_off_no_cycle_is_refused(database):
    database.run(
        "PRAGMA foreign_keys = OFF",
        "CREATE TABLE tree (id integer PRIMARY KEY, up integer NOT NULL REFERENCES tree ON DELETE RESTRICT)",
        "INSERT INTO tree VALUES (1, 1), (2, 1)",
    )
    with transaction(database):
        assert reset(database) == {"tree": 2}


def test_a_generated_or_primary_key_column_is_not_set_to_null(database):
    database.run(
        "CREATE TABLE g (id integer PRIMARY KEY, up integer AS (id) REFERENCES g (id) ON DELETE RESTRICT)",
        "INSERT INTO g VALUES (1)",
    )
    with transaction(database), pytest.raises(UnsupportedError, match=r"main\.g\(up\)"):
        database.reset(within_transaction=True)


def test_a_composite_key_is_broken_at_the_column_that_may_be_null(database):
    database.run(
        "CREATE TABLE a (x integer NOT NULL, y integer NOT NULL, up_x integer NOT NULL, up_y integer, "
        "PRIMARY KEY (x, y), FOREIGN KEY (up_x, up_y) REFERENCES a ON DELETE RESTRICT)",
        "INSERT INTO a VALUES (1, 1, 1, 1), (2, 2, 1, 1)",
    )
    with transaction(database):
        assert reset(database) == {"a": 2}


def test_a_failure_leaves_what_the_caller_did_before_and_nothing_of_the_reset(database):
    # A unique index on NULLs' neighbours makes the first UPDATE fail after triggers were dropped.
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY)",
        "CREATE TABLE tree (id integer PRIMARY KEY, up integer REFERENCES tree ON DELETE RESTRICT)",
        "CREATE UNIQUE INDEX one_root ON tree (ifnull(up, 0))",
        "CREATE TRIGGER t AFTER DELETE ON tree BEGIN SELECT 1; END",
        "INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2)",
    )
    before, dump = settings(database), database.dump()
    with transaction(database):
        database.run("INSERT INTO a VALUES (1)")
        with pytest.raises(ResetError, match=r"UNIQUE constraint failed.*while running: UPDATE"):
            database.reset(within_transaction=True)
        assert (settings(database), database.dump()) == (before, dump)
    assert (database.count("a"), database.count("tree")) == (1, 3)


def test_deferred_violations_of_the_caller_are_still_found_at_the_commit(database):
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY)",
        "CREATE TABLE b (id integer PRIMARY KEY, a_id integer REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TABLE other (id integer PRIMARY KEY)",
        "INSERT INTO other VALUES (1)",
    )
    database.run("BEGIN", "INSERT INTO b VALUES (1, 99)")
    database.reset(["other"], within_transaction=True)
    with pytest.raises(Exception, match="FOREIGN KEY constraint failed"):
        database.run("COMMIT")
    database.reset(within_transaction=True)
    database.run("COMMIT")
    assert database.count("b") == 0


def test_a_cycle_that_is_deferred_by_itself_leaves_the_callers_own_checks_as_they_are(database):
    database.run(
        "CREATE TABLE a (id integer PRIMARY KEY, b_id integer NOT NULL REFERENCES b DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TABLE b (id integer PRIMARY KEY, a_id integer NOT NULL REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TABLE c (id integer PRIMARY KEY, a_id integer REFERENCES a)",
    )
    with transaction(database):
        database.run("INSERT INTO a VALUES (1, 1)", "INSERT INTO b VALUES (1, 1), (2, 99)")
        assert reset(database) == {"a": 1, "b": 2}
        with pytest.raises(Exception, match="FOREIGN KEY constraint failed"):
            database.run("INSERT INTO c VALUES (1, 1)")


def test_with_autocommit_off_the_commit_is_left_to_the_caller(file):
    file.run("CREATE TABLE a (id)", "INSERT INTO a VALUES (1)")
    file.connection.set_autocommit(False)
    try:
        assert file.reset(within_transaction=True) == {"a": 1}
        file.connection.rollback()
        assert file.count("a") == 1
        file.reset(within_transaction=True)
        file.connection.commit()
    finally:
        file.connection.set_autocommit(True)
    assert file.count("a") == 0
