"""The ledger of a test's data: it registers rows that were set up, and removes these and no others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import Model
from django.db.models.signals import post_save

from testdb_app._django_private import primary_key_as
from testdb_app.backends import get_backend
from testdb_app.data.factories import RowMaker, Values
from testdb_app.data.loading import insert, instances_of, load, parents_of
from testdb_app.data.model_index import find_table, read_index
from testdb_app.data.seeds import SeedRegistry, seeds
from testdb_app.diff import show_value
from testdb_app.exceptions import ConfigurationError, DataError, DependentRowsError
from testdb_app.graph import DependencyGraph
from testdb_app.guard import check_may_write
from testdb_app.plan import check_deletable
from testdb_app.schema import ForeignKey, QualifiedName

if TYPE_CHECKING:
    from types import TracebackType

    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.backends.base import DatabaseIdentity
    from testdb_app.model_tables import ModelIndex
    from testdb_app.schema import QualifiedName

_P = ParamSpec("_P")
_R = TypeVar("_R")
_M = TypeVar("_M", bound=Model)

DEPENDENTS = ("refuse", "take")


class DataLedger:
    """Records what was set up in one database, and deletes it: a context manager that ends with :meth:`teardown`.

    Parameters:

    - *using*: the alias of the database.
    - *dependents*: what the teardown does with other rows that refer to rows of the ledger: "refuse" or "take".
    - *registry*: the registry of its seeds.
    - *allow_database*: one name or several, of databases that may be written to although nothing marks them as test
      databases.

    It works in autocommit and inside ``atomic()``, where it never commits. Not thread-safe.
    """

    def __init__(
        self,
        using: str = DEFAULT_DB_ALIAS,
        *,
        dependents: str = "refuse",
        registry: SeedRegistry = seeds,
        allow_database: str | Iterable[str] = (),
    ) -> None:
        self.using = using
        self.dependents = _check_dependents(dependents)
        self.values = Values()
        self._registry = registry
        self._allowed = (allow_database,) if isinstance(allow_database, str) else tuple(allow_database)
        self._entries: list[Entry] = []
        self._callbacks: list[Callable[[], object]] = []
        self._made: dict[str, tuple[int, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.teardown()
        except BaseException as failure:
            if error is None or not isinstance(failure, Exception):
                raise
            error.add_note(f"The teardown failed, too: {type(failure).__name__}: {failure}")

    def setup(self, build: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call *build*, register all rows that it made, and return its result.

        These are the instances in the result, also inside lists, tuples, sets and dicts, and those that Django saved
        as new rows meanwhile (by ``post_save``). ``bulk_create()`` and SQL send no signal: return such rows, or
        register them.
        """
        check_may_write(connections[self.using], self._allowed)
        with notified_of_new_rows(self.using, self.register):
            result = build(*args, **kwargs)
        self.register(*instances_of(result))
        return result

    def register(self, *instances: Model) -> None:
        """Register existing rows: the teardown deletes them. An instance that is not saved is left alone."""
        for instance in instances:
            self._entries.extend(entries_of(instance, self.using))

    def load(self, source: Any, /, **options: Any) -> list[Model]:
        """Load and register rows; see :func:`testdb_app.data.load`. Rows of a .sql file cannot be registered."""
        return self.setup(lambda: load(source, using=self.using, allow_database=self._allowed, **options))

    def bulk(self, model: type[Model], rows: Iterable[Any], /) -> int:
        """Insert and register many rows; see :func:`testdb_app.data.bulk`. One more query reserves their keys."""
        connection = connections[self.using]
        check_may_write(connection, self._allowed)
        keys: list[Any] = []
        count = insert(model, rows, connection, keys)
        if keys:
            self._entries.append(Entry(model._meta.concrete_model or model, tuple(keys)))
        return count

    def make(self, model: type[_M], /, **given: Any) -> _M:
        """Make and register a row, and the rows that it needs; see :func:`testdb_app.data.make`."""
        check_may_write(connections[self.using], self._allowed)
        return self.setup(RowMaker(self.using, self.values).make, model, given)

    def seed(self, name: str, /) -> Any:
        """Make the seed of that name, after those that it depends on, unless this ledger has them. Return its result."""
        for each in self._registry.order(name):
            if each not in self._made:
                start = len(self._entries)
                self._made[each] = (start, self.setup(self._registry.make, each, self))
        return self._made[name][1]

    def on_teardown(self, function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Callable[_P, _R]:
        """Call *function* with these arguments in the teardown, before rows are deleted. Return *function*."""
        self._callbacks.append(lambda: function(*args, **kwargs))
        return function

    def mark(self) -> int:
        """Return a mark for :meth:`forget_since`."""
        return len(self._entries)

    def forget_since(self, mark: int) -> None:
        """Forget the rows and seeds since *mark*, because a savepoint from then is rolled back."""
        del self._entries[mark:]
        self._made = {name: made for name, made in self._made.items() if made[0] < mark}

    def teardown(self, *, dependents: str | None = None, rows: bool = True) -> dict[str, int]:
        """Delete what was set up. Return how many rows were deleted, by table. Idempotent.

        The callbacks run first, the last registered first, each once, even if others fail. Then the rows are deleted
        in the order of the foreign keys, all or none. With *rows* off they are only forgotten, because a rollback
        undoes them.

        Raises :class:`~testdb_app.exceptions.DependentRowsError` for other rows that refer to them, unless
        *dependents* is "take"; the ledger keeps them then. Of several errors the first is raised, with the others as
        notes.
        """
        how = _check_dependents(dependents or self.dependents)
        errors: list[BaseException] = []
        removed: dict[str, int] = {}
        while self._callbacks:
            callback = self._callbacks.pop()
            try:
                callback()
            except BaseException as error:  # noqa: BLE001 - pytest's own failures are no Exception; each is raised below
                errors.append(error)
        if not rows:
            self._entries.clear()
        try:
            removed = self._remove_rows(how)
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)
        if errors:
            # A request to stop the run goes before any failure.
            first = next((each for each in errors if isinstance(each, KeyboardInterrupt | SystemExit)), errors[0])
            for other in errors:
                if other is not first:
                    first.add_note(f"Another error of the teardown: {type(other).__name__}: {other}")
            raise first
        return removed

    def _remove_rows(self, dependents: str) -> dict[str, int]:
        if not self._entries:
            self._made.clear()
            return {}
        connection = connections[self.using]
        identity = check_may_write(connection, self._allowed)
        index = read_index(connection)
        found = rows_by_table(self._entries, index, connection)
        removed = remove(connection, index, found, dependents=dependents, identity=identity)
        self._entries.clear()
        self._made.clear()
        return {str(table): count for table, count in sorted(removed.items())}


