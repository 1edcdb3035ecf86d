"""The callbacks of ``on_commit()`` that a session has collected, run as a commit would run them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# Django's own, so that whoever looks for its message finds it.
logger = logging.getLogger("django.db.backends.base")

_Entry = tuple[set[str], Callable[[], Any], bool]


def run_callbacks(connection: BaseDatabaseWrapper, *, outside_of: int, after: int) -> list[Callable[[], Any]]:
    """Run the callbacks that were registered since, and those that they register, in order; return those that ran.

    *after* is how many there were when the session was opened, *outside_of* how many savepoints were open: what was
    registered in an ``atomic()`` block that is open still waits for its end. A robust one that raises is logged; another
    one's error is raised, and what comes after it does not run, as in a commit.
    """
    ran: list[Callable[[], Any]] = []
    while due := _take_due(connection, outside_of, after):
        for _, function, robust in due:
            ran.append(function)
            if not robust:
                function()
                continue
            try:
                function()
            except Exception as error:
                name = getattr(function, "__qualname__", repr(function))
                logger.error("Error calling %s in on_commit() (%s).", name, error, exc_info=True)
    return ran


def _take_due(connection: BaseDatabaseWrapper, outside_of: int, after: int) -> list[_Entry]:
    django: Any = connection  # the stubs leave out whether one is robust
    entries: list[_Entry] = django.run_on_commit
    inside = {name for name in connection.savepoint_ids[outside_of:] if name is not None}
    due = [entry for entry in entries[after:] if not inside & entry[0]]
    django.run_on_commit = entries[:after] + [entry for entry in entries[after:] if inside & entry[0]]
    return due
