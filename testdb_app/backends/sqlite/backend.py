"""The SQLite backend: SQLite 3.31 and later, and how it runs the SQL of a reset.

Its "schemas" are the attached databases: "main", and those in memory. Attached files are left out, because nothing says that
they are test databases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from sqlite3 import ProgrammingError
from typing import TYPE_CHECKING

from testdb_app.backends.base import OWN_SCHEMA, BaseBackend, Failure, Mark, Position, TransactionStatus, has_autocommit
from testdb_app.backends.sqlite import baseline as baseline_tables
from testdb_app.backends.sqlite import introspection, operations
from testdb_app.backends.sqlite.baseline_copies import RestoringStatement, count_copy
from testdb_app.backends.sqlite.catalog import read_catalog
from testdb_app.backends.sqlite.change_tracker import SQLiteChangeTracker, names_deserialized
from testdb_app.backends.sqlite.connection import (
    describe_database,
    execute,
    fetch,
    in_transaction,
    insist,
    kept_pragmas,
    roll_back,
    translate,
)
from testdb_app.backends.sqlite.data import SQLiteData
from testdb_app.backends.sqlite.introspection import count_references, find_filled
from testdb_app.backends.sqlite.operations import SAVEPOINT, SQLiteScript
from testdb_app.baseline_state import BASELINE, KEPT_STATES, RowChanges, not_as_captured
from testdb_app.exceptions import ConcurrencyError, RowsRemainError, TestDBError, TransactionStateError
from testdb_app.schema import TableKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from django.db import Error
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

    from testdb_app.backends.base import (
        Capture,
        DatabaseIdentity,
        DatabaseState,
        ResetPlan,
        Script,
        ScriptContext,
        Statement,
    )
    from testdb_app.baseline_state import Baseline, EarlierFormat
    from testdb_app.schema import ForeignKey, QualifiedName, Schema, TableDetails

UNDO = ("ROLLBACK",)
UNDO_WITHIN = (f"ROLLBACK TO {SAVEPOINT}", f"RELEASE {SAVEPOINT}")
PRAGMAS = ("foreign_keys", "busy_timeout", "ignore_check_constraints")
"""The settings of a connection that a script changes, except one that ends with the transaction."""


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
                removed = changes[statement.changed].removed
                changes[statement.changed] = RowChanges(removed=removed, updated=cursor.rowcount)
            if statement.filled is not None:
                done = changes[statement.filled]
                # Changed rows were deleted, and are among the inserted ones.
                changes[statement.filled] = RowChanges(
                    removed=done.removed, updated=done.updated, inserted=cursor.rowcount - done.updated
                )
    return changes


def _check_unchanged(connection: BaseDatabaseWrapper, cursor: CursorWrapper, script: SQLiteScript) -> None:
    """Refuse if something was written between the full scan and the lock: a new trigger would fire, a reference dangle."""
    faults = [
        f"{table.copy}, the copy of {table.name}, has {rows} rows instead of {table.rows}"
        for table in script.restored
        for ((rows,),) in [fetch(connection, cursor, count_copy(table))]
        if rows != table.rows
    ]
    if faults:
        raise not_as_captured(describe_database(connection), faults)
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
    """Check the tables once more before the commit."""
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


LOCK = "lock_timeout"


class SQLiteBackend(BaseBackend):
    """The backend for SQLite, SpatiaLite included. Every method does what its function says."""

    vendor = "sqlite"
    supports_baseline = True
    supports_marks = True
    data = SQLiteData()

    def identify(self, connection: BaseDatabaseWrapper) -> DatabaseIdentity:
        return introspection.identify(connection)

    def set_mark(
        self, connection: BaseDatabaseWrapper, mark: Mark, *, present: bool, identity: DatabaseIdentity | None = None
    ) -> None:
        introspection.set_mark(connection, mark, present=present, identity=identity)

    def read_schema(self, connection: BaseDatabaseWrapper) -> Schema:
        return introspection.read_schema(connection)

    def read_details(
        self, connection: BaseDatabaseWrapper, schema: Schema, *, count_rows: bool
    ) -> Mapping[QualifiedName, TableDetails]:
        return introspection.read_details(connection, schema, count_rows=count_rows)

    def read_state(
        self,
        connection: BaseDatabaseWrapper,
        *,
        lock_timeout: float,
        baseline: Baseline | None = None,
        schema: Schema | None = None,
    ) -> DatabaseState:
        return introspection.read_state(connection, lock_timeout=lock_timeout, baseline=baseline)

    def change_tracker(self, schema: Schema, baseline: Baseline | None) -> SQLiteChangeTracker | None:
        """Return a change tracker; none if there are virtual tables, whose modules store rows as they like."""
        has_virtual = any(table.kind is TableKind.VIRTUAL for table in schema.tables)
        return None if has_virtual or not names_deserialized() else SQLiteChangeTracker(schema, baseline)

    def count_rows(self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> dict[QualifiedName, int]:
        return introspection.count_live_rows(connection, tables)

    def count_references(
        self, connection: BaseDatabaseWrapper, keys: Sequence[ForeignKey], baseline: Baseline | None = None
    ) -> tuple[int, ...]:
        with baseline_tables.copies_made(connection, baseline):
            return introspection.count_references(connection, keys, baseline)

    def write_sql(self, connection: BaseDatabaseWrapper, plan: ResetPlan, context: ScriptContext) -> Script:
        return operations.write_script(connection, plan, context)

    def run(
        self, connection: BaseDatabaseWrapper, script: Script, *, within_transaction: bool
    ) -> dict[QualifiedName, RowChanges]:
        """Run *script*, all or nothing, and return what was changed per table, if SQLite reports it.

        Raises an error of :mod:`testdb_app.exceptions`, with everything rolled back, also when it is interrupted.
        """
        if in_transaction(connection) and not within_transaction:
            raise TransactionStateError(
                f'A transaction is open on the connection "{connection.alias}", and SQLite cannot switch foreign keys off '
                "inside one. Nothing was changed. Commit or roll back first, or reset with within_transaction=True."
            )
        with connection.cursor() as cursor, kept_pragmas(connection, cursor, PRAGMAS):
            if within_transaction and not in_transaction(connection) and not has_autocommit(connection):
                # With autocommit off nothing has begun yet. Without this our RELEASE would be the caller's commit.
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

    def count_changes(
        self, connection: BaseDatabaseWrapper, baseline: Baseline, tables: Iterable[QualifiedName]
    ) -> dict[QualifiedName, RowChanges]:
        with baseline_tables.copies_made(connection, baseline):
            return introspection.count_changes(connection, baseline, tables)

    def read_baseline(self, connection: BaseDatabaseWrapper, state: str = BASELINE) -> Baseline | None:
        return baseline_tables.read_baseline(connection, state)

    def read_shape(
        self, connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
    ) -> dict[str, str]:
        return baseline_tables.read_shape(connection, schema, tables)

    def write_baseline(self, connection: BaseDatabaseWrapper, capture: Capture) -> Baseline:
        return baseline_tables.write_baseline(connection, capture)

    def carry_baseline(self, source: BaseDatabaseWrapper, target: BaseDatabaseWrapper, baseline: Baseline) -> Baseline:
        return baseline_tables.carry_baseline(source, baseline)

    def rewrite_baseline(
        self,
        connection: BaseDatabaseWrapper,
        baseline: Baseline,
        state: str = BASELINE,
        *,
        identity: DatabaseIdentity | None = None,
    ) -> Baseline:
        return baseline_tables.rewrite_baseline(connection, baseline, state, identity=identity)

    def limit(
        self, connection: BaseDatabaseWrapper, limits: Mapping[str, int], *, local: bool = False
    ) -> dict[str, str]:
        """Set ``busy_timeout``, which belongs to the connection, and return the earlier one; refuse other limits.

        It has no effect among connections that share a cache in memory (https://www.sqlite.org/sharedcache.html).
        """
        super().limit(connection, {name: value for name, value in limits.items() if name != LOCK})
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout")
            earlier = {LOCK: str(cursor.fetchone()[0])}
            cursor.execute(f"PRAGMA busy_timeout = {limits[LOCK]}")
        return earlier

    def lift(self, connection: BaseDatabaseWrapper, earlier: Mapping[str, str]) -> None:
        """Restore ``busy_timeout``."""
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {earlier[LOCK]}")

    def classify(self, error: BaseException) -> Failure:
        """Return that a lock was not granted in time, if SQLite's error is that one."""
        name = str(getattr(error.__cause__, "sqlite_errorname", ""))
        return Failure.LOCK_TIMEOUT if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) else Failure.OTHER

    def explain(self, connection: BaseDatabaseWrapper, error: Error, *, doing: str) -> TestDBError:
        """Return the package's error; see :func:`testdb_app.backends.sqlite.connection.translate`."""
        return translate(error, connection, doing)

    def drop_baseline(self, connection: BaseDatabaseWrapper, *, identity: DatabaseIdentity | None = None) -> None:
        baseline_tables.drop_baseline(connection, identity=identity)

    def compare_earlier(self, connection: BaseDatabaseWrapper, schema: Schema) -> EarlierFormat:
        return baseline_tables.compare_earlier(connection, schema)

    def read_objects(self, connection: BaseDatabaseWrapper) -> frozenset[str]:
        """Return what ``sqlite_master`` lists, except what SQLite makes itself and the copies of baselines."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT type, name, tbl_name FROM sqlite_master")
            rows = cursor.fetchall()
        return frozenset(
            f"{kind} {name}" for kind, name, table in rows if not name.startswith("sqlite_") and not _is_own(table)
        )

    def look_for_commits(self, connection: BaseDatabaseWrapper, since: Position | None) -> tuple[Position | None, bool]:
        """Return the counts of changes by this connection, including rolled back ones, and of changes that others committed."""
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA data_version")
            (version,) = cursor.fetchone()
        position = SQLitePosition(version=version, changes=connection.connection.total_changes)
        return position, position != since

    def transaction_status(self, connection: BaseDatabaseWrapper) -> TransactionStatus:
        """Return whether a transaction is open; LOST if the connection was closed."""
        try:
            return TransactionStatus.OPEN if connection.connection.in_transaction else TransactionStatus.NONE
        except ProgrammingError:
            return TransactionStatus.LOST


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLitePosition(Position):
    """What others have committed, and what this connection has changed, up to one moment."""

    version: int
    changes: int


def _is_own(table: str) -> bool:
    return any(table.startswith(f"{OWN_SCHEMA}_{name}") for name in (*KEPT_STATES, *Mark))


BACKEND = SQLiteBackend()
