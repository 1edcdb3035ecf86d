"""The data helpers on PostgreSQL: rows by COPY, keys, the states of tables, constraints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError

from testdb_app.backends.base import BaseDataBackend, DatabaseIdentity
from testdb_app.backends.postgresql import catalog, snapshots
from testdb_app.backends.postgresql.baseline_shape import EXACT_TEXT, TableShape
from testdb_app.backends.postgresql.connection import Command, raw_cursor, run_sql
from testdb_app.backends.postgresql.constraints import find_late_sequences, find_violations
from testdb_app.backends.postgresql.introspection import parse_token, read_schema
from testdb_app.backends.postgresql.operations import accept_deletes, comparable_operators, comparable_rows
from testdb_app.backends.postgresql.preconditions import Precondition, explain_refusal, find_refusal, prove_own_schema
from testdb_app.backends.postgresql.queries import chunks, read_rows, rows_of
from testdb_app.backends.postgresql.snapshots import run_queries, store_state
from testdb_app.backends.postgresql.sql import EQUALS, quote, quote_literal
from testdb_app.baseline_state import Baseline, BaselineTable
from testdb_app.diff import TableDifference
from testdb_app.exceptions import UnsupportedError
from testdb_app.schema import QualifiedName, Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.backends.base import StoredState
    from testdb_app.diff import LateSequence, Violation

_LOCK_TIMEOUT = 60.0
_COMPARISONS_A_MESSAGE = 20


class PostgreSQLData(BaseDataBackend):
    """See :class:`testdb_app.backends.base.BaseDataBackend`."""

    def store_state(self, connection: BaseDatabaseWrapper, tables: frozenset[QualifiedName] | None) -> StoredState:
        return store_state(connection, tables)

    def find_violations(self, connection: BaseDatabaseWrapper, schema: Schema, limit: int) -> list[Violation]:
        return find_violations(connection, schema, limit)

    def find_late_sequences(self, connection: BaseDatabaseWrapper, schema: Schema) -> list[LateSequence]:
        return find_late_sequences(connection, schema)

    def quote(self, connection: BaseDatabaseWrapper, name: QualifiedName | str) -> str:
        """Quote an identifier, or a qualified one."""
        return quote(name)

    def read_schema(self, connection: BaseDatabaseWrapper, before: Schema | None) -> Schema:
        """Return *before* if its token is still the schema's. One round trip, or two."""
        if before is not None:
            path, token = read_rows(connection, [catalog.TOKEN], first=[catalog.SEARCH_PATH])
            if parse_token(path, token) == before.token:
                return before
        return read_schema(connection)

    def read_keys(
        self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]
    ) -> Mapping[QualifiedName, tuple[str, ...]]:
        """Return the primary key of each table, or its narrowest unique key over columns that are never null."""
        names = sorted(tables)
        rows = read_rows(connection, snapshots.shapes_of(names), lock_timeout=_LOCK_TIMEOUT)[1] if names else []
        return {shape.name: shape.key for shape in map(TableShape.from_row, rows)}

    def prove(self, connection: BaseDatabaseWrapper, identity: DatabaseIdentity, schema: Schema) -> None:
        """See :mod:`testdb_app.backends.postgresql.preconditions`. One round trip."""
        try:
            run_sql(connection, Precondition.of(identity, owners=schema.trusted_owners).prove())
        except DatabaseError as error:
            if reason := find_refusal(error):
                raise explain_refusal(connection, reason, "write to") from error
            raise

    def comparison(self, sign: str) -> str:
        """Write the operator of the catalog."""
        return f"OPERATOR(pg_catalog.{sign})"

    def read_equality(
        self, connection: BaseDatabaseWrapper, table: QualifiedName, columns: Sequence[str]
    ) -> tuple[str, ...]:
        """Return the operators of the table's key. One round trip."""
        rows = read_rows(connection, snapshots.shapes_of([table]), lock_timeout=_LOCK_TIMEOUT)[1]
        shapes = [TableShape.from_row(row) for row in rows]
        known = {name: found for shape in shapes for name, found in zip(shape.key, shape.operators, strict=True)}
        return tuple(known.get(column, EQUALS) for column in columns)

    @contextmanager
    def accepting_deletes(
        self, connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
    ) -> Iterator[None]:
        """Give published tables without a key the replica identity FULL for the block. Two round trips if there are any."""
        names = list(tables)
        full, back = accept_deletes(schema, names)
        if not full:
            yield
            return
        # A table with pending events of deferred keys cannot be altered.
        now = "SET CONSTRAINTS ALL IMMEDIATE"
        run_sql(connection, ";\n".join((now, *full)))
        yield
        # In the caller's transaction the keys are deferred again.
        deferred = sorted(
            {
                f"{quote(key.table.schema)}.{quote(key.name)}"
                for key in schema.enforced_foreign_keys
                if key.deferrable and key.initially_deferred
            }
        )
        later = [f"SET CONSTRAINTS {', '.join(deferred)} DEFERRED"] if deferred else []
        run_sql(connection, ";\n".join((now, *back, *later)))

    def delete_together(
        self, connection: BaseDatabaseWrapper, deletes: Sequence[tuple[QualifiedName, str, Sequence[Any]]]
    ) -> list[int]:
        """Delete in one statement. Even keys that cannot be deferred are checked at its end."""
        parts = [
            f"d{number} AS (DELETE FROM {quote(table).replace('%', '%%')} WHERE {condition} RETURNING 1)"
            for number, (table, condition, _) in enumerate(deletes)
        ]
        counts = ", ".join(f"(SELECT pg_catalog.count(*) FROM d{number})" for number in range(len(deletes)))
        with connection.cursor() as cursor:
            values = [value for *_, parameters in deletes for value in parameters]
            cursor.execute(f"WITH {', '.join(parts)} SELECT {counts}", values)
            return [int(count) for count in cursor.fetchone()]

    def insert_rows(
        self, connection: BaseDatabaseWrapper, table: QualifiedName | str, columns: Sequence[str], rows: Iterable[Any]
    ) -> int:
        """Insert by one COPY. The values are those that Django's fields prepare for psycopg."""
        listed = f" ({', '.join(map(quote, columns))})" if columns else ""
        count = 0
        with raw_cursor(connection) as cursor, cursor.copy(f"COPY {quote(table)}{listed} FROM STDIN") as copy:
            write_row = copy.write_row
            for row in rows:
                write_row(row)
                count += 1
        return count

    def reserve_keys(self, connection: BaseDatabaseWrapper, table: str, column: str, number: int) -> Sequence[int]:
        """Call the column's sequence that many times, in one query."""
        sequence = f"pg_catalog.pg_get_serial_sequence({quote_literal(table)}, {quote_literal(column)})"
        (result,) = run_sql(
            connection,
            f"SELECT CASE WHEN {sequence} IS NOT NULL THEN ARRAY(SELECT pg_catalog.nextval({sequence}) "
            f"FROM pg_catalog.generate_series(1, {number})) END",
        )
        keys = rows_of(result)[0][0]
        if keys is None:
            raise UnsupportedError(
                f"No sequence belongs to {table}({column}), so keys cannot be reserved. Give each row its key."
            )
        return list(keys)

    def compare_with_baseline(
        self,
        connection: BaseDatabaseWrapper,
        baseline: Baseline | None,
        tables: Iterable[QualifiedName],
        limit: int,
    ) -> list[TableDifference]:
        """Compare each table with its copy, or with no rows. One round trip per 20 tables."""
        names = sorted(tables)
        copies = baseline.tables if baseline is not None else {}
        shapes = read_rows(connection, snapshots.shapes_of(names), lock_timeout=_LOCK_TIMEOUT)[1] if names else []
        columns = snapshots.parse_relations([], shapes).columns
        found = []
        for chunk in chunks(names, _COMPARISONS_A_MESSAGE):
            proof = prove_own_schema(copies[name].copy.name for name in chunk if name in copies)
            queries = [_compare(name, columns[name], copies.get(name), limit) for name in chunk]
            _, _, *results = run_queries(connection, [Command(query) for query in (proof, EXACT_TEXT, *queries)])
            compared = zip(chunk, results, strict=True)
            found += [snapshots.parse_differences(name, columns[name], rows) for name, rows in compared]
        return [difference for difference in found if difference is not None]


def _compare(name: QualifiedName, columns: snapshots.Columns, kept: BaselineTable | None, limit: int) -> str:
    if kept is None:
        return snapshots.differences(columns, snapshots.no_rows(name), snapshots.live(name), limit)
    comparable = replace(columns, key=kept.key, operators=comparable_operators(kept))
    return snapshots.differences(comparable, quote(kept.copy), comparable_rows(kept), limit)
