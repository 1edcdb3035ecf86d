"""The backend for other vendors on a real MariaDB: test cases, the runner, the plugin, the commands and the guard."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.generic.mariadb import find_obstacle, running_server
from tests.guard.projects import Project, make_project
from tests.testcases import suite

OBSTACLE = find_obstacle()
if OBSTACLE is not None and not os.environ.get("CI"):
    pytest.skip(OBSTACLE, allow_module_level=True)  # in one line

NAME = "shop"

# Users of PyMySQL have it take the place of mysqlclient.
SETTINGS = """
try:
    import MySQLdb
except ImportError:
    import pymysql
    pymysql.install_as_MySQLdb()
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "testdb_app", "shop"]
"""

TESTS = """
import json, os
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction
from django.db.models.signals import post_migrate
from django.dispatch import receiver
from django.test import TransactionTestCase
from shop.models import Item, Shelf
from testdb_app.exceptions import TestDBError
from testdb_app.resetter import Resetter
from testdb_app.testcases import ResetTransactionTestCase

runs = []

@receiver(post_migrate)
def note(app_config, **options):
    if app_config.label == "shop":
        runs.append(app_config)

def record(**found):
    with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\\n")

class Looking:
    def look(self):
        return dict(
            shelves=Shelf.objects.count(), items=Item.objects.count(), runs=len(runs),
            types=sorted(ContentType.objects.values_list("id", "model")),
        )

    def fill(self):
        found = self.look()
        item = Item.objects.create(shelf=Shelf.objects.create(name="new"))
        record(case=type(self).__name__, test=self._testMethodName, ids=[item.shelf_id, item.pk], **found)

    def test_1(self):
        self.fill()

    test_2 = test_3 = test_1

class Empty(Looking, ResetTransactionTestCase):
    reset_to = "empty"

    def test_4_deleted_rows_and_rollbacks_move_ids(self):
        Shelf.objects.create(name="gone").delete()
        try:
            with transaction.atomic():
                Item.objects.create(shelf=Shelf.objects.create(name="undone"))
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass

    def test_5(self):
        self.fill()

    def test_6_what_handlers_made_is_changed(self):
        ContentType.objects.filter(model="shelf").update(model="changed")

    def test_7(self):
        self.fill()

    def test_8_the_sequence_of_what_handlers_made_moves(self):
        ContentType.objects.create(app_label="x", model="gone").delete()

    def test_9(self):
        self.fill()

class Baseline(Looking, ResetTransactionTestCase):
    pass

class Stock(Looking, TransactionTestCase):
    pass

class Within(ResetTransactionTestCase):
    reset_to = "empty"

    def reset(self, **options):
        with transaction.atomic():
            Shelf.objects.create(name="mine")
            try:
                Resetter(within_transaction=True, **options).reset()
            except TestDBError as error:
                return [type(error).__name__, str(error)]
            finally:
                there = Shelf.objects.count()
                transaction.set_rollback(True)
        return [there, Shelf.objects.count()]

    def test_1(self):
        record(with_sequences=self.reset(), without=self.reset(reset_sequences=False), rows=Shelf.objects.count())

    def test_2(self):
        with transaction.atomic():
            try:
                Resetter().reset()
            except TestDBError as error:
                record(error=type(error).__name__)
"""

PYTEST = """
import pytest
from shop.models import Item, Shelf
from shop.tests import record
from testdb_app.exceptions import UnsupportedError
from testdb_app.sessions import TestSessionFactory

@pytest.mark.parametrize("number", range(2))
@pytest.mark.django_db(transaction=True)
def test_commits(number):
    before = Shelf.objects.count()
    item = Item.objects.create(shelf=Shelf.objects.create(name="new"))
    record(before=before, ids=[item.shelf_id, item.pk])

def test_is_reset(reset_db):
    record(before=Shelf.objects.count(), ids=[Shelf.objects.create(name="new").pk, 1])

@pytest.fixture(scope="class")
def shelf(reset_db_class):
    return Shelf.objects.create(name="wide")

class TestWide:
    @pytest.mark.parametrize("number", range(2))
    def test_shares(self, shelf, number):
        record(before=Shelf.objects.count(), ids=[shelf.pk, Item.objects.create(shelf=shelf).pk])

@pytest.mark.django_db(transaction=True)
def test_finds_nothing_of_it():
    record(before=Shelf.objects.count() + Item.objects.count(), ids=[])

@pytest.mark.django_db(transaction=True)
def test_session():
    with TestSessionFactory()(name="rolls back"):
        Shelf.objects.create(name="new")
    with pytest.raises(UnsupportedError) as refused, TestSessionFactory(isolation="reset")(name="resets"):
        Shelf.objects.create(name="new")
    record(before=Shelf.objects.count(), ids=[str(refused.value)])
