"""Test cases with real commits whose teardown resets: change the base class of a ``TransactionTestCase``, and nothing else.

What they share is :class:`ResetMixin`, for bases of one's own::

    class BrowserTest(ResetMixin, StaticLiveServerTestCase): ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.management.sql import emit_post_migrate_signal
from django.db import DatabaseError, InterfaceError, connections
from django.test import LiveServerTestCase, TransactionTestCase

from testdb_app.backends import get_backend
from testdb_app.exceptions import ConfigurationError, TestDBError
from testdb_app.options import TARGETS
from testdb_app.preparing import get_resetter, prepare_test_database, restart_sequences
from testdb_app.transaction_state import end_transaction

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

# The hooks have no names in the type stubs.
_STOCK: Any = TransactionTestCase


class ResetMixin(_Base):
    """Resets at the end of each test what it wrote, in place of Django's flush. To be named before the base class.

    ``reset_to`` is the state that a test leaves behind:

    - "baseline", the default: the rows that the migrations made, and no others. It is captured once, before the first
      of these tests, or by the runner in :mod:`testdb_app.runner` as soon as the databases are there;
    - "empty": what Django's flush leaves, no rows but those that handlers of ``post_migrate`` make.

    Sequences go back, too, so the first row that a test makes has the same key each time. All else is as Django
    documents it for ``TransactionTestCase``; ``serialized_rollback`` has nothing left to do.
    """

    reset_to: ClassVar[str] = "baseline"

    @classmethod
    def _pre_setup(cls) -> None:
        check_target(cls)
        for alias in cls._databases_names(include_mirrors=False):
            prepare_test_database(alias)
        super()._pre_setup()

    @classmethod
    def _fixture_setup(cls) -> None:
        if not (cls.serialized_rollback and cls.reset_to == "baseline"):
            super()._fixture_setup()
            return
        # The rows are there. To load them once more would cost a query each.
        cls.serialized_rollback = False
        try:
            super()._fixture_setup()
        finally:
            cls.serialized_rollback = True

    @classmethod
    def _reset_sequences(cls, db_name: str) -> None:
        if cls.reset_to == "baseline":
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


def reset_after(case: Any) -> None:
    """Do what the teardown of *case* has to do in the databases that it names; see :class:`ResetMixin`.

    A database that cannot be reset does not keep the others from it. Raises the first error, with notes of the others.
    """
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
    to = getattr(case, "reset_to", "baseline")
    end_transaction(connection)
    get_backend(connection).renew_session(connection)
    get_resetter(connection.alias, to).reset()
    if to == "empty" and not _inhibits_post_migrate(case, connection):
        emit_post_migrate_signal(verbosity=0, interactive=False, db=connection.alias)


def close_others(case: Any) -> bool:
    """Close the connections that :func:`reset_after` has not made as good as new; return that no other has to be closed."""
    renewed = set(case._databases_names(include_mirrors=False))
    for connection in connections.all(initialized_only=True):
        if connection.alias not in renewed:
            connection.close()
    return False


@contextmanager
def resetting_all() -> Iterator[None]:
    """Have every ``TransactionTestCase`` end by a reset while the block runs, Django's own classes included."""
    before = _STOCK._fixture_teardown, _STOCK._should_reload_connections
    reset_all()
    try:
        yield
    finally:
        _STOCK._fixture_teardown, _STOCK._should_reload_connections = before


def reset_all() -> None:
    """Have every ``TransactionTestCase`` of this process end by a reset from now on."""
    _STOCK._fixture_teardown, _STOCK._should_reload_connections = reset_after, close_others


def _inhibits_post_migrate(case: Any, connection: BaseDatabaseWrapper) -> bool:
    # As TransactionTestCase._fixture_teardown() decides it.
    return case.available_apps is not None or (
        case.serialized_rollback and hasattr(connection, "_test_serialized_contents")
    )
