"""Translate PostgreSQL's errors by SQLSTATE into the package's own, and find the sessions that hold a lock."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, Error, InterfaceError, OperationalError

from testdb_app.backends.base import OWN_SCHEMA, Script, has_autocommit
from testdb_app.backends.postgresql.connection import read_safely
from testdb_app.backends.postgresql.operations import EXCLUSIVE, REFUSED_ROW
from testdb_app.backends.postgresql.preconditions import explain_refusal, find_changed_copy, find_refusal
from testdb_app.backends.postgresql.sql import quote_literal
from testdb_app.baseline_state import KEPT_STATES, not_as_captured
from testdb_app.exceptions import (
    BaselineDamagedError,
    Blocker,
    ConcurrencyError,
    ConnectionLostError,
    LockTimeoutError,
    MissingPrivilegeError,
    ReadOnlyError,
    ResetError,
    RestoreConflictError,
    TestDBError,
    TooManyLocksError,
    TransactionStateError,
    first_line_of,
    reason_of,
)
from testdb_app.schema import QualifiedName, on_one_line

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# pid, user, application, state, age in seconds, query, schema, name, kind, lock mode
#
# The sessions that hold a lock on a relation that conflicts with SHARE ROW EXCLUSIVE, ROW EXCLUSIVE or stronger.
BLOCKERS = """
SELECT l.pid, a.usename::text, a.application_name, a.state,
       EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.xact_start)::float8, a.query,
       (SELECT x.gid FROM pg_catalog.pg_locks o JOIN pg_catalog.pg_prepared_xacts x ON x.transaction = o.transactionid
         WHERE l.pid IS NULL AND o.pid IS NULL AND o.virtualtransaction = l.virtualtransaction LIMIT 1),
       n.nspname::text, c.relname::text, c.relkind::text, l.mode
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_class c ON c.oid = l.relation
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
   AND c.relkind IN ('r', 'p', 'S')
 ORDER BY a.xact_start NULLS FIRST, n.nspname, c.relname, l.mode
