"""Resets beside other sessions: those of this process are made to report, those of other processes come and go. All is exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction

from testdb_app.backends.postgresql import change_tracker, connection
from testdb_app.backends.postgresql.counters import REPORT
from testdb_app.exceptions import LockTimeoutError, UnsafeDatabaseError
from testdb_app.resetter import Resetter
from tests.baseline.conftest import InThread, content, is_fast, messages, scans
from tests.baseline.test_change_tracker import make_resetter, run
from tests.scratch import ScratchDatabase

TABLES = (
    "".join(f"CREATE TABLE t{number} (id serial PRIMARY KEY, v text);" for number in range(12))
    + "CREATE TABLE a (id serial PRIMARY KEY, v text); CREATE TABLE b (id serial PRIMARY KEY, v text);"
    + "CREATE TABLE kept (id serial PRIMARY KEY, v text); INSERT INTO kept (v) VALUES ('one'), ('two'), ('three');"
    + "CREATE SEQUENCE lone;"
)
INSERT = "INSERT INTO t{} (v) VALUES ('of another')"


@pytest.fixture
def before(captured: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return captured(TABLES)


@pytest.fixture
def thread(scratch: ScratchDatabase, before: dict[str, Any]) -> Iterator[InThread]:
    """A thread of this process whose connection stays open."""
    with InThread(scratch.alias) as made:
        yield made


def assert_free(thread: InThread) -> None:
    """Check that nobody keeps the thread's connection from being used."""
    thread.run("SELECT 1")


# A thread of this process -------------------------------------------------------------------------------------------------


def test_a_thread_that_stays_connected_writes_other_tables_each_time(scratch, thread, before):
    resetter = make_resetter(scratch, 3)
    thread.run("SELECT 1")
    resetter.reset()
    messages_of_each = []
    for number in range(20):
        first, second = number % 12, (5 * number + 3) % 12
        thread.run(INSERT.format(first), f"DELETE FROM kept WHERE id = {number % 3 + 1}", INSERT.format(second))
        with messages() as sent:
            resetter.reset()
        messages_of_each.append(100 if "pg_relation_size" in "".join(sent) else len(sent))
        assert_free(thread)
        assert content(scratch) == before
    # Autoanalyze may come once: it writes to a catalog, and the next reset takes a full scan.
    assert sorted(messages_of_each)[-2] <= 5


def test_the_own_connection_writes_too_and_the_thread_only_moves_sequences(scratch, thread, before):
    resetter = make_resetter(scratch, 3)
    thread.run("SELECT 1")
    resetter.reset()
    for number in range(6):
        thread.run("SELECT nextval('lone')", f"SELECT setval('t{number}_id_seq', 40)")
        if number % 2:
            run(scratch, INSERT.format(number + 1))
        assert is_fast(resetter)
        assert content(scratch) == before


def test_a_thread_inside_a_transaction_leads_to_the_full_scan(scratch, thread, before):
    resetter = make_resetter(scratch, 3)
    thread.run("SELECT 1")
    resetter.reset()
    # It locks no table, which the full scan would wait for.
    thread.run("BEGIN", "SELECT pg_current_xact_id()")
    assert scans(resetter)
    thread.run(INSERT.format(3), "COMMIT")
    resetter.reset()
    assert content(scratch) == before

    def write(connection: Any) -> None:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute(INSERT.format(4))

    thread.call(write)
    assert is_fast(resetter)
    assert content(scratch) == before


def test_a_thread_that_runs_a_statement_is_not_waited_for(scratch, thread, before):
    resetter = make_resetter(scratch, 3)
    thread.run("SELECT 1")
    resetter.reset()
    thread.run(INSERT.format(3))
    pid = thread.call(lambda connection: connection.connection.info.backend_pid)
    asleep = thread.start(lambda connection: connection.connection.execute("SELECT pg_sleep(60)"))
    with scratch.superuser() as session:
        while session.execute("SELECT wait_event FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() != (
            "PgSleep",
        ):
            time.sleep(0.001)
        started = time.monotonic()
        assert scans(resetter)
        assert time.monotonic() - started < 10
        session.execute("SELECT pg_cancel_backend(%s)", [pid])
    with pytest.raises(psycopg.errors.QueryCanceled):
        asleep.result(30)
    thread.run(INSERT.format(5))
    resetter.reset()
    assert content(scratch) == before


def test_a_thread_in_the_drivers_pipeline_mode_leads_to_the_full_scan(scratch, thread, before):
    resetter = make_resetter(scratch, 3)
    thread.run("SELECT 1")
    resetter.reset()
    has_entered, may_leave = threading.Event(), threading.Event()

    def write(connection: Any) -> None:
        with connection.connection.pipeline() as pipeline:
            connection.connection.execute(INSERT.format(2))
            pipeline.sync()
            has_entered.set()
            may_leave.wait(30)
            connection.connection.execute(INSERT.format(3))

    writing = thread.start(write)
    assert has_entered.wait(30)
    try:
        assert scans(resetter)
        assert content(scratch) == before
    finally:
        may_leave.set()
        writing.result(30)
    assert is_fast(resetter)
    assert content(scratch) == before


