"""Measure what runs in one thread, and count the statements and rows that Django sends meanwhile.

The time of a fixture is that of its function, and of its end after a ``yield``. Rows are counted by what the driver reports
for ``INSERT`` and ``COPY``. Not counted: rows of triggers and of database functions, of a statement after the first in one
string, of psycopg 2's ``copy_expert()``, and of other threads, unless a factory runs there.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from testdb_app.plugin.profile import FixtureRecord

# The beginning of a statement that writes, and the table: its schema, or None, and its name.
_NAME = r'("(?:[^"]|"")+"|`[^`]+`|[^\W\d][\w$]*)'
_WRITES = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
    r"(?:(?P<inserts>insert\s+(?:or\s+\w+\s+)?into|replace\s+into|copy(?=.*\bfrom\b))|update(?:\s+or\s+\w+)?|delete\s+from)\s+(?:only\s+)?"
    rf"(?:{_NAME}\s*\.\s*)?{_NAME}",
    re.IGNORECASE | re.DOTALL,
)


class Frame:
    """A call that is measured: its time, that of the calls inside it, and what it wrote."""

    def __init__(self, record: Any) -> None:
        self.record = record
        self.started = self.nested = 0.0
        self.clear()

    def clear(self) -> None:
        """Forget what it wrote."""
        self.statements = self.changed = 0
        self.rows: dict[str, int] = {}


class Making(Frame):
    """One making of a fixture. ``needs`` is everything that it depends on, ``users`` are the records that depend on it.

    ``test`` is the number of the test that it was made for. ``variant`` are its parameters and those of what it needs.
    """

    def __init__(self, record: FixtureRecord, test: int, needs: Iterable[Making] = ()) -> None:
        super().__init__(record)
        self.test = test
        self.own_seconds = 0.0
        self.needs: dict[Making, None] = {}
        self.users: list[FixtureRecord] = []
        self.variant: frozenset[tuple[str, Hashable]] = frozenset()
        # Whether it was the first of its class and of its module. None if it could not have been shared.
        self.first: tuple[bool, bool] | None = None
        for each in needs:
            self.add_need(each)

    def add_need(self, other: Making) -> None:
        """Note that it depends on *other*, and on all that this one needs."""
        self.needs[other] = None
        self.needs.update(other.needs)
        self.variant |= other.variant

    def finish(self, seconds: float, *, failed: bool) -> None:
        """Add its set-up to the record: *seconds* of its own, and those of what was made for it in the same test."""
        record: FixtureRecord = self.record
        self.own_seconds = seconds
        record.made += 1
        record.failed += failed
        record.own_seconds += seconds
        record.seconds += seconds
        for other in self.needs:
            if other.test == self.test:
                record.seconds += other.own_seconds
                other.users.append(record)
        self.add_written()

    def finish_end(self, seconds: float) -> None:
        """Add its end, after the ``yield``, to the record and to those that depend on it."""
        for record in (self.record, *self.users):
            record.seconds += seconds
        self.record.own_seconds += seconds
        if self.first is not None:
            self.record.add_shareable_seconds(seconds, self.first)
        self.add_written()

    def add_written(self) -> None:
        """Add what it wrote to the record, and forget it."""
        if self.statements:
            self.record.statements += self.statements
            self.record.changed += self.changed
            self.record.rows.update(self.rows)
            self.clear()


class Recorder:
    """Measures the calls of one thread, and counts the statements that Django sends meanwhile.

    The wrapper that counts is on the connections only while something is measured.
    """

    def __init__(self) -> None:
        self.fixtures: list[Making] = []
        self.factories: list[Frame] = []
        # Those whose rows are written now.
        self._targets: list[Frame] = []
        self._watched: list[Any] = []
        # An INSERT that has not reported its rows yet: those of RETURNING on SQLite are known once they were fetched.
        self._pending: tuple[Any, str, list[Frame]] | None = None

    def begin(self, frame: Frame, stack: list[Any]) -> None:
        """Begin to measure *frame*, and put it on *stack*, one of the two."""
        if not self.fixtures and not self.factories:
            self._watch()
        self._settle()
        stack.append(frame)
        self._find_targets()
        frame.nested = 0.0
        frame.started = time.perf_counter()

    def end(self, frame: Frame, stack: list[Any]) -> tuple[float, float]:
        """Take *frame* off *stack*. Return the seconds that it took in all, and without the calls inside it."""
        seconds = time.perf_counter() - frame.started
        self._settle()
        if frame in stack:
            del stack[stack.index(frame) :]
            self._find_targets()
        if stack:
            stack[-1].nested += seconds
        if not self.fixtures and not self.factories:
            self._unwatch()
        return seconds, seconds - frame.nested

    def note(self, statement: str, count: int) -> None:
        """Count a statement that no execute wrapper sees, and its rows."""
        for frame in self._targets:
            frame.statements += 1
        _note_rows(self._targets, statement, count)

    def _find_targets(self) -> None:
        """Note whose rows are written from now on: those of the innermost fixture, and of the outermost factory."""
        self._targets = [*self.fixtures[-1:], *self.factories[:1]]

    def _watch(self) -> None:
        from django.db import connections  # noqa: PLC0415 - Django is imported where it is used

        from testdb_app._django_private import get_connection_storage  # noqa: PLC0415

        # As connections.all(initialized_only=True), in half the time.
        storage = get_connection_storage()
        for alias in connections.settings:
            connection = getattr(storage, alias, None)
            if connection is not None:
                # Not at the end: execute_wrapper() removes the last wrapper when it is left.
                connection.execute_wrappers.insert(0, self._execute)
                self._watched.append(connection)

    def _unwatch(self) -> None:
        for connection in self._watched:
            if self._execute in connection.execute_wrappers:
                connection.execute_wrappers.remove(self._execute)
        self._watched.clear()

    def _execute(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        """Count a statement; an execute wrapper."""
        if self._pending is not None:
            self._settle()
        targets = self._targets
        for frame in targets:
            frame.statements += 1
        result = execute(sql, params, many, context)
        cursor = context["cursor"]
        text = sql if isinstance(sql, str) else text_of(sql, context["connection"].connection)
        if not _note_rows(targets, text, cursor.rowcount):
            self._pending = cursor, text, targets
        return result

    def _settle(self) -> None:
        if self._pending is not None:
            (cursor, text, targets), self._pending = self._pending, None
            _note_rows(targets, text, cursor.rowcount)


def _note_rows(frames: Iterable[Frame], sql: str, count: int) -> bool:
    """Count the rows of a statement. Return False if it writes, and has reported none yet."""
    table, inserts = _find_written(sql)
    if table is None:
        return True
    if count < 1:
        return False
    for frame in frames:
        if inserts:
            frame.rows[table] = frame.rows.get(table, 0) + count
        else:
            frame.changed += count
    return True


@functools.lru_cache(maxsize=1024)
def _find_written(sql: str) -> tuple[str | None, bool]:
    """Return the table that a statement writes to, None if it does not, and whether it inserts."""
    found = _WRITES.match(sql)
    if found is None:
        return None, False
    names = (part.strip('"`').replace('""', '"') for part in found.groups()[1:] if part)
    return ".".join(names), bool(found["inserts"])


def text_of(sql: Any, raw: Any) -> str:
    """Return the text of a statement that is composed or in bytes. *raw* is the driver's connection."""
    if hasattr(sql, "as_string"):
        return str(sql.as_string(raw))
    return sql.decode(errors="replace") if isinstance(sql, bytes) else str(sql)
