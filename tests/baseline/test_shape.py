"""What of the schema a baseline depends on: where a table belongs, of what kind it is, what its types mean."""

from __future__ import annotations

import pytest

from testdb_app import database_setup
from testdb_app.exceptions import BaselineError
from tests.baseline.conftest import content

TABLES = """
CREATE TABLE event (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY LIST (id);
CREATE TABLE event_2a PARTITION OF event_2 FOR VALUES IN (1, 2);
CREATE TABLE event_rest PARTITION OF event DEFAULT;
CREATE TABLE spare (id int NOT NULL, day date NOT NULL);
INSERT INTO event VALUES (1, '2026-01-05'), (2, '2026-02-05');
CREATE TABLE animal (id int PRIMARY KEY);
CREATE TABLE dog (PRIMARY KEY (id)) INHERITS (animal);
CREATE TABLE cat (PRIMARY KEY (id));
INSERT INTO dog VALUES (1);
CREATE TABLE plain (id int PRIMARY KEY, v int, g int GENERATED ALWAYS AS (v + 1) STORED);
INSERT INTO plain VALUES (1, 1);
CREATE TABLE empty (id int PRIMARY KEY);
CREATE SEQUENCE number;
CREATE TYPE mood AS ENUM ('sad', 'fine');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (n int, t text);
CREATE TABLE typed (id int PRIMARY KEY, m mood, p positive, c pair[]);
INSERT INTO typed VALUES (1, 'sad', 1, ARRAY[(1, 'a')::pair]);
""".replace("CREATE TABLE cat (PRIMARY KEY (id));", "CREATE TABLE cat (id int PRIMARY KEY);")
CHANGES = {
    "a partition is detached": (
        "ALTER TABLE event DETACH PARTITION event_1",
        r"the kind of table public\.event_1 has changed",
    ),
    "a partition has other bounds": (
        """ALTER TABLE event DETACH PARTITION event_1;
        ALTER TABLE event ATTACH PARTITION event_1 FOR VALUES FROM ('2020-01-01') TO ('2026-02-01')""",
        r"public\.event_1 has changed \(- FOR VALUES FROM \('2026-01-01'\) TO \('2026-02-01'\), \+ FOR VALUES FROM \('2020",
    ),
    "a part of a partition is detached": (
        "ALTER TABLE event_2 DETACH PARTITION event_2a",
        r"the kind of table public\.event_2a",
    ),
    "the default partition, which is empty, is detached": (
        "ALTER TABLE event DETACH PARTITION event_rest",
        r"the kind of table public\.event_rest has changed",
    ),
    "a table becomes a partition": (
        "ALTER TABLE event ATTACH PARTITION spare FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')",
        r"the kind of table public\.spare has changed",
    ),
    "a child is taken out of its inheritance": ("ALTER TABLE dog NO INHERIT animal", r"table public\.dog has changed"),
    "a table inherits": ("ALTER TABLE cat INHERIT animal", r"the kind of table public\.cat has changed"),
    "a table is unlogged": (
        "ALTER TABLE plain SET UNLOGGED",
        r"the kind of table public\.plain has changed \(- table, \+ unlogged",
    ),
    "an empty table is unlogged": ("ALTER TABLE empty SET UNLOGGED", r"the kind of table public\.empty has changed"),
    "a table is partitioned by another column": (
        """DROP TABLE event; CREATE TABLE event (id int, day date, PRIMARY KEY (id, day)) PARTITION BY LIST (id);
        CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1); CREATE TABLE event_2 PARTITION OF event FOR VALUES IN (2)
        PARTITION BY LIST (id); CREATE TABLE event_2a PARTITION OF event_2 DEFAULT; CREATE TABLE event_rest PARTITION OF event DEFAULT;
        INSERT INTO event VALUES (1, '2026-01-05'), (2, '2026-02-05')""",
        r"the kind of table public\.event has changed \(- partitioned by RANGE \(day\), \+ partitioned by LIST \(id\)\)",
    ),
    "a view is in place of a table": (
        "ALTER TABLE plain RENAME TO plain_; CREATE VIEW plain AS SELECT * FROM plain_",
        r"table public\.plain is gone; table public\.plain_ is new",
    ),
    "a schema has another name": (
        "CREATE SCHEMA s; ALTER TABLE plain SET SCHEMA s",
        r"table public\.plain is gone; table s\.plain is new",
    ),
    "a sequence has another start": (
        "ALTER SEQUENCE number START 100",
        r"sequence public\.number has changed \(- start 1, \+ start 100\)",
    ),
    "a column is generated in another way": (
        "ALTER TABLE plain DROP g; ALTER TABLE plain ADD g int GENERATED ALWAYS AS (v + 2) STORED",
        r"table public\.plain has changed \(- \(generated\) g as \(v \+ 1\), \+ \(generated\) g as \(v \+ 2\)\)",
    ),
    "a value of an enum has another name": (
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
        r"table public\.typed has changed \(- \(enum\) public\.mood: 'sad', \+ \(enum\) public\.mood: 'blue'\)",
    ),
    "a domain has another check": (
        "ALTER DOMAIN positive ADD CHECK (VALUE < 10)",
        r"table public\.typed has changed \(\+ \(domain\) public\.positive CHECK \(\(VALUE < 10\)\)\)",
    ),
    "a composite type has one field more": (
        "ALTER TYPE pair ADD ATTRIBUTE more int",
        r"\+ \(type\) public\.pair more integer",
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_that_rows_depend_on_is_named_by_a_resetter_that_knew_the_schema_and_by_a_new_one(
    scratch, captured, change
):
    statements, message = change
    captured(TABLES)
    resetter = scratch.resetter(to="baseline")
    for _ in range(3):
        scratch.execute("UPDATE plain SET v = v + 1")
        resetter.reset()
    scratch.execute(statements)
    before = content(scratch)
    for each in (resetter, scratch.resetter(to="baseline"), resetter):
        with pytest.raises(BaselineError, match=message):
            each.reset()
    assert content(scratch) == before


HARMLESS = {
    "a value more": "ALTER TYPE mood ADD VALUE 'great' BEFORE 'sad'",
    "detached and attached again": "ALTER TABLE event DETACH PARTITION event_1;"
    "ALTER TABLE event ATTACH PARTITION event_1 FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
    "a column made anew": "ALTER TABLE typed DROP c; ALTER TABLE typed ADD c pair[]",
    "an enum made anew": "ALTER TYPE mood RENAME TO old; CREATE TYPE mood AS ENUM ('sad', 'fine');"
    "ALTER TABLE typed ALTER m TYPE mood USING 'fine'::mood; DROP TYPE old",
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS.keys())
def test_a_change_after_which_the_schema_is_the_same_is_gone_back_over(scratch, captured, change):
    before = captured(TABLES)
    resetter = scratch.resetter(to="baseline")
    resetter.reset()
    scratch.execute(change)
    for each in (resetter, scratch.resetter(to="baseline"), resetter):
        scratch.execute("DELETE FROM typed; DELETE FROM event; UPDATE dog SET id = 7")
        each.reset()
        assert content(scratch) == before


@pytest.mark.parametrize("setting", ["DateStyle TO 'German'", "TimeZone TO 'Asia/Tokyo'", "search_path TO pg_catalog"])
def test_the_settings_of_a_session_are_no_change(scratch, captured, setting):
    captured(
        TABLES + "CREATE TABLE moment (at timestamptz) PARTITION BY RANGE (at);"
        "CREATE TABLE moment_1 PARTITION OF moment FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');"
    )
    with scratch.connection.cursor() as cursor:
        cursor.execute(f"SET {setting}")
    assert scratch.reset(to="baseline").rows == 0


def test_a_baseline_is_not_refitted_to_a_detached_partition(scratch, captured):
    """After a test that leaves a table the baseline is made to fit; a partition that is missing must not slip through with it."""
    captured(TABLES)
    scratch.execute("CREATE TABLE left_over (id int)")
    with scratch.connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    from testdb_app.backends.base import Mark

    scratch.resetter().backend.set_mark(scratch.connection, Mark.TEST, present=True)
    database_setup.refit_baseline(scratch.alias)
    scratch.reset(to="baseline")
    for change in ("ALTER TABLE event DETACH PARTITION event_rest", "ALTER TABLE cat INHERIT animal"):
        scratch.execute(change)
        with pytest.raises(BaselineError, match="the kind of table public"):
            database_setup.refit_baseline(scratch.alias)
