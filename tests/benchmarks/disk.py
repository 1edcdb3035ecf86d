"""A server of its own whose data are on a disk, with ``fsync`` on, as PostgreSQL comes."""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testproject.embedded import Folders, shared_server
from testproject.embedded.supervisor import Cluster, account_for_server, reachable

START_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class _OnDisk(Folders):
    """Folders whose data are never in memory."""

    def data(self) -> Path:
        return self.home / "data"


def is_in_memory(folder: Path) -> bool:
    """Whether the folder's file system is one in memory, as far as Linux tells (elsewhere there is none by default)."""
    return filesystem(folder) in {"tmpfs", "ramfs"}


def filesystem(folder: Path) -> str:
    """Return the type of the folder's file system; empty where nothing tells."""
    with contextlib.suppress(OSError):
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
        above = {str(parent) for parent in (folder.resolve(), *folder.resolve().parents)}
        return max(([where, kind] for where, kind in mounts if where in above), key=lambda mount: len(mount[0]))[1]
    return ""


@contextmanager
def own_server(folder: Path, **changes: str) -> Iterator[str]:
    """Make a cluster in the folder, run it for the block, and remove it; yield the folder of its socket.

    *changes* are settings of the server, besides its place.
    """
    base = Path(tempfile.mkdtemp(prefix="tpb-", dir=folder))
    base.chmod(0o711)  # root's server runs under another account
    account = account_for_server()
    folders = _OnDisk(home=base)
    installation = reachable(shared_server().installation, account, shared_server().folders.base)
    cluster = Cluster(installation=installation, folders=folders, account=account)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            data = cluster.prepare()
        with folders.log.open("wb") as log:
            # What the other server has, but for fsync and full_page_writes, which stay on.
            settings = {"listen_addresses": "", "port": "5432", "max_wal_size": "256MB", "timezone": "UTC", **changes}
            settings["unix_socket_directories"] = str(folders.socket)
            process = subprocess.Popen(
                [installation.program("postgres"), "-D", data]
                + [part for name, value in settings.items() for part in ("-c", f"{name}={value}")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                **account.identity(),
            )
        try:
            _wait_for(process, folders)
            yield str(folders.socket)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _wait_for(process: subprocess.Popen[bytes], folders: Folders) -> None:
    status = folders.data() / "postmaster.pid"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            if status.read_text().splitlines()[7].strip() == "ready":
                return
        time.sleep(0.05)
    raise RuntimeError(f"The server on the disk does not start. The end of its log:\n{folders.log_tail()}")
