"""Loading rows: fixtures, files, dicts, factories, instances, and bulk inserts."""

from __future__ import annotations

import csv
import datetime
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, groupby, islice
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from django.conf import settings
from django.core.exceptions import FieldDoesNotExist
from django.core.management.color import no_style
from django.core.management.commands.loaddata import Command as LoadData
from django.db import DEFAULT_DB_ALIAS, connections, models, transaction
from django.db.models import AutoField, Field, Model
from django.db.models.expressions import DatabaseDefault
from django.db.models.fields import NOT_PROVIDED

from testdb_app.backends import get_backend
from testdb_app.data.model_index import find_model
from testdb_app.exceptions import DataError, UnsupportedError
from testdb_app.guard import check_may_write
from testdb_app.model_tables import split_db_table
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from django.core.serializers.base import DeserializedObject
    from django.db.backends.base.base import BaseDatabaseWrapper


def load(
    source: Any,
    /,
    *,
    model: type[Model] | str | None = None,
    using: str = DEFAULT_DB_ALIAS,
    allow_database: str | Iterable[str] = (),
    **options: Any,
) -> list[Model]:
    """Load rows from *source* and return them as instances. All or nothing.

    *source* may be:

    - a path or a name that Django's ``loaddata`` accepts (json, jsonl, xml, yaml, compressed or not): the fixture is
      loaded;
    - the path of a ``.csv`` file: a row for each line, of *model* or of the model in the file's name, ``shop.Book``;
    - the path of a ``.sql`` file: its statements run; none is returned, because the rows that they make are unknown;
    - ``{"shop.Book": [{…}, …], …}``: a row for each dict, in that order; keys may be models;
    - a factory of factory_boy, a recipe of model_bakery: one row, made with *options*;
    - any other callable: its result, called with *options*;
    - an instance: it is saved, unless it was;
    - an iterable of all these: one after the other.

    Raises :class:`~testdb_app.exceptions.DataError` for any other source, and Django's own errors.
    """
    check_may_write(connections[using], allow_database)
    with transaction.atomic(using=using):
        return list(_load(source, find_model(model) if isinstance(model, str) else model, using, options))


def _load(source: Any, model: type[Model] | None, using: str, options: dict[str, Any]) -> Iterator[Model]:
    if isinstance(source, str | Path):
        yield from _load_file(source, model, using)
    elif isinstance(source, Mapping):
        for label, rows in source.items():
            yield from _save_rows(find_model(label) if isinstance(label, str) else label, rows, using)
    elif isinstance(source, Model):
        if source._state.adding:
            source.save(using=using)
        yield source
    elif (build := _builder(source)) is not None:
        yield from instances_of(build(using, options))
    elif isinstance(source, Iterable):
        for each in source:
            yield from _load(each, model, using, options)
    else:
        raise DataError(
            f"Cannot load {source!r}: give a fixture's name, a path, a dict of rows by model, a factory or an instance."
        )


def _builder(source: Any) -> Any:
    """Return a function that makes rows by a factory or a callable; None if *source* is neither."""
    if isinstance(source, type) and hasattr(source, "_meta") and hasattr(source, "_setup_next_sequence"):
        # factory_boy keeps the alias in the options of the class, and a factory may name one of its own.
        return lambda using, options: _create_over(source, using, options)
    if not isinstance(source, type) and callable(getattr(source, "make", None)) and hasattr(source, "attr_mapping"):
        return lambda using, options: source.make(_using=using, **options)
    if callable(source):
        return lambda _, options: source(**options)
    return None


def _create_over(factory: Any, using: str, options: dict[str, Any]) -> Any:
    if getattr(factory._meta, "database", using) == using:
        return factory.create(**options)
    raise DataError(
        f'The factory {factory.__name__} makes rows through the alias "{factory._meta.database}", not "{using}". '
        "Nothing was made. Set database in its class Meta, or load with using= of that alias."
    )


def _load_file(source: str | Path, model: type[Model] | None, using: str) -> Iterator[Model]:
    path = Path(source)
    if path.suffix == ".csv":
        yield from _save_rows(model or find_model(path.stem), read_csv(path), using, are_texts=True)
    elif path.suffix == ".sql":
        run_sql_file(path, connections[using])
    else:
        yield from _load_fixture(str(source), using)


def _load_fixture(name: str, using: str) -> list[Model]:
    command = _FixtureLoader()
    command.run(name, using)
    return command.rows


