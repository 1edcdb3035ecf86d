"""What follows a reset: caches forget what they know of the rows that changed, and whoever listens is told."""

from __future__ import annotations

from testdb_app.caches import clear_caches
from testdb_app.report import ResetReport
from testdb_app.signals import database_reset, reset_finished


def announce(sender: type, report: ResetReport) -> None:
    """Clear caches over the tables of *report*, and send the signals of :mod:`testdb_app.signals` from *sender*."""
    if report.tables:
        tables = frozenset(table.name for table in report.tables)
        clear_caches(tables)
        database_reset.send(sender, using=report.alias, tables=tables, report=report)
    reset_finished.send(sender, using=report.alias, report=report)
