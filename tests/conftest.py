"""Fixtures of all tests: scratch databases on the server that the run is on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.nightly import is_nightly
from tests.scratch import ScratchDatabase, ScratchFile, is_postgresql

TESTS = Path(__file__).parent

settings.register_profile("gate", derandomize=True)
settings.register_profile("long", derandomize=False, max_examples=5_000, deadline=None)
settings.load_profile("gate")  # --hypothesis-profile is read later, and overrides it


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what is left to the night. Tests that share a run cost nothing beside the first of them."""
    shares_a_run = "played" in getattr(item, "fixturenames", ())
    if not shares_a_run and is_nightly(item.path.relative_to(TESTS).as_posix(), item.name):
        item.add_marker("nightly")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what needs PostgreSQL in a run on SQLite, which has tests of its own for what it has of the thing."""
    if is_postgresql():
        return
    needs_server = [
        item
        for item in items
        if "make_scratch" in getattr(item, "fixturenames", ()) or item.get_closest_marker("postgresql")
    ]
    if needs_server:
        config.hook.pytest_deselected(items=needs_server)
        items[:] = [item for item in items if item not in set(needs_server)]


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ScratchDatabase | ScratchFile]:
    """An empty database of the vendor that the run is on, for the tests that every backend must pass."""
    if is_postgresql():
        yield request.getfixturevalue("scratch")
        return
    made = ScratchFile(tmp_path / "scratch.sqlite3")
    made.create()
    with request.getfixturevalue("django_db_blocker").unblock():
        yield made
        made.drop()


# The tests that another test runs are part of that one.
_IS_RUN_BY_A_TEST = "PYTEST_CURRENT_TEST" in os.environ


@contextmanager
def _share_the_server(*, alone: bool) -> Iterator[None]:
    """Hold a lock: *alone*, or beside all others who do not ask for that. Who waits is next."""
    if _IS_RUN_BY_A_TEST:
        yield
        return
    fcntl = pytest.importorskip("fcntl")
    folder, name = Path(tempfile.gettempdir()), f"testproject-tests-{os.getuid()}"
    with (folder / f"{name}.queue").open("a") as queue, (folder / f"{name}.lock").open("a") as lock:
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield


@pytest.fixture
def make_scratch(request: pytest.FixtureRequest, django_db_blocker: Any) -> Iterator[Callable[..., ScratchDatabase]]:
    """Return a function that makes scratch databases; all are dropped after the test.

    A test with the mark ``alone`` changes something for the whole server: no other that has a scratch database runs meanwhile.
    """
    made: list[ScratchDatabase] = []

    def make(alias: str = "scratch", **options: Any) -> ScratchDatabase:
        database = ScratchDatabase(alias, **options)
        made.append(database)
        database.create()
        return database

    alone = request.node.get_closest_marker("alone") is not None
    with _share_the_server(alone=alone), django_db_blocker.unblock():
        yield make
        for database in reversed(made):
            database.drop()


@pytest.fixture
def scratch(make_scratch: Callable[..., ScratchDatabase]) -> ScratchDatabase:
    """An empty PostgreSQL database, owned by an ordinary role, under the alias ``scratch``."""
    return make_scratch()
