"""PostgreSQL, version 15 and later, through psycopg 3: the protocol's methods, each in as few round trips as it can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import (
    DatabaseIdentity,
    Mark,
    Observation,
    Script,
    Statement,
    Step,
    has_autocommit,
)
from testdb_app.backends.postgresql import catalog, operations
from testdb_app.backends.postgresql.connection import Result, run_sql
from testdb_app.backends.postgresql.errors import LOCK_NOT_AVAILABLE, is_connection_lost, sqlstate, translate
from testdb_app.backends.postgresql.introspection import parse_identity, read_schema
from testdb_app.exceptions import ExclusionError, RowsRemainError, UnsupportedError
from testdb_app.schema import ForeignKey, QualifiedName, Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_T = TypeVar("_T")

# Scalar subqueries in one statement: planning costs more than linearly in their number; 20 is the cheapest.
_SEQUENCES_A_STATEMENT = 20
# Each sequence read stays locked until the message ends; the lock table holds some 10,000 at its default.
_SEQUENCES_A_MESSAGE = 2_000
# Sizes of statements for counting, for the same reasons.
_TABLES_A_STATEMENT = 50


class PostgreSQLBackend:
    """The backend for PostgreSQL. It keeps every promise, so it has no warning."""

    vendor = "postgresql"
    warning: str | None = None

    def identify(self, connection: BaseDatabaseWrapper) -> DatabaseIdentity:
        """Ask the live connection where it leads. One round trip."""
        (result,) = run_sql(connection, catalog.IDENTITY)
        return parse_identity(connection, _rows(result)[0])

    def read_schema(self, connection: BaseDatabaseWrapper) -> Schema:
        """Read the whole map from one snapshot. One round trip."""
        with _rolled_back_on_error(connection):
            return read_schema(connection)

    def observe(self, connection: BaseDatabaseWrapper, *, lock_timeout: float) -> Observation:
        """Look where rows may be and which sequences have moved.

        One round trip, and before PostgreSQL 18 another one per 2,000 sequences that were never called: only their
        own row tells whether setval(…, false) or RESTART WITH moved them.
        """
        connection.ensure_connection()
        has_sequence_data = connection.pg_version >= 18_00_00  # type: ignore[attr-defined]
        states = catalog.SEQUENCE_STATES_18 if has_sequence_data else catalog.SEQUENCE_STATES
        read = partial(_read, connection, lock_timeout=lock_timeout)
        identity, token, size_rows, state_rows = read((catalog.IDENTITY, catalog.TOKEN, catalog.SIZES, states))
        missing = {QualifiedName(schema, name): lacks for schema, name, _, lacks in size_rows if lacks}
        by_state: dict[str, dict[QualifiedName, int]] = {"moved": {}, "unread": {}, "unreadable": {}}
        for schema, name, state, start in state_rows:
            by_state[state][QualifiedName(schema, name)] = start
        missing |= dict.fromkeys(by_state["unreadable"], "SELECT")
        return Observation(
            identity=parse_identity(connection, identity[0]),
            token=token[0][0],
            sizes={QualifiedName(schema, name): size for schema, name, size, _ in size_rows},
            moved=frozenset(by_state["moved"]) | frozenset(_displaced(read, list(by_state["unread"].items()))),
            missing=missing,
        )

    def count_rows(self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> dict[QualifiedName, int]:
        """Count rows by reading them. One round trip."""
        names = list(tables)
        counts = _scalars(
            connection, [f"SELECT pg_catalog.count(*) FROM ONLY {operations.quote(name)}" for name in names]
        )
        return dict(zip(names, counts, strict=True))

    def count_references(self, connection: BaseDatabaseWrapper, keys: Sequence[ForeignKey]) -> tuple[int, ...]:
        """Count the referring rows by reading them. One round trip."""
        return tuple(_scalars(connection, [_count_referring(key) for key in keys]))

    def script(
        self,
        connection: BaseDatabaseWrapper,
        schema: Schema,
        steps: Sequence[Step],
        *,
        checks: Sequence[ForeignKey],
        verify: Sequence[QualifiedName],
        lock_timeout: float,
        within_transaction: bool,
    ) -> Script:
        """Write the SQL of a plan; see :mod:`testdb_app.backends.postgresql.operations`."""
        return operations.write_script(
            schema,
            steps,
            checks=checks,
            verify=verify,
            lock_timeout=lock_timeout,
            within_transaction=within_transaction,
        )

    def run(
        self, connection: BaseDatabaseWrapper, script: Script, *, within_transaction: bool
    ) -> dict[QualifiedName, int]:
        """Run *script*, in one round trip where it has nothing to check or verify."""
        try:
            with _rolled_back_on_error(connection, savepoint=within_transaction):
                if not script.checks and not script.verify:
                    return _execute(connection, script.statements)
                _execute(connection, script.opening)
                self._check(connection, script)
                removed = _execute(connection, script.body)
                self._verify(connection, script)
                _execute(connection, script.closing)
                return removed
        except (DatabaseError, InterfaceError) as error:
            failure = translate(connection, error, script.locks)
            if connection.connection is not None and is_connection_lost(connection, error):
                connection.close()
            raise failure from error

    def _check(self, connection: BaseDatabaseWrapper, script: Script) -> None:
        for key, count in zip(script.checks, self.count_references(connection, script.checks), strict=True):
            if count:
                raise ExclusionError(
                    f"{count} row(s) of {key.table}, which stays, refer to rows that would go: {key}. Nothing was changed. "
                    f"Reset {key.table} too, or exclude {key.referenced} as well.",
                    references=[(str(key), count)],
                )

    def _verify(self, connection: BaseDatabaseWrapper, script: Script) -> None:
        found = _scalars(
            connection,
            [f"SELECT EXISTS (SELECT FROM ONLY {operations.quote(name)})::integer" for name in script.verify],
        )
        remaining = [str(name) for name, has_rows in zip(script.verify, found, strict=True) if has_rows]
        if remaining:
            raise RowsRemainError(
                f"After the deletion there are rows again in {', '.join(remaining)}: a trigger or a rule wrote or kept "
                "them, and the role may not switch it off. Nothing was changed. Connect as the owner of the tables, or "
                "exclude them.",
                tables=remaining,
            )

    def set_mark(self, connection: BaseDatabaseWrapper, mark: Mark, *, present: bool) -> None:
        """Make or drop the table ``testdb.protected`` or ``testdb.test``; a dump or a template copy carries it along.

        The name of the database that a test mark is for is the table's comment. Needs CREATE on the database.
        """
        name = self.identify(connection).name
        if present:
            sql = [
                "CREATE SCHEMA IF NOT EXISTS testdb",
                f"CREATE TABLE IF NOT EXISTS testdb.{mark} ()",
                f"COMMENT ON TABLE testdb.{mark} IS {operations.quote_literal(name)}",
            ]
        else:
            sql = [
                f"DROP TABLE IF EXISTS testdb.{mark}",
                # It stays where it is somebody else's, or has something else in it.
                (
                    "DO $$BEGIN DROP SCHEMA IF EXISTS testdb RESTRICT; "
                    "EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN END$$"
                ),
            ]
        run_sql(connection, ";\n".join(sql))


BACKEND = PostgreSQLBackend()


@contextmanager
def _rolled_back_on_error(connection: BaseDatabaseWrapper, *, savepoint: bool = False) -> Iterator[None]:
    """Leave no transaction of ours open, however the block ends; in the caller's, go back to our savepoint."""
    try:
        yield
    except BaseException:
        with suppress(DatabaseError, InterfaceError):
            if savepoint:
                run_sql(connection, "ROLLBACK TO SAVEPOINT testdb_reset;\nRELEASE SAVEPOINT testdb_reset")
            elif has_autocommit(connection) and connection.connection is not None and not connection.connection.closed:
                run_sql(connection, "ROLLBACK")
        raise


