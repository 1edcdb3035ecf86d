"""A test runner for ``manage.py test`` that captures the baseline as soon as the test databases are there.

``TEST_RUNNER = "testdb_app.runner.ResetDiscoverRunner"``, or :class:`ResetRunnerMixin` before a runner of one's own.
"""

from __future__ import annotations

import logging
import os
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import TestSuite

from django.db import Error, connections
from django.test import TestCase, TransactionTestCase
from django.test import utils as django_utils
from django.test.runner import DiscoverRunner, ParallelTestSuite
from django.test.utils import get_unique_databases_and_mirrors

from testdb_app.database_setup import (
    check_set_up,
    forget_test_databases,
    prepare_test_databases,
    restore_kept_databases,
)
from testdb_app.exceptions import TestDBError
from testdb_app.guard import close, setting_up_databases
from testdb_app.post_migrate import describe_uncalled_receivers
from testdb_app.testcases import ResetMixin, reset_all, resetting_all

# The type stubs leave it out.
_ITER_TEST_CASES: Any = django_utils.iter_test_cases  # type: ignore[attr-defined]

logger = logging.getLogger("testdb_app")

if TYPE_CHECKING:
    _Base = DiscoverRunner
else:
    _Base = object


@dataclass(frozen=True, slots=True)
class WorkerInitializer:
    """Does what *initialize* does when a worker of ``--parallel`` starts, and prepares the databases that it has to itself.

    *initialize* is the function of the project's own suite, or Django's. With *resets_all* every ``TransactionTestCase`` of the
    worker resets, as it does in this process. *needed* are the aliases that tests reset. It is pickled where workers are spawned.
    """

    initialize: Callable[..., Any]
    resets_all: bool
    needed: frozenset[str]

    def __call__(self, *arguments: Any, **options: Any) -> None:
        """Initialize the worker. The arguments are Django's; the seventh names the aliases that the tests use."""
        self.initialize(*arguments, **options)
        used = options.get("used_aliases") or (arguments[6] if len(arguments) > 6 else None)
        for alias in used if used is not None else connections:
            if not connections[alias].settings_dict["TEST"]["MIRROR"]:
                try:
                    prepare_test_databases([alias], needed=self.needed)
                except (TestDBError, Error) as error:
                    # A worker that fails here is started again without end. The first test that resets there says it, too.
                    logger.warning("Worker %d: %s", os.getpid(), error)
        if self.resets_all:
            reset_all()


def _parallel_suites(suite: Any) -> Iterator[ParallelTestSuite]:
    """Yield the suites of parallel processes: *suite* itself, as Django makes it, or those that a project has put into it."""
    if isinstance(suite, ParallelTestSuite):
        yield suite
    elif isinstance(suite, TestSuite):
        for part in suite:
            yield from _parallel_suites(part)


class ResetRunnerMixin(_Base):
    """Prepares the test databases for resets, after they were made and before the first test.

    With ``--keepdb`` they go back to their baselines before the migrations, so that rows of a killed run do not
    get into the one that is captured after them. Connections and pools are closed first: otherwise they still lead to the
    real database. ``reset_transaction_tests``, or the option ``--reset-transaction-tests``, has every ``TransactionTestCase`` of
    the project end with a reset to the baseline instead of a flush, without a change to it.

    Baselines are captured of the databases that tests reset: those in ``databases`` of the classes with :class:`ResetMixin`, or
    of every ``TransactionTestCase`` with that option. ``reset_aliases`` names others: those that test sessions reset.

    What the runner of one's own does stays: its suite of parallel processes, and what that does when a worker starts.
    """

    reset_transaction_tests: ClassVar[bool] = False
    reset_aliases: ClassVar[Collection[str]] = ()
    # Of the tests of this run; None until they are known.
    needed_aliases: frozenset[str] | None = None

    def __init__(self, *arguments: Any, reset_transaction_tests: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.resets_all = reset_transaction_tests or self.reset_transaction_tests

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Add the runner's options to those of ``manage.py test``."""
        super().add_arguments(parser)
        parser.add_argument(
            "--reset-transaction-tests",
            action="store_true",
            help="End every TransactionTestCase with a reset to the baseline, instead of a flush.",
        )

    def build_suite(self, *arguments: Any, **options: Any) -> TestSuite:
        """Build the suite, and have each worker of it prepare its databases after what it does when it starts."""
        suite = super().build_suite(*arguments, **options)
        self.needed_aliases = self._find_needed_aliases(suite)
        for parallel in _parallel_suites(suite):
            initialize: Any = parallel.init_worker
            # Django hands the function behind the method to the processes.
            prepared = MethodType(
                WorkerInitializer(initialize.__func__, self.resets_all, self.needed_aliases), parallel
            )
            parallel.init_worker = prepared
        return suite

    def get_databases(self, suite: Any) -> Any:
        """Return the aliases that tests use, and see which of them they reset: the suite may have grown."""
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

    def setup_databases(self, **kwargs: Any) -> Any:
        """Make the test databases, and capture their baselines, or go back to those that they have kept.

        Raises :class:`ConfigurationError` for a set-up with which none could be reset, before any is made.
        """
        aliases = kwargs.get("aliases")
        check_set_up(connections if aliases is None else aliases)
        forget_test_databases()
        for connection in connections.all(initialized_only=True):
            close(connection)
        if self.keepdb:
            databases, _ = get_unique_databases_and_mirrors(kwargs.get("aliases"))
            restore_kept_databases(aliases[0] for _, aliases in databases.values())
        with setting_up_databases(stays=bool(self.keepdb)):
            made = super().setup_databases(**kwargs)
        try:
            aliases = [connection.alias for connection, _, is_first in made if is_first]
            needed = aliases if self.needed_aliases is None else self.needed_aliases
            prepare_test_databases(aliases, needed=needed)
            if needed and (line := describe_uncalled_receivers()):
                self.log(f"testdb_app: {line}.")
        except BaseException:
            self.teardown_databases(made)
            raise
        return made

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        """Run the tests."""
        with resetting_all() if self.resets_all else nullcontext():
            return super().run_suite(suite, **kwargs)


class ResetDiscoverRunner(ResetRunnerMixin, DiscoverRunner):
    """Django's own runner, with the databases prepared for resets; see :class:`ResetRunnerMixin`."""
