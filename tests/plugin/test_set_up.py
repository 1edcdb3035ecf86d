"""A wrong set-up is one error at the start of a run that uses the plugin, and none in one that does not."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

OURS = """
from testdb_app.testcases import ResetTransactionTestCase

class TestOurs(ResetTransactionTestCase):
    def test_ours(self):
        pass
"""
USES = {
    "option": ("", ("--testdb-reset-transactional",), "The option testdb_reset_transactional"),
    "leaks": ("", ("--testdb-leaks=warn",), "The option testdb_leaks"),
    "durations": ("", ("--testdb-durations=3",), "The option testdb_durations"),
    "ini": ("", ("-o", "testdb_reset_transactional=true"), "The option testdb_reset_transactional"),
    "fixture": ("def test_ours(reset_db):\n    pass\n", (), 'The fixture "reset_db" (of test_it.py::test_ours)'),
    "scope": ("def test_ours(db_module):\n    pass\n", (), 'The fixture "db_module"'),
    "session": ("def test_ours(test_session):\n    pass\n", (), 'The fixture "test_session'),
    "mark": (
        "@pytest.mark.testdb_share\ndef test_ours(db):\n    pass\n",
        (),
        "The mark testdb_share (of test_it.py::test_ours)",
    ),
    "class": (
        OURS,
        (),
        "The class of test_it.py::TestOurs::test_ours",
    ),
}
INNOCENT = "def test_innocent():\n    pass\n\ndef test_rows(db):\n    assert Item.objects.count() == 0\n"
NO_APP = '"testdb_app" to INSTALLED_APPS'


def errors(done):
    """Return the lines of the errors; there is no test that has run, and no traceback."""
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    text = done.stdout + done.stderr
    assert "passed" not in text
    assert "Traceback" not in text
    return [line for line in text.splitlines() if line.startswith("ERROR")]


@pytest.fixture
def refused(run):
    """Return a function that writes tests, runs pytest, and returns the one line of its error."""

    def refused(tests: str, *options: str) -> str:
        run.write(INNOCENT + tests)
        done = run.project.run("-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-q", *options)
        (line,) = errors(done)
        return line

    return refused


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["alone", "xdist"])
@pytest.mark.parametrize("use", USES)
def test_a_missing_app_is_one_error_before_the_first_test(run, refused, use, processes):
    tests, options, who = USES[use]
    run.project.add_settings("INSTALLED_APPS.remove('testdb_app')\n")
    line = refused(tests, *options, *processes)
    assert line.startswith(f"ERROR: {who}")
    assert NO_APP in line


def test_templates_in_the_settings_without_the_app_are_one_error(run, refused):
    run.project.add_settings("INSTALLED_APPS.remove('testdb_app')\nTESTDB = {'TEMPLATES': True}\n")
    line = refused("")
    assert line.startswith('ERROR: The setting TESTDB["TEMPLATES"] cannot be used')
    assert NO_APP in line
    run("--no-testdb-templates")


@pytest.mark.parametrize("use", [use for use in USES if use not in {"class", "mark"}])
def test_a_missing_pytest_django_is_one_error(run, use):
    tests, options, who = USES[use]
    run.project.write("conftest.py", "")
    run.project.write("test_it.py", "def test_innocent():\n    pass\n" + tests)
    done = run.project.run("-m", "pytest", "-p", "no:cacheprovider", *options, "-p", "no:django")
    (line,) = errors(done)
    assert line.startswith(f"ERROR: {who}")
    assert "needs pytest-django" in line


def test_missing_settings_are_one_error(run, refused):
    run.project.write("pytest.ini", "[pytest]\npython_files = test_*.py\n")
    run.project.write("conftest.py", "")
    run.project.write("test_it.py", "def test_ours(reset_db):\n    pass\n")
    done = run.project.run("-m", "pytest", "-p", "no:cacheprovider", DJANGO_SETTINGS_MODULE="")
    (line,) = errors(done)
    assert "Set DJANGO_SETTINGS_MODULE" in line


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-o", "testdb_reset_transactional=maybe"), "The ini key testdb_reset_transactional must be true or false"),
        (("-o", "testdb_leaks=loud"), "The ini key testdb_leaks must be one of warn, fail, not 'loud'"),
    ],
)
def test_a_bad_ini_value_is_named_with_its_key(refused, options, told):
    assert told in refused("", *options)


def test_a_bad_key_of_the_setting_is_one_error_with_the_app_alone(run, refused):
    run.project.add_settings("TESTDB = {'STRATEGI': 'delete'}\n")
    line = refused("")
    assert "STRATEGI" in line
    assert "STRATEGY" in line


def test_a_run_that_does_not_use_the_plugin_says_nothing(run):
    run.project.add_settings("INSTALLED_APPS.remove('testdb_app')\nTESTDB = {'STRATEGI': 'delete'}\n")
    run.write(INNOCENT)
    assert "testdb_" not in run("-p", "no:randomly").stdout


def test_a_run_without_django_says_nothing(run):
    run.project.write("conftest.py", "")
    run.project.write("test_it.py", "def test_innocent():\n    pass\n")
    done = run.project.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:django", "-c", "/dev/null")
    assert done.returncode == 0, done.stdout
    assert "testdb_" not in done.stdout


STOCK = """
from django.test import TestCase

class StockTest(TestCase):
    def test_it(self):
        pass
"""
PSYCOPG_2 = "import sys\nsys.modules['psycopg'] = None\n"


@pytest.mark.postgresql
@pytest.mark.skipif(find_spec("psycopg2") is None, reason="needs psycopg2")
def test_another_driver_is_one_error_where_an_alias_is_reset(run, refused):
    settings = run.project.directory / "settings.py"
    settings.write_text(PSYCOPG_2 + settings.read_text())
    run.write(INNOCENT)
    assert "2 passed" in run("-p", "no:randomly").stdout
    line = refused("def test_ours(reset_db):\n    pass\n")
    assert 'The alias "default" uses PostgreSQL through psycopg2' in line
    assert "pip install" in line
    assert "through psycopg2" in refused("", "--testdb-leaks=warn")
    done = run.project.manage("check")
    assert "testdb_app.W003" in done.stderr
    run.project.write("tests.py", STOCK)
    run.project.add_settings("TEST_RUNNER = 'testdb_app.runner.ResetDiscoverRunner'\n")
    done = run.project.manage("test")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith('CommandError: The alias "default" uses PostgreSQL through psycopg2')
    assert "Traceback" not in done.stderr
    assert "Creating test database" not in done.stderr
    for arguments in (("resetdb", "--dry-run"), ("resetdb", "--no-input")):
        done = run.project.manage(*arguments)
        assert done.returncode == 1, arguments
        assert "CommandError: testdb_app needs psycopg 3" in done.stderr, arguments


def test_the_runner_refuses_before_it_makes_a_database(run):
    run.project.add_settings(
        "INSTALLED_APPS.remove('testdb_app')\nTEST_RUNNER = 'testdb_app.runner.ResetDiscoverRunner'\n"
    )
    run.project.write("tests.py", STOCK)
    done = run.project.manage("test")
    assert NO_APP in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in run.project.manage("test", "--traceback").stderr
    assert done.stderr.count("CommandError: ") == 1
    assert "Creating test database" not in done.stderr
    assert json.loads((run.project.directory / "databases.json").read_text())
