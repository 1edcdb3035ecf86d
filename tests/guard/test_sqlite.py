"""The same rules on SQLite, where a database is a file, or memory. These run in every run: they need no server."""

from __future__ import annotations

import io
import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from testdb_app.backends.base import Mark
from testdb_app.exceptions import ReadOnlyError, UnsafeDatabaseError
from testdb_app.resetter import Resetter
from tests.guard.projects import Project, make_project

Register = Callable[..., str]

ROWS = """
CREATE TABLE shelf (id integer PRIMARY KEY AUTOINCREMENT, name text);
CREATE TABLE item (id integer PRIMARY KEY AUTOINCREMENT, shelf_id integer NOT NULL REFERENCES shelf);
INSERT INTO shelf (name) VALUES ('one'), ('two');
INSERT INTO item (shelf_id) VALUES (1), (2), (2);
"""


@pytest.fixture
def register(django_db_blocker: Any) -> Iterator[Register]:
    """Return a function that makes a SQLite database known to Django under an alias."""
    made: list[str] = []

    def make(name: str | Path, alias: str = "file", **changes: Any) -> str:
        engine = {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": {}, "HOST": "", "PORT": ""}
        connections.settings[alias] = {**connections.settings["default"], **engine, "TEST": {}, **changes}
        made.append(alias)
        return alias

    with django_db_blocker.unblock():
        yield make
        for alias in made:
            raw = connections[alias].connection
            if raw is not None:
                raw.close()  # Django's own close() keeps one in memory open
            del connections[alias]
            del connections.settings[alias]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database file with rows."""
    path = tmp_path / "shop.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(ROWS)
    return path


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def refused_by(alias: str, **options: Any) -> str:
    with pytest.raises(UnsafeDatabaseError) as caught:
        Resetter(alias, **options).reset()
    return caught.value.rule


def set_mark(option: str, alias: str = "file") -> None:
    call_command("resetdb", f"--{option}", "--no-input", database=alias, stdout=io.StringIO())


def test_an_unknown_file_is_refused_and_stays_as_it_was(register: Register, path: Path) -> None:
    before = path.read_bytes()
    assert refused_by(register(path)) == "unknown"
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["shop.sqlite3", "shop", "*", "file", "{path}x"])
def test_only_the_exact_name_of_the_settings_allows_a_file(register: Register, path: Path, name: str) -> None:
    assert refused_by(register(path), allow_database=name.format(path=path)) == "unknown"


def test_a_file_that_the_caller_names_may_be_reset(register: Register, path: Path) -> None:
    report = Resetter(register(path), allow_database=str(path)).reset()
    assert (report.permitted_by, report.rows) == ("allowed", 5)


@pytest.mark.parametrize("name", [":memory:", "file:memorydb_shop?mode=memory&cache=shared"])
def test_a_database_in_memory_is_permitted(register: Register, name: str) -> None:
    alias = register(name, "memory")
    connections[alias].ensure_connection()
    connections[alias].connection.executescript(ROWS)
    report = Resetter(alias).reset()
    assert (report.permitted_by, report.rows) == ("in-memory", 5)


def test_a_file_whose_name_says_memory_is_a_file(
    register: Register, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    path.rename(path.parent / "memory")
    assert refused_by(register("memory")) == "unknown"
    assert refused_by(register("file:memory?cache=private", "uri")) == "unknown"


def test_an_open_connection_that_leads_to_another_file_is_refused(
    register: Register, path: Path, tmp_path: Path
) -> None:
    alias = register(path)
    connections[alias].ensure_connection()
    other = tmp_path / "test.sqlite3"
    shutil.copy(path, other)
    connections[alias].settings_dict["NAME"] = other
    before = path.read_bytes()
    assert refused_by(alias, allow_database=[str(path), str(other)]) == "names-differ"
    assert path.read_bytes() == before


def test_a_link_in_the_settings_names_the_file_behind_it(register: Register, path: Path) -> None:
    link = path.parent / "link.sqlite3"
    link.symlink_to(path)
    alias = register(link)
    assert refused_by(alias) == "unknown"
    assert Resetter(alias, allow_database=str(link)).reset().rows == 5


def test_a_file_that_is_opened_for_reading_is_refused(register: Register, path: Path) -> None:
    name = f"file:{path}?mode=ro"
    with pytest.raises(ReadOnlyError, match="read-only by default"):
        Resetter(register(name), allow_database=name).reset()


def copy(source: Path, target: Path) -> None:
    shutil.copy(source, target)


def back_up(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def vacuum(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("VACUUM INTO ?", [str(target)])


def dump_and_restore(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(target)) as connection:
        connection.executescript("\n".join(dump(source)))


COPIES = pytest.mark.parametrize("make_copy", [copy, back_up, vacuum, dump_and_restore])


@COPIES
def test_every_copy_of_a_protected_file_is_protected(
    register: Register, path: Path, make_copy: Callable[[Path, Path], None]
) -> None:
    register(path)
    set_mark("mark-protected")
    target = path.parent / "copy.sqlite3"
    make_copy(path, target)
    before = dump(target)
    assert refused_by(register(target, "copy"), allow_database=str(target)) == "protected"
    assert dump(target) == before


@COPIES
def test_no_copy_of_a_test_file_is_one(register: Register, path: Path, make_copy: Callable[[Path, Path], None]) -> None:
    alias = register(path)
    set_mark("mark-test")
    target = path.parent / "copy.sqlite3"
    make_copy(path, target)
    assert refused_by(register(target, "copy")) == "unknown"
    assert Resetter(alias).reset().permitted_by == "marked-as-test"


def test_a_copy_that_was_put_in_place_of_a_marked_file_is_refused_and_can_be_marked_anew(
    register: Register, path: Path
) -> None:
    alias = register(path)
    set_mark("mark-test")
    connections[alias].close()
    shutil.copy(path, path.parent / "copy.sqlite3")
    (path.parent / "copy.sqlite3").replace(path)
    with pytest.raises(
        UnsafeDatabaseError, match=r"belongs to another file that was at this path.*mark it anew with resetdb --data"
    ):
        Resetter(alias).reset()
    set_mark("mark-test")
    assert Resetter(alias).reset().permitted_by == "marked-as-test"


def test_a_mark_of_an_older_format_counts_as_none(register: Register, path: Path) -> None:
    alias = register(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE testdb_test (path TEXT NOT NULL)")
        connection.execute("INSERT INTO testdb_test VALUES (?)", [str(path.resolve())])
    with pytest.raises(UnsafeDatabaseError, match=r"Its test mark has an older format.*mark it anew"):
        Resetter(alias).reset()
    set_mark("mark-test")
    assert Resetter(alias).reset().permitted_by == "marked-as-test"


@pytest.mark.parametrize(
    "spelling", ["{path}", "{folder}/link", "file:{path}", "file://localhost{path}?mode=rw", "file:{quoted}"]
)
def test_a_marked_file_is_known_by_every_spelling(register: Register, path: Path, spelling: str) -> None:
    (path.parent / "link").symlink_to(path)
    register(path)
    set_mark("mark-test")
    quoted = str(path).replace("shop", "sh%6Fp")
    name = spelling.format(path=path, folder=path.parent, quoted=quoted)
    assert Resetter(register(name, "other")).reset().permitted_by == "marked-as-test"


def test_protection_beats_memory_and_names(register: Register, path: Path) -> None:
    register(path)
    set_mark("mark-protected")
    alias = register(":memory:", "memory")
    connections[alias].ensure_connection()
    with closing(sqlite3.connect(path)) as file:
        file.backup(connections[alias].connection)
    assert refused_by(alias, allow_database=":memory:") == "protected"


def test_a_protected_file_cannot_be_marked_as_a_test_one(register: Register, path: Path) -> None:
    register(path)
    set_mark("mark-protected")
    with pytest.raises(CommandError, match="it is marked as protected"):
        set_mark("mark-test")


@pytest.mark.parametrize("mark", ["test", "protected"])
def test_marking_twice_is_marking_once_and_unmarking_leaves_nothing(register: Register, path: Path, mark: str) -> None:
    alias = register(path)
    before = dump(path)
    for _ in range(2):
        set_mark(f"mark-{mark}")
        assert Resetter(alias).identify().marks == {Mark(mark)}
    for _ in range(2):
        set_mark(f"unmark-{mark}")
        assert dump(path) == before


def test_the_guard_is_asked_again_at_every_reset(register: Register, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite3"
    shutil.copy(path, other)
    resetter = Resetter(register(path), allow_database=str(path))
    resetter.reset()
    resetter.connection.close()
    resetter.connection.settings_dict["NAME"] = other
    before = other.read_bytes()
    with pytest.raises(UnsafeDatabaseError):
        resetter.reset()
    assert other.read_bytes() == before


def test_the_command_is_no_way_round(register: Register, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{path}\n"))
    alias, before = register(path), path.read_bytes()
    for options in ([], ["--no-input"], ["--no-input", "main.item"], ["--no-input", "--format", "json"]):
        with pytest.raises(CommandError, match="it is not known to be a test database"):
            call_command("resetdb", *options, database=alias, stdout=io.StringIO(), stderr=io.StringIO())
    assert path.read_bytes() == before


@pytest.fixture
def sqlite_project(tmp_path: Path) -> Project:
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "real.sqlite3")}
    project = make_project(tmp_path, {"default": database})
    project.manage("migrate", "--run-syncdb", "-v0").must_pass()
    with closing(sqlite3.connect(tmp_path / "real.sqlite3")) as connection, connection:
        connection.execute("INSERT INTO shop_shelf (name) VALUES ('real')")
    project.write(
        "shop/tests.py",
        """
from django.test import TransactionTestCase
from shop.attempts import reset_and_record

class First(TransactionTestCase):
    def test_reset(self):
        reset_and_record()

class Second(First):
    pass
""",
    )
    return project


@pytest.mark.parametrize(
    ("test_name", "options", "rule", "pattern"),
    [
        (None, [], "in-memory", r"file:memorydb_default\?mode=memory&cache=shared"),
        (None, ["--parallel", "2"], "in-memory", r"file:memorydb_default.*|:memory:"),
        ("checks.sqlite3", [], "test-runner", r"checks\.sqlite3"),
        ("checks.sqlite3", ["--keepdb"], "test-runner", r"checks\.sqlite3"),
        ("checks.sqlite3", ["--parallel", "2"], "test-runner", r"checks_[12]\.sqlite3"),
    ],
)
def test_django_runner(
    sqlite_project: Project, test_name: str | None, options: list[str], rule: str, pattern: str
) -> None:
    real = sqlite_project.directory / "real.sqlite3"
    test = {"NAME": str(sqlite_project.directory / test_name) if test_name else None}
    databases = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(real), "TEST": test}}
    sqlite_project.write("databases.json", json.dumps(databases))
    before = real.read_bytes()
    run = sqlite_project.manage("test", "--noinput", *options).must_pass()
    assert len(run.found) == 2
    for found in run.found:
        assert (found["rule"], found["rows"]) == (rule, 4)
        assert re.fullmatch(pattern, Path(found["database"]).name)
        assert found.get("real") == ("refused: unknown" if rule == "test-runner" else None)
    assert real.read_bytes() == before


SPELLINGS = {
    "the same path": "{real}",
    "a relative path": "real.sqlite3",
    "a path with dots": "{folder}/shop/../real.sqlite3",
    "a symbolic link": "{folder}/link.sqlite3",
    "a hard link": "{folder}/hard.sqlite3",
    "a link to the folder": "{folder}/folder/real.sqlite3",
    "a URI": "file:{real}?cache=private",
    "a URI with a host": "file://localhost{real}",
    "a URI with percent signs": "file:{folder}/re%61l%2esqlite3?mode=rw",
    "a relative URI": "file:real.sqlite3",
    "a URI of a link": "file:link.sqlite3#fragment",
}

NO_TEST = """
from django.test import TransactionTestCase
from shop.models import Shelf

class Reads(TransactionTestCase):
    def _fixture_teardown(self):
        "Django's own flush asks nobody."

    def test_reads(self):
        Shelf.objects.count()
"""


def contents(path: Path) -> tuple[list[Any], list[Any]]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name FROM shop_shelf").fetchall()
        return rows, connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'testdb%'").fetchall()


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_no_spelling_of_a_real_file_passes_for_a_test_database(sqlite_project: Project, spelling: str) -> None:
    folder = sqlite_project.directory
    real = folder / "real.sqlite3"
    (folder / "link.sqlite3").symlink_to(real)
    (folder / "hard.sqlite3").hardlink_to(real)
    (folder / "folder").symlink_to(folder)
    name = spelling.format(real=real, folder=folder)
    engine = {"ENGINE": "django.db.backends.sqlite3"}
    # The one that has it configured is another alias than the one that is tested.
    databases = {
        "default": {**engine, "NAME": str(folder / "own.sqlite3"), "TEST": {"NAME": name}},
        "other": {**engine, "NAME": str(real)},
    }
    sqlite_project.write("databases.json", json.dumps(databases))
    sqlite_project.write("shop/tests.py", NO_TEST)
    for options in ((), ("--testrunner", "testdb_app.runner.ResetDiscoverRunner", "--reset-transaction-tests")):
        run = sqlite_project.manage("test", "--noinput", "--keepdb", *options)
        assert contents(real) == ([("real",)], [])
        if options:
            assert run.returncode != 0
            assert 'alias "other" has it configured as its own' in run.stderr
            assert f'TESTDB = {{"ALLOWED_DATABASES": ["{name}"]}}' in run.stderr


def test_a_real_file_that_is_named_or_marked_is_reset(sqlite_project: Project) -> None:
    real = sqlite_project.directory / "real.sqlite3"
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(real), "TEST": {"NAME": str(real)}}
    sqlite_project.write("databases.json", json.dumps({"default": database}))
    options = ["--noinput", "--keepdb", "--testrunner", "testdb_app.runner.ResetDiscoverRunner"]
    sqlite_project.manage("resetdb", "--mark-test", "--no-input").must_pass()
    sqlite_project.add_settings('SILENCED_SYSTEM_CHECKS = ["testdb_app.E002"]\n')
    run = sqlite_project.manage("test", *options).must_pass()
    assert {found["rule"] for found in run.found} == {"marked-as-test"}
    sqlite_project.manage("resetdb", "--unmark-test", "--no-input").must_pass()
    sqlite_project.add_settings(f'TESTDB = {{"ALLOWED_DATABASES": [{str(real)!r}]}}\n')
    run = sqlite_project.manage("test", *options).must_pass()
    assert {found["rule"] for found in run.found} == {"allowed"}


def test_a_file_that_was_configured_behind_a_link_stays_configured_when_the_link_leads_elsewhere(
    sqlite_project: Project,
) -> None:
    folder = sqlite_project.directory
    link = folder / "current.sqlite3"
    link.symlink_to(folder / "real.sqlite3")
    engine = {"ENGINE": "django.db.backends.sqlite3", "TEST": {"NAME": str(folder / "real.sqlite3")}}
    sqlite_project.write("databases.json", json.dumps({"default": {**engine, "NAME": str(link)}}))
    sqlite_project.write(
        "shop/tests.py",
        NO_TEST.replace("Shelf.objects.count()", "record(attempt('default'))").replace(
            "from shop.models import Shelf",
            f"""
from pathlib import Path
from shop.attempts import attempt, record
Path({str(link)!r}).unlink()
Path({str(link)!r}).symlink_to({str(folder / "other.sqlite3")!r})
""",
        ),
    )
    sqlite_project.add_settings('SILENCED_SYSTEM_CHECKS = ["testdb_app.E002"]\n')
    run = sqlite_project.manage("test", "--noinput", "--keepdb").must_pass()
    assert run.found == [{"rule": "refused: unknown", "rows": 0}]
    assert contents(folder / "real.sqlite3") == ([("real",)], [])


def test_a_real_file_that_was_moved_in_place_of_the_test_one_is_refused(sqlite_project: Project) -> None:
    folder = sqlite_project.directory
    real, test = folder / "real.sqlite3", folder / "test.sqlite3"
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(real), "TEST": {"NAME": str(test)}}
    sqlite_project.write("databases.json", json.dumps({"default": database}))
    moving = f"""import os
        from shop.attempts import attempt, record
        from django.db import connections
        connections["default"].close()
        os.rename({str(real)!r}, {str(test)!r})
        record(attempt("default"))
        os.link({str(test)!r}, {str(real)!r})"""
    sqlite_project.write("shop/tests.py", NO_TEST.replace("Shelf.objects.count()", moving))
    run = sqlite_project.manage("test", "--noinput").must_pass()
    assert run.found == [{"rule": "refused: unknown", "rows": 0}]
    assert contents(real) == ([("real",)], [])
