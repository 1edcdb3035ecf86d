"""Whole runs whose SQLite test databases come from templates, beside runs without them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.guard.projects import Project, Run, make_project
from tests.scratch import is_postgresql

pytestmark = pytest.mark.skipif(is_postgresql(), reason="run with the tests on SQLite")

SETTINGS = """
import multiprocessing, os
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "testdb_app", "shop"]
TEST_RUNNER = "testdb_app.runner.ResetDiscoverRunner"
TESTDB = {"TEMPLATES": True}
NAME = os.environ.get("TEST_NAME")
DATABASES["default"]["TEST"] = {"NAME": HERE / NAME.removeprefix("path:") if NAME and NAME.startswith("path:") else NAME}
if "START" in os.environ and multiprocessing.get_start_method(allow_none=True) is None:
    multiprocessing.set_start_method(os.environ["START"])
"""

MIGRATION = """
from django.db import migrations, models

def seed(apps, editor):
    shelves = apps.get_model("shop", "Shelf").objects.using(editor.connection.alias)
    for name in ("one", "two", "gone"):
        shelves.create(name=name)
    shelves.filter(name="gone").delete()
    if editor.connection.alias == "default" and __import__("os").environ.get("DIES"):
        __import__("os").kill(__import__("os").getpid(), 9)

class Migration(migrations.Migration):
    operations = [
        migrations.CreateModel("Shelf", [
            ("id", models.BigAutoField(primary_key=True)), ("name", models.CharField(max_length=20)),
        ]),
        migrations.CreateModel("Item", [
            ("id", models.BigAutoField(primary_key=True)), ("shelf", models.ForeignKey("shop.shelf", models.CASCADE)),
        ]),
        migrations.RunPython(seed),
        migrations.RunSQL("CREATE VIEW shop_view AS SELECT name FROM shop_shelf"),
        migrations.RunSQL("CREATE TRIGGER shop_trigger AFTER DELETE ON shop_item BEGIN SELECT 1; END"),
        migrations.RunSQL("PRAGMA user_version = 42"),
    ]
"""

FINDS = """
import json, os, re, sys
from django.conf import settings
from django.db import connection
from django.test import TestCase, TransactionTestCase
from shop.models import Item, Shelf

PRAGMAS = ("encoding", "page_size", "auto_vacuum", "journal_mode", "user_version", "application_id", "foreign_keys",
           "synchronous", "recursive_triggers", "legacy_alter_table", "busy_timeout")

def record(where):
    connection.ensure_connection()
    raw = connection.connection
    lines = [re.sub(r"'20[0-9-]{8} [0-9:.]+'", "'now'", line) for line in raw.iterdump() if "testdb_" not in line]
    with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps({
            "where": where,
            "name": str(connection.settings_dict["NAME"]),
            "kind": type(connection.settings_dict["NAME"]).__name__,
            "shelves": list(Shelf.objects.order_by("id").values_list("id", "name")),
            "modules": sorted(name for name in sys.modules if name.startswith("testdb_app.creation.")),
            "dump": [
                lines,
                [raw.execute(f"PRAGMA {name}").fetchone() for name in PRAGMAS],
                sorted(raw.execute("SELECT * FROM sqlite_sequence").fetchall()),
            ],
        }) + "\\n")

class A(TestCase):
    def test_a(self):
        record("A")
        Item.objects.create(shelf=Shelf.objects.create(name="of a test"))

class B(TransactionTestCase):
    # Flushed or reset afterwards.
    def test_b(self):
        record("B")
        Shelf.objects.all().delete()
        Shelf.objects.create(name="of B")

class C(TransactionTestCase):
    def test_c(self):
        record("C")
"""

SHELVES = [[1, "one"], [2, "two"]]
LINE = re.compile(r"testdb: (.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a run said of its test databases, and what its tests found there."""

    run: Run

    @property
    def lines(self) -> list[str]:
        return LINE.findall(self.run.stdout + self.run.stderr)

    @property
    def builds(self) -> list[str]:
        return [line for line in self.lines if line.startswith("building")]

    def first(self) -> dict[str, Any]:
        """What the first test found."""
        return next(found for found in self.run.found if found["where"] == "A")

    def must_find_rows(self) -> Done:
        assert {found["where"] for found in self.run.found} == {"A", "B", "C"}, self.run
        assert [found["shelves"] for found in self.run.found] == [SHELVES] * len(self.run.found)
        return self

    def must_build(self, why: str) -> Done:
        assert len(self.builds) == 1, self.run
        assert why in self.builds[0]
        return self.must_find_rows()

    def must_use(self) -> Done:
        assert len(self.lines) == 1, self.run
        assert self.lines[0].startswith("test database from template")
        return self.must_find_rows()


