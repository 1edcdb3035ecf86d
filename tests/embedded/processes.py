"""Processes for the tests to start and to kill: users of a server, and commands of the test project."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]

_USER = """
import psycopg, sys
from testproject.embedded import shared_server
server = shared_server()
started = server.ensure_running()
with psycopg.connect(server.dsn()) as connection:
    (since,) = connection.execute("SELECT pg_postmaster_start_time()::text").fetchone()
print(started, since, sep="|", flush=True)
sys.stdin.read()
"""


class User:
    """A process that uses the server until it is told to go."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _USER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.started = False
        self.since = ""

    def wait_until_connected(self) -> User:
        """Wait until the process has said which server it is connected to."""
        assert self.process.stdout is not None
        started, self.since = self.process.stdout.readline().strip().split("|")
        self.started = started == "True"
        return self

    def leave(self) -> None:
        """Let the process end by itself."""
        self.process.communicate()

    def kill(self, number: int) -> None:
        """End the process with a signal."""
        self.process.send_signal(number)
        self.process.communicate()


@contextlib.contextmanager
def users(count: int = 1) -> Iterator[list[User]]:
    """Start that many users at once, and end them with the block."""
    started = [User() for _ in range(count)]
    try:
        yield [user.wait_until_connected() for user in started]
    finally:
        for user in started:
            user.process.kill()
            user.process.communicate()


def run_python(*arguments: str, stdin: str = "", **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository; a variable that is None is unset."""
    variables = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in variables.items() if value is not None},
    )


def is_alive(pid: int) -> bool:
    """Say whether a process runs; a dead one that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Say whether a condition came true within that time, which is long: a machine with other work is no failure."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
