"""``ShareFixtures``: ``setUp()`` is run once for a class where it only makes rows, and each test sees what it saw without."""

from __future__ import annotations

import re
import unittest
from collections import Counter
from typing import Any

import pytest
from django.test import SimpleTestCase, TestCase, TransactionTestCase

from testdb_app.exceptions import ConfigurationError
from testdb_app.testcases import ShareFixtures
from tests.guard.projects import Project, Run
from tests.testcases.set_ups import SetUps

HEAD = """
import os, tempfile, threading, unittest
from collections import Counter
from unittest import mock
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.core import mail
from django.core.cache import cache
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import connection, transaction
from django.db.models.signals import post_save
from django.test import Client, TestCase
from django.utils import timezone, translation
from shop.models import Item, Shelf
from testdb_app.testcases import ShareFixtures

made = Counter()
state = {}

def shelf(name, using="default"):
    return Shelf.objects.using(using).create(name=name)

def names(using="default"):
    return sorted(Shelf.objects.using(using).exclude(name="from a migration").values_list("name", flat=True))

def activate(language):
    translation.activate(language)

def fill():
    cache.set('k', 1)

class Counted(ShareFixtures, TestCase):
    times = None  # how often setUp() is run for two tests

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        translation.activate("en-us")
        if cls.times is not None:
            assert made[cls.__name__] == cls.times, (cls, made[cls.__name__])
"""

SHARED = """
class Objects(Counted):
    times = 1
    listed = ["of the class"]

    @classmethod
    def setUpTestData(cls):
        cls.top = shelf("top")
        cls.inner = Item.objects.create(shelf=cls.top, label="inner")
        cls.untouched = [cls.inner]

    @property
    def label(self):
        return "item"

    def add(self, name):
        return Shelf.objects.create(name=name, above=self.top)

    def setUp(self):
        super().setUp()
        made[type(self).__name__] += 1
        self.maxDiff = None
        self.shelf = self.add("middle")
        self.items = [Item.objects.create(shelf=self.shelf, label=self.label) for _ in range(2)]
        self.by_name = {"middle": self.shelf, "itself": self}
        self.query = Shelf.objects.filter(above=self.top)
        self.late = lambda: Item.objects.create(shelf=self.shelf, label="late")
        self.method = self.add
        self.kept = self.listed
        self.own_client = Client()
        self.inner.label = "changed by setUp"
        self.inner.save()

    def test_1(self): self.check()
    def test_2(self): self.check()

    def check(self):
        assert names() == ["middle", "top"] and Item.objects.count() == 3
        assert self.items[0].shelf is self.items[1].shelf is self.shelf is self.by_name["middle"]
        assert self.by_name["itself"] is self and self.kept is self.listed
        assert self.shelf.above is self.top is self.inner.shelf and self.untouched[0] is self.inner
        assert self.inner.label == "changed by setUp" == Item.objects.get(pk=self.inner.pk).label
        assert [each.pk for each in self.query] == [self.shelf.pk]
        assert self.late().shelf is self.shelf and self.method("another").above is self.top
        self.items.pop().delete()
        self.shelf.name = "by a test"
        self.shelf.save()
        self.top.delete()
        assert not Shelf.objects.filter(name="top").exists()

class Derived(Objects):
    def setUp(self):
        super().setUp()
        self.third = shelf("third")

    def check(self):
        assert names() == ["middle", "third", "top"]
        self.third.delete()

class LogsIn(Counted):
    times = 1

    def setUp(self):
        made["LogsIn"] += 1
        self.user = User.objects.create_user("ada")
        self.client.force_login(self.user)

    def test_1(self): self.check()
    def test_2(self): self.check()

    def check(self):
        assert self.client.session["_auth_user_id"] == str(self.user.pk)
        self.client.logout()
        assert "sessionid" not in self.client.cookies or not self.client.cookies["sessionid"].value

class TwoDatabases(Counted):
    databases = {"default", "other"}
    times = 1

    def setUp(self):
        made["TwoDatabases"] += 1
        self.shelves = [shelf("here"), shelf("there", "other")]

    def test_1(self): self.check()
    def test_2(self): self.check()

    def check(self):
        assert names() == ["here"] and names("other") == ["there"]
        for each in self.shelves:
            each.delete()

class FailsOnce(Counted):
    times = 2

    def setUp(self):
        made["FailsOnce"] += 1
        shelf("half")
        if not state.setdefault("failed", []):
            state["failed"].append(1)
            self.skipTest("this time")
        self.shelf = shelf("whole")

    def test_1(self): self.check()
    def test_2(self): self.check()
    def test_3(self): self.check()

    def check(self):
        assert names() == ["half", "whole"]
        self.shelf.delete()
        # A savepoint of the test's own works as ever.
        with transaction.atomic():
            shelf("inner")
            transaction.set_rollback(True)
        assert names() == ["half"]

class WithoutSetUp(Counted):
    def test_1(self): assert names() == []
"""

