"""What a set-up does besides making rows: as its code shows it, and as it is seen while it runs."""

from __future__ import annotations

import ast
import datetime
import decimal
import functools
import inspect
import logging
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import CodeType, ModuleType
from typing import Any

from testdb_app import _django_private as django_private

_CLOCK = frozenset(
    {"now", "today", "utcnow", "localdate", "localtime", "time", "time_ns", "monotonic", "freeze_time", "travel"}
)
"""Names in code that stand for reading or changing the clock."""
_PROCESS = frozenset({"environ", "putenv", "patch", "override_settings", "modify_settings"})
"""Names in code that stand for changing the process."""
_FILES = frozenset({"mkdtemp", "mkstemp", "TemporaryDirectory", "NamedTemporaryFile"})
"""Names in code that stand for files of one test."""
_CACHES = frozenset({"cache", "caches"})
"""Names in code that stand for what an earlier test may have left in a cache."""


@functools.cache
def find_effect(code: CodeType) -> str | None:
    """Return what *code* does besides rows, as far as its names show it: "reads the clock (now)"; None if that is nothing."""
    names = set(names_in(code))
    known_names = (
        ("reads the clock", _CLOCK),
        ("changes the process", _PROCESS),
        ("makes a temporary file", _FILES),
        ("uses a cache", _CACHES),
    )
    for what, known in known_names:
        found = sorted(names & known)
        if found:
            return f"{what} ({found[0]})"
    return None


def names_in(code: CodeType) -> Iterator[str]:
    """Yield the names of globals and attributes in *code*, and in the functions that it defines."""
    yield from code.co_names
    for inner in _functions_in(code):
        yield from names_in(inner)


def _functions_in(code: CodeType) -> list[CodeType]:
    return [each for each in code.co_consts if isinstance(each, CodeType)]


SETS = "only sets what is the same for each test"
"""What a fixture does that changes nothing else, and whose changes are undone after the test."""
ACTIVATES = "only activates a language or a time zone"
"""What a fixture does whose changes stay until another one is activated."""


@functools.cache
def find_setting(function: Callable[..., Any], tools: frozenset[str]) -> str | None:
    """Return :data:`SETS` or :data:`ACTIVATES` if the function of a fixture does only that; else None.

    It may set settings, attributes, items and variables of the environment to values that are the same each time and hold no
    state. *tools* are those of its arguments "settings" and "monkeypatch" that are the fixtures of pytest-django and pytest.
    The source is judged; where that is not possible, the answer is None.
    """
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "__wrapped__") or not all(map(_is_pure, _functions_in(code))):
        return None
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, SyntaxError, ValueError):
        return None
    statements = _Statements(function, tools)
    if not isinstance(tree, ast.FunctionDef) or not all(map(statements.only_set, tree.body)):
        return None
    return ACTIVATES if statements.activates else SETS


def _is_pure(code: CodeType) -> bool:
    """Whether a function uses its arguments and constants only: no global, no attribute, no variable around it."""
    return not code.co_names and not code.co_freevars and all(map(_is_pure, _functions_in(code)))


class _Statements:
    """Judges the statements of one function. ``activates`` is on once one has activated something."""

    def __init__(self, function: Callable[..., Any], tools: frozenset[str]) -> None:
        code = function.__code__
        self.activates = False
        self._tools = tools
        self._local = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
        self._globals = function.__globals__

    def only_set(self, statement: ast.stmt) -> bool:
        """Whether *statement* sets a value, or does nothing."""
        values: list[ast.expr] = []
        match statement:
            case ast.Pass() | ast.Return(None) | ast.Expr(ast.Constant() | ast.Yield(None)):
                is_known = True
            case ast.Return(ast.Name(name)) | ast.Expr(ast.Yield(ast.Name(name))):
                is_known = name in self._tools
            case ast.Assign([ast.Attribute(ast.Name("settings"))], value):
                # A change of a collection in the settings is seen while a fixture is made.
                is_known = "settings" in self._tools and self._is_constant(value, collections=True)
            case ast.Expr(ast.Call(ast.Attribute(ast.Name("monkeypatch"), method), [place, *values], keywords)):
                is_known = "monkeypatch" in self._tools and method in _METHODS and self._is_place(place)
                values += [each.value for each in keywords]
            case ast.Expr(ast.Call(called, values, keywords)):
                found: Any = self._find(called)
                is_known = (getattr(found, "__module__", None), getattr(found, "__name__", None)) in _ACTIVATE
                self.activates |= is_known
                values += [each.value for each in keywords]
            case _:
                is_known = False
        return is_known and all(map(self._is_constant, values))

    def _is_constant(self, node: ast.expr, *, collections: bool = False) -> bool:
        """Whether *node* has an equal and immutable value each time; with *collections* also a list, a set or a dictionary."""
        parts: list[ast.expr | None] = []
        match node:
            case ast.Constant():
                return True
            case ast.Name() | ast.Attribute():
                # Names in upper case are not set again.
                name = node.id if isinstance(node, ast.Name) else node.attr
                return name.isupper() and _is_immutable(self._find(node))
            case ast.Lambda(ast.arguments(defaults=defaults, kw_defaults=kw_defaults)):
                parts = [*defaults, *filter(None, kw_defaults)]
            case ast.UnaryOp(_, operand):
                parts = [operand]
            case ast.BinOp(left, _, right):
                parts = [left, right]
            case ast.Tuple(elements):
                parts = [*elements]
            case ast.List(elements) | ast.Set(elements) if collections:
                parts = [*elements]
            case ast.Dict(keys, elements) if collections:
                parts = [*keys, *elements]
            case _:
                return False
        return all(each is not None and self._is_constant(each, collections=collections) for each in parts)

    def _is_place(self, node: ast.expr) -> bool:
        """Whether *node* is a text, or a global or an attribute of it: what is set is there."""
        while isinstance(node, ast.Attribute):
            node = node.value
        if isinstance(node, ast.Name):
            return node.id not in self._local and node.id in self._globals
        return isinstance(node, ast.Constant)

    def _find(self, node: ast.expr) -> object:
        """Return the global that *node* names, or the attribute of a module or class; a new object if that is not known."""
        match node:
            case ast.Name(name) if name not in self._local:
                return self._globals.get(name, object())
            case ast.Attribute(owner, name):
                found = self._find(owner)
                return vars(found).get(name, object()) if isinstance(found, (ModuleType, type)) else object()
        return object()


