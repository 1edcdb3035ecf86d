"""Find the table of each Django model, and the foreign keys on which models and database disagree.

The ``db_table`` of a model is text that Django puts between quotes. It may contain a schema (``"s"."t"`` or ``s"."t``).
PostgreSQL cuts it after 63 bytes. If the database ignores case, so does the search here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from django.apps import apps
from django.db import router
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.fields.related import ForeignObject

from testdb_app.schema import QualifiedName, Schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    from testdb_app.schema import ForeignKey, QualifiedName, Schema

_QUOTED = re.compile(r'(?:"((?:[^"]|"")+)"\.)?"((?:[^"]|"")+)"')

POSTGRESQL_NAME_BYTES = 63
"""PostgreSQL cuts longer names without an error. Django counts characters when it shortens, and never shortens explicit names."""


class ModelWithoutTable(NamedTuple):
    """A model whose table is not in the schema; ``db_table`` as the model spells it."""

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

    ``labels_by_table`` has the labels ("app_label.ModelName") of each table: concrete managed models first, then
    unmanaged ones, then proxies, each sorted. ``unmanaged`` has the labels of models that migrations do not create.
    """

    schema: Schema
    names: TableNames
    concrete: tuple[TableOfModel, ...]
    labels_by_table: Mapping[QualifiedName, tuple[str, ...]]
    unmanaged: frozenset[str]

    def labels_of(self, table: QualifiedName) -> tuple[str, ...]:
        """Return the labels of the models behind *table*; empty if there are none."""
        return self.labels_by_table.get(table, ())

    @cached_property
    def models_without_table(self) -> tuple[ModelWithoutTable, ...]:
        """The models whose table does not exist, sorted.

        A foreign or temporary table, or a view in the schema, counts as existing. The table of an unmanaged model may
        be a view that is not in the schema.
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
        """The tables without a model, sorted, except partitions and tables of extensions."""
        return tuple(
            table.name
            for table in self.schema.tables
            if table.name not in self.labels_by_table
            and table.extension is None
            and not (table.is_partition and any(root in self.schema.by_name for root in table.inherits))
        )


class TableNames:
    """Finds the table of a model's ``db_table`` by the rules of this database."""

    def __init__(self, schema: Schema, connection: BaseDatabaseWrapper) -> None:
        self._search_path = schema.search_path
        self._truncates = connection.vendor == "postgresql"
        self._ignores_case = connection.features.ignores_table_name_case
        self._relations: dict[QualifiedName, QualifiedName | None] = {}
        for group in (schema.left_out, schema.materialized_views):
            self._relations.update((self._folded(item.name), None) for item in group)
        self._relations.update((self._folded(table.name), table.name) for table in schema.tables)

    def find(self, db_table: str) -> tuple[QualifiedName | None, bool]:
        """Return the table that *db_table* means in Django's SQL, or None; and whether it means a left-out relation."""
        schema, name = split_db_table(db_table)
        for candidate in [self._stored(schema)] if schema is not None else self._search_path:
            key = self._folded(QualifiedName(candidate, self._stored(name)))
            if key in self._relations:
                table = self._relations[key]
                return table, table is None
        return None, False

    def column(self, name: str) -> str:
        """Return the name of a column in the form for comparisons."""
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
    """Split a model's ``db_table`` as Django's ``quote_name`` and the server do: (schema or None, name).

    ``"s"."t"`` and ``s"."t`` are both table ``t`` of schema ``s``. Text that is no valid SQL is a plain name.
    """
    is_quoted = db_table.startswith('"') and db_table.endswith('"')
    match = _QUOTED.fullmatch(db_table if is_quoted else f'"{db_table}"')
    if match is None:
        return None, db_table
    schema, name = match.groups()
    return schema and schema.replace('""', '"'), name.replace('""', '"')


