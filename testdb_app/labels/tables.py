"""Which Django models stand behind which tables.

The table of a model is text that Django puts between quotes: it may hold a schema (``"s"."t"`` or ``s"."t``),
PostgreSQL cuts it after 63 bytes, and where the database ignores case so does the look-up here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, cast

from django.apps import apps
from django.db import router
from django.db.migrations.recorder import MigrationRecorder

from testdb_app.schema import QualifiedName, Schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

_QUOTED = re.compile(r'(?:"((?:[^"]|"")+)"\.)?"((?:[^"]|"")+)"')

POSTGRESQL_NAME_BYTES = 63
"""PostgreSQL cuts longer names without an error. Django's cut counts characters, and spares explicit ones."""


class ModelWithoutTable(NamedTuple):
    """A model whose table the schema does not have; ``db_table`` as the model spells it."""

    label: str
    db_table: str


class TableOfModel(NamedTuple):
    """A concrete model and its table: None if there is none or the schema leaves it out (``left_out``)."""

    model: type[Model]
    table: QualifiedName | None
    left_out: bool


@dataclass(frozen=True, kw_only=True)
class ModelIndex:
    """The models of one alias and their tables. Made by :func:`index_models`.

    ``labels_by_table`` maps tables to labels ("app_label.ModelName"): concrete managed models first, then
    unmanaged ones, then proxies, each sorted. ``unmanaged`` has the labels of models that no migration makes.
    """

    schema: Schema
    names: TableNames
    concrete: tuple[TableOfModel, ...]
    labels_by_table: Mapping[QualifiedName, tuple[str, ...]]
    unmanaged: frozenset[str]

    def labels_of(self, table: QualifiedName) -> tuple[str, ...]:
        """Return the labels of the models behind *table*; empty if no model knows it."""
        return self.labels_by_table.get(table, ())

    @cached_property
    def models_without_table(self) -> tuple[ModelWithoutTable, ...]:
        """The models whose table does not exist, sorted.

        A foreign or temporary table, or a view that the schema names, counts as existing. Behind an unmanaged
        model there may be a view that the schema does not name.
        """
        return tuple(
            sorted(
                ModelWithoutTable(model._meta.label, model._meta.db_table)
                for model, table, left_out in self.concrete
                if table is None and not left_out
            )
        )

    @cached_property
    def tables_without_model(self) -> tuple[QualifiedName, ...]:
        """The tables that no model knows, sorted, without partitions and those of extensions."""
        return tuple(
            table.name
            for table in self.schema.tables
            if table.name not in self.labels_by_table
            and table.extension is None
            and not (table.is_partition and any(root in self.schema.by_name for root in table.inherits))
        )


class TableNames:
    """Finds the table that a model's ``db_table`` means, as this database would."""

    def __init__(self, schema: Schema, connection: BaseDatabaseWrapper) -> None:
        self._search_path = schema.search_path
        self._truncates = connection.vendor == "postgresql"
        self._ignores_case = connection.features.ignores_table_name_case
        self._relations: dict[QualifiedName, QualifiedName | None] = {}
        for group in (schema.left_out, schema.materialized_views):
            self._relations.update((self._folded(item.name), None) for item in group)
        self._relations.update((self._folded(table.name), table.name) for table in schema.tables)

    def find(self, db_table: str) -> tuple[QualifiedName | None, bool]:
        """Return the table that Django's SQL reaches by *db_table*, None if it reaches none, and whether it
        reaches a relation that the schema leaves out."""
        schema, name = split_db_table(db_table)
        for candidate in [self._stored(schema)] if schema is not None else self._search_path:
            key = self._folded(QualifiedName(candidate, self._stored(name)))
            if key in self._relations:
                table = self._relations[key]
                return table, table is None
        return None, False

    def column(self, name: str) -> str:
        """Return *name* in the form in which two names of columns are compared."""
        stored = self._stored(name)
        return _ascii_lower(stored) if self._ignores_case else stored

    def _stored(self, name: str) -> str:
        if not self._truncates:
            return name
        return name.encode("utf-8", "surrogatepass")[:POSTGRESQL_NAME_BYTES].decode("utf-8", "ignore")

    def _folded(self, name: QualifiedName) -> QualifiedName:
        if not self._ignores_case:
            return name
        return QualifiedName(_ascii_lower(name.schema), _ascii_lower(name.name))


def _ascii_lower(text: str) -> str:
    """SQLite folds the case of ASCII letters only."""
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def split_db_table(db_table: str) -> tuple[str | None, str]:
    """Read a model's ``db_table`` as Django's ``quote_name`` and the server do: (schema or None, name).

    ``"s"."t"`` and ``s"."t`` are both table ``t`` of schema ``s``. Text that is no valid SQL is a plain name.
    """
    is_quoted = db_table.startswith('"') and db_table.endswith('"')
    match = _QUOTED.fullmatch(db_table if is_quoted else f'"{db_table}"')
    if match is None:
        return None, db_table
    schema, name = match.groups()
    return schema and schema.replace('""', '"'), name.replace('""', '"')


def index_models(connection: BaseDatabaseWrapper, schema: Schema) -> ModelIndex:
    """Find the tables of all models that the routers send to the connection's alias. No query.

    As in migrations, the table of an automatic many-to-many relation follows the model that declares it, a
    proxy its concrete model, and models that are swapped out or need another vendor or feature are left out.
    ``django_migrations`` counts as known: its model is Django's own, in no app.
    """
    names = TableNames(schema, connection)
    concrete: list[TableOfModel] = []
    labels: dict[QualifiedName, list[tuple[bool, bool, str]]] = {}
    for model in _models_of(connection):
        meta = model._meta
        table, left_out = names.find(meta.db_table)
        if table is not None:
            labels.setdefault(table, []).append((meta.proxy, not meta.managed, meta.label))
        if not meta.proxy and (table is not None or model is not MigrationRecorder.Migration):
            concrete.append(TableOfModel(model, table, left_out))
    return ModelIndex(
        schema=schema,
        names=names,
        concrete=tuple(sorted(concrete, key=lambda entry: entry.model._meta.label)),
        labels_by_table={name: tuple(label for *_, label in sorted(labels[name])) for name in sorted(labels)},
        unmanaged=frozenset(entry.model._meta.label for entry in concrete if not entry.model._meta.managed),
    )


def _models_of(connection: BaseDatabaseWrapper) -> Iterator[type[Model]]:
    yield MigrationRecorder.Migration
    for model in apps.get_models(include_auto_created=True):
        concrete = model._meta.concrete_model or model
        # Migrations make an automatic table with its owner, and ask the routers about the owner only.
        owner = cast("type[Model]", concrete._meta.auto_created or concrete)
        if _can_exist(owner, connection) and router.allow_migrate_model(connection.alias, owner):
            yield model


def _can_exist(model: type[Model], connection: BaseDatabaseWrapper) -> bool:
    """What Django's ``Options.can_migrate`` says of the vendor; it refuses unmanaged models too."""
    vendor = model._meta.required_db_vendor
    return vendor in {None, connection.vendor} and all(
        getattr(connection.features, feature, False) for feature in model._meta.required_db_features
    )
