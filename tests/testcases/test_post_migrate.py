"""``TESTDB["POST_MIGRATE"]``: receivers outside of Django are called after each test, as by a flush."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management.sql import emit_post_migrate_signal
from django.db.models.signals import post_migrate

from testdb_app.conf import get_settings
from testdb_app.exceptions import ConfigurationError
from testdb_app.post_migrate import call_named_receivers
from tests.guard.projects import Project

APPS = """
import json, os
from django.apps import AppConfig
from django.db.models.signals import post_migrate

class KeeperConfig(AppConfig):
    name = "keeper"
    label = "keeps"
    calls = []

    def ready(self):
        post_migrate.connect(remember)
        post_migrate.connect(keep_a_shelf, sender=self)

def remember(sender, **given):
    KeeperConfig.calls.append((sender.label, given.pop("using"), sorted(given)))

def keep_a_shelf(using, apps=None, **given):
    from shop.models import Shelf
    if KeeperConfig.calls is not None and os.environ.get("KEEPS"):
        Shelf.objects.using(using).create(name="of the receiver")
"""
TESTS = """
import os
from django.apps import apps
from django.test import TransactionTestCase
from shop.models import Shelf
from testdb_app.testcases import ResetTransactionTestCase
from keeper.apps import KeeperConfig

EXPECTED = os.environ["EXPECTED"].split(",") if os.environ["EXPECTED"] else []

class Test(ResetTransactionTestCase):
    databases = ["default", "other"]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        os.environ["KEEPS"] = "yes"
        KeeperConfig.calls.clear()

    def check(self):
        # A flush calls them for each database of the test, written to or not.
        for alias in self.databases:
            self.assertEqual([label for label, using, _ in KeeperConfig.calls if using == alias], EXPECTED)
        self.assertEqual([each.name for each in Shelf.objects.all()], ["from a migration"])
        self.last = KeeperConfig.calls.clear()

    def test_1_writes(self):
        self.first = Shelf.objects.create(name="a").pk

    def test_2_finds_the_calls_and_no_row(self):
        self.check()

    def test_3_after_a_test_that_wrote_nothing(self):
        self.check()
        type(self).key = Shelf.objects.create(name="a").pk

    def test_4_keys_are_the_same(self):
        self.check()
        self.assertEqual(Shelf.objects.create(name="b").pk, self.key)

class Restricted(ResetTransactionTestCase):
    available_apps = ["shop", "keeper", "django.contrib.contenttypes", "testdb_app"]

    def test_5_no_receiver_is_called_after_it(self):
        KeeperConfig.calls.clear()
        Shelf.objects.create(name="c")

    def test_6(self):
        # Django itself sends the signal before a test with available_apps, to the apps that are left.
        self.assertEqual([label for label, *_ in KeeperConfig.calls], ["contenttypes", "shop", "keeps"])
"""


@pytest.fixture
def keeper(project: Project) -> Project:
    project.write("keeper/__init__.py", "")
    project.write("keeper/models.py", "")
    project.write("keeper/apps.py", APPS)
    project.write("shop/tests.py", TESTS)
    project.add_settings('INSTALLED_APPS = [*INSTALLED_APPS, "keeper"]\n')
    project.add_settings('TEST_RUNNER = "testdb_app.runner.ResetDiscoverRunner"\n')
    return project


@pytest.mark.parametrize("keeps", ["auto", "never"])
@pytest.mark.parametrize("value", ["all", ["keeper"], ["keeps"], ["shop"], None])
def test_receivers_of_the_named_apps_are_called_and_their_rows_removed(keeper: Project, value: Any, keeps: str) -> None:
    named = {"KEEP_CONNECTIONS": keeps} | ({} if value is None else {"POST_MIGRATE": value})
    keeper.add_settings(f'TESTDB = {{**globals().get("TESTDB", {{}}), **{named!r}}}\n')
    is_called = value not in (["shop"], None)
    expected = (
        "import django.apps; print(','.join(c.label for c in django.apps.apps.get_app_configs() if c.models_module))"
    )
    labels = keeper.manage("shell", "-c", expected).must_pass().stdout.split()[-1]
    done = keeper.manage("test", "--noinput", EXPECTED=labels if is_called else "")
    done.must_pass()
    named = "keeper.apps.keep_a_shelf, keeper.apps.remember" in done.stdout + done.stderr
    assert named == (value is None), "the run names them once, unless the setting is there"
    assert (done.stdout + done.stderr).count("resets do not call these receivers") == int(value is None)


def test_pytest_names_them_and_calls_them_after_its_scopes(keeper: Project) -> None:
    keeper.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npython_files = test_*.py\n")
    keeper.write(
        "test_it.py",
        "import pytest\nfrom keeper.apps import KeeperConfig\nfrom shop.models import Shelf\n"
        "class TestScope:\n"
        "    def test_1(self, reset_db_class): KeeperConfig.calls.clear(); Shelf.objects.create(name='a')\n"
        "def test_2(reset_db): print('calls', len(KeeperConfig.calls))\n"
        "@pytest.mark.django_db\ndef test_3(): pass\n",
    )
    arguments = ("-m", "pytest", "-p", "no:cacheprovider", "-rA", "-s")
    done = keeper.run(*arguments).must_pass()
    assert done.stdout.count("keeper.apps.remember") == 1
    assert "calls 0" in done.stdout
    assert "keeper.apps.remember" not in keeper.run(*arguments, "-k", "test_3").must_pass().stdout, "nothing resets"
    keeper.add_settings('TESTDB = {**globals().get("TESTDB", {}), "POST_MIGRATE": "all"}\n')
    done = keeper.run(*arguments).must_pass()
    assert "keeper.apps.remember" not in done.stdout
    assert "calls 0" not in done.stdout


def test_the_arguments_are_those_of_django(settings: Any) -> None:
    given: list[dict[str, Any]] = []

    def remember(**arguments: Any) -> None:
        given.append({name: value for name, value in arguments.items() if name != "signal"})

    settings.TESTDB = {"POST_MIGRATE": "all"}
    post_migrate.connect(remember)
    before = post_migrate.receivers
    try:
        call_named_receivers("default")
        ours, given[:] = list(given), []
        post_migrate.receivers = [entry for entry in before if entry[0][0] == id(remember)]
        emit_post_migrate_signal(0, False, "default")
    finally:
        post_migrate.receivers = before
        post_migrate.disconnect(remember)
    assert ours == given
    assert ours


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["testdb_dmo"], "Did you mean 'testdb_demo'"),
        ("demo", "must be a list of strings"),
        (["nothing like it"], "neither the label nor the name of an installed app"),
    ],
)
def test_an_app_that_is_not_there_is_refused_with_the_nearest(settings: Any, value: Any, message: str) -> None:
    settings.TESTDB = {"POST_MIGRATE": value}
    with pytest.raises(ConfigurationError, match=message):
        get_settings()
