"""The schema and the models of a database, read once and cached until the schema changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import apps

from testdb_app.backends import get_backend
from testdb_app.exceptions import DataError
from testdb_app.model_tables import ModelIndex, index_models
from testdb_app.schema import QualifiedName, Schema
from testdb_app.selection import select_tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

_known: dict[tuple[str, str], ModelIndex] = {}


def read_index(connection: BaseDatabaseWrapper) -> ModelIndex:
    """Return the schema, and the models behind its tables. One round trip if they are known."""
    key = (connection.alias, str(connection.settings_dict["NAME"]))
    known = _known.get(key)
    schema = get_backend(connection).data.read_schema(connection, known.schema if known is not None else None)
    if known is None or known.schema is not schema:
        known = _known[key] = index_models(connection, schema)
    return known


def cached_index(connection: BaseDatabaseWrapper) -> ModelIndex:
    """Return the last known models behind the tables, for texts. No round trip if they were read before."""
    return _known.get((connection.alias, str(connection.settings_dict["NAME"]))) or read_index(connection)


def read_schema_of(connection: BaseDatabaseWrapper) -> Schema:
    """Return the schema of the database."""
    return read_index(connection).schema


def find_table(index: ModelIndex, model: type[Model], alias: str) -> QualifiedName:
    """Return the table of *model*; raise :class:`~testdb_app.exceptions.DataError` if there is none."""
    table, _ = index.names.find(model._meta.db_table)
    if table is None:
        raise DataError(
            f'The model {model._meta.label} has no table "{model._meta.db_table}" in the database of the alias "{alias}". '
            "Migrate it, or give the alias of the database that has it."
        )
    return table


def select(connection: BaseDatabaseWrapper, labels: Iterable[str]) -> frozenset[QualifiedName]:
    """Return the tables that *labels* name; see :func:`testdb_app.selection.select_tables`."""
    index = read_index(connection)
    return select_tables(index.schema, index.labels_by_table, labels)


def find_model(name: str) -> type[Model]:
    """Return the model of a label; raise :class:`~testdb_app.exceptions.DataError` if there is none."""
    try:
        return apps.get_model(name)
    except (LookupError, ValueError) as error:
        raise DataError(f'"{name}" is not the label of a model: {error}. Write "app_label.ModelName".') from error
