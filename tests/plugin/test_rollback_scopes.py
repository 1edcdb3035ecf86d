"""Scopes that are rolled back: what their fixtures make lives until the scope ends, and no test sees more, or changes it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plugin.conftest import CONFTEST, Played, Runner, SharedRun, outcomes
from tests.scratch import connect
from tests.testcases.test_runner import POOLED

SHARED = SharedRun()
"""What needs no option, and no run of its own."""

MODULE = """
@pytest.fixture(scope="module")
def catalogue(db_module):
    return shelf("of the module")

def test_sees_it(catalogue):
    assert names() == ["of the module"] and not committed()
    shelf("of a test")
    catalogue.delete()
    assert names() == ["of a test"]

def test_sees_it_again(catalogue):
    assert names() == ["of the module"]
"""


@pytest.mark.parametrize("scope", ["class", "module", "session"])
def test_what_a_wide_fixture_makes_lives_as_long_as_its_scope(run: Runner, scope: str) -> None:
    run.write(
        f"""
@pytest.fixture(scope="{scope}")
def wide(db_{scope}):
    yield shelf("wide")
    assert names() == ["wide"]

class TestOne:
    def test_1(self, wide):
        assert names() == ["wide"] and not committed()
        shelf("of a test")
        Shelf.objects.filter(name="wide").update(name="changed")

    def test_2(self, wide):
        assert names() == ["wide"]

class TestTwo:
    def test_3(self, db):
        assert names() == {"[]" if scope == "class" else '["wide"]'}

    def test_4(self, wide):
        assert names() == ["wide"]
"""
    )
    run.write("def test_5(db):\n    assert names() == " + ("['wide']" if scope == "session" else "[]"), "test_other.py")
    assert outcomes(run()) == {"passed": 5}


def test_a_package_is_a_scope_and_the_packages_in_it_belong_to_it(run: Runner) -> None:
    for folder in ("", "sub/"):
        run.project.write(f"books/{folder}__init__.py", "")
    run.project.write(
        "books/conftest.py",
        "import pytest\nfrom conftest import shelf\n@pytest.fixture(scope='package')\ndef wide(db_package):\n"
        "    made.append(1)\n    return shelf('wide')\nmade = []\n",
    )
    run.write("def test_1(wide):\n    assert names() == ['wide']\n", "books/test_a.py")
    run.write(
        "def test_2(wide):\n    from books.conftest import made\n    assert names() == ['wide'] and made == [1]\n",
        "books/sub/test_b.py",
    )
    run.write("def test_3(wide):\n    assert names() == ['wide']\n", "books/test_c.py")
    run.write("def test_4(db_package):\n    assert names() == []\n", "test_outside.py")
    assert outcomes(run()) == {"passed": 4}


SHARED.add(
    "an empty scope",
    "def test_1(db_module):\n    shelf('a')\ndef test_2(db_module):\n    assert names() == []\n",
)


def test_an_empty_scope_is_one_too(played: dict[str, Played]) -> None:
    found = played["an empty scope"]
    assert found.outcomes == {"passed": 2}


def test_scopes_nest_and_their_fixtures_build_on_each_other(run: Runner) -> None:
    run.add_fixtures(
        """
@pytest.fixture(scope="session")
def library(db_session):
    return shelf("session")
"""
    )
    run.write(
        """
@pytest.fixture(scope="module")
def catalogue(db_module, library):
    return Item.objects.create(shelf=library, label="module")

@pytest.fixture(scope="class")
def loans(db_class, catalogue):
    catalogue.label = "changed by the class"
    catalogue.save()

class TestIt:
    def test_1(self, loans):
        assert Item.objects.get().label == "changed by the class"

    def test_2(self, loans):
        assert Item.objects.get().label == "changed by the class"

def test_3(catalogue):
    assert Item.objects.get().label == "module"
"""
    )
    run.write("def test_4(library):\n    assert names() == ['session'] and not Item.objects.exists()", "test_later.py")
    assert outcomes(run()) == {"passed": 4}


SHARED.add(
    "a wider fixture later",
    """
made = []

@pytest.fixture(scope="module")
def wide(db_module):
    made.append("wide")
    return shelf("wide")

