"""What the guard is told by hooks, and what it does not believe: every way to a name that no hook saw, and the set-ups that go on.

The fixture ``project`` checks at the end of every test that the real database has kept its rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import connections
from psycopg import sql

from testdb_app import guard
from testdb_app.backends import get_backend
from testdb_app.baseline import capture_baseline
from testdb_app.exceptions import UnsafeDatabaseError
from testdb_app.resetter import Resetter
from tests.guard.projects import Project, Run, database_settings
from tests.scratch import ScratchDatabase, connect_as_superuser

Make = Callable[..., ScratchDatabase]

TESTS = """
from django.test import TransactionTestCase
from shop.attempts import attempt, record

class Reset(TransactionTestCase):
    def _fixture_teardown(self):
        "Django's own flush asks nobody."

    def test_reset(self):
        record(attempt("default"))
"""
PYTEST = """
from shop.attempts import reset_and_record

def test_reset(transactional_db, reset_db):
    reset_and_record()
"""
SHELVES = "CREATE TABLE shop_shelf (id bigserial PRIMARY KEY, name varchar(20)); INSERT INTO shop_shelf (name) VALUES ('mine')"
REFUSED = [{"rule": "refused: unknown", "rows": 0}]


def set_databases(project: Project, **databases: dict[str, Any]) -> None:
    project.write("databases.json", json.dumps(databases))


def use_pytest(project: Project, test: str = PYTEST, conftest: str = "") -> None:
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\naddopts = -p no:cacheprovider\n")
    project.write("test_shop.py", test)
    project.write("conftest.py", conftest)


@pytest.fixture
def other(scratch: ScratchDatabase, make_scratch: Make) -> Iterator[ScratchDatabase]:
    """Another database with rows, which no settings of the project name as an alias's own."""
    made = make_scratch("other")
    made.execute(SHELVES)
    yield made
    assert made.query("SELECT name FROM shop_shelf") == [("mine",)]


def rename(database: ScratchDatabase, name: str) -> None:
    database.connection.close()
    with connect_as_superuser("postgres") as connection:
        old, new = sql.Identifier(database.name), sql.Identifier(name)
        connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(old, new))
    database.name = database.connection.settings_dict["NAME"] = name


# Names that no hook saw


ELSEWHERE = {
    "the name in the settings of the connection": 'connection.settings_dict["NAME"] = NAME',
    "the name in Django's settings": 'settings.DATABASES["default"]["NAME"] = NAME',
    "the test name, too": 'connection.settings_dict["NAME"] = connection.settings_dict["TEST"]["NAME"] = NAME',
    "another dict of settings": 'connection.settings_dict = {**connection.settings_dict, "NAME": NAME}',
    "a mirror that nobody set up": """
connections.databases["late"] = {**connections.databases["default"], "NAME": NAME, "TEST": {"MIRROR": "default"}}
connection = connections["late"]; alias = "late\"""",
    "an alias that came later": """
connections.databases["late"] = {**connections.databases["default"], "NAME": NAME}; connection = connections["late"]; alias = "late\"""",
    "the names of clones that Django would make": """
connection.settings_dict["NAME"] = NAME.removesuffix("_1"); connection.creation.setup_worker_connection(1)""",
}


def test_a_name_that_came_into_the_settings_in_another_way_is_refused(
    project: Project, scratch: ScratchDatabase, other: ScratchDatabase
) -> None:
    # The name is the one that a runner would give.
    rename(other, f"test_{scratch.name}_1")
    project.write(
        "run.py",
        f"""
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.conf import settings
from django.db import connections
from django.test.utils import setup_databases, teardown_databases
from shop.attempts import attempt, record

made = setup_databases(verbosity=0, interactive=False)
record(attempt("default"))
for how in {list(ELSEWHERE.values())!r}:
    found = {{"connection": connections["default"], "alias": "default", "NAME": {other.name!r},
        "connections": connections, "settings": settings}}
    found["connection"].close()
    given, test = connections["default"].settings_dict, dict(connections["default"].settings_dict["TEST"])
    exec(how, found)
    record(attempt(found["alias"]) | {{"live": connections[found["alias"]].settings_dict["NAME"]}})
    connections[found["alias"]].close()
    connections["default"].settings_dict = given
    given.update(NAME="test_{scratch.name}", TEST=test)
    if "late" in connections:
        del connections["late"], connections.databases["late"]
record(attempt("default"))
teardown_databases(made, verbosity=0)
""",
    )
    run = project.run("run.py").must_pass()
    name = other.name
    rename(other, "other_" + other.name)  # the fixture of the project drops what a runner may have left
    assert [found["rule"] for found in run.found] == [
        "test-runner",
        *(["refused: unknown"] * len(ELSEWHERE)),
        "test-runner",
    ]
    assert {found["live"] for found in run.found if "live" in found} == {name}


