"""A throw-away project with migrations and the suite, on the database of this run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from tests.guard.conftest import drop_test_databases
from tests.guard.projects import Project, database_settings, make_project
from tests.testcases import suite


@pytest.fixture
def project(tmp_path: Path, django_db_blocker: Any) -> Iterator[Project]:
    """A project with data in a migration, two databases and a mirror. What its runners make is dropped afterwards."""
    with project_in(tmp_path, django_db_blocker) as made:
        yield made


@contextmanager
def project_in(folder: Path, django_db_blocker: Any) -> Iterator[Project]:
    """Make the project in *folder*."""
    with django_db_blocker.unblock():
        # A server of this run's own runs as long as somebody is connected.
        connections["default"].ensure_connection()
    name = f"suite_{uuid.uuid4().hex[:10]}"
    is_postgresql = connections["default"].vendor == "postgresql"
    made = make_project(
        folder, {"default": database_settings("default", NAME=name if is_postgresql else str(folder / name))}
    )
    made.add_settings(suite.SETTINGS)
    made.write("shop/models.py", suite.MODELS)
    made.write("shop/urls.py", suite.URLS)
    made.write("shop/migrations/__init__.py", "")
    made.write("shop/migrations/0001_initial.py", suite.MIGRATION)
    made.write("shop/fixtures/shelves.json", suite.FIXTURE)
    made.write("shop/tests.py", suite.TESTS)
    yield made
    if is_postgresql:
        drop_test_databases(name)
    connections["default"].close()
