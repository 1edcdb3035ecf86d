"""One look at the live database, over a connection that may have been lost since it was last used."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from django.db import DatabaseError, Error, InterfaceError

from testdb_app.backends import get_backend
from testdb_app.backends.base import Observation, has_autocommit
from testdb_app.states import Baseline

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

READING, RESETTING, CAPTURING = "Reading the state of", "The reset of", "Capturing the baseline of"
"""How the messages begin of what was being done."""

logger = logging.getLogger("testdb_app")


def observe(connection: BaseDatabaseWrapper, *, lock_timeout: float, baseline: Baseline | None = None) -> Observation:
    """Look where rows may be and which sequences have moved; see :meth:`testdb_app.backends.base.Backend.observe`.

    A connection that the server has dropped since its last use is made anew, once: nothing was written yet.
    Raises :class:`ConnectionLostError` where none can be made, and Django's database errors otherwise.
    """
    backend = get_backend(connection)
    was_open = connection.connection is not None
    try:
        return backend.observe(connection, lock_timeout=lock_timeout, baseline=baseline)
    except (DatabaseError, InterfaceError) as error:
        if not has_autocommit(connection):
            raise
        if connection.connection is None:
            raise backend.explain(connection, error, doing=READING) from error
        if not was_open or connection.is_usable():
            raise
        logger.info("Connection %s was lost (%s); connecting again", connection.alias, error)
    connection.close()
    try:
        return backend.observe(connection, lock_timeout=lock_timeout, baseline=baseline)
    except (DatabaseError, InterfaceError) as error:
        raise backend.explain(connection, error, doing=READING) from error


@contextmanager
def explained(connection: BaseDatabaseWrapper, doing: str) -> Iterator[None]:
    """Have the package's errors leave the block in place of the database's; *doing* begins the message."""
    try:
        yield
    except Error as error:
        raise get_backend(connection).explain(connection, error, doing=doing) from error
