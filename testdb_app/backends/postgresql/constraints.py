"""Find rows that violate constraints, and sequences that are behind their tables.

Checks that wait for the end of the transaction run now, inside a savepoint, by SET CONSTRAINTS ALL IMMEDIATE: foreign
keys, unique and exclusion constraints, constraint triggers. That stops at the first violation. So queries search foreign
keys and deferrable unique keys as well, and find all violations. They also find rows that no check would find: rows
written under ``session_replication_role``, before a key was validated, or while its triggers were disabled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError

from testdb_app.backends.base import has_autocommit
from testdb_app.backends.postgresql.baseline import read_states
from testdb_app.backends.postgresql.connection import run_sql
from testdb_app.backends.postgresql.queries import chunks, lacks_referenced, read_rows
from testdb_app.backends.postgresql.sql import quote
from testdb_app.diff import LateSequence, Violation
from testdb_app.schema import ForeignKey, QualifiedName, Schema, SequenceUse, TableKind
from testdb_app.schema import SequenceInfo as SequenceValue

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_QUERIES_A_MESSAGE = 50
_LOCK_TIMEOUT = 60.0
_MOST_CHARACTERS = 200

# name, schema, table, columns, whether NULLs are equal, of the deferrable unique constraints
_DEFERRABLE_KEYS = """
SELECT k.conname::text, n.nspname::text, c.relname::text,
       ARRAY(SELECT a.attname::text
               FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u(number, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number
              ORDER BY u.place),
       i.indnullsnotdistinct
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_index i ON i.indexrelid = k.conindid
 WHERE k.contype IN ('p', 'u') AND k.condeferrable AND c.relkind = 'r' AND c.relpersistence <> 't'
 ORDER BY n.nspname, c.relname, k.conname
"""


def find_violations(connection: BaseDatabaseWrapper, schema: Schema, limit: int) -> list[Violation]:
    """Find the rows that break a key, at most *limit* values of each, and the first other violation that SET CONSTRAINTS finds.

    One round trip per 50 foreign keys, and one or two more.
    """
    (unique_rows,) = read_rows(connection, [_DEFERRABLE_KEYS], lock_timeout=_LOCK_TIMEOUT)
    uniques = [
        (name, QualifiedName(space, table), columns, equal) for name, space, table, columns, equal in unique_rows
    ]
    found = [
        Violation(
            constraint=key.name,
            kind="foreign key",
            table=str(key.table),
            columns=key.columns,
            values=tuple(values),
            referenced=f"{key.referenced}({', '.join(key.referenced_columns)})",
            rows=rows,
        )
        for key, (values, rows) in _query(
            connection, [(key, _dangling(schema, key, limit)) for key in schema.declared_foreign_keys if key.enforced]
        )
    ]
    found += [
        Violation(
            constraint=name, kind="unique", table=str(table), columns=tuple(columns), values=tuple(values), rows=rows
        )
        for (name, table, columns, _), (values, rows) in _query(
            connection, [(unique, _repeated(*unique[1:], limit)) for unique in uniques]
        )
    ]
    pending = _check_pending(connection)
    told = {(violation.table, violation.constraint) for violation in found}
    if pending is not None and (pending.table, pending.constraint) not in told:
        found.append(pending)
    return found


def _query(connection: BaseDatabaseWrapper, queries: Sequence[tuple[Any, str]]) -> Iterator[tuple[Any, Any]]:
    for chunk in chunks(queries, _QUERIES_A_MESSAGE):
        # The tables may have policies, which need the search path as it is.
        results = read_rows(connection, [query for _, query in chunk], lock_timeout=_LOCK_TIMEOUT, safe_path=False)
        for (what, _), rows in zip(chunk, results, strict=True):
            yield from ((what, row) for row in rows)


def _source(schema: Schema, table: QualifiedName) -> str:
    """Write a table with its partitions, but without inheritance children, to which its keys do not apply."""
    known = schema.by_name.get(table)
    is_partitioned = known is not None and known.kind is TableKind.PARTITIONED
    return quote(table) if is_partitioned else f"ONLY {quote(table)}"


def _dangling(schema: Schema, key: ForeignKey, limit: int) -> str:
    listed = ", ".join(
        f"pg_catalog.left(k.{quote(column)}::pg_catalog.text, {_MOST_CHARACTERS})" for column in key.columns
    )
    columns = ", ".join(f"k.{quote(column)}" for column in key.columns)
    lacks = lacks_referenced(key, _source(schema, key.referenced), lambda column: f"r.{quote(column)}")
    present = f" {'OR' if key.match_full else 'AND'} ".join(f"k.{quote(column)} IS NOT NULL" for column in key.columns)
    return (
        f"SELECT ARRAY[{listed}]::pg_catalog.text[], pg_catalog.count(*) FROM {_source(schema, key.table)} k WHERE ({present}) "
        f"AND {lacks} GROUP BY {columns} "
        f"ORDER BY 1 LIMIT {limit}"
    )


def _repeated(table: QualifiedName, columns: Sequence[str], nulls_are_equal: bool, limit: int) -> str:
    quoted = ", ".join(map(quote, columns))
    listed = ", ".join(f"pg_catalog.left({quote(column)}::pg_catalog.text, {_MOST_CHARACTERS})" for column in columns)
    present = "true" if nulls_are_equal else " AND ".join(f"{quote(column)} IS NOT NULL" for column in columns)
    return (
        f"SELECT ARRAY[{listed}]::pg_catalog.text[], pg_catalog.count(*) FROM ONLY {quote(table)} WHERE {present} "
        f"GROUP BY {quoted} HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1 ORDER BY 1 LIMIT {limit}"
    )


def _check_pending(connection: BaseDatabaseWrapper) -> Violation | None:
    """Run all checks that wait for the end of the transaction, and defer them again."""
    if has_autocommit(connection):
        return None
    try:
        run_sql(connection, "SAVEPOINT testdb_check;\nSET CONSTRAINTS ALL IMMEDIATE")
    except DatabaseError as error:
        what = getattr(error.__cause__, "diag", None)
        if what is None or not (what.sqlstate or "").startswith("23"):
            raise
        name = QualifiedName(what.schema_name or "", what.table_name or "")
        detail = " ".join(f"{what.message_primary} {what.message_detail or ''}".split())
        return Violation(constraint=what.constraint_name or "", kind="constraint", table=str(name), detail=detail)
    finally:
        run_sql(connection, "ROLLBACK TO SAVEPOINT testdb_check;\nRELEASE SAVEPOINT testdb_check")
    return None


def find_late_sequences(connection: BaseDatabaseWrapper, schema: Schema) -> list[LateSequence]:
    """Compare the next value of each sequence with the columns that use it. Costs an index lookup for each of these.

    A column that holds no numbers (``'A' || nextval(…)``) is left out. Values that a session has cached of a sequence
    with CACHE are not seen.
    """
    used = [sequence for sequence in schema.sequences if sequence.uses]
    states = read_states(connection, [sequence.name for sequence in used])
    asked: list[tuple[tuple[SequenceValue, SequenceUse], str]] = []
    for sequence in used:
        extreme = "max" if sequence.increment > 0 else "min"
        for use in sorted(set(sequence.uses), key=lambda use: (use.table, use.column)):
            value = f"pg_catalog.{extreme}({quote(use.column)})"
            query = f"SELECT {value}::pg_catalog.text, pg_catalog.pg_typeof({value})::pg_catalog.text FROM {quote(use.table)}"
            asked.append(((sequence, use), query))
    found: list[LateSequence] = []
    for (sequence, use), (furthest, kind) in _query(connection, asked):
        state = states[sequence.name]
        following = state.last_value + (sequence.increment if state.is_called else 0)
        if furthest is None or kind not in {"smallint", "integer", "bigint", "numeric"}:
            continue
        number = int(float(furthest)) if "." in furthest else int(furthest)
        if (following <= number) if sequence.increment > 0 else (following >= number):
            found.append(
                LateSequence(
                    sequence=sequence.name, next_value=following, table=use.table, column=use.column, furthest=number
                )
            )
    return found
