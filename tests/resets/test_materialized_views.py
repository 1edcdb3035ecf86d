"""Materialized views over tables that a reset writes: in the report, and named once in a process."""

from __future__ import annotations

import warnings

import pytest

from testdb_app.baseline import capture_baseline

VIEWS = """
CREATE TABLE sale (id int PRIMARY KEY, amount int); INSERT INTO sale VALUES (1, 3);
CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1);
CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent); INSERT INTO child VALUES (1);
CREATE VIEW big_sale AS SELECT * FROM sale WHERE amount > 1;
CREATE VIEW of_big_sale AS SELECT * FROM big_sale;
CREATE MATERIALIZED VIEW total AS SELECT sum(amount) FROM of_big_sale;
CREATE MATERIALIZED VIEW over_total AS SELECT * FROM total;
CREATE MATERIALIZED VIEW of_parent AS SELECT * FROM parent;
CREATE MATERIALIZED VIEW of_other AS SELECT * FROM other;
CREATE MATERIALIZED VIEW empty AS SELECT * FROM sale WITH NO DATA
"""


def reset(resetter):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = resetter.reset()
    return [name.name for name in report.stale_views], [str(warning.message) for warning in caught]


def test_a_view_is_named_once_also_through_views_and_only_if_its_tables_were_reset(scratch):
    scratch.execute(VIEWS)
    capture_baseline("scratch", allow_database=scratch.name)
    resetter = scratch.resetter()
    assert reset(resetter) == ([], [])
    scratch.execute("INSERT INTO sale VALUES (2, 5)")
    stale, (message,) = reset(resetter)
    assert stale == ["over_total", "total"]
    assert "public.over_total, public.total. " in message
    assert "REFRESH MATERIALIZED VIEW public.over_total" in message
    scratch.execute("INSERT INTO sale VALUES (2, 5); INSERT INTO child VALUES (2)")
    stale, (message,) = reset(resetter)
    assert stale == ["of_parent", "over_total", "total"]
    assert "of_parent" in message
    assert "total" not in message.replace("of_parent", "")
    scratch.execute("INSERT INTO sale VALUES (2, 5)")
    assert reset(scratch.resetter()) == (["over_total", "total"], [])


def test_where_warnings_are_errors_the_reset_goes_well_and_the_log_names_the_view(scratch, caplog):
    scratch.execute(VIEWS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scratch.reset()
    assert scratch.count("sale") == 0
    assert "public.of_other" in caplog.text


def test_the_command_names_them_itself(scratch):
    scratch.execute(VIEWS)
    assert reset(scratch.resetter(once=True))[1] == []


@pytest.mark.parametrize(
    "statement", ["REFRESH MATERIALIZED VIEW total", "REFRESH MATERIALIZED VIEW CONCURRENTLY total"]
)
def test_a_view_that_a_test_refreshed_is_left_as_it_is(scratch, statement):
    scratch.execute(VIEWS + ";CREATE UNIQUE INDEX ON total (sum)")
    capture_baseline("scratch", allow_database=scratch.name)
    resetter = scratch.resetter()
    scratch.execute("INSERT INTO sale VALUES (2, 5)")
    scratch.execute(statement)
    assert reset(resetter)[0] == ["over_total", "total"]
    assert scratch.query("SELECT * FROM total") == [(8,)]
