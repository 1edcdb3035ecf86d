"""Who left rows, and which resets were slow."""

from __future__ import annotations

import re

import pytest

from tests.guard.conftest import drop_test_databases
from tests.plugin.conftest import Runner, outcomes
from tests.plugin.test_rollback_scopes import AS_WRITTEN

LEAKING = """
def commit(name, **changes):
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("INSERT INTO shop_shelf (name) VALUES (%s)", [name])
    finally:
        other.close()

@pytest.fixture(scope="session", autouse=True)
def cleaner(left_at_the_end, django_db_blocker):
    yield
    with django_db_blocker.unblock():
        Shelf.objects.exclude(name="from a migration").delete()

@pytest.fixture(scope="module")
def wide(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        commit("by a fixture")
    yield
    with django_db_blocker.unblock():
        commit("by its end")

def test_1_clean(db):
    shelf("rolled back")

def test_2_leaks(db):
    commit("left")
    commit("left again")
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")

def test_3_clean(db): pass

def test_4_uses_a_leaking_fixture(wide, db): pass

def test_5_is_flushed(transactional_db):
    shelf("flushed")
"""
QUIET = """
@pytest.fixture(scope="module")
def wide(db_module):
    return shelf("wide")

def test_1(db):
    shelf("x")

def test_2(wide):
    shelf("y")
    with transaction.atomic():
        shelf("z")

def test_3(reset_db):
    shelf("reset")

class TestIt:
    def test_4(self, reset_db_class):
        shelf("reset later")
"""


@pytest.mark.postgresql
@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_the_test_or_the_fixture_that_left_rows_is_named(run: Runner, options: tuple[str, ...]) -> None:
    run.project.write("as_written.py", AS_WRITTEN)
    run.write(LEAKING)
    run.write("def test_6_clean(db): pass\n", "test_later.py")
    done = run("-p", "as_written", "--testdb-leaks=warn", *options)
    told = re.findall(r"LeakWarning: (.*)", done.stdout)
    text = "\n".join(told)
    assert "The test test_it.py::test_2_leaks leaked rows into the database" in text
    assert "public.shop_shelf (2 more), sequences moved: " in text
    assert 'The fixture "wide" (module scope) leaked rows' in text
    assert "public.shop_shelf (1 more)" in text
    if not options:
        assert "The end of a fixture, after the test test_it.py::test_5_is_flushed, leaked rows" in text
        flushed = next(line for line in told if line.startswith("The test test_it.py::test_5_is_flushed"))
        assert "public.shop_shelf (1 missing)" in flushed, "the flush takes the rows of migrations"
        assert len(told) == 4
    assert not re.search(r"test_[136]_clean leaked rows", text)
    assert "testdb_app: leaks: warn" in run("-v", "--testdb-leaks=warn", "-k", "clean").stdout


@pytest.mark.postgresql
def test_a_leak_can_be_a_failure(run: Runner) -> None:
    run.write(LEAKING)
    done = run("--testdb-leaks=fail", "-k", "test_1 or test_2 or test_3", fails=True)
    assert outcomes(done) == {"passed": 3, "error": 1, "deselected": 2}
    assert "LeakError: The test test_it.py::test_2_leaks leaked rows" in done.stdout


@pytest.mark.postgresql
def test_a_filter_of_the_user_decides_what_becomes_of_the_warning(run: Runner) -> None:
    name = "testdb_app.pytest_plugin.LeakWarning"
    run.write(
        f"""
def leave(name):
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("INSERT INTO shop_shelf (name) VALUES (%s)", [name])
    finally:
        other.close()

@pytest.fixture(scope="session", autouse=True)
def cleaner(left_at_the_end, django_db_blocker):
    yield
    with django_db_blocker.unblock():
        Shelf.objects.exclude(name="from a migration").delete()

@pytest.fixture(scope="module")
def wide(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        leave("by a fixture")

@pytest.mark.filterwarnings("ignore::{name}")
def test_1_ignores(db):
    leave("ignored")

@pytest.mark.filterwarnings("error::{name}")
def test_2_fails(db):
    leave("an error")

@pytest.mark.filterwarnings("ignore::{name}")
def test_3_ignores_its_fixture(wide, db): pass

def test_4_is_told(db):
    leave("told")
"""
    )
    done = run("--testdb-leaks=warn", fails=True)
    told = re.findall(r"LeakWarning: (.*)", done.stdout)
    assert [text.split(" leaked rows")[0] for text in told] == ["The test test_it.py::test_4_is_told"]
    assert outcomes(done) == {"passed": 4, "error": 1}
    assert "LeakError: The test test_it.py::test_2_fails leaked rows" in done.stdout
    for options in (("-W", f"ignore::{name}"), ("-o", f"filterwarnings=ignore::{name}")):
        assert "LeakWarning: " not in run("--testdb-leaks=warn", *options, "-k", "test_4").stdout


