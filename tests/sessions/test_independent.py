"""Independent sessions: a second connection under a name of its own, also out of a pool."""

from __future__ import annotations

import sqlite3
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from django.contrib.sites.models import Site
from django.db import connections, transaction
from django.db.backends.base.base import RAN_DB_VERSION_CHECK

from testdb_app.exceptions import (
    ConfigurationError,
    PoolTimeoutError,
    SessionLeakError,
    SessionLockTimeoutError,
    UnsafeSessionError,
    UnsupportedError,
)
from testdb_app.sessions import TestSessionFactory
from testdb_app.sessions.registry import open_sessions
from tests.sessions.conftest import insert, numbers
from tests.sessions.test_limits import shown

POOL = {"min_size": 1, "max_size": 2, "timeout": 0.3}


def test_it_is_a_second_connection_that_sees_what_is_committed(database, factory):
    before = dict(connections.settings)
    with factory("first") as first, factory.independent("second") as second:
        alias = second.alias
        assert alias == f"{database.alias}_independent_1"
        assert first.connection.connection is not second.connection.connection
        assert connections[second.alias] is second.connection
        insert(first, 1)
        if database.connection.vendor == "postgresql":
            insert(second, 2)
            assert numbers(second.connection) == [2]
        else:
            assert numbers(second.connection) == []
        with factory.independent("third") as third:
            assert third.alias.endswith("_independent_2")
    assert database.count("a") == 0
    assert dict(connections.settings) == before
    assert not hasattr(connections._connections, alias)
    assert alias not in RAN_DB_VERSION_CHECK


def test_the_orm_reaches_it_by_its_name(database, factory):
    database.execute("CREATE TABLE django_site (id integer PRIMARY KEY, domain varchar(100), name varchar(50))")
    with factory.independent() as session:
        Site.objects.using(session.alias).create(id=7, domain="seven", name="seven")
        assert [site.domain for site in Site.objects.using(session.alias)] == ["seven"]
        assert not Site.objects.using(database.alias).exists()
    assert not Site.objects.using(database.alias).exists()


def test_a_race_is_played_with_committed_work(database, make_factory):
    factory = make_factory(isolation="reset")
    with factory("outer") as outer:
        insert(outer, 1)
        with factory.independent("other") as other:
            assert numbers(other.connection) == [1]
            insert(other, 2)
        assert numbers(outer.connection) == [1, 2], "the outer one resets"
    assert database.count("a") == 0
    with factory.independent("alone") as alone:
        insert(alone, 3)
        assert database.count("a") == 1
    assert database.count("a") == 0


def test_a_second_writer_on_sqlite_is_told_that_there_is_one_at_a_time(database, make_factory):
    if database.connection.vendor == "postgresql":
        pytest.skip("it has many writers")
    factory = make_factory(lock_timeout="100ms")
    with factory("first") as first, factory.independent("second") as second:
        insert(first, 1)
        with pytest.raises(
            SessionLockTimeoutError, match=r'"second" waited for a lock.*SQLite has one writer at a time'
        ) as caught:
            insert(second, 2)
        assert caught.value.blockers == []
    with database.connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        assert cursor.fetchone()[0] == 5000, "it was put back"


def test_sqlite_says_which_limits_it_does_not_have(database, make_factory):
    if database.connection.vendor == "postgresql":
        pytest.skip("it has them")
    for name in ("statement_timeout", "idle_in_transaction_timeout"):
        with pytest.raises(UnsupportedError, match=f"knows no {name[:10]}.*Leave that out"):
            make_factory(**{name: 5})().open()
    with pytest.raises(UnsupportedError, match="has no pools in Django"):
        make_factory(pool=True).independent().open()


@pytest.mark.parametrize("shared", [True, False], ids=["a name", "no name"])
def test_a_database_in_memory_has_a_second_connection_if_it_has_a_name(django_db_blocker, shared):
    name = "file:independent?mode=memory&cache=shared" if shared else ":memory:"
    default = connections.settings["default"]
    connections.settings["memory"] = {**default, "ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": {}}
    factory = TestSessionFactory("memory")
    try:
        with django_db_blocker.unblock(), connections["memory"].cursor() as cursor:
            cursor.execute("CREATE TABLE a (id integer PRIMARY KEY)")
            cursor.execute("INSERT INTO a VALUES (1)")
            if shared:
                with factory.independent() as session:
                    assert numbers(session.connection) == [1]
                    raw = session.connection.connection
                with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                    raw.execute("SELECT 1")
            else:
                with pytest.raises(UnsupportedError, match="in the memory of its one connection"):
                    factory.independent().open()
            with factory() as session:
                insert(session, 2)
            assert numbers(connections["memory"]) == [1]
    finally:
        connections["memory"].connection.close()
        del connections["memory"]
        del connections.settings["memory"]


