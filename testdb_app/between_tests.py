"""What happens between two tests that commit: databases and sessions are put back, also for classes that know nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError, connections

from testdb_app.backends import get_backend
from testdb_app.caches import clear_all_caches
from testdb_app.exceptions import ConfigurationError, TestDBError, UnsupportedError
from testdb_app.flushing import flush
from testdb_app.options import TARGETS
from testdb_app.preparing import find_obstacle, get_resetter, lacks_rows
from testdb_app.transaction_state import end_transaction

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# The class of the last test that ended by a reset.
_reset_last: set[type[Any]] = set()


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
    _reset_last.clear()
    clear_all_caches()
    _for_each(case._databases_names(include_mirrors=False), partial(_reset_database, case))
    _reset_last.add(type(case))


def reset_databases(aliases: Iterable[str]) -> None:
    """Take the databases of *aliases* back to their baselines, whatever becomes of the others; raises as :func:`reset_after`."""

    def reset(connection: BaseDatabaseWrapper) -> None:
        with _session_between_tests(connection):
            _reset_to_baseline(connection.alias)

    _for_each(aliases, reset)


def keep_after(case: Any) -> None:
    """End a test of *case* that commits, and leave what it has committed to a wider scope, which resets."""
    _for_each(case._databases_names(include_mirrors=False), _end_use)


def _for_each(aliases: Iterable[str], do: Callable[[BaseDatabaseWrapper], None]) -> None:
    errors: list[Exception] = []
    for alias in aliases:
        try:
            do(connections[alias])
        except (TestDBError, DatabaseError, InterfaceError) as error:
            errors.append(error)
    if errors:
        for other in errors[1:]:
            errors[0].add_note(str(other))
        raise errors[0]


def _end_use(connection: BaseDatabaseWrapper) -> None:
    with _session_between_tests(connection):
        pass


@contextmanager
def _session_between_tests(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """End the test's transaction and session; run the block with one that is as good as new, and leave the next test no other."""
    backend = get_backend(connection)
    end_transaction(connection)
    keep = backend.renew_session(connection)
    try:
        yield
    finally:
        backend.release_session(connection, keep=keep)


def _reset_database(case: Any, connection: BaseDatabaseWrapper) -> None:
    with _session_between_tests(connection):
        if keeps_baseline(case, connection.alias):
            _reset_to_baseline(connection.alias)
        else:
            flush(connection.alias, inhibit_post_migrate=_inhibits_post_migrate(case, connection))


def keeps_baseline(case: Any, using: str) -> bool:
    """Whether *case* resets that database to its baseline, and there is one."""
    # A class of Django's own that the runner has reset is flushed as before where there can be no baseline.
    return getattr(case, "reset_to", "baseline") == "baseline" and find_obstacle(using) is None


@contextmanager
def without_loading(case: type[Any]) -> Iterator[None]:
    """Have ``serialized_rollback`` load nothing where the rows are there: it would cost a query each."""
    aliases = case._databases_names(include_mirrors=False)
    are_there = case.serialized_rollback and all(keeps_baseline(case, alias) for alias in aliases)
    # Before the first test of a class something else may have flushed.
    if not are_there or (case not in _reset_last and any(map(lacks_rows, aliases))):
        yield
        return
    case.serialized_rollback = False
    try:
        yield
    finally:
        case.serialized_rollback = True


def _reset_to_baseline(using: str) -> None:
    # Django's flush does not mind that a test has left a table.
    get_resetter(using, "baseline").reset(refit=True)


def close_others(case: Any) -> bool:
    """Close the connections that :func:`reset_after` has not made as good as new; return that no other has to be closed."""
    renewed = set(case._databases_names(include_mirrors=False))
    for connection in connections.all(initialized_only=True):
        if connection.alias not in renewed:
            connection.close()
    return False


def drop_stale_sessions(case: type[Any]) -> None:
    """Close what :func:`reset_after` has left open and a test that is no database test has closed since, or would not open so."""
    for alias in case._databases_names():
        get_backend(connections[alias]).drop_stale_session(connections[alias])


def _inhibits_post_migrate(case: Any, connection: BaseDatabaseWrapper) -> bool:
    # As TransactionTestCase._fixture_teardown() decides it.
    return case.available_apps is not None or (
        case.serialized_rollback and hasattr(connection, "_test_serialized_contents")
    )
