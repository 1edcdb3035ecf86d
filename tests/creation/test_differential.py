"""A clone equals the database that stock Django makes, but for our own schema and our comment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from testdb_app.creation.postgresql_store import cut
from tests.creation.projects import TemplateProject
from tests.real.loading import FOLDER, NAMES, find_client, run_client, skip_without
from tests.scratch import connect_as_superuser

pytestmark = pytest.mark.postgresql

# pg_dump of August 2025 and later writes a random word there.
_VARYING = re.compile(r"^\\(un)?restrict .*\n|^--.*\n|^COMMENT ON DATABASE \S+ IS 'testdb clone .*\n|^\n", re.MULTILINE)

PROPERTIES = """
SELECT d.datallowconn, d.datistemplate, d.datconnlimit, d.encoding, d.datcollate, d.datctype, d.datcollversion,
       pg_get_userbyid(d.datdba), d.dattablespace,
       ARRAY(SELECT a::text FROM unnest(d.datacl) a ORDER BY 1),
       ARRAY(SELECT concat(coalesce(r.rolname, ''), ' ', s.setconfig) FROM pg_db_role_setting s
               LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE s.setdatabase = d.oid ORDER BY 1)
  FROM pg_database d WHERE d.datname = %s::name
"""
# What pg_dump leaves out, or what decides where the next row is.
CATALOG = """
SELECT 'class', c.oid::regclass::text, c.relkind::text, c.relpersistence::text, c.reltablespace, c.relreplident::text,
       c.relhasindex, c.relispopulated, c.relfrozenxid = '0', ARRAY(SELECT unnest(c.reloptions) ORDER BY 1)::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema', 'testdb')
 ORDER BY 2
"""


def describe(name: str) -> dict[str, Any]:
    """Return all of a database: pg_dump's text of it, and what that leaves out."""
    with connect_as_superuser(name) as connection:
        properties = connection.execute(PROPERTIES, [name]).fetchone()
        catalog = connection.execute(CATALOG).fetchall()
        sequences = {}
        for _kind, relation, relkind, *_ in catalog:
            if relkind == "S" and "django_migrations" not in relation:
                sequences[relation] = connection.execute(f"SELECT last_value, is_called FROM {relation}").fetchone()
        large = connection.execute(
            "SELECT loid::int8, md5(string_agg(data, '' ORDER BY pageno)) FROM pg_largeobject GROUP BY 1 ORDER BY 1"
        ).fetchall()
        text = run_client(
            "pg_dump", connection, "--create", "--exclude-schema=testdb", "--exclude-table-data=*.django_migrations"
        )
        migrations = []
        if connection.execute("SELECT to_regclass('django_migrations') IS NOT NULL").fetchone() == (True,):
            migrations = connection.execute("SELECT id, app, name FROM django_migrations ORDER BY 1").fetchall()
    lines = _VARYING.sub("", text).replace(name, "THE_DATABASE").splitlines()
    grants = [line for line in lines if line.startswith(("GRANT", "REVOKE")) and " ON DATABASE " in line]
    return {
        "properties": properties,
        "catalog": catalog,
        "sequences": sequences,
        "large objects": large,
        "migrations": migrations,
        "grants": sorted(grants),  # their order says nothing
        "text": [line for line in lines if line not in grants],
    }


def must_be_as_stock(project: TemplateProject, *, hits: int = 1, **environment: str) -> None:
    """Make the test database in stock, then as a clone of a new template, then of that template again; compare them."""
    name = cut(project.test_name)
    project.tests("--reuse-db", "--create-db", "--no-testdb-templates", **environment)
    stock = describe(name)
    project.as_superuser("DROP DATABASE {}", name)
    for round_ in range(1 + hits):
        ran = project.tests("--reuse-db", **environment)
        assert ran.builds == (round_ == 0), ran.text
        ours = describe(name)
        for what, expected in stock.items():
            assert ours[what] == expected, what
        project.as_superuser("DROP DATABASE {}", name)


