"""Scopes that commit: what is written is seen by everybody, until the scope ends and the database is reset to its baseline."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Played, Runner, SharedRun, outcomes
from tests.plugin.test_rollback_scopes import AS_WRITTEN

pytestmark = pytest.mark.postgresql

SHARED = SharedRun()
"""What needs no option, and no run of its own."""


for scope in ("class", "module"):
    SHARED.add(
        f"committed in a {scope}",
        f"""
import threading

@pytest.fixture(scope="{scope}")
def wide(reset_db_{scope}):
    return shelf("wide")

class TestOne:
    def test_1(self, wide):
        assert names() == committed() == ["wide"]
        shelf("of a test")
        Shelf.objects.filter(name="from a migration").update(name="changed")

    def test_2(self, wide):
        assert committed() == ["changed", "of a test", "wide"]
        seen = []
        def look():
            seen.extend(names())
            connection.close()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert seen == ["changed", "of a test", "wide"]

    @pytest.mark.django_db
    def test_3_is_rolled_back_by_itself(self, wide):
        shelf("not committed")
        assert "not committed" not in committed()

class TestTwo:
    def test_4(self, wide):
        assert committed() == {"['wide']" if scope == "class" else "['changed', 'of a test', 'wide']"}
""",
        "def test_5(db):\n    assert names() == []\n    assert Shelf.objects.get().name == 'from a migration'",
    )


@pytest.mark.parametrize("scope", ["class", "module"])
def test_what_is_committed_lives_as_long_as_the_scope(played: dict[str, Played], scope: str) -> None:
    assert played[f"committed in a {scope}"].outcomes == {"passed": 5}


SHARED.add(
    "a live server",
    """
import urllib.request

@pytest.fixture(scope="module")
def wide(reset_db_module):
    return Item.objects.create(shelf=shelf("wide"))

def test_1(wide, live_server):
    assert urllib.request.urlopen(live_server.url, timeout=20).read() == b"2"

def test_2(wide, live_server):
    assert urllib.request.urlopen(live_server.url, timeout=20).read() == b"3"
""",
)


def test_a_live_server_serves_the_rows_of_the_scope(played: dict[str, Played]) -> None:
    assert played["a live server"].outcomes == {"passed": 2}


SHARED.add(
    "a class inside a module",
    """
made = []

@pytest.fixture(scope="module")
def wide(reset_db_module):
    made.append(1)
    return shelf("wide")

@pytest.fixture(scope="class")
def narrow(reset_db_class, wide):
    return shelf("narrow")

class TestOne:
    def test_1(self, narrow):
        assert committed() == ["narrow", "wide"]

class TestTwo:
    def test_2(self, wide):
        assert committed() == ["wide"]

    def test_3(self, narrow):
        assert committed() == ["narrow", "wide"]
""",
)


def test_a_class_inside_a_module_takes_all_rows_along_and_they_are_made_again(played: dict[str, Played]) -> None:
    assert played["a class inside a module"].outcomes == {"passed": 3}


SHARED.add(
    "parametrised fixtures",
    """
@pytest.fixture(scope="module")
def other(reset_db_module):
    return shelf("other")

@pytest.fixture(scope="module", params=["p1", "p2", "p3"])
def one_of(reset_db_module, request):
    shelf(request.param)
    return request.param

def test_1(other, one_of):
    assert committed() == sorted(["other", one_of])

def test_2(one_of, other):
    assert committed() == sorted(["other", one_of])

def test_3(one_of):
    assert one_of in committed() and len(committed()) <= 2
""",
)


def test_parametrised_fixtures_do_not_see_each_others_rows(played: dict[str, Played]) -> None:
    assert played["parametrised fixtures"].outcomes == {"passed": 9}


SHARED.add(
    "fails half-way",
    """
@pytest.fixture(scope="module")
def good(reset_db_module):
    return shelf("good")

@pytest.fixture(scope="module")
def bad(good):
    shelf("half")
    raise RuntimeError("half-way")

def test_1(good): pass
def test_2(bad): pass
def test_3(good):
    assert committed() == ["good"]
def test_4(bad): pass
def test_5(good):
    assert committed() == ["good"]
""",
)


def test_a_fixture_that_fails_half_way_leaves_nothing(played: dict[str, Played]) -> None:
    assert played["fails half-way"].outcomes == {"passed": 3, "error": 2}


SHARED.add(
    "rollback scopes inside",
    """
@pytest.fixture(scope="module")
def wide(reset_db_module):
    return shelf("wide")

@pytest.fixture(scope="class")
def narrow(db_class, wide):
    return shelf("narrow")

class TestOne:
    def test_1(self, narrow):
        assert names() == ["narrow", "wide"] and committed() == ["wide"]

def test_2(wide):
    assert committed() == ["wide"]
""",
)


def test_rollback_scopes_may_be_inside(played: dict[str, Played]) -> None:
    assert played["rollback scopes inside"].outcomes == {"passed": 2}


@pytest.mark.parametrize("kind", ["transactional_db", "reset_db", "db_module"])
@pytest.mark.parametrize("resets", [(), ("--testdb-reset-transactional",)], ids=["flush", "reset"])
def test_a_test_that_is_not_of_the_scope_ends_it_and_it_is_made_again(
    run: Runner, kind: str, resets: tuple[str, ...]
) -> None:
    run.project.write("as_written.py", AS_WRITTEN)
    run.write(
        f"""
made = []

@pytest.fixture(scope="module")
def wide(reset_db_module):
    made.append(1)
    return shelf("wide")

def test_1(wide):
    shelf("more")

def test_2({kind}):
    assert names() == {"['more', 'wide']" if kind == "db_module" else "[]"}
    shelf("of a test")

def test_3(wide):
    assert committed() == {"['more', 'wide']" if kind == "db_module" else "['wide']"}
"""
    )
    assert outcomes(run("-p", "as_written", *resets)) == {"passed": 3}


SHARED.add(
    "several databases",
    """
pytestmark = pytest.mark.testdb(databases="__all__")

@pytest.fixture(scope="class")
def both(reset_db_class):
    shelf("here"), shelf("there", "other")

class TestOne:
    def test_1(self, both):
        assert (committed(), committed("other")) == (["here"], ["there"])

class TestTwo:
    def test_2(self, db):
        assert (names(), names("other")) == ([], [])
""",
)


def test_several_databases_are_reset(played: dict[str, Played]) -> None:
    assert played["several databases"].outcomes == {"passed": 2}