@pytest.mark.parametrize(
    ("pool", "text"),
    [
        ({}, "pool={} makes no pool"),
        ("yes", "pool must be a dict"),
        ({"size": 4}, "unexpected keyword argument 'size'. See its ConnectionPool for the options"),
        (
            {"configure": print},
            "multiple values .* 'configure'.* Django sets conninfo, kwargs, open, configure and check",
        ),
        ({"kwargs": {}}, "multiple values .* 'kwargs'"),
        (
            {"min_size": 0, "max_size": 0},
            "psycopg_pool does not accept {'min_size': 0, 'max_size': 0}: .* max_size must be",
        ),
        ({"max_size": 2}, "max_size must be .* min_size.* min_size is 4 unless it is given"),
        ({"min_size": -1}, "min_size cannot be negative"),
        ({"min_size": "1"}, "psycopg_pool does not accept {'min_size': '1'}: .*'str'"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0"),
        ({"timeout": None}, "timeout must be a number of seconds above 0, not None"),
        ({"num_workers": 0}, "num_workers must be at least 1"),
    ],
)
def test_pools_that_would_be_none_or_hang_are_refused(make_factory, pool, text):
    with pytest.raises(ConfigurationError, match=text):
        make_factory(pool=pool)


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"CONN_MAX_AGE": 60}, "has CONN_MAX_AGE 60, and Django pools no persistent connections"),
        ({"CONN_MAX_AGE": None}, "has CONN_MAX_AGE None"),
        ({"OPTIONS": {"assume_role": "somebody"}}, "has the option assume_role"),
    ],
)
def test_settings_that_go_with_no_pool_are_refused(scratch, make_factory, settings, text):
    scratch.register("other", **settings)
    with pytest.raises(ConfigurationError, match=text):
        make_factory(databases="other", pool=POOL).independent().open()
    make_factory(databases="other", pool=POOL)  # its own connections are none of a pool
    assert open_sessions() == []


@pytest.mark.postgresql
def test_an_exhausted_pool_tells_who_holds_its_connections(scratch, make_factory):
    factory = make_factory(pool=POOL)
    with factory.independent("one"), factory.independent("two"):
        with pytest.raises(PoolTimeoutError) as caught:
            factory.independent("three").open()
    assert 'the session "three" got no connection out of the pool within 0.3 s: its 2 connections are held by' in str(
        caught.value
    )
    assert [each.split(" (")[0] for each in caught.value.holders] == ['the session "one"', 'the session "two"']
    assert all(f"MainThread, opened at {__file__}:" in each and "s ago" in each for each in caught.value.holders)
    assert type(caught.value.__cause__).__module__ == "psycopg_pool"
    with factory.independent("three") as session:
        insert(session, 1)


@pytest.mark.postgresql
def test_a_forgotten_session_gives_its_connection_back_to_the_pool(scratch, make_factory):
    factory = make_factory(pool={"min_size": 1, "max_size": 1, "timeout": 5})

    def forget_one() -> None:
        kept = [factory.independent("forgotten").open()]
        thread = threading.Thread(target=kept.clear)
        thread.start()
        thread.join()
        with factory.independent("next in the thread") as session:
            insert(session, 1)
        kept.append(factory.independent("of a thread that ends").open())
        left.extend(kept)

    left: list[Any] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        thread = threading.Thread(target=forget_one)
        thread.start()
        thread.join()
        left.clear()
        with factory.independent("last") as session:
            assert numbers(session.connection) == []
    assert ["never closed" in str(each.message) for each in told if each.category is ResourceWarning][:2] == [
        True,
        True,
    ]
    assert scratch.count("a") == 0


@pytest.mark.postgresql
def test_a_pool_that_leads_to_another_database_than_the_settings_is_refused_before_anything_is_written(
    scratch, make_scratch, make_factory
):
    """A pool that was opened before the test runner changed the name goes on leading to the real database."""
    other = make_scratch("other")
    scratch.register("pooled", OPTIONS={"pool": {"min_size": 1, "max_size": 2}})
    connection = connections["pooled"]
    connection.ensure_connection()
    connection.close()
    connection.settings_dict["NAME"] = other.name
    for isolation in ("rollback", "reset"):
        factory = make_factory(databases="pooled", isolation=isolation, allow_database={scratch.name, other.name})
        with pytest.raises(UnsafeSessionError, match=f'the connection leads to "{scratch.name}"') as caught:
            factory("unlucky").open()
        assert caught.value.rule == "names-differ"
    assert not connection.in_atomic_block
    connection.settings_dict["NAME"] = scratch.name


