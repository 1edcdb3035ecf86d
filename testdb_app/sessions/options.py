"""What a factory of sessions was asked for, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

from testdb_app.exceptions import ConfigurationError
from testdb_app.sessions.durations import Duration, parse_duration
from testdb_app.sessions.pool_options import check_pool_options

ISOLATIONS = ("rollback", "reset")
"""How a session is undone: in one transaction that is rolled back, or with real commits and a reset at the end."""

ALL = "__all__"
"""Every alias, as in Django's ``TestCase.databases``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """The options of :class:`testdb_app.sessions.TestSessionFactory`; see there. Made by :func:`check_session_options`.

    ``limits`` are milliseconds by PostgreSQL's names. ``connect_timeout`` is in whole seconds, ``ownership_timeout`` in
    seconds.
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
        """The aliases to open, sorted, so that sessions take their connections in one order."""
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
    """Check the options; raise :class:`ConfigurationError` that names the one that is wrong, and what it takes."""
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
        # libpq has whole seconds, and takes 1 for 2.
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