@pytest.fixture(scope="class")
def narrow(db_class):
    made.append("narrow")
    yield shelf("narrow")
    made.append("end of narrow")

class TestIt:
    def test_1(self, narrow):
        assert names() == ["narrow"]

    def test_2(self, narrow, wide):
        assert names() == ["narrow", "wide"]
        assert made == ["narrow", "end of narrow", "wide", "narrow"]

def test_3(wide):
    assert names() == ["wide"]
    assert made.count("wide") == 1
""",
)


def test_a_wider_fixture_that_is_wanted_later_ends_the_narrower_ones_first(played: dict[str, Played]) -> None:
    """Otherwise its rows would be written in the savepoint of the narrower scope, and be rolled back with it."""
    found = played["a wider fixture later"]
    assert found.outcomes == {"passed": 3}


SHARED.add(
    "wider scopes opened with it",
    """
made = []

@pytest.fixture(scope="module")
def wide(db_module):
    return shelf("wide")

@pytest.fixture(scope="class")
def narrow(db_class):
    made.append("narrow")
    return shelf("narrow")

class TestIt:
    def test_1(self, narrow):
        assert len(connection.savepoint_ids) >= 3

    def test_2(self, narrow, db_module):
        assert made == ["narrow"], "not made again"
""",
)


def test_the_wider_scopes_that_tests_of_a_scope_will_want_are_opened_with_it(played: dict[str, Played]) -> None:
    found = played["wider scopes opened with it"]
    assert found.outcomes == {"passed": 2}


ASKS = {
    "test": ("", "def test_1(self, narrow, request):\n        request.getfixturevalue('wide')"),
    "function fixture": (
        "@pytest.fixture\ndef asks(db, request):\n    request.getfixturevalue('wide')",
        "def test_1(self, narrow, asks):\n        pass",
    ),
    "class fixture": (
        "@pytest.fixture(scope='class')\ndef asks(narrow, request):\n    request.getfixturevalue('wide')",
        "def test_1(self, asks):\n        pass",
    ),
}
for place, (fixtures, test) in ASKS.items():
    SHARED.add(
        f"asked for in a {place}",
        f"""
@pytest.fixture(scope="module")
def wide(db_module):
    return shelf("wide")

@pytest.fixture(scope="class")
def narrow(db_class):
    return shelf("narrow")

{fixtures}

class TestIt:
    {test}

    def test_2(self, narrow):
        assert names() == ["narrow"]

def test_3(wide):
    assert names() == ["wide"]
""",
    )


@pytest.mark.parametrize("place", ASKS)
def test_a_wider_scope_that_is_asked_for_dynamically_is_refused_and_told_what_to_declare(
    played: dict[str, Played], place: str
) -> None:
    # Without db_module among its names no test of the class has it opened beforehand.
    found = played[f"asked for in a {place}"]
    assert found.outcomes["passed"] == 2
    assert "was asked for inside" in found.text
    assert '@pytest.mark.usefixtures("' in found.text


SHARED.add(
    "parametrised fixtures",
    """
@pytest.fixture(scope="module", params=["p1", "p2", "p3"])
def one_of(db_module, request):
    shelf(request.param)
    yield request.param
    assert request.param in names()

@pytest.fixture(scope="module")
def other(db_module):
    return shelf("other")

def test_1(other, one_of):
    assert names() == sorted(["other", one_of])

def test_2(one_of, other):
    assert names() == sorted(["other", one_of])

def test_3(one_of):
    assert one_of in names()

@pytest.mark.parametrize("number", [1, 2])
def test_4(other, number, one_of):
    assert names() == sorted(["other", one_of])
""",
)


def test_parametrised_wide_fixtures_do_not_see_each_others_rows(played: dict[str, Played]) -> None:
    found = played["parametrised fixtures"]
    assert found.outcomes == {"passed": 15}


SHARED.add(
    "fails half-way",
    """
calls = []

@pytest.fixture(scope="module")
def good(db_module):
    return shelf("good")

@pytest.fixture(scope="module")
def bad(good):
    calls.append(1)
    shelf("half")
    raise RuntimeError("half-way")

