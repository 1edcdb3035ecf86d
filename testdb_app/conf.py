"""Settings: reads and checks the dict ``settings.TESTDB``, and the options of a reset."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.db import connections

from testdb_app.baseline_state import FLUSHED
from testdb_app.exceptions import ConfigurationError

ALL_APPS = "all"
"""The value of ``POST_MIGRATE`` that means every app except Django's own."""
STRATEGIES = ("auto", "delete", "truncate")
KEEP_CONNECTIONS = ("auto", "never", "always")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The value of ``settings.TESTDB``; each field is a key in capitals.

    - ``allowed_databases``: names of databases that may be reset although nothing marks them as test databases.
    - ``exclude``: labels and patterns of tables that no reset touches.
    - ``strategy``: "auto", "delete" or "truncate".
    - ``lock_timeout``: seconds that a reset waits for locks.
    - ``post_migrate``: apps whose receivers of ``post_migrate`` are called after each test, as by a flush, or ("all",).
    - ``truncate_above``: bytes per table from which ``auto`` truncates instead of deleting.
    - ``keep_connections``: "auto" keeps a connection between two tests if its session is proved to be as good as a new
      one. "never" closes it. "always" keeps what can be put back.
    - ``templates``: whether test databases are clones of a template, so that migrations run once.
    - ``template_depends``: what a template database depends on besides what is found: globs relative to the project's root,
      "env:NAME" and "setting:NAME". With "!" before it, something is left out.
    - ``template_cache``: the folder for templates as files; relative to the project. None for no files, and for
      ``.testdb`` on SQLite, whose templates always are files.
    - ``template_max_age``: seconds after which a template is built anew; None for no limit.
    """

    allowed_databases: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    strategy: str = "auto"
    lock_timeout: float = 5.0
    truncate_above: int = 4 * 1024 * 1024
    keep_connections: str = "auto"
    post_migrate: tuple[str, ...] = ()
    templates: bool = False
    template_depends: tuple[str, ...] = ()
    template_cache: str | None = None
    template_max_age: float | None = None


_FIELDS = {field.name.upper(): field.name for field in fields(Settings)}
# What was given last, as a copy, because the lists in it may change in place; and what it means.
_checked: list[tuple[Mapping[str, Any], Settings]] = [({}, Settings())]


def get_settings() -> Settings:
    """Read and check ``settings.TESTDB``.

    Raises :class:`ConfigurationError` for an unknown key, a wrong type or an invalid value.
    """
    given = getattr(django_settings, "TESTDB", {})
    before, settings = _checked[0]
    if given == before:
        return settings
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"settings.TESTDB must be a dict, not {type(given).__name__}.")
    known = _FIELDS
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigurationError(
                f"settings.TESTDB has an unknown key {key!r}.{hint} Known keys: {', '.join(known)}."
            )
        values[known[key]] = _CHECKS[known[key]](key, value)
    settings = Settings(**values)
    _checked[0] = deepcopy(given), settings
    return settings


def _names(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple | set | frozenset) or not all(isinstance(item, str) for item in value):
        raise ConfigurationError(f'settings.TESTDB["{key}"] must be a list of strings, not {value!r}.')
    return tuple(sorted(value)) if isinstance(value, set | frozenset) else tuple(value)


def _apps(key: str, value: Any) -> tuple[str, ...]:
    """Return the labels of the apps in *value*, which is "all", or a list of labels and dotted names."""
    if value == ALL_APPS:
        return (ALL_APPS,)
    names = _names(key, value)
    # A test may have replaced the list of installed apps.
    installed = [config for configs in (apps.app_configs, *apps.stored_app_configs) for config in configs.values()]
    known = {name: config.label for config in installed for name in (config.label, config.name)}
    for name in names:
        if name not in known and apps.ready:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ConfigurationError(
                f'settings.TESTDB["{key}"] names {name!r}, which is neither the label nor the name of an installed app.{hint} '
                f'Correct it, or use "{ALL_APPS}" in place of the list.'
            )
    return tuple(known.get(name, name) for name in names)


_DEPENDENCY = re.compile(r"!?(?:(?:env|setting):\w+|(?!\w{2,}:)[^!\s].*)")


def _dependencies(key: str, value: Any) -> tuple[str, ...]:
    names = _names(key, value)
    for name in names:
        if not _DEPENDENCY.fullmatch(name):
            raise ConfigurationError(
                f'settings.TESTDB["{key}"] has an invalid item {name!r}. An item is a pattern of files ("data/**/*.csv"), '
                '"env:NAME" or "setting:NAME", and may have a "!" before it.'
            )
    return names


def check_strategy(key: str, value: Any) -> str:
    """Return *value*. Raises :class:`ConfigurationError`, which names *key*, if it is no strategy."""
    if value not in STRATEGIES:
        raise ConfigurationError(f"{key} must be one of {', '.join(STRATEGIES)}, not {value!r}.")
    return str(value)


def _keep_connections(key: str, value: Any) -> str:
    if value not in KEEP_CONNECTIONS:
        raise ConfigurationError(
            f'settings.TESTDB["{key}"] must be one of {", ".join(KEEP_CONNECTIONS)}, not {value!r}.'
        )
    return str(value)


def check_seconds(key: str, value: Any) -> float:
    """Return *value* as a float. Raises :class:`ConfigurationError` unless it is above 0 and at most 86,400 seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 86_400:
        raise ConfigurationError(f"{key} must be a number of seconds above 0 and at most 86400, not {value!r}.")
    return float(value)


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f'settings.TESTDB["{key}"] must be True or False, not {value!r}.')
    return value


