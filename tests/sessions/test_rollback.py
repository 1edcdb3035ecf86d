"""Sessions that are rolled back, on every backend: looked at from outside, however they end."""

from __future__ import annotations

import gc
import logging
import threading
import unittest
import warnings
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction
from django.db.transaction import TransactionManagementError
from django.test import TestCase

from testdb_app.exceptions import (
    ConfigurationError,
    OwnershipTimeoutError,
    SessionBrokenError,
    SessionClosedError,
    SessionLeakError,
    SessionNestingError,
    TransactionStateError,
    UnsafeDatabaseError,
    UnsafeSessionError,
)
from testdb_app.sessions import TestSessionFactory, current_session
from testdb_app.sessions.registry import open_sessions
from testdb_app.transactions import OuterTransaction
from tests.sessions.conftest import insert, numbers


class Interrupted(BaseException):
    """Not an Exception, as KeyboardInterrupt and SystemExit are not."""


@pytest.mark.parametrize("ending", [None, ZeroDivisionError, KeyboardInterrupt, SystemExit, Interrupted], ids=str)
def test_nothing_of_a_session_is_seen_from_outside_during_or_after_it(database, factory, ending):
    def body() -> None:
        with factory("outer") as session:
            insert(session, 1)
            with transaction.atomic(using=database.alias):
                insert(session, 2)
            with transaction.atomic(using=database.alias, durable=True):
                insert(session, 3)
            assert numbers(session.connection) == [1, 2, 3]
            assert database.count("a") == 0
            if ending is not None:
                raise ending

    if ending is None:
        body()
    else:
        with pytest.raises(ending):
            body()
    assert database.count("a") == 0
    with factory() as session:
        insert(session, 1)
        assert numbers(session.connection) == [1]
    assert database.count("a") == 0


def test_a_session_ends_where_its_body_returns(database, factory):
    def body() -> str:
        with factory() as session:
            insert(session, 1)
            return "returned"

    assert body() == "returned"
    assert database.count("a") == 0


def test_an_error_of_the_body_is_raised_and_not_hidden_by_one_of_the_clean_up(database, factory):
    with pytest.raises(ZeroDivisionError) as caught:
        with factory("committing") as session:
            insert(session, 1)
            with session.connection.cursor() as cursor:
                cursor.execute("COMMIT")
            raise ZeroDivisionError
    (note,) = caught.value.__notes__
    assert note.startswith(
        'While its session was closed: SessionLeakError: Something was committed in the session "commit'
    )


def test_a_failed_statement_is_rolled_back_with_the_session(database, factory):
    with pytest.raises(DatabaseError):
        with factory() as session:
            insert(session, 1)
            insert(session, 2, table="nothing_of_the_kind")
    assert database.count("a") == 0
    with factory() as session:
        insert(session, 1)


def test_sessions_nest_and_each_is_undone_alone(database, factory):
    with factory("outer") as outer:
        insert(outer, 1)
        with factory("inner") as inner:
            assert current_session(database.alias) is inner
            insert(inner, 2)
        assert numbers(outer.connection) == [1]
        assert current_session(database.alias) is outer
    with pytest.raises(SessionClosedError, match="No test session is open"):
        current_session(database.alias)
    assert database.count("a") == 0


def test_a_session_that_ends_before_an_inner_one_is_refused_with_both_names(database, factory):
    outer, inner = factory("outer").open(), factory("inner").open()
    insert(inner, 1)
    with pytest.raises(SessionNestingError, match='the session "outer" cannot end while the session "inner"') as caught:
        outer.close()
    assert (caught.value.ending, caught.value.still_open) == ('the session "outer"', 'the session "inner"')
    assert numbers(inner.connection) == [1]
    inner.close()
    outer.close()
    outer.close()


def test_a_session_ends_before_somebody_elses_outer_transaction_only_with_an_error(database, factory):
    session = factory("outer").open()
    scope = OuterTransaction(database.connection, 'the scope "module"', allow=(database.name,))
    scope.open()
    with pytest.raises(SessionNestingError, match='the scope "module"'):
        session.close()
    scope.roll_back()
    session.close()


