"""What a reset to the baseline brings back on SQLite: every row with its rowid, every value with its storage class."""

from __future__ import annotations

import sqlite3

import pytest
from django.db import connections

from testdb_app.exceptions import ExclusionError, UnsupportedError

TABLES = (
    "CREATE TABLE author (id integer PRIMARY KEY AUTOINCREMENT, name text UNIQUE COLLATE NOCASE, up integer REFERENCES author)",
    "CREATE TABLE book (id integer PRIMARY KEY, author_id integer NOT NULL REFERENCES author ON DELETE CASCADE, title)",
    "ALTER TABLE book ADD COLUMN soft text AS (lower(title))",
    "CREATE TABLE shout (word text, upper text GENERATED ALWAYS AS (upper(word)) STORED, id integer PRIMARY KEY)",
    "CREATE TABLE note (body, weight real)",
    "CREATE TABLE code (a text COLLATE NOCASE, b, v, PRIMARY KEY (b, a DESC)) WITHOUT ROWID",
    "CREATE TABLE slug (name varchar(9) PRIMARY KEY, n numeric)",
    "CREATE TABLE untouched (id integer PRIMARY KEY)",
    "CREATE TABLE later (id integer PRIMARY KEY AUTOINCREMENT, book_id integer REFERENCES book)",
    "INSERT INTO author (name, up) VALUES ('Ada', NULL), ('Bob', 1), ('Cleo', 3)",
    "INSERT INTO book (id, author_id, title) VALUES (1, 1, 'One'), (2, 2, 'Two')",
    "INSERT INTO shout (word) VALUES ('hey'), ('ho')",
    "INSERT INTO note VALUES ('same', 0.1), ('same', 0.1), (NULL, NULL), (x'00ff', 1e300)",
    "INSERT INTO code VALUES ('a', 1, 1), ('a', '1', 2), ('b', x'31', 3)",
    "INSERT INTO slug VALUES ('x', 1), ('y', 2.5), (NULL, 3)",
    "INSERT INTO untouched VALUES (-5), (9223372036854775807)",
)
WRITES = {
    "rows are inserted": "INSERT INTO author (name) VALUES ('Dan'); INSERT INTO book (author_id) VALUES (4); "
    "INSERT INTO later (book_id) VALUES (3); INSERT INTO note VALUES ('same', 0.1)",
    "rows are updated": "UPDATE author SET name = 'Eve' WHERE id = 1; UPDATE note SET weight = 7 WHERE body IS NULL; "
    "UPDATE code SET v = 9; UPDATE shout SET word = 'ha' WHERE id = 1; UPDATE book SET title = 'x' WHERE id = 2",
    "rows are deleted": "DELETE FROM book WHERE id = 1; DELETE FROM note WHERE body IS NULL; DELETE FROM code WHERE b = 1",
    "one of two equal rows is deleted": "DELETE FROM note WHERE rowid = 1",
    "all rows are deleted": "DELETE FROM book; DELETE FROM author; DELETE FROM note; DELETE FROM code; DELETE FROM slug; "
    "DELETE FROM untouched; DELETE FROM sqlite_sequence",
    "a key is taken by another row": "DELETE FROM author WHERE name = 'Cleo'; INSERT INTO author (name) VALUES ('cleo')",
    "unique values are swapped": "UPDATE author SET name = 'x' WHERE id = 1; UPDATE author SET name = 'Ada' WHERE id = 2; "
    "UPDATE author SET name = 'Bob' WHERE id = 1",
    "primary keys are swapped": "PRAGMA foreign_keys = OFF; UPDATE author SET id = 99 WHERE id = 1; "
    "UPDATE author SET id = 1 WHERE id = 2; UPDATE author SET id = 2 WHERE id = 99; PRAGMA foreign_keys = ON",
    "only the case of a key changes": "UPDATE code SET a = 'A'; UPDATE author SET name = 'ADA' WHERE id = 1",
    "hidden rowids change": "UPDATE note SET rowid = rowid + 100; UPDATE slug SET rowid = -rowid",
    "a row comes back with another rowid": "DELETE FROM slug WHERE name = 'x'; INSERT INTO slug VALUES ('x', 1)",
    "a row of NULLs comes back with another rowid": "DELETE FROM note WHERE rowid = 3; INSERT INTO note (rowid) VALUES (33)",
    "rows refer to one that came": "INSERT INTO author (id, name) VALUES (9, 'Ida'); UPDATE book SET author_id = 9; "
    "UPDATE author SET up = 9; DELETE FROM author WHERE id = 2",
    "a sequence moves": "INSERT INTO author (name) VALUES ('Dan'); DELETE FROM author WHERE name = 'Dan'",
    "a sequence goes back": "UPDATE sqlite_sequence SET seq = 0",
    "a sequence is lost": "DELETE FROM sqlite_sequence",
    "a sequence has two rows": "INSERT INTO sqlite_sequence SELECT * FROM sqlite_sequence",
    "work is rolled back": "BEGIN; INSERT INTO author (name) VALUES ('Zoe'); DELETE FROM book; ROLLBACK",
    "nothing": "SELECT 1",
}


