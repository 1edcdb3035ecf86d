"""Factories: rows with made-up values and the rows that their required foreign keys need, always the same."""

from __future__ import annotations

import datetime
import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import BaseValidator, MaxValueValidator, MinLengthValidator, MinValueValidator
from django.db import DEFAULT_DB_ALIAS, connections, models, transaction
from django.db.models import AutoField, Model, UniqueConstraint
from django.db.models.fields import NOT_PROVIDED

from testdb_app.exceptions import MakeError
from testdb_app.guard import check_may_write

if TYPE_CHECKING:
    from django.db.models import Field

_M = TypeVar("_M", bound=Model)

_MOST_ATTEMPTS = 10_000
"""How many values of a unique field are tried: rows may have them already."""


def make(
    model: type[_M],
    /,
    *,
    using: str = DEFAULT_DB_ALIAS,
    values: Values | None = None,
    allow_database: str | Iterable[str] = (),
    **given: Any,
) -> _M:
    """Make a row of *model* with the *given* values and all that it needs besides; return it.

    Fields with a default, nullable fields, and fields that the database fills are left alone. Every other value
    follows from the field's name and the number of the row, and is checked by the field's validators. A required
    foreign key gets a new row, made in the same way. If that row's unique fields have no value left, the first
    existing row is used. A many-to-many relation stays empty. With the *values* of a ledger the rows are the same in
    each ledger. Without, each call starts at the beginning and uses the first values that no row has.

    Raises :class:`~testdb_app.exceptions.MakeError`, naming the field to give, for foreign keys that need each other,
    for a generic foreign key, and for fields without a known value. All or nothing.
    """
    check_may_write(connections[using], allow_database)
    return RowMaker(using, values if values is not None else Values()).make(model, given)


class RowMaker:
    """Makes rows over one connection; *keep* is called with each row that it makes."""

    def __init__(self, using: str, values: Values, keep: Callable[[Model], None] | None = None) -> None:
        self._using = using
        self._values = values
        self._keep = keep

    def make(self, model: type[_M], given: dict[str, Any]) -> _M:
        """Make a row, and the rows that it needs before it. All or nothing."""
        with transaction.atomic(using=self._using):
            try:
                return self._make(model, given, ())
            except NoMoreValuesError:
                raise MakeError(
                    f"Cannot make another {model._meta.label}: existing rows have all values that can be made up for a unique "
                    "field. Nothing was made. Pass a value for it, or use an existing row.",
                    model=model._meta.label,
                    field="",
                ) from None

    def _make(self, model: type[_M], given: dict[str, Any], path: tuple[Field[Any, Any], ...]) -> _M:
        self._refuse_generic(model, given)
        number = self._values.next(f"rows of {model._meta.label}")
        filled = dict(given)
        for field in model._meta.concrete_fields:
            if field.name in given or field.attname in given or (field.primary_key and "pk" in given):
                continue
            if _is_required(field):
                filled[field.name] = self._fill(field, number, path)
        row = model(**filled)
        row.save(using=self._using, force_insert=True)
        if self._keep is not None:
            self._keep(row)
        return row

    def _fill(self, field: Any, number: int, path: tuple[Field[Any, Any], ...]) -> Any:
        if field.remote_field is None:
            return self._invent_free(field, number) if _is_unique(field) else invent(field, number, self._values)
        if any(step.model is field.remote_field.model for step in (*path, field)):
            _refuse_cycle((*path, field))
        related = field.remote_field.model
        try:
            with transaction.atomic(using=self._using):
                return self._make(related, {}, (*path, field))
        except NoMoreValuesError:
            found = None if _is_unique(field) else related._base_manager.using(self._using).order_by("pk").first()
            if found is None:
                raise
            return found

    def _invent_free(self, field: Any, number: int) -> Any:
        """Return the first value, from that number on, that no row has."""
        rows = field.model._base_manager.using(self._using)
        for attempt in range(number, number + _MOST_ATTEMPTS):
            value = invent(field, attempt, self._values)
            if not rows.filter(**{field.name: value}).exists():
                return value
        raise NoMoreValuesError

    def _refuse_generic(self, model: type[Model], given: dict[str, Any]) -> None:
        for field in model._meta.private_fields:
            content_type, key = getattr(field, "ct_field", None), getattr(field, "fk_field", None)
            if (
                content_type is None
                or key is None
                or field.name in given
                or not _is_required(_field(model, content_type))
            ):
                continue
            if not {content_type, f"{content_type}_id"} & given.keys():
                raise MakeError(
                    f"Cannot make a {model._meta.label}: {field.name} refers to a row of any model. Nothing was made. Pass it: "
                    f"make({model.__name__}, {field.name}=…).",
                    model=model._meta.label,
                    field=field.name,
                )


def _field(model: type[Model], name: str) -> Any:
    return model._meta.get_field(name)


