"""The app configuration: registers the system checks, and gives the guard the configured database names."""

from __future__ import annotations

from django.apps import AppConfig
from django.db import connections


class TestDBConfig(AppConfig):
    """Configuration of ``testdb_app``. It has no models: installing it makes no table."""

    __test__ = False
    name = "testdb_app"
    verbose_name = "Test database reset"

    def ready(self) -> None:
        """Register the system checks, and have the guard remember the configured databases and hook their creation.

        A test runner changes the names later. Connects to no database.
        """
        from testdb_app import checks, guard  # noqa: PLC0415 - Django's apps must be ready first

        checks.register_checks()
        guard.remember_configured_names(connections.settings)
        guard.install_hooks(connections.settings)