@pytest.mark.parametrize("writes", WRITES.values(), ids=WRITES.keys())
def test_everything_is_as_it_was(known, writes):
    known.run(*TABLES)
    known.capture()
    before, schema = known.content(), known.dump()
    warm = known.resetter()
    warm.reset()
    for resetter in (known.resetter(), warm, warm):
        known.run(*writes.split("; "))
        report = resetter.reset()
        assert report.target == "baseline"
        assert (known.content(), known.dump()) == (before, schema)
        assert known.value("PRAGMA foreign_keys") == 1
        assert known.rows("PRAGMA foreign_key_check") == []
        again = resetter.reset()
        assert (again.tables, again.sequences) == ((), ())


def test_the_report_counts_rows_that_went_that_changed_and_that_came_back(known):
    known.run(*TABLES)
    known.capture()
    known.run(
        "INSERT INTO author (name) VALUES ('Dan'), ('Eve')", "UPDATE author SET up = 2 WHERE id IN (1, 3)",
        "DELETE FROM note WHERE rowid > 1", "INSERT INTO later DEFAULT VALUES",
    )  # fmt: skip
    assert known.changes() == {"later": (1, 0, 0), "author": (2, 2, 0), "note": (0, 0, 3)}


def test_a_table_that_was_not_written_is_not_touched_and_keeps_its_triggers(known):
    known.run(
        *TABLES, "CREATE TABLE log (x)",
        "CREATE TRIGGER t AFTER INSERT ON untouched BEGIN INSERT INTO log VALUES (1); END",
    )  # fmt: skip
    known.capture()
    known.run("UPDATE author SET name = 'Eve' WHERE id = 1")
    resetter, sent = known.resetter(), []
    resetter.reset()
    known.run("UPDATE author SET name = 'Eve' WHERE id = 1")
    version, changes = known.value("PRAGMA schema_version"), known.connection.connection.total_changes
    with known.connection.execute_wrapper(lambda execute, sql, *rest: (sent.append(sql), execute(sql, *rest))[1]):
        resetter.reset()
    assert known.value("PRAGMA schema_version") == version
    written = [sql for sql in sent if sql.startswith(("DELETE", "INSERT", "UPDATE", "DROP", "CREATE"))]
    assert written
    assert not any('"main"."untouched"' in sql or '"main"."book"' in sql for sql in written)
    # One row out and in again, and the row of its sequence twice.
    assert known.connection.connection.total_changes - changes <= 4


VALUES = ["NULL", "0", "0.0", "-0.0", "1", "1.0", "'1'", "x'31'", "''", "x''", "'a'", "'A'", "'a' || char(0)", "'a '",
          "9007199254740993", "9007199254740992", "9007199254740992.0", "-9223372036854775807 - 1", "-9223372036854775808.0",
          "'1.0'", "9e999", "-9e999", "0.1", "0.1 + 1e-17", "CAST(x'ff' AS text)"]  # fmt: skip


