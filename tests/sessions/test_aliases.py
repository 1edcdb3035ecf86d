"""Several aliases: all open at once, mirrors and second names of one database over one connection."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections

from testdb_app.exceptions import SessionNestingError, UnsafeSessionError
from testdb_app.transactions import open_transactions
from tests.sessions.conftest import TABLES, insert, numbers

pytestmark = pytest.mark.postgresql


@pytest.fixture
def mirrored(scratch: Any) -> Any:
    """The scratch database, with a mirror, and one more alias for it."""
    scratch.register("replica", TEST={**connections.settings["scratch"]["TEST"], "MIRROR": "scratch"})
    connections.settings["replica"]["TEST"]["MIRROR"] = "scratch"
    scratch.register("twin")
    return scratch


def test_a_mirror_and_a_second_alias_see_the_uncommitted_rows_of_the_first(mirrored, make_factory):
    before = {alias: connections[alias] for alias in ("replica", "twin")}
    with make_factory(databases={"scratch", "replica", "twin"})() as session:
        insert(session, 1)
        assert len(open_transactions(session.connection)) == 1
        for alias in ("scratch", "replica", "twin"):
            assert numbers(connections[alias]) == [1]
        assert session.run_on_commit("replica") == []
    assert {alias: connections[alias] for alias in before} == before
    assert all(not connection.in_atomic_block for connection in before.values())
    assert numbers(connections["replica"]) == []


def test_a_session_on_a_mirror_alone_is_one_on_its_primary(mirrored, make_factory):
    with make_factory(databases="replica")() as session:
        assert session.alias == "scratch"
        insert(session, 1)
        assert numbers(connections["replica"]) == [1]
    with make_factory(databases="replica").independent() as session:
        assert session.alias == "scratch_independent_1"


def test_two_aliases_that_connect_otherwise_have_a_transaction_each(mirrored, make_factory):
    mirrored.register("other", OPTIONS={"application_name": "other"})
    with make_factory(databases={"scratch", "other"})() as session:
        assert {each.connection.alias for each in session._session.parts} == {"scratch", "other"}
        assert connections["other"].in_atomic_block
    assert not connections["other"].in_atomic_block


def test_if_one_database_is_refused_none_is_open(make_scratch, make_factory):
    other = make_scratch("another")
    other.execute(TABLES)
    with pytest.raises(UnsafeSessionError) as caught:
        make_factory(databases={"scratch", "another"}, allow_database=other.name)().open()
    assert caught.value.alias == "scratch"
    for alias in ("scratch", "another"):
        assert not connections[alias].in_atomic_block
        assert open_transactions(connections[alias]) == ()


def test_several_databases_are_undone_together(scratch, make_scratch, make_factory):
    other = make_scratch("another")
    other.execute(TABLES)
    factory = make_factory(databases={"scratch", "another"}, allow_database={other.name, scratch.name})
    with factory("both") as session:
        with pytest.raises(ZeroDivisionError), session.savepoint():
            for alias in ("scratch", "another"):
                with connections[alias].cursor() as cursor:
                    cursor.execute("INSERT INTO a VALUES (1)")
            raise ZeroDivisionError
        for alias in ("scratch", "another"):
            assert numbers(connections[alias]) == []
            with connections[alias].cursor() as cursor:
                cursor.execute("INSERT INTO a VALUES (2)")
        with factory.replace(databases="another")("one") as inner:
            with pytest.raises(SessionNestingError, match='"both" cannot end while the session "one"'):
                session.close()
            assert numbers(inner.connection) == [2]
    assert (scratch.count("a"), other.count("a")) == (0, 0)
