"""Columns, unique keys and numbers of rows, for pictures, as far as Django's own introspection tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from testdb_app.backends.generic.introspection import count_rows as count
from testdb_app.schema import Column, QualifiedName, Schema, TableDetails, UniqueKey, gather_details

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper


def read_details(
    connection: BaseDatabaseWrapper, schema: Schema, *, count_rows: bool
) -> dict[QualifiedName, TableDetails]:
    """Read the details of all tables of *schema*. Two queries a table or more; with *count_rows* another one for each.

    A column's type is the name of Django's field for it, where Django has one.
    """
    columns: dict[QualifiedName, list[Column]] = {}
    keys: dict[QualifiedName, list[UniqueKey]] = {}
    with connection.cursor() as cursor:
        for name in schema.by_name:
            described: list[Any] = connection.introspection.get_table_description(cursor, name.name)
            columns[name] = [_column(connection, column) for column in described]
            keys[name] = _unique_keys(connection, cursor, name, columns[name])
    rows: dict[QualifiedName, int | None] = {}
    if count_rows:
        rows.update(count(connection, schema.by_name))
    return gather_details(schema.by_name, columns=columns, unique_keys=keys, rows=rows)


def _column(connection: BaseDatabaseWrapper, column: Any) -> Column:
    try:
        data_type = str(connection.introspection.get_field_type(column.type_code, column))
    except KeyError:
        data_type = str(column.type_code)
    return Column(
        name=column.name,
        data_type=data_type,
        nullable=bool(column.null_ok),
        default="" if column.default is None else str(column.default),
    )


def _unique_keys(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, name: QualifiedName, columns: list[Column]
) -> list[UniqueKey]:
    constraints: Mapping[str, Any] = connection.introspection.get_constraints(cursor, name.name)
    # Django's parser for SQLite takes a word of the SQL for a column's name, as in "..., height numeric(5, 2), UNIQUE (...)".
    known = {column.name for column in columns}
    return [
        UniqueKey(columns=tuple(constraint["columns"]), is_primary=bool(constraint["primary_key"]))
        for constraint in constraints.values()
        if constraint["columns"]
        and known.issuperset(constraint["columns"])
        and (constraint["primary_key"] or constraint["unique"])
    ]