@pytest.mark.parametrize(
    "definition",
    [
        "(id integer PRIMARY KEY, v)",
        "(id integer PRIMARY KEY, v text COLLATE NOCASE)",
        "(id integer PRIMARY KEY, v real)",
        "(id integer PRIMARY KEY, v numeric)",
        "(id integer PRIMARY KEY, v blob COLLATE RTRIM)",
        "(id integer, v)",
        "(v, id integer NOT NULL, PRIMARY KEY (id))",
        "(id integer, v, PRIMARY KEY (v)) WITHOUT ROWID",
        "(id integer, v COLLATE NOCASE, PRIMARY KEY (v, id)) WITHOUT ROWID",
        "(id integer PRIMARY KEY, v any) STRICT",
    ],
)
def test_a_value_is_told_from_every_other_of_another_class_sign_case_or_length(make_known, definition):
    known = make_known()
    known.run(f"CREATE TABLE t {definition}")
    raw, resetter = known.connection.connection, known.resetter(to="baseline")
    for kept in VALUES[1:] if "WITHOUT" in definition else VALUES:
        raw.execute("DELETE FROM t")
        # A parameter: the sign of a constant's zero is lost.
        raw.execute(f"INSERT INTO t (id, v) VALUES (1, {kept.replace('-0.0', ':zero')})", {"zero": -0.0})
        known.capture(replace=True)
        before = known.content()
        for value in VALUES[1:] if "WITHOUT" in definition else VALUES:
            raw.execute(f"UPDATE t SET v = {value.replace('-0.0', ':zero')}", {"zero": -0.0})
            is_same = known.content() == before
            report = resetter.reset()
            assert known.content() == before, (kept, value)
            assert bool(report.tables) == (not is_same), (kept, value)


def test_a_zero_whose_sign_is_the_same_stays_where_other_rows_are_restored(known):
    known.run("CREATE TABLE t (v, w real)")
    known.connection.connection.executemany("INSERT INTO t VALUES (?, ?)", [(0.0, 0.0), (-0.0, -0.0), (1, 1)])
    known.capture()
    before = known.content()
    assert known.changes() == {}
    known.run("DELETE FROM t WHERE v = 1")
    known.restore()
    assert known.content() == before


def test_rowids_survive_a_vacuum(known):
    known.run("CREATE TABLE t (v)", "INSERT INTO t VALUES (1), (2), (3)", "DELETE FROM t WHERE v = 2")
    known.capture()
    before = known.content()
    known.run("VACUUM")
    known.restore()
    assert known.content() == before


@pytest.mark.parametrize(
    "columns", ["rowid, oid", "_rowid_, OID", "RowID, x", "id integer PRIMARY KEY, rowid, oid, _rowid_"]
)
def test_columns_named_as_the_rowid_hide_nothing(known, columns):
    width = columns.count(",") + 1
    known.run(
        f"CREATE TABLE t ({columns})",
        *(f"INSERT INTO t VALUES ({', '.join([str(n)] * width)})" for n in (7, 8, 9)),
    )
    known.capture()
    before = known.rows("SELECT * FROM t")
    known.run("DELETE FROM t WHERE rowid = 8", "UPDATE t SET oid = 70 WHERE oid = (SELECT min(oid) FROM t)")
    known.restore()
    assert known.rows("SELECT * FROM t") == before


def test_a_rowid_that_columns_hide_by_all_its_names_is_refused(known):
    known.run("CREATE TABLE t (rowid, oid, _rowid_)", "INSERT INTO t VALUES (1, 2, 3)")
    with pytest.raises(UnsupportedError, match=r"main\.t \(its columns hide the rowid"):
        known.capture()


