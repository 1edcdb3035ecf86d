"""The change tracker: what it proves, and each condition broken once, which the full scan then sees to."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager, suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from testdb_app.backends.base import Mark
from testdb_app.backends.sqlite.backend import BACKEND
from testdb_app.exceptions import BaselineError, ConcurrencyError, LockTimeoutError, UnsafeDatabaseError
from tests.sqlite.database import KnownDatabase, close_other_connections, other_connection

SCHEMA = (
    "CREATE TABLE author (id integer PRIMARY KEY AUTOINCREMENT, name text UNIQUE)",
    (
        "CREATE TABLE book (id integer PRIMARY KEY AUTOINCREMENT, author_id integer NOT NULL REFERENCES author"
        " DEFERRABLE INITIALLY DEFERRED, part_of integer REFERENCES book DEFERRABLE INITIALLY DEFERRED)"
    ),
    "CREATE TABLE session (key text PRIMARY KEY, data blob)",
    "CREATE TABLE word (word text PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE kind (id integer PRIMARY KEY AUTOINCREMENT, name text, data blob)",
    "CREATE TABLE django_migrations (id integer PRIMARY KEY AUTOINCREMENT, app text, name text, applied text)",
    "INSERT INTO kind (name, data) VALUES ('one', x'01'), ('two', x'02')",
    "INSERT INTO django_migrations (app, name) VALUES ('shop', '0001')",
)


def make(known, *more):
    known.run(*SCHEMA, *more)
    known.capture()
    return known


@pytest.fixture
def shop(known):
    return make(known)


class Resets:
    """A resetter that was warmed up; :meth:`reset` returns by which way it reset. The rows afterwards are those before."""

    def __init__(self, database, **options):
        self.database = database
        self.resetter = database.resetter(**options)
        self.resetter.reset()
        self.resetter.reset()
        self.content = database.content()

    def reset(self, **options):
        with self.recorded() as ways:
            self.report = self.resetter.reset(**options)
        assert in_scope(self.database.content()) == in_scope(self.content)
        return ways[0]

    @contextmanager
    def recorded(self):
        ways, statements = [], []

        def record(execute, sql, params, many, context):
            statements.append(sql)
            return execute(sql, params, many, context)

        with self.database.connection.execute_wrapper(record):
            yield ways
        # What the tracker reads goes by the driver's own cursor, and the scan by Django's.
        is_scan = any("EXISTS (" in sql for sql in statements)
        ways.append("full scan" if is_scan else "written" if statements else "nothing")

    def rows(self):
        return {table.name.name: table.rows for table in self.report.tables}

    def sequences(self):
        return {name.name for name in self.report.sequences}


def test_nothing_was_written(shop):
    resets = Resets(shop)
    shop.rows("SELECT * FROM kind")
    assert [resets.reset() for _ in range(3)] == ["nothing"] * 3
    assert (resets.report.tables, resets.report.sequences, resets.report.target) == ((), (), "baseline")


def test_rows_are_deleted_in_order_and_sequences_restarted_with_no_full_scan(shop):
    resets = Resets(shop)
    for _ in range(3):
        shop.run(
            "INSERT INTO author (name) VALUES ('a'), ('b')",
            "INSERT INTO book (author_id, part_of) VALUES (1, 2), (2, 1)",
            "INSERT INTO session VALUES ('k', x'00')",
            "INSERT INTO word VALUES ('w')",
        )
        assert resets.reset() == "written"
        assert resets.rows() == {"author": 2, "book": 2, "session": 1, "word": 1}
        assert resets.sequences() == {"author", "book"}
        assert resets.reset() == "nothing"


def test_a_database_without_a_baseline_is_emptied_the_same_way(known):
    known.run(*SCHEMA[:2])
    resets = Resets(known)
    known.run("INSERT INTO author (name) VALUES ('a')", "INSERT INTO book (author_id) VALUES (1)")
    assert (resets.reset(), resets.rows(), resets.report.target) == ("written", {"author": 1, "book": 1}, "empty")
    assert resets.reset() == "nothing"


@pytest.mark.parametrize(
    ("statements", "tables", "sequences"),
    [
        # The sequence moves, and no row is changed.
        (["INSERT INTO author (name) VALUES ('a')", "DELETE FROM author", "DELETE FROM sqlite_sequence WHERE name = 'author'"], {}, set()),
        (["INSERT INTO author (id, name) VALUES (-5, 'a')"], {"author": 1}, {"author"}),
        (["INSERT INTO author (id, name) VALUES (0, 'a')"], {"author": 1}, {"author"}),
        # What sqlite_sequence says of a table need not be so.
        (["INSERT INTO author (name) VALUES ('a')", "DELETE FROM sqlite_sequence WHERE name = 'author'"], {"author": 1}, set()),
        (["INSERT INTO sqlite_sequence VALUES ('author', 9)", "INSERT INTO author (id, name) VALUES (3, 'a')"], {"author": 1}, {"author"}),
        (["INSERT INTO sqlite_sequence VALUES ('author', 9)"], {}, {"author"}),
        (["UPDATE sqlite_sequence SET seq = 7 WHERE name = 'kind'"], {}, {"kind"}),
        (["DELETE FROM sqlite_sequence"], {}, {"kind"}),
        (["INSERT INTO word SELECT 'a' UNION SELECT 'b'"], {"word": 2}, set()),
        (["BEGIN", "INSERT INTO author (name) VALUES ('a')", "ROLLBACK"], {}, set()),
        (["PRAGMA user_version = 5"], {}, set()),
    ],
)  # fmt: skip
def test_rows_and_sequences_are_found_whatever_was_done(shop, statements, tables, sequences):
    resets = Resets(shop)
    shop.run(*statements)
    assert resets.reset() in {"written", "nothing"}
    assert (resets.rows(), resets.sequences()) == (tables, sequences)


def test_an_insert_that_is_ignored_moves_the_sequence_and_no_count(shop):
    shop.run("CREATE UNIQUE INDEX kind_name ON kind (name)")
    resets = Resets(shop)
    before = shop.connection.connection.total_changes
    shop.run("INSERT OR IGNORE INTO kind (name) VALUES ('one')")
    assert shop.connection.connection.total_changes == before
    assert (resets.reset(), resets.rows(), resets.sequences()) == ("written", {}, {"kind"})


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE kind SET name = 'other' WHERE id = 1",
        "DELETE FROM kind",
        "INSERT INTO kind (id, name) VALUES (-1, 'low')",
        "DELETE FROM kind WHERE id = 2",
        "UPDATE kind SET data = '1' WHERE id = 1",
    ],
)
def test_rows_of_the_baseline_are_compared_and_restored_by_the_full_scan(shop, statement):
    resets = Resets(shop)
    shop.run(statement)
    assert (resets.reset(), set(resets.rows())) == ("full scan", {"kind"})
    assert [resets.reset() for _ in range(2)] == ["written", "nothing"]


def test_a_blob_that_is_written_to_in_place_is_found_though_nothing_counts_it(shop):
    resets = Resets(shop)
    before = shop.connection.connection.total_changes
    with shop.connection.connection.blobopen("kind", "data", 1) as blob:
        blob.write(b"\x07")
    assert shop.connection.connection.total_changes == before
    assert (resets.reset(), set(resets.rows())) == ("full scan", {"kind"})


def test_rows_of_triggers_are_found(known):
    make(known, "CREATE TRIGGER t AFTER INSERT ON author BEGIN INSERT INTO word VALUES (new.name); END")
    resets = Resets(known)
    known.run("INSERT INTO author (name) VALUES ('a')")
    assert (resets.reset(), resets.rows()) == ("written", {"author": 1, "word": 1})


def test_a_trigger_on_delete_needs_the_full_scan(known):
    make(known, "CREATE TRIGGER t AFTER DELETE ON author BEGIN INSERT INTO word VALUES (old.name); END")
    resets = Resets(known)
    known.run("INSERT INTO author (name) VALUES ('a')")
    assert (resets.reset(), resets.rows()) == ("full scan", {"author": 1})


def test_a_temporary_trigger_needs_the_full_scan(shop):
    resets = Resets(shop)
    shop.run(
        "CREATE TEMP TRIGGER t AFTER DELETE ON author BEGIN INSERT INTO word VALUES (old.name); END",
        "INSERT INTO author (name) VALUES ('a')",
    )
    assert (resets.reset(), resets.rows()) == ("full scan", {"author": 1})


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL"])
def test_a_foreign_key_that_acts_on_rows_that_stay_is_taken_back(known, action):
    """The baseline has a row that refers to nothing; a test inserts what it refers to."""
    make(
        known,
        f"CREATE TABLE note (id integer PRIMARY KEY, author_id integer REFERENCES author ON DELETE {action})",
        "PRAGMA foreign_keys = OFF",
        "INSERT INTO note VALUES (1, 5)",
        "PRAGMA foreign_keys = ON",
    )
    resets = Resets(known, lock_timeout=0.1)
    known.run("INSERT INTO author (id, name) VALUES (5, 'a')")
    # The full scan refuses such rows, whatever way came before.
    with resets.recorded() as ways, pytest.raises(ConcurrencyError, match="Rows that refer to others"):
        resets.resetter.reset()
    assert (ways, known.rows("SELECT * FROM note"), known.count("author")) == (["full scan"], [(1, 5)], 1)


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "RESTRICT"])
def test_a_foreign_key_of_a_table_to_itself_that_acts_needs_the_full_scan(known, action):
    make(known, f"CREATE TABLE node (id integer PRIMARY KEY, up integer REFERENCES node ON DELETE {action})")
    resets = Resets(known)
    known.run("INSERT INTO node VALUES (1, NULL), (2, 1), (3, 2)")
    assert (resets.reset(), resets.rows()) == ("full scan", {"node": 3})


def test_references_that_no_index_supports_need_the_full_scan(known):
    """SQLite refuses each deletion there while foreign keys are on."""
    make(
        known,
        "CREATE TABLE city (name text)",
        "CREATE TABLE street (city text REFERENCES city (name))",
    )
    resets = Resets(known)
    known.run("INSERT INTO city VALUES ('a')")
    assert (resets.reset(), resets.rows()) == ("full scan", {"city": 1})


def test_a_cycle_of_tables_is_emptied_with_no_full_scan_if_its_keys_are_deferred(known):
    make(
        known,
        "CREATE TABLE a (id integer PRIMARY KEY, b integer REFERENCES b DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TABLE b (id integer PRIMARY KEY, a integer REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
    )
    resets = Resets(known)
    known.run("BEGIN", "INSERT INTO a VALUES (1, 1), (2, 1)", "INSERT INTO b VALUES (1, 2)", "COMMIT")
    assert (resets.reset(), resets.rows()) == ("written", {"a": 2, "b": 1})


@pytest.mark.parametrize("statement", ["CREATE INDEX i ON author (name)", "VACUUM", "CREATE VIEW v AS SELECT 1"])
def test_a_change_of_the_schema_needs_the_full_scan(shop, statement):
    resets = Resets(shop)
    shop.run(statement, "INSERT INTO author (name) VALUES ('a')")
    assert (resets.reset(), resets.rows()) == ("full scan", {"author": 1})


def test_a_new_table_is_found_by_the_full_scan(known):
    known.run(*SCHEMA[:2])
    resets = Resets(known)
    known.run("CREATE TABLE other (id integer)", "INSERT INTO other VALUES (1)")
    resets.content["main.other"] = []
    assert (resets.reset(), resets.rows()) == ("full scan", {"other": 1})


def test_an_attached_database_needs_the_full_scan_until_it_is_detached(known):
    known.run(*SCHEMA[:2])
    resets = Resets(known)
    known.run("ATTACH ':memory:' AS more", "CREATE TABLE more.other (id integer)")
    resets.content["more.other"] = []
    for _ in range(2):
        known.run("INSERT INTO more.other VALUES (1)")
        assert (resets.reset(), resets.rows()) == ("full scan", {"other": 1})
    known.run("DETACH more", "INSERT INTO author (name) VALUES ('a')")
    del resets.content["more.other"]
    assert (resets.reset(), resets.rows()) == ("full scan", {"author": 1})
    assert [resets.reset() for _ in range(2)] == ["written", "nothing"]


def test_a_virtual_table_needs_the_full_scan(known):
    known.run("CREATE VIRTUAL TABLE rt USING rtree (id, a, b)", "CREATE TABLE author (id integer PRIMARY KEY)")
    resets = Resets(known)
    known.run("INSERT INTO rt VALUES (1, 2, 3)", "INSERT INTO author VALUES (1)")
    assert (resets.reset(), resets.rows()) == ("full scan", {"rt": 1, "author": 1})


def test_a_database_that_was_replaced_from_bytes_is_refused_though_all_its_numbers_are_the_same(shop):
    resets = Resets(shop)
    raw = shop.connection.connection
    for _ in range(2):
        before = (raw.total_changes, shop.value("PRAGMA schema_version"))
        raw.deserialize(raw.serialize())
        assert (raw.total_changes, shop.value("PRAGMA schema_version")) == before
        with resets.recorded() as ways, pytest.raises(UnsafeDatabaseError):
            resets.resetter.reset()
        assert ways == ["full scan"]


def test_a_copy_into_the_database_needs_the_full_scan(shop):
    resets = Resets(shop)
    with sqlite3.connect(":memory:") as copy:
        shop.connection.connection.backup(copy)
        copy.execute("INSERT INTO author (name) VALUES ('a')")
        copy.commit()
        before = shop.connection.connection.total_changes
        copy.backup(shop.connection.connection)
    copy.close()
    assert shop.connection.connection.total_changes == before
    assert (resets.reset(), resets.rows()) == ("full scan", {"author": 1})


def test_another_resetter_that_has_seen_the_change_of_the_schema_does_not_hide_it(shop):
    resets = Resets(shop)
    raw = shop.connection.connection
    with sqlite3.connect(":memory:") as copy:
        raw.backup(copy)
        copy.execute("INSERT INTO session VALUES ('k', NULL)")
        copy.commit()
        before = raw.total_changes
        copy.backup(raw)
    copy.close()
    shop.restore(exclude=["main.session"])
    assert raw.total_changes == before
    assert (resets.reset(), resets.rows()) == ("written", {"session": 1})


def others(database):
    if database.name == ":memory:":
        pytest.skip("nobody else can connect to it")
    return other_connection(database.name)


def test_what_another_connection_has_committed_is_found(shop):
    other = others(shop)
    resets = Resets(shop)
    for _ in range(2):
        other.execute("INSERT INTO session VALUES ('k', NULL)")
        assert (resets.reset(), resets.rows()) == ("written", {"session": 1})
        assert resets.reset() == "nothing"


def test_a_blob_that_another_connection_has_written_to_is_found(shop):
    other = others(shop)
    resets = Resets(shop)
    with other.blobopen("kind", "data", 1) as blob:
        blob.write(b"\x07")
    assert (resets.reset(), set(resets.rows())) == ("full scan", {"kind"})


def test_a_reset_waits_for_what_another_connection_has_not_committed_yet(shop):
    other = others(shop)
    resets = Resets(shop, lock_timeout=0.3)
    timeout = shop.value("PRAGMA busy_timeout")
    other.execute("BEGIN")
    other.execute("INSERT INTO author (name) VALUES ('a')")
    with resets.recorded() as ways, pytest.raises(LockTimeoutError):
        resets.resetter.reset()
    assert ways == ["written"]  # the scan waits for the lock, and sees no table
    assert shop.value("PRAGMA busy_timeout") == timeout
    other.execute("COMMIT")
    assert (resets.reset(), resets.rows()) == ("written", {"author": 1})


def test_nobody_can_write_between_the_reading_and_the_deletion(shop, monkeypatch):
    other = others(shop)
    resets = Resets(shop)
    shop.run("INSERT INTO author (name) VALUES ('a')")
    refused = []
    permit = resets.resetter._permit

    def write_meanwhile(identity):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("INSERT INTO session VALUES ('k', NULL)")
        refused.append(identity)
        return permit(identity)

    monkeypatch.setattr(resets.resetter, "_permit", write_meanwhile)
    assert (resets.reset(), len(refused)) == ("written", 1)
    other.execute("INSERT INTO session VALUES ('k', NULL)")
    assert (resets.reset(), resets.rows()) == ("written", {"session": 1})


def test_rows_of_a_statement_that_was_not_fetched_to_its_end_are_gone_though_nothing_has_counted_them_yet(shop):
    resets = Resets(shop)
    raw = shop.connection.connection
    before = raw.total_changes
    cursor = raw.execute("INSERT INTO word VALUES ('a'), ('b') RETURNING word")
    assert (raw.total_changes, raw.in_transaction, shop.count("word")) == (before, False, 2)
    resets.reset()
    with suppress(sqlite3.Error):
        cursor.fetchall()
    assert shop.content() == resets.content
    resets.reset()


def test_another_thread_that_writes_over_the_same_connection_is_seen(make_known):
    known = make(make_known(OPTIONS={"check_same_thread": False}))
    resets = Resets(known)
    raw = known.connection.connection
    thread = threading.Thread(target=lambda: raw.execute("INSERT INTO author (name) VALUES ('a')"))
    thread.start()
    thread.join()
    assert (resets.reset(), resets.rows()) == ("written", {"author": 1})


def test_a_new_connection_needs_the_full_scan(make_known, path):
    known = make(make_known(path))
    resets = Resets(known)
    known.connection.close()
    known.run("INSERT INTO author (name) VALUES ('a')")
    assert (resets.reset(), resets.rows()) == ("full scan", {"author": 1})
    assert [resets.reset() for _ in range(2)] == ["written", "nothing"]


def test_a_new_connection_whose_counts_are_those_of_the_one_before_is_another_one(make_known, path):
    known = make(make_known(path))
    resets = Resets(known)

    def numbers():
        return known.connection.connection.total_changes, known.value("PRAGMA data_version")

    before = numbers()
    known.connection.close()
    assert resets.reset() == "full scan"
    more = before[0] - numbers()[0]
    assert more > 0
    known.run(*[f"INSERT INTO session VALUES ('{number}', NULL)" for number in range(more)])
    assert numbers() == before
    assert (resets.reset(), resets.rows()) == ("written", {"session": more})


def test_a_mark_in_a_file_is_read_each_time(make_known, path):
    known = make(make_known(path))
    BACKEND.set_mark(known.connection, Mark.TEST, present=True)
    resets = Resets(known, allow_database=())
    assert (resets.reset(), resets.report.permitted_by) == ("nothing", "marked-as-test")
    known.run("UPDATE testdb_test SET inode = inode + 1")
    with pytest.raises(UnsafeDatabaseError):
        resets.resetter.reset()


def test_a_migration_that_was_recorded_is_refused_as_by_the_full_scan(shop):
    resets = Resets(shop)
    shop.run("INSERT INTO django_migrations (app, name) VALUES ('shop', '0002')")
    for resetter in (resets.resetter, shop.resetter()):
        with pytest.raises(BaselineError, match="migrations"):
            resetter.reset()


def test_the_guard_is_asked_each_time_and_what_it_refuses_leaves_no_transaction_open(shop):
    resets = Resets(shop)
    for statement in ("SELECT 1", "INSERT INTO author (name) VALUES ('a')"):
        shop.run(statement)
        rows = shop.count("author")
        BACKEND.set_mark(shop.connection, Mark.PROTECTED, present=True)
        with pytest.raises(UnsafeDatabaseError):
            resets.resetter.reset()
        BACKEND.set_mark(shop.connection, Mark.PROTECTED, present=False)
        assert (shop.connection.connection.in_transaction, shop.count("author")) == (False, rows)
        assert resets.reset() == "full scan"


def test_what_is_excluded_stays_and_does_not_count_as_written(shop):
    resets = Resets(shop, exclude=["main.session"])
    shop.run("INSERT INTO session VALUES ('k', NULL)", "INSERT INTO author (name) VALUES ('a')")
    resets.content["main.session"] = shop.content()["main.session"]
    assert (resets.reset(), resets.rows()) == ("written", {"author": 1})
    assert resets.reset() == "nothing"


def test_sequences_that_are_left_alone_stay(shop):
    resets = Resets(shop, reset_sequences=False)
    shop.run("INSERT INTO author (name) VALUES ('a')")
    resets.content["main.sqlite_sequence"] = shop.content()["main.sqlite_sequence"]
    assert (resets.reset(), resets.rows(), resets.sequences()) == ("written", {"author": 1}, set())
    assert resets.reset() == "nothing"


def test_foreign_keys_stay_as_they_were_and_prepared_statements_stay_valid(shop):
    resets = Resets(shop)
    for wanted in (0, 1):
        shop.run(f"PRAGMA foreign_keys = {wanted}", "INSERT INTO author (name) VALUES ('a')")
        assert resets.reset() == "written"
        assert shop.value("PRAGMA foreign_keys") == wanted


# Against the full scan ------------------------------------------------------------------------------------------------

WRITES = (
    "INSERT INTO author (name) VALUES (NULL)",
    "INSERT INTO author (name) VALUES (NULL), (NULL)",
    "INSERT INTO author (id, name) VALUES (-3, NULL)",
    "INSERT INTO author (id) VALUES (0)",
    "INSERT OR IGNORE INTO author (name) VALUES ('same')",
    "INSERT OR REPLACE INTO author (id, name) VALUES (1, 'same')",
    "INSERT OR FAIL INTO author (name) SELECT 'x' UNION ALL SELECT 'same' UNION ALL SELECT 'same'",
    "INSERT INTO book (author_id, part_of) SELECT id, (SELECT max(id) FROM book) FROM author",
    "INSERT INTO session VALUES (hex(randomblob(8)), x'00')",
    "INSERT OR IGNORE INTO word SELECT name FROM kind",
    "UPDATE author SET id = id + 10",
    "UPDATE kind SET name = name || '!'",
    "UPDATE kind SET data = x'01' WHERE id = 1",
    "UPDATE sqlite_sequence SET seq = 0",
    "DELETE FROM sqlite_sequence",
    "DELETE FROM sqlite_sequence WHERE name = 'author'",
    "DELETE FROM book",
    "DELETE FROM author",
    "DELETE FROM word",
    "DELETE FROM kind WHERE id = 2",
    "INSERT INTO kind (name) VALUES ('three')",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "RELEASE s",
    "VACUUM",
    "ANALYZE",
    "CREATE INDEX IF NOT EXISTS i ON author (name)",
    "DROP INDEX IF EXISTS i",
    "PRAGMA user_version = 3",
    "blob",
    "other",
)
ROUNDS = st.lists(st.lists(st.sampled_from(WRITES), max_size=6), min_size=1, max_size=6)


def write(database, other, statement):
    raw = database.connection.connection
    with suppress(sqlite3.Error):
        if statement == "blob":
            with raw.blobopen("kind", "data", 1) as blob:
                blob.write(b"\x07")
        elif statement == "other":
            other.execute("INSERT INTO author (name) VALUES ('other')")
        else:
            raw.execute(statement)


def in_scope(content):
    """Return what resets put back: not what ANALYZE keeps, and not the sequence of the migrations, which they leave alone."""
    sequences = [row for row in content.get("main.sqlite_sequence", ()) if "django_migrations" not in row]
    kept = {name: rows for name, rows in content.items() if not name.startswith("main.sqlite_stat")}
    return kept | {"main.sqlite_sequence": sequences}


def described(report):
    return {(str(table.name), table.rows, table.updated, table.inserted) for table in report.tables}, report.sequences


@settings(deadline=None)
@given(rounds=ROUNDS)
@example(rounds=[["INSERT OR IGNORE INTO author (name) VALUES ('same')"] * 2, [], ["blob"], []])
@example(rounds=[["UPDATE author SET id = id + 10"], ["other", "DELETE FROM sqlite_sequence"]])
def test_a_kept_resetter_does_the_same_as_a_full_scan(rounds):
    """The same is written to two databases; one has a kept resetter, the other one a new resetter each time."""
    twins = [KnownDatabase(f"file:twin_{name}?mode=memory&cache=shared", name) for name in ("kept", "scanned")]
    try:
        connections = [(make(twin), other_connection(twin.name)) for twin in twins]
        kept = twins[0].resetter()
        kept.reset()
        content = in_scope(twins[0].content())
        for written in rounds:
            reports = []
            for twin, other in connections:
                for statement in written:
                    write(twin, other, statement)
                for end in ("COMMIT", "ROLLBACK"):
                    with suppress(sqlite3.Error):
                        twin.connection.connection.execute(end)
                reports.append((kept if twin is twins[0] else twin.resetter()).reset())
                assert in_scope(twin.content()) == content
            assert described(reports[0]) == described(reports[1])
    finally:
        for twin in twins:
            twin.close()
        close_other_connections()
