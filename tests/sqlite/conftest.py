"""Fixtures: SQLite databases in files and in memory, apart from the project's default one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sqlite.database import KnownDatabase, SQLiteDatabase, close_other_connections


@pytest.fixture(autouse=True)
def _databases_are_allowed(django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield
    close_other_connections()


@pytest.fixture
def make_database() -> Iterator[Callable[..., SQLiteDatabase]]:
    """Return a function that opens a database; all are closed after the test."""
    made: list[SQLiteDatabase] = []

    def make(name: str | Path = ":memory:", **settings: Any) -> SQLiteDatabase:
        made.append(SQLiteDatabase(name, **settings))
        return made[-1]

    yield make
    for database in made:
        database.close()


@pytest.fixture
def memory(make_database: Callable[..., SQLiteDatabase]) -> SQLiteDatabase:
    """An empty in-memory database."""
    return make_database()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of :func:`file` is."""
    return tmp_path / "shop.sqlite3"


@pytest.fixture
def file(make_database: Callable[..., SQLiteDatabase], path: Path) -> SQLiteDatabase:
    """An empty database in a file."""
    return make_database(path)


@pytest.fixture(params=["memory", "file"])
def database(request: pytest.FixtureRequest) -> SQLiteDatabase:
    """An empty database, in memory and in a file."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def make_known() -> Iterator[Callable[..., KnownDatabase]]:
    """Return a function that opens a database under an alias; all are closed after the test."""
    made: list[KnownDatabase] = []

    def make(name: str | Path = ":memory:", alias: str = "shop", **settings: Any) -> KnownDatabase:
        made.append(KnownDatabase(name, alias, **settings))
        return made[-1]

    yield make
    for database in reversed(made):
        database.close()


@pytest.fixture(params=["memory", "shared cache", "file"])
def known(request: pytest.FixtureRequest, make_known: Callable[..., KnownDatabase], path: Path) -> KnownDatabase:
    """An empty database under the alias ``shop``: in memory, in a shared cache in memory, and in a file."""
    shared = f"file:shop_{id(make_known)}?mode=memory&cache=shared"
    return make_known({"memory": ":memory:", "shared cache": shared, "file": path}[request.param])
