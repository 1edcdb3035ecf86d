"""The full scan of a kept resetter reads the tables and sequences that it knows: what happens to those meanwhile is found."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from testdb_app.exceptions import MissingPrivilegeError
from tests.resets.test_sequences import MOVES


@contextmanager
def scanning(scratch):
    """Yield a resetter that knows the schema, and a session beside it because of which each reset takes a full scan."""
    resetter = scratch.resetter()
    resetter.reset()
    with scratch.connect() as other:
        other.execute("BEGIN; SELECT pg_current_xact_id()")
        yield resetter, other


@pytest.mark.parametrize("move", MOVES)
def test_what_another_session_did_to_known_tables_and_sequences_is_found(scratch, move):
    scratch.execute("CREATE TABLE t (id serial PRIMARY KEY); CREATE TABLE u (id int); CREATE SEQUENCE s START 7")
    with scanning(scratch) as (resetter, other), scratch.connect() as writer:
        for _ in range(3):
            writer.execute("INSERT INTO u VALUES (1), (2)")
            writer.execute(MOVES[move].format("s"))
            report = resetter.reset()
            assert (report.rows, scratch.count("u"), scratch.sequence_state("s")) == (2, 0, (7, False))
        assert other.execute("SELECT 1").fetchone() == (1,)


CHANGES = {
    "sequence dropped": ("DROP SEQUENCE s", ["u"]),
    "sequence dropped and made again": ("DROP SEQUENCE s; CREATE SEQUENCE s; SELECT nextval('s')", ["s", "u"]),
    "sequence renamed": ("ALTER SEQUENCE s RENAME TO r; SELECT nextval('r')", ["r", "u"]),
    "names exchanged": (
        (
            "ALTER SEQUENCE s RENAME TO x; ALTER SEQUENCE t_id_seq RENAME TO s; ALTER SEQUENCE x RENAME TO t_id_seq;"
            "SELECT nextval('s')"
        ),
        ["s", "u"],
    ),
    "table dropped": ("DROP TABLE t", ["u"]),
    "table renamed": ("INSERT INTO t DEFAULT VALUES; ALTER TABLE t RENAME TO v", ["t_id_seq", "u", "v"]),
    "table made": ("CREATE TABLE v (id int); INSERT INTO v VALUES (1)", ["u", "v"]),
    "prepared statements dropped": ("DEALLOCATE ALL", ["u"]),
    "session as new": ("DISCARD ALL", ["u"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_under_a_known_schema_is_found(scratch, change):
    scratch.execute("CREATE TABLE t (id serial PRIMARY KEY); CREATE TABLE u (id int); CREATE SEQUENCE s")
    statements, found = CHANGES[change]
    with scanning(scratch) as (resetter, _):
        for _ in range(3):
            scratch.execute("INSERT INTO u VALUES (1)")
            resetter.reset()
        scratch.execute("INSERT INTO u VALUES (1)")
        for statement in statements.split(";"):
            resetter.connection.connection.execute(statement)
        report = resetter.reset()
        names = [*(table.name.name for table in report.tables if table.rows), *(each.name for each in report.sequences)]
        assert sorted(names) == found
        assert resetter.reset().rows == 0


@pytest.mark.parametrize(
    ("revoked", "lacks"),
    [
        ("SELECT ON SEQUENCE s", "SELECT"),
        ("USAGE ON SCHEMA theirs", "USAGE on its schema"),
        ("DELETE ON theirs.u", "DELETE"),
    ],
)
def test_a_privilege_that_is_revoked_meanwhile_is_named_and_one_that_is_given_back_is_seen(scratch, revoked, lacks):
    owner = scratch.value("SELECT current_user")
    with scratch.superuser() as superuser:
        superuser.execute(
            "CREATE SCHEMA theirs; CREATE TABLE theirs.u (id int); CREATE SEQUENCE s;"
            f'GRANT USAGE ON SCHEMA theirs TO "{owner}"; GRANT ALL ON theirs.u TO "{owner}";'
            f'GRANT ALL ON SEQUENCE s TO "{owner}"'
        )
        with scanning(scratch) as (resetter, _):
            superuser.execute(f'INSERT INTO theirs.u VALUES (1); REVOKE {revoked} FROM "{owner}"')
            for _ in range(2):
                with pytest.raises(MissingPrivilegeError) as refusal:
                    resetter.reset()
                assert list(refusal.value.missing.values()) == [lacks]
            superuser.execute(f'GRANT {revoked} TO "{owner}"')
            assert [resetter.reset().rows for _ in range(2)] == [1, 0]
