"""Sharing by the mark: fixtures of function scope are made once for a node, and each test sees what it saw without the mark."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from typing import Any

import pytest

from tests.plugin.conftest import CONFTEST, Runner, outcomes
from tests.plugin.sharing_graphs import Graph

MADE = """
made = []

@pytest.fixture
def customer(db):
    made.append("customer")
    return shelf("customer")

@pytest.fixture
def order(customer):
    made.append("order")
    return Item.objects.create(shelf=customer, label="order")

@pytest.fixture
def product(db):
    made.append("product")
    return shelf("product")
"""

SHARED = "pytestmark = pytest.mark.testdb_share\n"


def test_a_test_sees_the_rows_of_its_own_fixtures_and_copies_of_their_values(run: Runner) -> None:
    run.write(
        SHARED
        + MADE
        + """
def test_1(order, customer):
    assert names() == ["customer"] and order.shelf is customer and not committed()
    customer.delete()
    assert customer.pk is None and not Item.objects.exists()

def test_2(product):
    assert names() == ["product"] and not Item.objects.exists()

def test_3(order):
    assert names() == ["customer"] and Item.objects.get() == order
    order.label = "changed"
    order.save()

def test_4(customer, order, product):
    assert names() == ["customer", "product"] and order.shelf is customer and order.label == "order"

def test_5(db):
    assert names() == []

def test_6(order):
    assert Item.objects.get().label == "order"
    # In the order of what they request; test_7 has a customer of its own.
    assert made == ["customer", "customer", "order"]

def test_7(request, db):
    assert request.getfixturevalue("customer").pk and names() == ["customer"]
"""
    )
    done = run("--testdb-explain")
    assert outcomes(done) == {"passed": 7}
    assert "shared: customer, made once for 4 tests" in done.stdout
    assert "testdb_app: 2 shared fixtures were made 2 times instead of 8 times" in done.stdout


NODES = """
class TestOne:
    def test_1(self, order):
        assert names() == ["customer"]

    def test_2(self, order):
        assert names() == ["customer"]

@pytest.mark.testdb_share("class", except_=["product"])
class TestTwo:
    def test_3(self, product):
        assert names() == ["product"]

    def test_4(self, order):
        assert names() == ["customer"]

    def test_5(self, order):
        assert names() == ["customer"]

    @pytest.fixture
    def customer(self, customer):
        customer.name = "of the class"
        customer.save()
        return customer

    def test_6(self, order):
        assert names() == ["of the class"] and order.shelf.name == "of the class"

class TestThree:
    def test_7(self, order):
        assert names() == ["customer"]
"""


def test_a_class_in_a_module_shares_by_itself_and_its_fixtures_override_those_of_the_module(run: Runner) -> None:
    run.write(SHARED + MADE + NODES)
    done = run("--testdb-explain", fails=True)
    assert outcomes(done) == {"passed": 5, "failed": 2}, (
        "tests 4 and 5 of the class see what its own fixture has changed"
    )
    assert "not shared: product is excepted by the mark" in done.stdout
    assert re.search(r"test_it.py::TestTwo\n  shared: customer, made 2 times for 6 tests", done.stdout), done.stdout


KINDS = {
    "uses_settings": ("settings, db", "settings.USE_TZ = True; return shelf('x')", 'uses "settings"'),
    "uses_request": ("request, db", "return shelf(request.node.name)", 'uses "request"'),
    "uses_another": ("uses_settings", "return shelf('y')", 'uses "uses_settings", which uses "settings"'),
    "yields": ("db", "yield shelf('x')", "yields"),
    "reads_the_clock": (
        "db",
        "from django.utils import timezone; timezone.now(); return shelf('x')",
        "reads the clock (now)",
    ),
    "sends_mail": (
        "db",
        "from django.core import mail; shelf('x'); mail.send_mail('s', 'b', 'a@b.c', ['a@b.c'])",
        "does more than rows: it changes mail.outbox",
    ),
    "reads_a_cache": (
        "db",
        "from django.core.cache import cache; return shelf(cache.get('k', 'x'))",
        "uses a cache (cache)",
    ),
    "fills_a_cache": (
        "db",
        "shelf('x'); fill()",
        "writes to a cache",
    ),
    "saves_a_file": (
        "db",
        "from django.core.files.storage import default_storage as s; shelf('x'); s.save('f', __import__('io').BytesIO(b'x'))",
        "saves a file",
    ),
    "has_a_callback": ("db", "shelf('x'); transaction.on_commit(print)", "registers a callback of on_commit()"),
    "cannot_be_copied": ("db", "shelf('x'); return (each for each in 'ab')", "has a value that cannot be copied"),
    "is_empty": ("db", "pass", "sends no statement, and may do something else"),
    "swallows_an_error": (
        "db",
        "shelf('x')\n    try: shelf('x')\n    except Exception: pass",
        "has broken its transaction: a statement has failed in it",
    ),
    "parametrised": ("request, db", "return shelf(str(request.param))", "is parametrised"),
}


def test_what_an_import_changes_is_changed_once(run: Runner) -> None:
    run.project.write(
        "lazily.py",
        "from django.db.models.signals import post_save\nfrom shop.models import Item\n"
        "def receiver(**_): ...\npost_save.connect(receiver, sender=Item)\n",
    )
    run.write(
        SHARED
        + """
