"""A reset in a session that was left at ``session_replication_role = replica`` does what it does in any other."""

from __future__ import annotations

import pytest
from django.db import connections, transaction

from testdb_app.baseline import capture_baseline
from testdb_app.exceptions import ExclusionError, MissingPrivilegeError
from tests.baseline.conftest import content

pytestmark = pytest.mark.postgresql

TABLES = """
CREATE TABLE shelf (id serial PRIMARY KEY, name text);
CREATE TABLE book (id serial PRIMARY KEY, shelf_id integer NOT NULL REFERENCES shelf);
CREATE TABLE audit (id serial PRIMARY KEY, what text);
INSERT INTO shelf (name) VALUES ('one'), ('two');
INSERT INTO book (shelf_id) VALUES (1), (2);
"""
REPLICA = {
    "trigger": """
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO audit (what) VALUES (TG_OP); RETURN NULL; END';
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON book FOR EACH ROW EXECUTE FUNCTION audit();
ALTER TABLE book ENABLE REPLICA TRIGGER audit""",
    "rule": """
CREATE RULE audit AS ON DELETE TO book DO ALSO INSERT INTO audit (what) VALUES ('DELETE');
ALTER TABLE book ENABLE REPLICA RULE audit""",
}
WRITES = "INSERT INTO book (shelf_id) VALUES (1); UPDATE shelf SET name = 'x'; DELETE FROM book WHERE id = 1"
GRANTS = {
    "granted": "GRANT SET ON PARAMETER session_replication_role TO {role}",
    "superuser": "ALTER ROLE {role} SUPERUSER",
}


@pytest.fixture
def grant(scratch):
    """Return a function that makes the owner of the database a role of its own, which may set the parameter."""
    role = f"{scratch.name}_role"

    def grant(how):
        with scratch.superuser() as session:
            session.execute(f"CREATE ROLE {role} LOGIN; ALTER DATABASE {scratch.name} OWNER TO {role}")
            session.execute(GRANTS[how].format(role=role))
        scratch.connection.close()
        del connections[scratch.alias]
        scratch.register(scratch.alias, USER=role, PASSWORD="")

    yield grant
    scratch.connection.close()
    with scratch.superuser() as session:
        if session.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone():
            session.execute(
                f"ALTER DATABASE {scratch.name} OWNER TO CURRENT_USER; DROP OWNED BY {role} CASCADE; DROP ROLE {role}"
            )


def say(scratch, statement):
    with scratch.connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else None


@pytest.mark.parametrize("how", GRANTS)
@pytest.mark.parametrize("what", REPLICA)
@pytest.mark.parametrize("to", ["baseline", "empty"])
def test_what_fires_in_a_replica_alone_stays_off_and_the_session_keeps_its_role(scratch, grant, how, what, to):
    grant(how)
    say(scratch, TABLES + REPLICA[what])
    if to == "empty":
        say(scratch, "TRUNCATE shelf, book RESTART IDENTITY")
    capture_baseline(scratch.alias, allow_database=scratch.name)
    before = content(scratch)
    resetter = scratch.resetter(to=to)
    for _ in range(4):
        say(scratch, "SET session_replication_role = origin")
        say(scratch, "INSERT INTO shelf (name) VALUES ('more'); INSERT INTO book (shelf_id) SELECT max(id) FROM shelf")
        say(scratch, WRITES if to == "baseline" else "SELECT")
        say(scratch, "SET session_replication_role = replica")
        resetter.reset()
        assert content(scratch) == before
        assert say(scratch, "SHOW session_replication_role") == [("replica",)]


def test_a_reset_inside_of_a_transaction_gives_the_role_back(scratch, grant):
    grant("granted")
    say(scratch, TABLES + REPLICA["trigger"])
    capture_baseline(scratch.alias, allow_database=scratch.name)
    before = content(scratch)
    for how in ("SET LOCAL", "SET"):
        say(scratch, WRITES)
        with transaction.atomic(using=scratch.alias):
            say(scratch, f"{how} session_replication_role = replica")
            scratch.resetter(within_transaction=True).reset()
            assert say(scratch, "SHOW session_replication_role") == [("replica",)]
        after = "origin" if how == "SET LOCAL" else "replica"
        assert say(scratch, "SHOW session_replication_role") == [(after,)]
        assert content(scratch) == before


@pytest.mark.parametrize("what", REPLICA)
def test_a_role_that_may_not_leave_it_is_refused_only_where_something_fires(scratch, what):
    with scratch.superuser() as session:
        session.execute(f"ALTER DATABASE {scratch.name} SET session_replication_role = replica")
    scratch.connection.close()
    say(scratch, TABLES)
    capture_baseline(scratch.alias, allow_database=scratch.name)
    before = content(scratch)
    say(scratch, WRITES)
    scratch.reset()
    assert content(scratch) == before
    say(scratch, REPLICA[what])
    scratch.connection.close()
    say(scratch, WRITES)
    written = content(scratch)
    with pytest.raises(MissingPrivilegeError, match=r"session_replication_role = replica.*GRANT SET ON PARAMETER"):
        scratch.reset()
    assert content(scratch) == written


def test_a_key_that_is_not_checked_leaves_no_row_without_its_parent(scratch, grant):
    """Of a table that stays rows refer to one that would go: refused by a query, whether or not keys are checked."""
    grant("granted")
    say(scratch, TABLES)
    say(scratch, "SET session_replication_role = replica")
    before = content(scratch)
    with pytest.raises(ExclusionError, match=r"public\.book"):
        scratch.reset(to="empty", exclude=["public.book"])
    assert content(scratch) == before
