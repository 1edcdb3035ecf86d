"""The PostgreSQL backend: PostgreSQL 15 and later, through psycopg 3."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, Error, InterfaceError, transaction

from testdb_app.backends.base import (
    BaseBackend,
    Capture,
    DatabaseIdentity,
    DatabaseState,
    Failure,
    Mark,
    Position,
    ResetPlan,
    Restoration,
    Script,
    ScriptContext,
)
from testdb_app.backends.postgresql import baseline as baseline_tables
from testdb_app.backends.postgresql import catalog, counters, operations, session_reset
from testdb_app.backends.postgresql.baseline_shape import EXACT_TEXT, make_shape, parse_shape, shape_queries, unreadable
from testdb_app.backends.postgresql.change_tracker import PostgreSQLChangeTracker
from testdb_app.backends.postgresql.commits import (
    check_for_commits,
    find_written,
    is_schema_same,
    is_unwritten,
    note_start,
)
from testdb_app.backends.postgresql.connection import rolled_back_on_error, run_sql, transaction_status
from testdb_app.backends.postgresql.counters import Conditions, CountedState
from testdb_app.backends.postgresql.data import PostgreSQLData
from testdb_app.backends.postgresql.errors import (
    ABOUT_OBJECTS,
    ABOUT_STATEMENTS,
    LOCK_NOT_AVAILABLE,
    explain,
    sqlstate,
    translate,
)
from testdb_app.backends.postgresql.introspection import (
    parse_identity,
    parse_token,
    read_all_states,
    read_details,
    read_schema,
    sizes_and_states,
    write_binding,
)
from testdb_app.backends.postgresql.preconditions import Precondition, explain_refusal, find_refusal, prove_own_schema
from testdb_app.backends.postgresql.queries import count_referring, execute, find_blockers, read_rows, rows_of, scalars
from testdb_app.backends.postgresql.sql import quote, quote_literal
from testdb_app.baseline_state import BASELINE, Baseline, EarlierFormat, RowChanges, SequenceState, migration_tables
from testdb_app.exceptions import RowsRemainError, TestDBError
from testdb_app.schema import ForeignKey, QualifiedName, Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.backends.base import TransactionStatus
    from testdb_app.exceptions import Blocker
    from testdb_app.schema import TableDetails

_FAILURES = {
    "57014": Failure.STATEMENT_TIMEOUT,
    LOCK_NOT_AVAILABLE: Failure.LOCK_TIMEOUT,
    "25P03": Failure.IDLE_TIMEOUT,
    "25P02": Failure.ABORTED,
}


def _set(limits: Mapping[str, int], scope: str) -> list[str]:
    return [f"SET {scope} {name} = {value}" for name, value in limits.items()]


def _begin(raw: Any) -> str:
    """Write BEGIN with the options of the driver's connection, as psycopg would."""
    parts = ["BEGIN"]
    if raw.isolation_level is not None:
        parts.append("ISOLATION LEVEL " + raw.isolation_level.name.replace("_", " "))
    if raw.read_only is not None:
        parts.append("READ ONLY" if raw.read_only else "READ WRITE")
    if raw.deferrable is not None:
        parts.append("DEFERRABLE" if raw.deferrable else "NOT DEFERRABLE")
    return " ".join(parts)


def _send(connection: BaseDatabaseWrapper, *statements: str) -> None:
    """Send statements in one message, below the driver's cursors, which would take as long as the server."""
    raw: Any = connection.connection
    with connection.wrap_database_errors, raw.lock:
        raw.wait(_run(raw, ";\n".join(statements)))


def _run(raw: Any, sql: str) -> Any:
    """Send a message and receive all its answers; a generator for the driver's ``wait()``, which obeys Ctrl-C."""
    driver = _driver()
    raw.pgconn.send_query(sql.encode())
    answers = yield from driver.generators.execute(raw.pgconn)
    for answer in answers:
        if answer.error_message:
            raise driver.errors.error_from_result(answer, encoding=raw.info.encoding)


@cache
def _driver() -> Any:
    import psycopg  # noqa: PLC0415 - the driver is optional
    import psycopg.generators  # noqa: PLC0415

    return psycopg