def _is_immutable(value: object) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_immutable, value))
    return type(value) in _IMMUTABLE


_METHODS = frozenset({"setattr", "delattr", "setitem", "delitem", "setenv", "delenv"})
_ACTIVATE = frozenset(
    {
        ("django.utils.translation", "activate"),
        ("django.utils.translation", "deactivate"),
        ("django.utils.timezone", "activate"),
        ("django.utils.timezone", "deactivate"),
    }
)
_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes, datetime.timedelta, decimal.Decimal})


class Changes(list[str]):
    """What code changes besides rows. ``imports`` is whether it imports modules: what these do is done once, and not again."""

    imports = False


@contextmanager
def watched(changed: Changes, connections: list[Any]) -> Iterator[None]:
    """Append to *changed* what is changed besides rows while the block runs.

    It sees ``mail.outbox``, callbacks of ``on_commit()``, the cache of sites, writes to any configured cache, files that are
    saved by a storage, and what :func:`_process_state` returns.
    """
    from django.core import mail  # noqa: PLC0415 - Django is imported where it is used
    from django.core.cache import InvalidCacheBackendError, caches  # noqa: PLC0415
    from django.core.files.storage import Storage  # noqa: PLC0415

    sites: dict[Any, Any] = getattr(sys.modules.get("django.contrib.sites.models"), "SITE_CACHE", {})
    outbox = list(getattr(mail, "outbox", ()))
    callbacks = [len(each.run_on_commit) for each in connections]
    known_sites, state, modules = dict(sites), _process_state(), len(sys.modules)
    with ExitStack() as stack:
        stack.enter_context(_noting(Storage, ("save",), changed, "saves a file"))
        for alias in caches:
            with suppress(ImportError, InvalidCacheBackendError):
                cache = caches[alias]
                if type(cache).__module__ in _CACHES_WITHOUT_STATE:
                    continue
                stack.enter_context(_noting(cache, _WRITES_OF_CACHES, changed, "writes to a cache"))
        yield
    if list(getattr(mail, "outbox", ())) != outbox:
        changed.append("changes mail.outbox")
    if [len(each.run_on_commit) for each in connections] != callbacks:
        changed.append("registers a callback of on_commit()")
    if sites != known_sites:
        changed.append("changes the cache of sites")
    after = _process_state()
    changed += [what for what in state if not is_same(state[what], after[what])]
    changed.imports = len(sys.modules) > modules


_CACHES_WITHOUT_STATE = ("django.core.cache.backends.dummy", "django.core.cache.backends.db")
_WRITES_OF_CACHES = ("add", "set", "touch", "delete", "clear", "incr", "decr", "set_many", "delete_many")


def _process_state() -> dict[str, list[Any]]:
    """Return what code may change in the process, by the words for such a change. Compare it by :func:`is_same`."""
    from django.core import signals  # noqa: PLC0415
    from django.db.models import signals as signals_of_models  # noqa: PLC0415
    from django.dispatch import Signal  # noqa: PLC0415
    from django.utils import timezone, translation  # noqa: PLC0415

    in_force = django_private.settings_in_force()
    collections = [
        repr(each) for each in django_private.overridden_settings().values() if isinstance(each, (list, dict, set))
    ]
    every = [*vars(signals_of_models).values(), *vars(signals).values()]
    return {
        "changes settings": [in_force, *shallow(in_force), *collections],
        "changes os.environ": shallow(dict(os.environ)),
        "activates a language": [translation.get_language()],
        "activates a time zone": [timezone.get_current_timezone_name()],
        "connects or disconnects a receiver": [
            receiver for signal in every if isinstance(signal, Signal) for receiver in signal.receivers
        ],
        "changes the level of logging": [logging.root.manager.disable],
        "replaces the clock": [time.time, datetime.datetime, datetime.date],
    }


@contextmanager
def _noting(owner: Any, names: Iterable[str], changed: list[str], what: str) -> Iterator[None]:
    """Append *what* to *changed* at each call of these methods of *owner*, while the block runs."""
    own = dict(vars(owner))

    def note(method: Any) -> Any:
        @functools.wraps(method)
        def noted(*args: Any, **options: Any) -> Any:
            changed.append(what)
            return method(*args, **options)

        return noted

    names = [name for name in names if hasattr(owner, name)]
    for name in names:
        setattr(owner, name, note(getattr(owner, name)))
    try:
        yield
    finally:
        for name in names:
            if name in own:
                setattr(owner, name, own[name])
            else:
                delattr(owner, name)


def shallow(value: Any) -> list[Any]:
    """Return what *value* refers to: its elements or its attributes."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, (list, set)):
        return list(value)
    return [each for pair in getattr(value, "__dict__", {}).items() for each in pair]


def is_same(one: list[Any], other: list[Any]) -> bool:
    """Whether two results of :func:`shallow` hold the same objects, or equal texts and numbers."""
    simple = (str, int, float, bytes)
    return len(one) == len(other) and all(
        a is b or (type(a) is type(b) and isinstance(a, simple) and a == b) for a, b in zip(one, other, strict=True)
    )