@pytest.fixture
def imports(db):
    import lazily
    return shelf("x")

@pytest.mark.parametrize("number", range(4))
def test_it(imports, number):
    assert names() == ["x"]
"""
    )
    assert "made 2 times instead of 4 times" in run().stdout
    profile = run("--no-testdb-share", "--testdb-fixtures=9").stdout
    assert re.search(r"^ +0\.\d+ +0\.\d+ +4 .* imports$", profile, re.MULTILINE), profile


def modules_of_kinds() -> dict[str, str]:
    """Return a module for each kind of fixture that cannot be shared, without the mark."""
    modules = {}
    for name, (argument, code, _) in KINDS.items():
        params = "(params=[1])" if name == "parametrised" else ""
        other = (
            "@pytest.fixture\ndef uses_settings(settings, db):\n    settings.USE_TZ = True\n    return shelf('x')\n"
            if argument == "uses_settings"
            else ""
        )
        modules[name] = (
            "from django.core.cache import cache\n\ndef fill():\n    cache.set('k', 1)\n\n"
            f"made = []\n{other}@pytest.fixture{params}\ndef {name}({argument}):\n    made.append(1)\n    {code}\n\n"
            f"def test_1({name}):\n    assert len(made) == 1\n\ndef test_2({name}):\n    assert len(made) == 2\n"
        )
    return modules


def test_what_cannot_be_shared_is_made_for_each_test_and_the_explanation_says_why(run: Runner) -> None:
    run.project.add_settings("MEDIA_ROOT = HERE / 'media'\n")
    for name, text in modules_of_kinds().items():
        run.write(SHARED + text, f"test_{name}.py")
    done = run("--testdb-explain")
    for name, (_, _, reason) in KINDS.items():
        assert re.search(rf"not shared: {name} .*{re.escape(reason)}", done.stdout), (name, done.stdout)


BARRED = """
from django.test import TestCase

@pytest.fixture
def customer(db):
    return shelf("customer")

@pytest.mark.django_db(transaction=True)
def test_commits(): pass

@pytest.mark.django_db(transaction=True)
def test_commits_too(customer): pass

def test_without_a_database(): pass

class TestOld(TestCase):
    def test_method(self): pass
"""


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_the_explanation_counts_the_tests_that_cannot_share(run: Runner, options: tuple[str, ...]) -> None:
    mark = 'pytestmark = pytest.mark.testdb_share("module", fixtures=["customer"])\n'
    run.write(mark + BARRED, "test_only.py")
    alone = "\n@pytest.fixture\ndef alone(db):\n    return shelf('alone')\n\ndef test_3(alone): pass\n"
    run.write(SHARED + BARRED + "\ndef test_1(customer): pass\n\ndef test_2(customer): pass\n" + alone, "test_some.py")
    lines = [
        "  not shared by 2 tests, each: a test that commits",
        "  not shared by 1 test: a method of TestCase",
    ]
    done = run("--testdb-explain", "test_only.py", *options).stdout
    (part,) = re.findall(r"^test_only\.py\n((?:  .*\n)+)", done, re.MULTILINE)
    assert sorted(part.splitlines()) == sorted(lines)
    done = run("--testdb-explain", "test_some.py", *options).stdout
    (part,) = re.findall(r"^test_some\.py\n((?:  .*\n)+)", done, re.MULTILINE)
    assert set(lines) <= set(part.splitlines())
    assert options or "  shared: customer, made once for 2 tests" in part.splitlines()
    assert "  not shared: alone is used by one test" in part.splitlines()
    assert "not shared by" not in run("test_some.py", *options).stdout


def test_what_is_named_is_shared_although_it_yields_or_comes_after_one_that_is_not(run: Runner) -> None:
    run.write(
        """
