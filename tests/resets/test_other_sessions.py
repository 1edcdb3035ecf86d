"""Traps 16, 17, 21 to 26: other sessions, transactions, privileges, faults, several aliases, a changing schema."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time

import pytest
from django.db import DataError, connections, transaction
from psycopg.errors import DeadlockDetected
from psycopg.pq import TransactionStatus

from testdb_app.exceptions import (
    ConcurrencyError,
    ConnectionLostError,
    LockTimeoutError,
    MissingPrivilegeError,
    ReadOnlyError,
    TransactionStateError,
    UnsafeDatabaseError,
)
from testdb_app.resetter import read_context

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


def test_pending_trigger_events_and_open_cursors_of_the_session_do_not_hinder_a_delete(scratch):
    scratch.execute(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p_id int REFERENCES p DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TABLE log (id int); CREATE RULE keep AS ON DELETE TO log DO INSTEAD NOTHING; INSERT INTO log VALUES (1)"
    )
    connection = scratch.connection
    with transaction.atomic(using="scratch"):
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO p VALUES (1); INSERT INTO c VALUES (1)")
            cursor.execute("DECLARE open_one CURSOR FOR SELECT * FROM p; FETCH 1 FROM open_one")
        report = scratch.reset(within_transaction=True)
    assert report.rows == 3
    assert (scratch.count("p"), scratch.count("c"), scratch.count("log")) == (0, 0, 0)


def test_truncate_with_pending_trigger_events_says_what_to_do(scratch):
    scratch.execute(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p_id int REFERENCES p DEFERRABLE INITIALLY DEFERRED)"
    )
    with transaction.atomic(using="scratch"):
        with scratch.connection.cursor() as cursor:
            cursor.execute("INSERT INTO p VALUES (1); INSERT INTO c VALUES (1)")
        with pytest.raises(TransactionStateError, match=r"pending trigger events.*strategy delete"):
            scratch.reset(within_transaction=True, strategy="truncate")
        with scratch.connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM c")
            assert cursor.fetchone() == (1,)
            cursor.execute("DELETE FROM c; DELETE FROM p")


def test_inside_atomic_it_is_refused_unless_the_caller_says_so(scratch):
    scratch.execute(TABLE)
    with transaction.atomic(using="scratch"):
        with pytest.raises(TransactionStateError, match=r'"scratch" is inside atomic\(\)'):
            scratch.reset()
    assert scratch.count("t") == 1


def test_within_the_callers_transaction_the_caller_commits_or_undoes(scratch):
    scratch.execute(TABLE)
    with transaction.atomic(using="scratch"):
        assert scratch.reset(within_transaction=True).rows == 1
        transaction.set_rollback(True, using="scratch")
    assert scratch.count("t") == 1
    assert scratch.sequence_state("t_id_seq") == (1, True)
    with transaction.atomic(using="scratch"):
        scratch.reset(within_transaction=True)
    assert scratch.count("t") == 0
    assert scratch.sequence_state("t_id_seq") == (1, False)


def test_within_the_callers_transaction_settings_are_as_before(scratch):
    scratch.execute(TABLE)
    with transaction.atomic(using="scratch"), scratch.connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '7s'")
        scratch.reset(within_transaction=True)
        cursor.execute("SELECT current_setting('lock_timeout'), current_setting('row_security')")
        assert cursor.fetchone() == ("7s", "on")


def test_a_failed_reset_within_a_transaction_leaves_the_transaction_usable(scratch):
    scratch.execute(TABLE)
    with scratch.connect() as writer:
        writer.execute("BEGIN; UPDATE t SET id = 5")
        with transaction.atomic(using="scratch"), scratch.connection.cursor() as cursor:
            with pytest.raises(LockTimeoutError):
                scratch.reset(within_transaction=True, lock_timeout=0.2)
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)


def test_within_transaction_without_one_is_refused(scratch):
    scratch.execute(TABLE)
    with pytest.raises(TransactionStateError, match="is in no transaction"):
        scratch.reset(within_transaction=True)


def test_a_snapshot_that_would_not_see_later_rows_is_refused(scratch):
    scratch.execute(TABLE)
    with transaction.atomic(using="scratch"):
        with scratch.connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        with pytest.raises(TransactionStateError, match="repeatable read"):
            scratch.reset(within_transaction=True)


def test_a_default_of_repeatable_read_or_serializable_is_no_hindrance(scratch):
    scratch.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    scratch.register("strict", OPTIONS={"options": "-c default_transaction_isolation=serializable"})
    resetter = scratch.resetter()
    resetter.using = "strict"
    with scratch.connect() as writer:
        writer.execute("BEGIN; INSERT INTO t VALUES (2)")
        threading.Timer(0.3, lambda: writer.execute("COMMIT")).start()
        assert resetter.reset().rows == 2


def test_an_aborted_transaction_is_refused_with_the_reason(scratch):
    scratch.execute(TABLE)
    with pytest.raises(TransactionStateError, match="has failed"):
        with transaction.atomic(using="scratch"):
            try:
                with (
                    transaction.atomic(using="scratch", savepoint=False),
                    scratch.connection.cursor() as cursor,
                ):
                    cursor.execute("SELECT 1/0")
            except DataError:
                scratch.reset(within_transaction=True)
    assert scratch.count("t") == 1


def test_a_closed_connection_is_opened(scratch):
    scratch.execute(TABLE)
    resetter = scratch.resetter()
    resetter.reset()
    scratch.connection.close()
    scratch.execute("INSERT INTO t DEFAULT VALUES")
    assert resetter.reset().rows == 1


def test_autocommit_off_is_refused_and_allowed_within_the_callers_transaction(scratch):
    scratch.execute(TABLE)
    connection = scratch.connection
    connection.set_autocommit(False)
    try:
        with pytest.raises(TransactionStateError, match="autocommit off"):
            scratch.reset()
        scratch.reset(within_transaction=True)
        connection.rollback()
        assert scratch.count("t") == 1
        scratch.reset(within_transaction=True)
        connection.commit()
        assert scratch.count("t") == 0
    finally:
        connection.set_autocommit(True)


def test_a_reset_through_a_pool_leaves_the_connection_idle_for_the_next_user(scratch):
    scratch.execute(TABLE)
    scratch.register("pooled", OPTIONS={"pool": {"min_size": 1, "max_size": 2}})
    resetter = scratch.resetter()
    resetter.using = "pooled"
    assert resetter.reset().rows == 1
    raw = connections["pooled"].connection
    assert raw.info.transaction_status is TransactionStatus.IDLE
    assert raw.execute("SELECT current_setting('lock_timeout'), current_setting('row_security')").fetchone() == (
        "0",
        "on",
    )


def test_an_assumed_role_is_the_one_that_resets(scratch):
    with scratch.superuser() as superuser:
        owner = scratch.value("SELECT current_user")
        superuser.execute("DROP ROLE IF EXISTS scratch_group; CREATE ROLE scratch_group")
        try:
            superuser.execute(
                f'GRANT scratch_group TO "{owner}"; CREATE TABLE t (id serial); ALTER TABLE t OWNER TO scratch_group'
            )
            superuser.execute("INSERT INTO t DEFAULT VALUES")
            scratch.register("assumed", OPTIONS={"assume_role": "scratch_group"})
            resetter = scratch.resetter()
            resetter.using = "assumed"
            assert resetter.identify().user == "scratch_group"
            assert resetter.reset().rows == 1
            connections["assumed"].close()
        finally:
            superuser.execute("DROP OWNED BY scratch_group CASCADE; DROP ROLE scratch_group")


def test_a_statement_that_would_be_prepared_after_five_runs_is_not(scratch):
    scratch.execute(TABLE)
    scratch.register("prepares", OPTIONS={"prepare_threshold": 1, "server_side_binding": True})
    resetter = scratch.resetter()
    resetter.using = "prepares"
    for _ in range(5):
        scratch.execute("INSERT INTO t DEFAULT VALUES")
        resetter.reset()
    assert scratch.count("t") == 0


def test_a_read_only_default_is_refused(scratch):
    scratch.execute(TABLE)
    scratch.register("reader", OPTIONS={"options": "-c default_transaction_read_only=on"})
    resetter = scratch.resetter()
    resetter.using = "reader"
    with pytest.raises(ReadOnlyError, match="read-only by default"):
        resetter.reset()
    assert scratch.count("t") == 1


def test_missing_privileges_are_named_and_nothing_is_changed(scratch):
    owner = scratch.value("SELECT current_user")
    scratch.execute("CREATE TABLE mine (id int); INSERT INTO mine VALUES (1)")
    with scratch.superuser() as superuser:
        superuser.execute(
            "CREATE SCHEMA theirs; CREATE TABLE theirs.hidden (id int); INSERT INTO theirs.hidden VALUES (1);"
            "CREATE TABLE readable (id int); INSERT INTO readable VALUES (1); CREATE TABLE empty (id int);"
            f'GRANT SELECT ON readable TO "{owner}"; CREATE SEQUENCE unseen'
        )
    with pytest.raises(MissingPrivilegeError) as refusal:
        scratch.reset()
    assert refusal.value.missing == {
        "public.readable": "DELETE",
        "public.unseen": "SELECT",
        "theirs.hidden": "USAGE on its schema",
    }
    assert "DELETE on public.readable" in str(refusal.value)
    assert scratch.count("mine") == 1


def test_the_plans_that_the_session_has_prepared_survive_a_reset(scratch):
    """session_replication_role would need a privilege, and throw them away; so would DISCARD or a new connection."""
    scratch.execute(TABLE)
    resetter = scratch.resetter()
    connection = resetter.connection
    with connection.cursor() as cursor:
        cursor.execute("PREPARE mine AS SELECT count(*) FROM t; SET plan_cache_mode = force_generic_plan; EXECUTE mine")
        pid = connection.connection.info.backend_pid
        assert resetter.reset().rows == 1
        cursor.execute("EXECUTE mine; SELECT name FROM pg_prepared_statements")
        assert connection.connection.info.backend_pid == pid
        cursor.execute("SELECT name, generic_plans > 0 FROM pg_prepared_statements WHERE name NOT LIKE 'testdb%'")
        assert cursor.fetchall() == [("mine", True)]
        cursor.execute("SHOW session_replication_role")
        assert cursor.fetchone() == ("origin",)
    scratch.execute("INSERT INTO t DEFAULT VALUES")
    assert not any("session_replication_role" in sql for sql in resetter.plan().sql)


def test_a_role_that_only_has_privileges_on_the_tables_resets_them(scratch):
    owner = scratch.value("SELECT current_user")
    with scratch.superuser() as superuser:
        superuser.execute(
            "CREATE TABLE t (id serial); INSERT INTO t DEFAULT VALUES;"
            f'GRANT SELECT, DELETE ON t TO "{owner}"; GRANT ALL ON SEQUENCE t_id_seq TO "{owner}"'
        )
    assert scratch.reset().rows == 1
    assert scratch.sequence_state("t_id_seq") == (1, False)


def test_a_connection_that_the_server_closed_is_made_anew(scratch):
    scratch.execute(TABLE)
    resetter = scratch.resetter()
    resetter.reset()
    pid = scratch.connection.connection.info.backend_pid
    scratch.execute(f"INSERT INTO t DEFAULT VALUES; SELECT pg_terminate_backend({pid}, 5000)")
    assert resetter.reset().rows == 1


def test_a_server_that_cannot_be_reached_is_said_so(scratch):
    scratch.register("nowhere", HOST="/nowhere/at/all")
    resetter = scratch.resetter()
    resetter.using = "nowhere"
    with pytest.raises(ConnectionLostError, match=r'Cannot connect to database ".*Check that the server runs'):
        resetter.reset()


def test_two_aliases_on_one_database_reset_the_same_rows(scratch):
    scratch.execute(TABLE)
    scratch.register("second")
    resetter = scratch.resetter()
    resetter.using = "second"
    assert resetter.reset().rows == 1
    assert scratch.reset().rows == 0


def test_a_mirror_is_reset_as_what_it_mirrors_and_not_by_its_own_name(make_scratch):
    primary = make_scratch("primary")
    primary.execute(TABLE)
    primary.register("replica", TEST={"MIRROR": "primary"})
    with pytest.raises(UnsafeDatabaseError):
        resetter = primary.resetter(allow_database=())
        resetter.using = "replica"
        resetter.reset()
    assert primary.count("t") == 1


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


CHANGES = {
    "a table made": "CREATE TABLE made (id serial PRIMARY KEY, t_id int REFERENCES t); INSERT INTO made (t_id) SELECT id FROM t",
    "a table dropped": "DROP TABLE other",
    "a table renamed": "ALTER TABLE other RENAME TO renamed",
    "a table moved": "CREATE SCHEMA elsewhere; ALTER TABLE other SET SCHEMA elsewhere",
    "a schema renamed": "CREATE SCHEMA s; CREATE TABLE s.x (id int); INSERT INTO s.x VALUES (1); ALTER SCHEMA s RENAME TO r",
    "a key added": "ALTER TABLE t ADD other_id int DEFAULT 1 REFERENCES other",
    "a key turned round": "ALTER TABLE other DROP CONSTRAINT other_t_id_fkey; ALTER TABLE t ADD o int DEFAULT 1 REFERENCES other",
    "a trigger made": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$;"
    "CREATE TRIGGER no BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION f()",
    "a rule made": "CREATE RULE keep AS ON DELETE TO other DO INSTEAD NOTHING",
    "row security forced": "ALTER TABLE other ENABLE ROW LEVEL SECURITY; ALTER TABLE other FORCE ROW LEVEL SECURITY",
    "a sequence's start changed": "ALTER SEQUENCE t_id_seq START 50",
    "a sequence made": "CREATE SEQUENCE made; SELECT nextval('made')",
    "a table partitioned": "CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT; INSERT INTO p VALUES (1)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_schema_is_noticed_by_the_next_reset(scratch, change):
    scratch.execute(
        "CREATE TABLE t (id serial PRIMARY KEY); CREATE TABLE other (id serial PRIMARY KEY, t_id int REFERENCES t)"
    )
    resetter = scratch.resetter()
    resetter.reset()
    scratch.execute("INSERT INTO t DEFAULT VALUES; INSERT INTO other (t_id) VALUES (1)")
    scratch.execute(CHANGES[change])
    resetter.reset()
    with scratch.superuser() as superuser:
        tables = superuser.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text !~ '^(pg_|information)'"
        ).fetchall()
        assert all(superuser.execute(f"SELECT count(*) FROM {name}").fetchone() == (0,) for (name,) in tables)
        moved = superuser.execute(
            "SELECT sequencename FROM pg_sequences WHERE last_value IS NOT NULL AND schemaname = 'public'"
        ).fetchall()
        assert moved == []
    if change == "a sequence's start changed":
        assert scratch.sequence_state("t_id_seq") == (50, False)


def test_a_schema_that_changes_while_it_is_read_is_never_used_stale(scratch, monkeypatch):
    scratch.execute(TABLE)
    resetter = scratch.resetter()
    changes = iter(range(100))

    def read_then_change(*arguments, **options):
        found = read_context(*arguments, **options)
        scratch.execute(f"CREATE TABLE more_{next(changes)} (id int)")
        return found

    monkeypatch.setattr("testdb_app.resetter.read_context", read_then_change)
    with pytest.raises(ConcurrencyError, match="changes faster than it can be read"):
        resetter.reset()
    monkeypatch.undo()
    assert resetter.reset().rows == 1


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
