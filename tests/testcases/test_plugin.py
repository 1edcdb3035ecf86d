"""The pytest plugin, in runs of pytest of their own: ``reset_db``, and the ini line that makes pytest-django's own doors reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections

from tests.guard.projects import Project

TESTS = """
import json, os, urllib.request
import pytest
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.test import TransactionTestCase
from shop.models import Item, Shelf

def record(request, **found):
    rows = sorted(Shelf.objects.values_list("name", flat=True))
    found |= {"test": request if isinstance(request, str) else request.node.name, "rows": rows,
              "types": ContentType.objects.count(), "items": Item.objects.count()}
    with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\\n")

def test_a_plain(db, request):
    record(request)
    Shelf.objects.create(name="rolled back")

def test_b_transactional(transactional_db, request):
    record(request)
    Shelf.objects.create(name="committed")

@pytest.mark.django_db(transaction=True)
def test_c_marked(request):
    record(request)
    Item.objects.create(shelf=Shelf.objects.create(name="committed"))

def test_d_server(live_server, request):
    record(request)
    assert urllib.request.urlopen(live_server.url, timeout=20).read() == b"1"

class TestCase(TransactionTestCase):
    def test_e_unittest(self):
        record("test_e_unittest")
        Shelf.objects.create(name="committed")

def test_f_plain(db, request):
    record(request)
"""

OWN = """
from tests import record
from shop.models import Item, Shelf
import pytest

def test_a(reset_db, request):
    record(request)
    Item.objects.create(shelf=Shelf.objects.create(name="committed"))

def test_b(reset_db, request):
    record(request)
    Shelf.objects.all().delete()

def test_c(db, request):
    record(request)

@pytest.mark.django_db(databases=["default", "other"])
def test_d(reset_db, request):
    record(request)
    Shelf.objects.using("other").create(name="there")

@pytest.mark.django_db(databases=["default", "other"])
def test_e(reset_db, request):
    assert list(Shelf.objects.using("other").values_list("name", flat=True)) == ["from a migration"]
    record(request)
"""
CLEAN = ["from a migration"]


@pytest.fixture
def run(project: Project) -> Callable[..., dict[str, Any]]:
    project.write("tests.py", TESTS)
    project.write("test_own.py", OWN)
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")

    def run_pytest(file: str, *options: str) -> dict[str, Any]:
        done = project.pytest("-rA", *options, file).must_pass()
        return {each.pop("test"): each for each in done.found} | {"output": done.stdout}

    return run_pytest


@pytest.mark.parametrize("options", [(), ("-n", "2"), ("--reuse-db",)], ids=["plain", "xdist", "reuse-db"])
def test_one_option_has_all_doors_of_pytest_django_reset(run: Callable[..., Any], options: tuple[str, ...]) -> None:
    for _ in range(2 if "--reuse-db" in options else 1):
        found = run("tests.py", "--testdb-reset-transactional", *options)
        found.pop("output")
        assert len(found) == 6
        assert {tuple(each["rows"]) for each in found.values()} == {tuple(CLEAN)}
        assert len({each["types"] for each in found.values()}) == 1


def test_the_ini_line_does_the_same_and_the_header_says_so(run: Callable[..., Any], project: Project) -> None:
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\ntestdb_reset_transactional = true\n")
    found = run("tests.py", "-v")
    assert "testdb_app: transactional tests reset to the baseline" in found.pop("output")
    assert {tuple(each["rows"]) for each in found.values()} == {tuple(CLEAN)}


def test_without_it_all_is_as_with_pytest_django_alone(run: Callable[..., Any]) -> None:
    found, alone = run("tests.py"), run("tests.py", "-p", "no:testdb")
    assert "testdb_app" not in found.pop("output") + alone.pop("output")
    assert found == alone
    assert found["test_c_marked"]["rows"] == [], "Django's flush takes the rows of migrations"


@pytest.mark.parametrize("options", [(), ("-n", "2"), ("--reuse-db",)], ids=["plain", "xdist", "reuse-db"])
def test_reset_db_leaves_what_it_found_in_every_database(run: Callable[..., Any], options: tuple[str, ...]) -> None:
    for _ in range(2 if "--reuse-db" in options else 1):
        found = run("test_own.py", *options)
        found.pop("output")
        assert sorted(found) == ["test_a", "test_b", "test_c", "test_d", "test_e"]
        assert {tuple(each["rows"]) for each in found.values()} == {tuple(CLEAN)}
        assert {each["items"] for each in found.values()} == {0}


def test_a_run_that_is_killed_leaves_nothing_for_the_next(run: Callable[..., Any], project: Project) -> None:
    if connections["default"].vendor == "sqlite":
        pytest.skip("nothing is kept in memory")
    project.write(
        "test_killed.py",
        "import os\nfrom shop.models import Shelf\ndef test(reset_db):\n    Shelf.objects.create(name='of a killed run')\n"
        "    os._exit(9)\n",
    )
    assert project.pytest("-q", "--reuse-db", "test_killed.py").returncode == 9
    found = run("test_own.py", "--reuse-db")
    found.pop("output")
    assert {tuple(each["rows"]) for each in found.values()} == {tuple(CLEAN)}


def test_a_project_without_the_app_is_told_so(run: Callable[..., Any], project: Project) -> None:
    project.add_settings("INSTALLED_APPS.remove('testdb_app')\n")
    done = project.pytest("-q", "test_own.py")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert done.stderr.count('Add "testdb_app" to INSTALLED_APPS') == 1


def test_the_plugin_imports_no_django(project: Project) -> None:
    code = (
        "import sys, testdb_app.pytest_plugin; assert not [name for name in sys.modules if name.startswith('django')]"
    )
    project.run("-c", code).must_pass()


TWO_ALIASES = """
import pytest
from django.db import connection
from shop.models import Shelf

@pytest.mark.django_db(transaction=True, databases=["second"])
def test_1():
    Shelf.objects.using("second").create(name="of a test")

@pytest.mark.django_db(transaction=True)
def test_2():
    assert not Shelf.objects.filter(name="of a test").exists()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM more")

@pytest.mark.django_db(transaction=True)
def test_3():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM more")
        assert cursor.fetchone() == (1,)
"""
A_SET_UP_OF_ITS_OWN = """
import pytest
from django.db import connection

@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute("CREATE TABLE more (id integer)")
        cursor.execute("INSERT INTO more VALUES (1)")
"""


def test_a_database_that_this_run_made_has_no_rows_of_an_earlier_run(project: Project) -> None:
    # Warnings are errors there.
    project.add_settings('DATABASES["second"] = dict(DATABASES["default"])\n')
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\ntestdb_reset_transactional = true\n")
    project.write("conftest.py", A_SET_UP_OF_ITS_OWN)
    project.write("test_two_aliases.py", TWO_ALIASES)
    done = project.pytest("-q", "--create-db")
    assert "3 passed" in done.stdout, done.stdout + done.stderr
