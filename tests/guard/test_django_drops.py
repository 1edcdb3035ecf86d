"""Django's own DROP DATABASE: no database that an alias has configured is dropped because it bears the name of a test one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from psycopg import sql

from testdb_app import guard
from testdb_app.backends import get_backend
from testdb_app.backends.base import Mark
from testdb_app.exceptions import UnsafeDatabaseError
from testdb_app.resetter import Resetter
from tests.guard.conftest import ROWS
from tests.scratch import ScratchDatabase, ScratchFile, connect, connect_as_superuser, is_postgresql

Make = Callable[..., ScratchDatabase]
needs_postgresql = pytest.mark.skipif(not is_postgresql(), reason="DROP DATABASE is PostgreSQL's")


@pytest.fixture(autouse=True)
def no_apps(settings: Any) -> None:
    """Leave the migrations nothing to do."""
    settings.INSTALLED_APPS = ["testdb_app"]


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the guard know databases as those of aliases, as it does from ``AppConfig.ready()`` on."""
    monkeypatch.setattr(guard, "_made", {})
    monkeypatch.setattr(guard, "_configured_names", {})

    def configure(*databases: Any) -> None:
        guard.remember_configured_names({each.alias: connections.settings[each.alias] for each in databases})

    return configure


@pytest.fixture
def real(make_filled: Make, configured: Callable[..., None]) -> Iterator[ScratchDatabase]:
    """A database with rows that its alias has configured as its own, and calls its test database."""
    database = make_filled("real")
    configured(database)
    connections.settings["real"]["TEST"]["NAME"] = database.name
    yield database
    connections["real"].settings_dict["NAME"] = database.name


def create(alias: str = "real", **options: Any) -> str:
    found = connections[alias].creation.create_test_db(verbosity=0, autoclobber=True, **options)
    return str(found)


def destroy(alias: str = "real", **options: Any) -> None:
    connections[alias].creation.destroy_test_db(verbosity=0, **options)


def has_rows(database: ScratchDatabase) -> bool:
    with connect_as_superuser(database.name) as connection:
        found = connection.execute("SELECT pg_catalog.to_regclass('item') IS NOT NULL").fetchone()
    return bool(found and found[0])


@contextmanager
def refused(*texts: str) -> Iterator[None]:
    with pytest.raises(UnsafeDatabaseError) as caught:
        yield
    assert all(text in caught.value.message for text in texts), caught.value.message


@needs_postgresql
def test_a_real_database_is_not_dropped_as_the_test_database_of_its_own_name(real: ScratchDatabase) -> None:
    line = f'TESTDB = {{"ALLOWED_DATABASES": ["{real.name}"]}}'
    with refused(f'Refusing to drop database "{real.name}"', 'alias "real" has it configured as its own', line):
        create()
    assert real.count("item") == 3
    with refused(f'Refusing to drop database "{real.name}"', line):
        destroy()
    assert real.count("item") == 3
    # Django drops nothing where it keeps.
    create(keepdb=True)
    assert real.count("item") == 3
    destroy(keepdb=True)
    with refused("Refusing to drop"):
        destroy()
    assert real.count("item") == 3


@needs_postgresql
def test_the_real_database_of_another_alias_is_not_dropped(
    real: ScratchDatabase, make_filled: Make, configured: Callable[..., None]
) -> None:
    other = make_filled("other")
    configured(other)
    connections.settings["real"]["TEST"]["NAME"] = other.name
    with refused('alias "other" has it configured as its own'):
        create()
    assert other.count("item") == 3


@needs_postgresql
@pytest.mark.parametrize("how", ["the settings", "trust_test_database", "the mark"])
def test_a_real_database_that_is_named_or_marked_is_dropped_and_made_anew(
    real: ScratchDatabase, settings: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "the settings":
        settings.TESTDB = {"ALLOWED_DATABASES": [real.name]}
    elif how == "the mark":
        call_command("resetdb", "--mark-test", "--no-input", "--database", "real", verbosity=0)
    else:
        monkeypatch.setattr(guard, "_trusted_names", {"real": {real.name}})
    assert create() == real.name
    assert not has_rows(real)
    destroy()


@needs_postgresql
def test_protection_beats_the_name(real: ScratchDatabase, settings: Any) -> None:
    real.execute("CREATE SCHEMA testdb; CREATE TABLE testdb.protected ()")
    settings.TESTDB = {"ALLOWED_DATABASES": [real.name]}
    for act in (create, destroy):
        with refused("it is marked as protected"):
            act()
    assert real.count("item") == 3


@needs_postgresql
@pytest.mark.parametrize("before", ["no database", "no tables", "tables of an extension"])
def test_where_nothing_is_lost_nothing_is_refused(
    make_scratch: Make, configured: Callable[..., None], before: str
) -> None:
    """docker-compose and CI services make an empty database, whose image may have put extensions into it."""
    fresh = make_scratch("real")
    configured(fresh)
    connections.settings["real"]["TEST"]["NAME"] = fresh.name
    if before == "no database":
        with connect("postgres") as connection:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(fresh.name)))
    elif before == "tables of an extension":
        fresh.execute("CREATE TABLE brought (id integer)")
        with fresh.superuser() as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS plpgsql; ALTER EXTENSION plpgsql ADD TABLE brought")
    for _ in range(2):
        assert create() == fresh.name
        destroy()


