"""Taking away rows that were set up, and those alone, in the order of the foreign keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db import transaction

from testdb_app.backends import get_backend
from testdb_app.data.registered import Key, TableRows
from testdb_app.diff import show_value
from testdb_app.exceptions import DependentRowsError
from testdb_app.graph import DependencyGraph
from testdb_app.schema import ForeignKey, QualifiedName

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.backends.base import DatabaseIdentity
    from testdb_app.model_tables import ModelIndex

_VALUES_A_QUERY = 900
_MOST_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition with its parameters."""

    sql: str
    parameters: tuple[Any, ...]


def remove(
    connection: BaseDatabaseWrapper,
    index: ModelIndex,
    rows: Mapping[QualifiedName, TableRows],
    *,
    dependents: str,
    identity: DatabaseIdentity,
) -> dict[QualifiedName, int]:
    """Delete *rows*, and return how many were still there, by table. All or nothing, where *identity* was read or nowhere.

    Rows of automatic many-to-many tables go along with those that they link. Others that refer to rows which go are taken along
    if *dependents* is "take"; else :class:`~testdb_app.exceptions.DependentRowsError` names them.
    """
    with transaction.atomic(using=connection.alias):
        get_backend(connection).data.prove(connection, identity, index.schema)
        taken, found = _follow(connection, index, rows, takes_all=dependents == "take")
        if found:
            raise _refuse(found)
        with get_backend(connection).data.accepting_deletes(connection, index.schema, taken):
            return _delete(connection, index, taken)


def _follow(
    connection: BaseDatabaseWrapper, index: ModelIndex, rows: Mapping[QualifiedName, TableRows], *, takes_all: bool
) -> tuple[dict[QualifiedName, TableRows], list[tuple[ForeignKey, TableRows]]]:
    """Return the rows that go, and those that refer to them, by foreign key, and may not go."""
    taken, refused = dict(rows), []
    automatic = _automatic_tables(index)
    work = list(rows.items())
    keys = index.schema.referencing
    while work:
        table, new = work.pop()
        for key in keys.get(table, ()):
            if key.inherited:
                continue
            known = taken.get(key.table)
            columns = known.columns if known is not None else _key_of(connection, key)
            referring = frozenset(_referring(connection, key, columns, new))
            others = referring - known.keys if known is not None else referring
            if not others:
                continue
            found = TableRows(columns=columns, keys=others)
            if not takes_all and key.table not in automatic:
                refused.append((key, found))
                continue
            taken[key.table] = TableRows(
                columns=columns, keys=others | (known.keys if known is not None else frozenset())
            )
            work.append((key.table, found))
    return taken, refused


def _automatic_tables(index: ModelIndex) -> frozenset[QualifiedName]:
    automatic = (model for model in apps.get_models(include_auto_created=True) if model._meta.auto_created)
    found = (index.names.find(model._meta.db_table)[0] for model in automatic)
    return frozenset(table for table in found if table is not None)


def _key_of(connection: BaseDatabaseWrapper, key: ForeignKey) -> tuple[str, ...]:
    """Return the columns that tell the rows of the referencing table apart; of one without a key, those that refer."""
    return get_backend(connection).data.read_keys(connection, [key.table]).get(key.table) or key.columns


def _referring(
    connection: BaseDatabaseWrapper, key: ForeignKey, columns: Sequence[str], rows: TableRows
) -> Iterator[Key]:
    data = get_backend(connection).data
    quote = data.quote
    listed = ", ".join(f"k.{quote(connection, column)}" for column in columns)
    operators = key.operators or (data.comparison("="),) * len(key.columns)
    same = " AND ".join(
        f"r.{quote(connection, there)} {operator} k.{quote(connection, here)}"
        for here, there, operator in zip(key.columns, key.referenced_columns, operators, strict=True)
    )
    source = f"{quote(connection, key.table)} k JOIN {quote(connection, key.referenced)} r ON {same}"
    with connection.cursor() as cursor:
        for condition in _conditions(connection, key.referenced, rows, "r."):
            query = f"SELECT DISTINCT {listed} FROM {source}".replace("%", "%%")
            cursor.execute(f"{query} WHERE {condition.sql}", condition.parameters)
            yield from (tuple(row) for row in cursor.fetchall())


