"""The project of docs/examples on the database of this run, and processes in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connections

from tests.documentation.pages import DOCS
from tests.guard.conftest import drop_test_databases
from tests.guard.projects import database_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """A copy of docs/examples, and the URL of the database that it is to use."""

    directory: Path
    url: str

    def pytest(self, *arguments: str, **environment: str) -> str:
        """Run pytest there; return what it printed. Fails if a test did."""
        strange = ("PYTEST", "DJANGO_SETTINGS_MODULE", "TESTPROJECT_DATABASE", "NO_COLOR")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments],
            cwd=self.directory,
            env={**inherited, "DATABASE_URL": self.url, **environment},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def examples(tmp_path: Path, django_db_blocker: Any) -> Iterator[Examples]:
    """The project in a folder of its own. The test databases that it makes are dropped afterwards."""
    with django_db_blocker.unblock():
        connections["default"].ensure_connection()
    folder = tmp_path / "examples"
    shutil.copytree(DOCS / "examples", folder, ignore=shutil.ignore_patterns("__pycache__"))
    name = f"examples_{uuid.uuid4().hex[:10]}"
    is_postgresql = connections["default"].vendor == "postgresql"
    yield Examples(directory=folder, url=url_of(name) if is_postgresql else f"sqlite:///{tmp_path / name}")
    if is_postgresql:
        drop_test_databases(name)
    connections["default"].close()


def url_of(name: str) -> str:
    """Return the URL of the database *name* on the server of this run."""
    found = database_settings("default", NAME=name)
    user = quote(found.get("USER", ""), safe="")
    password = f":{quote(found['PASSWORD'], safe='')}" if found.get("PASSWORD") else ""
    return f"postgres://{user}{password}@{quote(found.get('HOST', ''), safe='')}:{found.get('PORT', 5432)}/{name}"
