"""Where the models and the database disagree on a foreign key."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db.models.fields.related import ForeignObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    from testdb_app.labels.tables import ModelIndex, TableNames, TableOfModel
    from testdb_app.schema import ForeignKey, QualifiedName, Schema


class DisagreementKind(StrEnum):
    """How a model and the database disagree on a foreign key."""

    NO_TABLE = "no table"
    MISSING = "missing in the database"
    ELSEWHERE = "refers to something else"
    UNDECLARED = "not declared by the model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """One foreign key on which a model and the database disagree.

    ``label`` is the model's, ``field`` its field, ``table`` its table and ``key`` the key in the database,
    each None where there is none. ``message`` says what, which, and what next.
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

    ``expected``: the database has to have it. ``allowed``: the database may have it.
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
        """The referenced table and columns, for people."""
        return f"{self.referenced or self.referenced_label}({', '.join(self.referenced_columns)})"

    def is_met_by(self, key: ForeignKey, names: TableNames) -> bool:
        """Whether *key* is this one. The order of its pairs of columns does not matter."""
        pairs = zip(map(names.column, key.columns), map(names.column, key.referenced_columns), strict=False)
        declared = zip(self.columns, self.referenced_columns, strict=False)
        return key.referenced == self.referenced and sorted(pairs) == sorted(declared)


def foreign_key_disagreements(
    index: ModelIndex, schema: Schema, connection: BaseDatabaseWrapper
) -> tuple[Disagreement, ...]:
    """Compare the foreign keys that managed models declare with those in the database. No query.

    Fields with ``db_constraint=False`` expect none. Generic relations, references to models of other aliases
    and to what is no table are left alone. PostgreSQL's copies of keys for partitions count, but need no
    declaration. On a database without foreign keys there is nothing to compare.
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
                found.extend(_expect(field, table, keys.get(table, ()) if table else (), index.names))
    blamed = {disagreement.key for disagreement in found}
    for table, label in sorted(managed.items()):
        for key in keys.get(table, ()):
            if not key.inherited and key not in blamed:
                found.extend(_allow(key, label, declared[table], index.names))
    return tuple(found)


def _declared_keys(
    model: type[Model], names: TableNames, entries: Mapping[type[Model], TableOfModel]
) -> Iterator[_Declared]:
    """Read a model's own fields as Django's schema editor does (``BaseDatabaseSchemaEditor.table_sql``).

    A relation over several columns makes no key in the database, but a key made by hand may stand behind it.
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


def _expect(
    field: _Declared, table: QualifiedName | None, keys: Sequence[ForeignKey], names: TableNames
) -> Iterator[Disagreement]:
    """Find what is wrong with a key that the database has to have."""
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
            "Add it by a migration, or set db_constraint=False on the field."
        )
    else:
        kind = DisagreementKind.ELSEWHERE
        problem = f'in the database "{key.name}" is {key}. Change the key by a migration, or the field.'
    yield Disagreement(
        kind=kind, label=field.label, field=field.field, table=table, key=key, message=f"{declares} {problem}"
    )


def _allow(key: ForeignKey, label: str, fields: Iterable[_Declared], names: TableNames) -> Iterator[Disagreement]:
    """Find what is wrong with a key that the database has."""
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
        message=f'The database has the foreign key "{key.name}", {key}, but {reason} by a migration.',
    )