def test_a_fixture_of_the_projects_own_that_chooses_the_database_is_refused_until_it_says_so(
    project: Project, make_scratch: Make
) -> None:
    chosen = make_scratch("chosen", template=database_settings("scratch")["NAME"])
    fixture = f"""
import pytest
@pytest.fixture(scope="session")
def django_db_setup(django_test_environment):
    from django.db import connection
    connection.settings_dict["NAME"] = {chosen.name!r}
    # here
"""
    use_pytest(project, conftest=fixture)
    before = chosen.query("SELECT * FROM shop_shelf")
    run = project.pytest()
    line = f'testdb_app.guard.trust_test_database("default", "{chosen.name}")'
    assert run.returncode == 1
    assert f"call {line} there" in run.stdout
    assert chosen.query("SELECT * FROM shop_shelf") == before
    use_pytest(project, conftest=fixture.replace("# here", f"import testdb_app.guard; {line}"))
    (found,) = project.pytest().must_pass().found
    assert (found["rule"], found["database"]) == ("allowed", chosen.name)


# Databases that an alias has configured as its own


@pytest.mark.parametrize("tool", ["django", "pytest"])
def test_the_test_name_of_one_alias_that_is_the_database_of_another_is_refused_before_anything_is_written(
    project: Project, scratch: ScratchDatabase, other: ScratchDatabase, tool: str
) -> None:
    # Under another name of the server: a name of a host proves nothing.
    mine = database_settings("scratch", TEST={"NAME": other.name})
    theirs = database_settings("other", OPTIONS={"dbname": other.name}, NAME="") | {"PORT": "1"}
    for set_up in (theirs, {**theirs, "NAME": other.name, "OPTIONS": {}}):
        set_databases(project, default=mine, theirs=set_up)
        project.add_settings('SILENCED_SYSTEM_CHECKS = ["testdb_app.E002"]\n')
        if tool == "django":
            project.write("shop/tests.py", TESTS)
            run = project.manage("test", "--noinput", "--testrunner", "testdb_app.runner.ResetDiscoverRunner")
        else:
            use_pytest(project, PYTEST + "\ndef test_rows(db):\n    pass\n")
            run = project.pytest("--create-db")
            assert "1 error in" in run.stdout  # not one for each test
            assert "stopping: the test databases cannot be set up" in run.stdout
        assert run.returncode != 0
        assert (
            'The test runner uses it, but alias "theirs" has it configured as its own. Set DATABASES["default"]["TEST"]["NAME"] '
            "to another name." in run.stdout + run.stderr
        )
        assert other.query("SELECT relname FROM pg_class WHERE relname IN ('shop_item', 'django_migrations')") == []
        assert other.query("SELECT nspname FROM pg_namespace WHERE nspname = 'testdb'") == []


@pytest.fixture
def preset(project: Project, make_scratch: Make) -> Iterator[ScratchDatabase]:
    """A database that a project may empty, as a CI provider makes one, and a role that may not make another."""
    database = make_scratch("preset")
    role = f"ci_{database.name}"
    with database.superuser() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        names = sql.Identifier(database.name), sql.Identifier(role)
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(*names))
        connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(names[1]))
    set_databases(project, default=database_settings("preset", USER=role, PASSWORD="", TEST={"NAME": database.name}))
    yield database
    with database.superuser() as connection:
        owner = connection.info.user
        for text in (
            "ALTER DATABASE {1} OWNER TO {2}",
            "REASSIGN OWNED BY {0} TO {2}",
            "DROP OWNED BY {0}",
            "DROP ROLE {0}",
        ):
            connection.execute(sql.SQL(text).format(*map(sql.Identifier, (role, database.name, owner))))


