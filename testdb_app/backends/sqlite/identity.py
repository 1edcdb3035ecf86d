"""Where a SQLite connection really leads, and the marks inside its file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testdb_app.backends.base import OWN_SCHEMA, DatabaseIdentity, FileName, Mark, is_same_file
from testdb_app.backends.sqlite.errors import execute, fetch
from testdb_app.backends.sqlite.snapshot import all_or_nothing, read_databases, snapshot
from testdb_app.backends.sqlite.sql import quote_literal

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

MARKS_PRESENT = f"""
SELECT name
FROM "main".sqlite_master
WHERE type = 'table'
AND name IN ('{OWN_SCHEMA}_protected', '{OWN_SCHEMA}_test')
"""

TEST_MARKS = f"""
SELECT *
FROM "main"."{OWN_SCHEMA}_test"
"""


def identify(connection: BaseDatabaseWrapper) -> DatabaseIdentity:
    """Ask the live connection where it leads. Reads only."""
    with snapshot(connection) as cursor:
        return read_identity(connection, cursor)


def read_identity(connection: BaseDatabaseWrapper, cursor: CursorWrapper) -> DatabaseIdentity:
    """Do as :func:`identify`, in the snapshot of *cursor*."""
    file = read_databases(connection, cursor)[0].file
    configured = str(connection.settings_dict["NAME"])
    version = getattr(connection, "Database").sqlite_version  # noqa: B009 - not declared by the base class
    marks, misfit = _read_marks(connection, cursor, file)
    return DatabaseIdentity(
        alias=connection.alias,
        vendor="sqlite",
        configured=configured,
        name=_live_name(configured, file),
        server=f"SQLite {version}, " + (f"file {file}" if file else "in memory"),
        file=file,
        in_memory=not file,
        is_read_only=bool(fetch(connection, cursor, "PRAGMA query_only")[0][0]) or _is_read_only(configured, file),
        marks=marks,
        misfit=misfit,
    )


def _live_name(configured: str, file: str) -> str:
    """The configured name where it means the live database, else the live one's path."""
    named = FileName.parse(configured)
    if not file:
        return configured if named.is_in_memory else ":memory:"
    if not named.is_in_memory and is_same_file(named.path, file):
        return configured
    return file


def _is_read_only(configured: str, file: str) -> bool:
    """Whether the file was opened, or can only be opened, for reading; no pragma tells. A write has the last word."""
    if not file:
        return False
    options = FileName.parse(configured).options
    immutable = options.get("immutable", "0") not in {"0", "no", "off", "false"}
    return options.get("mode") == "ro" or immutable or (Path(file).exists() and not os.access(file, os.W_OK))


def _read_marks(connection: BaseDatabaseWrapper, cursor: CursorWrapper, file: str) -> tuple[frozenset[Mark], str]:
    """Return the marks that hold for *file*, and why a test mark that is there does not."""
    present = {name for (name,) in fetch(connection, cursor, MARKS_PRESENT)}
    marks = {Mark.PROTECTED} if f"{OWN_SCHEMA}_protected" in present else set()
    misfit = ""
    if f"{OWN_SCHEMA}_test" in present:
        reasons = [_explain_misfit(row, file) for row in fetch(connection, cursor, TEST_MARKS)]
        if "" in reasons:
            marks.add(Mark.TEST)
        elif reasons:
            misfit = reasons[0]
    return frozenset(marks), misfit


def _explain_misfit(row: tuple[Any, ...], file: str) -> str:
    """Return why a mark does not hold for *file*; '' if it does."""
    path, inode = _binding_of(file)
    if len(row) == 1:
        return "its test mark is of an older format, which tells a file from its copies by the path alone"
    if row[0] != path:
        return f'its test mark was given to the file "{row[0]}": this one is a copy of that, or that one was moved'
    if row[1] != inode:
        return "its test mark was given to another file of this path: this one is a copy that was put in its place"
    return ""


def _binding_of(file: str) -> tuple[str, int]:
    """What a test mark is bound to: the path behind all links, and the inode.

    Not the number of the device: it is another one after a restart on some file systems and in each container.
    """
    if not file:
        return "", 0
    path = os.path.realpath(file)
    try:
        return path, Path(path).stat().st_ino & 0x7FFFFFFFFFFFFFFF  # SQLite's integers have a sign
    except OSError:
        return path, 0


def set_mark(
    connection: BaseDatabaseWrapper, mark: Mark, *, present: bool, identity: DatabaseIdentity | None = None
) -> None:
    """Put a mark inside the main database, or take it away. TEST holds for the file that it was given to."""
    table = f'"main"."{OWN_SCHEMA}_{mark.value}"'
    with all_or_nothing(connection, "testdb_mark") as cursor:
        execute(connection, cursor, f"DROP TABLE IF EXISTS {table}")
        if present:
            path, inode = _binding_of(read_databases(connection, cursor)[0].file)
            execute(connection, cursor, f"CREATE TABLE {table} (path TEXT NOT NULL, inode INTEGER NOT NULL)")
            execute(connection, cursor, f"INSERT INTO {table} VALUES ({quote_literal(path)}, {inode})")
