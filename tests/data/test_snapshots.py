"""A snapshot sees what this session sees, tells every row that is different later, and leaves nothing behind."""

from __future__ import annotations

import gc

import pytest
from django.db import connections, transaction

from testdb_app.data import Snapshot, assert_unchanged, diff, snapshot
from testdb_app.exceptions import SnapshotError, UnknownNameError, UnsupportedError, VerificationError

TABLES = """
CREATE TABLE author (id integer PRIMARY KEY, name varchar(20), score numeric(6, 2), raw text);
CREATE TABLE book (id integer PRIMARY KEY, author_id integer REFERENCES author (id), title text);
CREATE TABLE part (book_id integer NOT NULL, place integer NOT NULL, body text, PRIMARY KEY (book_id, place));
CREATE TABLE note (body text, weight real);
CREATE TABLE empty (id integer PRIMARY KEY);
INSERT INTO author VALUES (1, 'Ada', 1.50, NULL), (2, 'Bob', 2.00, 'x'), (3, 'Cleo', NULL, '');
INSERT INTO book VALUES (1, 1, 'one'), (2, 2, 'two');
INSERT INTO part VALUES (1, 1, 'a'), (1, 2, 'b');
INSERT INTO note VALUES ('same', 0.5), ('same', 0.5), ('other', NULL);
"""


@pytest.fixture
def library(writable):
    writable.execute(TABLES)
    return writable


def run(database, *statements):
    with database.connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def test_it_tells_rows_that_were_added_changed_and_removed_as_a_diff(library):
    with snapshot(using=library.alias) as before:
        run(
            library,
            "INSERT INTO author VALUES (4, 'Dan', 3, NULL)",
            "UPDATE author SET name = 'Bo', raw = NULL WHERE id = 2",
            "DELETE FROM author WHERE id = 3",
            "UPDATE part SET body = 'c' WHERE place = 2",
        )
        found = diff(before)
    author = found.find("author")
    assert (author.added, author.changed, author.removed) == (1, 1, 1)
    assert [row.changed for row in author.rows if row.changed] == [("name", "raw")]
    schema = author.table.schema
    score = "3.00" if schema == "public" else "3"
    assert str(found) == (
        f"{schema}.author: 1 added, 1 changed, 1 removed\n"
        f"+ id=4 name='Dan' score={score} raw=NULL\n"
        "  id=2\n- name='Bob' raw='x'\n+ name='Bo' raw=NULL\n"
        "- id=3 name='Cleo' score=NULL raw=''\n"
        f"{schema}.part: 1 changed\n"
        "  book_id=1 place=2\n- body='b'\n+ body='c'"
    )


WRITES = {
    "inserted": (["INSERT INTO empty VALUES (1)"], {"empty": (1, 0, 0)}),
    "equal rows without a key": (["INSERT INTO note VALUES ('same', 0.5)"], {"note": (1, 0, 0)}),
    "one of two equal rows": (
        ["DELETE FROM note WHERE body = 'same'", "INSERT INTO note VALUES ('same', 0.5)"],
        {"note": (0, 0, 1)},
    ),
    "a key changed": (["UPDATE book SET id = 7 WHERE id = 2"], {"book": (1, 0, 1)}),
    "scale of a number": (["UPDATE author SET score = 2.5 WHERE id = 2"], {"author": (0, 1, 0)}),
    "null and empty": (["UPDATE author SET raw = NULL WHERE id = 3"], {"author": (0, 1, 0)}),
    "all deleted": (["DELETE FROM book", "DELETE FROM author"], {"author": (0, 0, 3), "book": (0, 0, 2)}),
    "written as it was": (
        ["UPDATE author SET name = name", "DELETE FROM part", "INSERT INTO part VALUES (1, 2, 'b'), (1, 1, 'a')"],
        {},
    ),
    "nothing": ([], {}),
}


@pytest.mark.parametrize("inside", [False, True], ids=["autocommit", "atomic"])
@pytest.mark.parametrize(("statements", "expected"), WRITES.values(), ids=WRITES.keys())
def test_it_counts_what_differs_exactly(library, statements, expected, inside):
    def look():
        with snapshot(using=library.alias) as before:
            assert not diff(before)
            run(library, *statements)
            with snapshot(using=library.alias) as after:
                first, second = diff(before), diff(before, after)
                assert not diff(after)
        return first, second

    if inside:
        with transaction.atomic(using=library.alias):
            found = look()
            transaction.set_rollback(True, using=library.alias)
    else:
        found = look()
    for difference in found:
        counts = {table.table.name: (table.added, table.changed, table.removed) for table in difference.tables}
        if expected == {"note": (0, 0, 1)} and library.connection.vendor == "sqlite":
            # There a row without a key has its rowid.
            assert sum(counts["note"][:1]) - counts["note"][2] == -1
        else:
            assert counts == expected


