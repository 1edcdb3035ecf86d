"""A superuser in a database of somebody else's runs nothing of what that somebody has put there for it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from django.contrib.sites.models import Site
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from psycopg.conninfo import conninfo_to_dict

from testdb_app import guard
from testdb_app.backends import get_backend
from testdb_app.baseline import capture_baseline
from testdb_app.data import DataLedger, assert_clean, assert_constraints, assert_sequences_ahead, bulk, diff, snapshot
from testdb_app.database_setup import lacks_rows, prepare_test_database, restart_sequences
from testdb_app.exceptions import DependentRowsError
from testdb_app.plugin.reporting import LeakFinder
from testdb_app.resetter import Resetter
from testdb_app.sessions import TestSessionFactory
from testproject.embedded import superuser_dsn
from tests.scratch import ScratchDatabase

TABLES = """
CREATE SCHEMA shop;
CREATE TABLE shop.shelf (id serial PRIMARY KEY, name text NOT NULL);
CREATE TABLE shop.item (id bigserial PRIMARY KEY, shelf_id integer NOT NULL REFERENCES shop.shelf DEFERRABLE INITIALLY DEFERRED,
                        code varchar(9), UNIQUE (code) DEFERRABLE);
CREATE TABLE shop.note (body text, weight numeric);
CREATE TABLE shop.part (shelf_id integer, place uuid, PRIMARY KEY (shelf_id, place));
CREATE MATERIALIZED VIEW shop.names AS SELECT name FROM shop.shelf;
INSERT INTO shop.shelf (name) VALUES ('one'), ('two');
INSERT INTO shop.item (shelf_id, code) VALUES (1, 'a'), (2, 'b');
INSERT INTO shop.note VALUES ('same', 1), ('same', 1);
INSERT INTO shop.part VALUES (1, '00000000-0000-0000-0000-000000000001');
"""
WRITES = """
INSERT INTO shop.shelf (name) VALUES ('three');
INSERT INTO shop.note VALUES ('other', 2);
INSERT INTO shop.part VALUES (2, '00000000-0000-0000-0000-000000000002')
"""
# Each operator of the catalog whose operands have a type, by a function that the server counts the calls of.
OPERATORS = """
DO $do$
DECLARE o record; n integer := 0;
BEGIN
    FOR o IN SELECT p.oprname, pg_catalog.format_type(p.oprleft, NULL) AS l, pg_catalog.format_type(p.oprright, NULL) AS r,
                    pg_catalog.format_type(p.oprresult, NULL) AS result
               FROM pg_operator p JOIN pg_type a ON a.oid = p.oprleft JOIN pg_type b ON b.oid = p.oprright
              WHERE p.oprname IN ('=', '<>', '<', '>', '<=', '>=', '||', '~', '!~', '~~', '!~~', '+', '-', '*', '/', '%', '->>')
                AND a.typtype = 'b' AND b.typtype = 'b'
    LOOP
        n := n + 1;
        EXECUTE pg_catalog.format('CREATE FUNCTION trap.f%s(a %s, b %s) RETURNS %s LANGUAGE plpgsql AS '
            '$f$BEGIN RETURN a OPERATOR(pg_catalog.%s) b; END$f$', n, o.l, o.r, o.result, o.oprname);
        EXECUTE pg_catalog.format('CREATE OPERATOR trap.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = trap.f%s)',
            o.oprname, o.l, o.r, n);
    END LOOP;
END$do$;
CREATE FUNCTION trap.sprung(value anyelement) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RETURN true; END$$;
CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RETURN pg_catalog.now(); END$$;
CREATE FUNCTION trap.current_database() RETURNS pg_catalog.name LANGUAGE plpgsql AS
    $$BEGIN RETURN pg_catalog.current_database(); END$$;
CREATE FUNCTION trap.nextval(s pg_catalog.regclass) RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RETURN pg_catalog.nextval(s); END$$;
CREATE FUNCTION trap.format_type(t pg_catalog.oid, m integer) RETURNS pg_catalog.text LANGUAGE plpgsql AS
    $$BEGIN RETURN pg_catalog.format_type(t, m); END$$;
