"""Throw-away Django projects: what a test runner does to the settings can only be seen in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.db import connections

MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
from django.core.management import execute_from_command_line
if __name__ == "__main__":
    execute_from_command_line(sys.argv)
"""

SETTINGS = """
import json
from pathlib import Path
HERE = Path(__file__).parent
DATABASES = json.loads((HERE / "databases.json").read_text())
INSTALLED_APPS = ["testdb_app", "shop"]
SECRET_KEY = "of a test"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# Django 6.1 warns where a mail is sent without it.
MAILERS = {"default": {}}
"""

MODELS = """
from django.db import models

class Shelf(models.Model):
    name = models.CharField(max_length=20)

class Item(models.Model):
    shelf = models.ForeignKey(Shelf, models.CASCADE)
"""

# The migration of these models.
INITIAL = """
from django.db import migrations, models

class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel("Shelf", [
            ("id", models.BigAutoField(primary_key=True)), ("name", models.CharField(max_length=20)),
        ]),
        migrations.CreateModel("Item", [
            ("id", models.BigAutoField(primary_key=True)), ("shelf", models.ForeignKey("shop.Shelf", models.CASCADE)),
        ]),
    ]
"""

# What every test of a project does: fill, reset, and try the same on the database that the settings named at first.
ATTEMPTS = """
import json, os
from django.conf import settings
from django.db import connections
from testdb_app.exceptions import TestDBError
from testdb_app.resetter import Resetter
from shop.models import Item, Shelf

CONFIGURED = {alias: configuration["NAME"] for alias, configuration in json.loads(
    (settings.HERE / "databases.json").read_text()).items()}

def attempt(alias):
    try:
        report = Resetter(alias).reset()
    except TestDBError as error:
        return {"rule": "refused: " + getattr(error, "rule", type(error).__name__), "rows": 0}
    return {"rule": report.permitted_by, "database": report.database, "rows": report.rows}

def fill(alias):
    for number in range(2):
        Item.objects.using(alias).create(shelf=Shelf.objects.using(alias).create(name=f"s{number}"))

def reset_and_record(alias="default"):
    fill(alias)
    before = Item.objects.using(alias).count()
    found = attempt(alias) | {"alias": alias, "before": before, "after": Item.objects.using(alias).count()}
    connection = connections[alias]
    if connection.vendor == "sqlite" and connection.is_in_memory_db():
        return record(found)  # it would be gone after close()
    given = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = CONFIGURED[alias]
    try:
        found["real"] = attempt(alias)["rule"]
    finally:
        connection.close()
        connection.settings_dict["NAME"] = given
    record(found)

def record(found):
    with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\\n")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a process of the project ended, and what its tests recorded."""

    returncode: int
    stdout: str
    stderr: str
    found: list[dict[str, Any]]

    def must_pass(self) -> Run:
        assert self.returncode == 0, self.stdout + self.stderr
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project with an app ``shop`` of two models, without migrations."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def is_postgresql(self) -> bool:
        """Whether its databases are PostgreSQL's."""
        return "postgresql" in json.loads((self.directory / "databases.json").read_text())["default"]["ENGINE"]

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        self._forget_compiled(path)

    def add_settings(self, text: str) -> None:
        path = self.directory / "settings.py"
        path.write_text(path.read_text() + text)
        self._forget_compiled(path)

    @staticmethod
    def _forget_compiled(path: Path) -> None:
        """Remove what Python has compiled in that folder: a text of the same length, written in the same second, is not new to it."""
        shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)

    def manage(self, *arguments: str, **options: Any) -> Run:
        return self.run("manage.py", *arguments, **options)

    def pytest(self, *arguments: str) -> Run:
        return self.run("-m", "pytest", "-p", "no:cacheprovider", *arguments)

    def run(self, *arguments: str, feed: str = "", seconds: float = 120, **environment: str) -> Run:
        """Run Python in the project, with warnings as errors, for so many seconds at most."""
        done = subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            env=self.full_environment(**environment),
            cwd=self.directory,
            input=feed,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        files = sorted(self.directory.glob("found-*.jsonl"))
        found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        for file in files:
            file.unlink()
        return Run(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr, found=found)

    def full_environment(self, **environment: str) -> dict[str, str]:
        """Return the environment of the project's processes: this one's, with the project first on the path.

        Python keeps what it compiles, also where it shall not here: each process would compile the package again.
        """
        strange = ("PYTEST", "DJANGO_SETTINGS_MODULE", "COLUMNS", "NO_COLOR", "TESTPROJECT_DATABASE", "PYTHONDONTWRITE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
        path = os.pathsep.join([str(self.directory), *(part for part in sys.path if part)])
        # The first is installed for the test that is about it; the others cost half a second a process.
        options = {"PYTEST_ADDOPTS": "-p no:randomly -p no:hypothesispytest -p no:faker"}
        return {**inherited, **options, "PYTHONPATH": path, **self.environment, **environment}


def make_project(directory: Path, databases: dict[str, dict[str, Any]]) -> Project:
    """Write a project. *databases* is its ``DATABASES``, in JSON's types."""
    project = Project(directory=directory)
    project.write("manage.py", MANAGE)
    project.write("settings.py", SETTINGS)
    project.write("databases.json", json.dumps(databases))
    project.write("shop/__init__.py", "")
    project.write("shop/models.py", MODELS)
    project.write("shop/attempts.py", ATTEMPTS)
    return project


def database_settings(alias: str, **changes: Any) -> dict[str, Any]:
    """Return what a project's ``DATABASES`` needs for the database that this process knows as *alias*."""
    configuration = connections.settings[alias]
    parameters = connections["default"].get_connection_params() if "sqlite" not in configuration["ENGINE"] else {}
    found = {
        name.upper(): str(parameters[name]) for name in ("host", "port", "user", "password") if parameters.get(name)
    }
    # The server of this process runs as long as it does: its projects need no engine that starts one.
    engine = "sqlite3" if "sqlite" in configuration["ENGINE"] else "postgresql"
    return {"ENGINE": f"django.db.backends.{engine}", "NAME": str(configuration["NAME"]), **found, **changes}