def test_1(bad): pass
def test_2(good):
    assert names() == ["good"]
def test_3(bad): pass
def test_4(good):
    assert names() == ["good"] and calls == [1]
""",
)


def test_a_wide_fixture_that_fails_half_way_leaves_nothing_and_fails_once(played: dict[str, Played]) -> None:
    found = played["fails half-way"]
    assert found.outcomes == {"passed": 2, "error": 2}


BREAKING = {
    "closes the connection": ("connection.close()", "the connection was closed (", True),
    "commits by SQL": ("shelf('x'); connection.cursor().execute('ROLLBACK')", "the transaction was ended by", False),
    "leaves a dangling key": ("Item.objects.create(shelf_id=4711)", "deferred constraint is violated", False),
}


for how, (code, _, only) in BREAKING.items():
    SHARED.add(
        how,
        f"""
@pytest.fixture(scope="module")
def culprit(db_module):
    {code}

@pytest.fixture(scope="module")
def innocent(db_module):
    return shelf("innocent")

def test_1(culprit): pass
def test_2(innocent):
    assert names() == ["innocent"]
def test_3(culprit): pass
def test_4(innocent, db):
    assert names() == ["innocent"]
    shelf("works")
""",
        postgresql=only,
    )


@pytest.mark.parametrize("how", BREAKING)
def test_a_fixture_that_breaks_its_transaction_is_blamed_once_by_name(played: dict[str, Played], how: str) -> None:
    """The error is reported for the fixture, not for each test that uses it."""
    if how not in played:
        pytest.skip("Django does not close a database in memory")
    found = played[how]
    assert found.outcomes == {"passed": 2, "error": 2}
    assert 'The fixture "culprit" (module scope) has broken the transaction' in found.text
    assert BREAKING[how][1] in found.text


SHARED.add(
    "an aborted transaction",
    """
from django.db import DataError

@pytest.fixture(scope="module")
def culprit(db_module):
    try:
        connection.cursor().execute("SELECT 1/0")
    except DataError:
        pass

def test_1(culprit): pass
def test_2(db_module):
    assert names() == []
""",
    postgresql=True,
)


def test_an_aborted_transaction_is_blamed_on_the_fixture_with_the_statement(played: dict[str, Played]) -> None:
    if "an aborted transaction" not in played:
        pytest.skip("SQLite goes on after a statement that failed")
    found = played["an aborted transaction"]
    assert found.outcomes == {"passed": 1, "error": 1}
    assert "a statement has failed in it, and was not rolled back: SELECT 1/0" in found.text


@pytest.mark.parametrize("how", ["connection.close()", "connection.cursor().execute('COMMIT')"])
def test_a_test_that_breaks_the_scope_is_blamed_and_the_scope_is_made_again(run: Runner, how: str) -> None:
    if not run.project.is_postgresql and "close" in how:
        pytest.skip("Django does not close a database in memory")
    run.write(
        f"""
@pytest.fixture(scope="module")
def wide(db_module):
    return Shelf.objects.get_or_create(name="wide")[0]

def test_1(wide):
    assert Shelf.objects.filter(name="wide").count() == 1

def test_2(wide):
    {how}

def test_3(wide):
    assert Shelf.objects.filter(name="wide").count() == 1

def test_4(db):
    Shelf.objects.exclude(name="from a migration").exclude(name="wide").get_or_create(name="x")

@pytest.fixture(scope="session", autouse=True)
def cleaner(django_db_setup, django_db_blocker, left_at_the_end):
    yield
    with django_db_blocker.unblock():
        Shelf.objects.filter(name="wide").delete()
"""
    )
    done = run(fails=True)
    assert outcomes(done)["passed"] >= 3
    assert "test_it.py::test_2 has broken the transaction of the fixture" in done.stdout
    assert "made again for the tests that need them" in " ".join(done.stdout.split())


def test_a_test_that_pytest_django_blocks_breaks_no_scope_and_one_that_unblocks_is_blamed(run: Runner) -> None:
    run.write(
        """
@pytest.fixture(scope="module")
def wide(db_module):
    return shelf("wide")

def test_1(wide):
    assert names() == ["wide"]

