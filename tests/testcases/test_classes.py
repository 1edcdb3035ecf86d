"""What our classes do beyond Django's: they survive what a test leaves behind, and say what is wrong."""

from __future__ import annotations

import pytest

from tests.guard.projects import Project

TESTS = """
from django.contrib.staticfiles.testing import StaticLiveServerTestCase
from django.db import connection, transaction
from shop.models import Item, Shelf
from testdb_app.testcases import ResetMixin, ResetTransactionTestCase
import urllib.request

def rows():
    return sorted(Shelf.objects.values_list("name", flat=True))

class After(ResetTransactionTestCase):
    def tearDown(self):
        self.check = None

    def test_1_autocommit_is_left_off(self):
        self.assertEqual(rows(), ["from a migration"])
        transaction.set_autocommit(False)
        Shelf.objects.create(name="uncommitted")

    def test_2(self):
        self.assertEqual(rows(), ["from a migration"])

    def test_3_a_transaction_is_left_open_behind_django(self):
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
        Shelf.objects.create(name="uncommitted")

    def test_4(self):
        self.assertEqual(rows(), ["from a migration"])

    def test_5_the_search_path_is_changed(self):
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET search_path TO pg_catalog")

    def test_6(self):
        self.assertEqual(rows(), ["from a migration"])
        Shelf.objects.update(name="changed")

    def test_7_keys_are_as_in_the_first_test(self):
        self.assertEqual(list(Shelf.objects.values_list("pk", "name")), [(1, "from a migration")])
        self.assertEqual(Shelf.objects.create(name="two").pk, 2)

    def test_8_keys_are_as_in_the_first_test(self):
        self.assertEqual(Shelf.objects.create(name="two").pk, 2)

class Sequences(ResetTransactionTestCase):
    reset_sequences = True

    def test_1_a_sequence_that_a_migration_has_used(self):
        self.assertEqual(Item.objects.create(shelf=Shelf.objects.get()).pk, 1)
        self.assertEqual(Shelf.objects.create(name="two").pk, 2)

    def test_2_again(self):
        self.assertEqual(Item.objects.create(shelf=Shelf.objects.get()).pk, 1)

class Static(ResetMixin, StaticLiveServerTestCase):
    def test_1(self):
        self.assertEqual(urllib.request.urlopen(self.live_server_url, timeout=20).read(), b"1")

    def test_2(self):
        self.assertEqual(urllib.request.urlopen(self.live_server_url, timeout=20).read(), b"1")
"""


def test_what_a_test_leaves_behind_does_not_reach_the_next(project: Project) -> None:
    project.write("shop/tests.py", TESTS)
    project.manage("test", "--noinput").must_pass()
    project.manage("test", "--noinput", "--reverse").must_pass()


def test_a_state_that_does_not_exist_is_refused_by_name(project: Project) -> None:
    project.write(
        "shop/tests.py",
        "from testdb_app.testcases import ResetTransactionTestCase\n"
        "class Wrong(ResetTransactionTestCase):\n    reset_to = 'clean'\n    def test(self): pass\n",
    )
    done = project.manage("test", "--noinput")
    assert done.returncode == 1
    assert "shop.tests.Wrong.reset_to must be one of baseline, empty, not 'clean'." in done.stderr


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_they_work_under_pytest_django(project: Project, options: tuple[str, ...]) -> None:
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npython_files = tests.py\n")
    project.write("shop/tests.py", TESTS)
    done = project.pytest("-q", *options)
    assert "12 passed" in done.stdout, done.stdout + done.stderr
