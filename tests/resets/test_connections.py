"""Connections that are closed, cut, pooled, read-only or used by two aliases, and what a reset leaves of the session's state."""

from __future__ import annotations

import pytest
from django.db import connections
from psycopg.pq import TransactionStatus

from testdb_app.exceptions import ConnectionLostError, ReadOnlyError

TABLE = "CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t DEFAULT VALUES"


def test_a_closed_connection_is_opened(scratch):
    scratch.execute(TABLE)
    resetter = scratch.resetter()
    resetter.reset()
    scratch.connection.close()
    scratch.execute("INSERT INTO t DEFAULT VALUES")
    assert resetter.reset().rows == 1


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
    # The server's own text ends with a question mark where its socket is missing.
    with pytest.raises(
        ConnectionLostError, match=r'Cannot connect to database ".*\w\. Nothing .*Check that the server runs'
    ):
        resetter.reset()


def test_two_aliases_on_one_database_reset_the_same_rows(scratch):
    scratch.execute(TABLE)
    scratch.register("second")
    resetter = scratch.resetter()
    resetter.using = "second"
    assert resetter.reset().rows == 1
    assert scratch.reset().rows == 0