def test_a_thread_that_opens_and_closes_a_connection_each_time(scratch, thread, before):
    resetter = make_resetter(scratch, 3)
    for number in range(6):
        thread.run(INSERT.format(number))
        thread.call(lambda connection: connection.close())
        resetter.reset()
        assert content(scratch) == before


def test_values_that_a_thread_has_cached_of_a_sequence_are_void(scratch, captured):
    before = captured(f"{TABLES} CREATE SEQUENCE cached CACHE 10")
    resetter = make_resetter(scratch, 3)
    with InThread(scratch.alias) as thread:
        for _ in range(3):
            assert thread.call(lambda c: c.connection.execute("SELECT nextval('cached')").fetchone()) == (1,)
            resetter.reset()
            assert content(scratch) == before


def test_a_second_alias_of_the_same_database(scratch, before):
    scratch.register("second")
    resetter = make_resetter(scratch, 3)
    for number in range(6):
        with connections["second"].cursor() as cursor:
            cursor.execute(INSERT.format(number))
        resetter.reset()
        assert content(scratch) == before
    assert is_fast(resetter)


def test_connections_of_a_pool(scratch, before):
    pytest.importorskip("psycopg_pool")
    scratch.register("pooled", OPTIONS={"pool": {"min_size": 2, "max_size": 3}})
    resetter = make_resetter(scratch, 3)
    with InThread("pooled") as first, InThread("pooled") as second:
        for number in range(8):
            first.run(INSERT.format(number))
            second.run(INSERT.format(number + 2), "UPDATE kept SET v = 'of a pool'")
            if number % 3 == 2:
                first.call(lambda connection: connection.close())
            resetter.reset()
            assert content(scratch) == before
        assert_free(second)


def test_the_resetting_connection_is_of_a_pool(scratch, before):
    pytest.importorskip("psycopg_pool")
    scratch.register("pooled", OPTIONS={"pool": {"min_size": 2, "max_size": 3}})
    resetter = Resetter("pooled", allow_database=scratch.name)
    with InThread("pooled") as thread:
        for number in range(8):
            thread.run(INSERT.format(number))
            with connections["pooled"].cursor() as cursor:
                cursor.execute("UPDATE kept SET v = 'own'")
            resetter.reset()
            assert content(scratch) == before
            if number % 2:
                connections["pooled"].close()


def test_a_connection_of_the_driver_that_django_does_not_know(scratch, before):
    resetter = make_resetter(scratch, 3)
    with psycopg.connect(**scratch.connection.get_connection_params(), autocommit=True) as session:
        for number in range(6):
            session.execute(INSERT.format(number))
            assert scans(resetter)
            assert content(scratch) == before
        session.execute("SELECT 1")
        resetter.reset()
        run(scratch, INSERT.format(1))
        assert is_fast(resetter)
        assert content(scratch) == before


# The locks of the held sessions -------------------------------------------------------------------------------------------


def test_they_are_free_after_a_reset_that_is_refused(scratch, thread, before):
    resetter = make_resetter(scratch, 3)
    thread.run("SELECT 1")
    resetter.reset()
    thread.run(INSERT.format(1))
    scratch.execute("CREATE TABLE testdb.protected ()")
    with pytest.raises(UnsafeDatabaseError):
        resetter.reset()
    assert_free(thread)
    scratch.execute("DROP TABLE testdb.protected")
    resetter.reset()
    assert content(scratch) == before


def test_they_are_free_after_a_lock_timeout(scratch, thread, before):
    resetter = scratch.resetter(lock_timeout=0.3)
    resetter.reset()
    thread.run("SELECT 1")
    resetter.reset()
    thread.run(INSERT.format(1))
    with scratch.connect() as session:
        session.execute("BEGIN; LOCK TABLE t1 IN SHARE MODE")
        with pytest.raises(LockTimeoutError):
            resetter.reset()
        assert_free(thread)
        session.execute("ROLLBACK")
    resetter.reset()
    assert content(scratch) == before


