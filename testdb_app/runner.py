"""A test runner for ``manage.py test`` that captures the baselines as soon as the test databases exist.

Set ``TEST_RUNNER = "testdb_app.runner.ResetDiscoverRunner"``, or name :class:`ResetRunnerMixin` before your own runner class.
"""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import TestSuite

from django.core.management.base import CommandError
from django.db import Error, connections
from django.test import TestCase, TransactionTestCase
from django.test import utils as django_utils
from django.test.runner import DiscoverRunner, ParallelTestSuite
from django.test.utils import get_unique_databases_and_mirrors

from testdb_app.conf import get_settings
from testdb_app.database_setup import (
    check_set_up,
    forget_test_databases,
    prepare_test_databases,
    restore_kept_databases,
)
from testdb_app.exceptions import TestDBError
from testdb_app.guard import close, made_by, setting_up_databases
from testdb_app.post_migrate import describe_uncalled_receivers
from testdb_app.testcases import ResetMixin, check_is_before, reset_all, resetting_all

# The type stubs leave it out.
_ITER_TEST_CASES: Any = django_utils.iter_test_cases  # type: ignore[attr-defined]

logger = logging.getLogger("testdb_app")

if TYPE_CHECKING:
    _Base = DiscoverRunner
else:
    _Base = object


@dataclass(frozen=True, slots=True)
class WorkerInitializer:
    """Calls *initialize* when a worker of ``--parallel`` starts, and then prepares the worker's own databases.

    *initialize* is the function of the project's own suite, or Django's. With *resets_all*, every ``TransactionTestCase`` of
    the worker resets, as in this process. *needed* are the aliases that tests reset. Spawned workers get it pickled.
    """

    initialize: Callable[..., Any]
    resets_all: bool
    needed: frozenset[str]

    def __call__(self, *arguments: Any, **options: Any) -> None:
        """Initialize the worker. The arguments are Django's; the seventh holds the aliases that the tests use."""
        self.initialize(*arguments, **options)
        used = options.get("used_aliases") or (arguments[6] if len(arguments) > 6 else None)
        for alias in used if used is not None else connections:
            if not connections[alias].settings_dict["TEST"]["MIRROR"]:
                try:
                    prepare_test_databases([alias], needed=self.needed)
                except (TestDBError, Error) as error:
                    # A worker that fails here is started again without end. The first test that resets there raises the error.
                    logger.warning("Worker %d: %s", os.getpid(), error)
        if self.resets_all:
            reset_all()


def _parallel_suites(suite: Any) -> Iterator[ParallelTestSuite]:
    """Yield the parallel suites: *suite* itself, as Django makes it, or those that a project has put into it."""
    if isinstance(suite, ParallelTestSuite):
        yield suite
    elif isinstance(suite, TestSuite):
        for part in suite:
            yield from _parallel_suites(part)