def test_an_error_ends_the_inner_sessions_that_it_leaves_behind(database, factory):
    with pytest.raises(ZeroDivisionError) as caught:
        with factory("outer"):
            inner = factory("inner").open()
            insert(inner, 1)
            raise ZeroDivisionError
    assert not inner.is_open
    assert not hasattr(caught.value, "__notes__")
    assert database.count("a") == 0


def test_a_session_is_used_only_while_it_is_open(factory):
    session = factory("checkout")
    for use in (lambda: session.connection, session.run_on_commit, lambda: session.savepoint().__enter__()):
        with pytest.raises(SessionClosedError, match='the session "checkout" was not opened yet'):
            use()
    with session:
        with pytest.raises(SessionNestingError, match="is open already"):
            session.open()
    with pytest.raises(SessionClosedError, match='the session "checkout" is not open'):
        session.savepoint().__enter__()
    with session:
        assert session.is_open
    assert not session.is_open


def test_a_savepoint_is_undone_alone(database, factory):
    with factory() as session:
        insert(session, 1)
        with pytest.raises(ZeroDivisionError):
            with session.savepoint():
                insert(session, 2)
                raise ZeroDivisionError
        with session.savepoint():
            insert(session, 3)
        assert numbers(session.connection) == [1, 3]


def test_all_databases_are_opened_or_none(database, make_factory):
    databases = {database.alias, "nowhere"}
    configuration = {
        **connections.settings[database.alias],
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "/no/such/f",
    }
    connections.settings["nowhere"] = configuration
    try:
        with pytest.raises(Exception, match="unable to open database file"):
            make_factory(databases=databases).__call__("both").open()
    finally:
        del connections["nowhere"]
        del connections.settings["nowhere"]
    with pytest.raises(ConfigurationError, match="There is no database alias 'nowhere'"):
        make_factory(databases=databases)().open()


def test_a_database_that_is_no_test_database_is_refused_as_both_errors(database, make_factory):
    factory = make_factory(allow_database=())
    with pytest.raises(UnsafeSessionError, match=r'the session "x" was not opened\. Refusing to write to') as caught:
        factory("x").open()
    assert isinstance(caught.value, UnsafeDatabaseError)
    assert (caught.value.rule, caught.value.alias) == ("unknown", database.alias)
    assert isinstance(caught.value.__cause__, UnsafeDatabaseError)


def test_a_connection_in_a_transaction_or_with_autocommit_off_is_no_place_for_a_session(database, factory):
    with pytest.raises(SessionBrokenError, match="transaction around it"):
        with transaction.atomic(using=database.alias):
            transaction.set_rollback(True, using=database.alias)
            factory().open()
    transaction.set_autocommit(False, using=database.alias)
    with pytest.raises(TransactionStateError, match="Refusing to open the session of"):
        factory().open()
    transaction.rollback(using=database.alias)
    transaction.set_autocommit(True, using=database.alias)


def test_a_session_inside_atomic_is_part_of_it(database, factory):
    with transaction.atomic(using=database.alias):
        with factory() as session:
            insert(session, 1)
        with database.connection.cursor() as cursor:
            cursor.execute("INSERT INTO a (id) VALUES (2)")
    assert database.count("a") == 1


def test_who_commits_gets_djangos_error_with_the_sessions_name_and_the_remedy(database, factory):
    with factory("checkout") as session:
        insert(session, 1)
        for act in (transaction.commit, transaction.rollback):
            with pytest.raises(TransactionManagementError, match=r'the session "checkout".*isolation="reset"'):
                act(using=database.alias)
        with pytest.raises(TransactionManagementError, match='the session "checkout"'):
            transaction.set_autocommit(True, using=database.alias)
        assert numbers(session.connection) == [1]


def test_a_raw_commit_is_found_at_the_end_by_name_and_stays_without_a_baseline(database, factory):
    with pytest.raises(
        SessionLeakError, match=r'committed in the session "raw", opened at .*by COMMIT \(.*stays there'
    ) as caught:
        with factory("raw") as session:
            insert(session, 1)
            with session.connection.cursor() as cursor:
                cursor.execute("COMMIT")
    assert caught.value.owner == 'the session "raw"'
    assert database.count("a") == 1
    with factory() as session:
        insert(session, 2)
    assert database.count("a") == 1