pytestmark = pytest.mark.testdb_share("module", fixtures=["customer", "order"])
log = []

@pytest.fixture(autouse=True)
def mocked(monkeypatch):
    monkeypatch.setenv("MOCKED", "1")
    log.append("mocked")

@pytest.fixture
def customer(db):
    log.append("customer")
    yield shelf("customer")
    assert names() == ["customer"]
    log.append("end of customer")

@pytest.fixture
def order(customer, request):
    request.addfinalizer(lambda: log.append("end of order"))
    transaction.on_commit(print)
    return Item.objects.create(shelf=customer, label="order")

def test_1(customer):
    assert log == ["mocked", "customer"]

def test_2(order):
    assert names() == ["customer"] and log == ["mocked", "customer", "mocked"]

def test_3(order, customer):
    assert order.shelf is customer and log == ["mocked", "customer", "mocked", "mocked"]

@pytest.fixture
def zebra(db):
    assert log[4:] == ["end of order", "end of customer", "mocked"] and names() == []

def test_4(zebra): pass
"""
    )
    assert outcomes(run()) == {"passed": 4}


ONLY_SET = {
    "settings": ("settings", "settings.X = 1; settings.NAMES = ['a', {'b': (1, -2.5)}]"),
    "settings_returned": ("settings", "'Why.'\n    settings.X = 60 * 60\n    return settings"),
    "monkeypatch": ("monkeypatch", "monkeypatch.setenv('X', 'x'); monkeypatch.delattr(os, 'x', raising=False); yield"),
    "a_constant": ("monkeypatch, db", "monkeypatch.setattr('os.x', LIMITS, raising=False)"),
    "a_function": ("monkeypatch", "monkeypatch.setattr(os.path, 'x', lambda *a, b=1, **k: [a, b], raising=False)"),
    "a_language": ("", "translation.activate('en')\n    yield\n    translation.deactivate()"),
    "nothing": ("request", "pass"),
}
DO_MORE = {
    "a_row": ("settings, site", "settings.X = site.pk"),
    "a_call": ("settings", "settings.X = os.getcwd()"),
    "a_setting": ("settings", "settings.X = settings.Y"),
    "a_part_of_a_setting": ("settings", "settings.NAMES['x'] = 1"),
    "a_variable": ("settings", "settings.X = counter"),
    "a_mutable_constant": ("settings", "settings.X = LOG"),
    "a_list": ("monkeypatch", "monkeypatch.setattr('os.x', [], raising=False)"),
    "a_mock": ("monkeypatch", "monkeypatch.setattr('os.x', Mock(), raising=False)"),
    "a_function_with_state": ("monkeypatch", "monkeypatch.setattr('os.x', lambda a: LOG.append(a), raising=False)"),
    "a_function_with_a_default": ("monkeypatch", "monkeypatch.setattr('os.x', lambda a=[]: a, raising=False)"),
    "a_folder": ("monkeypatch", "monkeypatch.chdir('/')"),
    "a_tool_of_its_own": ("other", "other.X = 1"),
    "a_block": ("settings", "with override_settings(X=1):\n        yield"),
    "an_end": ("", "yield\n    LOG.clear()"),
}
HEAD_OF_SETTINGS = """
import os
from unittest.mock import Mock
from django.test import override_settings
from django.utils import translation
LIMITS, LOG, counter, made = ("a", 1), [], 0, []

@pytest.fixture
def other(): return Mock()

