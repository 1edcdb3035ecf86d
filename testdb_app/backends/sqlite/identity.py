"""Where a SQLite connection really leads, and the marks inside its file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

from testdb_app.backends.base import OWN_SCHEMA, DatabaseIdentity, Mark
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

TEST_PATHS = f"""
SELECT path
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
    return DatabaseIdentity(
        alias=connection.alias,
        vendor="sqlite",
        configured=configured,
        name=_live_name(configured, file),
        server=f"SQLite {version}, " + (f"file {file}" if file else "in memory"),
        in_memory=not file,
        is_read_only=bool(fetch(connection, cursor, "PRAGMA query_only")[0][0]) or _is_read_only(configured, file),
        marks=_read_marks(connection, cursor, file),
    )


def _live_name(configured: str, file: str) -> str:
    """The configured name where it means the live database, else the live one's path."""
    path, options = _read_name(configured)
    if not file:
        in_memory = path in {"", ":memory:"} or options.get("mode") == ["memory"] or options.get("vfs") == ["memdb"]
        return configured if in_memory else ":memory:"
    if path and path != ":memory:" and _is_same_file(path, file):
        return configured
    return file


def _read_name(configured: str) -> tuple[str, dict[str, list[str]]]:
    """Return the path and the options of a name, which may be a URI (https://www.sqlite.org/uri.html)."""
    if not configured.startswith("file:"):
        return configured, {}
    path, _, query = configured.removeprefix("file:").partition("#")[0].partition("?")
    if path.startswith("//"):
        path = "/" + path[2:].partition("/")[2]
    return unquote(path), parse_qs(query)


def _is_same_file(path: str, file: str) -> bool:
    try:
        return Path(path).samefile(file)
    except OSError:
        return os.path.realpath(path) == os.path.realpath(file)


def _is_read_only(configured: str, file: str) -> bool:
    """Whether the file was opened, or can only be opened, for reading; no pragma tells. A write has the last word."""
    if not file:
        return False
    _, options = _read_name(configured)
    immutable = options.get("immutable", ["0"])[0] not in {"0", "no", "off", "false"}
    return options.get("mode") == ["ro"] or immutable or (Path(file).exists() and not os.access(file, os.W_OK))


def _read_marks(connection: BaseDatabaseWrapper, cursor: CursorWrapper, file: str) -> frozenset[Mark]:
    present = {name for (name,) in fetch(connection, cursor, MARKS_PRESENT)}
    marks = set()
    if f"{OWN_SCHEMA}_protected" in present:
        marks.add(Mark.PROTECTED)
    if f"{OWN_SCHEMA}_test" in present and (_mark_of(file),) in fetch(connection, cursor, TEST_PATHS):
        marks.add(Mark.TEST)
    return frozenset(marks)


def _mark_of(file: str) -> str:
    return os.path.realpath(file) if file else ""


def set_mark(connection: BaseDatabaseWrapper, mark: Mark, *, present: bool) -> None:
    """Put a mark inside the main database, or take it away. TEST holds for the path it was given to."""
    table = f'"main"."{OWN_SCHEMA}_{mark.value}"'
    with all_or_nothing(connection, "testdb_mark") as cursor:
        execute(connection, cursor, f"DROP TABLE IF EXISTS {table}")
        if present:
            path = _mark_of(read_databases(connection, cursor)[0].file)
            execute(connection, cursor, f"CREATE TABLE {table} (path TEXT NOT NULL)")
            execute(connection, cursor, f"INSERT INTO {table} VALUES ({quote_literal(path)})")