"""

# The lock modes that conflict with SHARE ROW EXCLUSIVE.
_WRITERS = {
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
}
_TRANSIENT = {
    "40P01": "a deadlock",
    "40001": "a serialization failure",
    "23503": "a row that another session wrote meanwhile",
    "23001": "a row that another session wrote meanwhile",  # the same behind ON DELETE RESTRICT, from PostgreSQL 18 on
    "42P01": "a table that another session dropped meanwhile",
    "3F000": "a schema that another session dropped meanwhile",
}
# A statement that only reads meets these when another session replaces files or drops relations, as ALTER SEQUENCE
# RESTART and TRUNCATE do: the catalog was read before, the file or the entry afterwards. Damaged files raise the same
# errors, but each time.
_READ_TOO_LATE = {
    "42703": "a column that another session dropped meanwhile",
    "42704": "an object that another session dropped meanwhile",
    "XX000": "an entry of the catalog that another session removed meanwhile",
    "XX001": "a file that another session replaced meanwhile",
    "58P01": "a file that another session removed meanwhile",
}
# Unique keys and exclusion constraints are checked row by row, and RESTRICT at the end of each statement.
_CONFLICTS = {"23505", "23P01", "23503", "23001"}
# The classes of SQLSTATE of a row that a constraint, a type, or a function of the database refuses.
_OF_ROWS = {"21", "22", "23", "2F", "38", "39", "44", "P0"}
_PUBLISHED = (
    "If the table is in a publication, give it a primary key or ALTER TABLE … REPLICA IDENTITY FULL, or drop the publication in "
    "the test database, or exclude the table"
)
_OTHERS: Mapping[str, tuple[type[ResetError], str]] = {
    "55000": (ResetError, _PUBLISHED),
    "42P10": (ResetError, _PUBLISHED),
    "42501": (MissingPrivilegeError, "Connect as the owner of the tables, or exclude the table"),
    "25006": (ReadOnlyError, "Connect to a server that accepts writes"),
    "55006": (
        TransactionStateError,
        "Close the cursor, or end the transaction that wrote to the table, or use the strategy delete",
    ),
    "57014": (
        ResetError,
        "Raise statement_timeout for tests (ALTER ROLE … IN DATABASE … SET, or OPTIONS of the alias), or reset in parts",
    ),
    "53100": (ResetError, "Make room on the server's disk, then reset again"),
    "53400": (ResetError, "Raise the limit that the message names, for the role of the tests"),
    "42P07": (
        BaselineDamagedError,
        "It belongs to a baseline whose document is gone: run DROP SCHEMA testdb CASCADE, then capture again",
    ),
    "42704": (ResetError, "Create what the message names again, or use a database that has it"),
    "42883": (
        ResetError,
        "Create what the message names again, or drop what uses it. If the connection now leads to another server, close it",
    ),
    "P0001": (
        ResetError,
        "A check, a generated column, an index or an event trigger of the database raised this. Correct its function",
    ),
}
# The classes of SQLSTATE, where the code itself is not listed.
_CLASSES: Mapping[str, str] = {
    "22": "A value does not fit what the database's own code or types expect: correct that code, or exclude the table",
    "23": "A constraint refuses the state after the reset: correct it, or exclude its table",
    "53": "Give the server more of the resource that the message names, then reset again",
    "54": "Reset in parts: name app labels or schemas",
    "58": "See the server's log: its files cannot be read or written",
    "XX": "See the server's log: its files or catalogs may be damaged. Create the test database again",
}
_ANY_CLASS = "Undo the change to the object that the message names, or create the test database again"
_GONE = {"42P01", "3F000", "42703", "42501", "42809"}
# Caused by a copy that was dropped, altered, replaced by a view, or given to another role.
_DAMAGED = (
    "The baseline is damaged: a relation in the app's schema was dropped, altered or given to another role. Undo that, or "
    "capture the baseline again: resetdb --recapture, or capture_baseline(replace=True)"
)


RESET = "The reset of"
"""The first words of the messages about a reset."""

_INTERNAL_ERROR = "XX000"

LOCK_NOT_AVAILABLE = "55P03"
"""The SQLSTATE of a lock that was not granted in time."""


ABOUT_OBJECTS = frozenset({"0A", "22", "3F", "42"})
"""The classes of SQLSTATE of an error about an object in a statement: it is gone, of another kind, or forbidden to this role."""

ABOUT_STATEMENTS = ABOUT_OBJECTS | {"26"}
"""These, and that of a prepared statement that is gone."""


def sqlstate(error: BaseException) -> str:
    """Return the five letters of the SQLSTATE behind Django's *error*, or an empty text."""
    return getattr(error.__cause__, "sqlstate", None) or ""


def is_connection_lost(connection: BaseDatabaseWrapper, error: BaseException) -> bool:
    """Whether *error* came because the server or the network went away."""
    state = sqlstate(error)
    if state.startswith("08") or state in {"57P01", "57P02", "57P03", "57P05"}:
        return True
    raw = connection.connection
    return isinstance(error, OperationalError | InterfaceError) and (raw is None or raw.closed or raw.broken)


def translate(
    connection: BaseDatabaseWrapper,
    error: Error,
    locks: Mapping[QualifiedName, str] | None,
    *,
    doing: str = RESET,
    restores: bool = False,
) -> TestDBError:
    """Return the package's error for *error*, which ended a script that took *locks* (None: a query that only reads).

    Everything is rolled back. With *restores*, rows were being restored one by one, and may conflict.
    """
    if reason := find_refusal(error):
        return explain_refusal(connection, reason)
    if fault := find_changed_copy(error):
        return not_as_captured(describe_database(connection), [fault])
    return _translate(connection, error, locks, doing, restores=restores)


