"""Check the options of a session factory: durations, limits and pools."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import DEFAULT_DB_ALIAS, connections

from testdb_app.exceptions import ConfigurationError, UnsupportedError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

ISOLATIONS = ("rollback", "reset")
"""How a session is undone: by the rollback of its one transaction, or, after real commits, by a reset."""

ALL = "__all__"
"""Every alias, as in Django's ``TestCase.databases``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """The checked options of :class:`testdb_app.sessions.TestSessionFactory`. :func:`check_session_options` makes them.

    ``limits`` maps PostgreSQL's setting names to milliseconds. ``connect_timeout`` is in whole seconds,
    ``ownership_timeout`` in seconds.
    """

    databases: tuple[str, ...] | str
    isolation: str
    limits: Mapping[str, int]
    connect_timeout: int | None
    ownership_timeout: float | None
    pool: Mapping[str, Any] | None
    allow_database: tuple[str, ...]
    around: Callable[[], AbstractContextManager[object]] | None

    @property
    def aliases(self) -> tuple[str, ...]:
        """The aliases to open, sorted, so that sessions open their connections in the same order."""
        return tuple(sorted(connections)) if self.databases == ALL else tuple(self.databases)


def check_session_options(
    *,
    databases: str | Iterable[str] = (DEFAULT_DB_ALIAS,),
    isolation: str = "rollback",
    connect_timeout: Duration | None = None,
    statement_timeout: Duration | None = None,
    lock_timeout: Duration | None = None,
    idle_in_transaction_timeout: Duration | None = None,
    ownership_timeout: Duration | None = None,
    pool: Mapping[str, Any] | bool | None = None,
    allow_database: str | Iterable[str] = (),
    around: Callable[[], AbstractContextManager[object]] | None = None,
) -> SessionOptions:
    """Check the options, and return them. Raises :class:`ConfigurationError` with the invalid option and its valid values."""
    if isolation not in ISOLATIONS:
        raise ConfigurationError(f"isolation must be one of {', '.join(ISOLATIONS)}, not {isolation!r}.")
    limits = {
        "statement_timeout": parse_duration("statement_timeout", statement_timeout),
        "lock_timeout": parse_duration("lock_timeout", lock_timeout),
        "idle_in_transaction_session_timeout": parse_duration(
            "idle_in_transaction_timeout", idle_in_transaction_timeout
        ),
    }
    connect = parse_duration("connect_timeout", connect_timeout)
    ownership = parse_duration("ownership_timeout", ownership_timeout)
    return SessionOptions(
        databases=ALL if databases == ALL else _check_names("databases", databases),
        isolation=isolation,
        limits={name: value for name, value in limits.items() if value is not None},
        # libpq uses whole seconds, and treats 1 as 2.
        connect_timeout=None if connect is None else max(2, math.ceil(connect / 1_000)),
        ownership_timeout=None if ownership is None else ownership / 1_000,
        pool=check_pool_options(pool),
        allow_database=_check_names("allow_database", allow_database, may_be_empty=True),
        around=around,
    )


def _check_names(name: str, given: str | Iterable[str], *, may_be_empty: bool = False) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(sorted(set(given)))
    if not all(isinstance(each, str) and each for each in names) or not (names or may_be_empty):
        raise ConfigurationError(f"{name} must be a name or a set of names, not {given!r}.")
    return names


def check_pool_options(pool: Mapping[str, Any] | bool | None) -> Mapping[str, Any] | None:
    """Return the options of a pool as Django's ``OPTIONS["pool"]`` accepts them, or None for no pool.

    Raises :class:`ConfigurationError` for options that psycopg_pool refuses, that make no pool, or with which no
    connection can be obtained.
    """
    if pool is None or pool is False:
        return None
    options = {} if pool is True else pool
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"pool must be a dict of psycopg_pool's options, True, or None, not {pool!r}.")
    if not options and pool is not True:
        raise ConfigurationError(
            "pool={} makes no pool, because Django reads it as None. Pass True for the defaults of psycopg_pool, or name "
            'an option: pool={"min_size": 1, "max_size": 4}.'
        )
    try:
        from psycopg_pool import ConnectionPool  # noqa: PLC0415 - it is optional
    except ImportError as error:
        raise ConfigurationError('pool needs psycopg_pool: pip install "psycopg[pool]".') from error
    try:
        # Django makes it in the same way. It is not opened, so that it connects to nothing.
        ConnectionPool("", kwargs=None, open=False, configure=None, check=None, **options)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"pool: psycopg_pool does not accept {dict(options)!r}: {error}. See its ConnectionPool for the options; "
            "min_size is 4 unless it is given, and Django sets conninfo, kwargs, open, configure and check itself."
        ) from error
    # The pool does not check its timeout. None waits forever, and with 0 no connection is ever made in time.
    timeout = options.get("timeout", 30.0)
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or timeout <= 0:
        raise ConfigurationError(f"pool: timeout must be a number of seconds above 0, not {timeout!r}.")
    return dict(options)


def check_may_pool(connection: BaseDatabaseWrapper) -> None:
    """Raise an error if a pool with the settings of *connection* hangs, or is never used."""
    options = connection.settings_dict["OPTIONS"]
    if connection.vendor != "postgresql":
        raise UnsupportedError(
            f'pool: the database "{connection.alias}" ({connection.display_name}) has no pools in Django. Leave pool out.'
        )
    if connection.settings_dict.get("CONN_MAX_AGE", 0) != 0:
        raise ConfigurationError(
            f'pool: DATABASES["{connection.alias}"] has CONN_MAX_AGE {connection.settings_dict["CONN_MAX_AGE"]}, and Django '
            "pools no persistent connections. Set it to 0 in the settings of the tests."
        )
    if options.get("assume_role"):
        raise ConfigurationError(
            f'pool: DATABASES["{connection.alias}"] has the option assume_role. Django sets that role by a connection '
            "which a pool does not have yet, so that no connection of the pool succeeds, and every use waits until the pool's "
            "timeout. Leave one of the two out."
        )


Duration = int | float | timedelta | str
"""Seconds, a timedelta, or a number with one of PostgreSQL's units: "500ms", "30s", "5min", "1h", "1d"."""

