"""When a baseline is captured, kept, refused and dropped."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from testdb_app.baseline import capture_baseline, drop_baseline
from testdb_app.baseline_state import SequenceState
from testdb_app.exceptions import BaselineError, LockTimeoutError, TransactionStateError, UnsafeDatabaseError
from tests.baseline.conftest import content

TABLES = """
CREATE TABLE a (id serial PRIMARY KEY, v text);
CREATE TABLE b (id serial PRIMARY KEY, a_id integer REFERENCES a (id));
CREATE TABLE django_migrations (id serial PRIMARY KEY, app text, name text, applied timestamptz DEFAULT now());
INSERT INTO a (v) VALUES ('one'), ('two');
INSERT INTO django_migrations (app, name) VALUES ('shop', '0001_initial');
"""


def capture(database, **options):
    return capture_baseline(database.alias, **{"allow_database": database.name, **options})


def test_it_says_what_it_keeps(scratch):
    scratch.execute(TABLES)
    baseline = capture(scratch)
    assert [(str(table.name), table.rows, table.key) for table in baseline.tables.values()] == [
        ("public.a", 2, ("id",))
    ]
    assert {str(name): state for name, state in baseline.sequences.items()} == {
        "public.a_id_seq": SequenceState(last_value=2, is_called=True)
    }
    assert baseline.rows == 2
    assert [str(name) for name in baseline.excluded] == ["public.django_migrations"]
    assert scratch.resetter().backend.read_baseline(scratch.connection) == baseline


def test_a_second_capture_keeps_the_first(scratch):
    """A database that is kept between runs, left dirty by a killed one, must not have its dirt captured."""
    scratch.execute(TABLES)
    first = capture(scratch)
    scratch.execute("INSERT INTO a (v) VALUES ('dirt')")
    assert capture(scratch) == first
    scratch.reset()
    assert scratch.count("a") == 2


def test_it_is_captured_again_when_that_is_asked_for(scratch):
    scratch.execute(TABLES)
    capture(scratch)
    scratch.execute("INSERT INTO a (v) VALUES ('three'); INSERT INTO b DEFAULT VALUES")
    assert capture(scratch, replace=True).rows == 4
    scratch.execute("DELETE FROM b; DELETE FROM a")
    scratch.reset()
    assert (scratch.count("a"), scratch.count("b")) == (3, 1)


CHANGES = {
    "ALTER TABLE a ADD w integer": r"table public\.a has changed \(\+ w integer\)",
    "ALTER TABLE a ALTER v TYPE varchar(9)": r"table public\.a has changed \(- v text, \+ v character varying\(9\)\)",
    "ALTER TABLE a DROP CONSTRAINT a_pkey CASCADE": r"table public\.a has changed \(- key \(id\)\)",
    "CREATE TABLE c (id integer)": r"table public\.c is new",
    "DROP TABLE b": r"sequence public\.b_id_seq is gone; table public\.b is gone",
    "ALTER TABLE b RENAME TO c": r"table public\.b is gone; table public\.c is new",
    "INSERT INTO django_migrations (app, name) VALUES ('shop', '0002_more')": "0002_more",
    "DELETE FROM django_migrations": "the list of migrations in public.django_migrations has changed",
}


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_baseline_of_another_schema_is_refused_with_what_has_changed(scratch, change, warm):
    scratch.execute(TABLES)
    capture(scratch)
    resetter = scratch.resetter()
    with scratch.connection.cursor() as cursor:
        if warm:
            for _ in range(2):
                cursor.execute("INSERT INTO a (v) VALUES ('x')")
                resetter.reset()
        cursor.execute("INSERT INTO a (v) VALUES ('kept')")
        cursor.execute(change)
    for _ in range(2):
        with pytest.raises(BaselineError, match=CHANGES[change]) as refusal:
            resetter.reset()
    assert refusal.value.changes
    with pytest.raises(BaselineError, match=CHANGES[change]):
        capture(scratch)
    assert scratch.count("a") == 3
    assert scratch.reset(to="empty").rows == 3
    capture(scratch, replace=True)
    assert resetter.reset().tables == ()


def test_what_does_not_change_the_shape_is_no_reason_to_refuse(scratch):
    scratch.execute(TABLES)
    capture(scratch)
    resetter = scratch.resetter()
    resetter.reset()
    scratch.execute("CREATE INDEX ON a (v); CREATE VIEW w AS SELECT v FROM a; ALTER TABLE b ADD w integer; ANALYZE")
    scratch.execute("INSERT INTO a (v) VALUES ('x')")
    assert resetter.reset().rows == 1


SETTINGS = (
    "quote_all_identifiers TO on",
    "search_path TO ''",
    "DateStyle TO 'SQL, DMY'",
    "extra_float_digits TO -15",
    "bytea_output TO escape",
)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_settings_of_a_session_make_no_difference(scratch, captured, setting):
    before = captured(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (id integer PRIMARY KEY, \"order\" mood, f float8, b bytea, d date);"
        "CREATE TABLE keyless (f float8, b bytea, d timestamptz); INSERT INTO keyless VALUES (0.1, '\\x00', '2020-01-02 03:04:05+00');"
        "INSERT INTO t VALUES (1, 'sad', 0.1, '\\x00', '2020-01-02')"
    )
    resetter = scratch.resetter()
    for _ in range(2):
        with scratch.connection.cursor() as cursor:
            cursor.execute(
                f"SET {setting}; UPDATE public.t SET f = 0.1 + 1e-17; UPDATE public.keyless SET f = 0.1::float8 + 2e-17"
            )
        assert resetter.reset().target == "baseline"
        assert content(scratch) == before


def test_without_a_baseline_the_target_is_empty_and_asking_for_one_is_refused(scratch):
    scratch.execute(TABLES)
    with pytest.raises(BaselineError, match=r"no baseline to go back to\. Nothing was changed\. Capture one"):
        scratch.reset(to="baseline")
    assert scratch.reset().target == "empty"
    assert scratch.count("a") == 0


def test_dropping_it_leaves_nothing(scratch):
    scratch.execute(TABLES)
    capture(scratch)
    drop_baseline(scratch.alias, allow_database=scratch.name)
    assert scratch.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'testdb'") == 0
    drop_baseline(scratch.alias, allow_database=scratch.name)


def test_the_guard_is_asked_before_anything_is_written(scratch):
    scratch.execute(TABLES)
    with pytest.raises(UnsafeDatabaseError):
        capture_baseline(scratch.alias)
    capture(scratch)
    with pytest.raises(UnsafeDatabaseError):
        capture_baseline(scratch.alias, replace=True)
    with pytest.raises(UnsafeDatabaseError):
        drop_baseline(scratch.alias)
    assert scratch.resetter().backend.read_baseline(scratch.connection) is not None


def test_excluded_tables_are_neither_kept_nor_touched(scratch):
    scratch.execute(TABLES)
    capture(scratch, exclude="public.b")
    scratch.execute("INSERT INTO b DEFAULT VALUES; INSERT INTO a (v) VALUES ('x')")
    report = scratch.reset()
    assert [str(table.name) for table in report.tables] == ["public.a"]
    assert ("public.b", "excluded from the baseline") in {(str(item.name), item.reason) for item in report.kept}
    assert scratch.count("b") == 1


def test_rows_that_stay_and_refer_to_rows_that_go_are_named(scratch):
    scratch.execute(TABLES)
    capture(scratch, exclude="public.b")
    scratch.execute("INSERT INTO b (a_id) VALUES (1)")
    scratch.reset()
    scratch.execute("INSERT INTO a (v) VALUES ('x'); UPDATE b SET a_id = 3")
    for _ in range(2):
        with pytest.raises(Exception, match=r"public\.b\(a_id\) → public\.a\(id\): 1 row"):
            scratch.reset()
    assert scratch.count("a") == 3


def test_a_copy_of_the_database_has_the_baseline_too(scratch, make_scratch):
    scratch.execute(TABLES)
    capture(scratch)
    scratch.connection.close()
    clone = make_scratch("clone", template=scratch.name)
    clone.execute("DELETE FROM a")
    clone.reset()
    assert clone.count("a") == 2


def test_a_writer_is_waited_for_and_named(scratch):
    scratch.execute(TABLES)
    with scratch.connect(application_name="leftover") as writer:
        writer.execute("BEGIN; INSERT INTO a (v) VALUES ('uncommitted')")
        with pytest.raises(LockTimeoutError, match=r"\(leftover\) holds RowExclusiveLock on public\.a"):
            capture(scratch, lock_timeout=0.3)
    assert scratch.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'testdb'") == 0


def test_inside_a_transaction_it_is_refused(scratch):
    from django.db import transaction

    scratch.execute(TABLES)
    with transaction.atomic(using=scratch.alias), pytest.raises(TransactionStateError):
        capture(scratch)


def test_a_schema_of_that_name_with_tables_of_somebody_else_is_kept(scratch):
    scratch.execute(TABLES + "CREATE SCHEMA testdb; CREATE TABLE testdb.baseline_of_mine (id integer);")
    capture(scratch)
    drop_baseline(scratch.alias, allow_database=scratch.name)
    assert scratch.count("testdb.baseline_of_mine") == 0


def test_a_run_that_was_killed_leaves_a_database_that_the_next_one_cleans(scratch):
    """The baseline survives the process, and the next process needs to know nothing of the first."""
    scratch.execute(TABLES)
    capture(scratch)
    before = content(scratch)
    connection = scratch.connection.get_connection_params()
    parameters = {
        name: connection[name] for name in ("host", "port", "user", "password", "dbname") if name in connection
    }
    script = f"""
        import os, signal, psycopg
        connection = psycopg.connect(autocommit=True, **{parameters!r})
        connection.execute("DELETE FROM a; INSERT INTO b DEFAULT VALUES; SELECT nextval('a_id_seq')")
        connection.execute("BEGIN; INSERT INTO b DEFAULT VALUES")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -9
    assert scratch.count("a") == 0
    capture(scratch)
    scratch.reset()
    assert content(scratch) == before