class ResetRunnerMixin(_Base):
    """Prepares the test databases for resets, after they were made and before the first test.

    With ``--keepdb``, the databases are reset to their baselines before the migrations. So rows of a killed run do not get
    into the baseline that is captured after them. Connections and pools are closed first: otherwise they still lead to the
    real database. With ``reset_transaction_tests``, or the option ``--reset-transaction-tests``, every
    ``TransactionTestCase`` of the project ends with a reset to the baseline instead of a flush. The tests stay unchanged.

    Baselines are captured for the databases that tests reset. These are in ``databases`` of the classes with
    :class:`ResetMixin`, or of every ``TransactionTestCase`` with that option. ``reset_aliases`` adds others, such as those
    that test sessions reset.

    Your own runner's suite of parallel processes is kept, and so is what it does when a worker starts.
    """

    reset_transaction_tests: ClassVar[bool] = False
    reset_aliases: ClassVar[Collection[str]] = ()
    # The aliases that tests of this run reset; None until the tests are loaded.
    needed_aliases: frozenset[str] | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Raise :class:`ConfigurationError` for a runner that names the mixin after Django's runner: it would do nothing."""
        super().__init_subclass__(**options)
        described = "django.test.runner.DiscoverRunner, and before your own runner, among its bases"
        check_is_before(cls, ResetRunnerMixin, DiscoverRunner, described)

    def __init__(
        self,
        *arguments: Any,
        reset_transaction_tests: bool = False,
        testdb_templates: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.resets_all = reset_transaction_tests or self.reset_transaction_tests
        self._templates = testdb_templates
        self._finish_templates: Callable[[], None] = lambda: None

    @property
    def uses_templates(self) -> bool:
        """Whether test databases come from templates: the option, or ``TESTDB["TEMPLATES"]`` without one."""
        return get_settings().templates if self._templates is None else self._templates

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Add the runner's options to those of ``manage.py test``."""
        super().add_arguments(parser)
        parser.add_argument(
            "--reset-transaction-tests",
            action="store_true",
            help="End every TransactionTestCase with a reset to the baseline, instead of a flush.",
        )
        parser.add_argument(
            "--testdb-templates",
            action=BooleanOptionalAction,
            default=None,
            help='Clone the test databases from a template, so that migrations run once. Default: TESTDB["TEMPLATES"].',
        )

    def build_suite(self, *arguments: Any, **options: Any) -> TestSuite:
        """Build the suite, and make each of its workers prepare its databases after its own initialization."""
        suite = super().build_suite(*arguments, **options)
        self.needed_aliases = self._find_needed_aliases(suite)
        for parallel in _parallel_suites(suite):
            initialize: Any = parallel.init_worker
            # Django passes the function behind the method to the processes.
            prepared = MethodType(
                WorkerInitializer(initialize.__func__, self.resets_all, self.needed_aliases), parallel
            )
            parallel.init_worker = prepared
        return suite

    def get_databases(self, suite: Any) -> Any:
        """Return the aliases that tests use. Also find again those that tests reset: the suite may have grown."""
        self.needed_aliases = self._find_needed_aliases(suite)
        return super().get_databases(suite)

    def _find_needed_aliases(self, suite: Any) -> frozenset[str]:
        kind = TransactionTestCase if self.resets_all else ResetMixin
        found = set(self.reset_aliases)
        for test in _ITER_TEST_CASES(suite):
            if isinstance(test, kind) and not isinstance(test, TestCase):
                databases: Any = test.databases
                found.update(connections if databases == "__all__" else databases)
        return frozenset(found)

    def run_tests(self, *arguments: Any, **options: Any) -> Any:
        """Run the tests. An error of this package around them is a ``CommandError``, printed in one line."""
        try:
            return super().run_tests(*arguments, **options)
        except TestDBError as error:
            raise CommandError(str(error)) from error

    def setup_databases(self, **kwargs: Any) -> Any:
        """Make the test databases, and capture their baselines, or reset kept databases to theirs.

        Raises :class:`ConfigurationError`, before any database is made, for a set-up that prevents every reset.
        """
        aliases = kwargs.get("aliases")
        check_set_up(connections if aliases is None else aliases)
        forget_test_databases()
        for connection in connections.all(initialized_only=True):
            close(connection)
        if self.keepdb and not self.uses_templates:
            databases, _ = get_unique_databases_and_mirrors(kwargs.get("aliases"))
            restore_kept_databases(aliases[0] for _, aliases in databases.values())
        with self._from_templates(), setting_up_databases(stays=bool(self.keepdb)):
            made = super().setup_databases(**kwargs)
        try:
            aliases = [connection.alias for connection, _, is_first in made if is_first]
            needed = aliases if self.needed_aliases is None else self.needed_aliases
            prepare_test_databases(aliases, needed=needed)
            if needed and self.resets_all:
                self.log("testdb_app: transactional tests reset to the baseline")
            if needed and (line := describe_uncalled_receivers()):
                self.log(f"testdb_app: {line}.")
        except BaseException:
            self.teardown_databases(made)
            raise
        return made

    @contextmanager
    def _from_templates(self) -> Iterator[None]:
        """Have the test databases come from templates, if that is switched on."""
        if not self.uses_templates:
            yield
            return
        from testdb_app.creation.progress import Progress, find_terminal  # noqa: PLC0415 - only a run that uses templates imports this
        from testdb_app.creation.templates import TemplateMaker  # noqa: PLC0415

        def write(line: str) -> None:
            if self.verbosity > 0:
                self.log(line)

        maker = TemplateMaker(Progress(write, draw=find_terminal(sys.stderr) if self.verbosity > 0 else None))
        self._finish_templates = maker.finish
        with made_by(maker):
            yield

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        """Drop the test databases, and store the use of their templates."""
        super().teardown_databases(old_config, **kwargs)
        self._finish_templates()

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        """Run the tests, with resets in place of flushes if that is switched on."""
        with resetting_all() if self.resets_all else nullcontext():
            return super().run_suite(suite, **kwargs)


class ResetDiscoverRunner(ResetRunnerMixin, DiscoverRunner):
    """Django's own runner, with the databases prepared for resets; see :class:`ResetRunnerMixin`."""
