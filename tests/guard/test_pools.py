"""A connection pool goes on leading to the database whose name it was opened with (django.db.backends.postgresql)."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from testdb_app.exceptions import UnsafeDatabaseError
from testdb_app.resetter import Resetter
from tests.guard.conftest import content, drop_test_databases
from tests.guard.projects import Project, database_settings, make_project
from tests.scratch import ScratchDatabase

Make = Callable[..., ScratchDatabase]

POOL = {"pool": {"min_size": 1, "max_size": 2}}


@pytest.fixture
def production(make_filled: Make) -> ScratchDatabase:
    """A database whose alias ``pooled`` has a pool that was opened before the settings got another name."""
    production, other = make_filled("production"), make_filled("other")
    production.register("pooled", OPTIONS=POOL)
    connection = Resetter("pooled").connection
    connection.ensure_connection()
    # What Django's create_test_db() does:
    connection.close()
    connection.settings_dict["NAME"] = other.name
    return production


def live_name(alias: str) -> Any:
    with Resetter(alias).connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        return cursor.fetchone()[0]


def test_a_pool_that_leads_elsewhere_is_refused_whatever_is_allowed(production: ScratchDatabase) -> None:
    named = Resetter("pooled").connection.settings_dict["NAME"]
    assert live_name("pooled") == production.name != named
    before = content(production)
    with pytest.raises(UnsafeDatabaseError) as caught:
        Resetter("pooled", allow_database=[production.name, named]).reset()
    assert content(production) == before
    assert (caught.value.rule, caught.value.database) == ("names-differ", production.name)
    assert f'the settings name "{named}", but the connection leads to "{production.name}"' in caught.value.message


def test_a_pool_that_was_closed_and_opened_again_is_permitted(production: ScratchDatabase) -> None:
    connection = Resetter("pooled").connection
    connection.close()
    connection.close_pool()
    named = connection.settings_dict["NAME"]
    assert Resetter("pooled", allow_database=named).reset().database == named
    assert production.count("item") == 3


def test_a_pool_that_leads_where_the_settings_say_is_permitted(filled: ScratchDatabase) -> None:
    filled.register("pooled", OPTIONS=POOL)
    assert Resetter("pooled", allow_database=filled.name).reset().rows == 5


def test_a_database_that_the_settings_do_not_name_cannot_be_marked_as_a_test_one(production: ScratchDatabase) -> None:
    with pytest.raises(CommandError, match="the settings name"):
        call_command("resetdb", "--mark-test", "--no-input", database="pooled", stdout=io.StringIO())
    assert Resetter("production").identify().marks == frozenset()


@pytest.fixture
def pooled_project(scratch: ScratchDatabase, tmp_path: Path) -> Any:
    """A project with a pool and a query in ``AppConfig.ready()``; its real database has rows."""
    project = make_project(tmp_path, {"default": database_settings("scratch", OPTIONS={"pool": True})})
    project.manage("migrate", "--run-syncdb", "-v0").must_pass()
    scratch.execute("INSERT INTO shop_shelf (name) VALUES ('real'); INSERT INTO shop_item (shelf_id) VALUES (1)")
    project.write(
        "shop/apps.py",
        """
import warnings
from django.apps import AppConfig

class ShopConfig(AppConfig):
    name = "shop"
    def ready(self):
        from shop.models import Shelf
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Django warns of just this
            Shelf.objects.count()
""",
    )
    project.write(
        "shop/tests.py",
        """
from django.db import connection
from django.test import TransactionTestCase
from shop.attempts import attempt, record
from shop.models import Item

class Reset(TransactionTestCase):
    def _fixture_teardown(self):
        "Django's own flush asks nobody: it would empty the real database now."

    def test_reset(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            live = cursor.fetchone()[0]
        record(attempt("default") | {"live": live, "named": connection.settings_dict["NAME"]})
""",
    )
    yield project
    drop_test_databases(scratch.name)


def rows_of(scratch: ScratchDatabase) -> tuple[int, int]:
    return scratch.count("shop_shelf"), scratch.count("shop_item")


def test_a_test_run_whose_pool_leads_to_production_ends_at_the_system_check(
    pooled_project: Project, scratch: ScratchDatabase
) -> None:
    run = pooled_project.manage("test", "--noinput")
    assert run.returncode == 1
    assert "(testdb_app.E003)" in run.stderr
    assert f'leads to database "{scratch.name}", the settings name "test_{scratch.name}"' in run.stderr
    assert run.found == []
    assert rows_of(scratch) == (1, 1)


def test_a_test_run_whose_pool_leads_to_production_resets_nothing_there(
    pooled_project: Project, scratch: ScratchDatabase
) -> None:
    pooled_project.add_settings('SILENCED_SYSTEM_CHECKS = ["testdb_app.E003"]\n')
    run = pooled_project.manage("test", "--noinput").must_pass()
    assert run.found == [
        {"rule": "refused: names-differ", "rows": 0, "live": scratch.name, "named": f"test_{scratch.name}"}
    ]
    assert rows_of(scratch) == (1, 1)
