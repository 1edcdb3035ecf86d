"""Rows are taken away by statements whose names may hold anything, and only where the guard was asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.db import connections, transaction

from testdb_app.backends import get_backend
from testdb_app.data.ledger import TableRows, remove
from testdb_app.data.model_index import read_index
from testdb_app.exceptions import PublicationError, UnsafeDatabaseError
from testdb_app.schema import QualifiedName
from tests.scratch import is_postgresql

PARENT, CHILD = "pa%s'r\nent %", 'ch%%i"ld'
KEY, OTHER = "k%d", 'o"%s\n'


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture
def strange(writable):
    kind = "uuid" if is_postgresql() else "char(36)"
    with writable.connection.cursor() as cursor:
        for statement in (
            f"CREATE TABLE {quoted(PARENT)} ({quoted(KEY)} integer PRIMARY KEY)",
            (
                f"CREATE TABLE {quoted(CHILD)} ({quoted(KEY)} integer REFERENCES {quoted(PARENT)}, {quoted(OTHER)} {kind}, "
                f"PRIMARY KEY ({quoted(KEY)}, {quoted(OTHER)}))"
            ),
            f"INSERT INTO {quoted(PARENT)} VALUES (1), (2), (3), (7)",
            (
                f"INSERT INTO {quoted(CHILD)} VALUES (1, '00000000-0000-0000-0000-000000000001'), "
                "(3, '00000000-0000-0000-0000-000000000002')"
            ),
        ):
            cursor.execute(statement, None)
    return writable


def values(database, table):
    with database.connection.cursor() as cursor:
        cursor.execute(f"SELECT {quoted(KEY)} FROM {quoted(table)} ORDER BY 1", None)
        return [row[0] for row in cursor.fetchall()]


def test_names_with_percent_signs_quotes_and_line_ends_are_taken_as_they_are(strange):
    connection = strange.connection
    schema = "public" if is_postgresql() else "main"
    rows = {QualifiedName(schema, PARENT): TableRows(columns=(KEY,), keys=frozenset({(1,), (2,), (7,)}))}
    identity = get_backend(connection).identify(connection)
    removed = remove(connection, read_index(connection), rows, dependents="take", identity=identity)
    assert {name.name: count for name, count in removed.items()} == {PARENT: 3, CHILD: 1}
    assert (values(strange, PARENT), values(strange, CHILD)) == ([3], [3])


@pytest.mark.postgresql
def test_nothing_is_taken_away_elsewhere(strange):
    connection = connections[strange.alias]
    rows = {QualifiedName("public", CHILD): TableRows(columns=(KEY,), keys=frozenset({(1,)}))}
    identity = replace(get_backend(connection).identify(connection), oid=1)
    with pytest.raises(UnsafeDatabaseError, match="another database of this name"):
        remove(connection, read_index(connection), rows, dependents="take", identity=identity)
    assert values(strange, CHILD) == [1, 3]


PUBLISHED = """
CREATE TABLE shelf (id integer PRIMARY KEY);
CREATE TABLE log (line text, shelf_id integer REFERENCES shelf ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE parts (id integer) PARTITION BY LIST (id);
CREATE TABLE part PARTITION OF parts FOR VALUES IN (1);
INSERT INTO shelf VALUES (1), (2); INSERT INTO log VALUES ('kept', 1), ('made', 1); INSERT INTO parts VALUES (1);
CREATE PUBLICATION p FOR TABLE shelf, log, parts
"""
IDENTITIES = "SELECT relname, relreplident FROM pg_class WHERE relname IN ('shelf', 'log', 'part') ORDER BY 1"
# Of a published table without a key; of one that the server asks for its identity because a key cascades to it; of partitions.
TAKEN = {"log": ("line", "made"), "shelf": ("id", 2), "parts": ("id", 1)}


def take(connection, table):
    column, value = TAKEN[table]
    rows = {QualifiedName("public", table): TableRows(columns=(column,), keys=frozenset({(value,)}))}
    identity = get_backend(connection).identify(connection)
    return remove(connection, read_index(connection), rows, dependents="refuse", identity=identity)


@pytest.mark.postgresql
@pytest.mark.parametrize("table", TAKEN)
@pytest.mark.parametrize("within", [False, True])
def test_rows_of_published_tables_without_a_key_are_taken_away(writable, table, within):
    writable.execute(PUBLISHED)
    before, connection = writable.query(IDENTITIES), writable.connection
    if within:
        with transaction.atomic(using=writable.alias), connection.cursor() as cursor:
            # With a check that waits for the end of the caller's transaction, and one more after it that has to wait, too.
            cursor.execute("INSERT INTO log VALUES ('other', 1)")
            assert list(take(connection, table).values()) == [1]
            cursor.execute("INSERT INTO log VALUES ('later', 7); INSERT INTO shelf VALUES (7)")
    else:
        assert list(take(connection, table).values()) == [1]
    column, value = TAKEN[table]
    assert writable.query(f"SELECT FROM {table} WHERE {column}::text = '{value}'") == []
    assert writable.count("log") == (1 if table == "log" else 2) + 2 * within
    assert writable.query(IDENTITIES) == before


@pytest.mark.postgresql
def test_where_the_server_refuses_all_the_same_one_error_names_the_publication(writable):
    writable.execute(PUBLISHED)
    with writable.superuser() as session:
        session.execute("ALTER TABLE log OWNER TO CURRENT_USER; GRANT SELECT, INSERT, DELETE ON log TO PUBLIC")
    for table in ("log", "shelf"):
        with pytest.raises(
            PublicationError, match=r"refuses to delete rows of public\.\w+.*publication p .*REPLICA IDENTITY FULL"
        ):
            take(writable.connection, table)
    assert (writable.count("log"), writable.count("shelf")) == (2, 2)
