"""The profile of fixtures and factories: how often each wrote rows, how long that took, and what sharing would save.

:class:`Profile` adds up and renders, and knows nothing of pytest. :class:`Recorder` measures what runs in one thread.
:class:`FixtureProfiler` has the hooks; it is registered only for its options.

The time of a fixture is that of its function, and of its end after a ``yield``. Rows are counted by what the driver reports
for ``INSERT`` and ``COPY``. Not counted: rows of triggers and of database functions, of a statement after the first in one
string, of psycopg 2's ``copy_expert()``, and of other threads, unless a factory runs there.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import shutil
import sys
import threading
import time
import unittest
from collections import Counter
from collections.abc import Callable, Collection, Generator, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from testdb_app.plugin import options, requests
from testdb_app.plugin._pytest_private import (
    fixtures_set_up,
    item_of,
    set_up_method_of,
)
from testdb_app.plugin.sharing import is_inert, why_not_shared

_WORKER_KEY = "testdb_profile"
_VERSION = 1
_INDENT = " " * 4
_WRITES_NO_ROWS = "writes no rows"

# The beginning of a statement that writes, and the table: its schema, or None, and its name.
_NAME = r'("(?:[^"]|"")+"|`[^`]+`|[^\W\d][\w$]*)'
_WRITES = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
    r"(?:(?P<inserts>insert\s+(?:or\s+\w+\s+)?into|replace\s+into|copy(?=.*\bfrom\b))|update(?:\s+or\s+\w+)?|delete\s+from)\s+(?:only\s+)?"
    rf"(?:{_NAME}\s*\.\s*)?{_NAME}",
    re.IGNORECASE | re.DOTALL,
)


class _Record:
    """What is added up for one name. ``IDENTITY``, ``SUMS`` and ``COUNTS`` are its attributes, of which the last are counters."""

    IDENTITY: ClassVar[tuple[str, ...]]
    SUMS: ClassVar[tuple[str, ...]]
    COUNTS: ClassVar[tuple[str, ...]]
    rows: Counter[str]

    def __init__(self, *identity: str) -> None:
        for name, value in zip(self.IDENTITY, identity, strict=True):
            setattr(self, name, value)
        for name in self.SUMS:
            setattr(self, name, 0)
        for name in self.COUNTS:
            setattr(self, name, Counter())

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the record of another process, as :meth:`as_dict` returns it."""
        for name in self.SUMS:
            setattr(self, name, getattr(self, name) + other[name])
        for name in self.COUNTS:
            getattr(self, name).update(other[name])

    def as_dict(self) -> dict[str, Any]:
        """Return it as values of JSON; counters have their largest numbers first."""
        found = {name: getattr(self, name) for name in (*self.IDENTITY, *self.SUMS)}
        return found | {name: dict(getattr(self, name).most_common()) for name in self.COUNTS}


class FixtureRecord(_Record):
    """What a fixture, a ``setUp()``, a ``setUpClass()`` or a ``setUpTestData()`` cost in the run.

    ``shareable`` is how often it wrote rows and could have been shared, ``shareable_seconds`` the own time of that, and
    ``classes`` and ``modules`` how often it would have been made for that, once for each class or module, and for each
    parameter. ``reasons`` say why it could not be shared, with the number of times.
    """

    IDENTITY = ("name", "scope", "place")
    SUMS = (
        *("made", "failed", "seconds", "own_seconds", "statements", "changed"),
        *("shareable", "shareable_seconds", "classes", "modules"),
    )
    COUNTS = ("rows", "reasons")
    name: str
    scope: str
    place: str
    made: int
    failed: int
    seconds: float
    own_seconds: float
    statements: int
    changed: int
    shareable: int
    shareable_seconds: float
    classes: int
    modules: int
    reasons: Counter[str]

    def __init__(self, *identity: str) -> None:
        super().__init__(*identity)
        self._seen: set[tuple[str, Hashable]] = set()

    def add_shareable(self, seconds: float, owner: Hashable, module: Hashable) -> None:
        """Count one time that it could have been shared in the class *owner*, or in *module*."""
        self.shareable += 1
        self.shareable_seconds += seconds
        for key in (("classes", owner), ("modules", module)):
            if key not in self._seen:
                self._seen.add(key)
                setattr(self, key[0], getattr(self, key[0]) + 1)

    def saved_by(self, needed: int) -> float:
        """Return the seconds that are saved if it is made *needed* times, at its own mean time."""
        return self.shareable_seconds / self.shareable * max(0, self.shareable - needed) if self.shareable else 0.0

    @property
    def has_written(self) -> bool:
        """Whether it has written rows."""
        return bool(self.rows or self.changed)

    def as_dict(self) -> dict[str, Any]:
        """Return it as values of JSON."""
        saved = {"saved_by_class": self.saved_by(self.classes), "saved_by_module": self.saved_by(self.modules)}
        return super().as_dict() | saved


