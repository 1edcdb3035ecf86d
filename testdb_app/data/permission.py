"""May this package write to that database? The guard is asked once for each of the driver's connections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from testdb_app import guard
from testdb_app.backends import get_backend

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# The attribute of a connection that keeps the driver's, and the name of the database that was permitted.
_PERMITTED = "_testdb_permitted"


def check_may_write(connection: BaseDatabaseWrapper, allow: str | Iterable[str] = ()) -> None:
    """Raise the guard's :class:`~testdb_app.exceptions.UnsafeDatabaseError` unless *connection* leads to a test database.

    One round trip for a connection that was not asked yet; none for one that was.
    """
    connection.ensure_connection()
    configured = str(connection.settings_dict["NAME"])
    raw, name = getattr(connection, _PERMITTED, (None, None))
    if raw is connection.connection and name == configured:
        return
    names = (allow,) if isinstance(allow, str) else tuple(allow)
    guard.check_may_reset(get_backend(connection).identify(connection), allow=names, act="write to")
    setattr(connection, _PERMITTED, (connection.connection, configured))