def test_triggers_of_any_event_do_not_fire_and_come_back_as_they_were(known):
    known.run(
        "CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT, x)", "CREATE TABLE log (id integer PRIMARY KEY, what)"
    )
    for when in ("BEFORE", "AFTER"):
        for event in ("INSERT", "UPDATE", "DELETE"):
            for temporary in ("", "TEMP"):
                known.run(
                    f"CREATE {temporary} TRIGGER {temporary}{when}_{event} {when} {event} ON main.a BEGIN "
                    f"INSERT INTO log (what) VALUES ('{event}; {when}'); END"
                    if temporary
                    else f"CREATE TRIGGER {when}_{event} {when} {event} ON a BEGIN "
                    f"INSERT INTO log (what) VALUES ('{event}; {when}'); END"
                )
    known.run("INSERT INTO a (x) VALUES (1), (2), (3)")
    known.capture()
    before, schema = known.content(), known.dump()
    known.run("INSERT INTO a (x) VALUES (4)", "UPDATE a SET x = 7 WHERE id = 1", "DELETE FROM a WHERE id = 2")
    assert known.changes() == {"a": (1, 1, 1), "log": (12, 0, 0)}
    assert (known.content(), known.dump()) == (before, schema)
    known.run("INSERT INTO a (x) VALUES (4)")
    assert known.count("log") == 16


@pytest.mark.parametrize("kept", ["('a', 5)", "('a', 0)", "('a', -3)", None])
def test_a_sequence_goes_back_to_the_captured_value_also_below_the_greatest_rowid(known, kept):
    known.run("CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT, x)", "INSERT INTO a VALUES (7, 1), (8, 2)")
    known.run("DELETE FROM sqlite_sequence", *([f"INSERT INTO sqlite_sequence VALUES {kept}"] if kept else []))
    known.capture()
    before = known.rows("SELECT name, seq FROM sqlite_sequence")
    writes = [
        "DELETE FROM a WHERE id = 8",
        "UPDATE a SET x = 3",
        "INSERT INTO a (x) VALUES (1)",
        "DELETE FROM sqlite_sequence",
    ]
    for write in writes:
        known.run(write)
        known.restore()
        assert known.rows("SELECT name, seq FROM sqlite_sequence") == before, write
        assert known.rows("SELECT * FROM a") == [(7, 1), (8, 2)]


def test_sequences_that_are_not_to_be_reset_stay_where_they_are(known):
    known.run("CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT)", "INSERT INTO a VALUES (7)")
    known.capture()
    known.run("DELETE FROM a", "UPDATE sqlite_sequence SET seq = 3")
    known.restore(reset_sequences=False)
    assert (known.rows("SELECT * FROM a"), known.rows("SELECT name, seq FROM sqlite_sequence")) == ([(7,)], [("a", 3)])


FTS = {"fts5": "fts5(body, n UNINDEXED)", "fts5 bare": "fts5(body, n, columnsize=0, detail=none)", "fts4": "fts4(body, n)",
       "fts3": "fts3(body, n)"}  # fmt: skip


@pytest.mark.parametrize("module", FTS.values(), ids=FTS.keys())
def test_the_rows_of_a_full_text_table_come_back_with_their_index(known, module):
    known.run(
        f"CREATE VIRTUAL TABLE ft USING {module}",
        "INSERT INTO ft (rowid, body, n) VALUES (3, 'hello world', 1), (5, 'goodbye', 1.5), (8, NULL, x'00')",
    )
    known.capture()
    before = known.content()
    known.run(
        "DELETE FROM ft WHERE rowid = 3", "INSERT INTO ft (rowid, body) VALUES (9, 'hello')",
        "UPDATE ft SET body = 'hello' WHERE rowid = 5",
    )  # fmt: skip
    assert known.changes() == {"ft": (1, 1, 1)}
    assert known.content() == before
    assert known.rows("SELECT rowid FROM ft WHERE ft MATCH 'hello'") == [(3,)]
    known.run("INSERT INTO ft (ft) VALUES ('integrity-check')")
    assert known.changes() == {}


def test_the_rows_of_an_rtree_come_back(known):
    known.run("CREATE VIRTUAL TABLE rt USING rtree(id, a, b, +what)")
    known.run("INSERT INTO rt VALUES (1, 0.1, 1, 'x'), (3, 1, 2, NULL)")
    known.connection.connection.execute("INSERT INTO rt VALUES (2, ?, 2, 1.0)", [-0.0])
    known.capture()
    before = known.content()
    known.run("UPDATE rt SET a = 0.0 WHERE id = 2")
    assert known.changes() == ({"rt": (0, 1, 0)} if "-0.0" in str(before) else {})
    known.run("DELETE FROM rt WHERE id = 1", "UPDATE rt SET b = 9 WHERE id = 3", "INSERT INTO rt VALUES (4, 0, 0, 0)")
    known.restore()
    assert known.content() == before
    assert known.changes() == {}


