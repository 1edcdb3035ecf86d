"""System checks: find wrong or dangerous settings before any reset runs.

==================== =======================================================================================
``testdb_app.E001``  ``settings.TESTDB`` has an unknown key or an invalid value
``testdb_app.E002``  a test database is a real one; compared by name, on SQLite by file
``testdb_app.E003``  an open connection pool leads to another database than the settings name
``testdb_app.W001``  ``testdb_app`` is installed in a deployment (``check --deploy``)
``testdb_app.W002``  ``testdb_app.demo`` is installed in a deployment (``check --deploy``)
``testdb_app.W003``  a PostgreSQL alias is used through another driver than psycopg 3, and cannot be reset
``testdb_app.I001``  there are so many migrations that test databases from templates save much time
==================== =======================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register  # noqa: A004 - Django's name
from django.db import connections
from django.db.migrations.loader import MigrationLoader

from testdb_app import _django_private as django_private
from testdb_app.conf import get_settings
from testdb_app.exceptions import ConfigurationError
from testdb_app.guard import get_configured_name, is_configured_for, settings_line, vendor_of
from testdb_app.post_migrate import find_package


def register_checks() -> None:
    """Register all checks with Django."""
    register(check_settings, Tags.compatibility)
    register(check_test_names, Tags.compatibility)
    register(check_pools, Tags.compatibility)
    register(check_drivers, Tags.compatibility)
    register(check_deployment, Tags.security, deploy=True)
    register(check_migrations, Tags.compatibility)


def find_faults(aliases: Iterable[str]) -> list[str]:
    """Return the faults that prevent every reset of the databases of *aliases*. Report them once, at the start of a run.

    Reads the settings and the driver's name, and connects to no database.
    """
    faults: list[str] = []
    if not apps.is_installed("testdb_app"):
        faults.append(
            f'Add "testdb_app" to INSTALLED_APPS{_module()}: without it, nothing tells a test database from a real one.'
        )
    try:
        get_settings()
    except ConfigurationError as error:
        faults.append(error.message)
    return [*faults, *(f"{text} {remedy}" for _, text, remedy in _other_drivers(aliases))]


def _module() -> str:
    name = getattr(settings, "SETTINGS_MODULE", None)  # None after settings.configure()
    return f" in {name}" if name else " of the test settings"


def check_settings(**_: Any) -> list[CheckMessage]:
    """E001: check that ``settings.TESTDB`` has known keys and valid values."""
    try:
        get_settings()
    except ConfigurationError as error:
        return [Error(error.message, hint="Correct settings.TESTDB.", id="testdb_app.E001")]
    return []


def check_test_names(**_: Any) -> list[CheckMessage]:
    """E002: check that no test database is the real database of an alias, unless the settings allow it by name."""
    return list(_equal_names())


def _equal_names() -> Iterator[CheckMessage]:
    try:
        allowed = get_settings().allowed_databases
    except ConfigurationError:
        allowed = ()  # E001 reports it
    for alias in connections:
        test_name = _test_name(alias)
        owner = next((real for real in connections if test_name and _is_database_of(real, alias, test_name)), None)
        if owner is not None and test_name not in allowed:
            yield Error(
                f'The test database of alias "{alias}" has the name of the real database of alias "{owner}": "{test_name}".'
                if vendor_of(connections.settings[alias]) != "sqlite"
                else f'The test database of alias "{alias}" is the real database of alias "{owner}": "{test_name}".',
                hint=f'Set DATABASES["{alias}"]["TEST"]["NAME"] to another: a test run would destroy the real database. If '
                f"it is there for tests alone, add this line to the settings: {settings_line(str(test_name))}",
                obj=alias,
                id="testdb_app.E002",
            )


def _is_database_of(owner: str, alias: str, name: str) -> bool:
    """Whether *alias* would reach, under *name*, the database that *owner* had before any test runner."""
    if not is_configured_for(owner, connections.settings[alias], name):
        return False
    return vendor_of(connections.settings[alias]) == "sqlite" or _server(owner) == _server(alias)


def _test_name(alias: str) -> str | None:
    """Return the name that Django's test runner gives the test database of *alias*; None if the runner makes none."""
    test = connections.settings[alias].get("TEST", {})
    configured = get_configured_name(alias)
    if test.get("MIRROR") or test.get("NAME"):
        return None if test.get("MIRROR") else str(test["NAME"])
    return f"test_{configured}" if configured and vendor_of(connections.settings[alias]) != "sqlite" else None


