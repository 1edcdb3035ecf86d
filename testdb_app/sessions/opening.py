"""Opening a session: all of its connections or none."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError, connections

from testdb_app.exceptions import TestDBError, UnsafeDatabaseError, UnsafeSessionError
from testdb_app.sessions.aliases import find_primary, group_aliases, sharing
from testdb_app.sessions.forgetting import sweep
from testdb_app.sessions.independent import independent_connection
from testdb_app.sessions.opened import OpenSession, Part, push
from testdb_app.sessions.parts import Committed, RolledBack
from testdb_app.sessions.statements import StatementWatch
from testdb_app.sessions.watchdog import watchdog

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.sessions.pools import SharedPool


def open_session(session: OpenSession, pool: SharedPool, *, independent: str | None = None) -> None:
    """Open *session* on its aliases' own connections, or on one that is made for it, to the alias *independent*.

    Raises an error of :mod:`testdb_app.exceptions`, or Django's, with nothing open.
    """
    sweep()
    try:
        _connect(session, pool, independent)
        _open_all(session)
    except BaseException:
        session.clean_up.close()
        raise
    session.is_open = True
    if session.options.ownership_timeout is not None:
        watchdog.watch(session, session.options.ownership_timeout)


def _connect(session: OpenSession, pool: SharedPool, independent: str | None) -> None:
    stack = session.clean_up
    if session.options.around is not None:
        stack.enter_context(session.options.around())
    if independent is not None:
        connection = stack.enter_context(independent_connection(independent, session, pool))
        _add(session, connection, (connection.alias,), find_primary(independent))
        return
    for primary, others in group_aliases(session.options.aliases).items():
        connection = connections[primary]
        if others:
            stack.enter_context(sharing(primary, others))
        _add(session, connection, (primary, *others), primary)


def _add(session: OpenSession, connection: BaseDatabaseWrapper, aliases: tuple[str, ...], primary: str) -> None:
    part: Part
    if session.options.isolation == "reset":
        part = Committed(connection, session, primary=primary)
    else:
        part = RolledBack(connection, session)
    session.parts.append(part)
    session.aliases[connection] = aliases


def _open_all(session: OpenSession) -> None:
    opened: list[Part] = []
    try:
        for part in session.parts:
            part.open()
            opened.append(part)
    except BaseException as error:
        for part in reversed(opened):
            with suppress(TestDBError, DatabaseError, InterfaceError):
                part.close()
        if isinstance(error, UnsafeDatabaseError):
            raise UnsafeSessionError(
                f"{session.owner} was not opened. {error.message}",
                rule=error.rule,
                database=error.database,
                alias=error.alias,
            ) from error
        raise
    for part in session.parts:
        connection = part.connection
        session.collected[connection] = len(connection.run_on_commit), len(connection.savepoint_ids)
        _watch(session, connection)
        push(session, connection)


def _watch(session: OpenSession, connection: BaseDatabaseWrapper) -> None:
    """Put the watch of statements below those of the sessions around, and above what the code under test may put there."""
    wrappers = connection.execute_wrappers
    ours = [number for number, each in enumerate(wrappers) if isinstance(each, StatementWatch)]
    wrappers.insert(ours[-1] + 1 if ours else 0, StatementWatch(session))
