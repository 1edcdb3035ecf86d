"""Run the server of a cluster: start it, end it, and end one that was left alone. For the supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testproject.embedded import locks
from testproject.embedded.errors import ServerStartError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from testproject.embedded.cluster import Cluster

_START_SECONDS = 30
_LEFTOVER_SECONDS = 10

# Data need not survive a crash of the machine. They survive one of the server: synchronous_commit stays on.
# Two-phase commit is on for tests of it. Else the server is as it comes: what is tested here holds elsewhere.
_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "256MB",
    "max_prepared_transactions": "10",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Postmaster:
    """The server process of a cluster; its caller sees to it that there is one at a time."""

    cluster: Cluster

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server and wait until it takes connections; data that it cannot use are made anew.

        :raises ServerStartError: it does not come up; the message has the end of the log.
        """
        server_lock = locks.open_lock(self.cluster.place() / "server.lock")
        try:
            os.utime(server_lock)  # in use today: see remove_unused()
            self._end_leftover(server_lock)
            data = self.cluster.prepare()
            postmaster = self._launch(data, server_lock)
            if postmaster is None:
                print(f"The server did not come up on {data}: it is made anew.", flush=True)
                shutil.rmtree(data)
                postmaster = self._launch(self.cluster.prepare(), server_lock)
        finally:
            os.close(server_lock)  # the server and all its children hold it on
        if postmaster is None:
            installation, folders = self.cluster.installation, self.cluster.folders
            raise ServerStartError(
                f"PostgreSQL {installation.major} ({installation.bin}) does not start. "
                f"The end of its log, {folders.log}:\n{folders.log_tail()}"
            )
        return postmaster

    def stop(self, postmaster: subprocess.Popen[bytes]) -> None:
        """End the server: fast, then at once, then by force."""
        for number, seconds in ((signal.SIGINT, 10), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
            postmaster.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                postmaster.wait(seconds)
                return

    def _launch(self, data: Path, server_lock: int) -> subprocess.Popen[bytes] | None:
        settings = {**_SETTINGS, "unix_socket_directories": str(self.cluster.folders.socket)}
        command = [str(self.cluster.installation.program("postgres")), "-D", str(data)]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        postmaster = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            cwd="/",
            pass_fds=[server_lock],
            preexec_fn=_end_with_parent(),  # noqa: PLW1509 - the supervisor has one thread
            **self.cluster.account.identity(),
        )
        deadline = time.monotonic() + _START_SECONDS
        while postmaster.poll() is None and time.monotonic() < deadline:
            if _is_ready(data, postmaster.pid):
                return postmaster
            time.sleep(0.02)
        if postmaster.poll() is None:
            self.stop(postmaster)
        return None

    def _end_leftover(self, server_lock: int) -> None:
        """End a server whose supervisor was killed: nobody would ever end it."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if locks.try_exclusive(server_lock, seconds=0.1):
                return
            # Only a postmaster listens, so if one answers, the number in its file is its own.
            if self.cluster.folders.is_listening():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    os.kill(int(_status(self.cluster.folders.data())[0]), number)
            if locks.try_exclusive(server_lock, seconds=_LEFTOVER_SECONDS):
                return
        raise ServerStartError(
            f"Processes of an earlier server in {self.cluster.folders.home} do not end. "
            "End the processes called postgres of this user, then try again."
        )


def _status(data: Path) -> list[str]:
    # The first line is the process, the eighth its state; pg_ctl looks at the same place.
    return (data / "postmaster.pid").read_text().splitlines()


def _is_ready(data: Path, pid: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        lines = _status(data)
        return lines[0] == str(pid) and lines[7].strip() == "ready"  # not the file of one that was killed
    return False


def _end_with_parent() -> Callable[[], None] | None:
    """Return what makes Linux end a server whose supervisor is killed; elsewhere the next start does."""
    if sys.platform != "linux":
        return None
    library, supervisor = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        library.prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG; SIGINT is PostgreSQL's fast shutdown
        if os.getppid() != supervisor:
            os._exit(1)

    return ask
