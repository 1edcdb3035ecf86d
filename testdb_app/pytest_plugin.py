"""The pytest plugin: tests with real commits, over pytest-django, that end by a reset instead of a flush.

It is imported in every run of whoever has the package installed, so Django is imported inside functions, and nothing is done
until a test asks for it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

pytest_plugins = ("testdb_app.pytest_sessions",)

INI = "testdb_reset_transactional"
_HELP = "End every transactional test (transactional_db, live_server, django_db(transaction=True)) by a reset to the baseline."


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option and its ini key, beside those of pytest-django."""
    group = parser.getgroup("django")
    group.addoption("--testdb-reset-transactional", action="store_true", default=False, help=_HELP)
    parser.addini(INI, _HELP, type="bool", default=False)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Tell what is on."""
    return "testdb_app: transactional tests reset to the baseline" if _resets_all(config) else None


def _resets_all(config: pytest.Config) -> bool:
    return bool(config.getoption("testdb_reset_transactional") or config.getini(INI))


def _resets(item: pytest.Item) -> bool:
    """Whether *item* is to end by a reset, if it is transactional."""
    return "reset_db" in getattr(item, "fixturenames", ()) or _resets_all(item.config)


@pytest.fixture
def reset_db(transactional_db: None) -> None:
    """Require a test database in which the test commits, and which is reset to the baseline after it.

    As ``transactional_db``, at the cost of what the test writes; the rows that migrations made are there for the next test.
    """


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Generator[None, object, object]:
    """Capture the baselines right after pytest-django has set up the test databases, before anything is written to them."""
    if fixturedef.argname != "django_db_setup" or not any(map(_resets, request.session.items)):
        return (yield)
    _before_the_databases(request)
    result = yield
    with _unblocked(request):
        from django.db import connections  # noqa: PLC0415 - Django is imported where it is used

        from testdb_app.preparing import prepare_test_database  # noqa: PLC0415

        for alias in connections:
            if _was_set_up(alias):
                prepare_test_database(alias)
    return result


def _before_the_databases(request: Any) -> None:
    """Close connections and pools, which would go on leading to the real databases, and take kept ones back to their baseline."""
    from django.db import connections  # noqa: PLC0415

    from testdb_app import preparing  # noqa: PLC0415

    preparing.forget_test_databases()
    options = request.config.option
    with _unblocked(request):
        for connection in connections.all(initialized_only=True):
            preparing.close(connection)
        if options.reuse_db and not options.create_db:
            aliases = [alias for alias in connections if not connections[alias].settings_dict["TEST"]["MIRROR"]]
            preparing.restore_kept_databases(aliases)


def _was_set_up(alias: str) -> bool:
    """Whether pytest-django has made a test database for *alias* in this run: tests ask for some of them, perhaps."""
    from django.db import connections  # noqa: PLC0415

    from testdb_app.guard import get_configured_name  # noqa: PLC0415

    settings = connections[alias].settings_dict
    return not settings["TEST"]["MIRROR"] and str(settings["NAME"]) != get_configured_name(alias)


def _unblocked(request: Any) -> Any:
    return request.getfixturevalue("django_db_blocker").unblock()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Replace the flush of ``TransactionTestCase`` while a test runs that is to end by a reset."""
    if not _resets(item):
        return (yield)
    from testdb_app.testcases import resetting_all  # noqa: PLC0415

    with resetting_all():
        return (yield)
