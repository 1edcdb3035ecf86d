"""Databases with a real schema: loaded and filled once, copied for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.real.loading import NAMES, load, read_content, skip_without
from tests.real.rows import RowWriter
from tests.scratch import ScratchDatabase, connect_as_superuser, is_postgresql

ROWS = 4_000
"""About how many rows are added to each schema, over all of its tables."""


@pytest.fixture(scope="package")
def filled_database(django_db_blocker: Any) -> Iterator[Callable[[str], ScratchDatabase]]:
    """Return a function that gives the database with a schema, its rows and some thousand more: to be copied."""
    made: dict[str, ScratchDatabase] = {}

    def get(name: str) -> ScratchDatabase:
        if not is_postgresql():
            pytest.skip("needs PostgreSQL; this run is on SQLite")
        if name not in made:
            with connect_as_superuser("postgres") as connection:
                skip_without(name, connection)
            database = ScratchDatabase(f"filled_{name}")
            database.create()
            made[name] = database
            load(name, database)
            fill(database)
        return made[name]

    with django_db_blocker.unblock():
        yield get
        for database in made.values():
            database.drop()


def fill(database: ScratchDatabase) -> None:
    """Add rows, and see that they are what the tests need: many, in nearly all tables, with every key satisfied."""
    tables = len(read_content(database).rows)
    with database.superuser() as connection:
        writer = RowWriter(connection)
        writer.fill(max(12, ROWS // tables), skip=frozenset({"django_migrations"}))
        assert writer.count_orphans() == 0
        connection.execute("ANALYZE")
    content = read_content(database)
    assert sum(content.rows.values()) > 2_500
    assert len(content.filled) > 0.85 * tables
    assert len(content.moved) == len(content.sequences)


@pytest.fixture(params=NAMES)
def real_name(request: pytest.FixtureRequest) -> str:
    """The name of each real schema in turn."""
    return str(request.param)


@pytest.fixture
def make_real(
    make_scratch: Callable[..., ScratchDatabase], filled_database: Callable[[str], ScratchDatabase]
) -> Callable[[str], ScratchDatabase]:
    """Return a function that makes a filled database with a real schema, for one test."""
    return lambda name: make_scratch(template=filled_database(name).name)


@pytest.fixture
def real(make_real: Callable[[str], ScratchDatabase], real_name: str) -> ScratchDatabase:
    """A filled database with each real schema in turn."""
    return make_real(real_name)
