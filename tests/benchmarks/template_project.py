"""Projects with many tables and migrations, and what their runs of pytest cost to set up."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from psycopg import sql

from testproject.embedded import ROLE
from tests.guard.projects import MANAGE, Project, Run, database_settings
from tests.scratch import connect

APPS = 10
IMPORT = "import of the backend"
OF_DJANGO = {"tables": 8, "migrations": 14}
"""What contenttypes, auth and the list of migrations add."""

# Every seventh migration writes rows, with a helper of the project; one in five is SQL.
_DATA = """
from helpers import name_row

def forwards(apps, schema_editor):
    model = apps.get_model("{app}", "{model}")
    for number in range({rows}):
        model.objects.get_or_create(name=name_row(number))
"""
_FILLER = """
def forwards(apps, schema_editor):
    model = apps.get_model("app0", "Big")
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO app0_big (text) SELECT string_agg(md5((n * 32 + m)::text), '') "
            "FROM generate_series(1, %s) n, generate_series(1, 32) m GROUP BY n", [{rows}]
        )
"""

# What the process of a run measures of itself. "wait" is the time until the clone that is made ahead is there.
_CONFTEST = '''
import json, os, sys, threading, time
from pathlib import Path
import pytest

measured = {"parts": {}, "worker": os.environ.get("PYTEST_XDIST_WORKER", "")}

def milliseconds():
    return time.perf_counter() * 1000, time.process_time() * 1000, time.thread_time() * 1000

def timed(owner, name, part):
    original = getattr(owner, name)
    def call(*arguments, **options):
        before = milliseconds()
        try:
            return original(*arguments, **options)
        finally:
            thread = "" if threading.current_thread() is threading.main_thread() else "ahead: "
            spent = measured["parts"].setdefault(thread + part, [0.0, 0.0])
            after = milliseconds()
            spent[0] += after[0] - before[0]
            spent[1] += after[2] - before[2]
    setattr(owner, name, call)

def pytest_configure(config):
    if not os.environ.get("MEASURE_PARTS"):
        return
    from django.db.backends.base.base import BaseDatabaseWrapper
    from testdb_app import backends
    from testdb_app.creation import ahead, postgresql_store, templates
    store = postgresql_store.PostgreSQLStore
    timed(postgresql_store, "connect_for_maintenance", "connect for maintenance")
    timed(templates, "read_key", "key")
    timed(templates, "find_for", "look-up, with the key if it is made ahead")
    timed(store, "make_spare", "clone")
    timed(store, "_swap_in", "rename")
    timed(BaseDatabaseWrapper, "connect", "connect Django")
    timed(backends, "backend_of", "import of the backend")
    timed(templates, "_reset", "reset")
    timed(ahead.SpareMaker, "_make", "all")
    timed(ahead.SpareMaker, "find_templates", "wait")
    timed(templates.TemplateMaker, "finish", "at the end")
    build = templates.TemplateMaker._build
    def built(*arguments, **options):
        result = build(*arguments, **options)
        measured["built"] = time.time() * 1000
        return result
    templates.TemplateMaker._build = built
    if "CLONES_ARE_CHEAP" in os.environ:
        templates.is_clone_cheap = lambda *_: os.environ["CLONES_ARE_CHEAP"] == "yes"

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    if fixturedef.argname != "django_db_setup":
        return (yield)
    before = milliseconds()
    measured["began"] = before[0]
    try:
        return (yield)
    finally:
        after = milliseconds()
        measured["setup"], measured["setup CPU"] = after[0] - before[0], after[1] - before[1]
        measured["ready"] = time.time() * 1000

@pytest.fixture
def in_first_test():
    """Called by the first test."""
    def note():
        if "first test" not in measured:
            measured["first test"] = time.perf_counter() * 1000 - measured.get("began", 0.0)
    return note

@pytest.hookimpl(trylast=True)
def pytest_unconfigure():
    measured["creation"] = sorted(name for name in sys.modules if name.startswith("testdb_app.creation"))
    Path(__file__).with_name(f"measured-{os.getpid()}.json").write_text(json.dumps(measured))
'''
_TESTS = """
import os, time
import pytest
from django.db import connection

# As long as the imports of a project take, and with as much work.
end = time.thread_time() + float(os.environ.get("SECONDS_TO_IMPORT", 0))
while time.thread_time() < end:
    pass

@pytest.mark.parametrize("number", range(int(os.environ.get("TESTS", 1))))
def test_first(db, in_first_test, number):
    in_first_test()
    if number == 0:
        connection.cursor().execute("SELECT 'the first test'")
    time.sleep(float(os.environ.get("SECONDS_TO_SLEEP", 0)))
