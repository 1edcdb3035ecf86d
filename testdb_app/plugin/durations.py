"""The slowest resets, and what they reset: collected in each process, carried by the reports of tests, shown at the end."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testdb_app.report import ResetReport

_ATTRIBUTE = "testdb_resets"
_MOST_TABLES = 3


class SlowestResets:
    """A plugin of its own, registered where the report is asked for: the *most* slowest resets, or all of them with 0."""

    def __init__(self, most: int) -> None:
        from testdb_app.signals import reset_finished  # noqa: PLC0415 - Django is imported where it is used

        self._most = most
        # Of this process, until a report takes them along.
        self._noted: list[tuple[float, str]] = []
        # Of all processes: seconds, phase of which test, what was reset.
        self._collected: list[tuple[float, str, str]] = []
        reset_finished.connect(self._note, dispatch_uid=__name__)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        """Have the report of a phase of a test carry the resets of that phase, also from one process to another."""
        report = yield
        if self._noted:
            setattr(report, _ATTRIBUTE, [list(each) for each in self._noted])
            self._noted = []
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what the report carries."""
        where = f"{report.when} of {report.nodeid}"
        self._collected += [(seconds, where, what) for seconds, what in getattr(report, _ATTRIBUTE, ())]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show the slowest."""
        slowest = sorted(self._collected, key=lambda each: -each[0])
        shown = slowest[: self._most] if self._most else slowest
        terminalreporter.write_sep("=", f"slowest {len(shown)} of {len(slowest)} resets")
        for seconds, where, what in shown:
            terminalreporter.write_line(f"{seconds * 1000:8.2f} ms  {where}: {what}")

    def pytest_unconfigure(self) -> None:
        """Note no more: another run may follow in this process."""
        from testdb_app.signals import reset_finished  # noqa: PLC0415

        reset_finished.disconnect(dispatch_uid=__name__)

    def _note(self, report: ResetReport, **_: object) -> None:
        self._noted.append((report.seconds, _describe(report)))


def _describe(report: ResetReport) -> str:
    if not report.tables and not report.sequences:
        return f"{report.alias}, nothing was written"
    names = [f"{table.name.name}{'' if table.rows is None else f' {table.rows}'}" for table in report.tables]
    listed = ", ".join(names[:_MOST_TABLES]) + (
        f", {len(names) - _MOST_TABLES} more" if len(names) > _MOST_TABLES else ""
    )
    back = f", {report.restored} rows put back" if report.restored else ""
    attempts = f", {report.attempts} attempts" if report.attempts > 1 else ""
    return f"{report.alias}, {len(names)} tables ({listed}){back}, {len(report.sequences)} sequences{attempts}"
