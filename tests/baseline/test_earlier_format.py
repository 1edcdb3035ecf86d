"""Baselines of the format before this one: recognised, and captured anew only where no rows of a killed run are there."""

from __future__ import annotations

import json

import pytest
from django.db import connections

from testdb_app import guard
from testdb_app.baseline import capture_baseline
from testdb_app.database_setup import forget_test_databases, prepare_test_database, restore_kept_databases
from testdb_app.exceptions import BaselineFormatError
from tests.baseline.conftest import content

TABLES = """
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE a (id serial PRIMARY KEY, mood mood, extra json, number float8, made text GENERATED ALWAYS AS ('x') STORED);
CREATE TABLE b (v text);
CREATE TABLE c (id serial PRIMARY KEY);
CREATE TABLE django_migrations (id serial PRIMARY KEY, app text, name text);
INSERT INTO a (mood, extra, number) VALUES ('good', '{"n": 1}', 0), ('bad', NULL, 'NaN');
INSERT INTO b VALUES ('x'), ('x'), (NULL);
INSERT INTO django_migrations (app, name) VALUES ('shop', '0001');
"""


def keep_in_earlier_format(database):
    """Write what the version before wrote: copies with the columns of the tables, and a document without checksums."""
    columns = {
        "a": [
            ["id", False, False],
            ["mood", False, False],
            ["extra", False, False],
            ["number", False, False],
            ["made", True, False],
        ],
        "b": [["v", False, False]],
    }
    document = {
        "version": 1,
        "captured_at": "2026-11-22T20:45:51+00:00",
        "tables": [
            {
                "name": ["public", name],
                "copy": ["testdb", f"baseline_{number}"],
                "rows": database.count(name),
                "columns": columns[name],
                "key": ["id"] if name == "a" else [],
            }
            for number, name in enumerate(("a", "b"), 1)
        ],
        "sequences": [["public", "a_id_seq", 2, True]],
        "excluded": [["public", "django_migrations"]],
        "migrations": [["public", "django_migrations"]],
        "shape": {"table public.a": "as it was described then"},
    }
    database.execute(
        "CREATE SCHEMA testdb; CREATE TABLE testdb.baseline_1 AS SELECT * FROM ONLY a; "
        "CREATE TABLE testdb.baseline_2 AS SELECT * FROM ONLY b; "
        f"CREATE TABLE testdb.baseline (document jsonb NOT NULL); INSERT INTO testdb.baseline VALUES ('{json.dumps(document)}')"
    )


def version(database):
    return database.value("SELECT document ->> 'version' FROM testdb.baseline")


@pytest.fixture
def kept(scratch, settings):
    """A database that was kept with a baseline of the format before."""
    settings.TESTDB = {"ALLOWED_DATABASES": [scratch.name]}
    scratch.execute(TABLES)
    keep_in_earlier_format(scratch)
    yield scratch
    forget_test_databases()


def test_a_clean_database_has_its_baseline_captured_anew_with_one_line(kept, caplog):
    before = content(kept)
    # What every run leaves: rows that were rolled back.
    kept.execute("BEGIN; INSERT INTO a (mood) VALUES ('good'); INSERT INTO c DEFAULT VALUES; ROLLBACK")
    assert content(kept) != before
    prepare_test_database(kept.alias)
    assert content(kept) == before
    assert version(kept) == "2"
    said = [record.getMessage() for record in caplog.records if "earlier version" in record.getMessage()]
    assert len(said) == 1
    assert kept.name in said[0]
    kept.execute("UPDATE a SET mood = 'bad'; DELETE FROM b; INSERT INTO c DEFAULT VALUES")
    kept.resetter(to="baseline").reset()
    assert content(kept) == before


DIRT = {
    "INSERT INTO a (mood) VALUES ('good')": r"table public\.a has other rows",
    "DELETE FROM b WHERE v IS NULL": r"table public\.b has other rows",
    "INSERT INTO b VALUES ('x')": r"table public\.b has other rows",
    "UPDATE a SET extra = '{\"n\":1}' WHERE id = 1": r"table public\.a has other rows",
    "UPDATE a SET number = '-0' WHERE id = 1": r"table public\.a has other rows",
    "INSERT INTO c DEFAULT VALUES": r"table public\.c has rows and had none",
    "DROP TYPE mood CASCADE": r"table public\.a has other columns",
    "ALTER TABLE b RENAME v TO w": r"table public\.b has other columns",
    "DROP TABLE b": r"table public\.b is gone",
    "DROP TABLE testdb.baseline_2": "baseline_2",
    "ALTER TABLE b ENABLE ROW LEVEL SECURITY; ALTER TABLE b FORCE ROW LEVEL SECURITY": "row-level security",
    "UPDATE testdb.baseline SET document = jsonb_set(document, '{version}', '3')": "its format is 3",
    "UPDATE testdb.baseline SET document = document - 'tables'": "its document cannot be read",
    "DELETE FROM testdb.baseline": "damaged",
}


@pytest.mark.parametrize("dirt", DIRT.items(), ids=DIRT.keys())
def test_rows_of_a_killed_run_enter_no_new_baseline(kept, dirt):
    statements, message = dirt
    kept.execute(statements)
    before = content(kept)
    for _ in range(2):
        with pytest.raises(Exception, match=message) as refusal:
            prepare_test_database(kept.alias)
        assert isinstance(refusal.value, BaselineFormatError) or message == "damaged"
        assert "--create-db" in str(refusal.value)
        assert "resetdb --recapture" in str(refusal.value)
    assert content(kept) == before
    capture_baseline(kept.alias, replace=True)
    prepare_test_database(kept.alias)
    assert content(kept) == before


def test_by_hand_it_is_one_line_with_the_command(kept):
    kept.execute("UPDATE a SET mood = 'bad'")
    before = content(kept)
    for each in (kept.resetter(), kept.resetter(to="baseline")):
        with pytest.raises(
            BaselineFormatError, match=r"another version of testdb_app \(format 1.*resetdb --recapture\.$"
        ):
            each.reset()
    with pytest.raises(BaselineFormatError, match="format 1"):
        capture_baseline(kept.alias)
    assert content(kept) == before


@pytest.mark.parametrize("dirty", [False, True])
def test_before_migrations_it_is_dropped_where_nothing_was_left(kept, monkeypatch, dirty):
    if dirty:
        kept.execute("INSERT INTO c DEFAULT VALUES")
    monkeypatch.setitem(connections[kept.alias].settings_dict["TEST"], "NAME", kept.name)
    monkeypatch.setattr(guard, "is_configured", lambda *_: False)
    restore_kept_databases([kept.alias])
    assert bool(kept.value("SELECT to_regclass('testdb.baseline')::text")) == dirty
    # A migration that the copies know nothing of.
    kept.execute("ALTER TABLE a ADD COLUMN added integer DEFAULT 1")
    if dirty:
        with pytest.raises(BaselineFormatError, match=r"public\.c has rows and had none"):
            prepare_test_database(kept.alias)
    else:
        prepare_test_database(kept.alias)
        assert version(kept) == "2"
