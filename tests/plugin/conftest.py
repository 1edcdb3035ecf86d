"""A throw-away project whose tests are run by pytest with the plugin, and record what they find."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from django.db import connections

from tests.guard.projects import Project, Run
from tests.testcases.conftest import project as _project
from tests.testcases.conftest import project_in

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """How the tests of one scenario ended: how many in which way, and what pytest wrote about those that failed."""

    outcomes: Mapping[str, int]
    text: str


class SharedRun:
    """Scenarios that one run of pytest plays, each in modules of its own, because a start of pytest takes seconds."""

    def __init__(self) -> None:
        self._scenarios: dict[str, tuple[str, ...]] = {}
        self._on_postgresql: set[str] = set()

    def add(self, name: str, *modules: str, postgresql: bool = False) -> None:
        """Add the scenario *name*: the text of one test module or more. With *postgresql* it is played there alone."""
        assert name not in self._scenarios
        self._scenarios[name] = modules
        if postgresql:
            self._on_postgresql.add(name)

    def play(self, project: Project) -> dict[str, dict[str, Any]]:
        """Play all of it in *project*; return the outcomes and the texts by scenario."""
        run = Runner(project)
        names = [name for name in self._scenarios if project.is_postgresql or name not in self._on_postgresql]
        for number, name in enumerate(names):
            for part, text in enumerate(self._scenarios[name]):
                run.write(text, f"test_s{number:03}_{part}.py")
        done = project.run(
            "-m", "pytest", "-p", "no:cacheprovider", "-q", "--junitxml=found.xml", "-o", "junit_family=xunit1"
        )
        assert done.returncode in {0, 1}, done.stdout + done.stderr
        found: dict[str, dict[str, Any]] = {name: {"outcomes": Counter(), "text": ""} for name in names}
        for case in ElementTree.parse(project.directory / "found.xml").iter("testcase"):
            number = re.search(r"test_s(\d+)_", case.get("file") or case.get("classname") or "")
            assert number is not None, ElementTree.tostring(case)
            scenario = found[names[int(number[1])]]
            ends = [child for child in case if child.tag in {"failure", "error", "skipped"}]
            for end in ends:
                scenario["outcomes"]["failed" if end.tag == "failure" else end.tag] += 1
                scenario["text"] += f"{end.get('message')}\n{end.text}\n"
            scenario["outcomes"]["passed"] += not ends
        return found


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any
) -> dict[str, Played]:
    """What came of each scenario of the module's ``SHARED``. The first process that needs it plays them for all workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    result = Path(folder, f"{request.module.__name__}-{connections['default'].vendor}.json")
    with result.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            place = result.with_suffix("")
            place.mkdir()
            with project_in(place, django_db_blocker) as project:
                result.write_text(json.dumps(request.module.SHARED.play(project)))
    return {name: Played(**found) for name, found in json.loads(result.read_text()).items()}