"""
_SETTINGS = f"""
import json, os
from pathlib import Path
HERE = Path(__file__).parent
DATABASES = json.loads((HERE / "databases.json").read_text())
if "STOCK" in os.environ:  # a database of its own
    DATABASES["default"]["TEST"] = {{"NAME": f"test_{{DATABASES['default']['NAME']}}_stock"}}
INSTALLED_APPS = [
    "testdb_app", "django.contrib.contenttypes", "django.contrib.auth", *(f"app{{n}}" for n in range({APPS}))
]
SECRET_KEY = "of a benchmark"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# What measures the build is no part of it.
TESTDB = {{"TEMPLATE_DEPENDS": ["!env:CLONES_ARE_CHEAP", "!env:MEASURE_PARTS", "!conftest.py"]}}
if "CACHE" in os.environ:
    TESTDB["TEMPLATE_CACHE"] = os.environ["CACHE"]
"""
_WITHOUT = "def test_nothing(in_first_test):\n    in_first_test()\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of pytest: milliseconds of the whole process, and what each process of it measured of itself."""

    run: Run
    whole: float
    processes: list[dict[str, Any]]

    @property
    def only(self) -> dict[str, Any]:
        """What the only process measured."""
        (only,) = self.processes
        return only

    @property
    def setup(self) -> float:
        """The set-up of the databases, with the wait for a clone that is made ahead, and beside imports."""
        return float(self.only["setup"]) + self.part("wait") - self.part(IMPORT)

    def part(self, name: str, *, cpu: bool = False) -> float:
        """Return the milliseconds of a part of the only process, or of its CPU."""
        return float(self.only["parts"].get(name, (0.0, 0.0))[cpu])


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateProject:
    """A project of ten apps on a server."""

    project: Project
    name: str
    server: dict[str, Any] = field(default_factory=dict)

    def run(self, *arguments: str, **environment: str) -> Measured:
        """Run pytest, which must pass."""
        for old in self.project.directory.glob("measured-*.json"):
            old.unlink()
        started = time.perf_counter()
        run = self.project.run("-m", "pytest", "-q", *arguments, seconds=1800, **environment).must_pass()
        whole = (time.perf_counter() - started) * 1000
        found = [json.loads(path.read_text()) for path in sorted(self.project.directory.glob("measured-*.json"))]
        return Measured(run=run, whole=whole, processes=found)

    def stock(self, *arguments: str, **environment: str) -> Measured:
        """Run it without the plugin, in a test database of its own."""
        return self.run("-p", "no:testdb", *arguments, STOCK="1", **environment)

    def from_template(self, *arguments: str, **environment: str) -> Measured:
        """Run it with templates, and measure the parts."""
        return self.run("--testdb-templates", *arguments, MEASURE_PARTS="1", **environment)

    def find_template(self) -> str:
        """Return the name of its template."""
        query = "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE %s"
        with connect("postgres", **self.server) as connection:
            ((name,),) = connection.execute(query, [self._mark]).fetchall()
        return str(name)

    @property
    def _mark(self) -> str:
        return f'testdb template %"project": {json.dumps(str(self.project.directory.resolve()))}%'

    def forget_last_run(self) -> None:
        """Have the next run make no clone ahead."""
        with suppress(FileNotFoundError):
            (self.project.directory / ".pytest_cache/v/testdb/aliases").unlink()

    def drop_all(self) -> None:
        """Drop the templates and the test databases."""
        query = """
        SELECT datname FROM pg_database WHERE starts_with(datname, %s)
            OR starts_with(datname, 'testdb_tpl_') AND shobj_description(oid, 'pg_database') LIKE %s
        """
        with connect("postgres", **self.server) as connection:
            for (found,) in connection.execute(query, [f"test_{self.name}", self._mark]).fetchall():
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(found)))