def _read(
    connection: BaseDatabaseWrapper, queries: Sequence[str], *, lock_timeout: float
) -> list[list[tuple[Any, ...]]]:
    """Run queries with bounded waits for locks, and leave no trace of that in the session. One round trip.

    Raises :class:`~testdb_app.exceptions.LockTimeoutError`.
    """
    nested = not has_autocommit(connection)
    # Several statements in one message are one transaction, in which SET LOCAL holds.
    before = [f"SET LOCAL lock_timeout = '{operations.milliseconds(lock_timeout)}ms'"]
    after: list[str] = []
    if nested:
        before.insert(0, "SAVEPOINT testdb_reset")
        after = ["ROLLBACK TO SAVEPOINT testdb_reset", "RELEASE SAVEPOINT testdb_reset"]
    try:
        with _rolled_back_on_error(connection, savepoint=nested):
            results = run_sql(connection, ";\n".join((*before, *queries, *after)))
    except DatabaseError as error:
        if sqlstate(error) == LOCK_NOT_AVAILABLE:
            raise translate(connection, error, None) from error
        raise
    return [_rows(result) for result in results[len(before) : len(before) + len(queries)]]


def _rows(result: Result) -> list[tuple[Any, ...]]:
    if result.rows is None:
        raise UnsupportedError(
            "The server returned no rows for a query: a proxy between does not pass several statements in one message. "
            "Connect to PostgreSQL directly, or through a pool that passes the simple query protocol."
        )
    return result.rows


