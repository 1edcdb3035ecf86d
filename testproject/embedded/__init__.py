"""An embedded PostgreSQL for the test project and the tests: nothing to install, nothing left running.

Here is what its users hold: one private server for a user and an installation, shared by all processes that want it.
It starts with its first user and ends soon after its last. :mod:`binaries <testproject.embedded.binaries>` finds the programs,
:mod:`supervisor <testproject.embedded.supervisor>` is the process that runs the server, and
:mod:`base <testproject.embedded.base>` is the database engine for Django's settings.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import secrets
import select
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from testproject.embedded.binaries import (
    CHOICE_VARIABLE,
    EmbeddedPostgresError,
    Installation,
    NoPostgresError,
    PostgresChoiceError,
    find_installation,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "EmbeddedPostgresError",
    "NoPostgresError",
    "PostgresChoiceError",
    "Server",
    "ServerStartError",
    "UnsafeFolderError",
    "kept_folders",
    "shared_server",
    "superuser_dsn",
]

SUPERUSER = "postgres"
ROLE = DATABASE = "testproject"

BASE_VARIABLE = "TESTPROJECT_POSTGRES_BASE"

_ROOT = Path(__file__).resolve().parents[2]

# A unix socket's address has room for 108 bytes on Linux and 104 on a Mac, with a zero at the end.
_LONGEST_SOCKET = 107 if sys.platform == "linux" else 103

_START_SECONDS = 120


class UnsafeFolderError(EmbeddedPostgresError):
    """A folder of ours belongs to another user, or others may write to it."""


class ServerStartError(EmbeddedPostgresError):
    """PostgreSQL was found and did not start."""


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


@dataclass(slots=True, kw_only=True)
class Server:
    """A handle on the server. Making one starts nothing; :meth:`ensure_running` does.

    A kernel file lock is the count of users: every process holds the file ``users.lock`` shared until it ends, however it
    ends, and no number can be wrong.
    """

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
            with opened_lock(self.folders.lock("start")) as start:
                fcntl.flock(start, fcntl.LOCK_EX)
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
        self._users = open_lock(path)
        fcntl.flock(self._users, fcntl.LOCK_SH)  # waits while a server is being ended
        os.utime(self._users)

    def _is_up(self) -> bool:
        """Say whether all is well; the caller holds the lock ``start``."""
        return is_held(self.folders.lock("supervisor")) and self.folders.ready.exists() and self.folders.is_listening()

    def _start(self) -> None:
        supervisor_lock = open_lock(self.folders.lock("supervisor"))
        try:
            # One whose server has been killed, or that was told to stop, is on its way out.
            if not try_exclusive(supervisor_lock, seconds=30):
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
            arguments = [self.folders.home, self.installation.bin, self.installation.major, writer]
            try:
                subprocess.run(
                    [sys.executable, "-m", "testproject.embedded.supervisor", *map(str, arguments)],
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


_MEMORY = Path("/dev/shm")
_ROOM = 1024**3
_WEEK_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where a server keeps its files, known from the user and the installation alone.

    ::

        /tmp/testproject-pg-UID/            the base; 0700, or 0711 for root (the server has another account then)
            18-1f0c9a/                      home: of one server, by its major version and its folder of binaries
                users.lock  start.lock  supervisor.lock
                token                       the name of the data in memory
                ready       log             written by the supervisor
                socket/                     0700, of the account that the server runs under
                data/       server.lock     if there is no room in memory
            binaries-1f0c9a/                a copy, only where the server's account could not read the original
        /dev/shm/testproject-pg-UID-TOKEN/  the data, if more than 1 GiB was free there when they were made
            data/           server.lock     held by the server's processes, so that nobody else touches the data

    The path does not depend on how much memory is free: all processes meet in one place whenever they look.
    ``trust`` is safe because the folder of the socket is closed to everybody else.
    """

    home: Path

    @property
    def base(self) -> Path:
        """Folder of all servers of this user."""
        return self.home.parent

    @property
    def socket(self) -> Path:
        """Folder of the unix socket: the HOST to connect to."""
        return self.home / "socket"

    @property
    def socket_file(self) -> Path:
        """The socket itself."""
        return self.socket / ".s.PGSQL.5432"

    @property
    def log(self) -> Path:
        """What the supervisor and the server said since the last start."""
        return self.home / "log"

    @property
    def ready(self) -> Path:
        """It is there while the server takes connections, with its process number and the supervisor's."""
        return self.home / "ready"

    @property
    def token(self) -> Path:
        """A file with a random name for the data in memory, which other folders of this path do not have."""
        return self.home / "token"

    @property
    def in_memory(self) -> Path:
        """Folder of the data when it is kept in memory. It can be asked for once there is a token."""
        return _MEMORY / f"testproject-pg-{os.geteuid()}-{self.token.read_text()}"

    def lock(self, name: str) -> Path:
        """Return one of the lock files."""
        return self.home / f"{name}.lock"

    def data(self) -> Path:
        """Return the folder of the data: where it is already, else in memory if there is room."""
        here, there = self.home / "data", self.in_memory / "data"
        for existing in (there, here):
            if existing.exists():
                return existing
        with contextlib.suppress(OSError):
            if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM:
                return there
        return here

    def is_listening(self) -> bool:
        """Say whether a server takes connections at the socket."""
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket_file))
            except OSError:
                return False
        return True

    def log_tail(self, lines: int = 12) -> str:
        """Return the last lines of the log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return "(there is no log)"


def folders_of(installation: Installation, base: Path | None = None) -> Folders:
    """Return the paths for an installation; nothing is made.

    :param base: the folder to be in; else ``TESTPROJECT_POSTGRES_BASE`` says, else it is in ``/tmp``.
    """
    hashed = hashlib.sha256(str(installation.bin).encode()).hexdigest()[:8]
    return Folders(home=(base or _default_base()).absolute() / f"{installation.major}-{hashed}")


def kept_folders() -> list[Path]:
    """Return the folders that the servers of this user and base have left: the base, and the data of each in memory."""
    base = _default_base().absolute()
    homes = [Folders(home=token.parent) for token in sorted(base.glob("*/token"))]
    return [folder for folder in (base, *(home.in_memory for home in homes)) if folder.exists()]


def _default_base() -> Path:
    # Not $TMPDIR or $XDG_RUNTIME_DIR: they differ between two shells of one user, and on a Mac they are long.
    return Path(os.environ.get(BASE_VARIABLE) or f"/tmp/testproject-pg-{os.geteuid()}")


def make_private(folder: Path) -> None:
    """Make a folder that nobody else can write to, or check that it is one.

    Root's stay passable, because its server runs under another account.

    :raises UnsafeFolderError: it belongs to another user, is a link, or others may write to it.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        pass
    else:
        folder.chmod(0o711 if os.geteuid() == 0 else 0o700)  # the umask may have been stricter
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise UnsafeFolderError(
            f"The folder {folder} is not safe to keep a server in: it is a link, belongs to another user, "
            f"or others may write to it. Remove it, or set {BASE_VARIABLE} to a folder of your own."
        )


