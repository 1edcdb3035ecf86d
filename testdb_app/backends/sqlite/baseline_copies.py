"""The copies of a baseline on SQLite: how rows are copied, compared and put back. Pure but for one reader.

A copy has the columns ``c1``, ``c2`` … without a type, which keep every value as it was, and the table's key, or its
rowid as ``k``. Two rows are the same if their keys and all their values are, storage class included: ``IS`` alone would
take 1 for 1.0, and a column's own collation 'a' for 'A'. No function of SQLite tells -0.0 from 0.0.

First new and changed rows are deleted, then missing rows are inserted. So no unique key ever conflicts, whatever values
were swapped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testdb_app.backends.base import Statement
from testdb_app.backends.sqlite.baseline_shape import (
    TableShape,
    describe_shapes,
    find_rowid,
    read_migrations,
    read_shapes,
)
from testdb_app.backends.sqlite.connection import fetch
from testdb_app.backends.sqlite.parser import chunks, quote_name, quote_qualified
from testdb_app.baseline_state import BaselineTable
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

    from testdb_app.backends.sqlite.catalog import Catalog
    from testdb_app.baseline_state import Baseline

SIGN = "testdb_is_negative"
"""The name of the function, given to the connection, that returns the sign of a zero."""

_DEPTH = 30
"""Terms in one pair of parentheses: SQLite's expressions are at most 1,000 deep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoringStatement(Statement):
    """A statement whose row count is the number of rows of ``changed`` that differed, or were inserted into ``filled`` again."""

    changed: QualifiedName | None = None
    filled: QualifiedName | None = None


def make_copy(table: BaselineTable, shape: TableShape) -> Iterator[str]:
    """Write the statements that create the copy of a table, with its rows."""
    numbers = numbers_of(table)
    columns = [f"c{number}" for number in numbers.values()]
    key = [f"c{numbers[name]}" for name in table.key]
    if shape.has_rowid and key:
        columns[columns.index(key[0])] += " INTEGER PRIMARY KEY"
    elif shape.has_rowid:
        columns.insert(0, "k INTEGER PRIMARY KEY")
    else:
        columns.append(f"PRIMARY KEY ({', '.join(key)})")
    suffix = "" if shape.has_rowid else " WITHOUT ROWID"
    yield f"CREATE TABLE {quote_qualified(table.copy)} ({', '.join(columns)}){suffix}"
    rowid = [] if table.key else [("k", rowid_of(table))]
    pairs = [*rowid, *((f"c{number}", f"t.{quote_name(name)}") for name, number in numbers.items())]
    yield (
        f"INSERT INTO {quote_qualified(table.copy)} ({', '.join(kept for kept, _ in pairs)}) "
        f"SELECT {', '.join(live for _, live in pairs)} FROM {quote_qualified(table.name)} AS t"
    )


def read_copy(table: BaselineTable) -> str:
    """Write the query of the rows of a copy. A text is returned as its bytes in hexadecimal, because it may be no UTF-8."""
    values = (f"CASE typeof({name}) WHEN 'text' THEN hex({name}) ELSE {name} END" for name in _columns(table))
    return f"SELECT {', '.join(values) or '1'} FROM {quote_qualified(table.copy)}"


def read_values(table: BaselineTable) -> str:
    """Write the query that returns the values of a copy's rows as SQL, but numbers that SQLite does not write exactly.

    Texts beyond printable ASCII are in hexadecimal.
    """
    value = (
        "CASE WHEN typeof({name}) = 'real' AND ({name} = 0 OR CAST(quote({name}) AS REAL) <> {name}) THEN {name} "
        "WHEN typeof({name}) = 'text' AND ({name} GLOB '*[^ -~]*' OR instr(CAST({name} AS BLOB), x'00')) "
        "THEN 'CAST(x''' || hex({name}) || ''' AS TEXT)' ELSE quote({name}) END AS v"
    )
    return f"SELECT {', '.join(value.format(name=name) for name in _columns(table))} FROM {quote_qualified(table.copy)}"


def fill_copy(table: BaselineTable, rows: Iterable[Iterable[str | float]]) -> Iterator[str]:
    """Write the insertion of *rows*, as the query of :func:`read_values` returns them, into the copy."""
    beginning = f"INSERT INTO {quote_qualified(table.copy)} ({', '.join(_columns(table))}) VALUES "
    chunk: list[str] = []
    size = 0
    for row in rows:
        if size > _LENGTH:
            yield beginning + ", ".join(chunk)
            chunk, size = [], 0
        values = (write_real(value) if isinstance(value, float) else value for value in row)
        chunk.append(f"({', '.join(values)})")
        size += len(chunk[-1])
    if chunk:
        yield beginning + ", ".join(chunk)


_EXACT = 52
"""SQLite reads 2 to the power of this exactly, and each smaller whole number."""


