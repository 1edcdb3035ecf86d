"""The marks inside a database: what they do, what they survive, what they leave behind."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from psycopg import sql

from testdb_app import guard
from testdb_app.backends import get_backend
from testdb_app.backends.base import Mark
from testdb_app.exceptions import ExclusionError, UnsafeDatabaseError
from testdb_app.resetter import Resetter
from testproject.embedded import shared_server
from tests.guard.conftest import content
from tests.scratch import ScratchDatabase, connect_as_superuser, default_parameters

Make = Callable[..., ScratchDatabase]


def set_mark(option: str, alias: str = "scratch") -> None:
    call_command("resetdb", f"--{option}", "--no-input", database=alias, stdout=io.StringIO())


def refused_by(alias: str, **options: Any) -> str:
    with pytest.raises(UnsafeDatabaseError) as caught:
        Resetter(alias, **options).reset()
    return caught.value.rule


def marks(alias: str = "scratch") -> frozenset[Mark]:
    return Resetter(alias).identify().marks


def program(name: str) -> str:
    if "DATABASE_URL" not in os.environ:
        return str(shared_server().installation.program(name))
    return shutil.which(name) or pytest.skip(f"{name} is not on the path")


def run_program(name: str, database: str, *arguments: str, feed: str = "") -> str:
    environment = {f"PG{key.upper()}": str(value) for key, value in default_parameters().items()}
    done = subprocess.run(
        [program(name), "--dbname", database, *arguments],
        env={**os.environ, **environment},
        input=feed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def dump(database: ScratchDatabase, *arguments: str) -> str:
    lines = run_program("pg_dump", database.name, *arguments).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict")))  # a random word


def restore(text: str, database: ScratchDatabase) -> None:
    run_program("psql", database.name, "--quiet", "--set=ON_ERROR_STOP=1", feed=text)


@pytest.mark.parametrize("options", [(), ("--no-comments",), ("--no-owner", "--no-privileges"), ("--schema-only",)])
def test_a_protected_database_stays_protected_through_a_dump(
    filled: ScratchDatabase, make_scratch: Make, options: tuple[str, ...]
) -> None:
    set_mark("mark-protected")
    copy = make_scratch("copy")
    restore(dump(filled, *options), copy)
    rows = content(copy)
    assert refused_by("copy", allow_database=copy.name) == "protected"
    assert content(copy) == rows


def test_a_template_copy_of_a_protected_database_is_protected(filled: ScratchDatabase, make_scratch: Make) -> None:
    set_mark("mark-protected")
    filled.connection.close()
    copy = make_scratch("copy", template=filled.name)
    assert refused_by("copy", allow_database=copy.name) == "protected"
    assert copy.count("item") == 3


def test_protection_beats_every_permission(
    filled: ScratchDatabase, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_trusted_names", {"scratch": {filled.name}})
    settings.TESTDB = {"ALLOWED_DATABASES": [filled.name]}
    set_mark("mark-test")
    assert Resetter("scratch", allow_database=filled.name).check_may_reset() == "marked-as-test"
    set_mark("mark-protected")
    assert marks() == {Mark.PROTECTED, Mark.TEST}
    assert refused_by("scratch", allow_database=filled.name) == "protected"
    assert filled.count("item") == 3


def test_the_refusal_names_the_command_that_takes_the_mark_away(filled: ScratchDatabase) -> None:
    set_mark("mark-protected")
    with pytest.raises(UnsafeDatabaseError, match=r"resetdb --database scratch --unmark-protected\.\Z"):
        filled.reset()
    set_mark("unmark-protected")
    assert filled.reset().rows == 5


def test_a_test_mark_permits_without_a_name(filled: ScratchDatabase) -> None:
    set_mark("mark-test")
    assert Resetter("scratch").reset().permitted_by == "marked-as-test"
    assert filled.count("item") == 0
    assert marks() == {Mark.TEST}, "the reset took the mark away"


def test_a_test_mark_holds_only_under_its_own_name(filled: ScratchDatabase, make_scratch: Make) -> None:
    set_mark("mark-test")
    filled.connection.close()
    by_template = make_scratch("by_template", template=filled.name)
    by_dump = make_scratch("by_dump")
    restore(dump(filled), by_dump)
    for copy in (by_template, by_dump):
        assert refused_by(copy.alias) == "unknown"
        assert copy.count("item") == 3


def rename(database: ScratchDatabase, name: str) -> None:
    database.connection.close()
    with connect_as_superuser("postgres") as connection:
        old, new = sql.Identifier(database.name), sql.Identifier(name)
        connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(old, new))
    database.name = database.connection.settings_dict["NAME"] = name


def by_template(source: ScratchDatabase, make_scratch: Make) -> ScratchDatabase:
    source.connection.close()
    return make_scratch("copy", template=source.name)


def by_dump(source: ScratchDatabase, make_scratch: Make) -> ScratchDatabase:
    copy = make_scratch("copy")
    restore(dump(source), copy)
    return copy


@pytest.mark.parametrize("make_copy", [by_template, by_dump])
def test_a_copy_under_the_same_name_is_refused_with_the_reason_and_can_be_marked_anew(
    filled: ScratchDatabase, make_scratch: Make, make_copy: Callable[[ScratchDatabase, Make], ScratchDatabase]
) -> None:
    set_mark("mark-test")
    original = Resetter("scratch").identify().oid
    copy = make_copy(filled, make_scratch)
    rename(filled, f"{filled.name}_old")
    rename(copy, filled.name.removesuffix("_old"))
    with pytest.raises(UnsafeDatabaseError) as caught:
        Resetter("copy").reset()
    assert (caught.value.rule, copy.count("item")) == ("unknown", 3)
    here = Resetter("copy").identify().oid
    expected = f'Its test mark belongs to database "{copy.name}" with OID {original}, and this one has OID {here}: it was copied'
    assert expected in caught.value.message
    assert "or mark it anew with resetdb --database copy --mark-test." in caught.value.message
    set_mark("mark-test", "copy")
    assert Resetter("copy").reset().permitted_by == "marked-as-test"


def binding_of(database: ScratchDatabase) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(database.value("SELECT obj_description('testdb.test'::regclass)"))
    return found


def bind(database: ScratchDatabase, comment: str) -> None:
    text = sql.SQL("COMMENT ON TABLE testdb.test IS {}").format(sql.Literal(comment))
    with database.connect() as connection:
        connection.execute(text)


def test_a_mark_of_another_cluster_is_refused_with_the_reason(filled: ScratchDatabase) -> None:
    # As pg_upgrade leaves it: it keeps names and OIDs, and makes another system identifier.
    set_mark("mark-test")
    bind(filled, json.dumps({**binding_of(filled), "system_identifier": "7000000000000000001"}))
    with pytest.raises(
        UnsafeDatabaseError, match=r"of another cluster: this one was restored .* pg_upgrade.*mark it anew"
    ):
        Resetter("scratch").reset()
    assert filled.count("item") == 3


@pytest.mark.parametrize("comment", ["{name}", "", "null", "[]", '{{"database": "{name}"}}', "17"])
def test_a_mark_of_an_older_format_counts_as_none_and_is_named(filled: ScratchDatabase, comment: str) -> None:
    set_mark("mark-test")
    bind(filled, comment.format(name=filled.name))
    with pytest.raises(UnsafeDatabaseError, match=r"Its test mark has an older format.*mark it anew") as caught:
        Resetter("scratch").reset()
    assert caught.value.rule == "unknown"
    set_mark("mark-test")
    assert Resetter("scratch").reset().permitted_by == "marked-as-test"


def test_a_mark_holds_where_the_system_identifier_may_not_be_read(filled: ScratchDatabase) -> None:
    set_mark("mark-test")
    with filled.superuser() as connection:
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_control_system() FROM PUBLIC")
    filled.connection.close()
    assert Resetter("scratch").check_may_reset() == "marked-as-test"
    bind(filled, json.dumps({**binding_of(filled), "oid": 1}))
    assert refused_by("scratch") == "unknown"
    set_mark("mark-test")
    assert binding_of(filled)["system_identifier"] == ""
    assert Resetter("scratch").reset().permitted_by == "marked-as-test"


def test_the_command_says_where_a_mark_is_bound_to_the_oid_alone(filled: ScratchDatabase) -> None:
    with filled.superuser() as connection:
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_control_system() FROM PUBLIC")
    out = io.StringIO()
    call_command("resetdb", "--mark-test", "--no-input", database="scratch", stdout=out)
    assert "may not read the cluster's system identifier (pg_control_system())" in " ".join(out.getvalue().split())


def test_a_test_mark_does_not_survive_a_new_name(filled: ScratchDatabase) -> None:
    set_mark("mark-test")
    filled.connection.close()
    with connect_as_superuser("postgres") as connection:
        new = sql.Identifier(f"{filled.name}_new")
        connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(filled.name), new))
    filled.name = filled.connection.settings_dict["NAME"] = f"{filled.name}_new"
    assert refused_by("scratch") == "unknown"


def test_a_copy_can_be_marked_under_its_own_name(filled: ScratchDatabase, make_scratch: Make) -> None:
    set_mark("mark-test")
    filled.connection.close()
    copy = make_scratch("copy", template=filled.name)
    set_mark("mark-test", "copy")
    assert Resetter("copy").reset().permitted_by == "marked-as-test"
    assert (copy.count("item"), filled.count("item")) == (0, 3)


def test_a_test_mark_without_its_comment_permits_nothing(filled: ScratchDatabase) -> None:
    set_mark("mark-test")
    filled.execute("COMMENT ON TABLE testdb.test IS NULL")
    assert refused_by("scratch") == "unknown"


def test_a_protected_database_cannot_be_marked_as_a_test_database(filled: ScratchDatabase) -> None:
    set_mark("mark-protected")
    with pytest.raises(Exception, match=r"Refusing to mark .* it is marked as protected.*--unmark-protected"):
        set_mark("mark-test")
    assert marks() == {Mark.PROTECTED}


@pytest.mark.parametrize("name", ['quo"te', "per%cent", "back\\slash", "apo'strophe", "Größe"])
def test_a_mark_holds_whatever_the_name_of_the_database(filled: ScratchDatabase, name: str) -> None:
    filled.connection.close()
    with connect_as_superuser("postgres") as connection:
        new = sql.Identifier(f"{filled.name}{name}")
        connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(filled.name), new))
    filled.name = filled.connection.settings_dict["NAME"] = f"{filled.name}{name}"
    set_mark("mark-test")
    assert Resetter("scratch").reset().permitted_by == "marked-as-test"


@pytest.mark.parametrize("mark", ["test", "protected"])
def test_marking_twice_is_marking_once_and_unmarking_leaves_nothing(filled: ScratchDatabase, mark: str) -> None:
    before = dump(filled)
    for _ in range(2):
        set_mark(f"mark-{mark}")
        assert marks() == {Mark(mark)}
    assert dump(filled) != before
    for _ in range(2):
        set_mark(f"unmark-{mark}")
        assert marks() == frozenset()
        assert dump(filled) == before


def test_one_mark_stays_when_the_other_goes(filled: ScratchDatabase) -> None:
    set_mark("mark-test")
    set_mark("mark-protected")
    set_mark("unmark-protected")
    assert marks() == {Mark.TEST}


def test_a_schema_of_the_user_with_that_name_keeps_its_tables(filled: ScratchDatabase) -> None:
    filled.execute("CREATE SCHEMA testdb; CREATE TABLE testdb.mine AS SELECT 1 AS id")
    for mark in ("protected", "test"):
        set_mark(f"mark-{mark}")
        set_mark(f"unmark-{mark}")
        assert filled.query("SELECT id FROM testdb.mine") == [(1,)]


def test_tables_of_the_user_in_a_schema_with_that_name_are_reset_like_any_other(filled: ScratchDatabase) -> None:
    filled.execute(
        """
        CREATE SCHEMA testdb;
        CREATE TABLE testdb.mine (id serial PRIMARY KEY, item_id bigint REFERENCES item ON DELETE CASCADE);
        INSERT INTO testdb.mine (item_id) VALUES (1), (2)
        """
    )
    set_mark("mark-test")
    report = Resetter("scratch").reset()
    assert next((str(table.name), table.rows) for table in report.tables) == ("testdb.mine", 2)
    assert {str(item.name) for item in report.kept} == {"testdb.test"}
    assert marks() == {Mark.TEST}


def test_a_table_of_the_user_in_a_schema_with_that_name_can_be_kept(filled: ScratchDatabase) -> None:
    filled.execute(
        """
        CREATE SCHEMA testdb;
        CREATE TABLE testdb.mine (id serial PRIMARY KEY, item_id bigint REFERENCES item ON DELETE CASCADE);
        INSERT INTO testdb.mine (item_id) VALUES (1), (2)
        """
    )
    before = content(filled)
    with pytest.raises(ExclusionError, match=r"testdb\.mine\(item_id\) → public\.item\(id\): 2 row"):
        filled.reset(exclude=["testdb.*"])
    assert (content(filled), filled.count("testdb.mine")) == (before, 2)


def test_marks_work_in_a_schema_that_somebody_else_owns(filled: ScratchDatabase) -> None:
    with filled.superuser() as connection:
        connection.execute("CREATE SCHEMA testdb; GRANT ALL ON SCHEMA testdb TO PUBLIC")
    set_mark("mark-protected")
    assert marks() == {Mark.PROTECTED}
    set_mark("unmark-protected")
    assert marks() == frozenset()


def test_a_role_that_may_not_use_the_schema_sees_the_marks(filled: ScratchDatabase) -> None:
    set_mark("mark-protected")
    role = f"guest_{filled.name}"
    with filled.superuser() as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute(
            f"REVOKE ALL ON SCHEMA testdb FROM PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"
        )
        try:
            filled.register("guest", USER=role)
            assert marks("guest") == {Mark.PROTECTED}
            assert refused_by("guest", allow_database=filled.name) == "protected"
        finally:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_the_marks_are_no_part_of_what_a_reset_empties(filled: ScratchDatabase) -> None:
    set_mark("mark-test")
    report = Resetter("scratch").reset()
    assert {str(table.name) for table in report.tables} == {"public.item", "public.shelf"}
    assert [item.reason for item in report.kept if item.name.schema == "testdb"] == ["kept by testdb_app itself"]


def test_a_mark_in_a_transaction_goes_with_it(filled: ScratchDatabase) -> None:
    from django.db import transaction

    backend = get_backend(filled.connection)
    with transaction.atomic("scratch"):
        backend.set_mark(filled.connection, Mark.TEST, present=True)
        transaction.set_rollback(True, "scratch")
    assert marks() == frozenset()


def test_no_mark_is_left_by_a_reset(filled: ScratchDatabase) -> None:
    before = dump(filled, "--schema-only")
    filled.reset()
    assert dump(filled, "--schema-only") == before


def test_the_identity_tells_database_and_server_apart(filled: ScratchDatabase, make_scratch: Make) -> None:
    identity, other = Resetter("scratch").identify(), Resetter(make_scratch("other").alias).identify()
    assert filled.query("SELECT oid FROM pg_database WHERE datname = current_database()") == [(identity.oid,)]
    assert filled.query("SELECT system_identifier::text FROM pg_control_system()") == [(identity.system_identifier,)]
    assert identity.server_started
    assert identity.oid != other.oid
    assert (identity.system_identifier, identity.server_started) == (other.system_identifier, other.server_started)


def test_a_role_that_may_not_read_the_system_identifier_gets_an_empty_one(filled: ScratchDatabase) -> None:
    function = "FUNCTION pg_catalog.pg_control_system()"
    with filled.superuser() as connection:
        connection.execute(f"REVOKE EXECUTE ON {function} FROM PUBLIC")
    # The role's own connections to this database see the privilege as it is now.
    identity = Resetter("scratch").identify()
    assert (identity.system_identifier, identity.name) == ("", filled.name)
    assert identity.oid


def test_the_identity_calls_nothing_that_the_search_path_offers(filled: ScratchDatabase) -> None:
    with filled.superuser() as connection:
        connection.execute(
            """
            CREATE SCHEMA evil;
            CREATE FUNCTION evil.trap(pg_catalog.name, pg_catalog.name) RETURNS boolean LANGUAGE plpgsql
                AS $$ BEGIN RAISE 'evil operator'; END $$;
            CREATE FUNCTION evil.trap(pg_catalog.oid, pg_catalog.oid) RETURNS boolean LANGUAGE plpgsql
                AS $$ BEGIN RAISE 'evil operator'; END $$;
            CREATE OPERATOR evil.= (leftarg = pg_catalog.name, rightarg = pg_catalog.name, function = evil.trap);
            CREATE OPERATOR evil.= (leftarg = pg_catalog.oid, rightarg = pg_catalog.oid, function = evil.trap);
            CREATE FUNCTION evil.no() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil type'; END $$;
            CREATE DOMAIN evil.text AS pg_catalog.text CHECK (evil.no());
            CREATE DOMAIN evil.tsvector AS pg_catalog.tsvector CHECK (evil.no());
            GRANT USAGE ON SCHEMA evil TO PUBLIC
            """
        )
    with filled.connection.cursor() as cursor:
        cursor.execute("SET search_path = evil, pg_catalog, public")
    identity = Resetter("scratch").identify()
    assert identity.oid
    assert identity.system_identifier
