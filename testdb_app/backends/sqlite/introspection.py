"""Read from SQLite: the schema, the identity and marks, details, sequences, and tables that hold rows."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from testdb_app.backends.base import (
    OWN_SCHEMA,
    Action,
    DatabaseIdentity,
    DatabaseState,
    FileName,
    Mark,
    binding_of,
    is_same_file,
)
from testdb_app.backends.sqlite import baseline_copies
from testdb_app.backends.sqlite.baseline_copies import describe, find_differing, kept_values, read_comparison
from testdb_app.backends.sqlite.catalog import TERMS, Catalog, read_catalog
from testdb_app.backends.sqlite.connection import (
    all_or_nothing,
    execute,
    fetch,
    in_transaction,
    kept_pragmas,
    read_databases,
    snapshot,
)
from testdb_app.backends.sqlite.parser import (
    ReferenceClause,
    chunks,
    fold,
    has_autoincrement,
    parse_trigger,
    qualified_definition,
    quote_literal,
    quote_name,
    quote_qualified,
    reference_clauses,
)
from testdb_app.baseline_state import Baseline, RowChanges, SequenceState
from testdb_app.schema import (
    Column,
    ForeignKey,
    OnDelete,
    QualifiedName,
    Schema,
    SequenceInfo,
    SequenceUse,
    Table,
    TableDetails,
    TableKind,
    Trigger,
    UniqueKey,
    gather_details,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

    from testdb_app.backends.base import Step
    from testdb_app.backends.sqlite.catalog import Catalog, Entry

# A short name for the column: Django's PARSE_COLNAMES would read a converter's name from "[date]" in a table's name.
COUNT = "SELECT {number} AS number, (SELECT COUNT(*) FROM {table}{where}) AS found"


def read_schema(connection: BaseDatabaseWrapper) -> Schema:
    """Read the whole schema, with its token, from one snapshot. Three queries for each attached database."""
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


def read_state(
    connection: BaseDatabaseWrapper, *, lock_timeout: float, baseline: Baseline | None = None
) -> DatabaseState:
    """Find the tables with rows and the sequences that have moved. Sizes are 0: SQLite must read all pages to report them.

    For a moment it holds the lock that writers need. Rows that another connection has not yet committed cannot be seen,
    so it waits for them, at most *lock_timeout* seconds. It writes nothing. Tables of the *baseline* are compared with
    it; those that differ are returned.
    """
    keep = not in_transaction(connection)
    with connection.cursor() as settings, kept_pragmas(connection, settings, ("busy_timeout",)):
        execute(connection, settings, f"PRAGMA busy_timeout = {round(lock_timeout * 1000)}")
        with snapshot(connection, after_writers=True) as cursor:
            catalog = read_catalog(connection, cursor, keep=keep)
            identity = read_identity(connection, cursor, catalog)
            written, states = read_filled(connection, cursor, catalog), read_states(connection, cursor, catalog)
            seen = DatabaseState(identity=identity, token=catalog.token, sizes=dict.fromkeys(written, 0), states=states)
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
            ((came, changed, present),) = fetch(connection, cursor, baseline_copies.count_changes(table, shapes[name]))
            found[name] = RowChanges(removed=came, updated=changed, inserted=table.rows - (present - came))
    return found


def find_filled(connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> list[QualifiedName]:
    """Return those of *tables* that hold rows, sorted."""
    names = frozenset(tables)
    if not names:
        return []
    with snapshot(connection) as cursor:
        # All tables, not these alone: the same statements were compiled in the last scan.
        found = read_filled(connection, cursor, read_catalog(connection, cursor))
        return [name for name in found if name in names]


def count_live_rows(connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> dict[QualifiedName, int]:
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

    With a *baseline*, only rows count that refer to an existing row which the baseline does not have.
    """
    condition = _refers if baseline is None else partial(_refers_to_what_goes, baseline)
    terms = [(f"{quote_qualified(key.table)} AS k", f" WHERE {condition(key)}") for key in keys]
    with connection.cursor() as cursor:
        return tuple(_count(connection, cursor, terms))


def _refers(key: ForeignKey) -> str:
    return " AND ".join(f"k.{quote_name(column)} IS NOT NULL" for column in key.columns)


