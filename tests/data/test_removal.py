"""Rows are taken away by statements whose names may hold anything, and only where the guard was asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.db import connections

from testdb_app.backends import get_backend
from testdb_app.data.maps import read_index
from testdb_app.data.registered import TableRows
from testdb_app.data.removal import remove
from testdb_app.exceptions import UnsafeDatabaseError
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