@pytest.mark.parametrize("where", ["while a session reports", "before the proof"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_they_are_free_after_an_interruption(scratch, thread, before, monkeypatch, where, error):
    resetter = make_resetter(scratch, 3)
    thread.run("SELECT 1")
    resetter.reset()
    thread.run(INSERT.format(1))

    def interrupt(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        if where == "before the proof":
            patch.setattr(change_tracker.Memory, "run", interrupt)
        else:
            patch.setattr(connection, "_receive", interrupt)
        with pytest.raises(error):
            resetter.reset()
    if thread.call(lambda connection: connection.connection.closed):
        # Its answers are lost, and must not be taken for those of the next statement.
        assert where == "while a session reports"
        thread.call(lambda connection: connection.close())
    assert_free(thread)
    resetter.reset()
    thread.run(INSERT.format(2))
    resetter.reset()
    assert content(scratch) == before


def test_two_threads_that_reset_at_once_do_not_wait_for_each_other(scratch, before, monkeypatch):
    """Both look for the sessions of others at the same time, and find each other's idle."""
    both, take = threading.Barrier(2), change_tracker.take_written

    def take_together(session: Any) -> Any:
        with suppress(threading.BrokenBarrierError):
            both.wait(2)
        return take(session)

    def reset(connection: Any) -> None:
        resetter = resetters.setdefault(threading.get_ident(), scratch.resetter(lock_timeout=5))
        with connection.cursor() as cursor:
            cursor.execute(INSERT.format(1))
        resetter.reset()

    resetters: dict[int, Any] = {}
    with InThread(scratch.alias) as first, InThread(scratch.alias) as second:
        for each in (first, second, first, second):
            each.call(reset)
        monkeypatch.setattr(change_tracker, "take_written", take_together)
        for each in [first.start(reset), second.start(reset)]:
            each.result(30)
    scratch.reset()
    assert content(scratch) == before


def test_two_resetters_take_turns_beside_a_thread(scratch, thread, before):
    resetters = [make_resetter(scratch, 2), make_resetter(scratch, 2)]
    for number in range(8):
        thread.run(INSERT.format(number))
        resetters[number % 2].reset()
        assert content(scratch) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork")
def test_a_forked_child_leaves_the_sessions_of_its_parent_alone(scratch, thread, before):
    resetter = make_resetter(scratch, 3)
    thread.run(INSERT.format(1))
    child = os.fork()
    if not child:
        status = 1
        try:
            # As every child must: what it inherits is its parent's.
            del connections[scratch.alias]
            with messages() as sent:
                mine = scratch.resetter()
                for _ in range(3):
                    run(scratch, INSERT.format(2))
                    mine.reset()
            # Sent alone, it is for another session.
            status = int(REPORT[0].sql in sent)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for number in range(3):
        thread.run(INSERT.format(number))
        resetter.reset()
        assert content(scratch) == before


def test_a_notification_that_arrives_with_a_report_is_not_lost(scratch, thread, before):
    resetter = make_resetter(scratch, 2)
    thread.run("LISTEN jobs")
    resetter.reset()
    thread.run(INSERT.format(1))
    scratch.execute("NOTIFY jobs, 'one'")
    resetter.reset()
    found = thread.call(lambda connection: list(connection.connection.notifies(timeout=5, stop_after=1)))
    assert [each.payload for each in found] == ["one"]
    assert content(scratch) == before


# Other processes ----------------------------------------------------------------------------------------------------------

VISITOR = """
import json, sys
import psycopg
for line in sys.stdin:
    parameters, statements, stays = json.loads(line)
    with psycopg.connect(**parameters, autocommit=True) as session:
        for statement in statements:
            if statement.startswith("COPY"):
                with session.cursor().copy(statement) as copy:
                    copy.write("70\\tcopied\\n71\\tcopied\\n")
            else:
                session.execute(statement)
    print("done", flush=True)
"""
VISITS = {
    "the same table": ["INSERT INTO a (v) VALUES ('x')"],
    "other tables": ["INSERT INTO t5 (v) VALUES ('x')", "DELETE FROM kept WHERE id = 2", "UPDATE kept SET v = 'y'"],
    "a sequence alone": ["SELECT nextval('lone')"],
    "setval back and forth": ["SELECT setval('t4_id_seq', 30)", "SELECT setval('t4_id_seq', 1, false)"],
    "COPY": ["COPY t6 FROM STDIN"],
    "a rollback": ["BEGIN", "INSERT INTO t7 (v) VALUES ('x')", "ROLLBACK"],
    "an open transaction": ["BEGIN", "INSERT INTO t7 (v) VALUES ('x')"],
    "DDL": ["CREATE TABLE of_visitor (id serial)", "INSERT INTO of_visitor DEFAULT VALUES", "DROP TABLE of_visitor"],
    "TRUNCATE": ["TRUNCATE kept RESTART IDENTITY"],
    "nothing": ["SELECT count(*) FROM kept"],
    "many rows": ["INSERT INTO t8 (v) SELECT 'x' FROM generate_series(1, 300)"],
}


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen[str]]:
    """A process that opens a session for each line, runs the statements in it, and closes it."""
    made = subprocess.Popen([sys.executable, "-c", VISITOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield made
    made.communicate()


@pytest.mark.parametrize("statements", VISITS.values(), ids=VISITS.keys())
def test_a_session_of_another_process_that_comes_writes_and_leaves(scratch, before, process, statements):
    resetter = make_resetter(scratch, 3)
    parameters = {**scratch.connection.get_connection_params()}
    text = json.dumps([{k: v for k, v in parameters.items() if isinstance(v, str | int)}, statements, False])
    for number in range(4):
        process.stdin.write(f"{text}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        if number % 2:
            run(scratch, INSERT.format(2))
        resetter.reset()
        assert content(scratch) == before
