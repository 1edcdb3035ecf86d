"""The sessions of a scenario: the own connection, those that stay, those that come and go; and one outside that watches."""

from __future__ import annotations

import time
from typing import Any

import psycopg
from django.db import DatabaseError, InterfaceError, connections

from testproject.embedded import superuser_dsn
from tests.differential.image import FUNCTION, INSTALL, Image, parse
from tests.differential.rivals import Rivals
from tests.differential.scenario import Step
from tests.differential.tally import Tally
from tests.scratch import ScratchDatabase, connect_as_superuser, default_parameters

_OPTIONS = "-c lock_timeout=20ms -c client_min_messages=error"
MATES = ("mate_one", "mate_two")
_MARKS = {"wait", "close", "cut", "copy", "again"}


class Stage:
    """The sessions on one scratch database. Statements that fail are rolled back."""

    def __init__(self, database: ScratchDatabase, *, pooled: bool = False) -> None:
        self.database = database
        self.rivals = Rivals()
        self._pooled = pooled
        for alias in MATES:
            database.register(alias, OPTIONS={"options": _OPTIONS})
        self._sessions: dict[str, psycopg.Connection[Any]] = {}
        self._own_is_cut = False
        self._may_be_leaving = False
        # In another database, where it is not one of the sessions that a reset looks for.
        self._outside = psycopg.connect(superuser_dsn("postgres"), autocommit=True)
        with self._visitor(superuser=True) as session:
            session.execute(INSTALL)

    def close(self) -> None:
        """Close all sessions, and end the processes."""
        self.rivals.close()
        for session in self._sessions.values():
            session.close()
        self._outside.close()

    def play(self, step: Step, tally: Tally) -> bool:
        """Let the step's actor do it, count it, and return whether it succeeded."""
        kind = " ".join(word for word in step.what.split() if word not in _MARKS)
        group = "made" if "make" in step.words else f"{self._role(step.actor)}: steps"
        done = self._play(step)
        tally.count(group, kind.removeprefix("make ") or step.what)
        if not done:
            tally.count("failed", kind.removeprefix("make "))
        return done

    def _role(self, actor: str) -> str:
        return actor if actor in {"own", "visitor", "superuser", "setup"} else "resident"

    def _play(self, step: Step) -> bool:
        if step.actor == "own":
            return self._play_own(step)
        if step.actor in {"visitor", "superuser"}:
            session = self._visitor(superuser=step.actor == "superuser")
            done = _execute(session, step)
            self._end(session, step)
            return done
        session = self._sessions.get(step.actor)
        if session is None and step.actor in MATES:
            session = self._mate(step.actor)
        elif session is None:
            session = self._visitor(superuser=step.actor.startswith("admin"))
        self._sessions[step.actor] = session
        done = not step.sql or _execute(session, step)
        if step.words & {"close", "cut"}:
            self._end(self._sessions.pop(step.actor), step)
        return done

    def _play_own(self, step: Step) -> bool:
        connection = self.database.connection
        connection.ensure_connection()
        raw = connection.connection
        if step.words & {"close", "cut"}:
            pid = raw.info.backend_pid
            if "cut" in step.words:
                self._outside.execute("SELECT pg_terminate_backend(%s)", [pid])
                self._own_is_cut = True
            else:
                connection.close()
            # A pool keeps the session.
            self._gone(pid, "wait" in step.words and not self._pooled)
            return True
        is_alone = not self._sessions
        self._own_is_cut = False
        try:
            if not is_alone:
                raw.execute("SET lock_timeout = '20ms'")
            with connection.cursor() as cursor:
                _send(cursor.cursor, step)
        except (DatabaseError, InterfaceError, psycopg.Error):
            if raw.closed or not connection.is_usable():
                connection.close()
            else:
                raw.rollback()
            return False
        finally:
            if not is_alone and not raw.closed:
                raw.rollback()
                raw.execute("RESET lock_timeout")
        return True

    def _mate(self, alias: str) -> psycopg.Connection[Any]:
        # The one before was closed below Django.
        connections[alias].close()
        connections[alias].ensure_connection()
        session: psycopg.Connection[Any] = connections[alias].connection
        return session

    def _visitor(self, *, superuser: bool) -> psycopg.Connection[Any]:
        if superuser:
            session = psycopg.connect(superuser_dsn(self.database.name), autocommit=True, options=_OPTIONS)
        else:
            session = psycopg.connect(
                dbname=self.database.name, autocommit=True, options=_OPTIONS, **default_parameters()
            )
        session.prepare_threshold = None
        return session

    def end_setup(self) -> None:
        """Close the session that made the schema."""
        if "setup" in self._sessions:
            self._end(self._sessions.pop("setup"), Step(actor="setup", what="close wait"))

    def _end(self, session: psycopg.Connection[Any], step: Step) -> None:
        pid = session.info.backend_pid
        if "cut" in step.words:
            self._outside.execute("SELECT pg_terminate_backend(%s)", [pid])
        session.close()
        self._gone(pid, "wait" in step.words)

    def _gone(self, pid: int, waits: bool) -> None:
        """Wait until the server has forgotten a session."""
        self._may_be_leaving |= not waits
        deadline = time.monotonic() + 5
        while waits and self._outside.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).rowcount:
            assert time.monotonic() < deadline, f"the session {pid} stays"
            time.sleep(0.0005)

    def own_is_used(self) -> None:
        """Remember that the own connection has been made anew if it was cut."""
        self._own_is_cut = False

    def take_late(self) -> bool:
        """Whether another session may still report what it did before now: it is there, or has left since the last question."""
        is_late, self._may_be_leaving = bool(self._sessions) or self._may_be_leaving, False
        return is_late

    def look(self, *, by_own: bool, sequences: bool = True) -> Image:
        """Look at everything, with a superuser's eyes, over the own connection or in a session that has gone afterwards."""
        if by_own and not self._own_is_cut:
            with self.database.connection.cursor() as cursor:
                return _look(cursor.cursor, sequences=sequences)
        session = self._visitor(superuser=True)
        pid = session.info.backend_pid
        with session.cursor() as cursor:
            image = _look(cursor, sequences=sequences)
        session.close()
        self._gone(pid, waits=True)
        return image

    def clean(self) -> None:
        """Drop everything of a scenario, and begin with a new own connection."""
        self.database.connection.close()
        if self._pooled:
            self.database.connection.close_pool()
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        with connect_as_superuser(self.database.name) as session:
            prepared = session.execute(
                "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
            ).fetchall()
            for (gid,) in prepared:
                session.execute(f"ROLLBACK PREPARED '{gid}'")
            session.execute(_CLEAN)


