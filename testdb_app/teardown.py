"""Teardown: what happens to databases and sessions after a test that commits.

Each such test ends with a reset to the baseline, or with the rows that Django's flush leaves. Those are the rows that
handlers of ``post_migrate`` make, and no others. Django's flush calls the handlers after each test. For the content
types and permissions of 200 models that takes a tenth of a second.

Here the handlers run after the first test, and the result is captured as a second state beside the baseline. Later
resets go back to that state. The rows may depend on the schema, the models, the handlers, and the settings that a class
overrides. When one of these has changed, the handlers run again, and the state is captured again. So the rows are the
same as after a flush, with keys that do not drift. A handler that does more than write rows of its database does not do
so after every test.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from django.apps import apps
from django.conf import settings
from django.core.management.sql import emit_post_migrate_signal
from django.core.signals import request_finished, request_started
from django.db import DatabaseError, InterfaceError, connections
from django.db.models.signals import post_migrate
from django.test import TestCase, TransactionTestCase

from testdb_app import _django_private as django_private
from testdb_app.backends import get_backend
from testdb_app.baseline import capture_baseline
from testdb_app.baseline_state import FLUSHED
from testdb_app.conf import TARGETS, get_settings
from testdb_app.database_setup import find_obstacle, get_resetter, lacks_rows
from testdb_app.exceptions import BaselineError, ConfigurationError, TestDBError, UnsupportedError
from testdb_app.guard import end_transaction, leave_blocks
from testdb_app.post_migrate import call_named_receivers
from testdb_app.resetter import Resetter, read_state
from testdb_app.signals import clear_all_caches, recall_content_types, remember_content_types

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.schema import QualifiedName

SECONDS_FOR_REQUESTS = 5.0
"""How many seconds the end of a test waits for requests that its live server still handles."""

# The class of the last test that ended with a reset.
_reset_last: set[type[Any]] = set()
# Set on a test, and on its class, after one of these teardowns.
_ENDED = "_testdb_has_ended"
_warned: set[type[Any]] = set()


class TeardownWarning(UserWarning):
    """A test did not end as the suite requires: it has a teardown of its own, or a request still runs."""


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
    """Reset the databases that *case* names; see :class:`ResetMixin`.

    The others are reset even if one cannot be. Raises the first error, with the others as notes.
    """
    _note_end(case)
    _reset_all(case)
    _reset_last.add(type(case))


def _note_end(case: Any) -> None:
    vars(case)[_ENDED] = True
    setattr(type(case), _ENDED, True)


def _reset_all(case: Any) -> None:
    _reset_last.clear()
    with live_requests.waited_for(SECONDS_FOR_REQUESTS):
        clear_all_caches()
        _for_each(django_private.databases_of(case, include_mirrors=False), partial(_reset_database, case))


@contextmanager
def clean_up_after_failed_set_up(case: type[Any]) -> Iterator[None]:
    """Reset the databases of *case* if the block, its set-up, fails.

    A failed set-up has no teardown, so the rows of its fixtures would stay.
    """
    try:
        yield
    except BaseException as error:
        _clean_up(case, error)
        raise


def clean_up_unused(case: type[Any]) -> None:
    """Reset the databases of *case* if it was set up but no test began: ``setUpClass()`` failed, or all tests are skipped."""
    was_set_up = django_private.was_set_up_early(case) and not vars(case).get(_ENDED)
    if was_set_up and not issubclass(case, TestCase):
        _reset_all(case)


def _clean_up(case: type[Any], error: BaseException) -> None:
    if issubclass(case, TestCase):
        return  # it is in a transaction
    try:
        for alias in django_private.databases_of(case, include_mirrors=False):
            leave_blocks(connections[alias])
        _reset_all(case)
    except (TestDBError, DatabaseError, InterfaceError) as other:
        error.add_note(f"What the set-up had written could not be taken back: {other}")


def reset_databases(aliases: Iterable[str]) -> None:
    """Reset the databases of *aliases* to their baselines, even if some fail; a database that cannot have one is flushed.

    Raises as :func:`reset_after` does.
    """

    def reset(connection: BaseDatabaseWrapper) -> None:
        if find_obstacle(connection.alias) is None:
            _reset_to_baseline(connection)
        else:
            _flush_between_tests(connection)

    with live_requests.waited_for(SECONDS_FOR_REQUESTS):
        _for_each(aliases, reset)


def keep_after(case: Any) -> None:
    """End a test of *case* that commits, and keep what it committed: a wider scope resets it."""
    _note_end(case)
    with live_requests.waited_for(SECONDS_FOR_REQUESTS):
        _for_each(django_private.databases_of(case, include_mirrors=False), _end_use)


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
def _session_between_tests(connection: BaseDatabaseWrapper) -> Iterator[bool]:
    """End the test's transaction and session, and run the block with a session that is as good as new.

    The next test gets a new session, or this one in that state. Yields whether it may get this one.
    """
    backend = get_backend(connection)
    backend.drop_stale_session(connection)
    end_transaction(connection)
    keep = backend.renew_session(connection, mode=get_settings().keep_connections)
    try:
        yield keep
    finally:
        backend.release_session(connection, keep=keep)


def _reset_database(case: Any, connection: BaseDatabaseWrapper) -> None:
    inhibits = _inhibits_post_migrate(case, connection)
    if keeps_baseline(case, connection.alias):
        _reset_to_baseline(connection, inhibit_post_migrate=inhibits)
        return
    _flush_between_tests(connection, inhibit_post_migrate=inhibits)


def _flush_between_tests(connection: BaseDatabaseWrapper, *, inhibit_post_migrate: bool = False) -> None:
    with _session_between_tests(connection):
        flush(connection.alias, inhibit_post_migrate=inhibit_post_migrate)


def keeps_baseline(case: Any, using: str) -> bool:
    """Whether *case* resets that database to its baseline, and there is one."""
    # Without a baseline, a class of Django's own is flushed as before, although the runner resets it.
    return getattr(case, "reset_to", "baseline") == "baseline" and find_obstacle(using) is None


@contextmanager
def without_loading(case: type[Any]) -> Iterator[None]:
    """Make ``serialized_rollback`` load nothing if the rows exist. Each row would cost a query."""
    aliases = django_private.databases_of(case, include_mirrors=False)
    are_there = case.serialized_rollback and all(keeps_baseline(case, alias) for alias in aliases)
    # Something else may have flushed before the first test of a class.
    if not are_there or (case not in _reset_last and any(map(lacks_rows, aliases))):
        yield
        return
    case.serialized_rollback = False
    try:
        yield
    finally:
        case.serialized_rollback = True


def _reset_to_baseline(connection: BaseDatabaseWrapper, *, inhibit_post_migrate: bool = False) -> None:
    """Reset. Also call the receivers of ``TESTDB["POST_MIGRATE"]``, as a flush does, and undo what they have written."""
    has_receivers = bool(get_settings().post_migrate) and not inhibit_post_migrate
    with _session_between_tests(connection) as keep:
        _reset(connection.alias)
        if has_receivers and not keep:
            # What the receivers leave in this session ends with it.
            try:
                call_named_receivers(connection.alias)
            finally:
                end_transaction(connection)
                _reset(connection.alias)
    if has_receivers and keep:
        try:
            call_named_receivers(connection.alias)
        finally:
            with _session_between_tests(connection):
                _reset(connection.alias)


def _reset(using: str) -> None:
    # Django's flush accepts tables that a test has left.
    get_resetter(using, "baseline").reset(refit=True)


def close_others(case: Any) -> bool:
    """Close the connections that :func:`reset_after` has not renewed. Returns False: no other has to be closed.

    If the test has a teardown of its own, which did not call this one, all connections are closed, with one warning.
    """
    if vars(case).pop(_ENDED, None) is None:
        for connection in connections.all(initialized_only=True):
            connection.close()
        _warn_of_teardown(type(case))
        return False
    renewed = set(django_private.databases_of(case, include_mirrors=False))
    for connection in connections.all(initialized_only=True):
        if connection.alias not in renewed:
            connection.close()
    return False


def _warn_of_teardown(case: type[Any]) -> None:
    owner = django_private.find_owner_of_teardown(case)
    if owner in _warned or (issubclass(owner, TransactionTestCase) and owner.__module__.startswith("django.test")):
        return
    _warned.add(owner)
    warnings.warn(
        f"{owner.__module__}.{owner.__qualname__} has a _fixture_teardown() of its own: {case.__qualname__} ends with that, "
        "and not with a reset, also under --reset-transaction-tests and testdb_reset_transactional. Remove it, or have it call "
        "super()._fixture_teardown(), which resets.",
        TeardownWarning,
        stacklevel=2,
    )


def drop_stale_sessions(case: type[Any]) -> None:
    """Close stale connections that :func:`reset_after` left open: closed by another test since, or opened differently."""
    for alias in django_private.databases_of(case):
        get_backend(connections[alias]).drop_stale_session(connections[alias])


class LiveRequests:
    """The requests that live servers of this process are handling, by thread."""

    def __init__(self) -> None:
        self._running: dict[threading.Thread, str] = {}
        self._changed = threading.Condition()
        request_started.connect(self._start, dispatch_uid=f"{__name__}.start", weak=False)
        request_finished.connect(self._finish, dispatch_uid=f"{__name__}.finish", weak=False)

    def _start(self, environ: dict[str, Any] | None = None, **_: object) -> None:
        thread = threading.current_thread()
        # Threads of socketserver's mix-in have this name; Django's live servers use it. A test's own client has no such thread.
        if environ is not None and "process_request_thread" in thread.name:
            with self._changed:
                self._running[thread] = f"{environ.get('REQUEST_METHOD')} {environ.get('PATH_INFO')}"

    def _finish(self, **_: object) -> None:
        with self._changed:
            if self._running.pop(threading.current_thread(), None) is not None:
                self._changed.notify_all()

    def _find_running(self) -> dict[threading.Thread, str]:
        return {thread: request for thread, request in self._running.items() if thread.is_alive()}

    @contextmanager
    def waited_for(self, seconds: float) -> Iterator[None]:
        """Wait until no request runs, at most *seconds*. After the block, warn of those that still ran."""
        left: dict[threading.Thread, str] = {}
        if self._running:
            with self._changed:
                self._changed.wait_for(lambda: not self._find_running(), seconds)
                left, self._running = self._find_running(), {}
        yield
        if left:
            warnings.warn(
                f"The live server still handled {', '.join(left.values())} {seconds:g} seconds after the test. "
                "The reset did not wait longer, so the next test may find what it writes. "
                "Wait in the test until the page has answered, for example for an element that it shows then.",
                TeardownWarning,
                stacklevel=2,
            )


live_requests = LiveRequests()


def _inhibits_post_migrate(case: Any, connection: BaseDatabaseWrapper) -> bool:
    # As TransactionTestCase._fixture_teardown() decides it.
    return case.available_apps is not None or (
        case.serialized_rollback and django_private.has_serialized_contents(connection)
    )


logger = logging.getLogger("testdb_app")

# The settings that the handlers of Django's own apps read.
_READ_BY_DJANGO = ("DATABASE_ROUTERS", "SITE_ID")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What the kept rows depend on, and the content types that the handlers cached: a test may count queries.

    Without a baseline, ``contents`` are the rows, and ``sparing`` is the resetter that leaves their tables alone.
    """

    circumstances: tuple[object, ...]
    content_types: dict[str, Any]
    contents: Mapping[QualifiedName, object] = field(default_factory=dict)
    sparing: Resetter | None = None


