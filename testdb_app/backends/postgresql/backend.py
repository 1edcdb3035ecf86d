"""PostgreSQL, version 15 and later, through psycopg 3: the protocol's methods, each in as few round trips as it can be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import (
    DatabaseIdentity,
    Mark,
    Observation,
    Script,
    Step,
)
from testdb_app.backends.postgresql import catalog, operations
from testdb_app.backends.postgresql.connection import rolled_back_on_error, run_sql
from testdb_app.backends.postgresql.errors import is_connection_lost, translate
from testdb_app.backends.postgresql.introspection import parse_identity, read_schema
from testdb_app.backends.postgresql.queries import count_referring, execute, read_rows, rows_of, scalars
from testdb_app.backends.postgresql.sequences import all_sequence_states, displaced, sequence_states
from testdb_app.exceptions import RowsRemainError
from testdb_app.schema import ForeignKey, QualifiedName, Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class PostgreSQLBackend:
    """The backend for PostgreSQL. It keeps every promise, so it has no warning."""

    vendor = "postgresql"
    warning: str | None = None

    def identify(self, connection: BaseDatabaseWrapper) -> DatabaseIdentity:
        """Ask the live connection where it leads. One round trip."""
        (result,) = run_sql(connection, catalog.IDENTITY)
        return parse_identity(connection, rows_of(result)[0])

    def read_schema(self, connection: BaseDatabaseWrapper) -> Schema:
        """Read the whole map from one snapshot. One round trip."""
        with rolled_back_on_error(connection):
            return read_schema(connection)

    def observe(self, connection: BaseDatabaseWrapper, *, lock_timeout: float) -> Observation:
        """Look where rows may be and which sequences have moved.

        One round trip, and before PostgreSQL 18 another one per 2,000 sequences that were never called: only their
        own row tells whether setval(…, false) or RESTART WITH moved them.
        """
        read = partial(read_rows, connection, lock_timeout=lock_timeout)
        connection.ensure_connection()
        states = sequence_states(connection)
        identity, token, size_rows, *state_rows = read((catalog.IDENTITY, catalog.TOKEN, catalog.SIZES, *states))
        missing = {QualifiedName(schema, name): lacks for schema, name, _, lacks in size_rows if lacks}
        by_state: dict[str, dict[QualifiedName, int]] = {"moved": {}, "unread": {}, "unreadable": {}}
        for schema, name, state, start in all_sequence_states(read, state_rows):
            by_state[state][QualifiedName(schema, name)] = start
        missing |= dict.fromkeys(by_state["unreadable"], "SELECT")
        return Observation(
            identity=parse_identity(connection, identity[0]),
            token=token[0][0],
            sizes={QualifiedName(schema, name): size for schema, name, size, _ in size_rows},
            moved=frozenset(by_state["moved"]) | frozenset(displaced(read, list(by_state["unread"].items()))),
            missing=missing,
        )

    def count_rows(self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> dict[QualifiedName, int]:
        """Count rows by reading them. One round trip."""
        names = list(tables)
        counts = scalars(
            connection, [f"SELECT pg_catalog.count(*) FROM ONLY {operations.quote(name)}" for name in names]
        )
        return dict(zip(names, counts, strict=True))

    def count_references(self, connection: BaseDatabaseWrapper, keys: Sequence[ForeignKey]) -> tuple[int, ...]:
        """Count the referring rows by reading them. One round trip."""
        return tuple(scalars(connection, [count_referring(key) for key in keys]))

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
            with rolled_back_on_error(connection, savepoint=within_transaction):
                if not script.checks and not script.verify:
                    return execute(connection, script.statements)
                execute(connection, script.opening)
                script.refuse_references(self.count_references(connection, script.checks))
                removed = execute(connection, script.body)
                self._verify(connection, script)
                execute(connection, script.closing)
                return removed
        except (DatabaseError, InterfaceError) as error:
            failure = translate(connection, error, script.locks)
            if connection.connection is not None and is_connection_lost(connection, error):
                connection.close()
            raise failure from error

    def _verify(self, connection: BaseDatabaseWrapper, script: Script) -> None:
        found = scalars(
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
        """Put or take away a mark; see :func:`testdb_app.backends.postgresql.operations.write_mark`."""
        name = self.identify(connection).name
        run_sql(connection, operations.write_mark(mark, name, present=present))


BACKEND = PostgreSQLBackend()
