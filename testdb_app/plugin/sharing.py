"""Whether a fixture of function scope can be shared by tests, as its definition shows it, and as it is seen while it is made."""

from __future__ import annotations

import builtins
import dis
import functools
import inspect
from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import Any

import pytest

from testdb_app.deep_copies import deep_copy
from testdb_app.plugin import requests
from testdb_app.plugin._pytest_private import (
    DB_HELPER,
    collected_definitions,
    find_definitions,
    fixtures_set_up,
    request_of,
)
from testdb_app.side_effects import Changes, find_effect, find_setting, is_same, shallow, watched

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


class Judgements:
    """The judgements of one run. Tests of a node with the same fixtures and parameters are judged once."""

    def __init__(self) -> None:
        self._refused: dict[Any, str] = {}
        self._judged: dict[Hashable, dict[Any, str | None]] = {}
        # The last answer, and what it is about.
        self._last: tuple[Any, requests.Share, dict[Any, str | None]] | None = None
        # Those that hold for one test only.
        self._for_now: list[Examination] = []

    def refuse(self, examination: Examination, reason: str) -> None:
        """Note that a fixture was seen to do more than rows. If it imported modules, that holds for this test only."""
        self._refused[examination.fixturedef] = reason
        if examination.imports:
            self._for_now.append(examination)
        self._forget()

    def of(self, item: Any, share: requests.Share) -> Mapping[Any, str | None]:
        """Return the fixtures of *item*, in the order of their set-up, and why each cannot be shared; None if it can be."""
        if self._for_now and item is not self._for_now[0].item:
            for each in self._for_now:
                self._refused.pop(each.fixturedef, None)
            self._for_now.clear()
            self._forget()
        if self._last is not None and self._last[0] is item and self._last[1] is share:
            return self._last[2]
        key = (item.parent, frozenset(_parameters(item)), requests.names_of(item), share)
        if key not in self._judged:
            self._judged[key] = _judge(item, share, self._refused)
        self._last = item, share, self._judged[key]
        return self._judged[key]

    def _forget(self) -> None:
        self._judged.clear()
        self._last = None


def _judge(item: Any, share: requests.Share, refused: Mapping[Any, str]) -> dict[Any, str | None]:
    """Return the fixtures of *item*, in the order of their set-up, and why each cannot be shared; None for one that can be.

    *refused* are those that were seen to do more than rows, and the reasons. Inert fixtures are left out. One that only sets is
    made for each test, and in the way of no other.
    """
    judged: dict[Any, str | None] = {}
    first = ""
    for fixturedef in set_up_order(item):
        if is_inert(fixturedef):
            continue
        name = fixturedef.argname
        setting = _find_setting(fixturedef, item)
        if setting is not None:
            judged[fixturedef] = setting
            continue
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
    reason = refused.get(fixturedef) or _why_not_shared(fixturedef, item, share)
    if reason is None:
        for argument in fixturedef.argnames:
            if definition_for(fixturedef, argument, item) in refused:
                return f'uses "{argument}", which is not shared'
    return reason