STRANGE = r"""
CREATE SCHEMA "Strange Schema";
CREATE TYPE "Strange Schema".mood AS ENUM ('sad', 'glad');
CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
CREATE TABLE "Strange Schema"."a.b" (
    id bigint GENERATED ALWAYS AS IDENTITY (START 5 INCREMENT 3), mood "Strange Schema".mood DEFAULT 'sad', share percent,
    double int GENERATED ALWAYS AS (share * 2) STORED, words tsvector, PRIMARY KEY (id));
INSERT INTO "Strange Schema"."a.b" (share, words) SELECT n, to_tsvector('simple', 'a b') FROM generate_series(1, 20) n;
DELETE FROM "Strange Schema"."a.b" WHERE share > 10;
COMMENT ON TABLE "Strange Schema"."a.b" IS 'strange';
CREATE UNLOGGED TABLE fast (id int); INSERT INTO fast VALUES (1), (2);
CREATE TABLE measured (at date, n int) PARTITION BY RANGE (at);
CREATE TABLE measured_old PARTITION OF measured FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE measured_new PARTITION OF measured DEFAULT;
INSERT INTO measured VALUES ('2019-01-01', 1), ('2021-01-01', 2);
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM measured;
CREATE SEQUENCE odd START 7 INCREMENT 2; SELECT nextval('odd'), nextval('odd');
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER notes AFTER INSERT ON fast FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE fast DISABLE TRIGGER notes;
ALTER TABLE measured ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON measured USING (n > 1);
CREATE STATISTICS related ON at, n FROM measured_new;
CREATE RULE silent AS ON DELETE TO fast DO INSTEAD NOTHING;
CREATE AGGREGATE product (int) (sfunc = int4mul, stype = int, initcond = '1');
CREATE COLLATION numeric_c FROM "C";
CREATE PUBLICATION told FOR TABLE measured_new;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
GRANT SELECT ON fast TO PUBLIC;
REVOKE CREATE ON SCHEMA "Strange Schema" FROM PUBLIC;
SELECT lo_from_bytea(4711, 'large'); COMMENT ON LARGE OBJECT 4711 IS 'of a migration';
ALTER TABLE shop_book ALTER COLUMN title SET STORAGE EXTERNAL, ALTER COLUMN title SET STATISTICS 5;
CLUSTER shop_book USING shop_book_pkey;
DO $do$
DECLARE database text := current_database();
BEGIN
    EXECUTE format('ALTER DATABASE %I SET search_path TO "$user", public, "Strange Schema", "quo""ted", "com,ma"', database);
    EXECUTE format('ALTER DATABASE %I SET timezone TO %L', database, 'Pacific/Fiji');
    EXECUTE format('ALTER DATABASE %I SET datestyle TO %L', database, 'German, DMY');
    EXECUTE format('ALTER DATABASE %I SET work_mem TO %L', database, '5MB');
    EXECUTE format('ALTER DATABASE %I SET temp_tablespaces TO %L', database, '');
    EXECUTE format('ALTER DATABASE %I SET application_name TO %L', database, E'it''s = "a" \\ 100%');
    EXECUTE format('ALTER ROLE %I IN DATABASE %I SET statement_timeout TO %L', current_user, database, '1h');
    EXECUTE format('ALTER ROLE %I IN DATABASE %I SET search_path TO public', current_user, database);
    EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 7', database);
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', database);
    EXECUTE format('GRANT CREATE ON DATABASE %I TO PUBLIC', database);
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO pg_monitor WITH GRANT OPTION', database);
    {comment}
END $do$
"""
COMMENT = "EXECUTE format('COMMENT ON DATABASE %I IS %L', database, E'it''s of a \"migration\", ümläut 100%');"


@pytest.mark.parametrize("comment", ["", COMMENT], ids=["no comment", "a comment"])
def test_everything_that_a_migration_can_make(project: TemplateProject, comment: str) -> None:
    project.write("shop/strange.sql", STRANGE.replace("{comment}", comment))
    project.add_migration(
        "0003_strange",
        "migrations.RunPython(run)",
        head=(
            "from pathlib import Path\ndef run(apps, editor):\n"
            "    with editor.connection.cursor() as cursor:\n"
            "        cursor.execute((Path(__file__).parents[1] / 'strange.sql').read_text(), None)\n"
        ),
    )
    must_be_as_stock(project)


def test_the_demonstration(project: TemplateProject) -> None:
    project.add_settings("\nINSTALLED_APPS += ['testdb_app.demo', 'django.contrib.sites', 'django.contrib.sessions']\n")
    must_be_as_stock(project)


def test_after_each_change(project: TemplateProject) -> None:
    must_be_as_stock(project)
    project.replace("shop/deeper.py", "1", "2")
    must_be_as_stock(project, hits=0)
    project.add_migration("0003_more", "migrations.AddField('Book', 'pages', models.IntegerField(null=True))")
    must_be_as_stock(project, hits=0)
    must_be_as_stock(project, hits=0, COLOURS="blue,pink")
    project.replace("legacy/models.py", "max_length=10", "max_length=11")
    must_be_as_stock(project, hits=0)


LOADING = """
import os, subprocess
from django.db import migrations

def load(apps, editor):
    editor.execute("DROP TABLE django_migrations")  # it is in the dump
    for name in ({schema!r}, {rows!r}):
        done = subprocess.run(
            [{psql!r}, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", name],
            env={{**os.environ, **{where!r}, "PGDATABASE": editor.connection.settings_dict["NAME"]}},
            capture_output=True, text=True,
        )
        assert done.returncode == 0, done.stderr

class Migration(migrations.Migration):
    atomic = False
    initial = True
    operations = [migrations.RunPython(load)]
"""


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_a_real_schema(project: TemplateProject, name: str) -> None:
    with connect_as_superuser("postgres") as connection:
        skip_without(name, connection)
        info = connection.info
        where = {"PGHOST": str(info.host), "PGPORT": str(info.port), "PGUSER": project.role}
    # What is loaded switches session_replication_role.
    project.as_superuser("ALTER ROLE {} SUPERUSER", project.role)
    files = {kind: str(Path(FOLDER, f"{name}{kind}.sql")) for kind in ("", ".data")}
    text = LOADING.format(schema=files[""], rows=files[".data"], psql=find_client("psql"), where=where)
    project.write("loaded/__init__.py", "")
    project.write("loaded/migrations/__init__.py", "")
    project.write("loaded/migrations/0001_initial.py", text)
    # The tables of Django's own apps are in the dump.
    project.add_settings("\nINSTALLED_APPS = ['testdb_app', 'loaded']\nMIGRATION_MODULES = {'contenttypes': None}\n")
    project.write(
        "test_finds.py",
        "import pytest\n@pytest.mark.django_db\ndef test_it():\n    pass\n",
    )
    must_be_as_stock(project)