@pytest.mark.postgresql
def test_only_what_was_written_is_compared_and_each_leak_is_told_once(run: Runner) -> None:
    run.write(
        """
from testdb_app.resetter import Resetter

plans = []

@pytest.fixture(scope="session", autouse=True)
def comparisons_of_all_tables():
    plan = Resetter.plan
    Resetter.plan = lambda self: plans.append(self.using) or plan(self)
    yield
    Resetter.plan = plan

@pytest.fixture(scope="session", autouse=True)
def cleaner(left_at_the_end, django_db_blocker):
    yield
    with django_db_blocker.unblock():
        execute("DELETE FROM shop_shelf WHERE name <> 'from a migration'")

def execute(*statements):
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        other.close()

TAKEN_BACK = ("INSERT INTO shop_shelf (name) VALUES ('a')", "DELETE FROM shop_shelf WHERE name = 'a'")

def test_1_compares_all(db):
    execute(*TAKEN_BACK)

@pytest.mark.parametrize("number", range(8))
def test_2_takes_back(db, number):
    plans.clear() if number == 0 else None
    execute(*TAKEN_BACK)

def test_3_leaks(db):
    # An ANALYZE of the autovacuum writes to a catalog, and has all compared.
    assert len(plans) < 8, "the tables that were not written were compared"
    execute("INSERT INTO shop_shelf (name) VALUES ('left')")

def test_4_takes_back(db):
    execute(*TAKEN_BACK)

def test_5_takes_the_leak_back(db):
    execute("DELETE FROM shop_shelf WHERE name = 'left'")

def test_6_leaks_again(db):
    execute("INSERT INTO shop_shelf (name) VALUES ('left')")

def test_7_truncates(db):
    execute("TRUNCATE shop_shelf CASCADE")
"""
    )
    told = re.findall(r"LeakWarning: (.*?) leaked rows .*?: (public\S* \([^)]*\))", run("--testdb-leaks=warn").stdout)
    assert told == [
        ("The test test_it.py::test_3_leaks", "public.shop_shelf (1 more)"),
        ("The test test_it.py::test_6_leaks_again", "public.shop_shelf (1 more)"),
        ("The test test_it.py::test_7_truncates", "public.shop_shelf (1 missing)"),
    ]


COMMITTED = """
@pytest.fixture(scope="module")
def wide(reset_db_module):
    return shelf("wide")

def test_1(wide): pass

class TestInTheSameScope:
    def test_2(self, wide): pass
"""


def test_nothing_is_told_where_nothing_was_left_or_a_committed_scope_has_yet_to_reset(run: Runner) -> None:
    run.write(QUIET)
    run.write(COMMITTED, "test_committed.py")
    done = run("--testdb-leaks=fail")
    assert outcomes(done) == {"passed": 6}, done.stdout


def test_a_test_case_that_leaves_rows_is_named_too(run: Runner) -> None:
    run.write(
        """
from django.test import TestCase

class TestIt(TestCase):
    def test_1(self):
        other = connection.copy() if connection.vendor == "postgresql" else connection
        with other.cursor() as cursor:
            cursor.execute("CREATE TABLE made (id integer)" if other is not connection else "SELECT 1")
            cursor.execute("INSERT INTO made VALUES (1)" if other is not connection else "SELECT 1")
        if other is not connection:
            other.close()

    def test_2(self):
        pass
"""
    )
    done = run("--testdb-leaks=warn")
    if run.project.is_postgresql:
        assert "The test test_it.py::TestIt::test_1 leaked rows into the database" in done.stdout
        assert "public.made" in done.stdout
    assert "test_2 leaked rows" not in done.stdout