def index_models(connection: BaseDatabaseWrapper, schema: Schema) -> ModelIndex:
    """Return the tables of all models that the routers allow on the connection's alias. Runs no query.

    As in migrations, an automatic many-to-many table follows the model that declares it, and a proxy its concrete
    model. Models that are swapped out, or that need another vendor or feature, are left out. ``django_migrations`` is
    included: its model is Django's own, in no app.
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


def on_delete_by_columns(index: ModelIndex) -> dict[tuple[QualifiedName, tuple[str, ...]], str]:
    """Return the name of Django's ``on_delete`` for each table and columns of a model's foreign key. Runs no query."""
    found: dict[tuple[QualifiedName, tuple[str, ...]], str] = {}
    for entry in index.concrete:
        for field in entry.model._meta.local_fields:
            if entry.table is not None and isinstance(field, ForeignObject):
                on_delete: Any = field.remote_field.on_delete
                # SET() returns a function of another name.
                name = "SET" if hasattr(on_delete, "deconstruct") else getattr(on_delete, "__name__", str(on_delete))
                found[entry.table, _columns(field.local_related_fields, index.names)] = name
    return found


def _models_of(connection: BaseDatabaseWrapper) -> Iterator[type[Model]]:
    yield MigrationRecorder.Migration
    for model in apps.get_models(include_auto_created=True):
        concrete = model._meta.concrete_model or model
        # Migrations create an automatic table with its owner, and query the routers for the owner only.
        owner = cast("type[Model]", concrete._meta.auto_created or concrete)
        if _can_exist(owner, connection) and router.allow_migrate_model(connection.alias, owner):
            yield model


def _can_exist(model: type[Model], connection: BaseDatabaseWrapper) -> bool:
    """Whether the vendor supports *model*. Django's ``Options.can_migrate`` would also refuse unmanaged models."""
    vendor = model._meta.required_db_vendor
    return vendor in {None, connection.vendor} and all(
        getattr(connection.features, feature, False) for feature in model._meta.required_db_features
    )