class _FixtureLoader(LoadData):
    """Django's ``loaddata``, which also records what it has saved."""

    def run(self, name: str, using: str) -> None:
        self.rows: list[Model] = []
        options: dict[str, Any] = {
            "database": using,
            "app_label": "",
            "exclude": [],
            "format": None,
            "ignore": False,
            "verbosity": 0,
        }
        self.handle(name, **options)

    def save_obj(self, obj: DeserializedObject) -> bool:
        saved: bool = super().save_obj(obj)
        if saved:
            self.rows.append(obj.object)
        return saved


def _save_rows(
    model: type[Model], rows: Iterable[Mapping[str, Any]], using: str, *, are_texts: bool = False
) -> Iterator[Model]:
    """Save a row for each dict. A relation may be given by its key, and a many-to-many relation by a list.

    If all values *are_texts*, an empty text is NULL in a field that may be NULL. Sequences are moved beyond given
    keys, as ``loaddata`` does.
    """
    many = {field.name for field in model._meta.many_to_many}
    has_keys = False
    for row in rows:
        values = {name: value for name, value in row.items() if name not in many}
        instance = model(**dict(_read_value(model, name, value, are_texts) for name, value in values.items()))
        has_keys = has_keys or instance.pk is not None
        instance.save(using=using)
        for name in many & row.keys():
            getattr(instance, name).set(row[name])
        yield instance
    if has_keys:
        connection = connections[using]
        with connection.cursor() as cursor:
            for statement in connection.ops.sequence_reset_sql(no_style(), [model]):
                cursor.execute(statement)


def _read_value(model: type[Model], name: str, value: Any, is_text: bool) -> tuple[str, Any]:
    """Return the name that the constructor accepts, and the value as the field has it."""
    try:
        field: Any = model._meta.pk if name == "pk" else model._meta.get_field(name)
    except FieldDoesNotExist:
        return name, value
    if is_text and value == "" and field.null:
        return name, None
    if not field.concrete or isinstance(value, Model):
        return name, value
    return field.attname, field.to_python(value) if isinstance(value, str) else value


def instances_of(result: Any) -> Iterator[Model]:
    """Yield the instances in a function's result: itself, or inside lists, tuples, sets and dicts.

    Querysets and generators are left alone: reading them may run a query, or exhaust them.
    """
    work = [result]
    while work:
        each = work.pop()
        if isinstance(each, Model):
            yield each
        elif isinstance(each, Mapping):
            work.extend(reversed(list(each.values())))
        elif isinstance(each, list | tuple | set | frozenset):
            work.extend(reversed(list(each)))


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    """Yield a dict for each line of a CSV file in UTF-8, by the names in its first line.

    Raises :class:`~testdb_app.exceptions.DataError` for a line that has more or fewer values than there are names.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        names = next(rows, [])
        for row in rows:
            if row and len(row) != len(names):
                raise DataError(
                    f"{path}, line {rows.line_num}: {len(row)} values for {len(names)} names ({', '.join(names)}). Nothing was "
                    "loaded."
                )
            if row:
                yield dict(zip(names, row, strict=True))


def run_sql_file(path: Path, connection: BaseDatabaseWrapper) -> None:
    """Run the statements of a file, as Django splits them; ``%`` in them is literal."""
    with connection.cursor() as cursor:
        for statement in connection.ops.prepare_sql_script(path.read_text("utf-8")):
            cursor.execute(statement, None)


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

    *rows* are dicts by field name, or instances, which are not changed: unlike ``bulk_create()`` it returns no keys,
    and is fast for that reason. Values are converted as ``save()`` does. Fields that are not given get their default.
    The database makes its own values: keys and ``db_default``. No signal is sent, and no ``save()`` is called.

    Raises :class:`~testdb_app.exceptions.UnsupportedError` for expressions, and for a model that inherits from
    another one with a table of its own; :class:`~testdb_app.exceptions.DataError` for an unknown field; and Django's
    database errors.
    """
    connection = connections[using]
    check_may_write(connection, allow_database)
    return insert(model, rows, connection)


def insert(
    model: type[Model], rows: Iterable[Any], connection: BaseDatabaseWrapper, keys: list[Any] | None = None
) -> int:
    """Insert as :func:`bulk` does, without the guard. *keys* receives each row's primary key, reserved if the row has none."""
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
        # Batches with the same columns are one statement, which accepts the rows as an iterator.
        for columns, batches in groupby(reader.batches(rows), key=itemgetter(0)):
            names = [column.column for column in columns]
            count += backend.insert_rows(connection, table, names, chain.from_iterable(map(itemgetter(1), batches)))
    return count


