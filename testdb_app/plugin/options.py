"""The options and ini keys, beside those of pytest-django, and what the header says of them."""

from __future__ import annotations

from typing import Any

import pytest

RESET = "testdb_reset_transactional"
LEAKS = "testdb_leaks"
DURATIONS = "testdb_durations"
HOOKS = "testdb_hooks"
"""The name that the hooks around fixtures and tests are registered under, where they are."""
LEAK_MODES = ("warn", "fail")
_HELP = {
    RESET: "End every transactional test (by transactional_db, live_server or the mark) by a reset to the baseline.",
    LEAKS: "After each test and each wide fixture, look for rows that it has left committed: warn, or fail.",
    DURATIONS: "Show the N slowest resets, and what they reset.",
}


def add_options(parser: pytest.Parser) -> None:
    """Declare them."""
    group = parser.getgroup("django")
    group.addoption("--testdb-reset-transactional", action="store_true", default=False, help=_HELP[RESET])
    group.addoption("--testdb-leaks", choices=LEAK_MODES, default=None, help=_HELP[LEAKS])
    group.addoption("--testdb-durations", type=int, metavar="N", default=None, help=_HELP[DURATIONS])
    parser.addini(RESET, _HELP[RESET], type="bool", default=False)
    parser.addini(LEAKS, _HELP[LEAKS], default="")


def check_options(config: pytest.Config) -> None:
    """Raise :class:`pytest.UsageError` for a value that cannot be meant."""
    mode = config.getini(LEAKS)
    if mode and mode not in LEAK_MODES:
        raise pytest.UsageError(f"The ini key {LEAKS} must be one of {', '.join(LEAK_MODES)}, not {mode!r}.")
    wanted = durations(config)
    if wanted is not None and wanted < 0:
        raise pytest.UsageError(f"--testdb-durations must be 0 (all) or more, not {wanted}.")


def resets_all(config: pytest.Config) -> bool:
    """Whether every test that commits is to end by a reset."""
    return bool(config.getoption(RESET) or config.getini(RESET))


def leaks(config: pytest.Config) -> str | None:
    """Return what to do about rows that are left: "warn", "fail", or None."""
    return str(config.getoption(LEAKS) or config.getini(LEAKS)) or None


def durations(config: pytest.Config) -> int | None:
    """Return how many of the slowest resets to show, 0 for all; None for no report."""
    given: Any = config.getoption(DURATIONS)
    return None if given is None else int(given)


def header(config: pytest.Config) -> str | None:
    """Say what is on; None where nothing is."""
    mode = leaks(config)
    on = [
        "transactional tests reset to the baseline" if resets_all(config) else "",
        f"leaks: {mode}" if mode else "",
        "durations of resets" if durations(config) is not None else "",
    ]
    told = ", ".join(each for each in on if each)
    return f"testdb_app: {told}" if told else None
