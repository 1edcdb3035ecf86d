"""What a reset to the baseline brings back, whatever was done to the rows."""

from __future__ import annotations

import pytest

from testdb_app.backends.postgresql.baseline import read_baseline
from testdb_app.backends.postgresql.operations import restore
from testdb_app.baseline_state import BASELINE
from testdb_app.exceptions import MissingPrivilegeError
from tests.baseline.conftest import content

TABLES = """
CREATE TABLE author (id serial PRIMARY KEY, name text UNIQUE, up integer REFERENCES author (id));
CREATE TABLE book (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, author_id integer REFERENCES author (id), title text,
                   shout text GENERATED ALWAYS AS (upper(title)) STORED);
CREATE TABLE note (body text, weight real);
CREATE TABLE untouched (id integer PRIMARY KEY);
CREATE TABLE empty (id serial PRIMARY KEY);
INSERT INTO author (name) VALUES ('Ada'), ('Bob'), ('Cleo');
INSERT INTO book (author_id, title) VALUES (1, 'one'), (2, 'two');
INSERT INTO note VALUES ('same', 0.1), ('same', 0.1), ('other', 'NaN');
INSERT INTO untouched VALUES (1);
"""
WRITES = {
    "rows are inserted": "INSERT INTO author (name) VALUES ('Dan'); INSERT INTO book (author_id) VALUES (4)",
    "rows are updated": "UPDATE author SET name = 'Eve' WHERE id = 1; UPDATE note SET weight = 7 WHERE body = 'other'",
    "rows are deleted": "DELETE FROM book WHERE id = 1; DELETE FROM note WHERE body = 'other'",
    "one of two equal rows is deleted": "DELETE FROM note WHERE ctid IN (SELECT min(ctid) FROM note GROUP BY body)",
    "all tables are truncated": "TRUNCATE author, book, note, untouched, empty RESTART IDENTITY",
    "a key is taken by another row": "DELETE FROM book; DELETE FROM author WHERE name = 'Ada'; "
    "INSERT INTO author (name) VALUES ('Ada')",
    "rows refer to one that came": "INSERT INTO author (id, name) VALUES (9, 'Ida'); UPDATE book SET author_id = 9; "
    "UPDATE author SET up = 9; DELETE FROM author WHERE id = 2",
    "unique values are swapped": "UPDATE author SET name = 'x' WHERE id = 1; UPDATE author SET name = 'Ada' WHERE id = 2; "
    "UPDATE author SET name = 'Bob' WHERE id = 1",
    "an identity is given anew": "UPDATE book SET id = DEFAULT",
    "only a sequence moves": "SELECT nextval('author_id_seq'), setval('empty_id_seq', 77)",
    "a sequence goes back": "SELECT setval('author_id_seq', 1, false)",
    "work is rolled back": "BEGIN; INSERT INTO author (name) VALUES ('Zoe'); DELETE FROM book; ROLLBACK",
    "nothing": "SELECT 1",
}


@pytest.mark.parametrize("writes", WRITES.values(), ids=WRITES.keys())
def test_everything_is_as_it_was(scratch, captured, writes):
    before = captured(TABLES)
    scratch.execute(writes)
    report = scratch.reset()
    assert report.target == "baseline"
    assert content(scratch) == before
    assert scratch.reset().tables == ()


@pytest.mark.parametrize("writes", WRITES.values(), ids=WRITES.keys())
def test_a_warm_resetter_restores_the_same(scratch, captured, writes):
    before = captured(TABLES)
    resetter = scratch.resetter()
    resetter.reset()
    with scratch.connection.cursor() as cursor:
        for _ in range(3):
            cursor.execute(writes)
            resetter.reset()
            assert content(scratch) == before


def test_a_table_that_was_not_written_keeps_its_rows_where_they_are(scratch, captured):
    captured(TABLES)
    before = content(scratch, physical=True)
    scratch.execute("UPDATE author SET name = 'Eve' WHERE id = 1; INSERT INTO empty DEFAULT VALUES")
    report = scratch.reset()
    assert [(str(table.name), table.rows, table.updated, table.inserted) for table in report.tables] == [
        ("public.empty", 1, 0, 0),
        ("public.author", 0, 1, 0),
    ]
    after = content(scratch, physical=True)
    for name in ("book", "note", "untouched"):
        assert after[f'"public"."{name}"'] == before[f'"public"."{name}"']
    kept = [row for row in before['"public"."author"'][1] if "Ada" not in row[2]]
    assert kept == [row for row in after['"public"."author"'][1] if "Ada" not in row[2]]


