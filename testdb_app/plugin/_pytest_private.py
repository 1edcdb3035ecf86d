"""The private API of pytest and pytest-django that the plugin uses, in one place.

Read on pytest 9.0.3 and 9.2.0 and pytest-django 4.14.0. ``tests/test_private_api.py`` fails when one of these names is gone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

DB_HELPER = "_django_db_helper"
"""The fixture of pytest-django that sets up the database for one test; ``db`` and ``transactional_db`` depend on it."""
CLASS_FIXTURE = "_unittest_setUpClass_fixture_"
"""The prefix of the fixtures that pytest makes for ``setUpClass()``; the class's name follows."""

_SET_UP_FIXTURE = re.compile(r"_(?:unittest|xunit)_(setup_?\w+?)_fixture_", re.IGNORECASE)


def set_up_method_of(name: str) -> str | None:
    """Return the set-up method that a fixture of pytest's own stands for: ``setUpClass``, ``setup_method`` and the like."""
    found = _SET_UP_FIXTURE.match(name)
    return found[1] if found else None


def item_of(request: Any) -> Any:
    """Return the test that a fixture is set up for, whatever the fixture's scope."""
    return request._pyfuncitem


def request_of(item: Any) -> Any:
    """Return the request of a test itself."""
    return item._request


def definition_of(request: Any) -> Any:
    """Return the definition of the fixture that *request* belongs to."""
    return request._fixturedef


def fixtures_set_up(request: Any) -> dict[str, Any]:
    """Return the definitions that the present test has used, by name. A name deleted from this live dict is set up again."""
    used: dict[str, Any] = request._fixture_defs
    return used


def collected_definitions(request: Any, name: str) -> Sequence[Any]:
    """Return the definitions of a fixture that the present test found at its collection; pytest uses the last one."""
    return request._arg2fixturedefs.get(name) or ()


def find_definitions(request: Any, name: str) -> Sequence[Any]:
    """Return the definitions of a fixture that the present test can see; pytest uses the last one."""
    manager, item = request._fixturemanager, request._pyfuncitem
    try:
        found = manager.getfixturedefs(name, item)
    except AttributeError:
        found = manager.getfixturedefs(name, item.nodeid)  # pytest 8.0
    return found or ()


def was_requested_through(request: Any, name: str) -> bool:
    """Whether the fixture of that name is among those that led to *request*."""
    while hasattr(request, "fixturename"):
        if request.fixturename == name:
            return True
        request = getattr(request, "_parent_request", None)
    return False


def finalizers_of(fixturedef: Any) -> list[Any]:
    """Return the live list of what runs at the end of a fixture, the last first."""
    found: list[Any] = fixturedef._finalizers
    return found


def forget_finalizers(fixturedef: Any) -> None:
    """Keep a fixture that has ended from ending again."""
    fixturedef._finalizers.clear()


def fill_fixtures(item: Any) -> None:
    """Set up the fixtures that a test requests and does not have."""
    item._request._fillfixtures()


def capture_suspended(config: Any) -> AbstractContextManager[None]:
    """Let what is written while a fixture is set up reach the terminal."""
    manager = config.pluginmanager.getplugin("capturemanager")
    if manager is None:
        return nullcontext()
    suspended: AbstractContextManager[None] = manager.global_and_fixture_disabled()
    return suspended
