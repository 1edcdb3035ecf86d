"""Other sessions at the time of a reset: readers do not block it, writers are waited for, and who blocks it is named."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time

import pytest
from django.db import transaction
from psycopg.errors import DeadlockDetected

from testdb_app.exceptions import LockTimeoutError

TABLE = "CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t DEFAULT VALUES"


def test_an_idle_reader_in_a_transaction_does_not_block(scratch):
    scratch.execute(TABLE)
    with scratch.connect() as reader:
        reader.execute("BEGIN; SELECT * FROM t")
        assert scratch.reset(lock_timeout=0.5).rows == 1


def test_truncate_names_the_reader_that_blocks_it_and_auto_deletes_instead(scratch):
    scratch.execute("CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 2000)")
    with scratch.connect(application_name="reporting") as reader:
        reader.execute("BEGIN; SELECT 42 FROM t LIMIT 1")
        with pytest.raises(LockTimeoutError, match=r"\(reporting\) holds AccessShareLock on public\.t"):
            scratch.reset(strategy="truncate", lock_timeout=0.3)
        resetter = scratch.resetter(lock_timeout=5)
        resetter.options = dataclasses.replace(resetter.options, truncate_above=0)
        assert resetter.plan().plan.steps[0].action == "truncate"
        started = time.monotonic()
        report = resetter.reset()
        assert (report.rows, report.attempts, report.tables[0].action) == (2000, 2, "delete")
        assert time.monotonic() - started < 2, "it must not wait for a lock that DELETE does not need"


def test_an_uncommitted_insert_of_another_session_does_not_survive(scratch):
    """DELETE alone would not see it, and it would appear when it commits."""
    scratch.execute("CREATE TABLE t (id int)")
    with scratch.connect() as writer:
        writer.execute("BEGIN; INSERT INTO t VALUES (1)")
        threading.Timer(0.4, lambda: writer.execute("COMMIT")).start()
        report = scratch.reset(lock_timeout=10)
    assert report.rows == 1
    assert scratch.count("t") == 0


def test_a_writer_that_does_not_end_is_named_and_nothing_is_changed(scratch):
    scratch.execute(TABLE)
    with scratch.connect(application_name="leftover worker") as writer:
        pid = writer.info.backend_pid
        writer.execute("BEGIN; UPDATE t SET id = 7 WHERE id = 1")
        started = time.monotonic()
        with pytest.raises(LockTimeoutError) as refusal:
            scratch.reset(lock_timeout=0.6)
        assert 0.15 < time.monotonic() - started < 3
    (blocker,) = refusal.value.blockers
    assert (blocker.pid, blocker.application, blocker.state) == (
        pid,
        "leftover worker",
        "idle in transaction",
    )
    assert (blocker.table, blocker.lock) == ("public.t", "RowExclusiveLock")
    assert blocker.age_seconds is not None
    assert blocker.age_seconds > 0.1
    assert blocker.query == "BEGIN; UPDATE t SET id = 7 WHERE id = 1"
    assert str(pid) in str(refusal.value)
    assert "leftover worker" in str(refusal.value)
    assert scratch.count("t") == 1
    assert scratch.sequence_state("t_id_seq") == (1, True)


def test_a_prepared_transaction_that_blocks_is_named(scratch):
    if scratch.value("SELECT current_setting('max_prepared_transactions')::int") == 0:
        pytest.skip("the server allows no prepared transactions (max_prepared_transactions = 0)")
    scratch.execute(TABLE)
    with scratch.connect() as session:
        session.execute("BEGIN; INSERT INTO t DEFAULT VALUES")
        session.execute("PREPARE TRANSACTION 'left over'")
        try:
            with pytest.raises(
                LockTimeoutError, match="the prepared transaction 'left over' holds RowExclusiveLock"
            ) as refusal:
                scratch.reset(lock_timeout=0.3)
            assert "End it (ROLLBACK PREPARED 'left over', in this database)" in str(refusal.value)
            assert refusal.value.blockers[0].prepared == "left over"
        finally:
            session.execute("ROLLBACK PREPARED 'left over'")


def test_a_deadlock_is_retried_and_the_reset_succeeds(scratch):
    scratch.execute(
        "CREATE TABLE a (id int); CREATE TABLE b (id int); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)"
    )
    with scratch.superuser() as other:
        # The other session waits longer before it looks for deadlocks, so that the reset is the victim.
        other.execute("SET deadlock_timeout = '60s'; BEGIN; UPDATE a SET id = 2")

        def close_the_circle() -> None:
            waits = "SELECT FROM pg_locks WHERE relation = 'a'::regclass AND NOT granted"
            while not other.execute(waits).fetchall():
                time.sleep(0.01)
            other.execute("UPDATE b SET id = 2")
            other.execute("COMMIT")

        waiting = threading.Thread(target=close_the_circle)
        waiting.start()
        resetter = scratch.resetter(lock_timeout=30)
        report = resetter.reset()
        waiting.join()
    assert report.attempts == 2
    assert (scratch.count("a"), scratch.count("b")) == (0, 0)


def test_resets_of_two_databases_at_once_do_not_disturb_each_other(make_scratch):
    databases = [make_scratch(f"scratch{number}") for number in range(2)]
    for database in databases:
        database.execute(TABLE)
    failures: list[BaseException] = []

    def reset_often(database):
        try:
            resetter = database.resetter()
            for _ in range(30):
                database.execute("INSERT INTO t DEFAULT VALUES")
                resetter.reset()
                assert database.count("t") == 0
        except BaseException as error:
            failures.append(error)
        finally:
            database.connection.close()

    threads = [threading.Thread(target=reset_often, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_two_resets_of_one_database_at_once_both_succeed(scratch):
    scratch.execute(
        "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id serial PRIMARY KEY, a_id int REFERENCES a)"
    )
    failures: list[BaseException] = []

    def reset_often():
        try:
            resetter = scratch.resetter(lock_timeout=30)
            for _ in range(20):
                resetter.reset()
        except BaseException as error:
            failures.append(error)
        finally:
            scratch.connection.close()

    threads = [threading.Thread(target=reset_often) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        # This writer takes the tables in the other order: it may be the victim of a deadlock. The resets must not fail.
        with contextlib.suppress(DeadlockDetected):
            scratch.execute("UPDATE b SET a_id = a_id; INSERT INTO a DEFAULT VALUES")
    for thread in threads:
        thread.join()
    assert not failures
    scratch.reset()
    assert (scratch.count("a"), scratch.count("b")) == (0, 0)


def _wait_until_blocked(session):
    """Wait until another session waits for a lock of *session*."""
    deadline = time.monotonic() + 30
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    while not session.execute(query).fetchone()[0]:
        assert time.monotonic() < deadline, "nobody waits for a lock"
        time.sleep(0.01)


def test_a_writer_that_inserts_in_the_order_of_the_keys_ends_in_no_deadlock(scratch):
    scratch.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int REFERENCES a)")
    scratch.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
    reports = []

    def reset():
        reports.append(scratch.resetter(lock_timeout=30).reset())
        scratch.connection.close()

    with scratch.connect() as writer:
        writer.execute("BEGIN; INSERT INTO a VALUES (2)")
        thread = threading.Thread(target=reset)
        thread.start()
        _wait_until_blocked(writer)
        writer.execute("INSERT INTO b VALUES (2)")
        writer.execute("COMMIT")
        thread.join()
    assert [report.attempts for report in reports] == [1]
    assert (scratch.count("a"), scratch.count("b")) == (0, 0)


def test_a_session_that_holds_a_table_exclusively_is_named_before_anything_is_read(scratch):
    scratch.execute(TABLE)
    with scratch.connect(application_name="migration") as session:
        session.execute("BEGIN; ALTER TABLE t ADD x int")
        with pytest.raises(LockTimeoutError, match=r"\(migration\) holds AccessExclusiveLock on public\.t"):
            scratch.reset(lock_timeout=0.3)
        with transaction.atomic(using="scratch"), scratch.connection.cursor() as cursor:
            with pytest.raises(LockTimeoutError):
                scratch.reset(lock_timeout=0.3, within_transaction=True)
            cursor.execute("SELECT current_setting('lock_timeout')")
            assert cursor.fetchone() == ("0",)
    assert scratch.reset().rows == 1


def test_a_table_under_vacuum_full_is_named_as_what_holds_the_lock(scratch):
    scratch.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)")
    with scratch.connect() as session, session.transaction():
        # VACUUM FULL holds this lock to its end.
        session.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(LockTimeoutError, match=r"holds AccessExclusiveLock on public\.item"):
            scratch.reset(lock_timeout=0.5)
