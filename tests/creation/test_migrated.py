"""The rows of a fresh ``migrate`` in databases that make it hard: whatever the tables are, and whatever was written."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.creation.states import state_of, state_of_file
from tests.guard.projects import Project, database_settings, make_project
from tests.scratch import ScratchDatabase

MIGRATION = """
from django.db import migrations, models

class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel("Shelf", [("id", models.BigAutoField(primary_key=True)), ("name", models.CharField(max_length=20))]),
        migrations.CreateModel("Item", [("id", models.BigAutoField(primary_key=True)),
                                        ("shelf", models.ForeignKey("shop.shelf", models.CASCADE))]),
        migrations.RunSQL({sql!r}),
    ]
"""

# Each part has the name of what is hard about it, makes it, fills it as a data migration would, and changes it as a
# developer would.
HARD: dict[str, tuple[str, str]] = {
    "a table that refers to itself": (
        """CREATE TABLE node (id int PRIMARY KEY, parent int REFERENCES node, other int REFERENCES node DEFERRABLE INITIALLY DEFERRED);
           INSERT INTO node VALUES (1, NULL, 3), (2, 1, 1), (3, 2, 2)""",
        """INSERT INTO node VALUES (9, 3, 9); UPDATE node SET parent = 9 WHERE id = 2; DELETE FROM node WHERE id = 0;
           UPDATE node SET other = 9""",
    ),
    "a cycle of keys, one of them RESTRICT": (
        """CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a ON DELETE RESTRICT);
           INSERT INTO a VALUES (1, 1), (2, 2); INSERT INTO b VALUES (1, 2), (2, 1);
           ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b ON DELETE CASCADE""",
        "INSERT INTO a VALUES (3, 1); INSERT INTO b VALUES (3, 3); UPDATE a SET b = 3 WHERE id = 1; UPDATE b SET a = 3 WHERE id = 1",
    ),
    "generated and identity columns": (
        """CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED);
           INSERT INTO made (n) VALUES (10), (20), (30)""",
        "DELETE FROM made WHERE id = 2; INSERT INTO made (n) VALUES (5); UPDATE made SET n = 11 WHERE id = 1",
    ),
    "triggers and rules": (
        """CREATE TABLE log (id serial PRIMARY KEY, line text);
           CREATE TABLE told (id int PRIMARY KEY, name text);
           CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
               INSERT INTO public.log (line) VALUES (TG_OP); RETURN coalesce(NEW, OLD); END$$;
           INSERT INTO told VALUES (1, 'one'), (2, 'two');
           CREATE TRIGGER tells AFTER INSERT OR UPDATE OR DELETE ON told FOR EACH ROW EXECUTE FUNCTION tell();
           CREATE TRIGGER always_tells BEFORE DELETE ON told FOR EACH STATEMENT EXECUTE FUNCTION tell();
           ALTER TABLE told ENABLE ALWAYS TRIGGER always_tells;
           INSERT INTO log (line) VALUES ('of the migration');
           CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept VALUES (1), (2);
           CREATE RULE stays AS ON DELETE TO kept DO INSTEAD NOTHING""",
        "DELETE FROM told WHERE id = 1; INSERT INTO told VALUES (7, 'seven'); INSERT INTO kept VALUES (3)",
    ),
    "partitions and children": (
        """CREATE TABLE event (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
           CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
           CREATE TABLE event_2 PARTITION OF event DEFAULT;
           INSERT INTO event VALUES (1, '2020-05-05'), (2, '2025-05-05');
           CREATE TABLE animal (id int PRIMARY KEY, name text); CREATE TABLE dog (tail int) INHERITS (animal);
           INSERT INTO animal VALUES (1, 'it'); INSERT INTO dog VALUES (1, 'it', 30), (1, 'it', 30)""",
        """UPDATE event SET at = '2026-01-01'; INSERT INTO event VALUES (3, '2020-12-31'); DELETE FROM dog;
           UPDATE animal SET name = 'x'""",
    ),
    "hostile names": (
        """CREATE SCHEMA "Mr. ""Q"; CREATE TABLE "Mr. ""Q"."a%s'b{}" ("c'""d%(x)s" int PRIMARY KEY, "select" text);
           INSERT INTO "Mr. ""Q"."a%s'b{}" VALUES (1, 'back\\slash'), (2, 'quote '' and "'), (3, E'line\\nline'), (4, '%s {} ; --'), (5, 'ü☃')""",
        """UPDATE "Mr. ""Q"."a%s'b{}" SET "select" = 'x'; DELETE FROM "Mr. ""Q"."a%s'b{}" WHERE "c'""d%(x)s" > 3""",
    ),
    "tables without a key, and without columns": (
        """CREATE TABLE bag (v int, w text); INSERT INTO bag VALUES (1, 'a'), (1, 'a'), (NULL, NULL), (NULL, NULL), (NULL, 'b');
           CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
           CREATE TABLE empty (id serial PRIMARY KEY)""",
        """DELETE FROM bag WHERE w = 'a'; INSERT INTO bag VALUES (1, 'a'), (NULL, NULL); INSERT INTO nothing DEFAULT VALUES;
           INSERT INTO empty DEFAULT VALUES""",
    ),
    "values that are hard to write": (
        """CREATE TYPE mood AS ENUM ('sad', 'it''s ok'); CREATE DOMAIN small AS numeric CHECK (VALUE < 100);
           CREATE TYPE pair AS (x int, y text);
           CREATE TABLE valued (id int PRIMARY KEY, f float8, g float4, n numeric, t timestamptz, d date, i interval, b bytea, j jsonb,
               k json, x int[], y text[], r tstzrange, c "char", p char(5), m money, u uuid, o bit varying, h inet, e mood, s small, q pair,
               tz timetz, po point);
           INSERT INTO valued VALUES
           (1, '-0', '-0', 'NaN', 'infinity', '-infinity', '-1 mons +2 days -03:04:05.6', '\\x00ff5c27', '{"a": "\\u00e4\\\\"}',
            '{"b":  1, "b": 2}', '{{1,NULL},{3,4}}', '{"a,b","\\"",NULL,"NULL"}', '[2020-01-01 00:00+00,)', '', 'ab', '-1234.56',
            '00000000-0000-0000-0000-000000000001', B'0101', '10.0.0.1/8', 'it''s ok', 99.90, '(1,"a,b")', '12:00:00+02', '(0.1,1e-300)'),
           (2, 0.1, 0.1, 1.10, '4713-01-01 00:00+00 BC', '2020-02-30'::date - 1, '1 year', '', 'null', ' {} ', '{}', '{}', 'empty', 'a', '', '0',
            NULL, B'', '::1', 'sad', 1, '(,)', NULL, NULL)""".replace("'2020-02-30'::date - 1", "'2020-02-29'"),
        "UPDATE valued SET f = 0, n = 1.1, k = '{}', p = 'x', e = 'sad', i = '0', y = NULL, tz = NULL; DELETE FROM valued WHERE id = 2",
    ),
    "many columns": (
        f"""CREATE TABLE wide (id int PRIMARY KEY, {", ".join(f"c{n} int" for n in range(200))});
            INSERT INTO wide (id, c0, c89, c90, c199) VALUES (1, 2, 3, 4, 5)""",
        "UPDATE wide SET c90 = 0",
    ),
    "many rows": (
        "CREATE TABLE many (id serial PRIMARY KEY, t text); INSERT INTO many (t) SELECT repeat(n::text, 10) FROM generate_series(1, 20000) n",
        "DELETE FROM many WHERE id % 7 = 0; UPDATE many SET t = 'x' WHERE id % 11 = 0; INSERT INTO many (t) VALUES ('new')",
    ),
    "unique values that were exchanged, and constraints": (
        """CREATE TABLE ranked (id int PRIMARY KEY, place int UNIQUE, span int4range, EXCLUDE USING gist (span WITH &&));
           INSERT INTO ranked VALUES (1, 1, '[1,5)'), (2, 2, '[5,9)');
           CREATE TABLE checked (id int PRIMARY KEY, n int); INSERT INTO checked VALUES (1, -1);
           ALTER TABLE checked ADD CONSTRAINT positive CHECK (n > 0) NOT VALID""",
        """UPDATE ranked SET place = place + 10; UPDATE ranked SET place = 13 - place;
           UPDATE ranked SET span = '[20,30)' WHERE id = 1; UPDATE ranked SET span = '[1,5)' WHERE id = 2; INSERT INTO checked VALUES (2, 2)""",
    ),
    "row security": (
        """CREATE TABLE secret (id int PRIMARY KEY, n int); INSERT INTO secret VALUES (1, 1), (2, 2);
           CREATE POLICY odd ON secret USING (n % 2 = 1); ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
           ALTER TABLE secret FORCE ROW LEVEL SECURITY""",
        "INSERT INTO secret VALUES (3, 3); DELETE FROM secret WHERE id = 1",
    ),
    "sequences of their own": (
        "CREATE SEQUENCE numbers START 7 INCREMENT -2 MINVALUE -100 MAXVALUE 10; SELECT nextval('numbers')",
        "SELECT nextval('numbers'), nextval('numbers')",
    ),
}


def write_project(directory: Path, database: dict[str, Any], statements: list[str]) -> Project:
    """Make a project with one migration, whose settings allow its database."""
    directory.mkdir(exist_ok=True)
    project = make_project(directory, {"default": database})
    project.add_settings(
        'INSTALLED_APPS += ["django.contrib.auth", "django.contrib.contenttypes"]\n'
        f'TESTDB = {{"ALLOWED_DATABASES": [{database["NAME"]!r}]}}\n'
    )
    project.write("shop/migrations/__init__.py", "")
    project.write("shop/migrations/0001_initial.py", MIGRATION.format(sql=statements))
    return project


def state(database: ScratchDatabase) -> dict[str, Any]:
    with database.superuser() as session:
        return state_of(session)


@pytest.fixture
def make_pair(
    make_scratch: Callable[..., ScratchDatabase], tmp_path: Path
) -> Callable[[list[str]], tuple[Project, ScratchDatabase, dict[str, Any]]]:
    """Return a function that makes a project with a migrated database, and the state of another fresh database."""

    def make(statements: list[str]) -> tuple[Project, ScratchDatabase, dict[str, Any]]:
        used, fresh = make_scratch("used"), make_scratch("fresh")
        for database in (fresh, used):
            project = write_project(tmp_path / database.alias, database_settings(database.alias), statements)
            project.manage("migrate", "--verbosity", "0").must_pass()
        before = state(fresh)
        assert state(used) == before
        return project, used, before

    return make


@pytest.mark.postgresql
def test_every_hard_table_at_once(make_pair: Callable[..., Any]) -> None:
    project, used, fresh = make_pair([made for made, _ in HARD.values()])
    for _, change in HARD.values():
        used.execute(change)
    used.execute("INSERT INTO shop_shelf (name) VALUES ('mine'); TRUNCATE django_content_type CASCADE")
    changed = state(used)
    assert changed != fresh
    printed = project.manage("resetdb", "--to", "migrated", "--sql").must_pass().stdout
    project.manage("resetdb", "--to", "migrated", "--dry-run").must_pass()
    assert state(used) == changed
    project.manage("resetdb", "--to", "migrated", "--no-input").must_pass()
    now = state(used)
    assert {name for name in fresh if now[name] != fresh[name]} == set()
    assert now == fresh
    shown = project.manage("resetdb", "--to", "migrated", "--dry-run").must_pass().stdout
    # Forced row security hides a row from a reader.
    assert "0 rows in 0 tables would be deleted, 1 row put back" in shown
    for name, (_, change) in HARD.items():
        if "exchanged" not in name:  # a run tries another way then, which the printed SQL cannot
            used.execute(change)
    used.execute(printed)
    assert state(used) == fresh


@pytest.mark.postgresql
@pytest.mark.parametrize("strategy", ["delete", "truncate"])
def test_with_either_strategy(make_pair: Callable[..., Any], strategy: str) -> None:
    names = ("a table that refers to itself", "generated and identity columns", "partitions and children", "many rows")
    project, used, fresh = make_pair([HARD[name][0] for name in names])
    for name in names:
        used.execute(HARD[name][1])
    project.manage("resetdb", "--to", "migrated", "--no-input", "--strategy", strategy).must_pass()
    assert state(used) == fresh


@pytest.mark.postgresql
def test_in_a_tablespace_of_its_own(make_pair: Callable[..., Any]) -> None:
    project, used, fresh = make_pair([HARD["many rows"][0]])
    used.execute(HARD["many rows"][1])
    with used.in_tablespace():
        project.manage("resetdb", "--to", "migrated", "--no-input").must_pass()
        assert state(used) == fresh


@pytest.mark.postgresql
def test_numbers_of_objects_are_refused_by_name_unless_they_are_left_out(make_pair: Callable[..., Any]) -> None:
    project, used, fresh = make_pair(["CREATE TABLE about (t regclass); INSERT INTO about VALUES ('shop_item')"])
    used.execute("INSERT INTO shop_shelf (name) VALUES ('mine')")
    before = state(used)
    run = project.manage("resetdb", "--to", "migrated", "--no-input")
    assert "The rows of public.about name objects of their database (regclass or the like)" in run.stderr
    assert state(used) == before
    project.manage("resetdb", "--to", "migrated", "--no-input", "--exclude", "public.about").must_pass()
    assert state(used) == fresh


@pytest.mark.postgresql
def test_times_of_the_template_are_named_where_they_are_written(make_pair: Callable[..., Any]) -> None:
    made = """CREATE TABLE stamped (id int PRIMARY KEY, at timestamptz DEFAULT statement_timestamp());
              CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)"""
    project, used, _ = make_pair([made])
    (project.directory / "shop/migrations/0001_initial.py").write_text(
        MIGRATION.format(sql=[made, "INSERT INTO stamped (id) VALUES (1)"])
    )
    warning = "Warning: Rows were put back whose stamped.at is the time at which the template was made, not now."
    assert warning in project.manage("resetdb", "--to", "migrated", "--no-input").must_pass().stderr
    assert used.count("stamped") == 1
    used.execute("DELETE FROM other")
    assert "Warning" not in project.manage("resetdb", "--to", "migrated", "--no-input").must_pass().stderr


@pytest.mark.postgresql
@pytest.mark.parametrize("seconds", [0.8, 1.4, 2.0])
def test_killed_at_any_moment_it_has_changed_nothing_or_everything(
    make_pair: Callable[..., Any], seconds: float
) -> None:
    project, used, fresh = make_pair([HARD["many rows"][0]])
    used.execute(HARD["many rows"][1])
    before = state(used)
    command = [sys.executable, "manage.py", "resetdb", "--to", "migrated", "--no-input"]
    process = subprocess.Popen(
        command,
        cwd=project.directory,
        env=project.full_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while used.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert state(used) in (before, fresh)
    project.manage("resetdb", "--to", "migrated", "--no-input").must_pass()
    assert state(used) == fresh


@pytest.mark.postgresql
def test_a_role_without_createdb_is_told_what_it_lacks(make_pair: Callable[..., Any]) -> None:
    project, used, fresh = make_pair(["SELECT 1"])
    with used.superuser() as session:
        session.execute("DROP ROLE IF EXISTS testdb_no_createdb")
        session.execute("CREATE ROLE testdb_no_createdb LOGIN")
        session.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO testdb_no_createdb")
        session.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO testdb_no_createdb")
    other = write_project(
        project.directory.parent / "other", {**database_settings("used"), "USER": "testdb_no_createdb"}, ["SELECT 1"]
    )
    try:
        run = other.manage("resetdb", "--to", "migrated", "--no-input")
        assert run.returncode == 1
        assert "CREATEDB" in run.stderr
        assert "Traceback" not in run.stderr
        assert state(used) == fresh
    finally:
        with used.superuser() as session:
            session.execute("DROP OWNED BY testdb_no_createdb; DROP ROLE testdb_no_createdb")


# SQLite ---------------------------------------------------------------------------------------------------------------

MADE_SQLITE = [
    "CREATE TABLE node (id INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER REFERENCES node)",
    "INSERT INTO node VALUES (1, 2), (2, 1)",
    """CREATE TABLE "a""b [c] %s" ("x'y", t TEXT, "select" REAL)""",
    """INSERT INTO "a""b [c] %s" VALUES (1, 'a', -0.0), (1.0, 'ü☃' || char(0) || 'x', 0.1), ('1', 'it''s; --', 1e999),
       (x'00ff', '', 1e-320), (NULL, 'line\nline', 123456789.123456789), (9007199254740993, '%s', 1.7976931348623157e308)""",
    "CREATE TABLE keyed (a TEXT, b INT, c, PRIMARY KEY (a, b)) WITHOUT ROWID",
    "INSERT INTO keyed VALUES ('a', 1, 1), ('A', 1, -0.0)",
    "CREATE TABLE told (id INTEGER PRIMARY KEY, n INT, twice INT GENERATED ALWAYS AS (n * 2))",
    "INSERT INTO told (n) VALUES (1), (2)",
    "CREATE TRIGGER tells AFTER DELETE ON told BEGIN INSERT INTO node (parent) VALUES (1); END",
    "CREATE VIRTUAL TABLE words USING fts5(w)",
    "INSERT INTO words VALUES ('one two')",
]
CHANGE_SQLITE = """
    UPDATE node SET parent = NULL; INSERT INTO node (parent) VALUES (2); DELETE FROM told; UPDATE keyed SET c = 0.0;
    UPDATE "a""b [c] %s" SET "select" = 0, t = 'x'; DELETE FROM "a""b [c] %s" WHERE typeof("x'y") = 'integer'; DELETE FROM words;
    INSERT INTO words VALUES ('three'); INSERT INTO shop_shelf (name) VALUES ('mine')
