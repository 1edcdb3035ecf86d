"""The runner: baselines before the first test, in every process and in databases that are kept; and every class, if asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import django
import pytest
from django.db import connections

from tests.guard.projects import Project
from tests.scratch import connect

RUNNER = 'TEST_RUNNER = "testdb_app.runner.ResetDiscoverRunner"\n'

# Named so that Django's own class comes first and flushes.
MIXED = """
import json, os
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.db import connections
from django.test import TestCase, TransactionTestCase
from shop.models import Item, Shelf
from testdb_app.testcases import ResetTransactionTestCase

def record(test):
    rows = sorted(Shelf.objects.values_list("name", flat=True))
    found = {"test": test._testMethodName, "rows": rows, "items": Item.objects.count(), "types": ContentType.objects.count()}
    with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\\n")

class A(TransactionTestCase):
    def test_1_stock(self):
        record(self)
        Shelf.objects.create(name="of stock")

    def test_2_stock(self):
        record(self)

class B(ResetTransactionTestCase):
    def test_3_ours(self):
        record(self)
        Item.objects.create(shelf=Shelf.objects.get_or_create(name="from a migration")[0])

    def test_4_ours(self):
        record(self)

class C(TestCase):
    def test_5_rollback(self):
        record(self)
"""
CLEAN = ["from a migration"]


def run(project: Project, *options: str) -> dict[str, Any]:
    done = project.manage("test", "--noinput", *options).must_pass()
    assert len(done.found) == 5, done.stdout + done.stderr
    return {found.pop("test"): found for found in done.found}


@pytest.fixture
def mixed(project: Project) -> Project:
    project.add_settings(RUNNER)
    project.write("shop/tests.py", MIXED)
    return project


@pytest.mark.parametrize("options", [(), ("--keepdb",)], ids=["plain", "keepdb"])
def test_a_flush_by_a_class_of_django_does_not_get_into_the_baseline(mixed: Project, options: tuple[str, ...]) -> None:
    for _ in range(2 if options else 1):
        found = run(mixed, *options)
        assert found["test_1_stock"]["rows"] == CLEAN
        assert found["test_2_stock"]["rows"] == [], "a flush takes them"
        # What a flush has taken comes back with the first reset, after the first test.
        assert [found[name]["rows"] for name in ("test_4_ours", "test_5_rollback")] == [CLEAN, CLEAN]
        assert found["test_4_ours"]["types"] == found["test_1_stock"]["types"]


@pytest.mark.parametrize("options", [(), ("--parallel", "2"), ("--keepdb",)], ids=["plain", "parallel", "keepdb"])
@pytest.mark.parametrize("asked", ["option", "attribute"])
def test_every_class_resets_if_asked_for(mixed: Project, options: tuple[str, ...], asked: str) -> None:
    if asked == "option":
        options = (*options, "--reset-transaction-tests")
    else:
        mixed.write(
            "shop/runner.py",
            "from testdb_app.runner import ResetDiscoverRunner\n"
            "class Runner(ResetDiscoverRunner):\n    reset_transaction_tests = True\n",
        )
        mixed.add_settings('TEST_RUNNER = "shop.runner.Runner"\n')
    found = run(mixed, *options)
    assert [each["rows"] for each in found.values()] == [CLEAN] * 5
    assert {each["items"] for each in found.values()} == {0}
    assert len({each["types"] for each in found.values()}) == 1


def test_a_run_says_that_every_class_resets(mixed: Project) -> None:
    line = "testdb_app: transactional tests reset to the baseline"
    assert mixed.manage("test", "--noinput", "--reset-transaction-tests").stdout.count(line) == 1
    assert line not in mixed.manage("test", "--noinput").stdout
    assert line not in mixed.manage("test", "--noinput", "--reset-transaction-tests", "-v", "0").stdout


@pytest.mark.parametrize("option", [(), ("--reset-transaction-tests",)], ids=["some", "all"])
def test_processes_that_are_spawned_prepare_their_databases_too(mixed: Project, option: tuple[str, ...]) -> None:
    if connections["default"].vendor == "sqlite":
        pytest.skip("Django's workers that are spawned have in-memory databases of their own")
    start_processes_by(mixed, "spawn")
    found = run(mixed, "--parallel", "2", *option)
    assert found["test_4_ours"]["rows"] == CLEAN
    assert (found["test_2_stock"]["rows"] == CLEAN) is bool(option)


RESET_TO = """
from django.contrib.contenttypes.models import ContentType
from django.test import TransactionTestCase
from shop.models import Shelf

