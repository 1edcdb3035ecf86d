"""Test cases with real commits whose teardown resets: change the base class of a ``TransactionTestCase``, and nothing else.

What they share is :class:`ResetMixin`, for bases of one's own::

    class BrowserTest(ResetMixin, StaticLiveServerTestCase): ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from django.db import DatabaseError, InterfaceError, connections
from django.test import LiveServerTestCase, TransactionTestCase

from testdb_app.backends import get_backend
from testdb_app.caches import clear_all_caches
from testdb_app.exceptions import BaselineError, ConfigurationError, TestDBError, UnsupportedError
from testdb_app.flushing import flush
from testdb_app.options import TARGETS
from testdb_app.preparing import (
    find_obstacle,
    get_resetter,
    prepare_test_database,
    refit_baseline,
    restart_sequences,
)

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    class _Base(TransactionTestCase):
        """With the hooks that the type stubs leave out."""

        @classmethod
        def _pre_setup(cls) -> None: ...
        @classmethod
        def _fixture_setup(cls) -> None: ...
        @classmethod
        def _reset_sequences(cls, db_name: str) -> None: ...
        @classmethod
        def _databases_names(cls, include_mirrors: bool = True) -> list[str]: ...
        def _should_reload_connections(self) -> bool: ...
else:
    _Base = object


class ResetMixin(_Base):
    """Resets at the end of each test what it wrote, in place of Django's flush. To be named before the base class.

    ``reset_to`` is the state that a test leaves behind:

    - "baseline", the default: the rows that the migrations made, and no others. It is captured once, before the first
      of these tests, or by the runner in :mod:`testdb_app.runner` as soon as the databases are there;
    - "empty": what Django's flush leaves, no rows but those that handlers of ``post_migrate`` make. These are kept, too, and
      the handlers run once; see :mod:`testdb_app.flushing`.

    Sequences go back, too, so the first row that a test makes has the same key each time. All else is as Django
    documents it for ``TransactionTestCase``; ``serialized_rollback`` has nothing left to do.
    """

    reset_to: ClassVar[str] = "baseline"

    @classmethod
    def _pre_setup(cls) -> None:
        check_target(cls)
        drop_stale_sessions(cls)
        for alias in cls._databases_names(include_mirrors=False):
            prepare_test_database(alias)
            if cls.reset_to == "baseline":
                check_baseline(cls, alias)
        super()._pre_setup()

    @classmethod
    def _fixture_setup(cls) -> None:
        with _without_loading(cls):
            super()._fixture_setup()

    @classmethod
    def _reset_sequences(cls, db_name: str) -> None:
        if _keeps_baseline(cls, db_name):
            restart_sequences(db_name)
        else:
            super()._reset_sequences(db_name)

    def _fixture_teardown(self) -> None:
        reset_after(self)

    def _should_reload_connections(self) -> bool:
        return close_others(self)


class ResetTransactionTestCase(ResetMixin, TransactionTestCase):
    """Django's ``TransactionTestCase`` with a reset in place of the flush; see :class:`ResetMixin`."""


class ResetLiveServerTestCase(ResetMixin, LiveServerTestCase):
    """Django's ``LiveServerTestCase`` with a reset in place of the flush; see :class:`ResetMixin`."""


def check_target(case: type[Any]) -> None:
    """Raise :class:`ConfigurationError` for a ``reset_to`` that names no state."""
    if case.reset_to not in TARGETS:
        raise ConfigurationError(
            f"{case.__module__}.{case.__qualname__}.reset_to must be one of {', '.join(TARGETS)}, not {case.reset_to!r}."
        )


def check_baseline(case: type[Any], using: str) -> None:
    """Raise :class:`UnsupportedError` if *case* resets to a baseline that the database of the alias *using* cannot have."""
    obstacle = find_obstacle(using)
    if obstacle is not None:
        raise UnsupportedError(
            f'{case.__module__}.{case.__qualname__} resets the alias "{using}" to its baseline, and there is none: {obstacle} Or '
            'set reset_to = "empty" on the class, which leaves what Django\'s flush does.'
        ) from obstacle


def reset_after(case: Any) -> None:
    """Do what the teardown of *case* has to do in the databases that it names; see :class:`ResetMixin`.

    A database that cannot be reset does not keep the others from it. Raises the first error, with notes of the others.
    """
    clear_all_caches()
    errors: list[Exception] = []
    for alias in case._databases_names(include_mirrors=False):
        try:
            _reset_database(case, connections[alias])
        except (TestDBError, DatabaseError, InterfaceError) as error:
            errors.append(error)
    if errors:
        for other in errors[1:]:
            errors[0].add_note(str(other))
        raise errors[0]


