"""Virtual tables: what stores their rows is told apart, and every kind of full-text index is emptied."""

from __future__ import annotations

import pytest

from testdb_app.backends.sqlite.backend import BACKEND
from testdb_app.backends.sqlite.catalog import describe, is_part
from testdb_app.schema import QualifiedName, TableKind

FTS5 = {
    "plain": "",
    "external": ", content='doc', content_rowid='id'",
    "contentless": ", content=''",
    "contentless without sizes": ", content='', columnsize=0",
    "abbreviated": ", cont=''",
    "without sizes": ", columnsize=0",
    "no detail": ", detail=none",
}
FTS4 = {
    "plain": "",
    "external": ", content=doc",
    "contentless": ', content=""',
    "no sizes": ", matchinfo=fts3",
    "tokenizer": ", tokenize=unicode61 'tokenchars==content='",
}


def matches(database, table="ft"):
    return database.rows(f"SELECT rowid FROM {table} WHERE {table} MATCH 'hello'")


def reasons(database):
    return {left.name.name: left.reason for left in database.schema().left_out}


@pytest.mark.parametrize(
    ("module", "options"),
    [("fts5", FTS5[kind]) for kind in FTS5] + [("fts4", FTS4[kind]) for kind in FTS4] + [("fts3", "")],
    ids=[f"fts5 {kind}" for kind in FTS5] + [f"fts4 {kind}" for kind in FTS4] + ["fts3"],
)
def test_a_full_text_index_of_any_kind_is_emptied_to_the_last_word(database, module, options):
    database.run(
        "CREATE TABLE doc (id integer PRIMARY KEY, body text)",
        f"CREATE VIRTUAL TABLE ft USING {module}(body{options})",
        "INSERT INTO doc VALUES (1, 'hello world')",
        "INSERT INTO ft (rowid, body) VALUES (1, 'hello world')",
    )
    assert matches(database) == [(1,)]
    schema = database.schema()
    assert [(str(table.name), table.kind) for table in schema.tables] == [
        ("main.doc", TableKind.ORDINARY),
        ("main.ft", TableKind.VIRTUAL),
    ]
    database.run("DELETE FROM doc")
    # The index alone holds rows now, which SELECT shows for none but the plain kinds.
    assert set(BACKEND.read_state(database.connection, lock_timeout=5).sizes) == {QualifiedName("main", "ft")}
    assert BACKEND.count_rows(database.connection, [QualifiedName("main", "ft")]) == {QualifiedName("main", "ft"): 1}
    before = database.dump()
    database.reset()
    assert BACKEND.read_state(database.connection, lock_timeout=5).sizes == {}
    assert matches(database) == []
    assert database.dump() == before
    database.run("INSERT INTO doc VALUES (1, 'hello')", "INSERT INTO ft (rowid, body) VALUES (1, 'hello')")
    assert matches(database) == [(1,)]
    if module == "fts5":
        database.run("INSERT INTO ft (ft) VALUES ('integrity-check')")


def test_an_index_kept_by_triggers_of_its_content_table_is_emptied_with_it(database):
    database.run(
        "CREATE TABLE doc (id integer PRIMARY KEY, body text)",
        "CREATE VIRTUAL TABLE ft USING fts5(body, content='doc', content_rowid='id')",
        "CREATE TRIGGER i AFTER INSERT ON doc BEGIN INSERT INTO ft (rowid, body) VALUES (new.id, new.body); END",
        "CREATE TRIGGER d AFTER DELETE ON doc BEGIN "
        "INSERT INTO ft (ft, rowid, body) VALUES ('delete', old.id, old.body); END",
        "INSERT INTO doc VALUES (1, 'hello'), (2, 'hello')",
    )
    before = database.dump()
    assert database.reset() == {"doc": 2}
    assert matches(database) == []
    assert database.dump() == before
    database.run("INSERT INTO doc VALUES (1, 'hello')")
    assert matches(database) == [(1,)]


def test_an_index_written_within_the_same_transaction_is_seen_and_emptied(database):
    database.run("CREATE VIRTUAL TABLE ft USING fts5(body, content='', columnsize=0)", "BEGIN")
    database.run("INSERT INTO ft (rowid, body) VALUES (1, 'hello')")
    assert set(BACKEND.read_state(database.connection, lock_timeout=5).sizes) == {QualifiedName("main", "ft")}
    database.reset(within_transaction=True)
    database.run("COMMIT")
    assert matches(database) == []