class A(TransactionTestCase):
    reset_to = "empty"

    def test_1(self):
        self.assertEqual(Shelf.objects.get().name, "from a migration")

    def test_2(self):
        self.assertFalse(Shelf.objects.exists())
        self.assertTrue(ContentType.objects.exists())

class B(TransactionTestCase):
    reset_to = "baseline"

    def test_1(self):
        self.assertFalse(Shelf.objects.exists())

    def test_2(self):
        self.assertEqual(Shelf.objects.get().name, "from a migration")
"""


def test_a_class_of_django_says_what_it_leaves_behind(mixed: Project) -> None:
    mixed.write("shop/tests.py", RESET_TO)
    done = mixed.manage("test", "--noinput", "--reset-transaction-tests").must_pass()
    assert "Ran 4 tests" in done.stderr
    mixed.write("shop/tests.py", RESET_TO.replace('"empty"', '"nothing"'))
    done = mixed.manage("test", "--noinput", "--reset-transaction-tests")
    assert "shop.tests.A.reset_to must be one of baseline, empty, not 'nothing'" in done.stderr
    assert done.returncode == 1


OWN_RUNNER = """
import json, os
from django.conf import settings
from django.test.runner import DiscoverRunner, ParallelTestSuite, _init_worker
from testdb_app.runner import ResetRunnerMixin

def init_worker(*arguments, **options):
    _init_worker(*arguments, **options)
    (settings.HERE / f"worker-{os.getpid()}.txt").write_text("of the project")

class OwnSuite(ParallelTestSuite):
    init_worker = init_worker

    def run(self, result):
        (settings.HERE / "suite.txt").write_text(type(self).__name__)
        return super().run(result)

class OwnRunner(DiscoverRunner):
    parallel_test_suite = OwnSuite

class Runner(ResetRunnerMixin, OwnRunner):
    pass

class WrappingRunner(ResetRunnerMixin, OwnRunner):
    def build_suite(self, *arguments, **options):
        suite = super().build_suite(*arguments, **options)
        assert self.parallel_test_suite is OwnSuite
        return suite

class Inner(OwnRunner):
    def build_suite(self, *arguments, **options):
        return self.test_suite([super().build_suite(*arguments, **options)])

    def run_suite(self, suite, **options):
        return super().run_suite(suite._tests[0], **options)

class Nested(ResetRunnerMixin, Inner):
    pass
"""


def start_processes_by(project: Project, method: str) -> None:
    """Have the workers of --parallel started by that method of multiprocessing."""
    manage = (project.directory / "manage.py").read_text()
    chosen = f"import multiprocessing\n    multiprocessing.set_start_method('{method}')\n    execute_from"
    project.write("manage.py", manage.replace("execute_from_command_line(sys", f"{chosen}_command_line(sys"))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("option", [(), ("--reset-transaction-tests",)], ids=["some", "all"])
def test_a_runner_of_the_project_keeps_its_suite_and_what_that_does_in_a_worker(
    mixed: Project, method: str, option: tuple[str, ...]
) -> None:
    if method == "forkserver" and django.VERSION < (6, 1):
        pytest.skip("Django starts no workers by a fork server before 6.1")
    if method != "fork" and connections["default"].vendor == "sqlite":
        pytest.skip("Django's workers that are spawned have in-memory databases of their own")
    mixed.write("shop/runner.py", OWN_RUNNER)
    mixed.add_settings('TEST_RUNNER = "shop.runner.Runner"\n')
    start_processes_by(mixed, method)
    found = run(mixed, "--parallel", "2", *option)
    assert (mixed.directory / "suite.txt").read_text() == "OwnSuite"
    assert len(list(mixed.directory.glob("worker-*.txt"))) == 2
    assert found["test_4_ours"]["rows"] == CLEAN
    assert (found["test_2_stock"]["rows"] == CLEAN) is bool(option)


@pytest.mark.parametrize("name", ["WrappingRunner", "Nested"])
def test_workers_are_prepared_where_a_project_builds_the_suite_itself(mixed: Project, name: str) -> None:
    mixed.write("shop/runner.py", OWN_RUNNER)
    mixed.add_settings(f'TEST_RUNNER = "shop.runner.{name}"\n')
    found = run(mixed, "--parallel", "2", "--reset-transaction-tests")
    assert len(list(mixed.directory.glob("worker-*.txt"))) == 2
    assert [each["rows"] for each in found.values()] == [CLEAN] * 5


KILLED = """
import os
from shop.models import Shelf
from testdb_app.testcases import ResetTransactionTestCase

