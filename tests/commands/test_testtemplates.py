"""``manage.py testtemplates``: as a role of its own for each test, and in a project of two migrations."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from psycopg import sql

from testdb_app.creation.inventory import find_aliases
from testdb_app.creation.postgresql_store import PostgreSQLStore
from testdb_app.showdeps.picture import cells
from tests.commands.resetdb.running import Outcome as CommandOutcome
from tests.guard.projects import INITIAL, Project, database_settings, make_project
from tests.scratch import connect, connect_as_superuser, default_parameters

pytestmark = pytest.mark.postgresql
_numbers = itertools.count(1)

ROWS = """
from django.db import migrations
from shop.prices import PRICE

def fill(apps, editor):
    apps.get_model("shop.Shelf").objects.using(editor.connection.alias).create(name=PRICE)

class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunPython(fill)]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(CommandOutcome):
    """How a run of the command ended."""

    def must_pass(self) -> Outcome:
        assert self.status == 0, self.error
        return self

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run_command(*arguments: str, answer: str = "", stdout: io.StringIO | None = None, **options: Any) -> Outcome:
    """Run the command in this process; *answer* is what stands on its standard input."""
    out, err, status, error = stdout or io.StringIO(), io.StringIO(), 0, ""
    with patch.object(sys, "stdin", io.StringIO(answer)):
        try:
            call_command("testtemplates", *arguments, stdout=out, stderr=err, **options)
        except CommandError as caught:
            status, error = caught.returncode, str(caught)
    return Outcome(stdout=out.getvalue(), stderr=err.getvalue(), status=status, error=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A role that owns what a test makes, and the alias that connects as it."""

    name: str
    alias: str

    def run(self, *arguments: str, **options: Any) -> Outcome:
        """Run the command for the alias."""
        return run_command(*arguments, "--database", self.alias, **options)

    def build(self) -> Outcome:
        return self.run("--build").must_pass()

    def databases(self) -> set[str]:
        """Return the names of all that the role owns."""
        query = "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = %s"
        with connect_as_superuser("postgres") as connection:
            return {name for (name,) in connection.execute(query, [self.name]).fetchall()}

    def execute(self, *statements: str) -> None:
        """Run statements as the role, outside of a transaction."""
        with connect("postgres", user=self.name) as connection:
            for statement in statements:
                connection.execute(statement)

    def listed(self) -> list[dict[str, Any]]:
        """Return the templates, as the list has them as JSON."""
        return list(self.run("--format", "json").must_pass().json["templates"])


@contextmanager
def made_owner(alias: str = "templated", rights: str = "CREATEDB", **changes: Any) -> Iterator[Owner]:
    owner = Owner(name=f"owner_{os.getpid()}_{next(_numbers)}", alias=alias)
    role = sql.Identifier(owner.name)
    with connect_as_superuser("postgres") as connection:
        password = sql.Literal(default_parameters().get("password", ""))
        made = sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}").format(role, sql.SQL(rights), password)
        connection.execute(made)
    register(alias, USER=owner.name, **changes)
    try:
        yield owner
    finally:
        forget(alias)
        with connect_as_superuser("postgres") as connection:
            for name in owner.databases():
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            connection.execute(sql.SQL("DROP ROLE {}").format(role))


def register(alias: str, **changes: Any) -> None:
    """Make an alias known to Django, with the default alias's other settings."""
    connections["default"].ensure_connection()
    configuration = {**connections.settings["default"], "NAME": f"app_{os.getpid()}", "OPTIONS": {}, **changes}
    configuration["TEST"] = {**connections.settings["default"]["TEST"], "NAME": None, **changes.get("TEST", {})}
    connections.settings[alias] = configuration


def forget(alias: str) -> None:
    connections[alias].close()
    del connections[alias]
    del connections.settings[alias]


@pytest.fixture
def owner(django_db_blocker: Any) -> Iterator[Owner]:
    with django_db_blocker.unblock(), made_owner() as made:
        yield made


@pytest.fixture
def project(owner: Owner, tmp_path: Path) -> Project:
    """A project of two migrations, whose databases belong to the owner."""
    made = make_project(tmp_path, {"default": database_settings(owner.alias, USER=owner.name)})
    made.write("shop/migrations/__init__.py", "")
    made.write("shop/migrations/0001_initial.py", INITIAL)
    made.write("shop/migrations/0002_rows.py", ROWS)
    made.write("shop/prices.py", 'PRICE = "3.00"\n')
    made.add_settings('TESTDB = {"TEMPLATES": True}\nTEST_RUNNER = "testdb_app.runner.ResetDiscoverRunner"\n')
    made.write("shop/tests.py", "from django.test import TestCase\n\nclass T(TestCase):\n    def test_it(self): pass\n")
    return made


# The list -------------------------------------------------------------------------------------------------------------


def test_without_templates_the_list_says_what_the_next_run_does(owner: Owner) -> None:
    lines = owner.run().must_pass().stdout.splitlines()
    assert '"templated": the next run builds its template (there is none yet)' in lines
    assert "settings testproject.settings" in lines[0]


def test_a_built_template_is_listed_with_its_age_size_and_use(owner: Owner) -> None:
    shown = owner.build().stdout
    (key,) = re.findall(r'^"templated": template (\w{8}), built now$', shown, re.MULTILINE)
    shown = owner.run().must_pass().stdout
    assert f'"templated": the next run uses template {key}' in shown
    assert re.search(rf"^  {key}  templated  \d+ s ago  [\d.]+ s +\d+ MB  never  0.0 s$", shown, re.MULTILINE)
    with PostgreSQLStore(connections["templated"]) as store:
        (template,) = store.list_templates()
        store.touch(replace(template, uses=3, seconds=30.0))
    assert re.search(r"  3 times, \d+ s ago  1 min 30 s$", owner.run().must_pass().stdout, re.MULTILINE)


def test_the_json_of_the_list_has_the_documented_keys(owner: Owner) -> None:
    owner.build()
    document = owner.run("--format", "json").must_pass().json
    assert list(document) == ["schema_version", "project", "settings", "aliases", "templates", "others"]
    (alias,), (template,) = document["aliases"], document["templates"]
    assert alias["alias"] == "templated"
    assert alias["template"] == template["key"]
    assert (template["fits"], template["changed"]) == (True, [])
    assert template["name"] in owner.databases()
    assert template["size"] > 1_000_000
    page = (Path(__file__).parents[2] / "docs/reference/testtemplates.md").read_text("utf-8")
    explained = owner.run("--explain", "--format", "json").must_pass().json["aliases"][0]
    assert {key for key in (*document, *template, *explained) if f"`{key}`" not in page} == set()


def test_a_template_of_another_time_says_why_it_is_not_used(owner: Owner, settings: Any) -> None:
    owner.build()
    settings.LANGUAGE_CODE = "de"
    shown = owner.run().must_pass().stdout
    assert '"templated": the next run builds its template (changed: setting LANGUAGE_CODE)' in shown
    assert "    not used: changed: setting LANGUAGE_CODE" in shown.splitlines()
    (template,) = owner.listed()
    assert (template["fits"], template["changed"]) == (False, ["setting LANGUAGE_CODE"])


def test_a_template_that_is_too_old_is_not_used(owner: Owner, settings: Any) -> None:
    owner.build()
    settings.TESTDB = {**getattr(settings, "TESTDB", {}), "TEMPLATE_MAX_AGE": 0.001}
    (template,) = owner.listed()
    assert template["fits"] is False
    assert "older than" in template["refusal"]


def test_a_template_of_another_project_is_listed_apart(owner: Owner) -> None:
    owner.build()
    with PostgreSQLStore(connections["templated"]) as store:
        (template,) = store.list_templates()
        store.touch(replace(template, project="/elsewhere", static="0" * 32))
    (listed,) = owner.listed()
    assert (listed["project"], listed["fits"]) == ("/elsewhere", None)
    assert "project /elsewhere" in owner.run().must_pass().stdout


def test_a_template_whose_migrations_write_elsewhere_is_not_used(owner: Owner) -> None:
    owner.build()
    with PostgreSQLStore(connections["templated"]) as store:
        (template,) = store.list_templates()
        store.touch(replace(template, elsewhere=("legacy",), frozen=("shop_item.made",)))
    lines = owner.run().must_pass().stdout.splitlines()
    assert '"templated": the next run migrates (its migrations write to "legacy" too)' in lines
    lines = owner.run("--explain").must_pass().stdout.splitlines()
    assert "    columns that hold the time of the build: shop_item.made" in lines
    assert "    aliases that its migrations wrote to, which a clone does not repeat: legacy" in lines


def test_names_cannot_command_the_terminal(owner: Owner) -> None:
    owner.execute('CREATE DATABASE "testdb_tpl_\x1b[31mred"')
    shown = owner.run(no_color=True, stdout=Terminal()).must_pass().stdout
    assert "\x1b" not in shown
    assert r"testdb_tpl_\x1b[31mred" in shown


@pytest.mark.skipif(find_spec("psycopg2") is None, reason="needs psycopg2")
def test_another_driver_is_named(project: Project) -> None:
    settings = project.directory / "settings.py"
    settings.write_text("import sys\nsys.modules['psycopg'] = None\n" + settings.read_text())
    assert "it uses psycopg2, and templates need psycopg 3" in project.manage("testtemplates").must_pass().stdout
    done = project.manage("testtemplates", "--build")
    assert (done.returncode, "psycopg2" in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_mirrors_and_unknown_aliases_are_wrong_usage(owner: Owner) -> None:
    register("mirror", USER=owner.name, TEST={"MIRROR": "templated"})
    register("again", USER=owner.name)
    try:
        outcomes = [run_command(database=[alias]) for alias in ("mirror", "again")]
        aliases = find_aliases()
    finally:
        forget("mirror")
        forget("again")
    assert [outcome.status for outcome in outcomes] == [2, 2]
    assert [outcome.error.partition(":")[0] for outcome in outcomes] == [
        'Alias "mirror" has no test database of its own',
        'Alias "again" has no test database of its own',
    ]
    assert "templated" in aliases
    assert not {"mirror", "again"} & set(aliases)
    outcome = run_command(database=["nowhere"])
    assert (outcome.status, outcome.error[:34]) == (2, 'There is no alias "nowhere". Alias')


@pytest.mark.parametrize(
    "arguments",
    [
        ("--all-projects",),
        ("--drop", "abc", "--all-projects"),
        ("--key", "--format", "json"),
        ("--build", "--format", "json"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(owner: Owner, arguments: tuple[str, ...]) -> None:
    assert owner.run(*arguments).status == 2


def test_a_server_that_is_down_is_named_with_what_to_check(django_db_blocker: Any) -> None:
    with django_db_blocker.unblock():
        register("templated", PORT="1")
        try:
            for arguments in ([], ["--explain"], ["--key"], ["--build"], ["--drop"]):
                outcome = run_command(*arguments, "--database", "templated")
                assert outcome.status == 1
                assert 'alias "templated"' in outcome.error
        finally:
            forget("templated")


def test_an_alias_without_templates_says_why(owner: Owner) -> None:
    register("lite", ENGINE="django.db.backends.dummy")
    try:
        shown = run_command("--database", "lite").must_pass().stdout
        outcome = run_command("--database", "lite", "--build")
        key = run_command("--database", "lite", "--key")
    finally:
        forget("lite")
    assert '"lite": no template (unknown is not supported)' in shown
    assert (outcome.status, key.status) == (1, 1)
    assert "unknown is not supported" in outcome.error


def test_a_narrow_terminal_gets_no_line_that_it_has_to_break(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    owner.build()
    monkeypatch.setenv("COLUMNS", "40")
    for arguments in ([], ["--explain"]):
        lines = owner.run(*arguments, stdout=Terminal(), no_color=True).must_pass().stdout.splitlines()
        assert [line for line in lines if cells(line) > 40 and " " in line.strip()] == []
        assert len(lines) > 10


def test_verbosity_0_prints_nothing(owner: Owner) -> None:
    assert owner.run("--build", verbosity=0).must_pass() == Outcome(stdout="", stderr="")
    assert owner.run(verbosity=0).must_pass().stdout == ""


# --explain ------------------------------------------------------------------------------------------------------------


def test_explain_groups_what_the_key_consists_of(owner: Owner, settings: Any) -> None:
    owner.build()
    settings.LANGUAGE_CODE = "de"
    lines = [line.strip() for line in owner.run("--explain").must_pass().stdout.splitlines()]
    starts = (
        "versions: Django ",
        "files of migrations: auth ",
        "settings: AUTH_USER_MODEL",
        "distributions: ",
        "differs: setting LANG",
    )
    for start in starts:
        assert any(line.startswith(start) for line in lines), start
    document = owner.run("--explain", "--format", "json").must_pass().json["aliases"][0]
    assert document["parts"]["app auth"] == "django.contrib.auth.migrations"
    assert document["nearest"] == owner.listed()[0]["key"]
    assert document["template"] is None


# --build --------------------------------------------------------------------------------------------------------------


def test_a_second_build_does_nothing(owner: Owner) -> None:
    owner.build()
    before = owner.databases()
    assert re.search(r'^"templated": template \w{8}, fits \(made \d+ s ago in', owner.build().stdout)
    assert owner.databases() == before
    assert len(before) == 1


def test_a_role_that_may_not_create_databases_is_named(django_db_blocker: Any) -> None:
    with django_db_blocker.unblock(), made_owner(rights="NOCREATEDB") as owner:
        outcome = owner.run("--build")
        assert outcome.status == 1
        assert f'the role "{owner.name}" may not create databases' in outcome.error
        assert "may not create databases" in owner.run().must_pass().stdout
        assert owner.databases() == set()


# --drop ---------------------------------------------------------------------------------------------------------------


def test_drop_asks_and_takes_only_yes(owner: Owner) -> None:
    owner.build()
    before = owner.databases()
    (name,) = before
    done = owner.run("--drop", answer="")
    assert done.status == 1
    assert "Add --no-input" in done.error
    assert owner.databases() == before
    for answer in ("no\n", "y\n"):
        outcome = owner.run("--drop", answer=answer).must_pass()
        assert name in outcome.stderr
        assert "Cancelled. Nothing was dropped." in outcome.stderr
        assert owner.databases() == before
    assert f"Dropped 1 database: {name}." in owner.run("--drop", answer="yes\n").must_pass().stdout
    assert owner.databases() == set()
    assert owner.run("--drop").must_pass().stdout == "Nothing to drop.\n"


def test_drop_takes_keys_by_their_first_digits(owner: Owner, settings: Any) -> None:
    owner.build()
    settings.LANGUAGE_CODE = "de"
    owner.build()
    first, second = owner.listed()
    owner.run("--drop", second["key"][:8], "--no-input").must_pass()
    assert owner.databases() == {first["name"]}
    outcome = owner.run("--drop", "nothing", "--no-input")
    assert (outcome.status, outcome.error) == (2, f'This role has no template "nothing". Keys: {first["key"][:8]}.')
    outcome = owner.run("--drop", first["name"], "--no-input").must_pass()
    assert owner.databases() == set()


def test_what_bears_no_mark_is_listed_and_never_dropped(owner: Owner) -> None:
    owner.execute('CREATE DATABASE "testdb_tpl_mine"', 'CREATE DATABASE "testdb_old_mine"')
    owner.execute("""COMMENT ON DATABASE "testdb_old_mine" IS 'testdb template of another kind'""")
    shown = owner.run().must_pass().stdout
    assert "  testdb_tpl_mine  not ours (no mark of testdb_app): drop it yourself" in shown.splitlines()
    assert owner.run("--drop", "--no-input").must_pass().stdout == "Nothing to drop.\n"
    assert owner.run("--drop", "--all-projects", "--no-input").must_pass().stdout == "Nothing to drop.\n"
    for name in ("testdb_tpl_mine", "testdb_old_mine"):
        outcome = owner.run("--drop", name, "--no-input")
        assert (outcome.status, "is not ours" in outcome.error) == (1, True)
    assert owner.databases() == {"testdb_tpl_mine", "testdb_old_mine"}


def test_what_belongs_to_another_role_is_never_dropped(owner: Owner) -> None:
    owner.build()
    (name,) = owner.databases()
    with connect_as_superuser("postgres") as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(sql.Identifier(name)))
        try:
            assert owner.run("--drop", "--all-projects", "--no-input").must_pass().stdout == "Nothing to drop.\n"
            outcome = owner.run("--drop", name, "--no-input")
            assert (outcome.status, "belongs to role" in outcome.error) == (1, True)
        finally:
            ours = sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), sql.Identifier(owner.name))
            connection.execute(ours)
    assert owner.databases() == {name}


def test_a_database_that_an_alias_has_configured_is_never_dropped(project: Project, owner: Owner) -> None:
    project.manage("testtemplates", "--build", "-v0").must_pass()
    (name,) = owner.databases()
    configured = json.loads((project.directory / "databases.json").read_text())
    project.write("databases.json", json.dumps({**configured, "legacy": {**configured["default"], "NAME": name}}))
    done = project.manage("testtemplates", "--drop", "--all-projects", "--no-input").must_pass()
    assert done.stdout == "Nothing to drop.\n"
    done = project.manage("testtemplates", "--drop", name, "--no-input")
    assert (done.returncode, 'configured for alias "legacy"' in done.stderr) == (1, True)
    assert owner.databases() == {name}


def test_a_template_in_use_is_named_and_stays(owner: Owner) -> None:
    owner.build()
    (name,) = owner.databases()
    owner.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    with connect(name, user=owner.name):
        outcome = owner.run("--drop", "--no-input")
    assert outcome.status == 1
    assert f'"{name}" was not dropped' in outcome.error
    assert owner.databases() == {name}


def test_what_killed_processes_left_is_listed_and_dropped_and_what_living_ones_hold_stays(owner: Owner) -> None:
    owner.build()
    with PostgreSQLStore(connections["templated"]) as living:
        (template,) = living.list_templates()
        held = living.make_spare(template)
        with PostgreSQLStore(connections["templated"]) as killed:
            left = killed.make_spare(template)
        shown = owner.run().must_pass().stdout.splitlines()
        assert f"  {held}  clone made ahead, in use by a run" in shown
        assert f"  {left}  clone made ahead, left over" in shown
        outcome = owner.run("--drop", held, "--no-input")
        assert (outcome.status, "in use by a run" in outcome.error) == (1, True)
        owner.run("--drop", "--no-input").must_pass()
        assert owner.databases() == {held}
    owner.run("--drop", "--no-input").must_pass()
    assert owner.databases() == set()


def test_a_template_of_another_version_goes_only_when_it_is_named_or_all_are(owner: Owner) -> None:
    owner.build()
    (name,) = owner.databases()
    owner.execute(f"""COMMENT ON DATABASE "{name}" IS 'testdb template {{"format": 0}}'""")
    assert f"  {name}  template, of another version of testdb_app" in owner.run().must_pass().stdout.splitlines()
    assert owner.run("--drop", "--no-input").must_pass().stdout == "Nothing to drop.\n"
    owner.run("--drop", "--all-projects", "--no-input").must_pass()
    assert owner.databases() == set()


# In a project of its own ----------------------------------------------------------------------------------------------


def test_a_run_uses_the_template_that_the_command_has_built(project: Project) -> None:
    done = project.manage("testtemplates", "--build").must_pass()
    (key,) = re.findall(r"template (\w{8}), built now", done.stdout)
    assert f"test database from template {key}" in project.manage("test").must_pass().stdout
    (template,) = json.loads(project.manage("testtemplates", "--format", "json").must_pass().stdout)["templates"]
    assert (template["uses"], template["fits"]) == (1, True)


def test_a_build_writes_the_files_for_a_ci_and_restores_from_them(project: Project, owner: Owner) -> None:
    project.add_settings('TESTDB["TEMPLATE_CACHE"] = ".testdb"\n')
    done = project.manage("testtemplates", "--build").must_pass()
    if "An archive needs pg_dump" in done.stderr:
        pytest.skip("needs pg_dump of the server's version or later")
    (key,) = re.findall(r"template (\w{8}), built now", done.stdout)
    assert [path.suffix for path in (project.directory / ".testdb").glob("testdb_tpl_*")].count(".json") == 1
    project.manage("testtemplates", "--drop", "--no-input").must_pass()
    shown = project.manage("testtemplates").must_pass().stdout
    assert (
        f'"default": the next run restores template {key} from {project.directory}/.testdb (there is none yet)' in shown
    )
    done = project.manage("testtemplates", "--build").must_pass()
    assert f"template {key}, fits" in done.stdout
    assert "restored from" in done.stderr
    assert len(owner.databases()) == 1


@pytest.mark.nightly
def test_two_roles_on_one_server_have_templates_of_their_own(project: Project, owner: Owner) -> None:
    project.manage("testtemplates", "--build", "-v0").must_pass()
    configured = (project.directory / "databases.json").read_text()
    with made_owner("colleague") as colleague:
        project.write("databases.json", configured.replace(owner.name, colleague.name))
        project.manage("testtemplates", "--build", "-v0").must_pass()
        assert (len(owner.databases()), len(colleague.databases())) == (1, 1)
        project.manage("testtemplates", "--drop", "--all-projects", "--no-input").must_pass()
        assert (len(owner.databases()), len(colleague.databases())) == (1, 0)


def test_the_key_is_that_of_the_files_and_not_of_the_process(project: Project, tmp_path: Path) -> None:
    def key(*arguments: str, **environment: str) -> str:
        done = project.run(*(arguments or ("manage.py",)), "testtemplates", "--key", **environment).must_pass()
        assert re.fullmatch(r"[0-9a-f]{32}\n", done.stdout)
        assert done.stderr == ""
        return done.stdout

    first = key()
    assert key(PYTHONHASHSEED="7", COLUMNS="30", LANG="C") == first
    (tmp_path / "elsewhere").mkdir()
    assert (
        key("-c", "import os, manage, sys; os.chdir('elsewhere'); manage.execute_from_command_line(sys.argv)") == first
    )
    migration = project.directory / "shop/migrations/0003_more.py"
    project.write("shop/migrations/0003_more.py", ROWS.replace("0001_initial", "0002_rows"))
    assert key() != first
    migration.unlink()
    assert key() == first
    # What only a build can know does not count: a run finds that out.
    project.write("shop/prices.py", 'PRICE = "4.00"\n')
    assert key() == first


def test_a_changed_helper_is_named_and_a_migration_that_fails_is_an_error(project: Project, owner: Owner) -> None:
    project.manage("testtemplates", "--build", "-v0").must_pass()
    project.write("shop/prices.py", "PRICE = 1 / 0\n")
    assert "(changed: shop/prices.py)" in project.manage("testtemplates").must_pass().stdout
    project.write("shop/prices.py", 'PRICE = "far too long for twenty characters"\n')
    done = project.manage("testtemplates", "--build")
    assert done.returncode == 1
    assert 'CommandError: The migrations of alias "default" failed: value too long' in done.stderr
    assert "Traceback" not in done.stderr
    done = project.manage("testtemplates", "--build", "--traceback")
    assert "0002_rows.py" in done.stderr
    assert len(owner.databases()) == 1


def test_a_migration_that_uses_another_alias_builds_nothing_and_touches_nothing(project: Project, owner: Owner) -> None:
    configured = json.loads((project.directory / "databases.json").read_text())
    owner.execute(f'CREATE DATABASE "{owner.name}"')
    other = {**configured["default"], "NAME": owner.name}
    project.write("databases.json", json.dumps({**configured, "legacy": other}))
    project.manage("migrate", "--database", "legacy", "-v0").must_pass()
    project.write("shop/migrations/0002_rows.py", ROWS.replace("editor.connection.alias", "'legacy'"))
    done = project.manage("testtemplates", "--build", "--database", "default")
    assert done.returncode == 1
    assert 'use alias "legacy", which leads to its real database here' in " ".join(done.stderr.split())
    with psycopg.connect(**{**default_parameters(), "user": owner.name}, dbname=owner.name) as connection:
        assert connection.execute("SELECT count(*) FROM shop_shelf").fetchone() == (1,)  # by migrate itself
    assert owner.databases() == {owner.name}
