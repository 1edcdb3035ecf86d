"""A kept database whose schema has changed since its baseline was captured: rows of a killed run do not silently become the baseline."""

from __future__ import annotations

import re
import warnings

import pytest
from django.db import connections

from testdb_app import guard
from testdb_app.baseline import capture_baseline
from testdb_app.database_setup import forget_test_databases, prepare_test_database, restore_kept_databases

TABLES = (
    "CREATE TABLE a (id integer PRIMARY KEY, v text); CREATE TABLE b (id integer PRIMARY KEY);"
    "CREATE TABLE django_migrations (id integer PRIMARY KEY, app text, name text, applied text);"
    "INSERT INTO a VALUES (1, 'one'), (2, 'two'); INSERT INTO django_migrations VALUES (1, 'shop', '0001', '')"
)
MIGRATED = "; INSERT INTO django_migrations VALUES (2, 'shop', '0002', '')"
LEFT = "; UPDATE a SET v = 'left' WHERE id = 1; INSERT INTO b VALUES (1)"
NEW = "CREATE TABLE c (id integer PRIMARY KEY)"


@pytest.fixture
def kept(database, settings, monkeypatch):
    """A test database with a baseline, as an earlier run has left it."""
    settings.TESTDB = {"ALLOWED_DATABASES": [database.name]}
    database.execute(TABLES)
    capture_baseline(database.alias)
    monkeypatch.setitem(connections[database.alias].settings_dict["TEST"], "NAME", database.name)
    monkeypatch.setattr(guard, "is_configured", lambda *_: False)
    yield database
    forget_test_databases()


def prepare(database):
    """Begin a run, as a test runner does; return the warnings about the baseline."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        restore_kept_databases([database.alias])
        prepare_test_database(database.alias)
    return [str(each.message) for each in caught if "baseline was captured" in str(each.message)]


def rows(database, table="a"):
    with connections[database.alias].cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table} ORDER BY 1")
        return cursor.fetchall()


def test_tables_that_a_killed_run_has_left_are_emptied_and_its_rows_are_gone(kept):
    kept.execute(f"{NEW}; INSERT INTO c VALUES (1){LEFT}")
    assert prepare(kept) == []
    assert rows(kept) == [(1, "one"), (2, "two")]
    assert rows(kept, "b") == rows(kept, "c") == []
    kept.execute("DELETE FROM a; INSERT INTO c VALUES (1)")
    kept.reset(to="baseline")
    assert (rows(kept), rows(kept, "c")) == ([(1, "one"), (2, "two")], [])


DOUBTS = {
    "migrated, and rows left": (
        f"{NEW}{MIGRATED}{LEFT}",
        ["a has other rows than its copy", "b has 1 rows and had none"],
    ),
    "rows in a new table": (f"{NEW}{MIGRATED}; INSERT INTO c VALUES (1)", ["c has 1 rows and had none"]),
    "a table with rows has changed": ("ALTER TABLE a ADD COLUMN more text", ["a has changed, and cannot be compared"]),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_what_cannot_be_told_is_one_line_that_says_what_to_do(kept, doubt):
    statements, faults = DOUBTS[doubt]
    kept.execute(statements)
    (text,) = prepare(kept)
    for fault in faults:
        assert re.search(rf"table \w+\.{fault}", text), text
    assert text.count("table ") == len(faults)
    assert f'(alias "{kept.alias}")' in text
    assert text.endswith("have the database made anew: --create-db, or without --keepdb.")
    assert "\n" not in text
    # The next run has nothing to say, and goes back to it.
    found = rows(kept)
    kept.execute("DELETE FROM a")
    forget_test_databases()
    assert prepare(kept) == []
    assert rows(kept) == found


def test_a_migration_that_left_every_row_alone_is_no_word(kept):
    kept.execute(f"{NEW}{MIGRATED}")
    assert prepare(kept) == []
    assert len(rows(kept, "django_migrations")) == 2
