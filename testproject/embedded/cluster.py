"""Make the data of a server: a cluster, as PostgreSQL calls it, with a role and a database."""

from __future__ import annotations

import contextlib
import locale
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from testproject.embedded.errors import ServerStartError
from testproject.embedded.folders import Folders, make_private

if TYPE_CHECKING:
    from testproject.embedded.account import Account
    from testproject.embedded.binaries import Installation

SUPERUSER = "postgres"
ROLE = DATABASE = "testproject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A data folder, the programs that serve it, and the account they run under."""

    installation: Installation
    folders: Folders
    account: Account

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
        done = subprocess.run(
            [self.installation.program(program), *arguments],
            input=feed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            check=False,
            **self.account.identity(),
        )
        print(done.stdout, flush=True)
        if done.returncode != 0:
            raise ServerStartError(
                f"{self.installation.program(program)} failed (exit status {done.returncode}):\n{done.stdout.strip()}"
            )


def _utf8_locale() -> str:
    # C.UTF-8 came to the Mac late. Its encoding matters only to the C library; the database's is UTF8 anyway.
    for name in ("C.UTF-8", "C"):
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_COLLATE, name)
            return name
    raise AssertionError("every system has the locale C")