def _is_required(field: Any) -> bool:
    """Whether a row needs a value for the field that nothing else provides."""
    if field.null or isinstance(field, AutoField) or getattr(field, "generated", False):
        return False
    if field.remote_field is not None and getattr(field.remote_field, "parent_link", False):
        return False
    has_db_default = getattr(field, "db_default", NOT_PROVIDED) is not NOT_PROVIDED
    is_dated = getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False)
    return not (has_db_default or field.has_default() or is_dated)


def _is_unique(field: Any) -> bool:
    """Whether no two rows may have the same value of that field alone."""
    constraints = (each for each in field.model._meta.constraints if isinstance(each, UniqueConstraint))
    return field.unique or any(tuple(each.fields) == (field.name,) for each in constraints)


def _refuse_cycle(path: tuple[Any, ...]) -> None:
    steps = [f"{step.model._meta.label}.{step.name}" for step in path]
    last = path[-1]
    raise MakeError(
        f"Cannot make a {path[0].model._meta.label}: its required foreign keys form a cycle: {' → '.join(steps)} → "
        f"{last.remote_field.model._meta.label}. Nothing was made. Pass one of these: make({path[0].model.__name__}, "
        f"{path[0].name}=…).",
        model=path[0].model._meta.label,
        field=path[0].name,
    )


_FIRST_DAY = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


class NoMoreValuesError(Exception):
    """A field has no unused value left: its choices, or its digits, are used up."""


def invent(field: Any, number: int, values: Values) -> Any:
    """Return the value of *field* for its row of that *number*, from 1.

    Raises :class:`NoMoreValuesError` if there is no value for so high a number, and
    :class:`~testdb_app.exceptions.MakeError` for a field without a known value, or whose validators accept none.
    """
    value = _choose(field, number) if field.choices else _value(field, number, values)
    refused: ValidationError | None = None
    for candidate in [value] if field.choices else _spellings(value):
        try:
            field.run_validators(candidate)
        except ValidationError as error:
            refused = refused or error
        else:
            return candidate
    assert refused is not None
    raise _cannot_make(field, f"its validators reject {value!r}: {'; '.join(refused.messages)}") from refused


def _spellings(value: Any) -> Iterator[Any]:
    """Yield *value*, and then a text without the spaces that a slug, the name of a user and the like may not have."""
    yield value
    if isinstance(value, str) and " " in value:
        for between in ("-", "_", ""):
            yield value.replace(" ", between)


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
    raise _cannot_make(field, f"no value is known for a {type(field).__name__}")


def _cannot_make(field: Any, why: str) -> MakeError:
    label = field.model._meta.label
    return MakeError(
        f"Cannot make a value for {label}.{field.name}: {why}. Nothing was made. Pass it: make({field.model.__name__}, "
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
    return max([default, *_limits(field, kind)])


def _limits(field: Any, kind: type[BaseValidator]) -> list[Any]:
    limits = (validator.limit_value for validator in field.validators if isinstance(validator, kind))
    return [limit() if callable(limit) else limit for limit in limits]


def _domain(before: str, after: str) -> Callable[[Any, int, Values], str]:
    def make(field: Any, number: int, _: Values) -> str:
        text = f"{before}{number}{after}"
        if field.max_length is not None and len(text) > field.max_length:
            raise _cannot_make(field, f'"{text}" is longer than max_length')
        return text

    return make


def _number(field: Any, number: int, _: Values) -> int:
    # The number of the row, or as far above the field's least value. No row needs a negative one.
    least = int(_least(field, MinValueValidator, 1))
    value = least + number - 1
    if all(value <= most for most in _limits(field, MaxValueValidator)):
        return value
    if field.unique:
        raise NoMoreValuesError
    return least


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
    models.TextField: _text,
    models.TimeField: lambda field, number, _: (_FIRST_DAY + datetime.timedelta(minutes=number - 1)).time(),
    models.URLField: _domain("https://example.com/", ""),
    models.UUIDField: _uuid,
}


class Values:
    """Sequences and seeded random values, by name. Each ledger has its own, so they start anew with it.

    Parameters: *seed*, a text that the random values depend on besides their name. Nothing depends on the process,
    the time or ``PYTHONHASHSEED``.
    """

    def __init__(self, seed: str = "") -> None:
        self._seed = seed
        self._last: dict[str, int] = {}
        self._randoms: dict[str, random.Random] = {}

    def next(self, name: str = "") -> int:
        """Return the next number of the sequence of that name: 1, 2, 3 and so on."""
        self._last[name] = self._last.get(name, 0) + 1
        return self._last[name]

    def random(self, name: str = "") -> random.Random:
        """Return the random generator of that name: the same one each time, seeded from the name."""
        if name not in self._randoms:
            # A text is hashed by SHA-512 here, not by hash().
            self._randoms[name] = random.Random(f"{self._seed}\0{name}")  # noqa: S311 - to be foreseen is what it is for
        return self._randoms[name]
