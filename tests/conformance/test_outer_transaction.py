"""The transaction around tests: everything in it is undone, and what happened to it is told, on every backend."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction
from django.db.transaction import TransactionManagementError

from testdb_app.backends import get_backend
from testdb_app.exceptions import SessionBrokenError, SessionNestingError, TransactionStateError, UnsafeDatabaseError
from testdb_app.transactions import OuterTransaction, connections_kept_open, open_transactions

TABLES = """
CREATE TABLE a (id integer PRIMARY KEY);
CREATE TABLE b (id integer PRIMARY KEY, a_id integer REFERENCES a (id) DEFERRABLE INITIALLY DEFERRED);
"""
Opener = Callable[..., OuterTransaction]


@pytest.fixture
def opener(database: Any) -> Iterator[Opener]:
    database.execute(TABLES)

    def make(owner: str = 'the session "test"') -> OuterTransaction:
        made = OuterTransaction(database.connection, owner, allow=(database.name,))
        made.open()
        return made

    yield make
    database.connection.close()


def insert(database: Any, *numbers: int, table: str = "a") -> None:
    with database.connection.cursor() as cursor:
        for number in numbers:
            cursor.execute(f"INSERT INTO {table} (id) VALUES ({number})")


def test_everything_that_was_written_in_it_is_undone(database, opener):
    outer = opener()
    insert(database, 1)
    with transaction.atomic(using=database.alias):
        insert(database, 2)
    with transaction.atomic(using=database.alias, durable=True):
        insert(database, 3)
    assert outer.find_fault() is None
    assert outer.roll_back() is None
    assert (outer.is_open, outer.roll_back()) == (False, None)
    assert database.count("a") == 0
    assert database.connection.get_autocommit()
    insert(database, 4)
    assert database.count("a") == 1


def test_one_inside_another_is_undone_alone(database, opener):
    outer = opener("outer")
    insert(database, 1)
    inner = opener("inner")
    insert(database, 2)
    assert open_transactions(database.connection) == (outer, inner)
    assert inner.roll_back() is None
    with database.connection.cursor() as cursor:
        cursor.execute("SELECT id FROM a")
        assert cursor.fetchall() == [(1,)]
    assert outer.roll_back() is None
    assert database.count("a") == 0


def test_they_end_last_in_first_out_or_nothing_happens(database, opener):
    outer, inner = opener("scope one"), opener("scope two")
    with pytest.raises(SessionNestingError, match=r"scope one cannot end while scope two.* is open") as caught:
        outer.roll_back()
    assert (caught.value.ending, caught.value.still_open) == ("scope one", "scope two")
    assert inner.find_fault() is None
    assert inner.roll_back() is outer.roll_back() is None


def test_callbacks_on_commit_are_collected_and_go_with_it(database, opener):
    outer = opener()
    called: list[int] = []
    transaction.on_commit(lambda: called.append(1), using=database.alias)
    assert len(database.connection.run_on_commit) == 1
    outer.roll_back()
    assert (called, database.connection.run_on_commit) == ([], [])


def test_who_commits_is_told_whose_transaction_it_is(database, opener):
    outer = opener('the session "checkout"')
    for act in (transaction.commit, transaction.rollback):
        with pytest.raises(TransactionManagementError, match='belongs to the session "checkout"'):
            act(using=database.alias)
    with pytest.raises(TransactionManagementError, match='belongs to the session "checkout"'):
        transaction.set_autocommit(True, using=database.alias)
    outer.roll_back()
    assert not {"close", "validate_no_atomic_block"} & vars(database.connection).keys()
    assert database.connection.execute_wrappers == []


def test_a_commit_by_sql_is_found_out(database, opener):
    outer = opener()
    insert(database, 1)
    with database.connection.cursor() as cursor:
        cursor.execute("COMMIT")
    damage = outer.roll_back()
    assert damage is not None
    assert damage.committed
    assert database.count("a") == 1
    insert(database, 2)


def test_a_commit_by_sql_is_found_out_also_where_another_transaction_has_begun(database, opener):
    outer = opener()
    with database.connection.cursor() as cursor:
        cursor.execute("COMMIT")
        if database.connection.vendor == "sqlite":
            cursor.execute("BEGIN")
    insert(database, 1)
    damage = outer.roll_back()
    assert damage is not None
    assert damage.committed
    assert database.count("a") == 0, "what came after the commit is undone"


def test_a_closed_connection_is_told_with_the_place_and_the_next_one_works(database, opener):
    if database.connection.vendor == "sqlite" and database.connection.is_in_memory_db():
        pytest.skip("Django does not close it")
    outer, inner = opener("outer"), opener("inner")
    database.connection.close()
    assert re.match(r"the connection was closed .*test_outer", str(outer.find_fault()))
    for each in (inner, outer):
        damage = each.roll_back()
        assert damage is not None
        assert "the connection was closed (" in str(damage)
        assert f"{__file__}:" in str(damage)
    insert(database, 1)
    assert database.count("a") == 1


def test_the_connection_can_be_kept_open_for_who_closes_all(database, opener):
    outer = opener()
    insert(database, 1)
    with connections_kept_open():
        for connection in connections.all(initialized_only=True):
            if connection.alias == database.alias:
                connection.close()
    assert outer.find_fault() is None
    assert outer.roll_back() is None


def test_a_failed_statement_is_told_and_the_rest_can_be_undone(database, opener):
    outer = opener()
    inner = opener()
    with pytest.raises(DatabaseError):
        with database.connection.cursor() as cursor:
            cursor.execute("INSERT INTO nothing_of_the_kind VALUES (1)")
    damage = inner.find_fault()
    if database.connection.vendor == "postgresql":
        assert damage is not None
        assert "INSERT INTO nothing_of_the_kind" in str(damage)
        assert not damage.is_fatal
    else:
        assert damage is None, "SQLite goes on after a statement that failed"
    inner.roll_back()
    assert outer.find_fault() is None
    insert(database, 1)
    assert outer.roll_back() is None


def test_a_block_that_was_entered_by_hand_and_not_left_is_told(database, opener):
    outer = opener()
    atomic = transaction.atomic(using=database.alias)
    atomic.__enter__()
    insert(database, 1)
    assert "was entered in it, and not left" in str(outer.roll_back())
    assert database.count("a") == 0
    assert not database.connection.in_atomic_block


def test_a_dangling_reference_is_told_and_changes_nothing(database, opener):
    outer = opener()
    assert outer.find_dangling_rows() is None
    with database.connection.cursor() as cursor:
        cursor.execute("INSERT INTO b VALUES (1, 77)")
    damage = outer.find_dangling_rows()
    assert damage is not None
    assert "deferred constraint" in str(damage)
    assert outer.find_fault() is None
    insert(database, 77)
    assert outer.find_dangling_rows() is None
    assert outer.roll_back() is None


def test_a_database_that_is_no_test_database_is_refused(database):
    database.execute(TABLES)
    outer = OuterTransaction(database.connection, "the session", allow=())
    with pytest.raises(UnsafeDatabaseError):
        outer.open()
    assert not outer.is_open
    assert not database.connection.in_atomic_block


def test_a_connection_with_autocommit_off_is_refused(database):
    database.connection.set_autocommit(False)
    with pytest.raises(TransactionStateError, match="Refusing to open the session"):
        OuterTransaction(database.connection, "the session", allow=(database.name,)).open()
    database.connection.rollback()
    database.connection.set_autocommit(True)


@pytest.mark.postgresql
def test_a_session_that_the_server_has_ended_is_told_and_the_next_one_works(database, opener):
    if database.connection.vendor == "sqlite":
        pytest.skip("there is no server")
    outer = opener()
    insert(database, 1)
    pid = database.connection.connection.info.backend_pid
    with database.superuser() as session:
        session.execute("SELECT pg_terminate_backend(%s)", [pid])
        while session.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchall():
            pass
    with pytest.raises(DatabaseError):
        insert(database, 2)
    assert "the server or the network has ended" in str(outer.roll_back())
    insert(database, 3)
    assert database.count("a") == 1


@pytest.mark.postgresql
def test_a_session_that_the_server_has_ended_unnoticed_is_told_and_replaced(database, opener):
    if database.connection.vendor == "sqlite":
        pytest.skip("there is no server")
    outer = opener()
    insert(database, 1)
    end_session(database)
    assert "the server or the network has ended" in str(outer.roll_back())
    database.connection.ensure_connection()
    end_session(database)
    opener().roll_back()
    assert database.count("a") == 0


def end_session(database: Any) -> None:
    pid = database.connection.connection.info.backend_pid
    with database.superuser() as session:
        session.execute("SELECT pg_terminate_backend(%s)", [pid])
        while session.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchall():
            pass


@pytest.mark.postgresql
def test_limits_end_with_it(database, opener):
    if database.connection.vendor == "sqlite":
        pytest.skip("it has no limits of a transaction")

    def shown() -> str:
        with database.connection.cursor() as cursor:
            cursor.execute(
                "SELECT concat_ws(' ', current_setting('statement_timeout'), current_setting('lock_timeout'))"
            )
            return str(cursor.fetchone()[0])

    before = shown()
    outer = OuterTransaction(
        database.connection, "outer", allow=(database.name,), limits={"statement_timeout": 1500, "lock_timeout": 2000}
    )
    outer.open()
    assert shown() == "1500ms 2s"
    inner = OuterTransaction(database.connection, "inner", allow=(database.name,), limits={"statement_timeout": 7000})
    inner.open()
    assert shown() == "7s 2s"
    inner.roll_back()
    assert shown() == "1500ms 2s"
    outer.roll_back()
    assert shown() == before


def test_none_is_opened_in_a_transaction_that_has_failed(database, opener):
    with pytest.raises(ZeroDivisionError):
        with transaction.atomic(using=database.alias):
            insert(database, 1)
            transaction.set_rollback(True, using=database.alias)
            with pytest.raises(
                SessionBrokenError, match='the session "test" cannot be opened: the transaction around it'
            ):
                opener()
            raise ZeroDivisionError
    assert open_transactions(database.connection) == ()


def test_who_has_committed_is_named(database, opener):
    outer = opener()
    with database.connection.cursor() as cursor:
        cursor.execute("COMMIT")
    assert f"the transaction was ended by COMMIT ({__file__}:" in str(outer.find_fault())
    outer.roll_back()


def test_an_interrupted_rollback_leaves_nothing_open_and_the_next_one_works(database, opener, monkeypatch):
    if database.connection.vendor == "sqlite" and database.connection.is_in_memory_db():
        pytest.skip("Django does not close it")
    outer = opener()
    insert(database, 1)

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    backend = type(get_backend(database.connection))
    with monkeypatch.context() as patch:
        patch.setattr(backend, "undo", interrupt)
        with pytest.raises(KeyboardInterrupt):
            outer.roll_back()
    assert (outer.is_open, database.connection.in_atomic_block) == (False, False)
    assert database.count("a") == 0
    opener().roll_back()
