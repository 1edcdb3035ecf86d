"""What goes wrong, made on purpose. Runs in the project of the examples, as ``test_symptoms.py``; each error's text goes into a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection, transaction
from django.test import TransactionTestCase

from testdb_app.demo.models import Author, Authorship, Genre, Publisher, Series, Work
from testdb_app.guard import get_configured_name
from testdb_app.resetter import Resetter

STOCK = dict(vars(TransactionTestCase))  # while a test runs that is reset these are others
FOUND = Path(__file__).with_name("symptoms.jsonl")


def other_session(**parameters: Any) -> psycopg.Connection[Any]:
    """Connect once more."""
    own = connection.get_connection_params()
    own = {name: own[name] for name in ("host", "port", "user", "password", "dbname") if own.get(name)}
    return psycopg.connect(**{**own, **parameters})


def hang() -> None:
    with closing(other_session(application_name="worker")) as worker:
        worker.execute("INSERT INTO testdb_demo_genre (name) VALUES ('Drama')")
        Resetter(include=["testdb_demo"], lock_timeout=0.5).reset()


def drop() -> None:
    with closing(other_session()), closing(other_session(dbname="postgres", autocommit=True)) as admin:
        name = connection.settings_dict["NAME"]
        connection.close()
        admin.execute(f'DROP DATABASE "{name}"')


def truncate_with_pending_events() -> None:
    work = Work.objects.create(
        title="a", year=1, series=Series.objects.create(name="b", publisher=Publisher.objects.create(name="c"))
    )
    with transaction.atomic(), connection.cursor() as cursor:
        Authorship.objects.create(work=work, author=Author.objects.create(name="d"), position=0)
        cursor.execute("TRUNCATE testdb_demo_authorship")


def truncate_referenced() -> None:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE testdb_demo_series")


def exclude_a_referencing_table() -> None:
    Series.objects.create(name="b", publisher=Publisher.objects.create(name="c"))
    Resetter(to="empty", exclude=["testdb_demo.Series"]).reset()


def reset_a_real_database() -> None:
    given = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = get_configured_name("default")
    try:
        Resetter().reset()
    finally:
        connection.close()
        connection.settings_dict["NAME"] = given


def collide() -> None:
    class Collides(TransactionTestCase):
        reset_sequences = serialized_rollback = True
        _fixture_setup, _reset_sequences = STOCK["_fixture_setup"], STOCK["_reset_sequences"]

    connection._test_serialized_contents = connection.creation.serialize_db_to_string()
    try:
        Collides._pre_setup()
        Genre.objects.create(name="next")
    finally:
        del connection._test_serialized_contents


MAKERS = {
    "was not granted in time": hang,
    "is being accessed by other users": drop,
    "pending trigger events": truncate_with_pending_events,
    "cannot truncate a table referenced": truncate_referenced,
    "Rows that stay refer": exclude_a_referencing_table,
    "it is not known to be a test database": reset_a_real_database,
    "duplicate key value": collide,
}


@pytest.fixture
def real_database() -> Any:
    """The database that the settings named before the tests, empty."""
    with closing(other_session(dbname="postgres", autocommit=True)) as admin:
        admin.execute(f'CREATE DATABASE "{get_configured_name("default")}"')
        yield
        admin.execute(f'DROP DATABASE "{get_configured_name("default")}"')


@pytest.mark.parametrize("words", MAKERS)
def test_it_goes_wrong(words: str, reset_db: None, real_database: None) -> None:
    make: Callable[[], None] = MAKERS[words]
    # Of whatever kind it is: its text is what the page quotes.
    with pytest.raises(Exception, match=words) as caught:
        make()
    with FOUND.open("a") as file:
        file.write(json.dumps([words, str(caught.value)]) + "\n")