def _check_dependents(value: str) -> str:
    if value not in DEPENDENTS:
        raise ConfigurationError(f"dependents must be one of {', '.join(DEPENDENTS)}, not {value!r}.")
    return value


Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """Rows of one model's own table, by their primary keys as Python values."""

    model: type[Model]
    keys: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRows:
    """Rows of a table: the ``columns`` of a key, and the keys as database values."""

    columns: tuple[str, ...]
    keys: frozenset[Key]


def entries_of(instance: Model, using: str) -> Iterator[Entry]:
    """Yield the rows of *instance*: its own, and those of the models that it inherits from.

    Yields none if it is not saved. Raises :class:`~testdb_app.exceptions.DataError` for an instance of another
    database.
    """
    if instance._state.adding or instance.pk is None:
        return
    if instance._state.db not in {None, using}:
        raise DataError(
            f'{instance._meta.label} {instance.pk!r} was saved through the alias "{instance._state.db}", and this ledger is for '
            f'"{using}". Use a ledger for that alias.'
        )
    for model in _concrete_models(type(instance)):
        yield Entry(model, (primary_key_as(instance, model),))


def rows_by_table(
    entries: Iterable[Entry], index: ModelIndex, connection: BaseDatabaseWrapper
) -> dict[QualifiedName, TableRows]:
    """Return the rows of *entries* by table, with the keys as database values."""
    keys: dict[type[Model], dict[Any, None]] = {}
    for entry in entries:
        keys.setdefault(entry.model, {}).update(dict.fromkeys(entry.keys))
    found: dict[QualifiedName, TableRows] = {}
    for model, own in keys.items():
        table = find_table(index, model, connection.alias)
        fields: list[Any] = list(getattr(model._meta, "pk_fields", [model._meta.pk]))
        prepared = frozenset(_prepare(fields, key, connection) for key in own)
        before = found[table].keys if table in found else frozenset()
        found[table] = TableRows(columns=tuple(str(field.column) for field in fields), keys=before | prepared)
    return found


