"""Run ``setUp()`` once for a class of Django's ``TestCase``.

The first test runs it as ever, in its own savepoint. If it has only made rows and set attributes, that savepoint is made a
second time under its own name: PostgreSQL and SQLite keep both, and Django rolls the test back to the newer one. The
rows stay below, in the transaction of the class. Each of the next tests gets copies of the attributes, with one memo.
"""

from __future__ import annotations

import dis
import inspect
import logging
import sys
import unittest
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

from django.core.signals import request_started
from django.db import connections

from testdb_app import _django_private as django_private
from testdb_app.deep_copies import deep_copy
from testdb_app.side_effects import Changes, find_effect, is_same, names_in, shallow, watched
from testdb_app.transactions import find_fault

logger = logging.getLogger("testdb_app")

_VENDORS = frozenset({"postgresql", "sqlite"})
_CLIENTS = ("client", "async_client")
"""What Django makes anew for each test, on its class."""
_AROUND_TESTS = ("tearDown", "run", "debug", "__call__", *django_private.AROUND_TESTS)
"""Methods that a class may override to change something around each test."""
# Why a class is not to share, as whoever runs the tests has said.
_refused: WeakKeyDictionary[type[Any], str] = WeakKeyDictionary()
SWITCHED_OFF = "was told so by --no-testdb-share"
"""The reason that whoever runs the tests knows, and that nobody is warned of."""


def refuse(cls: type[Any], reason: str) -> None:
    """Have ``setUp()`` of *cls* be run for each test. The *reason* completes "setUp() …"."""
    _refused.setdefault(cls, reason)


class SharedSetUp:
    """How ``setUp()`` of *cls* is shared. ``reason`` says why it is not; None if nothing is known against it.

    ``used`` is the number of tests that it was run for, and ``made`` how often it was run.
    """

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls
        self.used = self.made = 0
        self.reason: str | None = None
        self._values: _Values | None = None
        # How many tests have begun since the class began, and how many of them are not to share.
        self._begun = self._waits = 0
        self._refuse(_refused.get(cls) or find_reason(cls))

    def end_class(self) -> None:
        """Forget what was made in the transaction of the class. It may begin again.

        If that was for a single test, tests of several classes are mixed. The next time, sharing begins at the second test.
        """
        self._values = None
        self._begun, self._waits = 0, int(self._begun == 1)

    def set_up(self, case: Any) -> None:
        """Set up the test *case*: run ``setUp()``, or hand out what that has set for an earlier test.

        The first time costs a statement for each database of the class.
        """
        del vars(case)["setUp"]
        self.used += 1
        self._begun += 1
        if self._values is not None and self._values.are_of_an_open_transaction():
            self._values.hand_out(case)
            return
        self.made += 1
        if self.reason is not None or self._values is not None or self._begun <= self._waits:
            case.setUp()
            return
        making = _Making(case)
        with making.observed():
            case.setUp()
        reason = making.find_reason()
        if reason is not None and making.changed.imports:
            # What importing a module changed is not changed again: the next test decides.
            return
        self._refuse(reason)
        if self.reason is None:
            try:
                values = _Values(case, making)
            except Exception as error:  # noqa: BLE001 - any object may refuse to be copied, by any error
                self._refuse(f"sets a value that cannot be copied ({type(error).__name__}: {error})")
            else:
                making.keep_rows()
                self._values = values

    def _refuse(self, reason: str | None) -> None:
        self.reason = reason
        if reason is not None:
            name = f"{self.cls.__module__}.{self.cls.__qualname__}"
            level = logging.INFO if reason == SWITCHED_OFF else logging.WARNING
            logger.log(level, "%s: setUp() is run for each test, because it %s.", name, reason)


def has_set_up(cls: type[Any]) -> bool:
    """Whether *cls* has a ``setUp()`` of its own."""
    return any("setUp" in vars(each) for each in _own_classes(cls))


def find_reason(cls: type[Any]) -> str | None:
    """Return why ``setUp()`` of *cls* cannot be shared, as far as its code shows; None if nothing speaks against it."""
    own = _own_classes(cls)
    if not django_private.supports_transactions(cls):
        return "is on a database without transactions"
    for name in _AROUND_TESTS:
        found = next((each for each in own if name in vars(each)), None)
        if found is not None:
            return f"belongs to a class with {name}(), in {found.__module__}.{found.__qualname__}"
    reasons = (_find_reason_in(function) for function in _called_functions(own))
    return next(filter(None, reasons), None)


