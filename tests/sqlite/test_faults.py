"""Locks, interrupts, kills, read-only and closed connections: the error says what next, and nothing is half-done."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from testdb_app.backends.base import Mark, Script
from testdb_app.backends.sqlite.backend import BACKEND
from testdb_app.exceptions import ConnectionLostError, LockTimeoutError, ReadOnlyError, ResetError, RowsRemainError
from tests.sqlite.database import SQLiteDatabase, other_connection
from tests.sqlite.test_transactions import settings

SCHEMA = (
    "CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT, b_id integer REFERENCES b ON DELETE RESTRICT)",
    "CREATE TABLE b (id integer PRIMARY KEY AUTOINCREMENT, a_id integer REFERENCES a ON DELETE RESTRICT)",
    "CREATE TRIGGER t BEFORE DELETE ON a BEGIN SELECT RAISE(ABORT, 'append only'); END",
    "CREATE TEMP TRIGGER tt BEFORE DELETE ON b BEGIN SELECT RAISE(ABORT, 'append only'); END",
    "PRAGMA foreign_keys = OFF",
    "INSERT INTO a VALUES (1, 1)",
    "INSERT INTO b VALUES (1, 1)",
    "PRAGMA foreign_keys = ON",
)


def run(database, script, *, within_transaction=False):
    return BACKEND.run(database.connection, script, within_transaction=within_transaction)


def state(database):
    return database.count("a"), database.count("b"), database.rows("SELECT * FROM sqlite_sequence"), database.dump()


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_a_writer_elsewhere_is_waited_for_as_long_as_the_lock_timeout_and_not_longer(file, path, journal):
    file.run(f"PRAGMA journal_mode = {journal}", *SCHEMA)
    script, before = file.script(lock_timeout=0.2), (settings(file), state(file))
    other = other_connection(path)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(LockTimeoutError, match=f'"{path}".*BEGIN IMMEDIATE') as failure:
        run(file, script)
    assert 0.15 < time.monotonic() - started < 2
    assert failure.value.blockers == []
    other.execute("ROLLBACK")
    assert (settings(file), state(file)) == before
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.2, other.rollback).start()
    run(file, file.script(lock_timeout=5))
    assert file.count("a") == 0


def test_a_reader_that_is_idle_in_its_transaction_does_not_block_in_wal_mode_and_is_reported_otherwise(file, path):
    file.run(*SCHEMA)
    other = other_connection(path)
    other.execute("BEGIN")
    other.execute("SELECT * FROM a").fetchall()
    script, before = file.script(lock_timeout=0.1), (settings(file), state(file))
    with pytest.raises(LockTimeoutError, match="COMMIT"):
        run(file, script)
    assert (settings(file), state(file)) == before
    other.execute("ROLLBACK")
    file.run("PRAGMA journal_mode = WAL")
    other.execute("BEGIN")
    other.execute("SELECT * FROM a").fetchall()
    run(file, file.script(lock_timeout=0.1))
    assert file.count("a") == 0


def test_locks_of_a_shared_cache_are_waited_for_too(make_database):
    name = "file:shared_cache_locks?mode=memory&cache=shared"
    database = make_database(name)
    database.run("CREATE TABLE a (id)", "INSERT INTO a VALUES (1)")
    script = database.script(lock_timeout=0.2)
    other = other_connection(name)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(LockTimeoutError):
        run(database, script)
    assert 0.15 < time.monotonic() - started < 2
    threading.Timer(0.2, other.rollback).start()
    run(database, database.script(lock_timeout=5))
    assert database.count("a") == 0


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_at_any_statement_leaves_everything_as_it_was_or_done_and_the_next_reset_works(
    make_database, within, when
):
    for number in range(1000):
        database = make_database()
        database.run(*SCHEMA)
        if within:
            database.run("BEGIN")
        before, conf = state(database), settings(database)
        script = database.script(within_transaction=within)
        with interrupted(database.connection, number, when) as interruption:
            with suppress(KeyboardInterrupt):
                run(database, script, within_transaction=within)
        if not interruption.came:
            assert number > 15
            break
        done = (0, 0, [], before[3])
        ends_with_transaction = {"defer_foreign_keys": 0} if state(database) == done else {}
        assert settings(database) | ends_with_transaction == conf
        assert database.connection.connection.in_transaction == within
        assert state(database) in (before, done)
        database.reset(within_transaction=within)
        assert state(database) == done
    else:
        raise AssertionError("the reset never ended")


class Interruption:
    came = False


@contextmanager
def interrupted(connection, number, when):
    """Raise KeyboardInterrupt at one statement: where it is sent, or when it has been executed."""
    interruption, seen = Interruption(), 0

    def interrupt(execute, sql, params, many, context):
        nonlocal seen
        seen += 1
        if seen == number + 1:
            interruption.came = True
            if when == "after":
                execute(sql, params, many, context)
            raise KeyboardInterrupt
        return execute(sql, params, many, context)

    with connection.execute_wrapper(interrupt):
        yield interruption


def test_an_interrupt_at_any_statement_of_a_look_leaves_no_lock(make_database, path):
    file = make_database(path)
    file.run(*SCHEMA)
    for when in ("before", "after"):
        for number in range(1000):
            with interrupted(file.connection, number, when) as interruption:
                with suppress(KeyboardInterrupt):
                    BACKEND.read_state(file.connection, lock_timeout=5)
            assert not file.connection.connection.in_transaction
            if not interruption.came:
                assert number > 5
                break


@pytest.mark.parametrize("within", [False, True])
def test_an_interrupt_at_any_statement_of_a_mark_leaves_it_set_or_not_and_no_transaction(make_database, within):
    for when in ("before", "after"):
        for number in range(1000):
            database = make_database()
            if within:
                database.run("BEGIN")
            with interrupted(database.connection, number, when) as interruption, suppress(KeyboardInterrupt):
                BACKEND.set_mark(database.connection, Mark.TEST, present=True)
            assert database.connection.connection.in_transaction == within
            assert BACKEND.identify(database.connection).marks in (set(), {Mark.TEST})
            if not interruption.came:
                assert number > 4
                break


KILLED = """
import os, sys
import django
from django.conf import settings
settings.configure(DATABASES={})
django.setup()
from testdb_app.backends.sqlite import BACKEND
from tests.sqlite.database import SQLiteDatabase
database = SQLiteDatabase(sys.argv[1])
script = database.script()
left = int(sys.argv[2])
def count_down(execute, *args):
    global left
    if left == 0:
        os.kill(os.getpid(), 9)
    left -= 1
    return execute(*args)
