"""May this package write to that database? The guard is asked once for each of the driver's connections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from testdb_app import guard
from testdb_app.backends import get_backend

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# The driver's connection that the guard was asked about last, and the name that the settings had then.
_permitted: WeakKeyDictionary[BaseDatabaseWrapper, tuple[Any, str]] = WeakKeyDictionary()


def check_may_write(connection: BaseDatabaseWrapper, allow: str | Iterable[str] = ()) -> None:
    """Raise the guard's :class:`~testdb_app.exceptions.UnsafeDatabaseError` unless *connection* leads to a test database.

    One round trip for a connection that was not asked yet; none for one that was.
    """
    connection.ensure_connection()
    asked = connection.connection, str(connection.settings_dict["NAME"])
    if _permitted.get(connection) == asked:
        return
    names = (allow,) if isinstance(allow, str) else tuple(allow)
    guard.check_may_reset(get_backend(connection).identify(connection), allow=names, act="write to")
    _permitted[connection] = asked
