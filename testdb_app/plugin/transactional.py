"""Tests that commit: their databases are prepared before the first of them, and their end is a reset, or that of their scope."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from testdb_app.plugin import asking, options


def resets(item: pytest.Item) -> bool:
    """Whether *item* is to end by a reset, if it commits."""
    return "reset_db" in asking.names_of(item) or options.resets_all(item.config)


def wants_baseline(item: pytest.Item) -> bool:
    """Whether what *item* asks for needs a baseline."""
    return resets(item) or bool(asking.committed_scopes(item)) or options.leaks(item.config) is not None


def before_the_databases(config: pytest.Config, blocker: Any, *, restores: bool) -> None:
    """Close connections and pools, which would go on leading to the real databases.

    With *restores* take kept ones back to their baseline, too.
    """
    from django.db import connections  # noqa: PLC0415 - Django is imported where it is used

    from testdb_app import guard, preparing  # noqa: PLC0415

    preparing.forget_test_databases()
    given: Any = config.option
    with blocker.unblock():
        for connection in connections.all(initialized_only=True):
            guard.close(connection)
        if restores and given.reuse_db and not given.create_db:
            aliases = [alias for alias in connections if not connections[alias].settings_dict["TEST"]["MIRROR"]]
            preparing.restore_kept_databases(aliases)


@contextmanager
def setting_up_databases(config: pytest.Config) -> Iterator[None]:
    """Have the guard watch, while pytest-django sets the databases up, for those that no test may write to."""
    from testdb_app import guard  # noqa: PLC0415

    given: Any = config.option
    with guard.setting_up_databases(stays=bool(given.reuse_db)):
        yield


def prepare_databases(blocker: Any) -> list[str]:
    """Capture the baseline of every database that was set up in this run; return their aliases."""
    from testdb_app.preparing import prepare_test_database  # noqa: PLC0415

    aliases = aliases_set_up()
    with blocker.unblock():
        for alias in aliases:
            prepare_test_database(alias)
    return aliases


def aliases_set_up() -> list[str]:
    """Return the aliases that pytest-django has made test databases for in this run: tests ask for some of them, perhaps."""
    from django.db import connections  # noqa: PLC0415

    return [alias for alias in connections if _was_set_up(alias)]


def _was_set_up(alias: str) -> bool:
    from django.db import connections  # noqa: PLC0415

    from testdb_app.guard import get_configured_name, is_set_up  # noqa: PLC0415

    settings = connections[alias].settings_dict
    if settings["TEST"]["MIRROR"]:
        return False
    # A fixture of the project's own may have set it up.
    return is_set_up(alias) or str(settings["NAME"]) != get_configured_name(alias)


@contextmanager
def ending_as_asked(item: pytest.Item) -> Iterator[None]:
    """Replace the flush of ``TransactionTestCase`` while *item* runs: by a reset, or by nothing in a scope that commits."""
    if not asking.commits(item):
        yield
    elif asking.committed_scopes(item) and not asking.rollback_scopes(item):
        from testdb_app.testcases import keeping_all  # noqa: PLC0415

        with keeping_all():
            yield
    elif resets(item):
        from testdb_app.testcases import resetting_all  # noqa: PLC0415

        with resetting_all():
            yield
    else:
        yield
