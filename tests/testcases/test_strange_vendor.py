"""A database of a vendor without a folder here: it has no baseline, and classes that need one say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.guard.projects import Project, make_project

# SQLite, by another name: the backend for other vendors asks a database of this one for its name by DB_NAME().
ENGINE = """
from django.db.backends.sqlite3.base import DatabaseWrapper as SQLite

class DatabaseWrapper(SQLite):
    vendor = "microsoft"
    display_name = "Strange"

    def get_new_connection(self, parameters):
        connection = super().get_new_connection(parameters)
        connection.create_function("DB_NAME", 0, lambda: str(self.settings_dict["NAME"]))
        return connection
"""

TESTS = """
import json, os
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.test import TransactionTestCase
from shop.models import Shelf
from testdb_app.testcases import ResetTransactionTestCase

class Looking:
    def test_1(self):
        with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps([self.id(), Shelf.objects.count(), ContentType.objects.filter(model="shelf").count()]) + "\\n")
        Shelf.objects.create(name="written")
    test_2 = test_1

class Baseline(Looking, ResetTransactionTestCase):
    pass

class Empty(Looking, ResetTransactionTestCase):
    reset_to = "empty"

class Stock(Looking, TransactionTestCase):
    pass
"""


@pytest.fixture
def strange(tmp_path: Path) -> Project:
    database = {
        "ENGINE": "strange",
        "NAME": str(tmp_path / "real.sqlite3"),
        "TEST": {"NAME": str(tmp_path / "test.sqlite3")},
    }
    project = make_project(tmp_path, {"default": database})
    project.add_settings('INSTALLED_APPS = ["django.contrib.contenttypes", *INSTALLED_APPS]\n')
    project.write("strange/__init__.py", "")
    project.write("strange/base.py", ENGINE)
    project.write("shop/tests.py", TESTS)
    return project


def test_a_class_that_resets_to_the_baseline_says_that_there_is_none_and_what_to_do(strange: Project) -> None:
    done = strange.manage("test", "--noinput")
    assert "FAILED (errors=1)" in done.stderr, done.stderr
    assert (
        'UnsupportedError: shop.tests.Baseline resets the alias "default" to its baseline, and there is none: A baseline is '
        "not supported on Strange. Nothing was changed."
    ) in done.stderr
    assert 'Or set reset_to = "empty" on the class' in done.stderr
    assert [(name.split(".")[2], *rest) for name, *rest in done.found] == [("Empty", 0, 1)] * 2 + [("Stock", 0, 1)] * 2


def test_the_runner_leaves_classes_of_django_to_flush(strange: Project) -> None:
    strange.add_settings('TEST_RUNNER = "testdb_app.runner.ResetDiscoverRunner"\n')
    done = strange.manage("test", "--noinput", "--reset-transaction-tests", "shop.tests.Stock").must_pass()
    assert json.dumps([found[1:] for found in done.found]) == "[[0, 1], [0, 1]]"