def _own_classes(cls: type[Any]) -> list[type[Any]]:
    """Return *cls* and its bases, without those of Python, Django and this package."""
    others = {"builtins", "unittest", "django", "testdb_app"}
    return [each for each in cls.__mro__ if each.__module__.partition(".")[0] not in others]


def _called_functions(own: list[type[Any]]) -> Iterator[Any]:
    """Yield the functions of ``setUp()``, and of the methods of the classes that it names, and so on."""
    waiting, known = ["setUp"], {"setUp"}
    while waiting:
        name = waiting.pop()
        for found in (vars(each)[name] for each in own if name in vars(each)):
            inner = (getattr(found, name, None) for name in ("__func__", "fget", "func"))
            function = inspect.unwrap(next(filter(None, inner), found))
            if callable(function) and not isinstance(function, type):
                yield function
                code = getattr(function, "__code__", None)
                new = set(names_in(code)) - known if code is not None else set()
                known |= new
                waiting += sorted(new)


def _find_reason_in(function: Any) -> str | None:
    code = getattr(function, "__code__", None)
    if code is None:
        return "calls what is no Python function"
    if inspect.iscoroutinefunction(function):
        return "is async"
    return find_effect(code) or _find_assignment(code)


def _find_assignment(code: CodeType) -> str | None:
    """Return the global that *code* assigns to, or to an attribute of which."""
    base = None
    for each in dis.get_instructions(code):
        if each.opname in {"STORE_GLOBAL", "DELETE_GLOBAL"}:
            return f"assigns to the global {each.argval}"
        if base is not None and each.opname in {"STORE_ATTR", "DELETE_ATTR"}:
            return f"assigns to an attribute of the global {base}"
        if each.opname == "LOAD_GLOBAL":
            base = each.argval
        elif each.opname != "LOAD_ATTR":
            base = None
    return None


