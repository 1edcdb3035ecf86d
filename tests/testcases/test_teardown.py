"""The end of a test where it is not the usual one: a set-up that fails, a request that still runs, a teardown of the test's own."""

from __future__ import annotations

import pytest

from tests.guard.projects import Project

FAILS = """
import json
from django.db.models.signals import pre_save
from django.test import LiveServerTestCase, TransactionTestCase
from shop.models import Shelf
from testdb_app.testcases import ResetTransactionTestCase

def refuse(using, **_):
    if using == "other":
        raise ValueError("the second database does not take this row")

class AFixture(Base):
    databases = {"default", "other"}
    fixtures = ["shelves"]

    @classmethod
    def setUpClass(cls):
        pre_save.connect(refuse, sender=Shelf)
        cls.addClassCleanup(pre_save.disconnect, refuse, sender=Shelf)
        super().setUpClass()

    def test(self): pass

class BNext(Base):
    databases = {"default", "other"}

    def test(self):
        for alias in sorted(self.databases):
            self.assertEqual([each.name for each in Shelf.objects.using(alias).all()], ["from a migration"])
            self.assertEqual(Shelf.objects.using(alias).create(name="next").pk, 2)

class CSetUp(Base):
    def setUp(self):
        Shelf.objects.create(name="by setUp")
        raise ValueError("setUp fails")

    def test(self): pass

class DNext(BNext): pass

class ESetUpClass(Base):
    fixtures = ["shelves"]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        Shelf.objects.create(name="by setUpClass")
        raise ValueError("setUpClass fails")

    def test(self): pass

class FNext(BNext): pass
"""


@pytest.mark.parametrize("base", ["ResetTransactionTestCase", "TransactionTestCase"])
@pytest.mark.parametrize("runs", ["runner", "pytest"])
def test_rows_of_a_set_up_that_fails_do_not_reach_the_next_test(project: Project, base: str, runs: str) -> None:
    project.write("shop/tests.py", FAILS.replace("(Base)", f"({base})"))
    if runs == "runner":
        project.add_settings("TEST_RUNNER = 'testdb_app.runner.ResetDiscoverRunner'\n")
        stock = ["--reset-transaction-tests"] if base == "TransactionTestCase" else []
        done = project.manage("test", "--noinput", *stock)
        assert "FAILED (errors=3)" in done.stderr, done.stderr
    else:
        project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npython_files = tests.py\n")
        done = project.pytest("-q", "-p", "no:randomly", "--testdb-reset-transactional")
        # pytest counts the three that fail; none of the others fails.
        assert "AssertionError" not in done.stdout, done.stdout
        assert "3 passed" in done.stdout, done.stdout


SKIPPED = """
import unittest
from django.test import TransactionTestCase
from shop.models import Shelf
from testdb_app.testcases import ResetTransactionTestCase

class ASkipped(ResetTransactionTestCase):
    fixtures = ["shelves"]

    @unittest.skip("all of them")
    def test(self): pass

class BNext(ResetTransactionTestCase):
    def test(self):
        self.assertEqual([each.name for each in Shelf.objects.all()], ["from a migration"])
"""


def test_fixtures_of_a_class_whose_tests_are_all_skipped_are_taken_back(project: Project) -> None:
    project.write("shop/tests.py", SKIPPED)
    project.manage("test", "--noinput").must_pass()


OWN = """
import warnings
from django.test import TransactionTestCase
from shop.models import Shelf

class Own(TransactionTestCase):
    def _fixture_teardown(self):
        Shelf.objects.filter(name="written").delete()

    def test_1(self):
        Shelf.objects.create(name="written")

    def test_2(self): pass

class Calls(TransactionTestCase):
    def _fixture_teardown(self):
        super()._fixture_teardown()

    def test(self):
        Shelf.objects.create(name="written")

class Plain(TransactionTestCase):
    def test(self):
        self.assertEqual([each.name for each in Shelf.objects.all()], ["from a migration"])
"""
WARNING = "shop.tests.Own has a _fixture_teardown() of its own: Own ends with that, and not with a reset"


def test_a_class_with_a_teardown_of_its_own_is_named_once(project: Project) -> None:
    project.write("shop/tests.py", OWN)
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npython_files = tests.py\n")
    done = project.pytest("-q", "-p", "no:randomly", "-W", "default", "--testdb-reset-transactional")
    assert "4 passed, 1 warning" in done.stdout, done.stdout
    assert done.stdout.count("_fixture_teardown() of its own") == 1
    assert WARNING in done.stdout
    project.add_settings(
        "TEST_RUNNER = 'testdb_app.runner.ResetDiscoverRunner'\nimport warnings\nwarnings.simplefilter('default')\n"
    )
    done = project.manage("test", "--noinput", "--reset-transaction-tests").must_pass()
    assert done.stderr.count("_fixture_teardown() of its own") == 1


URLS = """
import time
from django.http import HttpResponse
from django.urls import path
from shop.models import Shelf

def slow(request, seconds):
    HttpResponse("")
    time.sleep(seconds)
    Shelf.objects.create(name="by a request that runs on")
    return HttpResponse("done")

urlpatterns = [path("slow/<int:seconds>", slow)]
"""
SLOW = """
import http.client, time, urllib.parse
import pytest
from django.test import LiveServerTestCase
from shop.models import Shelf
from testdb_app import teardown
from testdb_app.testcases import ResetLiveServerTestCase

teardown.SECONDS_FOR_REQUESTS = 3.0
OPEN = []

def begin(url, seconds):
    # The client goes away, or keeps its connection open, while the view runs.
    client = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
    OPEN.append(client)
    client.request("GET", f"/slow/{seconds}")
    time.sleep(0.3)

def names():
    return [each.name for each in Shelf.objects.all()]

class AWaits(Base):
    def test_1(self):
        begin(self.live_server_url, 1)

    def test_2(self):
        time.sleep(1)
        self.assertEqual(names(), ["from a migration"])

@pytest.mark.django_db(transaction=True)
def test_fixture_1(live_server):
    begin(live_server.url, 1)

@pytest.mark.django_db(transaction=True)
def test_fixture_2(live_server):
    time.sleep(1)
    assert names() == ["from a migration"]

def test_z_bound(live_server, transactional_db):
    begin(live_server.url, 5)
"""


def test_a_request_that_a_live_server_still_handles_is_waited_for_and_named_after_the_bound(project: Project) -> None:
    project.write("shop/urls.py", URLS)
    project.write("shop/tests.py", SLOW.replace("(Base)", "(ResetLiveServerTestCase)"))
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npython_files = tests.py\n")
    done = project.pytest("-q", "-p", "no:randomly", "-W", "default", "--testdb-reset-transactional")
    assert "5 passed" in done.stdout, done.stdout + done.stderr
    assert "The live server still handled GET /slow/5 3 seconds after the test" in done.stdout, done.stdout
    assert done.stdout.count("still handled") == 1
