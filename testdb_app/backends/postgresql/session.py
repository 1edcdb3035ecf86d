"""A session made as good as new between tests, at a thirtieth of what a new one costs; closed where that cannot be proved.

``DISCARD ALL`` without the statements that drivers prepare: settings, role, temporary tables, cursors, LISTEN, advisory locks
and the values of sequences last seen go, and the settings that were there right after connecting come back. What cannot be put
back is looked for, and where there is any, the session is closed: statements prepared by SQL, other attributes of the
driver's connection than it began with, settings with which Django would open it otherwise (``USE_TZ``, ``OPTIONS``).

One thing cannot be seen: a setting of one's own, ``SET app.tenant = 1``, is an empty text afterwards, and no longer NULL. A
handler of ``connection_created`` may do that or more, so with one (but for Django's own) every session is closed.

Source: the documentation of DISCARD, and GUC_NO_RESET_ALL in guc_tables.c for the role.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError
from django.db.backends.signals import connection_created

from testdb_app.backends.postgresql import opened
from testdb_app.backends.postgresql.connection import is_idle, run_sql
from testdb_app.backends.postgresql.opened import is_as_opened_now, read_configuration
from testdb_app.backends.postgresql.queries import rows_of
from testdb_app.backends.postgresql.quoting import qualify, quote_literal

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

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
_PREPARED_BY_SQL = "SELECT EXISTS (SELECT FROM pg_catalog.pg_prepared_statements p WHERE p.from_sql)"
_AS_NEW = (
    "CLOSE ALL",
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET ALL",
    "UNLISTEN *",
    "SELECT pg_catalog.pg_advisory_unlock_all()",
    "DISCARD TEMP",
    "DISCARD SEQUENCES",
)
_ATTRIBUTES = (
    "autocommit",
    "isolation_level",
    "read_only",
    "deferrable",
    "row_factory",
    "cursor_factory",
    "server_cursor_factory",
    "prepare_threshold",
    "prepared_max",
)

_AsNew = tuple[object, str, tuple[Any, ...]]
"""What makes a session as new: how it was opened, a message, and the attributes that the driver's connection has to have."""
_known: weakref.WeakKeyDictionary[Any, _AsNew] = weakref.WeakKeyDictionary()
# The same for any that Django opens, by alias and the name of the database.
_of_alias: dict[tuple[str, str], _AsNew] = {}
# Aliases whose new connections have more than can be put back.
_unknowable: weakref.WeakSet[BaseDatabaseWrapper] = weakref.WeakSet()


def renew_session(connection: BaseDatabaseWrapper) -> None:
    """Leave *connection* open with a session that is as good as new, or closed.

    No transaction may be open. Costs one round trip, about 0.1 ms, and a new connection the first time.
    """
    raw = connection.connection
    key = (connection.alias, str(connection.settings_dict["NAME"]))
    if raw is not None and is_as_opened_now(connection) and _may_be_kept(connection):
        if raw not in _known and key in _of_alias and _of_alias[key][0] == read_configuration(connection):
            _known[raw] = _of_alias[key]
        if raw in _known and _put_back(connection):
            return
    connection.close()
    if raw is None or raw in _known or connection in _unknowable or not _may_be_kept(connection):
        return
    connection.ensure_connection()
    remembered = _remember(connection)
    if remembered is None:
        _unknowable.add(connection)
        connection.close()
    else:
        _known[connection.connection] = _of_alias[key] = remembered


def drop_stale_session(connection: BaseDatabaseWrapper) -> None:
    """Close a session that was kept, if something has closed it behind Django, or Django would open it otherwise now."""
    raw = connection.connection
    if raw in _known and not connection.in_atomic_block and (raw.closed or not is_as_opened_now(connection)):
        connection.close()


def _may_be_kept(connection: BaseDatabaseWrapper) -> bool:
    """Whether connecting does no more than Django's part of it, and no pool looks after its connections itself."""
    receivers = (entry[1] for entry in connection_created.receivers)
    functions = (receiver() if isinstance(receiver, weakref.ref) else receiver for receiver in receivers)
    modules = {getattr(function, "__module__", "") for function in functions if function is not None}
    return not connection.settings_dict["OPTIONS"].get("pool") and modules <= {
        "django.contrib.postgres.signals",
        opened.__name__,
    }


def _remember(connection: BaseDatabaseWrapper) -> _AsNew | None:
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
    message = ";\n".join((*_AS_NEW, *again, _PREPARED_BY_SQL))
    return read_configuration(connection), message, _attributes(connection.connection)


def _attributes(raw: Any) -> tuple[Any, ...]:
    handlers = (len(raw._notice_handlers), len(raw._notify_handlers))
    return (*(getattr(raw, name, None) for name in _ATTRIBUTES), *handlers)


def _put_back(connection: BaseDatabaseWrapper) -> bool:
    raw = connection.connection
    _, message, attributes = _known[raw]
    try:
        if raw.closed or not is_idle(connection) or _attributes(raw) != attributes:
            return False
        (*_, prepared) = run_sql(connection, message)
    except (DatabaseError, InterfaceError):
        return False
    return not rows_of(prepared)[0][0]
