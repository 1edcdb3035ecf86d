"""Deleting in the order of the graph never violates a key: on real schemas, and on random ones made by hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import psycopg
import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from psycopg import sql

from testdb_app.graph import DependencyGraph
from testdb_app.schema import QualifiedName
from tests.scratch import ScratchDatabase


def delete_statement(group: tuple[QualifiedName, ...]) -> sql.Composed:
    """Write one statement that empties a group, with nothing of the package's own SQL."""
    deletes = [sql.SQL("DELETE FROM ONLY {}").format(sql.Identifier(name.schema, name.name)) for name in group]
    *others, last = deletes
    if not others:
        return sql.Composed([last])
    expressions = [sql.SQL("d{} AS ({})").format(sql.SQL(str(number)), delete) for number, delete in enumerate(others)]
    return sql.SQL("WITH {} {}").format(sql.SQL(", ").join(expressions), last)


def test_deleting_from_a_real_schema_in_the_order_of_the_graph_violates_no_key(real: ScratchDatabase) -> None:
    groups = real.graph().deletion_groups()
    with real.connect() as connection, connection.transaction():
        # Deferrable keys too are checked at the end of each statement.
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for group in groups:
            connection.execute(delete_statement(group))
        raise psycopg.Rollback


def test_deleting_in_the_opposite_order_violates_keys_so_that_the_test_above_can_fail(
    make_real: Callable[[str], ScratchDatabase],
) -> None:
    real = make_real("pagila")
    groups = real.graph().deletion_groups()
    with (
        real.connect() as connection,
        pytest.raises(psycopg.IntegrityError, match="violates"),
        connection.transaction(),
    ):
        for group in reversed(groups):
            connection.execute(delete_statement(group))


@st.composite
def schemas(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, str]]]:
    """Draw a number of tables and foreign keys between any of them: chains, self-references, cycles, parallel keys."""
    tables = draw(st.integers(1, 8))
    number = st.integers(0, tables - 1)
    actions = st.sampled_from(["NO ACTION", "RESTRICT"])
    return tables, draw(st.lists(st.tuples(number, number, actions), max_size=14))


def make_tables(execute: Callable[[str], Any], tables: int, keys: list[tuple[int, int, str]]) -> None:
    """Make the tables with rows whose keys are all set, none deferrable: first the rows, then the keys."""
    for table in range(tables):
        columns = "".join(f", k{n} integer NOT NULL" for n, key in enumerate(keys) if key[0] == table)
        values = "".join(f", 1 + (i * {n + 1} + {table}) % 3" for n, key in enumerate(keys) if key[0] == table)
        execute(f"CREATE TABLE t{table} (id integer PRIMARY KEY{columns})")
        execute(f"INSERT INTO t{table} SELECT i{values} FROM generate_series(1, 3) i")
    for n, (table, referenced, action) in enumerate(keys):
        execute(f"ALTER TABLE t{table} ADD FOREIGN KEY (k{n}) REFERENCES t{referenced} ON DELETE {action}")


@pytest.fixture
def execute(scratch: ScratchDatabase) -> Callable[[str], Any]:
    def run(statement: str) -> None:
        with scratch.connection.cursor() as cursor:
            cursor.execute(statement)

    return run


_ON_THE_SERVER = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@_ON_THE_SERVER
@given(schemas())
def test_deleting_from_a_random_schema_in_the_order_of_the_graph_violates_no_key(
    scratch: ScratchDatabase, execute: Callable[[str], Any], drawn: tuple[int, list[tuple[int, int, str]]]
) -> None:
    with transaction.atomic(scratch.alias):
        make_tables(execute, *drawn)
        schema = scratch.resetter().backend.read_schema(scratch.connection)
        assert len(schema.foreign_keys) == len(drawn[1])
        for group in DependencyGraph.from_schema(schema).deletion_groups():
            execute(delete_statement(group).as_string())
        transaction.set_rollback(True, scratch.alias)


@_ON_THE_SERVER
@given(schemas())
def test_a_random_schema_is_reset(
    scratch: ScratchDatabase, execute: Callable[[str], Any], drawn: tuple[int, list[tuple[int, int, str]]]
) -> None:
    with transaction.atomic(scratch.alias):
        make_tables(execute, *drawn)
        report = scratch.reset(within_transaction=True, strategy="delete")
        assert report.rows == 3 * drawn[0]
        with scratch.connection.cursor() as cursor:
            for table in range(drawn[0]):
                cursor.execute(f"SELECT EXISTS (SELECT FROM t{table})")
                assert cursor.fetchone() == (False,)
        transaction.set_rollback(True, scratch.alias)