# By the resetter that goes back to these rows; an entry is dropped with its resetter.
_kept: WeakKeyDictionary[Resetter, _Kept] = WeakKeyDictionary()


def flush(using: str, *, inhibit_post_migrate: bool = False) -> None:
    """Reset the test database of the alias *using* to what Django's flush leaves.

    Parameters: *inhibit_post_migrate*, leave no rows at all, as after a test with ``available_apps``. Raises what
    :meth:`~testdb_app.resetter.Resetter.reset` raises.
    """
    if inhibit_post_migrate:
        get_resetter(using, "empty").reset()
        return
    if not get_backend(connections[using]).supports_baseline:
        _flush_without_baseline(using)
        return
    resetter, now = get_resetter(using, FLUSHED), _circumstances()
    kept = _kept.pop(resetter, None)
    if kept is not None and kept.circumstances == now:
        try:
            resetter.reset()
        except BaselineError as error:
            # Django's flush accepts tables that were created or dropped.
            logger.info("%s: what a flush leaves is made again: %s", using, error)
        else:
            _kept[resetter] = kept
            recall_content_types(kept.content_types)
            return
    get_resetter(using, "empty").reset()
    emit_post_migrate_signal(verbosity=0, interactive=False, db=using)
    content_types = remember_content_types()
    try:
        capture_baseline(using, replace=True, state=FLUSHED)
    except UnsupportedError as error:
        logger.info("%s: what a flush leaves is made each time: %s", using, error)
    else:
        _kept[resetter] = _Kept(circumstances=now, content_types=content_types)