# PostgreSQL can parse durations, but they are parsed here for three reasons. libpq, SQLite and waiting threads need numbers.
# Errors compare a limit with the elapsed time. An invalid text is refused before anything connects. A test compares the results
# with the server's. Units are case-sensitive:
# https://www.postgresql.org/docs/current/config-setting.html#CONFIG-SETTING-NAMES-VALUES
_UNITS = {"us": 0.001, "ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
_MOST = 2**31 - 1
"""The server's maximum in milliseconds, about 24 days."""


def parse_duration(name: str, value: Duration | None) -> int | None:
    """Return *value* in milliseconds, at least 1. None means no limit, and returns None.

    Raises :class:`ConfigurationError` with the argument *name* and its valid values.
    """
    if value is None:
        return None
    found = _milliseconds(value)
    if found is None or not math.isfinite(found) or not 0 < found <= _MOST:
        raise ConfigurationError(
            f"{name} must be more than 0 and at most 24 days: a number of seconds, a timedelta, or a text with one of "
            f'PostgreSQL\'s units, such as "500ms", "30s" or "5min"; None for no limit. It is {value!r}.'
        )
    return max(1, round(found))


def describe_duration(milliseconds: float) -> str:
    """Return a duration as text: "500 ms", "2 s", "1.5 s"."""
    return f"{milliseconds:.0f} ms" if milliseconds < 1_000 else f"{milliseconds / 1_000:g} s"


def _milliseconds(value: object) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds() * 1_000
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value * 1_000
    match = _TEXT.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in _UNITS:
        return None
    return float(match[1]) * _UNITS[match[2]]
