"""Data set up, taken away and verified over a session, with the demonstration models, on every backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections

from testdb_app.data import assert_row_counts, seeds
from testdb_app.database_setup import prepare_test_database
from testdb_app.demo.models import Author, Book
from testdb_app.exceptions import ConfigurationError, SeedError, UnknownNameError, VerificationError
from testdb_app.sessions import TestSession, TestSessionFactory


@pytest.fixture
def factory(database: Any) -> Iterator[TestSessionFactory]:
    """Sessions on a scratch database with the tables of the demonstration models, and a baseline."""
    call_command("migrate", database=database.alias, verbosity=0)
    prepare_test_database(database.alias, allow_database=(database.name,))
    with TestSessionFactory(database.alias, allow_database=database.name) as made:
        yield made


def make_author(name: str) -> Author:
    return Author.objects.using("scratch").create(name=name)


def authors(session: TestSession) -> list[str]:
    return sorted(Author.objects.using(session.alias).values_list("name", flat=True))


@pytest.mark.parametrize("isolation", ["rollback", "reset"])
def test_what_is_set_up_is_there_and_goes_with_the_session(database, factory, isolation):
    calls: list[str] = []
    with factory.replace(isolation=isolation)("checkout") as session:
        author = session.setup(make_author, "Ada")
        session.load({"testdb_demo.Author": [{"name": "Grace"}]})
        session.bulk(Author, [{"name": "Mary"}, {"name": "Joan"}])
        book = session.make(Book)
        session.on_teardown(
            lambda: calls.append(f"{Author.objects.using(session.connection.alias).count()} were there")
        )
        session.on_teardown(calls.append, "last in, first out")
        assert author.pk
        assert book.pk
        assert {"Ada", "Grace", "Joan", "Mary"} <= set(authors(session))
        assert session.values.next("isbn") == 1
        session.verify(assert_row_counts, {Book: 1})
        with pytest.raises(VerificationError):
            session.verify(assert_row_counts, {Book: 2})
        with pytest.raises(VerificationError):
            session.verify_clean()
        session.verify_constraints()
    assert calls[0] == "last in, first out"
    assert calls[1].endswith("were there")
    assert not Author.objects.using(database.alias).filter(name="Ada").exists()
    with factory() as session:
        session.verify_clean()
        assert session.values.next("isbn") == 1, "it begins anew"


def test_what_a_savepoint_undoes_is_forgotten(factory):
    @seeds.register("of the test of savepoints")
    def library(ledger: Any) -> Author:
        return ledger.make(Author, name="seeded")

    try:
        with factory() as session:
            with pytest.raises(ZeroDivisionError), session.savepoint():
                session.seed("of the test of savepoints")
                raise ZeroDivisionError
            assert authors(session) == []
            session.seed("of the test of savepoints")
            session.seed("of the test of savepoints")
            assert authors(session) == ["seeded"]
            with pytest.raises((UnknownNameError, SeedError)):
                session.seed("nowhere")
    finally:
        seeds._seeds.pop("of the test of savepoints", None)


def test_a_failing_teardown_is_raised_and_everything_is_undone_all_the_same(database, factory):
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        with factory() as session:
            session.setup(make_author, "Ada")
            session.on_teardown(fail)
    assert not connections[database.alias].in_atomic_block
    assert not Author.objects.using(database.alias).exists()
    with pytest.raises(ValueError, match="of the body") as caught:
        with factory() as session:
            session.on_teardown(fail)
            raise ValueError("of the body")
    assert "ZeroDivisionError" in caught.value.__notes__[0]


def test_an_alias_that_is_none_of_the_session_is_refused(factory):
    with factory("checkout") as session:
        with pytest.raises(ConfigurationError, match="the session \"checkout\" has no database 'other', but scratch"):
            session.verify_clean("other")
