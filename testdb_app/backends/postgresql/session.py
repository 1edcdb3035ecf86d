"""A session that is kept between tests is as good as a new one, at a thirtieth of its cost; one without that proof is closed.

:func:`renew_session` puts back what can be put back, in one round trip: settings, role, temporary tables, cursors, LISTEN,
advisory locks, the values of sequences last seen. ``DISCARD ALL`` would drop the statements that drivers prepare, too. The
settings that were there right after connecting come back. What cannot be put back is proved absent, or the session is closed:

- the wrapper is one of Django's own classes, unpatched, without further attributes and execute wrappers: any other may remember
  what it has set (:func:`_is_djangos`);
- nothing opens sessions otherwise: no handler of ``connection_created`` but Django's, no pool;
- each statement that ran since then leaves nothing, or only what is put back
  (:mod:`testdb_app.backends.postgresql.session_state`);
- no message is unread, and the driver's connection holds what it held at first
  (:class:`~testdb_app.backends.postgresql._psycopg_private.DriverState`);
- settings and defaults of roles and databases have a new session opened just so.

``TESTDB["KEEP_CONNECTIONS"]`` chooses: "always" leaves out what concerns the wrapper, handlers and statements; "never" closes.

Source: the documentation of DISCARD, and GUC_NO_RESET_ALL in guc_tables.c for the role and the seed.
"""

from __future__ import annotations

import contextlib
import logging
import select
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
from django.db import DatabaseError, InterfaceError
from django.db.backends import utils
from django.db.backends.signals import connection_created
from django.utils.functional import cached_property

from testdb_app.backends.postgresql import _psycopg_private as driver
from testdb_app.backends.postgresql import opened
from testdb_app.backends.postgresql.connection import is_idle, run_sql
from testdb_app.backends.postgresql.opened import ServerSession, is_as_opened_now, read_configuration, session_of
from testdb_app.backends.postgresql.queries import rows_of
from testdb_app.backends.postgresql.quoting import qualify, quote_literal
from testdb_app.backends.postgresql.session_state import COUNTERS, FunctionsWithState, read_functions
from testdb_app.conf import get_settings

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("testdb_app")

# name, setting, of those that differ from what RESET ALL leads to
_SETTINGS = qualify("""
SELECT s.name::text, s.setting
  FROM pg_catalog.pg_settings s
 WHERE s.source = 'session'
 ORDER BY s.name
""")
# Whether the session has something that its settings do not tell, right after connecting.
_POSSESSIONS = qualify("""
SELECT pg_catalog.pg_my_temp_schema() <> 0
       OR EXISTS (SELECT FROM pg_catalog.pg_prepared_statements p WHERE p.from_sql)
       OR EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
       OR EXISTS (SELECT FROM pg_catalog.pg_locks l
                   WHERE l.locktype = 'advisory' AND l.pid = pg_catalog.pg_backend_pid())
""")
_ROLE = "SELECT pg_catalog.current_setting('role')"
# whether SQL has prepared statements, whether there is a schema of temporary tables, which stays in the search path
_LEFT = qualify("""
SELECT EXISTS (SELECT FROM pg_catalog.pg_prepared_statements p WHERE p.from_sql),
       pg_catalog.pg_my_temp_schema() <> 0
""")
_AS_NEW = (
    "CLOSE ALL",
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET ALL",
    "UNLISTEN *",
    "SELECT pg_catalog.pg_advisory_unlock_all()",
    "DISCARD TEMP",
    "DISCARD SEQUENCES",
)
_OWN_CLASSES = ("django.db.backends.postgresql.base", "django.contrib.gis.db.backends.postgis.base")
_FOLDER = str(Path(django.__file__).parent)
# What Django's runner and test classes put on a wrapper.
_KNOWN_ATTRIBUTES = frozenset({"_test_serialized_contents", "isolation_level", "_named_cursor_idx"})
_FIRST_USE = "close_if_health_check_failed"

_Key = tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class _AsNew:
    """What makes the session of an alias as new: how it was opened, a message, what the driver's connection has to hold."""

    configuration: object
    message: str
    driver: driver.DriverState
    defaults: str | None


_of_alias: dict[_Key, _AsNew] = {}
_functions: dict[_Key, FunctionsWithState] = {}
# Aliases whose new connections have more than can be put back.
_unknowable: weakref.WeakSet[BaseDatabaseWrapper] = weakref.WeakSet()
# By class, its attributes when they were found to be Django's own.
_unpatched: dict[type[Any], tuple[Any, ...]] = {}
# By class, the attributes that a wrapper of it has.
_expected: dict[type[Any], frozenset[str]] = {}


