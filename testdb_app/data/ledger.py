"""A ledger of what a test has set up, so that this, and only this, can be taken away again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Model

from testdb_app.data.bulk import insert
from testdb_app.data.loading import instances_of, load
from testdb_app.data.making import RowMaker
from testdb_app.data.maps import read_index
from testdb_app.data.registered import Entry, entries_of, rows_by_table, told_of_new_rows
from testdb_app.data.removal import remove
from testdb_app.data.seeds import SeedRegistry, seeds
from testdb_app.data.values import Values
from testdb_app.exceptions import ConfigurationError
from testdb_app.guard import check_may_write

if TYPE_CHECKING:
    from types import TracebackType

_P = ParamSpec("_P")
_R = TypeVar("_R")
_M = TypeVar("_M", bound=Model)

DEPENDENTS = ("refuse", "take")


class DataLedger:
    """What was set up in one database, and how to take it away: a context manager, whose end is :meth:`teardown`.

    Parameters:

    - *using*: the alias of the database.
    - *dependents*: what the teardown does with rows that came to refer to rows of the ledger: "refuse" or "take".
    - *registry*: where its seeds are.
    - *allow_database*: the name of a database, or several, that may be written to although nothing marks it as a test one.

    It works in autocommit and inside of ``atomic()``, where it never commits. One thread at a time.
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
        """Call *build* and return what it returns; register all rows that it made.

        These are the instances that it returned, also inside of lists, tuples, sets and dicts, and those that Django saved
        as new rows meanwhile, by ``post_save``. ``bulk_create()`` and SQL tell nobody: return such rows, or register them.
        """
        check_may_write(connections[self.using], self._allowed)
        with told_of_new_rows(self.using, self.register):
            result = build(*args, **kwargs)
        self.register(*instances_of(result))
        return result

    def register(self, *instances: Model) -> None:
        """Answer for rows that are there: the teardown deletes them. An instance that is not saved is left alone."""
        for instance in instances:
            self._entries.extend(entries_of(instance, self.using))

    def load(self, source: Any, /, **options: Any) -> list[Model]:
        """Load and register rows; see :func:`testdb_app.data.load`. The rows of a .sql file are not known."""
        return self.setup(lambda: load(source, using=self.using, allow_database=self._allowed, **options))

    def bulk(self, model: type[Model], rows: Iterable[Any], /) -> int:
        """Insert and register many rows; see :func:`testdb_app.data.bulk`. Their keys are reserved before, by one query more."""
        connection = connections[self.using]
        check_may_write(connection, self._allowed)
        keys: list[Any] = []
        count = insert(model, rows, connection, keys)
        if keys:
            self._entries.append(Entry(model._meta.concrete_model or model, tuple(keys)))
        return count

    def make(self, model: type[_M], /, **given: Any) -> _M:
        """Make and register a row, and those that it needs; see :func:`testdb_app.data.make`."""
        check_may_write(connections[self.using], self._allowed)
        return self.setup(RowMaker(self.using, self.values).make, model, given)

    def seed(self, name: str, /) -> Any:
        """Make the seed of that name, and those that it comes after, unless this ledger has them; return what it returned."""
        for each in self._registry.order(name):
            if each not in self._made:
                start = len(self._entries)
                self._made[each] = (start, self.setup(self._registry.make, each, self))
        return self._made[name][1]

    def on_teardown(self, function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Callable[_P, _R]:
        """Have the teardown call *function* with these arguments, before it deletes rows; return *function*."""
        self._callbacks.append(lambda: function(*args, **kwargs))
        return function

    def mark(self) -> int:
        """Return a mark for :meth:`forget_since`."""
        return len(self._entries)

    def forget_since(self, mark: int) -> None:
        """Forget the rows and the seeds of after *mark*, because a savepoint that was made then is rolled back."""
        del self._entries[mark:]
        self._made = {name: made for name, made in self._made.items() if made[0] < mark}

    def teardown(self, *, dependents: str | None = None, rows: bool = True) -> dict[str, int]:
        """Take away what was set up; return how many rows were deleted, by table. Twice is once.

        The callbacks come first, the last one first, each once, whatever the others do. Then the rows go, in the order of
        the foreign keys, all or none of them. With *rows* off they are forgotten, because a rollback takes them.

        Raises :class:`~testdb_app.exceptions.DependentRowsError` for rows that refer to them, unless *dependents* is "take": the
        ledger still has them then. Of several errors the first is raised, with notes of the others.
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
            # Whoever wants to stop the run comes before what failed in it.
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
