"""Resets and the transaction of the caller: refused inside one, unless ``within_transaction`` makes the reset a part of it."""

from __future__ import annotations

import threading

import pytest
from django.db import DataError, transaction

from testdb_app.exceptions import LockTimeoutError, TransactionStateError

TABLE = "CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t DEFAULT VALUES"


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
