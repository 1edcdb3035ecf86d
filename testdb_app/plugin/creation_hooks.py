"""Hooks of runs whose test databases come from templates."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from typing import Any

import pytest
from django.db import connections

from testdb_app import _django_private as django_private
from testdb_app import guard
from testdb_app.creation.ahead import SpareMaker
from testdb_app.creation.progress import Progress, write_line
from testdb_app.creation.store import TemplateStore
from testdb_app.creation.template import Template
from testdb_app.creation.templates import (
    TemplateMaker,
    describe_use,
    find_for,
    find_obstacle,
    is_clone_cheap,
    open_store,
)
from testdb_app.plugin import options, transactional
from testdb_app.plugin._pytest_private import capture_suspended

_ALIASES = "testdb/aliases"
"""Where pytest's cache keeps the aliases that the last run made test databases for."""


class CreationHooks:
    """Has the test databases made from templates, ahead where that is possible."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        given: Any = config.option
        self.is_worker = options.is_worker(config)
        is_quiet = self.is_worker or given.verbose < 0
        # The reporter of a worker of xdist writes nowhere.
        self.reporter: Any = None if self.is_worker else config.pluginmanager.getplugin("terminalreporter")
        has_bar = self.reporter is not None and self.reporter.isatty
        self.progress = Progress(self._write, draw=self._draw if has_bar else None, is_quiet=is_quiet)
        self.not_before = options.started(config) if given.create_db else 0.0
        # Workers of xdist make the databases, not their controller.
        self.makes_none = not self.is_worker and bool(getattr(given, "numprocesses", None))
        self.spares: SpareMaker | None = None
        aliases = self._aliases_of_last_run()
        # These options change the key, in a fixture.
        if aliases and not (self.makes_none or given.create_db or given.nomigrations):
            self.spares = SpareMaker(aliases, self._find)
        self.maker = TemplateMaker(self.progress, not_before=self.not_before, spares=self.spares)

    def _write(self, line: str) -> None:
        with capture_suspended(self.config):
            if self.reporter is None:
                write_line(line)
            else:
                self.reporter.ensure_newline()
                self.reporter.write_line(line)

    def _draw(self, text: str) -> None:
        with capture_suspended(self.config):
            self.reporter.write(text, flush=True)

    def _aliases_of_last_run(self) -> list[str]:
        cache = getattr(self.config, "cache", None)
        found = cache.get(_ALIASES, []) if cache is not None else []
        return [alias for alias in connections if alias in found]

    def _find(self, alias: str) -> tuple[TemplateStore, Template | None]:
        connection = connections[alias]
        store = open_store(connection)
        if connection.vendor != "postgresql" or find_obstacle(connection.creation) or store.find_obstacle():
            return store, None
        template, _ = find_for(store)
        if template is not None and self.config.option.reuse_db:
            # A kept database is reset if that is cheaper, and stays if it was not made from a template.
            if not is_clone_cheap(store, template):
                return store, None
            present = store.find_present(django_private.get_test_database_name(connection.creation))
            if present is not None and not present.is_clone:
                return store, None
        return store, template

    def pytest_report_header(self) -> list[str]:
        """Return what the workers of xdist will do: these have no header of their own."""
        lines = []
        for alias in self._aliases_of_last_run() if self.makes_none else ():
            # Tests that need no database run without a server.
            with suppress(Exception), open_store(connections[alias]) as store:
                if find_obstacle(connections[alias].creation) or store.find_obstacle():
                    continue
                template, why = find_for(store, not_before=self.not_before)
                lines.append(
                    describe_use(template) if template else f'the template of "{alias}" is to be built ({why})'
                )
        return [f"testdb: {line}" for line in lines]

    def pytest_report_collectionfinish(self) -> list[str]:
        """Return what was made while the tests were collected."""
        if self.spares is None or self.progress.is_quiet:
            return []
        found = self.spares.find_templates()
        self.progress.known = {alias: template.key for alias, template in found.items()}
        return [f"testdb: {describe_use(template)}" for template in found.values()]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, object, object]:
        """Make the test databases from templates when pytest-django sets them up."""
        if fixturedef.argname != "django_db_setup":
            return (yield)
        blocker = request.getfixturevalue("django_db_blocker")
        transactional.before_the_databases(self.config, blocker, restores=False)
        with guard.made_by(self.maker), transactional.setting_up_databases(self.config):
            result = yield
        used = sorted(self.maker.aliases)
        cache = getattr(self.config, "cache", None)
        if cache is not None and used != self._aliases_of_last_run():
            cache.set(_ALIASES, used)
        return result

    def pytest_unconfigure(self) -> None:
        """Note the use of the templates, and drop what is not needed any more."""
        self.maker.finish()
        if self.spares is not None:
            self.spares.close()