def test_an_rtree_is_emptied_and_its_storage_left_out(database):
    database.run("CREATE VIRTUAL TABLE rt USING rtree(id, a, b)", "INSERT INTO rt VALUES (1, 0, 1), (2, 1, 2)")
    assert reasons(database) == dict.fromkeys(("rt_node", "rt_parent", "rt_rowid"), "storage of a virtual table")
    assert database.reset() == {"rt": 2}
    assert database.rows("SELECT * FROM rt") == []


def test_virtual_tables_with_quotes_in_an_attached_database_are_emptied(database):
    database.run(
        'ATTACH \':memory:\' AS "at""t"',
        'CREATE VIRTUAL TABLE "at""t"."f""t" USING \'FTS5\'(body, content="")',
        'INSERT INTO "at""t"."f""t" (rowid, body) VALUES (1, \'hello\')',
    )
    assert set(BACKEND.read_state(database.connection, lock_timeout=5).sizes) == {QualifiedName('at"t', 'f"t')}
    database.reset()
    assert BACKEND.read_state(database.connection, lock_timeout=5).sizes == {}


def test_tables_that_show_others_are_left_out(database):
    database.run(
        "CREATE TABLE a (id)",
        "CREATE VIRTUAL TABLE ft USING fts5(body)",
        "CREATE VIRTUAL TABLE words USING fts5vocab(ft, row)",
        "CREATE VIRTUAL TABLE pages USING dbstat",
    )
    assert reasons(database)["words"] == "a virtual table that shows others (fts5vocab)"
    assert reasons(database)["pages"] == "a virtual table that shows others (dbstat)"
    assert database.reset() == {}


def make_unreadable(database, module, shadow):
    """Enter a virtual table of a module that is not loaded, and a table of its own, as another process may have."""
    database.run(
        f"CREATE TABLE {shadow} (id)",
        f"INSERT INTO {shadow} VALUES (1)",
        "PRAGMA writable_schema = ON",
        f"INSERT INTO sqlite_master VALUES ('table', 'vt', 'vt', 0, 'CREATE VIRTUAL TABLE vt USING {module}(a)')",
        "PRAGMA writable_schema = OFF",
    )
    database.run(f"PRAGMA schema_version = {database.value('PRAGMA schema_version') + 1}")


def test_a_table_of_a_module_that_is_not_loaded_is_left_out_with_what_it_may_store_and_the_rest_is_reset(database):
    database.run("CREATE TABLE a (id integer PRIMARY KEY REFERENCES a)", "CREATE TABLE vtab (id)")
    make_unreadable(database, "vec0", "vt_chunks")
    database.run("INSERT INTO a VALUES (1)", "INSERT INTO vtab VALUES (1)")
    assert reasons(database) == {
        "vt": "a virtual table that cannot be read: no such module: vec0",
        "vt_chunks": "storage of a virtual table",
    }
    assert database.reset() == {"a": 1, "vtab": 1}
    assert database.count("vt_chunks") == 1


@pytest.mark.parametrize("module", ["fts3", "fts4", "fts5", "rtree"])
def test_storage_is_left_out_also_where_sqlite_does_not_tell_it(database, monkeypatch, module):
    # SQLite before 3.37 has no pragma_table_list.
    database.run(f"CREATE VIRTUAL TABLE vt USING {module}(a, b, c)", "CREATE TABLE vt_extra (id)")
    told = reasons(database)
    assert len(told) >= 3
    monkeypatch.setattr(database.connection.Database, "sqlite_version_info", (3, 31, 0))
    assert reasons(database) == told
    assert [table.name.name for table in database.schema().tables] == ["vt", "vt_extra"]


def test_storage_is_told_by_the_end_of_the_name():
    name = QualifiedName("main", "Docs")
    ft = describe(name, "CREATE VIRTUAL TABLE Docs USING fts5(a)", {"docs", "docs_data", "docs_idx", "docs_content"})
    assert [end for end in ("data", "IDX", "config", "tag") if is_part(f"docs_{end}", ft, is_loaded=True)] == [
        "data",
        "IDX",
    ]
    assert not is_part("other_data", ft, is_loaded=True)
    other = describe(name, "CREATE VIRTUAL TABLE Docs USING vec0(a)", {"docs", "docs_chunks"})
    assert not is_part("docs_chunks", other, is_loaded=True)
    assert is_part("docs_chunks", other, is_loaded=False)
