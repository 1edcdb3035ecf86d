"""The sessions that this process opens through Django: how many, and how each of the driver's connections was opened."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

from django.db.backends.signals import connection_created

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_opened: Counter[str] = Counter()
_configurations: weakref.WeakKeyDictionary[Any, object] = weakref.WeakKeyDictionary()


def _take_note(connection: BaseDatabaseWrapper, **_: object) -> None:
    if connection.vendor == "postgresql":
        _opened[connection.alias] += 1
        _configurations[connection.connection] = read_configuration(connection)


connection_created.connect(_take_note, dispatch_uid=__name__)


def sessions_opened(connection: BaseDatabaseWrapper) -> int:
    """Return how many sessions Django has opened for the alias of *connection* since this module was imported."""
    return _opened[connection.alias]


def read_configuration(connection: BaseDatabaseWrapper) -> object:
    """Return what the settings have Django do now when it opens a session, such as to set the time zone. Opens none."""
    options = connection.settings_dict["OPTIONS"]
    return connection.get_connection_params(), connection.timezone_name, options.get("assume_role")


def is_as_opened_now(connection: BaseDatabaseWrapper) -> bool:
    """Whether the session was opened since then, so that nothing came before what is known of it, and as it would be now."""
    return _configurations.get(connection.connection) == read_configuration(connection)
