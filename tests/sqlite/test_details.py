"""Details of what SQLite has besides tables."""

from __future__ import annotations

from testdb_app.backends.sqlite.backend import BACKEND
from testdb_app.schema import Column, QualifiedName, UniqueKey


def read(database, *, count_rows=True):
    return BACKEND.read_details(database.connection, database.schema(), count_rows=count_rows)


def test_a_virtual_table_has_its_columns_and_rows_and_no_hidden_ones(database):
    database.run("CREATE VIRTUAL TABLE notes USING fts5(title, body)", "INSERT INTO notes VALUES ('a', 'b')")
    (details,) = read(database).values()
    assert [column.name for column in details.columns] == ["title", "body"]
    assert details.rows == 1


def test_a_column_without_a_type_has_none(database):
    database.run("CREATE TABLE a (id, b INT DEFAULT (1 + 1))")
    assert read(database)[QualifiedName("main", "a")].columns == (
        Column(name="id", data_type=""),
        Column(name="b", data_type="INT", default="1 + 1"),
    )


def test_a_table_without_rowid_has_its_primary_key_once(database):
    database.run("CREATE TABLE a (x text, y text, PRIMARY KEY (y, x)) WITHOUT ROWID")
    assert read(database)[QualifiedName("main", "a")].unique_keys == (UniqueKey(columns=("y", "x"), is_primary=True),)


def test_nothing_is_counted_unless_that_is_asked_for(database):
    database.run("CREATE TABLE a (id integer)", "INSERT INTO a VALUES (1)")
    assert [details.rows for details in read(database, count_rows=False).values()] == [None]
