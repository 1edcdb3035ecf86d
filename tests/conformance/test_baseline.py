"""What a baseline promises on every backend that keeps one, with SQL that PostgreSQL and SQLite both understand."""

from __future__ import annotations

import pytest
from django.db import transaction

from testdb_app.baseline import capture_baseline, drop_baseline
from testdb_app.exceptions import BaselineError, ExclusionError, TransactionStateError

TABLES = """
CREATE TABLE author (id integer PRIMARY KEY, name varchar(20) UNIQUE, up integer REFERENCES author (id));
CREATE TABLE book (id integer PRIMARY KEY, author_id integer NOT NULL REFERENCES author (id), title text);
CREATE TABLE part (book_id integer REFERENCES book (id), place integer, body text, PRIMARY KEY (book_id, place));
CREATE TABLE note (body text, weight real);
CREATE TABLE untouched (id integer PRIMARY KEY);
CREATE TABLE loan (id integer PRIMARY KEY, book_id integer REFERENCES book (id));
INSERT INTO author VALUES (1, 'Ada', NULL), (2, 'Bob', 1), (3, 'Cleo', 3);
INSERT INTO book VALUES (1, 1, 'one'), (2, 2, 'two');
INSERT INTO part VALUES (1, 1, 'a'), (1, 2, 'b'), (2, 1, NULL);
INSERT INTO note VALUES ('same', 0.5), ('same', 0.5), ('other', NULL);
INSERT INTO untouched VALUES (1);
"""
WRITES = {
    "rows are inserted": "INSERT INTO author VALUES (4, 'Dan', 2); INSERT INTO book VALUES (9, 4, 'nine');"
    "INSERT INTO loan VALUES (1, 9)",
    "rows are updated": "UPDATE author SET name = 'Eve' WHERE id = 1; UPDATE note SET weight = 7 WHERE body = 'other'",
    "rows are deleted": "DELETE FROM part WHERE place = 1; DELETE FROM note WHERE body = 'other'",
    "all rows are deleted": "DELETE FROM part; DELETE FROM book; UPDATE author SET up = NULL; DELETE FROM author;"
    "DELETE FROM note; DELETE FROM untouched",
    "a key is taken by another row": "DELETE FROM author WHERE id = 3; INSERT INTO author VALUES (4, 'Cleo', NULL)",
    "unique values are swapped": "UPDATE author SET name = 'x' WHERE id = 1; UPDATE author SET name = 'Ada' WHERE id = 2;"
    "UPDATE author SET name = 'Bob' WHERE id = 1",
    "rows refer to one that came": "INSERT INTO author VALUES (9, 'Ida', NULL); UPDATE book SET author_id = 9;"
    "UPDATE author SET up = 9; DELETE FROM author WHERE id = 2",
    "keys change": "UPDATE part SET place = place + 7; UPDATE untouched SET id = 2",
    "work is rolled back": "BEGIN; INSERT INTO author VALUES (4, 'Zoe', NULL); DELETE FROM part; ROLLBACK",
    "nothing": "SELECT 1",
}
NAMES = ("author", "book", "part", "note", "untouched", "loan")


def content(database):
    """Return every row of every table, sorted."""
    with database.connection.cursor() as cursor:
        found = {}
        for name in NAMES:
            cursor.execute(f"SELECT * FROM {name}")
            found[name] = sorted(map(repr, cursor.fetchall()))
        return found


def capture(database, **options):
    return capture_baseline(database.alias, **{"allow_database": database.name, **options})


@pytest.mark.parametrize("writes", WRITES.values(), ids=WRITES.keys())
def test_every_row_is_as_it_was_and_a_second_reset_finds_nothing(database, writes):
    database.execute(TABLES)
    capture(database)
    before, warm = content(database), database.resetter()
    warm.reset()
    for resetter in (database.resetter(), warm, warm):
        database.execute(writes)
        report = resetter.reset()
        assert report.target == "baseline"
        assert content(database) == before
        assert resetter.reset().tables == ()


@pytest.mark.parametrize("writes", WRITES.values(), ids=WRITES.keys())
def test_it_is_the_same_within_a_transaction_and_undone_with_it(database, writes):
    database.execute(TABLES)
    capture(database)
    before = content(database)
    for is_undone in (True, False):
        database.execute(writes)
        dirty = content(database)
        with transaction.atomic(using=database.alias):
            database.reset(within_transaction=True)
            assert content(database) == before
            transaction.set_rollback(is_undone, using=database.alias)
        assert content(database) == (dirty if is_undone else before)
        database.reset()