def _translate(  # noqa: PLR0911 - one for each kind of error
    connection: BaseDatabaseWrapper,
    error: Error,
    locks: Mapping[QualifiedName, str] | None,
    doing: str,
    *,
    restores: bool,
) -> ResetError:
    where = describe_database(connection)
    why = _first_line(error)
    if is_connection_lost(connection, error):
        return _connection_lost(connection, error)
    state = sqlstate(error)
    if state == REFUSED_ROW:
        return _refused_row(where, error)
    if state == LOCK_NOT_AVAILABLE:
        return _lock_timeout(connection, where, locks)
    if state == "53200" and _is_of_locks(error):
        what = "what it reads" if locks is None else f"the {len(locks)} tables and sequences to reset"
        return TooManyLocksError(
            f"One transaction cannot lock {what} in {where}, with their indexes: the "
            "server's lock table is full. Nothing was changed. Raise max_locks_per_transaction (a restart is "
            "needed), or reset in parts: name app labels or schemas.",
            tables=len(locks or ()),
        )
    if restores and (state in _CONFLICTS or state[:2] in _OF_ROWS) and not _names_a_copy(error):
        return RestoreConflictError(
            f"Rows of the baseline could not be restored in {where}: {why}. Nothing was changed. If it fails again, "
            "the baseline itself violates that constraint: correct its rows, and capture it again."
        )
    if state in _TRANSIENT and not _names_a_copy(error):
        return ConcurrencyError(
            f"{doing} {where} was ended by {_TRANSIENT[state]}: {why}. Nothing was changed. "
            "Stop the other sessions that write to it, or reset again.",
            attempts=1,
        )
    if locks is None and state in _READ_TOO_LATE and not _names_a_copy(error):
        return ConcurrencyError(
            f"{doing} {where} was ended by {_READ_TOO_LATE[state]}: {why}. Nothing was changed. Stop the other sessions that "
            "change its schema or restart its sequences. If there is none, its files may be damaged: see the server's log.",
            attempts=1,
        )
    kind, remedy = _OTHERS.get(state, (ResetError, _CLASSES.get(state[:2], _ANY_CLASS)))
    if state in _GONE and _names_a_copy(error):
        kind, remedy = BaselineDamagedError, _DAMAGED
    elif state == "42501" and '"session_replication_role"' in why:
        remedy = (
            "The session has session_replication_role = replica. Then triggers and rules fire that the reset does not switch "
            "off. Set it to origin first, or have a superuser run GRANT SET ON PARAMETER session_replication_role TO the role"
        )
    elif state == "42501" and doing != RESET:
        remedy = "Connect as the owner of the tables, who needs CREATE on the database to capture a baseline"
    return kind(f"{doing} {where} failed: {why}. Nothing was changed. {remedy}.")


def _refused_row(where: str, error: BaseException) -> RestoreConflictError:
    diagnosis = getattr(error.__cause__, "diag", None)
    try:
        refusal = json.loads(getattr(diagnosis, "message_detail", None) or "{}")
    except ValueError:
        refusal = {}
    table, row, constraint = (str(refusal.get(name) or "") for name in ("table", "row", "constraint"))
    reason = str(refusal.get("reason") or _first_line(error)).rstrip(".")
    what = f"the row {on_one_line(row)} of {table}" if row else f"rows of {table}" if table else "rows of the baseline"
    return RestoreConflictError(
        f"In {where}, {what} cannot be restored in any order: {on_one_line(reason)}. Nothing was changed. A NOT VALID constraint "
        "does not apply to rows that existed before it, and a function in a constraint, an index or a generated column may "
        "now refuse values that it once accepted. Correct the row or the constraint in a migration and run "
        f'resetdb --recapture. Or exclude {table or "the table"} in TESTDB["EXCLUDE"], or do not change that row in a test.',
        table=table,
        constraint=constraint,
        row=row,
    )


def _connection_lost(connection: BaseDatabaseWrapper, error: BaseException) -> ConnectionLostError:
    if connection.connection is not None:
        return ConnectionLostError(
            f"The connection to {describe_database(connection)} was lost: {_first_line(error)}. The server rolled back what was "
            "not committed. Check that the server runs, and check the session timeouts that are set for the role and the "
            "database. Then reset again."
        )
    return ConnectionLostError(
        f"Cannot connect to {describe_database(connection)}: {reason_of(error)}. Nothing was changed. Check that the "
        "server runs, that the database exists and accepts connections, that the role may log in, and that it has a "
        "connection free (max_connections, and CONNECTION LIMIT of the role and the database)."
    )


