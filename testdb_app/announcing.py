"""What follows a reset: caches forget what they know of the rows that changed, and whoever listens is told."""

from __future__ import annotations

import logging
import warnings

from testdb_app.caches import clear_caches
from testdb_app.report import ResetReport
from testdb_app.schema import QualifiedName
from testdb_app.signals import database_reset, reset_finished

logger = logging.getLogger("testdb_app")

# Materialized views that this process has named, with their databases.
_named: set[tuple[str, QualifiedName]] = set()


def announce(sender: type, report: ResetReport) -> None:
    """Clear caches over the tables of *report*, and send the signals of :mod:`testdb_app.signals` from *sender*."""
    if report.tables:
        tables = frozenset(table.name for table in report.tables)
        clear_caches(tables)
        database_reset.send(sender, using=report.alias, tables=tables, report=report)
    reset_finished.send(sender, using=report.alias, report=report)


def warn_of_stale_views(report: ResetReport) -> None:
    """Name the materialized views over the tables that were reset, each once in a process."""
    views = [view for view in report.stale_views if (report.database, view) not in _named]
    if not views:
        return
    _named.update((report.database, view) for view in views)
    listed = ", ".join(map(str, views))
    message = (
        f'Resets of database "{report.database}" (alias "{report.alias}") do not refresh its materialized views over the tables '
        f"that they reset: {listed}. A view that a test has refreshed goes on showing the rows of that test. Run REFRESH "
        f"MATERIALIZED VIEW {views[0]} at the end of such a test, or in a receiver of testdb_app.signals.database_reset."
    )
    try:
        warnings.warn(message, stacklevel=2)
    except UserWarning:
        # The reset is done, and a view is no reason to have it fail where warnings are errors.
        logger.warning("%s", message)
