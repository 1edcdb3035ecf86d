"""Snapshots on SQLite: states of tables that are kept, and the differences between them.

Rows are compared as for a baseline: storage class, collation and the sign of a zero included. SQLite does not report what
was written, so a comparison reads every table that has rows, and the copy of every table that had rows.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from django.db import Error

from testdb_app.backends.base import StoredState
from testdb_app.backends.sqlite.baseline_copies import SIGN, any_of, differs, key_of, make_copy, match
from testdb_app.backends.sqlite.baseline_shape import TableShape, find_rowid, read_shapes
from testdb_app.backends.sqlite.catalog import Catalog, read_catalog
from testdb_app.backends.sqlite.connection import all_or_nothing, execute, fetch, in_transaction, snapshot
from testdb_app.backends.sqlite.parser import quote_name, quote_qualified
from testdb_app.baseline_state import Baseline, BaselineColumn, BaselineTable
from testdb_app.diff import RowDifference, TableDifference
from testdb_app.exceptions import SnapshotError, UnsupportedError
from testdb_app.schema import QualifiedName
from testdb_app.selection import ALWAYS_KEPT

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

_numbers = itertools.count(1)
# The attribute of a connection that keeps the driver's connection, and the copies in it that are not needed any more.
_LITTER = "_testdb_snapshot_litter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A table with rows: what is compared, its copy in ``table.copy``, and its shape at that time."""

    table: BaselineTable
    shape: TableShape


class SQLiteState:
    """The rows of tables at one moment; see :class:`testdb_app.backends.base.StoredState`."""

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        tables: dict[QualifiedName, Kept],
        chosen: frozenset[QualifiedName] | None,
    ) -> None:
        self.tables = tables
        self.is_open = True
        self._raw = connection.connection
        self._chosen = chosen
        copies = [kept.table.copy for kept in tables.values()]
        self._finalizer = weakref.finalize(self, _litter(connection).extend, copies)

    def compare(self, connection: BaseDatabaseWrapper, later: StoredState | None, limit: int) -> list[TableDifference]:
        """Return what differs. Reads the rows of both states once."""
        self.check_usable(connection)
        if later is not None:
            assert isinstance(later, SQLiteState)
            later.check_usable(connection)
        define_sign(connection)
        with snapshot(connection) as cursor:
            catalog = read_catalog(connection, cursor)
            self._check_copies(connection, cursor)
            now = _filled(connection, cursor, catalog, self._chosen) if later is None else list(later.tables)
            names = sorted({*self.tables, *now})
            shapes = read_shapes(connection, cursor, catalog, names)
            self._refuse_other_tables(shapes)
            found = []
            for name in names:
                before = self.tables[name].table.copy if name in self.tables else None
                shape = _by_primary_key(shapes[name])
                after = Side.live(name, shape) if later is None else later.side(name)
                found.append(compare(connection, cursor, name, shape, before=before, after=after, limit=limit))
        return [difference for difference in found if difference is not None]

    def side(self, name: QualifiedName) -> Side | None:
        """Return the table as it was, to be compared with an earlier state; None if it had no rows."""
        kept = self.tables.get(name)
        return Side.copied(kept.table, kept.shape) if kept is not None else None

    def check_usable(self, connection: BaseDatabaseWrapper) -> None:
        """Raise :class:`SnapshotError` if it is closed, or its copies ended with the connection that made them."""
        if not self.is_open:
            raise SnapshotError("The snapshot is closed. Compare before it is closed.")
        connection.ensure_connection()
        if connection.connection is not self._raw:
            raise SnapshotError(
                f'The snapshot of "{connection.alias}" was taken over another connection, in which its copies were kept. Compare '
                "over the same connection, before it is closed."
            )

    def close(self, connection: BaseDatabaseWrapper) -> None:
        """Drop the copies, if their connection is still open."""
        if self.is_open:
            self.is_open = False
            self._finalizer()
            if connection.connection is not None and connection.connection is self._raw:
                _drop_litter(connection)

    def _check_copies(self, connection: BaseDatabaseWrapper, cursor: CursorWrapper) -> None:
        there = {
            name for (name,) in fetch(connection, cursor, "SELECT name FROM sqlite_temp_master WHERE type = 'table'")
        }
        if any(kept.table.copy.name not in there for kept in self.tables.values()):
            raise SnapshotError(
                f'The rows that a snapshot of "{connection.alias}" kept are gone: the transaction or savepoint in which it was '
                "taken was rolled back. Take the snapshot before it, or compare inside."
            )

    def _refuse_other_tables(self, shapes: dict[QualifiedName, TableShape]) -> None:
        changed = sorted(
            str(name)
            for name, kept in self.tables.items()
            if name not in shapes or shapes[name].text != kept.shape.text
        )
        if changed:
            raise SnapshotError(
                f"Since the snapshot was taken, tables were dropped, renamed or altered: {', '.join(changed)}. Their rows "
                "cannot be compared. Take the snapshot after the change.",
                tables=changed,
            )