def _with_keys(model: type[Model], rows: Iterable[Any], keys: list[Any], reserve: Any) -> Iterator[Any]:
    """Yield *rows* with a key each, and append it to *keys*. Rows that need a key are dicts afterwards."""
    fields: list[Any] = list(getattr(model._meta, "pk_fields", [model._meta.pk]))
    is_made = isinstance(fields[0], AutoField)
    remaining = iter(rows)
    while batch := list(islice(remaining, _KEYS_A_TIME)):
        if not all(isinstance(row, Mapping | Model) for row in batch):
            yield from batch  # the next reader raises the error
            return
        found = [[_value_of(row, field) for field in fields] for row in batch]
        missing = [place for place, values in enumerate(found) if is_made and values[0] is None]
        reserved = dict(zip(missing, reserve(len(missing)) if missing else (), strict=True))
        for place, (row, values) in enumerate(zip(batch, found, strict=True)):
            if values[0] is None:
                values[0] = reserved[place] if is_made else fields[0].get_default()
                yield {**_as_dict(model, row), fields[0].attname: values[0]}
            else:
                yield row
            keys.append(values[0] if len(values) == 1 else tuple(values))


def _value_of(row: Any, field: Any) -> Any:
    if not isinstance(row, Mapping):
        return getattr(row, field.attname)
    value = row.get(field.attname, row.get(field.name, row.get("pk")))
    return value.pk if isinstance(value, Model) else value


