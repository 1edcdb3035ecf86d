"""What a vendor does that has no more than Django has for all of them: each function fulfils a method of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from django.core.management.color import no_style

from testdb_app.backends.base import TransactionStatus
from testdb_app.baseline_state import Baseline, EarlierFormat
from testdb_app.exceptions import Blocker, ConnectionLostError, ResetError, TestDBError, UnsupportedError
from testdb_app.schema import Schema

if TYPE_CHECKING:
    from django.db import Error
    from django.db.backends.base.base import BaseDatabaseWrapper


def close_session(connection: BaseDatabaseWrapper) -> bool:
    """Close *connection*: the ``renew_session()`` of a vendor where a new one costs little, or nothing else is sure.

    What the reset opens after that is as good as new for the next test.
    """
    connection.close()
    return True


def leave_session(connection: BaseDatabaseWrapper, *, keep: bool) -> None:
    """Do nothing: the ``release_session()`` of such a vendor."""


def without_kept_sessions(connection: BaseDatabaseWrapper) -> None:
    """Do nothing: the ``drop_stale_session()`` of a vendor whose sessions are closed after each test."""


def without_watch(schema: Schema) -> None:
    """Return None: the ``watch()`` of a vendor whose databases do not tell what was written."""


def write_restarts(connection: BaseDatabaseWrapper, schema: Schema, baseline: Baseline) -> tuple[str, ...]:
    """Write the restarts as Django does for the vendor."""
    if not connection.features.supports_sequence_reset:
        return ()
    filled = {table.name for table in baseline.tables}
    moved = {name.name for name, state in baseline.sequences.items() if state.is_called or state.last_value != 1}
    listed = [
        sequence
        for sequence in connection.introspection.sequence_list()
        if sequence["table"] not in filled and (sequence["name"] if "name" in sequence else sequence["table"]) in moved
    ]
    return tuple(connection.ops.sequence_reset_by_name_sql(no_style(), listed)) if listed else ()


def compare_earlier(connection: BaseDatabaseWrapper, schema: Schema) -> EarlierFormat:
    """Return no changes: the vendor keeps no baseline."""
    return EarlierFormat(changes=(), restarts=())


def catalog_is_first(connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
    """Do nothing: the ``catalog_first()`` of a vendor on which nobody can name an operator."""
    return nullcontext()


def check_deferred(connection: BaseDatabaseWrapper) -> None:
    """Check the constraints that wait for the commit, as Django does it for the vendor."""
    connection.check_constraints()


def look_for_commits_nowhere(connection: BaseDatabaseWrapper, since: object | None) -> tuple[object, bool]:
    """Return that rows may have been committed: the ``look_for_commits()`` of a vendor that does not tell."""
    return None, True


def nobody_knows_schema(before: object | None, after: object) -> bool:
    """Return that things may have been made or dropped: the ``is_schema_same()`` of a vendor that does not tell."""
    return False


def written_unknown(before: object | None, after: object) -> None:
    """Return None: the ``find_written()`` of a vendor that does not count what is written."""


def read_tables_and_views(connection: BaseDatabaseWrapper) -> frozenset[str]:
    """Return what Django's introspection lists: the ``read_objects()`` of a vendor without a catalog query of its own."""
    with connection.cursor() as cursor:
        found = connection.introspection.get_table_list(cursor)
    return frozenset(f"{'view' if each.type == 'v' else 'table'} {each.name}" for each in found)


def without_start(connection: BaseDatabaseWrapper) -> None:
    """Return None: the ``note_start()`` of a vendor that does not count what is written."""


def is_never_unwritten(connection: BaseDatabaseWrapper, start: object) -> bool:
    """Return False: the ``is_unwritten()`` of such a vendor."""
    return False


def status_as_django_knows(connection: BaseDatabaseWrapper) -> TransactionStatus:
    """Return the ``transaction_status()`` of a vendor whose driver does not tell: what Django believes."""
    return TransactionStatus.OPEN if connection.in_atomic_block else TransactionStatus.NONE


def begin_with_savepoint(connection: BaseDatabaseWrapper, savepoint: str, limits: Mapping[str, int]) -> None:
    """Make the savepoint as Django's own are made: the ``begin()`` of a vendor for which Django begins."""
    if limits:
        refuse_limits(connection, limits)
    if connection.features.uses_savepoints:
        with connection.cursor() as cursor:
            cursor.execute(f"SAVEPOINT {savepoint}")


def undo_to_savepoint(connection: BaseDatabaseWrapper, savepoint: str) -> None:
    """Go back to the savepoint: the ``undo()`` of a vendor for which Django ends the transaction."""
    if connection.features.uses_savepoints:
        with connection.cursor() as cursor:
            cursor.execute(f"ROLLBACK TO SAVEPOINT {savepoint}")


def refuse_limits(
    connection: BaseDatabaseWrapper, limits: Mapping[str, int], *, local: bool = False
) -> Mapping[str, str]:
    """Refuse what the vendor does not have: the ``limit()`` of one that has no limits."""
    if limits:
        names = " and ".join(sorted(limits))
        raise UnsupportedError(
            f'The database "{connection.alias}" ({connection.display_name}) knows no {names}. Leave that out for this '
            "database, or run these tests on PostgreSQL."
        )
    return {}


def lift_no_limits(connection: BaseDatabaseWrapper, earlier: Mapping[str, str]) -> None:
    """Do nothing: the ``lift()`` of a vendor that has no limits."""


def explain(connection: BaseDatabaseWrapper, error: Error, *, doing: str) -> TestDBError:
    """Return an error that says what the database said: the ``explain()`` of a vendor whose errors nobody tells apart."""
    name, why = connection.settings_dict["NAME"], " ".join(str(error).split())
    if connection.connection is None:
        return ConnectionLostError(
            f'Cannot connect to database "{name}" (alias "{connection.alias}"): {why}. Nothing was changed. '
            "Check that the server runs."
        )
    return ResetError(
        f'{doing} database "{name}" (alias "{connection.alias}") failed: {why}. Nothing was changed, as far as the database '
        "takes back what has failed. Correct what the message names."
    )


def nobody_blocks(connection: BaseDatabaseWrapper, pid: object, sql: str, error: BaseException) -> list[Blocker]:
    """Return nobody: the ``find_blockers()`` of a vendor that does not tell who holds a lock."""
    return []
