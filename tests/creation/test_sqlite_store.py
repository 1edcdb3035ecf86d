"""The folder of SQLite's templates: what is committed, copied, locked, collected and refused."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from testdb_app.creation.key import Manifest
from testdb_app.creation.sqlite_store import SQLiteStore
from testdb_app.creation.store import PresentDatabase
from testdb_app.creation.template import Template
from tests.scratch import is_postgresql

pytestmark = pytest.mark.skipif(is_postgresql(), reason="run with the tests on SQLite")

MakeStore = Callable[..., SQLiteStore]

SHOP = """
CREATE TABLE shelf (id integer NOT NULL PRIMARY KEY AUTOINCREMENT, name text, made datetime);
INSERT INTO shelf (name, made) VALUES ('one', '2001-01-01 00:00:00'), ('zwölf', NULL);
DELETE FROM shelf WHERE name = 'zwölf';
CREATE VIEW shelves AS SELECT name FROM shelf;
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of the templates."""
    with override_settings(TESTDB={"TEMPLATE_CACHE": tmp_path / "cache"}):
        yield tmp_path / "cache"


@pytest.fixture
def make_store(folder: Path, django_db_blocker: Any) -> Iterator[MakeStore]:
    """Return a function that opens the store of a new alias, whose test database has the given name."""
    aliases: list[str] = []
    stores: list[SQLiteStore] = []

    def make(name: object = None, alias: str = "shop", **changes: Any) -> SQLiteStore:
        if alias not in aliases:
            aliases.append(alias)
            default = connections.settings["default"]
            connections.settings[alias] = {
                **default,
                "OPTIONS": {},
                "NAME": folder.parent / "real.sqlite3",
                **changes,
                "ENGINE": "django.db.backends.sqlite3",
                "TEST": {**default["TEST"], "NAME": name},
            }
        stores.append(SQLiteStore(connections[alias]))
        assert stores[-1].find_obstacle() is None
        with stores[-1].lock("makes the folder", lambda: None):
            return stores[-1]

    with django_db_blocker.unblock():
        yield make
        for store in stores:
            store.close()
        for alias in aliases:
            connection: Any = connections[alias]
            if connection.connection is not None:
                connection.connection.close()
            del connections[alias], connections.settings[alias]


def new_template(store: SQLiteStore, key: str = "0123456789abcdef" * 2, **changes: Any) -> Template:
    now = time.time()
    return replace(
        Template(
            name=store.name_template(key), alias=store.connection.alias, project="/project", static="5" * 32, parts={},
            key=key, manifest=Manifest(), used_parts={}, made=now, used=now, seconds=0.5,
        ),
        **changes,
    )  # fmt: skip


def build(store: SQLiteStore, statements: str = SHOP, **changes: Any) -> Template:
    """Commit a template that these statements make, in the way that Django makes the test database."""
    template = new_template(store, **changes)
    scratch = store.begin(template)
    connection: Any = store.connection
    connection.settings_dict["NAME"] = scratch
    with connection.cursor() as cursor:
        for statement in statements.split(";"):
            cursor.execute(statement)
    connection.close()
    store.commit(scratch, template)
    return template


def clone(store: SQLiteStore, template: Template, name: Path | str, **options: Any) -> None:
    given = {"spare": None, "verbosity": 0, "replaces": True, **options}
    store.clone(store.connection.creation, template, str(name), **given)


def dump(connection: sqlite3.Connection) -> tuple[Any, ...]:
    """All that a database keeps but our own tables."""
    pragmas = ("encoding", "page_size", "auto_vacuum", "user_version", "application_id", "freelist_count")
    return (
        [line for line in connection.iterdump() if "testdb_" not in line],
        [connection.execute(f"PRAGMA {name}").fetchone() for name in pragmas],
        connection.execute("SELECT * FROM sqlite_sequence").fetchall(),
    )


def dump_file(path: Path | str) -> tuple[Any, ...]:
    with closing(sqlite3.connect(path)) as connection:
        return dump(connection)


@pytest.mark.parametrize("name", [None, "of_tests.sqlite3", "file:of%20tests.sqlite3?cache=shared"])
@pytest.mark.parametrize("command", ["", "PRAGMA page_size = 8192; PRAGMA auto_vacuum = 1; PRAGMA encoding = 'UTF-16'"])
def test_a_clone_has_all_that_the_built_database_had(
    make_store: MakeStore, tmp_path: Path, name: str | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = make_store(name, OPTIONS={"init_command": command} if command else {})
    statements = f"PRAGMA user_version = 7; PRAGMA application_id = 9; {SHOP}"
    with closing(sqlite3.connect(tmp_path / "stock.sqlite3", isolation_level=None)) as stock:
        for statement in f"{command}; {statements}".split(";"):
            stock.execute(statement)
        expected = dump(stock)
    template = build(store, statements)
    clone(store, template, name or "file:memorydb_shop?mode=memory&cache=shared")
    if name is None:
        assert dump(store.connection.connection) == expected
        assert not list(tmp_path.glob("*memory*"))
    else:
        assert dump_file(tmp_path / ("of tests.sqlite3" if name.startswith("file:") else name)) == expected
    assert dump_file(template.name) == expected


def test_the_journal_mode_is_the_one_that_the_migrations_chose(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store("of_tests.sqlite3")
    template = build(store, f"PRAGMA journal_mode = WAL; {SHOP}")
    clone(store, template, tmp_path / "wal.sqlite3")
    with closing(sqlite3.connect(tmp_path / "wal.sqlite3")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("SELECT name FROM shelf").fetchall() == [("one",)]
    assert [path.name for path in Path(template.name).parent.glob("*-*")] == [], "files of WAL beside the template"


@pytest.mark.parametrize("end", ["ha?=x#y%41 ü.sqlite3", "file:x.sqlite3", "o'Brien;--.db"])
def test_a_plain_name_may_hold_any_character(make_store: MakeStore, tmp_path: Path, end: str) -> None:
    store = make_store(tmp_path / end)
    clone(store, build(store), tmp_path / end)
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == [end]
    assert store.find_present(str(tmp_path / end)) is not None


def test_an_alias_may_hold_any_character(make_store: MakeStore, folder: Path) -> None:
    store = make_store(alias="../a.b/ü\n")
    template = build(store)
    assert [found.alias for found in store.list_templates()] == ["../a.b/ü\n"]
    assert Path(template.name).parent == folder


def test_a_clone_is_known_by_the_file_itself(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store("of_tests.sqlite3")
    template, path, other = build(store), tmp_path / "t.sqlite3", tmp_path / "other.sqlite3"
    assert store.find_present(str(path)) is None
    clone(store, template, path)
    present = store.find_present(str(path))
    assert present is not None
    assert present.is_clone_of(template)
    assert not present.is_clone_of(replace(template, made=template.made + 1))
    assert store.find_present(path.as_uri()) == present
    shutil.copy(path, other)
    assert store.find_present(str(other)) == PresentDatabase(), "a copy is somebody else's"
    path.unlink()
    other.rename(path)
    assert store.find_present(str(path)) == PresentDatabase(), "in its place, too"
    path.write_text("no database at all, and longer than a header " * 9)
    assert store.find_present(str(path)) == PresentDatabase()


def test_a_file_that_is_no_clone_is_replaced_as_django_does(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store("of_tests.sqlite3")
    template, path = build(store), tmp_path / "t.sqlite3"
    path.write_text("precious")
    monkeypatch.setattr("builtins.input", lambda _: "no")
    with pytest.raises(SystemExit):
        clone(store, template, path, replaces=False)
    assert path.read_text() == "precious"
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    clone(store, template, path, replaces=False)
    assert dump_file(path) == dump_file(template.name)


def test_what_a_killed_process_left_beside_a_file_is_not_applied_to_the_clone(
    make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store("of_tests.sqlite3")
    template, path = build(store), tmp_path / "t.sqlite3"
    clone(store, template, path)
    kill = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('PRAGMA cache_size = 1'); "
        "c.execute('BEGIN'); c.execute('CREATE TABLE x AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
        "WHERE i < 9999) SELECT i, hex(randomblob(50)) b FROM n'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", kill, str(path)], check=False)
    assert Path(f"{path}-journal").stat().st_size > 0
    clone(store, template, path)
    assert dump_file(path) == dump_file(template.name)


def test_a_link_stays_one(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store("of_tests.sqlite3")
    (tmp_path / "far").mkdir()
    (tmp_path / "t.sqlite3").symlink_to(tmp_path / "far" / "t.sqlite3")
    template = build(store)
    for _ in range(2):
        clone(store, template, tmp_path / "t.sqlite3")
        assert (tmp_path / "t.sqlite3").is_symlink()
        assert dump_file(tmp_path / "far" / "t.sqlite3") == dump_file(template.name)


@pytest.mark.parametrize("damage", ["one byte", "cut", "document", "exchanged"])
def test_a_damaged_template_is_not_used(make_store: MakeStore, damage: str) -> None:
    store = make_store()
    template = build(store)
    assert store.find_fault(template) is None
    path, document = Path(template.name), Path(template.name).with_suffix(".json")
    data = bytearray(path.read_bytes())
    if damage == "one byte":
        data[-1] ^= 1
    elif damage == "cut":
        del data[-4096:]
    elif damage == "exchanged":
        other = build(store, "CREATE TABLE x (a)", key="f" * 32)
        shutil.copy(Path(other.name).with_suffix(".json"), document)
    path.write_bytes(data)
    if damage == "document":
        document.write_text(document.read_text()[:-20])
        assert store.list_templates() == []
    else:
        assert store.find_fault(template) == f"{path.name} is not as it was written"
    build(store, made=template.made - 100)
    assert store.find_fault(template) is None, "a build takes the place of a damaged one, whatever its time"


def test_of_two_builds_of_one_key_the_first_stays(make_store: MakeStore) -> None:
    store = make_store()
    first = build(store)
    second = build(store, "CREATE TABLE x (a)", made=first.made + 0.3, seconds=0.4)
    assert [(each.made, each.name) for each in store.list_templates()] == [(first.made, second.name)]
    third = build(store, "CREATE TABLE x (a)", made=first.made + 3, seconds=0.4)
    assert [each.made for each in store.list_templates()] == [third.made]
    assert store.find_fault(third) is None


def test_a_template_without_a_document_and_other_files_are_left_alone(make_store: MakeStore, folder: Path) -> None:
    store = make_store()
    template = build(store, used=time.time() - 30 * 86_400)
    others = [f"{'a' * 16}_shop.sqlite3", f"{'b' * 16}_x.dump.json", "notes.json", "db.sqlite3", f"{'c' * 16}_x.json"]
    for name in others:
        (folder / name).write_text("{}")
    assert [each.name for each in store.list_templates()] == [template.name]
    assert store.collect(new_template(store)) == [template.name]
    present = {path.name for path in folder.iterdir() if path.suffix != ".lock"}
    assert present == {*others, ".gitignore"}
    assert (folder / ".gitignore").read_text() == "*\n"


def test_a_collection_leaves_the_last_three(make_store: MakeStore) -> None:
    store = make_store()
    keys = [digit * 32 for digit in "01234"]
    for age, key in enumerate(keys):
        build(store, key=key, used=time.time() - age)
    store.collect(new_template(store, key="f" * 32))
    assert sorted(each.key for each in store.list_templates()) == keys[:2], "and one that is about to be built"


def test_what_dead_processes_left_is_deleted_and_what_is_in_use_is_not(make_store: MakeStore, folder: Path) -> None:
    store, other = make_store("of_tests.sqlite3"), make_store("of_tests.sqlite3")
    template = build(store)
    living = store.make_spare(template)
    before = set(folder.iterdir())
    dead = (
        "import os, sys; from pathlib import Path; from testdb_app.creation.sqlite_store import _try_lock, _lock_of; "
        "path = Path(sys.argv[1]); held = _try_lock(_lock_of(path)); path.write_text('half'); "
        "path.with_suffix('.json').write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", dead, str(folder / "testdb_tpl_1_2_building.sqlite3")], check=False)
    assert len(set(folder.iterdir()) - before) == 3
    other.drop_left_over()
    assert set(folder.iterdir()) == before
    assert dump_file(living) == dump_file(template.name)
    store.close()
    assert not Path(living).exists()


def test_a_lock_ends_with_its_process(make_store: MakeStore) -> None:
    store = make_store()
    hold = (
        "import sys, time; from pathlib import Path; from testdb_app.creation import sqlite_store as s; "
        "store = object.__new__(s.SQLiteStore); store.folder, store._locks = Path(sys.argv[1]), {}\n"
        "with store.lock('key', print): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(store.folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with store.lock("another key", lambda: pytest.fail("waits for another key")):
            pass
        waited: list[str] = []

        def kill() -> None:
            waited.append("once")
            holder.kill()

        with store.lock("key", kill):
            assert waited == ["once"]


def test_a_use_is_noted_but_not_of_a_template_that_was_replaced_or_dropped(make_store: MakeStore) -> None:
    store = make_store()
    template = build(store)
    store.touch(template.with_use())
    (found,) = store.list_templates()
    assert (found.uses, store.find_fault(found)) == (1, None)
    anew = build(store, made=template.made + 100)
    store.touch(template.with_use())
    assert [(each.uses, each.made) for each in store.list_templates()] == [(0, anew.made)]
    store.drop(template.name)
    store.touch(anew.with_use())
    assert [path.name for path in store.folder.glob("*_*")] == []


def test_columns_with_the_time_of_the_build_are_named(make_store: MakeStore) -> None:
    store = make_store()
    connection: Any = store.connection
    with connection.cursor() as cursor:
        for statement in (
            'CREATE TABLE "a {%s} b" ("the ""time" datetime, name text)',
            "INSERT INTO \"a {%s} b\" VALUES (CURRENT_TIMESTAMP, '2001')",
            "CREATE TABLE old (made datetime, day date)",
            "INSERT INTO old VALUES ('2001-01-01 00:00:00', date())",
            "CREATE TABLE django_migrations (applied datetime)",
            "INSERT INTO django_migrations VALUES (CURRENT_TIMESTAMP)",
        ):
            cursor.execute(statement)
    assert store.find_frozen(1.0) == ('a {%s} b.the "time',)


def test_obstacles_are_named(make_store: MakeStore, tmp_path: Path) -> None:
    def obstacle(store: SQLiteStore, name: object) -> str | None:
        store.connection.settings_dict["TEST"]["NAME"] = name
        return store.find_obstacle()

    store = make_store()
    assert obstacle(store, "file::memory:?cache=shared") is not None, "Django takes it for a file"
    assert obstacle(store, str(tmp_path / "mode=memory")) is not None, "Django takes it for memory"
    (tmp_path / "x.sqlite3").touch()
    assert obstacle(store, str(tmp_path / "x.sqlite3")) is None
    assert "exists" in str(obstacle(store, (tmp_path / "x.sqlite3").as_uri()))
    store.connection.settings_dict["NAME"] = "file:of_the_project?mode=memory"
    with store.connection.cursor() as cursor:
        cursor.execute("CREATE TABLE precious (a)")
    assert obstacle(store, None) == "its database in memory has tables already"


def test_a_folder_that_cannot_be_written_to_is_named(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    (tmp_path / "file").touch()
    store.folder = tmp_path / "file" / "folder"
    assert store.list_templates() == []
    with pytest.raises(sqlite3.OperationalError, match=r"the folder .*/file/folder cannot be written to"):
        with store.lock("key", lambda: None):
            pass


def test_what_is_no_template_is_listed_as_what_it_is(make_store: MakeStore) -> None:
    store = make_store("of_tests.sqlite3")
    damaged, spare = build(store), make_store().make_spare(build(store, key="f" * 32))
    Path(damaged.name).with_suffix(".json").write_text("{}")
    dead = store.folder / "testdb_tpl_1_2_building.sqlite3"
    for path in (dead, Path(f"{dead}.lock")):
        path.touch()
    found = {each.name: each.kind.name for each in store.list_others()}
    assert found == {damaged.name: "UNREADABLE", spare: "HELD", str(dead): "LEFT_OVER"}
    store.drop(str(dead))
    assert not list(store.folder.glob("testdb_tpl_1_2*"))


def test_the_document_is_for_people_too(make_store: MakeStore) -> None:
    store = make_store()
    template = build(store)
    given = json.loads(Path(template.name).with_suffix(".json").read_text())
    assert given["size"] == Path(template.name).stat().st_size
    assert json.loads(given["template"])["alias"] == "shop"