def test_2_is_refused():
    with pytest.raises(RuntimeError, match="not allowed"):
        shelf("refused")

def test_3_can_still_use_it(django_db_blocker):
    with django_db_blocker.unblock():
        assert names() == ["wide"]

def test_4_breaks_it(django_db_blocker):
    with django_db_blocker.unblock():
        try:
            with transaction.atomic(savepoint=False):
                shelf("wide")
        except Exception:
            pass
"""
    )
    done = run(fails=True)
    assert outcomes(done) == {"passed": 4, "error": 1}
    assert "test_4_breaks_it has broken the transaction of the fixture" in done.stdout
    assert "INSERT" in done.stdout


SHARED.add(
    "db over a scope that is asked for late",
    """
@pytest.fixture(scope="module")
def db(request):
    request.getfixturevalue("db_module")

def test_1(db):
    shelf("never")

def test_2(db, django_db_blocker):
    with django_db_blocker.unblock():
        shelf("never")
""",
    """
@pytest.fixture(scope="module")
def db(db_module): ...

def test_3(db):
    shelf("in a savepoint")

def test_4(db):
    assert names() == []
""",
)


def test_a_project_whose_db_asks_for_a_scope_late_is_told_what_to_name(played: dict[str, Played]) -> None:
    found = played["db over a scope that is asked for late"]
    assert found.outcomes == {"passed": 2, "error": 2}
    assert "test_1 does not name it, so pytest-django does not let that test use the database. Name it:" in found.text


SHARED.add(
    "a TestCase in the middle",
    """
from django.test import TestCase

@pytest.fixture(scope="module")
def wide(db_module):
    return shelf("wide")

@pytest.fixture(scope="module")
def later(db_module):
    return shelf("later")

def test_1(wide):
    assert names() == ["wide"]

class TestInside(TestCase):
    @classmethod
    def setUpTestData(cls):
        shelf("of the class")

    def test_2(self):
        assert names() == ["of the class", "wide"]

@pytest.mark.usefixtures("wide")
class TestWithIt(TestCase):
    @classmethod
    def setUpTestData(cls):
        shelf("of the class")

    def test_3(self):
        assert "wide" in names()

    @pytest.mark.usefixtures("later")
    def test_4(self):
        assert names() == ["later", "of the class", "wide"]

def test_5(later, wide):
    assert names() == ["later", "wide"]
""",
)


def test_a_test_case_in_the_middle_of_a_module_scope_does_no_harm(played: dict[str, Played]) -> None:
    """TestCase.tearDownClass() closes every connection."""
    found = played["a TestCase in the middle"]
    assert found.outcomes == {"passed": 5}


@pytest.mark.parametrize("kind", ["transactional_db", "live_server", "mark", "unittest", "reset_db"])
@pytest.mark.parametrize("resets", [(), ("--testdb-reset-transactional",)], ids=["flush", "reset"])
def test_a_test_that_commits_in_the_middle_of_a_scope_ends_it_and_it_is_made_again(
    run: Runner, kind: str, resets: tuple[str, ...]
) -> None:
    run.project.write("as_written.py", AS_WRITTEN)
    middle = {
        "transactional_db": "def test_2(transactional_db):\n    commits()",
        "reset_db": "def test_2(reset_db):\n    commits()",
        "live_server": "def test_2(live_server):\n    commits()",
        "mark": "@pytest.mark.django_db(transaction=True)\ndef test_2():\n    commits()",
        "unittest": "from django.test import TransactionTestCase\nclass TestTwo(TransactionTestCase):\n"
        "    def test_2(self):\n        commits()",
    }
    run.write(
        f"""
made = []

@pytest.fixture(scope="session")
def widest(db_session):
    return shelf("widest")

@pytest.fixture(scope="module")
def wide(db_module, widest):
    made.append(1)
    return shelf("wide")

def commits():
    assert names() == []
    shelf("committed")
    assert committed() == ["committed"]

def test_1(wide):
    assert names() == ["wide", "widest"]

{middle[kind]}

def test_3(wide):
    assert names() == ["wide", "widest"] and len(made) == 2