def renew_session(connection: BaseDatabaseWrapper) -> bool:
    """Leave *connection* open with a session that is as good as new, or closed. No transaction may be open.

    Returns whether the session that it has after the reset may stay open for the next test. Costs one round trip, about
    0.1 ms, and a new connection the first time.
    """
    opened.observe_from_now_on()
    mode = get_settings().keep_connections
    vouched = mode == "always" and not _has_pool(connection)
    may_keep = vouched or _is_provable(connection)
    raw = connection.connection
    if raw is not None and may_keep and not driver.is_in_use(raw):
        session = session_of(connection)
        reason = _put_back(connection, session, vouched=vouched) if session is not None else "it was opened earlier"
        if reason is None:
            return mode != "never"
        logger.debug("Connection %s: the session is closed: %s", connection.alias, reason)
    connection.close()
    if may_keep and connection not in _unknowable and _key(connection) not in _of_alias and raw is not None:
        _open_and_remember(connection)
    return may_keep and mode != "never" and connection not in _unknowable


def release_session(connection: BaseDatabaseWrapper, *, keep: bool) -> None:
    """Close *connection* after a reset unless *keep*, what :func:`renew_session` said; else have its first use look at it."""
    if not keep:
        connection.close()
    elif connection.connection is not None:
        _check_at_first_use(connection)


def drop_stale_session(connection: BaseDatabaseWrapper) -> None:
    """Close a session that was kept, if something has closed it since, or Django would open it otherwise now.

    Also one that a generator of the driver, which was left half read, has locked: whoever uses it next would wait for ever.
    """
    if session_of(connection) is None or connection.in_atomic_block:
        return
    if driver.is_in_use(connection.connection) or not _is_usable(connection):
        connection.close()


def _check_at_first_use(connection: BaseDatabaseWrapper) -> None:
    """Look at the socket when Django uses *connection* next, without a round trip: the server may have ended the session.

    Django calls this method before each statement and each transaction that it begins. It is out of the way after the first.
    """

    reference = weakref.ref(connection)

    def check() -> None:
        used = reference()
        assert used is not None
        vars(used).pop(_FIRST_USE, None)
        drop_stale_session(used)
        used.close_if_health_check_failed()

    setattr(connection, _FIRST_USE, check)


def _is_usable(connection: BaseDatabaseWrapper) -> bool:
    """Whether the session is alive as far as its socket tells, and opened as Django would open it now."""
    raw = connection.connection
    if raw.closed or not is_as_opened_now(connection):
        return False
    # Nothing is awaited: what is there is the end of the session, or a message that a new one would not have.
    if not hasattr(select, "poll"):
        return not select.select([raw.pgconn.socket], [], [], 0)[0]
    poll = select.poll()
    poll.register(raw.pgconn.socket, select.POLLIN)
    return not poll.poll(0)


def _key(connection: BaseDatabaseWrapper) -> _Key:
    return connection.alias, str(connection.settings_dict["NAME"])


def _has_pool(connection: BaseDatabaseWrapper) -> bool:
    return bool(connection.settings_dict["OPTIONS"].get("pool"))


def _is_provable(connection: BaseDatabaseWrapper) -> bool:
    """Whether it can be known at all what happens on *connection*."""
    receivers = (entry[1] for entry in connection_created.receivers)
    functions = (receiver() if isinstance(receiver, weakref.ref) else receiver for receiver in receivers)
    modules = {getattr(function, "__module__", "") for function in functions if function is not None}
    return (
        not _has_pool(connection)
        and modules <= {"django.contrib.postgres.signals", opened.__name__}
        and _is_djangos(connection)
    )


def _is_djangos(connection: BaseDatabaseWrapper) -> bool:
    """Whether the wrapper is exactly one of Django's own: its class, the methods of that, and its attributes."""
    cls = type(connection)
    own = [getattr(sys.modules.get(name), "DatabaseWrapper", None) for name in _OWN_CLASSES]
    if cls not in own or connection.execute_wrappers:
        return False
    classes = [*cls.__mro__[:-1], utils.CursorWrapper, utils.CursorDebugWrapper]
    if not all(_is_unpatched(each) for each in classes):
        return False
    return all(
        name in _expected_attributes(connection) or _is_bound(connection, name, value)
        for name, value in vars(connection).items()
    )


def _is_unpatched(cls: type[Any]) -> bool:
    attributes = tuple(vars(cls).values())
    known = _unpatched.get(cls)
    if known is not None and len(known) == len(attributes) and all(map(_is_same, known, attributes)):
        return True
    if all(_is_of_django(each) for each in attributes):
        _unpatched[cls] = attributes
        return True
    return False


def _is_same(one: object, other: object) -> bool:
    return one is other


def _is_of_django(attribute: Any) -> bool:
    """Whether an attribute of a class is a value, or a function whose code is Django's, with all that is wrapped around it."""
    function = attribute
    for inner in ("__func__", "fget", "func"):
        function = getattr(function, inner, function)
    if isinstance(function, type) or not callable(function):
        return True
    while function is not None:
        code = getattr(function, "__code__", None)
        if code is None or not code.co_filename.startswith((_FOLDER, contextlib.__file__)):
            return False
        function = getattr(function, "__wrapped__", None)
    return True