@pytest.fixture
def site(db): return shelf("site")
"""


def test_a_fixture_that_only_sets_is_in_the_way_of_no_other(run: Runner) -> None:
    run.project.add_settings("NAMES = {}\nY = 1\n")
    for name, (argument, code) in {**ONLY_SET, **DO_MORE}.items():
        run.write(
            f"{SHARED}{HEAD_OF_SETTINGS}\n@pytest.fixture(autouse=True)\ndef first({argument}):\n    {code}\n\n"
            f"@pytest.fixture\ndef customer(db):\n    made.append(1)\n    return shelf('c')\n\n"
            f"def test_1(customer): pass\n\ndef test_2(customer):\n    assert len(made) == {1 if name in ONLY_SET else 2}\n",
            f"test_{name}.py",
        )
    done = run("--testdb-explain")
    assert outcomes(done) == {"passed": 2 * len(ONLY_SET | DO_MORE)}
    found = dict(re.findall(r"^test_(\w+)\.py\n(?:  .*\n)*?  not shared: first (.*)$", done.stdout, re.MULTILINE))
    assert {found[name] for name in ONLY_SET} == {
        "only sets what is the same for each test",
        "only activates a language or a time zone",
    }


SETTING = """
from django.conf import settings as in_force
from django.utils import translation
made = []

@pytest.fixture
def german():
    translation.activate("de")

@pytest.fixture
def upper(settings):
    settings.STYLE = ["upper"]

@pytest.fixture
def customer(db):
    made.append("customer")
    return shelf(f"{translation.get_language()} {in_force.STYLE}")

@pytest.fixture
def stylist(db):
    in_force.STYLE.append("changed")
    return shelf("stylist")

def test_1(customer):
    assert names() == ["en-us []"]

def test_2(customer, upper):
    assert names() == ["en-us []"] and made == ["customer"]

def test_3(upper, customer):
    assert names() == ["en-us ['upper']"]

def test_4(upper, customer):
    assert names() == ["en-us ['upper']"] and len(made) == 2

def test_5(upper, stylist):
    assert in_force.STYLE == ["upper", "changed"]

def test_6(upper, stylist):
    assert in_force.STYLE == ["upper", "changed"]

def test_7(customer, german):
    assert names() == ["en-us []"] and translation.get_language() == "de"

def test_8(customer):
    assert names() == ["de []"]
    translation.deactivate()
"""


def test_what_was_set_before_a_fixture_is_part_of_what_it_was_made_from(run: Runner) -> None:
    run.project.add_settings("STYLE = []\n")
    run.write(SHARED + SETTING)
    run.project.write("conftest.py", CONFTEST + IN_THE_ORDER_OF_THE_FILE)
    done = run("--testdb-explain")
    assert outcomes(done) == {"passed": 8}
    assert "not shared: stylist does more than rows: it changes settings" in done.stdout


def test_an_argument_that_is_not_used_is_not_in_the_way(run: Runner) -> None:
    run.write(
        SHARED
        + MADE
        + """
@pytest.fixture
def unused(request, settings, tmp_path, db):
    made.append("unused")
    return shelf("unused")

@pytest.fixture
def reads_all(request, db):
    made.append("reads_all")
    return shelf(str(len(locals())))

def test_1(unused): pass
def test_2(unused): assert made.count("unused") == 1
def test_3(reads_all): pass
def test_4(reads_all): assert made.count("reads_all") == 2
"""
    )
    assert outcomes(run()) == {"passed": 4}


def test_what_is_excepted_is_not_in_the_way_of_what_is_named(run: Runner) -> None:
    run.write(
        """
pytestmark = pytest.mark.testdb_share(fixtures=["customer", "order"], except_=["gateway", "clock"])
log = []

@pytest.fixture(autouse=True)
def clock(monkeypatch):
    log.append("clock")

@pytest.fixture
def gateway(monkeypatch):
    log.append("gateway")
    return log

@pytest.fixture
def customer(db):
    log.append("customer")
    return shelf("customer")

@pytest.fixture
def order(customer, gateway):
    gateway.append("order")
    return Item.objects.create(shelf=customer, label="order")

def test_1(customer, order): pass

def test_2(customer, order):
    assert order.shelf is customer and log == ["clock", "customer", "gateway", "order", "clock", "gateway"]
