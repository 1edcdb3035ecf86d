"""``resetdb --to migrated``: the rows that a fresh ``migrate`` gives, in a database with no capture."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command

from tests.commands.resetdb.running import place, resetdb
from tests.creation.states import state_of
from tests.scratch import ScratchDatabase, connect

CHANGES = """
INSERT INTO auth_group (name) VALUES ('readers');
INSERT INTO auth_group_permissions (group_id, permission_id) SELECT 1, id FROM auth_permission WHERE codename LIKE 'delete%' LIMIT 5;
UPDATE testdb_demo_genre SET name = name || ' (old)';
DELETE FROM auth_permission WHERE codename LIKE 'view%';
UPDATE auth_permission SET codename = codename || '_x' WHERE id = 1;
UPDATE auth_permission SET id = id + 1000 WHERE codename LIKE 'add%';
UPDATE django_site SET domain = 'localhost:8000';
SELECT nextval('testdb_demo_genre_id_seq'), nextval('auth_user_id_seq'), setval('django_content_type_id_seq', 500);
"""


def state(database: ScratchDatabase) -> dict[str, Any]:
    with database.connect() as session:
        return state_of(session)


def databases() -> set[str]:
    """The databases of the server that this process has made, without templates, which stay."""
    with connect("postgres") as session:
        rows = session.execute("SELECT datname FROM pg_database WHERE datallowconn").fetchall()
    return {name for (name,) in rows if f"_{os.getpid()}_" in name}


@pytest.fixture(scope="module")
def stock(django_db_blocker: Any) -> Iterator[ScratchDatabase]:
    """A database that stock ``migrate`` has made."""
    database = ScratchDatabase("stock")
    with django_db_blocker.unblock():
        database.create()
        call_command("migrate", database="stock", verbosity=0, interactive=False)
        database.connection.close()
    yield database
    with django_db_blocker.unblock():
        database.drop()


@pytest.fixture
def fresh(stock: ScratchDatabase) -> dict[str, Any]:
    """The state of that database."""
    return state(stock)


@pytest.fixture
def used(stock: ScratchDatabase, make_scratch: Callable[..., ScratchDatabase], settings: Any) -> ScratchDatabase:
    """A development database with rows of its own, which the settings allow."""
    database = make_scratch(template=stock.name)
    settings.TESTDB = {"ALLOWED_DATABASES": [database.name]}
    database.execute(CHANGES)
    return database


def test_the_database_is_as_a_fresh_migrate_makes_it(used: ScratchDatabase, fresh: dict[str, Any]) -> None:
    there = databases()
    outcome = resetdb("--to", "migrated", "--no-input", "-v2")
    assert (outcome.status, outcome.error) == (0, "")
    assert outcome.stdout.startswith(f"Reset database {place(used)} to migrated: ")
    assert re.search(r"  delete +1  public\.auth_group\n", outcome.stdout)
    assert re.search(r"  restore +0  public\.testdb_demo_genre  \(11 put back, 0 put in again\)\n", outcome.stdout)
    assert "  permitted by the rule allowed\n" in outcome.stdout
    assert state(used) == fresh
    assert databases() == there, "the scratch database is gone"
    assert resetdb("--to", "migrated", "--no-input").stdout.startswith("Nothing to do: ")


def test_permissions_and_content_types_have_the_numbers_of_the_fresh_database(
    used: ScratchDatabase, fresh: dict[str, Any]
) -> None:
    used.execute("""
        TRUNCATE auth_permission, django_content_type CASCADE;
        INSERT INTO django_content_type (app_label, model) VALUES ('testdb_demo', 'genre'), ('old', 'gone');
        INSERT INTO auth_permission (name, content_type_id, codename)
        SELECT 'Can', max(id), 'add_gone' FROM django_content_type
    """)
    assert ContentType.objects.db_manager("scratch").get_by_natural_key("testdb_demo", "genre").pk > 500
    assert resetdb("--to", "migrated", "--no-input").status == 0
    assert state(used) == fresh
    # The cache of Django's manager knows no number of before.
    kept = ContentType.objects.db_manager("scratch").get_by_natural_key("testdb_demo", "genre")
    assert used.value("SELECT model FROM django_content_type WHERE id = " + str(kept.pk)) == "genre"


@pytest.mark.parametrize("options", [("--dry-run",), ("--sql",), ("--dry-run", "--format", "json")], ids=" ".join)
def test_what_only_shows_changes_nothing(used: ScratchDatabase, options: tuple[str, ...]) -> None:
    before, there = state(used), databases()
    outcome = resetdb("--to", "migrated", *options)
    assert (outcome.status, outcome.error) == (0, "")
    assert (state(used), databases()) == (before, there)


def test_the_dry_run_tells_what_a_reset_would_do(used: ScratchDatabase) -> None:
    outcome = resetdb("--to", "migrated", "--dry-run")
    assert "to migrated: " in outcome.stdout
    assert "public.testdb_demo_genre  (testdb_demo.Genre)  (11 put back, 0 put in again)\n" in outcome.stdout
    shown = json.loads(resetdb("--to", "migrated", "--dry-run", "--format", "json").stdout)
    (genres,) = (table for table in shown["tables"] if table["name"] == "public.testdb_demo_genre")
    assert (shown["target"], genres["action"], genres["rows"], genres["updated"]) == ("migrated", "restore", 0, 11)
    assert shown["data_migrations"] == []


def test_the_printed_sql_does_the_same(used: ScratchDatabase, fresh: dict[str, Any]) -> None:
    used.execute(resetdb("--to", "migrated", "--sql").stdout)
    assert state(used) == fresh


def test_the_json_report(used: ScratchDatabase) -> None:
    outcome = resetdb("--to", "migrated", "--no-input", "--format", "json")
    report = json.loads(outcome.stdout)
    assert (report["target"], report["permitted_by"], report["post_migrate"]) == ("migrated", "allowed", None)
    tables = {table["name"]: table for table in report["tables"]}
    assert tables["public.auth_group"]["rows"] == 1
    assert tables["public.testdb_demo_genre"]["updated"] == 11
    assert "public.auth_user_id_seq" in report["sequences"]


def test_the_question_tells_what_goes_and_what_comes_back(used: ScratchDatabase, fresh: dict[str, Any]) -> None:
    before = state(used)
    outcome = resetdb("--to", "migrated", answer="no\n")
    assert f"About to reset database {place(used)} to the rows of a fresh migrate:" in outcome.stderr
    assert outcome.stderr.endswith("Cancelled. Nothing was changed.\n")
    assert state(used) == before
    assert resetdb("--to", "migrated", answer=f"{used.name}\n").status == 0
    assert state(used) == fresh


def test_a_database_that_nobody_allowed_is_refused_before_anything_is_made(
    used: ScratchDatabase, settings: Any
) -> None:
    settings.TESTDB = {}
    before, there = state(used), databases()
    for options in ((), ("--dry-run",), ("--sql",)):
        outcome = resetdb("--to", "migrated", "--no-input", *options)
        assert (outcome.status, outcome.stdout, outcome.stderr) == (1, "", "")
        assert outcome.error.startswith(f'Refusing to reset database "{used.name}"')
    assert (state(used), databases()) == (before, there)
    resetdb("--mark-protected", "--no-input")
    outcome = resetdb("--to", "migrated", "--no-input", "--allow-database", used.name)
    assert "it is marked as protected" in outcome.error


def test_an_allowed_one_and_a_marked_one_are_reset(used: ScratchDatabase, settings: Any, fresh: dict[str, Any]) -> None:
    settings.TESTDB = {}
    assert resetdb("--to", "migrated", "--no-input", "--allow-database", used.name).status == 0
    assert state(used) == fresh
    used.execute(CHANGES)
    resetdb("--mark-test", "--no-input")
    assert resetdb("--to", "migrated", "--no-input").status == 0
    resetdb("--unmark-test", "--no-input")
    assert state(used) == fresh


def test_labels_limit_it(used: ScratchDatabase, fresh: dict[str, Any]) -> None:
    before = state(used)
    assert resetdb("--to", "migrated", "--no-input", "testdb_demo.Genre").status == 0
    now = state(used)
    assert now["public.testdb_demo_genre"] == fresh["public.testdb_demo_genre"]
    assert now["public.testdb_demo_genre_id_seq"] == fresh["public.testdb_demo_genre_id_seq"]
    assert now["public.auth_group"] == before["public.auth_group"]
    assert resetdb("--to", "migrated", "--no-input", "--exclude", "auth.Group*").status == 0
    assert used.count("auth_group_permissions") == 5, "they refer to permissions that are there in both"
    used.execute("UPDATE django_site SET domain = 'localhost:8000'")
    assert resetdb("--to", "migrated", "--no-input", "--exclude", "sites").status == 0
    assert state(used) == {**fresh, "public.django_site": before["public.django_site"]}


def test_rows_that_stay_and_refer_to_rows_that_go_are_named(used: ScratchDatabase) -> None:
    before = state(used)
    used.execute("CREATE TABLE note (id int PRIMARY KEY, about int REFERENCES auth_group)")
    used.execute("INSERT INTO note VALUES (1, 1)")
    outcome = resetdb("--to", "migrated", "--no-input", "--exclude", "public.note")
    assert (
        "Rows that stay refer to rows that would be deleted:\n  public.note(about) → public.auth_group(id): 1 row"
        in outcome.error
    )
    used.execute("DROP TABLE note")
    assert state(used) == before


def test_sequences_stay_if_asked(used: ScratchDatabase) -> None:
    before = state(used)
    assert resetdb("--to", "migrated", "--no-input", "--no-reset-sequences").status == 0
    assert state(used)["public.auth_user_id_seq"] == before["public.auth_user_id_seq"]


OTHER_SCHEMAS = {
    "an unapplied migration": (
        "DELETE FROM django_migrations WHERE app = 'sites' AND name = '0002_alter_domain_unique'",
        "migration sites.0002_alter_domain_unique is not applied",
    ),
    "an extra migration": (
        "INSERT INTO django_migrations (app, name, applied) VALUES ('sites', '0003_more', now())",
        "migration sites.0003_more is not of this project",
    ),
    "a table of its own": (
        "CREATE TABLE extra (id int); INSERT INTO extra VALUES (1), (2)",
        "table public.extra has 2 rows, and migrate does not make it",
    ),
    "a missing table": ("DROP TABLE django_site", "table public.django_site is gone"),
    "another column": (
        "ALTER TABLE django_site ADD more int",
        "table public.django_site has changed (+ more integer)",
    ),
    "another type": (
        "ALTER TABLE django_session ALTER session_data TYPE varchar",
        "table public.django_session has changed (- session_data text not null, + session_data character varying not null)",
    ),
    "another sequence": (
        "ALTER SEQUENCE auth_user_id_seq INCREMENT 2",
        "sequence public.auth_user_id_seq has changed (- increment 1, + increment 2)",
    ),
    "a sequence of its own": ("CREATE SEQUENCE numbers", "sequence public.numbers is new"),
}


@pytest.mark.parametrize("name", OTHER_SCHEMAS)
def test_another_schema_is_refused_by_name(used: ScratchDatabase, name: str) -> None:
    change, difference = OTHER_SCHEMAS[name]
    used.execute(change)
    before, there = state(used), databases()
    for options in (("--no-input",), ("--dry-run",)):
        outcome = resetdb("--to", "migrated", *options)
        assert (outcome.status, outcome.stdout) == (1, "")
        assert outcome.error.startswith(
            f'Database "{used.name}" (alias "scratch") is not as migrate makes it: {difference}. Nothing was changed. '
        )
        assert "manage.py migrate --database scratch" in outcome.error
    assert (state(used), databases()) == (before, there)


def test_an_unapplied_migration_is_named_before_a_scratch_database_is_made(used: ScratchDatabase) -> None:
    used.execute(OTHER_SCHEMAS["an unapplied migration"][0])
    assert resetdb("--to", "migrated", "--no-input").stderr == ""


def test_an_empty_table_of_its_own_stays_as_an_excluded_one(used: ScratchDatabase, fresh: dict[str, Any]) -> None:
    used.execute("CREATE TABLE extra (id serial); SELECT nextval('extra_id_seq')")
    outcome = resetdb("--to", "migrated", "--no-input", "-v2")
    assert "  stays (migrate does not make it): public.extra\n" in outcome.stdout
    assert used.sequence_state("extra_id_seq") == (1, True)
    used.execute("INSERT INTO extra VALUES (1)")
    assert resetdb("--to", "migrated", "--no-input", "--exclude", "public.extra").status == 0
    assert used.count("extra") == 1
    used.execute("DROP TABLE extra")
    assert state(used) == fresh


def test_a_baseline_in_the_database_is_left_alone(used: ScratchDatabase, fresh: dict[str, Any]) -> None:
    captured = {name: rows for name, rows in state(used).items() if name not in {"schemas", "objects"}}
    resetdb("--capture")
    assert resetdb("--to", "migrated", "--no-input").status == 0
    now = state(used)
    assert {name: now[name] for name in fresh if "." in name} == {name: fresh[name] for name in fresh if "." in name}
    assert resetdb("--no-input").status == 0
    now = state(used)
    assert {name: now[name] for name in captured} == captured


def test_it_waits_for_locks_as_long_as_it_may(used: ScratchDatabase) -> None:
    before = state(used)
    with used.connect() as other, other.transaction():
        other.execute("UPDATE django_site SET name = 'held'")
        outcome = resetdb("--to", "migrated", "--no-input", "--lock-timeout", "0.3")
    assert outcome.status == 1
    assert outcome.error.startswith("A lock in database")
    assert "public.django_site" in outcome.error
    before["public.django_site"] = state(used)["public.django_site"]
    assert state(used) == before


def test_a_role_that_may_make_no_temporary_table_is_told_so(used: ScratchDatabase) -> None:
    used.execute(f'REVOKE TEMPORARY ON DATABASE "{used.name}" FROM PUBLIC, CURRENT_USER')
    outcome = resetdb("--to", "migrated", "--no-input")
    assert f'GRANT TEMPORARY ON DATABASE "{used.name}" to it' in outcome.error


def test_a_trigger_that_refuses_undoes_everything(used: ScratchDatabase) -> None:
    used.execute("""
        CREATE FUNCTION refuse() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'never'; END$$;
        ALTER TABLE testdb_demo_genre ADD CONSTRAINT never CHECK (refuse()) NOT VALID
    """)
    before = state(used)
    outcome = resetdb("--to", "migrated", "--no-input")
    assert outcome.status == 1
    assert "never" in outcome.error
    assert "testdb_demo_genre" in outcome.error
    assert state(used) == before


@pytest.fixture
def elsewhere(make_scratch: Callable[..., ScratchDatabase]) -> Iterator[ScratchDatabase]:
    """Another configured database, which a receiver of post_migrate writes to."""
    from django.apps import apps
    from django.db import connections
    from django.db.models.signals import post_migrate

    other = make_scratch("other")
    other.execute("CREATE TABLE log (line text)")

    def write_elsewhere(using: str, **_: object) -> None:
        with connections["other"].cursor() as cursor:
            cursor.execute("INSERT INTO log VALUES (%s)", [using])

    sender = apps.get_app_config("testdb_demo")
    post_migrate.connect(write_elsewhere, sender=sender)
    yield other
    post_migrate.disconnect(write_elsewhere, sender=sender)


def test_migrations_that_use_another_database_are_refused(used: ScratchDatabase, elsewhere: ScratchDatabase) -> None:
    before, there = state(used), databases()
    outcome = resetdb("--to", "migrated", "--no-input")
    assert 'use alias "other", which leads to its real database here' in outcome.error
    assert elsewhere.count("log") == 0
    assert (state(used), databases()) == (before, there)
