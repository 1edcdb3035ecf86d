"""A throw-away project whose tests are run by pytest with the plugin, and record what they find."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.guard.projects import Project, Run
from tests.testcases.conftest import project as _project

project = _project

CONFTEST = """
import json, os
import pytest
from django.conf import settings
from django.db import connection, connections, transaction
from shop.models import Item, Shelf

def names(alias="default"):
    return sorted(Shelf.objects.using(alias).exclude(name="from a migration").values_list("name", flat=True))

def committed(alias="default"):
    '''What another session sees; None where it would wait for this one's transaction.'''
    if connections[alias].vendor == "sqlite" and connections[alias].in_atomic_block:
        return None
    other = connections[alias].copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT name FROM shop_shelf ORDER BY name")
            return [name for (name,) in cursor.fetchall() if not name.startswith(("from a migration", "of the setup"))]
    finally:
        other.close()
        if other.connection is not None:
            other.connection.close()  # Django leaves a database in memory open

def shelf(name, alias="default"):
    return Shelf.objects.using(alias).create(name=name)

def record(request, **found):
    with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps({"test": request.node.name, **found}) + "\\n")

@pytest.fixture(autouse=True, scope="session")
def left_at_the_end(django_db_setup, django_db_blocker):
    yield
    with django_db_blocker.unblock():
        assert committed() == [], "rows were left"
"""


class Runner:
    """Runs pytest in the project, and knows what was recorded."""

    def __init__(self, project: Project) -> None:
        self.project = project
        project.write("conftest.py", CONFTEST)
        project.write(
            "pytest.ini",
            "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npython_files = test_*.py\naddopts = --strict-markers\n"
            # Every other warning is an error there.
            "filterwarnings = default::testdb_app.pytest_plugin.LeakWarning\n",
        )

    def write(self, text: str, name: str = "test_it.py") -> None:
        """Write a test file. It can use all that conftest.py has."""
        self.project.write(
            name,
            "import pytest\nfrom django.db import connection, connections, transaction\n"
            "from shop.models import Item, Shelf\nfrom conftest import committed, names, record, shelf\n" + text,
        )

    def use_database(self, scratch: Any, **changes: Any) -> None:
        """Have the project's default be a database that exists, with a row that must not be lost."""
        databases = json.loads((self.project.directory / "databases.json").read_text())
        databases["default"] |= {"NAME": scratch.name, **changes}
        self.project.write("databases.json", json.dumps(databases))
        scratch.execute(
            "CREATE TABLE shop_shelf (id serial PRIMARY KEY, name text, above_id bigint); "
            "INSERT INTO shop_shelf (name) VALUES ('precious')"
        )

    def add_fixtures(self, text: str) -> None:
        """Add fixtures to conftest.py."""
        self.project.write("conftest.py", CONFTEST + text)

    def __call__(self, *options: str, fails: bool = False, **environment: str) -> Run:
        cache = () if "cacheprovider" in options else ("-p", "no:cacheprovider")
        done = self.project.run("-m", "pytest", *cache, "-rA", *options, **environment)
        assert (done.returncode == 1) if fails else (done.returncode == 0), done.stdout + done.stderr
        return done


def outcomes(run: Run) -> dict[str, int]:
    """Read pytest's closing line."""
    line = run.stdout.splitlines()[-1]
    return {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|skipped|deselected)", line)}


@pytest.fixture
def run(project: Project) -> Iterator[Callable[..., Any]]:
    yield Runner(project)
