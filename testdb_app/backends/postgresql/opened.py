"""The sessions that this process opens through Django: how many, and which of the driver's connections have been seen new."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

from django.db.backends.signals import connection_created

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_opened: Counter[str] = Counter()
_seen_new: weakref.WeakSet[Any] = weakref.WeakSet()


def _take_note(connection: BaseDatabaseWrapper, **_: object) -> None:
    if connection.vendor == "postgresql":
        _opened[connection.alias] += 1
        _seen_new.add(connection.connection)


connection_created.connect(_take_note, dispatch_uid=__name__)


def sessions_opened(connection: BaseDatabaseWrapper) -> int:
    """Return how many sessions Django has opened for the alias of *connection* since this module was imported."""
    return _opened[connection.alias]


def was_seen_new(raw: object) -> bool:
    """Whether *raw*, the driver's connection, was opened since then, so that nothing came before what is known of it."""
    return raw in _seen_new
