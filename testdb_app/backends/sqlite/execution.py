"""Run the SQL of a reset on a live SQLite connection: all or nothing, and the connection as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from testdb_app.backends.base import has_autocommit
from testdb_app.backends.sqlite.catalog import read_catalog
from testdb_app.backends.sqlite.errors import describe_database, execute, fetch, in_transaction, insist, roll_back
from testdb_app.backends.sqlite.introspection import count_references, find_filled
from testdb_app.backends.sqlite.operations import SAVEPOINT, SQLiteScript
from testdb_app.backends.sqlite.restoring import RestoringStatement, count_copy
from testdb_app.backends.sqlite.snapshot import kept_pragmas
from testdb_app.baseline_state import RowChanges, damaged
from testdb_app.exceptions import ConcurrencyError, RowsRemainError, TransactionStateError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

    from testdb_app.backends.base import Script, Statement
    from testdb_app.schema import QualifiedName

UNDO = ("ROLLBACK",)
UNDO_WITHIN = (f"ROLLBACK TO {SAVEPOINT}", f"RELEASE {SAVEPOINT}")
PRAGMAS = ("foreign_keys", "busy_timeout", "ignore_check_constraints")
"""The settings of a connection that a script changes, but for one that ends with the transaction."""


def run(
    connection: BaseDatabaseWrapper, script: Script, *, within_transaction: bool
) -> dict[QualifiedName, RowChanges]:
    """Run *script*, all or nothing, and return what was changed per table, where SQLite tells.

    Raises an error of :mod:`testdb_app.exceptions`, with everything rolled back, also when it is interrupted.
    """
    if in_transaction(connection) and not within_transaction:
        raise TransactionStateError(
            f'A transaction is open on the connection "{connection.alias}", and SQLite cannot switch foreign keys off '
            "inside one. Nothing was changed. Commit or roll back first, or reset with within_transaction=True."
        )
    with connection.cursor() as cursor, kept_pragmas(connection, cursor, PRAGMAS):
        if within_transaction and not in_transaction(connection) and not has_autocommit(connection):
            # With autocommit off nothing has begun yet; without this our RELEASE would be the caller's commit.
            execute(connection, cursor, "BEGIN")
        deferred = fetch(connection, cursor, "PRAGMA defer_foreign_keys")[0][0]
        undo = (*UNDO_WITHIN, f"PRAGMA defer_foreign_keys = {deferred}") if within_transaction else UNDO
        try:
            _execute_all(connection, cursor, script.opening)
            if isinstance(script, SQLiteScript):
                _check_unchanged(connection, cursor, script)
            script.refuse_references(count_references(connection, script.checks, script.baseline))
            changes = _execute_all(connection, cursor, script.body)
            _verify(connection, script, frozenset(changes))
            _execute_all(connection, cursor, script.closing)
        except BaseException:
            insist(lambda: roll_back(cursor, undo))
            raise
    return changes


def _execute_all(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, statements: Iterable[Statement]
) -> dict[QualifiedName, RowChanges]:
    changes: dict[QualifiedName, RowChanges] = {}
    for statement in statements:
        execute(connection, cursor, statement.sql)
        for name in statement.counts:
            changes[name] = RowChanges(removed=cursor.rowcount)
        if isinstance(statement, RestoringStatement):
            if statement.changed is not None:
                changes[statement.changed] = replace(changes[statement.changed], updated=cursor.rowcount)
            if statement.filled is not None:
                done = changes[statement.filled]
                # Those that had changed were deleted, and are among the ones put in.
                changes[statement.filled] = replace(done, inserted=cursor.rowcount - done.updated)
    return changes


def _check_unchanged(connection: BaseDatabaseWrapper, cursor: CursorWrapper, script: SQLiteScript) -> None:
    """Refuse if something was written between the look and the lock: a new trigger would fire, a reference dangle."""
    faults = [
        f"{table.copy}, the copy of {table.name}, has {rows} rows instead of {table.rows}"
        for table in script.restored
        for ((rows,),) in [fetch(connection, cursor, count_copy(table))]
        if rows != table.rows
    ]
    if faults:
        raise damaged(describe_database(connection), faults)
    what = ""
    if script.token != read_catalog(connection, cursor).token:
        what = "The schema was changed"
    elif any(count_references(connection, script.unexpected, script.baseline)):
        what = "Rows that refer to others were written"
    if what:
        raise ConcurrencyError(
            f'{what} in database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") while its reset was '
            "being prepared. The reset changed nothing. Run it again, or end the processes that still write.",
            attempts=1,
        )


def _verify(connection: BaseDatabaseWrapper, script: Script, emptied: frozenset[QualifiedName]) -> None:
    """Look at the tables once more before the commit."""
    remaining = find_filled(connection, script.verify)
    names = ", ".join(map(str, remaining))
    if remaining and emptied.isdisjoint(remaining):
        raise ConcurrencyError(
            f"Rows were written to {names} while the reset was being prepared. Nothing was changed by the reset. Run it "
            "again, or end the processes that still write.",
            attempts=1,
        )
    if remaining:
        raise RowsRemainError(
            f"After the deletion there are rows again in {names}. Nothing was changed. Exclude these tables.",
            tables=[str(name) for name in remaining],
        )