def test_a_closed_connection_ends_the_session_with_an_error_and_the_next_one_works(database, factory):
    with pytest.raises(SessionBrokenError, match=r'the session "x" ended before its time, .*closed \(.*test_rollback'):
        with factory("x") as session:
            insert(session, 1)
            session.connection.close()
    with factory() as session:
        insert(session, 1)
    assert database.count("a") == 0


def test_a_function_is_decorated_with_a_session_for_each_call(database, factory):
    names = []

    @factory
    def check(number: int, *, add: int) -> int:
        session = current_session(database.alias)
        names.append(session.name)
        insert(session, number)
        return number + add

    @factory(name="named")
    def other() -> None:
        names.append(current_session(database.alias).name)
        check(8, add=0)

    assert [check(1, add=1), check(1, add=2)] == [2, 3]
    other()
    assert names[2:] == ["named", names[0]]
    assert names[0].endswith("check")
    assert database.count("a") == 0


def test_functions_whose_body_runs_after_the_call_are_refused(factory):
    async def asynchronous() -> None: ...

    async def asynchronous_generator() -> Any:
        yield

    def generator() -> Any:
        yield

    for function in (asynchronous, asynchronous_generator):
        with pytest.raises(ConfigurationError, match="is async: its body runs after the call"):
            factory(function)
    with pytest.raises(ConfigurationError, match="is a generator"):
        factory(generator)


def test_a_unittest_enters_a_session(database, factory):
    class Case(unittest.TestCase):
        def setUp(self) -> None:
            self.session = self.enterContext(factory(self.id()))

        def test(self) -> None:
            assert f"opened at {__file__}:" in repr(self.session)
            insert(self.session, 1)

    result = unittest.TestResult()
    Case("test").run(result)
    assert result.wasSuccessful(), result.errors
    assert database.count("a") == 0


def test_a_forgotten_session_is_told_with_its_place_and_rolled_back(database, factory):
    session = factory("forgotten").open()
    insert(session, 1)
    with pytest.warns(ResourceWarning, match=rf'the session "forgotten" was opened at {__file__}:\d+ and never closed'):
        del session
        gc.collect()
    assert not database.connection.in_atomic_block
    assert database.count("a") == 0


def test_a_session_forgotten_inside_another_is_ended_with_that(database, factory):
    with factory("outer") as outer:
        insert(outer, 1)
        inner = factory("inner").open()
        with transaction.atomic(using=database.alias):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                del inner
                gc.collect()
            assert ["inner" in str(each.message) for each in told] == [True]
            insert(outer, 2)
            assert numbers(outer.connection) == [1, 2], "it is not ended in the middle of a block"
    assert database.count("a") == 0