def _execute(connection: BaseDatabaseWrapper, statements: Sequence[Statement]) -> dict[QualifiedName, int]:
    if not statements:
        return {}
    results = run_sql(connection, ";\n".join(statement.sql for statement in statements))
    removed: dict[QualifiedName, int] = {}
    for statement, result in zip(statements, results, strict=True):
        if len(statement.counts) == 1:
            removed[statement.counts[0]] = result.row_count
        elif statement.counts:
            removed |= dict(zip(statement.counts, _rows(result)[0], strict=True))
    return removed


def _scalars(connection: BaseDatabaseWrapper, queries: Sequence[str]) -> list[int]:
    """Run queries of one number each, some in one statement, all in one round trip."""
    if not queries:
        return []
    statements = [
        "SELECT ARRAY[" + ", ".join(f"({query})" for query in chunk) + "]::bigint[]"
        for chunk in _chunks(queries, _TABLES_A_STATEMENT)
    ]
    return [number for result in run_sql(connection, ";\n".join(statements)) for number in _rows(result)[0][0]]


def _displaced(
    read: Callable[[Sequence[str]], list[list[tuple[Any, ...]]]], sequences: Sequence[tuple[QualifiedName, int]]
) -> Iterator[QualifiedName]:
    """Yield those of *sequences* (name, start), none of which was called, whose next value is not their start."""
    for message in _chunks(sequences, _SEQUENCES_A_MESSAGE):
        queries = [
            "SELECT ARRAY["
            + ", ".join(f"(SELECT last_value FROM {operations.quote(name)})" for name, _ in chunk)
            + "]::bigint[]"
            for chunk in _chunks(message, _SEQUENCES_A_STATEMENT)
        ]
        values = [value for rows in read(queries) for value in rows[0][0]]
        yield from (name for (name, start), value in zip(message, values, strict=True) if value != start)


def _count_referring(key: ForeignKey) -> str:
    """Count the rows whose key columns are all set: with MATCH SIMPLE and MATCH FULL alike only those refer."""
    condition = " AND ".join(f"{operations.quote(column)} IS NOT NULL" for column in key.columns)
    return f"SELECT pg_catalog.count(*) FROM ONLY {operations.quote(key.table)} WHERE {condition}"


def _chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
