"""The profile of fixtures and factories: what is counted, what belongs to whom, and what sharing would save."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from testdb_app.plugin.profile import FixtureRecord, Profile, render_factories, render_fixtures
from tests.documentation.pages import DOCS
from tests.guard.projects import Project
from tests.plugin.conftest import Runner
from tests.plugin.test_sharing import modules_of_kinds
from tests.testcases.conftest import project_in

NESTED = """
from time import sleep

@pytest.fixture
def customer(db, made=[]):
    sleep(0.05 if made else 0.3)
    made.append(1)
    return shelf("customer")

@pytest.fixture
def order(customer):
    sleep(0.01)
    return [Item.objects.create(shelf=customer, label=str(number)) for number in range(3)]

@pytest.fixture
def reads_only(order):
    assert Item.objects.count() == 3

@pytest.fixture
def asks(request):
    request.getfixturevalue("order")
    return shelf("asks")

class TestOne:
    def test_1(self, order, reads_only): pass
    def test_2(self, order): pass

class TestTwo:
    def test_3(self, order): pass

def test_4(customer):
    shelf("of the test")

def test_5(db, asks): pass

class TestOverride:
    @pytest.fixture
    def customer(self, customer):
        Item.objects.create(shelf=customer, label="of the override")
        return customer

    def test_6(self, customer): pass
"""
ENDS = """
from time import sleep

@pytest.fixture
def ending(db):
    made = shelf("ending")
    yield made
    sleep(0.02)
    Shelf.objects.filter(name="ending").delete()

@pytest.fixture
def of_ending(ending):
    Item.objects.create(shelf=ending, label="x")

@pytest.fixture
def failing(db):
    shelf("half-way")
    raise ValueError("half-way")

@pytest.fixture
def patching(db, monkeypatch):
    monkeypatch.setenv("PATCHED", "1")
    return shelf("patching")

@pytest.fixture
def on_patching(patching):
    return shelf("on patching")

@pytest.fixture
def committing(transactional_db):
    yield shelf("committing")
    Shelf.objects.filter(name="committing").delete()

def test_1(of_ending): pass
def test_2(of_ending): pass
def test_3(failing): pass
def test_4(failing): pass
def test_5(on_patching): pass
def test_6(on_patching): pass

@pytest.mark.skip
def test_7(committing): pass
"""
WIDE = """
@pytest.fixture(scope="module")
def wide(db_module):
    return shelf("wide")

@pytest.fixture(scope="class", params=["a", "b"])
def letter(request, wide):
    return shelf(request.param)

@pytest.fixture
def on_letter(letter, db):
    return Item.objects.create(shelf=letter, label="on letter")

@pytest.fixture(params=[1, 2, 3])
def number(request, db):
    return shelf(str(request.param))

@pytest.fixture
def on_number(number):
    return Item.objects.create(shelf=number, label="on number")

class TestLetters:
    def test_1(self, on_letter): pass
    def test_2(self, on_letter): pass

def test_3(on_number): pass
def test_4(on_number): pass
"""
CLASSES = """
import unittest
from django.test import TestCase, TransactionTestCase

