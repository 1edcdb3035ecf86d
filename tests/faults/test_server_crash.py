"""The server is killed with ``kill -9`` in the middle of a reset, and started again: a private server, not the shared one."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connections

from testdb_app.backends.base import Statement
from testdb_app.exceptions import ConnectionLostError
from testproject.embedded import ROLE, SUPERUSER, Server, folders_of, shared_server
from tests.embedded.processes import eventually, is_alive
from tests.faults.test_session_ended import Scissors, scissors  # noqa: F401 - a fixture
from tests.faults.victim import Victim
from tests.scratch import ScratchDatabase

pytestmark = pytest.mark.postgresql

SLEEP = Statement(sql="SELECT pg_sleep(60)")


class PrivateDatabase(ScratchDatabase):
    """A database on a server of its own."""

    def __init__(self, server: Server) -> None:
        super().__init__("private")
        self.server = server

    def create(self) -> None:
        with psycopg.connect(self.server.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {self.name}")
        engine = "django.db.backends.postgresql"  # not the one that starts the shared server
        self.register(self.alias, ENGINE=engine, HOST=self.server.host, PORT="5432", USER=ROLE, PASSWORD="")

    def drop(self) -> None:
        connections[self.alias].close()
        del connections[self.alias]
        del connections.settings[self.alias]

    def connect(self, **parameters: Any) -> Any:
        return psycopg.connect(self.server.dsn(self.name), autocommit=True, **parameters)

    def superuser(self) -> Any:
        return psycopg.connect(self.server.dsn(self.name, SUPERUSER), autocommit=True)

    def postmaster(self) -> int:
        """Return the process id of the server."""
        return int(self.server.folders.ready.read_text().split()[0])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of its own, in a folder with a short name."""
    if os.environ.get("DATABASE_URL"):
        pytest.skip("the server of DATABASE_URL is not ours to kill")
    base = Path(tempfile.mkdtemp(prefix="tpg-", dir="/tmp"))
    base.chmod(0o711)
    server = Server(installation=shared_server().installation, folders=folders_of(shared_server().installation, base))
    server.ensure_running()
    in_memory = server.folders.in_memory
    yield server
    shutil.rmtree(base, ignore_errors=True)  # a supervisor whose folder is gone ends its server
    assert eventually(lambda: not (in_memory / "data" / "postmaster.pid").exists())
    shutil.rmtree(in_memory, ignore_errors=True)


@pytest.fixture
def private(server: Server, django_db_blocker: Any) -> Iterator[PrivateDatabase]:
    """An empty database on that server."""
    database = PrivateDatabase(server)
    with django_db_blocker.unblock():
        server.ensure_running()
        database.create()
        yield database
        database.drop()


def kill_when_asleep(database: PrivateDatabase, what: str) -> None:
    """Kill the server, or only the session, as soon as the session sleeps that resets."""
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    while not (found := database.query(query)):
        time.sleep(0.02)
    postmaster, session = database.postmaster(), found[0][0]
    os.kill(postmaster if what == "server" else session, signal.SIGKILL)
    assert eventually(lambda: not is_alive(session))


def count_statements(victim: Victim, scissors: Scissors) -> int:  # noqa: F811
    victim.reset()
    victim.refill()
    return scissors.length


@pytest.mark.parametrize("what", ["server", "session"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 1.0], ids=["early", "middle", "late", "before COMMIT"])
@pytest.mark.parametrize("keeps", [False, True], ids=["one message", "several messages"])
def test_crash_of_the_server_leaves_all_as_it_was_and_the_next_reset_works(
    private: PrivateDatabase,
    scissors: Scissors,  # noqa: F811
    what: str,
    share: float,
    keeps: bool,
) -> None:
    victim = Victim(private, keeps=keeps)
    length = count_statements(victim, scissors)
    with private.superuser() as connection:
        # fsync is off: what the crash must find is written, as a server with fsync would have had it.
        connection.execute("CHECKPOINT")
    resetter = victim.resetter(lock_timeout=60)
    scissors.after, scissors.statement = round((length - 1) * share), SLEEP
    thread = threading.Thread(target=kill_when_asleep, args=(private, what))
    thread.start()
    with pytest.raises(ConnectionLostError):
        resetter.reset()
    thread.join()
    scissors.after = None
    assert eventually(lambda: is_running(private))
    assert victim.read() == victim.old
    resetter.reset()
    assert victim.read() == victim.new


def test_crash_just_after_a_reset_leaves_all_as_it_was_or_fully_reset(private: PrivateDatabase) -> None:
    victim = Victim(private, keeps=False)
    with private.superuser() as connection:
        connection.execute("CHECKPOINT")
    victim.reset()
    # Nothing waits for the commit to reach the disk: the server may forget it, but not half of it.
    os.kill(private.postmaster(), signal.SIGKILL)
    private.connection.close()
    assert eventually(lambda: is_running(private))
    state = victim.read()
    assert state in (victim.old, victim.new)
    victim.reset()
    assert victim.read() == victim.new


def is_running(database: PrivateDatabase) -> bool:
    """Start the server again unless it does so itself, and say whether it takes questions."""
    database.server.ensure_running()
    try:
        database.query("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