"""
    )
    if not run.project.is_postgresql:
        pytest.skip("another connection waits for the shared memory")
    assert outcomes(run("-p", "as_written", *resets)) == {"passed": 3}


EXCLUSIVE = {
    "db_module, transactional_db": '"db_module" and for "transactional_db"',
    "db_class, live_server": '"db_class" and for "live_server"',
    "db_session, reset_db": '"db_session" and for "transactional_db", "reset_db"',
    "db_module, reset_db_class": '"reset_db_class" inside "db_module"',
    "reset_db_module, reset_db": '"reset_db" and for "reset_db_module"',
}
for fixtures in EXCLUSIVE:
    SHARED.add(fixtures, f"def test_1({fixtures}): pass\ndef test_2(db): pass\n")


@pytest.mark.parametrize("fixtures", EXCLUSIVE)
def test_fixtures_that_exclude_each_other_are_a_usage_error_that_names_them(
    played: dict[str, Played], fixtures: str
) -> None:
    found = played[fixtures]
    assert found.outcomes == {"passed": 1, "error": 1}
    assert EXCLUSIVE[fixtures] in " ".join(found.text.split())


SHARED.add(
    "native async",
    "@pytest.mark.filterwarnings('ignore')\nasync def test_1(db_module):\n    await Shelf.objects.acreate(name='x')\n"
    "def test_2(db):\n    assert names() == []\n",
)


def test_native_async_tests_are_refused_and_nothing_is_committed(played: dict[str, Played]) -> None:
    """Their queries go over the connection of another thread."""
    found = played["native async"]
    assert found.outcomes == {"passed": 1, "error": 1}
    assert "is an async test, whose queries run in other threads" in found.text


SHARED.add(
    "made synchronous",
    """
from asgiref.sync import async_to_sync
from django.test import TestCase

@pytest.fixture(scope="module")
def wide(db_module):
    return shelf("wide")

@pytest.mark.usefixtures("wide")
class TestAsync(TestCase):
    async def test_1(self):
        assert await Shelf.objects.filter(name="wide").aexists()
        await Shelf.objects.acreate(name="async")

def test_2(wide):
    async def count():
        return await Shelf.objects.filter(name__in=["wide", "async"]).acount()
    assert async_to_sync(count)() == 1
""",
)


def test_methods_that_django_makes_synchronous_are_in_the_scope(played: dict[str, Played]) -> None:
    found = played["made synchronous"]
    assert found.outcomes == {"passed": 2}


SHARED.add(
    "several databases",
    """
pytestmark = pytest.mark.testdb(databases=["default", "other"])

@pytest.fixture(scope="module")
def both(db_module):
    shelf("here"), shelf("there", "other")

def test_1(both):
    assert (names(), names("other")) == (["here"], ["there"]) and not (committed() or committed("other"))
    shelf("more", "other")

def test_2(both):
    assert names("other") == ["there"]
""",
    """
@pytest.mark.django_db(databases=["default", "other"])
def test_3():
    assert (names(), names("other")) == ([], [])

def test_4(db_class):
    with pytest.raises(Exception, match="other"):
        names("other")
""",
)


def test_several_databases_are_opened_by_the_mark(played: dict[str, Played]) -> None:
    found = played["several databases"]
    assert found.outcomes == {"passed": 4}


SHARED.add(
    "callbacks",
    """
@pytest.fixture(scope="module")
def wide(db_module):
    with transaction.atomic(durable=True):
        return shelf("wide")

def test_1(wide, django_capture_on_commit_callbacks):
    called = []
    with django_capture_on_commit_callbacks(execute=True):
        with transaction.atomic(durable=True):
            transaction.on_commit(lambda: called.append(1))
    assert called == [1]
    if connection.features.has_select_for_update:
        with transaction.atomic():
            assert Shelf.objects.select_for_update().get(name="wide").pk == wide.pk
""",
)


def test_on_commit_durable_and_captured_callbacks_are_as_in_a_test_case(played: dict[str, Played]) -> None:
    found = played["callbacks"]
    assert found.outcomes == {"passed": 1}


SHARED.add(
    "copies",
    """
from testdb_app.pytest_plugin import copied_per_test

@pytest.fixture(scope="module")
def wide(db_module):
    yield copied_per_test(shelf("wide"))