class Base(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.made = shelf("of the base")

    def setUp(self):
        Item.objects.create(shelf=self.made, label="of the base")

class FirstTest(Base):
    def test_1(self): self.assertEqual(Item.objects.count(), 1)
    def test_2(self): self.assertEqual(Item.objects.count(), 1)

class SecondTest(Base):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        shelf("of the class")

    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        shelf("of the second")
        shelf("of the second again")

    def setUp(self):
        super().setUp()
        Item.objects.create(shelf=self.made, label="of the second")

    def test_1(self): self.assertEqual(Item.objects.count(), 2)

class EndingTest(TestCase):
    def setUp(self):
        shelf("with an end")

    def tearDown(self): pass

    def test_1(self): pass
    def test_2(self): pass

@pytest.mark.django_db
class PlainTest(unittest.TestCase):
    def setUp(self):
        shelf("of a plain class")

    def test_1(self): pass

class CommittingTest(TransactionTestCase):
    def setUp(self):
        shelf("committed")

    def test_1(self):
        Shelf.objects.all().delete()

@pytest.mark.django_db
class TestOfPytest:
    def setup_method(self):
        shelf("of setup_method")

    def test_1(self): pass
    def test_2(self): pass
"""
ROWS = """
from testdb_app.data import bulk

@pytest.fixture
def base(db):
    return shelf("base")

@pytest.fixture
def in_bulk(base):
    Item.objects.bulk_create([Item(shelf=base, label=str(number)) for number in range(10)])

@pytest.fixture
def copied(base):
    bulk(Item, [{"shelf": base, "label": str(number)} for number in range(20)])

@pytest.fixture
def changed(in_bulk):
    Item.objects.update(label="changed")
    Item.objects.filter(pk__in=list(Item.objects.values_list("pk", flat=True)[:4])).delete()

@pytest.fixture
def by_sql(base):
    schema = "public." if connection.vendor == "postgresql" else "main."
    with connection.cursor() as cursor:
        cursor.executemany("insert into shop_shelf (name) values (%s)", [["x"], ["y"], ["z"]])
        cursor.execute(f'/* a comment */ INSERT INTO {schema}"shop_item" (shelf_id, label) SELECT id, name FROM shop_shelf WHERE name IN (%s, %s)', ["x", "y"])
        cursor.execute("SELECT 'INSERT INTO shop_item'")
        cursor.fetchall()

@pytest.fixture
def by_copy(base):
    if connection.vendor != "postgresql":
        return Shelf.objects.bulk_create([Shelf(name="x"), Shelf(name="y")])
    with connection.cursor() as cursor:
        with cursor.copy("COPY shop_shelf (name) FROM STDIN") as copy:
            copy.write_row(["x"])
            copy.write_row(["y"])
        with cursor.copy("COPY shop_shelf TO STDOUT") as copy:
            assert len(list(copy)) >= 3

@pytest.fixture
def ignored(base):
    Shelf.objects.bulk_create([Shelf(name="base"), Shelf(name="new")], ignore_conflicts=True)

@pytest.fixture
def with_error(base):
    try:
        with transaction.atomic():
            Shelf.objects.create(name="base")
    except Exception:
        pass

def test_1(in_bulk): pass
def test_2(copied): assert Item.objects.count() == 20
def test_3(changed): pass
def test_4(by_sql): pass
def test_5(ignored): pass
def test_6(with_error): pass
def test_7(by_copy): pass
"""
FACTORIES = """
import factory
from model_bakery import baker

class ShelfFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Shelf

    name = factory.Sequence(lambda number: f"shelf {number}")

class ItemFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Item

    shelf = factory.SubFactory(ShelfFactory)
    label = "made"

class FullShelfFactory(ShelfFactory):
    class Meta:
        skip_postgeneration_save = True

    items = factory.RelatedFactoryList(ItemFactory, "shelf", size=3)

    @factory.post_generation
    def above(self, create, extracted, **kwargs):
        if create:
            self.above = ShelfFactory()
            self.save()

class PlainFactory(factory.Factory):
    class Meta:
        model = dict

@pytest.fixture
def full(db):
    return FullShelfFactory()

def test_1(full):
    ItemFactory.create_batch(2)
    ItemFactory.build()
    PlainFactory()

def test_2(db):
    ItemFactory()

def test_3(db):
    baker.make(Item)
    baker.make("shop.Item", _quantity=2)
    baker.make(Item, _quantity=4, _bulk_create=True)
    baker.prepare(Item)
"""
MODULES = {
    "test_nested.py": NESTED,
    "test_ends.py": ENDS,
    "test_wide.py": WIDE,
    "test_classes.py": CLASSES,
    "test_rows.py": ROWS,
    "test_factories.py": FACTORIES,
}
# The first fixture of that name, which is the other one's: Runner puts four lines before each module.
CUSTOMER = f"test_nested.py:{NESTED[: NESTED.index('def customer')].count(chr(10)) + 4}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """The profile of one run: the document, and what pytest has printed."""

    document: dict[str, Any]
    stdout: str

    def fixture(self, name: str, module: str = "", scope: str = "") -> dict[str, Any]:
        """Return the entry of a fixture."""
        (found,) = [
            each
            for each in self.document["fixtures"]
            if each["name"] == name and each["place"].startswith(module) and each["scope"].startswith(scope)
        ]
        return found

    def factory(self, name: str) -> dict[str, Any]:
        """Return the entry of a factory."""
        (found,) = [each for each in self.document["factories"] if each["name"] == name]
        return found


def profile(project: Project, *options: str, columns: int) -> Profiled:
    """Run the modules with the profile."""
    run = Runner(project)
    for name, text in MODULES.items():
        run.write(text, name)
    done = run("--testdb-fixtures=0", "--testdb-fixtures-json=profile.json", *options, fails=True, COLUMNS=str(columns))
    assert re.search(r"\b2 errors\b|\b2 error\b", done.stdout.splitlines()[-1]), done.stdout
    assert "failed" not in done.stdout.splitlines()[-1], done.stdout
    return Profiled(document=json.loads((project.directory / "profile.json").read_text()), stdout=done.stdout)


@pytest.fixture(scope="module")
def project_of_module(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> Iterator[Project]:
    with project_in(tmp_path_factory.mktemp("profile"), django_db_blocker) as made:
        yield made


@pytest.fixture(scope="module")
def profiled(project_of_module: Project) -> Profiled:
    return profile(project_of_module, columns=160)


@pytest.fixture(scope="module")
def distributed(project_of_module: Project) -> Profiled:
    return profile(project_of_module, "-n", "2", columns=80)


def test_the_own_time_of_a_fixture_is_without_those_that_it_depends_on(profiled: Profiled) -> None:
    customer, order = profiled.fixture("customer", CUSTOMER), profiled.fixture("order")
    assert (customer["made"], order["made"]) == (6, 4)
    assert 0.12 <= customer["own_seconds"] == pytest.approx(customer["seconds"])
    assert order["own_seconds"] >= 0.04
    assert order["seconds"] - order["own_seconds"] >= 0.08, "that of four customers"


def test_the_rows_of_a_fixture_are_its_own(profiled: Profiled) -> None:
    assert profiled.fixture("customer", CUSTOMER)["rows"] == {"shop_shelf": 6}
    assert profiled.fixture("order")["rows"] == {"shop_item": 12}
    assert profiled.fixture("order")["statements"] == 12
    assert not any(each["name"] == "reads_only" for each in profiled.document["fixtures"])


def test_a_fixture_that_is_asked_for_dynamically_is_none_of_the_others_own_time(profiled: Profiled) -> None:
    asks = profiled.fixture("asks")
    assert asks["rows"] == {"shop_shelf": 1}
    assert asks["seconds"] - asks["own_seconds"] >= 0.03


def test_a_fixture_that_overrides_another_depends_on_it(profiled: Profiled) -> None:
    (override,) = [
        each
        for each in profiled.document["fixtures"]
        if each["name"] == "customer" and each["place"].startswith("test_nested.py") and each["place"] != CUSTOMER
    ]
    assert override["rows"] == {"shop_item": 1}
    assert override["seconds"] - override["own_seconds"] >= 0.02


def test_sharing_saves_the_own_time_of_each_making_but_the_first_of_each_class_or_module(profiled: Profiled) -> None:
    customer, order = profiled.fixture("customer", CUSTOMER), profiled.fixture("order")
    # Two classes, one that overrides it, and a function, which is a class of its own to pytest.
    assert (customer["shareable"], customer["classes"], customer["modules"]) == (5, 4, 1)
    # The first one is the dearest, by far: neither saves it.
    assert 0.2 <= customer["saved_by_module"] <= customer["shareable_seconds"] - 0.3
    assert 0.05 <= customer["saved_by_class"] <= customer["saved_by_module"] - 0.15
    assert (order["shareable"], order["classes"], order["modules"]) == (3, 2, 1)
    assert 0.02 <= order["saved_by_module"] <= order["shareable_seconds"] - 0.01
    assert order["reasons"] == customer["reasons"] == {"is requested by getfixturevalue()": 1}
    text = " ".join(profiled.stdout.split())
    assert "not shared (1 of 6): it is requested by getfixturevalue()" in text
    assert "not shared (1 of 4): it is requested by getfixturevalue()" in text
    assert "not shared (2): it uses" in text, "both times"


def test_the_end_of_a_fixture_belongs_to_it(profiled: Profiled) -> None:
    ending, user = profiled.fixture("ending"), profiled.fixture("of_ending")
    assert ending["own_seconds"] >= 0.04
    assert ending["rows"] == {"shop_shelf": 2}
    assert ending["changed"] == 4, "the shelf and its item, of two tests"
    assert user["seconds"] - user["own_seconds"] >= 0.04


def test_a_fixture_that_fails_half_way_is_counted_and_not_shared(profiled: Profiled) -> None:
    failing = profiled.fixture("failing")
    assert (failing["made"], failing["failed"], failing["rows"]) == (2, 2, {"shop_shelf": 2})
    assert (failing["shareable"], failing["saved_by_module"]) == (0, 0)


@pytest.mark.parametrize("name", ["patching", "on_patching"])
def test_what_cannot_be_shared_saves_nothing_and_says_why(profiled: Profiled, name: str) -> None:
    found = profiled.fixture(name)
    assert (found["made"], found["shareable"], found["saved_by_class"], found["saved_by_module"]) == (2, 0, 0, 0)
    ((reason, count),) = found["reasons"].items()
    assert count == 2
    assert "monkeypatch" in reason


def test_a_wide_fixture_is_made_once_and_has_nothing_to_save(profiled: Profiled) -> None:
    wide = profiled.fixture("wide")
    assert (wide["made"], wide["scope"], wide["rows"]) == (1, "module", {"shop_shelf": 1})
    assert (wide["shareable"], wide["reasons"]) == (0, {"has module scope": 1})


def test_a_fixture_is_needed_once_for_each_parameter_of_what_it_depends_on(profiled: Profiled) -> None:
    assert profiled.fixture("letter")["made"] == 2
    on_letter, on_number = profiled.fixture("on_letter"), profiled.fixture("on_number")
    assert (on_letter["made"], on_letter["classes"], on_letter["modules"]) == (4, 2, 2)
    ((reason, count),) = on_number["reasons"].items()
    assert (on_number["made"], count) == (6, 6)
    assert '"number"' in reason


def test_each_class_that_makes_rows_in_set_up_test_data_has_an_entry(profiled: Profiled) -> None:
    base, second = profiled.fixture("Base.setUpTestData"), profiled.fixture("SecondTest.setUpTestData")
    assert (base["made"], base["rows"], base["classes"], base["modules"]) == (2, {"shop_shelf": 2}, 2, 1)
    assert base["saved_by_class"] == 0
    assert 0 < base["saved_by_module"] < base["own_seconds"] == pytest.approx(base["shareable_seconds"])
    assert (second["made"], second["rows"]) == (1, {"shop_shelf": 2})
    assert second["seconds"] > second["own_seconds"]
    assert profiled.fixture("SecondTest.setUpClass")["rows"] == {"shop_shelf": 1}


def test_set_up_is_made_for_each_test(profiled: Profiled) -> None:
    base = profiled.fixture("Base.setUp")
    assert (base["made"], base["rows"], base["classes"], base["modules"]) == (3, {"shop_item": 3}, 2, 1)
    assert profiled.fixture("SecondTest.setUp")["rows"] == {"shop_item": 1}
    assert profiled.fixture("CommittingTest.setUp")["reasons"] == {"is used by a test that commits": 1}
    assert profiled.fixture("PlainTest.setUp")["rows"] == {"shop_shelf": 1}
    ending = profiled.fixture("EndingTest.setUp")
    assert (ending["made"], ending["shareable"], ending["saved_by_class"]) == (2, 0, 0)
    ((reason, count),) = ending["reasons"].items()
    assert (reason, count) == ("belongs to a class with tearDown(), in test_classes.EndingTest", 2)
    method = profiled.fixture("TestOfPytest.setup_method")
    assert (method["made"], method["rows"]) == (2, {"shop_shelf": 2})
    assert method["place"].startswith("test_classes.py:")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("in_bulk", {"shop_item": 20}),
        ("copied", {"shop_item": 20}),
        ("changed", {}),
        ("by_sql", {"shop_shelf": 3, "{schema}.shop_item": 2}),
        ("by_copy", {"shop_shelf": 2}),
        ("ignored", {"shop_shelf": 1}),
    ],
)
def test_rows_are_counted_as_the_driver_reports_them(
    profiled: Profiled, project_of_module: Project, name: str, rows: dict[str, int]
) -> None:
    schema = "public" if project_of_module.is_postgresql else "main"
    found = profiled.fixture(name, "test_rows.py")
    assert found["rows"] == {table.format(schema=schema): count for table, count in rows.items()}
    assert found["changed"] == (14 if name == "changed" else 0)


def test_a_statement_that_fails_writes_no_row(profiled: Profiled) -> None:
    assert not any(each["name"] == "with_error" for each in profiled.document["fixtures"])


def test_a_factory_has_the_rows_of_all_that_it_makes(profiled: Profiled) -> None:
    full, item, inner = (profiled.factory(f"test_factories.{name}Factory") for name in ("FullShelf", "Item", "Shelf"))
    assert (full["calls"], full["top_level"], full["rows"]) == (1, 1, {"shop_item": 3, "shop_shelf": 2})
    assert (item["calls"], item["top_level"], item["rows"]) == (6, 3, {"shop_shelf": 3, "shop_item": 3})
    assert (inner["calls"], inner["top_level"], inner["rows"]) == (4, 0, {})
    assert item["tests"] == {"test_factories.py::test_1": 5, "test_factories.py::test_2": 1}
    assert full["seconds"] > full["own_seconds"] > 0
    assert profiled.fixture("full")["rows"] == {"shop_item": 3, "shop_shelf": 2}
    assert not any("Plain" in each["name"] for each in profiled.document["factories"])


def test_baker_has_the_rows_of_all_that_it_makes(profiled: Profiled) -> None:
    item, inner = profiled.factory("baker.make(shop.Item)"), profiled.factory("baker.make(shop.Shelf)")
    assert (item["calls"], item["top_level"], item["library"]) == (7, 7, "model_bakery")
    assert item["rows"] == {"shop_shelf": 7, "shop_item": 7}
    assert (inner["calls"], inner["top_level"]) == (3, 0)
    assert item["tests"] == {"test_factories.py::test_3": 7}


def test_the_profiles_of_workers_are_added_up(profiled: Profiled, distributed: Profiled) -> None:
    assert (profiled.document["processes"], distributed.document["processes"]) == (1, 2)
    same = ("made", "failed", "rows", "changed", "shareable", "reasons")
    for name in ("order", "ending", "failing", "on_patching", "Base.setUp", "in_bulk", "copied"):
        one, two = profiled.fixture(name), distributed.fixture(name)
        assert {key: two[key] for key in same} == {key: one[key] for key in same}
    assert distributed.fixture("customer", CUSTOMER)["modules"] in {1, 2}
    for each in profiled.document["factories"]:
        two = distributed.factory(each["name"])
        assert all(two[key] == each[key] for key in ("calls", "top_level", "rows", "tests"))


def test_the_text_is_ranked_by_what_sharing_saves(profiled: Profiled) -> None:
    ranked = [each["name"] for each in profiled.document["fixtures"]]
    saved = [each["saved_by_module"] for each in profiled.document["fixtures"]]
    assert ranked[0] == "customer"
    assert saved == sorted(saved, reverse=True)
    count = len(ranked)
    table = profiled.stdout.split(f"= fixtures that write rows: {count} of {count}")[1]
    shown = [
        line.split()[-1] for line in table.split("Sharing would save")[0].splitlines() if re.match(r" *[\d–]", line)
    ]
    assert shown == ranked


@pytest.mark.parametrize("columns", [80, 160])
def test_the_text_fits_the_terminal(profiled: Profiled, distributed: Profiled, columns: int) -> None:
    stdout = {80: distributed, 160: profiled}[columns].stdout
    text = stdout[stdout.index("= fixtures that write rows") : stdout.index("short test summary info")]
    lines = [line for line in text.splitlines()[1:] if "profile.json" not in line]
    assert max(map(len, lines)) <= columns
    assert "by module  by class  made" in text
    (line,) = [line for line in lines if line.endswith("  order")]
    assert line.split()[2] == "4"
    assert re.search(r"test_nested\.py:\d+ \(function\); shop_item 3; 3 statements", text)
    assert re.search(r" 1 +1 +1 +\S+ +\S+ +5 +test_factories\.FullShelfFactory", text), "one makes five rows"
    assert re.search(r"The profile of the fixtures was written to .*profile\.json", stdout)


def test_the_document_has_what_the_page_lists(profiled: Profiled) -> None:
    page = (DOCS / "reference/sharing.md").read_text("utf-8")
    (section,) = re.findall(r"^### The JSON format$(.*)", page, re.MULTILINE | re.DOTALL)
    parts = [profiled.document, profiled.document["fixtures"][0], profiled.document["factories"][0]]
    keys = {key for part in parts for key in part}
    listed = {key for line in re.findall(r"^\| (`.*)$", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", line)}
    assert len(keys) >= 20
    assert keys <= listed <= keys | {"factory_boy", "model_bakery", "yield"}


def test_the_tables_of_the_page_are_those_of_a_run(profiled: Profiled) -> None:
    page = (DOCS / "how-to/share-rows.md").read_text("utf-8")
    lines = {" ".join(line.split()) for line in profiled.stdout.splitlines()}
    shown = [line for line in page.splitlines() if line.endswith(("rows  fixture", "rows  factory"))]
    assert len(shown) == 3
    assert {" ".join(line.split()) for line in shown} <= lines


def test_without_the_options_nothing_is_registered_or_imported(project: Project) -> None:
    run = Runner(project)
    run.write(
        """
import sys

def test_1(db, pytestconfig):
    assert not pytestconfig.pluginmanager.has_plugin("testdb_profile")
    assert not [name for name in sys.modules if name.startswith("testdb_app.plugin.profile")]
    assert connection.execute_wrappers == []
"""
    )
    assert "fixtures that write rows" not in run().stdout
    done = run("--testdb-fixtures=2", fails=True).stdout
    assert "profile of fixtures" in done
    assert "= fixtures that write rows: 0 of 0" in done
    assert "= factories" not in done


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("--testdb-fixtures=-1", "--testdb-fixtures must be 0 (all) or more, not -1"),
        ("--testdb-fixtures-json=no/such.json", "there is no folder"),
    ],
)
def test_a_value_that_is_invalid_is_refused(project: Project, option: str, error: str) -> None:
    Runner(project)
    done = project.pytest("-q", option)
    assert done.returncode == 4
    assert error in done.stdout + done.stderr


def test_a_worker_that_ends_early_is_named(project: Project) -> None:
    run = Runner(project)
    run.write(
        """
import os

@pytest.fixture
def made(db): return shelf("made")

def test_1(made): pass
def test_2(made): os._exit(1)
"""
    )
    done = run("--testdb-fixtures=0", "-n", "1", "--max-worker-restart=0", fails=True)
    assert re.search(r"^The profile lacks the workers that ended early: gw0\.$", done.stdout, re.MULTILINE)


def test_nothing_stays_wrapped(project: Project) -> None:
    run = Runner(project)
    run.write("from model_bakery import baker\ndef test_1(db): baker.make(Shelf)\n")
    project.write(
        "twice.py",
        """
import django, pytest
django.setup()
from factory.builder import StepBuilder
from model_bakery import baker

before = StepBuilder.build, baker.Baker.make, baker.bulk_create
assert pytest.main(["-q", "--testdb-fixtures=1"]) == 0
assert before == (StepBuilder.build, baker.Baker.make, baker.bulk_create)
""",
    )
    done = project.run("twice.py", DJANGO_SETTINGS_MODULE="settings")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "baker.make(shop.Shelf)" in done.stdout


ORDERED = """
from django.core import mail
from django.test import TestCase

@pytest.fixture
def customer(db):
    return shelf("customer")

@pytest.fixture
def order(customer):
    return Item.objects.create(shelf=customer, label="order")

@pytest.fixture
def announced(order):
    mail.send_mail("s", "b", "a@b.c", ["a@b.c"])
    return Item.objects.create(shelf=order.shelf, label="announced")

@pytest.fixture
def after_mail(db):
    return shelf("after mail")

@pytest.fixture
def late(db):
    return shelf("late")

class TestIt:
    def test_1(self, order): pass
    def test_2(self, order, customer): pass
    def test_3(self, announced, after_mail): pass
    def test_4(self, announced, after_mail): pass
    def test_4_after_imports(self, announced, after_mail): pass
    def test_5(self, request, db): request.getfixturevalue("late")
    def test_6(self, request, db): request.getfixturevalue("late")
"""
BESIDE_A_MOCK = """
@pytest.fixture
def before_the_mock(db):
    return shelf("before")

@pytest.fixture(autouse=True)
def mocked(before_the_mock, monkeypatch):
    monkeypatch.setattr(shelf, "calls", [], raising=False)

@pytest.fixture
def after_the_mock(db):
    return shelf("after")

def test_1(after_the_mock): pass
def test_2(after_the_mock): pass
"""
BESIDE_A_SETTING = """
@pytest.fixture(autouse=True)
def setting(monkeypatch):
    monkeypatch.setenv("MOCKED", "1")

@pytest.fixture
def after_a_setting(db):
    return shelf("after")

def test_1(after_a_setting): pass
def test_2(after_a_setting): pass
"""
BESIDE_AN_EMPTY_ONE = """
@pytest.fixture(autouse=True)
def empty(db):
    print("may do something")

@pytest.fixture
def after_an_empty_one(db):
    return shelf("after")

def test_1(after_an_empty_one): pass
def test_2(after_an_empty_one): pass
"""


def test_the_profile_calls_shareable_what_the_mark_shares(project: Project) -> None:
    run = Runner(project)
    project.add_settings("MEDIA_ROOT = HERE / 'media'\n")
    for name, text in modules_of_kinds().items():
        run.write(text, f"test_{name}.py")
    beside = {"mock": BESIDE_A_MOCK, "setting": BESIDE_A_SETTING, "empty": BESIDE_AN_EMPTY_ONE}
    for name, text in ({"ordered": ORDERED} | beside).items():
        run.write(text, f"test_{name}.py")
    run("--testdb-fixtures-json=plain.json")
    ini = (project.directory / "pytest.ini").read_text()
    project.write("pytest.ini", f"{ini}testdb_share =\n    .\n")
    done = run("--testdb-explain", "--testdb-fixtures-json=shared.json")
    shared = set(re.findall(r"^  shared: (\w+),", done.stdout, re.MULTILINE))
    refused = dict(re.findall(r"^  not shared: (\w+) (.*)$", done.stdout, re.MULTILINE))
    plain, with_mark = (
        {each["name"]: each for each in json.loads((project.directory / name).read_text())["fixtures"]}
        for name in ("plain.json", "shared.json")
    )
    assert {"customer", "order", "before_the_mock", "after_a_setting"} == shared
    assert plain.keys() == with_mark.keys() > shared | {"after_mail", "after_the_mock", "after_an_empty_one", "late"}
    for name, entry in plain.items():
        assert bool(entry["shareable"]) == (name in shared), name
        for reason in entry["reasons"]:
            assert refused.get(name, "is requested by getfixturevalue()").startswith(reason), name
        # What was shared in the run with the mark was made once and then handed out, and has nothing more to save.
        other = with_mark[name]
        assert other["made"] + other["handed_out"] == entry["made"], name
        assert bool(other["handed_out"]) == (name in shared), name
        assert other["reasons"] == entry["reasons"], name
    for name in shared:
        assert (with_mark[name]["made"], with_mark[name]["saved_by_module"]) == (1, 0), name


NAMED = """
pytestmark = pytest.mark.testdb_share("module", fixtures=["late"], except_=["plain"])

@pytest.fixture
def late(db):
    import time
    time.time()
    return shelf("late")

@pytest.fixture
def plain(db):
    return shelf("plain")

def test_1(late, plain): pass
def test_2(late, plain): pass
"""


def test_the_names_in_a_mark_count_also_in_a_run_without_sharing(project: Project) -> None:
    run = Runner(project)
    run.write(NAMED)
    run("--no-testdb-share", "--testdb-fixtures-json=profile.json")
    document = json.loads((project.directory / "profile.json").read_text())
    found = {each["name"]: (each["made"], each["shareable"], each["reasons"]) for each in document["fixtures"]}
    assert found == {"late": (2, 2, {}), "plain": (2, 0, {"is excepted by the mark": 2})}


def entry(**changes: Any) -> dict[str, Any]:
    record = FixtureRecord("order", "function", "tests/conftest.py:3")
    return record.as_dict() | changes


def test_merged_profiles_keep_what_each_process_needs() -> None:
    one = entry(
        made=10, shareable=10, shareable_seconds=1.0, saved_by_class=0.5, saved_by_module=0.75, rows={"shop_item": 10}
    )
    two = entry(
        made=30, shareable=30, shareable_seconds=5.0, saved_by_class=2.5, saved_by_module=4.5, rows={"shop_item": 30}
    )
    merged = Profile.merged([{"fixtures": [each], "factories": []} for each in (one, two)])
    (found,) = merged.as_dict()["fixtures"]
    assert (found["made"], found["shareable"], found["rows"]) == (40, 40, {"shop_item": 40})
    assert (found["shareable_seconds"], found["saved_by_class"], found["saved_by_module"]) == (6.0, 3.0, 5.25)
    assert merged.as_dict()["processes"] == 2


def test_the_end_of_a_fixture_is_saved_as_its_beginning_is() -> None:
    record = FixtureRecord("order", "function", "tests/conftest.py:3")
    for seconds, owner, end in ((4.0, "first", 0.5), (2.0, "first", 0.25), (1.0, "second", 0.125)):
        record.add_shareable_seconds(end, record.add_shareable(seconds, owner, "module"))
    assert (record.shareable, record.classes, record.modules, record.shareable_seconds) == (3, 2, 1, 7.875)
    assert (record.saved_by_class, record.saved_by_module) == (2.25, 3.375)


def test_only_the_first_are_shown_and_the_sum_is_that_of_all() -> None:
    profile = Profile()
    for number in range(3):
        record = profile.fixture(f"f{number}", "function", "tests/conftest.py:3")
        record.rows["shop_item"] = record.made = record.statements = 4
        record.own_seconds = record.seconds = 4.0
        for test in range(4):
            record.add_shareable(1.0, f"class {test // 2}", "module")
    lines = render_fixtures(profile.ranked_fixtures(), 1)
    assert [line.split() for line in lines[1:2]] == [["3.000", "2.000", "4", "4.000", "4.000", "1", "f0"]]
    assert lines[2].strip() == "tests/conftest.py:3 (function); shop_item 1; 1 statement"
    assert lines[3:] == ["Sharing would save 9.000 s by module, or 6.000 s by class, of 12.000 s."]
    assert len(render_factories([], 1)) == 1
