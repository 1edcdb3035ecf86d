from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from tests.guard.projects import Project, database_settings, make_project
from tests.scratch import ScratchDatabase, connect_as_superuser

ROWS = """
CREATE TABLE shelf (id bigserial PRIMARY KEY, name text NOT NULL);
CREATE TABLE item (id bigserial PRIMARY KEY, shelf_id bigint NOT NULL REFERENCES shelf);
INSERT INTO shelf (name) VALUES ('one'), ('two');
INSERT INTO item (shelf_id) VALUES (1), (2), (2)
"""


def content(database: ScratchDatabase) -> list[Any]:
    """Return all that a reset of :data:`ROWS` could change: the rows, and where the sequences are."""
    return [
        *database.query("SELECT * FROM item ORDER BY id"),
        *database.query("SELECT * FROM shelf ORDER BY id"),
        database.sequence_state("item_id_seq"),
        database.sequence_state("shelf_id_seq"),
    ]


@pytest.fixture
def filled(scratch: ScratchDatabase) -> ScratchDatabase:
    """A scratch database with two tables that have rows."""
    scratch.execute(ROWS)
    return scratch


@pytest.fixture
def make_filled(make_scratch: Callable[..., ScratchDatabase]) -> Callable[..., ScratchDatabase]:
    """Make scratch databases with two tables that have rows."""

    def make(alias: str = "scratch", **options: Any) -> ScratchDatabase:
        database = make_scratch(alias, **options)
        database.execute(ROWS)
        return database

    return make


@pytest.fixture
def project(scratch: ScratchDatabase, tmp_path: Path) -> Iterator[Project]:
    """A project whose real database is the scratch one, with its tables; its test databases are dropped afterwards."""
    made = make_project(tmp_path, {"default": database_settings("scratch")})
    made.manage("migrate", "--run-syncdb", "-v0").must_pass()
    scratch.execute("INSERT INTO shop_shelf (name) VALUES ('real'); INSERT INTO shop_item (shelf_id) VALUES (1)")
    yield made
    drop_test_databases(scratch.name)
    assert scratch.query("SELECT name FROM shop_shelf") == [("real",)], "the real database lost its rows"
    assert scratch.count("shop_item") == 1


def drop_test_databases(name: str) -> None:
    """Drop what the runners of a project whose database is *name* made and kept."""
    with connect_as_superuser("postgres") as connection:
        query = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
        for (found,) in connection.execute(query, [f"test_{name}"]).fetchall():
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(found)))
