"""Statements on a SQLite connection: errors by code, read snapshots, pragmas that are put back."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from django.db import Error

from testdb_app.exceptions import ConnectionLostError, LockTimeoutError, ReadOnlyError, ResetError, TestDBError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

_PAUSE = 0.01
"""Seconds between two attempts at a lock of a shared cache."""


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Whether SQLite has a transaction open on the connection, whoever began it."""
    refuse_to_make(connection)
    try:
        connection.ensure_connection()
        with connection.wrap_database_errors:
            return bool(connection.connection.in_transaction)
    except Error as error:
        raise translate(error, connection, "opening the connection") from error


def refuse_to_make(connection: BaseDatabaseWrapper) -> None:
    """Raise :class:`ConnectionLostError` if opening *connection* would create its file: a reset needs an existing one."""
    name = str(connection.settings_dict["NAME"])
    if connection.connection is not None or ":memory:" in name or "mode=memory" in name or not name:
        return
    path = Path(unquote(urlsplit(name).path) if name.startswith("file:") else name)
    if not path.exists():
        raise ConnectionLostError(
            f'There is no database "{path}" (alias "{connection.alias}"). '
            f'`manage.py migrate --database {connection.alias}` makes it; or check DATABASES["{connection.alias}"].'
        )


def describe_database(connection: BaseDatabaseWrapper) -> str:
    """Return the name of the database in messages."""
    return f'database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}")'


def execute(connection: BaseDatabaseWrapper, cursor: CursorWrapper, sql: str) -> None:
    """Execute one statement, and wait for a shared cache's locks as long as ``busy_timeout``.

    SQLite does not call its own busy handler for those (https://www.sqlite.org/sharedcache.html). Raises the error of
    :mod:`testdb_app.exceptions` that fits, chained to the database's own.
    """
    deadline: float | None = None
    while True:
        try:
            cursor.execute(sql)
        except Error as error:
            if _error_name(error) == "SQLITE_LOCKED_SHAREDCACHE":
                now = time.monotonic()
                if deadline is None:
                    deadline = now + _busy_timeout(connection)
                if now < deadline:
                    time.sleep(_PAUSE)
                    continue
            raise translate(error, connection, sql) from error
        return


def fetch(connection: BaseDatabaseWrapper, cursor: CursorWrapper, sql: str) -> list[Any]:
    """Execute one query and return its rows."""
    execute(connection, cursor, sql)
    rows: list[Any] = cursor.fetchall()
    return rows


def insist(clean_up: Callable[[], object]) -> None:
    """Run *clean_up*, and once more if it is interrupted: half done, it would leave a lock or a setting behind."""
    try:
        clean_up()
    except BaseException:
        clean_up()
        raise


def roll_back(cursor: CursorWrapper, statements: Iterable[str]) -> None:
    """Execute what ends a transaction. Nothing needs to end if it did not begin, or if SQLite has ended it itself."""
    with suppress(Error):
        for sql in statements:
            cursor.execute(sql)


def _busy_timeout(connection: BaseDatabaseWrapper) -> float:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        return float(cursor.fetchone()[0]) / 1000


def _error_name(error: BaseException) -> str:
    return str(getattr(error.__cause__, "sqlite_errorname", ""))


_LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED")
_LOST = ("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_NOTADB", "SQLITE_CORRUPT")


def translate(error: Error, connection: BaseDatabaseWrapper, doing: str) -> TestDBError:
    """Return the package's error for one of Django's; *doing* is the statement."""
    name = _error_name(error)
    what = f"{describe_database(connection)}: {error}, while running: {' '.join(doing.split())[:200]}"
    if name.startswith(_LOCKED):
        return LockTimeoutError(
            f"Another connection holds a lock on {what}. Nothing was changed. SQLite does not report which one: end "
            "open transactions and unfinished queries on this database in other processes and threads, or wait "
            'longer with a higher TESTDB["LOCK_TIMEOUT"], in seconds.',
            blockers=[],
        )
    if name.startswith("SQLITE_READONLY"):
        return ReadOnlyError(
            f"Cannot write to {what}. Nothing was changed. Make the file and its folder writable, and connect "
            "without mode=ro, immutable=1 and PRAGMA query_only."
        )
    if name.startswith(_LOST) or "closed database" in str(error):
        return ConnectionLostError(
            f"Lost the connection to {what}. A transaction that was open has been rolled back or will be, when the "
            "file is next opened. Check that the file is there and readable, and connect again."
        )
    return ResetError(
        f"The statement failed on {what}. Everything was rolled back; nothing was changed. Correct what the message "
        "names, or leave the table out of the reset."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One attached database. ``file`` is empty for one in memory and for a temporary one."""

    name: str
    file: str


DATABASES = """
SELECT name, file
FROM pragma_database_list
ORDER BY seq
"""


@contextmanager
def snapshot(connection: BaseDatabaseWrapper, *, after_writers: bool = False) -> Iterator[CursorWrapper]:
    """Yield a cursor whose reads all see one state of the database; leave the connection as it was.

    With *after_writers* it waits for open write transactions of other connections, whose rows it would not see. Inside a
    transaction a savepoint makes full-text tables write their pending rows.
    """
    nested = in_transaction(connection)
    with connection.cursor() as cursor:
        begin = "SAVEPOINT testdb_read" if nested else "BEGIN"
        if after_writers and not nested and not fetch(connection, cursor, "PRAGMA query_only")[0][0]:
            begin = "BEGIN IMMEDIATE"
        try:
            execute(connection, cursor, begin)
            yield cursor
        finally:
            # Not COMMIT: after BEGIN IMMEDIATE it would wait for readers, though there is nothing to write.
            insist(lambda: roll_back(cursor, ["RELEASE testdb_read" if nested else "ROLLBACK"]))


@contextmanager
def all_or_nothing(connection: BaseDatabaseWrapper, savepoint: str) -> Iterator[CursorWrapper]:
    """Yield a cursor whose writes are committed together, or not at all; inside a transaction they are a *savepoint* of it."""
    nested = in_transaction(connection)
    undo = (f"ROLLBACK TO {savepoint}", f"RELEASE {savepoint}") if nested else ("ROLLBACK",)
    with connection.cursor() as cursor:
        try:
            execute(connection, cursor, f"SAVEPOINT {savepoint}" if nested else "BEGIN IMMEDIATE")
            yield cursor
            execute(connection, cursor, f"RELEASE {savepoint}" if nested else "COMMIT")
        except BaseException:
            insist(lambda: roll_back(cursor, undo))
            raise


def read_databases(connection: BaseDatabaseWrapper, cursor: CursorWrapper) -> tuple[Database, ...]:
    """Return the attached databases, "main" first."""
    return tuple(Database(name=name, file=file or "") for name, file in fetch(connection, cursor, DATABASES))


@contextmanager
def kept_pragmas(connection: BaseDatabaseWrapper, cursor: CursorWrapper, names: Iterable[str]) -> Iterator[None]:
    """Restore the connection's settings *names* at the end, however it ends."""
    before = {name: fetch(connection, cursor, f"PRAGMA {name}")[0][0] for name in names}
    try:
        yield
    finally:
        insist(lambda: _restore_pragmas(cursor, before))


def _restore_pragmas(cursor: CursorWrapper, before: Mapping[str, int]) -> None:
    # A lost connection has no settings to restore.
    with suppress(Error):
        for name, value in before.items():
            cursor.execute(f"PRAGMA {name}")
            if cursor.fetchone()[0] != value:
                cursor.execute(f"PRAGMA {name} = {value}")
