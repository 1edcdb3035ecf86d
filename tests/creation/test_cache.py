"""``TESTDB["TEMPLATE_CACHE"]``: machines that share a folder migrate once. Each has a copy of the project, and an empty server."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from testdb_app.creation.fingerprint import read_fingerprint
from tests.guard.projects import INITIAL, Project, database_settings, make_project
from tests.scratch import connect, connect_as_superuser, default_parameters

pytestmark = pytest.mark.postgresql
_numbers = itertools.count(1)

ROWS = """
from django.db import migrations
from shop.prices import PRICE

def fill(apps, editor):
    apps.get_model("shop.Shelf").objects.using(editor.connection.alias).create(name=PRICE)
    database = editor.quote_name(editor.connection.settings_dict["NAME"])
    editor.execute(f"ALTER DATABASE {database} SET statement_timeout TO '59s'")

class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunPython(fill)]
"""
TESTS = """
from django.db import connection
from django.test import TestCase
from shop.attempts import record
from shop.models import Shelf

class Tests(TestCase):
    def test_it(self):
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            record({"shelves": list(Shelf.objects.values_list("name", flat=True)), "timeout": cursor.fetchone()[0]})
"""
FOUND = [{"shelves": ["3.00"], "timeout": "59s"}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A copy of the project. The databases of *role* are all that there is on its server."""

    role: str
    project: Project

    @property
    def folder(self) -> Path:
        return self.project.directory / ".testdb"

    def test(self, *arguments: str) -> str:
        """Run the tests, which find the rows and settings of the migrations. Return what was printed."""
        run = self.project.manage("test", *arguments).must_pass()
        assert run.found == FOUND
        return run.stdout

    def command(self, *arguments: str) -> str:
        return self.project.manage("testtemplates", *arguments).must_pass().stdout

    def fingerprint(self) -> dict[str, str]:
        """Return the fingerprint of the kept test database."""
        with connect(f"test_{self.role}", user=self.role) as connection:
            return read_fingerprint(connection)


@contextmanager
def made_role() -> Iterator[str]:
    name = f"machine_{os.getpid()}_{next(_numbers)}"
    password = sql.Literal(default_parameters().get("password", ""))
    with connect_as_superuser("postgres") as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(sql.Identifier(name), password))
    try:
        yield name
    finally:
        drop_databases(name)
        with connect_as_superuser("postgres") as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def drop_databases(role: str) -> None:
    """Drop all that a role owns, so that its server is a new one."""
    query = "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = %s"
    with connect_as_superuser("postgres") as connection:
        for (name,) in connection.execute(query, [role]).fetchall():
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def make_machine(django_db_blocker: Any, tmp_path: Path) -> Iterator[Callable[[], Machine]]:
    """Return a function that makes a machine. The role has its name on each machine, as a key depends on it."""

    def make() -> Machine:
        directory = tmp_path / f"machine{next(_numbers)}"
        project = make_project(directory, {"default": database_settings("default", NAME=role, USER=role, TEST={})})
        project.write("shop/migrations/__init__.py", "")
        project.write("shop/migrations/0001_initial.py", INITIAL)
        project.write("shop/migrations/0002_rows.py", ROWS)
        project.write("shop/prices.py", 'PRICE = "3.00"\n')
        project.write("shop/tests.py", TESTS)
        project.add_settings(
            'TESTDB = {"TEMPLATES": True, "TEMPLATE_CACHE": ".testdb"}\n'
            'TEST_RUNNER = "testdb_app.runner.ResetDiscoverRunner"\n'
        )
        drop_databases(role)
        return Machine(role=role, project=project)

    with django_db_blocker.unblock(), made_role() as role:
        yield make


def test_another_machine_restores_what_one_has_built(make_machine: Callable[[], Machine]) -> None:
    first = make_machine()
    built = first.test("--keepdb")
    assert "building the template" in built
    (key,) = re.findall(rf"template (\w{{8}}) written to {first.folder}", built)
    name_of_cache, before = first.command("--key"), first.fingerprint()

    second = make_machine()
    shutil.copytree(first.folder, second.folder)
    assert second.command("--key") == name_of_cache
    restored = second.test("--keepdb")
    assert f'template {key} of "default" restored from {second.folder} in ' in restored
    assert f"test database from template {key}" in restored
    assert "building" not in restored
    assert "written" not in restored
    assert second.fingerprint() == before
    (listed,) = json.loads(second.command("--format", "json"))["templates"]
    assert listed["project"] == str(second.project.directory)
    assert "restored" not in second.test("--noinput")


def test_the_command_builds_for_other_machines(make_machine: Callable[[], Machine]) -> None:
    first = make_machine()
    assert "built now" in first.command("--build")
    second = make_machine()
    shutil.copytree(first.folder, second.folder)
    assert ", fits (" in second.command("--build")
    assert {path.name for path in second.folder.iterdir()} == {path.name for path in first.folder.iterdir()}


def test_one_worker_of_a_run_writes_the_archive(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    tests = "import pytest\n\n@pytest.mark.django_db\n@pytest.mark.parametrize('n', range(12))\ndef test_it(n): pass\n"
    machine.project.write("test_it.py", tests)
    machine.project.pytest("-n3", "--ds=settings").must_pass()
    assert len(list(machine.folder.glob("*.dump"))) == 1


def test_an_archive_that_does_not_fit_is_not_restored(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    machine.command("--build", "-v0")
    drop_databases(machine.role)
    machine.project.write("shop/prices.py", 'PRICE = "3.00"  # in euros\n')
    assert "building the template" in machine.test()
    assert len(list(machine.folder.glob("*.dump.json"))) == 2


def test_what_is_wrong_with_the_folder_is_named_and_the_run_goes_on(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    machine.command("--build", "-v0")
    (dump,) = machine.folder.glob("*.dump")
    dump.write_bytes(dump.read_bytes()[:-1] + b"?")
    drop_databases(machine.role)
    printed = machine.test()
    assert f"{dump} is not as it was written: its SHA-256 digest differs" in printed
    assert "building the template" in printed
    drop_databases(machine.role)
    assert "restored from" in machine.test()

    machine.folder.chmod(0o777)
    drop_databases(machine.role)
    printed = machine.test()
    assert f"{machine.folder} can be written by other users" in printed
    assert "building the template" in printed
