"""The shape of a baseline on SQLite: the columns and keys that its copies depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from testdb_app.backends.sqlite.connection import fetch
from testdb_app.backends.sqlite.parser import chunks, fold, quote_literal, quote_name, quote_qualified
from testdb_app.baseline_state import MIGRATIONS_IN, BaselineColumn
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

    from testdb_app.backends.sqlite.catalog import Catalog

# Hidden 1 are the columns that a virtual table has besides those it was made with; 2 and 3 are generated ones.
COLUMNS = """
SELECT v.column1, c.name, c.type, c."notnull", c.pk, c.hidden
FROM (VALUES {names}) AS v
JOIN pragma_table_xinfo(v.column1, {schema}) AS c
WHERE c.hidden <> 1
ORDER BY v.column1, c.cid
"""

# The index of a primary key that is not the rowid itself. It ends in the rowid, unless the table has none.
PRIMARY_KEYS = """
SELECT v.column1,
       EXISTS (SELECT 1 FROM pragma_index_xinfo(i.name, {schema}) AS x WHERE x.cid = -1) AS has_rowid
FROM (VALUES {names}) AS v
JOIN pragma_index_list(v.column1, {schema}) AS i
WHERE i.origin = 'pk'
"""

_ROWIDS = ("rowid", "_rowid_", "oid")
_NAMES = 400
"""The maximum number of names in one query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableShape:
    """A table's columns, and its key: empty if only the hidden rowid is certain to tell its rows apart.

    ``primary_key`` is the declared one; unless it is the rowid, SQLite lets its columns be NULL. ``has_rowid`` is off for
    WITHOUT ROWID. ``loose`` are the columns that keep a number as it was given, including the sign of -0.0, and
    ``numeric`` those that may have both 1 and 1.0, or the like. ``text`` describes it all.
    """

    columns: tuple[BaselineColumn, ...]
    key: tuple[str, ...]
    has_rowid: bool
    loose: frozenset[str]
    numeric: frozenset[str]
    text: str
    primary_key: tuple[str, ...] = ()


def find_rowid(columns: Iterable[BaselineColumn]) -> str | None:
    """Return the name by which the hidden rowid can be read; None if columns have all three of its names."""
    taken = {fold(column.name) for column in columns}
    return next((name for name in _ROWIDS if name not in taken), None)


def read_shapes(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, catalog: Catalog, tables: Iterable[QualifiedName]
) -> dict[QualifiedName, TableShape]:
    """Read the shape of those of *tables* that are in *catalog*. Two queries per 400 tables of one database."""
    by_schema: dict[str, list[str]] = {}
    for name in sorted(tables):
        if name in catalog.tables:
            by_schema.setdefault(name.schema, []).append(name.name)
    found: dict[QualifiedName, TableShape] = {}
    for schema, names in by_schema.items():
        for chunk in chunks(names, _NAMES):
            places = {
                "names": ", ".join(f"({quote_literal(name)})" for name in chunk),
                "schema": quote_literal(schema),
            }
            keys = dict(fetch(connection, cursor, PRIMARY_KEYS.format(**places)))
            rows: dict[str, list[tuple[str, str, int, int, int]]] = {name: [] for name in chunk}
            for table, *row in fetch(connection, cursor, COLUMNS.format(**places)):
                rows[table].append(tuple(row))
            for table in chunk:
                name = QualifiedName(schema, table)
                virtual = catalog.virtual.get(name)
                key = () if virtual is None else tuple(row[0] for row in rows[table][: virtual.leading_key])
                found[name] = _shape(rows[table], keys.get(table), key, is_virtual=virtual is not None)
    return found


def _shape(
    rows: list[tuple[str, str, int, int, int]], key_index: int | None, key: tuple[str, ...], *, is_virtual: bool
) -> TableShape:
    """Make a shape from the rows of :data:`COLUMNS`; *key_index* is None if no index makes the primary key."""
    primary_key = tuple(name for _, name in sorted((place, name) for name, _, _, place, _ in rows if place))
    if key_index != 1:
        key = key or primary_key
    lines = [
        " ".join(filter(None, (name, kind, "not null" if required else "", "generated" if hidden else "")))
        for name, kind, required, _, hidden in rows
    ]
    return TableShape(
        columns=tuple(BaselineColumn(name=name, is_generated=bool(hidden)) for name, _, _, _, hidden in rows),
        key=key,
        primary_key=primary_key,
        has_rowid=key_index != 0,
        loose=frozenset(name for name, kind, *_ in rows if is_virtual or not _affinity(kind)),
        numeric=frozenset(name for name, kind, *_ in rows if is_virtual or _affinity(kind) in {"", "numeric"}),
        text="\n".join([*lines, *([f"key ({', '.join(key)})"] if key else [])]),
    )


def _affinity(kind: str) -> str:
    """Return "text", "real", "numeric" (INTEGER too), or "" for none: then even -0.0 is kept as it is.

    The rules: https://www.sqlite.org/datatype3.html#determination_of_column_affinity. ANY has none in a STRICT table. A
    numeric column turns a number into an integer if possible, except the greatest ones.
    """
    folded = fold(kind)
    if "int" in folded:
        return "numeric"
    if any(word in folded for word in ("char", "clob", "text")):
        return "text"
    if not folded or "blob" in folded or folded == "any":
        return ""
    return "real" if any(word in folded for word in ("real", "floa", "doub")) else "numeric"


def describe_shapes(shapes: Mapping[QualifiedName, TableShape]) -> dict[str, str]:
    """Describe tables as :attr:`testdb_app.baseline_state.Baseline.shape` does."""
    return {f"table {name}": shape.text for name, shape in shapes.items()}


def read_migrations(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, migrations: Mapping[QualifiedName, TableShape]
) -> dict[str, str]:
    """Describe the rows of *migrations*, Django's own tables: the applied migrations, not when. One query for each."""
    found = {}
    for name, shape in migrations.items():
        told = [column.name for column in shape.columns if column.name not in {"id", "applied"}]
        line = " || ' ' || ".join(f"quote({quote_name(column)})" for column in told) or "''"
        rows = fetch(connection, cursor, f"SELECT {line} AS line FROM {quote_qualified(name)}")
        found[f"{MIGRATIONS_IN}{name}"] = "\n".join(sorted(line for (line,) in rows))
    return found