class FactoryRecord(_Record):
    """How often a factory made a row, and what that cost.

    ``rows`` and ``seconds`` are those of the ``top_level`` calls, which no other factory made, with all that they caused.
    ``own_seconds`` are those of all calls, without the factories that they called. ``tests`` are the calls by test.
    """

    IDENTITY = ("name", "library")
    SUMS = ("calls", "top_level", "seconds", "own_seconds")
    COUNTS = ("rows", "tests")
    name: str
    library: str
    calls: int
    top_level: int
    seconds: float
    own_seconds: float
    tests: Counter[str]


class Profile:
    """The records of one process, or of all."""

    def __init__(self) -> None:
        self.processes = 1
        self._fixtures: dict[tuple[str, ...], FixtureRecord] = {}
        self._factories: dict[tuple[str, ...], FactoryRecord] = {}

    def fixture(self, name: str, scope: str, place: str) -> FixtureRecord:
        """Return the record of a fixture; a new one at the first time."""
        key = (name, scope, place)
        return self._fixtures.get(key) or self._fixtures.setdefault(key, FixtureRecord(*key))

    def factory(self, name: str, library: str) -> FactoryRecord:
        """Return the record of a factory; a new one at the first time."""
        key = (name, library)
        return self._factories.get(key) or self._factories.setdefault(key, FactoryRecord(*key))

    def ranked_fixtures(self) -> list[FixtureRecord]:
        """Return the fixtures that wrote rows: those first whose sharing saves most, then those that take longest."""
        written = (each for each in self._fixtures.values() if each.has_written)
        return sorted(written, key=lambda each: (-each.saved_by(each.modules), -each.own_seconds, each.name))

    def ranked_factories(self) -> list[FactoryRecord]:
        """Return the factories by their own time, the longest first."""
        return sorted(self._factories.values(), key=lambda each: (-each.own_seconds, each.name))

    def as_dict(self) -> dict[str, Any]:
        """Return the document, as values of JSON. Times are in seconds."""
        return {
            "version": _VERSION,
            "processes": self.processes,
            "fixtures": [each.as_dict() for each in self.ranked_fixtures()],
            "factories": [each.as_dict() for each in self.ranked_factories()],
        }

    @classmethod
    def merged(cls, documents: Collection[Mapping[str, Any]]) -> Self:
        """Return the profile of several processes, each of which made its fixtures for itself."""
        profile = cls()
        profile.processes = len(documents)
        for document in documents:
            for each in document["fixtures"]:
                profile.fixture(*(each[name] for name in FixtureRecord.IDENTITY)).add(each)
            for each in document["factories"]:
                profile.factory(*(each[name] for name in FactoryRecord.IDENTITY)).add(each)
        return profile