# The code of setUp(), what else the class has, and why it is not shared.
KINDS = {
    "AddsCleanup": ("self.addCleanup(print)", "", "registers a cleanup"),
    "EntersContext": (
        "self.enterContext(self.settings(X=1))",
        "",
        "registers a cleanup",
    ),
    "EntersClassContext": (
        "self.addClassCleanup(print)",
        "",
        "does more than rows: it changes an attribute of its class",
    ),
    "HasTearDown": ("pass", "def tearDown(self): pass", "belongs to a class with tearDown()"),
    "HasCall": (
        "pass",
        "def __call__(self, result=None): super().__call__(result)",
        "belongs to a class with __call__()",
    ),
    "Patches": ("mock.patch.dict(state, x=1).start()", "", "changes the process (patch)"),
    "ReadsTheClock": ("self.at = timezone.now()", "", "reads the clock (now)"),
    "ReadsTheClockElsewhere": (
        "self.look()",
        "def look(self): self.at = timezone.now()",
        "reads the clock (now)",
    ),
    "AsksForTheTest": ("shelf(self.id()[-6:])", "", "does more than rows: it asks which test it is for"),
    "SendsMail": (
        "mail.send_mail('s', 'b', 'a@b.c', ['a@b.c'])",
        "",
        "does more than rows: it changes mail.outbox",
    ),
    "UsesCache": ("shelf(cache.get('k', 'x'))", "", "uses a cache (cache)"),
    "FillsCache": ("fill()", "", "does more than rows: it writes to a cache"),
    "SavesFile": (
        "default_storage.save('f', ContentFile(b'x'))",
        "",
        "does more than rows: it saves a file",
    ),
    "MakesFile": ("self.folder = tempfile.mkdtemp()", "", "makes a temporary file (mkdtemp)"),
    "HasCallback": (
        "transaction.on_commit(print)",
        "",
        "does more than rows: it registers a callback of on_commit()",
    ),
    "ActivatesLanguage": ("activate('de')", "", "does more than rows: it activates a language"),
    "ChangesSettings": ("settings.APPEND_SLASH = False", "", "assigns to an attribute of the global settings"),
    "ChangesSettingsElsewhere": (
        "setattr(settings, 'APPEND_SLASH', made['x'] + 7)",
        "",
        "does more than rows: it changes settings",
    ),
    "ConnectsReceiver": (
        "post_save.connect(print, sender=ContentType)",
        "",
        "does more than rows: it connects or disconnects a receiver",
    ),
    "ChangesClass": (
        "type(self).listed.append(1)",
        "listed = []",
        "does more than rows: it changes an attribute of its class",
    ),
    "AssignsToGlobal": ("global last; last = 1", "", "assigns to the global last"),
    "SendsRequest": ("self.client.get('/')", "", "does more than rows: it sends a request"),
    "CannotBeCopied": ("self.lock = threading.Lock()", "", "sets a value that cannot be copied"),
    "SwallowsError": (
        "\n            shelf('one')\n        except Exception: pass",
        "",
        "has broken its transaction: a statement has failed in it",
    ),
    "LeavesBlockOpen": (
        "self.block = transaction.atomic(); self.block.__enter__()",
        "def doCleanups(self): self.block.__exit__(None, None, None); return super().doCleanups()",
        "leaves an atomic() block open",
    ),
}