def _server(alias: str) -> tuple[str, ...]:
    configuration = connections.settings[alias]
    return tuple(str(configuration.get(key) or "") for key in ("ENGINE", "HOST", "PORT"))


def check_pools(**_: Any) -> list[CheckMessage]:
    """E003: check that each open psycopg pool leads to the database that the settings name."""
    return list(_stale_pools())


def _stale_pools() -> Iterator[CheckMessage]:
    for connection in connections.all(initialized_only=True):
        pool = django_private.find_pool(connection)
        pooled = getattr(pool, "kwargs", {}).get("dbname")
        named = connection.settings_dict.get("NAME")
        if pooled and named and pooled != named:
            yield Error(
                f'The connection pool of alias "{connection.alias}" leads to database "{pooled}", the settings name "{named}".',
                hint="Something connected before the test runner changed the name (a query in AppConfig.ready()?). Remove "
                f'that query, or call connections["{connection.alias}"].close_pool() before the tests.',
                obj=connection.alias,
                id="testdb_app.E003",
            )


def check_drivers(**_: Any) -> list[CheckMessage]:
    """W003: check that every PostgreSQL alias uses psycopg 3."""
    return [
        Warning(text, hint=remedy, obj=alias, id="testdb_app.W003")
        for alias, text, remedy in _other_drivers(connections)
    ]


def _other_drivers(aliases: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield alias, fault and remedy for each PostgreSQL alias whose driver has no pipelines."""
    for alias in aliases:
        connection = connections[alias]
        driver = getattr(getattr(connection, "Database", None), "__name__", "psycopg")
        if connection.vendor == "postgresql" and driver != "psycopg":
            yield (
                alias,
                f'The alias "{alias}" uses PostgreSQL through {driver}, and testdb_app needs psycopg 3 to reset it.',
                'Install it, and Django takes it: pip install "django-testdb-app[postgresql]".',
            )


MANY_MIGRATIONS = 100
"""The number of migrations that take about five seconds: applied one by one, each takes longer than the one before."""


def check_migrations(**_: Any) -> list[CheckMessage]:
    """I001: recommend templates where there are many migrations, unless ``TESTDB`` says whether to use them."""
    given = getattr(settings, "TESTDB", {})
    if not isinstance(given, Mapping) or "TEMPLATES" in given:
        return []
    modules = [MigrationLoader.migrations_module(config.label)[0] for config in apps.get_app_configs()]
    folders = [folder for module in modules for folder in find_package(module)[0]]
    number = sum(path.name[0] not in "_~" for folder in folders for path in Path(folder).glob("*.py"))
    if number < MANY_MIGRATIONS:
        return []
    return [
        Info(
            f"{number} migrations run before the tests, in each run and in each of its workers.",
            hint='Set TESTDB["TEMPLATES"] = True: they run once, and test databases are clones. False silences this.',
            id="testdb_app.I001",
        )
    ]


def check_deployment(**_: Any) -> list[CheckMessage]:
    """W001, W002: check that a deployment installs neither the app nor its demonstration models."""
    found: list[CheckMessage] = []
    for name, number in (("testdb_app", 1), ("testdb_app.demo", 2)):
        if apps.is_installed(name):
            found.append(
                Warning(
                    f"{name} is in INSTALLED_APPS of a deployment.",
                    hint="Install it in the settings of tests and development only.",
                    id=f"testdb_app.W00{number}",
                )
            )
    return found
