"""Whether a fixture of function scope can be shared by tests, as far as its definition shows it."""

from __future__ import annotations

import builtins
import dis
import functools
import inspect
from collections.abc import Collection, Mapping
from types import CodeType
from typing import Any

import pytest

from testdb_app.plugin import requests
from testdb_app.plugin._pytest_private import DB_HELPER, collected_definitions, find_definitions, request_of
from testdb_app.side_effects import find_effect

_WITHOUT_STATE = frozenset(
    {
        "db",
        DB_HELPER,
        "django_user_model",
        "django_username_field",
        "django_assert_num_queries",
        "django_assert_max_num_queries",
        "django_capture_on_commit_callbacks",
    }
)
"""Fixtures of others, of function scope, that a shared fixture may use: each test gets the same of them."""
_WITH_ROWS = frozenset({"admin_user", "admin_client"})
_COMMITTING = frozenset({"transactional_db", "django_db_reset_sequences", "django_db_serialized_rollback", "reset_db"})


def judge(item: Any, share: requests.Share, refused: Mapping[Any, str]) -> dict[Any, str | None]:
    """Return the fixtures of *item*, in the order of their set-up, and why each cannot be shared; None for one that can be.

    *refused* are those that were seen to do more than rows, and the reasons. Inert fixtures are left out.
    """
    judged: dict[Any, str | None] = {}
    first = ""
    for fixturedef in set_up_order(item):
        if is_inert(fixturedef):
            continue
        name = fixturedef.argname
        reason = _judge_alone(fixturedef, item, share, refused)
        if reason is None and first and name not in share.fixtures:
            reason = f"is set up after {first}"
        if reason is not None:
            first = first or f'"{name}", which {reason}'
        judged[fixturedef] = reason
    return judged


def _judge_alone(fixturedef: Any, item: Any, share: requests.Share, refused: Mapping[Any, str]) -> str | None:
    if fixturedef.argname in share.except_:
        return "is excepted by the mark"
    reason = refused.get(fixturedef) or why_not_shared(fixturedef, item, share.fixtures)
    if reason is None:
        for argument in fixturedef.argnames:
            used = definition_for(fixturedef, argument, item)
            if used is not None and (used in refused or argument in share.except_):
                return f'uses "{argument}", which is not shared'
    return reason


def why_not_shared(fixturedef: Any, item: Any, named: Collection[str] = ()) -> str | None:
    """Return why *fixturedef* cannot be shared by the tests of a node, as *item* uses it; None if nothing speaks against it.

    It is the judgement before the fixture is made: by its scope, its arguments, and the names in its code. The text completes
    "The fixture …". Fixtures in *named* are shared although their code speaks against it.
    """
    name, reason = fixturedef.argname, None
    if requests.commits(item) or name in _COMMITTING:
        reason = requests.COMMITS
    elif fixturedef.scope != "function":
        reason = f"has {fixturedef.scope} scope"
    elif is_inert(fixturedef):
        reason = "makes no rows"
    elif name in _parameters(item) or fixturedef.params is not None:
        reason = "is parametrised"
    else:
        reason = _find_reason_in_code(fixturedef, is_named=name in named)
    arguments = (_find_reason_in_argument(fixturedef, each, item, named) for each in fixturedef.argnames)
    return reason or next(filter(None, arguments), None)


def _find_reason_in_argument(fixturedef: Any, argument: str, item: Any, named: Collection[str]) -> str | None:
    if argument == "request":
        return None if fixturedef.argname in named else 'uses "request"'
    used = definition_for(fixturedef, argument, item)
    if used is None or used.scope != "function":
        return None
    if argument in _parameters(item):
        return f'uses the parameter "{argument}" of the test'
    if is_inert(used):
        return None if argument in _WITHOUT_STATE or fixturedef.argname in named else f'uses "{argument}"'
    reason = why_not_shared(used, item, named)
    return None if reason is None else f'uses "{argument}", which {reason}'


def is_inert(fixturedef: Any) -> bool:
    """Whether a fixture of pytest or a plugin neither makes rows nor changes how others make theirs."""
    name = fixturedef.argname
    if name in _WITH_ROWS or name in _COMMITTING or name.startswith("_xunit_"):
        return False
    return requests.is_of_others(fixturedef.func)


def _parameters(item: Any) -> Collection[str]:
    """Return the names of the parameters of a test, also of those that it gives to fixtures."""
    callspec = getattr(item, "callspec", None)
    return () if callspec is None else callspec.params


def definition_for(fixturedef: Any, argument: str, item: Any) -> Any | None:
    """Return the definition that *fixturedef* gets for *argument*: that of its own name is the one that it overrides."""
    request = request_of(item)
    found = list(collected_definitions(request, argument) or find_definitions(request, argument))
    if argument == fixturedef.argname and fixturedef in found:
        found = found[: found.index(fixturedef)]
    return found[-1] if found else None


def _find_reason_in_code(fixturedef: Any, *, is_named: bool) -> str | None:
    function = inspect.unwrap(fixturedef.func)
    code = getattr(function, "__code__", None)
    reason = None
    if code is None:
        reason = "is no Python function"
    elif inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        reason = "is async"
    elif not is_named and inspect.isgeneratorfunction(function):
        reason = "yields"
    elif not is_named:
        reason = "uses self" if _uses_self(code) else find_effect(code)
    return reason


@functools.cache
def _uses_self(code: CodeType) -> bool:
    """Whether *code* is that of a method that uses its ``self``."""
    if "self" not in code.co_varnames[: code.co_argcount]:
        return False
    loaded = (each.argval for each in dis.get_instructions(code) if each.opname.startswith("LOAD_"))
    return any(each == "self" or (isinstance(each, tuple) and "self" in each) for each in loaded)


_ORDER = pytest.StashKey[list[Any]]()


def set_up_order(item: Any) -> list[Any]:
    """Return the fixtures of function scope that *item* names, directly or through others, in the order of their set-up."""
    order: list[Any] = item.stash.setdefault(_ORDER, [])
    if order:
        return order
    request, done = request_of(item), {}

    def visit(name: str, around: tuple[str, ...]) -> None:
        found = collected_definitions(request, name) or find_definitions(request, name)
        level = around.count(name)
        if name in done or level >= len(found):
            return
        fixturedef = found[-1 - level]
        for argument in fixturedef.argnames:
            visit(argument, (*around, name))
        done[name] = fixturedef
        if fixturedef.scope == "function":
            order.append(fixturedef)

    for name in requests.names_of(item):
        visit(name, ())
    return order


def only_builds(fixturedef: Any) -> bool:
    """Whether a fixture only builds a value: it calls nothing but classes, its arguments, and functions of its own.

    One that sends no statement and calls more may replace what others call, or empty what they fill.
    """
    function = inspect.unwrap(fixturedef.func)
    attributes = calls = False
    for each in dis.get_instructions(function.__code__):
        if each.opname.startswith(("STORE_GLOBAL", "STORE_ATTR", "STORE_SUBSCR", "DELETE_", "IMPORT_")):
            return False
        if each.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
            value = function.__globals__.get(each.argval, getattr(builtins, str(each.argval), None))
            if callable(value) and not isinstance(value, type):
                return False
        attributes |= each.opname in {"LOAD_ATTR", "LOAD_METHOD"}
        calls |= each.opname.startswith("CALL")
    return not (attributes and calls)
