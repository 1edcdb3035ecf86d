"""One private PostgreSQL server for a user and an installation, shared by all processes that want it.

It starts with its first user and ends soon after its last. A kernel file lock is the count of users: every
process holds the file ``users.lock`` shared until it ends, however it ends, and no number can be wrong.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from testproject.embedded import locks
from testproject.embedded.binaries import CHOICE_VARIABLE, Installation, find_installation
from testproject.embedded.cluster import DATABASE, ROLE, SUPERUSER
from testproject.embedded.errors import ServerStartError
from testproject.embedded.folders import BASE_VARIABLE, Folders, folders_of, make_private

_ROOT = Path(__file__).resolve().parents[2]

# A unix socket's address has room for 108 bytes on Linux and 104 on a Mac, with a zero at the end.
_LONGEST_SOCKET = 107 if sys.platform == "linux" else 103

_START_SECONDS = 120


@dataclass(slots=True, kw_only=True)
class Server:
    """A handle on the server. Making one starts nothing; :meth:`ensure_running` does."""

    installation: Installation
    folders: Folders
    _users: int | None = field(default=None, init=False)
    _mutex: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def host(self) -> str:
        """The folder of the socket, which libpq takes as a host; known without a server."""
        return str(self.folders.socket)

    def ensure_running(self) -> bool:
        """Start the server unless it runs, and count this process among its users until it ends.

        Costs half a millisecond if it runs, a quarter of a second if it starts, one the first time ever.

        :return: whether it was this call that started it.
        :raises ServerStartError: it does not start; the message says why.
        :raises UnsafeFolderError: its folder could be tampered with by other users.
        """
        with self._mutex:
            self._check_socket_length()
            self._become_user()
            with locks.exclusive(self.folders.lock("start")):
                if self._is_up():
                    return False
                self._start()
                return True

    def dsn(self, dbname: str = DATABASE, user: str = ROLE) -> str:
        """Return a connection string for libpq. It starts nothing."""
        values = {"host": self.host, "port": "5432", "user": user, "dbname": dbname}
        return " ".join(f"{name}={_quoted(value)}" for name, value in values.items())

    def _become_user(self) -> None:
        make_private(self.folders.base)
        make_private(self.folders.home)
        path = self.folders.lock("users")
        if self._users is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._users), path.stat()):
                    return
            os.close(self._users)  # somebody removed the folder: the lock that counts is another file now
        self._users = locks.open_lock(path)
        locks.lock_shared(self._users)  # waits while a server is being ended
        os.utime(self._users)

    def _is_up(self) -> bool:
        """Say whether all is well; the caller holds the lock ``start``."""
        return (
            locks.is_held(self.folders.lock("supervisor"))
            and self.folders.ready.exists()
            and self.folders.is_listening()
        )

    def _start(self) -> None:
        supervisor_lock = locks.open_lock(self.folders.lock("supervisor"))
        try:
            # One whose server has been killed, or that was told to stop, is on its way out.
            if not locks.try_exclusive(supervisor_lock, seconds=30):
                raise ServerStartError(
                    f"The process that keeps the server in {self.folders.home} neither works nor ends. "
                    "End the process testproject.embedded.supervisor of this user, then try again."
                )
            if not self.folders.token.exists():
                unfinished = self.folders.token.with_suffix(".new")
                unfinished.write_text(secrets.token_hex(4))
                unfinished.rename(self.folders.token)
            with self.folders.log.open("wb") as log:
                report = self._spawn(supervisor_lock, log)
        finally:
            os.close(supervisor_lock)  # the supervisor holds it on
        if report != "ready":
            raise ServerStartError(
                report
                or f"The embedded PostgreSQL did not start. The end of its log, {self.folders.log}:\n"
                f"{self.folders.log_tail()}"
            )

    def _spawn(self, supervisor_lock: int, log: IO[bytes]) -> str:
        reader, writer = os.pipe()
        try:
            arguments = {
                "home": self.folders.home,
                "bin": self.installation.bin,
                "major": self.installation.major,
            }
            command = [sys.executable, "-m", "testproject.embedded.supervisor", f"--report-to={writer}"]
            command += [f"--{name}={value}" for name, value in arguments.items()]
            try:
                subprocess.run(
                    command,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=_ROOT,
                    env=_quiet_environment(),
                    pass_fds=[supervisor_lock, writer],
                    start_new_session=True,
                )
            finally:
                os.close(writer)
            return _read_all(reader)
        finally:
            os.close(reader)

    def _check_socket_length(self) -> None:
        path = str(self.folders.socket_file)
        if (length := len(os.fsencode(path))) > _LONGEST_SOCKET:
            raise ServerStartError(
                f"The path of the server's socket is too long, {length} bytes where {_LONGEST_SOCKET} fit: "
                f"{path}. Set {BASE_VARIABLE} to a folder with a shorter path, or unset it."
            )


def shared_server() -> Server:
    """Return the handle on the server that the environment chooses; one a process. It starts nothing.

    :raises PostgresChoiceError: ``TESTPROJECT_POSTGRES`` names what is not there.
    :raises NoPostgresError: there is no PostgreSQL.
    """
    return _shared_server(os.environ.get(CHOICE_VARIABLE), os.environ.get(BASE_VARIABLE))


def superuser_dsn(dbname: str = DATABASE) -> str:
    """Return a connection string for the superuser of the embedded server, which is started if need be.

    For what the ordinary role may not do, such as creating extensions and roles.

    :raises EmbeddedPostgresError: there is no server to be had.
    """
    server = shared_server()
    server.ensure_running()
    return server.dsn(dbname, SUPERUSER)


@functools.cache
def _shared_server(choice: str | None, base: str | None) -> Server:
    installation = find_installation(choice)
    return Server(installation=installation, folders=folders_of(installation, Path(base) if base else None))


def _read_all(reader: int) -> str:
    deadline = time.monotonic() + _START_SECONDS
    report = b""
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(reader, 4096)
        if not chunk:
            break
        report += chunk
    return report.decode(errors="replace")


def _quiet_environment() -> dict[str, str]:
    # The supervisor outlives this process, whose settings and coverage are no concern of it.
    strange = ("PG", "COV", "LC_", "LANG", "PYTEST", "DJANGO")
    return {name: value for name, value in os.environ.items() if not name.startswith(strange)}


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
