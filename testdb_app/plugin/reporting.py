"""Reporting: the leak finder, and the slowest resets.

One cheap query tells whether anybody has committed at all; only then what was written is compared with the baseline.
A sequence that has moved is told with rows that were left, and is no leak of its own: each insert moves one, rolled back or not.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from testdb_app.baseline_state import RowChanges
from testdb_app.exceptions import BaselineError, LeakError, TestDBError

if TYPE_CHECKING:
    from testdb_app.backends.base import BaseBackend, Position
    from testdb_app.report import ResetReport
    from testdb_app.schema import QualifiedName

_MOST_OBJECTS = 8

_Image = dict[str, tuple[int, int, int]]
"""The tables that differ from the baseline: rows more, changed, missing."""


class LeakFinder:
    """Looks for rows that were left in the databases of *aliases*, from now on. *fails*: by an error, else by a warning."""

    def __init__(self, aliases: list[str], blocker: Any, *, fails: bool) -> None:
        from testdb_app.signals import reset_finished  # noqa: PLC0415 - Django is imported where it is used

        self._fails = fails
        self._blocker = blocker
        self._databases = {alias: _DatabaseLeaks(alias) for alias in aliases}
        reset_finished.connect(self._note_reset, dispatch_uid=__name__)
        self.find_leaks()
        self._warn_of_unseen()

    def stop(self) -> None:
        """Check no longer."""
        from testdb_app.signals import reset_finished  # noqa: PLC0415

        reset_finished.disconnect(dispatch_uid=__name__)

    def _warn_of_unseen(self) -> None:
        """Warn, once, of the databases in which rows that are left cannot be seen."""
        from testdb_app.database_setup import find_obstacle  # noqa: PLC0415

        for alias in self._databases:
            obstacle = find_obstacle(alias)
            if obstacle is not None:
                text = f'Rows that are left in the database of the alias "{alias}" cannot be seen: {obstacle}'
                warnings.warn(LeakWarning(text), stacklevel=2)

    def check(self, node: Any, who: str, function: Any = None) -> None:
        """Report what *who* has left since the last check: a warning, or an error.

        The warning has the line of *function*, a fixture, or of the test *node*.
        """
        found = self.find_leaks()
        if not found:
            return
        text = (
            f"{who} leaked rows into the database: {'; '.join(found)}. No fixture rolls back what is committed: use "
            "reset_db, ResetTransactionTestCase or a scope of reset_db_…, or make the rows in a scope of db_…."
        )
        if self._fails:
            raise LeakError(text, owner=who)
        code = getattr(inspect.unwrap(function), "__code__", None) if function is not None else None
        try:
            if code is None:
                node.warn(LeakWarning(text))
            else:
                warnings.warn_explicit(LeakWarning(text), LeakWarning, code.co_filename, code.co_firstlineno)
        except LeakWarning:
            # A filter of the user's makes errors of warnings.
            raise LeakError(text, owner=who) from None

    def find_leaks(self) -> list[str]:
        """Return what was left since the last check, a text for each database."""
        with self._blocker.unblock():
            return [text for database in self._databases.values() for text in database.find()]

    def _note_reset(self, using: str, report: ResetReport, **_: object) -> None:
        if using in self._databases and report.target == "baseline":
            self._databases[using].note_reset()


class _DatabaseLeaks:
    """What was left in the database of one alias, and up to which position that was reported."""

    def __init__(self, alias: str) -> None:
        from testdb_app.resetter import Resetter  # noqa: PLC0415

        self.alias = alias
        # Kept, as it reads the schema once.
        self._resetter = Resetter(alias, to="baseline")
        self._position: Position | None = None
        self._was_reset = False
        # What differed from the baseline at that position.
        self._image: _Image = {}
        # The position at which all tables were compared, and the resetter knew the schema.
        self._compared_at: Position | None = None
        # What was reported of the schema, with which there is nothing to compare rows with.
        self._changes: set[str] = set()
        # What there was, and the position up to which that is known.
        self._objects: frozenset[str] | None = None
        self._objects_at: Position | None = None

    def note_reset(self) -> None:
        """Take what was left for gone. The position stays: its counts need not be read again where nothing was written."""
        self._was_reset, self._image = True, {}

    def find(self) -> Iterator[str]:
        """Tell what was left since the last check."""
        from django.db import Error, connections  # noqa: PLC0415

        from testdb_app.backends import get_backend  # noqa: PLC0415

        connection = connections[self.alias]
        if connection.needs_rollback or connection.closed_in_transaction:
            return  # the next check will tell
        backend, since = get_backend(connection), self._position
        try:
            position, may_differ = backend.look_for_commits(connection, since)
            objects = self._compare_objects(backend, position) if may_differ else ""
            if objects:
                yield f"{self._name()}: {objects}"
            if may_differ and since is not None and not self._was_reset:
                yield from self._compare_rows(backend, since, position)
        except BaselineError as error:
            new = [change for change in error.changes if change not in self._changes]
            self._changes.update(new)
            if new:
                # What came or went is told already, with what has no rows.
                altered = [change for change in new if not change.endswith((" is new", " is gone"))]
                blind = "its rows cannot be compared until a reset, as its schema is another one"
                yield f"{self._name()}: {', '.join([*altered, blind])}"
        except (TestDBError, Error):
            return  # it is locked, or broken: the next check will tell
        self._position, self._was_reset = position, False

    def _compare_objects(self, backend: BaseBackend, position: Position | None) -> str:
        """Tell which tables, sequences, triggers and the like came or went. Reads them where a catalog may have been written."""
        from django.db import connections  # noqa: PLC0415

        before = self._objects
        if before is not None and backend.is_schema_same(self._objects_at, position):
            return ""
        with _own_connection(self.alias):
            now = self._objects = backend.read_objects(connections[self.alias])
        self._objects_at = position
        if before is None:
            return ""
        told = [(f"left {_listed(now - before)}", now - before), (f"took away {_listed(before - now)}", before - now)]
        return ", ".join(text for text, names in told if names)

    def _compare_rows(self, backend: BaseBackend, since: Position, position: Position | None) -> Iterator[str]:
        """Compare with the baseline what was written since the last check; tell what differs, and did not before.

        All tables are compared unless the counters show which were written.
        """
        before, written = self._image, backend.find_written(since, position)
        if written is not None and backend.is_schema_same(self._compared_at, position):
            changes = self._resetter.count_changes(written)
            if changes is not None:
                image = before | _image(changes)
                if not self._describe(before, image, []):
                    self._image = image
                    return
        with _own_connection(self.alias):
            preview = self._resetter.plan()
        rows = {name: RowChanges(removed=count) for name, count in preview.rows.items() if count}
        self._image, self._compared_at = _image(rows | dict(preview.changes)), position
        yield from self._describe(before, self._image, [str(name) for name in preview.plan.sequences])

    def _describe(self, before: _Image, after: _Image, moved: list[str]) -> list[str]:
        parts = []
        for table in sorted({*before, *after}):
            were, are = before.get(table, (0, 0, 0)), after.get(table, (0, 0, 0))
            changes = [
                f"{number - old} {what}"
                for number, old, what in zip(are, were, ("more", "changed", "missing"), strict=True)
                if number > old
            ]
            if changes:
                parts.append(f"{table} ({', '.join(changes)})")
        sequences = f", sequences moved: {', '.join(moved)}" if moved else ""
        return [f"{self._name()}: {', '.join(parts)}{sequences}"] if parts else []

    def _name(self) -> str:
        from django.db import connections  # noqa: PLC0415

        return f'database "{connections[self.alias].settings_dict["NAME"]}" (alias "{self.alias}")'


def _image(changes: Mapping[QualifiedName, RowChanges]) -> _Image:
    return {str(name): (each.removed, each.updated, each.inserted) for name, each in changes.items()}


@contextmanager
def _own_connection(alias: str) -> Iterator[None]:
    """Read from outside of the transactions that are open, over a connection of our own."""
    from django.db import connections  # noqa: PLC0415

    own = connections[alias]
    if not own.in_atomic_block or own.vendor == "sqlite":
        yield
        return
    connections[alias] = own.copy()
    try:
        yield
    finally:
        connections[alias].close()
        connections[alias] = own


def _listed(names: Iterable[str]) -> str:
    """List some, tables first: their indexes, sequences and triggers follow from these."""
    found = sorted(names, key=lambda name: (not name.startswith("table "), name))
    more = f" and {len(found) - _MOST_OBJECTS} more" if len(found) > _MOST_OBJECTS else ""
    return ", ".join(found[:_MOST_OBJECTS]) + more


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
        self._noted.append((report.seconds, _describe_report(report)))


def _describe_report(report: ResetReport) -> str:
    if not report.tables and not report.sequences:
        return f"{report.alias}, nothing was written"
    names = [f"{table.name.name}{'' if table.rows is None else f' {table.rows}'}" for table in report.tables]
    listed = ", ".join(names[:_MOST_TABLES]) + (
        f", {len(names) - _MOST_TABLES} more" if len(names) > _MOST_TABLES else ""
    )
    back = f", {report.restored} rows put back" if report.restored else ""
    attempts = f", {report.attempts} attempts" if report.attempts > 1 else ""
    return f"{report.alias}, {len(names)} tables ({listed}){back}, {len(report.sequences)} sequences{attempts}"


class LeakWarning(pytest.PytestWarning):
    """Rows were left where other tests see them, by the test or the fixture that it names."""

    __module__ = "testdb_app.pytest_plugin"