def _prepare(fields: list[Any], key: Any, connection: BaseDatabaseWrapper) -> Key:
    values = key if isinstance(key, tuple) else (key,)
    return tuple(field.get_db_prep_value(value, connection) for field, value in zip(fields, values, strict=True))


def _concrete_models(model: type[Model]) -> Iterator[type[Model]]:
    seen = dict.fromkeys(each._meta.concrete_model or each for each in (model, *parents_of(model)))
    yield from seen


@contextmanager
def notified_of_new_rows(using: str, notify: Callable[[Model], None]) -> Iterator[None]:
    """Call *notify*, while the block runs, with each instance that this thread saves as a new row through the alias *using*."""
    thread = threading.get_ident()

    def receive(sender: type[Model], **options: Any) -> None:
        if options["created"] and options["using"] == using and threading.get_ident() == thread:
            notify(options["instance"])

    post_save.connect(receive, weak=False)
    try:
        yield
    finally:
        post_save.disconnect(receive)


_VALUES_A_QUERY = 900
_MOST_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition with its parameters."""

    sql: str
    parameters: tuple[Any, ...]


def remove(
    connection: BaseDatabaseWrapper,
    index: ModelIndex,
    rows: Mapping[QualifiedName, TableRows],
    *,
    dependents: str,
    identity: DatabaseIdentity,
) -> dict[QualifiedName, int]:
    """Delete *rows*, and return how many still existed, by table. All or nothing, and only in the database of *identity*.

    Rows of automatic many-to-many tables are deleted with the rows that they link. Other rows that refer to deleted
    ones are deleted too if *dependents* is "take"; else :class:`~testdb_app.exceptions.DependentRowsError` names
    them.
    """
    with transaction.atomic(using=connection.alias):
        get_backend(connection).data.prove(connection, identity, index.schema)
        taken, found = _follow(connection, index, rows, takes_all=dependents == "take")
        if found:
            raise _refuse(found)
        check_deletable(index.schema, taken)
        with get_backend(connection).data.accepting_deletes(connection, index.schema, taken):
            return _delete(connection, index, taken)


def _follow(
    connection: BaseDatabaseWrapper, index: ModelIndex, rows: Mapping[QualifiedName, TableRows], *, takes_all: bool
) -> tuple[dict[QualifiedName, TableRows], list[tuple[ForeignKey, TableRows]]]:
    """Return the rows to delete, and by foreign key the rows that refer to them and must stay."""
    taken, refused = dict(rows), []
    automatic = _automatic_tables(index)
    work = list(rows.items())
    keys = index.schema.referencing
    while work:
        table, new = work.pop()
        for key in keys.get(table, ()):
            if key.inherited:
                continue
            known = taken.get(key.table)
            columns = known.columns if known is not None else _key_of(connection, key)
            referring = frozenset(_referring(connection, key, columns, new))
            others = referring - known.keys if known is not None else referring
            if not others:
                continue
            found = TableRows(columns=columns, keys=others)
            if not takes_all and key.table not in automatic:
                refused.append((key, found))
                continue
            taken[key.table] = TableRows(
                columns=columns, keys=others | (known.keys if known is not None else frozenset())
            )
            work.append((key.table, found))
    return taken, refused


def _automatic_tables(index: ModelIndex) -> frozenset[QualifiedName]:
    automatic = (model for model in apps.get_models(include_auto_created=True) if model._meta.auto_created)
    found = (index.names.find(model._meta.db_table)[0] for model in automatic)
    return frozenset(table for table in found if table is not None)


def _key_of(connection: BaseDatabaseWrapper, key: ForeignKey) -> tuple[str, ...]:
    """Return the columns that identify rows of the referencing table; without a key, the referring columns."""
    return get_backend(connection).data.read_keys(connection, [key.table]).get(key.table) or key.columns


def _referring(
    connection: BaseDatabaseWrapper, key: ForeignKey, columns: Sequence[str], rows: TableRows
) -> Iterator[Key]:
    data = get_backend(connection).data
    quote = data.quote
    listed = ", ".join(f"k.{quote(connection, column)}" for column in columns)
    operators = key.operators or (data.comparison("="),) * len(key.columns)
    same = " AND ".join(
        f"r.{quote(connection, there)} {operator} k.{quote(connection, here)}"
        for here, there, operator in zip(key.columns, key.referenced_columns, operators, strict=True)
    )
    source = f"{quote(connection, key.table)} k JOIN {quote(connection, key.referenced)} r ON {same}"
    with connection.cursor() as cursor:
        for condition in _conditions(connection, key.referenced, rows, "r."):
            query = f"SELECT DISTINCT {listed} FROM {source}".replace("%", "%%")
            cursor.execute(f"{query} WHERE {condition.sql}", condition.parameters)
            yield from (tuple(row) for row in cursor.fetchall())


def _conditions(
    connection: BaseDatabaseWrapper, table: QualifiedName, rows: TableRows, prefix: str = ""
) -> Iterator[Condition]:
    """Yield conditions that together select the *rows* of *table*; consecutive numbers are one range.

    ``%`` in names is doubled.
    """
    data = get_backend(connection).data
    columns = [f"{prefix}{data.quote(connection, column)}".replace("%", "%%") for column in rows.columns]
    terms: list[tuple[str, Key]] = []
    # Numbers have PostgreSQL's own types. Other values may have a type with operators of its own.
    if all(type(value) is int for key in rows.keys for value in key):
        operators: tuple[str, ...] = (data.comparison("="),) * len(columns)
    else:
        operators = data.read_equality(connection, table, rows.columns)
    if len(columns) == 1:
        numbers = sorted(key[0] for key in rows.keys if type(key[0]) is int)
        others = [key[0] for key in rows.keys if type(key[0]) is not int]
        between = f"{columns[0]} {data.comparison('>=')} %s AND {columns[0]} {data.comparison('<=')} %s"
        terms += [(f"({between})", pair) for pair in _ranges(numbers)]
        terms += [(f"{columns[0]} {operators[0]} %s", (value,)) for value in others]
    else:
        pairs = zip(columns, operators, strict=True)
        each = " AND ".join(f"{column} {operator} %s" for column, operator in pairs)
        terms += [(f"({each})", key) for key in rows.keys]
    width = max(2, len(columns))
    for start in range(0, len(terms), _VALUES_A_QUERY // width):
        chunk = terms[start : start + _VALUES_A_QUERY // width]
        yield Condition(" OR ".join(sql for sql, _ in chunk), tuple(value for _, values in chunk for value in values))


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    found = []
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        found.append((members[0], members[-1]))
    return found


def _delete(
    connection: BaseDatabaseWrapper, index: ModelIndex, rows: Mapping[QualifiedName, TableRows]
) -> dict[QualifiedName, int]:
    graph = DependencyGraph.from_schema(index.schema).subgraph(rows)
    cyclic = {name for cycle in graph.cycles() for name in cycle}
    data = get_backend(connection).data
    removed: dict[QualifiedName, int] = {}
    for group in graph.deletion_groups():
        deletes = []
        for table in group:
            conditions = list(_conditions(connection, table, rows[table]))
            # Rows that may refer to each other are deleted by one statement.
            batches = [conditions] if table in cyclic else [[condition] for condition in conditions]
            for batch in batches:
                sql = " OR ".join(f"({condition.sql})" for condition in batch)
                deletes.append((table, sql, [value for condition in batch for value in condition.parameters]))
        for part in [deletes] if len(group) > 1 else [[delete] for delete in deletes]:
            for (table, *_), count in zip(part, data.delete_together(connection, part), strict=True):
                removed[table] = removed.get(table, 0) + count
    return removed


def _refuse(found: list[tuple[ForeignKey, TableRows]]) -> DependentRowsError:
    lines = []
    for key, rows in found:
        shown = [
            " ".join(f"{column}={show_value(value)}" for column, value in zip(rows.columns, values, strict=True))
            for values in sorted(rows.keys, key=repr)[:_MOST_SHOWN]
        ]
        more = f", and {len(rows.keys) - len(shown)} more" if len(rows.keys) > len(shown) else ""
        lines.append(f"  {key}: {len(rows.keys)} row(s): {', '.join(shown)}{more}")
    return DependentRowsError(
        "Rows that are not registered refer to rows that were set up:\n"
        + "\n".join(lines)
        + "\nNo row was deleted. Register these rows too, delete them in the test, or have them deleted as well: "
        'dependents="take".',
        dependents=[(str(key), sorted(rows.keys, key=repr)) for key, rows in found],
    )
