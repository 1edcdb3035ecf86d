"""Sessions whose process, server or connection dies, or that are interrupted in their clean-up: looked at from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, OperationalError, connections, transaction

from testdb_app.backends.postgresql import backend
from testdb_app.exceptions import SessionBrokenError
from testdb_app.sessions import TestSessionFactory
from testdb_app.sessions.registry import open_sessions
from testdb_app.transactions import open_transactions
from tests.embedded.processes import eventually
from tests.faults.test_server_crash import PrivateDatabase, is_running, private, server  # noqa: F401 - fixtures
from tests.sessions.conftest import TABLES, insert, numbers
from tests.sessions.test_independent import sessions_of, wait_until

pytestmark = pytest.mark.postgresql

ROOT = Path(__file__).resolve().parents[2]
VICTIM = """
import sys, django
django.setup()
from django.db import connections
from testdb_app.sessions import TestSessionFactory
name, isolation = sys.argv[1:]
connections.settings["default"]["NAME"] = name
with TestSessionFactory(isolation=isolation, allow_database=name)("victim") as session:
    with session.connection.cursor() as cursor:
        cursor.execute("INSERT INTO a (id) VALUES (1)")
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("isolation", ["rollback", "reset"])
def test_a_killed_process_leaves_nothing_behind(scratch, make_factory, isolation):
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, scratch.name, isolation],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "testproject.settings"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert victim.stdout is not None
    assert victim.stdout.readline() == "written\n"
    assert scratch.count("a") == (1 if isolation == "reset" else 0)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    scratch.connection.close()
    wait_until(lambda: sessions_of(scratch) == 0)
    with make_factory(isolation=isolation)() as session:
        assert numbers(session.connection) == [], "what was committed is gone with the next one"
    assert scratch.count("a") == 0


def end_session(database: Any, pid: int) -> None:
    with database.superuser() as session:
        session.execute("SELECT pg_terminate_backend(%s)", [pid])
        assert eventually(lambda: not session.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchall())


@pytest.mark.parametrize(
    ("notices", "expected", "text"),
    [
        (True, OperationalError, "terminating connection"),
        (False, SessionBrokenError, "the server or the network has ended"),
    ],
)
def test_a_session_that_the_server_has_ended_is_told_and_the_next_one_works(
    scratch, make_factory, notices, expected, text
):
    factory = make_factory(statement_timeout=30)
    with pytest.raises(expected, match=text):
        with factory("ended") as session:
            insert(session, 1)
            end_session(scratch, session.connection.connection.info.backend_pid)
            if notices:
                insert(session, 2)
    with factory() as session:
        assert numbers(session.connection) == []
        insert(session, 1)
    assert scratch.count("a") == 0


@pytest.mark.parametrize("notices", [True, False])
def test_committed_work_is_taken_back_over_a_new_connection_if_the_server_has_ended_the_first(
    scratch, make_factory, notices
):
    with make_factory(isolation="reset", statement_timeout=30)() as session:
        insert(session, 1)
        end_session(scratch, session.connection.connection.info.backend_pid)
        if notices:
            with pytest.raises(OperationalError):
                insert(session, 2)
    assert scratch.count("a") == 0


def test_several_dead_connections_of_a_pool_are_replaced(scratch, make_factory):
    factory = make_factory(pool={"min_size": 3, "max_size": 3, "timeout": 10})
    sessions = [factory.independent().open() for _ in range(3)]
    pids = [session.connection.connection.info.backend_pid for session in sessions]
    for session in reversed(sessions):
        session.close()
    for pid in pids:
        end_session(scratch, pid)
    for _ in range(4):
        with factory.independent() as session:
            insert(session, 1)


def test_a_server_that_is_killed_and_starts_again_leaves_nothing_and_the_next_session_works(private):  # noqa: F811
    private.execute(TABLES)
    factory = TestSessionFactory(private.alias, allow_database=private.name)
    with pytest.raises((OperationalError, SessionBrokenError)):
        with factory("killed") as session:
            insert(session, 1)
            os.kill(private.postmaster(), signal.SIGKILL)
            assert eventually(lambda: is_dead(session.connection))
            insert(session, 2)
    assert open_sessions() == []
    assert open_transactions(private.connection) == ()
    assert eventually(lambda: is_running(private))
    with factory("next") as session:
        assert numbers(session.connection) == []
        insert(session, 1)
    assert private.count("a") == 0


def is_dead(connection: Any) -> bool:
    try:
        with connection.connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except psycopg.Error:
        return True
    return False


@pytest.mark.parametrize("moment", ["opening", "closing"])
def test_an_interruption_leaves_nothing_open(scratch, factory, monkeypatch, moment):
    send = backend._send

    def interrupt(*arguments: Any) -> Any:
        send(*arguments)
        raise KeyboardInterrupt

    session = factory("interrupted")
    if moment == "opening":
        monkeypatch.setattr(backend, "_send", interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.open()
    else:
        session.open()
        insert(session, 1)
        monkeypatch.setattr(backend, "_send", interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.close()
    monkeypatch.undo()
    assert not session.is_open
    assert open_sessions() == []
    assert not scratch.connection.in_atomic_block
    with factory() as session:
        insert(session, 1)
    assert scratch.count("a") == 0


def test_ctrl_c_during_a_statement_is_raised_and_all_is_undone(scratch, factory):
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        query = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        assert eventually(lambda: bool(scratch.query(query)))
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        with factory("interrupted") as session:
            insert(session, 1)
            thread.start()
            with session.connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(30)")
    thread.join()
    with factory() as session:
        assert numbers(session.connection) == []


def test_an_aborted_transaction_is_undone_and_the_next_session_works(scratch, factory):
    with factory() as session:
        with pytest.raises(DatabaseError), session.connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")
    with factory() as session:
        insert(session, 1)
        with pytest.raises(DatabaseError), transaction.atomic(using=scratch.alias):
            insert(session, 1)
        insert(session, 2)
    assert scratch.count("a") == 0


def test_a_time_out_undoes_the_session(scratch, make_factory):
    started = time.monotonic()
    with pytest.raises(OperationalError):
        with make_factory(statement_timeout="50ms")() as session:
            insert(session, 1)
            with session.connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(30)")
    assert time.monotonic() - started < 20
    assert scratch.count("a") == 0
    assert numbers(connections[scratch.alias]) == []
