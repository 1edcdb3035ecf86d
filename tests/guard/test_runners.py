"""Test runners for real: each makes its databases in a process of its own, and the guard there knows them.

The fixture ``project`` checks at the end of every test that the real database has kept its rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from psycopg.conninfo import conninfo_to_dict

from testproject.embedded import superuser_dsn
from tests.guard.projects import Project, Run, database_settings
from tests.scratch import ScratchDatabase, connect

CASES = """
from django.test import TransactionTestCase
from shop.attempts import reset_and_record

class First(TransactionTestCase):
    def test_reset(self):
        reset_and_record()

class Second(TransactionTestCase):
    def test_reset(self):
        reset_and_record()
"""

PYTEST_CASES = """
import pytest
from psycopg.conninfo import conninfo_to_dict
from shop.attempts import reset_and_record

@pytest.mark.parametrize("number", range(4))
def test_reset(transactional_db, number):
    reset_and_record()
"""


def check(run: Run, databases: str, number: int) -> None:
    """Check that each of *number* tests reset a database of such a name, and was refused the real one."""
    run.must_pass()
    assert len(run.found) == number
    for found in run.found:
        assert found["rule"] == "test-runner", found
        assert re.fullmatch(databases, found["database"])
        assert (found["rows"], found["before"], found["after"]) == (4, 2, 0)
        assert found["real"] == "refused: unknown"


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        ([], ""),
        (["--keepdb"], ""),
        (["--parallel", "2"], "_[12]"),
    ],
    ids=["plain", "keepdb", "parallel"],
)
def test_django_runner(project: Project, scratch: ScratchDatabase, options: list[str], suffix: str) -> None:
    project.write("shop/tests.py", CASES)
    for _ in range(2 if "--keepdb" in options else 1):
        check(project.manage("test", "--noinput", *options), f"test_{scratch.name}{suffix}", 2)


def test_django_runner_with_processes_that_are_spawned(project: Project, scratch: ScratchDatabase) -> None:
    project.write("shop/tests.py", CASES)
    manage = (project.directory / "manage.py").read_text()
    spawning = "import multiprocessing\n    multiprocessing.set_start_method('spawn')\n    execute_from"
    project.write("manage.py", manage.replace("execute_from_command_line(sys", f"{spawning}_command_line(sys"))
    check(project.manage("test", "--noinput", "--parallel", "2"), f"test_{scratch.name}_[12]", 2)


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        ([], ""),
        (["--reuse-db"], ""),
        (["-n", "2"], "_gw[01]"),
    ],
    ids=["plain", "reuse-db", "xdist"],
)
def test_pytest_django(project: Project, scratch: ScratchDatabase, options: list[str], suffix: str) -> None:
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")
    project.write("test_shop.py", PYTEST_CASES)
    for _ in range(2 if "--reuse-db" in options else 1):
        check(project.pytest("-q", *options), f"test_{scratch.name}{suffix}", 4)


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["plain", "xdist"])
def test_tox_in_parallel(project: Project, scratch: ScratchDatabase, options: list[str]) -> None:
    """Each environment of tox has test databases of its own: pytest-django adds its name."""
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")
    project.write("test_shop.py", PYTEST_CASES)
    project.environment["TOX_PARALLEL_ENV"] = "py311-django52"
    suffix = "_gw[01]_py311-django52|_py311-django52_gw[01]" if options else "_py311-django52"
    check(project.pytest("-q", *options), f"test_{scratch.name}({suffix})", 4)


@pytest.mark.parametrize("test", [{}, {"NAME": "test_{}_compose"}], ids=["plain", "a name for tests"])
@pytest.mark.parametrize("tool", ["manage.py", "pytest"])
def test_a_database_of_docker_compose(
    project: Project, scratch: ScratchDatabase, test: dict[str, str], tool: str
) -> None:
    """The image makes one superuser and one database, and the application uses both."""
    root = conninfo_to_dict(superuser_dsn(scratch.name))
    owner = {name.upper(): str(root[name]) for name in ("user", "password", "host", "port") if root.get(name)}
    names = {key: name.format(scratch.name) for key, name in test.items()}
    project.write("databases.json", json.dumps({"default": database_settings("scratch", **owner, TEST=names)}))
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")
    project.write("shop/tests.py", CASES)
    project.write("test_shop.py", PYTEST_CASES)
    for options in ((), ("--keepdb",) if tool == "manage.py" else ("--reuse-db",)):
        run = project.manage("test", "--noinput", *options) if tool == "manage.py" else project.pytest("-q", *options)
        check(run, names.get("NAME", f"test_{scratch.name}"), 2 if tool == "manage.py" else 4)


def test_a_test_name_of_the_settings(project: Project, scratch: ScratchDatabase) -> None:
    name = f"test_{scratch.name}_checks"
    databases = {"default": database_settings("scratch", TEST={"NAME": name})}
    project.write("databases.json", json.dumps(databases))
    project.write("shop/tests.py", CASES)
    check(project.manage("test", "--noinput"), name, 2)


def test_a_mirror_and_a_second_alias_of_one_database(project: Project, scratch: ScratchDatabase) -> None:
    databases = {
        "default": database_settings("scratch"),
        "second": database_settings("scratch"),
        "replica": database_settings("scratch", TEST={"MIRROR": "default"}),
        "elsewhere": database_settings("scratch", NAME="postgres", TEST={"MIRROR": "default"}),
    }
    project.write("databases.json", json.dumps(databases))
    project.write(
        "shop/tests.py",
        """