def test_rows_are_counted_and_tables_that_were_not_written_are_not_named(database):
    database.execute(TABLES)
    capture(database)
    database.execute("INSERT INTO loan VALUES (1, 1); DELETE FROM part WHERE book_id = 2")
    database.execute("UPDATE author SET up = 3 WHERE id < 3")
    report = database.reset()
    assert {table.name.name: (table.rows, table.updated, table.inserted) for table in report.tables} == {
        "loan": (1, 0, 0),
        "part": (0, 0, 1),
        "author": (0, 2, 0),
    }
    assert (report.rows, report.restored) == (1, 3)


def test_a_baseline_is_captured_once_unless_it_is_to_be_replaced(database):
    database.execute(TABLES)
    first = capture(database)
    database.execute("DELETE FROM part; INSERT INTO loan VALUES (7, 1)")
    assert capture(database).captured_at == first.captured_at
    second = capture(database, replace=True)
    assert {name.name: table.rows for name, table in second.tables.items()} == {
        "author": 3, "book": 2, "note": 3, "untouched": 1, "loan": 1,
    }  # fmt: skip
    before = content(database)
    database.execute("DELETE FROM loan; INSERT INTO part VALUES (1, 1, 'a')")
    database.reset()
    assert content(database) == before


def test_rows_that_stay_may_refer_to_rows_of_the_baseline_only(database):
    database.execute(TABLES)
    capture(database, exclude=["*.loan"])
    database.execute("INSERT INTO loan VALUES (1, 1), (2, NULL); UPDATE book SET title = 'x' WHERE id = 1")
    database.execute("INSERT INTO book VALUES (3, 1, 'three')")
    assert {table.name.name for table in database.reset().tables} == {"book"}
    assert database.count("loan") == 2
    database.execute("INSERT INTO book VALUES (3, 1, 'three'); UPDATE loan SET book_id = 3 WHERE id = 2")
    with pytest.raises(ExclusionError, match=r"loan\(book_id\) → .*book\(id\): 1 row"):
        database.reset()
    assert database.count("book") == 3


def test_another_schema_is_refused_with_what_has_changed_until_it_is_captured(database):
    database.execute(TABLES)
    capture(database)
    warm = database.resetter()
    warm.reset()
    database.execute("ALTER TABLE book ADD COLUMN pages integer; INSERT INTO book VALUES (3, 1, 'three', 3)")
    for act in (warm.reset, database.reset, lambda: capture(database)):
        with pytest.raises(BaselineError, match=r"table \w+\.book has changed \(.*\+ pages"):
            act()
    assert database.count("book") == 3
    capture(database, replace=True)
    assert warm.reset().tables == ()


def test_a_baseline_is_asked_for_and_dropped(database):
    database.execute(TABLES)
    with pytest.raises(BaselineError, match=r"capture_baseline\(\)"):
        database.reset(to="baseline")
    capture(database)
    assert database.reset(to="baseline").tables == ()
    drop_baseline(database.alias, allow_database=database.name)
    drop_baseline(database.alias, allow_database=database.name)
    assert database.reset().target == "empty"
    assert database.count("author") == 0


def test_a_capture_inside_a_transaction_is_refused(database):
    database.execute(TABLES)
    with transaction.atomic(using=database.alias), pytest.raises(TransactionStateError):
        capture(database)


def test_two_states_are_kept_side_by_side_and_resetters_go_to_and_fro(database):
    database.execute(TABLES)
    capture(database)
    full = content(database)
    database.execute("DELETE FROM part; UPDATE author SET up = NULL; INSERT INTO loan VALUES (7, 1)")
    few = content(database)
    assert capture(database, state="flushed").tables.keys() != capture(database).tables.keys()
    states = {"baseline": full, "flushed": few, "empty": {name: [] for name in NAMES}}
    resetters = {to: database.resetter(to=to) for to in states}
    for writes in ("SELECT 1", WRITES["rows refer to one that came"], WRITES["all rows are deleted"], "SELECT 1"):
        for to in ("flushed", "baseline", "flushed", "empty", "flushed", "baseline", "empty", "baseline"):
            report = resetters[to].reset()
            assert (report.target, content(database)) == (to, states[to])
            if to == "baseline":
                database.execute(writes)
    capture(database, state="flushed", replace=True)
    assert resetters["baseline"].reset().target == "baseline"
    assert content(database) == full
    drop_baseline(database.alias, allow_database=database.name)
    for to in ("baseline", "flushed"):
        with pytest.raises(BaselineError, match="has no baseline"):
            resetters[to].reset()