def _as_dict(model: type[Model], row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return {name: value for name, value in row.items() if name != "pk"}
    return {field.attname: getattr(row, field.attname) for field in model._meta.concrete_fields}


_NONE = type(None)

# The conversion of these fields returns a value of exactly that type unchanged, and costs more than all the rest.
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
# The same, on databases whose driver accepts the type itself.
_AS_IT_IS_NATIVELY: Mapping[type[Field[Any, Any]], type] = {
    models.DateField: datetime.date,
    models.DateTimeField: datetime.datetime,
    models.DecimalField: Decimal,
    models.DurationField: datetime.timedelta,
    models.UUIDField: uuid.UUID,
}


def _is_good(_: Any) -> bool:
    return True


# What a field's conversion checks besides the type.
_CHECKS: Mapping[type | None, Callable[[Any], bool]] = {
    datetime.datetime: lambda value: value is None or (value.tzinfo is not None and settings.USE_TZ),
    Decimal: lambda value: value is None or value.is_finite(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column to fill: the field, how its values are prepared, the type that needs no preparation, the default or None.

    With ``reads_row`` the field computes its value from the instance: ``auto_now``, files, custom fields.
    """

    field: Field[Any, Any]
    prepare: Callable[[Any], Any]
    plain: type | None
    default: Callable[[], Any] | None
    reads_row: bool

    @property
    def column(self) -> str:
        """The column's name in the database."""
        return str(self.field.column)

    def convert(self, values: list[Any]) -> list[Any]:
        """Return values of many rows as the driver accepts them."""
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
        reads_row=_reads_row(field),
    )


def is_made_by_database(field: Field[Any, Any]) -> bool:
    """Whether the database makes the field's value if a row does not give it."""
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
                f"{field.model._meta.label}.{field.name} is given the expression {value!r}, which only the database can compute. "
                "Nothing was inserted. Give a value."
            )
        return field.get_db_prep_save(value, connection)

    return prepare


def _reads_row(field: Any) -> bool:
    own = type(field).pre_save
    if own in {models.DateField.pre_save, models.DateTimeField.pre_save, models.TimeField.pre_save}:
        return bool(field.auto_now or field.auto_now_add)
    return own is not Field.pre_save


_LEFT: Any = object()
"""In place of a value: the database makes it."""
_ROWS_A_BATCH = 2_000

Batch = tuple[tuple[Column, ...], list[Sequence[Any]]]
"""Columns, and rows of values for them."""


class RowReader:
    """Reads rows of one model, dicts or instances, as lists of values; similar rows column by column, which is fast.

    Parameters: *model*, *connection*. Raises :class:`UnsupportedError` for a model whose rows are in several tables.
    """

    def __init__(self, model: type[Model], connection: BaseDatabaseWrapper) -> None:
        meta = model._meta
        if any(parent._meta.concrete_model is not meta.concrete_model for parent in parents_of(model)):
            raise UnsupportedError(
                f"Rows of {meta.label} cannot be inserted in bulk: it inherits from a model with its own table, so each "
                "row of it is one row in each table. Nothing was inserted. Create them one by one."
            )
        self.model = model
        self._columns = tuple(
            make_column(field, connection) for field in meta.concrete_fields if not getattr(field, "generated", False)
        )
        self._names = {name for column in self._columns for name in _names(column)}
        self._needs_instances = any(column.reads_row for column in self._columns)

    def batches(self, rows: Iterable[Any]) -> Iterator[Batch]:
        """Yield the rows, in order, by the columns that they fill. Keys and defaults that the database makes are left out."""
        remaining = iter(rows)
        while batch := list(islice(remaining, _ROWS_A_BATCH)):
            yield from self._read_alike(batch) or self._read_one_by_one(batch)

    def _read_alike(self, rows: list[Any]) -> list[Batch]:
        """Read rows that all give the same fields; return none if they differ."""
        if set(map(type, rows)) == {dict} and not self._needs_instances and len(set(map(tuple, rows))) == 1:
            self._check_names(rows[0])
            given = ((column, _find_name(column, rows[0])) for column in self._columns)
            values = [
                ([row[name] for row in rows] if name is not None else _defaults(column, len(rows)))
                for column, name in given
            ]
        elif all(type(row) is self.model for row in rows):
            values = [_values_of_instances(column, rows) for column in self._columns]
        else:
            return []
        columns, converted = [], []
        for column, found in zip(self._columns, values, strict=True):
            left = [_is_left(column, value) for value in found] if _may_be_left(column) else [False]
            if all(left):
                continue
            if any(left):
                return []
            columns.append(column)
            converted.append(column.convert(_without_models(column, found)))
        return [(tuple(columns), list(zip(*converted, strict=True)) if converted else [()] * len(rows))]

    def _read_one_by_one(self, rows: list[Any]) -> Iterator[Batch]:
        read = map(self._read, rows)
        for left, group in groupby(read, key=lambda row: tuple(value is _LEFT for value in row)):
            columns = tuple(column for column, is_left in zip(self._columns, left, strict=True) if not is_left)
            yield columns, [[value for value in row if value is not _LEFT] for row in group]

    def _read(self, row: Any) -> list[Any]:
        if isinstance(row, Mapping):
            self._check_names(row)
            if not self._needs_instances:
                return [_value(column, row) for column in self._columns]
            row = self.model(**row)
        if not isinstance(row, self.model._meta.concrete_model or self.model):
            raise DataError(
                f"Rows of {self.model._meta.label} must be dicts or instances of it, not {type(row).__name__}. Nothing was "
                "inserted."
            )
        return [_prepared(column, column.field.pre_save(row, add=True)) for column in self._columns]

    def _check_names(self, row: Mapping[str, Any]) -> None:
        if unknown := row.keys() - self._names:
            raise DataError(
                f"{self.model._meta.label} has no field {', '.join(map(repr, sorted(unknown)))} to insert. Nothing was inserted. "
                f"Its fields are {', '.join(column.field.name for column in self._columns)}."
            )


def parents_of(model: type[Model]) -> list[type[Model]]:
    """Return all models that *model* inherits from, directly or not, except abstract ones."""
    return [
        parent
        for parent in model.__mro__
        if parent is not model and hasattr(parent, "_meta") and not parent._meta.abstract
    ]


def _names(column: Column) -> tuple[str, ...]:
    names = (column.field.attname, column.field.name)
    return (*names, "pk") if column.field.primary_key else names


def _find_name(column: Column, row: Mapping[str, Any]) -> str | None:
    return next((name for name in _names(column) if name in row), None)


def _value(column: Column, row: Mapping[str, Any]) -> Any:
    name = _find_name(column, row)
    (value,) = _defaults(column, 1) if name is None else (row[name],)
    return _prepared(column, value)


def _prepared(column: Column, value: Any) -> Any:
    return _LEFT if _is_left(column, value) else column.convert(_without_models(column, [value]))[0]


def _defaults(column: Column, number: int) -> list[Any]:
    return [column.default() for _ in range(number)] if column.default is not None else [_LEFT] * number


def _values_of_instances(column: Column, rows: list[Any]) -> list[Any]:
    if column.reads_row:
        return [column.field.pre_save(row, add=True) for row in rows]
    return list(map(attrgetter(column.field.attname), rows))


def _may_be_left(column: Column) -> bool:
    return column.default is None or is_made_by_database(column.field)


def _is_left(column: Column, value: Any) -> bool:
    """Whether the database makes that value."""
    is_made = value is None and isinstance(column.field, models.AutoField)
    return is_made or value is _LEFT or isinstance(value, DatabaseDefault)


def _without_models(column: Column, values: list[Any]) -> list[Any]:
    """Replace related instances by their keys."""
    field: Any = column.field
    if field.remote_field is None or not any(isinstance(value, Model) for value in values):
        return values
    name = field.target_field.attname
    return [getattr(value, name) if isinstance(value, Model) else value for value in values]
