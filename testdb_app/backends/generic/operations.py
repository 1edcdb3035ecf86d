"""A reset by ``connection.ops.sql_flush()`` and ``sequence_reset_by_name_sql()``, which every Django backend has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from django.core.management.color import no_style
from django.db import Error

from testdb_app.backends.base import Action, DatabaseIdentity, Mark, Script, Statement, Step, has_autocommit
from testdb_app.backends.generic.introspection import count_references, count_rows
from testdb_app.baseline_state import BASELINE, Baseline, RowChanges, describe_tables
from testdb_app.exceptions import (
    ConnectionLostError,
    ResetError,
    RowsRemainError,
    TransactionStateError,
    UnsupportedError,
)
from testdb_app.schema import ForeignKey, QualifiedName, Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


def script(
    connection: BaseDatabaseWrapper,
    schema: Schema,
    steps: Sequence[Step],
    *,
    baseline: Baseline | None = None,
    checks: Sequence[ForeignKey],
    verify: Sequence[QualifiedName],
    lock_timeout: float,
    within_transaction: bool,
    for_watch: bool = False,
    identity: DatabaseIdentity | None = None,
) -> Script:
    """Write the SQL of a plan. The transaction is not part of it: no two vendors begin one alike.

    Raises :class:`UnsupportedError` for TRUNCATE, and for sequences that this vendor's Django backend cannot reset.
    """
    tables = _tables(connection, steps)
    flush = connection.ops.sql_flush(no_style(), tables, reset_sequences=False, allow_cascade=False) if tables else []
    return Script(
        opening=(),
        body=tuple(_count(connection, sql, tables) for sql in flush),
        # Last, because ALTER TABLE commits on some vendors.
        closing=tuple(Statement(sql=sql.removesuffix(";")) for sql in _restarts(connection, schema, steps)),
        checks=tuple(checks),
        verify=tuple(verify),
    )


def _tables(connection: BaseDatabaseWrapper, steps: Sequence[Step]) -> list[str]:
    for step in steps:
        if step.action is Action.TRUNCATE:
            raise UnsupportedError(
                f"TRUNCATE is not supported on {connection.display_name}: Django decides how a table is emptied there. Use "
                'the strategy "auto".'
            )
    return [name.name for step in steps if step.action is Action.DELETE for name in step.names]


def _count(connection: BaseDatabaseWrapper, sql: str, tables: Sequence[str]) -> Statement:
    text = sql.removesuffix(";")
    emptied = {f"DELETE FROM {connection.ops.quote_name(table)}": table for table in tables}
    counts = (QualifiedName("", emptied[text]),) if text in emptied else ()
    return Statement(sql=text, counts=counts)


def _restarts(connection: BaseDatabaseWrapper, schema: Schema, steps: Sequence[Step]) -> list[str]:
    sequences = [
        {"table": use.table.name, "column": use.column}
        for step in steps
        if step.action is Action.RESTART
        for name in step.names
        for use in schema.sequences_by_name[name].uses
    ]
    if not sequences:
        return []
    statements: list[str] = connection.ops.sequence_reset_by_name_sql(no_style(), sequences)
    if not statements:
        raise UnsupportedError(
            f"Django's backend for {connection.display_name} cannot reset sequences. Nothing was changed. Reset without "
            "them (--no-reset-sequences)."
        )
    return statements


def run(
    connection: BaseDatabaseWrapper, script: Script, *, within_transaction: bool
) -> dict[QualifiedName, RowChanges]:
    """Run *script* and return the rows removed per table, where the database tells.

    All or nothing only where the database can roll back what Django's statements do.
    Raises :class:`ResetError` or one of its subclasses, chained to the database's own error.
    """
    removed: dict[QualifiedName, RowChanges] = {}
    try:
        with _transaction(connection, within=within_transaction), connection.cursor() as cursor:
            script.refuse_references(count_references(connection, script.checks))
            for statement in script.opening + script.body:
                cursor.execute(statement.sql)
                removed |= dict.fromkeys(statement.counts, RowChanges(removed=cursor.rowcount))
            _verify(connection, script)
            for statement in script.closing:
                cursor.execute(statement.sql)
    except Error as error:
        raise _translate(connection, error) from error
    return removed


@contextmanager
def _transaction(connection: BaseDatabaseWrapper, *, within: bool) -> Iterator[None]:
    """Do as ``atomic()``, which works only on connections that ``django.db.connections`` knows."""
    if not within and not has_autocommit(connection):
        raise TransactionStateError(
            f'A transaction is open on the connection "{connection.alias}". Nothing was changed. Commit or roll back first, '
            "or reset with within_transaction=True."
        )
    savepoint = connection.savepoint() if within else None
    if not within:
        connection.set_autocommit(False)
    try:
        yield
        if savepoint:
            connection.savepoint_commit(savepoint)
        elif not within:
            connection.commit()
    except BaseException:
        with suppress(Error):
            if savepoint:
                connection.savepoint_rollback(savepoint)
            elif not within:
                connection.rollback()
            # MySQL's sql_flush switches the checks off first and on last.
            connection.enable_constraint_checking()
        raise
    finally:
        if not within:
            with suppress(Error):
                connection.set_autocommit(True)


def _verify(connection: BaseDatabaseWrapper, script: Script) -> None:
    remaining = [str(name) for name, rows in count_rows(connection, script.verify).items() if rows]
    if remaining:
        raise RowsRemainError(
            f"After the deletion there are rows in {', '.join(remaining)}: a trigger wrote them, or another session. "
            "The deletion was rolled back, where the database can. Exclude these tables, or end the other session.",
            tables=remaining,
        )


def _translate(connection: BaseDatabaseWrapper, error: Error) -> ResetError:
    text = (
        f'Resetting database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") failed: '
        f"{' '.join(str(error).split())}."
    )
    if connection.connection is None or not connection.is_usable():
        return ConnectionLostError(f"{text} The connection is lost. Check that the server runs, and reset again.")
    return ResetError(
        f"{text} It was rolled back, where the database can. Correct what the message names, or exclude the table."
    )


def count_changes(
    connection: BaseDatabaseWrapper, baseline: Baseline, tables: Iterable[QualifiedName]
) -> dict[QualifiedName, RowChanges]:
    """Return nothing: there is no baseline."""
    return {}


def read_baseline(connection: BaseDatabaseWrapper, state: str = BASELINE) -> Baseline | None:
    """Return None: this backend captures none."""
    return None


def read_shape(connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]) -> dict[str, str]:
    """Describe which tables there are."""
    return describe_tables(schema)


def write_baseline(
    connection: BaseDatabaseWrapper,
    schema: Schema,
    *,
    tables: Iterable[QualifiedName],
    sequences: Iterable[QualifiedName],
    excluded: frozenset[QualifiedName],
    lock_timeout: float,
    state: str = BASELINE,
    identity: DatabaseIdentity | None = None,
) -> Baseline:
    """Raise :class:`UnsupportedError`: how rows are copied and compared exactly is not known here."""
    raise UnsupportedError(
        f"A baseline is not supported on {connection.display_name}. Nothing was changed. Reset to empty, and make the rows "
        "that every test needs in a fixture."
    )


def rewrite_baseline(
    connection: BaseDatabaseWrapper,
    baseline: Baseline,
    state: str = BASELINE,
    *,
    identity: DatabaseIdentity | None = None,
) -> Baseline:
    """Do nothing: there is none."""
    return baseline


def drop_baseline(connection: BaseDatabaseWrapper, *, identity: DatabaseIdentity | None = None) -> None:
    """Do nothing: there is none."""


def set_mark(
    connection: BaseDatabaseWrapper, mark: Mark, *, present: bool, identity: DatabaseIdentity | None = None
) -> None:
    """Raise :class:`UnsupportedError`: where a mark would travel with a copy of the database is not known."""
    raise UnsupportedError(
        f'The mark "{mark}" is not supported on {connection.display_name}. Name the databases that may be reset in '
        'TESTDB["ALLOWED_DATABASES"] or with --allow-database instead.'
    )