@pytest.fixture(scope="module")
def item(db_module, wide):
    return copied_per_test(Item.objects.create(shelf=wide))

@pytest.fixture
def shelf_of(item):
    return item.shelf

def test_1(wide, item, shelf_of):
    assert wide is item.shelf or wide.pk == item.shelf.pk
    assert shelf_of is item.shelf
    wide.name = "changed"
    wide.save()
    item.delete()
    assert item.pk is None

def test_2(wide, item):
    assert wide.name == "wide"
    item.refresh_from_db()
    item.delete()

def test_3(item, wide):
    assert item.shelf is wide
    assert Item.objects.get() == item
""",
)


def test_each_test_gets_a_copy_of_what_is_to_be_copied(played: dict[str, Played]) -> None:
    found = played["copies"]
    assert found.outcomes == {"passed": 3}


LIBRARY = """
@pytest.fixture(scope="session")
def library(db_session):
    return shelf("library")
"""

ORDERS = """
@pytest.fixture(scope="module")
def catalogue(db_module, library):
    return shelf("catalogue")

@pytest.fixture(scope="module", params=["red", "blue"])
def colour(db_module, request):
    shelf(request.param)
    return request.param

@pytest.fixture(scope="class")
def loans(db_class, catalogue):
    return shelf("loans")

class TestOne:
    @pytest.mark.parametrize("number", range(4))
    def test_class(self, loans, number):
        assert {"loans", "catalogue", "library"} <= set(names())
        shelf(f"number {number}")
        assert [name for name in names() if name.startswith("number")] == [f"number {number}"]

    def test_class_and_colour(self, loans, colour):
        assert colour in names() and len({"red", "blue"} & set(names())) == 1

@pytest.mark.parametrize("number", range(4))
def test_module(catalogue, number):
    assert {"catalogue", "library"} <= set(names()) and "loans" not in names()
    Shelf.objects.all().delete()

def test_colour(colour, catalogue):
    assert colour in names() and len({"red", "blue"} & set(names())) == 1

def test_commits(transactional_db):
    assert names() == []
    shelf("committed")

def test_resets(reset_db):
    assert names() == []
    shelf("committed")

@pytest.fixture(scope="class")
def stock(reset_db_class):
    return shelf("stock")

class TestCommitted:
    @pytest.mark.parametrize("number", range(3))
    def test_committed(self, stock, number):
        assert names() == ["stock"]

def test_plain(db):
    assert "committed" not in names() and "number 1" not in names()
"""


@pytest.mark.parametrize(
    "options",
    [
        ("-p", "no:randomly"),
        *(("-p", "shuffled", "--seed", str(seed)) for seed in range(6)),
        ("-n", "2", "--dist", "load"),
        ("-n", "2", "--dist", "loadscope"),
        ("-n", "2", "--dist", "loadfile"),
        ("-n", "2", "--dist", "worksteal"),
        ("-k", "colour or commits"),
        ("-x",),
    ],
    ids=" ".join,
)
def test_what_tests_see_does_not_depend_on_their_order(run: Runner, options: tuple[str, ...]) -> None:
    """Tests are shuffled after pytest-django has sorted them, as pytest-randomly does."""
    run.project.write("shuffled.py", SHUFFLED)
    run.add_fixtures(LIBRARY)
    for name in ("test_one.py", "test_two.py"):
        run.write(ORDERS, name)
    run(*options, "--testdb-reset-transactional")


AS_WRITTEN = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.location[:2])
"""

SHUFFLED = """
import random, pytest

def pytest_addoption(parser):
    parser.addoption("--seed", type=int)

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    random.Random(config.getoption("--seed")).shuffle(items)
"""


def test_pytest_runs_twice_in_one_process(run: Runner) -> None:
    run.write(MODULE)
    code = "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']) or pytest.main(['-q', '-p', 'no:cacheprovider']))"
    done = run.project.run("-c", code)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 passed") == 2