@contextmanager
def template_project(
    *, tables: int, migrations: int, host: str | None = None, megabytes: int = 0
) -> Iterator[TemplateProject]:
    """Make a project with so many tables and migrations in all, and remove it and its databases at the end.

    *host* is the folder of the server's socket, if it is not that of this process. *megabytes* are rows of a migration.
    """
    name = f"templates_{uuid.uuid4().hex[:8]}"
    # Not in memory, where the files of a project never are.
    with TemporaryDirectory() as folder:
        server = {} if host is None else {"host": host, "port": "5432", "user": ROLE}
        changes = {each.upper(): value for each, value in server.items()}
        settings = database_settings("default", NAME=name, **changes)
        project = Project(directory=Path(folder))
        project.write("manage.py", MANAGE)
        project.write("databases.json", json.dumps({"default": settings}))
        project.write("settings.py", _SETTINGS)
        project.write("helpers.py", "def name_row(number):\n    return f'row {number}'\n")
        project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npythonpath = .\n")
        project.write("conftest.py", _CONFTEST)
        project.write("test_first.py", _TESTS)
        project.write("test_nothing.py", _WITHOUT)
        for app in range(APPS):
            _write_app(
                project,
                app,
                _share(tables - OF_DJANGO["tables"], app),
                _share(migrations - OF_DJANGO["migrations"], app),
            )
        if megabytes:
            _fill(project, megabytes)
        made = TemplateProject(project=project, name=name, server=server)
        try:
            yield made
        finally:
            made.drop_all()


def _share(total: int, app: int) -> int:
    return total // APPS + (app < total % APPS)


def _write_app(project: Project, app: int, tables: int, migrations: int) -> None:
    """Write an app whose first migrations make its tables, and whose others change them and write rows."""
    label = f"app{app}"
    models = {f"Model{n}": {"name": "models.CharField(max_length=100)"} for n in range(tables)}
    for n in range(1, tables):
        models[f"Model{n}"]["parent"] = f"models.ForeignKey('{label}.Model{n // 2}', models.CASCADE, null=True)"
    if app:
        models["Model0"]["parent"] = f"models.ForeignKey('app{app - 1}.Model0', models.CASCADE, null=True)"
    creating = max(1, min(tables, migrations // 3))
    project.write(f"{label}/__init__.py", "")
    project.write(f"{label}/migrations/__init__.py", "")
    for number in range(migrations):
        before = ""
        if number < creating:
            names = list(models)[tables * number // creating : tables * (number + 1) // creating]
            operations = [
                f"migrations.CreateModel('{name}', [('id', models.BigAutoField(primary_key=True)), "
                + ", ".join(f"('{field}', {kind})" for field, kind in models[name].items())
                + "])"
                for name in names
            ]
        else:
            model = f"Model{number % tables}"
            if number % 7 == 0:
                before = _DATA.format(app=label, model=model, rows=3)
                operations = ["migrations.RunPython(forwards, migrations.RunPython.noop)"]
            elif number % 5 == 0:
                operations = [
                    f"migrations.RunSQL('CREATE INDEX {label}_{number} ON {label}_{model.lower()} (name, id)')"
                ]
            elif number % 3 == 0:
                kind = f"models.CharField(max_length={100 + number})"
                models[model]["name"] = kind
                operations = [f"migrations.AlterField('{model}', 'name', {kind})"]
            else:
                kind = "models.IntegerField(null=True, db_index=True)"
                models[model][f"extra{number}"] = kind
                operations = [f"migrations.AddField('{model}', 'extra{number}', {kind})"]
        above = f"('{label}', 'm{number - 1:04}')" if number else f"('app{app - 1}', 'm0000')" if app else ""
        _write_migration(project, f"{label}/migrations/m{number:04}.py", before, above, operations)
    text = "".join(
        f"\nclass {name}(models.Model):\n" + "".join(f"    {field} = {kind}\n" for field, kind in fields.items())
        for name, fields in models.items()
    )
    project.write(f"{label}/models.py", f"from django.db import models\n{text}")


def _write_migration(project: Project, path: str, before: str, above: str, operations: list[str]) -> None:
    listed = ",\n        ".join(operations)
    project.write(
        path,
        f"from django.db import migrations, models\n{before}\nclass Migration(migrations.Migration):\n"
        f"    dependencies = [{above}]\n    operations = [\n        {listed},\n    ]\n",
    )


def _fill(project: Project, megabytes: int) -> None:
    """Add a table with so many megabytes of rows, made by a migration."""
    number = len(list((project.directory / "app0/migrations").glob("m*.py")))
    field = "('id', models.BigAutoField(primary_key=True)), ('text', models.TextField())"
    operations = [f"migrations.CreateModel('Big', [{field}])", "migrations.RunPython(forwards)"]
    above = f"('app0', 'm{number - 1:04}')"
    _write_migration(
        project, f"app0/migrations/m{number:04}.py", _FILLER.format(rows=megabytes * 1024), above, operations
    )
    models = (project.directory / "app0/models.py").read_text()
    project.write("app0/models.py", f"{models}\nclass Big(models.Model):\n    text = models.TextField()\n")