"""


@pytest.fixture(scope="module")
def socket() -> Iterator[Path]:
    assert OBSTACLE is None, OBSTACLE
    with running_server() as found:
        yield found


@pytest.fixture
def project(socket: Path, tmp_path: Path) -> Project:
    """A project with rows from a migration, whose real database has the tables and a row more."""
    name = f"{NAME}_{uuid.uuid4().hex[:10]}"
    database = {"ENGINE": "django.db.backends.mysql", "NAME": name, "USER": "root", "HOST": str(socket)}
    made = make_project(tmp_path, {"default": database})
    made.add_settings(SETTINGS)
    made.write("shop/models.py", suite.MODELS)
    made.write("shop/migrations/__init__.py", "")
    made.write("shop/migrations/0001_initial.py", suite.MIGRATION)
    made.write("shop/tests.py", TESTS)
    script = (
        "import settings, MySQLdb; d = settings.DATABASES['default'];"
        "c = MySQLdb.connect(unix_socket=d['HOST'], user=d['USER']); c.cursor().execute('CREATE DATABASE ' + d['NAME'])"
    )
    made.run("-c", script).must_pass()
    return made


@pytest.fixture
def migrated(project: Project) -> Project:
    project.manage("migrate", "-v0").must_pass()
    return project


def name_of(project: Project) -> str:
    return json.loads((project.directory / "databases.json").read_text())["default"]["NAME"]


def test_test_cases_find_no_rows_the_same_ids_and_what_handlers_of_post_migrate_make(project: Project) -> None:
    done = project.manage("test", "--noinput", "shop.tests.Empty", "shop.tests.Stock").must_pass()
    ours = [found for found in done.found if found["case"] == "Empty"]
    assert [found["test"] for found in ours] == ["test_1", "test_2", "test_3", "test_5", "test_7", "test_9"]
    # The rows of the migration are there until the first flush, as in Django.
    assert [(found["shelves"], found["items"]) for found in ours] == [(1, 0)] + [(0, 0)] * 5
    assert [found["ids"] for found in ours[1:]] == [[1, 1]] * 5
    assert len({json.dumps(found["types"]) for found in ours}) == 1
    assert [model for _, model in ours[0]["types"]].count("shelf") == 1
    # Once as the database is made, once by the first reset; then after each test that has touched what they made.
    assert [found["runs"] for found in ours] == [1, 2, 2, 2, 3, 4]
    stock = [found for found in done.found if found["case"] == "Stock"]
    assert [(found["shelves"], found["items"]) for found in stock] == [(0, 0)] * 3


def test_a_class_that_resets_to_the_baseline_says_that_there_is_none(project: Project) -> None:
    done = project.manage("test", "--noinput", "shop.tests.Baseline")
    assert "FAILED (errors=1)" in done.stderr, done.stderr
    assert "A baseline is not supported on MariaDB. Nothing was changed. Reset to empty" in done.stderr
    assert 'Or set reset_to = "empty" on the class' in done.stderr
    assert "--capture" not in done.stderr


def test_a_transaction_of_the_caller_is_never_committed(project: Project) -> None:
    found = project.manage("test", "--noinput", "shop.tests.Within").must_pass().found
    kind, text = found[0]["with_sequences"]
    assert kind == "UnsupportedError"
    assert "would end it by TRUNCATE" in text
    assert "reset_sequences=False" in text
    # Empty within the transaction; after its rollback the migration's row is back.
    assert found[0]["without"] == [0, 1]
    assert found[0]["rows"] == 1
    assert found[1] == {"error": "TransactionStateError"}


def test_the_runner_has_every_class_reset_and_keeps_a_database(project: Project) -> None:
    project.add_settings('TEST_RUNNER = "testdb_app.runner.ResetDiscoverRunner"\n')
    arguments = ("test", "--noinput", "--keepdb", "--reset-transaction-tests", "shop.tests.Stock")
    first = project.manage(*arguments).must_pass()
    assert [found["ids"] for found in first.found[1:]] == [[1, 1]] * 2
    again = project.run("-W", "always", "manage.py", *arguments).must_pass()
    assert [(found["shelves"], found["ids"]) for found in again.found] == [(0, [1, 1])] * 3
    assert "existed before this run. It counts as a test database" in again.stderr
    assert 'give the test database another TEST["NAME"]' in again.stderr
    assert "--mark" not in again.stderr


def test_the_plugin_resets(project: Project) -> None:
    project.write("test_shop.py", PYTEST)
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\ntestdb_reset_transactional = true\n")
    done = project.pytest("-p", "no:randomly", "test_shop.py")
    assert "7 passed" in done.stdout, done.stdout
    *found, (rows, (refusal,)) = [(each["before"], each["ids"]) for each in done.found]
    assert found == [(1, [2, 2]), (0, [1, 1]), (0, [1, 1]), (1, [1, 1]), (1, [1, 2]), (0, [])]
    assert rows == 0
    assert "A baseline is not supported on MariaDB" in refusal
    assert "Or roll back (isolation='rollback')" in refusal
    # The flush calls every receiver.
    assert "resets call no receivers" not in done.stdout


def test_a_real_database_is_refused_and_only_what_works_here_is_advised(migrated: Project) -> None:
    name = name_of(migrated)
    refused = migrated.manage("resetdb", "--no-input")
    assert refused.returncode == 1
    assert f'--allow-database "{name}"' in refused.stderr
    assert f'TESTDB = {{"ALLOWED_DATABASES": ["{name}"]}}' in refused.stderr
    assert "--mark" not in refused.stderr
    for option in ("--mark-test", "--mark-protected"):
        marked = migrated.manage("resetdb", option, "--no-input", "--allow-database", name)
        assert marked.returncode == 1
        assert "is not supported on MariaDB" in marked.stderr
        assert "--allow-database" in marked.stderr
    for options in (["--capture"], ["--recapture"], ["--to", "baseline"]):
        kept = migrated.manage("resetdb", *options, "--no-input", "--allow-database", name)
        assert kept.returncode == 1, options
        assert "A baseline is not supported on MariaDB" in kept.stderr
        assert "capture" not in kept.stderr


def test_the_commands_show_and_reset(migrated: Project) -> None:
    name = name_of(migrated)
    show = (
        "from shop.models import *; s = Shelf.objects.create(name='x'); print(s.pk, Shelf.objects.count()); s.delete()"
    )
    planned = migrated.manage("resetdb", "--dry-run", "--format", "json", "--allow-database", name).must_pass()
    plan = json.loads(planned.stdout)
    assert {each["name"]: each["rows"] for each in plan["tables"]}["shop_shelf"] == 1
    assert "shop_item" in plan["sequences"]  # its row is gone, and its number used
    assert "auth_group" not in plan["sequences"]
    done = migrated.manage("resetdb", "--no-input", "--format", "json", "--allow-database", name).must_pass()
    report = json.loads(done.stdout)
    assert report["permitted_by"] == "allowed"
    assert {each["name"]: each["rows"] for each in report["tables"]}["shop_shelf"] == 1
    assert migrated.manage("shell", "--no-imports", "-c", show).must_pass().stdout.split() == ["1", "1"]
    text = migrated.manage("resetdb", "--no-input", "--allow-database", name).must_pass()
    assert "data migrations made (shop.0001_initial)" not in text.stdout + text.stderr
    assert migrated.manage("shell", "--no-imports", "-c", show).must_pass().stdout.split() == ["1", "1"]
    order = migrated.manage("showdeps", "shop", "--format", "order").must_pass().stdout.split()
    assert order == ["shop_item", "shop_shelf"]
    details = json.loads(migrated.manage("showdeps", "shop", "--format", "json").must_pass().stdout)
    assert details["database"] == {"alias": "default", "name": name, "vendor": "mysql"}


def test_rows_of_migrations_are_named_without_advice_to_capture(migrated: Project) -> None:
    done = migrated.manage("resetdb", "--no-input", "--dry-run")
    assert "data migrations made (shop.0001_initial)" in done.stdout + done.stderr
    assert "leave their tables out: --exclude" in done.stdout + done.stderr
    assert "capture" not in done.stdout + done.stderr


def test_tables_that_stay_keep_their_rows_and_refuse_to_lose_what_they_refer_to(migrated: Project) -> None:
    name = name_of(migrated)
    fill = "from shop.models import *; Item.objects.create(shelf=Shelf.objects.get())"
    migrated.manage("shell", "--no-imports", "-c", fill).must_pass()
    refused = migrated.manage("resetdb", "--no-input", "--exclude", "shop.Item", "--allow-database", name)
    assert refused.returncode == 1
    assert "shop_item(shelf_id) → shop_shelf(id): 1 row" in refused.stderr
    migrated.manage("resetdb", "--no-input", "--exclude", "shop.Shelf", "--allow-database", name).must_pass()
    count = "from shop.models import *; print(Shelf.objects.count(), Item.objects.count())"
    assert migrated.manage("shell", "--no-imports", "-c", count).must_pass().stdout.split() == ["1", "0"]
