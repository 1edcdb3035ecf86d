"""The hooks of the profile of fixtures and factories, which are registered only for its options."""

from __future__ import annotations

import functools
import inspect
import json
import shutil
import sys
import threading
import unittest
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from testdb_app.plugin import options, requests
from testdb_app.plugin._pytest_private import fixtures_set_up, item_of, set_up_method_of
from testdb_app.plugin.prediction import Prediction, TestContext
from testdb_app.plugin.profile import FactoryRecord, FixtureRecord, Profile, render_factories, render_fixtures
from testdb_app.plugin.recorder import Frame, Making, Recorder, text_of
from testdb_app.plugin.sharing import is_inert

_WORKER_KEY = "testdb_profile"
_WRITES_NO_ROWS = "writes no rows"


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


class FixtureProfiler:
    """The hooks of one run. *wanted* says what becomes of the profile."""

    def __init__(self, config: pytest.Config, wanted: options.ProfileOptions) -> None:
        self._config = config
        self._wanted = wanted
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
        self._makings: dict[Any, Making] = {}
        self._prediction = Prediction()
        # Why setUp() of a class could not be shared.
        self._obstacles: dict[type[Any], str | None] = {}
        # Who knows whether a fixture is answered by a layer of the mark; None if no test of the run shares.
        self._sharing: Any = None
        # The test that runs, its number, and what the judgement needs of it.
        self._item: Any = None
        self._number = 0
        self._context: TestContext | None = None

    @property
    def _recorder(self) -> Recorder:
        """The recorder of this thread."""
        found: Recorder | None = getattr(self._threads, "recorder", None)
        if found is None:
            found = self._threads.recorder = Recorder()
        return found

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Wrap the set-up methods of unittest's and Django's test classes."""
        if any(map(requests.share_of, session.items)):
            from testdb_app.plugin import hooks  # noqa: PLC0415 - only a run that shares

            self._sharing = hooks.of(session.config).sharing
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
        if self._sharing is not None and self._sharing.answered is fixturedef:
            record.handed_out += 1
            return (yield)
        used = fixtures_set_up(request)
        needs = [self._makings.get(used.get(name)) for name in fixturedef.argnames]
        making = self._makings[fixturedef] = Making(record, self._number, filter(None, needs))
        if "param" in vars(request):
            making.variant |= {(record.name, request.param_index)}
        if has_end:
            # Finalizers run in reverse order: this one after the end of the fixture, the one below before it.
            fixturedef.addfinalizer(functools.partial(self._finish_end, making))
        recorder, failed, examination = self._recorder, True, None
        if not self._prediction.is_examined(fixturedef):
            examination = self._prediction.examine(fixturedef, self._context_of_test())
        try:
            with examination or nullcontext():
                recorder.begin(making, recorder.fixtures)
                try:
                    result = yield
                finally:
                    seconds = recorder.end(making, recorder.fixtures)[1]
            failed = False
            if examination is not None:
                statements = bool(making.statements)
                self._prediction.judge(examination, self._context_of_test(), result, sends_statements=statements)
        finally:
            self._finish(making, seconds, fixturedef, failed=failed)
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
        if self._wanted.path is not None:
            self._wanted.path.write_text(json.dumps(self._profile.as_dict(), indent=2) + "\n", encoding="utf-8")

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
        most = self._wanted.most
        if most is not None:
            fixtures, factories = self._profile.ranked_fixtures(), self._profile.ranked_factories()
            title = f"fixtures that write rows: {_count(fixtures, most)}, by what sharing would save"
            lines.append((title, render_fixtures(fixtures, most)))
            if factories:
                title = f"factories: {_count(factories, most)}, by their own time"
                lines.append((title, render_factories(factories, most)))
        width = shutil.get_terminal_size().columns
        for title, table in lines:
            terminalreporter.write_sep("=", title)
            for line in table:
                terminalreporter.write_line(fold(line, width))
        if self._lost:
            workers = ", ".join(self._lost)
            terminalreporter.write_line(f"The profile lacks the workers that ended early: {workers}.", red=True)
        if self._wanted.path is not None:
            terminalreporter.write_line(f"The profile of the fixtures was written to {self._wanted.path}.")

    def pytest_unconfigure(self) -> None:
        """Put back what was wrapped: another run may follow in this process."""
        self._patches.undo()

    def _context_of_test(self) -> TestContext:
        """Return what the prediction needs of the present test."""
        if self._context is None:
            self._context = TestContext(self._item)
        return self._context

    def _finish(
        self, making: Making, seconds: float, fixturedef: Any, *, failed: bool, set_up_of: type[Any] | None = None
    ) -> None:
        """Add *making* to its record, and judge whether it could be shared.

        *fixturedef* is None for a unittest method, and *set_up_of* the class of the test if that is ``setUp()``.
        """
        if self._recorder.fixtures:
            self._recorder.fixtures[-1].add_need(making)
        has_written = making.rows or making.changed
        making.finish(seconds, failed=failed)
        if not has_written or failed:
            return
        context = self._context_of_test()
        reason = self._find_reason(fixturedef, context, set_up_of)
        if reason is not None:
            making.record.reasons[reason] += 1
            return
        owner, module = (context.owner, making.variant), (context.module, making.variant)
        making.first = making.record.add_shareable(seconds, owner, module)

    def _find_reason(self, fixturedef: Any, context: TestContext, set_up_of: type[Any] | None) -> str | None:
        """Return why a fixture or method could not be shared; None if it could be."""
        if fixturedef is None or (fixturedef.scope == "function" and set_up_method_of(fixturedef.argname) is not None):
            # The rows of setUp() and the like may go to the class. Its tests may be in the way, and its own code.
            if context.obstacle == requests.COMMITS:
                return requests.COMMITS
            return None if set_up_of is None else self._find_obstacle_of(set_up_of)
        return self._prediction.find_reason(fixturedef, context)

    def _find_obstacle_of(self, cls: type[Any]) -> str | None:
        """Return why ``ShareFixtures`` would not share ``setUp()`` of *cls*, as its code shows; None if it would."""
        from django.test import TestCase  # noqa: PLC0415 - Django is imported where it is used

        from testdb_app.shared_set_up import find_reason  # noqa: PLC0415

        if cls not in self._obstacles:
            self._obstacles[cls] = find_reason(cls) if issubclass(cls, TestCase) else None
        return self._obstacles[cls]

    def _begin_end(self, making: Making) -> None:
        recorder = self._recorder
        recorder.begin(making, recorder.fixtures)

    def _finish_end(self, making: Making) -> None:
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
            making, recorder, failed = Making(record, self._number), self._recorder, True
            recorder.begin(making, recorder.fixtures)
            try:
                result = function(*args, **kwargs)
                failed = False
            finally:
                seconds = recorder.end(making, recorder.fixtures)[1]
                self._finish(making, seconds, None, failed=failed, set_up_of=type(args[0]) if name == "setUp" else None)
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
        recorder, frame = self._recorder, Frame(record)
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
            self._recorder.note(text_of(statement, cursor.connection), cursor.rowcount)

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