def _refers_to_what_goes(baseline: Baseline, key: ForeignKey) -> str:
    # The referenced column's affinity and collation are used: https://www.sqlite.org/foreignkeys.html#fk_indexes.
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


def read_filled(connection: BaseDatabaseWrapper, cursor: CursorWrapper, catalog: Catalog) -> list[QualifiedName]:
    """Return the tables that hold rows, sorted."""
    return [catalog.names[number] for query in catalog.probes for (number,) in fetch(connection, cursor, query)]


MARKS_PRESENT = f"""
SELECT name
FROM "main".sqlite_master
WHERE type = 'table'
AND name IN ('{OWN_SCHEMA}_protected', '{OWN_SCHEMA}_test')
"""

TEST_MARKS = f"""
SELECT *
FROM "main"."{OWN_SCHEMA}_test"
"""


def identify(connection: BaseDatabaseWrapper) -> DatabaseIdentity:
    """Read the identity over the live connection. Reads only."""
    with snapshot(connection) as cursor:
        return read_identity(connection, cursor)


def read_identity(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, catalog: Catalog | None = None
) -> DatabaseIdentity:
    """Do the same as :func:`identify`, in the snapshot of *cursor*, whose *catalog* saves a search for marks."""
    file = read_databases(connection, cursor)[0].file
    configured = str(connection.settings_dict["NAME"])
    version = getattr(connection, "Database").sqlite_version  # noqa: B009 - not declared by the base class
    marks, misfit = _read_marks(connection, cursor, file, catalog)
    return DatabaseIdentity(
        alias=connection.alias,
        vendor="sqlite",
        configured=configured,
        name=_live_name(configured, file),
        server=f"SQLite {version}, " + (f"file {file}" if file else "in memory"),
        file=file,
        in_memory=not file,
        is_read_only=bool(fetch(connection, cursor, "PRAGMA query_only")[0][0]) or _is_read_only(configured, file),
        marks=marks,
        misfit=misfit,
    )


def _live_name(configured: str, file: str) -> str:
    """Return the configured name if it means the live database, otherwise the live one's path."""
    named = FileName.parse(configured)
    if not file:
        return configured if named.is_in_memory else ":memory:"
    if not named.is_in_memory and is_same_file(named.path, file):
        return configured
    return file


def _is_read_only(configured: str, file: str) -> bool:
    """Whether the file was opened, or can only be opened, for reading. No pragma reports it, and only a write is certain."""
    if not file:
        return False
    options = FileName.parse(configured).options
    immutable = options.get("immutable", "0") not in {"0", "no", "off", "false"}
    return options.get("mode") == "ro" or immutable or (Path(file).exists() and not os.access(file, os.W_OK))


def _read_marks(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, file: str, catalog: Catalog | None
) -> tuple[frozenset[Mark], str]:
    """Return the marks that hold for *file*, and why an existing test mark does not."""
    if catalog is None:
        present = {name for (name,) in fetch(connection, cursor, MARKS_PRESENT)}
    else:
        present = {left.name.name for left in catalog.left_out if left.name.schema == "main"}
    marks = {Mark.PROTECTED} if f"{OWN_SCHEMA}_protected" in present else set()
    misfit = ""
    if f"{OWN_SCHEMA}_test" in present:
        reasons = [_explain_misfit(row, file) for row in fetch(connection, cursor, TEST_MARKS)]
        if "" in reasons:
            marks.add(Mark.TEST)
        elif reasons:
            misfit = reasons[0]
    return frozenset(marks), misfit


def _explain_misfit(row: tuple[Any, ...], file: str) -> str:
    """Return why a mark does not hold for *file*; '' if it does."""
    path, inode = binding_of(file)
    if len(row) == 1:
        return "its test mark has an older format, which identifies a file only by its path"
    if row[0] != path:
        return f'its test mark belongs to the file "{row[0]}": this file is a copy of that one, or that one was moved'
    if row[1] != inode:
        return "its test mark belongs to another file that was at this path: this file is a copy in its place"
    return ""