@needs_postgresql
def test_a_role_that_may_not_make_databases_drops_none(real: ScratchDatabase, settings: Any) -> None:
    """So nothing has to be allowed for the errors that Django has for it."""
    role = f"ci_{real.name}"
    with real.superuser() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    try:
        connections["real"].close()
        connections["real"].settings_dict.update(USER=role, PASSWORD="")
        settings.TESTDB = {"ALLOWED_DATABASES": [real.name]}
        with pytest.raises(SystemExit):
            create()
        assert real.count("item") == 3
    finally:
        connections["real"].close()
        with real.superuser() as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@needs_postgresql
def test_a_real_database_that_nobody_can_look_at_is_not_dropped(real: ScratchDatabase) -> None:
    with connect_as_superuser("postgres") as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(real.name)))
    with refused("its tables cannot be read"):
        create()
    with connect_as_superuser("postgres") as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(real.name)))
    assert real.count("item") == 3


@needs_postgresql
def test_a_clone_does_not_take_the_place_of_a_real_database(
    real: ScratchDatabase, make_filled: Make, configured: Callable[..., None]
) -> None:
    other = make_filled("other")
    configured(other)
    # Names of clones end in their number.
    root, _, number = other.name.rpartition("_")
    creation = connections["real"].creation
    connections["real"].close()
    connections["real"].settings_dict["NAME"] = root
    for act in (creation.clone_test_db, creation.destroy_test_db):
        with refused("Refusing to drop", other.name):
            act(suffix=number, verbosity=0)
    assert other.count("item") == 3


@needs_postgresql
def test_a_kept_clone_gets_a_mark_of_its_own(real: ScratchDatabase) -> None:
    connection = connections["real"]
    name = connection.settings_dict["TEST"]["NAME"] = f"test_{real.name}"
    backend = get_backend(connection)
    create(keepdb=True)
    try:
        guard.mark_kept_database(connection)
        for is_kept in (False, True):
            connection.creation.clone_test_db(suffix="1", verbosity=0, keepdb=True)
            assert guard._made["real", f"{name}_1"].is_kept == is_kept
            with guard.renamed(connection, f"{name}_1"):
                before = backend.identify(connection)
                # The mark in the template does not count in its clone.
                assert (Mark.TEST in before.marks, "it was copied from that one" in before.misfit) == (
                    is_kept,
                    not is_kept,
                )
                assert guard.check_may_reset(before) == "test-runner"
                guard.mark_kept_database(connection)
                assert Mark.TEST in backend.identify(connection).marks
            assert Mark.TEST in backend.identify(connection).marks
    finally:
        connection.creation.destroy_test_db(suffix="1", verbosity=0)
        destroy()


# What is said to be made, and is not


@pytest.fixture
def makes_nothing(monkeypatch: pytest.MonkeyPatch, real: ScratchDatabase) -> ScratchDatabase:
    creation = connections["real"].creation
    kind = type("DatabaseCreation", (type(creation),), {"_create_test_db": lambda self, *_: self._get_test_db_name()})
    monkeypatch.setattr(creation, "__class__", kind)
    return real


@needs_postgresql
def test_what_a_vendors_own_way_has_not_made_is_not_dropped_after_the_tests(
    makes_nothing: ScratchDatabase, settings: Any
) -> None:
    with refused("Refusing to drop"):
        create()
    settings.TESTDB = {"ALLOWED_DATABASES": [makes_nothing.name]}
    create()
    settings.TESTDB = {}
    with refused("Refusing to drop"):
        destroy()
    with refused("The test runner uses it", "has it configured"):
        Resetter("real").reset()
    assert makes_nothing.count("item") == 3