class Killed(ResetTransactionTestCase):
    def test(self):
        Shelf.objects.create(name="of a killed run")
        Shelf.objects.filter(name="from a migration").delete()
        os._exit(9)
"""

SECOND_MIGRATION = """
from django.db import migrations, models

def fill(apps, editor):
    apps.get_model("shop", "Shelf").objects.using(editor.connection.alias).create(name="from the second")

class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
"""


@pytest.mark.parametrize("migrates", [False, True], ids=["as it was", "migrated since"])
def test_a_kept_database_that_a_killed_run_left_dirty_starts_clean(
    mixed: Project, tmp_path: Path, migrates: bool
) -> None:
    if connections["default"].vendor == "sqlite":
        # In memory nothing is kept.
        mixed.add_settings(
            "for name in ('default', 'other'):\n    DATABASES[name]['TEST'] = "
            "{'NAME': str(HERE / f'test_{name}.sqlite3'), 'DEPENDENCIES': []}\n"
        )
    run(mixed, "--keepdb")
    mixed.write("shop/tests.py", KILLED)
    assert mixed.manage("test", "--noinput", "--keepdb").returncode == 9
    mixed.write("shop/tests.py", MIXED)
    if migrates:
        mixed.write("shop/migrations/0002_second.py", SECOND_MIGRATION)
    rows = [*CLEAN, "from the second"] if migrates else CLEAN
    found = run(mixed, "--keepdb", "--reset-transaction-tests")
    assert [each["rows"] for each in found.values()] == [rows] * 5


def test_databases_are_destroyed_where_no_baseline_can_be_captured(mixed: Project) -> None:
    mixed.add_settings("TESTDB = {'EXCLUDE': ['no_such_app']}\n")
    done = mixed.manage("test", "--noinput")
    assert done.returncode != 0
    assert "no_such_app" in done.stderr
    assert "Destroying test database for alias 'default'" in done.stderr


POOLED = """
from django.apps import AppConfig
from django.db import connection

class Shop(AppConfig):
    name = "shop"

    def ready(self):
        connection.ensure_connection()
"""


@pytest.mark.postgresql
def test_a_pool_that_was_opened_before_the_runner_leads_to_the_test_database(mixed: Project, scratch: Any) -> None:
    """The pool is cached with the name of the real database: without the runner, the tests would write there."""
    databases = json.loads((mixed.directory / "databases.json").read_text())
    databases["default"] |= {"NAME": scratch.name, "OPTIONS": {"pool": True}}
    mixed.write("databases.json", json.dumps(databases))
    mixed.write("shop/apps.py", POOLED)
    scratch.execute("CREATE TABLE shop_shelf (id serial, name text); INSERT INTO shop_shelf (name) VALUES ('precious')")
    try:
        found = run(mixed, "--reset-transaction-tests")
        assert [each["rows"] for each in found.values()] == [CLEAN] * 5
        assert scratch.query("SELECT name FROM shop_shelf") == [("precious",)]
    finally:
        with connect("postgres") as session:
            for name in (f"test_{scratch.name}", f"test_{scratch.name}_other"):
                session.execute(f"DROP DATABASE IF EXISTS {name}")


ROWS_THAT_STAY = """
from django.core.management import call_command
from django.db import connection
from django.test import TransactionTestCase
from django.test.utils import CaptureQueriesContext
from shop.models import Item, Shelf

