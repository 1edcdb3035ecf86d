"""The rows that a ledger answers for, by table and key; and what Django tells of those that come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db.models import Model
from django.db.models.signals import post_save

from testdb_app.data.columns import parents_of
from testdb_app.data.maps import find_table
from testdb_app.exceptions import DataError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.model_tables import ModelIndex
    from testdb_app.schema import QualifiedName

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """Rows of one model's own table, by their primary keys as Python has them."""

    model: type[Model]
    keys: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRows:
    """Rows of a table: the ``columns`` of a key, and the keys as the database has them."""

    columns: tuple[str, ...]
    keys: frozenset[Key]


def entries_of(instance: Model, using: str) -> Iterator[Entry]:
    """Yield the rows that *instance* is: its own, and those of the models that it inherits from.

    None for one that is not saved. Raises :class:`~testdb_app.exceptions.DataError` for one of another database.
    """
    if instance._state.adding or instance.pk is None:
        return
    if instance._state.db not in {None, using}:
        raise DataError(
            f'{instance._meta.label} {instance.pk!r} was saved over the alias "{instance._state.db}", and this ledger is for '
            f'"{using}". Use a ledger for that alias.'
        )
    for model in _concrete_models(type(instance)):
        yield Entry(model, (instance._get_pk_val(model._meta),))


def rows_by_table(
    entries: Iterable[Entry], index: ModelIndex, connection: BaseDatabaseWrapper
) -> dict[QualifiedName, TableRows]:
    """Return the rows of *entries* by table, with the keys as the database has them."""
    keys: dict[type[Model], dict[Any, None]] = {}
    for entry in entries:
        keys.setdefault(entry.model, {}).update(dict.fromkeys(entry.keys))
    found: dict[QualifiedName, TableRows] = {}
    for model, own in keys.items():
        table = find_table(index, model, connection.alias)
        fields: list[Any] = list(getattr(model._meta, "pk_fields", [model._meta.pk]))
        prepared = frozenset(_prepare(fields, key, connection) for key in own)
        before = found[table].keys if table in found else frozenset()
        found[table] = TableRows(columns=tuple(str(field.column) for field in fields), keys=before | prepared)
    return found


def _prepare(fields: list[Any], key: Any, connection: BaseDatabaseWrapper) -> Key:
    values = key if isinstance(key, tuple) else (key,)
    return tuple(field.get_db_prep_value(value, connection) for field, value in zip(fields, values, strict=True))


def _concrete_models(model: type[Model]) -> Iterator[type[Model]]:
    seen = dict.fromkeys(each._meta.concrete_model or each for each in (model, *parents_of(model)))
    yield from seen


@contextmanager
def told_of_new_rows(using: str, tell: Callable[[Model], None]) -> Iterator[None]:
    """Have *tell* called, meanwhile, with each instance that this thread saves as a new row over the alias *using*."""
    thread = threading.get_ident()

    def receive(sender: type[Model], **options: Any) -> None:
        if options["created"] and options["using"] == using and threading.get_ident() == thread:
            tell(options["instance"])

    post_save.connect(receive, weak=False)
    try:
        yield
    finally:
        post_save.disconnect(receive)