def render_fixtures(records: list[FixtureRecord], most: int) -> list[str]:
    """Return the table of the first *most* fixtures, all with 0, as lines of any length."""
    shown = records[:most] if most else records
    rows: list[tuple[str, ...]] = [("by module", "by class", "made", "own", "in all", "rows", "fixture")]
    details = [""]
    for each in shown:
        saved = [f"{each.saved_by(needed):.3f}" if each.shareable else "–" for needed in (each.modules, each.classes)]
        times = f"{each.own_seconds:.3f}", f"{each.seconds:.3f}"
        rows.append((*saved, str(each.made), *times, _mean(sum(each.rows.values()), each.made), each.name))
        parts = [f"{each.place} ({each.scope})", _list_rows(each.rows, each.made)]
        parts.append(f"{each.changed} rows changed" if each.changed else "")
        statements = _mean(each.statements, each.made)
        parts.append(f"{statements} statement{'' if statements == '1' else 's'}")
        parts.append(f"{each.failed} failed" if each.failed else "")
        parts += [f"not shared ({count}): it {reason}" for reason, count in each.reasons.most_common()]
        details.append("; ".join(filter(None, parts)))
    own = sum(each.own_seconds for each in records)
    by_module = sum(each.saved_by(each.modules) for each in records)
    by_class = sum(each.saved_by(each.classes) for each in records)
    end = f"Sharing would save {by_module:.3f} s by module, or {by_class:.3f} s by class, of {own:.3f} s."
    return [*_interleaved(rows, details), end]


def render_factories(records: list[FactoryRecord], most: int) -> list[str]:
    """Return the table of the first *most* factories, all with 0, as lines of any length."""
    shown = records[:most] if most else records
    rows: list[tuple[str, ...]] = [("calls", "top", "tests", "own", "in all", "rows", "factory")]
    details = [""]
    for each in shown:
        numbers = str(each.calls), str(each.top_level), str(len(each.tests))
        times = f"{each.own_seconds:.3f}", f"{each.seconds:.3f}"
        rows.append((*numbers, *times, _mean(sum(each.rows.values()), each.top_level), each.name))
        ((test, count),) = each.tests.most_common(1) or [("", 0)]
        listed = _list_rows(each.rows, each.top_level) or "only by other factories"
        details.append(f"{listed}; most in {test} ({count})")
    return list(_interleaved(rows, details))


