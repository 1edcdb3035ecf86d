"""A value for a field that nobody gave: always the same, different for each row, and one that the field takes."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import BaseValidator, MinLengthValidator, MinValueValidator
from django.db import models

from testdb_app.exceptions import MakeError

if TYPE_CHECKING:
    from testdb_app.data.values import Values

_FIRST_DAY = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


class NoMoreValuesError(Exception):
    """A field has no value left that no row has: its choices, or its digits, are used up."""


def invent(field: Any, number: int, values: Values) -> Any:
    """Return the value of *field* for its row of that *number*, from 1.

    Raises :class:`NoMoreValuesError` where numbers so high have none, and :class:`~testdb_app.exceptions.MakeError` for a
    field that no value is known for, or whose validators take none that is.
    """
    value = _choose(field, number) if field.choices else _value(field, number, values)
    try:
        field.run_validators(value)
    except ValidationError as error:
        raise _cannot_make(field, f"its validators do not take {value!r}: {'; '.join(error.messages)}") from error
    return value


def _choose(field: Any, number: int) -> Any:
    choices = [value for value, _ in field.flatchoices if value not in field.empty_values]
    if not choices:
        raise _cannot_make(field, "it has no choices")
    if field.unique and number > len(choices):
        raise NoMoreValuesError
    return choices[(number - 1) % len(choices)]


def _value(field: Any, number: int, values: Values) -> Any:
    for kind in type(field).__mro__:
        if kind in _MAKERS:
            return _MAKERS[kind](field, number, values)
    if hasattr(field, "base_field"):
        return [] if not field.unique else [number]
    raise _cannot_make(field, f"a {type(field).__name__} is nothing that a value is known for")


def _cannot_make(field: Any, why: str) -> MakeError:
    label = field.model._meta.label
    return MakeError(
        f"Cannot make a value for {label}.{field.name}: {why}. Nothing was made. Give it: make({field.model.__name__}, "
        f"{field.name}=…).",
        model=label,
        field=field.name,
    )


def _text(field: Any, number: int, _: Values) -> str:
    text = f"{field.name} {number}"
    if field.max_length is not None and len(text) > field.max_length:
        text = str(number)
        if len(text) > field.max_length:
            raise NoMoreValuesError
    least = _least(field, MinLengthValidator, 0)
    return text.ljust(least, "x")


def _least(field: Any, kind: type[BaseValidator], default: Any) -> Any:
    limits = (validator.limit_value for validator in field.validators if isinstance(validator, kind))
    return max([default, *(limit() if callable(limit) else limit for limit in limits)])


def _slug(field: Any, number: int, values: Values) -> str:
    return _text(field, number, values).replace(" ", "-")


def _domain(before: str, after: str) -> Callable[[Any, int, Values], str]:
    def make(field: Any, number: int, _: Values) -> str:
        text = f"{before}{number}{after}"
        if field.max_length is not None and len(text) > field.max_length:
            raise _cannot_make(field, f'"{text}" is longer than it may be')
        return text

    return make


def _number(field: Any, number: int, _: Values) -> int:
    # The number of the row, or as far above the least that the field takes. Negative ones are none that a row needs.
    value = int(_least(field, MinValueValidator, 1)) + number - 1
    most = min((v.limit_value for v in field.validators if v.__class__.__name__ == "MaxValueValidator"), default=None)
    if most is not None and value > (most() if callable(most) else most):
        if field.unique:
            raise NoMoreValuesError
        value = int(_least(field, MinValueValidator, 1))
    return value


def _decimal(field: Any, number: int, _: Values) -> Decimal:
    whole = field.max_digits - field.decimal_places
    most = 10**field.max_digits - 1
    units = number * 10**field.decimal_places if whole and number < 10**whole else number
    if units > most:
        raise NoMoreValuesError
    return max(Decimal(units).scaleb(-field.decimal_places), Decimal(_least(field, MinValueValidator, 0)))


def _moment(_: Any, number: int, __: Values) -> datetime.datetime:
    moment = _FIRST_DAY + datetime.timedelta(days=number - 1)
    return moment if settings.USE_TZ else moment.replace(tzinfo=None)


def _uuid(field: Any, _: int, values: Values) -> uuid.UUID:
    return uuid.UUID(int=values.random(f"uuid of {field.model._meta.label}.{field.name}").getrandbits(128), version=4)


_MAKERS: Mapping[type[Any], Callable[[Any, int, Any], Any]] = {
    models.BinaryField: lambda field, number, _: f"{field.name} {number}".encode(),
    models.BooleanField: lambda field, number, _: bool(number % 2 == 0),
    models.CharField: _text,
    models.DateField: lambda field, number, values: _moment(field, number, values).date(),
    models.DateTimeField: _moment,
    models.DecimalField: _decimal,
    models.DurationField: lambda field, number, _: datetime.timedelta(hours=number),
    models.EmailField: _domain("person", "@example.com"),
    models.FileField: lambda field, number, _: f"{field.name}-{number}.bin",
    models.FloatField: lambda field, number, _: float(_least(field, MinValueValidator, 0)) + number,
    models.GenericIPAddressField: lambda field, number, _: (
        f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    ),
    models.IntegerField: _number,
    models.JSONField: lambda field, number, _: {"number": number} if field.unique else {},
    models.SlugField: _slug,
    models.TextField: _text,
    models.TimeField: lambda field, number, _: (_FIRST_DAY + datetime.timedelta(minutes=number - 1)).time(),
    models.URLField: _domain("https://example.com/", ""),
    models.UUIDField: _uuid,
}
