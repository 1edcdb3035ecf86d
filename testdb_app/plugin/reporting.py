"""Reports of a run: the leak finder, and the slowest resets.

One cheap query shows whether anybody has committed. Only then are the written tables compared with the baseline. Moved
sequences are listed with leaked rows, and are no leak of their own: each insert moves one, rolled back or not.
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
    """Finds rows that tests and fixtures leave in the databases of *aliases*. With *fails* it raises, else it warns."""

    def __init__(self, aliases: list[str], blocker: Any, *, fails: bool) -> None:
        from testdb_app.signals import reset_finished  # noqa: PLC0415 - Django is imported where it is used

        self._fails = fails
        self._blocker = blocker
        self._databases = {alias: _DatabaseLeaks(alias) for alias in aliases}
        reset_finished.connect(self._note_reset, dispatch_uid=__name__)
        self.find_leaks()
        self._warn_of_unseen()

    def stop(self) -> None:
        """Stop checking."""
        from testdb_app.signals import reset_finished  # noqa: PLC0415

        reset_finished.disconnect(dispatch_uid=__name__)

    def _warn_of_unseen(self) -> None:
        """Warn, once, of the databases in which it cannot find leaks."""
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
            # The user's filter turns this warning into an error.
            raise LeakError(text, owner=who) from None

    def find_leaks(self) -> list[str]:
        """Return the leaks since the last check, one text for each database."""
        with self._blocker.unblock():
            return [text for database in self._databases.values() for text in database.find()]

    def _note_reset(self, using: str, report: ResetReport, **_: object) -> None:
        if using in self._databases and report.target == "baseline":
            self._databases[using].note_reset()


class _DatabaseLeaks:
    """The leaks in the database of one alias, and the position up to which they were reported."""

    def __init__(self, alias: str) -> None:
        from testdb_app.resetter import Resetter  # noqa: PLC0415

        self.alias = alias
        # One resetter, so that the schema is read once.
        self._resetter = Resetter(alias, to="baseline")
        self._position: Position | None = None
        self._was_reset = False
        # The differences from the baseline at that position.
        self._image: _Image = {}
        # The position at which all tables were compared, with the schema that the resetter has read.
        self._compared_at: Position | None = None
        # The reported changes of the schema. Rows cannot be compared after them.
        self._changes: set[str] = set()
        # The objects of the database, and the position at which they were read.
        self._objects: frozenset[str] | None = None
        self._objects_at: Position | None = None

    def note_reset(self) -> None:
        """Note that the leaked rows are gone. The position stays, so that its counts need not be read again."""
        self._was_reset, self._image = True, {}

    def find(self) -> Iterator[str]:
        """Yield the leaks since the last check."""
        from django.db import Error, connections  # noqa: PLC0415

        from testdb_app.backends import get_backend  # noqa: PLC0415

        connection = connections[self.alias]
        if connection.needs_rollback or connection.closed_in_transaction:
            return  # the next check reports it
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
                # New and removed objects were reported above.
                altered = [change for change in new if not change.endswith((" is new", " is gone"))]
                blind = "its rows cannot be compared until a reset, as its schema is another one"
                yield f"{self._name()}: {', '.join([*altered, blind])}"
        except (TestDBError, Error):
            return  # a table is locked, or the transaction broken: the next check reports it
        self._position, self._was_reset = position, False

    def _compare_objects(self, backend: BaseBackend, position: Position | None) -> str:
        """Describe the objects that were created or dropped. Reads them only if a catalog may have been written."""
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
        """Compare the tables written since the last check with the baseline; yield the new differences.

        All tables are compared if the counters do not show the written ones.
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
    """Read over a connection of our own, outside of open transactions."""
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
    """List the first names, tables before their indexes, sequences and triggers."""
    found = sorted(names, key=lambda name: (not name.startswith("table "), name))
    more = f" and {len(found) - _MOST_OBJECTS} more" if len(found) > _MOST_OBJECTS else ""
    return ", ".join(found[:_MOST_OBJECTS]) + more


_ATTRIBUTE = "testdb_resets"
_MOST_TABLES = 3


class SlowestResets:
    """Reports the *most* slowest resets of a run, or all with 0. A plugin object that is registered only for the option."""

    def __init__(self, most: int) -> None:
        from testdb_app.signals import reset_finished  # noqa: PLC0415 - Django is imported where it is used

        self._most = most
        # The resets of this process that no report carries yet.
        self._noted: list[tuple[float, str]] = []
        # Of all processes: seconds, the phase and the test, what was reset.
        self._collected: list[tuple[float, str, str]] = []
        reset_finished.connect(self._note, dispatch_uid=__name__)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        """Attach the resets of a test's phase to its report, which also travels between processes."""
        report = yield
        if self._noted:
            setattr(report, _ATTRIBUTE, [list(each) for each in self._noted])
            self._noted = []
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the resets of a report."""
        where = f"{report.when} of {report.nodeid}"
        self._collected += [(seconds, where, what) for seconds, what in getattr(report, _ATTRIBUTE, ())]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the slowest resets."""
        slowest = sorted(self._collected, key=lambda each: -each[0])
        shown = slowest[: self._most] if self._most else slowest
        terminalreporter.write_sep("=", f"slowest {len(shown)} of {len(slowest)} resets")
        for seconds, where, what in shown:
            terminalreporter.write_line(f"{seconds * 1000:8.2f} ms  {where}: {what}")

    def pytest_unconfigure(self) -> None:
        """Stop noting resets: another run may follow in this process."""
        from testdb_app.signals import reset_finished  # noqa: PLC0415

        reset_finished.disconnect(dispatch_uid=__name__)

    def _note(self, report: ResetReport, **_: object) -> None:
        self._noted.append((report.seconds, _describe_report(report)))


def _describe_report(report: ResetReport) -> str:
    end = f"{', full scan' if report.full_scan else ''}{f', {report.attempts} attempts' if report.attempts > 1 else ''}"
    if not report.tables and not report.sequences:
        return f"{report.alias}, nothing was written{end}"
    names = [f"{table.name.name}{'' if table.rows is None else f' {table.rows}'}" for table in report.tables]
    listed = ", ".join(names[:_MOST_TABLES]) + (
        f", {len(names) - _MOST_TABLES} more" if len(names) > _MOST_TABLES else ""
    )
    back = f", {report.restored} rows put back" if report.restored else ""
    tables = f"{len(names)} tables ({listed})" if names else "0 tables"
    return f"{report.alias}, {tables}{back}, {len(report.sequences)} sequences{end}"


class LeakWarning(pytest.PytestWarning):
    """A test or a fixture leaked rows into the database."""

    __module__ = "testdb_app.pytest_plugin"
