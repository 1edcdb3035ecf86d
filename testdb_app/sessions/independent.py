"""A second connection to a database, under an alias of its own that exists in this thread alone, and only as long."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError, OperationalError, connections
from django.db.backends.base.base import RAN_DB_VERSION_CHECK
from django.db.utils import load_backend

from testdb_app.exceptions import UnsupportedError
from testdb_app.guard import add_mirror
from testdb_app.sessions.aliases import find_primary
from testdb_app.sessions.pool_options import check_may_pool
from testdb_app.transactions import close_for_good

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.sessions.opened import OpenSession
    from testdb_app.sessions.pools import SharedPool

_numbers: set[int] = set()
_changing = threading.Lock()


@contextmanager
def independent_connection(alias: str, session: OpenSession, pool: SharedPool) -> Iterator[BaseDatabaseWrapper]:
    """Connect once more to the database of *alias*, out of *pool* if the options ask for one, while the block runs.

    The ORM finds it by its name, ``.using(connection.alias)``. Nothing is left in Django's settings or connections.
    Raises :class:`PoolTimeoutError` and Django's database errors.
    """
    with ExitStack() as stack:
        primary = connections[find_primary(alias)]
        name = _name(primary.alias, stack.enter_context(_number()))
        connection = _make(primary, name, session)
        connections[name] = connection
        stack.callback(_forget, name)
        if session.options.pool is None:
            stack.callback(_close, connection, session)
            connection.ensure_connection()
        else:
            pool.attach(connection)
            stack.callback(pool.detach, connection)
            stack.callback(_close, connection, session)
            try:
                connection.ensure_connection()
            except OperationalError as error:
                raise pool.explain(error, session) from error.__cause__
            pool.take_note(session, holds=True)
            stack.callback(pool.take_note, session, holds=False)
        yield connection


@contextmanager
def _number() -> Iterator[int]:
    """Give the least number that is free: few names come again and again."""
    with _changing:
        number = next(each for each in range(1, len(_numbers) + 2) if each not in _numbers)
        _numbers.add(number)
    try:
        yield number
    finally:
        with _changing:
            _numbers.discard(number)


@cache
def _name(alias: str, number: int) -> str:
    # One object for each: the caches of the interpreter keep the names of attributes, and this becomes one.
    return f"{alias}_independent_{number}"


def _make(primary: BaseDatabaseWrapper, name: str, session: OpenSession) -> BaseDatabaseWrapper:
    settings: dict[str, Any] = copy.deepcopy({k: v for k, v in primary.settings_dict.items() if k != "OPTIONS"})
    settings["OPTIONS"] = {key: value for key, value in primary.settings_dict["OPTIONS"].items() if key != "pool"}
    settings["TEST"]["MIRROR"] = primary.alias
    add_mirror(name, primary.alias)
    if session.options.pool is not None:
        check_may_pool(primary)
        settings["OPTIONS"]["pool"] = dict(session.options.pool) or True
    if primary.vendor == "postgresql" and session.options.connect_timeout is not None:
        settings["OPTIONS"]["connect_timeout"] = session.options.connect_timeout
    if primary.vendor == "sqlite" and str(settings["NAME"]) in {":memory:", ""}:
        raise UnsupportedError(
            f'{session.owner} cannot be independent: the database "{primary.alias}" is in the memory of its one connection. Use '
            "a file, or a test runner, which gives it a name that others can connect to."
        )
    made: BaseDatabaseWrapper = load_backend(settings["ENGINE"]).DatabaseWrapper(settings, name)
    return made


def _close(connection: BaseDatabaseWrapper, session: OpenSession) -> None:
    """Close it, also one to a shared database in memory, which Django keeps open.

    What code that commits has set, nothing undoes: the next user of the pool gets another connection.
    """
    raw = connection.connection
    with suppress(DatabaseError, InterfaceError):
        if session.options.isolation == "reset":
            close_for_good(connection)
        else:
            connection.close()
    if connection.vendor == "sqlite" and raw is not None:
        raw.close()


def _forget(name: str) -> None:
    with suppress(AttributeError):  # its thread may have ended
        del connections[name]
    RAN_DB_VERSION_CHECK.discard(name)
