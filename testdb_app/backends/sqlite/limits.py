"""The one limit that SQLite has: how long it waits for a lock; and which of its errors say that the wait is over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from testdb_app.backends.base import Failure, refuse_limits

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

LOCK = "lock_timeout"


def limit(connection: BaseDatabaseWrapper, limits: Mapping[str, int], *, local: bool = False) -> dict[str, str]:
    """Set ``busy_timeout``, which belongs to the connection, and return the earlier one; refuse other limits.

    It does nothing among connections that share a cache in memory (https://www.sqlite.org/sharedcache.html).
    """
    refuse_limits(connection, {name: value for name, value in limits.items() if name != LOCK})
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        earlier = {LOCK: str(cursor.fetchone()[0])}
        cursor.execute(f"PRAGMA busy_timeout = {limits[LOCK]}")
    return earlier


def lift(connection: BaseDatabaseWrapper, earlier: Mapping[str, str]) -> None:
    """Put ``busy_timeout`` back."""
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA busy_timeout = {earlier[LOCK]}")


def classify(error: BaseException) -> Failure:
    """Return that a lock was not granted in time, if SQLite says so."""
    name = str(getattr(error.__cause__, "sqlite_errorname", ""))
    return Failure.LOCK_TIMEOUT if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) else Failure.OTHER