from django.test import TransactionTestCase
from shop.attempts import reset_and_record

class Reset(TransactionTestCase):
    databases = "__all__"

    def test_reset(self):
        for alias in ("default", "second", "replica", "elsewhere"):
            reset_and_record(alias)
""",
    )
    for options in ([], ["--parallel", "2"]):
        run = project.manage("test", "--noinput", *options)
        check(run, f"test_{scratch.name}", 4)
        assert [found["alias"] for found in run.found] == ["default", "second", "replica", "elsewhere"]


def test_the_same_names_mean_nothing_outside_of_a_test_run(project: Project, scratch: ScratchDatabase) -> None:
    project.write("shop/tests.py", CASES)
    project.manage("test", "--noinput", "--keepdb").must_pass()
    ask = "from shop.attempts import attempt, record; from django.db import connections; record(attempt('default'))"
    assert project.manage("shell", "-c", ask).found == [{"rule": "refused: unknown", "rows": 0}]
    # A process whose settings name the kept test database: nobody made it there.
    project.write("databases.json", json.dumps({"default": database_settings("scratch", NAME=f"test_{scratch.name}")}))
    assert project.manage("shell", "-c", ask).found == [{"rule": "refused: unknown", "rows": 0}]


def test_a_real_database_with_the_name_of_a_test_one_is_refused_in_a_test_run(
    project: Project, scratch: ScratchDatabase, make_scratch: Callable[..., ScratchDatabase]
) -> None:
    other = make_scratch("other", template=None)
    with connect("postgres") as connection:
        connection.execute(f'ALTER DATABASE "{other.name}" RENAME TO "test_{scratch.name}_other"')
    other.name = f"test_{scratch.name}_other"
    other.execute("CREATE TABLE shop_shelf (id bigserial, name text); INSERT INTO shop_shelf (name) VALUES ('mine')")
    databases = {"default": database_settings("scratch"), "other": database_settings("scratch", NAME=other.name)}
    project.write("databases.json", json.dumps(databases))
    project.write(
        "shop/tests.py",
        f"""
from django.db import connections
from django.test import TransactionTestCase
from shop.attempts import attempt, record

class Reset(TransactionTestCase):
    def test_reset(self):
        connection = connections["default"]
        given = connection.settings_dict["NAME"]
        connection.close()
        connection.settings_dict["NAME"] = {other.name!r}
        try:
            record(attempt("default"))
        finally:
            connection.close()
            connection.settings_dict["NAME"] = given
""",
    )
    assert project.manage("test", "--noinput").must_pass().found == [{"rule": "refused: unknown", "rows": 0}]
    assert other.query("SELECT name FROM shop_shelf") == [("mine",)]


def test_nothing_is_permitted_to_a_process_whose_app_is_not_installed(
    project: Project, scratch: ScratchDatabase
) -> None:
    # Without the app nobody remembered the names of before; what is unknown is refused.
    project.add_settings('INSTALLED_APPS.remove("testdb_app")\n')
    project.write("shop/tests.py", CASES)
    run = project.manage("test", "--noinput").must_pass()
    assert {found["rule"] for found in run.found} == {"refused: unknown"}
