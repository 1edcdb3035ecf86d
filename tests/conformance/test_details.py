"""What pictures show of a table besides its keys, read from a real database of every vendor."""

from __future__ import annotations

import pytest

from testdb_app.backends import get_backend, postgresql
from testdb_app.backends.generic import BACKEND as GENERIC
from testdb_app.backends.postgresql import introspection as postgresql_details
from testdb_app.exceptions import LockTimeoutError
from testdb_app.schema import Column, UniqueKey
from tests.showdeps.schemas import HOSTILE

SHOP = """
CREATE TABLE shelf (id integer PRIMARY KEY, label varchar(20) NOT NULL DEFAULT 'new', height numeric(5, 2), UNIQUE (label, height));
CREATE TABLE item (shelf_id integer NOT NULL, place integer NOT NULL, PRIMARY KEY (place, shelf_id));
CREATE UNIQUE INDEX some_labels ON shelf (label) WHERE height > 1;
INSERT INTO shelf (id, height) VALUES (1, 0.5), (2, 1), (3, 2);
"""


def read(database, *, count_rows=False, backend=None):
    backend = backend or get_backend(database.connection)
    schema = backend.read_schema(database.connection)
    found = backend.read_details(database.connection, schema, count_rows=count_rows)
    assert list(found) == list(schema.by_name)
    return {name.name: details for name, details in found.items()}


@pytest.mark.parametrize("backend", [None, GENERIC], ids=["own", "generic"])
def test_columns_are_told_in_their_order_and_primary_keys_in_theirs(database, backend):
    database.execute(SHOP)
    found = read(database, backend=backend)
    assert [(column.name, column.nullable) for column in found["shelf"].columns] == [
        ("id", found["shelf"].columns[0].nullable),
        ("label", False),
        ("height", True),
    ]
    (primary,) = found["item"].unique_keys
    # Django tells the columns of a key, not their order.
    assert primary.columns == ("place", "shelf_id") or (backend and sorted(primary.columns) == ["place", "shelf_id"])
    assert [key.is_primary for key in found["shelf"].unique_keys][:1] == [True]
    unique = {key.columns for key in found["shelf"].unique_keys}
    assert ("label", "height") in unique or backend
    assert {column for columns in unique for column in columns} <= {"id", "label", "height"}
    assert "new" in found["shelf"].columns[1].default
    assert all(column.data_type for table in found.values() for column in table.columns)


def test_types_are_the_vendors_own(database):
    database.execute(SHOP)
    assert [column.data_type.replace(" ", "") for column in read(database)["shelf"].columns] in (
        ["integer", "charactervarying(20)", "numeric(5,2)"],
        ["INTEGER", "varchar(20)", "numeric(5,2)"],
        ["integer", "varchar(20)", "numeric(5,2)"],
    )


def test_a_unique_index_on_some_rows_says_so(database):
    database.execute(SHOP)
    (partial,) = [key for key in read(database)["shelf"].unique_keys if key.partial_index]
    assert partial == UniqueKey(columns=("label",), partial_index="some_labels")


@pytest.mark.parametrize("backend", [None, GENERIC], ids=["own", "generic"])
def test_rows_are_counted_where_that_is_asked_for(database, backend):
    database.execute(SHOP)
    found = read(database, count_rows=True, backend=backend)
    assert [(name, found[name].rows, found[name].is_estimate) for name in ("item", "shelf")] == [
        ("item", 0, False),
        ("shelf", 3, False),
    ]


def test_hostile_names_are_read_as_they_are(database):
    for name in HOSTILE:
        if name:
            quoted = '"' + name.replace('"', '""') + '"'
            database.execute(f"CREATE TABLE {quoted} ({quoted} integer PRIMARY KEY, up integer UNIQUE)")
    found = read(database, count_rows=True)
    for name in filter(None, HOSTILE):
        assert [column.name for column in found[name].columns] == [name, "up"]
        assert [key.columns for key in found[name].unique_keys] == [(name,), ("up",)]


