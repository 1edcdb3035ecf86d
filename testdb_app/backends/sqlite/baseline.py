"""The baseline inside a SQLite database: tables ``testdb_baseline_1`` … with copies of rows, and ``testdb_baseline``.

All are in "main", so that they are in the file, and go with it wherever it is copied. ``testdb_baseline`` has one row, a
JSON document that says what they are copies of, where the sequences were and what all that depends on.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from testdb_app.backends.base import OWN_SCHEMA, DatabaseIdentity, has_autocommit
from testdb_app.backends.sqlite.catalog import Catalog, read_catalog
from testdb_app.backends.sqlite.errors import execute, fetch, in_transaction
from testdb_app.backends.sqlite.restoring import make_copy
from testdb_app.backends.sqlite.scope import DOCUMENTS, is_baseline_table
from testdb_app.backends.sqlite.sequences import read_states
from testdb_app.backends.sqlite.shapes import TableShape, describe_shapes, find_rowid, read_migrations, read_shapes
from testdb_app.backends.sqlite.snapshot import all_or_nothing, kept_pragmas, snapshot
from testdb_app.backends.sqlite.sql import fold, quote_literal, quote_qualified
from testdb_app.baseline_document import from_document, to_document
from testdb_app.exceptions import BaselineError, ConcurrencyError, TransactionStateError, UnsupportedError
from testdb_app.schema import QualifiedName, Schema
from testdb_app.states import (
    BASELINE,
    Baseline,
    BaselineTable,
    SequenceState,
    describe_tables,
    migration_tables,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

TABLES = """
SELECT name
FROM "main".sqlite_master
WHERE type = 'table'
AND name LIKE 'testdb%'
ORDER BY name
"""


def read_baseline(connection: BaseDatabaseWrapper, state: str = BASELINE) -> Baseline | None:
    """Read the document; None where there is no such state. Raises :class:`BaselineError` if copies are missing."""
    own = DOCUMENTS[state]
    with snapshot(connection) as cursor:
        present = set(_own_tables(connection, cursor))
        if own not in present:
            return None
        rows = fetch(connection, cursor, f"SELECT document FROM {quote_qualified(own)}")
    baseline = (
        from_document(json.loads(rows[0][0]), where=f'database "{connection.settings_dict["NAME"]}"') if rows else None
    )
    missing = sorted({table.copy for table in baseline.tables.values()} - present) if baseline is not None else []
    if missing or baseline is None:
        raise BaselineError(
            f'The baseline of database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") is incomplete: '
            f"{', '.join(map(str, missing)) or f'the row of {own}'} is gone. Nothing was changed. Bring the database to "
            "the state that is meant and capture it again: resetdb --recapture, or capture_baseline(replace=True)."
        )
    return baseline


def read_shape(connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]) -> dict[str, str]:
    """Describe the tables, the columns and keys of those with copies, and the migrations that were applied."""
    with snapshot(connection) as cursor:
        catalog = read_catalog(connection, cursor)
        shapes = read_shapes(connection, cursor, catalog, tables)
        return _describe(connection, cursor, catalog, schema, shapes)


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
    """Capture, in one transaction that keeps other writers out. Costs a copy of every row.

    Raises :class:`UnsupportedError` for a virtual table with rows that cannot be kept exactly, and the like.
    """
    if in_transaction(connection) or not has_autocommit(connection):
        raise TransactionStateError(
            f'Refusing to capture a baseline: the connection "{connection.alias}" is inside a transaction. Capture outside.'
        )
    with connection.cursor() as settings, kept_pragmas(connection, settings, ("busy_timeout",)):
        execute(connection, settings, f"PRAGMA busy_timeout = {round(lock_timeout * 1000)}")
        with all_or_nothing(connection, "testdb_baseline") as cursor:
            catalog = read_catalog(connection, cursor)
            if catalog.token != schema.token:
                raise ConcurrencyError(
                    f'The schema of database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") was changed '
                    "while its baseline was about to be captured. Nothing was changed by the capture. Run it again.",
                    attempts=1,
                )
            _drop(connection, cursor, state)
            return _capture(connection, cursor, catalog, schema, sorted(tables), sorted(sequences), excluded, state)


def _capture(
    connection: BaseDatabaseWrapper,
    cursor: CursorWrapper,
    catalog: Catalog,
    schema: Schema,
    names: list[QualifiedName],
    sequences: list[QualifiedName],
    excluded: frozenset[QualifiedName],
    state: str,
) -> Baseline:
    filled = [name for name in names if _has_rows(connection, cursor, catalog.source(name))]
    shapes = read_shapes(connection, cursor, catalog, filled)
    _check_keepable(connection, catalog, shapes)
    tables = {}
    for number, name in enumerate(filled, 1):
        shape, copy = shapes[name], QualifiedName("main", f"{OWN_SCHEMA}_{state}_{number}")
        table = BaselineTable(name=name, copy=copy, rows=0, columns=shape.columns, key=shape.key)
        for sql in make_copy(table, shape):
            execute(connection, cursor, sql)
        tables[name] = BaselineTable(name=name, copy=copy, rows=cursor.rowcount, columns=shape.columns, key=shape.key)
    baseline = Baseline(
        captured_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        tables=tables,
        sequences=dict(_read_sequences(connection, cursor, catalog, sequences)),
        excluded=excluded,
        migrations=migration_tables(schema),
        shape=_describe(connection, cursor, catalog, schema, shapes),
    )
    # The texts of the catalog are the sign by which others see a change: with this one, also of the copies' rows alone.
    made = f"CREATE TABLE {quote_qualified(DOCUMENTS[state])} (document TEXT NOT NULL /* {baseline.captured_at} */)"
    execute(connection, cursor, made)
    document = quote_literal(json.dumps(to_document(baseline)))
    execute(connection, cursor, f"INSERT INTO {quote_qualified(DOCUMENTS[state])} VALUES ({document})")
    return baseline


def _has_rows(connection: BaseDatabaseWrapper, cursor: CursorWrapper, name: QualifiedName) -> bool:
    return bool(fetch(connection, cursor, f"SELECT 1 AS found FROM {quote_qualified(name)} LIMIT 1"))


def _check_keepable(connection: BaseDatabaseWrapper, catalog: Catalog, shapes: dict[QualifiedName, TableShape]) -> None:
    """Raise :class:`UnsupportedError` for tables whose rows cannot be put back as they are."""
    found = [
        f"{name} (a virtual table of {virtual.module}, whose rows it does not give back as it got them)"
        for name in shapes
        if (virtual := catalog.virtual.get(name)) is not None and not virtual.gives_back_rows
    ]
    found += [
        f"{name} (its columns hide the rowid by which its rows are told apart)"
        for name, shape in shapes.items()
        if shape.has_rowid and not shape.key and find_rowid(shape.columns) is None
    ]
    if found:
        raise UnsupportedError(
            f'A baseline of database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") cannot keep the rows '
            f"of {', '.join(found)}. Nothing was changed. Empty these tables first, or exclude them from the baseline."
        )


def _read_sequences(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, catalog: Catalog, sequences: list[QualifiedName]
) -> Iterator[tuple[QualifiedName, SequenceState]]:
    states = read_states(connection, cursor, catalog)
    for name in sequences:
        if name in states:
            state = states[name]
            if state is None:
                raise UnsupportedError(
                    f"A baseline cannot keep the sequence of {name}: its rows in sqlite_sequence are not as SQLite writes "
                    "them. Nothing was changed. Leave one row with an integer there, or none."
                )
            yield name, state


def _describe(
    connection: BaseDatabaseWrapper,
    cursor: CursorWrapper,
    catalog: Catalog,
    schema: Schema,
    shapes: dict[QualifiedName, TableShape],
) -> dict[str, str]:
    migrations = read_shapes(connection, cursor, catalog, migration_tables(schema))
    return describe_tables(schema) | describe_shapes(shapes) | read_migrations(connection, cursor, migrations)


def rewrite_baseline(
    connection: BaseDatabaseWrapper,
    baseline: Baseline,
    state: str = BASELINE,
    *,
    identity: DatabaseIdentity | None = None,
) -> None:
    """Replace the document."""
    document = quote_literal(json.dumps(to_document(baseline)))
    with all_or_nothing(connection, "testdb_baseline") as cursor:
        execute(connection, cursor, f"UPDATE {quote_qualified(DOCUMENTS[state])} SET document = {document}")


def drop_baseline(connection: BaseDatabaseWrapper, *, identity: DatabaseIdentity | None = None) -> None:
    """Drop the documents and the copies."""
    with snapshot(connection) as cursor:
        kept = [state for state, document in DOCUMENTS.items() if document in _own_tables(connection, cursor)]
    if kept:
        with all_or_nothing(connection, "testdb_baseline") as cursor:
            for state in kept:
                _drop(connection, cursor, state)


def _drop(connection: BaseDatabaseWrapper, cursor: CursorWrapper, state: str) -> None:
    document = DOCUMENTS[state]
    for name in _own_tables(connection, cursor):
        if fold(name.name) == document.name or fold(name.name).startswith(f"{document.name}_"):
            execute(connection, cursor, f"DROP TABLE {quote_qualified(name)}")


def _own_tables(connection: BaseDatabaseWrapper, cursor: CursorWrapper) -> list[QualifiedName]:
    names = [name for (name,) in fetch(connection, cursor, TABLES)]
    return [QualifiedName("main", name) for name in names if is_baseline_table(fold(name))]
