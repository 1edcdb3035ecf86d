"""The sessions that this process has opened through Django: what ran in them, and a report of their counts when it is needed."""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from django.db.backends.signals import connection_created

from testdb_app.backends.postgresql._psycopg_private import observe_statements, statement_text
from testdb_app.backends.postgresql.connection import run_if_idle
from testdb_app.backends.postgresql.counters import REPORT
from testdb_app.backends.postgresql.sent_statements import Verdict, WrittenName, judge_statement

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class ServerSession:
    """One session: how it was opened (None: before sessions were observed, or by a pool), and what ran in it.

    - ``verdicts``: what the statements since its last renewal can leave in it.
    - ``is_used``: whether any statement ran since it has reported its counts for the last time.
    """

    def __init__(self, raw: Any, configuration: object) -> None:
        self.configuration = configuration
        self.verdicts: set[Verdict] = set()
        self.is_used = True
        self.is_observed = False
        self.database = (raw.info.host, raw.info.port, raw.info.dbname)
        self._raw = weakref.ref(raw)

    def note(self, statement: object) -> None:
        """Note a statement that is about to be sent."""
        self.is_used = True
        verdict = judge_statement(statement_text(statement))
        if verdict.written:
            _written[self.database] |= verdict.written
        if self.configuration is not None:
            self.verdicts.add(verdict)

    def observe(self) -> None:
        """Note the statements of the session from now on."""
        raw = self._raw()
        if raw is not None and not self.is_observed:
            self.is_observed = True
            observe_statements(raw, self.note)

    def report(self, stack: ExitStack) -> int | None:
        """Have the session report its counts, and keep others from using it until *stack* ends; return its process id.

        Returns None, with nothing done, if it is in use or in a transaction. One round trip.
        """
        raw = self._raw()
        if raw is None or raw.closed or not raw.lock.acquire(blocking=False):
            return None
        stack.callback(raw.lock.release)
        if not run_if_idle(raw, REPORT):
            return None
        self.is_used = False
        return int(raw.info.backend_pid)


_opened: Counter[str] = Counter()
_sessions: weakref.WeakKeyDictionary[Any, ServerSession] = weakref.WeakKeyDictionary()
_written: defaultdict[Hashable, set[WrittenName]] = defaultdict(set)
_lock, _turn = threading.Lock(), threading.Lock()
_observing: set[bool] = set()


def observe_from_now_on() -> None:
    """Note the statements of all sessions from now on. A process that runs no tests notes none."""
    _observing.add(True)
    with _lock:
        sessions = list(_sessions.values())
    for session in sessions:
        session.observe()


def observe(connection: BaseDatabaseWrapper) -> ServerSession:
    """Note the statements of this open session, too, from now on."""
    raw = connection.connection
    session = _sessions.get(raw)
    return _add(raw, None) if session is None else session


def _add(raw: Any, configuration: object) -> ServerSession:
    session = ServerSession(raw, configuration)
    with _lock:
        _sessions[raw] = session
    if _observing:
        session.observe()
    return session


def _take_note(connection: BaseDatabaseWrapper, **_: object) -> None:
    if connection.vendor == "postgresql":
        raw = connection.connection
        _opened[_database_of(connection)] += 1
        if hasattr(type(raw), "wait") and raw not in _sessions:
            is_known = _observing and not connection.settings_dict["OPTIONS"].get("pool")
            _add(raw, read_configuration(connection) if is_known else None)


connection_created.connect(_take_note, dispatch_uid=__name__)
if hasattr(os, "register_at_fork"):
    # The sessions that a child inherits are its parent's.
    os.register_at_fork(after_in_child=_sessions.clear)


def sessions_opened(connection: BaseDatabaseWrapper) -> int:
    """Return how many sessions Django has opened to the database of *connection* since this module was imported.

    By whatever alias: a session of another alias is one session more, too.
    """
    return _opened[_database_of(connection)]


def _database_of(connection: BaseDatabaseWrapper) -> str:
    # Sessions of another role, or with other options, may not be counted in the same way.
    settings = connection.settings_dict
    return "\n".join(str(settings.get(key) or "") for key in ("HOST", "PORT", "NAME", "USER", "OPTIONS"))


def read_configuration(connection: BaseDatabaseWrapper) -> object:
    """Return what the settings make Django do now when it opens a session, such as setting the time zone. Opens none."""
    options = connection.settings_dict["OPTIONS"]
    return connection.get_connection_params(), connection.timezone_name, options.get("assume_role")


def session_of(connection: BaseDatabaseWrapper) -> ServerSession | None:
    """Return what is known of the session of *connection*; None if it was opened before sessions were observed, or by others."""
    raw = connection.connection
    session = None if raw is None else _sessions.get(raw)
    return None if session is None or session.configuration is None else session


def is_as_opened_now(connection: BaseDatabaseWrapper) -> bool:
    """Whether the session was observed since it was opened, and was opened as it would be now."""
    session = session_of(connection)
    return session is not None and session.configuration == read_configuration(connection)


def take_written(session: ServerSession) -> set[WrittenName]:
    """Return the tables that this process seems to have written to since the last call, in the database of *session*.

    Also those of sessions that it has closed since.
    """
    return _written.pop(session.database, set())


@contextmanager
def reported(session: ServerSession) -> Iterator[list[int]]:
    """Have the other sessions of this process in that database report, and keep them as they are while the block runs.

    Yields the process ids of those that have reported. One round trip for each that was used since.
    """
    used = _used_beside(session)
    # Two resets at once would each wait for the session that the other keeps.
    if not used or not _turn.acquire(blocking=False):
        yield []
        return
    with ExitStack() as stack:
        stack.callback(_turn.release)
        yield [pid for each in used if (pid := each.report(stack)) is not None]


def _used_beside(session: ServerSession) -> list[ServerSession]:
    if len(_sessions) == 1:
        return []
    with _lock:
        return [
            each
            for each in _sessions.values()
            if each is not session and each.is_used and each.database == session.database
        ]