def _expected_attributes(connection: BaseDatabaseWrapper) -> frozenset[str]:
    cls = type(connection)
    if cls not in _expected:
        cached = (
            name for each in cls.__mro__ for name, value in vars(each).items() if isinstance(value, cached_property)
        )
        _expected[cls] = frozenset(vars(connection.copy())) | _KNOWN_ATTRIBUTES | frozenset(cached)
    return _expected[cls]


def _is_bound(connection: BaseDatabaseWrapper, name: str, value: Any) -> bool:
    """Whether an attribute is the class's own method, which Django's test classes leave on the wrapper, or one of ours."""
    if name == _FIRST_USE:
        return getattr(value, "__module__", "") == __name__
    if type(value).__module__ == "django.test.testcases":
        return True
    return getattr(value, "__self__", None) is connection and getattr(value, "__func__", None) is getattr(
        type(connection), name, None
    )


def _open_and_remember(connection: BaseDatabaseWrapper) -> None:
    """Open a session and remember what it has; close it again if that cannot be put back."""
    connection.ensure_connection()
    remembered = _remember(connection)
    if remembered is None:
        _unknowable.add(connection)
        connection.close()
    else:
        _of_alias[_key(connection)] = remembered


def _remember(connection: BaseDatabaseWrapper) -> _AsNew | None:
    functions = _functions[_key(connection)] = read_functions(connection)
    settings, possessions, role = run_sql(connection, f"{_SETTINGS};\n{_POSSESSIONS};\n{_ROLE}")
    if rows_of(possessions)[0][0]:
        return None
    ((name,),) = rows_of(role)
    again = [
        f"SELECT pg_catalog.set_config({quote_literal(setting)}, {quote_literal(value)}, false)"
        for setting, value in rows_of(settings)
    ]
    again.append(
        "RESET ROLE" if name == "none" else f"SELECT pg_catalog.set_config('role', {quote_literal(name)}, false)"
    )
    return _AsNew(
        configuration=read_configuration(connection),
        message=";\n".join((*_AS_NEW, *again, COUNTERS, _LEFT)),
        driver=driver.DriverState(connection.connection),
        defaults=functions.defaults,
    )


def _put_back(connection: BaseDatabaseWrapper, session: ServerSession, *, vouched: bool) -> str | None:
    """Make the session as good as new; return why that cannot be, or None. *vouched*: whatever ran in it."""
    key = _key(connection)
    reason = _find_obstacle(connection, key)
    if reason is None and not vouched:
        reason = next((each.reason for each in session.verdicts if each.reason is not None), None)
    if reason is not None:
        return reason
    as_new = _of_alias[key]
    try:
        (*_, counters, left) = run_sql(connection, as_new.message)
        ((has_prepared, has_temporary),) = rows_of(left)
        if has_prepared or (has_temporary and not vouched):
            return (
                "it has statements that SQL prepared" if has_prepared else "it had temporary tables, whose schema stays"
            )
        if driver.has_unread_messages(connection.connection):
            return "messages of NOTIFY are unread"
        if not vouched:
            reason = _find_state(connection, key, session, rows_of(counters)[0][0])
    except (DatabaseError, InterfaceError) as error:
        return f"it could not be put back: {error}"
    if reason is None:
        driver.forget_counts(connection.connection)
        session.verdicts.clear()
    return reason


def _find_obstacle(connection: BaseDatabaseWrapper, key: _Key) -> str | None:
    """Return what the driver and the settings tell against the session, before anything is sent."""
    raw, as_new = connection.connection, _of_alias.get(key)
    if as_new is None or as_new.configuration != read_configuration(connection) or not is_as_opened_now(connection):
        _of_alias.pop(key, None)
        return "new ones are opened otherwise now, or nothing is known of them yet"
    if raw.closed or not is_idle(connection):
        return "it is lost, or in a transaction"
    if not as_new.driver.is_that_of(raw):
        # An extension that came may have new ones opened with other adapters.
        del _of_alias[key]
        return "the driver's connection has other options, handlers or adapters than at first"
    return "the driver has prepared statements" if driver.has_prepared(raw) else None


def _find_state(connection: BaseDatabaseWrapper, key: _Key, session: ServerSession, counters: int) -> str | None:
    """Return what may be in the session that nothing undoes, or the settings that a new one would get otherwise."""
    functions = _functions.get(key)
    if functions is None or functions.counters != counters:
        functions = _functions[key] = read_functions(connection)
    if functions.defaults != _of_alias[key].defaults:
        del _of_alias[key]
        return "new sessions get other settings now"
    return functions.find_reason(session.verdicts)
