"""The guard, asked once for each of the driver's connections: for those who write over one again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from testdb_app import guard
from testdb_app.backends import get_backend

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# The driver's connection that the guard was asked about last.
_permitted: WeakKeyDictionary[BaseDatabaseWrapper, Any] = WeakKeyDictionary()


def ask_the_guard(connection: BaseDatabaseWrapper, allow: tuple[str, ...]) -> None:
    """Ask whether the database of the open *connection* may be written to, once for each of the driver's connections.

    Raises the guard's :class:`UnsafeDatabaseError`. One round trip the first time.
    """
    if _permitted.get(connection) is not connection.connection:
        guard.check_may_reset(get_backend(connection).identify(connection), allow=allow)
        _permitted[connection] = connection.connection
