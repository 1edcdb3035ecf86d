"""A session's connection lent to threads, executors and a live server, on every backend."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
from django.db import (
    DatabaseError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    connections,
    transaction,
)
from django.http import HttpResponse
from django.test.testcases import LiveServerThread, _StaticFilesHandler
from django.test.utils import override_settings
from django.urls import path

from testdb_app.exceptions import (
    ConfigurationError,
    LendingTimeoutError,
    SessionBrokenError,
    SessionClosedError,
    SessionLeakError,
)
from tests.sessions.conftest import insert, numbers


class Errand:
    """A thread, and what became of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.function = function
        self.thread = threading.Thread(target=self.run, name="errand")

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error
        finally:
            connections.close_all()

    def do(self) -> Any:
        self.thread.start()
        self.thread.join(20)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


def add(alias: str, number: int) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(f"INSERT INTO a (id) VALUES ({number})")


@pytest.mark.parametrize("to", ["everybody", "the thread"])
def test_a_thread_sees_uncommitted_rows_and_its_own_are_undone_with_the_session(database, factory, to):
    alias = database.alias

    def work() -> list[int]:
        add(alias, 2)
        with transaction.atomic(using=alias, durable=True):
            add(alias, 3)
        with pytest.raises(ZeroDivisionError):
            with transaction.atomic(using=alias):
                add(alias, 4)
                raise ZeroDivisionError
        assert connections[alias].get_autocommit()
        return numbers(connections[alias])

    errand = Errand(work)
    with factory() as session:
        insert(session, 1)
        with session.allow(errand.thread) if to == "the thread" else session.allow():
            assert errand.do() == [1, 2, 3]
            assert connections[alias] is session.connection
        assert numbers(session.connection) == [1, 2, 3]
        assert database.count("a") == 0
    assert database.count("a") == 0
    assert not hasattr(connections._connections, "storage")


def test_a_thread_that_it_was_not_lent_to_has_its_own_connection(database, factory):
    with factory() as session:
        insert(session, 1)
        with session.allow(threading.Thread()):
            assert Errand(lambda: numbers(connections[database.alias])).do() == []


def test_an_error_in_a_borrower_does_not_break_the_owner(database, factory):
    def duplicate() -> None:
        with transaction.atomic(using=database.alias):
            add(database.alias, 2)
            add(database.alias, 1)

    with factory() as session, session.allow():
        insert(session, 1)
        with pytest.raises(IntegrityError):
            Errand(lambda: add(database.alias, 1)).do()
        with pytest.raises(IntegrityError):
            Errand(duplicate).do()
        insert(session, 5)
        assert not session.connection.needs_rollback
        assert numbers(session.connection) == [1, 5]


def test_a_thread_commits_by_hand_as_it_does_on_its_own_connection(database, factory):
    alias = database.alias

    def work() -> None:
        transaction.set_autocommit(False, using=alias)
        add(alias, 2)
        transaction.rollback(using=alias)
        add(alias, 3)
        transaction.commit(using=alias)
        add(alias, 4)
        transaction.rollback(using=alias)
        transaction.set_autocommit(True, using=alias)
        add(alias, 5)
        transaction.set_autocommit(False, using=alias)
        add(alias, 6)
        connections[alias].close()

    with factory() as session, session.allow():
        Errand(work).do()
        assert numbers(session.connection) == [3, 5]


def test_threads_take_turns_a_transaction_each(database, factory):
    alias = database.alias
    inside = threading.Event()
    order: list[str] = []

    def long() -> None:
        with transaction.atomic(using=alias):
            add(alias, 1)
            inside.set()
            time.sleep(0.2)
            add(alias, 2)
            order.append("long")

    def short() -> None:
        inside.wait()
        add(alias, 3)
        order.append("short")

    with factory() as session, session.allow():
        errands = [Errand(long), Errand(short)]
        for errand in errands:
            errand.thread.start()
        inside.wait()
        with transaction.atomic(using=alias):
            insert(session, 4)
            order.append("owner")
        for errand in errands:
            errand.thread.join()
            assert errand.error is None
        assert order[0] == "long"
        assert numbers(session.connection) == [1, 2, 3, 4]


