"""Durations as people write them: seconds, timedelta, PostgreSQL's text; always milliseconds afterwards."""

from __future__ import annotations

import math
import re
from datetime import timedelta

from testdb_app.exceptions import ConfigurationError

Duration = int | float | timedelta | str
"""Seconds, a timedelta, or a number with a unit of PostgreSQL: "500ms", "30s", "5min", "1h", "1d"."""

# https://www.postgresql.org/docs/current/config-setting.html#CONFIG-SETTING-NAMES-VALUES; they are case-sensitive there.
_UNITS = {"us": 0.001, "ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
_MOST = 2**31 - 1
"""Milliseconds, as the server keeps them: some 24 days."""


def parse_duration(name: str, value: Duration | None) -> int | None:
    """Return *value* in milliseconds, at least 1; None for None, which stands for no limit.

    Raises :class:`ConfigurationError`, which names the argument *name* and what it takes.
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
    """Write a duration for people: "500 ms", "2 s", "1.5 s"."""
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