_READING_TIMEOUT = 60.0
"""Seconds to wait for a lock on a catalog, or on the list of migrations: only a change of the schema holds them."""


class PostgreSQLBackend(BaseBackend):
    """The backend for PostgreSQL. It keeps every promise, so it has no warning."""

    vendor = "postgresql"
    supports_baseline = True
    supports_marks = True
    has_local_limits = True
    ways_to_restore = tuple(Restoration)
    data = PostgreSQLData()

    def identify(self, connection: BaseDatabaseWrapper) -> DatabaseIdentity:
        """Read the identity over the live connection. One round trip."""
        ((row,),) = read_rows(connection, [catalog.IDENTITY])
        return parse_identity(connection, row)

    def read_schema(self, connection: BaseDatabaseWrapper) -> Schema:
        """Read the whole schema from one snapshot. One round trip."""
        return read_schema(connection)

    def read_details(
        self, connection: BaseDatabaseWrapper, schema: Schema, *, count_rows: bool
    ) -> Mapping[QualifiedName, TableDetails]:
        return read_details(connection, schema, count_rows=count_rows)

    def read_state(
        self,
        connection: BaseDatabaseWrapper,
        *,
        lock_timeout: float,
        baseline: Baseline | None = None,
        schema: Schema | None = None,
    ) -> DatabaseState:
        """Find the tables that may hold rows and the sequences that have moved.

        One round trip. Before PostgreSQL 18 another one per 2,000 sequences if they are more, or the *schema* is not
        known: only their own row shows whether setval(…, false) or RESTART WITH moved them.
        """
        read = partial(read_rows, connection, lock_timeout=lock_timeout)
        copies = baseline_tables.counters(baseline.document) if baseline and baseline.document else "SELECT ''"
        names = ",".join(table.copy.name for table in baseline.tables.values()) if baseline and schema else ""
        sizes_of_copies = catalog.SIZES_OF.format(oids=catalog.COPY_OIDS.format(names=f"{{{names}}}"))
        sizes, *states_of = sizes_and_states(connection, schema)
        queries = (catalog.IDENTITY, catalog.TOKEN, copies, sizes, *states_of, *([sizes_of_copies] if names else []))
        try:
            (conditions, path, identity, token, ((copy_counters,),), size_rows, *others), shape = _read_with_shape(
                partial(read, often=schema is not None),
                queries,
                baseline.tables if baseline else (),
                baseline.migrations if baseline else (),
                first=(counters.CONDITIONS, catalog.SEARCH_PATH),
            )
        except DatabaseError as error:
            if schema is None or sqlstate(error)[:2] not in ABOUT_STATEMENTS:
                raise
            # A known sequence is gone or forbidden by now, or a pooler in between has lost a prepared statement.
            return self.read_state(connection, lock_timeout=lock_timeout, baseline=baseline)
        size_rows += others.pop() if names else []
        missing = {QualifiedName(schema, name): lacks for schema, name, _, lacks in size_rows if lacks}
        states, forbidden = read_all_states(read, others)
        return CountedState(
            identity=parse_identity(connection, identity[0]),
            token=parse_token(path, token),
            sizes={QualifiedName(schema, name): size for schema, name, size, _ in size_rows},
            states=states,
            missing=missing | dict.fromkeys(forbidden, "SELECT"),
            shape=shape,
            copies=copy_counters,
            conditions=Conditions.from_row(conditions[0]),
        )

    def count_rows(self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> dict[QualifiedName, int]:
        """Count rows by reading them. One round trip."""
        names = list(tables)
        counts = scalars(connection, [f"SELECT pg_catalog.count(*) FROM ONLY {quote(name)}" for name in names])
        return dict(zip(names, counts, strict=True))

    def count_references(
        self, connection: BaseDatabaseWrapper, keys: Sequence[ForeignKey], baseline: Baseline | None = None
    ) -> tuple[int, ...]:
        """Count the referring rows by reading them. One round trip."""
        copies = baseline.tables if baseline is not None else {}
        read = {table.copy.name for key in keys if (table := copies.get(key.referenced)) is not None}
        queries = [count_referring(key, copies.get(key.referenced)) for key in keys]
        try:
            with baseline_tables.copies_made(connection, baseline):
                return tuple(scalars(connection, queries, proof=prove_own_schema(read) if read else None))
        except DatabaseError as error:
            if reason := find_refusal(error):
                raise explain_refusal(connection, reason) from error
            raise

    def write_sql(self, connection: BaseDatabaseWrapper, plan: ResetPlan, context: ScriptContext) -> Script:
        """Write the SQL of a plan; see :mod:`testdb_app.backends.postgresql.operations`."""
        return operations.write_script(plan, context)

    def renew_session(self, connection: BaseDatabaseWrapper, *, mode: str) -> bool:
        return session_reset.renew_session(connection, mode=mode)

    def release_session(self, connection: BaseDatabaseWrapper, *, keep: bool) -> None:
        session_reset.release_session(connection, keep=keep)

    def drop_stale_session(self, connection: BaseDatabaseWrapper) -> None:
        session_reset.drop_stale_session(connection)

    def transaction_status(self, connection: BaseDatabaseWrapper) -> TransactionStatus:
        return transaction_status(connection)

    def look_for_commits(self, connection: BaseDatabaseWrapper, since: Position | None) -> tuple[Position | None, bool]:
        return check_for_commits(connection, since)

    def is_schema_same(self, before: Position | None, after: Position | None) -> bool:
        return is_schema_same(before, after)

    def find_written(self, before: Position | None, after: Position | None) -> frozenset[int] | None:
        return find_written(before, after)

    def read_objects(self, connection: BaseDatabaseWrapper) -> frozenset[str]:
        """List the user's objects. One round trip."""
        (rows,) = read_rows(connection, [catalog.OBJECTS], lock_timeout=_READING_TIMEOUT)
        return frozenset(f"{kind} {name}" for kind, name in rows)

    def note_start(self, connection: BaseDatabaseWrapper) -> Position | None:
        return note_start(connection)

    def is_unwritten(self, connection: BaseDatabaseWrapper, start: Position) -> bool:
        return is_unwritten(connection, start)

    def begin(self, connection: BaseDatabaseWrapper, savepoint: str, limits: Mapping[str, int]) -> None:
        """Begin, make the savepoint and set the limits, in one message.

        By itself psycopg sends BEGIN before the first statement, in a message of its own; it sends none in a transaction.
        """
        _send(connection, _begin(connection.connection), f"SAVEPOINT {savepoint}", *_set(limits, "LOCAL"))

    def undo(self, connection: BaseDatabaseWrapper, savepoint: str) -> None:
        """Roll back to the savepoint, which proves that it exists, and end the transaction, in one message."""
        _send(connection, f"ROLLBACK TO SAVEPOINT {savepoint}", "ROLLBACK")

    def limit(
        self, connection: BaseDatabaseWrapper, limits: Mapping[str, int], *, local: bool = False
    ) -> Mapping[str, str]:
        """Set the limits for the session, or the transaction, and return the earlier ones. One round trip."""
        names = list(limits)
        columns = ", ".join(f"pg_catalog.current_setting({quote_literal(name)})" for name in names)
        earlier, *_ = run_sql(
            connection, ";\n".join((f"SELECT {columns}", *_set(limits, "LOCAL" if local else "SESSION")))
        )
        return dict(zip(names, rows_of(earlier)[0], strict=True))

    def lift(self, connection: BaseDatabaseWrapper, earlier: Mapping[str, str]) -> None:
        """Put the session's limits back. One round trip."""
        run_sql(
            connection,
            ";\n".join(f"SET SESSION {name} = {quote_literal(value)}" for name, value in earlier.items()),
        )

    def classify(self, error: BaseException) -> Failure:
        """Return why the server refused, by SQLSTATE."""
        return _FAILURES.get(sqlstate(error), Failure.OTHER)

    def find_blockers(
        self, connection: BaseDatabaseWrapper, pid: object, sql: str, error: BaseException
    ) -> list[Blocker]:
        return find_blockers(connection, pid, sql, error)

    def explain(self, connection: BaseDatabaseWrapper, error: Error, *, doing: str) -> TestDBError:
        """Return the package's error; see :func:`testdb_app.backends.postgresql.errors.translate`."""
        return translate(connection, error, None, doing=doing)

    @contextmanager
    def catalog_first(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        """Put ``pg_catalog`` before the ``search_path``, in a transaction.

        Django names no schema, and compares columns of the catalog with others of exactly their type: there the first
        schema counts.
        """
        with transaction.atomic(using=connection.alias):
            first = "pg_catalog.concat('pg_catalog, ', pg_catalog.current_setting('search_path'))"
            run_sql(connection, f"SELECT pg_catalog.set_config('search_path', {first}, true)")
            yield

    def write_restarts(self, connection: BaseDatabaseWrapper, schema: Schema, baseline: Baseline) -> tuple[str, ...]:
        """Write the restarts of the sequences that belong to a column, as Django finds them. Other sequences are left out."""
        moved = {name for name, state in baseline.sequences.items() if state.is_called or state.last_value != 1}
        first = SequenceState(last_value=1, is_called=False)
        return tuple(
            f"SELECT {operations.set_sequence(sequence.name, first)}"
            for sequence in schema.sequences
            if sequence.name in moved
            and any(use.how in {"identity", "owned"} for use in sequence.uses)
            and baseline.tables.keys().isdisjoint(sequence.tables)
        )

    def check_deferred(self, connection: BaseDatabaseWrapper) -> None:
        """Check deferred constraints now. One round trip."""
        run_sql(connection, "SET CONSTRAINTS ALL IMMEDIATE")

    def change_tracker(self, schema: Schema, baseline: Baseline | None) -> PostgreSQLChangeTracker:
        """Return a change tracker that uses PostgreSQL's own counters; see :mod:`testdb_app.backends.postgresql.counters`."""
        return PostgreSQLChangeTracker(schema)

    def run(
        self, connection: BaseDatabaseWrapper, script: Script, *, within_transaction: bool
    ) -> dict[QualifiedName, RowChanges]:
        """Run *script*, in one round trip if it has nothing to check or verify."""
        try:
            with rolled_back_on_error(connection, savepoint=within_transaction):
                if not script.checks and not script.verify:
                    return execute(connection, script.statements)
                execute(connection, script.opening)
                script.refuse_references(self.count_references(connection, script.checks, script.baseline))
                removed = execute(connection, script.body)
                self._verify(connection, script)
                execute(connection, script.closing)
                return removed
        except (DatabaseError, InterfaceError) as error:
            raise explain(connection, error, script) from error

    def _verify(self, connection: BaseDatabaseWrapper, script: Script) -> None:
        found = scalars(
            connection,
            [f"SELECT EXISTS (SELECT FROM ONLY {quote(name)})::integer" for name in script.verify],
        )
        remaining = [str(name) for name, has_rows in zip(script.verify, found, strict=True) if has_rows]
        if remaining:
            raise RowsRemainError(
                f"After the deletion there are rows again in {', '.join(remaining)}: a trigger or a rule wrote or kept "
                "them, and the role may not switch it off. Nothing was changed. Connect as the owner of the tables, or "
                "exclude them.",
                tables=remaining,
            )

    def set_mark(
        self,
        connection: BaseDatabaseWrapper,
        mark: Mark,
        *,
        present: bool,
        identity: DatabaseIdentity | None = None,
    ) -> None:
        """Set or remove a mark; see :func:`testdb_app.backends.postgresql.operations.write_mark`."""
        identity = identity or self.identify(connection)
        # Several statements in one message are one transaction.
        proof = Precondition.of(identity, reads=None, may_be_protected=True).prove()
        mark_it = operations.write_mark(mark, write_binding(identity), present=present)
        try:
            run_sql(connection, f"{proof};\n{mark_it}")
        except DatabaseError as error:
            if reason := find_refusal(error):
                raise explain_refusal(connection, reason, "mark") from error
            raise

    def count_changes(
        self, connection: BaseDatabaseWrapper, baseline: Baseline, tables: Iterable[QualifiedName]
    ) -> dict[QualifiedName, RowChanges]:
        """Compare tables with their copies. One round trip."""
        names = [name for name in tables if name in baseline.tables]
        queries = [operations.count_changes(baseline.tables[name]) for name in names]
        copies = [baseline.tables[name].copy.name for name in names]
        queries = [prove_own_schema(copies), EXACT_TEXT, *queries]
        with baseline_tables.copies_made(connection, baseline):
            results = read_rows(connection, queries, lock_timeout=_READING_TIMEOUT, safe_path=False)[2:]
        counts = (rows[0] for rows in results)
        return {
            name: RowChanges(removed=removed, updated=updated, inserted=inserted)
            for name, (removed, updated, inserted) in zip(names, counts, strict=True)
        }

    def read_baseline(self, connection: BaseDatabaseWrapper, state: str = BASELINE) -> Baseline | None:
        """Read the document of the baseline. One round trip, or two if there is one."""
        return baseline_tables.read_baseline(connection, state)

    def compare_earlier(self, connection: BaseDatabaseWrapper, schema: Schema) -> EarlierFormat:
        """Compare the text of every row. One round trip for all tables, and others for the document and the sequences."""
        return baseline_tables.compare_earlier(connection, schema)

    def read_shape(
        self, connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
    ) -> dict[str, str]:
        """Describe the tables, with partitions and parents, and the columns and keys of those with copies. One round trip."""
        # It leaves no setting behind, also in the caller's transaction.
        read = partial(read_rows, connection, lock_timeout=_READING_TIMEOUT)
        return make_shape(schema, _read_with_shape(read, (), tables, migration_tables(schema), with_kinds=True)[1])

    def write_baseline(self, connection: BaseDatabaseWrapper, capture: Capture) -> Baseline:
        """Capture; see :mod:`testdb_app.backends.postgresql.baseline`."""
        return baseline_tables.write_baseline(connection, capture)

    def rewrite_baseline(
        self,
        connection: BaseDatabaseWrapper,
        baseline: Baseline,
        state: str = BASELINE,
        *,
        identity: DatabaseIdentity | None = None,
    ) -> Baseline:
        """Replace the document."""
        return baseline_tables.rewrite_baseline(connection, baseline, state, identity)

    def carry_baseline(self, source: BaseDatabaseWrapper, target: BaseDatabaseWrapper, baseline: Baseline) -> Baseline:
        return baseline_tables.carry_baseline(source, target, baseline)

    def drop_baseline(self, connection: BaseDatabaseWrapper, *, identity: DatabaseIdentity | None = None) -> None:
        """Drop the document and the copies."""
        baseline_tables.drop_baseline(connection, identity)


def _read_with_shape(
    read: Callable[..., list[list[tuple[Any, ...]]]],
    queries: Sequence[str],
    tables: Iterable[QualifiedName],
    migrations: Iterable[QualifiedName],
    *,
    first: Sequence[str] = (),
    with_kinds: bool = False,
) -> tuple[list[list[tuple[Any, ...]]], dict[str, str]]:
    """Run *first* and *queries*, and read what a baseline depends on. One round trip, or more if a list of migrations is gone.

    The other queries read the catalog alone. That list is a table of the user's, which a test may have dropped, renamed,
    altered or revoked. So reading it may fail, and the failure is recorded in the shape.
    """
    tables, migrations = list(tables), list(migrations)
    number = len(first) + len(queries)
    try:
        rows = read((*queries, *shape_queries(tables, migrations, with_kinds=with_kinds)), first=first)
        return rows[:number], parse_shape(rows[number:])
    except DatabaseError as error:
        if not migrations or sqlstate(error)[:2] not in ABOUT_OBJECTS:
            raise
    rows = read((*queries, *shape_queries(tables, (), with_kinds=with_kinds)), first=first)
    shape = parse_shape(rows[number:])
    for name in migrations:
        try:
            shape |= parse_shape(read(shape_queries((), [name])))
        except DatabaseError as error:
            if sqlstate(error)[:2] not in ABOUT_OBJECTS:
                raise
            shape |= unreadable(name, error)
    return rows[:number], shape


BACKEND = PostgreSQLBackend()
