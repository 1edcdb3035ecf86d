"""Another session writes between the look at the database and the locks of the reset."""

from __future__ import annotations

from typing import Any

import pytest

from testdb_app.backends.base import Script
from testdb_app.backends.postgresql.backend import PostgreSQLBackend
from testdb_app.baseline import capture_baseline
from tests.baseline.conftest import content
from tests.scratch import ScratchDatabase


@pytest.mark.parametrize("on_delete", ["NO ACTION", "RESTRICT"])
def test_row_written_after_the_look_that_refers_to_rows_that_go_is_taken_along_by_the_next_attempt(
    scratch: ScratchDatabase, monkeypatch: pytest.MonkeyPatch, on_delete: str
) -> None:
    scratch.execute(
        "CREATE TABLE region (id integer PRIMARY KEY); INSERT INTO region VALUES (1);"
        f"CREATE TABLE city (region_id integer REFERENCES region ON DELETE {on_delete})"
    )
    write, attempts = PostgreSQLBackend.write_sql, []

    def script(*args: Any, **options: Any) -> Script:
        attempts.append(options)
        if len(attempts) == 1:
            scratch.execute("INSERT INTO city VALUES (1)")
        return write(*args, **options)

    monkeypatch.setattr(PostgreSQLBackend, "write_sql", script)
    report = scratch.reset()
    assert report.attempts == 2
    assert (scratch.count("city"), scratch.count("region")) == (0, 0)


WAYS = {
    # Unique values that are exchanged take another way than updates row by row: all rows anew.
    "anew": (
        "CREATE TABLE a (id integer PRIMARY KEY, name text UNIQUE); INSERT INTO a VALUES (1, 'x'), (2, 'y')",
        "UPDATE a SET name = 'z' WHERE id = 1; UPDATE a SET name = 'x' WHERE id = 2; UPDATE a SET name = 'y' WHERE id = 1",
    ),
    # What a function in a check reads has to be there before: row by row.
    "in passes": (
        (
            "CREATE TABLE z (id integer PRIMARY KEY); INSERT INTO z VALUES (1);"
            "CREATE FUNCTION in_z(integer) RETURNS boolean LANGUAGE plpgsql AS "
            "'BEGIN RETURN EXISTS (SELECT FROM public.z WHERE id = $1); END';"
            "CREATE TABLE a (id integer PRIMARY KEY CHECK (in_z(id))); INSERT INTO a VALUES (1)"
        ),
        "DELETE FROM a; DELETE FROM z",
    ),
}
MEANWHILE = {
    "a table with rows": "INSERT INTO other VALUES (2, 'new'); UPDATE other SET name = 'changed' WHERE id = 1",
    "a table that loses its rows": "DELETE FROM other",
    "a table that refers to it": "INSERT INTO other VALUES (2, 'new'); INSERT INTO child VALUES (2, 2)",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_what_is_written_after_the_tables_were_compared_is_taken_back_also_where_rows_need_another_way(
    scratch: ScratchDatabase, monkeypatch: pytest.MonkeyPatch, way: str, meanwhile: str
) -> None:
    create, write = WAYS[way]
    scratch.execute(
        f"{create}; CREATE TABLE other (id integer PRIMARY KEY, name text); INSERT INTO other VALUES (1, 'one');"
        "CREATE TABLE child (id integer PRIMARY KEY, other_id integer REFERENCES other ON DELETE CASCADE);"
        "INSERT INTO child VALUES (1, 1)"
    )
    capture_baseline(scratch.alias, allow_database=scratch.name)
    before = content(scratch)
    count, compared = PostgreSQLBackend.count_changes, []

    def count_changes(*args: Any, **options: Any) -> Any:
        changes = count(*args, **options)
        compared.append(changes)
        # The second way compares them for the first time, and the third once more.
        if len(compared) == (1 if way == "anew" else 2):
            scratch.execute(MEANWHILE[meanwhile])
        return changes

    monkeypatch.setattr(PostgreSQLBackend, "count_changes", count_changes)
    scratch.execute(write)
    scratch.reset()
    assert compared
    assert content(scratch) == before


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_a_policy_hides_from_the_owner_are_put_back_also_where_rows_need_another_way(
    scratch: ScratchDatabase, way: str
) -> None:
    """Comparing them shows this role no difference."""
    create, write = WAYS[way]
    scratch.execute(
        f"{create}; CREATE TABLE secret (id integer PRIMARY KEY, name text UNIQUE);"
        "INSERT INTO secret VALUES (1, 'one'), (2, 'two'), (3, 'three');"
        "ALTER TABLE secret ENABLE ROW LEVEL SECURITY; ALTER TABLE secret FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY few ON secret USING (id < 4)"
    )
    capture_baseline(scratch.alias, allow_database=scratch.name)
    before = content(scratch)
    resetter = scratch.resetter()
    for _ in range(3):
        scratch.execute(write)
        with scratch.superuser() as session:
            session.execute("INSERT INTO secret VALUES (4, 'four')")
        resetter.reset()
        assert content(scratch) == before
    # Unique values are exchanged there, also with a hidden row, which takes the other way for the table itself.
    with scratch.superuser() as session:
        session.execute(
            "UPDATE secret SET name = 'x' WHERE id = 2; UPDATE secret SET name = 'two' WHERE id = 3;"
            "UPDATE secret SET name = 'three' WHERE id = 2; UPDATE secret SET name = 'y' WHERE id = 1; INSERT INTO secret VALUES (4, 'one')"
        )
    resetter.reset()
    assert content(scratch) == before