class _Making:
    """One run of ``setUp()`` that is observed: what was there before, and what it does."""

    def __init__(self, case: Any) -> None:
        self.case = case
        self.cls = type(case)
        self.connections = [connections[alias] for alias in django_private.databases_of(self.cls)]
        self.used_clients: set[str] = set()
        self._raw = {each: each.connection for each in self.connections}
        self._savepoints = {each: each.savepoint_ids[-1:] for each in self.connections}
        self._attributes = {name: shallow(value) for name, value in vars(case).items()}
        self._statements = 0
        self.changed = Changes()
        self._own_classes = _own_classes(self.cls)

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Note what is used and changed while the block runs."""
        noted: set[str] = set()
        with ExitStack() as around:
            # A signal forgets receivers that are gone when another one connects: before its state is read.
            request_started.connect(self._note_request)
            around.callback(request_started.disconnect, self._note_request)
            of_classes = self._state_of_classes()
            with ExitStack() as stack:
                for connection in self.connections:
                    connection.execute_wrappers.insert(0, self._count)
                    stack.callback(_remove, connection.execute_wrappers, self._count)
                for name in (*django_private.NAMES_OF_TEST, *_CLIENTS):
                    stack.enter_context(_noting_use(self.cls, name, noted))
                stack.enter_context(watched(self.changed, self.connections))
                yield
        if not is_same(of_classes, self._state_of_classes()):
            self.changed.append("changes an attribute of its class")
        self.used_clients = noted & set(_CLIENTS)
        if noted - self.used_clients:
            self.changed.insert(0, "asks which test it is for")

    def find_reason(self) -> str | None:
        """Return why what was made cannot be shared; None if it can be."""
        vendors = {each.vendor for each in self.connections} - _VENDORS
        fault = self.find_fault()
        reason = self._find_change() or (None if self._statements else "sends no statement")
        if vendors:
            reason = f"is on {vendors.pop()}, which has only one savepoint of a name"
        elif fault is not None:
            reason = f"has broken its transaction: {fault}"
        elif any(each.savepoint_ids[-1:] != names for each, names in self._savepoints.items()):
            reason = "leaves an atomic() block open"
        return reason

    def _find_change(self) -> str | None:
        """Return what was changed besides rows and new attributes of the test."""
        known = {*vars(unittest.TestCase()), getattr(self.case, django_private.NAMES_OF_TEST[0])}
        before = sorted(self._attributes.keys() - known)
        if before:
            return f"finds an attribute on self: {before[0]}"
        for name, content in self._attributes.items():
            if name not in vars(self.case) or not is_same(content, shallow(vars(self.case)[name])):
                return "registers a cleanup" if name == django_private.CLEANUPS else f"changes self.{name}"
        return f"does more than rows: it {self.changed[0]}" if self.changed else None

    def find_fault(self) -> object | None:
        """Return the fault of the transaction of the present test, on the connections of that time; None if there is none."""
        blocks = self.cls.atomics
        faults = (find_fault(each, blocks.get(each.alias), raw, None) for each, raw in self._raw.items())
        return next(filter(None, faults), None)

    def set_attributes(self) -> dict[str, Any]:
        """Return the attributes that were set on the test."""
        return {name: value for name, value in vars(self.case).items() if name not in self._attributes}

    def keep_rows(self) -> None:
        """Make the savepoint of the test above its rows."""
        for connection, names in self._savepoints.items():
            with connection.cursor() as cursor:
                cursor.execute(connection.ops.savepoint_create_sql(names[0]))

    def _state_of_classes(self) -> list[Any]:
        pairs = [pair for each in self._own_classes for pair in vars(each).items() if pair[0] not in _CLIENTS]
        return [each for name, value in pairs for each in (name, value, *shallow(value))]

    def _count(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        self._statements += 1
        return execute(sql, params, many, context)

    def _note_request(self, **_: Any) -> None:
        self.changed.append("sends a request")


def _remove(entries: list[Any], entry: Any) -> None:
    if entry in entries:
        entries.remove(entry)


@contextmanager
def _noting_use(cls: type[Any], name: str, noted: set[str]) -> Iterator[None]:
    """Add *name* to *noted* if that attribute of *cls*, or of an instance, is read while the block runs."""
    own = {name: vars(cls)[name]} if name in vars(cls) else {}
    inherited = getattr(cls, name, None)

    class Noting:
        def __get__(self, instance: Any, owner: type[Any]) -> Any:
            noted.add(name)
            return vars(instance).get(name, inherited) if instance is not None else inherited

        def __set__(self, instance: Any, value: Any) -> None:
            vars(instance)[name] = value

    noting = Noting()
    setattr(cls, name, noting)
    try:
        yield
    finally:
        if vars(cls).get(name) is noting:
            delattr(cls, name)
            for each, value in own.items():
                setattr(cls, each, value)


class _Values:
    """Copies of what ``setUp()`` has set on the test *case*, as they were then."""

    def __init__(self, case: Any, making: _Making) -> None:
        # The memos have identities: what they are those of has to live as long.
        self._case, self._making = case, making
        values = making.set_attributes()
        of_data = values.pop(django_private.MEMO_OF_TEST_DATA, {})
        self._originals = of_data.get(id(of_data))
        clients = {name: getattr(making.cls, name) for name in making.used_clients}
        self._kept_as_they_are = {id(each): each for each in _found_by_name(making.cls)}
        memo = {**self._kept_as_they_are, id(case): case}
        parts = [values, clients, {key: value for key, value in of_data.items() if key != id(of_data)}]
        self._parts = deep_copy(parts, memo)

    def are_of_an_open_transaction(self) -> bool:
        """Whether the rows are there: no test has broken the transaction of the class."""
        return self._making.find_fault() is None

    def hand_out(self, case: Any) -> None:
        """Set copies of them on another test of the class."""
        memo = {**self._kept_as_they_are, id(self._case): case}
        values, clients, of_data = deep_copy(self._parts, memo)
        vars(case).update(values)
        if of_data:
            vars(case)[django_private.MEMO_OF_TEST_DATA] = of_data
        for name, client in clients.items():
            setattr(type(case), name, client)


def _found_by_name(cls: type[Any]) -> Iterator[Any]:
    """Yield what the code of a class finds by a name: attributes of classes and globals. A copy refers to these themselves."""
    for each in _own_classes(cls):
        for name, value in vars(each).items():
            if name not in _CLIENTS:
                yield django_private.data_of(value)
        yield from vars(sys.modules[each.__module__]).values()