def run_preset(project: Project, tool: str) -> Run:
    if tool == "pytest":
        use_pytest(project)
        return project.pytest("--reuse-db")
    project.write(
        "shop/tests.py",
        PYTEST.replace(
            "def test_reset(transactional_db, reset_db)",
            """
from django.test import TransactionTestCase
class Reset(TransactionTestCase):
  def test_reset(self)""",
        ).replace("    reset_and", "      reset_and"),
    )
    return project.manage("test", "--noinput", "--keepdb", "--testrunner", "testdb_app.runner.ResetDiscoverRunner")


@pytest.mark.parametrize("tool", ["django", "pytest"])
def test_a_preset_database_needs_the_line_that_is_printed(project: Project, preset: ScratchDatabase, tool: str) -> None:
    line = f'TESTDB = {{"ALLOWED_DATABASES": ["{preset.name}"]}}'
    run = run_preset(project, tool)
    assert run.returncode != 0
    assert (
        f"add this line to the settings: {line}, or mark it once with resetdb --mark-test." in run.stdout + run.stderr
    )
    project.add_settings(f"{line}\n")
    (found,) = run_preset(project, tool).must_pass().found
    assert (found["rule"], found["database"], found["after"]) == ("allowed", preset.name, 0)


@pytest.mark.parametrize("tool", ["django", "pytest"])
def test_a_preset_database_may_be_marked(project: Project, preset: ScratchDatabase, tool: str) -> None:
    project.manage("resetdb", "--mark-test", "--no-input").must_pass()
    project.add_settings('SILENCED_SYSTEM_CHECKS = ["testdb_app.E002"]\n')
    for _ in range(2):
        (found,) = run_preset(project, tool).must_pass().found
        assert (found["rule"], found["database"], found["after"]) == ("marked-as-test", preset.name, 0)


# Kept databases


WARNING = "existed before this run, and has no valid test mark of testdb_app"


def warnings_of(run: Run) -> int:
    """Count the warnings in pytest's summary and the log."""
    return (run.stdout + run.stderr).count(WARNING)


def test_a_kept_database_without_a_mark_is_taken_with_one_warning_and_marked(
    project: Project, scratch: ScratchDatabase
) -> None:
    use_pytest(project, PYTEST + "\n\ndef test_again(transactional_db, reset_db):\n    reset_and_record()\n")

    def run(*options: str) -> int:
        done = project.run("-W", "default", "-m", "pytest", "-W", "default", *options).must_pass()
        assert {found["rule"] for found in done.found} == {"test-runner"}
        return warnings_of(done)

    assert run("--reuse-db") == 0, "it was made in this run"
    assert run("--reuse-db") == 0, "it is marked"
    kept = f"test_{scratch.name}"
    with connect_as_superuser(kept) as connection:
        connection.execute("DROP TABLE testdb.test")
    assert run("--reuse-db") == 1
    assert run("--reuse-db") == 0, "it was marked by the run before"
    with connect_as_superuser(kept) as connection:
        connection.execute(sql.SQL("COMMENT ON TABLE testdb.test IS {}").format(sql.Literal(kept)))
    assert run("--reuse-db") == 1, "a mark of an older format"
    assert run("--reuse-db", "--create-db") == 0
    assert run("--reuse-db") == 0


def test_the_warning_is_no_error_where_warnings_are(project: Project) -> None:
    use_pytest(project)
    project.pytest("--reuse-db", "-W", "error").must_pass()
    drop_mark = "from django.db import connection; connection.cursor().execute('DROP TABLE testdb.test')"
    set_databases(
        project,
        default={
            **(databases := json.loads((project.directory / "databases.json").read_text()))["default"],
            "NAME": "test_" + databases["default"]["NAME"],
        },
    )
    project.manage("shell", "-c", drop_mark).must_pass()
    set_databases(project, **databases)
    project.pytest("--reuse-db", "-W", "error").must_pass()


