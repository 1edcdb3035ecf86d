"""A superuser runs nothing of what somebody else has put into the app's own schema."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from django.db import connections
from psycopg.conninfo import conninfo_to_dict

from testdb_app.baseline import capture_baseline
from testdb_app.baseline_state import to_document
from testdb_app.exceptions import BaselineError, UnsafeDatabaseError
from testdb_app.resetter import Resetter
from testdb_app.schema import QualifiedName
from testproject.embedded import superuser_dsn
from tests.scratch import ScratchDatabase

TABLES = """
CREATE SCHEMA shop;
CREATE TABLE shop.shelf (id serial PRIMARY KEY, name text NOT NULL);
CREATE TABLE shop.note (body text, weight numeric);
INSERT INTO shop.shelf (name) VALUES ('one'), ('two');
INSERT INTO shop.note VALUES ('same', 1), ('same', 1);
"""
WRITES = "INSERT INTO shop.shelf (name) VALUES ('three'); INSERT INTO shop.note VALUES ('other', 2)"


@pytest.fixture
def rooted(scratch: ScratchDatabase) -> ScratchDatabase:
    """A database of an ordinary role, and the alias ``root`` of a superuser there."""
    scratch.execute(TABLES)
    parameters = conninfo_to_dict(superuser_dsn(scratch.name))
    scratch.register(
        "root", **{name.upper(): parameters.get(name, "") for name in ("host", "port", "user", "password")}
    )
    return scratch


def run(alias: str, statements: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(statements, None)


FAULTS = {
    "the schema is another's": ("ALTER SCHEMA testdb OWNER TO {role}", "the schema testdb belongs to the role"),
    "a table is another's": ("ALTER TABLE testdb.baseline_1 OWNER TO {role}", "testdb.baseline_1 belongs to the role"),
    "a view in place of a table": (
        "ALTER TABLE testdb.baseline RENAME TO was; CREATE VIEW testdb.baseline AS SELECT * FROM testdb.was",
        "testdb.baseline is no table",
    ),
    "a trigger": (
        (
            "CREATE FUNCTION testdb.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';"
            "CREATE TRIGGER t BEFORE UPDATE ON testdb.baseline FOR EACH ROW EXECUTE FUNCTION testdb.f()"
        ),
        "testdb.baseline has a trigger",
    ),
    "a rule": ("CREATE RULE r AS ON DELETE TO testdb.baseline_1 DO ALSO SELECT 1", "testdb.baseline_1 has a rule"),
    "a policy": ("ALTER TABLE testdb.baseline_1 ENABLE ROW LEVEL SECURITY", "testdb.baseline_1 has row security"),
    "a child": (
        "CREATE TABLE public.child () INHERITS (testdb.baseline_1)",
        "testdb.baseline_1 has a parent or a child",
    ),
    "a default with a function": (
        (
            "CREATE FUNCTION testdb.f() RETURNS integer LANGUAGE sql AS 'SELECT 1';"
            "ALTER TABLE testdb.baseline ADD more integer DEFAULT testdb.f()"
        ),
        "testdb.baseline calls a function",
    ),
    "a check with a function": (
        (
            "CREATE FUNCTION testdb.f() RETURNS boolean LANGUAGE sql AS 'SELECT true';"
            "ALTER TABLE testdb.baseline ADD CHECK (testdb.f())"
        ),
        "testdb.baseline calls a function",
    ),
    "another's table of any name": (
        "CREATE TABLE testdb.more (); ALTER TABLE testdb.more OWNER TO {role}",
        "testdb.more belongs to the role",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_app_did_not_make_in_its_schema_is_refused(rooted: ScratchDatabase, fault: str) -> None:
    capture_baseline("root", allow_database=rooted.name)
    resetter = Resetter("root", to="baseline", allow_database=rooted.name)
    run("root", WRITES)
    resetter.reset()
    role = connections.settings["default"]["USER"]
    statements, reason = FAULTS[fault]
    with rooted.superuser() as connection:
        connection.execute(statements.replace("{role}", f'"{role}"'))
    run("root", "INSERT INTO shop.note VALUES ('more')")
    before = rooted.query("SELECT body FROM shop.note ORDER BY body")
    # A resetter that has read the document needs only the copies.
    remembering = [] if "baseline calls" in reason else [resetter.reset]
    for act in (
        *remembering,
        Resetter("root", allow_database=rooted.name).reset,
        Resetter("root", allow_database=rooted.name).plan,
        lambda: capture_baseline("root", allow_database=rooted.name, replace=True),
    ):
        with pytest.raises(UnsafeDatabaseError, match="the app's own") as caught:
            act()
        assert caught.value.rule == "own-schema"
        assert reason in caught.value.message
    assert rooted.query("SELECT body FROM shop.note ORDER BY body") == before


def test_a_schema_of_somebody_else_without_a_baseline_is_refused_too(rooted: ScratchDatabase) -> None:
    rooted.execute("CREATE SCHEMA testdb")
    for to in (None, "empty"):
        with pytest.raises(UnsafeDatabaseError, match="the schema testdb belongs to the role"):
            Resetter("root", to=to, allow_database=rooted.name).reset()
    with pytest.raises(UnsafeDatabaseError, match="the schema testdb belongs to the role"):
        capture_baseline("root", allow_database=rooted.name)
    assert rooted.count("shop.shelf") == 2


def test_what_a_superuser_has_made_serves_an_ordinary_role(rooted: ScratchDatabase) -> None:
    capture_baseline("root", allow_database=rooted.name)
    with rooted.superuser() as connection:
        connection.execute(
            "GRANT USAGE ON SCHEMA testdb TO PUBLIC; GRANT SELECT ON ALL TABLES IN SCHEMA testdb TO PUBLIC"
        )
    rooted.execute(WRITES)
    rooted.reset(to="baseline")
    assert rooted.count("shop.shelf") == 2


def test_a_document_that_leads_out_of_the_schema_is_refused(rooted: ScratchDatabase) -> None:
    """Its digest proves nothing here: who can write the document can write the digest."""
    baseline = capture_baseline("root", allow_database=rooted.name)
    elsewhere = {
        name: replace(table, copy=QualifiedName(table.copy.schema, "view")) for name, table in baseline.tables.items()
    }
    forged = json.dumps(to_document(replace(baseline, tables=elsewhere)))
    with rooted.superuser() as connection:
        connection.execute("UPDATE testdb.baseline SET document = %s", [forged])
    with pytest.raises(BaselineError, match="tampered"):
        Resetter("root", to="baseline", allow_database=rooted.name).reset()