"""
TYPES = "".join(
    f'CREATE DOMAIN trap."{name}" AS pg_catalog."{name}" CHECK (trap.sprung(VALUE));\n'
    for name in (
        "text",
        "name",
        "oid",
        "regclass",
        "regtype",
        "jsonb",
        "xid8",
        "int2",
        "int4",
        "int8",
        "bool",
        "float8",
    )
)


@pytest.fixture
def trapped(scratch: ScratchDatabase) -> Iterator[ScratchDatabase]:
    """A database whose search path begins with a schema of traps, and the alias ``root`` of a superuser there."""
    scratch.execute(TABLES)
    scratch.execute("CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO PUBLIC;" + OPERATORS + TYPES)
    scratch.execute(f'ALTER DATABASE "{scratch.name}" SET search_path = trap, pg_catalog, public, shop')
    parameters = conninfo_to_dict(superuser_dsn(scratch.name))
    scratch.register(
        "root", **{name.upper(): parameters.get(name, "") for name in ("host", "port", "user", "password")}
    )
    with scratch.superuser() as connection:
        connection.execute(f"ALTER DATABASE \"{scratch.name}\" SET track_functions = 'all'")
    yield scratch


def find_sprung(database: ScratchDatabase) -> list[Any]:
    """Return the traps that were called, by the server's own count, in all sessions that have ended."""
    for alias in ("root", "scratch"):
        connections[alias].close()
    with database.superuser() as connection:
        return connection.execute(
            "SELECT s.funcname, pg_catalog.pg_get_function_arguments(s.funcid), s.calls "
            "FROM pg_catalog.pg_stat_user_functions s WHERE s.schemaname OPERATOR(pg_catalog.=) 'trap' ORDER BY 1"
        ).fetchall()