def test_an_ini_value_that_cannot_be_meant_is_refused(run: Runner) -> None:
    run.project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\ntestdb_leaks = perhaps\n")
    done = run.project.pytest("-q")
    assert done.returncode == 4
    assert "testdb_leaks must be one of warn, fail, not 'perhaps'" in done.stdout + done.stderr
    done = run.project.pytest("-q", "-o", "testdb_leaks=", "--testdb-durations=-1")
    assert done.returncode == 4
    assert "--testdb-durations must be 0 (all) or more" in done.stdout + done.stderr


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_the_slowest_resets_are_shown_with_what_they_reset(run: Runner, options: tuple[str, ...]) -> None:
    run.write(QUIET + "def test_9_nothing(reset_db):\n    pass\n")
    done = run("--testdb-durations=3", *options)
    shown = re.search(r"slowest 3 of (\d+) resets =+\n(.*\n)(.*\n)(.*\n)", done.stdout)
    assert shown, done.stdout
    times = [float(line.split()[0]) for line in shown.groups()[1:]]
    assert times == sorted(times, reverse=True)
    every = run("--testdb-durations=0", *options).stdout
    assert re.search(r" ms  teardown of test_it.py::test_3: default, 1 tables \(shop_shelf 1\)", every)
    assert re.search(r" ms  teardown of test_it.py::test_9_nothing: default, (nothing was written|0 tables)", every)
    assert re.search(r" ms  teardown of test_it.py::TestIt::test_4: default, 1 tables", every)
    scans = [line for line in every.splitlines() if line.endswith(", full scan")]
    workers = 2 if options else 1
    assert len([line for line in scans if "  setup of " in line]) == workers, "the first of each process"
    if run.project.is_postgresql:
        # A session of another process that is active, such as an autovacuum, may cost another reset one.
        assert len(scans) < len(re.findall(r" ms  (?:setup|teardown) of ", every))


def test_the_first_reset_after_the_set_up_of_a_kept_database_takes_no_full_scan(run: Runner) -> None:
    run.write(QUIET)
    late: list[str] = []
    for _ in range(3):
        lines = run("--testdb-durations=0", "--reuse-db").stdout.splitlines()
        resets = [line for line in lines if re.search(r" ms  (setup|teardown) of ", line)]
        assert len(resets) >= 3
        late = [line for line in resets if line.endswith(", full scan") and "  setup of " not in line]
        # On SQLite more resets have to look at every table.
        if not late or not run.project.is_postgresql:
            return
        # An autovacuum may cost a reset one. The next run begins with no database.
        (name,) = set(re.findall(r"suite_[0-9a-f]{10}", (run.project.directory / "settings.py").read_text()))
        drop_test_databases(name)
    pytest.fail("\n".join(late))


SCHEMA_CHANGES = """
def alter(*statements):
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        other.close()

FUNCTION = "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"

@pytest.fixture(scope="module")
def wide(django_db_setup, django_db_blocker):  # the line of the fixture
    with django_db_blocker.unblock():
        alter("CREATE VIEW seen AS SELECT 1 AS number")

def test_1_leaves_a_table(db):
    alter("CREATE TABLE made (id serial PRIMARY KEY)")

def test_2_is_clean(db):
    shelf("rolled back")

def test_3_leaves_a_trigger(reset_db):
    alter(FUNCTION, "CREATE TRIGGER noted AFTER INSERT ON shop_shelf FOR EACH ROW EXECUTE FUNCTION noted()")

def test_4_takes_both_away(reset_db):
    alter("DROP TABLE made", "DROP FUNCTION noted CASCADE")

def test_5_uses_a_fixture(wide, db): pass

def test_6_is_reset(reset_db):
    shelf("reset")

def test_7_is_clean(reset_db): pass
"""


@pytest.mark.postgresql
def test_what_a_test_left_or_took_away_of_the_schema_is_named(run: Runner) -> None:
    run.write(SCHEMA_CHANGES)
    done = run("--testdb-leaks=warn", "-p", "no:randomly")
    told = re.findall(r"(\S+): LeakWarning: (.*)", done.stdout)
    texts = [text for _, text in told]
    assert any(
        text.startswith("The test test_it.py::test_1_leaves_a_table leaked rows into the database")
        and "left table public.made, sequence public.made_id_seq" in text
        and "cannot be compared until a reset" in text
        for text in texts
    )
    assert any("test_3_leaves_a_trigger" in text and "trigger noted on public.shop_shelf" in text for text in texts)
    assert any(
        "test_4_takes" in text and "took away table public.made, function public.noted()" in text for text in texts
    )
    (place,) = [place for place, text in told if 'fixture "wide"' in text and "left view public.seen" in text]
    lines = (run.project.directory / "test_it.py").read_text().splitlines()
    assert "def wide(" in "".join(lines[int(place.split(":")[1]) - 1 :][:2])
    assert not any(name in text for text in texts for name in ("test_2_is", "test_6_is", "test_7_is"))
