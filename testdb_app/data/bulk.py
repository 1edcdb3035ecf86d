"""Many rows at once: COPY on PostgreSQL, one compiled statement on SQLite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import AutoField, Model

from testdb_app.backends import get_backend
from testdb_app.data.columns import RowReader
from testdb_app.guard import check_may_write
from testdb_app.model_tables import split_db_table
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_KEYS_A_TIME = 10_000


def bulk(
    model: type[Model],
    rows: Iterable[Any],
    /,
    *,
    using: str = DEFAULT_DB_ALIAS,
    allow_database: str | Iterable[str] = (),
) -> int:
    """Insert many rows of one model, and return how many. All or nothing.

    *rows* are dicts, by names of fields, or instances, which are not changed: unlike ``bulk_create()`` it tells no keys, and that
    is what makes it fast. Values are converted as ``save()`` does. Fields that are not given get their default; what the
    database makes, keys and ``db_default``, is left to it. No signal is sent, and no ``save()`` is called.

    Raises :class:`~testdb_app.exceptions.UnsupportedError` for a model that inherits from another one with a table of its own and
    for expressions, :class:`~testdb_app.exceptions.DataError` for a field that is not there, and Django's database errors.
    """
    connection = connections[using]
    check_may_write(connection, allow_database)
    return insert(model, rows, connection)


def insert(
    model: type[Model], rows: Iterable[Any], connection: BaseDatabaseWrapper, keys: list[Any] | None = None
) -> int:
    """Do as :func:`bulk`, without asking the guard; *keys* gets the primary key of each row, reserved where rows give none."""
    reader = RowReader(model, connection)
    backend = get_backend(connection).data
    schema, name = split_db_table(model._meta.db_table)
    table = name if schema is None else QualifiedName(schema, name)
    quoted = backend.quote(connection, table)
    if keys is not None:
        column = str(model._meta.pk.column)
        rows = _with_keys(model, rows, keys, lambda number: backend.reserve_keys(connection, quoted, column, number))
    count = 0
    with transaction.atomic(using=connection.alias):
        # Batches with the same columns are one statement, which takes the rows as they come.
        for columns, batches in groupby(reader.batches(rows), key=itemgetter(0)):
            names = [column.column for column in columns]
            count += backend.insert_rows(connection, table, names, chain.from_iterable(map(itemgetter(1), batches)))
    return count


def _with_keys(model: type[Model], rows: Iterable[Any], keys: list[Any], reserve: Any) -> Iterator[Any]:
    """Yield *rows* with a key each, and add it to *keys*; rows that need one are dicts afterwards."""
    fields: list[Any] = list(getattr(model._meta, "pk_fields", [model._meta.pk]))
    is_made = isinstance(fields[0], AutoField)
    remaining = iter(rows)
    while batch := list(islice(remaining, _KEYS_A_TIME)):
        if not all(isinstance(row, Mapping | Model) for row in batch):
            yield from batch  # whoever reads them next says what they should be
            return
        found = [[_value_of(row, field) for field in fields] for row in batch]
        missing = [place for place, values in enumerate(found) if is_made and values[0] is None]
        reserved = dict(zip(missing, reserve(len(missing)) if missing else (), strict=True))
        for place, (row, values) in enumerate(zip(batch, found, strict=True)):
            if values[0] is None:
                values[0] = reserved[place] if is_made else fields[0].get_default()
                yield {**_as_dict(model, row), fields[0].attname: values[0]}
            else:
                yield row
            keys.append(values[0] if len(values) == 1 else tuple(values))


def _value_of(row: Any, field: Any) -> Any:
    if not isinstance(row, Mapping):
        return getattr(row, field.attname)
    value = row.get(field.attname, row.get(field.name, row.get("pk")))
    return value.pk if isinstance(value, Model) else value


def _as_dict(model: type[Model], row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return {name: value for name, value in row.items() if name != "pk"}
    return {field.attname: getattr(row, field.attname) for field in model._meta.concrete_fields}
