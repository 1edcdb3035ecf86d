"""Baselines are captured of the databases that tests of the run will reset, at their set-up, and of no others."""

from __future__ import annotations

import pytest
from django.db import connections

from tests.plugin.conftest import Runner

WITH_CAPTURED = """
from django.test import TestCase
from testdb_app.backends import get_backend
from testdb_app.testcases import ResetTransactionTestCase

def captured():
    aliases = ["default", "other"]
    return [alias for alias in aliases if get_backend(connections[alias]).read_baseline(connections[alias]) is not None]

@pytest.fixture(autouse=True, scope="session")
def a_row_of_the_session(django_db_setup, django_db_blocker):
    '''What a fixture commits is no part of a baseline.'''
    with django_db_blocker.unblock():
        row = shelf("of the session", "other")
        yield
        Shelf.objects.using("other").all().delete()

@pytest.mark.django_db(databases=["default", "other"])
def test_1_captured(request):
    record(request, captured=captured())
"""


def is_on_sqlite() -> bool:
    return connections["default"].vendor == "sqlite"


RESETS = {
    "nothing": ("", []),
    "reset_db": ("def test_2(reset_db): shelf('a')", ["default"]),
    "the mark": (
        "@pytest.mark.testdb(databases=['other'])\ndef test_2(reset_db): shelf('a', 'other')",
        ["other"],
    ),
    "a committed scope": (
        "@pytest.mark.testdb(databases=['other'])\ndef test_2(reset_db_module): shelf('a', 'other')",
        ["other"],
    ),
    "a class": (
        "class Test(ResetTransactionTestCase):\n    databases = ['other']\n    def test_2(self): shelf('a', 'other')",
        ["other"],
    ),
    "every alias": (
        "class Test(ResetTransactionTestCase):\n    databases = '__all__'\n    def test_2(self): shelf('a', 'other')",
        ["default", "other"],
    ),
    "a session": (
        """
@pytest.mark.test_session(isolation='reset', databases=['other'])
def test_2(test_session): shelf('a', 'other')
def test_3(reset_db): pass
""",
        ["default", "other"],
    ),
}


@pytest.mark.parametrize("what", RESETS)
def test_what_will_be_reset_is_captured(run: Runner, what: str) -> None:
    text, captured = RESETS[what]
    run.write(WITH_CAPTURED + text)
    found = run().found
    # A SQLite database has no counters that could tell later, and is captured at once.
    expected = ["default", "other"] if is_on_sqlite() and captured else captured
    assert [each["captured"] for each in found if each["test"] == "test_1_captured"] == [expected]


def test_the_switch_captures_what_transactional_tests_name(run: Runner) -> None:
    run.write(
        WITH_CAPTURED
        + "@pytest.mark.django_db(databases=['other'], transaction=True)\n"
        + "def test_2(): shelf('a', 'other')\n"
        + "@pytest.mark.django_db(databases=['other'], transaction=True)\n"
        + "def test_3(): assert names('other') == []\n"
    )
    found = run("--testdb-reset-transactional").found
    assert found[0]["captured"] == (["default", "other"] if is_on_sqlite() else ["other"])


LATE = """
@pytest.mark.testdb(databases=["other"])
def test_2_named(reset_db):
    shelf("a", "other")

def test_3_late(request):
    request.getfixturevalue("reset_db")
    record(request, captured=get_backend(connections["default"]).read_baseline(connections["default"]) is not None, names=names())
    shelf("late")

def test_4_late(request):
    request.getfixturevalue("reset_db")
    record(request, names=names(), migrated=Shelf.objects.count())
"""
WRITES = """
@pytest.mark.django_db(transaction=True)
def test_2_commits():
    shelf("committed")
"""


def test_a_reset_that_is_asked_for_late_captures_what_nobody_has_written_to(run: Runner) -> None:
    run.write(WITH_CAPTURED + LATE)
    found = {each.pop("test"): each for each in run().found}
    assert found["test_3_late"]["captured"] is True
    assert found["test_3_late"]["names"] == []
    assert found["test_4_late"] == {"names": [], "migrated": 1}, "the row of the migration is there, and no other"


def test_where_somebody_may_have_written_it_is_one_error_that_says_what_to_do(run: Runner) -> None:
    run.write(WITH_CAPTURED + WRITES + LATE)
    if is_on_sqlite():
        run()
        return
    done = run(fails=True)
    assert 'alias "default") has no baseline to go back to' in done.stdout
    assert "@pytest.mark.testdb(databases=['default'])" in done.stdout
    assert "2 errors" in done.stdout or "2 failed" in done.stdout
