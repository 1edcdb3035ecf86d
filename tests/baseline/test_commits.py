"""Whether anybody has committed, asked after every test: in transactions and outside, and where what was prepared is gone.

Ids are those of the whole server, where other tests run: only what has to be told can be asserted.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import Error, transaction

from testdb_app.backends.postgresql import commits
from testdb_app.backends.postgresql.commits import (
    check_for_commits,
    find_written,
    is_schema_same,
    is_unwritten,
    note_start,
)
from testdb_app.backends.postgresql.connection import Pipeline
from tests.scratch import connect_as_superuser


def execute(connection: Any, sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def has_committed(connection: Any, since: object) -> bool:
    """Look twice: what is prepared is used the second time."""
    found = [check_for_commits(connection, since)[1] for _ in range(2)]
    return all(found)


def wait_for_the_others_to_go(database: Any) -> None:
    with connect_as_superuser("postgres") as superuser:
        query = (
            f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database.name}' AND backend_type LIKE 'client%'"
        )
        while superuser.execute(query).fetchone() > (1,):
            time.sleep(0.01)


@pytest.mark.parametrize("forgets", ["SELECT 1", "DISCARD ALL", "DEALLOCATE ALL"])
def test_a_commit_is_told_whatever_became_of_what_was_prepared(scratch: Any, forgets: str) -> None:
    scratch.execute("CREATE TABLE a (id integer)")
    before, _ = check_for_commits(scratch.connection, None)
    execute(scratch.connection, "INSERT INTO a VALUES (1)")
    execute(scratch.connection, forgets)
    assert has_committed(scratch.connection, before)


def test_a_look_in_a_transaction_leaves_it_usable_and_does_not_take_its_id_for_committed(scratch: Any) -> None:
    scratch.execute("CREATE TABLE a (id integer)")
    check_for_commits(scratch.connection, None)
    execute(scratch.connection, "DEALLOCATE ALL")
    with transaction.atomic(scratch.alias):
        before, _ = check_for_commits(scratch.connection, None)
        execute(scratch.connection, "INSERT INTO a VALUES (1)")
        check_for_commits(scratch.connection, before)
        execute(scratch.connection, "INSERT INTO a VALUES (2)")
    assert scratch.count("a") == 2
    assert has_committed(scratch.connection, before)


def test_a_lost_connection_is_djangos_error_and_the_next_one_is_asked(scratch: Any) -> None:
    before, _ = check_for_commits(scratch.connection, None)
    check_for_commits(scratch.connection, before)
    with connect_as_superuser("postgres") as superuser:
        superuser.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{scratch.name}'")
    with pytest.raises(Error):
        check_for_commits(scratch.connection, before)
    # psycopg's own error would go past whoever handles Django's.
    scratch.connection.close()
    scratch.execute("CREATE TABLE a (id integer)")
    assert has_committed(scratch.connection, before)


def test_what_is_committed_in_another_database_is_not_told_and_what_is_in_this_one_is(
    scratch: Any, make_scratch: Any
) -> None:
    elsewhere = make_scratch("elsewhere")
    elsewhere.execute("CREATE TABLE b (id integer)")
    scratch.execute(
        "CREATE TABLE a (id integer); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    position, _ = check_for_commits(scratch.connection, None)
    for _ in range(3):
        elsewhere.execute("INSERT INTO b VALUES (1)")
        position, may_differ = check_for_commits(scratch.connection, position)
        assert not may_differ
    own = (
        "INSERT INTO a VALUES (1)",
        "UPDATE a SET id = 2",
        "TRUNCATE a",
        "CREATE TRIGGER t BEFORE INSERT ON a EXECUTE FUNCTION f()",
    )
    for statement in own:
        before = position
        execute(scratch.connection, statement)
        position, may_differ = check_for_commits(scratch.connection, before)
        assert may_differ, statement
        assert is_schema_same(before, position) == (statement[:6] in {"INSERT", "UPDATE"})
    # By a session that nobody here knows of.
    scratch.execute("INSERT INTO a VALUES (3)")
    assert check_for_commits(scratch.connection, position)[1]


def test_a_transaction_that_was_open_while_very_many_ids_were_used_is_found_when_it_commits(
    scratch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch.execute("CREATE TABLE a (id integer)")
    monkeypatch.setattr(commits, "_MOST", 0)
    position, _ = check_for_commits(scratch.connection, None)
    with scratch.connect() as other:
        other.execute("BEGIN; INSERT INTO a VALUES (1)")
        scratch.execute("INSERT INTO a VALUES (2)")
        position, may_differ = check_for_commits(scratch.connection, position)
        assert may_differ
        other.execute("COMMIT")
    assert check_for_commits(scratch.connection, position)[1]


Arrange = Callable[[Callable[[], object]], None]


@pytest.fixture
def before_each_reading(monkeypatch: pytest.MonkeyPatch) -> Arrange:
    """Have something done before each reading of the counters, when the next id has been read already."""
    run = Pipeline.run

    def arrange(do: Callable[[], object]) -> None:
        def do_and_run(self: Pipeline, connection: Any, *batches: Any) -> Any:
            do()
            return run(self, connection, *batches)

        monkeypatch.setattr(Pipeline, "run", do_and_run)

    return arrange


def test_a_commit_in_another_database_between_the_queries_does_not_hide_which_tables_were_written(
    scratch: Any, make_scratch: Any, before_each_reading: Arrange
) -> None:
    elsewhere = make_scratch("elsewhere")
    elsewhere.execute("CREATE TABLE b (id integer)")
    scratch.execute("CREATE TABLE a (id integer); CREATE TABLE c (id integer)")
    table = scratch.value("SELECT 'a'::regclass::oid::bigint")
    # A session that still ends is one more in the first position, and then everything may have been written.
    wait_for_the_others_to_go(scratch)
    before_each_reading(lambda: elsewhere.execute("INSERT INTO b VALUES (1)"))
    position, _ = check_for_commits(scratch.connection, None)
    for _ in range(3):
        position, may_differ = check_for_commits(scratch.connection, position)
        assert not may_differ
    for _ in range(3):
        before = position
        execute(scratch.connection, "INSERT INTO a VALUES (1)")
        position, may_differ = check_for_commits(scratch.connection, before)
        assert may_differ
        assert find_written(before, position) == {table}


@pytest.mark.parametrize("reading", [1, 2])
def test_a_commit_in_this_database_between_the_queries_is_found_by_this_check_or_the_next(
    scratch: Any, before_each_reading: Arrange, reading: int
) -> None:
    scratch.execute("CREATE TABLE a (id integer); CREATE TABLE c (id integer)")
    table = scratch.value("SELECT 'a'::regclass::oid::bigint")
    wait_for_the_others_to_go(scratch)
    position, _ = check_for_commits(scratch.connection, None)
    readings: list[int] = []

    def commit() -> None:
        """Commit in another session of this process, and wait until it has gone."""
        readings.append(1)
        if len(readings) == reading:
            other = scratch.connection.copy()
            execute(other, "INSERT INTO a VALUES (1)")
            other.close()
            wait_for_the_others_to_go(scratch)

    before_each_reading(commit)
    found = []
    for _ in range(2):
        execute(scratch.connection, "INSERT INTO c VALUES (1)")
        before = position
        position, may_differ = check_for_commits(scratch.connection, before)
        assert may_differ
        found.append(find_written(before, position))
    assert len(readings) > reading
    assert any(written is None or table in written for written in found)


def test_a_session_that_came_and_went_without_a_write_leaves_a_database_unwritten(
    scratch: Any, make_scratch: Any
) -> None:
    elsewhere = make_scratch("elsewhere")
    scratch.execute("CREATE TABLE a (id integer)")
    wait_for_the_others_to_go(scratch)
    start = note_start(scratch.connection)
    elsewhere.execute("CREATE TABLE b (id integer)")
    assert scratch.count("a") == 0
    wait_for_the_others_to_go(scratch)
    assert is_unwritten(scratch.connection, start)
    scratch.execute("INSERT INTO a VALUES (1)")
    wait_for_the_others_to_go(scratch)
    assert not is_unwritten(scratch.connection, start)


def test_a_sequence_that_was_only_put_elsewhere_is_no_unwritten_database(scratch):
    """``pg_sequences`` shows no value of a sequence that is not called, wherever it stands."""
    scratch.execute("CREATE SEQUENCE s")
    start = note_start(scratch.connection)
    with scratch.connect() as other:
        other.execute("SELECT setval('s', 5, false)")
    assert not is_unwritten(scratch.connection, start)


def test_a_lower_id_is_of_another_server_where_anything_may_have_been_committed(scratch: Any) -> None:
    here = note_start(scratch.connection)
    elsewhere = dataclasses.replace(here, next=here.next + 1_000_000, counted=None)
    assert check_for_commits(scratch.connection, elsewhere)[1]
