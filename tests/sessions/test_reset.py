"""Sessions with real commits, on every backend: seen from outside, and reset at the end."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import transaction

from testdb_app.database_setup import prepare_test_database
from testdb_app.exceptions import (
    LockTimeoutError,
    SessionLeakError,
    SessionNestingError,
    TransactionStateError,
    UnsafeSessionError,
)
from tests.sessions.conftest import insert, numbers


@pytest.fixture
def resetting(database: Any, make_factory: Any) -> Any:
    database.execute("INSERT INTO a VALUES (100)")
    return make_factory(isolation="reset")


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_work_is_committed_and_taken_back_at_the_end(database, resetting, error):
    def body() -> None:
        with resetting("committed") as session:
            insert(session, 1)
            with transaction.atomic(using=database.alias):
                insert(session, 2)
            with session.connection.cursor() as cursor:
                cursor.execute("BEGIN")
                cursor.execute("INSERT INTO a VALUES (3)")
                cursor.execute("COMMIT")
                cursor.execute("DELETE FROM a WHERE id = 100")
            assert database.count("a") == 3
            if error:
                raise error

    if error is None:
        body()
    else:
        with pytest.raises(error):
            body()
    assert numbers(database.connection) == [100]


def test_what_was_not_committed_is_undone_too(database, resetting):
    with resetting() as session:
        atomic = transaction.atomic(using=database.alias)
        atomic.__enter__()
        insert(session, 1)
    assert not database.connection.in_atomic_block
    assert numbers(database.connection) == [100]
    with resetting() as session:
        transaction.set_autocommit(False, using=database.alias)
        insert(session, 1)
    assert database.connection.get_autocommit()
    assert numbers(database.connection) == [100]


def test_commits_run_their_callbacks(database, resetting):
    ran = []
    with resetting() as session:
        with session.savepoint():
            transaction.on_commit(lambda: ran.append(1), using=database.alias)
            assert ran == []
        assert ran == [1]
        assert session.run_on_commit() == []


def test_a_session_that_is_rolled_back_may_be_inside(database, resetting, make_factory):
    with resetting() as outer:
        insert(outer, 1)
        with make_factory()() as inner:
            insert(inner, 2)
            assert database.count("a") == 2
        assert numbers(outer.connection) == [1, 100]
    assert numbers(database.connection) == [100]


def test_it_is_not_ended_before_one_inside_it(resetting, make_factory):
    outer, inner = resetting("outer").open(), make_factory()("inner").open()
    with pytest.raises(SessionNestingError, match='"outer" cannot end while the session "inner"'):
        outer.close()
    inner.close()
    outer.close()


def test_it_is_refused_where_it_could_commit_nothing_or_another_one_resets(database, resetting, make_factory):
    with make_factory()("around"):
        with pytest.raises(SessionNestingError, match=r'inside the session "around" \(MainThread'):
            resetting().open()
    with transaction.atomic(using=database.alias):
        with pytest.raises(TransactionStateError, match="with isolation='reset'"):
            resetting().open()
    with resetting("first"):
        with pytest.raises(SessionNestingError, match=r'"second" cannot be opened .* while the session "first"'):
            resetting("second").open()
        errors: list[Any] = []

        def open_another() -> None:
            try:
                resetting("third").open()
            except SessionNestingError as error:
                errors.append(error)
            finally:
                database.connection.close()

        thread = threading.Thread(target=open_another)
        thread.start()
        thread.join()
        assert [error.still_open for error in errors] == ['the session "first"']


def test_a_database_that_is_no_test_database_is_refused_before_anything_is_written(database, make_factory):
    with pytest.raises(UnsafeSessionError):
        make_factory(isolation="reset", allow_database=())().open()


def test_what_a_rolled_back_session_has_committed_is_taken_back_where_there_is_a_baseline(database, make_factory):
    prepare_test_database(database.alias, allow_database=(database.name,))
    with pytest.raises(SessionLeakError, match="A reset to the baseline has taken it back"):
        with make_factory()("raw") as session:
            insert(session, 1)
            with session.connection.cursor() as cursor:
                cursor.execute("COMMIT")
            insert(session, 2)
    assert database.count("a") == 0


def test_what_an_inner_session_has_committed_is_told_by_both_and_taken_back(database, make_factory):
    prepare_test_database(database.alias, allow_database=(database.name,))
    factory = make_factory()
    with pytest.raises(
        SessionLeakError, match=r'in the session "inner".*The transaction around it has ended too'
    ) as caught:
        with factory("outer") as outer:
            insert(outer, 1)
            with factory("inner") as inner:
                with inner.connection.cursor() as cursor:
                    cursor.execute("COMMIT")
    assert 'SessionLeakError: Something was committed in the session "outer"' in caught.value.__notes__[0]
    assert "taken it back" in caught.value.__notes__[0]
    assert database.count("a") == 0


@pytest.mark.postgresql
def test_a_writer_elsewhere_that_is_left_open_is_told_and_a_reader_is_none(scratch, make_factory, settings):
    """What another session has not committed would survive the reset, and appear when that session commits."""
    settings.TESTDB = {"LOCK_TIMEOUT": 0.3}
    factory = make_factory(isolation="reset")
    with factory():
        pass
    with scratch.connect(application_name="elsewhere") as other:
        other.execute("BEGIN; SELECT * FROM a")
        with factory() as session:
            insert(session, 1)
        assert scratch.count("a") == 0
        other.execute("INSERT INTO a VALUES (5)")
        with pytest.raises(LockTimeoutError, match="elsewhere") as caught:
            with factory("blocked") as session:
                insert(session, 1)
        assert caught.value.blockers[0].pid == other.info.backend_pid
        other.execute("ROLLBACK")
    with factory() as session:
        assert numbers(session.connection) == [1], "it could not be taken back"
    assert scratch.count("a") == 0