def _reset_database(case: Any, connection: BaseDatabaseWrapper) -> None:
    end_transaction(connection)
    get_backend(connection).renew_session(connection)
    if _keeps_baseline(case, connection.alias):
        _reset_to_baseline(connection.alias)
    else:
        flush(connection.alias, inhibit_post_migrate=_inhibits_post_migrate(case, connection))


def _keeps_baseline(case: Any, using: str) -> bool:
    # A class of Django's own that the runner has reset is flushed as before where there can be no baseline.
    return getattr(case, "reset_to", "baseline") == "baseline" and find_obstacle(using) is None


@contextmanager
def _without_loading(case: type[Any]) -> Iterator[None]:
    """Have ``serialized_rollback`` load nothing where the rows are there: it would cost a query each."""
    aliases = case._databases_names(include_mirrors=False)
    if not case.serialized_rollback or not all(_keeps_baseline(case, alias) for alias in aliases):
        yield
        return
    case.serialized_rollback = False
    try:
        yield
    finally:
        case.serialized_rollback = True


def _reset_to_baseline(using: str) -> None:
    resetter = get_resetter(using, "baseline")
    try:
        resetter.reset()
    except BaselineError:
        # Django's flush does not mind that a test has left a table.
        refit_baseline(using)
        resetter.reset()


def close_others(case: Any) -> bool:
    """Close the connections that :func:`reset_after` has not made as good as new; return that no other has to be closed."""
    renewed = set(case._databases_names(include_mirrors=False))
    for connection in connections.all(initialized_only=True):
        if connection.alias not in renewed:
            connection.close()
    return False


def end_transaction(connection: BaseDatabaseWrapper) -> None:
    """Undo what a test has left uncommitted outside of ``atomic()``, as Django does by closing the connection."""
    if connection.connection is None or connection.in_atomic_block:
        return
    try:
        # The driver knows where there is nothing to undo.
        connection.rollback()
        if not connection.get_autocommit():
            connection.set_autocommit(True)
    except (DatabaseError, InterfaceError):
        # It is lost. The reset makes a new one.
        connection.close()


def drop_stale_sessions(case: type[Any]) -> None:
    """Close what :func:`reset_after` has left open and a test that is no database test has closed since, or would not open so."""
    for alias in case._databases_names():
        get_backend(connections[alias]).drop_stale_session(connections[alias])


def _pre_setup(cls: type[Any]) -> None:
    drop_stale_sessions(cls)
    _STOCK["_pre_setup"].__func__(cls)


def _fixture_setup(cls: type[Any]) -> None:
    with _without_loading(cls):
        _STOCK["_fixture_setup"].__func__(cls)


def _reset_sequences(cls: type[Any], db_name: str) -> None:
    if _keeps_baseline(cls, db_name):
        restart_sequences(db_name)
    else:
        _STOCK["_reset_sequences"].__func__(db_name)


_STOCK: dict[str, Any] = dict(vars(TransactionTestCase))
_HOOKS: dict[str, Any] = {
    "_pre_setup": classmethod(_pre_setup),
    "_fixture_setup": classmethod(_fixture_setup),
    "_reset_sequences": classmethod(_reset_sequences),
    "_fixture_teardown": reset_after,
    "_should_reload_connections": close_others,
}


@contextmanager
def resetting_all() -> Iterator[None]:
    """Have every ``TransactionTestCase`` end by a reset while the block runs, Django's own classes included."""
    before = {name: vars(TransactionTestCase)[name] for name in _HOOKS}
    reset_all()
    try:
        yield
    finally:
        for name, hook in before.items():
            setattr(TransactionTestCase, name, hook)


def reset_all() -> None:
    """Have every ``TransactionTestCase`` of this process end by a reset from now on."""
    for name, hook in _HOOKS.items():
        setattr(TransactionTestCase, name, hook)


def _inhibits_post_migrate(case: Any, connection: BaseDatabaseWrapper) -> bool:
    # As TransactionTestCase._fixture_teardown() decides it.
    return case.available_apps is not None or (
        case.serialized_rollback and hasattr(connection, "_test_serialized_contents")
    )