def store_state(connection: BaseDatabaseWrapper, tables: frozenset[QualifiedName] | None) -> SQLiteState:
    """Keep the rows of *tables*, or of all. Costs a copy of each."""
    connection.ensure_connection()
    _drop_litter(connection)
    kept: dict[QualifiedName, Kept] = {}
    with snapshot(connection) as cursor:
        catalog = read_catalog(connection, cursor)
        names = _filled(connection, cursor, catalog, tables)
        shapes = read_shapes(connection, cursor, catalog, names)
        shapes = {name: _by_primary_key(shape) for name, shape in shapes.items()}
        _refuse_unkeepable(connection, cursor, shapes)
    with all_or_nothing(connection, "testdb_snapshot") as cursor:
        for name in names:
            shape = shapes[name]
            copy = QualifiedName("temp", f"testdb_snapshot_{next(_numbers)}")
            table = BaselineTable(name=name, copy=copy, rows=0, columns=shape.columns, key=shape.key)
            for sql in make_copy(table, shape):
                execute(connection, cursor, sql)
            kept[name] = Kept(table=table, shape=shape)
    return SQLiteState(connection, kept, tables)


def compare_with_baseline(
    connection: BaseDatabaseWrapper, baseline: Baseline | None, tables: Iterable[QualifiedName], limit: int
) -> list[TableDifference]:
    """Compare each of *tables* with its copy, or with no rows."""
    copies = baseline.tables if baseline is not None else {}
    connection.ensure_connection()
    define_sign(connection)
    with snapshot(connection) as cursor:
        names = sorted(tables)
        shapes = read_shapes(connection, cursor, read_catalog(connection, cursor), names)
        found = []
        for name in names:
            before, after = copies[name].copy if name in copies else None, Side.live(name, shapes[name])
            found.append(compare(connection, cursor, name, shapes[name], before=before, after=after, limit=limit))
    return [difference for difference in found if difference is not None]


def _filled(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, catalog: Catalog, tables: frozenset[QualifiedName] | None
) -> list[QualifiedName]:
    names = [catalog.names[number] for query in catalog.probes for (number,) in fetch(connection, cursor, query)]
    if tables is None:
        return [name for name in names if name.name not in ALWAYS_KEPT]
    return [name for name in names if name in tables]


def _by_primary_key(shape: TableShape) -> TableShape:
    """Identify rows by the declared primary key if the rowid is another one, because the rowid has no meaning to users."""
    if shape.key or not shape.primary_key:
        return shape
    return replace(shape, key=shape.primary_key, has_rowid=False)


def _refuse_unkeepable(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, shapes: Mapping[QualifiedName, TableShape]
) -> None:
    found = []
    for name, shape in shapes.items():
        if shape.has_rowid and not shape.key and find_rowid(shape.columns) is None:
            found.append(f"{name} (its columns hide the rowid, which alone identifies its rows)")
        elif not shape.has_rowid:
            missing = " OR ".join(f"{quote_name(column)} IS NULL" for column in shape.key)
            if fetch(connection, cursor, f"SELECT 1 AS v FROM {quote_qualified(name)} WHERE {missing} LIMIT 1"):
                found.append(f"{name} (a row of it has no primary key)")
    if found:
        raise UnsupportedError(f"A snapshot cannot keep the rows of {', '.join(found)}. Name other tables.")


def _litter(connection: BaseDatabaseWrapper) -> list[QualifiedName]:
    raw, names = getattr(connection, _LITTER, (None, []))
    if raw is not connection.connection:
        names = []
        setattr(connection, _LITTER, (connection.connection, names))
    assert isinstance(names, list)
    return names


def _drop_litter(connection: BaseDatabaseWrapper) -> None:
    litter = _litter(connection)
    if not litter:
        return
    was_open = in_transaction(connection)
    try:
        with all_or_nothing(connection, "testdb_snapshot") as cursor:
            for name in litter:
                execute(connection, cursor, f"DROP TABLE IF EXISTS {quote_qualified(name)}")
    except Error:
        if not was_open:
            raise
        return
    litter.clear()


