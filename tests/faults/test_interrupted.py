"""Ctrl-C while a reset waits for a lock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.faults.victim import Victim

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def blocked(victim: Victim) -> Iterator[None]:
    """Hold a lock that a reset has to wait for: it has begun its transaction and changed nothing yet."""
    with victim.database.connect() as blocker, blocker.transaction():
        blocker.execute("LOCK TABLE region IN ROW EXCLUSIVE MODE")
        yield


def wait_until_blocked(victim: Victim) -> int:
    """Return the process id of the session that waits for a lock, as soon as there is one."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
        "AND backend_type = 'client backend'"
    )
    deadline = time.monotonic() + 20
    while not (found := victim.database.query(query)):
        assert time.monotonic() < deadline, "nobody waits for the lock"
        time.sleep(0.02)
    return int(found[0][0])


def test_ctrl_c_while_waiting_undoes_the_reset_and_leaves_the_connection_usable(victim: Victim) -> None:
    resetter = victim.resetter(lock_timeout=60)
    connection = victim.database.connection
    connection.ensure_connection()
    pid = connection.connection.info.backend_pid

    def interrupt() -> None:
        wait_until_blocked(victim)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with blocked(victim):
        thread.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            resetter.reset()
        thread.join()
        assert time.monotonic() - started < 10
        # At once, while the lock is still held by the other: no transaction, no lock of ours.
        locks = victim.database.value(f"SELECT count(*) FROM pg_locks WHERE pid = {pid} AND locktype = 'relation'")
        assert locks == 0
        assert victim.read() == victim.old
    # The driver's request to cancel may reach the server late, and end the next statement.
    assert connection.is_usable() or connection.is_usable()
    assert connection.connection.info.backend_pid == pid
    resetter.reset()
    assert victim.read() == victim.new


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_resetdb_that_is_interrupted_leaves_nothing_half_done(victim: Victim, number: signal.Signals) -> None:
    with victim.database.connect() as connection:
        info = connection.info
        url = (
            f"postgres://{quote(info.user)}:{quote(info.password)}@{quote(info.host, safe='')}:{info.port}"
            f"/{victim.database.name}"
        )
    with blocked(victim):
        process = subprocess.Popen(
            [
                *(sys.executable, "manage.py", "resetdb", "--no-input", "--lock-timeout=60"),
                *(f"--allow-database={victim.database.name}", "--format=json"),
                *(f"--exclude={name}" for name in victim.exclude),
            ],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until_blocked(victim)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert out == ""
    if number is signal.SIGINT:
        assert process.returncode == 130
        assert "Interrupted" in err
    else:
        assert process.returncode == -signal.SIGTERM
    victim.wait_until_alone(70)
    # SIGTERM gives Python no time to tell the server, which had all of the message and goes on when the lock is free.
    victim.check_whole(allowed="old" if number is signal.SIGINT else "old or new")


def test_resetdb_that_is_not_interrupted_goes_on_when_the_lock_is_free(victim: Victim) -> None:
    with blocked(victim):
        process = subprocess.Popen(
            [sys.executable, "-c", _RESET, victim.database.name, json.dumps(victim.exclude)], cwd=ROOT
        )
        wait_until_blocked(victim)
    assert process.wait(20) == 0
    assert victim.read() == victim.new


_RESET = """
import json, os, sys, django
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
django.setup()
from django.db import connections
from testdb_app.resetter import Resetter
connections.settings["default"]["NAME"] = sys.argv[1]
Resetter(allow_database=sys.argv[1], exclude=json.loads(sys.argv[2]), lock_timeout=30).reset()
"""