@pytest.mark.parametrize(
    "module",
    [
        "fts5(body, content='doc', content_rowid='id')",
        "fts5(body, content='')",
        "fts4(body, languageid='lang')",
    ],
)
def test_a_virtual_table_with_rows_that_it_does_not_give_back_is_refused_by_name_and_an_empty_one_is_not(known, module):
    known.run("CREATE TABLE doc (id integer PRIMARY KEY, body)")
    known.run(f"CREATE VIRTUAL TABLE ft USING {module}")
    known.capture()
    put = "(rowid, body) VALUES (1, 'hello')"
    known.run(f"INSERT INTO ft {put}")
    known.restore()
    assert known.rows("SELECT * FROM ft") == []
    known.run(f"INSERT INTO ft {put}")
    with pytest.raises(UnsupportedError, match=r"main\.ft \(a virtual table of"):
        known.capture(replace=True)
    known.capture(replace=True, exclude=["*.ft"])


def test_tables_of_an_attached_memory_database_are_restored_too(known):
    known.run("ATTACH ':memory:' AS aux", *TABLES)
    known.run(
        "CREATE TABLE aux.note (id integer PRIMARY KEY AUTOINCREMENT, x)", "INSERT INTO aux.note (x) VALUES (1), (2)",
        "CREATE TRIGGER aux.t AFTER DELETE ON note BEGIN SELECT RAISE(ABORT, 'no'); END",
    )  # fmt: skip
    known.capture()
    before, schema = known.content(), known.dump()
    known.run("UPDATE aux.note SET x = 2", "DELETE FROM note", "INSERT INTO aux.note (x) VALUES (7)")
    known.restore()
    assert (known.content(), known.dump()) == (before, schema)


def test_checks_and_conflict_clauses_of_the_table_do_not_stand_in_the_way(known):
    known.run(
        "CREATE TABLE t (id integer PRIMARY KEY ON CONFLICT IGNORE, v integer UNIQUE ON CONFLICT REPLACE CHECK (v < 10))",
        "PRAGMA ignore_check_constraints = ON", "INSERT INTO t VALUES (1, 50), (2, 5)",
        "PRAGMA ignore_check_constraints = OFF",
    )  # fmt: skip
    known.capture()
    known.run("DELETE FROM t", "INSERT INTO t VALUES (1, 5), (3, 4)")
    known.restore()
    assert known.rows("SELECT * FROM t") == [(1, 50), (2, 5)]
    assert known.value("PRAGMA ignore_check_constraints") == 0


@pytest.mark.parametrize(
    "name", ['quo"te', "per%cent %s", "do.t", "new\nline", "it's", "[date]", "😀", "c", "t", "k", "rowid"]
)
def test_any_name_of_a_table_and_of_its_columns_works(known, name):
    quoted, second = ('"' + text.replace('"', '""') + '"' for text in (name, f"{name}2"))
    known.run(
        f"CREATE TABLE {quoted} ({quoted} text PRIMARY KEY, other)",
        f"CREATE TABLE {second} ({quoted} text PRIMARY KEY, other REFERENCES {quoted}) WITHOUT ROWID",
        f"INSERT INTO {quoted} VALUES ('a', 1)",
        f"INSERT INTO {second} VALUES ('a', 'a')",
    )
    known.capture()
    known.run(f"UPDATE {quoted} SET other = 3", f"DELETE FROM {second}")
    assert known.changes() == {name: (0, 1, 0), f"{name}2": (0, 0, 1)}
    assert known.rows(f"SELECT quote({quoted}) AS a, other AS b FROM {quoted}") == [("'a'", 1)]
    assert known.rows(f"SELECT quote({quoted}) AS a, other AS b FROM {second}") == [("'a'", "a")]
    assert known.changes() == {}