def test_a_kept_database_that_may_be_that_of_a_service_file_is_refused(
    project: Project, scratch: ScratchDatabase, other: ScratchDatabase
) -> None:
    settings = database_settings("scratch", TEST={"NAME": other.name})
    service = "".join(
        f"{key.lower()}={settings[key]}\n" for key in ("HOST", "PORT", "USER", "PASSWORD") if settings.get(key)
    )
    project.write("service.conf", f"[shop]\ndbname={other.name}\n{service}")
    set_databases(
        project, default=settings, service={"ENGINE": settings["ENGINE"], "NAME": "", "OPTIONS": {"service": "shop"}}
    )
    project.environment["PGSERVICEFILE"] = str(project.directory / "service.conf")
    project.add_settings("MIGRATION_MODULES = {'shop': None}\n")
    other.execute("CREATE TABLE shop_item (id bigserial PRIMARY KEY, shelf_id bigint)")
    project.write("shop/tests.py", TESTS)
    assert project.manage("test", "--noinput", "--keepdb").must_pass().found == REFUSED
    # One that the run made is nobody's.
    set_databases(
        project,
        default=database_settings("scratch"),
        service={
            "ENGINE": settings["ENGINE"],
            "NAME": "",
            "OPTIONS": {"service": "shop"},
            "TEST": {"MIRROR": "default"},
        },
    )
    assert [found["rule"] for found in project.manage("test", "--noinput").must_pass().found] == ["test-runner"]


# What comes under the name of a test database afterwards


@pytest.fixture
def told(make_scratch: Make, monkeypatch: pytest.MonkeyPatch) -> ScratchDatabase:
    """A database of which a hook has told that it was made for tests."""
    database = make_scratch("scratch")
    database.execute(SHELVES)
    monkeypatch.setitem(guard._made, ("scratch", database.name), guard.MadeDatabase())
    return database


def swap(first: ScratchDatabase, second: ScratchDatabase) -> None:
    """Have each of two databases bear the name of the other, as a proxy does that leads elsewhere."""
    names = first.name, second.name
    rename(first, f"{names[0]}_gone")
    rename(second, names[0])
    rename(first, names[1])
    first.connection.settings_dict["NAME"] = names[0]


def test_a_database_that_comes_under_the_name_of_a_test_one_is_refused(
    told: ScratchDatabase, make_scratch: Make
) -> None:
    assert Resetter("scratch").reset().permitted_by == "test-runner"
    other = make_scratch("other")
    other.execute(SHELVES)
    swap(told, other)
    with pytest.raises(
        UnsafeDatabaseError, match="has the same name, but is another one, or on another server"
    ) as caught:
        Resetter("scratch").reset()
    assert caught.value.rule == "unknown"
    assert other.count("shop_shelf") == 1


