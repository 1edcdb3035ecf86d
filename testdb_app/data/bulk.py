"""Many rows at once: COPY on PostgreSQL, one compiled statement on SQLite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import AutoField

from testdb_app.backends import get_backend
from testdb_app.data.columns import RowReader
from testdb_app.labels import split_db_table
from testdb_app.permission import check_may_write
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

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
    """Yield *rows* as dicts with a key each, and add it to *keys*."""
    field = model._meta.pk
    is_made = isinstance(field, AutoField)
    remaining = iter(rows)
    while batch := list(islice(remaining, _KEYS_A_TIME)):
        missing = [place for place, row in enumerate(batch) if is_made and _key(row, field) is None]
        reserved = dict(zip(missing, reserve(len(missing)) if missing else (), strict=True))
        for place, row in enumerate(batch):
            yield _with_key(model, row, field, reserved.get(place), keys)


def _with_key(model: type[Model], row: Any, field: Any, reserved: Any, keys: list[Any]) -> Any:
    if reserved is not None:
        keys.append(reserved)
        if isinstance(row, dict):
            return {**row, field.attname: reserved}
        values = {each.attname: getattr(row, each.attname) for each in model._meta.concrete_fields}
        return {**values, field.attname: reserved}
    key = _key(row, field)
    if key is None:
        key = field.get_default()
        row = {**row, field.attname: key} if isinstance(row, dict) else row
    keys.append(key)
    return row


def _key(row: Any, field: Any) -> Any:
    if isinstance(row, dict):
        return row.get(field.attname, row.get(field.name, row.get("pk")))
    return getattr(row, field.attname)
