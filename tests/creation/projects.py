"""Throw-away projects with migrations, whose test databases come from templates. Each has a role of its own.

So a test can name every database that its runs have made, and runs of other tests do not collect them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from testdb_app.creation.postgresql_store import OLD, SPARE
from testdb_app.creation.store import PREFIX
from tests.guard.projects import Project, Run, database_settings, make_project
from tests.scratch import connect, connect_as_superuser

SETTINGS = """
import os, secrets
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "testdb_app", "shop", "legacy"]
SECRET_KEY = secrets.token_hex(8)
MEDIA_ROOT = f"/var/empty/{secrets.token_hex(8)}"
SHOP_COLOURS = os.environ.get("COLOURS", "red,green").split(",")
SHOP_SHADE = os.environ.get("SHADE", "light")
TEST_RUNNER = "testdb_app.runner.ResetDiscoverRunner"
# What kills a run is no part of its template, although code that runs in a build reads it.
TESTDB = {"TEMPLATES": True, "TEMPLATE_DEPENDS": ["!env:KILL", "!env:SIGNAL"]}
for name, value in json.loads(os.environ.get("SETTINGS", "{}")).items():
    globals()[name] = value
for name, value in json.loads(os.environ.get("DATABASE", "{}")).items():
    DATABASES["default"][name] = {**DATABASES["default"].get(name, {}), **value} if isinstance(value, dict) else value
"""

MODELS = """
from django.db import models

class Colour(models.Model):
    name = models.CharField(max_length=20)

class Book(models.Model):
    title = models.CharField(max_length=100)
    colour = models.ForeignKey(Colour, models.CASCADE, null=True)
"""

INITIAL = """
from django.db import migrations, models

class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel("Colour", [
            ("id", models.BigAutoField(primary_key=True)),
            ("name", models.CharField(max_length=20)),
        ]),
        migrations.CreateModel("Book", [
            ("id", models.BigAutoField(primary_key=True)),
            ("title", models.CharField(max_length=100)),
            ("colour", models.ForeignKey("shop.colour", models.CASCADE, null=True)),
        ]),
    ]
"""

SEED = """
from pathlib import Path
from django.conf import settings
from django.core.management import call_command
from django.db import migrations

def seed(apps, editor):
    from shop.pricing import title
    using = editor.connection.alias
    colours = [apps.get_model("shop", "Colour").objects.using(using).create(name=name) for name in settings.SHOP_COLOURS]
    apps.get_model("shop", "Book").objects.using(using).create(title=title(), colour=colours[0])
    call_command("loaddata", "colours.json", database=using, verbosity=0)
    editor.execute((Path(__file__).parents[1] / "views.sql").read_text())

class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
"""

FILES = {
    "shop/models.py": MODELS,
    "shop/migrations/__init__.py": "",
    "shop/migrations/0001_initial.py": INITIAL,
    "shop/migrations/0002_seed.py": SEED,
    "shop/migrations/extra.sql": "SELECT 0",
    "shop/views.sql": "CREATE VIEW shop_view AS SELECT 1 AS one",
    "shop/fixtures/colours.json": '[{"model": "shop.colour", "pk": 50, "fields": {"name": "of a fixture"}}]',
    "shop/pricing.py": (
        "import os\nfrom shop.constants import STEP\nRATE = 1\n\n"
        "def title():\n    return f\"{RATE} {STEP} {os.environ.get('SHOP_MODE', '')}\"\n"
    ),
    "shop/constants.py": "from shop.deeper import DEEP\nSTEP = DEEP + 1\n",
    "shop/deeper.py": "DEEP = 1\n",
    "shop/other.py": "def unused():\n    return 1\n",
    "legacy/__init__.py": "",
    "legacy/models.py": (
        "from django.db import models\n\nclass Old(models.Model):\n    code = models.CharField(max_length=10)\n"
    ),
    "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npython_files = test_*.py\n",
}

# What a test finds in the database that it was given, and whether it can write there.
TESTS = """
import json, os
import pytest
from django.conf import settings
from django.db import connection, connections, transaction
from shop.models import Book, Colour

def record(**found):
    with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\\n")

def contents():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        name = cursor.fetchone()[0]
    return {
        "database": name,
        "books": sorted(Book.objects.values_list("title", flat=True)),
        "colours": sorted(Colour.objects.values_list("name", flat=True)),
    }
"""

TEST = """
from finds import *

@pytest.mark.django_db
def test_finds():
    record(**contents())
    Book.objects.create(title="of a test")
