"""How a baseline is captured, kept, found again and refused on SQLite: other connections, processes, schemas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
from django.db import transaction

from testdb_app.backends.base import Capture
from testdb_app.backends.sqlite import baseline as baseline_tables
from testdb_app.backends.sqlite.backend import BACKEND
from testdb_app.baseline import drop_baseline
from testdb_app.database_setup import forget_test_databases, prepare_test_database
from testdb_app.exceptions import (
    BaselineDamagedError,
    BaselineError,
    BaselineFormatError,
    LockTimeoutError,
    ReadOnlyError,
    TransactionStateError,
    UnsupportedError,
)
from tests.sqlite.database import KnownDatabase, other_connection
from tests.sqlite.test_faults import interrupted

TABLES = (
    "CREATE TABLE django_migrations (id integer PRIMARY KEY, app text, name text, applied datetime)",
    "CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT, v text)",
    "CREATE TABLE b (a_id integer REFERENCES a (id))",
    "CREATE TABLE empty (id integer PRIMARY KEY)",
    "INSERT INTO django_migrations VALUES (1, 'shop', '0001_initial', 'long ago')",
    "INSERT INTO a (v) VALUES ('one'), ('two')",
    "INSERT INTO b VALUES (1), (2), (2)",
)


def own_tables(known):
    return [name for (name,) in known.rows("SELECT name FROM sqlite_master WHERE name LIKE 'testdb%' ORDER BY name")]


def test_what_is_kept_is_in_the_database_and_out_of_the_map(known):
    known.run(*TABLES)
    baseline = known.capture()
    assert {str(table.name): (table.rows, table.key) for table in baseline.tables.values()} == {
        "main.a": (2, ("id",)),
        "main.b": (3, ()),
    }
    assert {str(name): state.last_value for name, state in baseline.sequences.items()} == {"main.a": 2}
    assert own_tables(known) == ["testdb_baseline", "testdb_baseline_1", "testdb_baseline_2"]
    assert BACKEND.read_baseline(known.connection) == baseline
    schema = known.schema()
    assert [table.name.name for table in schema.tables] == ["a", "b", "django_migrations", "empty"]
    assert {left.name.name: left.reason for left in schema.left_out if left.name.name.startswith("testdb")} == (
        dict.fromkeys(own_tables(known), "kept by testdb_app itself")
    )


def test_only_the_names_of_a_baseline_in_main_are_its_own(known):
    known.run("CREATE TABLE testdb_baseline_x (id)", "CREATE TABLE testdb_baselines (id)", "ATTACH ':memory:' AS aux")
    known.run("CREATE TABLE aux.testdb_baseline_1 (id)")
    known.capture()
    assert [str(table.name) for table in known.schema().tables] == [
        "aux.testdb_baseline_1", "main.testdb_baseline_x", "main.testdb_baselines",
    ]  # fmt: skip


def test_a_second_capture_keeps_the_first_unless_it_is_to_replace_it(known):
    known.run(*TABLES)
    first, warm = known.capture(), known.resetter()
    warm.reset()
    known.run("UPDATE a SET v = 'three' WHERE id = 2", "INSERT INTO a (v) VALUES ('four')", "DELETE FROM b")
    known.run("INSERT INTO empty VALUES (1)")
    assert known.capture() == first
    second = known.capture(replace=True)
    assert [name.name for name in second.tables] == ["a", "empty"]
    before = known.content()
    for resetter in (warm, known.resetter()):
        known.run("DELETE FROM b", "DELETE FROM a", "DELETE FROM empty", "INSERT INTO b VALUES (NULL)")
        assert resetter.reset().target == "baseline"
        assert known.content() == before


def test_a_capture_that_replaces_only_values_is_noticed_by_a_resetter_that_knew_the_last_one(known):
    known.run(*TABLES)
    known.capture()
    warm = known.resetter()
    warm.reset()
    known.run("UPDATE a SET v = 'new'", "UPDATE sqlite_sequence SET seq = 50")
    known.capture(replace=True)
    before = known.content()
    assert warm.reset().tables == ()
    known.run("UPDATE a SET v = 'dirty'", "DELETE FROM sqlite_sequence")
    warm.reset()
    assert known.content() == before


def test_without_a_baseline_the_way_leads_to_empty_and_to_a_baseline_it_is_refused(known):
    known.run(*TABLES)
    with pytest.raises(BaselineError, match=r"no baseline to go back to.*capture_baseline\(\)"):
        known.restore(to="baseline")
    warm = known.resetter()
    assert warm.reset().target == "empty"
    known.run("INSERT INTO a (v) VALUES ('one')")
    known.capture()
    assert warm.reset().target == "baseline"
    drop_baseline(known.alias, allow_database=known.name)
    drop_baseline(known.alias, allow_database=known.name)
    assert own_tables(known) == []
    assert warm.reset().target == "empty"
    assert known.count("a") == 0


CHANGES = {
    "ALTER TABLE a ADD COLUMN x integer": r"table main\.a has changed \(\+ x integer\)",
    "ALTER TABLE a RENAME COLUMN v TO w": r"table main\.a has changed \(- v TEXT, \+ w TEXT\)",
    "CREATE TABLE c (id integer)": r"table main\.c is new",
    "DROP TABLE empty": r"table main\.empty is gone",
    "DROP TABLE b": r"table main\.b is gone",
    "DROP TABLE b; CREATE TABLE b (id integer PRIMARY KEY, a_id integer REFERENCES a (id))": r"table main\.b has changed",
    "DROP TABLE empty; CREATE TABLE empty (id integer PRIMARY KEY AUTOINCREMENT)": r"sequence main\.empty is new",
    "INSERT INTO django_migrations VALUES (2, 'shop', '0002_more', 'now')": (
        r"the list of migrations in main\.django_migrations has changed \(\+ 'shop' '0002_more'\)"
    ),
    "DELETE FROM django_migrations": r"the list of migrations in main\.django_migrations has changed",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_schema_is_refused_by_name_until_the_baseline_is_captured_again(known, change):
    known.run(*TABLES)
    known.capture()
    warm = known.resetter()
    warm.reset()
    known.run("INSERT INTO a (v) VALUES ('dirty')", *change.split("; "))
    before = known.content()
    for act in (warm.reset, known.restore, known.capture):
        with pytest.raises(BaselineError, match=f"(?i){CHANGES[change]}"):
            act()
        assert known.content() == before
    known.capture(replace=True)
    before = known.content()
    for resetter in (warm, known.resetter()):
        known.run("INSERT INTO a DEFAULT VALUES")
        resetter.reset()
        assert known.content() == before


@pytest.mark.parametrize("change", ["CREATE INDEX i ON a (v)", "UPDATE django_migrations SET applied = 1, id = 7",
                                    "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; END", "CREATE VIEW w AS SELECT 1"])  # fmt: skip
def test_a_change_on_which_no_row_depends_is_not_refused(known, change):
    known.run(*TABLES)
    known.capture()
    warm, before = known.resetter(), known.content()
    warm.reset()
    known.run(change)
    for resetter in (warm, known.resetter()):
        known.run("UPDATE a SET v = 'dirty' WHERE id = 2")
        resetter.reset()
        assert {**known.content(), "main.django_migrations": 0} == {**before, "main.django_migrations": 0}


DAMAGES = {
    "DROP TABLE testdb_baseline_2": r"main\.testdb_baseline_2, the copy of main\.b, is gone",
    "DELETE FROM testdb_baseline": r"its document, main\.testdb_baseline, has 0 rows instead of one",
    "DROP TABLE testdb_baseline": r"its document, main\.testdb_baseline, is gone, and copies are there",
    "UPDATE testdb_baseline SET document = replace(document, 'tables', 'tables_')": "its document cannot be read",
    "UPDATE testdb_baseline SET document = replace(document, 'last', 'most')": "its document was edited",
    "DELETE FROM testdb_baseline_1 WHERE c1 = (SELECT MAX(c1) FROM testdb_baseline_1)": r"the copy of main\.a, has \d+ rows instead",
    "DELETE FROM testdb_baseline_1": r"the copy of main\.a, has 0 rows instead",
    "UPDATE testdb_baseline_1 SET c2 = 'z' WHERE c1 = (SELECT MAX(c1) FROM testdb_baseline_1)": r"main\.a, were changed",
    "UPDATE testdb_baseline_1 SET c2 = CAST(c2 AS BLOB)": r"main\.a, were changed",
    "ALTER TABLE testdb_baseline_1 RENAME COLUMN c2 TO x": r"the copy of main\.a, cannot be read",
}


@pytest.mark.parametrize("damage", DAMAGES.items(), ids=DAMAGES.keys())
def test_a_damaged_baseline_is_refused(known, damage, monkeypatch):
    change, message = damage
    known.run(*TABLES)
    known.capture()
    known.run("UPDATE a SET v = 'dirty'", change)
    if "'last'" in change:
        document = json.loads(known.rows("SELECT document FROM testdb_baseline")[0][0])
        known.connection.cursor().execute(
            "UPDATE testdb_baseline SET document = %s", [json.dumps({**document, "excluded": [["main", "x"]]})]
        )
    before = known.content()
    monkeypatch.setattr(baseline_tables, "_verified", set())  # as in a new process
    for _ in range(2):
        with pytest.raises(BaselineDamagedError, match=message):
            known.resetter().reset()
    assert known.content() == before
    known.capture(replace=True)
    assert known.resetter().reset().target == "baseline"


def keep_in_earlier_format(known):
    """Have the document as the version before wrote it; the copies were the same."""
    document = json.loads(known.rows("SELECT document FROM testdb_baseline")[0][0])
    del document["digest"]
    tables = [
        {
            **{name: table[name] for name in ("name", "copy", "rows", "key")},
            "columns": [column[:3] for column in table["columns"]],
        }
        for table in document["tables"]
    ]
    known.connection.cursor().execute(
        "UPDATE testdb_baseline SET document = %s", [json.dumps({**document, "version": 1, "tables": tables})]
    )


@pytest.fixture
def kept(known, settings):
    settings.TESTDB = {"ALLOWED_DATABASES": [str(known.connection.settings_dict["NAME"])]}
    known.run(*TABLES)
    known.capture()
    keep_in_earlier_format(known)
    yield known
    forget_test_databases()


def test_a_baseline_of_the_earlier_format_is_captured_anew_where_nothing_was_left(kept, caplog):
    before = kept.content()
    kept.run("UPDATE sqlite_sequence SET seq = 9 WHERE name = 'a'")
    prepare_test_database(kept.alias)
    assert [record for record in caplog.records if "earlier version" in record.getMessage()]
    assert kept.content() == before
    kept.run("INSERT INTO a (v) VALUES ('three')", "DELETE FROM b")
    kept.resetter().reset()
    assert kept.content() == before


DIRT = {
    "INSERT INTO a (v) VALUES ('three')": r"main\.a has other rows",
    "UPDATE a SET v = CAST(v AS BLOB)": r"main\.a has other rows",
    "DELETE FROM b WHERE a_id = 1": r"main\.b has other rows",
    "INSERT INTO empty VALUES (1)": r"main\.empty has rows and had none",
    "ALTER TABLE b ADD COLUMN added integer": r"main\.b has other columns",
    "DROP TABLE b": r"main\.b.*is gone",
    "DROP TABLE testdb_baseline_2": r"main\.testdb_baseline_2, is gone",
}


@pytest.mark.parametrize("dirt", DIRT.items(), ids=DIRT.keys())
def test_rows_of_a_killed_run_enter_no_new_baseline(kept, dirt):
    change, message = dirt
    kept.run(change)
    before = kept.content()
    with pytest.raises(BaselineFormatError, match=r"format 1.*resetdb --recapture\.$"):
        kept.resetter().reset()
    with pytest.raises(BaselineFormatError, match=message):
        prepare_test_database(kept.alias)
    assert kept.content() == before


def test_a_copy_without_rows_empties_no_table(known):
    """Also where the resetter has read the baseline before."""
    known.run(*TABLES)
    known.capture()
    warm = known.resetter()
    warm.reset()
    known.run("UPDATE a SET v = 'dirty'", "DELETE FROM testdb_baseline_1")
    before = known.content()
    for within in (False, True):
        with pytest.raises(BaselineDamagedError, match=r"the copy of main\.a, has 0 rows instead of"):
            if within:
                with transaction.atomic(using=known.alias):
                    known.resetter(within_transaction=True).reset()
            else:
                warm.reset()
    assert known.content() == before


def capture_of(schema, tables=()):
    return Capture(schema=schema, tables=frozenset(tables), sequences=frozenset(), excluded=frozenset(), lock_timeout=1)


def test_a_capture_inside_a_transaction_is_refused(known):
    known.run(*TABLES)
    with transaction.atomic(using=known.alias), pytest.raises(TransactionStateError):
        known.capture()
    known.run("BEGIN")
    with pytest.raises(TransactionStateError):
        BACKEND.write_baseline(known.connection, capture_of(known.schema()))
    known.run("ROLLBACK")
    assert own_tables(known) == []


def test_a_sequence_that_holds_no_integer_is_refused(known):
    known.run(*TABLES, "UPDATE sqlite_sequence SET seq = 'x'")
    with pytest.raises(UnsupportedError, match=r"the sequence of main\.a"):
        known.capture()
    assert own_tables(known) == []


def test_an_interrupt_at_any_statement_of_a_capture_leaves_the_last_baseline_or_the_new_one(make_known, path):
    known = make_known(path)
    known.run(*TABLES)
    known.capture()
    known.run("PRAGMA busy_timeout = 1234", "UPDATE a SET v = 'other'")
    schema, first = known.schema(), BACKEND.read_baseline(known.connection)
    for when in ("before", "after"):
        for number in range(1000):
            with interrupted(known.connection, number, when) as interruption, suppress(KeyboardInterrupt):
                BACKEND.write_baseline(known.connection, capture_of(schema, first.tables))
            assert not known.connection.connection.in_transaction
            assert known.value("PRAGMA busy_timeout") == 1234
            values = {value for (value,) in known.rows("SELECT c2 FROM testdb_baseline_1")}
            is_new = BACKEND.read_baseline(known.connection).captured_at != first.captured_at
            assert values == ({"other"} if is_new else {"one", "two"})
            if is_new:
                assert number > 15
                known.run("UPDATE a SET v = CASE id WHEN 1 THEN 'one' ELSE 'two' END")
                first = known.capture(replace=True)
                known.run("UPDATE a SET v = 'other'")
                schema = known.schema()
            if not interruption.came:
                break


def test_rows_that_another_connection_wrote_changed_or_holds_back(make_known, path):
    known = make_known(path)
    known.run(*TABLES)
    known.capture()
    warm, before = known.resetter(lock_timeout=0.3), known.content()
    warm.reset()
    other = other_connection(path)
    for write in ("INSERT INTO a (v) VALUES ('x')", "DELETE FROM b WHERE rowid = 2", "UPDATE a SET v = 'ONE'"):
        other.execute(write)
        warm.reset()
        assert known.content() == before
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM a")
    with pytest.raises(LockTimeoutError):
        warm.reset()
    with pytest.raises(LockTimeoutError):
        known.capture(replace=True, lock_timeout=0.2)
    other.execute("COMMIT")
    warm.reset()
    assert known.content() == before


def test_a_capture_waits_for_a_writer(make_known, path):
    known = make_known(path)
    known.run(*TABLES)
    other = other_connection(path)
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO empty VALUES (7)")
    threading.Timer(0.3, other.commit).start()
    assert "empty" in {name.name for name in known.capture(lock_timeout=10).tables}


def test_two_connections_of_a_shared_cache_see_one_baseline(make_known):
    name = "file:two?mode=memory&cache=shared"
    one, two = make_known(name, "one"), make_known(name, "two")
    one.run(*TABLES)
    one.capture()
    before, warm = one.content(), two.resetter()
    warm.reset()
    for writer, resetter in ((one, warm), (two, one.resetter()), (one, two.resetter())):
        writer.run("INSERT INTO a (v) VALUES ('x')", "DELETE FROM b")
        resetter.reset()
        assert one.content() == two.content() == before


def test_a_resetter_goes_on_over_a_new_connection(make_known, path):
    known = make_known(path)
    known.run("CREATE TABLE t (v)", "INSERT INTO t VALUES (0.0), (1)")
    known.capture()
    warm, before = known.resetter(), known.content()
    for _ in range(3):
        known.run("UPDATE t SET v = 2 WHERE v = 1")
        warm.reset()
        assert known.content() == before
        known.connection.close()
        known.connection.ensure_connection()


def test_a_read_only_database_is_refused(make_known, path):
    make_known(path, "writer").run(*TABLES)
    known = make_known(f"file:{path}?mode=ro")
    with pytest.raises(ReadOnlyError):
        known.capture()


KILLED = """
import os, sys
import django
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
django.setup()
from tests.sqlite.database import KnownDatabase
known = KnownDatabase(sys.argv[1], "shop")
known.run("DELETE FROM b WHERE rowid = 1", "INSERT INTO a (v) VALUES ('left behind')", "UPDATE a SET v = 'x' WHERE id = 1")
left = int(sys.argv[2])
def count_down(execute, *args):
    global left
    if left == 0:
        os.kill(os.getpid(), 9)
    left -= 1
    return execute(*args)
if left:
    with known.connection.execute_wrapper(count_down):
        known.restore()
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("number", [0, 5, 20, 40, 50, 55, 60, 1000])
def test_a_file_that_a_killed_process_left_dirty_starts_clean_in_the_next(make_known, path, number):
    known = make_known(path, "before")
    known.run(*TABLES)
    known.capture()
    before = known.content()
    known.connection.close()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", KILLED, path, str(number)], env=environment, check=False)
    assert process.returncode == -9
    after = KnownDatabase(path, "after")
    try:
        assert (after.content() == before) == (number == 1000)
        after.capture()
        after.restore()
        assert after.content() == before
    finally:
        after.close()