def write_real(number: float) -> str:
    """Write *number* as an expression without rounding: SQLite may read a text of 17 digits as the next number."""
    if math.isinf(number):
        return "9e999" if number > 0 else "-9e999"
    if not number:
        return repr(number)
    fraction, exponent = math.frexp(number)
    exponent -= 53
    # Each step only changes the exponent.
    steps = [_EXACT] * (abs(exponent) // _EXACT) + [abs(exponent) % _EXACT]
    sign = "*" if exponent > 0 else "/"
    return f"({int(fraction * 2**53)}.0{''.join(f' {sign} {2**step}.0' for step in steps if step)})"


def _columns(table: BaselineTable) -> list[str]:
    return [*(() if table.key else ("k",)), *(f"c{number}" for number in numbers_of(table).values())]


def count_copy(table: BaselineTable) -> str:
    """Write the query of the number of rows in a copy."""
    return f"SELECT COUNT(*) AS number FROM {quote_qualified(table.copy)}"


def probe(number: int, table: BaselineTable, shape: TableShape) -> str:
    """Write the query that returns *number* if the table differs from its copy."""
    live, copy = quote_qualified(table.name), quote_qualified(table.copy)
    key = match(table)
    missing = f"{key_of(table)[0][1]} IS NULL"
    return (
        f"SELECT {number} AS number WHERE (SELECT COUNT(*) FROM {live}) <> {table.rows} "
        f"OR EXISTS (SELECT 1 FROM {live} AS t LEFT JOIN {copy} AS c ON {key} "
        f"WHERE {any_of([missing, *differs(table, shape, has_sign_function=True)])})"
    )


def take_out(table: BaselineTable, shape: TableShape) -> Iterator[Statement]:
    """Write the statements that delete the rows that are not in the copy, and the rows that have other values there."""
    live = f"{quote_qualified(table.name)} AS t"
    found = f"EXISTS (SELECT 1 FROM {quote_qualified(table.copy)} AS c WHERE {match(table)}"
    yield Statement(sql=f"DELETE FROM {live} WHERE NOT {found})", counts=(table.name,))
    if differences := list(differs(table, shape, has_sign_function=False)):
        yield RestoringStatement(
            sql=f"DELETE FROM {live} WHERE {found} AND ({any_of(differences)}))", changed=table.name
        )


def count_changes(table: BaselineTable, shape: TableShape) -> str:
    """Write the query that counts the new rows, the changed rows, and all rows of the table."""
    live = f"{quote_qualified(table.name)} AS t"
    found = f"EXISTS (SELECT 1 FROM {quote_qualified(table.copy)} AS c WHERE {match(table)}"
    differences = any_of(list(differs(table, shape, has_sign_function=True))) or "0"
    return (
        f"SELECT (SELECT COUNT(*) FROM {live} WHERE NOT {found})), "
        f"(SELECT COUNT(*) FROM {live} WHERE {found} AND ({differences}))), (SELECT COUNT(*) FROM {live})"
    )


def put_in(table: BaselineTable) -> Statement:
    """Write the statement that inserts the missing rows of the copy."""
    numbers = numbers_of(table)
    pairs = [] if table.key else [(rowid_of(table).removeprefix("t."), "c.k")]
    pairs += [
        (quote_name(column.name), f"c.c{numbers[column.name]}") for column in table.columns if not column.is_generated
    ]
    live, kept = (", ".join(names) for names in zip(*key_of(table), strict=True))
    # Not a correlated subquery: its cursor would stay open, and an R-tree accepts no rows while one reads it.
    return RestoringStatement(
        sql=f"INSERT INTO {quote_qualified(table.name)} ({', '.join(name for name, _ in pairs)}) "
        f"SELECT {', '.join(value for _, value in pairs)} FROM {quote_qualified(table.copy)} AS c "
        f"WHERE ({kept}) NOT IN (SELECT {live} FROM {quote_qualified(table.name)} AS t)",
        filled=table.name,
    )


def kept_values(table: BaselineTable, columns: Collection[str]) -> str:
    """Write the subquery of the values that *columns* have in the copy. NULL, to which nothing refers, is left out."""
    numbers = numbers_of(table)
    kept = [f"c{numbers[name]}" for name in columns]
    present = " AND ".join(f"{column} IS NOT NULL" for column in kept)
    return f"(SELECT {', '.join(kept)} FROM {quote_qualified(table.copy)} WHERE {present})"


def numbers_of(table: BaselineTable) -> dict[str, int]:
    """Return the number of each column, from 1, for the copy's ``c1`` …."""
    return {column.name: number for number, column in enumerate(table.columns, 1)}


def rowid_of(table: BaselineTable) -> str:
    """Write the hidden rowid of a row ``t``."""
    rowid = find_rowid(table.columns)
    assert rowid is not None  # the capture refuses such a table
    return f"t.{rowid}"


def key_of(table: BaselineTable) -> list[tuple[str, str]]:
    """Return the columns that identify rows, in the table and in the copy."""
    numbers = numbers_of(table)
    if not table.key:
        return [(rowid_of(table), "c.k")]
    return [(f"t.{quote_name(name)}", f"c.c{numbers[name]}") for name in table.key]


def _exact(column: str) -> str:
    """Write a column without its affinity and its collation, which would make different values equal."""
    return f"+{column} COLLATE BINARY"


def match(table: BaselineTable) -> str:
    """Write the condition under which a row ``t`` of the table and a row ``c`` of the copy have the same key."""
    return " AND ".join(f"{kept} = {_exact(live)}" for live, kept in key_of(table))


def differs(table: BaselineTable, shape: TableShape, *, has_sign_function: bool) -> Iterator[str]:
    """Yield the conditions under which two rows of one key differ.

    Without the function for the sign, a zero of unknown sign counts as different.
    """
    for name, number in numbers_of(table).items():
        is_rowid = shape.has_rowid and name in table.key
        if is_rowid or table.columns[number - 1].is_generated:
            continue
        live, kept = f"t.{quote_name(name)}", f"c.c{number}"
        yield f"{_exact(live)} IS NOT {kept}"
        if name in shape.numeric:
            yield f"typeof({live}) <> typeof({kept})"
        if name in shape.loose:
            sign = f" AND {SIGN}({live}) <> {SIGN}({kept})" if has_sign_function else ""
            yield f"(typeof({live}) = 'real' AND {live} = 0{sign})"


def any_of(terms: list[str]) -> str:
    """Write the disjunction, in groups that are not too deep."""
    groups = [" OR ".join(chunk) for chunk in chunks(terms, _DEPTH)]
    return groups[0] if len(groups) == 1 else " OR ".join(f"({group})" for group in groups)


_KNOWN = "_testdb_known_comparison"
"""The attribute of a connection that keeps the last comparison."""

_LENGTH = 100_000
"""The maximum characters of one compound query, and its terms: SQLite's limits are 1,000,000 and 500."""
_TERMS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How to compare the tables of a ``baseline``, in the schema of ``token`` and over one ``connection``.

    ``names`` are the tables in order, and ``probes`` the queries that return the numbers of those that differ.
    ``is_possible`` is off if the tables, or their copies, are no longer those of the capture. ``has_sign`` says whether
    the connection has the function for the sign.
    """

    connection: object
    baseline: Baseline
    token: str
    tables: Mapping[QualifiedName, TableShape]
    migrations: Mapping[QualifiedName, TableShape]
    names: tuple[QualifiedName, ...]
    probes: tuple[str, ...]
    is_possible: bool
    has_sign: bool


def read_comparison(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, catalog: Catalog, baseline: Baseline
) -> Comparison:
    """Return the comparison with *baseline*: the one kept from the last scan, or a new one."""
    raw = connection.connection
    known: Comparison | None = getattr(connection, _KNOWN, None)
    if known is not None and known.connection is not raw:
        known = None
    if known is not None and known.token == catalog.token and known.baseline == baseline:
        return known
    names = tuple(sorted(baseline.tables))
    tables = read_shapes(connection, cursor, catalog, names)
    is_same = all(baseline.shape.get(what) == text for what, text in describe_shapes(tables).items())
    own = {left.name for left in catalog.left_out}
    are_there = tables.keys() == set(names) and {table.copy for table in baseline.tables.values()} <= own
    is_captured = any(baseline.captured_at in capture for capture in catalog.captures)
    is_possible = is_same and are_there and is_captured
    has_sign = known is not None and known.has_sign
    if not has_sign and any(shape.loose for shape in tables.values()):
        raw.create_function(SIGN, 1, _is_negative, deterministic=True)
        has_sign = True
    probes = (probe(number, baseline.tables[name], tables[name]) for number, name in enumerate(names))
    found = Comparison(
        connection=raw,
        baseline=baseline,
        token=catalog.token,
        tables=tables,
        migrations=read_shapes(connection, cursor, catalog, baseline.migrations),
        names=names,
        probes=tuple(_compound(probes)) if is_possible else (),
        is_possible=is_possible,
        has_sign=has_sign,
    )
    setattr(connection, _KNOWN, found)
    return found


def _is_negative(number: float) -> bool:
    return math.copysign(1, number) < 0


def _compound(terms: Iterable[str]) -> Iterator[str]:
    chunk: list[str] = []
    for term in terms:
        if chunk and (len(chunk) == _TERMS or sum(map(len, chunk)) + len(term) > _LENGTH):
            yield " UNION ALL ".join(chunk)
            chunk = []
        chunk.append(term)
    if chunk:
        yield " UNION ALL ".join(chunk)


def find_differing(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, comparison: Comparison
) -> list[QualifiedName]:
    """Return the tables that differ from the baseline. Reads their rows and those of the copies once."""
    return [comparison.names[number] for query in comparison.probes for (number,) in fetch(connection, cursor, query)]


def describe(connection: BaseDatabaseWrapper, cursor: CursorWrapper, comparison: Comparison) -> dict[str, str]:
    """Describe what the baseline depends on, as it is now: its tables, and the list of migrations."""
    migrations = read_migrations(connection, cursor, comparison.migrations)
    return describe_shapes(comparison.tables) | migrations