"""

ROWS = {"books": ["1 2 "], "colours": ["green", "of a fixture", "red"]}
"""What each test must find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateProject(Project):
    """A project whose databases belong to the role *role*. Its real database, *name*, does not exist."""

    role: str
    name: str

    @property
    def test_name(self) -> str:
        """The name of the test database of the alias default."""
        return f"test_{self.name}"

    def databases(self) -> list[str]:
        """Return the names of the role's databases."""
        with connect_as_superuser("postgres") as connection:
            query = "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = %s ORDER BY 1"
            return [name for (name,) in connection.execute(query, [self.role]).fetchall()]

    def templates(self) -> list[str]:
        """Return the names of the complete templates."""
        return [name for name in self.databases() if name.startswith(PREFIX) and not name.endswith("_building")]

    def left_over(self) -> list[str]:
        """Return the databases that only a run that is under way may have."""
        return [
            name
            for name in self.databases()
            if name.startswith((SPARE, OLD)) or (name.startswith(PREFIX) and name.endswith("_building"))
        ]

    def documents(self) -> list[dict[str, Any]]:
        """Return what the comments of the templates say, in the order of their names."""
        query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = ANY(%s) ORDER BY datname"
        with connect_as_superuser("postgres") as connection:
            found = connection.execute(query, [self.templates()]).fetchall()
        return [json.loads(comment.removeprefix("testdb template ")) for (comment,) in found]

    def oid(self, name: str) -> int:
        """Return the OID of a database."""
        with connect_as_superuser("postgres") as connection:
            row = connection.execute("SELECT oid::int8 FROM pg_database WHERE datname = %s", [name]).fetchone()
        assert row is not None, f"there is no database {name}"
        return int(row[0])

    @contextmanager
    def connect(self, name: str) -> Iterator[psycopg.Connection[Any]]:
        """Connect as the role."""
        with connect(name, user=self.role) as connection:
            yield connection

    def execute(self, name: str, statements: str) -> None:
        """Run statements in a database, as the role."""
        with self.connect(name) as connection:
            connection.execute(statements)

    def as_superuser(self, statement: str, *names: str) -> None:
        """Run a statement in the database postgres, as a superuser."""
        with connect_as_superuser("postgres") as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def change(self, **changes: Any) -> None:
        """Change the settings of the alias default."""
        self.set_databases({**self.read_databases(), "default": {**self.read_databases()["default"], **changes}})

    def read_databases(self) -> dict[str, Any]:
        """Return the project's ``DATABASES``."""
        found: dict[str, Any] = json.loads((self.directory / "databases.json").read_text())
        return found

    def set_databases(self, databases: dict[str, Any]) -> None:
        """Replace the project's ``DATABASES``."""
        self.write("databases.json", json.dumps(databases))

    def replace(self, name: str, before: str, after: str) -> None:
        """Replace a text in a file."""
        text = (self.directory / name).read_text()
        assert before in text
        self.write(name, text.replace(before, after))

    def add_migration(self, name: str, operations: str, *, after: str = "0002_seed", head: str = "") -> None:
        """Add a migration to the app shop. Its *operations* are Python's, *head* comes before the class."""
        self.write(
            f"shop/migrations/{name}.py",
            f"from django.db import migrations, models\n{head}\nclass Migration(migrations.Migration):\n"
            f"    dependencies = [('shop', '{after}')]\n    operations = [{operations}]\n",
        )

    def tests(self, *options: str, fails: bool = False, **environment: str) -> TemplateRun:
        """Run the tests by pytest."""
        done = self.run("-m", "pytest", *options, **environment)
        assert (done.returncode != 0) if fails else (done.returncode == 0), done.stdout + done.stderr
        return TemplateRun(done)

    def manage_tests(self, *options: str, fails: bool = False, feed: str = "", **environment: str) -> TemplateRun:
        """Run the tests by ``manage.py test``."""
        done = self.run("manage.py", "test", *options, feed=feed, **environment)
        assert (done.returncode != 0) if fails else (done.returncode == 0), done.stdout + done.stderr
        return TemplateRun(done)


class TemplateRun:
    """How a run ended, and what it said of templates."""

    def __init__(self, run: Run) -> None:
        self.found = run.found
        self.text = run.stdout + run.stderr

    @property
    def lines(self) -> list[str]:
        """What the run said of its test databases, without "testdb: "."""
        return [line.partition("testdb: ")[2].strip() for line in self.text.splitlines() if "testdb: " in line]

    def count(self, beginning: str) -> int:
        """Return how many lines begin so."""
        return sum(line.startswith(beginning) for line in self.lines)

    @property
    def builds(self) -> int:
        """How many templates were built."""
        return self.count("building the template")

    @property
    def uses(self) -> int:
        """How many lines say that a template was there."""
        return self.count("test database from template")

    def must_build(self, reason: str) -> TemplateRun:
        """Assert that a template was built, and why."""
        assert self.builds, self.text
        assert any(reason in line for line in self.lines if line.startswith("building")), (reason, self.lines)
        return self

    def must_use(self) -> TemplateRun:
        """Assert that a template was there."""
        assert (self.builds, self.uses) == (0, 1), self.text
        return self

    def must_find(self, **found: Any) -> TemplateRun:
        """Assert that each test found these rows."""
        expected = {**ROWS, **found}
        assert self.found, self.text
        for each in self.found:
            assert {key: each[key] for key in expected} == expected, self.text
        return self


def make_template_project(folder: Path, **changes: Any) -> TemplateProject:
    """Write a project into *folder*, and make its role, which has CREATEDB only."""
    name = f"tpl_{uuid.uuid4().hex[:10]}"
    made = make_project(folder, {"default": {**database_settings("default"), "USER": name, "NAME": name, **changes}})
    with connect_as_superuser("postgres") as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB").format(sql.Identifier(name)))
    project = TemplateProject(directory=folder, role=name, name=name)
    del made
    project.add_settings(SETTINGS)
    for path, text in FILES.items():
        project.write(path, text)
    project.write("finds.py", TESTS)
    project.write("test_finds.py", TEST)
    return project


def drop_all(project: TemplateProject) -> None:
    """Drop the role and all its databases."""
    with connect_as_superuser("postgres") as connection:
        for name in project.databases():
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(project.role)))