def remove_unused() -> None:
    """Remove data of this user from memory that no server has used for a week.

    Nothing but time and the lock beside the data says so: their server's folder may be out of sight and alive all the
    same, in a container with the same memory.
    """
    for folder in _MEMORY.glob(f"testproject-pg-{os.geteuid()}-*"):
        with contextlib.suppress(OSError), opened_lock(folder / "server.lock") as lock:
            if time.time() - os.fstat(lock).st_mtime > _WEEK_SECONDS and try_exclusive(lock):
                shutil.rmtree(folder)


# Kernel file locks end with the process that holds them, however that ends. ``flock`` belongs to the *open file*: a forked
# child and a program that is handed the descriptor hold it too, and a program started otherwise does not, because Python
# opens files close-on-exec.
def open_lock(path: Path) -> int:
    """Open (or create) a lock file and return its descriptor; nothing is locked yet."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_exclusive(descriptor: int, *, seconds: float = 0.0) -> bool:
    """Try for ``seconds`` to get an exclusive lock; say whether it was got."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def is_held(path: Path) -> bool:
    """Say whether anybody holds the lock exclusively.

    The look itself takes the lock for a moment, so look only where nobody else may be trying at that time.
    """
    with opened_lock(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def opened_lock(path: Path) -> Iterator[int]:
    """Open a lock file for the block; what is locked in it is free after it."""
    descriptor = open_lock(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
