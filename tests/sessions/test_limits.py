"""Limits of a session on PostgreSQL: in force for it alone, and told by name when they are reached."""

from __future__ import annotations

import pickle
import time
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import InternalError, OperationalError, connections, transaction

from testdb_app.exceptions import (
    IdleTimeoutError,
    SessionBrokenError,
    SessionLockTimeoutError,
    SessionTimeoutError,
    StatementTimeoutError,
)
from testdb_app.sessions.options import parse_duration
from tests.baseline.conftest import messages
from tests.sessions.conftest import insert, numbers

pytestmark = pytest.mark.postgresql

NAMES = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


def shown(connection: Any) -> list[tuple[str, str]]:
    """Return the limits that are in force on *connection*, and whether the session has set them."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT setting, source FROM pg_settings WHERE name = ANY(%s) ORDER BY name", [list(NAMES)])
        return cursor.fetchall()


@pytest.mark.parametrize(
    ("given", "milliseconds"),
    [
        (30, 30_000),
        (0.25, 250),
        (0.0001, 1),
        (timedelta(minutes=2), 120_000),
        ("500ms", 500),
        ("30s", 30_000),
        ("5min", 300_000),
        ("1.5h", 5_400_000),
        ("1d", 86_400_000),
        ("100us", 1),
        (" 7 s ", 7_000),
    ],
)
def test_durations_are_seconds_or_postgresqls_text(database, given, milliseconds):
    assert parse_duration("x", given) == milliseconds
    if isinstance(given, str):
        with database.connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [given.strip()])
            cursor.execute("SET lock_timeout = %s", [given.strip()])
            cursor.execute("SELECT setting::integer FROM pg_settings WHERE name = 'lock_timeout'")
            assert max(1, cursor.fetchone()[0]) == milliseconds, "the server reads it otherwise"


def test_limits_are_in_force_in_the_session_and_gone_after_it_however_it_ends(database, make_factory):
    factory = make_factory(statement_timeout="30s", lock_timeout=5, idle_in_transaction_timeout=timedelta(minutes=1))
    before = shown(database.connection)
    with factory() as session:
        assert shown(session.connection) == [("60000", "session"), ("5000", "session"), ("30000", "session")]
        with factory.replace(lock_timeout="7s", statement_timeout=None)() as inner:
            assert [value for value, _ in shown(inner.connection)] == ["60000", "7000", "30000"]
        assert [value for value, _ in shown(session.connection)] == ["60000", "5000", "30000"]
    assert shown(database.connection) == before
    with pytest.raises(ZeroDivisionError):
        with factory() as session:
            raise ZeroDivisionError
    assert shown(database.connection) == before


def test_a_session_is_opened_and_closed_in_one_round_trip_each_with_all_limits(database, make_factory):
    plain = make_factory()
    limited = plain.replace(statement_timeout=30, lock_timeout=5, idle_in_transaction_timeout=60, ownership_timeout=60)
    with plain():
        pass
    counted = {}
    execute = psycopg.generators.execute
    for name, factory in (("plain", plain), ("limited", limited)):
        sent: list[Any] = []

        def count(conn: Any, sent: list[Any] = sent) -> Any:
            sent.append(conn)
            return execute(conn)

        with pytest.MonkeyPatch.context() as patch, messages() as statements:
            patch.setattr(psycopg.generators, "execute", count)
            with factory() as session:
                opening = len(sent) + len(statements)
                insert(session, 1)
            counted[name] = opening, len(sent) + len(statements)
    assert counted == {"plain": (1, 3), "limited": (1, 3)}
    with messages() as statements:
        with transaction.atomic(using=database.alias):
            with database.connection.cursor() as cursor:
                cursor.execute("INSERT INTO a (id) VALUES (1)")
            transaction.set_rollback(True, using=database.alias)
    assert len(statements) == 1, "and BEGIN and ROLLBACK, which psycopg sends below: three"


def test_a_statement_that_takes_too_long_is_told_and_code_under_test_catches_what_it_always_does(make_factory):
    factory = make_factory(statement_timeout="100ms")
    with factory("slow") as session:
        with pytest.raises(StatementTimeoutError) as caught, session.savepoint():
            with session.connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(10)")
        error = caught.value
        assert str(error) == (
            'A statement of the session "slow" took longer than 100 ms, its statement_timeout: SELECT pg_sleep(10). '
            "Make it faster, or raise that limit."
        )
        assert isinstance(error, OperationalError)
        assert isinstance(error.__cause__, psycopg.errors.QueryCanceled)
        assert (error.limit, error.seconds, error.statement) == ("statement_timeout", 0.1, "SELECT pg_sleep(10)")
        received = pickle.loads(pickle.dumps(error))
        assert type(received) is type(error)
        assert (str(received), received.limit) == (str(error), error.limit)
        insert(session, 1)


def test_a_cancelled_statement_and_nowait_are_not_taken_for_the_sessions_limits(database, make_factory):
    factory = make_factory(statement_timeout="30s", lock_timeout="10s")
    with database.connect() as other, factory() as session:
        other.execute("BEGIN; LOCK TABLE a")
        with pytest.raises(OperationalError) as caught, session.savepoint():
            with session.connection.cursor() as cursor:
                cursor.execute("LOCK TABLE a IN SHARE MODE NOWAIT")
        assert not isinstance(caught.value, SessionTimeoutError)


def test_a_lock_that_is_not_granted_is_told_with_who_holds_it(database, make_factory):
    database.execute("INSERT INTO a VALUES (1)")
    factory = make_factory(lock_timeout="200ms")
    with database.connect(application_name="holder") as other:
        other.execute("BEGIN; SELECT FROM a WHERE id = 1 FOR UPDATE; UPDATE a SET id = id")
        with pytest.raises(SessionLockTimeoutError) as caught:
            with factory("waiting") as session, session.connection.cursor() as cursor:
                cursor.execute("SELECT id FROM a WHERE id = 1 FOR UPDATE")
        (blocker,) = {each.pid: each for each in caught.value.blockers}.values()
        assert (blocker.pid, blocker.application, blocker.table) == (other.info.backend_pid, "holder", "public.a")
        assert 'the session "waiting" waited for a lock for more than 200 ms, its lock_timeout' in str(caught.value)
        assert "(holder) holds RowExclusiveLock on public.a" in str(caught.value)
        assert isinstance(caught.value, OperationalError)


def test_a_lock_that_another_session_of_this_process_holds_is_told_by_its_name(database, make_factory):
    database.execute("INSERT INTO a VALUES (1)")
    factory = make_factory(lock_timeout="200ms")
    with factory("first") as first, factory.independent("second") as second:
        for session in (first, second):
            with session.connection.cursor() as cursor:
                if session is first:
                    cursor.execute("UPDATE a SET id = id")
                    continue
                with pytest.raises(
                    SessionLockTimeoutError, match=r'the session "first" \(MainThread, opened at .*test_limits'
                ):
                    cursor.execute("UPDATE a SET id = id")


def test_a_session_that_idles_for_too_long_is_told(make_factory):
    factory = make_factory(idle_in_transaction_timeout="100ms")
    with pytest.raises(IdleTimeoutError, match='the session "idle" did nothing for more than 100 ms'):
        with factory("idle") as session:
            insert(session, 1)
            time.sleep(0.5)
            insert(session, 2)
    with factory() as session:
        insert(session, 1)


def test_a_broken_session_names_the_culprit(factory):
    with factory("broken") as session:
        with session.connection.cursor() as cursor:
            with pytest.raises(Exception, match="division by zero"):
                cursor.execute("SELECT 1 / 0")
            with pytest.raises(
                SessionBrokenError, match=r"The first was: SELECT 1 / 0 \(.*test_limits.*division by zero"
            ) as caught:
                cursor.execute("SELECT 1")
            assert isinstance(caught.value, InternalError)
            assert isinstance(caught.value.__cause__, psycopg.errors.InFailedSqlTransaction)
    with factory() as session:
        insert(session, 1)


def test_limits_of_committed_work_are_put_back_as_they_were(database, make_factory):
    with database.connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '77s'")
    before = shown(database.connection)
    with make_factory(isolation="reset", lock_timeout="5s", statement_timeout="30s")() as session:
        assert [value for value, _ in shown(session.connection)] == ["0", "5000", "30000"]
        insert(session, 1)
        assert database.count("a") == 1
        assert [value for value, _ in shown(session.connection)] == ["0", "5000", "30000"]
    assert [value for value, _ in shown(database.connection)] == [value for value, _ in before]
    assert database.count("a") == 0


def test_the_connections_that_it_makes_give_up_in_time(database, make_factory):
    database.connection.close()
    factory = make_factory(connect_timeout=3.5)
    with factory() as session, factory.independent() as other:
        assert session.connection.connection.info.get_parameters()["connect_timeout"] == "4"
        assert other.connection.connection.info.get_parameters()["connect_timeout"] == "4"
    assert "connect_timeout" not in database.connection.get_connection_params()
    assert "connect_timeout" not in connections.settings[database.alias]["OPTIONS"]
    assert numbers(database.connection) == []


def test_a_session_begins_as_the_settings_of_the_connection_say(scratch, make_factory):
    scratch.register("strict", OPTIONS={"isolation_level": psycopg.IsolationLevel.SERIALIZABLE})
    factory = make_factory(databases="strict")
    connection = connections["strict"]
    connection.ensure_connection()
    connection.connection.read_only, connection.connection.deferrable = True, True
    with factory() as session, session.connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'), "
            "current_setting('transaction_deferrable')"
        )
        assert cursor.fetchone() == ("serializable", "on", "on")
    connection.close()