def _why_not_shared(fixturedef: Any, item: Any, share: requests.Share) -> str | None:
    """Return why *fixturedef* cannot be shared by the tests of a node, as *item* uses it; None if nothing speaks against it.

    It is the judgement before the fixture is made: by its scope, its arguments, and the names in its code. The text completes
    "The fixture …". Fixtures that the mark names are shared although their code speaks against it.
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
        reason = _find_reason_in_code(fixturedef, is_named=name in share.fixtures)
    arguments = (_find_reason_in_argument(fixturedef, each, item, share) for each in fixturedef.argnames)
    return reason or next(filter(None, arguments), None)


def _find_reason_in_argument(fixturedef: Any, argument: str, item: Any, share: requests.Share) -> str | None:
    is_ignored = fixturedef.argname in share.fixtures or not _loads(fixturedef.func, argument)
    if argument == "request":
        return None if is_ignored else 'uses "request"'
    used = definition_for(fixturedef, argument, item)
    if used is None or used.scope != "function":
        return None
    if argument in _parameters(item):
        return f'uses the parameter "{argument}" of the test'
    if is_inert(used) or _find_setting(used, item) is not None:
        return None if is_ignored or argument in _WITHOUT_STATE else f'uses "{argument}"'
    if argument in share.except_:
        return None if fixturedef.argname in share.fixtures else f'uses "{argument}", which is not shared'
    reason = _why_not_shared(used, item, share)
    return None if reason is None else f'uses "{argument}", which {reason}'


def _find_setting(fixturedef: Any, item: Any) -> str | None:
    """Return what a fixture sets, if it only sets what is the same for each test. See :func:`find_setting`."""
    if fixturedef.params is not None or not inspect.isroutine(fixturedef.func):
        return None
    used = ((name, definition_for(fixturedef, name, item)) for name in _TOOLS if name in fixturedef.argnames)
    tools = (name for name, tool in used if tool is not None and tool.func.__module__ == _TOOLS[name])
    return find_setting(fixturedef.func, frozenset(tools))


_TOOLS = {"settings": "pytest_django.fixtures", "monkeypatch": "_pytest.monkeypatch"}


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
        reason = "uses self" if _loads(fixturedef.func, "self") else find_effect(code)
    return reason


@functools.cache
def _loads(function: Any, argument: str) -> bool:
    """Whether *function* uses an argument, or may use it: by a decorator, or a call that reads all variables."""
    code = inspect.unwrap(function).__code__
    if argument not in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        return False
    if hasattr(function, "__wrapped__") or not _READ_VARIABLES.isdisjoint(code.co_names):
        return True
    loaded = (each.argval for each in dis.get_instructions(code) if "LOAD_" in each.opname)
    return any(each == argument or (isinstance(each, tuple) and argument in each) for each in loaded)


_READ_VARIABLES = frozenset({"locals", "vars", "eval", "exec", "super"})
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


class Examination:
    """What a fixture of *item* does besides rows while it is made: in the block that this object begins and ends."""

    def __init__(self, fixturedef: Any, item: Any, connections: list[Any]) -> None:
        self.fixturedef = fixturedef
        self.item = item
        self._blocks = {each: len(each.savepoint_ids) for each in connections}
        self._wide = [(value, shallow(value)) for value in wide_values(item)]
        self._changed = Changes()
        self._watch = watched(self._changed, connections)

    @property
    def imports(self) -> bool:
        """Whether modules were imported while the fixture was made: what that changed is not changed again."""
        return self._changed.imports

    def __enter__(self) -> None:
        self._watch.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._watch.__exit__(*error)

    def judge(
        self, values: list[Any], memo: dict[int, Any], *, sends_statements: bool, is_named: bool
    ) -> tuple[list[Any], str | None]:
        """Return copies of *values*, and why the fixture cannot be shared; None if it can be. *memo* is that of the copies."""
        from testdb_app.transactions import has_failed  # noqa: PLC0415 - Django is imported where it is used

        reason = None
        if any(map(has_failed, self._blocks)):
            reason = "has broken its transaction: a statement has failed in it"
        elif any(len(each.savepoint_ids) != count for each, count in self._blocks.items()):
            reason = "leaves an atomic() block open"
        elif not is_named:
            reason = self._find_effect(sends_statements=sends_statements)
        if reason is not None:
            return [], reason
        try:
            return [deep_copy(each, memo) for each in values], None
        except Exception as error:  # noqa: BLE001 - any object may refuse to be copied, by any error
            return [], f"has a value that cannot be copied ({type(error).__name__}: {error})"

    def _find_effect(self, *, sends_statements: bool) -> str | None:
        if any(not is_same(shallow(value), before) for value, before in self._wide):
            self._changed.append("changes the value of a wider fixture")
        if self._changed:
            return f"does more than rows: it {self._changed[0]}"
        if not sends_statements and not only_builds(self.fixturedef):
            return "sends no statement, and may do something else"
        return None


def wide_values(item: Any) -> Iterator[Any]:
    """Yield the values of the wide fixtures that *item* uses, and the elements of those that are collections."""
    for fixturedef in fixtures_set_up(request_of(item)).values():
        if fixturedef.scope != "function" and fixturedef.cached_result is not None:
            value = fixturedef.cached_result[0]
            yield value
            if isinstance(value, (list, tuple, set, frozenset)):
                yield from value
            elif isinstance(value, dict):
                yield from value.values()
