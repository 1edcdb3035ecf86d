"""The process that keeps one server while anybody uses it, and ends it soon after.

It is started by :mod:`testproject.embedded.server` in a session of its own, so that neither Ctrl-C in a
terminal nor the end of that terminal reaches it or the server. It has the lock ``supervisor`` from its first
moment on: whoever started it handed it the locked file. Users hold ``users`` shared; when this process gets
it exclusively, there are none.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from testproject.embedded import locks
from testproject.embedded.account import account_for_server, reachable
from testproject.embedded.binaries import Installation
from testproject.embedded.cluster import Cluster
from testproject.embedded.errors import EmbeddedPostgresError
from testproject.embedded.folders import Folders, remove_unused
from testproject.embedded.postmaster import Postmaster

LINGER_SECONDS = 2.0
"""How long a server outlives its last user: time for the next command of a script to come."""

_TICK_SECONDS = 0.2


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """Start a server, tell the starter, keep it, end it."""

    installation: Installation
    folders: Folders
    told_to_stop: bool = field(default=False, init=False)
    _unused_since: float | None = field(default=None, init=False)
    _touched: float = field(default=0.0, init=False)

    def run(self, report_to: int) -> None:
        """Do all of it, and write to ``report_to`` as soon as the server is up or has failed."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)
        self.folders.ready.unlink(missing_ok=True)
        in_memory = self.folders.in_memory
        try:
            remove_unused()
            account = account_for_server()
            installation = reachable(self.installation, account, self.folders.base)
            cluster = Cluster(installation=installation, folders=self.folders, account=account)
            server = Postmaster(cluster=cluster)
            process = server.start()
        except (EmbeddedPostgresError, OSError) as error:
            os.write(report_to, f"{error}".encode())
            raise
        identity = f"{process.pid} {os.getpid()}"
        self.folders.ready.write_text(identity)
        os.write(report_to, b"ready")
        os.close(report_to)
        users = locks.open_lock(self.folders.lock("users"))
        try:
            while not self.told_to_stop and process.poll() is None and self._is_wanted(users):
                time.sleep(_TICK_SECONDS)
        finally:
            self._say_that_it_ends(identity)
            server.stop(process)
            if not self._has_data_in(in_memory):
                shutil.rmtree(in_memory, ignore_errors=True)

    def _say_that_it_ends(self, identity: str) -> None:
        # The folder may have been removed, and made again by another server.
        with contextlib.suppress(FileNotFoundError):
            if self.folders.ready.read_text() == identity:
                self.folders.ready.unlink()

    def _has_data_in(self, in_memory: Path) -> bool:
        """Say whether the next server finds the data there; not if the folder has been removed."""
        with contextlib.suppress(FileNotFoundError):
            return self.folders.in_memory == in_memory
        return False

    def _is_wanted(self, users: int) -> bool:
        """Say whether to go on. After a no, nobody can become a user until this process has ended."""
        try:
            is_same = os.path.samestat(os.fstat(users), self.folders.lock("users").stat())
        except FileNotFoundError:
            is_same = False
        if not is_same or not self.folders.socket_file.exists():
            return False  # somebody removed the folder, and the next user cannot find this server
        if not locks.try_exclusive(users):
            self._unused_since = None
            return True
        # A new user touches the file, so that one who came and went between two looks is noticed.
        touched = os.fstat(users).st_mtime
        if self._unused_since is None or touched != self._touched:
            self._unused_since, self._touched = time.monotonic(), touched
        if time.monotonic() - self._unused_since >= LINGER_SECONDS:
            return False
        locks.unlock(users)
        return True

    def _note(self, *_: object) -> None:
        self.told_to_stop = True


def main() -> None:
    """Read the arguments, leave the caller, and keep the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--major", type=int, required=True)
    parser.add_argument("--report-to", type=int, required=True)
    arguments = parser.parse_args()
    # The caller waits for this process and never has to reap the next one.
    if os.fork():
        os._exit(0)
    os.chdir("/")
    supervisor = Supervisor(
        installation=Installation(bin=arguments.bin, major=arguments.major),
        folders=Folders(home=arguments.home),
    )
    supervisor.run(arguments.report_to)


if __name__ == "__main__":
    main()
