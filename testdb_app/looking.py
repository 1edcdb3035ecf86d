"""One look at the live database, over a connection that may have been lost since it was last used."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from django.db import DatabaseError, Error, InterfaceError

from testdb_app.backends import get_backend
from testdb_app.backends.base import DatabaseIdentity, Observation, has_autocommit
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


class explained:  # noqa: N801 - it is written like contextlib's, and each reset enters it: a generator takes ten times as long
    """Have the package's errors leave the block in place of the database's; *doing* begins the message.

    *permit* asks the guard, whose error goes first: queries for one server may fail on another, where the connection leads now.
    """

    __slots__ = ("_connection", "_doing", "_permit")

    def __init__(
        self, connection: BaseDatabaseWrapper, doing: str, *, permit: Callable[[DatabaseIdentity], str] | None = None
    ) -> None:
        self._connection, self._doing, self._permit = connection, doing, permit

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Error):
            return
        backend = get_backend(self._connection)
        failure = backend.explain(self._connection, error, doing=self._doing)
        if self._permit is not None and self._connection.connection is not None:
            with suppress(Error):
                self._permit(backend.identify(self._connection))
        raise failure from error
