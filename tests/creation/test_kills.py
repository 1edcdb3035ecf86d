"""Runs that are killed, or that the server refuses something: the next is right, and no database stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.creation.projects import TemplateProject
from tests.embedded.processes import eventually
from tests.scratch import connect_as_superuser

pytestmark = pytest.mark.postgresql

# In the project: kills the process at the nth call of a function, before or after it, or some milliseconds into it.
KILLER = """
import importlib, os, signal, sys, threading

def install(step):
    place, when, number = step.split(" ")
    module, _, path = place.partition(":")
    owner = importlib.import_module(module)
    *outer, name = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    original, calls = getattr(owner, name), []

    def kill():
        os.kill(os.getpid(), getattr(signal, os.environ.get("SIGNAL", "SIGKILL")))

    def call(*arguments, **options):
        calls.append(1)
        is_now = len(calls) == int(number)
        if is_now and when == "before":
            kill()
        if is_now and when == "during":
            threading.Timer(0.005, kill).start()
        result = original(*arguments, **options)
        if is_now and when == "after":
            kill()
        return result

    setattr(owner, name, call)

def pytest_configure(config):
    if "KILL" in os.environ:
        install(os.environ["KILL"])
"""

STORE = "testdb_app.creation.postgresql_store:PostgreSQLStore"
# What is killed: of the first run, which builds the template and clones it.
BUILDING = {
    "before anything is made": f"{STORE}.begin after 1",
    "in CREATE DATABASE": f"{STORE}._create during 1",
    "after CREATE DATABASE": f"{STORE}._create after 1",
    "in the migrations": "django.db.migrations.executor:MigrationExecutor.apply_migration after 3",
    "after the migrations": "testdb_app.creation.templates:_capture before 1",
    "after the baseline": "testdb_app.creation.templates:_capture after 1",
    "before it is shut": f"{STORE}.commit before 1",
    "after it is shut": f"{STORE}._run after 1",
    "before the rename": f"{STORE}._rename before 1",
    "after the rename": f"{STORE}._rename after 1",
    "in the clone": f"{STORE}._create during 2",
    "after the clone": f"{STORE}._create after 2",
    "before the clone has its name": f"{STORE}._swap_in before 1",
    "after the clone has its name": f"{STORE}._swap_in after 1",
}
# Of a later run with --reuse-db, which makes a clone ahead, and gives it the name of the one that it kept.
KEEPING = {
    "in the clone": f"{STORE}._create during 1",
    "before its properties": f"{STORE}._complete before 1",
    "after its properties": f"{STORE}._complete after 1",
    "between the two renames": f"{STORE}._rename before 2",
    "after the renames": f"{STORE}._swap_in after 1",
    "before the use is stored": f"{STORE}.touch before 1",
    "before what was replaced is dropped": f"{STORE}.drop_left_over before 1",
}


def use_killer(project: TemplateProject) -> None:
    """Have the project be killed where the variable KILL says."""
    project.write("conftest.py", KILLER)


def await_server(project: TemplateProject) -> None:
    """Wait until no session of the project is left: the server first ends what a killed run has sent, and a later run drops it."""
    with connect_as_superuser("postgres") as connection:
        query = "SELECT FROM pg_stat_activity WHERE usename = %s"
        assert eventually(lambda: connection.execute(query, [project.role]).fetchone() is None)


@pytest.mark.parametrize("step", BUILDING)
def test_a_killed_build_leaves_nothing_and_the_next_run_is_right(project: TemplateProject, step: str) -> None:
    use_killer(project)
    killed = project.run("-m", "pytest", KILL=BUILDING[step])
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    await_server(project)
    project.tests().must_find()
    assert project.databases() == project.templates()
    assert len(project.templates()) == 1
    project.tests().must_use().must_find()
    assert project.databases() == project.templates()


@pytest.mark.parametrize("step", KEEPING)
def test_a_killed_run_with_a_kept_database_leaves_nothing(project: TemplateProject, step: str) -> None:
    use_killer(project)
    project.tests("--reuse-db").must_find()
    killed = project.run("-m", "pytest", "--reuse-db", KILL=KEEPING[step])
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    assert project.test_name in project.databases()
    await_server(project)
    project.tests("--reuse-db").must_use().must_find()
    assert project.databases() == sorted([*project.templates(), project.test_name])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("step", ["in the migrations", "in the clone"])
def test_an_interrupted_build_leaves_nothing(project: TemplateProject, name: str, step: str) -> None:
    use_killer(project)
    ended = project.run("-m", "pytest", KILL=BUILDING[step], SIGNAL=name)
    assert ended.returncode != 0
    await_server(project)
    project.tests().must_find()
    assert project.databases() == project.templates()


def test_a_failing_migration_fails_as_in_stock(project: TemplateProject) -> None:
    project.add_migration(
        "0003_fails",
        "migrations.RunPython(fail)",
        head="\ndef fail(apps, editor):\n    raise ValueError('of a migration')\n",
    )
    stock = project.tests("--no-testdb-templates", fails=True)
    ours = project.tests(fails=True)
    assert stock.text.count("ValueError: of a migration") and ours.text.count("ValueError: of a migration")
    # Django leaves its test database behind; a scratch database is dropped.
    assert set(project.databases()) <= {project.test_name}
    (project.directory / "shop/migrations/0003_fails.py").unlink()
    project.tests().must_find()
    assert project.databases() == project.templates()


def test_sql_that_fails_in_a_migration_fails_as_in_stock(project: TemplateProject) -> None:
    project.add_migration("0003_fails", 'migrations.RunSQL("SELECT 1 / 0")')
    ours = project.tests(fails=True)
    assert "django.db.utils.DataError: division by zero" in ours.text
    assert "no template" not in ours.text
    assert project.databases() == []


def test_a_template_in_use_is_said_and_the_run_goes_on(project: TemplateProject) -> None:
    project.tests()
    (template,) = project.templates()
    project.as_superuser("ALTER DATABASE {} ALLOW_CONNECTIONS true", template)
    with project.connect(template):
        ran = project.tests("-p", "no:cacheprovider").must_find()
    assert any(line.startswith('no template for "default": source database') for line in ran.lines), ran.text
    project.tests("-p", "no:cacheprovider").must_use().must_find()
    assert project.databases() == [template]


def test_a_template_that_is_dropped_meanwhile_does_no_harm(project: TemplateProject) -> None:
    project.tests()
    (template,) = project.templates()
    project.write(
        "conftest.py",
        f"from testdb_app.creation.postgresql_store import PostgreSQLStore as Store\n"
        f"original = Store.make_spare\ndef make_spare(self, *arguments):\n    self.drop({template!r})\n"
        f"    return original(self, *arguments)\nStore.make_spare = make_spare\n",
    )
    project.tests().must_find()
    (project.directory / "conftest.py").unlink()
    project.tests().must_find()
    assert len(project.templates()) == 1
    assert project.databases() == project.templates()


def test_a_spare_that_is_dropped_meanwhile_does_no_harm(project: TemplateProject) -> None:
    project.tests()
    project.write(
        "conftest.py",
        "from testdb_app.creation.postgresql_store import PostgreSQLStore as Store\n"
        "original = Store.make_spare\ndef make_spare(self, *arguments):\n    name = original(self, *arguments)\n"
        "    self.drop(name)\n    return name\nStore.make_spare = make_spare\n",
    )
    project.tests().must_find()
    assert project.databases() == project.templates()


def test_a_role_without_createdb_gets_the_message_of_stock(project: TemplateProject) -> None:
    project.as_superuser("ALTER ROLE {} NOCREATEDB", project.role)
    stock = project.tests("--no-testdb-templates", fails=True)
    ours = project.tests(fails=True)
    message = "Got an error creating the test database: permission denied to create database"
    assert message in stock.text
    assert message in ours.text
    assert "testdb_tpl" not in ours.text


def test_a_role_without_createdb_uses_the_database_that_somebody_has_made(project: TemplateProject) -> None:
    project.as_superuser("ALTER ROLE {} NOCREATEDB", project.role)
    project.as_superuser("CREATE DATABASE {} OWNER {}", project.test_name, project.role)
    project.tests("--reuse-db").must_find()
    project.tests("--reuse-db").must_find()


def test_where_a_clone_is_refused_the_run_says_so_and_goes_on_as_in_stock(project: TemplateProject) -> None:
    project.write(
        "conftest.py",
        "from testdb_app.creation.postgresql_store import PostgreSQLStore as Store\n"
        "Store._write_clause = lambda self, *arguments: "
        "__import__('psycopg').sql.SQL('WITH TABLESPACE there_is_none').format()\n",
    )
    ran = project.tests().must_find()
    assert any('no template for "default": tablespace "there_is_none" does not exist' in line for line in ran.lines), (
        ran.text
    )
    assert project.databases() == project.templates()


@pytest.mark.parametrize("name", ["a%sb", "two words", "ümläut", "x" * 56, "ü" * 28])
def test_a_name_that_is_hostile_or_long(project: TemplateProject, name: str) -> None:
    project.change(NAME=f"{name}{project.name[-2:]}")
    stock = project.run("-m", "pytest", "--no-testdb-templates", "--create-db")
    for _ in range(2):
        ours = project.run("-m", "pytest")
        assert ours.returncode == stock.returncode, stock.stdout + stock.stderr + ours.stdout + ours.stderr
    assert project.databases() == project.templates()


@pytest.mark.parametrize("alias", ["a%sb", 'quo"ted', "two words", "ümläut", "x" * 80, "x_building"])
def test_an_alias_that_is_hostile_or_long(project: TemplateProject, alias: str) -> None:
    databases = project.read_databases()
    project.set_databases({**databases, alias: {**databases["default"], "NAME": f"{project.name}_other"}})
    project.write(
        "test_finds.py",
        "from finds import *\n@pytest.mark.django_db(databases='__all__')\ndef test_it():\n    record(**contents())\n",
    )
    assert project.tests().must_find().builds == 2
    assert project.tests().must_find().builds == 0
    assert len(project.templates()) == 2
    assert project.databases() == project.templates()


def test_timeouts_of_the_settings_do_not_end_the_work_around_databases(project: TemplateProject) -> None:
    timeouts = ("statement_timeout", "lock_timeout", "idle_session_timeout")
    project.change(OPTIONS={"options": " ".join(f"-c {name}=300000" for name in timeouts)})
    project.write(
        "conftest.py",
        "from testdb_app.creation.postgresql_store import PostgreSQLStore as Store\n"
        "original = Store.make_spare\ndef make_spare(self, *arguments):\n"
        f"    for name in {timeouts}:\n"
        "        assert self.server.execute(f'SHOW {name}').fetchone() == ('0',)\n"
        "    return original(self, *arguments)\nStore.make_spare = make_spare\n",
    )
    project.write(
        "test_finds.py",
        "from finds import *\n@pytest.mark.django_db\ndef test_it():\n    with connection.cursor() as cursor:\n"
        "        cursor.execute('SHOW statement_timeout')\n        record(**contents(), timeout=cursor.fetchone()[0])\n",
    )
    project.tests().must_find(timeout="5min")
    project.tests().must_use().must_find(timeout="5min")


def processes(project: TemplateProject, number: int, *options: str) -> list[subprocess.Popen[str]]:
    """Start some runs of the tests at once, each with a test database of its own."""
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", *options],
            cwd=project.directory,
            env=project.full_environment(DATABASE=f'{{"TEST": {{"NAME": "{project.test_name}_{index}"}}}}'),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(number)
    ]


def test_runs_that_start_at_once_build_one_template(project: TemplateProject) -> None:
    texts = [process.communicate(timeout=120)[0] for process in processes(project, 4)]
    assert all("1 passed" in text for text in texts), texts
    assert sum("building the template" in text for text in texts) == 1, texts
    assert sum("waiting for another process" in text for text in texts) >= 1, texts
    assert len(project.templates()) == 1
    assert project.databases() == project.templates()


def test_the_run_that_waits_builds_when_the_one_that_builds_is_killed(project: TemplateProject) -> None:
    project.add_migration(
        "0003_slow", "migrations.RunPython(wait)", head="\nimport time\ndef wait(apps, editor):\n    time.sleep(2)\n"
    )
    first, second = processes(project, 2)
    deadline = time.monotonic() + 60
    while not project.left_over():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)
    builder = next(each for each in (first, second) if each.poll() is None)
    os.kill(builder.pid, signal.SIGKILL)
    texts = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert any("1 passed" in text for text in texts), texts
    project.tests().must_find()
    assert project.databases() == project.templates()
