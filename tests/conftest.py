"""Fixtures of all tests: scratch databases on the server that the run is on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.scratch import ScratchDatabase, is_postgresql


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deselect what needs PostgreSQL in a run on SQLite, which has the same tests where it has the thing."""
    if is_postgresql():
        return
    for item in items:
        if "scratch" in getattr(item, "fixturenames", ()) or item.get_closest_marker("postgresql"):
            item.add_marker(pytest.mark.skip(reason="needs PostgreSQL; this run is on SQLite"))


@pytest.fixture
def make_scratch(django_db_blocker: Any) -> Iterator[Callable[..., ScratchDatabase]]:
    """Return a function that makes scratch databases; all are dropped after the test."""
    made: list[ScratchDatabase] = []

    def make(alias: str = "scratch", **options: Any) -> ScratchDatabase:
        database = ScratchDatabase(alias, **options)
        made.append(database)
        database.create()
        return database

    with django_db_blocker.unblock():
        yield make
        for database in reversed(made):
            database.drop()


@pytest.fixture
def scratch(make_scratch: Callable[..., ScratchDatabase]) -> ScratchDatabase:
    """An empty PostgreSQL database, owned by an ordinary role, under the alias ``scratch``."""
    return make_scratch()
