"""The sessions that this process opens through Django: how many, how each was opened, and what ran in it."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

from django.db.backends.signals import connection_created

from testdb_app.backends.postgresql._psycopg_private import observe_statements, statement_text
from testdb_app.backends.postgresql.session_state import Verdict, judge_statement

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class ServerSession:
    """One session: how it was opened, and what the statements that ran since its last renewal can leave in it."""

    def __init__(self, configuration: object) -> None:
        self.configuration = configuration
        self.verdicts: set[Verdict] = set()

    def note(self, statement: object) -> None:
        """Take note of a statement that is about to be sent."""
        self.verdicts.add(judge_statement(statement_text(statement)))


_opened: Counter[str] = Counter()
_sessions: weakref.WeakKeyDictionary[Any, ServerSession] = weakref.WeakKeyDictionary()
_observing: set[bool] = set()


def observe_from_now_on() -> None:
    """Have the statements noted of all sessions that are opened from now on; in a process that runs no tests none are."""
    _observing.add(True)


def _take_note(connection: BaseDatabaseWrapper, **_: object) -> None:
    if connection.vendor == "postgresql":
        raw = connection.connection
        _opened[_database_of(connection)] += 1
        if _observing and hasattr(type(raw), "wait") and not connection.settings_dict["OPTIONS"].get("pool"):
            session = _sessions[raw] = ServerSession(read_configuration(connection))
            observe_statements(raw, session.note)


connection_created.connect(_take_note, dispatch_uid=__name__)


def sessions_opened(connection: BaseDatabaseWrapper) -> int:
    """Return how many sessions Django has opened to the database of *connection* since this module was imported.

    By whatever alias: what another one opens is a session more, too.
    """
    return _opened[_database_of(connection)]


def _database_of(connection: BaseDatabaseWrapper) -> str:
    # Those of another role, or with other options, may not be counted as this one's are.
    settings = connection.settings_dict
    return "\n".join(str(settings.get(key) or "") for key in ("HOST", "PORT", "NAME", "USER", "OPTIONS"))


def read_configuration(connection: BaseDatabaseWrapper) -> object:
    """Return what the settings have Django do now when it opens a session, such as to set the time zone. Opens none."""
    options = connection.settings_dict["OPTIONS"]
    return connection.get_connection_params(), connection.timezone_name, options.get("assume_role")


def session_of(connection: BaseDatabaseWrapper) -> ServerSession | None:
    """Return what is known of the session of *connection*; None if it was opened before sessions were observed, or by others."""
    raw = connection.connection
    return None if raw is None else _sessions.get(raw)


def is_as_opened_now(connection: BaseDatabaseWrapper) -> bool:
    """Whether the session is known since it was opened, and was opened as it would be now."""
    session = session_of(connection)
    return session is not None and session.configuration == read_configuration(connection)
