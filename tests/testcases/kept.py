"""What can be observed of a session and of the driver's connection, to compare one that was kept with a really new one."""

from __future__ import annotations

from typing import Any

from django.db import connections

CUSTOM = ("app.x", "app.tenant", "request.user", "APP.X")
# A library such as plpgsql adds its settings when one of its functions is called first; they are at their defaults.
_STATE = {
    "settings": "SELECT name, setting, source FROM pg_settings WHERE NOT (name LIKE '%.%' AND source = 'default') ORDER BY name",
    "custom": f"SELECT name, current_setting(name, true) FROM unnest(ARRAY{list(CUSTOM)}) name ORDER BY name",
    "role": "SELECT current_setting('role'), session_user::text, current_user::text, current_schemas(true)::text[]",
    "prepared": "SELECT name, from_sql FROM pg_prepared_statements WHERE name NOT LIKE 'testdb%' ORDER BY name",
    "cursors": "SELECT name FROM pg_cursors WHERE name <> ''",
    "channels": "SELECT pg_listening_channels()",
    "locks": "SELECT locktype, mode, objid FROM pg_locks WHERE pid = pg_backend_pid() AND locktype NOT IN ('relation', 'virtualxid')",
    "temporary": "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
    "slots": "SELECT slot_name FROM pg_replication_slots WHERE temporary AND active_pid = pg_backend_pid()",
}


def read_state(connection: Any) -> dict[str, Any]:
    """Return what code can observe of the session and of the driver's connection. Reads nothing through Django's cursors."""
    raw = connection.connection
    found: dict[str, Any] = {}
    for name, query in _STATE.items():
        found[name] = raw.execute(query).fetchall()
    for name, query in {"lastval": "SELECT lastval()", "currval": "SELECT currval('t_id_seq')"}.items():
        try:
            found[name] = raw.execute(query).fetchall()
        except Exception as error:
            found[name] = type(error).__name__
    found["messages"] = [each.payload for each in raw.notifies(timeout=0)]
    for name in (
        *("autocommit", "isolation_level", "read_only", "deferrable", "row_factory", "cursor_factory"),
        *("server_cursor_factory", "prepare_threshold", "prepared_max", "closed", "_tpc", "_num_transactions"),
    ):
        found[f"raw.{name}"] = getattr(raw, name)
    found["handlers"] = (list(raw._notice_handlers), list(raw._notify_handlers))
    found["pipeline"] = raw._pipeline
    found["counts"] = (dict(raw._prepared._counts), dict(raw._prepared._names))
    found["attributes"] = sorted(set(vars(raw)) - {"wait"})
    found["encoding"] = raw.info.encoding
    found["reported"] = [
        raw.info.parameter_status(name) for name in ("TimeZone", "DateStyle", "client_encoding", "search_path")
    ]
    adapters = raw.adapters
    found["dumpers"] = [_by_name(each) for each in (*adapters._dumpers.values(), *adapters._dumpers_by_oid)]
    found["loaders"] = [dict(each) for each in adapters._loaders]
    found["types"] = sorted({each.name for each in adapters.types})
    found["wrapper"] = {
        name: getattr(connection, name)
        for name in (
            "autocommit",
            "in_atomic_block",
            "needs_rollback",
            "savepoint_ids",
            "run_on_commit",
            "execute_wrappers",
        )
    }
    return found


def _by_name(table: dict[Any, Any]) -> dict[str, Any]:
    return {str(getattr(key, "__qualname__", key)).rpartition(".")[2]: value for key, value in table.items()}


def observe_new(alias: str) -> dict[str, Any]:
    """Return the same of a connection that is opened for it, by a wrapper of its own."""
    new = connections[alias].copy()
    new.ensure_connection()
    try:
        return read_state(new)
    finally:
        new.close()


def differences(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Return what differs, by name: what is there, and what should be."""
    return {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]}
