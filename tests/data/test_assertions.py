"""Assertions fail with what is wrong: the table, the key, the value."""

from __future__ import annotations

import pickle

import pytest
from django.db import transaction

from testdb_app.baseline import capture_baseline
from testdb_app.data import (
    assert_clean,
    assert_constraints,
    assert_row_counts,
    assert_rows,
    assert_sequences_ahead,
)
from testdb_app.demo.models import Author, Genre, Publisher, Series
from testdb_app.exceptions import DataError, VerificationError
from tests.data.models import Reading, make_tables

TABLES = """
CREATE TABLE author (id integer PRIMARY KEY, name text);
CREATE TABLE book (id integer PRIMARY KEY, author_id integer REFERENCES author (id) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE empty (id integer PRIMARY KEY);
"""


def failure(function, *arguments, **options):
    with pytest.raises(VerificationError) as caught:
        function(*arguments, **options)
    error = caught.value
    assert isinstance(error, AssertionError)
    assert error.check == function.__name__
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error


def test_clean_means_empty_where_there_is_no_baseline(writable):
    writable.execute(TABLES)
    assert_clean(writable.alias)
    writable.execute("INSERT INTO author VALUES (7, 'Ada')")
    error = failure(assert_clean, writable.alias)
    assert str(error).splitlines()[0] == f'database "{writable.alias}" is not empty:'
    assert str(error).splitlines()[2:] == ["+ id=7 name='Ada'"]
    schema = error.failures[0].table.schema
    assert_clean(writable.alias, exclude=f"{schema}.author")


def test_clean_means_the_rows_of_the_baseline_where_there_is_one(writable):
    writable.execute(TABLES + "INSERT INTO author VALUES (1, 'Ada'), (2, 'Bob');")
    capture_baseline(writable.alias)
    assert_clean(writable.alias)
    with transaction.atomic(using=writable.alias):
        with writable.connection.cursor() as cursor:
            cursor.execute("UPDATE author SET name = 'Eve' WHERE id = 1")
            cursor.execute("DELETE FROM author WHERE id = 2")
            cursor.execute("INSERT INTO empty VALUES (3)")
        error = failure(assert_clean, writable.alias)
        transaction.set_rollback(True, using=writable.alias)
    assert {table.table.name: (table.added, table.changed, table.removed) for table in error.failures} == {
        "author": (0, 1, 1),
        "empty": (1, 0, 0),
    }
    assert "not in its baseline's state" in str(error)
    assert "- name='Ada'\n+ name='Eve'" in str(error)
    assert_clean(writable.alias)


def test_clean_tells_sequences_that_have_moved_if_asked(writable):
    if writable.connection.vendor == "postgresql":
        writable.execute("CREATE TABLE log (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)")
    else:
        writable.execute("CREATE TABLE log (id integer PRIMARY KEY AUTOINCREMENT, body text)")
    assert_clean(writable.alias, sequences=True)
    writable.execute("INSERT INTO log (body) VALUES ('x'); DELETE FROM log")
    assert_clean(writable.alias)
    error = failure(assert_clean, writable.alias, sequences=True)
    assert str(error).endswith("sequence at 1, not its start, 1")


@pytest.mark.django_db
def test_row_counts_are_compared_by_model_label_and_table():
    Author.objects.create(name="A")
    assert_row_counts({Author: 1, "testdb_demo.Author": 1, Publisher: 0})
    error = failure(assert_row_counts, {Author: 2, "testdb_demo.publisher": 0, Series: 3})
    assert str(error).splitlines()[1:] == ["testdb_demo.Author: 1 rows, not 2", "testdb_demo.Series: 0 rows, not 3"]
    assert error.failures == [("testdb_demo.Author", 1, 2), ("testdb_demo.Series", 0, 3)]
    with pytest.raises(DataError, match=r'"testdb_demo" names \d+ tables'):
        assert_row_counts({"testdb_demo": 1})


@pytest.mark.django_db
def test_rows_are_compared_on_the_fields_that_are_named():
    Genre.objects.all().delete()
    top = Genre.objects.create(name="top")
    Genre.objects.create(name="low", broader=top)
    assert_rows(Genre, [{"name": "low"}, {"name": "top"}])
    assert_rows(Genre, [{"broader__name": "top", "name": "low"}, {"name": "top", "broader__name": None}])
    assert_rows(Genre, [{"name": "top"}, {"name": "low"}], ordered=True)
    error = failure(assert_rows, Genre, [{"name": "low"}, {"name": "high"}])
    assert (
        str(error)
        == "rows of testdb_demo.Genre are not as expected: 1 missing (-), 1 too many (+):\n- name='high'\n+ name='top'"
    )
    assert error.failures == [("-", {"name": "high"}), ("+", {"name": "top"})]
    failure(assert_rows, Genre, [{"name": "low"}, {"name": "top"}, {"name": "top"}])
    assert "another order, from row 1 on" in str(
        failure(assert_rows, Genre, [{"name": "low"}, {"name": "top"}], ordered=True)
    )
    failure(assert_rows, Genre, [])
    with pytest.raises(DataError, match="name the same fields"):
        assert_rows(Genre, [{"name": "low"}, {"id": 1}])