_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The later side of a comparison: a table ``t``, its ``shape``, and its key; the names of its columns may be a copy's."""

    table: BaselineTable
    shape: TableShape

    @classmethod
    def live(cls, name: QualifiedName, shape: TableShape) -> Side:
        """Return the table itself."""
        return cls(table=BaselineTable(name=name, copy=name, rows=0, columns=shape.columns, key=shape.key), shape=shape)

    @classmethod
    def copied(cls, table: BaselineTable, shape: TableShape) -> Side:
        """Return the copy of a table in its place: columns ``c1`` …, which keep every value as it is."""
        names = {column.name: f"c{number}" for number, column in enumerate(table.columns, 1)}
        columns = tuple(
            BaselineColumn(name=names[column.name], is_generated=column.is_generated) for column in table.columns
        )
        key = tuple(names[name] for name in table.key)
        every = frozenset(names.values())
        return cls(
            table=replace(table, name=table.copy, columns=columns, key=key),
            shape=replace(shape, columns=columns, key=key, loose=every, numeric=every),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Query:
    """Rows of one kind: FROM and what follows, and the columns before and after."""

    kind: str
    tail: str
    old: Sequence[str]
    new: Sequence[str]


def define_sign(connection: BaseDatabaseWrapper) -> None:
    """Give the connection the function that returns the sign of a zero."""
    connection.connection.create_function(SIGN, 1, lambda number: math.copysign(1, number) < 0, deterministic=True)


def compare(
    connection: BaseDatabaseWrapper,
    cursor: CursorWrapper,
    name: QualifiedName,
    shape: TableShape,
    *,
    before: QualifiedName | None,
    after: Side | None,
    limit: int,
) -> TableDifference | None:
    """Compare the copy *before* (None: no rows) with *after* (None: no rows), two states of the table *name*."""
    counts = {"+": 0, "~": 0, "-": 0}
    rows: list[RowDifference] = []
    for query in _queries(shape, before, after):
        counts[query.kind] = fetch(connection, cursor, f"SELECT COUNT(*) AS found {query.tail}")[0][0]
        if counts[query.kind]:
            rows += _read(connection, cursor, shape, query, limit)
    if not any(counts.values()):
        return None
    return TableDifference(table=name, added=counts["+"], changed=counts["~"], removed=counts["-"], rows=tuple(rows))


def _queries(shape: TableShape, before: QualifiedName | None, after: Side | None) -> Iterator[_Query]:
    old = [f"c.c{number}" for number in range(1, len(shape.columns) + 1)]
    copy = f"{quote_qualified(before)} AS c" if before is not None else ""
    if after is None:
        if before is not None:
            yield _Query(kind="-", tail=f"FROM {copy}", old=old, new=())
        return
    new = [f"t.{quote_name(column.name)}" for column in after.table.columns]
    table = f"{quote_qualified(after.table.name)} AS t"
    if before is None:
        yield _Query(kind="+", tail=f"FROM {table}", old=(), new=new)
        return
    paired = replace(after.table, copy=before)
    on = match(paired)
    there, kept = (", ".join(names) for names in zip(*key_of(paired), strict=True))
    yield _Query(kind="+", tail=f"FROM {table} WHERE NOT EXISTS (SELECT 1 FROM {copy} WHERE {on})", old=(), new=new)
    if others := list(differs(paired, after.shape, has_sign_function=True)):
        yield _Query(kind="~", tail=f"FROM {table} JOIN {copy} ON {on} WHERE {any_of(others)}", old=old, new=new)
    # Not a correlated subquery: what it searches has an index in the copy only.
    gone = f"({kept}) NOT IN (SELECT {there} FROM {table} WHERE {_is_complete(paired)})"
    yield _Query(kind="-", tail=f"FROM {copy} WHERE {gone}", old=old, new=())


def _is_complete(table: BaselineTable) -> str:
    return " AND ".join(f"{live} IS NOT NULL" for live, _ in key_of(table))


def _read(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, shape: TableShape, query: _Query, limit: int
) -> Iterator[RowDifference]:
    names = [column.name for column in shape.columns]
    listed = [*query.old, *query.new]
    values = ", ".join(f"{_text(column)} AS v{number}" for number, column in enumerate(listed))
    order = ", ".join(listed[names.index(name)] for name in shape.key) or ", ".join(listed)
    for row in fetch(connection, cursor, f"SELECT {values} {query.tail} ORDER BY {order} LIMIT {limit}"):
        before = dict(zip(names, row[: len(query.old)], strict=True)) if query.old else None
        after = dict(zip(names, row[len(query.old) :], strict=True)) if query.new else None
        changed: tuple[str, ...] = ()
        if before is not None and after is not None:
            changed = tuple(name for name in names if before[name] != after[name])
        yield RowDifference(before=before, after=after, key=shape.key, changed=changed)


def _text(column: str) -> str:
    """Write a value as text, or a blob's digits."""
    text = f"CASE typeof({column}) WHEN 'blob' THEN 'x' || hex({column}) ELSE CAST({column} AS TEXT) END"
    return f"substr({text}, 1, {_MOST_CHARACTERS})"