def test_a_table_of_1999_columns_and_600_tables_are_restored(make_known):
    known = make_known()
    known.run(
        "BEGIN", f"CREATE TABLE wide ({', '.join(f'x{n}' for n in range(1999))})", "INSERT INTO wide (x1) VALUES (1)"
    )
    for number in range(600):
        known.run(f"CREATE TABLE t{number} (id integer PRIMARY KEY, x)", f"INSERT INTO t{number} VALUES (1, 1)")
    known.run("COMMIT")
    known.capture()
    before = known.content()
    known.run("UPDATE wide SET x1998 = 3", *(f"UPDATE t{number} SET x = 2" for number in range(600)))
    assert len(known.changes()) == 601
    assert known.content() == before


def test_the_printed_sql_alone_restores_the_database(make_known, path):
    known = make_known(path)
    known.run(*TABLES, "CREATE TRIGGER t BEFORE DELETE ON book BEGIN SELECT RAISE(ABORT, 'no'); END")
    known.capture()
    before, schema = known.content(), known.dump()
    known.run("UPDATE author SET name = name || '!'", "INSERT INTO book (author_id) VALUES (1)", "DELETE FROM note")
    sql = known.resetter().plan().sql
    shell = sqlite3.connect(path)
    shell.executescript(";\n".join(sql))
    shell.close()
    assert (known.content(), known.dump()) == (before, schema)


def test_rows_that_stay_may_refer_to_rows_of_the_baseline_and_to_no_others(known):
    known.run(
        "CREATE TABLE kind (id integer PRIMARY KEY, code text UNIQUE COLLATE NOCASE, n integer UNIQUE)",
        "CREATE TABLE item (id integer PRIMARY KEY, a integer REFERENCES kind, b REFERENCES kind (code), c text REFERENCES kind (n))",
        "INSERT INTO kind VALUES (1, 'x', 10), (2, NULL, NULL)",
    )
    known.capture(exclude=["*.item"])
    known.run("INSERT INTO item VALUES (1, 1, 'X', '10'), (2, 2, NULL, NULL)", "UPDATE kind SET n = NULL WHERE id = 2")
    known.run("INSERT INTO kind VALUES (3, 'y', 30)")
    assert known.changes() == {"kind": (1, 0, 0)}
    for column, value in (("a", "3"), ("b", "'Y'"), ("c", "'30'")):
        known.run("INSERT INTO kind VALUES (3, 'y', 30)", f"INSERT INTO item (id, {column}) VALUES (3, {value})")
        with pytest.raises(ExclusionError, match=rf"item\({column}\) → main\.kind\(\w+\): 1 row"):
            known.restore()
        assert (known.count("kind"), known.count("item")) == (3, 3)
        known.run("DELETE FROM item WHERE id = 3")
        assert known.changes() == {"kind": (1, 0, 0)}


def test_references_to_nothing_that_the_baseline_has_do_not_hinder(known):
    known.run(
        "CREATE TABLE a (id integer PRIMARY KEY)", "CREATE TABLE b (id integer PRIMARY KEY, a_id integer REFERENCES a)",
        "PRAGMA foreign_keys = OFF", "INSERT INTO b VALUES (1, 99)", "PRAGMA foreign_keys = ON",
    )  # fmt: skip
    known.capture()
    known.run("INSERT INTO a VALUES (1)")
    assert known.changes() == {"a": (1, 0, 0)}
    assert known.rows("SELECT * FROM b") == [(1, 99)]


def test_only_what_is_included_is_restored(known):
    known.run(*TABLES)
    known.capture()
    known.run("DELETE FROM note", "DELETE FROM slug", "INSERT INTO later DEFAULT VALUES")
    assert known.changes(include=["*.slug"]) == {"slug": (0, 0, 3)}
    assert (known.count("note"), known.count("later")) == (0, 1)


def test_to_empty_takes_the_baselines_rows_too_and_leaves_the_baseline(known):
    known.run(*TABLES)
    known.capture()
    before = known.content()
    assert known.restore(to="empty").target == "empty"
    assert known.count("author") == 0
    known.restore()
    assert known.content() == before
    assert connections[known.alias] is known.connection