def _interleaved(rows: list[tuple[str, ...]], details: list[str]) -> Iterator[str]:
    """Yield a line for each row, numbers to the right, and then one with its details."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, detail in zip(rows, details, strict=True):
        numbers = [text.rjust(width) for text, width in zip(row[:-1], widths, strict=False)]
        yield "  ".join([*numbers, row[-1]])
        if detail:
            yield f"{_INDENT}{detail}"


def _mean(total: int, times: int) -> str:
    return f"{total / times if times else 0:.1f}".removesuffix(".0")


def _list_rows(rows: Counter[str], times: int) -> str:
    return ", ".join(f"{table} {_mean(count, times)}" for table, count in rows.most_common())


class _Frame:
    """A call that is measured: its time, that of the calls inside it, and what it wrote."""

    def __init__(self, record: Any) -> None:
        self.record = record
        self.started = self.nested = 0.0
        self.clear()

    def clear(self) -> None:
        """Forget what it wrote."""
        self.statements = self.changed = 0
        self.rows: dict[str, int] = {}


class _Making(_Frame):
    """One making of a fixture. ``needs`` is everything that it depends on, ``users`` are the records that depend on it.

    ``test`` is the number of the test that it was made for. ``variant`` are its parameters and those of what it needs.
    """

    def __init__(self, record: FixtureRecord, test: int, needs: Iterable[_Making] = ()) -> None:
        super().__init__(record)
        self.test = test
        self.own_seconds = 0.0
        self.needs: dict[_Making, None] = {}
        self.users: list[FixtureRecord] = []
        self.variant: frozenset[tuple[str, Hashable]] = frozenset()
        self.is_shareable = False
        for each in needs:
            self.add_need(each)

    def add_need(self, other: _Making) -> None:
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
        if self.is_shareable:
            self.record.shareable_seconds += seconds
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
        self.fixtures: list[_Making] = []
        self.factories: list[_Frame] = []
        self._watched: list[Any] = []
        # An INSERT that has not reported its rows yet: those of RETURNING on SQLite are known once they were fetched.
        self._pending: tuple[Any, str, list[_Frame]] | None = None

    def begin(self, frame: _Frame, stack: list[Any]) -> None:
        """Begin to measure *frame*, and put it on *stack*, one of the two."""
        if not self.fixtures and not self.factories:
            self._watch()
        self._settle()
        stack.append(frame)
        frame.nested = 0.0
        frame.started = time.perf_counter()

    def end(self, frame: _Frame, stack: list[Any]) -> tuple[float, float]:
        """Take *frame* off *stack*. Return the seconds that it took in all, and without the calls inside it."""
        seconds = time.perf_counter() - frame.started
        self._settle()
        if frame in stack:
            del stack[stack.index(frame) :]
        if stack:
            stack[-1].nested += seconds
        if not self.fixtures and not self.factories:
            self._unwatch()
        return seconds, seconds - frame.nested

    def note(self, statement: str, count: int) -> None:
        """Count a statement that no execute wrapper sees, and its rows."""
        targets = self._targets()
        for frame in targets:
            frame.statements += 1
        _note_rows(targets, statement, count)

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

    def _targets(self) -> list[_Frame]:
        """Return those whose rows are written now: the innermost fixture, and the outermost factory."""
        return [*self.fixtures[-1:], *self.factories[:1]]

    def _execute(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        """Count a statement; an execute wrapper."""
        self._settle()
        targets = self._targets()
        for frame in targets:
            frame.statements += 1
        result = execute(sql, params, many, context)
        cursor = context["cursor"]
        text = sql if isinstance(sql, str) else _text_of(sql, context["connection"].connection)
        if not _note_rows(targets, text, cursor.rowcount):
            self._pending = cursor, text, targets
        return result

    def _settle(self) -> None:
        if self._pending is not None:
            (cursor, text, targets), self._pending = self._pending, None
            _note_rows(targets, text, cursor.rowcount)


def _note_rows(frames: Iterable[_Frame], sql: str, count: int) -> bool:
    """Count the rows of a statement. Return False if it writes, and has reported none yet."""
    found = _WRITES.match(sql)
    if found is None:
        return True
    if count < 1:
        return False
    table = ".".join(part.strip('"`').replace('""', '"') for part in found.groups()[1:] if part)
    for frame in frames:
        if found["inserts"]:
            frame.rows[table] = frame.rows.get(table, 0) + count
        else:
            frame.changed += count
    return True


def _text_of(sql: Any, raw: Any) -> str:
    """Return the text of a statement that is composed or in bytes. *raw* is the driver's connection."""
    if hasattr(sql, "as_string"):
        return str(sql.as_string(raw))
    return sql.decode(errors="replace") if isinstance(sql, bytes) else str(sql)


