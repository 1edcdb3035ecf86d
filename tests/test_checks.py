"""The system checks: what each one finds, what it leaves alone, and what its hint says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.db import connections

from testdb_app import guard
from testdb_app.checks import check_pools, check_settings, check_test_names
from tests.guard.projects import database_settings, make_project
from tests.scratch import ScratchDatabase

SERVER = {"ENGINE": "django.db.backends.postgresql", "HOST": "db", "PORT": "5432"}


@contextmanager
def configured(**databases: dict[str, Any]) -> Iterator[None]:
    """Have these databases only, as at the start of a process. Nothing is connected to."""
    settings, names = dict(connections.settings), dict(guard._configured_names)
    connections.settings.clear()
    guard._configured_names.clear()
    for alias, configuration in databases.items():
        connections.settings[alias] = {**settings["default"], **configuration}
    guard.remember_configured_names(connections.settings)
    try:
        yield
    finally:
        for alias in databases:
            with suppress(AttributeError):  # it was not asked for
                del connections[alias]
        connections.settings.clear()
        connections.settings.update(settings)
        guard._configured_names.clear()
        guard._configured_names.update(names)


def test_the_settings_of_this_project_are_found_good() -> None:
    assert [message for message in checks.run_checks() if str(message.id).startswith("testdb_app.")] == []


def test_e001_names_the_key_that_is_near(settings: Any) -> None:
    settings.TESTDB = {"ALOWED_DATABASES": ["shop"]}
    (message,) = (message for message in checks.run_checks() if message.id == "testdb_app.E001")
    assert message.is_serious()
    assert "unknown key 'ALOWED_DATABASES'. Did you mean 'ALLOWED_DATABASES'?" in message.msg
    assert message.hint == "Correct settings.TESTDB."


@pytest.mark.parametrize("value", [None, [], "x", {"STRATEGY": "fast"}, {"LOCK_TIMEOUT": 0}, {"EXCLUDE": "auth"}])
def test_e001_for_a_value_that_cannot_be_meant(settings: Any, value: Any) -> None:
    settings.TESTDB = value
    assert [message.id for message in check_settings()] == ["testdb_app.E001"]


def test_e001_stays_away_where_nothing_is_set(settings: Any) -> None:
    del settings.TESTDB
    assert check_settings() == []


def ids_of_names() -> list[tuple[str | None, Any]]:
    return [(message.id, message.obj) for message in check_test_names()]


def test_e002_for_a_test_name_that_is_the_real_one() -> None:
    with configured(shop={**SERVER, "NAME": "shop", "TEST": {"NAME": "shop"}}):
        (message,) = check_test_names()
    assert message.id == "testdb_app.E002"
    assert message.msg == (
        'The test database of alias "shop" has the name of the real database of alias "shop": "shop".'
    )
    assert message.hint == (
        'Set DATABASES["shop"]["TEST"]["NAME"] to another: a test run would destroy the real database. If it is there for '
        'tests alone, add this line to the settings: TESTDB = {"ALLOWED_DATABASES": ["shop"]}'
    )


def test_e002_leaves_a_database_alone_that_the_settings_allow(settings: Any) -> None:
    settings.TESTDB = {"ALLOWED_DATABASES": ["shop"]}
    with configured(shop={**SERVER, "NAME": "shop", "TEST": {"NAME": "shop"}}):
        assert ids_of_names() == []


@pytest.mark.parametrize(
    "spelling",
    [
        "{folder}/real.sqlite3",
        "{folder}/../{name}/real.sqlite3",
        "{folder}/link",
        "{folder}/hard",
        "file:{folder}/re%61l.sqlite3",
    ],
)
def test_e002_compares_files_of_sqlite_and_not_their_names(tmp_path: Path, spelling: str) -> None:
    real = tmp_path / "real.sqlite3"
    real.touch()
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "hard").hardlink_to(real)
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "HOST": "", "PORT": ""}
    for name, expected in (
        (spelling.format(folder=tmp_path, name=tmp_path.name), [("testdb_app.E002", "shop")]),
        (f"{tmp_path}/other.sqlite3", []),
        (f"file:{real}?mode=memory", []),
        (":memory:", []),
    ):
        with configured(shop={**sqlite, "NAME": str(real), "TEST": {"NAME": name}}):
            assert ids_of_names() == expected


def test_e002_for_a_test_name_that_is_another_aliass_real_one() -> None:
    first = {**SERVER, "NAME": "shop", "TEST": {"NAME": "archive"}}
    with configured(shop=first, archive={**SERVER, "NAME": "archive", "TEST": {}}):
        assert ids_of_names() == [("testdb_app.E002", "shop")]


def test_e002_for_the_test_name_that_django_makes_up() -> None:
    with configured(shop={**SERVER, "NAME": "shop", "TEST": {}}, other={**SERVER, "NAME": "test_shop", "TEST": {}}):
        assert ids_of_names() == [("testdb_app.E002", "shop")]


def test_e002_leaves_equal_names_on_two_servers_alone() -> None:
    first = {**SERVER, "NAME": "shop", "TEST": {"NAME": "archive"}}
    for change in ({"HOST": "other"}, {"PORT": "5433"}, {"ENGINE": "django.db.backends.mysql"}):
        with configured(shop=first, archive={**SERVER, "NAME": "archive", "TEST": {"NAME": "archive_test"}, **change}):
            assert ids_of_names() == []


def test_e002_leaves_mirrors_second_aliases_and_sqlite_alone() -> None:
    one = {**SERVER, "NAME": "shop", "TEST": {}}
    mirror = {**SERVER, "NAME": "test_shop_replica", "TEST": {"MIRROR": "shop", "NAME": "shop"}}
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "HOST": "", "PORT": "", "TEST": {}}
    files = {"a": {**sqlite, "NAME": "shop"}, "b": {**sqlite, "NAME": "test_shop"}}
    with configured(shop=one, second=one, replica=mirror, **files):
        assert ids_of_names() == []


def test_e002_still_compares_the_names_of_before_when_the_runner_has_replaced_them() -> None:
    with configured(shop={**SERVER, "NAME": "shop", "TEST": {"NAME": "checks"}}):
        connections.settings["shop"]["NAME"] = "checks"
        assert ids_of_names() == []
    with configured(shop={**SERVER, "NAME": "shop", "TEST": {"NAME": "shop"}}):
        connections.settings["shop"]["NAME"] = "anything"
        assert ids_of_names() == [("testdb_app.E002", "shop")]


def test_e003_for_a_pool_that_leads_elsewhere(make_scratch: Callable[..., ScratchDatabase]) -> None:
    real, test = make_scratch("real"), make_scratch("test")
    real.register("pooled", OPTIONS={"pool": {"min_size": 1, "max_size": 1}})
    connection = connections["pooled"]
    connection.ensure_connection()
    assert check_pools() == []
    connection.close()
    connection.settings_dict["NAME"] = test.name
    (message,) = check_pools()
    assert message.id == "testdb_app.E003"
    assert message.msg == (
        f'The connection pool of alias "pooled" leads to database "{real.name}", the settings name "{test.name}".'
    )
    assert 'call connections["pooled"].close_pool() before the tests' in str(message.hint)
    connection.close_pool()
    assert check_pools() == []


def test_e003_opens_no_pool_and_no_connection(scratch: ScratchDatabase) -> None:
    scratch.register("pooled", OPTIONS={"pool": True})
    connection = connections["pooled"]
    assert check_pools() == []
    assert connection.connection is None
    assert "pooled" not in connection._connection_pools


def sqlite_settings(tmp_path: Path) -> dict[str, Any]:
    return {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}}


def test_a_deployment_is_warned_only_when_deploy_is_asked_for(tmp_path: Path) -> None:
    project = make_project(tmp_path, sqlite_settings(tmp_path))
    project.add_settings('INSTALLED_APPS += ["django.contrib.contenttypes", "testdb_app.demo"]\n')
    plain = project.manage("check").must_pass()
    assert "testdb_app" not in plain.stdout + plain.stderr
    deployed = project.manage("check", "--deploy").must_pass().stderr
    assert "(testdb_app.W001) testdb_app is in INSTALLED_APPS of a deployment." in deployed
    assert "(testdb_app.W002) testdb_app.demo is in INSTALLED_APPS of a deployment." in deployed
    assert deployed.count("HINT: Install it in the settings of tests and development only.") == 2


def test_the_demo_is_warned_of_only_where_it_is_installed(tmp_path: Path) -> None:
    deployed = make_project(tmp_path, sqlite_settings(tmp_path)).manage("check", "--deploy").must_pass().stderr
    assert "testdb_app.W001" in deployed
    assert "testdb_app.W002" not in deployed


def test_an_unknown_key_of_the_settings_ends_manage_py_check(tmp_path: Path) -> None:
    project = make_project(tmp_path, sqlite_settings(tmp_path))
    project.add_settings('TESTDB = {"LOCK_TIMOUT": 3}\n')
    run = project.manage("check")
    assert run.returncode == 1
    assert (
        "(testdb_app.E001) settings.TESTDB has an unknown key 'LOCK_TIMOUT'. Did you mean 'LOCK_TIMEOUT'?" in run.stderr
    )


def test_a_test_run_with_a_test_name_of_its_own_passes_the_checks(scratch: ScratchDatabase, tmp_path: Path) -> None:
    # The runner has put TEST["NAME"] in the place of NAME when it runs the checks: equal, and right.
    databases = {"default": database_settings("scratch", TEST={"NAME": f"{scratch.name}_checks"})}
    project = make_project(tmp_path, databases)
    project.write(
        "shop/tests.py", "from django.test import TestCase\nclass Empty(TestCase):\n    def test(self): pass\n"
    )
    assert json.loads((tmp_path / "databases.json").read_text()) == databases
    run = project.manage("test", "--noinput").must_pass()
    assert "System check identified no issues" in run.stdout + run.stderr