def test_the_next_insert_never_collides(scratch, captured):
    captured(TABLES)
    scratch.execute("INSERT INTO author (name) VALUES ('Dan')")
    scratch.reset()
    assert scratch.value("INSERT INTO author (name) VALUES ('Dan') RETURNING id") == 4
    assert scratch.value("INSERT INTO empty DEFAULT VALUES RETURNING id") == 1


def test_rows_that_can_only_be_put_in_anew_do_not_touch_tables_that_were_not_written(scratch, captured):
    captured(TABLES)
    before = content(scratch, physical=True)
    resetter = scratch.resetter()
    resetter.reset()
    for fresh in (resetter, scratch.resetter()):
        scratch.execute(WRITES["unique values are swapped"])
        report = fresh.reset()
        assert {str(table.name) for table in report.tables} == {"public.author", "public.book"}
        after = content(scratch, physical=True)
        for name in ("note", "untouched", "empty"):
            assert after[f'"public"."{name}"'] == before[f'"public"."{name}"']


def test_the_preview_counts_what_would_change_and_nothing_else(scratch, captured):
    captured(TABLES)
    assert scratch.resetter().plan().plan.steps == ()
    scratch.execute(
        "INSERT INTO author (name) VALUES ('Dan'); UPDATE note SET weight = 3; INSERT INTO empty DEFAULT VALUES"
    )
    preview = scratch.resetter().plan()
    assert {str(name): rows for name, rows in preview.rows.items()} == {
        "public.author": 1,
        "public.note": 3,
        "public.empty": 1,
    }


def test_a_role_that_cannot_switch_a_trigger_off_is_refused_before_it_fires(scratch, captured):
    captured(
        "CREATE TABLE log (what text); CREATE TABLE t (id integer PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one');"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO log VALUES (TG_OP); RETURN NULL; END$$;"
        "CREATE TRIGGER note AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note();"
    )
    with scratch.superuser() as session:
        session.execute(
            "ALTER TABLE t OWNER TO CURRENT_USER; GRANT ALL ON t TO PUBLIC; UPDATE t SET v = 'x'; TRUNCATE log"
        )
    for _ in range(2):
        with pytest.raises(
            MissingPrivilegeError, match=r"cannot restore public\.t .* may not switch off their triggers"
        ):
            scratch.reset()
    assert scratch.query("SELECT v FROM t") == [("x",)]
    assert scratch.count("log") == 0


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
@pytest.mark.parametrize("own", [True, False])
def test_putting_a_key_back_does_not_change_what_refers_to_it(scratch, captured, action, own):
    """1.0 and 1.00 are one key, and not the same bytes: the key's action on update takes them for a change."""
    table = "a" if own else "b"
    before = captured(
        "CREATE TABLE a (id numeric PRIMARY KEY, v text); CREATE TABLE b (id integer);"
        f"ALTER TABLE {table} ADD a_id numeric REFERENCES a (id) ON UPDATE {action} DEFERRABLE INITIALLY DEFERRED;"
        f"INSERT INTO a (id, v) VALUES (1.00, 'x'); INSERT INTO {table} (id, a_id) VALUES (2, 1.0)"
    )
    resetter = scratch.resetter()
    for _ in range(3):
        with scratch.connection.cursor() as cursor:
            cursor.execute("UPDATE a SET id = 1.0, v = 'y' WHERE id = 1")
        resetter.reset()
        assert content(scratch) == before


def test_a_deferrable_key_that_was_broken_is_no_key(scratch, captured):
    """Its check is a trigger, which a replica's session does not fire; two rows of one key would both be made like the one."""
    before = captured(
        "CREATE TABLE t (id integer PRIMARY KEY DEFERRABLE, v text); INSERT INTO t VALUES (1, 'one'), (2, 'two')"
    )
    with scratch.superuser() as session:
        session.execute("SET session_replication_role = replica; INSERT INTO t VALUES (2, 'again')")
    scratch.reset()
    assert content(scratch) == before


def test_the_statement_for_tables_tied_together_grows_with_their_number(scratch, captured):
    """Each part waits for all earlier ones. To repeat their counts in every part took 5 seconds for 60 tables."""
    lengths = []
    for count in (10, 40):
        tables = [f"t{count}_{i}" for i in range(count)]
        made = "".join(
            f"CREATE TABLE {name} (id integer PRIMARY KEY, up integer REFERENCES {tables[max(i - 1, 0)]});"
            f"INSERT INTO {name} VALUES (1, 1);"
            for i, name in enumerate(tables)
        )
        before = captured(made, replace=True)
        scratch.execute("".join(f"UPDATE {name} SET up = NULL;" for name in tables))
        baseline = read_baseline(scratch.connection, BASELINE)
        lengths.append(len(restore([name for name in baseline.tables if name.name in tables], baseline).sql))
        scratch.reset()
        assert content(scratch) == before
    assert lengths[1] < 5 * lengths[0]