def test_rows_with_values_that_cannot_be_hashed_are_compared_too(writable):
    make_tables(writable.alias, Reading)
    for payload in ({"a": 1}, {"a": 1}, None):
        Reading(value=1, payload=payload).save(using=writable.alias)
    assert_rows(Reading, [{"payload": None}, {"payload": {"a": 1}}, {"payload": {"a": 1}}], using=writable.alias)
    error = failure(assert_rows, Reading, [{"payload": {"a": 2}}, {"payload": None}], using=writable.alias)
    assert [sign for sign, _ in error.failures] == ["-", "+", "+"]


def test_a_deferred_key_that_dangles_is_named_and_may_still_be_mended(writable):
    writable.execute(TABLES)
    assert_constraints(writable.alias)
    with transaction.atomic(using=writable.alias):
        with writable.connection.cursor() as cursor:
            cursor.execute("INSERT INTO book VALUES (1, 99), (2, 99), (3, NULL)")
            error = failure(assert_constraints, writable.alias)
            cursor.execute("INSERT INTO author VALUES (99, 'late')")
        assert_constraints(writable.alias)
    found = sum(violation.rows for violation in error.failures)
    assert found == 2
    assert {
        (violation.table.rpartition(".")[2], violation.columns, violation.values) for violation in error.failures
    } == {("book", ("author_id",), ("99",))}
    assert "(author_id) = (99) is not in" in str(error)
    assert writable.count("book") == 3


@pytest.mark.postgresql
def test_deferred_unique_keys_and_other_constraints_are_told(scratch):
    scratch.execute(
        "CREATE TABLE place (id int PRIMARY KEY, n int UNIQUE DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TABLE span (r int4range, EXCLUDE USING gist (r WITH &&) DEFERRABLE INITIALLY DEFERRED)"
    )
    with transaction.atomic(using=scratch.alias):
        with scratch.connection.cursor() as cursor:
            cursor.execute("INSERT INTO place VALUES (1, 5), (2, 5), (3, NULL), (4, NULL)")
            first = failure(assert_constraints, scratch.alias)
            cursor.execute("DELETE FROM place WHERE id = 2")
            assert_constraints(scratch.alias)
            cursor.execute("INSERT INTO span VALUES ('[1,3)'), ('[2,4)')")
            second = failure(assert_constraints, scratch.alias)
        transaction.set_rollback(True, using=scratch.alias)
    assert str(first).splitlines()[1:] == ["public.place: unique place_n_key: (n) = (5) is in 2 rows"]
    (violation,) = second.failures
    assert (violation.kind, violation.table, violation.constraint) == ("constraint", "public.span", "span_r_excl")
    assert "conflicts with existing key (r)=([1,3))" in violation.detail


@pytest.mark.postgresql
def test_rows_that_came_past_their_check_are_found(scratch):
    scratch.execute(
        "CREATE TABLE a (x int, y int, PRIMARY KEY (x, y));"
        'CREATE TABLE "odd % name" ("p q" int, q int, FOREIGN KEY ("p q", q) REFERENCES a);'
        "CREATE TABLE part (id int) PARTITION BY RANGE (id);"
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);"
        "ALTER TABLE part ADD FOREIGN KEY (id, id) REFERENCES a".replace("(id, id)", "(id, other)").replace(
            "part (id int)", "part (id int, other int)"
        )
    )
    with scratch.superuser() as session:
        session.execute("SET session_replication_role = replica")
        session.execute('INSERT INTO "odd % name" VALUES (1, 2), (1, NULL)')
        session.execute("INSERT INTO part VALUES (3, 4)")
    error = failure(assert_constraints, scratch.alias)
    assert [(violation.table, violation.values) for violation in error.failures] == [
        ('public."odd % name"', ("1", "2")),
        ("public.part", ("3", "4")),
    ]


@pytest.mark.postgresql
def test_a_sequence_behind_its_column_is_named(scratch):
    scratch.execute(
        "CREATE TABLE up (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY);"
        "CREATE SEQUENCE falling INCREMENT -1; CREATE TABLE down (id bigint DEFAULT nextval('falling'));"
        "CREATE SEQUENCE texts; CREATE TABLE code (id text DEFAULT 'A' || nextval('texts'));"
        "INSERT INTO up DEFAULT VALUES; INSERT INTO down DEFAULT VALUES; INSERT INTO code DEFAULT VALUES"
    )
    assert_sequences_ahead(scratch.alias)
    scratch.execute("INSERT INTO up VALUES (2), (9); INSERT INTO down VALUES (-2)")
    error = failure(assert_sequences_ahead, scratch.alias)
    assert [str(late) for late in error.failures] == [
        "public.falling: its next value is -2, and public.down(id) has rows up to -2",
        "public.up_id_seq: its next value is 2, and public.up(id) has rows up to 9",
    ]
    scratch.execute("ALTER SEQUENCE up_id_seq RESTART WITH 10; SELECT nextval('falling')")
    assert_sequences_ahead(scratch.alias)
