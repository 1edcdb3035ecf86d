"""Factories of sessions on a scratch database, and a look at it from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections

from testdb_app.sessions import TestSessionFactory
from testdb_app.sessions.registry import open_sessions
from testdb_app.transactions import open_transactions

TABLES = """
CREATE TABLE a (id integer PRIMARY KEY);
CREATE TABLE b (id integer PRIMARY KEY, a_id integer REFERENCES a (id) DEFERRABLE INITIALLY DEFERRED);
"""
MakeFactory = Callable[..., TestSessionFactory]


@pytest.fixture
def make_factory(database: Any) -> Iterator[MakeFactory]:
    """Make factories for the scratch database, which has the tables a and b. Afterwards nothing may be left open."""
    database.execute(TABLES)
    made: list[TestSessionFactory] = []

    def make(**options: Any) -> TestSessionFactory:
        factory = TestSessionFactory(**{"databases": database.alias, "allow_database": database.name} | options)
        made.append(factory)
        return factory

    yield make
    for factory in made:
        factory.close()
    left = open_sessions()
    assert left == []
    assert open_transactions(database.connection) == ()
    assert not database.connection.in_atomic_block
    assert database.connection.execute_wrappers == []
    assert set(connections) >= {database.alias}
    assert not [name for name in connections if "independent" in name]


@pytest.fixture
def factory(make_factory: MakeFactory) -> TestSessionFactory:
    """A factory without limits."""
    return make_factory()


def insert(session: Any, *numbers: int, table: str = "a") -> None:
    """Write rows over the session's connection."""
    with session.connection.cursor() as cursor:
        for number in numbers:
            cursor.execute(f"INSERT INTO {table} (id) VALUES ({number})")


def numbers(connection: Any, table: str = "a") -> list[int]:
    """Read the rows that *connection* sees."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {table} ORDER BY id")
        return [row[0] for row in cursor.fetchall()]