def _flush_without_baseline(using: str) -> None:
    """Do as :func:`flush`. Rows that handlers made stay in their tables if these are unchanged, as far as the vendor shows it."""
    connection, resetter, now = connections[using], get_resetter(using, "empty"), _circumstances()
    backend = get_backend(connection)
    kept = _kept.pop(resetter, None)
    if (
        kept is not None
        and kept.sparing is not None
        and kept.circumstances == now
        and backend.read_contents(connection, kept.contents) == kept.contents
    ):
        kept.sparing.reset()
        _kept[resetter] = kept
        recall_content_types(kept.content_types)
        return
    report = resetter.reset()
    emit_post_migrate_signal(verbosity=0, interactive=False, db=using)
    content_types = remember_content_types()
    filled = read_state(connection, lock_timeout=get_settings().lock_timeout).sizes
    contents = backend.read_contents(connection, sorted(filled.keys() - {each.name for each in report.kept}))
    if contents:
        sparing = Resetter(using, to="empty", exclude=[f'"{name.name}"' for name in contents])
        _kept[resetter] = _Kept(circumstances=now, content_types=content_types, contents=contents, sparing=sparing)


def _circumstances() -> tuple[object, ...]:
    entries: list[Any] = post_migrate.receivers
    receivers = (entry[1] for entry in entries)
    handlers = [receiver() if isinstance(receiver, ref) else receiver for receiver in receivers]
    are_djangos = all(getattr(handler, "__module__", "django.").startswith("django.") for handler in handlers)
    return (
        tuple(entry[0] for entry in entries),
        tuple(apps.app_configs),
        tuple(apps.get_models(include_auto_created=True)),
        [getattr(settings, name, None) for name in _READ_BY_DJANGO],
        {} if are_djangos else _overridden_settings(),
    )


def _overridden_settings() -> dict[str, Any]:
    """Return what ``override_settings`` has changed, except what every live server changes."""
    found = django_private.overridden_settings()
    return {name: value for name, value in found.items() if name.isupper() and name != "ALLOWED_HOSTS"}
