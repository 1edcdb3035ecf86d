"""What SQLite's catalog tells: the schema as a value, and where rows may be."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from testdb_app.backends.base import Observation
from testdb_app.backends.sqlite import restoring
from testdb_app.backends.sqlite.catalog import TERMS, Catalog, read_catalog
from testdb_app.backends.sqlite.comparison import describe, find_differing, read_comparison
from testdb_app.backends.sqlite.errors import execute, fetch, in_transaction
from testdb_app.backends.sqlite.identity import read_identity
from testdb_app.backends.sqlite.relations import (
    FOREIGN_KEYS,
    foreign_keys,
    in_schema,
    read_columns,
    sequence,
    triggers,
)
from testdb_app.backends.sqlite.restoring import kept_values
from testdb_app.backends.sqlite.sequences import displaced, read_states
from testdb_app.backends.sqlite.snapshot import kept_pragmas, snapshot
from testdb_app.backends.sqlite.sql import chunks, has_autoincrement, quote_name, quote_qualified
from testdb_app.baseline_state import Baseline, RowChanges
from testdb_app.schema import ForeignKey, QualifiedName, Schema, Table, TableKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

# A short name for the column: Django's PARSE_COLNAMES would read a converter's name from "[date]" in a table's name.
COUNT = "SELECT {number} AS number, (SELECT COUNT(*) FROM {table}{where}) AS found"


def read_schema(connection: BaseDatabaseWrapper) -> Schema:
    """Read the whole map, with its token, from one snapshot. Three queries for each attached database."""
    with snapshot(connection) as cursor:
        catalog = read_catalog(connection, cursor)
        schemas = sorted({name.schema for name in catalog.tables})
        columns = {schema: read_columns(connection, cursor, schema) for schema in schemas}
        rows = {schema: fetch(connection, cursor, in_schema(FOREIGN_KEYS, schema)) for schema in schemas}
    by_table = triggers(catalog)
    tables = catalog.names
    return Schema(
        vendor="sqlite",
        tables=tuple(
            Table(
                name=name,
                kind=TableKind.VIRTUAL if name in catalog.virtual else TableKind.ORDINARY,
                triggers=tuple(by_table.get(name, ())),
            )
            for name in tables
        ),
        foreign_keys=tuple(
            sorted(
                (key for schema in schemas for key in foreign_keys(catalog, schema, rows[schema], columns[schema])),
                key=lambda key: (key.table, key.name, key.referenced, key.columns),
            )
        ),
        sequences=tuple(
            sequence(name, columns[name.schema][name.name])
            for name in tables
            if has_autoincrement(catalog.tables[name].sql)
        ),
        left_out=catalog.left_out,
        search_path=tuple(database.name for database in catalog.databases if database.name != "temp"),
        token=catalog.token,
    )


def observe(connection: BaseDatabaseWrapper, *, lock_timeout: float, baseline: Baseline | None = None) -> Observation:
    """Look where rows are and which sequences have moved. Sizes are 0: SQLite tells them only by reading all pages.

    For a moment it holds the lock that writers need: rows that another connection has not yet committed cannot be
    seen, so it waits for them, at most *lock_timeout* seconds. It writes nothing. Tables of the *baseline* are compared
    with it: what is named then are those that differ.
    """
    keep = not in_transaction(connection)
    with connection.cursor() as settings, kept_pragmas(connection, settings, ("busy_timeout",)):
        execute(connection, settings, f"PRAGMA busy_timeout = {round(lock_timeout * 1000)}")
        with snapshot(connection, after_writers=True) as cursor:
            catalog = read_catalog(connection, cursor, keep=keep)
            identity = read_identity(connection, cursor)
            written, states = _with_rows(connection, cursor, catalog), read_states(connection, cursor, catalog)
            seen = Observation(identity=identity, token=catalog.token, sizes=dict.fromkeys(written, 0), states=states)
            if baseline is None:
                return seen
            comparison = read_comparison(connection, cursor, catalog, baseline)
            shape = describe(connection, cursor, comparison)
            if not comparison.is_possible:
                return replace(seen, shape=shape)
            differing = find_differing(connection, cursor, comparison)
            return replace(
                seen,
                sizes=dict.fromkeys(sorted({*written, *differing} - (baseline.tables.keys() - {*differing})), 0),
                is_precise=True,
                states=displaced(states, baseline.sequences),
                shape=shape,
            )


def count_changes(
    connection: BaseDatabaseWrapper, baseline: Baseline, tables: Iterable[QualifiedName]
) -> dict[QualifiedName, RowChanges]:
    """Count what a restoration of *tables* would change, by comparing each with its copy."""
    found: dict[QualifiedName, RowChanges] = {}
    with snapshot(connection) as cursor:
        shapes = read_comparison(connection, cursor, read_catalog(connection, cursor), baseline).tables
        for name in sorted(set(tables) & shapes.keys()):
            table = baseline.tables[name]
            ((came, changed, present),) = fetch(connection, cursor, restoring.count_changes(table, shapes[name]))
            found[name] = RowChanges(removed=came, updated=changed, inserted=table.rows - (present - came))
    return found


def find_filled(connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> list[QualifiedName]:
    """Return those of *tables* that hold rows, sorted."""
    names = frozenset(tables)
    if not names:
        return []
    with snapshot(connection) as cursor:
        # All tables, not these alone: the very statements of the last look are already compiled.
        found = _with_rows(connection, cursor, read_catalog(connection, cursor))
        return [name for name in found if name in names]


def count_rows(connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> dict[QualifiedName, int]:
    """Count the rows of each of *tables*."""
    names = sorted(set(tables))
    with snapshot(connection) as cursor:
        catalog = read_catalog(connection, cursor)
        terms = [(quote_qualified(catalog.source(name)), "") for name in names]
        return dict(zip(names, _count(connection, cursor, terms), strict=True))


def count_references(
    connection: BaseDatabaseWrapper, keys: Sequence[ForeignKey], baseline: Baseline | None = None
) -> tuple[int, ...]:
    """Count, for each key, the rows of its referencing table that refer to some row (a NULL column refers to none).

    With a *baseline* those count that refer to a row which is there now, and which the baseline has not.
    """
    condition = _refers if baseline is None else partial(_refers_to_what_goes, baseline)
    terms = [(f"{quote_qualified(key.table)} AS k", f" WHERE {condition(key)}") for key in keys]
    with connection.cursor() as cursor:
        return tuple(_count(connection, cursor, terms))


def _refers(key: ForeignKey) -> str:
    return " AND ".join(f"k.{quote_name(column)} IS NOT NULL" for column in key.columns)


def _refers_to_what_goes(baseline: Baseline, key: ForeignKey) -> str:
    # The referenced column's affinity and collation count: https://www.sqlite.org/foreignkeys.html#fk_indexes.
    pairs = zip(key.columns, key.referenced_columns, strict=False)
    same = " AND ".join(f"p.{quote_name(there)} = +k.{quote_name(here)}" for here, there in pairs)
    if key.referenced in baseline.tables:
        columns = ", ".join(f"p.{quote_name(column)}" for column in key.referenced_columns)
        kept = kept_values(baseline.tables[key.referenced], key.referenced_columns)
        same += f" AND ({columns}) NOT IN {kept}"
    return f"EXISTS (SELECT 1 FROM {quote_qualified(key.referenced)} AS p WHERE {same})"


def _count(connection: BaseDatabaseWrapper, cursor: CursorWrapper, terms: list[tuple[str, str]]) -> list[int]:
    numbered = [COUNT.format(number=n, table=table, where=where) for n, (table, where) in enumerate(terms)]
    found = dict(
        row for chunk in chunks(numbered, TERMS) for row in fetch(connection, cursor, " UNION ALL ".join(chunk))
    )
    return [found[number] for number in range(len(terms))]


def _with_rows(connection: BaseDatabaseWrapper, cursor: CursorWrapper, catalog: Catalog) -> list[QualifiedName]:
    return [catalog.names[number] for query in catalog.probes for (number,) in fetch(connection, cursor, query)]
