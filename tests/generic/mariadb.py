"""A MariaDB server of a test run's own, on a socket in a temporary folder; it ends with the run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
_SERVER = shutil.which("mariadbd", path=_PATH)
_INSTALLER = shutil.which("mariadb-install-db", path=_PATH)
_ACCOUNT = "mysql"
_SECONDS = 60


def find_obstacle() -> str | None:
    """Return why no server can be used here; None if one can."""
    if _SERVER is None or _INSTALLER is None:
        return "MariaDB is not installed (apt-get install mariadb-server)"
    if not any(map(importlib.util.find_spec, ("MySQLdb", "pymysql"))):
        return "there is no driver for MariaDB (pip install pymysql)"
    return None


@contextmanager
def running_server() -> Iterator[Path]:
    """Start a server and yield its socket. The account root has no password there."""
    assert _SERVER is not None
    assert _INSTALLER is not None
    # The folders of pytest are closed to the account of the server, and too long for a socket.
    folder = Path(tempfile.mkdtemp(prefix="testdb-mariadb-"))
    try:
        common = ["--no-defaults", f"--datadir={folder / 'data'}", "--innodb-log-file-size=8M"]
        if os.geteuid() == 0:
            shutil.chown(folder, _ACCOUNT)
            common.append(f"--user={_ACCOUNT}")
        options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        made = subprocess.run([_INSTALLER, *common, *options], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        socket = folder / "socket"
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [_SERVER, *common, f"--socket={socket}", "--skip-networking", f"--pid-file={folder / 'pid'}",
                 "--innodb-flush-log-at-trx-commit=0"],
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            deadline = time.monotonic() + _SECONDS
            while not socket.exists():
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
            yield socket
        finally:
            server.terminate()
            server.wait(_SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
