"""Runs of pytest: what the plugin costs where nobody uses it, what wide scopes save, and what the report of leaks costs."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.cases_tables import Bench
from tests.benchmarks.results import Case, Series, Target
from tests.guard.conftest import drop_test_databases
from tests.guard.projects import Project, database_settings, make_project

TESTS = 300
SHARING = 100
ROWS = 100

# The time of all tests but the first, which sets up the database. Python's garbage collector looks at everything that is
# loaded once in some hundred tests, whenever that is: what is there by then it is to leave alone.
_CONFTEST = """
import gc, json, os, time
import pytest

ends = []

def pytest_runtest_logfinish():
    if not ends:
        gc.collect()
        gc.freeze()
    ends.append(time.perf_counter())

def pytest_sessionfinish():
    if len(ends) > 1:
        with open("measured.json", "w") as file:
            json.dump((ends[-1] - ends[0]) * 1000, file)
"""
_TRIVIAL = f"""
import pytest

@pytest.mark.parametrize("number", range({TESTS}))
def test_trivial(db, number):
    pass
"""
_SHARING = f"""
import pytest
from shop.models import Item, Shelf

@pytest.fixture(scope="SCOPE")
def rows(FIXTURE):
    shelf = Shelf.objects.create(name="shared")
    return [Item.objects.create(shelf=shelf) for _ in range({ROWS})]

class TestSharing:
    @pytest.mark.parametrize("number", range({SHARING}))
    def test_sharing(self, rows, number):
        assert Item.objects.count() == {ROWS}
"""
_NO_DATABASE = "def test_nothing():\n    pass\n"
_SCOPES = {"function": "db", "class": "db_class", "module": "db_module"}


def run_plugin(bench: Bench) -> Iterator[Case]:
    """Measure runs of pytest in turn, a tenth as many as the rounds."""
    name = f"plugin_{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder), {"default": database_settings("default", NAME=name)})
        project.add_settings("INSTALLED_APPS += ['django.contrib.contenttypes', 'django.contrib.auth']\n")
        project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")
        project.write("conftest.py", _CONFTEST)
        project.write("test_trivial.py", _TRIVIAL)
        project.write("test_nothing.py", _NO_DATABASE)
        for scope, fixture in _SCOPES.items():
            text = _SHARING.replace("SCOPE", scope).replace("FIXTURE", fixture)
            project.write(f"test_{scope}.py", text)
        try:
            yield from _measure(project, rounds=max(5, bench.rounds // 10))
        finally:
            drop_test_databases(name)


def _measure(project: Project, rounds: int) -> Iterator[Case]:
    off = ("-p", "no:testdb")
    trivial = {
        "pytest-django alone": (*off, "test_trivial.py"),
        "with the plugin": ("test_trivial.py",),
        "with --testdb-leaks=warn": ("--testdb-leaks=warn", "test_trivial.py"),
    }
    case = _case(
        project, rounds, "plugin-trivial", f"{TESTS} trivial tests with db", trivial, base="pytest-django alone"
    )
    yield _with(
        case,
        Target(
            text="the plugin unused, beside pytest-django alone",
            measured=case.ratio("with the plugin"),
            limit=1.05,
            unit="×",
        ),
        Target(
            text="leaks looked for, none left", measured=case.ratio("with --testdb-leaks=warn"), limit=1.10, unit="×"
        ),
    )
    sharing = {f"{scope} scope": (f"test_{scope}.py",) for scope in _SCOPES}
    case = _case(
        project, rounds, "plugin-sharing", f"{SHARING} tests share {ROWS} rows", sharing, base="function scope"
    )
    yield _with(
        case,
        *(
            Target(
                text=f"rows shared by db_{scope}",
                measured=case.ratio("function scope", f"{scope} scope"),
                limit=3,
                unit="× faster",
                at_least=True,
            )
            for scope in ("class", "module")
        ),
    )
    startup = {"pytest-django alone": (*off, "test_nothing.py"), "with the plugin": ("test_nothing.py",)}
    case = _case(
        project,
        rounds,
        "plugin-startup",
        "A run without a database, all of it",
        startup,
        base="pytest-django alone",
        whole=True,
    )
    more = case.find("with the plugin").median - case.find("pytest-django alone").median
    yield _with(case, Target(text="start-up, more than pytest-django alone", measured=more, limit=20, unit="ms"))


def _case(
    project: Project,
    rounds: int,
    key: str,
    title: str,
    candidates: dict[str, tuple[str, ...]],
    *,
    base: str,
    whole: bool = False,
) -> Case:
    """Run the candidates in turn; *whole* tells to take the time of the process, not that of its tests."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, options in candidates.items():
            started = time.perf_counter()
            project.pytest("-q", "--reuse-db", *options).must_pass()
            elapsed = (time.perf_counter() - started) * 1000
            if not whole:
                elapsed = float(json.loads((project.directory / "measured.json").read_text()))
            if number:
                times[name].append(elapsed)
    series = tuple(
        Series(name=name, role="floor" if name == base else "ours", times=tuple(measured))
        for name, measured in times.items()
    )
    return Case(key=key, title=title, series=series, base=base)


def _with(case: Case, *targets: Target) -> Case:
    return Case(key=case.key, title=case.title, series=case.series, base=case.base, targets=targets)