Play = Callable[..., Done]


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """Runs the tests of a project, each test but the first in the rows that migrations made."""

    project: Project

    def manage(self, *options: str, status: int = 0, **environment: str) -> Done:
        done = self.project.manage("test", "--reset-transaction-tests", *options, **environment)
        assert done.returncode == status, done.stdout + done.stderr
        return Done(run=done)

    def pytest(self, *options: str, status: int = 0, **environment: str) -> Done:
        given = ("-m", "pytest", "-p", "no:cacheprovider", "--testdb-reset-transactional", *options, "shop/tests.py")
        done = self.project.run(*given, **environment)
        assert done.returncode == status, done.stdout + done.stderr
        return Done(run=done)

    def files(self) -> set[str]:
        """The files of the folder of templates, without those of locks."""
        return {path.name for path in (self.project.directory / ".testdb").iterdir() if path.suffix != ".lock"}

    def left_over(self) -> set[str]:
        return {name for name in self.files() if name.startswith("testdb_tpl_")}


def new_player(folder: Path) -> Player:
    folder.mkdir(exist_ok=True)
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": "real.sqlite3"}
    project = make_project(folder, {"default": database})
    project.add_settings(SETTINGS)
    project.write("shop/migrations/__init__.py", "")
    project.write("shop/migrations/0001_initial.py", MIGRATION)
    project.write("shop/tests.py", FINDS)
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")
    return Player(project=project)


@pytest.fixture
def player(tmp_path: Path) -> Player:
    """A project with data in a migration."""
    return new_player(tmp_path)


@pytest.mark.parametrize("name", ["", "of tests?#%41 ü.sqlite3", "path:of_tests.sqlite3"])
def test_a_clone_equals_the_database_that_django_makes(player: Player, name: str) -> None:
    environment = {"TEST_NAME": name} if name else {}
    stock = player.manage("--no-testdb-templates", **environment)
    assert stock.lines == []
    assert stock.first()["modules"] == [], "a run that uses no template imports no module of creation"
    built = player.manage(**environment).must_build("there is none yet")
    used = player.manage(**environment).must_use()
    by_pytest = player.pytest(**environment).must_use()
    for done in (built, used, by_pytest):
        assert {**done.first(), "modules": []} == {**stock.first(), "modules": []}
    assert not player.left_over()
    assert not [path for path in player.project.directory.glob("*.sqlite3*") if path.name != "real.sqlite3"]


def test_what_has_changed_is_built_anew_and_named(player: Player) -> None:
    player.pytest().must_build("there is none yet")
    path = "shop/migrations/0001_initial.py"
    player.project.write(path, MIGRATION.replace('"two", "gone"', '"two", "gone", "gone"'))
    player.pytest().must_build(f"changed: {path}")
    player.project.write(path, MIGRATION)
    player.pytest().must_use()
    for file in (player.project.directory / ".testdb").glob("*.sqlite3"):
        data = bytearray(file.read_bytes())
        data[-9] ^= 1
        file.write_bytes(data)
    player.pytest().must_build("is not as it was written")
    player.pytest("--create-db").must_build("it was asked for")
    player.pytest("--reuse-db").must_use()


def test_a_folder_that_was_copied_with_the_project_is_used(tmp_path: Path) -> None:
    new_player(tmp_path / "here").pytest().must_build("there is none yet")
    shutil.copytree(tmp_path / "here", tmp_path / "there", ignore=shutil.ignore_patterns("__pycache__"))
    used = Player(project=Project(directory=tmp_path / "there")).pytest().must_use()
    assert f"by {tmp_path / 'here'})" in used.lines[0]


def test_kept_files_are_neither_stale_nor_dirty(player: Player) -> None:
    path = player.project.directory / "kept.sqlite3"
    given = {"TEST_NAME": "kept.sqlite3"}
    player.manage("--keepdb", **given).must_build("there is none yet")

    def dirty() -> None:
        for file in path.parent.glob("kept*.sqlite3"):
            with closing(sqlite3.connect(file, isolation_level=None)) as connection:
                connection.execute("INSERT INTO shop_shelf (name) VALUES ('of a killed run')")
                connection.execute("CREATE TABLE IF NOT EXISTS of_a_killed_run (a)")

    dirty()
    assert "of_a_killed_run" not in str(player.manage("--keepdb", **given).must_use().first()["dump"])
    player.manage("--keepdb", "--parallel", "2", **given).must_use()
    assert {file.name for file in path.parent.glob("kept*.sqlite3")} == {f"kept{n}.sqlite3" for n in ("", "_1", "_2")}
    dirty()
    parallel = player.manage("--keepdb", "--parallel", "2", **given).must_use()
    assert "of_a_killed_run" not in str([found["dump"] for found in parallel.run.found])
    player.project.write("shop/migrations/0001_initial.py", MIGRATION.replace("user_version = 42", "user_version = 43"))
    assert player.manage("--keepdb", **given).must_build("0001_initial").first()["dump"][1][4] == [43]


