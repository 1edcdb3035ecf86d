"""Libpq's pipeline mode below the driver's cursors: large messages, errors, and a connection that is as usable afterwards."""

from __future__ import annotations

import pytest
from django.db import DatabaseError

from testdb_app.backends.postgresql.connection import Command, Pipeline


@pytest.fixture
def connection(scratch):
    scratch.connection.ensure_connection()
    return scratch.connection


def test_messages_and_answers_of_many_megabytes_pass_both_ways_at_once(connection):
    pipeline = Pipeline()
    text = "x" * 2_000_000
    commands = [Command(f"SELECT '{text}', {number}") for number in range(4)]
    results = pipeline.run(connection, commands, [Command("SELECT $1::text", (text,))])
    assert [result.rows[0][0] == text for result in results] == [True] * 5
    assert [result.rows[0][1] for result in results[:4]] == ["0", "1", "2", "3"]


def test_an_error_skips_the_rest_of_its_batch_alone_and_is_raised_as_djangos(connection):
    connection.cursor().execute("CREATE TABLE t (id int)")
    pipeline = Pipeline()
    insert = [Command(f"INSERT INTO t VALUES ({number})") for number in range(3)]
    with pytest.raises(DatabaseError, match="division by zero") as raised:
        pipeline.run(connection, [insert[0]], [insert[1], Command("SELECT 1 / 0"), insert[1]], [insert[2]])
    assert raised.value.__cause__.sqlstate == "22012"
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM t ORDER BY id")
        assert cursor.fetchall() == [(0,), (2,)]


def test_what_comes_again_is_prepared_and_null_passes_both_ways(connection):
    pipeline = Pipeline()
    command = Command("SELECT $1::int + 1, $2::text", ("41", None))
    for _ in range(3):
        (result,) = pipeline.run(connection, [command])
        assert result.rows == [("42", None)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), bool_and(NOT from_sql) FROM pg_prepared_statements")
        assert cursor.fetchone() == (1, True)
        cursor.execute("DEALLOCATE ALL")
    with pytest.raises(DatabaseError):
        pipeline.run(connection, [command])
    (result,) = pipeline.run(connection, [command])
    assert result.rows == [("42", None)]


def test_a_session_that_is_ended_meanwhile_is_an_error_and_no_endless_wait(connection):
    with pytest.raises(DatabaseError):
        Pipeline().run(connection, [Command("SELECT pg_terminate_backend(pg_backend_pid())"), Command("SELECT 1")])
    assert not connection.is_usable()
    connection.close()


def test_rows_changed_are_counted(connection):
    connection.cursor().execute("CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 7)")
    (result,) = Pipeline().run(connection, [Command("DELETE FROM t WHERE id > 2")])
    assert (result.rows, result.row_count) == (None, 5)