class DisagreementKind(StrEnum):
    """How a model and the database disagree on a foreign key."""

    NO_TABLE = "no table"
    MISSING = "missing in the database"
    ELSEWHERE = "refers to something else"
    UNDECLARED = "not declared by the model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A foreign key on which a model and the database disagree.

    ``label`` is the model's label, ``field`` its field, ``table`` its table, and ``key`` the key in the database; each is
    None if there is none. ``message`` describes the problem and the remedy.
    """

    kind: DisagreementKind
    label: str
    field: str | None
    table: QualifiedName | None
    key: ForeignKey | None
    message: str

    def __str__(self) -> str:
        return self.message


class _Declared(NamedTuple):
    """A foreign key that a field declares.

    ``expected``: the database must have it. ``allowed``: the database may have it.
    """

    label: str
    field: str
    columns: tuple[str, ...]
    referenced: QualifiedName | None
    referenced_label: str
    referenced_columns: tuple[str, ...]
    expected: bool
    allowed: bool

    @property
    def target(self) -> str:
        """The referenced table and columns, as text for messages."""
        return f"{self.referenced or self.referenced_label}({', '.join(self.referenced_columns)})"

    def is_met_by(self, key: ForeignKey, names: TableNames) -> bool:
        """Whether *key* is this one. The order of its pairs of columns does not matter."""
        pairs = zip(map(names.column, key.columns), map(names.column, key.referenced_columns), strict=False)
        declared = zip(self.columns, self.referenced_columns, strict=False)
        return key.referenced == self.referenced and sorted(pairs) == sorted(declared)


def foreign_key_disagreements(
    index: ModelIndex, schema: Schema, connection: BaseDatabaseWrapper
) -> tuple[Disagreement, ...]:
    """Return the differences between the foreign keys of managed models and those in the database. Runs no query.

    Fields with ``db_constraint=False`` expect no key. Generic relations, and references to models of other aliases or
    to relations that are no tables, are ignored. PostgreSQL's copies of keys for partitions need no declaration. The
    result is empty for a database without foreign keys.
    """
    if not connection.features.supports_foreign_keys:
        return ()
    keys: dict[QualifiedName, list[ForeignKey]] = {}
    for key in schema.foreign_keys:
        keys.setdefault(key.table, []).append(key)
    entries = {entry.model: entry for entry in index.concrete}
    declared: dict[QualifiedName, list[_Declared]] = {}
    managed: dict[QualifiedName, str] = {}
    found: list[Disagreement] = []
    for model, table, left_out in index.concrete:
        fields = list(_declared_keys(model, index.names, entries))
        if table is not None:
            declared.setdefault(table, []).extend(fields)
        if not model._meta.managed or left_out:
            continue
        if table is not None:
            managed.setdefault(table, model._meta.label)
        for field in fields:
            if field.expected:
                found.extend(_check_expected(field, table, keys.get(table, ()) if table else (), index.names))
    blamed = {disagreement.key for disagreement in found}
    for table, label in sorted(managed.items()):
        for key in keys.get(table, ()):
            if not key.inherited and key not in blamed:
                found.extend(_check_allowed(key, label, declared[table], index.names))
    return tuple(found)


def _declared_keys(
    model: type[Model], names: TableNames, entries: Mapping[type[Model], TableOfModel]
) -> Iterator[_Declared]:
    """Yield the keys of a model's own fields as Django's schema editor does (``BaseDatabaseSchemaEditor.table_sql``).

    A relation over several columns creates no key in the database, but somebody may have created one by hand.
    """
    for field in model._meta.local_fields:
        if not isinstance(field, ForeignObject) or isinstance(field.remote_field.model, str):
            continue
        related: Any = field.remote_field.model._meta.concrete_model
        referenced, left_out = names.find(related._meta.db_table)
        constrained = getattr(field, "db_constraint", None)
        yield _Declared(
            label=model._meta.label,
            field=field.name,
            columns=_columns(field.local_related_fields, names),
            referenced=referenced,
            referenced_label=related._meta.label,
            referenced_columns=_columns(field.foreign_related_fields, names),
            expected=constrained is True
            and related in entries
            and not left_out
            and (referenced is not None or related._meta.managed),
            allowed=constrained is not False,
        )


def _columns(fields: Iterable[Any], names: TableNames) -> tuple[str, ...]:
    return tuple(names.column(field.column) for field in fields)


def _check_expected(
    field: _Declared, table: QualifiedName | None, keys: Sequence[ForeignKey], names: TableNames
) -> Iterator[Disagreement]:
    """Yield the disagreement about a key that the database must have, if it lacks it."""
    if any(field.is_met_by(key, names) for key in keys):
        return
    declares = f"{field.label}.{field.field} declares a foreign key to {field.target}, but"
    key = next((key for key in keys if tuple(map(names.column, key.columns)) == field.columns), None)
    if table is None or field.referenced is None:
        kind = DisagreementKind.NO_TABLE
        lacking = field.label if table is None else field.referenced_label
        problem = f"{lacking} has no table in this database. Run `manage.py migrate` for it."
    elif key is None:
        kind = DisagreementKind.MISSING
        problem = (
            f"{table}({', '.join(field.columns)}) has none in the database. "
            "Add it in a migration, or set db_constraint=False on the field."
        )
    else:
        kind = DisagreementKind.ELSEWHERE
        problem = f'in the database "{key.name}" is {key}. Change the key in a migration, or change the field.'
    yield Disagreement(
        kind=kind, label=field.label, field=field.field, table=table, key=key, message=f"{declares} {problem}"
    )


def _check_allowed(
    key: ForeignKey, label: str, fields: Iterable[_Declared], names: TableNames
) -> Iterator[Disagreement]:
    """Yield the disagreement about a key in the database, if no field allows it."""
    declaring = [field for field in fields if field.is_met_by(key, names)]
    if any(field.allowed for field in declaring):
        return
    if declaring:
        label = declaring[0].label
        reason = f"{label}.{declaring[0].field} says db_constraint=False. Remove that, or drop the key"
    else:
        reason = f"no field of {label} declares it. Add one to the model, or drop the key"
    yield Disagreement(
        kind=DisagreementKind.UNDECLARED,
        label=label,
        field=declaring[0].field if declaring else None,
        table=key.table,
        key=key,
        message=f'The database has the foreign key "{key.name}", {key}, but {reason} in a migration.',
    )


__all__ = [
    "Disagreement",
    "DisagreementKind",
    "ModelIndex",
    "ModelWithoutTable",
    "foreign_key_disagreements",
    "index_models",
    "split_db_table",
]