"""


@pytest.fixture
def sqlite_pair(tmp_path: Path) -> tuple[Project, Path, dict[str, Any]]:
    paths = [tmp_path / "fresh.sqlite3", tmp_path / "used.sqlite3"]
    for path in paths:
        settings = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}
        project = write_project(tmp_path / path.stem, settings, MADE_SQLITE)
        project.manage("migrate", "--verbosity", "0").must_pass()
    return project, paths[1], state_of_file(paths[0])


def change_file(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as session:
        session.executescript(CHANGE_SQLITE)
        session.commit()


def test_a_file_is_as_a_fresh_migrate_makes_it(sqlite_pair: tuple[Project, Path, dict[str, Any]]) -> None:
    project, path, fresh = sqlite_pair
    change_file(path)
    changed = state_of_file(path)
    assert changed != fresh
    there = set(path.parent.rglob("*.sqlite3"))
    printed = project.manage("resetdb", "--to", "migrated", "--sql").must_pass().stdout
    shown = project.manage("resetdb", "--to", "migrated", "--dry-run").must_pass().stdout
    assert "main.shop_shelf" in shown
    assert state_of_file(path) == changed
    project.manage("resetdb", "--to", "migrated", "--no-input").must_pass()
    assert state_of_file(path) == fresh
    assert "Nothing to do" in project.manage("resetdb", "--to", "migrated", "--dry-run").must_pass().stdout
    assert set(path.parent.glob("*.sqlite3")) == {each for each in there if each.parent == path.parent}
    change_file(path)
    subprocess.run(["sqlite3", "-bail", str(path)], input=printed, text=True, check=True)
    assert state_of_file(path) == fresh


IN_MEMORY = """
import django; django.setup()
from django.core.management import call_command
from django.db import connection
from shop.models import Shelf
from testdb_app.creation.migrated import MigratedResetter
call_command("migrate", verbosity=0)
with connection.cursor() as cursor:
    cursor.execute("DELETE FROM told")
    Shelf.objects.create(name="mine")
    report = MigratedResetter().reset()
    cursor.execute("SELECT count(*) FROM told")
    print(report.permitted_by, cursor.fetchone()[0], Shelf.objects.count())
    cursor.execute("SELECT count(*) FROM sqlite_temp_master")
    print(cursor.fetchone()[0], connection.settings_dict["NAME"])
"""


def test_a_database_in_memory_is_reset_and_not_lost(tmp_path: Path) -> None:
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    project = write_project(tmp_path / "memory", database, MADE_SQLITE)
    run = project.run("-c", IN_MEMORY, DJANGO_SETTINGS_MODULE="settings").must_pass()
    assert run.stdout == "in-memory 2 0\n0 :memory:\n"


def test_another_schema_of_a_file_is_refused_by_name(sqlite_pair: tuple[Project, Path, dict[str, Any]]) -> None:
    project, path, _ = sqlite_pair
    with contextlib.closing(sqlite3.connect(path)) as session:
        session.executescript("ALTER TABLE keyed ADD d; CREATE TABLE extra (id); INSERT INTO extra VALUES (1)")
    before = state_of_file(path)
    run = project.manage("resetdb", "--to", "migrated", "--no-input")
    assert run.returncode == 1
    assert "table main.extra has 1 rows, and migrate does not make it; table main.keyed has changed (+ d)" in run.stderr
    assert state_of_file(path) == before
