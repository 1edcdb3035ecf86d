"""Which columns a row of a model has, and how its values get ready for the database; for rows that go in without the ORM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import Model
from django.db.models.expressions import DatabaseDefault

from testdb_app.data.conversion import Column, is_made_by_database, make_column
from testdb_app.exceptions import DataError, UnsupportedError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_LEFT: Any = object()
"""In place of a value: the database is to make it."""
_ROWS_A_BATCH = 2_000

Batch = tuple[tuple[Column, ...], list[Sequence[Any]]]
"""Columns, and rows of values for them."""


class RowReader:
    """Reads rows for one model, dicts or instances, as lists of values; many of one kind column by column, which is fast.

    Parameters: *model*, *connection*. Raises :class:`UnsupportedError` for a model whose rows lie in several tables.
    """

    def __init__(self, model: type[Model], connection: BaseDatabaseWrapper) -> None:
        meta = model._meta
        if any(parent._meta.concrete_model is not meta.concrete_model for parent in parents_of(model)):
            raise UnsupportedError(
                f"Rows of {meta.label} cannot go in at once: it inherits from a model with a table of its own, and a row of it "
                "is one in each table. Nothing was inserted. Make them one by one."
            )
        self.model = model
        self._columns = tuple(
            make_column(field, connection) for field in meta.concrete_fields if not getattr(field, "generated", False)
        )
        self._names = {name for column in self._columns for name in _names(column)}
        self._needs_instances = any(column.looks_at_row for column in self._columns)

    def batches(self, rows: Iterable[Any]) -> Iterator[Batch]:
        """Yield the rows, in order, by the columns that they fill: what the database makes, keys and defaults, is left out."""
        remaining = iter(rows)
        while batch := list(islice(remaining, _ROWS_A_BATCH)):
            yield from self._read_alike(batch) or self._read_one_by_one(batch)

    def _read_alike(self, rows: list[Any]) -> list[Batch]:
        """Read rows that all give the same fields; none where they do not."""
        if set(map(type, rows)) == {dict} and not self._needs_instances and len(set(map(tuple, rows))) == 1:
            self._check_names(rows[0])
            given = ((column, _find_name(column, rows[0])) for column in self._columns)
            values = [
                ([row[name] for row in rows] if name is not None else _defaults(column, len(rows)))
                for column, name in given
            ]
        elif all(type(row) is self.model for row in rows):
            values = [_values_of_instances(column, rows) for column in self._columns]
        else:
            return []
        columns, converted = [], []
        for column, found in zip(self._columns, values, strict=True):
            left = [_is_left(column, value) for value in found] if _may_be_left(column) else [False]
            if all(left):
                continue
            if any(left):
                return []
            columns.append(column)
            converted.append(column.convert(_without_models(column, found)))
        return [(tuple(columns), list(zip(*converted, strict=True)) if converted else [()] * len(rows))]

    def _read_one_by_one(self, rows: list[Any]) -> Iterator[Batch]:
        read = map(self._read, rows)
        for left, group in groupby(read, key=lambda row: tuple(value is _LEFT for value in row)):
            columns = tuple(column for column, is_left in zip(self._columns, left, strict=True) if not is_left)
            yield columns, [[value for value in row if value is not _LEFT] for row in group]

    def _read(self, row: Any) -> list[Any]:
        if isinstance(row, Mapping):
            self._check_names(row)
            if not self._needs_instances:
                return [_value(column, row) for column in self._columns]
            row = self.model(**row)
        if not isinstance(row, self.model._meta.concrete_model or self.model):
            raise DataError(
                f"Rows of {self.model._meta.label} are to be dicts or instances of it, not {type(row).__name__}. Nothing was "
                "inserted."
            )
        return [_prepared(column, column.field.pre_save(row, add=True)) for column in self._columns]

    def _check_names(self, row: Mapping[str, Any]) -> None:
        if unknown := row.keys() - self._names:
            raise DataError(
                f"{self.model._meta.label} has no field {', '.join(map(repr, sorted(unknown)))} to insert. Nothing was inserted. "
                f"Its fields are {', '.join(column.field.name for column in self._columns)}."
            )


def parents_of(model: type[Model]) -> list[type[Model]]:
    """Return all models that *model* inherits from, also through others, but for abstract ones."""
    return [
        parent
        for parent in model.__mro__
        if parent is not model and hasattr(parent, "_meta") and not parent._meta.abstract
    ]


def _names(column: Column) -> tuple[str, ...]:
    names = (column.field.attname, column.field.name)
    return (*names, "pk") if column.field.primary_key else names


def _find_name(column: Column, row: Mapping[str, Any]) -> str | None:
    return next((name for name in _names(column) if name in row), None)


def _value(column: Column, row: Mapping[str, Any]) -> Any:
    name = _find_name(column, row)
    (value,) = _defaults(column, 1) if name is None else (row[name],)
    return _prepared(column, value)


def _prepared(column: Column, value: Any) -> Any:
    return _LEFT if _is_left(column, value) else column.convert(_without_models(column, [value]))[0]


def _defaults(column: Column, number: int) -> list[Any]:
    return [column.default() for _ in range(number)] if column.default is not None else [_LEFT] * number


def _values_of_instances(column: Column, rows: list[Any]) -> list[Any]:
    if column.looks_at_row:
        return [column.field.pre_save(row, add=True) for row in rows]
    return list(map(attrgetter(column.field.attname), rows))


def _may_be_left(column: Column) -> bool:
    return column.default is None or is_made_by_database(column.field)


def _is_left(column: Column, value: Any) -> bool:
    """Whether the database is to make that value."""
    is_made = value is None and isinstance(column.field, models.AutoField)
    return is_made or value is _LEFT or isinstance(value, DatabaseDefault)


def _without_models(column: Column, values: list[Any]) -> list[Any]:
    """Put the keys of related instances in their place."""
    field: Any = column.field
    if field.remote_field is None or not any(isinstance(value, Model) for value in values):
        return values
    name = field.target_field.attname
    return [getattr(value, name) if isinstance(value, Model) else value for value in values]
