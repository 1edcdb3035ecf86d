"""Capture and drop the baseline, the state that resets restore. It is kept inside the test database."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from django.db import DEFAULT_DB_ALIAS, connections

from testdb_app import guard
from testdb_app.backends import get_backend
from testdb_app.backends.base import baseline_unsupported
from testdb_app.baseline_state import BASELINE, Baseline
from testdb_app.conf import ResetOptions, check_options
from testdb_app.guard import check_no_transaction
from testdb_app.resetter import CAPTURING, check_shape, explained, read_context, read_state, read_with_retries

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("testdb_app")


def capture_baseline(
    using: str = DEFAULT_DB_ALIAS,
    *,
    exclude: str | Iterable[str] = (),
    replace: bool = False,
    allow_database: str | Iterable[str] = (),
    lock_timeout: float | None = None,
    state: str = BASELINE,
) -> Baseline:
    """Capture the rows of every table and the state of every sequence. Call it once, after the migrations.

    An existing baseline is returned unchanged. So a reset restores the clean state of a database that is kept between
    runs, even after a run was killed.

    Parameters:

    - *using*: the alias.
    - *exclude*: labels and patterns of tables that no reset to this baseline touches, besides ``TESTDB["EXCLUDE"]``.
    - *replace*: whether to replace an existing baseline with the present state.
    - *allow_database* and *lock_timeout* (seconds): as for :class:`~testdb_app.resetter.Resetter`.
    - *state*: the kept state to capture: the baseline, or the one of :mod:`testdb_app.teardown`.

    Raises :class:`BaselineError` if the existing baseline belongs to another schema, the guard's
    :class:`UnsafeDatabaseError`, and other errors of :mod:`testdb_app.exceptions`. After any error nothing has changed.
    Cost: a copy of every row; writers wait meanwhile. The role needs the CREATE privilege on the database.
    """
    options = check_options(
        using=using,
        include=(),
        exclude=exclude,
        to="empty",
        strategy=None,
        reset_sequences=True,
        allow_database=allow_database,
        lock_timeout=lock_timeout,
    )
    connection = connections[using]
    check_no_transaction(connection, "capture a baseline")

    def capture() -> Baseline:
        with explained(connection, CAPTURING, permit=partial(guard.check_may_reset, allow=options.allow_database)):
            return _capture(connection, options, replace=replace, state=state)

    return read_with_retries(capture, name=using, lock_timeout=options.lock_timeout, may_retry=True)


def _capture(connection: BaseDatabaseWrapper, options: ResetOptions, *, replace: bool, state: str) -> Baseline:
    backend = get_backend(connection)
    if not backend.supports_baseline:
        guard.check_may_reset(backend.identify(connection), allow=options.allow_database)
        raise baseline_unsupported(connection)
    observation = read_state(connection, lock_timeout=options.lock_timeout)
    guard.check_may_reset(observation.identity, allow=options.allow_database)
    context = read_context(connection, options)
    present = None if replace else backend.read_baseline(connection, state)
    if present is not None:
        check_shape(connection, context.schema, present)
        logger.info("%s: the baseline captured %s is kept", connection.alias, present.captured_at)
        return present
    return backend.write_baseline(connection, context.capture(observation, options.lock_timeout, state))


def drop_baseline(using: str = DEFAULT_DB_ALIAS, *, allow_database: str | Iterable[str] = ()) -> None:
    """Drop the baseline and the other kept states of the alias *using*. If there are none, nothing happens.

    Raises the guard's :class:`UnsafeDatabaseError`, as a reset does.
    """
    connection = connections[using]
    backend = get_backend(connection)
    with explained(connection, "Dropping the baseline of"):
        identity = backend.identify(connection)
        guard.check_may_reset(identity, allow=allow_database)
        backend.drop_baseline(connection, identity=identity)
