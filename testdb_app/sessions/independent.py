"""Independent connections and their pool. Each is a second connection to a database, under its own alias."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError, OperationalError, connections
from django.db.backends.base.base import RAN_DB_VERSION_CHECK
from django.db.utils import load_backend

from testdb_app import _django_private as django_private
from testdb_app.exceptions import ConfigurationError, PoolTimeoutError, UnsupportedError
from testdb_app.guard import add_mirror
from testdb_app.sessions.options import check_may_pool
from testdb_app.sessions.registry import make_error
from testdb_app.transactions import close_for_good

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.sessions.registry import OpenSession

_numbers: set[int] = set()
_changing = threading.Lock()


@contextmanager
def independent_connection(alias: str, session: OpenSession, pool: SharedPool) -> Iterator[BaseDatabaseWrapper]:
    """Open another connection to the database of *alias* while the block runs, from *pool* if the options require one.

    The ORM uses it with ``.using(connection.alias)``. Afterwards Django's settings and connections are as before. Raises
    :class:`PoolTimeoutError` and Django's database errors.
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
    """Yield the smallest free number, so that the same few names are reused."""
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
    # There is only one object for each name. It becomes the name of an attribute, and the interpreter's caches keep those.
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
    """Close *connection*, even if it leads to a shared in-memory database, which Django keeps open.

    Settings that committing code has changed on the connection cannot be undone. So the next user of the pool gets
    another connection.
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
    with suppress(AttributeError):  # the thread of the connection may have ended
        del connections[name]
    RAN_DB_VERSION_CHECK.discard(name)


class SharedPool:
    """The driver's pool for all independent sessions of one factory and alias, and the holders of its connections.

    The first session opens it, and the factory closes it.
    """

    def __init__(self) -> None:
        self.pool: Any = None
        self._holders: list[OpenSession] = []
        self._lock = threading.Lock()

    def attach(self, connection: BaseDatabaseWrapper) -> None:
        """Make *connection* use this pool. Its settings must require a pool."""
        pooled: Any = connection
        with self._lock:
            if self.pool is not None:
                django_private.set_pool(connection, self.pool)
            else:
                self.pool = pooled.pool

    def detach(self, connection: BaseDatabaseWrapper) -> None:
        """Keep the pool open when *connection* is dropped."""
        django_private.forget_pool(connection)

    def close(self) -> None:
        """Close the free connections of the pool now, and the others when they are released."""
        with self._lock:
            pool, self.pool = self.pool, None
        if pool is not None:
            pool.close()

    def take_note(self, session: OpenSession, *, holds: bool) -> None:
        """Record that *session* holds a connection of the pool, or has released it."""
        with self._lock:
            if holds:
                self._holders.append(session)
            else:
                self._holders.remove(session)

    def explain(self, error: OperationalError, session: OpenSession) -> BaseException:
        """Return the error to raise for *error*. It names the holders of the connections, or says that none could be made."""
        with self._lock:
            holders = [str(each) for each in self._holders]
            pool = self.pool
        if type(error.__cause__).__module__.partition(".")[0] != "psycopg_pool" or pool is None:
            return error
        seconds = float(pool.timeout)
        if len(holders) >= pool.max_size:
            what = f"its {pool.max_size} connections are held by {'; '.join(holders)}"
            remedy = 'Close one of these, or raise pool["max_size"]'
        else:
            what = f"{len(holders)} of its {pool.max_size} connections are held, and no other could be made"
            remedy = (
                "Check that the server runs and takes that many connections; psycopg_pool logs why it could not connect"
            )
        return make_error(
            PoolTimeoutError,
            error,
            f"{session.owner} got no connection out of the pool within {seconds:g} s: {what}. {remedy}.",
            owner=session.owner,
            limit="pool",
            seconds=seconds,
            holders=holders,
        )


_WHERE = ("ENGINE", "NAME", "HOST", "PORT")
_WHO = ("USER", "PASSWORD", "OPTIONS", "AUTOCOMMIT", "TIME_ZONE")


def database_of(connection: BaseDatabaseWrapper) -> tuple[str, ...]:
    """Return the identity of the database that *connection* leads to: engine, name, host and port."""
    return tuple(str(connection.settings_dict.get(key)) for key in _WHERE)


def group_aliases(aliases: Sequence[str]) -> dict[str, list[str]]:
    """Return the aliases to open, and for each of them the other aliases that share its connection.

    Its test mirrors share it, so that they see its uncommitted rows. Aliases that connect to the same database in the
    same way share it too, because in two transactions they would wait for each other's locks. Raises
    :class:`ConfigurationError` for an unknown alias.
    """
    if len(aliases) == 1 and aliases[0] in connections:
        primary = find_primary(aliases[0])
        return {primary: [] if primary == aliases[0] else [aliases[0]]}
    groups: dict[str, list[str]] = {}
    by_settings: dict[str, str] = {}
    for alias in aliases:
        if alias not in connections:
            raise ConfigurationError(
                f"There is no database alias {alias!r}. settings.DATABASES has {', '.join(map(repr, connections))}."
            )
        primary = find_primary(alias)
        first = by_settings.setdefault(_connects_as(connections[primary]), primary)
        sharing = groups.setdefault(first, [])
        sharing.extend(each for each in dict.fromkeys((primary, alias)) if each != first and each not in sharing)
    return groups


def find_primary(alias: str) -> str:
    """Return the alias that *alias* mirrors in this test run; *alias* itself if it is no mirror."""
    settings = connections[alias].settings_dict
    mirrored = settings["TEST"].get("MIRROR")
    if not mirrored or mirrored == alias or mirrored not in connections:
        return alias
    # Django's runner gives a mirror the name of its primary. Outside of a test run the mirror is a separate database.
    is_mirroring = str(settings["NAME"]) == str(connections[mirrored].settings_dict["NAME"])
    return find_primary(str(mirrored)) if is_mirroring else alias


def _connects_as(connection: BaseDatabaseWrapper) -> str:
    settings: Mapping[str, Any] = connection.settings_dict
    if connection.vendor == "sqlite" and ":memory:" in str(settings["NAME"]):
        return connection.alias  # each connection has its own database
    return repr([settings.get(key) for key in (*_WHERE, *_WHO)])


@contextmanager
def sharing(primary: str, others: Iterable[str]) -> Iterator[None]:
    """Use this thread's connection of the alias *primary* for the aliases *others* while the block runs."""
    storage = django_private.get_connection_storage()  # the earlier connections must come back
    earlier = {alias: getattr(storage, alias, None) for alias in others}
    try:
        for alias in earlier:
            connections[alias] = connections[primary]
        yield
    finally:
        for alias, connection in earlier.items():
            if connection is not None:
                connections[alias] = connection
            elif hasattr(storage, alias):
                del connections[alias]
