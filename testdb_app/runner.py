"""A test runner for ``manage.py test`` that captures the baseline as soon as the test databases are there.

``TEST_RUNNER = "testdb_app.runner.ResetDiscoverRunner"``, or :class:`ResetRunnerMixin` before a runner of one's own.
"""

from __future__ import annotations

from argparse import ArgumentParser
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from django.db import connections
from django.test import runner as django_runner
from django.test.runner import DiscoverRunner, ParallelTestSuite
from django.test.utils import get_unique_databases_and_mirrors

from testdb_app.preparing import close, forget_test_databases, prepare_test_database, restore_kept_databases
from testdb_app.testcases import reset_all, resetting_all

if TYPE_CHECKING:
    _Base = DiscoverRunner
else:
    _Base = object

# The type stubs leave out what is hooked into.
_DJANGO: Any = django_runner


def init_worker(*arguments: Any, **options: Any) -> None:
    """Do what Django does when a worker of ``--parallel`` starts, and prepare the databases that it has to itself."""
    _DJANGO._init_worker(*arguments, **options)
    used = options.get("used_aliases") or (arguments[6] if len(arguments) > 6 else None)
    for alias in used if used is not None else connections:
        if not connections[alias].settings_dict["TEST"]["MIRROR"]:
            prepare_test_database(alias)


def init_resetting_worker(*arguments: Any, **options: Any) -> None:
    """Do that, and have every ``TransactionTestCase`` reset: a worker that is spawned knows nothing of it yet."""
    init_worker(*arguments, **options)
    reset_all()


class PreparingTestSuite(ParallelTestSuite):
    """Django's suite in parallel processes, each with baselines of its own."""

    init_worker = init_worker


class ResettingTestSuite(ParallelTestSuite):
    """The same, for the option ``--reset-transaction-tests``."""

    init_worker = init_resetting_worker


class ResetRunnerMixin(_Base):
    """Prepares the test databases for resets, after they were made and before the first test.

    With ``--keepdb`` they go back to their baselines before the migrations, so that rows of a killed run do not
    get into the one that is captured after them. Connections and pools are closed first: they would go on leading to the real
    database. ``reset_transaction_tests``, or the option ``--reset-transaction-tests``, has every ``TransactionTestCase`` of the
    project end by a reset to the baseline instead of a flush, without a change to it.
    """

    reset_transaction_tests: ClassVar[bool] = False
    parallel_test_suite: type[ParallelTestSuite] = PreparingTestSuite

    def __init__(self, *arguments: Any, reset_transaction_tests: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.resets_all = reset_transaction_tests or self.reset_transaction_tests
        if self.resets_all and self.parallel_test_suite is PreparingTestSuite:
            self.parallel_test_suite = ResettingTestSuite

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Add the runner's options to those of ``manage.py test``."""
        super().add_arguments(parser)
        parser.add_argument(
            "--reset-transaction-tests",
            action="store_true",
            help="End every TransactionTestCase by a reset to the baseline, instead of a flush.",
        )

    def setup_databases(self, **kwargs: Any) -> Any:
        """Make the test databases, and capture their baselines, or go back to those that they have kept."""
        forget_test_databases()
        for connection in connections.all(initialized_only=True):
            close(connection)
        if self.keepdb:
            databases, _ = get_unique_databases_and_mirrors(kwargs.get("aliases"))
            restore_kept_databases(aliases[0] for _, aliases in databases.values())
        made = super().setup_databases(**kwargs)
        try:
            for connection, _, is_first in made:
                if is_first:
                    prepare_test_database(connection.alias)
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