def _names_a_copy(error: BaseException) -> bool:
    # The server names relations in this way, in every language.
    return (
        re.search(rf"\b{OWN_SCHEMA}\.|\b{OWN_SCHEMA}$|\b({'|'.join(KEPT_STATES)})(_[0-9]+)?$", _first_line(error))
        is not None
    )


def _is_of_locks(error: BaseException) -> bool:
    hint = getattr(getattr(error.__cause__, "diag", None), "message_hint", None) or ""
    return "max_locks_per_transaction" in hint or "max_pred_locks" in hint


def explain(connection: BaseDatabaseWrapper, error: DatabaseError | InterfaceError, script: Script) -> TestDBError:
    """Return the package's error for *error*, which ended *script*. A connection that is lost or unusable is closed."""
    if sqlstate(error) == _INTERNAL_ERROR and has_autocommit(connection):
        # If a rule has rewritten a foreign key's own query to nothing, the query's plan depends on nothing. The session
        # that has run it keeps that plan after the rule is switched off. A new session has none.
        connection.close()
        return ConcurrencyError(
            f"The reset of {describe_database(connection)} was ended by a cached plan of the session: {_first_line(error)}. "
            "Nothing was changed, and the connection was closed. Reset again.",
            attempts=1,
        )
    restores = any(statement.changes for statement in script.body)
    failure = translate(connection, error, script.locks, restores=restores)
    if connection.connection is not None and is_connection_lost(connection, error):
        connection.close()
    return failure


def describe_database(connection: BaseDatabaseWrapper) -> str:
    """Return the name of the database in messages."""
    return f'database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}")'


def _first_line(error: BaseException) -> str:
    return first_line_of(error).rstrip(".")


def _lock_timeout(
    connection: BaseDatabaseWrapper, where: str, locks: Mapping[QualifiedName, str] | None
) -> LockTimeoutError:
    blockers = find_blockers(connection, locks)
    who = "; ".join(str(blocker) for blocker in blockers) or "the session that held it has released it since"
    prepared = sorted({blocker.prepared for blocker in blockers if blocker.prepared is not None})
    remedy = "End that session's transaction (close its connection, or SELECT pg_terminate_backend(pid))"
    if prepared:
        remedy = f"End it (ROLLBACK PREPARED {quote_literal(prepared[0])}, in this database)"
    return LockTimeoutError(
        f"A lock in {where} was not granted in time: {who}. Nothing was changed. {remedy}, or wait "
        'longer with a higher TESTDB["LOCK_TIMEOUT"], in seconds.',
        blockers=blockers,
    )


def find_blockers(connection: BaseDatabaseWrapper, locks: Mapping[QualifiedName, str] | None) -> list[Blocker]:
    """Return the sessions that hold locks which conflict with *locks*, the oldest transaction first.

    None stands for the locks of reading: those of a query on tables, and that of nextval() on a sequence.
    """
    blockers: list[Blocker] = []
    for row in read_safely(connection, [BLOCKERS])[0].rows or ():
        *session, schema, relation, kind, mode = row
        name = QualifiedName(schema, relation)
        if locks is None:
            conflicts = mode == "AccessExclusiveLock" or (kind == "S" and mode in _WRITERS - {"RowExclusiveLock"})
        else:
            conflicts = name in locks and (locks[name] == EXCLUSIVE or mode in _WRITERS)
        if conflicts:
            blockers.append(describe_blocker(session, str(name), mode))
    return blockers


def describe_blocker(session: Sequence[Any], table: str, lock: str) -> Blocker:
    """Make a blocker from the server's row on a session: pid, user, application, state, age in seconds, query, identifier."""
    pid, user, application, state, age, query, prepared = session
    return Blocker(
        pid=pid,
        user=user,
        application=application or None,
        state=state,
        age_seconds=age,
        query=None if query == "<insufficient privilege>" else query,
        table=table,
        lock=lock,
        prepared=prepared,
    )