"""
    )
    assert outcomes(run()) == {"passed": 2}


def test_tests_with_other_marks_of_pytest_django_do_not_share_with_each_other(run: Runner) -> None:
    for name in ("plain", "other"):
        run.project.write(
            f"urls_{name}.py", f"from django.urls import path\nurlpatterns = [path('{name}/', print, name='x')]\n"
        )
    run.project.add_settings("ROOT_URLCONF = 'urls_plain'\n")
    run.write(
        SHARED
        + """
from django.urls import reverse

@pytest.fixture
def customer(db):
    return shelf(reverse("x"))

def test_1(customer):
    assert customer.name == "/plain/"

@pytest.mark.urls("urls_other")
def test_2(customer):
    assert customer.name == "/other/"

def test_3(customer):
    assert customer.name == "/plain/"
"""
    )
    assert outcomes(run()) == {"passed": 3}


BREAKS = {
    "commits": "connection.cursor().execute('COMMIT')",
    "closes": "connection.close()",
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_fixture_that_breaks_the_transaction_is_blamed_and_the_others_go_on(run: Runner, how: str) -> None:
    if how == "closes" and not run.project.is_postgresql:
        pytest.skip("Django does not close a database in memory")
    run.write(
        SHARED
        + MADE
        + f"""
@pytest.fixture
def culprit(db):
    {BREAKS[how]}

def test_1(order):
    assert names() == ["customer"]

def test_2(culprit): pass

def test_3(order):
    assert names() == ["customer"]
"""
    )
    done = run("-p", "no:randomly", fails=True)
    assert outcomes(done) == {"passed": 2, "error": 1}
    assert 'The fixture "culprit" (function scope) has broken the transaction that its rows are in' in done.stdout


def test_one_that_fails_half_way_fails_each_of_its_tests_and_leaves_nothing(run: Runner) -> None:
    run.write(
        SHARED
        + MADE
        + """
@pytest.fixture
def half(customer):
    shelf("half")
    made.append("half")
    shelf("half")

def test_1(half): pass
def test_2(customer):
    assert names() == ["customer"]
def test_3(half): pass
def test_4(customer):
    assert names() == ["customer"]
    assert made.count("half") == 2 or len(made) < 5
"""
    )
    done = run(fails=True)
    assert outcomes(done) == {"passed": 2, "error": 2}


def test_a_test_may_use_the_databases_that_the_project_gives_to_each_test(run: Runner) -> None:
    if not run.project.is_postgresql:
        pytest.skip("another connection waits for the shared memory")
    databases = json.loads((run.project.directory / "databases.json").read_text())
    databases["mirror"] = {**databases["default"], "TEST": {"MIRROR": "default"}}
    run.project.write("databases.json", json.dumps(databases))
    run.add_fixtures(
        "\nimport django.test\n"
        "django.test.TestCase.databases = django.test.TransactionTestCase.databases = {'default', 'mirror'}\n"
    )
    run.write(
        SHARED
        + MADE
        + """
def read():
    with connections["mirror"].cursor() as cursor:
        cursor.execute("SELECT 1")
    connections["mirror"].close()

def test_1(customer): read()
def test_2(customer): read()
"""
    )
    assert outcomes(run()) == {"passed": 2}


def test_one_test_runs_alone_though_the_mark_of_its_module_names_fixtures_of_others(run: Runner) -> None:
    run.write(
        f"pytestmark = pytest.mark.testdb_share(fixtures=['customer'], except_=['order'])\n{MADE}\n"
        "def test_1(db): assert names() == []\n"
        "def test_2(customer, order): pass\n"
    )
    assert outcomes(run("-k", "test_1")) == {"passed": 1, "deselected": 1}


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("testdb_share('package')", "has invalid arguments. It takes a scope"),
        ("testdb_share(fixtures='customer')", "has invalid arguments. It takes a scope"),
        ("testdb_share(fixtures=['costumer'])", 'names the fixture "costumer", and no test'),
    ],
)
def test_a_mark_with_wrong_arguments_is_one_error(run: Runner, mark: str, message: str) -> None:
    run.write(f"pytestmark = pytest.mark.{mark}\n{MADE}\ndef test_1(customer): pass\n")
    done = run.project.run("-m", "pytest", "-p", "no:cacheprovider")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in done.stdout + done.stderr


def test_the_ini_key_names_paths_and_an_option_switches_sharing_off(run: Runner) -> None:
    for folder in ("a", "b"):
        run.write(MADE + "\ndef test_1(customer): pass\ndef test_2(customer): pass\n", f"{folder}/test_{folder}.py")
    ini = (run.project.directory / "pytest.ini").read_text()
    run.project.write("pytest.ini", ini + "testdb_share =\n    a\n")
    assert "1 shared fixture was made once instead of 2 times" in run().stdout
    assert "shared fixture" not in run("--no-testdb-share").stdout
    run.project.write("pytest.ini", ini + "testdb_share =\n    a\n    c/test_c.py\n")
    done = run.project.run("-m", "pytest", "-p", "no:cacheprovider")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    missing = run.project.directory / "c" / "test_c.py"
    assert f"testdb_share names what is not there: {missing}. Its paths start" in done.stdout + done.stderr


def test_a_database_that_the_test_does_not_name_stays_forbidden(run: Runner) -> None:
    run.write(
        SHARED
        + """
