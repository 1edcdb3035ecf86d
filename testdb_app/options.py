"""The options of a reset, checked, with the settings filled in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db import connections

from testdb_app.conf import check_seconds, check_strategy, get_settings
from testdb_app.exceptions import ConfigurationError
from testdb_app.states import FLUSHED

TARGETS = ("baseline", "empty")
"""The states that a reset can go to. None means the baseline where the database has one, and empty otherwise.

There is one more, which :mod:`testdb_app.flushing` keeps: :data:`testdb_app.states.FLUSHED`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetOptions:
    """What :class:`testdb_app.resetter.Resetter` was asked for; see there. Made by :func:`check_options`."""

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
    """Check the arguments and fill in ``settings.TESTDB`` for what is None.

    Raises :class:`ConfigurationError` that names the argument and the values that it takes.
    """
    settings = get_settings()
    if to is not None and to not in {*TARGETS, FLUSHED}:
        raise ConfigurationError(f"to must be one of {', '.join(TARGETS)}, or None, not {to!r}.")
    if using not in connections:
        raise ConfigurationError(
            f"There is no database alias {using!r}. settings.DATABASES has {', '.join(map(repr, connections))}."
        )
    return ResetOptions(
        include=_names("include", include),
        exclude=(*_names("exclude", exclude), *settings.exclude),
        to=to,
        strategy=settings.strategy if strategy is None else check_strategy("strategy", strategy),
        reset_sequences=reset_sequences,
        allow_database=_names("allow_database", allow_database),
        lock_timeout=settings.lock_timeout if lock_timeout is None else check_seconds("lock_timeout", lock_timeout),
        truncate_above=settings.truncate_above,
    )


def _names(argument: str, value: Any) -> tuple[str, ...]:
    items = (value,) if isinstance(value, str) else tuple(value)
    for item in items:
        if not isinstance(item, str) or not item.strip():
            raise ConfigurationError(f"{argument} must hold names or patterns, not {item!r}.")
    return items