def forget_elsewhere(kept: list[Any]) -> None:
    """Have the last name of a session go in another thread."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        thread = threading.Thread(target=kept.clear)
        thread.start()
        thread.join()
    assert len(told) == 1


@pytest.mark.parametrize("next_use", ["a session", "a statement"])
def test_a_session_forgotten_in_one_thread_and_collected_in_another_is_ended_by_the_next_use(
    database, factory, next_use
):
    kept = [factory("forgotten").open()]
    insert(kept[0], 1)
    forget_elsewhere(kept)
    assert database.connection.in_atomic_block
    if next_use == "a session":
        with factory() as session:
            assert numbers(session.connection) == []
            assert database.connection.savepoint_ids == []
    else:
        assert numbers(database.connection) == []
    assert not database.connection.in_atomic_block


def test_a_session_whose_thread_has_ended_is_closed_by_the_next_one(database, factory):
    kept: list[Any] = []

    def work() -> None:
        kept.append(factory("of the thread").open())
        insert(kept[0], 1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    forget_elsewhere(kept)
    with factory() as session:
        insert(session, 1)
    assert [each.owner for each in open_sessions()] == []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    kept[0].close()
    assert not kept[0].is_open
    assert database.count("a") == 0


def test_callbacks_are_collected_and_run_on_demand_in_order(database, factory, caplog):
    ran: list[str] = []

    def robust() -> None:
        ran.append("robust")
        raise ZeroDivisionError

    def on_commit(name: str) -> None:
        transaction.on_commit(lambda: ran.append(name), using=database.alias)

    def registers() -> None:
        ran.append("registers")
        on_commit("late")

    with factory() as session:
        on_commit("first")
        transaction.on_commit(robust, using=database.alias, robust=True)
        with transaction.atomic(using=database.alias):
            transaction.on_commit(registers, using=database.alias)
        with pytest.raises(ZeroDivisionError):
            with transaction.atomic(using=database.alias):
                on_commit("undone")
                raise ZeroDivisionError
        with transaction.atomic(using=database.alias):
            on_commit("waiting")
            with caplog.at_level(logging.ERROR, "django.db.backends.base"):
                called = session.run_on_commit()
        assert ran == ["first", "robust", "registers"]
        assert called[1:3] == [robust, registers]
        assert "robust in on_commit() (" in caplog.text
        transaction.on_commit(registers, using=database.alias)
        assert len(session.run_on_commit()) == 4
        assert ran[3:] == ["waiting", "late", "registers", "late"], "what a callback registers comes last"
        with factory("inner") as inner:
            on_commit("inner")
            assert len(inner.run_on_commit()) == 1
        assert session.run_on_commit() == []


def test_after_an_error_of_a_callback_the_rest_does_not_run(database, factory):
    ran: list[int] = []

    def fail() -> None:
        raise ZeroDivisionError

    with factory() as session:
        transaction.on_commit(fail, using=database.alias)
        transaction.on_commit(lambda: ran.append(1), using=database.alias)
        with pytest.raises(ZeroDivisionError):
            session.run_on_commit()
        assert (ran, session.run_on_commit()) == ([], [])


def test_a_session_that_is_open_for_too_long_is_told_and_does_nothing_more(database, make_factory, caplog):
    with caplog.at_level(logging.WARNING, "testdb_app"):
        with make_factory(ownership_timeout="50ms")("slow") as session:
            insert(session, 1)
            waiting = threading.Event()
            while not session._session.is_overdue:
                waiting.wait(0.01)
            with pytest.raises(
                OwnershipTimeoutError, match=r'the session "slow", opened at .* is still open after 0.05 s'
            ) as caught:
                insert(session, 2)
            assert caught.value.opened_at.startswith(__file__)
            with pytest.raises(OwnershipTimeoutError):
                session.run_on_commit()
    assert "is still open after 0.05 s" in caplog.text
    assert database.count("a") == 0


def test_options_that_cannot_be_meant_are_refused(make_factory):
    for wrong in (
        {"isolation": "none"},
        {"statement_timeout": 0},
        {"statement_timeout": "30"},
        {"lock_timeout": "5 minutes"},
        {"lock_timeout": True},
        {"ownership_timeout": -1},
        {"connect_timeout": float("nan")},
        {"databases": ()},
        {"databases": {""}},
    ):
        ((name, _),) = wrong.items()
        with pytest.raises(ConfigurationError, match=f"^{name} must be"):
            make_factory(**wrong)


def test_a_factory_is_changed_by_making_another(database, factory):
    changed = factory.replace(ownership_timeout=5)
    assert (factory.options.ownership_timeout, changed.options.ownership_timeout) == (None, 5)
    assert changed.options.databases == factory.options.databases
    assert TestSessionFactory.__test__ is False


def test_captured_callbacks_and_locks_work_as_in_a_test_case(database, factory):
    ran: list[int] = []
    database.execute("INSERT INTO a VALUES (1)")
    with factory() as session:
        with TestCase.captureOnCommitCallbacks(using=database.alias, execute=True) as callbacks:
            transaction.on_commit(lambda: ran.append(1), using=database.alias)
        assert (len(callbacks), ran) == (1, [1])
        if database.connection.features.has_select_for_update:
            with transaction.atomic(using=database.alias), session.connection.cursor() as cursor:
                cursor.execute("SELECT id FROM a FOR UPDATE")
                assert cursor.fetchall() == [(1,)]
