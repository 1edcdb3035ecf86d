"""Where the connection really leads, as the live connection says, and the marks inside the file."""

from __future__ import annotations

import os
import shutil

import pytest

from testdb_app.backends.base import Mark
from testdb_app.backends.sqlite.backend import BACKEND


def identify(database):
    return BACKEND.identify(database.connection)


SPELLINGS = {
    "a string": str,
    "a Path": lambda path: path,
    "a relative path": os.path.relpath,
    "dots": lambda path: f"{path.parent}/../{path.parent.name}/{path.name}",
    "a URI": lambda path: f"file:{path}?cache=private",
    "a URI with an authority": lambda path: f"file://localhost{path}#fragment",
    "an escaped URI": lambda path: f"file://{path.parent}/%73hop.sqlite3",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=list(SPELLINGS))
def test_every_spelling_of_the_same_file_is_the_same_name(make_database, path, spelling):
    identity = identify(make_database(spelling(path)))
    assert path.exists()
    assert identity.name == identity.configured == str(spelling(path))
    assert not identity.names_differ
    assert not identity.in_memory
    assert not identity.is_read_only
    assert identity.server.endswith(f"file {path}")


def test_a_symbolic_link_is_the_same_file(make_database, path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    identity = identify(make_database(tmp_path / "link"))
    assert identity.name == str(tmp_path / "link")
    assert not identity.names_differ


@pytest.mark.parametrize(
    "name", [":memory:", "file:memorydb_default?mode=memory&cache=shared", "file::memory:", "file:"]
)
def test_an_in_memory_database_is_in_memory(make_database, name):
    identity = identify(make_database(name))
    assert identity.in_memory
    assert (identity.name, identity.names_differ, identity.is_read_only) == (name, False, False)


def test_settings_that_were_changed_under_a_live_connection_differ_from_it(make_database, path):
    database = make_database(path)
    database.connection.settings_dict["NAME"] = f"{path.parent}/test_shop.sqlite3"
    assert (identify(database).name, identify(database).names_differ) == (str(path), True)
    database.connection.settings_dict["NAME"] = ":memory:"
    assert (identify(database).in_memory, identify(database).names_differ) == (False, True)
    database.connection.settings_dict["NAME"] = str(path)
    path.rename(f"{path}.moved")
    assert identify(database).server.endswith(f"file {path}")


def test_a_memory_connection_is_not_taken_for_the_file_in_the_settings(make_database, path):
    database = make_database(path, OPTIONS={"database": ":memory:"})
    identity = identify(database)
    assert (identity.in_memory, identity.name, identity.names_differ) == (True, ":memory:", True)


@pytest.mark.parametrize("options", ["mode=ro", "immutable=1", "mode=rw&immutable=yes"])
def test_a_file_opened_for_reading_is_read_only(make_database, path, options):
    make_database(path).run("CREATE TABLE a (id)")
    identity = identify(make_database(f"file:{path}?{options}"))
    assert identity.is_read_only
    assert not identity.names_differ


def test_query_only_is_read_only_and_can_still_be_looked_at(file):
    file.run("CREATE TABLE a (id)", "INSERT INTO a VALUES (1)", "PRAGMA query_only = ON")
    assert identify(file).is_read_only
    assert len(BACKEND.read_state(file.connection, lock_timeout=5).sizes) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write to any file")
def test_a_file_without_write_permission_is_read_only(make_database, path):
    make_database(path).run("CREATE TABLE a (id)")
    path.chmod(0o444)
    assert identify(make_database(path)).is_read_only


@pytest.mark.parametrize("mark", list(Mark))
def test_a_mark_is_put_and_taken_twice_as_once_and_is_no_table_of_the_user(database, mark):
    database.run("CREATE TABLE a (id)")
    before = database.dump()
    for _ in range(2):
        BACKEND.set_mark(database.connection, mark, present=True)
    assert identify(database).marks == {mark}
    assert [str(table.name) for table in database.schema().tables] == ["main.a"]
    assert [(left.name.name, left.reason) for left in database.schema().left_out] == [
        (f"testdb_{mark}", "a mark of testdb_app")
    ]
    database.reset()
    assert identify(database).marks == {mark}
    for _ in range(2):
        BACKEND.set_mark(database.connection, mark, present=False)
    assert identify(database).marks == frozenset()
    assert database.dump() == before


def test_a_copy_is_protected_too_but_no_test_database(make_database, path, tmp_path):
    database = make_database(path)
    for mark in Mark:
        BACKEND.set_mark(database.connection, mark, present=True)
    assert identify(database).marks == set(Mark)
    shutil.copy(path, tmp_path / "copy")
    database.run(f"VACUUM INTO '{tmp_path / 'vacuumed'}'")
    for copy in ("copy", "vacuumed"):
        assert identify(make_database(tmp_path / copy)).marks == {Mark.PROTECTED}
    assert identify(make_database(os.path.relpath(path))).marks == set(Mark)


def test_the_mark_of_a_memory_database_does_not_travel_into_a_file(make_database, tmp_path):
    memory = make_database()
    BACKEND.set_mark(memory.connection, Mark.TEST, present=True)
    memory.run(f"VACUUM INTO '{tmp_path / 'vacuumed'}'")
    assert identify(make_database(tmp_path / "vacuumed")).marks == frozenset()


def test_a_mark_set_within_a_transaction_goes_with_its_rollback(database):
    database.run("BEGIN")
    BACKEND.set_mark(database.connection, Mark.PROTECTED, present=True)
    assert identify(database).marks == {Mark.PROTECTED}
    database.run("ROLLBACK")
    assert identify(database).marks == frozenset()


def test_a_temporary_table_or_view_is_no_mark(database):
    database.run("CREATE TEMP TABLE testdb_test (path)", "CREATE VIEW testdb_protected AS SELECT 1")
    assert identify(database).marks == frozenset()