def test_it_sees_uncommitted_rows_of_its_own_and_their_rollback(library):
    with transaction.atomic(using=library.alias):
        run(library, "INSERT INTO empty VALUES (1)")
        with snapshot(using=library.alias) as before:
            with transaction.atomic(using=library.alias):
                run(library, "INSERT INTO empty VALUES (2)")
                assert diff(before).find("empty").added == 1
                transaction.set_rollback(True, using=library.alias)
            assert not diff(before)
        transaction.set_rollback(True, using=library.alias)


def test_rows_that_a_rollback_took_back_are_missed_although_nothing_was_written_since(library):
    connection = library.connection
    with transaction.atomic(using=library.alias):
        point = connection.savepoint()
        run(library, "INSERT INTO empty VALUES (1)", "DELETE FROM part")
        with snapshot(using=library.alias) as before:
            if connection.vendor == "postgresql":
                connection.savepoint_rollback(point)
                found = diff(before)
                assert (found.find("empty").removed, found.find("part").added) == (1, 2)
            else:
                connection.savepoint_rollback(point)
                with pytest.raises(SnapshotError, match="rolled back"):
                    diff(before)


def test_what_another_session_commits_is_told(library):
    with snapshot(using=library.alias) as before:
        library.execute("UPDATE author SET name = 'Eve' WHERE id = 1")
        assert diff(before).find("author").changed == 1


def test_two_snapshots_in_a_row_do_not_mix_up_what_they_know(library):
    for number in range(10, 14):
        with snapshot(using=library.alias) as before:
            run(library, f"INSERT INTO empty VALUES ({number})")
            assert diff(before).find("empty").added == 1
            run(library, f"UPDATE author SET name = 'n{number}' WHERE id = 1")
            with snapshot(using=library.alias) as after:
                assert not diff(after)
                assert {table.table.name for table in diff(before, after).tables} == {"author", "empty"}


def test_only_the_tables_that_are_named_are_looked_at(library):
    schema = "public" if library.connection.vendor == "postgresql" else "main"
    with snapshot(f"{schema}.book", using=library.alias) as before:
        run(library, "DELETE FROM part", "DELETE FROM book WHERE id = 2")
        assert [table.table.name for table in diff(before).tables] == ["book"]
    with pytest.raises(UnknownNameError, match=r"book"):
        snapshot(f"{schema}.bok", using=library.alias)


def test_many_rows_are_counted_and_some_are_shown(library):
    with snapshot(using=library.alias) as before:
        run(library, *(f"INSERT INTO empty VALUES ({number})" for number in range(300)))
        table = diff(before, limit=3).find("empty")
    assert (table.added, len(table.rows)) == (300, 3)
    assert list(table.lines())[-1] == "  … and 297 more"


def test_a_large_table_is_kept_in_the_database_and_gone_when_the_snapshot_is_closed(library):
    run(library, *(f"INSERT INTO book VALUES ({number}, 1, '{'x' * 900}')" for number in range(100, 400)))
    before = snapshot(using=library.alias)
    assert not diff(before)
    run(library, "UPDATE book SET title = 'short' WHERE id = 200", "DELETE FROM book WHERE id = 201")
    found = diff(before).find("book")
    assert (found.changed, found.removed) == (1, 1)
    assert count_temporary(library) > 0
    before.close()
    before.close()
    assert count_temporary(library) == 0
    with pytest.raises(SnapshotError, match="closed"):
        diff(before)


def test_a_forgotten_snapshot_leaves_nothing_once_there_is_another_look(library):
    run(library, *(f"INSERT INTO book VALUES ({number}, 1, '{'x' * 900}')" for number in range(100, 400)))
    forgotten = snapshot(using=library.alias)
    del forgotten
    gc.collect()
    run(library, "DELETE FROM book WHERE id >= 100")
    if library.connection.vendor == "postgresql":
        run(library, "VACUUM book")
    with snapshot(using=library.alias):
        pass
    assert count_temporary(library) == 0