def test_generated_columns_and_identities_say_what_gives_them(database):
    identity = "integer GENERATED ALWAYS AS IDENTITY" if database.connection.vendor == "postgresql" else "integer"
    database.execute(f"CREATE TABLE a (id {identity}, two integer GENERATED ALWAYS AS (1 + 1) STORED)")
    by_name = {column.name: column for column in read(database)["a"].columns}
    assert by_name["two"].generated == "generated"
    assert by_name["id"].generated == ("identity" if "IDENTITY" in identity else "")


def test_an_index_on_an_expression_is_told(database):
    database.execute("CREATE TABLE a (name text); CREATE UNIQUE INDEX one ON a (lower(name))")
    (key,) = read(database)["a"].unique_keys
    assert key.columns == (None,)


def test_estimates_are_the_servers_and_marked(scratch):
    # Rows that a session reports only at its end, after the ANALYZE of another, would be counted twice.
    scratch.execute(SHOP + "SELECT pg_stat_force_next_flush()")
    scratch.execute("ANALYZE shelf")
    found = read(scratch)
    assert (found["shelf"].rows, found["shelf"].is_estimate) == (3, True)
    assert (found["item"].rows, found["item"].is_estimate) == (None, False)


def test_a_copy_of_a_database_has_the_estimates_of_the_last_analyze(make_scratch):
    first = make_scratch()
    first.execute(SHOP)
    first.execute("ANALYZE shelf")
    copy = make_scratch("copy", template=first.name)
    assert read(copy)["shelf"].rows == 3


def test_without_counting_nobody_is_waited_for(scratch, monkeypatch):
    scratch.execute(SHOP)
    monkeypatch.setattr(postgresql_details, "LOCK_TIMEOUT", 0.1)
    with scratch.connect() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE shelf IN ACCESS EXCLUSIVE MODE")
        assert len(read(scratch)["shelf"].columns) == 3
        with pytest.raises(LockTimeoutError):
            read(scratch, count_rows=True)
        other.execute("ROLLBACK")
    assert read(scratch, count_rows=True)["shelf"].rows == 3


def test_what_the_role_may_not_read_is_not_counted_and_no_error(scratch):
    scratch.execute(SHOP)
    with scratch.superuser() as connection:
        connection.execute("CREATE TABLE secret (id integer); REVOKE ALL ON secret FROM PUBLIC")
    found = read(scratch, count_rows=True)
    assert (found["secret"].rows, len(found["secret"].columns)) == (None, 1)
    assert found["shelf"].rows == 3


def test_rows_that_row_security_hides_are_not_counted_as_if_they_were_all(scratch):
    scratch.execute(SHOP)
    scratch.execute("ALTER TABLE shelf ENABLE ROW LEVEL SECURITY; ALTER TABLE shelf FORCE ROW LEVEL SECURITY")
    assert read(scratch, count_rows=True)["shelf"].rows is None


def test_more_tables_than_fit_a_message_are_all_counted(scratch, monkeypatch):
    scratch.execute(SHOP)
    monkeypatch.setattr(postgresql_details, "_TABLES_A_MESSAGE", 1)
    assert {name: details.rows for name, details in read(scratch, count_rows=True).items()} == {"item": 0, "shelf": 3}


def test_partitioned_and_dropped_columns_are_as_the_catalog_has_them(scratch):
    scratch.execute(
        "CREATE TABLE event (id integer, gone text, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);"
        "CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');"
        "ALTER TABLE event DROP COLUMN gone; INSERT INTO event VALUES (1, '2026-05-05')"
    )
    found = read(scratch, count_rows=True)
    assert [column.name for column in found["event"].columns] == ["id", "at"]
    assert found["event"].unique_keys == (UniqueKey(columns=("id", "at"), is_primary=True),)
    assert (found["event"].rows, found["event_1"].rows) == (None, 1)


def test_a_column_is_the_whole_of_what_the_catalog_says(scratch):
    scratch.execute("CREATE TABLE a (id serial)")
    assert read(scratch)["a"].columns == (
        Column(name="id", data_type="integer", nullable=False, default="nextval('a_id_seq'::regclass)"),
    )
    assert get_backend(scratch.connection) is postgresql.BACKEND