both = pytest.mark.django_db(databases=["default", "other"])

@pytest.fixture
def here_and_there():
    return [shelf("here"), shelf("there", "other")]

@both
def test_1(here_and_there):
    assert names("other") == ["there"]
    here_and_there[1].delete()

@both
def test_2(here_and_there):
    assert names() == ["here"] and names("other") == ["there"]

@pytest.mark.django_db
def test_3(here_and_there): pass
"""
    )
    done = run(fails=True)
    assert outcomes(done) == {"passed": 2, "error": 1}
    assert "Database queries to 'other' are not allowed" in done.stdout
    assert "1 shared fixture was made 2 times instead of 3 times" in done.stdout


def test_sharing_survives_reruns_failed_first_and_other_kinds_of_tests(run: Runner) -> None:
    """A ``TestCase``, a test that commits and one without a database, between tests that share."""
    run.write(
        SHARED
        + MADE
        + """
import pathlib
from django.test import TestCase

def test_1_fails_first(order):
    assert names() == ["customer"]
    shelf("left")
    marker = pathlib.Path("failed-once")
    if not marker.exists():
        marker.touch()
        raise AssertionError("once")

def test_2(order):
    assert names() == ["customer"]

class TestOther(TestCase):
    def test_3(self):
        assert names() == []

def test_4_commits(reset_db, customer):
    assert committed() == ["customer"]

def test_5_has_no_database(): pass

def test_6(order):
    assert names() == ["customer"]
"""
    )
    done = run("--reruns", "1")
    assert "6 passed, 1 rerun" in done.stdout
    (run.project.directory / "failed-once").unlink()
    cache = ("-p", "cacheprovider", "-o", "cache_dir=kept")
    assert outcomes(run(*cache, "-x", fails=True)) == {"failed": 1}
    assert outcomes(run(*cache, "--ff")) == {"passed": 6}


def test_subtests_of_a_test_are_in_one_test(run: Runner) -> None:
    """Those of pytest's fixture, and unittest's in a ``TestCase`` between tests that share."""
    pytest.importorskip("_pytest.subtests", reason="pytest 9 has the fixture")
    run.write(
        SHARED
        + MADE
        + """
from django.test import TestCase

def test_1(order, subtests):
    for number in range(3):
        with subtests.test(number=number):
            assert Shelf.objects.count() == 2 + number
            shelf(f"{number}")
            assert number != 1, "on purpose"

def test_1_again(order):
    assert names() == ["customer"]

class TestOther(TestCase):
    def test_2(self):
        for number in range(2):
            with self.subTest(number=number):
                self.assertEqual(names(), [])
                assert number != 1, "on purpose"

class TestInside:
    def test_3(self, order, subtests):
        with subtests.test():
            assert names() == ["customer"]
