"""Tests that commit: preparing their databases before the first one, and replacing the flush after each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest

from testdb_app.plugin import options, requests
from testdb_app.plugin._pytest_private import was_requested_through

_LATE = pytest.StashKey[bool]()


def wants_baseline(item: pytest.Item) -> bool:
    """Whether *item* needs a baseline."""
    return (
        options.resets(item)
        or bool(requests.committed_scopes(item))
        or requests.is_of_our_class(item)
        or options.leaks(item.config) is not None
    )


def before_the_databases(config: pytest.Config, blocker: Any, *, restores: bool) -> None:
    """Close connections and pools, because they still lead to the real databases.

    With *restores*, also reset kept test databases to their baselines.
    """
    from django.db import connections  # noqa: PLC0415 - Django is imported where it is used

    from testdb_app import database_setup, guard  # noqa: PLC0415

    database_setup.forget_test_databases()
    given: Any = config.option
    with blocker.unblock():
        for connection in connections.all(initialized_only=True):
            guard.close(connection)
        # A kept clone of a template is reset or replaced when it is needed.
        if restores and given.reuse_db and not given.create_db and not options.uses_templates(config):
            aliases = [alias for alias in connections if not connections[alias].settings_dict["TEST"]["MIRROR"]]
            database_setup.restore_kept_databases(aliases)


@contextmanager
def setting_up_databases(config: pytest.Config) -> Iterator[None]:
    """Have the guard refuse databases that no test may write to, while pytest-django sets the databases up."""
    from testdb_app import guard  # noqa: PLC0415

    given: Any = config.option
    with guard.setting_up_databases(stays=bool(given.reuse_db)):
        yield


def prepare_databases(config: pytest.Config, blocker: Any, items: Iterable[pytest.Item]) -> list[str]:
    """Capture the baselines of the databases that *items* will reset; return the aliases of all that were set up."""
    from testdb_app.database_setup import prepare_test_databases  # noqa: PLC0415

    aliases = aliases_set_up()
    # The leak finder needs each, also one that a fixture of the project has set up.
    needed = aliases if options.leaks(config) is not None else options.aliases_to_reset(items, aliases)
    with blocker.unblock():
        prepare_test_databases(aliases, needed=needed)
    return aliases


def describe_uncalled_receivers(items: Iterable[pytest.Item]) -> str | None:
    """Return a line with the receivers of ``post_migrate`` that resets do not call; None if no collected test resets."""
    if not any(map(options.will_reset, items)):
        return None
    from testdb_app.exceptions import TestDBError  # noqa: PLC0415
    from testdb_app.post_migrate import describe_uncalled_receivers as describe  # noqa: PLC0415

    try:
        line = describe()
    except TestDBError:
        return None  # the set-up of the databases reports it
    return f"testdb_app: {line}" if line else None


def aliases_set_up() -> list[str]:
    """Return the aliases that have a test database in this run."""
    from django.db import connections  # noqa: PLC0415

    return [alias for alias in connections if _was_set_up(alias)]


def _was_set_up(alias: str) -> bool:
    from django.db import connections  # noqa: PLC0415

    from testdb_app.guard import get_configured_name, is_set_up  # noqa: PLC0415

    settings = connections[alias].settings_dict
    if settings["TEST"]["MIRROR"]:
        return False
    # A fixture of the project may have set it up.
    return is_set_up(alias) or str(settings["NAME"]) != get_configured_name(alias)


def reset_if_requested_late(request: Any) -> Exception | None:
    """Have the test end with a reset if it requested ``reset_db`` by ``getfixturevalue()``.

    *request* is that of pytest-django's helper fixture. Return the error if a database may have been written to since it
    was set up.
    """
    item = request.node  # that fixture has function scope
    is_late = was_requested_through(request, "reset_db")
    if not is_late or "reset_db" in requests.names_of(item):
        return None
    from django.db import connections  # noqa: PLC0415

    from testdb_app.database_setup import prepare_test_database  # noqa: PLC0415
    from testdb_app.exceptions import TestDBError  # noqa: PLC0415

    databases = requests.databases_of(item)
    try:
        with request.getfixturevalue("django_db_blocker").unblock():
            for alias in connections if databases == "__all__" else databases:
                if not connections[alias].settings_dict["TEST"]["MIRROR"]:
                    prepare_test_database(alias)
    except TestDBError as error:
        return error
    # pytest-django reads the names that were collected, and would roll the test back.
    item.add_marker(pytest.mark.django_db(transaction=True, databases=databases))
    item.stash[_LATE] = True
    return None


def resetting_late(item: pytest.Item) -> AbstractContextManager[None]:
    """Replace the flush in the teardown of *item*, if it requested a reset late."""
    if not item.stash.get(_LATE, False):
        return nullcontext()
    from testdb_app.testcases import resetting_all  # noqa: PLC0415

    return resetting_all()


@contextmanager
def ending_without_flush(item: pytest.Item) -> Iterator[None]:
    """Replace the flush of ``TransactionTestCase`` while *item* runs: by a reset, or by nothing in a committed scope."""
    if not requests.commits(item):
        yield
    elif requests.committed_scopes(item) and not requests.rollback_scopes(item):
        from testdb_app.testcases import keeping_all  # noqa: PLC0415

        with keeping_all():
            yield
    elif options.resets(item):
        from testdb_app.testcases import resetting_all  # noqa: PLC0415

        with resetting_all():
            yield
    else:
        yield