def set_mark(
    connection: BaseDatabaseWrapper, mark: Mark, *, present: bool, identity: DatabaseIdentity | None = None
) -> None:
    """Set a mark inside the main database, or remove it. TEST holds for the file that it was given to."""
    table = f'"main"."{OWN_SCHEMA}_{mark.value}"'
    with all_or_nothing(connection, "testdb_mark") as cursor:
        execute(connection, cursor, f"DROP TABLE IF EXISTS {table}")
        if present:
            path, inode = binding_of(read_databases(connection, cursor)[0].file)
            execute(connection, cursor, f"CREATE TABLE {table} (path TEXT NOT NULL, inode INTEGER NOT NULL)")
            execute(connection, cursor, f"INSERT INTO {table} VALUES ({quote_literal(path)}, {inode})")


# Virtual tables (rootpage 0) have no keys, and one whose module is not loaded would fail the query.
KEY_COLUMNS = """
SELECT m.name, c.name, c.pk
FROM {schema}.sqlite_master AS m
JOIN pragma_table_xinfo(m.name, {literal}) AS c
WHERE m.type = 'table'
AND m.rootpage > 0
ORDER BY m.name, c.pk, c.cid
"""

FOREIGN_KEYS = """
SELECT m.name, f.id, f."from", f."table", f."to", f.on_delete
FROM {schema}.sqlite_master AS m
JOIN pragma_foreign_key_list(m.name, {literal}) AS f
WHERE m.type = 'table'
AND m.rootpage > 0
ORDER BY m.name, f.id, f.seq
"""

# A generated column (hidden 2 and 3) cannot be written to, nor a key set to NULL.
REQUIRED_COLUMNS = """
SELECT name
FROM pragma_table_xinfo({table}, {schema})
WHERE "notnull" OR pk > 0 OR hidden > 0
"""


class Columns(NamedTuple):
    """A table's columns: those of the primary key, in its order, and all of them by folded name."""

    primary_key: tuple[str, ...]
    by_name: Mapping[str, str]


def in_schema(query: str, schema: str) -> str:
    """Insert the schema into a query, as an identifier and as a constant."""
    return query.format(schema=quote_name(schema), literal=quote_literal(schema))


def read_columns(connection: BaseDatabaseWrapper, cursor: CursorWrapper, schema: str) -> dict[str, Columns]:
    """Return the columns of every table of one database."""
    keys: dict[str, list[str]] = {}
    names: dict[str, dict[str, str]] = {}
    for table, column, position in fetch(connection, cursor, in_schema(KEY_COLUMNS, schema)):
        names.setdefault(table, {})[fold(column)] = column
        keys.setdefault(table, []).extend([column] if position else [])
    return {table: Columns(tuple(keys[table]), names[table]) for table in names}


def sequence(name: QualifiedName, columns: Columns) -> SequenceInfo:
    """Return the sequence of an AUTOINCREMENT table; it has the table's name."""
    return SequenceInfo(name=name, uses=(SequenceUse(table=name, column=columns.primary_key[0], how="rowid"),))


def foreign_keys(
    catalog: Catalog,
    schema: str,
    rows: list[tuple[str, int, str, str, str | None, str]],
    columns: dict[str, Columns],
) -> list[ForeignKey]:
    """Make the keys of one database. A key that refers to a missing or left-out table constrains nothing."""
    by_folded = {fold(name.name): name for name in catalog.tables if name.schema == schema}
    parts: dict[tuple[str, int], list[tuple[str, int, str, str, str | None, str]]] = {}
    for row in rows:
        parts.setdefault((row[0], row[1]), []).append(row)
    clauses: dict[str, list[ReferenceClause]] = {}
    found = []
    for (table, number), columns_of_key in parts.items():
        name, referenced = QualifiedName(schema, table), by_folded.get(fold(columns_of_key[0][3]))
        if name not in catalog.tables or referenced is None or referenced.name not in columns:
            continue
        if table not in clauses:
            clauses[table] = reference_clauses(catalog.tables[name].sql)[::-1]
        clause = clauses[table][number] if number < len(clauses[table]) else ReferenceClause()
        target = columns[referenced.name]
        own = tuple(part[2] for part in columns_of_key)
        to = [part[4] for part in columns_of_key if part[4] is not None]
        found.append(
            ForeignKey(
                name=clause.name or "_".join((table, *own, "fk")),
                table=name,
                columns=own,
                referenced=referenced,
                referenced_columns=tuple(target.by_name.get(fold(c), c) for c in to) or target.primary_key,
                on_delete=OnDelete(columns_of_key[0][5]),
                deferrable=clause.deferrable,
                initially_deferred=clause.initially_deferred,
            )
        )
    return found