@pytest.mark.postgresql
def test_a_pool_that_cannot_connect_says_so(scratch, make_factory):
    scratch.register("other", PORT="1")
    with pytest.raises(PoolTimeoutError, match="0 of its 2 connections are held, and no other could be made"):
        make_factory(databases="other", pool=POOL).independent().open()


@pytest.mark.postgresql
def test_a_pool_is_closed_with_its_factory_and_opened_again(scratch, make_factory):
    factory = make_factory(pool=POOL)
    for _ in range(2):
        with factory.independent() as session:
            insert(session, 1)
        assert sessions_of(scratch) >= 1
        factory.close()
        wait_until(lambda: sessions_of(scratch) == 0)
    with factory, factory.independent():
        pass
    wait_until(lambda: sessions_of(scratch) == 0)


def sessions_of(database: Any) -> int:
    return int(
        database.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
    )


def wait_until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(500):
        if condition():
            return
        waiting.wait(0.02)
    raise AssertionError("it did not come true")


@pytest.mark.postgresql
@pytest.mark.parametrize("isolation", ["rollback", "reset"])
def test_nothing_that_was_set_reaches_the_next_user_of_a_pooled_connection(scratch, make_factory, isolation):
    factory = make_factory(
        isolation=isolation, pool={"min_size": 1, "max_size": 1, "timeout": 5}, statement_timeout="30s"
    )
    plain = [("0", "default")] * 3
    for _ in range(3):
        with factory.independent() as session:
            assert [value for value, _ in shown(session.connection)] == ["0", "0", "30000"]
            with session.connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '77s'")
    pool = next(iter(factory._pools.values())).pool
    with pool.connection() as raw:
        found = raw.execute(
            "SELECT setting, source FROM pg_settings WHERE name IN "
            "('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')"
        ).fetchall()
    assert found == plain
    assert scratch.count("a") == 0


@pytest.mark.postgresql
def test_a_pooled_connection_in_which_somebody_committed_is_not_used_again(scratch, make_factory):
    factory = make_factory(pool={"min_size": 1, "max_size": 1, "timeout": 5})
    with pytest.raises(SessionLeakError):
        with factory.independent() as session:
            pid = session.connection.connection.info.backend_pid
            with session.connection.cursor() as cursor:
                cursor.execute("COMMIT")
                cursor.execute("SET lock_timeout = '77s'")
    with factory.independent() as session:
        assert session.connection.connection.info.backend_pid != pid


@pytest.mark.postgresql
@pytest.mark.parametrize(("threads", "each"), [(8, 15), pytest.param(8, 200, marks=pytest.mark.benchmark)])
def test_many_threads_share_a_small_pool_and_nothing_leaks_or_hangs(scratch, make_factory, threads, each):
    many_threads(scratch, make_factory, threads, each)


def many_threads(scratch: Any, make_factory: Any, threads: int, each: int) -> None:
    factory = make_factory(
        pool={"min_size": 1, "max_size": 4, "timeout": 60},
        statement_timeout="60s",
        lock_timeout="30s",
        idle_in_transaction_timeout="60s",
        ownership_timeout=120,
    )
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(each):
                with factory.independent(f"{thread}/{number}") as session:
                    insert(session, thread * 1_000 + number)
                    if number % 3 == 0:
                        with pytest.raises(Exception, match="duplicate key"), session.savepoint():
                            insert(session, thread * 1_000 + number)
                    if number % 5 == 0:
                        with (
                            factory.replace(pool=None, databases=scratch.alias)() as inner,
                            transaction.atomic(scratch.alias),
                        ):
                            insert(inner, thread * 1_000 + number + 500_000)
                    assert numbers(session.connection) == [thread * 1_000 + number]
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
        assert not worker.is_alive()
    assert errors == []
    assert open_sessions() == []
    assert scratch.count("a") == 0
    pool = next(iter(factory._pools.values())).pool
    with ExitStack() as stack:
        raws = [stack.enter_context(pool.connection()) for _ in range(4)]
        for raw in raws:
            found = raw.execute(
                "SELECT DISTINCT setting, source FROM pg_settings WHERE name LIKE '%\\_timeout' AND "
                "name ~ '^(statement|lock|idle_in_transaction_session)_'"
            ).fetchall()
            assert found == [("0", "default")]
    assert sessions_of(scratch) <= 5
    factory.close()
    scratch.connection.close()
    wait_until(lambda: sessions_of(scratch) == 0)
