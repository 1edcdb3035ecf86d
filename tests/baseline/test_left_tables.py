"""Tables that a test leaves: they are emptied once, and cost the next resets little."""

from __future__ import annotations

from typing import Any

import pytest

from testdb_app.backends.base import Action, Mark
from testdb_app.backends.postgresql import backend
from testdb_app.backends.postgresql.introspection import read_schema

KEPT = "CREATE TABLE kept (id serial PRIMARY KEY, v int); INSERT INTO kept (v) VALUES (1);"
LEFT = (
    "CREATE TABLE parent (id serial PRIMARY KEY, v text); CREATE TABLE child (p int REFERENCES parent, k int REFERENCES kept);"
    "INSERT INTO parent (v) VALUES (repeat('a', 9000)); INSERT INTO child VALUES (1, 1);"
)
TRIGGER = """;
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
CREATE TRIGGER t BEFORE DELETE ON child FOR EACH ROW EXECUTE FUNCTION f();
"""
RULE = "CREATE RULE r AS ON DELETE TO child DO INSTEAD NOTHING"


@pytest.fixture
def refitting(scratch: Any, captured: Any) -> Any:
    """A resetter of a captured database, in which tests may leave tables."""
    captured(KEPT)
    resetter = scratch.resetter(to="baseline")
    resetter.backend.set_mark(scratch.connection, Mark.TEST, present=True)
    resetter.reset()
    return resetter


def _sizes(scratch: Any) -> int:
    return int(scratch.value("SELECT pg_relation_size('parent') + pg_relation_size('child')"))


def _actions(report: Any) -> dict[str, Action]:
    return {table.name.name: table.action for table in report.tables}


@pytest.mark.parametrize(("extra", "truncates"), [("", True), (TRIGGER, False), (RULE, False)])
def test_tables_that_stand_alone_are_truncated_and_others_deleted_from(scratch, refitting, extra, truncates):
    scratch.execute(LEFT + extra)
    report = refitting.reset(refit=True)
    assert (_actions(report)["child"] is Action.TRUNCATE) is truncates
    assert [scratch.count(name) for name in ("kept", "parent", "child")] == [1, 0, 0]
    assert scratch.value("SELECT nextval('parent_id_seq')") == 1
    if truncates:
        assert _sizes(scratch) == 0


def test_a_table_that_inherits_is_deleted_from(scratch, refitting):
    scratch.execute("CREATE TABLE target (id int PRIMARY KEY); INSERT INTO target VALUES (1)")
    scratch.execute(
        "CREATE TABLE link (t int REFERENCES target, k int REFERENCES kept); INSERT INTO link VALUES (1, 1)"
    )
    scratch.execute("CREATE TABLE heir () INHERITS (target); INSERT INTO heir VALUES (2)")
    actions = _actions(refitting.reset(refit=True))
    assert actions == {"link": Action.TRUNCATE, "target": Action.TRUNCATE, "heir": Action.DELETE}
    assert [scratch.count(name) for name in ("kept", "target", "link", "heir")] == [1, 0, 0, 0]


def test_the_next_full_scans_do_not_find_them_again(scratch, refitting):
    for number in range(3):
        scratch.execute(f"CREATE TABLE left_{number} (id serial PRIMARY KEY); INSERT INTO left_{number} DEFAULT VALUES")
        assert list(_actions(refitting.reset(refit=True))) == [f"left_{number}"]
        assert refitting.plan().plan.steps == ()


def test_while_somebody_reads_one_it_is_deleted_from(scratch, refitting):
    scratch.execute(LEFT)
    with scratch.connect() as reader:
        reader.autocommit = False
        reader.execute("SELECT FROM parent")
        report = refitting.reset(refit=True)
        reader.rollback()
    assert Action.TRUNCATE not in _actions(report).values()
    assert [scratch.count(name) for name in ("kept", "parent", "child")] == [1, 0, 0]


def test_delete_that_is_asked_for_stays_delete(scratch, refitting):
    resetter = scratch.resetter(to="baseline", strategy="delete")
    resetter.reset()
    scratch.execute(LEFT)
    assert Action.TRUNCATE not in _actions(resetter.reset(refit=True)).values()


def test_the_schema_is_read_once_for_a_change(scratch, refitting, monkeypatch):
    times: list[str] = []

    def read(connection: Any) -> Any:
        times.append(connection.alias)
        return read_schema(connection)

    monkeypatch.setattr(backend, "read_schema", read)
    scratch.execute(LEFT)
    refitting.reset(refit=True)
    assert len(times) == 1
    scratch.execute("INSERT INTO child VALUES (NULL, 1)")
    assert refitting.reset(refit=True).rows == 1
    assert len(times) == 1


def test_a_sequence_that_was_called_and_is_not_at_its_start_is_still_told(scratch, refitting):
    """Whether the next call of a sequence is logged is asked of those alone that were called."""
    scratch.execute("CREATE SEQUENCE free; SELECT nextval('free'); CREATE SEQUENCE unused")
    refitting.reset(refit=True)
    for name in ("free", "unused", "free"):
        with scratch.connection.cursor() as cursor:
            cursor.execute("SELECT nextval(%s), nextval(%s)", [name, name])
        assert [each.name for each in refitting.reset(refit=True).sequences] == [name]
    for name in ("free", "unused"):
        assert scratch.value(f"SELECT is_called FROM {name}") is False