def module_of_kinds() -> str:
    lines = []
    for name, (code, more, _) in KINDS.items():
        swallows = name == "SwallowsError"
        method = f"    {more}\n" if more else ""
        lines.append(
            f"class {name}(Counted):\n    times = 2\n{method}\n    def setUp(self):\n        made['{name}'] += 1\n"
            f"        self.shelf = shelf('one')\n        {'try: ' if swallows else ''}{code}\n\n"
            + "".join(
                f"    def test_{number}(self):\n"
                + (
                    "        pass\n"
                    if swallows
                    else "        self.assertTrue(self.shelf.pk and Shelf.objects.exists())\n"
                )
                for number in (1, 2)
            )
        )
    lines.append(
        "class SendsNothing(Counted):\n    times = 2\n\n    def setUp(self):\n        made['SendsNothing'] += 1\n\n"
        "    def test_1(self): pass\n    def test_2(self): pass\n"
    )
    return HEAD + "\n".join(lines)


REASONS = {**{name: reason for name, (_, _, reason) in KINDS.items()}, "SendsNothing": "sends no statement"}

LOGGING = """
INSTALLED_APPS += ["django.contrib.sessions"]
MIDDLEWARE = []
USE_I18N = True
MEDIA_ROOT = HERE / "media"
LOGGING = {
    "version": 1, "disable_existing_loggers": False,
    "handlers": {"file": {"class": "logging.FileHandler", "filename": HERE / "log.txt"}},
    "loggers": {"testdb_app": {"handlers": ["file"], "level": "INFO"}},
}
"""


@pytest.fixture
def suite(project: Project) -> Project:
    """The project with the classes that share, and those that do not."""
    project.add_settings(LOGGING)
    project.write("shop/tests.py", "")
    project.write("shop/test_shared.py", HEAD + SHARED)
    project.write("shop/test_kinds.py", module_of_kinds())
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npython_files = test_*.py\n")
    return project


def check_log(project: Project) -> None:
    """Each reason is logged once a class."""
    found = re.findall(
        r"^shop\.test_\w+\.(\w+): setUp\(\) is run for each test, because it (.*)\.$",
        (project.directory / "log.txt").read_text(),
        re.MULTILINE,
    )
    assert len(found) == len(REASONS)
    for name, reason in found:
        assert reason.startswith(REASONS[name]), (name, reason)


@pytest.mark.parametrize("options", [(), ("--parallel", "2"), ("--shuffle", "7", "--keepdb")], ids=" ".join)
def test_under_djangos_runner(suite: Project, options: tuple[str, ...]) -> None:
    done = suite.manage("test", *options).must_pass()
    assert re.search(r"^OK \(skipped=1\)$", done.stderr, re.MULTILINE), done.stderr
    assert "AssertionError" not in done.stderr
    check_log(suite)


@pytest.mark.parametrize(
    "options", [(), ("-n", "2", "--dist", "loadscope"), ("-p", "randomly", "-p", "no:cacheprovider")], ids=" ".join
)
def test_under_pytest(suite: Project, options: tuple[str, ...]) -> None:
    done = suite.pytest("-q", "--testdb-explain", *options).must_pass()
    assert "1 skipped" in done.stdout.splitlines()[-1]
    report = dict(re.findall(r"^shop/test_\w+\.py::(\w+)\n((?:  .*\n)+)", done.stdout, re.MULTILINE))
    for name, reason in REASONS.items():
        assert f"  not shared: setUp {reason}" in report[name], report[name]
    shared = {name for name, text in report.items() if text == "  shared: setUp, made once for 2 tests\n"}
    assert shared == {"Objects", "Derived", "LogsIn", "TwoDatabases"}
    check_log(suite)


