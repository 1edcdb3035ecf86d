"""The server ends the session: between any two statements, before a reset, and while it waits."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

import pytest

from testdb_app.backends.base import Script, Statement
from testdb_app.backends.postgresql.backend import PostgreSQLBackend
from testdb_app.exceptions import ConnectionLostError
from tests.faults.victim import Victim

END = Statement(sql="SELECT pg_terminate_backend(pg_backend_pid())")


class Scissors:
    """Cuts scripts: puts a statement of its own after so many of the script's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.after: int | None = None
        self.statement = END
        self.length = 0
        write = PostgreSQLBackend.write_sql

        def script(*args: Any, **options: Any) -> Script:
            return self.cut(write(*args, **options))

        monkeypatch.setattr(PostgreSQLBackend, "write_sql", script)

    def cut(self, script: Script) -> Script:
        self.length = len(script.statements)
        if self.after is None:
            return script
        parts, done = {}, 0
        for name in ("opening", "body", "closing"):
            part = list(getattr(script, name))
            place = self.after - done
            if 0 <= place < len(part) or (name == "closing" and place == len(part)):
                part.insert(place, self.statement)
            done += len(getattr(script, name))
            parts[name] = tuple(part)
        return dataclasses.replace(script, **parts)


@pytest.fixture
def scissors(monkeypatch: pytest.MonkeyPatch) -> Scissors:
    return Scissors(monkeypatch)


def test_session_ended_after_any_statement_leaves_all_as_it_was_and_the_next_reset_works(
    victim: Victim, scissors: Scissors
) -> None:
    victim.reset()
    victim.refill()
    length = scissors.length
    assert length > 20
    for after in range(length + 1):
        resetter = victim.resetter()
        scissors.after = after
        with pytest.raises(ConnectionLostError):
            resetter.reset()
        scissors.after = None
        # After the last statement, COMMIT, only the answer was lost.
        expected = victim.old if after < length else victim.new
        assert victim.read() == expected, after
        # The same resetter, over the same Django connection.
        resetter.reset()
        assert victim.read() == victim.new
        victim.refill()


def test_statement_that_fails_anywhere_leaves_all_as_it_was_and_the_connection_usable(
    victim: Victim, scissors: Scissors
) -> None:
    from testdb_app.exceptions import ResetError

    victim.reset()
    victim.refill()
    for after in range(scissors.length):
        resetter = victim.resetter()
        scissors.after, scissors.statement = after, Statement(sql="SELECT 1 / 0")
        with pytest.raises(ResetError, match="division by zero"):
            resetter.reset()
        scissors.after = None
        pid = victim.database.connection.connection.info.backend_pid
        victim.check_whole(allowed="old")
        assert victim.database.connection.connection.info.backend_pid == pid


def test_session_that_was_ended_between_two_resets_is_made_anew(victim: Victim) -> None:
    resetter = victim.resetter()
    resetter.reset()
    victim.refill()
    with victim.database.connect() as other:
        pid = victim.database.connection.connection.info.backend_pid
        other.execute("SELECT pg_terminate_backend(%s)", [pid])
        while other.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() != (0,):
            time.sleep(0.01)
    resetter.reset()
    assert victim.read() == victim.new


def test_session_ended_while_it_waits_for_a_lock_leaves_all_as_it_was(victim: Victim) -> None:
    resetter = victim.resetter(lock_timeout=60)
    connection = victim.database.connection
    connection.ensure_connection()
    pid = connection.connection.info.backend_pid
    with victim.database.connect() as blocker, victim.database.connect() as killer, blocker.transaction():
        blocker.execute("LOCK TABLE city IN ROW EXCLUSIVE MODE")
        thread = threading.Thread(target=end_when_waiting, args=(killer, pid))
        thread.start()
        with pytest.raises(ConnectionLostError):
            resetter.reset()
        thread.join()
    victim.check_whole(allowed="old")


def end_when_waiting(killer: Any, pid: int) -> None:
    while killer.execute("SELECT cardinality(pg_blocking_pids(%s))", [pid]).fetchone() == (0,):
        time.sleep(0.01)
    killer.execute("SELECT pg_terminate_backend(%s)", [pid])
