"""Rows made of nothing: each with the rows that its required foreign keys need, always the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import AutoField, Model, UniqueConstraint
from django.db.models.fields import NOT_PROVIDED

from testdb_app.data.inventing import NoMoreValuesError, invent
from testdb_app.data.values import Values
from testdb_app.exceptions import MakeError
from testdb_app.guard import check_may_write

if TYPE_CHECKING:
    from django.db.models import Field

_M = TypeVar("_M", bound=Model)

_MOST_ATTEMPTS = 10_000
"""Values of a unique field that are tried, as rows may have them already."""


def make(
    model: type[_M],
    /,
    *,
    using: str = DEFAULT_DB_ALIAS,
    values: Values | None = None,
    allow_database: str | Iterable[str] = (),
    **given: Any,
) -> _M:
    """Make a row of *model* with what is *given*, and all that it needs besides; return it.

    Fields with a default, those that may be NULL, and those that the database makes are left alone. The others get a value that
    follows from their name and the number of the row, which their validators are asked about. A required foreign key gets a
    new row, made alike, or, where its unique fields have no value left, the first that is there. A many-to-many relation
    stays empty. With the *values* of a ledger the rows are the same in each; without, each call begins anew, and finds
    the first values that no row has.

    Raises :class:`~testdb_app.exceptions.MakeError`, naming the field to give, for foreign keys that need each other, for a
    generic foreign key, and for fields that no value is known for. All or nothing.
    """
    check_may_write(connections[using], allow_database)
    return RowMaker(using, values if values is not None else Values()).make(model, given)


class RowMaker:
    """Makes rows over one connection; *keep* is told each row that it makes."""

    def __init__(self, using: str, values: Values, keep: Callable[[Model], None] | None = None) -> None:
        self._using = using
        self._values = values
        self._keep = keep

    def make(self, model: type[_M], given: dict[str, Any]) -> _M:
        """Make a row, and those that it needs before it. All or nothing."""
        with transaction.atomic(using=self._using):
            try:
                return self._make(model, given, ())
            except NoMoreValuesError:
                raise MakeError(
                    f"Cannot make another {model._meta.label}: a unique field of it has no value left that no row has. Nothing "
                    "was made. Give its value, or use a row that is there.",
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
        """Return the first value from that number on that no row has."""
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
                    f"Cannot make a {model._meta.label}: {field.name} refers to a row of any model. Nothing was made. Give it: "
                    f"make({model.__name__}, {field.name}=…).",
                    model=model._meta.label,
                    field=field.name,
                )


def _field(model: type[Model], name: str) -> Any:
    return model._meta.get_field(name)


def _is_required(field: Any) -> bool:
    """Whether a row needs a value for the field that nobody else gives it."""
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
        f"Cannot make a {path[0].model._meta.label}: its required foreign keys lead round in a circle: {' → '.join(steps)} → "
        f"{last.remote_field.model._meta.label}. Nothing was made. Give one of these: make({path[0].model.__name__}, "
        f"{path[0].name}=…).",
        model=path[0].model._meta.label,
        field=path[0].name,
    )
