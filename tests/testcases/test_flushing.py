"""``reset_to = "empty"``: a test observes what Django's flush and the handlers of post_migrate leave, without their running again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.guard.projects import Project

APPS = """
import json
from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_migrate

def make_shelf(using, **kwargs):
    from shop.models import Shelf
    if Shelf._meta.db_table in __import__("django.db").db.connections[using].introspection.table_names():
        Shelf.objects.using(using).get_or_create(name=getattr(settings, "SHELF", "of a handler"))
        with (settings.HERE / "handled.jsonl").open("a") as file:
            file.write(json.dumps(using) + "\\n")

class Shop(AppConfig):
    name = "shop"

    def ready(self):
        post_migrate.connect(make_shelf, sender=self)
"""

TESTS = """
import json, os
from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sites.models import Site
from django.db import connection, models
from django.db.models.signals import post_migrate
from django.test import TransactionTestCase, modify_settings, override_settings
from django.test.utils import CaptureQueriesContext
from shop.models import Item, Shelf

Base = TransactionTestCase
if os.environ["SUITE_BASE"] == "ours":
    from testdb_app.testcases import ResetTransactionTestCase
    class Base(ResetTransactionTestCase):
        reset_to = "empty"

def keys(model, *names):
    return sorted(model.objects.values_list("pk", *names))

class Looking(Base):
    def look(self):
        with CaptureQueriesContext(connection) as queries:
            for model in (Shelf, Item, User, Permission):
                for concrete in (True, False):
                    ContentType.objects.get_for_model(model, for_concrete_model=concrete)
            if apps.is_installed("django.contrib.sites"):
                Site.objects.filter(pk=settings.SITE_ID).exists() and Site.objects.get_current()
        found = {
            "test": self.id(),
            "queries": len(queries),
            "types": sorted(ContentType.objects.values_list("app_label", "model")),
            "permissions": sorted(Permission.objects.values_list("content_type__model", "codename")),
            "sites": keys(Site) if apps.is_installed("django.contrib.sites") else None,
            "shelves": sorted(Shelf.objects.values_list("name", flat=True)),
            "type keys": keys(ContentType, "model"),
            "permission keys": keys(Permission, "codename"),
        }
        with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\\n")

class A_Plain(Looking):
    def test_1(self):
        self.look()

    def test_2_writes(self):
        self.look()
        Item.objects.create(shelf=Shelf.objects.get())

    def test_3_deletes_what_handlers_made(self):
        self.look()
        Permission.objects.all().delete()
        ContentType.objects.all().delete()
        Site.objects.all().delete()
        Shelf.objects.all().delete()

    def test_4_changes_what_handlers_made(self):
        self.look()
        Shelf.objects.update(name="changed")
        Permission.objects.update(name="changed")

    def test_5(self):
        self.look()

@override_settings(SITE_ID=7)
class B_AnotherSite(Looking):
    test_1 = test_2 = test_3 = Looking.look

@override_settings(SHELF="another")
class C_AnotherShelf(Looking):
    test_1 = test_2 = test_3 = Looking.look

class D_AsBefore(Looking):
    test_1 = test_2 = Looking.look

@modify_settings(INSTALLED_APPS={"remove": "django.contrib.sites"})
class E_FewerApps(Looking):
    test_1 = test_2 = Looking.look

class F_AvailableApps(Looking):
    available_apps = ["shop", "django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sites"]

    def test_1(self):
        Shelf.objects.create(name="available")
        self.look()

    def test_2(self):
        self.look()

class G_AsBefore(Looking):
    test_1 = test_2 = Looking.look

class H_ModelsAndHandlers(Looking):
    def test_1_another_model(self):
        class Late(models.Model):
            class Meta:
                app_label = "shop"
        self.look()

    def test_2_another_handler(self):
        self.look()
        def late(using, **kwargs):
            Shelf.objects.using(using).get_or_create(name="late")
        type(self).late = staticmethod(late)
        post_migrate.connect(late)

    def test_3(self):
        self.look()
        post_migrate.disconnect(type(self).late)

    def test_4(self):
        self.look()

class I_TablesThatComeAndGo(Looking):
    def test_1(self):
        self.look()
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE come (id integer)")

    def test_2(self):
        self.look()
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE come")

    def test_3(self):
        self.look()
"""


@pytest.fixture
def flushed(project: Project) -> Project:
    project.add_settings('INSTALLED_APPS += ["django.contrib.sites"]\nSITE_ID = 1\n')
    project.write("shop/apps.py", APPS)
    project.write("shop/tests.py", TESTS)
    return project


def run(project: Project, base: str) -> tuple[dict[str, Any], int]:
    """Return what each test found, and how often the project's handler ran."""
    found = project.run("manage.py", "test", "--noinput", SUITE_BASE=base).must_pass().found
    handled = project.directory / "handled.jsonl"
    times = len(handled.read_text().splitlines())
    handled.unlink()
    assert len(found) == 26
    return {each.pop("test").removeprefix("shop.tests."): each for each in found}, times


def test_the_same_is_observed_and_keys_do_not_drift(flushed: Project) -> None:
    stock, often = run(flushed, "stock")
    ours, seldom = run(flushed, "ours")
    keys = {test: (each.pop("type keys"), each.pop("permission keys")) for test, each in ours.items()}
    drifting = {test: (each.pop("type keys"), each.pop("permission keys")) for test, each in stock.items()}
    # After a test with available_apps Django leaves content types in the cache whose rows are gone.
    stale, fresh = (found.pop("G_AsBefore.test_1") for found in (stock, ours))
    assert (stale["queries"], stale["types"]) == (1, [])
    assert ["shop", "shelf"] in fresh["types"]
    assert ours == stock
    # After any reset of the same kind they are the same; the first test finds those of the migrations.
    undisturbed = [test for test in ours if test[0] in "ABCD" and test != "A_Plain.test_1"]
    assert len({str(keys[test]) for test in undisturbed}) == 1
    assert len({str(drifting[test]) for test in undisturbed}) > 1
    # Besides the migrations and the set-up of two tests: after every test but those two; and after the first of each class of
    # circumstances, so twice with other apps in between, three times with a model and a handler more, twice with a table more.
    assert (often, seldom) == (3 + 24, 3 + 4 + 2 + 3 + 2)