"""
    )
    done = run("--testdb-share-verify", fails=True)
    assert "2 shared fixtures were made 4 times instead of 6 times" in done.stdout, done.stdout
    assert "testdb_app: 4 tests have the same outcomes without sharing" in done.stdout, done.stdout


def test_the_verification_names_the_tests_that_end_otherwise_without_sharing(run: Runner) -> None:
    """A counter in memory is what no rule sees."""
    run.write(SHARED + MADE + "def test_1(order): pass\ndef test_2(order): pass\n", "test_same.py")
    assert "testdb_app: 2 tests have the same outcomes without sharing" in run("--testdb-share-verify").stdout
    run.write(
        SHARED
        + """
numbers = iter(range(10))

@pytest.fixture
def numbered(db):
    return shelf(f"number {next(numbers)}")

def test_1(numbered):
    assert numbered.name == "number 0"

def test_2(numbered):
    assert numbered.name == "number 0"

def test_3(numbered):
    assert numbered.name == "number 0"
"""
    )
    done = run("--testdb-share-verify", "-n", "2", "--dist", "loadfile", fails=True)
    assert re.findall(r"^test_it.py::(.*)", done.stdout, re.MULTILINE) == [
        "test_2: call passed with sharing, call failed without",
        "test_3: call passed with sharing, call failed without",
    ]


AFTER_EACH_TEST = """
def pytest_runtest_logfinish(nodeid):
    from django.core.cache import cache
    from django.utils import translation
    cache.clear()
    translation.deactivate()
"""
IN_THE_ORDER_OF_THE_FILE = """
def pytest_configure(config):
    config.pluginmanager.register(object(), "random_order")
"""


def play(run: Runner, seeds: range, *options: str, wide: bool = False, **environment: str) -> dict[str, int]:
    """Run the graphs with the mark and without, compare what each test has seen, and return pytest's outcomes."""
    run.project.write("conftest.py", CONFTEST + AFTER_EACH_TEST + (IN_THE_ORDER_OF_THE_FILE if wide else ""))
    texts = {}
    for seed in seeds:
        texts[str(seed)] = Graph(seed, wide=wide).text()
        run.project.write(f"test_{seed}_plain.py", texts[str(seed)])
        run.project.write(f"test_{seed}_shared.py", texts[str(seed)] + f"\n{SHARED}")
    arguments = ("-m", "pytest", "-p", "no:cacheprovider", "-rA", "-q", "--tb=line", *options)
    done = run.project.run(*arguments, seconds=600, **environment)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[tuple[str, str], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for outcome, seed, way, test in re.findall(
        r"^(PASSED|FAILED|ERROR) test_(\d+)_(plain|shared)\.py(\S+)", done.stdout, re.MULTILINE
    ):
        found[seed, test][way].append(outcome)
    for each in done.found:
        seed, way, test = re.fullmatch(r"test_(\d+)_(plain|shared)\.py(.+)", each.pop("test")).groups()  # type: ignore[union-attr]
        found[seed, test][way].append(json.dumps(each, sort_keys=True))
    for (seed, test), ways in found.items():
        assert sorted(ways["plain"]) == sorted(ways["shared"]), f"{test} of this module:\n{texts[seed]}"
    assert len(found) > 5 * len(seeds)
    counts = Counter(outcome for ways in found.values() for outcome in ways["shared"] if outcome.isupper())
    made = re.search(r"shared fixtures were made (\d+) times instead of (\d+)", done.stdout)
    assert made is not None and int(made[1]) < int(made[2]), done.stdout
    return counts


def test_random_modules_see_the_same_with_the_mark_and_without(run: Runner) -> None:
    counts = play(run, range(12))
    assert min(counts[outcome] for outcome in ("PASSED", "FAILED", "ERROR")) > 0


@pytest.mark.nightly
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("first", [1_000, 2_000])
def test_many_random_modules_see_the_same(run: Runner, first: int, wide: bool) -> None:
    play(run, range(first, first + 60), wide=wide)


@pytest.mark.nightly
@pytest.mark.parametrize("how", ["randomly", "load", "loadscope", "loadfile", "worksteal", "each"])
def test_random_modules_see_the_same_in_any_order_and_any_process(run: Runner, how: str) -> None:
    if how == "randomly":
        play(run, range(3_000, 3_040), "--randomly-seed", "7", PYTEST_ADDOPTS="")
        return
    options = ("--tx", "1*popen", "--dist", "each") if how == "each" else ("-n", "2", "--dist", how)
    play(run, range(3_000, 3_020), *options)