def triggers(catalog: Catalog) -> dict[QualifiedName, list[Trigger]]:
    """Return the triggers by table, in the order of their creation: SQLite fires them in it."""
    schemas = [database.name for database in catalog.databases]
    folded = {(name.schema, fold(name.name)): name for name in catalog.tables}
    temporary = {fold(left.name.name) for left in catalog.left_out if left.name.schema == "temp"}
    found: dict[QualifiedName, list[Trigger]] = {}
    for entry in catalog.triggers:
        table = _table_of(entry, schemas, folded, temporary)
        if table is not None:
            found.setdefault(table, []).append(
                Trigger(
                    name=entry.name.name,
                    events=(parse_trigger(entry.sql).event,),
                    definition=qualified_definition(entry.name.schema, entry.sql),
                )
            )
    return found


def _table_of(
    entry: Entry, schemas: list[str], folded: Mapping[tuple[str, str], QualifiedName], temporary: set[str]
) -> QualifiedName | None:
    """Resolve a trigger's table as SQLite does: in its own database; a temporary one anywhere, "temp" first."""
    name = fold(entry.table)
    if entry.name.schema != "temp":
        return folded.get((entry.name.schema, name))
    schema = parse_trigger(entry.sql).schema
    if schema is None and name in temporary:
        return None
    searched = [candidate for candidate in schemas if schema is None or fold(candidate) == fold(schema)]
    return next((folded[candidate, name] for candidate in searched if (candidate, name) in folded), None)


# Hidden 1 are the hidden columns of virtual tables; 2 and 3 are generated. A primary key of one INTEGER column is the
# rowid.
COLUMN_DETAILS = """
SELECT m.name, c.name, c.type, c."notnull", c.dflt_value, c.hidden, c.pk
FROM {schema}.sqlite_master AS m
JOIN pragma_table_xinfo(m.name, {literal}) AS c
WHERE m.type = 'table'
AND m.rootpage > 0
ORDER BY m.name, c.cid
"""

# A virtual table whose module is not loaded would fail the query above.
COLUMNS_OF_ONE = """
SELECT {table}, c.name, c.type, c."notnull", c.dflt_value, c.hidden, c.pk
FROM pragma_table_xinfo({table}, {schema}) AS c
WHERE c.hidden <> 1
ORDER BY c.cid
"""

# Indexes on expressions have no name in their place.
UNIQUE_KEYS = """
SELECT m.name, i.name, i.partial, x.name
FROM {schema}.sqlite_master AS m
JOIN pragma_index_list(m.name, {literal}) AS i
JOIN pragma_index_info(i.name, {literal}) AS x
WHERE m.type = 'table'
AND m.rootpage > 0
AND i."unique"
AND i.origin <> 'pk'
ORDER BY m.name, i.seq, x.seqno
"""


def read_details(
    connection: BaseDatabaseWrapper, schema: Schema, *, count_rows: bool
) -> dict[QualifiedName, TableDetails]:
    """Read the details of all tables of *schema*, from one snapshot; with *count_rows* the rows are read, from another."""
    columns: dict[QualifiedName, list[Column]] = {}
    keys: dict[QualifiedName, list[UniqueKey]] = {}
    with snapshot(connection) as cursor:
        catalog = read_catalog(connection, cursor)
        for namespace in sorted({name.schema for name in catalog.tables}):
            _read_columns(connection, cursor, catalog, namespace, columns, keys)
            _read_unique_keys(connection, cursor, namespace, keys)
    rows: dict[QualifiedName, int | None] = {}
    if count_rows:
        rows.update(count_live_rows(connection, schema.by_name.keys() & catalog.tables.keys()))
    return gather_details(schema.by_name, columns=columns, unique_keys=keys, rows=rows)


