"""Rows from wherever they come: fixtures, files, dicts, factories, instances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.core.exceptions import FieldDoesNotExist
from django.core.management.color import no_style
from django.core.management.commands.loaddata import Command as LoadData
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import Model

from testdb_app.data.files import read_csv, run_sql_file
from testdb_app.data.maps import find_model
from testdb_app.exceptions import DataError
from testdb_app.guard import check_may_write

if TYPE_CHECKING:
    from django.core.serializers.base import DeserializedObject


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

    - a path or a name that Django's ``loaddata`` knows (json, jsonl, xml, yaml, compressed or not): the fixture is loaded;
    - the path of a ``.csv`` file: a row for each line; *model*, or the file's name without ending, ``shop.Book``, says of what;
    - the path of a ``.sql`` file: its statements are run; nobody can tell which rows those make, so none is returned;
    - ``{"shop.Book": [{…}, …], …}``: a row for each dict, in that order; keys may be models;
    - a factory of factory_boy, a recipe of model_bakery: one row, made with *options*;
    - any other callable: what it returns, called with *options*;
    - an instance: it is saved, unless it was;
    - an iterable of all these: one after the other.

    Raises :class:`~testdb_app.exceptions.DataError` for what is none of these, and Django's own errors.
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
            f"Cannot load {source!r}: it is no name of a fixture, no path, no dict of rows by model, no factory and no instance."
        )


def _builder(source: Any) -> Any:
    """Return a function that makes rows of a factory or a callable; None for what is neither."""
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
        f'The factory {factory.__name__} makes rows over the alias "{factory._meta.database}", not "{using}". Nothing was made. '
        "Set database in its class Meta, or load with using= of that alias."
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
    """Django's ``loaddata``, which also keeps what it has saved."""

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
    """Save a row for each dict. A relation may be given by its key, and a many-to-many one by a list.

    Where all values *are_texts* an empty one of a field that may be NULL is NULL. Sequences are put beyond keys that are given,
    as ``loaddata`` does.
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
    """Return the name that the constructor takes, and the value as the field has it."""
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
    """Yield the instances in what a function returned: itself, or inside of lists, tuples, sets and dicts.

    Querysets and generators are left alone: to read them may be a query, or the end of them.
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
