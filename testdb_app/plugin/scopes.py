"""Opening and ending the scopes themselves: one outer transaction for each database, or a reset at the end."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import pytest

from testdb_app.exceptions import ConfigurationError, ScopeError, SessionBrokenError
from testdb_app.plugin import asking, options
from testdb_app.plugin.stack import Entry, Kind, ScopeStack

_STACK = pytest.StashKey[ScopeStack]()


def stack_of(config: pytest.Config) -> ScopeStack:
    """Return the stack of the run that *config* is of."""
    return config.stash.setdefault(_STACK, ScopeStack())


def hold_scope(request: Any, blocker: Any) -> Generator[None]:
    """Hold a scope open: the body of its fixture, whose *request* it is. *blocker* is pytest-django's.

    Raises :class:`ScopeError` where it was asked for too late, :class:`ConfigurationError` without the app, and what
    :meth:`OuterTransaction.open` raises; at its end :class:`SessionBrokenError` if its transaction had ended before.
    """
    stack, fixturedef = stack_of(request.config), request._fixturedef
    rank, name = asking.RANKS[fixturedef.scope], fixturedef.argname
    check_hooked(request.config, name)
    check_in_time(stack, fixturedef)
    _check_installed(name)
    users = _users(request, name)
    _open_wider(stack, request, rank, users)
    aliases = _aliases(users)
    entry = Entry(Kind.COMMITTED if name in asking.COMMITTED else Kind.ROLLBACK, fixturedef, request)
    if name == "db_package":
        # pytest takes a plugin's fixture of package scope for one of the session.
        entry.node = request._pyfuncitem.getparent(pytest.Package) or request.node
    if entry.kind is Kind.COMMITTED:
        # Nothing can be committed in what they hold open.
        stack.finish_from_first(Kind.ROLLBACK)
        stack.forget_ended(request)
        with blocker.unblock():
            _prepare(aliases)
    else:
        with blocker.unblock():
            open_transactions(entry, aliases)
    stack.push(entry)
    yield
    stack.finish_above(entry)
    stack.remove(entry)
    with blocker.unblock():
        if entry.kind is Kind.ROLLBACK:
            roll_back(entry)
        else:
            _reset(aliases)
        _close_mirrors(aliases)
    if entry.kind is Kind.COMMITTED:
        # What a wider one has committed is gone, too.
        stack.finish_from_first(Kind.COMMITTED)


def check_in_time(stack: ScopeStack, fixturedef: Any) -> None:
    """Raise :class:`ScopeError` if a wide fixture begins when something narrower runs, or is open and cannot be ended."""
    obstacle = stack.find_obstacle(asking.RANKS[fixturedef.scope], fixturedef)
    if obstacle is None:
        return
    where = (
        str(obstacle) if isinstance(obstacle, Entry) else f'the fixture "{obstacle.argname}" ({obstacle.scope} scope)'
    )
    raise ScopeError(
        f'The fixture "{fixturedef.argname}" ({fixturedef.scope} scope) was asked for inside {where}, whose part of the '
        "database is narrower and open already: its rows would vanish with that. Name it before: as an argument of "
        f'{where}, or by @pytest.mark.usefixtures("{fixturedef.argname}").'
    )


def open_transactions(entry: Entry, aliases: Iterable[str]) -> None:
    """Open an outer transaction of *entry* for each alias, all or none."""
    from django.db import connections  # noqa: PLC0415 - Django is imported where it is used

    from testdb_app.transactions import OuterTransaction  # noqa: PLC0415

    try:
        for alias in aliases:
            transaction = OuterTransaction(connections[alias], str(entry))
            transaction.open()
            entry.transactions.append(transaction)
    except BaseException:
        for transaction in reversed(entry.transactions):
            transaction.roll_back()
        raise


def roll_back(entry: Entry) -> None:
    """Roll back what *entry* holds open. Raises :class:`SessionBrokenError` if some of it had come to an end before."""
    transactions, entry.transactions = entry.transactions, []
    damages = [
        f'{damage} (alias "{each.connection.alias}")' for each in reversed(transactions) if (damage := each.roll_back())
    ]
    if damages:
        raise SessionBrokenError(
            f"{entry.title} could not be rolled back as it should: {'; '.join(damages)}.", owner=str(entry)
        )


def _open_wider(stack: ScopeStack, request: Any, rank: int, users: list[pytest.Item]) -> None:
    """Open the wider scopes that tests of this one will want; ended and made again they would take this one along."""
    wider = [
        name
        for name, its_rank in asking.ROLLBACK.items()
        if its_rank < rank and any(name in asking.names_of(item) for item in users)
    ]
    stack.make_room(min([rank, *(asking.ROLLBACK[name] for name in wider if not stack.has(name))]))
    stack.forget_ended(request)
    for name in wider:
        request.getfixturevalue(name)


def check_hooked(config: pytest.Config, name: str) -> None:
    """Raise :class:`ScopeError` where no test of the run names one of our fixtures, so that nothing was prepared for *name*."""
    if not config.pluginmanager.has_plugin(options.HOOKS):
        raise ScopeError(
            f'The fixture "{name}" was asked for by getfixturevalue(), and no test of this run names it, so nothing was prepared '
            f'for it. Name it: as an argument of the fixture or the test, or by @pytest.mark.usefixtures("{name}").'
        )


def _check_installed(name: str) -> None:
    from django.apps import apps  # noqa: PLC0415

    if not apps.is_installed("testdb_app"):
        raise ConfigurationError(
            f'The fixture "{name}" needs "testdb_app" in INSTALLED_APPS of the test settings: only then is the guard told '
            "which databases are real."
        )


def _users(request: Any, name: str) -> list[pytest.Item]:
    """Return the tests below the scope's node that use it; the one at hand may have asked dynamically."""
    item = request._pyfuncitem
    found = [
        each for each in request.session.items if name in asking.names_of(each) and request.node in each.listchain()
    ]
    return found if item in found else [item, *found]


def _aliases(users: list[pytest.Item]) -> list[str]:
    from django.db import connections  # noqa: PLC0415

    wanted: set[str] = set()
    for item in users:
        databases = asking.databases_of(item)
        wanted.update(connections if databases == "__all__" else databases)
    return [alias for alias in connections if alias in wanted]


def _prepare(aliases: Iterable[str]) -> None:
    from testdb_app.database_setup import prepare_test_database  # noqa: PLC0415

    for alias in aliases:
        if not _is_mirror(alias):
            prepare_test_database(alias)


def _reset(aliases: Iterable[str]) -> None:
    from testdb_app.teardown import reset_databases  # noqa: PLC0415

    reset_databases(alias for alias in aliases if not _is_mirror(alias))


def _close_mirrors(aliases: Iterable[str]) -> None:
    """Close the connections that Django does not close before it destroys the database of another alias."""
    from django.db import connections  # noqa: PLC0415

    for alias in aliases:
        if _is_mirror(alias) and not connections[alias].in_atomic_block:
            connections[alias].close()


def _is_mirror(alias: str) -> bool:
    from django.db import connections  # noqa: PLC0415

    return bool(connections[alias].settings_dict["TEST"]["MIRROR"])
