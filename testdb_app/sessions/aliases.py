"""Which connections a session opens: a mirror shares its primary's, and so do two aliases that are one database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.db import connections

from testdb_app.exceptions import ConfigurationError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_WHERE = ("ENGINE", "NAME", "HOST", "PORT")
_WHO = ("USER", "PASSWORD", "OPTIONS", "AUTOCOMMIT", "TIME_ZONE")


def database_of(connection: BaseDatabaseWrapper) -> tuple[str, ...]:
    """Return what tells databases apart: server and name."""
    return tuple(str(connection.settings_dict.get(key)) for key in _WHERE)


def group_aliases(aliases: Sequence[str]) -> dict[str, list[str]]:
    """Return the aliases to open, and for each the other ones that are to share its connection.

    These are the test mirrors of it, which see its uncommitted rows by that, and aliases that connect in the same way to
    the same database, which would wait for each other's locks in two transactions. Raises :class:`ConfigurationError`
    for an alias that there is not.
    """
    if len(aliases) == 1 and aliases[0] in connections:
        primary = find_primary(aliases[0])
        return {primary: [] if primary == aliases[0] else [aliases[0]]}
    groups: dict[str, list[str]] = {}
    by_settings: dict[str, str] = {}
    for alias in aliases:
        if alias not in connections:
            raise ConfigurationError(
                f"There is no database alias {alias!r}. settings.DATABASES has {', '.join(map(repr, connections))}."
            )
        primary = find_primary(alias)
        first = by_settings.setdefault(_connects_as(connections[primary]), primary)
        sharing = groups.setdefault(first, [])
        sharing.extend(each for each in dict.fromkeys((primary, alias)) if each != first and each not in sharing)
    return groups


def find_primary(alias: str) -> str:
    """Return the alias that *alias* is a mirror of in this test run; itself if it is none."""
    settings = connections[alias].settings_dict
    mirrored = settings["TEST"].get("MIRROR")
    if not mirrored or mirrored == alias or mirrored not in connections:
        return alias
    # Django's runner gives a mirror the name of its primary. Outside of a test run it is a database of its own.
    is_mirroring = str(settings["NAME"]) == str(connections[mirrored].settings_dict["NAME"])
    return find_primary(str(mirrored)) if is_mirroring else alias


def _connects_as(connection: BaseDatabaseWrapper) -> str:
    settings: Mapping[str, Any] = connection.settings_dict
    if connection.vendor == "sqlite" and ":memory:" in str(settings["NAME"]):
        return connection.alias  # each connection has a database of its own
    return repr([settings.get(key) for key in (*_WHERE, *_WHO)])


@contextmanager
def sharing(primary: str, others: Iterable[str]) -> Iterator[None]:
    """Have the connection of *primary*, of this thread, stand in for those of *others* while the block runs."""
    handler: Any = connections
    storage = handler._connections  # what there was must come back
    earlier = {alias: getattr(storage, alias, None) for alias in others}
    try:
        for alias in earlier:
            connections[alias] = connections[primary]
        yield
    finally:
        for alias, connection in earlier.items():
            if connection is not None:
                connections[alias] = connection
            elif hasattr(storage, alias):
                del connections[alias]
