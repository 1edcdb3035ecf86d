"""How the values of a column get ready for the database, as ``save()`` would do it; many at a time."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from django.conf import settings
from django.db import models
from django.db.models import Field
from django.db.models.fields import NOT_PROVIDED

from testdb_app.exceptions import UnsupportedError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_NONE = type(None)

# A value of just that type is what these fields' own conversion would return, which costs more than all the rest.
_AS_IT_IS: Mapping[type[Field[Any, Any]], type] = {
    models.AutoField: int,
    models.BigAutoField: int,
    models.BigIntegerField: int,
    models.BooleanField: bool,
    models.CharField: str,
    models.FloatField: float,
    models.IntegerField: int,
    models.PositiveBigIntegerField: int,
    models.PositiveIntegerField: int,
    models.PositiveSmallIntegerField: int,
    models.SmallIntegerField: int,
    models.TextField: str,
}
# The same, on databases whose driver takes the type itself.
_AS_IT_IS_NATIVELY: Mapping[type[Field[Any, Any]], type] = {
    models.DateField: datetime.date,
    models.DateTimeField: datetime.datetime,
    models.DecimalField: Decimal,
    models.DurationField: datetime.timedelta,
    models.UUIDField: uuid.UUID,
}


def _is_good(_: Any) -> bool:
    return True


# What a field's conversion looks at besides the type.
_CHECKS: Mapping[type | None, Callable[[Any], bool]] = {
    datetime.datetime: lambda value: value is None or (value.tzinfo is not None and settings.USE_TZ),
    Decimal: lambda value: value is None or value.is_finite(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column to fill: the field, how its values get ready, which type needs none of that, and the default (None: none).

    With ``looks_at_row`` the field makes its value of the instance that is saved: ``auto_now``, files, fields of one's own.
    """

    field: Field[Any, Any]
    prepare: Callable[[Any], Any]
    plain: type | None
    default: Callable[[], Any] | None
    looks_at_row: bool

    @property
    def column(self) -> str:
        """The column's name in the database."""
        return str(self.field.column)

    def convert(self, values: list[Any]) -> list[Any]:
        """Return values of many rows as the driver takes them."""
        check = _CHECKS.get(self.plain)
        is_plain = set(map(type, values)) <= {self.plain, _NONE} and (check is None or all(map(check, values)))
        return values if is_plain else list(map(self.prepare, values))


def make_column(field: Field[Any, Any], connection: BaseDatabaseWrapper) -> Column:
    """Make the column of *field* for the vendor of *connection*."""
    has_default = field.default is not NOT_PROVIDED or not (is_made_by_database(field) or field.primary_key)
    plain = _plain_type(field, connection)
    return Column(
        field=field,
        prepare=_preparation(field, plain, connection),
        plain=plain,
        default=field.get_default if has_default else None,
        looks_at_row=_looks_at_row(field),
    )


def is_made_by_database(field: Field[Any, Any]) -> bool:
    """Whether a row that does not give the field leaves it to the database."""
    return isinstance(field, models.AutoField) or getattr(field, "db_default", NOT_PROVIDED) is not NOT_PROVIDED


def _plain_type(field: Field[Any, Any], connection: BaseDatabaseWrapper) -> type | None:
    target = field
    if type(field) in {models.ForeignKey, models.OneToOneField}:
        target = cast("Any", field).target_field
    plain = _AS_IT_IS.get(type(target))
    if plain is None and connection.vendor == "postgresql":
        plain = _AS_IT_IS_NATIVELY.get(type(target))
    return plain


def _preparation(field: Field[Any, Any], plain: type | None, connection: BaseDatabaseWrapper) -> Callable[[Any], Any]:
    def prepare(value: Any) -> Any:
        if value is None or (type(value) is plain and _CHECKS.get(plain, _is_good)(value)):
            return value
        if hasattr(value, "resolve_expression"):
            raise UnsupportedError(
                f"{field.model._meta.label}.{field.name} is given an expression, {value!r}, which only a query can work out. "
                "Nothing was inserted. Give its value."
            )
        return field.get_db_prep_save(value, connection)

    return prepare


def _looks_at_row(field: Any) -> bool:
    own = type(field).pre_save
    if own in {models.DateField.pre_save, models.DateTimeField.pre_save, models.TimeField.pre_save}:
        return bool(field.auto_now or field.auto_now_add)
    return own is not Field.pre_save
