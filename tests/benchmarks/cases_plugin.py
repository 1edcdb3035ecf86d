"""Runs of pytest: what the plugin costs where nobody uses it, what scopes and the mark save, and what the leak finder costs."""

from __future__ import annotations

import json
import random
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.cases_tables import Bench
from tests.benchmarks.results import Case, Series, Target
from tests.guard.conftest import drop_test_databases
from tests.guard.projects import Project, database_settings, make_project

TESTS = 300
SHARING = 100
SUITE = 200
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
_FIXTURES = """
import pytest
from datetime import date
from testdb_app.demo.models import (
    Author, Book, Branch, Card, Copy, Film, Genre, Loan, Member, Publisher, Series, Staff,
)

DAY = date(2026, 1, 1)

@pytest.fixture
def publisher(db):
    return Publisher.objects.create(name="A press")

@pytest.fixture
def series(publisher):
    return [Series.objects.create(name=f"Series {n}", publisher=publisher) for n in range(3)]

@pytest.fixture
def authors(db):
    return [Author.objects.create(name=f"Author {n}") for n in range(10)]

@pytest.fixture
def genres(db):
    return [Genre.objects.create(name=f"Genre {n}") for n in range(5)]

@pytest.fixture
def books(series):
    return [
        Book.objects.create(title=f"Book {n}", year=2000, series=series[n % 3], isbn=str(n), pages=n) for n in range(20)
    ]

@pytest.fixture
def films(series):
    return [Film.objects.create(title=f"Film {n}", year=2000, series=series[n % 3], minutes=n) for n in range(8)]

@pytest.fixture
def branch(db):
    return Branch.objects.create(name="Main Street")

@pytest.fixture
def staff(branch):
    return [Staff.objects.create(name=f"Staff {n}", branch=branch) for n in range(6)]

@pytest.fixture
def copies(books, branch):
    return [Copy.objects.create(work=books[n % 20], branch=branch, shelf=str(n)) for n in range(40)]

@pytest.fixture
def members(db):
    return [Member.objects.create(name=f"Member {n}", joined_on=DAY) for n in range(15)]

@pytest.fixture
def cards(members):
    return [Card.objects.create(member=each, issued_on=DAY) for each in members]

@pytest.fixture
def loans(copies, cards):
    return [Loan.objects.create(copy=copies[n], card=cards[n % 15], lent_on=DAY) for n in range(30)]

def check(number, *fixtures):
    for rows in fixtures:
        first = rows[0] if isinstance(rows, list) else rows
        assert type(first).objects.filter(pk=first.pk).exists()
    if number % 4 == 0:
        Genre.objects.create(name="of a test")
        first.save()
"""
_NAMES = (
    "publisher",
    "series",
    "authors",
    "genres",
    "books",
    "films",
    "branch",
    "staff",
    "copies",
    "members",
    "cards",
    "loans",
)


def shared_suite(*, together: int) -> str:
    """Return a module of 200 tests that request three of twelve fixtures each, so many *together* the same ones."""
    chance, parts = random.Random(15), [_FIXTURES]
    for group in range(SUITE // together):
        names = ", ".join(chance.sample(_NAMES, 3))
        parts += [
            f"def test_{group}_{number}({names}):\n    check({group + number}, {names})" for number in range(together)
        ]
    return "\n".join(parts) + "\n"


_MARK = "pytestmark = pytest.mark.testdb_share\n"
_SUITES = {"features": (10, "ten tests each request the same", 5), "scattered": (1, "each test draws its own", 1)}
_NO_DATABASE = "def test_nothing():\n    pass\n"
_SCOPES = {"function": "db", "class": "db_class", "module": "db_module"}


def run_plugin(bench: Bench) -> Iterator[Case]:
    """Measure runs of pytest in turn, a tenth as many as the rounds."""
    with _project() as project:
        project.write("test_trivial.py", _TRIVIAL)
        project.write("test_nothing.py", _NO_DATABASE)
        for scope, fixture in _SCOPES.items():
            project.write(f"test_{scope}.py", _SHARING.replace("SCOPE", scope).replace("FIXTURE", fixture))
        yield from _measure(project, rounds=max(5, bench.rounds // 10))


def run_sharing(bench: Bench) -> Iterator[Case]:
    """Measure what the mark ``testdb_share`` saves, in a tenth as many runs of pytest as the rounds."""
    with _project() as project:
        for suite, (together, title, limit) in _SUITES.items():
            text = shared_suite(together=together)
            project.write(f"test_{suite}.py", text)
            project.write(f"test_{suite}_marked.py", text + _MARK)
            marked = {"function scope": (f"test_{suite}.py",), "testdb_share": (f"test_{suite}_marked.py",)}
            case = _case(
                project,
                max(5, bench.rounds // 10),
                f"sharing-{suite}",
                f"{SUITE} tests, each with 3 of 12 fixtures of 1 to 40 rows: {title}",
                marked,
                base="function scope",
            )
            measured = case.ratio("function scope", "testdb_share")
            text = f"rows shared by the mark, {title}"
            yield _with(case, Target(text=text, measured=measured, limit=limit, unit="× faster", at_least=True))


@contextmanager
def _project() -> Iterator[Project]:
    name = f"plugin_{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder), {"default": database_settings("default", NAME=name)})
        apps = ["django.contrib.contenttypes", "django.contrib.auth", "testdb_app.demo"]
        project.add_settings(f"INSTALLED_APPS += {apps}\n")
        project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")
        project.write("conftest.py", _CONFTEST)
        try:
            yield project
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