@pytest.mark.postgresql
def test_a_scope_that_no_test_declares_never_opens_the_real_database(run: Runner, scratch: Any) -> None:
    """pytest-django sets up only the databases that tests ask for, and here none does: the alias leads to the real one."""
    run.use_database(scratch)
    run.project.write("conftest.py", CONFTEST[: CONFTEST.index("@pytest.fixture(autouse=True")])
    run.write(
        """
@pytest.fixture(scope="class")
def asks(request, django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        request.getfixturevalue("db_class")
        return shelf("written")

class TestIt:
    def test_1(self, asks): pass
"""
    )
    done = run(fails=True)
    assert 'The fixture "db_class" was asked for by getfixturevalue(), and no test of this run names it' in done.stdout
    assert scratch.query("SELECT name FROM shop_shelf") == [("precious",)]


@pytest.mark.postgresql
@pytest.mark.parametrize("fixture", ["db_module", "reset_db_module", "reset_db"])
def test_a_pool_that_was_opened_before_leads_to_the_test_database(run: Runner, scratch: Any, fixture: str) -> None:
    """The pool was opened with the name of the real database, which exists here and keeps its rows."""
    run.use_database(scratch, OPTIONS={"pool": True})
    run.project.write("shop/apps.py", POOLED)
    run.write(
        f"""
def test_1({fixture}):
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        assert cursor.fetchone() == ("test_{scratch.name}",)
    shelf("written")

def test_2(db):
    assert "precious" not in names()
"""
    )
    try:
        assert outcomes(run()) == {"passed": 2}
        assert scratch.query("SELECT name FROM shop_shelf") == [("precious",)]
    finally:
        with connect("postgres") as session:
            session.execute(f"DROP DATABASE IF EXISTS test_{scratch.name}")


OVERRIDDEN = """
@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        shelf("of the setup")
    yield
    with django_db_blocker.unblock():
        Shelf.objects.filter(name="of the setup").delete()
"""


@pytest.mark.parametrize("options", [("--reuse-db",), ("--no-migrations",), ("overridden",)], ids=" ".join)
def test_the_ways_to_set_up_databases_that_pytest_django_has(run: Runner, options: tuple[str, ...]) -> None:
    kept = []
    if options == ("overridden",):
        run.add_fixtures(OVERRIDDEN)
        options, kept = (), ["of the setup"]
    run.write(
        f"""
@pytest.fixture(scope="module")
def wide(db_module):
    return shelf("wide")

def test_1(wide):
    assert names() == {kept} + ["wide"]
    shelf("x")

def test_2(wide):
    assert names() == {kept} + ["wide"]

def test_3(db):
    assert "x" not in names()
"""
    )
    for _ in range(2):
        assert outcomes(run(*options)) == {"passed": 3}


FLAKY = """
import pathlib

def test_fails_first(loud):
    marker = pathlib.Path("failed-once")
    assert names() == ["loud"]
    shelf("left")
    if not marker.exists():
        marker.touch()
        raise AssertionError("once")
"""


def test_reruns_and_failed_first_see_what_every_test_sees(run: Runner) -> None:
    """Reruns are pytest-rerunfailures', and the order is pytest's own ``--failed-first``."""
    run.write(
        """
@pytest.fixture(scope="module")
def loud(db_module):
    return shelf("loud")

def test_before(loud):
    assert names() == ["loud"]
"""
        + FLAKY
        + """
def test_after(loud):
    assert names() == ["loud"]
"""
    )
    done = run("--reruns", "1", PYTEST_ADDOPTS="-p no:randomly")
    assert "3 passed, 1 rerun" in done.stdout
    (run.project.directory / "failed-once").unlink()
    cache = ("-p", "cacheprovider", "-o", "cache_dir=kept")
    assert outcomes(run(*cache, fails=True)) == {"passed": 2, "failed": 1}
    assert outcomes(run(*cache, "--ff")) == {"passed": 3}


@pytest.mark.parametrize("seed", [1, 2])
def test_pytest_randomly_changes_nothing(run: Runner, seed: int) -> None:
    run.add_fixtures(LIBRARY)
    for name in ("test_one.py", "test_two.py"):
        run.write(ORDERS, name)
    done = run("--randomly-seed", str(seed), "--testdb-reset-transactional", PYTEST_ADDOPTS="")
    assert f"Using --randomly-seed={seed}" in done.stdout