_CLEAN = """
SET lock_timeout = '10s';
DO $$DECLARE s name; BEGIN
    FOR s IN SELECT pubname FROM pg_publication LOOP EXECUTE format('DROP PUBLICATION %I', s); END LOOP;
    EXECUTE format('ALTER DATABASE %I RESET ALL', current_database());
    FOR s IN SELECT nspname FROM pg_namespace
              WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'differential_looks') LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', s);
    END LOOP;
    EXECUTE format('CREATE SCHEMA public AUTHORIZATION %I',
        (SELECT rolname FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba WHERE datname = current_database()));
END$$
"""


def _execute(session: psycopg.Connection[Any], step: Step) -> bool:
    try:
        with session.cursor() as cursor:
            _send(cursor, step)
    except psycopg.Error:
        if not session.closed:
            session.rollback()
        return False
    return True


def _send(cursor: Any, step: Step) -> None:
    if "copy" not in step.words:
        cursor.execute(step.sql, prepare=False)
        return
    command, _, data = step.sql.partition("STDIN\n")
    with cursor.copy(f"{command}STDIN") as copy:
        copy.write(f"{data}\n")


def _look(cursor: Any, *, sequences: bool) -> Image:
    rows = cursor.execute(f"SELECT l FROM {FUNCTION}({sequences}) l", prepare=False).fetchall()
    return parse(row[0] for row in rows)