@needs_postgresql
def test_what_a_vendors_own_way_has_not_made_counts_as_kept(makes_nothing: ScratchDatabase, make_filled: Make) -> None:
    other = make_filled("other")
    connections.settings["real"]["TEST"]["NAME"] = other.name
    create()
    assert guard._made["real", other.name].is_kept
    with pytest.warns(guard.UnmarkedDatabaseWarning):
        Resetter("real").reset()


@needs_postgresql
def test_a_run_that_ends_at_another_database_than_it_made_has_not_made_that(
    real: ScratchDatabase, make_filled: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_filled("other")
    connections.settings["real"]["TEST"]["NAME"] = f"test_{real.name}"
    creation = connections["real"].creation
    django = type(creation).create_test_db

    def lead_elsewhere(self: Any, *arguments: Any, **options: Any) -> str:
        django(self, *arguments, **options)
        self.connection.close()
        self.connection.settings_dict["NAME"] = other.name
        return other.name

    kind = type("DatabaseCreation", (type(creation),), {"create_test_db": lead_elsewhere})
    monkeypatch.setattr(creation, "__class__", kind)
    signature = guard.inspect.signature(guard.BaseDatabaseCreation.create_test_db)
    kind.create_test_db = guard._wrap(lead_elsewhere, guard._create_test_db, signature)
    assert create() == other.name
    assert guard._made["real", other.name].is_kept
    assert ("real", f"test_{real.name}") not in guard._made or not guard._made["real", f"test_{real.name}"].is_kept
    with connect("postgres") as connection:
        connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(f"test_{real.name}")))


@needs_postgresql
def test_a_database_of_that_name_on_another_server_than_the_one_that_made_it_is_refused(
    real: ScratchDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler may lead one name to two servers, from the first look on."""
    connections.settings["real"]["TEST"]["NAME"] = name = f"test_{real.name}"
    create()
    try:
        made = guard._made["real", name]
        assert (made.is_kept, made.server) == (False, made.place and made.place[1:])
        assert Resetter("real").reset().permitted_by == "test-runner"
        assert made.server is not None
        elsewhere = str(int(made.server[0]) + 1), "another"
        monkeypatch.setitem(guard._made, ("real", name), guard.MadeDatabase(server=elsewhere))
        with refused("has the same name, but is another one, or on another server"):
            Resetter("real").reset()
    finally:
        destroy()


# Files of SQLite


@pytest.fixture
def real_file(tmp_path: Path, configured: Callable[..., None], django_db_blocker: Any) -> Iterator[ScratchFile]:
    database = ScratchFile(tmp_path / "real.sqlite3", "real")
    database.create()
    database.execute(ROWS.replace("bigserial PRIMARY KEY", "integer PRIMARY KEY"))
    configured(database)
    with django_db_blocker.unblock():
        yield database
        connections["real"].settings_dict["NAME"] = database.name
        database.drop()


@pytest.mark.parametrize("spelling", ["{}", "{}/../real.sqlite3", "link"])
def test_a_real_file_is_not_removed(real_file: ScratchFile, spelling: str) -> None:
    if spelling == "link":
        name = real_file.path.with_name("link.sqlite3")
        name.hardlink_to(real_file.path)
    else:
        folder = real_file.path.parent / "folder"
        folder.mkdir()
        name = Path(spelling.format(real_file.path if spelling == "{}" else folder))
    connections.settings["real"]["TEST"]["NAME"] = str(name)
    with refused("Refusing to drop", 'alias "real" has it configured as its own'):
        create()
    with refused("Refusing to drop"):
        destroy()
    assert (name.exists(), real_file.count("item")) == (True, 3)


def test_a_real_file_that_is_named_or_has_no_tables_is_made_anew(real_file: ScratchFile, settings: Any) -> None:
    connections.settings["real"]["TEST"]["NAME"] = real_file.name
    settings.TESTDB = {"ALLOWED_DATABASES": [real_file.name]}
    create()
    settings.TESTDB = {}
    destroy()
    assert not real_file.path.exists()
    real_file.path.touch()
    create()
    destroy()


def test_a_test_file_of_before_is_made_anew_and_one_that_stays_the_same_counts_as_kept(
    real_file: ScratchFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(tmp_path / "test.sqlite3")
    connections.settings["real"]["TEST"]["NAME"] = name
    for _ in range(2):
        create()
        assert not guard._made["real", name].is_kept
        connections["real"].close()
        connections["real"].settings_dict["NAME"] = real_file.name
    creation = connections["real"].creation
    kind = type("DatabaseCreation", (type(creation),), {"_create_test_db": lambda self, *_: self._get_test_db_name()})
    monkeypatch.setattr(creation, "__class__", kind)
    create()
    assert guard._made["real", name].is_kept
    destroy()