with database.connection.execute_wrapper(count_down):
    BACKEND.run(database.connection, script, within_transaction=False)
"""


@pytest.mark.parametrize("number", [6, 8, 12, 14, 16, 17])
def test_a_process_that_is_killed_leaves_the_file_as_it_was(path, number):
    database = SQLiteDatabase(path)
    database.run("PRAGMA cache_size = 10", *(sql for sql in SCHEMA if "TEMP" not in sql))
    before = state(database)
    database.close()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", KILLED, path, str(number)], env=environment, check=False)
    assert process.returncode == -9
    database = SQLiteDatabase(path)
    assert state(database) == before
    database.reset()
    assert state(database) == (0, 0, [], before[3])
    database.close()


@pytest.mark.parametrize("how", ["mode=ro", "query_only"])
def test_a_read_only_database_is_refused_with_what_to_do(make_database, path, how):
    make_database(path).run("CREATE TABLE a (id)", "INSERT INTO a VALUES (1)")
    database = make_database(f"file:{path}?mode=ro" if how == "mode=ro" else path)
    if how == "query_only":
        database.run("PRAGMA query_only = ON")
    script, before = database.script(), settings(database)
    with pytest.raises(ReadOnlyError, match="mode=ro"):
        run(database, script)
    assert settings(database) == before
    assert database.count("a") == 1


def test_a_closed_connection_is_said_to_be_lost(file):
    file.run("CREATE TABLE a (id)")
    script = file.script()
    file.connection.connection.close()
    for call in (BACKEND.identify, BACKEND.read_schema, lambda c: BACKEND.read_state(c, lock_timeout=1)):
        with pytest.raises(ConnectionLostError, match="closed"):
            call(file.connection)
    with pytest.raises(ConnectionLostError, match="closed"):
        run(file, script)


def test_a_file_that_is_no_database_or_cannot_be_opened_is_said_to_be_lost(make_database, path, tmp_path):
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ConnectionLostError, match="not a database"):
        BACKEND.identify(make_database(path).connection)
    database = make_database()
    database.close()
    database.connection.settings_dict["NAME"] = tmp_path / "no" / "folder"
    database.connection.connection = None
    with pytest.raises(ConnectionLostError, match="There is no database"):
        BACKEND.identify(database.connection)


def test_an_error_of_one_statement_rolls_everything_back_and_is_chained(database):
    database.run(*SCHEMA)
    database.run("CREATE TABLE c (id integer PRIMARY KEY)", "INSERT INTO c VALUES (1)")
    before, conf, script = state(database), settings(database), database.script()
    broken = type(script)(
        **{name: getattr(script, name) for name in ("opening", "closing", "checks", "verify", "token", "unexpected")},
        body=(*script.body, type(script.body[0])(sql="DELETE FROM nowhere")),
    )
    with pytest.raises(ResetError, match="no such table: nowhere, while running: DELETE FROM nowhere") as failure:
        run(database, broken)
    assert isinstance(failure.value.__cause__.__cause__, sqlite3.OperationalError)
    assert (state(database), settings(database)) == (before, conf)
    assert not database.connection.connection.in_transaction


def test_rows_that_are_there_again_before_the_commit_are_an_error_and_roll_back(database):
    database.run("CREATE TABLE a (id)", "INSERT INTO a VALUES (1)")
    script = database.script()
    refilled = type(script)(
        **{name: getattr(script, name) for name in ("opening", "closing", "checks", "verify", "token", "unexpected")},
        body=(*script.body, type(script.body[0])(sql="INSERT INTO a VALUES (2)")),
    )
    with pytest.raises(RowsRemainError, match=r"main\.a") as failure:
        run(database, refilled)
    assert failure.value.tables == ["main.a"]
    assert database.rows("SELECT * FROM a") == [(1,)]


def test_an_open_cursor_of_the_same_connection_does_not_hinder(database):
    database.run(*SCHEMA)
    cursor = database.connection.connection.execute("SELECT id FROM a UNION ALL SELECT id FROM b")
    assert cursor.fetchone() == (1,)
    database.reset()
    assert (database.count("a"), database.count("b")) == (0, 0)


def test_a_script_that_was_made_without_a_token_runs_too(memory):
    memory.run("CREATE TABLE a (id)", "INSERT INTO a VALUES (1)")
    planned = memory.script()
    run(memory, Script(opening=planned.opening, body=planned.body, closing=planned.closing))
    assert memory.count("a") == 0