def test_a_mirror_is_trusted_only_where_it_leads_to_what_it_mirrors(
    told: ScratchDatabase, make_scratch: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(guard._mirrored, "replica", "scratch")
    told.register("replica")
    assert Resetter("replica").reset().permitted_by == "test-runner"
    connections["replica"].close()
    other = make_scratch("other")
    other.execute(SHELVES)
    swap(told, other)
    with pytest.raises(UnsafeDatabaseError, match="is another one, or on another server"):
        Resetter("replica").reset()
    assert other.count("shop_shelf") == 1


def test_a_mirror_of_a_database_that_nobody_looked_at_is_compared_with_it_first(
    told: ScratchDatabase, make_scratch: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(guard._mirrored, "replica", "scratch")
    told.register("replica")
    other = make_scratch("other")
    other.execute(SHELVES)
    # Only the mirror is led elsewhere.
    swap(told, other)
    told.connection.settings_dict["NAME"] = told.name
    with pytest.raises(UnsafeDatabaseError) as caught:
        Resetter("replica").reset()
    assert (caught.value.rule, other.count("shop_shelf")) == ("unknown", 1)


def test_a_database_that_was_dropped_after_the_tests_is_forgotten(project: Project, scratch: ScratchDatabase) -> None:
    project.write(
        "run.py",
        """
import django, os
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()
from django.db import connection
from testdb_app import guard
name = connection.settings_dict["NAME"]
made = connection.creation.create_test_db(verbosity=0)
assert guard.is_set_up("default")
connection.creation.clone_test_db("7", verbosity=0)
connection.creation.destroy_test_db(verbosity=0, suffix="7")
connection.creation.destroy_test_db(name, verbosity=0)
assert not guard.is_set_up("default")
assert connection.settings_dict["NAME"] == name
""",
    )
    project.run("-W", "ignore", "run.py").must_pass()


def test_a_vendors_own_way_to_make_a_database_is_heard_of(project: Project, scratch: ScratchDatabase) -> None:
    project.write("engine/__init__.py", "")
    project.write(
        "engine/base.py",
        """
from django.db.backends.postgresql import base, creation

class DatabaseCreation(creation.DatabaseCreation):
    def create_test_db(self, *args, **kwargs):
        self.connection.settings_dict["TEST"]["NAME"] = self._get_test_db_name() + "_own"
        return super().create_test_db(*args, **kwargs)

class DatabaseWrapper(base.DatabaseWrapper):
    creation_class = DatabaseCreation
""",
    )
    set_databases(project, default=database_settings("scratch", ENGINE="engine"))
    project.write("shop/tests.py", TESTS)
    (found,) = project.manage("test", "--noinput").must_pass().found
    assert (found["rule"], found["database"]) == ("test-runner", f"test_{scratch.name}_own")


def test_the_hooks_leave_other_connections_alone(scratch: ScratchDatabase) -> None:
    connection = connections["scratch"].copy()
    before = dict(guard._made)
    connection.creation.set_as_test_mirror({"NAME": "anything"})
    assert connection.settings_dict["NAME"] == "anything"
    assert (guard._made, "scratch" in guard._mirrored) == (before, False)
    assert get_backend(connections["scratch"]).identify(connections["scratch"]).name == scratch.name


# What comes later, or from before


LATE = """
from django.db import connections
from shop.attempts import attempt, record
default = connections.settings["default"]
connections.settings["late"] = {**default, "NAME": "%s", "TEST": {**default["TEST"], "NAME": "%s"}}
connections["late"].creation.create_test_db(verbosity=0, keepdb=True)
record(attempt("late"))
"""


def test_an_alias_that_comes_after_the_start_has_a_database_of_its_own(
    project: Project, other: ScratchDatabase
) -> None:
    other.execute("CREATE TABLE shop_item (id bigserial PRIMARY KEY, shelf_id bigint)")
    assert project.manage("shell", "-v0", "-c", LATE % (other.name, other.name)).must_pass().found == REFUSED


def test_the_baseline_of_a_database_that_may_be_that_of_a_service_file_is_not_gone_back_to(
    project: Project, scratch: ScratchDatabase, other: ScratchDatabase
) -> None:
    capture_baseline("other", allow_database=other.name)
    other.execute("INSERT INTO shop_shelf (name) VALUES ('new')")
    settings = database_settings("scratch", TEST={"NAME": other.name})
    service = {"ENGINE": settings["ENGINE"], "NAME": "", "OPTIONS": {"service": "shop"}}
    set_databases(project, default=settings, service=service)
    project.write("shop/tests.py", TESTS)
    run = project.manage("test", "--noinput", "--keepdb", "--testrunner", "testdb_app.runner.ResetDiscoverRunner")
    assert run.returncode != 0
    assert 'It may be the database of alias "service", whose settings name no database' in run.stderr
    assert other.query("SELECT name FROM shop_shelf") == [("mine",), ("new",)]
    other.execute("DELETE FROM shop_shelf WHERE name = 'new'")


@pytest.mark.parametrize("hidden", ["what was told of", "what is there now"])
def test_a_new_server_that_hides_its_identifier_is_told_by_its_start(told: ScratchDatabase, hidden: str) -> None:
    first = get_backend(connections["scratch"]).identify(connections["scratch"])
    shown = replace(first, system_identifier="") if hidden == "what was told of" else first
    assert guard.find_made(shown) is not None
    here = first if hidden == "what was told of" else replace(first, system_identifier="")
    assert guard.find_made(here) is not None
    assert guard.find_made(replace(here, server_started="another")) is None


def test_a_configured_name_that_the_server_cuts_is_the_name_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_configured_names", {"long": guard.ConfiguredDatabase(name="é" * 40)})
    assert (guard.find_configured("é" * 31), guard.find_configured("é" * 30)) == ("long", None)
