"""Setting up, taking away and verifying data in a session: :mod:`testdb_app.data`, over its connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from testdb_app.data import DataLedger, Values, assert_clean, assert_constraints

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    from testdb_app.sessions.options import SessionOptions

_P = ParamSpec("_P")
_R = TypeVar("_R")
_M = TypeVar("_M", bound="Model")


class SessionData:
    """The part of a session that deals with rows. *using* is an alias of the session; None stands for its first.

    What is set up goes with the session, by the rollback or the reset; callbacks of :meth:`on_teardown` run before that.
    """

    options: SessionOptions

    def __init__(self) -> None:
        self._ledgers: dict[str, DataLedger] = {}

    def _connection(self, using: str | None) -> BaseDatabaseWrapper:
        raise NotImplementedError

    def ledger(self, using: str | None = None) -> DataLedger:
        """Return what has been set up in one of the session's databases, with all that a ledger can do."""
        alias = self._connection(using).alias
        if alias not in self._ledgers:
            self._ledgers[alias] = DataLedger(alias, allow_database=self.options.allow_database)
        return self._ledgers[alias]

    @property
    def values(self) -> Values:
        """Sequences and seeded randoms, the same in every session; see :class:`testdb_app.data.Values`."""
        return self.ledger().values

    def setup(self, build: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call *build*, and register what it makes; see :meth:`testdb_app.data.DataLedger.setup`."""
        return self.ledger().setup(build, *args, **kwargs)

    def register(self, *instances: Model) -> None:
        """Register rows that are there; see :meth:`testdb_app.data.DataLedger.register`."""
        self.ledger().register(*instances)

    def load(self, source: Any, /, *, using: str | None = None, **options: Any) -> list[Model]:
        """Load a fixture, a file, dicts or factories; see :func:`testdb_app.data.load`."""
        return self.ledger(using).load(source, **options)

    def bulk(self, model: type[Model], rows: Iterable[Any], /, *, using: str | None = None) -> int:
        """Insert many rows; see :func:`testdb_app.data.bulk`."""
        return self.ledger(using).bulk(model, rows)

    def make(self, model: type[_M], /, **given: Any) -> _M:
        """Make a row, and those that it needs; see :func:`testdb_app.data.make`."""
        return self.ledger().make(model, **given)

    def seed(self, name: str, /, *, using: str | None = None) -> Any:
        """Make a named data set, once; see :meth:`testdb_app.data.DataLedger.seed`."""
        return self.ledger(using).seed(name)

    def on_teardown(self, function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Callable[_P, _R]:
        """Have *function* called at the end of the session, before it is undone, the last one first."""
        return self.ledger().on_teardown(function, *args, **kwargs)

    def verify_clean(self, using: str | None = None, **options: Any) -> None:
        """Assert that only rows of the baseline are there; see :func:`testdb_app.data.assert_clean`."""
        assert_clean(self._connection(using).alias, **options)

    def verify_constraints(self, using: str | None = None, **options: Any) -> None:
        """Assert what a commit would check, deferred keys too; see :func:`testdb_app.data.assert_constraints`."""
        assert_constraints(self._connection(using).alias, **options)

    def verify(self, assertion: Callable[..., object], /, *args: Any, using: str | None = None, **options: Any) -> None:
        """Call an assertion of :mod:`testdb_app.data`, or one of yours that takes *using*, on the session's database."""
        assertion(*args, using=self._connection(using).alias, **options)

    def _tear_down(self) -> None:
        """Call what is to be called before everything is undone; the rows go with that."""
        ledgers, self._ledgers = self._ledgers, {}
        first: BaseException | None = None
        for ledger in ledgers.values():
            try:
                ledger.teardown(rows=False)
            except BaseException as error:  # noqa: BLE001 - raised below
                if first is None:
                    first = error
                else:
                    first.add_note(f"And then: {type(error).__name__}: {error}")
        if first is not None:
            raise first

    def _marks(self) -> dict[str, int]:
        return {alias: ledger.mark() for alias, ledger in self._ledgers.items()}

    def _forget_since(self, marks: dict[str, int]) -> None:
        for alias, ledger in self._ledgers.items():
            ledger.forget_since(marks.get(alias, 0))
