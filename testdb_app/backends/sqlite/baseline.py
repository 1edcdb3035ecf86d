"""The baseline inside a SQLite database: tables ``testdb_baseline_1`` … with copies of rows, and ``testdb_baseline``.

All are in "main", so that they are in the file and in every copy of it. ``testdb_baseline`` has one row, a JSON document.
It says what they are copies of, where the sequences were and what all that depends on.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from testdb_app.backends.base import OWN_SCHEMA, Capture, DatabaseIdentity, has_autocommit
from testdb_app.backends.sqlite.baseline_copies import (
    count_changes,
    count_copy,
    fill_copy,
    make_copy,
    read_copy,
    read_values,
)
from testdb_app.backends.sqlite.baseline_shape import (
    TableShape,
    describe_shapes,
    find_rowid,
    read_migrations,
    read_shapes,
)
from testdb_app.backends.sqlite.catalog import CARRIED, DOCUMENTS, Catalog, is_baseline_table, read_catalog
from testdb_app.backends.sqlite.connection import (
    all_or_nothing,
    describe_database,
    execute,
    fetch,
    in_transaction,
    kept_pragmas,
    snapshot,
)
from testdb_app.backends.sqlite.introspection import displaced, put_back, read_states
from testdb_app.backends.sqlite.parser import fold, quote_literal, quote_qualified
from testdb_app.baseline_state import (
    BASELINE,
    Baseline,
    BaselineTable,
    EarlierFormat,
    SequenceState,
    describe_tables,
    from_document,
    from_earlier_document,
    migration_tables,
    not_as_captured,
    to_document,
)
from testdb_app.exceptions import ConcurrencyError, ResetError, TransactionStateError, UnsupportedError
from testdb_app.schema import QualifiedName, Schema
from testdb_app.selection import make_scope

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


# The databases whose copies this process has verified, or made: by name and time of the capture.
_verified: set[tuple[str, str]] = set()


def read_baseline(connection: BaseDatabaseWrapper, state: str = BASELINE) -> Baseline | None:
    """Read the document; None if there is no such state. Verifies the copies at the first use in this process.

    Raises :class:`BaselineDamagedError` if a copy or the document is not as it was captured.
    """
    own, where = DOCUMENTS[state], describe_database(connection)
    with snapshot(connection) as cursor:
        present = set(_own_tables(connection, cursor))
        copies = [name for name in present if fold(name.name).startswith(f"{own.name}_")]
        if own not in present:
            if copies:
                raise not_as_captured(where, [f"its document, {own}, is gone, and copies are there"])
            return None
        rows = fetch(connection, cursor, f"SELECT document FROM {quote_qualified(own)}")
        if len(rows) != 1:
            raise not_as_captured(where, [f"its document, {own}, has {len(rows)} rows instead of one"])
        try:
            document = json.loads(rows[0][0])
        except (TypeError, ValueError) as error:
            raise not_as_captured(where, [f"its document cannot be read ({error})"]) from error
        baseline = from_document(document, where=where)
        missing = [table for table in baseline.tables.values() if table.copy not in present]
        if missing:
            raise not_as_captured(where, [f"{table.copy}, the copy of {table.name}, is gone" for table in missing])
        key = (str(connection.settings_dict["NAME"]), baseline.captured_at)
        if key not in _verified:
            _verify(connection, cursor, baseline)
            _verified.add(key)
    return baseline


def _verify(connection: BaseDatabaseWrapper, cursor: CursorWrapper, baseline: Baseline) -> None:
    """Raise :class:`BaselineDamagedError` if a copy has other rows than when it was made. Costs a scan of all copies."""
    faults, where = [], describe_database(connection)
    for table in baseline.tables.values():
        try:
            rows, found = _checksum(connection, cursor, table)
        except ResetError as error:
            if type(error) is not ResetError:  # a lock, or a lost file
                raise
            raise not_as_captured(
                where, [f"{table.copy}, the copy of {table.name}, cannot be read ({error})"]
            ) from error
        if rows != table.rows:
            faults.append(f"{table.copy}, the copy of {table.name}, has {rows} rows instead of {table.rows}")
        elif found != table.checksum:
            faults.append(f"rows of {table.copy}, the copy of {table.name}, were changed")
    if faults:
        raise not_as_captured(where, faults)


def compare_earlier(connection: BaseDatabaseWrapper, schema: Schema) -> EarlierFormat:
    """Compare every table with its copy in a baseline of the earlier format, whose copies are like those of today.

    Raises :class:`BaselineFormatError` if the document cannot be read.
    """
    where = describe_database(connection)
    with snapshot(connection) as cursor:
        rows = fetch(connection, cursor, f"SELECT document FROM {quote_qualified(DOCUMENTS[BASELINE])}")
        earlier = from_earlier_document(json.loads(rows[0][0]) if len(rows) == 1 else {}, where=where)
        scope = make_scope(
            schema, included=None, excluded=frozenset(), uncaptured=earlier.excluded, reset_sequences=True
        )
        catalog = read_catalog(connection, cursor)
        present = set(_own_tables(connection, cursor))
        changes = []
        for table in earlier.tables.values():
            if table.name not in scope.tables or table.copy not in present:
                changes.append(f"table {table.name}, or its copy {table.copy}, is gone")
                continue
            shapes = read_shapes(connection, cursor, catalog, [table.name])
            described = describe_shapes(shapes)
            if any(earlier.shape.get(what) != text for what, text in described.items()):
                changes.append(f"table {table.name} has other columns")
                continue
            ((copied,),) = fetch(connection, cursor, count_copy(table))
            ((came, changed, there),) = fetch(connection, cursor, count_changes(table, shapes[table.name]))
            if came or changed or not copied == there == table.rows:
                changes.append(f"table {table.name} has other rows than its copy")
        changes += [
            f"table {name} has rows and had none"
            for name in sorted(scope.tables - earlier.tables.keys())
            if schema.by_name[name].stores_rows and _has_rows(connection, cursor, catalog.source(name))
        ]
        states = read_states(connection, cursor, catalog)
    moved = {name: state for name, state in displaced(states, earlier.sequences).items() if name in scope.sequences}
    restarts = put_back({name: earlier.sequences.get(name) for name in moved})
    return EarlierFormat(changes=tuple(changes), restarts=tuple(restarts))


def _checksum(connection: BaseDatabaseWrapper, cursor: CursorWrapper, table: BaselineTable) -> tuple[int, str]:
    """Return the number of rows in a copy, and the sum of their 64-bit hashes, which does not depend on their order."""
    execute(connection, cursor, read_copy(table))
    number = total = 0
    for row in cursor:
        number += 1
        total += int.from_bytes(hashlib.blake2b(repr(row).encode(), digest_size=8).digest())
    return number, str(total)


def read_shape(connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]) -> dict[str, str]:
    """Describe the tables, the columns and keys of those with copies, and the migrations that were applied."""
    with snapshot(connection) as cursor:
        catalog = read_catalog(connection, cursor)
        shapes = read_shapes(connection, cursor, catalog, tables)
        return _describe(connection, cursor, catalog, schema, shapes)


def write_baseline(connection: BaseDatabaseWrapper, capture: Capture) -> Baseline:
    """Capture in one transaction that keeps other writers out. Costs a copy of every row.

    Raises :class:`UnsupportedError` for a virtual table with rows that cannot be kept exactly, and similar cases.
    """
    if in_transaction(connection) or not has_autocommit(connection):
        raise TransactionStateError(
            f'Refusing to capture a baseline: the connection "{connection.alias}" is inside a transaction. Capture it outside.'
        )
    with connection.cursor() as settings, kept_pragmas(connection, settings, ("busy_timeout",)):
        execute(connection, settings, f"PRAGMA busy_timeout = {round(capture.lock_timeout * 1000)}")
        with all_or_nothing(connection, "testdb_baseline") as cursor:
            catalog = read_catalog(connection, cursor)
            if catalog.token != capture.schema.token:
                raise ConcurrencyError(
                    f'The schema of database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") was changed '
                    "while its baseline was about to be captured. Nothing was changed by the capture. Run it again.",
                    attempts=1,
                )
            _drop(connection, cursor, capture.state)
            baseline = _capture(connection, cursor, catalog, capture)
    _verified.add((str(connection.settings_dict["NAME"]), baseline.captured_at))
    return baseline


def _capture(connection: BaseDatabaseWrapper, cursor: CursorWrapper, catalog: Catalog, capture: Capture) -> Baseline:
    filled = [name for name in sorted(capture.tables) if _has_rows(connection, cursor, catalog.source(name))]
    shapes = read_shapes(connection, cursor, catalog, filled)
    _check_keepable(connection, catalog, shapes)
    tables = {}
    for number, name in enumerate(filled, 1):
        shape, copy = shapes[name], QualifiedName("main", f"{OWN_SCHEMA}_{capture.state}_{number}")
        table = BaselineTable(name=name, copy=copy, rows=0, columns=shape.columns, key=shape.key)
        for sql in make_copy(table, shape):
            execute(connection, cursor, sql)
        rows, found = _checksum(connection, cursor, table)
        tables[name] = replace(table, rows=rows, checksum=found)
    baseline = Baseline(
        captured_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        tables=tables,
        sequences=dict(_read_sequences(connection, cursor, catalog, sorted(capture.sequences))),
        excluded=capture.excluded,
        migrations=migration_tables(capture.schema),
        shape=_describe(connection, cursor, catalog, capture.schema, shapes),
    )
    # Others see a change by the texts of the catalog. With this comment they also see a change of the copies' rows alone.
    made = f"CREATE TABLE {quote_qualified(DOCUMENTS[capture.state])} (document TEXT NOT NULL /* {baseline.captured_at} */)"
    execute(connection, cursor, made)
    document = quote_literal(json.dumps(to_document(baseline)))
    execute(connection, cursor, f"INSERT INTO {quote_qualified(DOCUMENTS[capture.state])} VALUES ({document})")
    return baseline


def _has_rows(connection: BaseDatabaseWrapper, cursor: CursorWrapper, name: QualifiedName) -> bool:
    return bool(fetch(connection, cursor, f"SELECT 1 AS found FROM {quote_qualified(name)} LIMIT 1"))


def _check_keepable(connection: BaseDatabaseWrapper, catalog: Catalog, shapes: dict[QualifiedName, TableShape]) -> None:
    """Raise :class:`UnsupportedError` for tables whose rows cannot be restored as they are."""
    found = [
        f"{name} (a virtual table of {virtual.module}, which does not return rows as they were inserted)"
        for name in shapes
        if (virtual := catalog.virtual.get(name)) is not None and not virtual.gives_back_rows
    ]
    found += [
        f"{name} (its columns hide the rowid, which alone identifies its rows)"
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
) -> Baseline:
    """Replace the document."""
    document = quote_literal(json.dumps(to_document(baseline)))
    with all_or_nothing(connection, "testdb_baseline") as cursor:
        execute(connection, cursor, f"UPDATE {quote_qualified(DOCUMENTS[state])} SET document = {document}")
    return baseline


def carry_baseline(source: BaseDatabaseWrapper, baseline: Baseline) -> Baseline:
    """Return *baseline* for another database, with copies that are temporary tables there."""
    tables = {}
    with snapshot(source) as cursor:
        shapes = read_shapes(source, cursor, read_catalog(source, cursor), baseline.tables)
        for number, table in enumerate(baseline.tables.values(), 1):
            carried = replace(table, copy=QualifiedName("temp", f"{CARRIED}{number}"))
            create, _ = make_copy(carried, shapes[table.name])
            rows = fetch(source, cursor, read_values(table))
            tables[table.name] = replace(carried, loading=(create, *fill_copy(carried, rows)))
    return replace(baseline, tables=tables)


@contextmanager
def copies_made(connection: BaseDatabaseWrapper, baseline: Baseline | None) -> Iterator[None]:
    """Make the copies that the database does not keep, in a transaction that is rolled back after the block.

    In a transaction of ours they are there already.
    """
    loading = baseline.loading if baseline is not None else ()
    if not loading or in_transaction(connection):
        yield
        return
    with snapshot(connection) as cursor:
        for sql in loading:
            execute(connection, cursor, sql)
        yield


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