class _Patches:
    """Functions of others that are wrapped until :meth:`undo`."""

    def __init__(self) -> None:
        self._own: dict[tuple[Any, str], Any] = {}

    def wrap(self, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        """Replace the function *name* of a class or module, if it has one, by what *wrap* makes of it, once.

        A class method stays one.
        """
        if (owner, name) in self._own or name not in vars(owner):
            return
        own = self._own[owner, name] = vars(owner)[name]
        setattr(owner, name, classmethod(wrap(own.__func__)) if isinstance(own, classmethod) else wrap(own))

    def undo(self) -> None:
        """Put all of them back."""
        for (owner, name), own in self._own.items():
            setattr(owner, name, own)
        self._own.clear()


class _Context:
    """What the judgement needs of a test. ``judged`` tells tests apart whose fixtures may be judged differently."""

    def __init__(self, item: Any) -> None:
        cls, module = (item.getparent(kind) or item for kind in (pytest.Class, pytest.Module))
        self.commits = requests.commits(item)
        self.owner, self.module = id(cls), id(module)
        # Tests of one class or module see the same fixtures, but for their own parameters.
        parameters = tuple(getattr(getattr(item, "callspec", None), "params", ()))
        self.judged: tuple[Hashable, ...] = (id(item.parent), self.commits, parameters)


class FixtureProfiler:
    """The hooks. *most* fixtures and factories are shown: all with 0, none with None. *path* is that of the JSON file."""

    def __init__(self, config: pytest.Config, most: int | None, path: Path | None) -> None:
        self._config = config
        self._most = most
        self._path = path
        self._profile = Profile()
        # Those of the workers of pytest-xdist.
        self._documents: list[Mapping[str, Any]] = []
        self._lost: list[str] = []
        self._threads = threading.local()
        self._patches = _Patches()
        # What to wrap in modules that are not imported yet.
        self._waiting: dict[str, list[tuple[str, Callable[[Any], Any]]]] = {
            "factory.builder": [("StepBuilder.build", self._measuring_step)],
            "model_bakery.baker": [("Baker.make", self._measuring_make), ("bulk_create", self._measuring_bulk)],
            "psycopg": [("Cursor.copy", self._counting_copies)],
            "testdb_app.data.loading": [("insert", self._counting_bulk)],
            "testdb_app.data.ledger": [("insert", self._counting_bulk)],
        }
        # The record of each definition, and whether it ends after a yield. A text for a fixture that writes no rows.
        self._records: dict[Any, tuple[FixtureRecord, bool] | str] = {}
        self._factories: dict[Any, FactoryRecord | None] = {}
        # The last making of each definition.
        self._makings: dict[Any, _Making] = {}
        self._reasons: dict[Hashable, str | None] = {}
        # The test that runs, its number, and what the judgement needs of it.
        self._item: Any = None
        self._number = 0
        self._context: _Context | None = None

    @property
    def _recorder(self) -> Recorder:
        """The recorder of this thread."""
        found: Recorder | None = getattr(self._threads, "recorder", None)
        if found is None:
            found = self._threads.recorder = Recorder()
        return found

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Wrap the set-up methods of unittest's and Django's test classes."""
        for cls in {getattr(item, "cls", None) or object for item in session.items}:
            for owner in cls.__mro__ if issubclass(cls, unittest.TestCase) else ():
                for name in ("setUp", "setUpTestData"):
                    if not owner.__module__.startswith(("django.", "unittest.")):
                        self._patches.wrap(owner, name, functools.partial(self._measuring_method, owner, name))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Note the test, and wrap what was imported meanwhile of the libraries that make rows."""
        self._item, self._number, self._context = item, self._number + 1, None
        for module in [name for name in self._waiting if name in sys.modules]:
            for path, wrap in self._waiting.pop(module):
                *owner, name = path.split(".")
                self._patches.wrap(functools.reduce(getattr, owner, sys.modules[module]), name, wrap)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, object, object]:
        """Measure the function of a fixture. What it depends on was set up before."""
        found = self._records.get(fixturedef) or self._read(fixturedef, request)
        if not isinstance(found, tuple):
            return (yield)
        record, has_end = found
        used = fixtures_set_up(request)
        needs = [self._makings.get(used.get(name)) for name in fixturedef.argnames]
        making = self._makings[fixturedef] = _Making(record, self._number, filter(None, needs))
        if "param" in vars(request):
            making.variant |= {(record.name, request.param_index)}
        if has_end:
            # Finalizers run in reverse order: this one after the end of the fixture, the one below before it.
            fixturedef.addfinalizer(functools.partial(self._finish_end, making))
        recorder, failed = self._recorder, True
        recorder.begin(making, recorder.fixtures)
        try:
            result = yield
            failed = False
        finally:
            self._finish(making, recorder, fixturedef, failed=failed)
        if has_end:
            fixturedef.addfinalizer(functools.partial(self._begin_end, making))
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Send the profile to the controller, or write it."""
        if options.is_worker(self._config):
            self._config.workeroutput[_WORKER_KEY] = self._profile.as_dict()  # type: ignore[attr-defined]
            return
        if self._documents:
            self._profile = Profile.merged(self._documents)
        if self._path is not None:
            self._path.write_text(json.dumps(self._profile.as_dict(), indent=2) + "\n", encoding="utf-8")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Keep the profile of a worker. One that ends early sends none."""
        document = getattr(node, "workeroutput", {}).get(_WORKER_KEY)
        if document is None:
            self._lost.append(node.gateway.id)
        else:
            self._documents.append(document)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the profile."""
        from testdb_app.management.terminal import fold  # noqa: PLC0415 - it imports Django

        lines: list[tuple[str, list[str]]] = []
        if self._most is not None:
            fixtures, factories = self._profile.ranked_fixtures(), self._profile.ranked_factories()
            title = f"fixtures that write rows: {_count(fixtures, self._most)}, by what sharing would save"
            lines.append((title, render_fixtures(fixtures, self._most)))
            if factories:
                title = f"factories: {_count(factories, self._most)}, by their own time"
                lines.append((title, render_factories(factories, self._most)))
        width = shutil.get_terminal_size().columns
        for title, table in lines:
            terminalreporter.write_sep("=", title)
            for line in table:
                terminalreporter.write_line(fold(line, width))
        if self._lost:
            workers = ", ".join(self._lost)
            terminalreporter.write_line(f"The profile lacks the workers that ended early: {workers}.", red=True)
        if self._path is not None:
            terminalreporter.write_line(f"The profile of the fixtures was written to {self._path}.")

    def pytest_unconfigure(self) -> None:
        """Put back what was wrapped: another run may follow in this process."""
        self._patches.undo()

    def _finish(self, making: _Making, recorder: Recorder, fixturedef: Any, *, failed: bool) -> None:
        """Add *making* to its record, and judge whether it could be shared. *fixturedef* is None for a unittest method."""
        _, seconds = recorder.end(making, recorder.fixtures)
        if recorder.fixtures:
            recorder.fixtures[-1].add_need(making)
        has_written = making.rows or making.changed
        making.finish(seconds, failed=failed)
        if not has_written or failed:
            return
        if self._context is None:
            self._context = _Context(self._item)
        reason = self._judge(fixturedef, self._context)
        if reason is not None:
            making.record.reasons[reason] += 1
            return
        making.is_shareable = True
        context, variant = self._context, making.variant
        making.record.add_shareable(seconds, (context.owner, variant), (context.module, variant))

    def _judge(self, fixturedef: Any, context: _Context) -> str | None:
        """Return why a fixture or method could not be shared; None if it could be."""
        if fixturedef is None or (fixturedef.scope == "function" and set_up_method_of(fixturedef.argname) is not None):
            # The rows of setUp() and the like may go to the class. Only its tests are in the way, as far as can be seen.
            return "is used by a test that commits" if context.commits else None
        key = (fixturedef, *context.judged)
        if key not in self._reasons:
            self._reasons[key] = why_not_shared(fixturedef, self._item)
        return self._reasons[key]

    def _begin_end(self, making: _Making) -> None:
        recorder = self._recorder
        recorder.begin(making, recorder.fixtures)

    def _finish_end(self, making: _Making) -> None:
        recorder = self._recorder
        # A fixture that has failed has no end.
        if making in recorder.fixtures:
            making.finish_end(recorder.end(making, recorder.fixtures)[1])

    def _read(self, fixturedef: Any, request: Any) -> tuple[FixtureRecord, bool] | str:
        """Return the record of a fixture, and whether it ends after a yield; a text if it writes no rows."""
        name, function = fixturedef.argname, fixturedef.func
        module = getattr(function, "__module__", None) or ""
        method, item = set_up_method_of(name), item_of(request)
        found: tuple[FixtureRecord, bool] | str = _WRITES_NO_ROWS
        if method is not None:
            # A set-up method of the test's class, or a function of its module.
            cls: Any = getattr(item, "cls", None)
            owner = cls if hasattr(cls, method) else item.module
            place = self._place(getattr(owner, method, None), owner.__name__)
            title = f"{owner.__qualname__}.{method}" if owner is cls else method
            found = self._profile.fixture(title, fixturedef.scope, place), True
        elif not is_inert(fixturedef):
            record = self._profile.fixture(name, fixturedef.scope, self._place(function, module))
            found = record, inspect.isgeneratorfunction(function)
        self._records[fixturedef] = found
        return found

    def _place(self, function: Any, module: str) -> str:
        """Return file and line of *function*, below the root of the run; the name of *module* if it is elsewhere."""
        code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
        file = Path(code.co_filename) if code is not None else None
        if code is None or file is None or not file.is_relative_to(self._config.rootpath):
            return module
        return f"{file.relative_to(self._config.rootpath).as_posix()}:{code.co_firstlineno}"

    def _measuring_method(self, owner: type[Any], name: str, function: Any) -> Any:
        """Wrap a set-up method of a unittest class."""
        scope = "class" if name == "setUpTestData" else "function"
        record = self._profile.fixture(f"{owner.__qualname__}.{name}", scope, self._place(function, owner.__module__))

        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            making, recorder, failed = _Making(record, self._number), self._recorder, True
            recorder.begin(making, recorder.fixtures)
            try:
                result = function(*args, **kwargs)
                failed = False
            finally:
                self._finish(making, recorder, None, failed=failed)
            return result

        return measured

    def _measuring_step(self, function: Any) -> Any:
        """Wrap the method of factory_boy that builds an object, also for a factory inside another."""

        @functools.wraps(function)
        def measured(step: Any, *args: Any, **kwargs: Any) -> Any:
            factory = step.factory_meta.factory
            if step.strategy != "create":
                return function(step, *args, **kwargs)
            if factory not in self._factories:
                model = step.factory_meta.get_model_class()
                name = f"{factory.__module__}.{factory.__qualname__}"
                self._factories[factory] = self._profile.factory(name, "factory_boy") if _is_model(model) else None
            record = self._factories[factory]
            if record is None:
                return function(step, *args, **kwargs)
            return self._measure_factory(record, 1, functools.partial(function, step, *args, **kwargs))

        return measured

    def _measuring_make(self, function: Any) -> Any:
        """Wrap the method of model_bakery that makes a row."""

        @functools.wraps(function)
        def measured(baker: Any, *args: Any, **kwargs: Any) -> Any:
            record = self._profile.factory(f"baker.make({baker.model._meta.label})", "model_bakery")
            return self._measure_factory(record, 1, functools.partial(function, baker, *args, **kwargs))

        return measured

    def _measuring_bulk(self, function: Any) -> Any:
        """Wrap the function of model_bakery that makes many rows: as many calls."""

        @functools.wraps(function)
        def measured(baker: Any, quantity: int, *args: Any, **kwargs: Any) -> Any:
            record = self._profile.factory(f"baker.make({baker.model._meta.label})", "model_bakery")
            return self._measure_factory(
                record, quantity, functools.partial(function, baker, quantity, *args, **kwargs)
            )

        return measured

    def _measure_factory(self, record: FactoryRecord, calls: int, function: Callable[[], Any]) -> Any:
        """Call *function*, which makes the rows of as many *calls* of a factory."""
        recorder, frame = self._recorder, _Frame(record)
        recorder.begin(frame, recorder.factories)
        try:
            return function()
        finally:
            seconds, own = recorder.end(frame, recorder.factories)
            record.calls += calls
            record.own_seconds += own
            record.tests[self._item.nodeid] += calls
            if not recorder.factories:
                record.top_level += calls
                record.seconds += seconds
                record.rows.update(frame.rows)

    def _counting_copies(self, function: Any) -> Any:
        """Wrap psycopg's ``Cursor.copy()``."""

        @contextmanager
        def copy(cursor: Any, statement: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            with function(cursor, statement, *args, **kwargs) as copying:
                yield copying
            self._recorder.note(_text_of(statement, cursor.connection), cursor.rowcount)

        return functools.wraps(function)(copy)

    def _counting_bulk(self, function: Any) -> Any:
        """Wrap the function behind our ``bulk()``. On PostgreSQL it sends a ``COPY``."""

        @functools.wraps(function)
        def counted(model: Any, rows: Any, connection: Any, *args: Any) -> Any:
            count = function(model, rows, connection, *args)
            if connection.vendor != "postgresql":
                self._recorder.note(f'INSERT INTO "{model._meta.db_table}"', count)
            return count

        return counted


def _is_model(model: Any) -> bool:
    from django.db.models import Model  # noqa: PLC0415 - Django is imported where it is used

    return isinstance(model, type) and issubclass(model, Model)


def _count(records: Collection[Any], most: int) -> str:
    return f"{min(most, len(records)) if most else len(records)} of {len(records)}"
