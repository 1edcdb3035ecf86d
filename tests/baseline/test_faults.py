"""What is left when the server, the connection or the process goes away in the middle of a reset by the counters."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from django.db import connections

from testdb_app.backends.postgresql.change_tracker import Memory
from testdb_app.backends.postgresql.connection import Command, Pipeline
from testdb_app.backends.postgresql.open_sessions import observe, take_written
from testdb_app.exceptions import ConnectionLostError, LockTimeoutError
from tests.baseline.conftest import content

TABLES = """
CREATE TABLE a (id serial PRIMARY KEY, v text);
CREATE TABLE b (id serial PRIMARY KEY, a_id integer REFERENCES a (id));
INSERT INTO a (v) VALUES ('one'), ('two');
"""
WRITES = "UPDATE a SET v = 'x' WHERE id = 1; INSERT INTO a (v) VALUES ('three'); INSERT INTO b (a_id) VALUES (3), (3)"
KILL = "SELECT pg_terminate_backend(pg_backend_pid())"


@pytest.fixture
def warm(scratch, captured):
    """A resetter that has reset often enough to do it by the counters, and the baseline's content."""
    before = captured(TABLES)
    resetter = scratch.resetter(lock_timeout=3)
    with scratch.connection.cursor() as cursor:
        resetter.reset()
        for _ in range(4):
            cursor.execute(WRITES)
            resetter.reset()
        cursor.execute(WRITES)
    return resetter, before


def rows(found):
    return {name: lines for name, lines in found.items() if "_seq" not in name}


def forget_what_is_expected(resetter):
    """Have the next reset read first what was written."""
    take_written(observe(resetter.connection))


@pytest.mark.parametrize("expects", [False, True], ids=["looking", "expecting"])
@pytest.mark.parametrize("place", range(8))
def test_a_session_that_is_ended_after_any_statement_leaves_all_or_nothing(scratch, warm, monkeypatch, place, expects):
    resetter, before = warm
    if not expects:
        forget_what_is_expected(resetter)
    dirty = rows(content_over_its_own_connection(scratch))
    run, reached = Pipeline.run, []

    def run_and_die(self, connection, *batches):
        *others, batch = batches
        if batch[0].sql.startswith("BEGIN") and place < len(batch) and not reached:
            reached.append(len(batch))
            batch = [*batch[: place + 1], Command(KILL), *batch[place + 1 :]]
        return run(self, connection, *others, batch)

    monkeypatch.setattr(Pipeline, "run", run_and_die)
    try:
        resetter.reset()
    except ConnectionLostError:
        assert reached
        assert not expects
    else:
        # Without a look first, nothing was lost but time.
        assert expects or place >= 6, "every statement is to be reached"
        assert not expects or content(scratch) == before
    monkeypatch.undo()
    after = content(scratch)
    assert rows(after) in (dirty, rows(before))
    # Whatever a sequence says, the next row does not collide.
    assert scratch.value("INSERT INTO a (v) VALUES ('next') RETURNING id") > max(
        int(line[0][1]) for line in after['"public"."a"']
    )
    resetter.reset()
    assert content(scratch) == before


def content_over_its_own_connection(scratch):
    """Return the rows without another session, which would send the resetter another way."""
    found = {}
    with scratch.connection.cursor() as cursor:
        for name in ("a", "b"):
            cursor.execute(f"SELECT t::text FROM {name} t ORDER BY 1")
            found[f'"public"."{name}"'] = cursor.fetchall()
    return found


@pytest.mark.parametrize("when", ["before the look", "after the look"])
def test_a_connection_that_is_cut_is_made_anew_or_reported(scratch, warm, monkeypatch, when):
    resetter, before = warm
    pid = scratch.connection.connection.info.backend_pid
    cut = f"SELECT pg_terminate_backend({pid}, 5000)"
    if when == "before the look":
        with scratch.superuser() as session:
            session.execute(cut)
        resetter.reset()
    else:
        forget_what_is_expected(resetter)
        run = Memory.run

        def cut_and_run(*arguments):
            with scratch.superuser() as session:
                session.execute(cut)
            return run(*arguments)

        monkeypatch.setattr(Memory, "run", cut_and_run)
        with pytest.raises(ConnectionLostError):
            resetter.reset()
        monkeypatch.undo()
        assert scratch.count("b") == 2
        resetter.reset()
    assert content(scratch) == before


def test_an_interrupt_leaves_nothing_half_done(scratch, warm, monkeypatch):
    resetter, before = warm
    run, calls = Pipeline.run, []

    def interrupted(self, connection, *batches):
        calls.append(batches)
        uncommitted = [
            [Command("SELECT 1") if command.sql == "COMMIT" else command for command in batch] for batch in batches
        ]
        raise KeyboardInterrupt(run(self, connection, *uncommitted))

    monkeypatch.setattr(Pipeline, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resetter.reset()
    monkeypatch.undo()
    assert calls
    assert connections["scratch"].connection.info.transaction_status == 0
    assert scratch.count("b") == 2
    resetter.reset()
    assert content(scratch) == before


def test_a_writer_that_appears_between_look_and_lock_is_waited_for_and_named(scratch, warm, monkeypatch):
    resetter, before = warm
    run = Memory.run
    with scratch.connect(application_name="late") as session:
        session.execute("SELECT 1")
        resetter.reset()
        with scratch.connection.cursor() as cursor:
            cursor.execute(WRITES)
            resetter.reset()
            cursor.execute(WRITES)

        def lock_and_run(*arguments):
            session.execute("BEGIN; UPDATE a SET v = 'late' WHERE id = 2")
            return run(*arguments)

        monkeypatch.setattr(Memory, "run", lock_and_run)
        with pytest.raises(LockTimeoutError, match=r"\(late\) holds RowExclusiveLock on public\.a"):
            resetter.reset()
        monkeypatch.undo()
        session.execute("COMMIT")
    resetter.reset()
    assert content(scratch) == before


def test_a_value_that_cannot_be_divided_is_no_sign_of_other_writes(scratch, captured):
    """The check ends its transaction by a division by zero; a user's own must be told as what it is."""
    before = captured(
        "CREATE TABLE t (id integer PRIMARY KEY, v integer, w integer GENERATED ALWAYS AS (10 / v) STORED);"
        "INSERT INTO t VALUES (1, 2)"
    )
    resetter = scratch.resetter()
    for _ in range(3):
        with scratch.connection.cursor() as cursor:
            cursor.execute("UPDATE t SET v = 5")
        resetter.reset()
    assert content(scratch) == before


@pytest.mark.parametrize("expects", [False, True], ids=["looking", "expecting"])
def test_ctrl_c_while_the_server_works_ends_the_reset_and_the_connection_goes_on(scratch, warm, monkeypatch, expects):
    resetter, before = warm
    if not expects:
        forget_what_is_expected(resetter)
    run = Pipeline.run

    def run_slowly(self, connection, *batches):
        *others, batch = batches
        statements = [each.sql for each in batch]
        if "COMMIT" in statements:
            end = statements.index("COMMIT")
            batch = [*batch[:end], Command("SELECT pg_sleep(30)"), *batch[end:]]
        return run(self, connection, *others, batch)

    monkeypatch.setattr(Pipeline, "run", run_slowly)
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        resetter.reset()
    timer.join()
    assert time.monotonic() - started < 10
    monkeypatch.undo()
    assert scratch.connection.connection.info.transaction_status == 0
    assert rows(content_over_its_own_connection(scratch))['"public"."b"'] != []
    resetter.reset()
    assert content(scratch) == before
