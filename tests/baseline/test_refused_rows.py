"""Rows of a baseline that a constraint refuses: put back in the order that works, or named."""

from __future__ import annotations

import pytest
from django.db import transaction

from testdb_app.baseline import capture_baseline
from testdb_app.exceptions import RestoreConflictError

EXISTS = (
    "CREATE FUNCTION {name}(wanted int) RETURNS bool LANGUAGE {language} {volatility} AS "
    "$$ BEGIN RETURN EXISTS (SELECT FROM public.{table} WHERE id = wanted); END $$;"
)


def state(scratch, *tables):
    return [scratch.query(f"SELECT * FROM {table} ORDER BY 1") for table in tables]


def captured(scratch, *tables, **options):
    capture_baseline("scratch", allow_database=scratch.name, **options)
    return state(scratch, *tables)


def number(scratch):
    return scratch.value("SELECT current_setting('server_version_num')::int")


@pytest.mark.parametrize("volatility", ["IMMUTABLE", "VOLATILE"])
@pytest.mark.parametrize(("table", "other"), [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("key", ["", "REFERENCES {other}", "REFERENCES {other} DEFERRABLE INITIALLY DEFERRED"])
def test_what_a_function_of_a_check_reads_is_put_back_before(scratch, volatility, table, other, key):
    """Whatever the names are, and with a foreign key, which has both restored by one statement."""
    scratch.execute(
        f"CREATE TABLE {other} (id int PRIMARY KEY);"
        + EXISTS.format(name="is_there", table=other, language="plpgsql", volatility=volatility)
        + f"CREATE TABLE {table} (id int PRIMARY KEY, place int {key.format(other=other)} CHECK (is_there(place)), name text);"
        f"INSERT INTO {other} VALUES (1), (2); INSERT INTO {table} VALUES (1, 1, 'one'), (2, 2, 'two')"
    )
    before = captured(scratch, "a", "b")
    resetter = scratch.resetter()
    for statement in (
        f"DELETE FROM {table}; DELETE FROM {other}",
        f"DELETE FROM {table} WHERE id = 1; DELETE FROM {other} WHERE id = 1; UPDATE {table} SET name = 'x'",
        f"TRUNCATE {table}, {other}; INSERT INTO {other} VALUES (3); INSERT INTO {table} VALUES (1, 3, 'x'), (4, 3, 'y')",
    ):
        scratch.execute(statement)
        report = resetter.reset()
        assert state(scratch, "a", "b") == before
        assert report.restored > 0


def test_a_chain_of_such_checks_is_put_back_from_its_far_end(scratch):
    names = "abcdefgh"
    scratch.execute("CREATE TABLE z (id int PRIMARY KEY); INSERT INTO z VALUES (1)")
    for name, below in zip(reversed(names), "z" + names[:0:-1], strict=True):
        scratch.execute(
            EXISTS.format(name=f"in_{below}", table=below, language="plpgsql", volatility="STABLE")
            + f"CREATE TABLE {name} (id int PRIMARY KEY CHECK (in_{below}(id))); INSERT INTO {name} VALUES (1)"
        )
    before = captured(scratch, *names, "z")
    scratch.execute(f"TRUNCATE {', '.join(names)}, z")
    scratch.reset()
    assert state(scratch, *names, "z") == before


def test_a_check_that_reads_its_own_table_has_the_rows_put_back_one_after_the_other(scratch):
    scratch.execute(
        "CREATE TABLE node (id int PRIMARY KEY, above int);"
        + EXISTS.format(name="is_there", table="node", language="plpgsql", volatility="STABLE")
        + "ALTER TABLE node ADD CHECK (above IS NULL OR is_there(above));"
        "INSERT INTO node VALUES (9, NULL); INSERT INTO node VALUES (5, 9); INSERT INTO node VALUES (7, 5); INSERT INTO node VALUES (1, 7)"
    )
    before = captured(scratch, "node")
    resetter = scratch.resetter()
    for statement in ("TRUNCATE node", "DELETE FROM node WHERE id IN (5, 7)", "UPDATE node SET above = 9 WHERE id = 1"):
        scratch.execute(statement)
        resetter.reset()
        assert state(scratch, "node") == before


NOT_VALID = (
    "CREATE TABLE item (id int PRIMARY KEY, price int, name text); INSERT INTO item VALUES (1, -5, 'a'), (2, 5, 'b');"
)


def test_a_row_that_violates_a_constraint_that_is_not_valid_may_stay_as_it_is(scratch):
    scratch.execute(NOT_VALID + "ALTER TABLE item ADD CONSTRAINT positive CHECK (price > 0) NOT VALID")
    before = captured(scratch, "item")
    resetter = scratch.resetter()
    for statement in (
        "UPDATE item SET name = 'x' WHERE id = 2; INSERT INTO item VALUES (3, 3)",
        "DELETE FROM item WHERE id = 2",
    ):
        scratch.execute(statement)
        resetter.reset()
        assert state(scratch, "item") == before


def test_a_row_in_the_way_of_another_does_not_have_the_violating_one_written(scratch):
    """Two names are exchanged, which has all rows of a table put in anew where it can be."""
    scratch.execute(
        NOT_VALID + "INSERT INTO item VALUES (3, 7, 'c'); CREATE UNIQUE INDEX ON item (name);"
        "ALTER TABLE item ADD CONSTRAINT positive CHECK (price > 0) NOT VALID"
    )
    before = captured(scratch, "item")
    scratch.execute(
        "UPDATE item SET name = 'x' WHERE id = 2; UPDATE item SET name = 'b' WHERE id = 3; UPDATE item SET name = 'c' WHERE id = 2"
    )
    scratch.reset()
    assert state(scratch, "item") == before


REFUSED = {
    "check": ("ALTER TABLE item ADD CONSTRAINT positive CHECK (price > 0) NOT VALID", "positive", "DELETE FROM item"),
    "changed row": (
        "ALTER TABLE item ADD CONSTRAINT positive CHECK (price > 0) NOT VALID",
        "positive",
        "UPDATE item SET price = 1",
    ),
    "domain": (
        (
            "CREATE DOMAIN amount AS int; ALTER TABLE item ALTER price TYPE amount;"
            "ALTER DOMAIN amount ADD CONSTRAINT positive CHECK (VALUE > 0) NOT VALID"
        ),
        "positive",
        "DELETE FROM item",
    ),
    "function": (
        (
            "CREATE FUNCTION is_fine(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';"
            "ALTER TABLE item ADD CONSTRAINT fine CHECK (is_fine(price));"
            "CREATE OR REPLACE FUNCTION is_fine(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 0'"
        ),
        "fine",
        "DELETE FROM item",
    ),
    "raising function": (
        (
            "CREATE FUNCTION is_fine(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END';"
            "ALTER TABLE item ADD CHECK (is_fine(price)); CREATE OR REPLACE FUNCTION is_fine(int) RETURNS bool LANGUAGE plpgsql "
            "IMMUTABLE AS $$ BEGIN IF $1 < 0 THEN RAISE EXCEPTION 'bad price'; END IF; RETURN true; END $$"
        ),
        "",
        "DELETE FROM item",
    ),
    "index expression": (
        (
            "CREATE FUNCTION part(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'; CREATE INDEX ON item (part(price));"
            "CREATE OR REPLACE FUNCTION part(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1 / ($1 + 5)'"
        ),
        "",
        "DELETE FROM item",
    ),
    "partition": (
        (
            "CREATE FUNCTION part(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1; END';"
            "ALTER TABLE item RENAME TO old; CREATE TABLE whole (id int, price int, name text) PARTITION BY LIST (part(price));"
            "CREATE TABLE item PARTITION OF whole FOR VALUES IN (-5, 5); INSERT INTO whole SELECT * FROM old; DROP TABLE old;"
            "CREATE OR REPLACE FUNCTION part(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN abs($1) + sign($1) - 1; END'"
        ),
        "",
        "DELETE FROM item",
    ),
    "foreign key": (
        (
            "CREATE TABLE prices (price int PRIMARY KEY); INSERT INTO prices VALUES (5);"
            "ALTER TABLE item ADD CONSTRAINT known FOREIGN KEY (price) REFERENCES prices NOT VALID"
        ),
        "known",
        "DELETE FROM item",
    ),
    "not null": (
        "UPDATE item SET price = NULL WHERE id = 1; ALTER TABLE item ADD CONSTRAINT filled NOT NULL price NOT VALID",
        "",
        "DELETE FROM item",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_row_that_cannot_be_put_back_is_named_with_its_constraint_and_nothing_is_changed(scratch, case):
    setup, constraint, statement = REFUSED[case]
    if case == "not null" and number(scratch) < 180_000:
        pytest.skip("NOT NULL … NOT VALID came with PostgreSQL 18")
    scratch.execute(NOT_VALID + setup)
    captured(scratch, "item")
    scratch.execute(statement)
    written = state(scratch, "item")
    for resetter in (scratch.resetter(), scratch.resetter(strategy="truncate")):
        with pytest.raises(RestoreConflictError, match=r"row \(1,.*public\.item .*EXCLUDE") as refusal:
            resetter.reset()
        assert (refusal.value.table, refusal.value.constraint) == ("public.item", constraint)
        assert refusal.value.row.startswith("(1,")
        assert state(scratch, "item") == written
    scratch.reset(exclude=["public.item"])


def test_two_checks_that_want_each_others_rows_are_named(scratch):
    scratch.execute(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1);"
        + "".join(
            EXISTS.format(name=f"in_{name}", table=name, language="plpgsql", volatility="STABLE") for name in "ab"
        )
        + "ALTER TABLE a ADD CONSTRAINT to_b CHECK (in_b(id)); ALTER TABLE b ADD CONSTRAINT to_a CHECK (in_a(id))"
    )
    before = captured(scratch, "a", "b")
    resetter = scratch.resetter()
    scratch.execute("DELETE FROM a")
    resetter.reset()
    assert state(scratch, "a", "b") == before
    scratch.execute("DELETE FROM a; DELETE FROM b")
    with pytest.raises(RestoreConflictError, match=r"row \(1\) of public\.(a|b) "):
        resetter.reset()


def test_a_name_that_ends_the_quotes_is_quoted_inside_the_block(scratch):
    name = '"it\'s $testdb$ % \\ ""x"""'
    scratch.execute(
        f"CREATE TABLE {name} (id int PRIMARY KEY, {name} text); INSERT INTO {name} VALUES (1, 'one');"
        "CREATE FUNCTION is_there(int) RETURNS bool LANGUAGE plpgsql AS "
        f"$f$ BEGIN RETURN EXISTS (SELECT FROM public.{name} WHERE id = $1); END $f$;"
        f"CREATE TABLE a (id int PRIMARY KEY CHECK (is_there(id))); INSERT INTO a VALUES (1);"
        f"CREATE TABLE zz (id int PRIMARY KEY CHECK (is_there(id))); INSERT INTO zz VALUES (1);"
    )
    before = captured(scratch, name, "a", "zz")
    scratch.execute(f"DELETE FROM a; DELETE FROM zz; DELETE FROM {name}")
    scratch.reset()
    assert state(scratch, name, "a", "zz") == before


def test_within_a_transaction_they_are_put_back_too(scratch):
    scratch.execute(
        "CREATE TABLE a (id int PRIMARY KEY);"
        + EXISTS.format(name="is_there", table="a", language="plpgsql", volatility="STABLE")
        + "CREATE TABLE b (id int PRIMARY KEY CHECK (is_there(id))); CREATE TABLE _c (id int PRIMARY KEY CHECK (is_there(id)));"
        "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); INSERT INTO _c VALUES (1)"
    )
    before = captured(scratch, "a", "b", "_c")
    scratch.execute("TRUNCATE a, b, _c")
    resetter = scratch.resetter(within_transaction=True)
    with transaction.atomic(using="scratch"):
        resetter.reset()
    assert state(scratch, "a", "b", "_c") == before