def _conditions(
    connection: BaseDatabaseWrapper, table: QualifiedName, rows: TableRows, prefix: str = ""
) -> Iterator[Condition]:
    """Yield conditions that together mean those *rows* of *table*; numbers that follow each other are one range.

    ``%`` in names is doubled.
    """
    data = get_backend(connection).data
    columns = [f"{prefix}{data.quote(connection, column)}".replace("%", "%%") for column in rows.columns]
    terms: list[tuple[str, Key]] = []
    # Numbers are of PostgreSQL's own types; other values may be of a type with operators of its own.
    if all(type(value) is int for key in rows.keys for value in key):
        operators: tuple[str, ...] = (data.comparison("="),) * len(columns)
    else:
        operators = data.read_equality(connection, table, rows.columns)
    if len(columns) == 1:
        numbers = sorted(key[0] for key in rows.keys if type(key[0]) is int)
        others = [key[0] for key in rows.keys if type(key[0]) is not int]
        between = f"{columns[0]} {data.comparison('>=')} %s AND {columns[0]} {data.comparison('<=')} %s"
        terms += [(f"({between})", pair) for pair in _ranges(numbers)]
        terms += [(f"{columns[0]} {operators[0]} %s", (value,)) for value in others]
    else:
        pairs = zip(columns, operators, strict=True)
        each = " AND ".join(f"{column} {operator} %s" for column, operator in pairs)
        terms += [(f"({each})", key) for key in rows.keys]
    width = max(2, len(columns))
    for start in range(0, len(terms), _VALUES_A_QUERY // width):
        chunk = terms[start : start + _VALUES_A_QUERY // width]
        yield Condition(" OR ".join(sql for sql, _ in chunk), tuple(value for _, values in chunk for value in values))


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    found = []
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        found.append((members[0], members[-1]))
    return found


def _delete(
    connection: BaseDatabaseWrapper, index: ModelIndex, rows: Mapping[QualifiedName, TableRows]
) -> dict[QualifiedName, int]:
    graph = DependencyGraph.from_schema(index.schema).subgraph(rows)
    cyclic = {name for cycle in graph.cycles() for name in cycle}
    data = get_backend(connection).data
    removed: dict[QualifiedName, int] = {}
    for group in graph.deletion_groups():
        deletes = []
        for table in group:
            conditions = list(_conditions(connection, table, rows[table]))
            # Rows that may refer to each other go by one statement.
            batches = [conditions] if table in cyclic else [[condition] for condition in conditions]
            for batch in batches:
                sql = " OR ".join(f"({condition.sql})" for condition in batch)
                deletes.append((table, sql, [value for condition in batch for value in condition.parameters]))
        for part in [deletes] if len(group) > 1 else [[delete] for delete in deletes]:
            for (table, *_), count in zip(part, data.delete_together(connection, part), strict=True):
                removed[table] = removed.get(table, 0) + count
    return removed


def _refuse(found: list[tuple[ForeignKey, TableRows]]) -> DependentRowsError:
    lines = []
    for key, rows in found:
        shown = [
            " ".join(f"{column}={show_value(value)}" for column, value in zip(rows.columns, values, strict=True))
            for values in sorted(rows.keys, key=repr)[:_MOST_SHOWN]
        ]
        more = f", and {len(rows.keys) - len(shown)} more" if len(rows.keys) > len(shown) else ""
        lines.append(f"  {key}: {len(rows.keys)} row(s): {', '.join(shown)}{more}")
    return DependentRowsError(
        "Rows that nobody registered refer to rows that were set up:\n"
        + "\n".join(lines)
        + "\nNone of the rows was taken away. Register these too, delete them in the test, or take them along: "
        'dependents="take".',
        dependents=[(str(key), sorted(rows.keys, key=repr)) for key, rows in found],
    )