def _folder(key: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or not isinstance(os.fspath(value), str):
        raise ConfigurationError(f'settings.TESTDB["{key}"] must be the path of a folder, or None, not {value!r}.')
    return os.fspath(value)


def _age(key: str, value: Any) -> float | None:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        raise ConfigurationError(
            f'settings.TESTDB["{key}"] must be a number of seconds above 0, a timedelta, or None, not {value!r}.'
        )
    return value


def _bytes(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f'settings.TESTDB["{key}"] must be a number of bytes, 0 or more, not {value!r}.')
    return value


_CHECKS = {
    "allowed_databases": _names,
    "exclude": _names,
    "strategy": lambda key, value: check_strategy(f'settings.TESTDB["{key}"]', value),
    "lock_timeout": lambda key, value: check_seconds(f'settings.TESTDB["{key}"]', value),
    "post_migrate": _apps,
    "truncate_above": _bytes,
    "keep_connections": _keep_connections,
    "template_depends": _dependencies,
    "templates": _flag,
    "template_cache": _folder,
    "template_max_age": _age,
}


TARGETS = ("baseline", "empty")
"""The states that a reset can go to. None means the baseline if the database has one, and empty otherwise.

:mod:`testdb_app.teardown` keeps one more: :data:`testdb_app.baseline_state.FLUSHED`.
"""

MIGRATED = "migrated"
"""The rows of a fresh ``migrate``: a target of ``resetdb``; see :mod:`testdb_app.creation.migrated`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetOptions:
    """The checked options of a :class:`testdb_app.resetter.Resetter`; see there. :func:`check_options` makes them."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    to: str | None
    strategy: str
    reset_sequences: bool
    allow_database: tuple[str, ...]
    lock_timeout: float
    truncate_above: int


def check_options(
    *,
    using: str,
    include: str | Iterable[str],
    exclude: str | Iterable[str],
    to: str | None,
    strategy: str | None,
    reset_sequences: bool,
    allow_database: str | Iterable[str],
    lock_timeout: float | None,
) -> ResetOptions:
    """Check the options of a reset, and replace None by the value in ``settings.TESTDB``.

    Raises :class:`ConfigurationError`, which names the wrong argument and the values that it takes.
    """
    settings = get_settings()
    if to is not None and to not in {*TARGETS, FLUSHED}:
        raise ConfigurationError(f"to must be one of {', '.join(TARGETS)}, or None, not {to!r}.")
    if using not in connections:
        raise ConfigurationError(
            f"There is no database alias {using!r}. settings.DATABASES has {', '.join(map(repr, connections))}."
        )
    return ResetOptions(
        include=_argument_names("include", include),
        exclude=(*_argument_names("exclude", exclude), *settings.exclude),
        to=to,
        strategy=settings.strategy if strategy is None else check_strategy("strategy", strategy),
        reset_sequences=reset_sequences,
        allow_database=_argument_names("allow_database", allow_database),
        lock_timeout=settings.lock_timeout if lock_timeout is None else check_seconds("lock_timeout", lock_timeout),
        truncate_above=settings.truncate_above,
    )


def _argument_names(argument: str, value: Any) -> tuple[str, ...]:
    items = (value,) if isinstance(value, str) else tuple(value)
    for item in items:
        if not isinstance(item, str) or not item.strip():
            raise ConfigurationError(f"{argument} must hold names or patterns, not {item!r}.")
    return items
