"""Roles without superuser rights: privileges on the tables are enough, and a missing privilege is named."""

from __future__ import annotations

import pytest
from django.db import connections

from testdb_app.exceptions import MissingPrivilegeError


def test_an_assumed_role_is_the_one_that_resets(scratch):
    with scratch.superuser() as superuser:
        owner = scratch.value("SELECT current_user")
        superuser.execute("DROP ROLE IF EXISTS scratch_group; CREATE ROLE scratch_group")
        try:
            superuser.execute(
                f'GRANT scratch_group TO "{owner}"; CREATE TABLE t (id serial); ALTER TABLE t OWNER TO scratch_group'
            )
            superuser.execute("INSERT INTO t DEFAULT VALUES")
            scratch.register("assumed", OPTIONS={"assume_role": "scratch_group"})
            resetter = scratch.resetter()
            resetter.using = "assumed"
            assert resetter.identify().user == "scratch_group"
            assert resetter.reset().rows == 1
            connections["assumed"].close()
        finally:
            superuser.execute("DROP OWNED BY scratch_group CASCADE; DROP ROLE scratch_group")


def test_missing_privileges_are_named_and_nothing_is_changed(scratch):
    owner = scratch.value("SELECT current_user")
    scratch.execute("CREATE TABLE mine (id int); INSERT INTO mine VALUES (1)")
    with scratch.superuser() as superuser:
        superuser.execute(
            "CREATE SCHEMA theirs; CREATE TABLE theirs.hidden (id int); INSERT INTO theirs.hidden VALUES (1);"
            "CREATE TABLE readable (id int); INSERT INTO readable VALUES (1); CREATE TABLE empty (id int);"
            f'GRANT SELECT ON readable TO "{owner}"; CREATE SEQUENCE unseen'
        )
    with pytest.raises(MissingPrivilegeError) as refusal:
        scratch.reset()
    assert refusal.value.missing == {
        "public.readable": "DELETE",
        "public.unseen": "SELECT",
        "theirs.hidden": "USAGE on its schema",
    }
    assert "DELETE on public.readable" in str(refusal.value)
    assert scratch.count("mine") == 1


def test_a_role_that_only_has_privileges_on_the_tables_resets_them(scratch):
    owner = scratch.value("SELECT current_user")
    with scratch.superuser() as superuser:
        superuser.execute(
            "CREATE TABLE t (id serial); INSERT INTO t DEFAULT VALUES;"
            f'GRANT SELECT, DELETE ON t TO "{owner}"; GRANT ALL ON SEQUENCE t_id_seq TO "{owner}"'
        )
    assert scratch.reset().rows == 1
    assert scratch.sequence_state("t_id_seq") == (1, False)