def test_without_any_logging_djangos_runner_prints_which_class_does_not_share_and_why(project: Project) -> None:
    project.write("shop/tests.py", "")
    method = (
        "    def setUp(self):\n        made[type(self).__name__] += 1\n        shelf('x')\n    def test_1(self): pass\n"
    )
    ends = f"class Ends(Counted):\n    times = 1\n    def tearDown(self): pass\n{method}"
    shares = f"class Shares(Counted):\n    times = 1\n{method}"
    project.write("shop/test_it.py", f"{HEAD}\n{ends}\n{shares}")
    done = project.manage("test").must_pass()
    line = "shop.test_it.Ends: setUp() is run for each test, because it belongs to a class with tearDown(), in shop.test_it.Ends."
    assert [each for each in done.stderr.splitlines() if "setUp()" in each] == [line]


MIXED = """
class One(Counted):
    def setUp(self): self.shelf = shelf("one")
    def check(self):
        assert names() == [self.shelf.name]
        self.shelf.delete()
    test_1 = test_2 = test_3 = test_4 = test_5 = check

class Two(One): pass
"""


def test_where_tests_of_classes_are_mixed_nothing_is_prepared_that_no_test_uses(suite: Project) -> None:
    suite.write("shop/test_kinds.py", "")
    suite.write("shop/test_shared.py", HEAD + MIXED)
    suite.write(
        "conftest.py",
        """
import testdb_app.shared_set_up as shared_set_up

order = "One.1 Two.1 One.2 Two.2 One.3 One.4 One.5 Two.3 One.1 One.2 One.3".replace(".", "::test_").split()
prepared = []
keep_rows = shared_set_up._Making.keep_rows
shared_set_up._Making.keep_rows = lambda making: prepared.append(str(making.case)[:6]) or keep_rows(making)

def pytest_collection_modifyitems(items):
    by_name = {each.nodeid.partition("::")[2]: each for each in items}
    items[:] = [by_name[each] for each in order]

def pytest_sessionfinish():
    print("prepared:", *prepared)
""",
    )
    done = suite.pytest("-q", "-s", "-p", "no:randomly", "--testdb-explain").must_pass()
    assert "prepared: test_1 test_1 test_4 test_1\n" in done.stdout
    assert "::One\n  shared: setUp, made 5 times for 8 tests\n" in done.stdout


LAZY = """
class Lazy(Counted):
    times = 2

    def setUp(self):
        import lazily  # connects a receiver
        made["Lazy"] += 1
        self.shelf = shelf("one")

    def check(self):
        self.assertEqual(names(), ["by the receiver", "one"])
    test_1 = test_2 = test_3 = test_4 = check
"""

RECEIVER = """
from django.db.models.signals import post_save
from shop.models import Shelf

def receiver(instance, **_):
    if instance.name == "one":
        Shelf.objects.create(name="by the receiver")

post_save.connect(receiver, sender=Shelf)
"""


def test_what_an_import_changes_is_changed_once(suite: Project) -> None:
    suite.write("shop/test_kinds.py", "")
    suite.write("shop/test_shared.py", HEAD + LAZY)
    suite.write("lazily.py", RECEIVER)
    suite.manage("test").must_pass()
    done = suite.pytest("-q", "-p", "no:randomly", "--testdb-explain").must_pass()
    assert "::Lazy\n  shared: setUp, made 2 times for 4 tests\n" in done.stdout


def test_fixtures_of_pytest_that_are_set_up_before_it_stand_in_the_way(suite: Project) -> None:
    suite.write("shop/test_kinds.py", "")
    suite.write(
        "shop/conftest.py",
        "import pytest\n\n@pytest.fixture(autouse=True)\ndef mocked(monkeypatch): monkeypatch.setenv('X', '1')\n",
    )
    done = suite.pytest("-q", "--testdb-explain", "-k", "Objects", "-p", "no:randomly")
    # The class asserts at its end that its set-up was run once.
    assert done.returncode == 1
    assert 'not shared: setUp is run after "mocked"' in done.stdout
    (suite.directory / "shop/conftest.py").unlink()
    done = suite.pytest("-q", "--testdb-explain", "--no-testdb-share", "-k", "Objects")
    assert done.returncode == 1
    assert "not shared: setUp was told so by --no-testdb-share" in done.stdout


