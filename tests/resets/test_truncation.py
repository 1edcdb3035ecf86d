"""When ``auto`` truncates: large tables, and keys without an index; and when it must not."""

from __future__ import annotations

import dataclasses

from testdb_app.backends.base import Action

UNINDEXED = """
CREATE TABLE rental (id int PRIMARY KEY);
CREATE TABLE payment (id int, rental_id int REFERENCES rental);
INSERT INTO rental SELECT generate_series(1, 10000);
INSERT INTO payment SELECT g, g FROM generate_series(1, 10000) g;
"""


def truncated(resetter):
    return sorted(
        name.name for step in resetter.plan().plan.steps if step.action is Action.TRUNCATE for name in step.names
    )


def test_rows_that_a_key_without_an_index_makes_slow_to_delete_are_truncated(scratch):
    """DELETE would read all of payment once for every row of rental: quadratic, seconds at some ten thousand rows."""
    scratch.execute(UNINDEXED)
    resetter = scratch.resetter()
    assert truncated(resetter) == ["payment", "rental"]
    assert resetter.reset().seconds < 1
    assert (scratch.count("rental"), scratch.count("payment")) == (0, 0)


def test_an_index_that_starts_with_the_key_makes_them_quick_to_delete(scratch):
    scratch.execute(UNINDEXED + "CREATE INDEX ON payment (rental_id, id)")
    resetter = scratch.resetter()
    assert truncated(resetter) == []
    assert resetter.reset().rows == 20_000


def test_an_index_on_something_else_does_not_help(scratch):
    scratch.execute(
        UNINDEXED + "CREATE INDEX ON payment (id, rental_id); CREATE INDEX ON payment (rental_id) WHERE id < 3"
    )
    assert truncated(scratch.resetter()) == ["payment", "rental"]


def test_a_large_table_is_truncated_with_all_that_references_it_and_small_ones_are_not(scratch):
    scratch.execute(
        "CREATE TABLE small (id int PRIMARY KEY); CREATE TABLE large (id int PRIMARY KEY, small_id int REFERENCES small);"
        "CREATE TABLE beside (large_id int REFERENCES large); CREATE INDEX ON beside (large_id);"
        "INSERT INTO small VALUES (1); INSERT INTO large SELECT g, 1 FROM generate_series(1, 5000) g;"
        "CREATE INDEX ON large (small_id)"
    )
    resetter = scratch.resetter()
    assert truncated(resetter) == []
    resetter.options = dataclasses.replace(resetter.options, truncate_above=50_000)
    assert truncated(resetter) == ["beside", "large"]
    report = resetter.reset()
    assert {table.name.name: str(table.action) for table in report.tables} == {
        "beside": "truncate",
        "large": "truncate",
        "small": "delete",
    }


def test_a_large_table_that_one_which_stays_references_is_deleted_from(scratch):
    scratch.execute(UNINDEXED + "CREATE TABLE stays (rental_id int REFERENCES rental)")
    resetter = scratch.resetter(exclude=["public.stays"])
    assert truncated(resetter) == []
    scratch.execute("CREATE INDEX ON payment (rental_id)")
    assert resetter.reset().rows == 20_000