def test_many_threads_lose_nothing(database, factory):
    alias = database.alias

    def work(base: int) -> None:
        for number in range(base, base + 20, 2):
            with transaction.atomic(using=alias):
                add(alias, number)
            try:
                with transaction.atomic(using=alias):
                    add(alias, number + 1)
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass

    with factory() as session, session.allow():
        errands = [Errand(lambda base=base: work(base)) for base in range(0, 160, 20)]
        for errand in errands:
            errand.thread.start()
        for number in range(1000, 1010):
            with session.savepoint():
                insert(session, number)
        for errand in errands:
            errand.thread.join(60)
            assert errand.error is None
        assert numbers(session.connection) == [*range(0, 160, 2), *range(1000, 1010)]


def test_who_waits_for_a_thread_inside_atomic_is_told_who_holds_the_turn(database, factory):
    with factory("waiting") as session, session.allow(timeout="100ms"):
        with transaction.atomic(using=database.alias):
            with pytest.raises(LendingTimeoutError) as caught:
                Errand(lambda: add(database.alias, 1)).do()
    assert isinstance(caught.value, OperationalError)
    assert 'errand has waited 0.1 s for the connection of the session "waiting"' in str(caught.value)
    assert caught.value.holder.startswith("the thread MainThread, for 0.")


def test_a_borrower_that_outlives_the_loan_gets_a_clear_error(database, factory):
    go, used = threading.Event(), threading.Event()

    def work() -> None:
        add(database.alias, 1)
        used.set()
        go.wait()
        with pytest.raises(
            SessionClosedError, match='errand uses the connection of the session "lender", which was shared'
        ) as caught:
            add(database.alias, 2)
        assert isinstance(caught.value, InterfaceError)
        with pytest.raises(SessionClosedError):
            with transaction.atomic(using=database.alias):
                pass
        connections.close_all()

    errand = Errand(work)
    with factory("lender") as session:
        with session.allow():
            errand.thread.start()
            used.wait()
    go.set()
    errand.thread.join()
    assert errand.error is None
    assert database.count("a") == 0


def test_the_end_waits_for_the_transaction_of_a_borrower_and_not_forever(database, factory):
    go, inside = threading.Event(), threading.Event()

    def work() -> None:
        with transaction.atomic(using=database.alias):
            add(database.alias, 1)
            inside.set()
            go.wait()
            with pytest.raises(SessionClosedError):
                add(database.alias, 2)

    errand = Errand(work)
    with factory() as session:
        with pytest.raises(LendingTimeoutError, match="held by the thread errand"):
            with session.allow(timeout="100ms"):
                errand.thread.start()
                inside.wait()
        insert(session, 7)
    go.set()
    errand.thread.join()
    assert database.count("a") == 0
    assert isinstance(errand.error, SessionClosedError), "its end cannot be had either"


def test_a_borrower_of_a_broken_session_is_told(database, factory):
    if database.connection.vendor == "sqlite" and database.connection.is_in_memory_db():
        pytest.skip("Django does not close it")
    with pytest.raises(SessionBrokenError, match="ended before its time"):
        with factory("closed") as session, session.allow():
            session.connection.close()
            with pytest.raises(SessionBrokenError, match="in the thread errand: its connection was closed"):
                Errand(lambda: add(database.alias, 1)).do()


def test_a_borrower_of_a_session_in_which_a_statement_has_failed_is_told(database, factory):
    if database.connection.vendor == "sqlite":
        pytest.skip("it goes on after a statement that failed")
    with factory("failed") as session, session.allow():
        with pytest.raises(DatabaseError), session.connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")
        with pytest.raises(InternalError, match="current transaction is aborted"):
            Errand(lambda: add(database.alias, 1)).do()
        with pytest.raises(InternalError, match="current transaction is aborted"):
            Errand(lambda: transaction.atomic(using=database.alias).__enter__()).do()


def test_a_commit_by_sql_in_a_borrower_is_told_at_the_end(database, factory):
    def commit() -> None:
        with connections[database.alias].cursor() as cursor:
            cursor.execute("COMMIT")

    with pytest.raises(SessionLeakError, match="ended by COMMIT"):
        with factory() as session, session.allow():
            with pytest.raises(DatabaseError):
                Errand(commit).do()