def test_a_file_of_somebody_else_is_kept_or_asked_for(player: Player) -> None:
    path = player.project.directory / "kept.sqlite3"
    given = {"TEST_NAME": "kept.sqlite3"}
    player.manage("--keepdb", "--no-testdb-templates", **given)
    before = path.stat().st_ino
    kept = player.manage("--keepdb", **given)
    assert any("is kept, and was not made from a template" in line for line in kept.lines), kept.lines
    assert path.stat().st_ino == before
    refused = player.project.manage("test", feed="no\n", **given)
    assert refused.returncode == 1
    assert "Type 'yes'" in refused.stdout
    assert path.stat().st_ino == before
    accepted = player.project.manage("test", feed="yes\n", **given)
    assert accepted.returncode in {0, 1}, accepted  # without resets, what B leaves makes C fail
    assert "Type 'yes'" in accepted.stdout
    assert accepted.found[0]["shelves"] == SHELVES


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_parallel_run_get_copies_of_the_memory(player: Player, start: str) -> None:
    player.manage("--parallel", "2", START=start).must_build("there is none yet")
    done = player.manage("--parallel", "2", START=start).must_use()
    names = {re.sub(r"_[12]\?", "_N?", found["name"]) for found in done.run.found}
    assert names == {f"file:memorydb_default{'' if start == 'fork' else '_N'}?mode=memory&cache=shared"}


@pytest.mark.parametrize("name", ["", "of_tests.sqlite3"])
def test_of_several_cold_workers_one_builds(player: Player, name: str) -> None:
    environment = {"TEST_NAME": name} if name else {}
    options = ("-n", "2", "--dist", "each", "-s", "-vv")
    cold = player.pytest(*options, **environment)
    assert len(player.files()) == 3
    assert len(cold.run.found) == 6
    assert [found["shelves"] for found in cold.run.found] == [SHELVES] * 6
    (template,) = (player.project.directory / ".testdb").glob("*.sqlite3")
    made = template.stat().st_mtime_ns
    warm = player.pytest(*options, **environment)
    assert [found["shelves"] for found in warm.run.found] == [SHELVES] * 6
    assert template.stat().st_mtime_ns == made


@pytest.mark.parametrize("name", ["", "of_tests.sqlite3"])
def test_after_a_run_that_was_killed_while_it_built_the_next_is_right(player: Player, name: str) -> None:
    environment = {"TEST_NAME": name} if name else {}
    player.pytest(status=-signal.SIGKILL, DIES="1", **environment)
    assert bool(player.left_over()) == bool(name)
    player.pytest(**environment).must_build("there is none yet")
    assert not player.left_over()


def test_a_run_that_is_killed_in_its_tests_leaves_nothing_that_matters(player: Player) -> None:
    player.pytest(TEST_NAME="of_tests.sqlite3").must_build("there is none yet")
    player.project.write(
        "shop/test_kill.py",
        "import os\nfrom django.test import TransactionTestCase\nfrom shop.models import Shelf\n"
        "class K(TransactionTestCase):\n    def test_k(self):\n        Shelf.objects.create(name='k')\n        os.kill(os.getpid(), 9)\n",
    )
    killed = player.project.pytest("shop/test_kill.py")
    assert killed.returncode == -signal.SIGKILL
    player.pytest(TEST_NAME="of_tests.sqlite3").must_use()


def test_where_the_folder_cannot_be_written_to_the_run_goes_on_as_stock(player: Player) -> None:
    (player.project.directory / ".testdb").write_text("a file")
    done = player.pytest().must_find_rows()
    assert len(done.lines) == 1
    assert re.match(r'no template for "default": the folder .*/\.testdb cannot be written to', done.lines[0])


def test_two_runs_that_build_at_once_share_one_template(player: Player) -> None:
    environment = player.project.full_environment()
    command = [sys.executable, "manage.py", "test", "--reset-transaction-tests"]
    runs = [
        subprocess.Popen(
            command,
            cwd=player.project.directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    texts = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], texts
    assert sum("building the template" in text for text in texts) == 1, texts
    assert len(player.files()) == 3
    assert json.loads(next((player.project.directory / ".testdb").glob("*.json")).read_text())["size"] > 0
