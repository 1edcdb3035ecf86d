"""What one reads in, and must leave as it was: a snapshot, and the settings of the connection."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import Error

from testdb_app.backends.sqlite.errors import execute, fetch, in_transaction, insist, roll_back

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper


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
    """A cursor whose reads all see one state of the database; it leaves the connection as it was.

    With *after_writers* it waits for open write transactions of other connections, whose rows it would not see.
    Inside a transaction a savepoint makes full-text tables write out what they hold back.
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
    """A cursor whose writes are committed together, or not at all; inside a transaction they are a *savepoint* of it."""
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
    """Put the connection's settings *names* back at the end, however it ends."""
    before = {name: fetch(connection, cursor, f"PRAGMA {name}")[0][0] for name in names}
    try:
        yield
    finally:
        insist(lambda: _restore_pragmas(cursor, before))


def _restore_pragmas(cursor: CursorWrapper, before: Mapping[str, int]) -> None:
    # A connection that was lost has no settings to put back.
    with suppress(Error):
        for name, value in before.items():
            cursor.execute(f"PRAGMA {name}")
            if cursor.fetchone()[0] != value:
                cursor.execute(f"PRAGMA {name} = {value}")
