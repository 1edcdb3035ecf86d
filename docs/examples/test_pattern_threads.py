"""Threads: each has a session of its own, which sees what is committed, and has to be closed by the thread."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, connections

from testdb_app.demo.models import Genre


class Sessions(ThreadPoolExecutor):
    """Threads that close their sessions: an open one would keep the test database from being dropped."""

    def submit(self, work: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        def run() -> Any:
            try:
                return work(*arguments, **options)
            finally:
                connections.close_all()

        return super().submit(run)


@pytest.fixture
def sessions(reset_db: None) -> Iterator[Sessions]:
    """Threads for a test that commits. All have ended before the reset begins."""
    if connection.vendor == "sqlite":
        pytest.skip("a database in memory has one session")
    with Sessions() as threads:
        yield threads


def test_another_session_sees_the_row(sessions: Sessions) -> None:
    Genre.objects.create(name="Drama")
    assert sessions.submit(Genre.objects.count).result() == 12


def test_rows_of_another_session_are_taken_back(sessions: Sessions) -> None:
    assert Genre.objects.count() == 11
    sessions.submit(Genre.objects.create, name="Drama").result()
    assert Genre.objects.count() == 12
