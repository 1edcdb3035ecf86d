"""``settings.TESTDB``: what it takes, and what it refuses."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from testdb_app import conf
from testdb_app.conf import Settings, check_seconds, check_strategy, get_settings
from testdb_app.exceptions import ConfigurationError
from testdb_app.resetter import Resetter

KNOWN = (
    "Known keys: ALLOWED_DATABASES, EXCLUDE, STRATEGY, LOCK_TIMEOUT, TRUNCATE_ABOVE, KEEP_CONNECTIONS, POST_MIGRATE, "
    "TEMPLATES, TEMPLATE_DEPENDS, TEMPLATE_CACHE, TEMPLATE_MAX_AGE."
)


def test_nothing_set_is_the_defaults(settings: Any) -> None:
    del settings.TESTDB
    assert get_settings() == Settings()
    settings.TESTDB = {}
    assert get_settings() == Settings(
        allowed_databases=(),
        exclude=(),
        strategy="auto",
        lock_timeout=5.0,
        truncate_above=4 * 1024 * 1024,
        keep_connections="auto",
    )


def test_every_key_arrives_at_its_field(settings: Any) -> None:
    settings.TESTDB = {
        "ALLOWED_DATABASES": ["shop"],
        "EXCLUDE": ("auth", "public.*_log"),
        "STRATEGY": "delete",
        "LOCK_TIMEOUT": 2,
        "TRUNCATE_ABOVE": 0,
        "KEEP_CONNECTIONS": "never",
        "POST_MIGRATE": ["testdb_app.demo"],
        "TEMPLATE_DEPENDS": ["seeds/**/*.json", "env:SHOP_MODE", "!setting:MEDIA_URL"],
        "TEMPLATES": True,
        "TEMPLATE_CACHE": Path(".testdb"),
        "TEMPLATE_MAX_AGE": timedelta(days=1),
    }
    assert get_settings() == Settings(
        allowed_databases=("shop",),
        exclude=("auth", "public.*_log"),
        strategy="delete",
        lock_timeout=2.0,
        truncate_above=0,
        keep_connections="never",
        post_migrate=("testdb_demo",),
        template_depends=("seeds/**/*.json", "env:SHOP_MODE", "!setting:MEDIA_URL"),
        templates=True,
        template_cache=".testdb",
        template_max_age=86_400,
    )
    assert len(settings.TESTDB) == len(fields(Settings))


def test_a_change_of_the_settings_is_seen_at_once(settings: Any) -> None:
    for seconds in (1, 2):
        settings.TESTDB = {"LOCK_TIMEOUT": seconds}
        assert get_settings().lock_timeout == seconds


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
def test_names_may_come_in_any_collection_and_in_one_order(settings: Any, kind: Any) -> None:
    settings.TESTDB = {"EXCLUDE": kind(["a", "b"])}
    assert get_settings().exclude == ("a", "b")


def test_every_key_is_documented() -> None:
    assert all(f"``{field.name}``" in str(Settings.__doc__) for field in fields(Settings))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "settings.TESTDB must be a dict, not list."),
        (None, "settings.TESTDB must be a dict, not NoneType."),
        (
            {"LOCKTIMEOUT": 1},
            f"settings.TESTDB has an unknown key 'LOCKTIMEOUT'. Did you mean 'LOCK_TIMEOUT'? {KNOWN}",
        ),
        (
            {"lock_timeout": 1},
            f"settings.TESTDB has an unknown key 'lock_timeout'. {KNOWN}",
        ),
        (
            {"ALLOWED_DATABASES": "shop"},
            "settings.TESTDB[\"ALLOWED_DATABASES\"] must be a list of strings, not 'shop'.",
        ),
        ({"ALLOWED_DATABASES": [1]}, 'settings.TESTDB["ALLOWED_DATABASES"] must be a list of strings, not [1].'),
        ({"EXCLUDE": None}, 'settings.TESTDB["EXCLUDE"] must be a list of strings, not None.'),
        (
            {"STRATEGY": "cascade"},
            "settings.TESTDB[\"STRATEGY\"] must be one of auto, delete, truncate, not 'cascade'.",
        ),
        (
            {"LOCK_TIMEOUT": 0},
            'settings.TESTDB["LOCK_TIMEOUT"] must be a number of seconds above 0 and at most 86400, not 0.',
        ),
        ({"TRUNCATE_ABOVE": -1}, 'settings.TESTDB["TRUNCATE_ABOVE"] must be a number of bytes, 0 or more, not -1.'),
        ({"TRUNCATE_ABOVE": 1.5}, 'settings.TESTDB["TRUNCATE_ABOVE"] must be a number of bytes, 0 or more, not 1.5.'),
        ({"TRUNCATE_ABOVE": True}, 'settings.TESTDB["TRUNCATE_ABOVE"] must be a number of bytes, 0 or more, not True.'),
        *(
            (
                {"TEMPLATE_DEPENDS": ["data/*.csv", item]},
                (
                    f'settings.TESTDB["TEMPLATE_DEPENDS"] has an invalid item {item!r}. An item is a pattern of files '
                    '("data/**/*.csv"), "env:NAME" or "setting:NAME", and may have a "!" before it.'
                ),
            )
            for item in ("", "!", "!!a", "settings:SHOP_RATE", "env:", "setting:A-B", " ")
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_key_and_the_value(settings: Any, given: Any, message: str) -> None:
    settings.TESTDB = given
    with pytest.raises(ConfigurationError, match=re.escape(message) + r"\Z"):
        get_settings()


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 86_401, True, "5", None])
def test_seconds_must_be_a_positive_number(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="lock_timeout must be a number of seconds above 0"):
        check_seconds("lock_timeout", value)


@pytest.mark.parametrize("value", [0.001, 1, 86_400])
def test_seconds_become_a_float(value: float) -> None:
    seconds = check_seconds("lock_timeout", value)
    assert (seconds, type(seconds)) == (value, float)


@pytest.mark.parametrize("value", conf.STRATEGIES)
def test_every_strategy_is_taken(value: str) -> None:
    assert check_strategy("strategy", value) == value


@pytest.mark.parametrize("value", ["AUTO", "", None, ["auto"], 1])
def test_anything_else_is_no_strategy(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="strategy must be one of auto, delete, truncate, not"):
        check_strategy("strategy", value)


def test_wrong_settings_are_found_when_a_resetter_is_made(settings: Any) -> None:
    settings.TESTDB = {"UNKNOWN": 1}
    with pytest.raises(ConfigurationError, match="unknown key 'UNKNOWN'"):
        Resetter()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"using": "elsewhere"}, "There is no database alias 'elsewhere'. settings.DATABASES has 'default'"),
        ({"to": "baseline2"}, "to must be one of baseline, empty, or None, not 'baseline2'."),
        ({"strategy": "fast"}, "strategy must be one of auto, delete, truncate, not 'fast'."),
        ({"lock_timeout": -1}, "lock_timeout must be a number of seconds above 0"),
        ({"include": ["auth", ""]}, "include must hold names or patterns, not ''."),
        ({"exclude": [None]}, "exclude must hold names or patterns, not None."),
        ({"allow_database": [" "]}, "allow_database must hold names or patterns, not ' '."),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Resetter(**options)


def test_an_argument_beats_the_setting_and_an_exclusion_adds_to_it(settings: Any) -> None:
    settings.TESTDB = {"STRATEGY": "delete", "LOCK_TIMEOUT": 1, "EXCLUDE": ["sites"]}
    chosen = Resetter(strategy="truncate", lock_timeout=2, exclude="auth").options
    assert (chosen.strategy, chosen.lock_timeout, chosen.exclude) == ("truncate", 2.0, ("auth", "sites"))
    chosen = Resetter().options
    assert (chosen.strategy, chosen.lock_timeout, chosen.exclude) == ("delete", 1.0, ("sites",))