def _read_columns(
    connection: BaseDatabaseWrapper,
    cursor: CursorWrapper,
    catalog: Catalog,
    namespace: str,
    columns: dict[QualifiedName, list[Column]],
    keys: dict[QualifiedName, list[UniqueKey]],
) -> None:
    found = fetch(connection, cursor, in_schema(COLUMN_DETAILS, namespace))
    for name in catalog.virtual:
        if name.schema == namespace:
            query = COLUMNS_OF_ONE.format(table=quote_literal(name.name), schema=quote_literal(namespace))
            found += fetch(connection, cursor, query)
    primary: dict[QualifiedName, list[tuple[int, str]]] = {}
    for table, name, data_type, is_required, default, hidden, place in found:
        qualified = QualifiedName(namespace, table)
        column = Column(
            name=name,
            data_type=data_type or "",
            nullable=not is_required,
            default="" if default is None else str(default),
            generated="generated" if hidden else "",
        )
        columns.setdefault(qualified, []).append(column)
        if place:
            primary.setdefault(qualified, []).append((place, name))
    for qualified, parts in primary.items():
        key = UniqueKey(columns=tuple(name for _, name in sorted(parts)), is_primary=True)
        keys.setdefault(qualified, []).append(key)


def _read_unique_keys(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, namespace: str, keys: dict[QualifiedName, list[UniqueKey]]
) -> None:
    parts: dict[tuple[str, str, int], list[str | None]] = {}
    for table, index, is_partial, column in fetch(connection, cursor, in_schema(UNIQUE_KEYS, namespace)):
        parts.setdefault((table, index, is_partial), []).append(column)
    for (table, index, is_partial), names in parts.items():
        key = UniqueKey(columns=tuple(names), partial_index=index if is_partial else "")
        keys.setdefault(QualifiedName(namespace, table), []).append(key)


_NAMES = 400
"""The maximum number of names in one IN list."""


def read_states(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, catalog: Catalog
) -> dict[QualifiedName, SequenceState | None]:
    """Return the sequences that have a row, and where they are: None for a row, or several, that SQLite never wrote."""
    states: dict[QualifiedName, SequenceState | None] = {}
    for schema in sorted(catalog.has_sequences):
        for table, value in fetch(connection, cursor, f"SELECT name, seq FROM {quote_name(schema)}.sqlite_sequence"):
            name = QualifiedName(schema, table)
            if name in catalog.tables and has_autoincrement(catalog.tables[name].sql):
                is_plain = isinstance(value, int) and name not in states
                states[name] = SequenceState(last_value=value, is_called=True) if is_plain else None
    return states


def displaced(
    states: Mapping[QualifiedName, SequenceState | None], wanted: Mapping[QualifiedName, SequenceState]
) -> dict[QualifiedName, SequenceState | None]:
    """Return those of *states* that are not the *wanted* ones, and, as unknown, the wanted ones that are missing."""
    there = {name: state for name, state in states.items() if state is None or state != wanted.get(name)}
    return there | {name: None for name in wanted if name not in states}


def restart(steps: Iterable[Step], states: Mapping[QualifiedName, SequenceState]) -> Iterator[str]:
    """Write the statements that restore sequences: to those of *states*, or to their start, which is no row."""
    names = [name for step in steps if step.action is Action.RESTART for name in step.names]
    return put_back({name: states.get(name) for name in names})


def put_back(states: Mapping[QualifiedName, SequenceState | None]) -> Iterator[str]:
    """Write the statements that set sequences to *states*; None is their start."""
    by_schema: dict[str, list[QualifiedName]] = {}
    for name in states:
        by_schema.setdefault(name.schema, []).append(name)
    for schema, names in by_schema.items():
        table = f"{quote_name(schema)}.sqlite_sequence"
        for chunk in chunks(names, _NAMES):
            yield f"DELETE FROM {table} WHERE name IN ({', '.join(quote_literal(name.name) for name in chunk)})"
            values = [
                f"({quote_literal(name.name)}, {state.last_value})"
                for name in chunk
                if (state := states[name]) is not None
            ]
            if values:
                yield f"INSERT INTO {table} (name, seq) VALUES {', '.join(values)}"
