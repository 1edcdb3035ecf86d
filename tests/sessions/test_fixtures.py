"""The fixtures ``test_session`` and ``test_session_factory``, in runs of pytest of their own."""

from __future__ import annotations

import pytest

from tests.guard.projects import Project
from tests.testcases.conftest import project  # noqa: F401 - a fixture

TESTS = """
import json, os
import pytest
from django.conf import settings
from django.db import connection, connections, transaction
from shop.models import Item, Shelf

def record(request, **found):
    names = sorted(Shelf.objects.values_list("name", flat=True))
    with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps({"test": request.node.name, "rows": names, **found}) + "\\n")

@pytest.fixture
def session_of_fixture(test_session_factory):
    with test_session_factory("of a fixture") as session:
        yield session

@pytest.mark.django_db(transaction=True)
def test_0_transactional_runs_after_those_with_sessions(request):
    record(request)

def test_a_rolled_back(test_session, request):
    record(request, name=test_session.name, isolation=test_session.options.isolation)
    Shelf.objects.create(name="mine")

@pytest.mark.test_session(isolation="reset")
class TestReset:
    def test_b_committed(self, test_session, request):
        record(request, isolation=test_session.options.isolation)
        Shelf.objects.create(name="committed")
        assert not connection.in_atomic_block
        with test_session.connection.cursor() as cursor:
            with pytest.raises(Exception, match="This is forbidden|outside"):
                connection.set_rollback(True)

    @pytest.mark.test_session(isolation="rollback", ownership_timeout=77)
    def test_c_closest_mark_wins(self, test_session, request):
        record(request, timeout=test_session.options.ownership_timeout, isolation=test_session.options.isolation)
        Shelf.objects.create(name="mine")

def test_g_factory_in_a_fixture(session_of_fixture, request):
    record(request)

def test_h_blocked_without(request):
    with pytest.raises(RuntimeError, match="Database access not allowed"):
        Shelf.objects.count()

def test_i_plain(db, request):
    record(request)
"""

OVERRIDDEN = """
import pytest
from shop.models import Shelf
from tests import record

@pytest.fixture(scope="module")
def test_session_factory(test_session_factory):
    with test_session_factory.replace(ownership_timeout=5) as factory:
        yield factory

@pytest.fixture(scope="module")
def wide(test_session_factory):
    with test_session_factory("wide") as session:
        session.setup(Shelf.objects.create, name="wide")
        yield session

def test_d_factory(test_session, request):
    record(request, timeout=test_session.options.ownership_timeout)

def test_e_wide_session_around(wide, test_session, request):
    record(request)
    Shelf.objects.create(name="mine")

def test_f_wide_session_alone(wide, request):
    record(request)
"""

ONLY_SESSIONS = """
from shop.models import Shelf
from tests import record

def test_alone(test_session, request):
    record(request)
"""

FAILING = """
from shop.models import Shelf
import pytest

def test_leaks(test_session):
    with test_session.connection.cursor() as cursor:
        cursor.execute("COMMIT")

def test_next(test_session):
    assert Shelf.objects.filter(name="mine").count() == 0
"""

INTERRUPTED = """
import pytest
from shop.models import Shelf
from tests import record

@pytest.fixture(scope="module")
def wide(test_session_factory):
    with test_session_factory("wide") as session:
        session.setup(Shelf.objects.create, name="wide")
        yield session

def test_a_in_it(wide, request):
    record(request)

@pytest.mark.django_db(transaction=True)
def test_b_transactional_in_the_middle(wide, request):
    Shelf.objects.create(name="flushed")

def test_c_after_it(test_session, request):
    record(request)
"""


@pytest.fixture
def run(project: Project):  # noqa: F811
    project.write("tests.py", TESTS)
    project.write("overridden.py", OVERRIDDEN)
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\naddopts = --strict-markers\n")

    def do(*arguments: str):
        done = project.pytest(*arguments)
        return done, {each.pop("test"): each for each in done.found}

    return do


def test_sessions_come_from_fixtures_that_marks_and_overrides_configure(run):
    done, found = run("tests.py", "overridden.py")
    assert done.returncode == 0, done.stdout + done.stderr
    clean = found["test_a_rolled_back"]["rows"]
    assert clean, "rows of migrations"
    wide = {"test_e_wide_session_around", "test_f_wide_session_alone"}
    assert {tuple(each["rows"]) for test, each in found.items() if test not in wide} == {tuple(clean)}
    assert {tuple(found[test]["rows"]) for test in wide} == {tuple(sorted([*clean, "wide"]))}
    assert found["test_a_rolled_back"]["name"] == "tests.py::test_a_rolled_back"
    assert found["test_b_committed"]["isolation"] == "reset"
    assert found["test_c_closest_mark_wins"]["timeout"] == 77
    assert found["test_c_closest_mark_wins"]["isolation"] == "rollback"
    assert found["test_d_factory"]["timeout"] == 5


@pytest.mark.parametrize("arguments", [(), ("-n", "2"), ("-p", "no:randomly", "--reuse-db")], ids=str)
def test_a_run_in_which_only_sessions_ask_for_a_database_has_a_test_database(project, run, arguments):  # noqa: F811
    project.write("only.py", ONLY_SESSIONS)
    done, found = run("only.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_alone" in found


def test_a_leak_is_an_error_of_the_test_with_its_name(project, run):  # noqa: F811
    project.write("failing.py", FAILING)
    done, _ = run("failing.py")
    assert "1 error" in done.stdout
    assert 'Something was committed in the session "failing.py::test_leaks", opened at failing.py:5' in done.stdout
    assert "2 passed" in done.stdout


def test_a_transactional_test_in_an_open_session_is_refused_by_name(project, run):  # noqa: F811
    """It would write into the session's transaction, and Django's teardown would flush those rows and close the connection."""
    project.write("interrupted.py", INTERRUPTED)
    done, found = run("interrupted.py", "-p", "no:randomly")
    assert "test_b_transactional_in_the_middle is transactional, and would be a part of the session" in done.stdout
    assert "2 passed, 1 error" in done.stdout
    assert "flushed" not in found["test_c_after_it"]["rows"]