def test_large_tables_compare_between_two_snapshots(library):
    run(library, *(f"INSERT INTO book VALUES ({number}, 1, '{'x' * 900}')" for number in range(100, 400)))
    with snapshot(using=library.alias) as before:
        run(library, "UPDATE book SET title = 'short' WHERE id = 200", "INSERT INTO note VALUES ('new', 1)")
        with snapshot(using=library.alias) as after:
            run(library, "DELETE FROM book WHERE id = 300")
            found = diff(before, after)
    assert {table.table.name: (table.added, table.changed, table.removed) for table in found.tables} == {
        "book": (0, 1, 0),
        "note": (1, 0, 0),
    }


def count_temporary(database):
    query = "SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'"
    if database.connection.vendor == "sqlite":
        query = "SELECT count(*) FROM sqlite_temp_master WHERE type = 'table'"
    with database.connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def test_a_table_that_was_altered_or_dropped_since_is_an_error_that_names_it(library):
    for change in ("ALTER TABLE book ADD COLUMN pages integer", "DROP TABLE book"):
        with snapshot(using=library.alias) as before:
            run(library, change)
            with pytest.raises(SnapshotError, match="book") as caught:
                diff(before)
            assert [name.rpartition(".")[2] for name in caught.value.tables] == ["book"]


def test_rows_of_a_table_that_was_created_since_are_added(library):
    with snapshot(using=library.alias) as before:
        run(library, "CREATE TABLE later (id integer PRIMARY KEY)", "INSERT INTO later VALUES (1)")
        assert diff(before).find("later").added == 1


def test_assert_unchanged_fails_with_the_difference(library):
    with snapshot(using=library.alias) as before:
        assert_unchanged(before)
        run(library, "INSERT INTO empty VALUES (5)")
        with pytest.raises(AssertionError) as caught:
            assert_unchanged(before)
    error = caught.value
    assert isinstance(error, VerificationError)
    assert error.check == "assert_unchanged"
    assert [table.table.name for table in error.failures] == ["empty"]
    assert str(error).splitlines()[0] == f'database "{library.alias}" has changed since the snapshot:'
    assert str(error).splitlines()[-1] == "+ id=5"


def test_a_snapshot_of_small_tables_outlives_its_connection_and_others_say_that_they_cannot(library):
    with snapshot(using=library.alias) as before:
        connections[library.alias].close()
        run(library, "INSERT INTO empty VALUES (5)")
        if library.connection.vendor == "postgresql":
            assert [table.table.name for table in diff(before).tables] == ["empty"]
        else:
            with pytest.raises(SnapshotError, match="another connection"):
                diff(before)


def test_on_sqlite_what_cannot_be_told_apart_is_refused_and_no_key_is_needed(writable):
    if writable.connection.vendor != "sqlite":
        pytest.skip("only SQLite has tables like these")
    run(
        writable,
        "CREATE TABLE fixed (a text, b integer, PRIMARY KEY (a, b)) WITHOUT ROWID",
        "CREATE TABLE loose (a, b REAL)",
        "INSERT INTO fixed VALUES ('x', 1), ('y', 2)",
        "INSERT INTO loose VALUES (x'00ff', 1), (1, 2), ('1', -0.0)",
    )
    with snapshot(using=writable.alias) as before:
        run(
            writable,
            "UPDATE loose SET a = '1' WHERE a = 1 AND typeof(a) = 'integer'",
            "DELETE FROM fixed WHERE a = 'y'",
        )
        found = diff(before)
        assert (found.find("loose").changed, found.find("fixed").removed) == (1, 1)
    for statement, name in (
        ("CREATE TABLE hidden (rowid text, oid text, _rowid_ text)", "hidden"),
        ("CREATE TABLE nameless (id text PRIMARY KEY)", "nameless"),
    ):
        run(writable, statement, f"INSERT INTO {name} DEFAULT VALUES")
        with pytest.raises(UnsupportedError, match=name):
            snapshot(using=writable.alias)
        run(writable, f"DROP TABLE {name}")


def test_two_databases_are_not_compared(library):
    with snapshot(using=library.alias) as before:
        other = Snapshot("elsewhere", before._state)
        with pytest.raises(SnapshotError, match='cannot be compared with one of "elsewhere"'):
            diff(before, other)
    assert repr(before) == f"<Snapshot of {library.alias!r}>"
