"""The plugin's options and ini keys, and its line in pytest's header."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testdb_app.plugin import requests

RESET = "testdb_reset_transactional"
LEAKS = "testdb_leaks"
DURATIONS = "testdb_durations"
FIXTURES = "testdb_fixtures"
FIXTURES_JSON = "testdb_fixtures_json"
TEMPLATES = "testdb_templates"
SHARE = "testdb_share"
EXPLAIN = "testdb_explain"
VERIFY = "testdb_share_verify"
SHARED = "testdb_shared"
"""The key under which a worker of pytest-xdist hands over what it has shared."""
HOOKS = "testdb_hooks"
"""The name of the plugin object that holds the hooks around fixtures and tests."""
CREATION_HOOKS = "testdb_creation_hooks"
"""The name of the plugin object that makes test databases from templates."""
STARTED = "testdb_started"
SECONDS = "testdb_seconds"
_SECONDS = pytest.StashKey[float]()
_SECONDS_OF_LAST_RUN = "testdb/seconds"
SLOW = 5.0
"""Seconds for the test databases from which the header recommends templates."""
_STARTED = pytest.StashKey[float]()
LEAK_MODES = ("warn", "fail")
_HELP = {
    RESET: "End every transactional test (by transactional_db, live_server or the mark) with a reset instead of a flush.",
    LEAKS: "After each test and each wide fixture, find committed rows that it left in the database: warn, or fail.",
    DURATIONS: "Show the N slowest resets, and what they reset.",
    SHARE: "Files and folders whose tests share what their function-scoped fixtures make, as by the mark testdb_share.",
    EXPLAIN: "Show which fixtures the tests with the mark testdb_share share, how often these were made, and why others are not.",
    VERIFY: "Run the tests again without sharing, compare the outcomes of each test, and fail where they differ.",
    FIXTURES: "Show the N fixtures that write rows whose sharing would save most time, and the N slowest factories; 0 for all.",
    FIXTURES_JSON: "Write the profile of the fixtures and factories that write rows to PATH, as JSON.",
    TEMPLATES: "Clone the test databases from a template, so that migrations run once and not in every run and worker.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions:
    """The number of fixtures and factories to show, all with 0 and none with None, and the path of the JSON file."""

    most: int | None
    path: Path | None


def add_options(parser: pytest.Parser) -> None:
    """Declare the options and ini keys."""
    group = parser.getgroup("django")
    group.addoption("--testdb-reset-transactional", action="store_true", default=False, help=_HELP[RESET])
    group.addoption("--testdb-leaks", choices=LEAK_MODES, default=None, help=_HELP[LEAKS])
    group.addoption("--testdb-durations", type=int, metavar="N", default=None, help=_HELP[DURATIONS])
    group.addoption("--testdb-explain", action="store_true", default=False, help=_HELP[EXPLAIN])
    group.addoption("--testdb-share-verify", action="store_true", default=False, help=_HELP[VERIFY])
    group.addoption(
        "--no-testdb-share",
        dest=SHARE,
        action="store_false",
        default=True,
        help="Ignore the mark and the ini key testdb_share: make each fixture for each test.",
    )
    group.addoption("--testdb-fixtures", type=int, metavar="N", default=None, help=_HELP[FIXTURES])
    group.addoption("--testdb-fixtures-json", metavar="PATH", default=None, help=_HELP[FIXTURES_JSON])
    group.addoption("--testdb-templates", dest=TEMPLATES, action="store_true", default=None, help=_HELP[TEMPLATES])
    group.addoption(
        "--no-testdb-templates",
        dest=TEMPLATES,
        action="store_false",
        default=None,
        help="Run the migrations, as Django does.",
    )
    parser.addini(SHARE, _HELP[SHARE], type="paths", default=[])
    parser.addini(TEMPLATES, _HELP[TEMPLATES], type="bool", default=None)
    parser.addini(RESET, _HELP[RESET], type="bool", default=False)
    parser.addini(LEAKS, _HELP[LEAKS], default="")


def check_options(config: pytest.Config) -> None:
    """Raise :class:`pytest.UsageError` for an invalid value."""
    for key in (RESET, TEMPLATES):
        try:
            config.getini(key)
        except (TypeError, ValueError, pytest.UsageError) as error:
            raise pytest.UsageError(f"The ini key {key} must be true or false: {error}.") from error
    mode = config.getini(LEAKS)
    if mode and mode not in LEAK_MODES:
        raise pytest.UsageError(f"The ini key {LEAKS} must be one of {', '.join(LEAK_MODES)}, not {mode!r}.")
    missing = [str(path) for path in config.getini(SHARE) if not path.exists()]
    if missing:
        raise pytest.UsageError(
            f"The ini key {SHARE} names what is not there: {', '.join(missing)}. Its paths start at the folder of the ini file."
        )
    for key, wanted in ((DURATIONS, durations(config)), (FIXTURES, config.getoption(FIXTURES))):
        if wanted is not None and wanted < 0:
            raise pytest.UsageError(f"--{key.replace('_', '-')} must be 0 (all) or more, not {wanted}.")
    wanted_profile = profile(config)
    path = wanted_profile and wanted_profile.path
    if path and not path.parent.is_dir():
        raise pytest.UsageError(f"--testdb-fixtures-json: there is no folder {path.parent}. Make it, or name another.")


def started(config: pytest.Config) -> float:
    """Return when the run began, in seconds since the epoch; for a worker of pytest-xdist, when its controller began."""
    if is_worker(config):
        given: float = config.workerinput[STARTED]  # type: ignore[attr-defined]
        return given
    return config.stash.setdefault(_STARTED, time.time())


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def find_fault(config: pytest.Config, items: Iterable[pytest.Item] = ()) -> str | None:
    """Return the faults of the set-up in one text; None without faults, or if the run does not use the plugin.

    A run uses it by an option, an ini key, a fixture or a class of one of *items*, or by the app in INSTALLED_APPS.
    """
    asked = next(_find_users(config, items), None)
    user = asked or next((f"The class of {item.nodeid}" for item in items if requests.is_of_our_class(item)), None)
    if user is None and _wants_templates(config) is None and _sets_templates():
        user = 'The setting TESTDB["TEMPLATES"]'
    if user is None and not _is_installed():
        return None
    if asked is not None and not config.pluginmanager.hasplugin("django"):
        return (
            f"{asked} needs pytest-django, which is not installed or was switched off. Install it (pip install "
            "pytest-django), and leave out -p no:django."
        )
    if user is not None and not _is_set_up():
        return f"{user} needs the settings of Django. Set DJANGO_SETTINGS_MODULE: as ini key, by --ds, or in the environment."
    from django.db import connections  # noqa: PLC0415

    from testdb_app.checks import find_faults  # noqa: PLC0415 - Django is imported where it is used

    items = list(items)
    found = find_faults(aliases_to_reset(items, connections) | aliases_opened(items, connections))
    if not found:
        return None
    return f"{user} cannot be used: {' '.join(found)}" if user is not None else " ".join(found)


def _find_users(config: pytest.Config, items: Iterable[pytest.Item]) -> Iterator[str]:
    """Yield the options, and then the fixtures, by which the run uses the plugin."""
    if resets_all(config):
        yield f"The option {RESET}"
    if leaks(config):
        yield f"The option {LEAKS}"
    if durations(config) is not None:
        yield f"The option {DURATIONS}"
    if profile(config):
        yield f"The option {FIXTURES}"
    if _wants_templates(config):
        yield f"The option {TEMPLATES}"
    for item in items:
        names = requests.ours(item)
        if names:
            what = f"mark {requests.SHARE_MARK}" if requests.share_of(item) else f'fixture "{names[0]}"'
            yield f"The {what} (of {item.nodeid})"


def will_reset(item: pytest.Item) -> bool:
    """Whether *item* resets databases, at its end or at the end of a scope, as far as its collection shows."""
    return (
        (requests.commits(item) and resets(item))
        or bool(requests.committed_scopes(item))
        or requests.is_of_our_class(item)
    )


def aliases_to_reset(items: Iterable[pytest.Item], every: Iterable[str]) -> set[str]:
    """Return the aliases, of *every*, that *items* reset or compare with a baseline, as far as their collection shows."""
    found: set[str] = set()
    for item in items:
        named: list[Any] = []
        if will_reset(item) or (leaks(item.config) is not None and requests.uses_database(item)):
            named.append(requests.databases_of(item))
        session = requests.session_options(item)
        if session.get("isolation") == "reset":
            named.append(session.get("databases", "default"))
        for given in named:
            found.update(every if given == "__all__" else [given] if isinstance(given, str) else given)
    return found


def aliases_opened(items: Iterable[pytest.Item], every: Iterable[str]) -> set[str]:
    """Return the aliases, of *every*, that a scope or a session of ours opens for *items*."""
    named = [requests.databases_of(item) for item in items if requests.ours(item)]
    return {alias for given in named for alias in (every if given == "__all__" else given)}


def _is_set_up() -> bool:
    django = sys.modules.get("django.apps")
    return django is not None and bool(django.apps.ready)


def _is_installed() -> bool:
    return _is_set_up() and bool(sys.modules["django.apps"].apps.is_installed("testdb_app"))


def _sets_templates() -> bool:
    """Whether the settings ask for templates. Without the app nothing would come of it, and nothing would say so."""
    given = getattr(sys.modules["django.conf"].settings, "TESTDB", None) if _is_set_up() else None
    return isinstance(given, dict) and given.get("TEMPLATES") is True


def resets_all(config: pytest.Config) -> bool:
    """Whether every test that commits ends with a reset."""
    return bool(config.getoption(RESET) or config.getini(RESET))


def _wants_templates(config: pytest.Config) -> bool | None:
    """Return what the options and the ini file say of templates; None if they do not say it."""
    given: bool | None = config.getoption(TEMPLATES)
    return config.getini(TEMPLATES) if given is None else given


def uses_templates(config: pytest.Config) -> bool:
    """Whether test databases come from templates: the option, then the ini key, then ``TESTDB["TEMPLATES"]``."""
    wanted = _wants_templates(config)
    if wanted is not None or not _is_installed():
        return bool(wanted)
    from testdb_app.conf import get_settings  # noqa: PLC0415 - Django is imported where it is used
    from testdb_app.exceptions import ConfigurationError  # noqa: PLC0415

    try:
        return get_settings().templates
    except ConfigurationError:
        return False  # find_fault() reports it


def resets(item: pytest.Item) -> bool:
    """Whether *item* ends with a reset, if it commits."""
    return "reset_db" in requests.names_of(item) or resets_all(item.config)


def leaks(config: pytest.Config) -> str | None:
    """Return what to do about leaked rows: "warn", "fail", or None."""
    return str(config.getoption(LEAKS) or config.getini(LEAKS)) or None


def durations(config: pytest.Config) -> int | None:
    """Return the number of the slowest resets to show: 0 for all, None for no report."""
    given: Any = config.getoption(DURATIONS)
    return None if given is None else int(given)


def profile(config: pytest.Config) -> ProfileOptions | None:
    """Return what becomes of the profile of fixtures; None without one."""
    most, path = config.getoption(FIXTURES), config.getoption(FIXTURES_JSON)
    if most is None and path is None:
        return None
    return ProfileOptions(most=most, path=None if path is None else config.invocation_params.dir / path)


def header(config: pytest.Config) -> str | None:
    """Return the header's line; None if nothing is switched on."""
    mode = leaks(config)
    on = [
        "transactional tests reset to the baseline" if resets_all(config) else "",
        f"leaks: {mode}" if mode else "",
        "durations of resets" if durations(config) is not None else "",
        "profile of fixtures" if profile(config) else "",
    ]
    told = ", ".join(each for each in on if each)
    lines = [f"testdb_app: {told}"] if told else []
    cache = getattr(config, "cache", None)
    seconds = cache.get(_SECONDS_OF_LAST_RUN, 0.0) if cache is not None else 0.0
    if seconds > SLOW and not is_worker(config) and _wants_templates(config) is None and not uses_templates(config):
        lines.append(
            f"testdb_app: the test databases took {seconds:.0f} s in the last run; with {TEMPLATES} = true in the ini file "
            "migrations run once"
        )
    return "\n".join(lines) or None


def note_seconds(config: pytest.Config, seconds: float) -> None:
    """Note how long the test databases of a process took; the longest time counts."""
    config.stash[_SECONDS] = max(seconds, config.stash.get(_SECONDS, 0.0))


def store_seconds(config: pytest.Config) -> None:
    """Store how long the test databases took, for the header of the next run. A worker hands it to its controller."""
    guard: Any = sys.modules.get("testdb_app.guard")
    note_seconds(config, sum(guard.seconds_to_create.values()) if guard is not None else 0.0)
    seconds, cache = config.stash[_SECONDS], getattr(config, "cache", None)
    if is_worker(config):
        config.workeroutput[SECONDS] = seconds  # type: ignore[attr-defined]
    elif cache is not None and seconds > 0:
        cache.set(_SECONDS_OF_LAST_RUN, round(seconds, 1))
