"""What a set-up does besides making rows: as its code shows it, and as it is seen while it runs."""

from __future__ import annotations

import datetime
import functools
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import CodeType
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


@functools.cache
def find_effect(code: CodeType) -> str | None:
    """Return what *code* does besides rows, as far as its names show it: "reads the clock (now)"; None if that is nothing."""
    names = set(names_in(code))
    known_names = (("reads the clock", _CLOCK), ("changes the process", _PROCESS), ("makes a temporary file", _FILES))
    for what, known in known_names:
        found = sorted(names & known)
        if found:
            return f"{what} ({found[0]})"
    return None


def names_in(code: CodeType) -> Iterator[str]:
    """Yield the names of globals and attributes in *code*, and in the functions that it defines."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


@contextmanager
def watched(changed: list[str], connections: list[Any]) -> Iterator[None]:
    """Append to *changed* what is changed besides rows while the block runs.

    It sees ``mail.outbox``, callbacks of ``on_commit()``, the cache of sites, writes to any configured cache, and files that
    are saved by a storage.
    """
    from django.core import mail  # noqa: PLC0415 - Django is imported where it is used
    from django.core.cache import InvalidCacheBackendError, caches  # noqa: PLC0415
    from django.core.files.storage import Storage  # noqa: PLC0415

    sites: dict[Any, Any] = getattr(sys.modules.get("django.contrib.sites.models"), "SITE_CACHE", {})
    outbox = list(getattr(mail, "outbox", ()))
    callbacks = [len(each.run_on_commit) for each in connections]
    known_sites = dict(sites)
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


_CACHES_WITHOUT_STATE = ("django.core.cache.backends.dummy", "django.core.cache.backends.db")
_WRITES_OF_CACHES = ("add", "set", "touch", "delete", "clear", "incr", "decr", "set_many", "delete_many")


def process_state() -> dict[str, list[Any]]:
    """Return what code may change in the process, by the words for such a change. Compare it by :func:`is_same`."""
    from django.core import signals  # noqa: PLC0415
    from django.db.models import signals as signals_of_models  # noqa: PLC0415
    from django.dispatch import Signal  # noqa: PLC0415
    from django.utils import timezone, translation  # noqa: PLC0415

    in_force = django_private.settings_in_force()
    every = [*vars(signals_of_models).values(), *vars(signals).values()]
    return {
        "changes settings": [in_force, *shallow(in_force)],
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
