"""Foreign keys of PostgreSQL 18: temporal ones, and ones that are not enforced."""

from __future__ import annotations

import pytest

from testdb_app.backends.postgresql.constraints import find_violations
from tests.baseline.conftest import content


@pytest.fixture
def since_18(scratch):
    scratch.connection.ensure_connection()
    if scratch.connection.pg_version < 18_00_00:
        pytest.skip("keys with PERIOD and keys that are not enforced came with PostgreSQL 18")
    return scratch


TEMPORAL = """
CREATE TABLE room (id int4range, valid daterange, v text, PRIMARY KEY (id, valid WITHOUT OVERLAPS));
CREATE TABLE stay (id int PRIMARY KEY, room int4range, valid daterange, FOREIGN KEY (room, PERIOD valid) REFERENCES room);
INSERT INTO room VALUES ('[1,2)', '[2026-01-01,2026-02-01)', 'a'), ('[1,2)', '[2026-02-01,2026-03-01)', 'b'), ('[2,3)', '[2026-01-01,)', 'c');
INSERT INTO stay VALUES (1, '[1,2)', '[2026-01-10,2026-02-10)'), (2, '[2,3)', '[2026-05-01,2026-05-02)');
"""


def test_rows_under_temporal_keys_come_back(since_18, captured):
    scratch = since_18
    before = captured(TEMPORAL)
    assert find_violations(scratch.connection, scratch.schema(), 5) == []
    resetter = scratch.resetter(to="baseline")
    for write in (
        "UPDATE room SET v = v || '!'; DELETE FROM stay WHERE id = 1; INSERT INTO room VALUES ('[7,8)', '[2026-01-01,)', 'd')",
        "DELETE FROM stay; DELETE FROM room",
        "DELETE FROM stay WHERE id = 1; DELETE FROM room WHERE v = 'a'; UPDATE room SET valid = '[2026-01-01,2026-03-01)' WHERE v = 'b'",
    ):
        for each in (resetter, scratch.resetter()):
            scratch.execute(write)
            each.reset()
            assert content(scratch) == before
    scratch.execute("DELETE FROM stay WHERE id = 1")
    scratch.reset(to="baseline", exclude=["public.stay"])
    assert scratch.count("stay") == 1


UNENFORCED = """
CREATE TABLE a (id int PRIMARY KEY, b_id int); CREATE TABLE b (id int PRIMARY KEY, a_id int REFERENCES a NOT ENFORCED);
ALTER TABLE a ADD FOREIGN KEY (b_id) REFERENCES b NOT ENFORCED;
INSERT INTO a VALUES (1, 77); INSERT INTO b VALUES (2, 88);
"""


def test_keys_that_are_not_enforced_order_nothing_and_block_nothing(since_18, captured):
    scratch = since_18
    before = captured(UNENFORCED)
    assert scratch.graph().cycles() == ()
    assert find_violations(scratch.connection, scratch.schema(), 5) == []
    for write in ("DELETE FROM a; INSERT INTO b VALUES (3, 4)", "UPDATE a SET id = 9; DELETE FROM b"):
        scratch.execute(write)
        scratch.reset()
        assert content(scratch) == before
    scratch.execute("INSERT INTO b VALUES (5, 1)")
    scratch.reset(to="empty", exclude=["public.b"])
    assert (scratch.count("a"), scratch.count("b")) == (0, 2)