def test_jobs_of_an_executor_use_it_and_its_threads_are_as_before_afterwards(database, factory):
    alias = database.alias
    with ThreadPoolExecutor(2) as executor:
        own = executor.submit(lambda: connections[alias]).result()
        with factory() as session:
            insert(session, 1)
            with session.allow(executor):
                assert list(executor.map(lambda _: numbers(connections[alias]), range(4))) == [[1]] * 4
                executor.submit(add, alias, 2).result()
            assert numbers(session.connection) == [1, 2]
            assert executor.submit(lambda: type(connections[alias])).result() is type(own)
        assert "submit" not in vars(executor)
        assert list(executor.map(lambda _: numbers(connections[alias]), range(4))) == [[]] * 4
        list(executor.map(lambda _: (time.sleep(0.05), connections.close_all()), range(2)))


def test_a_job_that_runs_after_the_loan_is_told_and_the_next_is_not(database, factory):
    go = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        with factory("lender") as session, session.allow(executor):
            executor.submit(go.wait)
            late = executor.submit(add, database.alias, 1)
        go.set()
        assert isinstance(late.exception(), SessionClosedError)
        assert executor.submit(lambda: numbers(connections[database.alias])).result() == []
        executor.submit(connections.close_all).result()


def test_an_executor_that_was_not_named_has_its_own_connection_after_a_loan_to_everybody(database, factory):
    with ThreadPoolExecutor(1) as executor:
        with factory() as session, session.allow():
            insert(session, 1)
            assert executor.submit(lambda: numbers(connections[database.alias])).result() == [1]
        assert executor.submit(lambda: numbers(connections[database.alias])).result() == []
        executor.submit(connections.close_all).result()


def test_what_cannot_borrow_is_refused(factory):
    with factory() as session:
        with pytest.raises(ConfigurationError, match="cannot be shared with the processes"):
            session.allow(ProcessPoolExecutor(1)).__enter__()
        with pytest.raises(ConfigurationError, match=r"allow\(\) takes a thread"):
            session.allow("everybody").__enter__()


def test_callbacks_of_a_borrower_are_collected_with_the_sessions(database, factory):
    ran: list[str] = []

    def work() -> None:
        transaction.on_commit(lambda: ran.append("outside"), using=database.alias)
        with transaction.atomic(using=database.alias):
            transaction.on_commit(lambda: ran.append("inside"), using=database.alias)
        with pytest.raises(ZeroDivisionError):
            with transaction.atomic(using=database.alias):
                transaction.on_commit(lambda: ran.append("undone"), using=database.alias)
                raise ZeroDivisionError

    with factory() as session:
        with session.allow():
            Errand(work).do()
        assert ran == []
        session.run_on_commit()
        assert ran == ["outside", "inside"]


def test_an_independent_session_is_lent_under_its_own_name(database, factory):
    with factory.independent() as session:
        alias = session.alias
        if database.connection.vendor == "postgresql":
            insert(session, 1)
        expected = numbers(session.connection)
        with session.allow():
            assert Errand(lambda: numbers(connections[alias])).do() == expected


def test_loans_nest_and_the_innermost_session_is_lent(database, factory):
    with factory("outer") as outer, outer.allow():
        insert(outer, 1)
        with factory("inner") as inner, inner.allow():
            insert(inner, 2)
            assert Errand(lambda: numbers(connections[database.alias])).do() == [1, 2]
        assert Errand(lambda: numbers(connections[database.alias])).do() == [1]


def test_with_real_commits_nothing_has_to_be_lent(database, make_factory):
    with make_factory(isolation="reset")() as session:
        insert(session, 1)
        with session.allow():
            assert Errand(lambda: numbers(connections[database.alias])).do() == [1]


def read(request: Any, alias: str) -> HttpResponse:
    if request.method == "POST":
        with transaction.atomic(using=alias):
            add(alias, 2)
    return HttpResponse(str(numbers(connections[alias])))


urlpatterns = [path("<str:alias>/", read)]


def test_a_live_server_sees_what_is_not_committed(database, factory):
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[], STATIC_URL="/static/"):
        server = LiveServerThread("localhost", _StaticFilesHandler)
        server.daemon = True
        server.start()
        server.is_ready.wait()
        url = f"http://localhost:{server.port}/{database.alias}/"
        try:
            with factory() as session:
                insert(session, 1)
                with session.allow():
                    assert urllib.request.urlopen(url, timeout=20).read() == b"[1]"
                    assert urllib.request.urlopen(url, data=b"", timeout=20).read() == b"[1, 2]"
                assert numbers(session.connection) == [1, 2]
            assert urllib.request.urlopen(url, timeout=20).read() == b"[]"
        finally:
            server.terminate()