def test_a_test_that_breaks_the_transaction_of_its_class_fails_the_others_as_ever(suite: Project) -> None:
    suite.write("shop/test_kinds.py", "")
    suite.write("shop/test_shared.py", HEAD)
    base = """
class {name}({bases}):
    def setUp(self):
        self.shelf = shelf("one")
    def test_1(self):
        connection.cursor().execute("ROLLBACK")
    def test_2(self): pass
    def test_3(self): self.assertEqual(names(), ["one"])
"""
    outcomes = []
    for bases in ("TestCase", "ShareFixtures, TestCase"):
        suite.write("shop/test_shared.py", HEAD + base.format(name="Broken", bases=bases))
        done = suite.pytest("-q", "-rA", "--tb=no")
        outcomes.append(re.findall(r"^(PASSED|FAILED|ERROR) \S+::(test_\d)", done.stdout, re.MULTILINE))
    assert outcomes[0] == outcomes[1]
    assert {outcome for outcome, _ in outcomes[0]} != {"PASSED"}


@pytest.mark.parametrize(
    ("bases", "why"),
    [
        ((TestCase, ShareFixtures), "has to have ShareFixtures before django.test.TestCase"),
        ((ShareFixtures, TransactionTestCase), "is a TransactionTestCase. Its tests commit"),
        ((ShareFixtures, SimpleTestCase), "is no django.test.TestCase"),
        ((unittest.TestCase, ShareFixtures), "is no django.test.TestCase"),
    ],
)
def test_a_class_that_cannot_share_is_refused_where_it_is_defined(bases: tuple[type[Any], ...], why: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(why)):
        type("Wrong", bases, {})


def see(project: Project, seeds: range, *options: str) -> tuple[Run, Counter[str]]:
    """Run random classes with the mixin and without, and compare what each test has seen. Return pytest's outcomes."""
    project.write("shop/test_kinds.py", "")
    project.write("shop/test_shared.py", "")
    for seed in seeds:
        text = SetUps(seed).text()
        for way, bases in (("plain", "TestCase"), ("shared", "ShareFixtures, TestCase")):
            project.write(f"shop/test_{seed}_{way}.py", f"{HEAD}\nBASES = ({bases},)\n{text}")
    arguments = ("-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", "--tb=line", "--testdb-explain", *options)
    done = project.run(*arguments, seconds=600)
    assert done.returncode == 1, done.stdout + done.stderr
    ways: dict[str, list[Any]] = {"plain": [], "shared": []}
    for outcome, seed, way, test in re.findall(
        r"^(PASSED|FAILED|ERROR) shop/test_(\d+)_(plain|shared)\.py::(\S+)", done.stdout, re.MULTILINE
    ):
        ways[way].append((seed, test, outcome))
    seen: dict[str, dict[str, Any]] = {"plain": {}, "shared": {}}
    for each in done.found:
        _, seed, way, test = re.split(r"^shop\.test_(\d+)_(plain|shared)\.", each.pop("test"))[0:4]
        seen[way][f"{seed}.{test}.{each['when']}"] = each
    assert sorted(ways["plain"]) == sorted(ways["shared"])
    assert len(ways["plain"]) > 8 * len(seeds)
    assert seen["plain"].keys() == seen["shared"].keys()
    for key, found in seen["plain"].items():
        assert found == seen["shared"][key], (key, SetUps(int(key.partition(".")[0])).text())
    return done, Counter(outcome for _, _, outcome in ways["shared"])


def test_random_set_ups_see_the_same_with_the_mixin_and_without(suite: Project) -> None:
    done, outcomes = see(suite, range(12), "-p", "no:randomly")
    assert min(outcomes["PASSED"], outcomes["FAILED"]) > 10
    made = re.search(r"(\d+) shared fixtures were made (\d+) times instead of (\d+)", done.stdout)
    assert made is not None, done.stdout
    assert int(made[1]) > 10
    assert done.stdout.count("not shared: setUp") > 1


@pytest.mark.nightly
@pytest.mark.parametrize("first", [1_000, 2_000])
def test_many_random_set_ups_see_the_same(suite: Project, first: int) -> None:
    see(suite, range(first, first + 120), "-p", "no:randomly")
