"""Copies and documents that somebody has written to, dropped or edited: an error says so, and no table is emptied by them."""

from __future__ import annotations

import pytest
from django.db import transaction

from testdb_app.backends.postgresql import baseline as kept
from testdb_app.baseline import capture_baseline
from testdb_app.exceptions import BaselineDamagedError
from tests.baseline.conftest import content

TABLES = """
CREATE TABLE a (id int PRIMARY KEY, n numeric, f float8, j json, r regclass); CREATE TABLE b (v text);
INSERT INTO a SELECT n, 1.0, 0.0, '{}', 'b' FROM generate_series(1, 3) n; INSERT INTO b VALUES ('x'), ('x');
"""
DAMAGES = {
    "a row is missing": (
        "DELETE FROM testdb.baseline_1 WHERE id = 2",
        r"baseline_1, the copy of public\.a, has 2 rows instead of 3",
    ),
    "all rows are missing": ("TRUNCATE testdb.baseline_1", "has 0 rows instead of 3"),
    "a row more": (
        "INSERT INTO testdb.baseline_2 VALUES ('y')",
        r"baseline_2, the copy of public\.b, has 3 rows instead of 2",
    ),
    "another value": (
        "UPDATE testdb.baseline_2 SET v = 'y'",
        r"rows of testdb\.baseline_2, the copy of public\.b, were changed",
    ),
    "another scale": (
        "UPDATE testdb.baseline_1 SET n = 1.00 WHERE id = 1",
        r"rows of testdb\.baseline_1, .*, were changed",
    ),
    "another sign of zero": ("UPDATE testdb.baseline_1 SET f = '-0' WHERE id = 1", "were changed"),
    "a row in place of another": (
        "DELETE FROM testdb.baseline_1 WHERE id = 1; INSERT INTO testdb.baseline_1 SELECT * FROM testdb.baseline_1 WHERE id = 2",
        "were changed",
    ),
    "a copy is dropped": ("DROP TABLE testdb.baseline_2", r"baseline_2, the copy of public\.b, is gone"),
    "a copy has lost a column": ("ALTER TABLE testdb.baseline_2 DROP v", "its copies cannot be read"),
    "the document is edited": (
        "UPDATE testdb.baseline SET document = jsonb_set(document, '{tables,0,rows}', '2')",
        "its document was edited",
    ),
    "the document is no document": ("UPDATE testdb.baseline SET document = '[]'", "its document cannot be read"),
    "the document is deleted": (
        "DELETE FROM testdb.baseline",
        r"its document, testdb\.baseline, has 0 rows instead of one",
    ),
    "the document is dropped": (
        "DROP TABLE testdb.baseline",
        r"its document, testdb\.baseline, is gone, and copies are there",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("writes", [True, False], ids=["after writes", "without"])
def test_damage_is_told_by_a_resetter_that_knew_the_baseline_and_by_a_new_one(scratch, captured, damage, writes):
    statements, message = damage
    captured(TABLES)
    resetter = scratch.resetter(to="baseline")
    for _ in range(3):
        scratch.execute("UPDATE a SET n = n + 1 WHERE id = 1")
        resetter.reset()
    scratch.execute(statements)
    if writes:
        scratch.execute("UPDATE a SET n = n + 1; UPDATE b SET v = 'z'")
    before = content(scratch)
    for each in (resetter, scratch.resetter(to="baseline"), resetter, scratch.resetter()):
        with pytest.raises(BaselineDamagedError, match=message):
            each.reset()
    with pytest.raises(BaselineDamagedError, match=message):
        capture_baseline(scratch.alias, allow_database=scratch.name)
    assert content(scratch) == before
    capture_baseline(scratch.alias, replace=True, allow_database=scratch.name)
    scratch.execute("UPDATE a SET n = n + 1; DELETE FROM b")
    for each in (resetter, scratch.resetter()):
        each.reset()
        assert content(scratch) == before


@pytest.mark.parametrize("within", [True, False], ids=["within a transaction", "by itself"])
def test_a_copy_without_rows_never_empties_a_table_whatever_was_read_before(scratch, captured, within, monkeypatch):
    """The copy is damaged between the look and the write, where no counter is compared any more."""
    captured(TABLES)
    scratch.execute("UPDATE a SET n = 5")
    before = content(scratch)
    resetter = scratch.resetter(to="baseline", within_transaction=within)
    backend = resetter.backend
    run = type(backend).run

    def damage_then_run(self, connection, script, **options):
        scratch.execute("DELETE FROM testdb.baseline_1")
        return run(self, connection, script, **options)

    monkeypatch.setattr(type(backend), "run", damage_then_run)
    with pytest.raises(BaselineDamagedError, match=r"baseline_1, the copy of public\.a, has 0 rows instead of 3"):
        if within:
            with transaction.atomic(using=scratch.alias):
                resetter.reset()
        else:
            resetter.reset()
    assert content(scratch) == before


def test_copies_are_verified_once_a_process_and_again_where_they_were_written_to(scratch, captured, monkeypatch):
    captured(TABLES)
    verified = []
    verify = kept._verify

    def count(connection, baseline):
        verified.append(1)
        verify(connection, baseline)

    monkeypatch.setattr(kept, "_verify", count)
    for _ in range(3):
        scratch.execute("UPDATE a SET n = n + 1")
        scratch.reset()
    assert verified == []  # this process has made them
    monkeypatch.setattr(kept, "_verified", set())
    resetter = scratch.resetter()
    for _ in range(3):
        scratch.execute("UPDATE a SET n = n + 1")
        scratch.reset()
        resetter.reset()
    assert len(verified) == 1
    scratch.execute("UPDATE testdb.baseline_1 SET n = n")
    for _ in range(3):
        scratch.execute("UPDATE a SET n = n + 1")
        resetter.reset()
    assert len(verified) == 2
    assert resetter.reset().rows == 0


def test_another_name_of_an_object_is_no_damage(scratch, captured, monkeypatch):
    """A value of the type regclass is the object's number."""
    captured(TABLES + "CREATE TABLE c (); UPDATE a SET r = 'c'")
    scratch.execute("DROP TABLE c; CREATE TABLE c ()")
    monkeypatch.setattr(kept, "_verified", set())
    scratch.reset()
