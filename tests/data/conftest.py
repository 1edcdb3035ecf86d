"""A database that the data helpers may write to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from testdb_app import guard


@pytest.fixture
def writable(database: Any) -> Iterator[Any]:
    """An empty database of this run's vendor that the guard knows to be a test database."""
    guard.trust_test_database(database.alias, database.name)
    yield database
    guard._trusted_names.pop(database.alias, None)