class Sequences(TransactionTestCase):
    reset_sequences = True

    def test_1(self):
        self.assertEqual(list(Shelf.objects.values_list("pk", flat=True)), [1])
        self.assertEqual(Shelf.objects.create(name="two").pk, 2)
        self.assertEqual(Item.objects.create(shelf_id=1).pk, 1)

    test_2 = test_1

class Serialized(TransactionTestCase):
    serialized_rollback = True
    numbers = []

    @classmethod
    def _fixture_setup(cls):
        with CaptureQueriesContext(connection) as queries:
            super()._fixture_setup()
        cls.numbers.append(sum(query["sql"].startswith(("INSERT", "UPDATE")) for query in queries))

    def test_1(self):
        self.assertEqual(list(Shelf.objects.values_list("pk", "name")), [(1, "from a migration")])
        self.assertEqual(Shelf.objects.create(name="two").pk, 2)
        self.assertEqual(self.numbers[-1], 0)
        self.assertTrue(type(self).serialized_rollback)

    test_2 = test_1

class Flushed(Serialized):
    @classmethod
    def setUpClass(cls):
        call_command("flush", verbosity=0, interactive=False)
        super().setUpClass()
        cls.found = list(Shelf.objects.values_list("pk", "name"))

    def test_1(self):
        self.assertEqual(self.found, [(1, "from a migration")])

    test_2 = Serialized.test_1
"""


def test_classes_of_django_find_rows_and_sequences_of_the_baseline_whatever_they_ask_for(mixed: Project) -> None:
    """Django's reset_sequences would have the next key collide, and serialized_rollback load what is there once more."""
    mixed.write("shop/tests.py", ROWS_THAT_STAY)
    mixed.manage("test", "--noinput", "--reset-transaction-tests").must_pass()
    done = mixed.manage("test", "--noinput", "shop.tests.Sequences")
    assert done.returncode == 1, "a flush takes the rows"


CAPTURED = """
import json, os
from django.conf import settings
from django.db import connections
from django.test import TestCase, TransactionTestCase
from shop.models import Shelf
from testdb_app.backends import get_backend
from testdb_app.testcases import ResetTransactionTestCase

class A(TestCase):
    databases = ["default", "other"]

    def test_1(self):
        aliases = [name for name in sorted(self.databases) if get_backend(connections[name]).read_baseline(connections[name])]
        with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(aliases) + "\\n")

class B(ResetTransactionTestCase):
    databases = ["other"]

    def test_2(self):
        Shelf.objects.using("other").create(name="one")

class C(TransactionTestCase):
    def test_3(self):
        Shelf.objects.create(name="two")
"""


@pytest.mark.parametrize(
    ("options", "settings", "captured"),
    [
        ((), "", ["other"]),
        (("--parallel", "2"), "", ["other"]),
        (("--reset-transaction-tests",), "", ["default", "other"]),
        (("--reset-transaction-tests", "shop.tests.A", "shop.tests.C"), "", ["default"]),
        ((), "class Both(Runner): reset_aliases = ['default']\n", ["default", "other"]),
    ],
    ids=["the classes", "in parallel", "every class", "an alias that is only rolled back", "named by the runner"],
)
def test_baselines_are_captured_of_what_tests_reset(
    project: Project, options: tuple[str, ...], settings: str, captured: list[str]
) -> None:
    project.write("runners.py", f"from testdb_app.runner import ResetDiscoverRunner as Runner\n{settings}")
    project.add_settings(f'TEST_RUNNER = "runners.{"Both" if settings else "Runner"}"\n')
    project.write("shop/tests.py", CAPTURED)
    done = project.manage("test", "--noinput", *options).must_pass()
    # A SQLite database has no counters that could tell later, and is captured at once.
    expected = ["default", "other"] if connections["default"].vendor == "sqlite" else captured
    assert done.found == [expected]
