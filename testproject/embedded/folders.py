"""Where a server keeps its files, known from the user and the installation alone.

::

    /tmp/testproject-pg-UID/            the base; 0700, or 0711 for root (the server has another account then)
        18-1f0c9a/                      one server: major version, and which folder of binaries
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

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from testproject.embedded import locks
from testproject.embedded.errors import UnsafeFolderError

if TYPE_CHECKING:
    from testproject.embedded.binaries import Installation

BASE_VARIABLE = "TESTPROJECT_POSTGRES_BASE"

_MEMORY = Path("/dev/shm")
_ROOM = 1024**3
_WEEK_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """The paths of one server, all beneath :attr:`home` except the data in memory."""

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
    # Not $TMPDIR or $XDG_RUNTIME_DIR: they differ between two shells of one user, and on a Mac they are long.
    base = base or Path(os.environ.get(BASE_VARIABLE) or f"/tmp/testproject-pg-{os.geteuid()}")
    return Folders(home=base.absolute() / f"{installation.major}-{_short_hash(str(installation.bin))}")


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
        with contextlib.suppress(OSError), locks.opened(folder / "server.lock") as lock:
            if time.time() - os.fstat(lock).st_mtime > _WEEK_SECONDS and locks.try_exclusive(lock):
                shutil.rmtree(folder)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