def run(alias: str, statements: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(statements, None)


def show(alias: str, setting: str) -> Any:
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SHOW {setting}")
        return cursor.fetchone()


def manage(*arguments: str) -> None:
    with suppress(CommandError, SystemExit):
        call_command(*arguments, "--database", "root", stdout=io.StringIO(), stderr=io.StringIO())


def test_the_traps_are_sprung_by_what_is_not_qualified(trapped: ScratchDatabase) -> None:
    run("root", "SELECT relname = 'x', oid::text, now() FROM pg_catalog.pg_class WHERE oid > 0 LIMIT 1")
    sprung = {name for name, *_ in find_sprung(trapped)}
    assert {"now", "sprung"} < sprung
    assert any(name.startswith("f") for name in sprung)


def test_no_command_calls_what_the_search_path_offers(trapped: ScratchDatabase) -> None:
    allow = ("--allow-database", trapped.name)
    for form in ("tree", "order", "json", "dot", "mermaid", "html"):
        manage("showdeps", "--format", form)
    manage("showdeps", "--count-rows", "--cycles")
    for arguments in (
        ("--no-input",),  # refused
        ("--dry-run",),
        ("--mark-protected",),
        ("--no-input",),  # refused
        ("--unmark-protected",),
        ("--mark-test",),
        ("--capture", *allow),
        ("--dry-run", "--format", "json"),
        ("--sql",),
        ("--no-input", *allow),
        ("--recapture", *allow),
        ("--no-input", "--strategy", "delete", "--to", "empty", *allow),
        ("--no-input", "shop.i*", *allow),
        ("--no-input", "--to", "baseline", *allow),
        ("--drop-baseline", *allow),
        ("--no-input", "--strategy", "truncate", *allow),
        ("--unmark-test",),
    ):
        manage("resetdb", *{**dict.fromkeys(arguments), "--no-input": None})
    assert trapped.count("shop.shelf") == 0
    assert find_sprung(trapped) == []


@pytest.mark.parametrize("to", ["baseline", "empty"])
def test_no_reset_calls_what_the_search_path_offers(trapped: ScratchDatabase, to: str) -> None:
    capture_baseline("root", allow_database=trapped.name)
    resetter = Resetter("root", to=to, allow_database=trapped.name)
    for _ in range(4):
        run("root", WRITES)
        assert resetter.reset().tables
    run("root", WRITES)
    resetter.plan()
    resetter.reset()
    resetter.reset()
    with transaction.atomic(using="root"):
        run("root", WRITES)
        run(
            "root",
            "CREATE TEMPORARY TABLE pg_class (oid pg_catalog.int4); CREATE TEMPORARY TABLE text (a pg_catalog.int4)",
        )
        path = show("root", "search_path")
        Resetter("root", to=to, allow_database=trapped.name, within_transaction=True).reset()
        assert show("root", "search_path") == path
    resetter.reset()
    assert trapped.count("shop.shelf") == (2 if to == "baseline" else 0)
    assert find_sprung(trapped) == []


def test_no_helper_of_the_data_calls_what_the_search_path_offers(trapped: ScratchDatabase) -> None:
    capture_baseline("root", allow_database=trapped.name)
    run("root", "UPDATE shop.note SET body = NULL; CREATE TEMPORARY TABLE name (a pg_catalog.int4)")
    with snapshot(using="root") as before:
        run("root", WRITES)
        assert len(diff(before).tables) == 3
        with snapshot(using="root") as after:
            assert len(before.diff(after).tables) == 3
    with pytest.raises(AssertionError):
        assert_clean("root", sequences=True)
    assert_constraints("root")
    assert_sequences_ahead("root")
    backend = get_backend(connections["root"])
    with transaction.atomic(using="root"):
        assert_constraints("root")
        backend.data.read_schema(connections["root"], backend.read_schema(connections["root"]))
    position, _ = backend.look_for_commits(connections["root"], None)
    trapped.execute("INSERT INTO shop.note VALUES ('more')")
    assert backend.look_for_commits(connections["root"], position)[1]
    assert find_sprung(trapped) == []


SITES = """
CREATE TABLE shop.django_site (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, domain varchar(100) UNIQUE,
                               name varchar(50));
CREATE TABLE shop.site_note (id serial PRIMARY KEY, site_id integer REFERENCES shop.django_site, body varchar(9));
INSERT INTO shop.django_site (domain, name) VALUES ('example.com', 'example')
"""


@pytest.mark.parametrize("dependents", ["refuse", "take"])
def test_no_ledger_calls_what_the_search_path_offers(trapped: ScratchDatabase, dependents: str) -> None:
    trapped.execute(SITES)
    allow = {"using": "root", "allow_database": trapped.name}
    bulk(Site, [{"domain": f"{number}.example", "name": "many"} for number in range(3)], **allow)
    ledger = DataLedger(**allow, dependents=dependents)
    assert ledger.bulk(Site, [{"domain": f"{number}.test", "name": "ours"} for number in range(3)]) == 3
    run("root", "INSERT INTO shop.django_site (id, domain, name) VALUES (50, 'fifty.test', 'ours')")
    # A query of Django's would take its operator from the search path.
    ledger.register(Site.from_db("root", ("id", "domain", "name"), (50, "fifty.test", "ours")))
    trapped.execute("INSERT INTO shop.site_note (site_id, body) VALUES (50, 'ours')")
    with pytest.raises(DependentRowsError) if dependents == "refuse" else nullcontext():
        ledger.teardown()
    assert trapped.count("shop.django_site") == (8 if dependents == "refuse" else 4)
    assert find_sprung(trapped) == []


def test_nothing_that_looks_for_leaks_calls_what_the_search_path_offers(
    trapped: ScratchDatabase, django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_trusted_names", {"root": {trapped.name}})
    backend = get_backend(connections["root"])
    start = backend.note_start(connections["root"])
    assert backend.is_unwritten(connections["root"], start)
    prepare_test_database("root")
    finder = LeakFinder(["root"], django_db_blocker, fails=True)
    try:
        run("root", WRITES)
        trapped.execute("CREATE TABLE shop.left (id integer)")
        assert len(finder.find_leaks()) == 2
        lacks_rows("root")
        restart_sequences("root")
    finally:
        finder.stop()
    assert find_sprung(trapped) == []


def test_no_session_calls_what_the_search_path_offers(trapped: ScratchDatabase) -> None:
    for isolation in ("rollback", "reset"):
        factory = TestSessionFactory(databases="root", allow_database=trapped.name, isolation=isolation)
        with factory("one") as session, session.connection.cursor() as cursor:
            cursor.execute(WRITES, None)
        factory.close()
    backend = get_backend(connections["root"])
    for _ in range(3):
        connections["root"].ensure_connection()
        backend.renew_session(connections["root"], mode="auto")
    assert find_sprung(trapped) == []
