"""Test databases prepared for resets: the baseline is captured, or restored in a kept database."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, connections, transaction

from testdb_app import _django_private as django_private
from testdb_app import guard
from testdb_app.backends import get_backend
from testdb_app.baseline import capture_baseline, drop_baseline
from testdb_app.baseline_state import BASELINE, KIND_OF, MIGRATIONS_IN, is_same_shape, migration_tables, not_proved
from testdb_app.checks import find_faults
from testdb_app.exceptions import (
    BaselineDamagedError,
    BaselineError,
    BaselineFormatError,
    ConfigurationError,
    ResetError,
    UnsupportedError,
)
from testdb_app.resetter import READING, Resetter, explained, refit, require_baseline
from testdb_app.schema import Schema, list_some, on_one_line

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.backends.base import Position

logger = logging.getLogger("testdb_app")

# By alias and the present name in the settings: a worker of --parallel has databases of its own. The value says why
# there is no baseline, or is None.
_prepared: dict[tuple[str, str], UnsupportedError | None] = {}
# By the same keys: the state, at set-up, of the databases that no known test resets.
_starts: dict[tuple[str, str], Position] = {}
# By the same keys: the state, when they were made, of the databases that were cloned with their baseline.
_cloned: dict[tuple[str, str], Position | None] = {}
_resetters: dict[tuple[str, ...], Resetter] = {}
_restarts: dict[tuple[str, str], _Restarts] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Restarts:
    """The statements that set sequences to 1, and the schema that they are for."""

    schema: Schema
    statements: tuple[str, ...]


def prepare_test_database(using: str, *, allow_database: tuple[str, ...] = ()) -> None:
    """Capture the baseline of the test database behind the alias *using*, unless this process has done so.

    A database that was kept from an earlier run is reset to its baseline first, which deletes rows of a killed run.
    If its schema has changed since, the baseline is captured anew. A warning then names the rows that either a
    migration made or an earlier run left behind. If an earlier version of this package captured the baseline, it is replaced
    only if every table equals its copy. A database that cannot have a baseline is left alone; see
    :func:`find_obstacle`.

    *allow_database* names databases that the guard does not recognize as test databases.

    Raises:

    - :class:`ConfigurationError` if the app is not installed;
    - the guard's :class:`UnsafeDatabaseError` if it is not a test database;
    - what :func:`~testdb_app.baseline.capture_baseline` raises;
    - :class:`BaselineError` if :func:`prepare_test_databases` left the alias out and something may have been written
      to it since.
    """
    key = (using, _name(using))
    if key in _prepared:
        return
    check_set_up([using])
    start = _starts.get(key)
    if start is not None:
        _check_unwritten(using, start)
    # Before the reset, which has seen it then: else the first reset of a test scans everything for what was written.
    guard.mark_kept_database(connections[using])
    obstacle = None
    try:
        # What is in a database that this run has made is what was meant, also if it was made from another with its baseline.
        is_made = guard.is_made_by_this_run(connections[using])
        capture_baseline(using, replace=is_made, allow_database=allow_database)
        get_resetter(using, "baseline", allow_database=allow_database).reset()
    except BaselineDamagedError:
        # A capture would make rows of a killed run part of the baseline.
        raise
    except BaselineFormatError:
        _leave_earlier_format(using, allow_database)
        capture_baseline(using, replace=True, allow_database=allow_database)
    except BaselineError as error:
        logger.info("%s: the kept baseline is out of date: %s", using, error)
        doubtful = [] if guard.is_made_by_this_run(connections[using]) else _find_doubtful(using)
        capture_baseline(using, replace=True, allow_database=allow_database)
        if doubtful:
            listed = list_some(doubtful, between="; ")
            warnings.warn(
                f'The schema of database "{_name(using)}" (alias "{using}") has changed since its baseline was captured, and '
                f"rows that an earlier run has left may be part of the new one: {listed}. If a migration did not make them so, "
                "have the database made anew: --create-db, or without --keepdb.",
                stacklevel=2,
            )
    except UnsupportedError as error:
        logger.info("%s: %s", using, error)
        obstacle = error
    _prepared[key] = obstacle
    _starts.pop(key, None)


def note_cloned(using: str) -> None:
    """Record that the test database of *using* has just been cloned with its baseline: it needs neither a capture nor a reset.

    What a runner writes to it before :func:`prepare_test_databases` is captured there.
    """
    key, connection = (using, _name(using)), connections[using]
    with explained(connection, READING):
        _cloned[key] = get_backend(connection).note_start(connection)
    _prepared[key] = None
    _starts.pop(key, None)


def _capture_what_was_written(using: str) -> None:
    """Capture the baseline of a clone anew, unless nothing was written to it since it was made."""
    connection = connections[using]
    start = _cloned.pop((using, _name(using)))
    with explained(connection, READING):
        is_unwritten = start is not None and get_backend(connection).is_unwritten(connection, start)
    if not is_unwritten:
        capture_baseline(using, replace=True)


def _find_doubtful(using: str) -> list[str]:
    """Return the tables that differ from the baseline of an earlier schema, or cannot be compared with it.

    Lists of migrations are left out, because they have to differ. Costs a comparison with the copies, and a count of
    other rows.
    """
    connection = connections[using]
    with explained(connection, READING):
        backend = get_backend(connection)
        schema = backend.read_schema(connection)
        baseline = require_baseline(connection, BASELINE)
        now = backend.read_shape(connection, schema, baseline.tables)
        tables = {table.name for table in schema.tables if table.stores_rows}
        tables -= {*baseline.excluded, *baseline.migrations, *migration_tables(schema)}
        changed = {
            name
            for name in baseline.tables.keys() & tables
            for what in (f"table {name}", f"{KIND_OF}table {name}")
            if not is_same_shape(baseline.shape.get(what, ""), now.get(what, ""))
        }
        changes = backend.count_changes(connection, baseline, sorted((baseline.tables.keys() & tables) - changed))
        counts = backend.count_rows(connection, sorted(tables - baseline.tables.keys()))
    return [
        *(f"table {name} has other rows than its copy" for name, change in sorted(changes.items()) if change),
        *(f"table {name} has {rows} rows and had none" for name, rows in sorted(counts.items()) if rows),
        *(f"table {name} has changed, and cannot be compared" for name in sorted(changed)),
    ]


def _leave_earlier_format(using: str, allow_database: tuple[str, ...] = ()) -> None:
    """Prove that no rows of an earlier run exist, and restart the sequences: a new baseline captures what it finds.

    Raises :class:`BaselineFormatError` if a table differs from its copy in the baseline of the earlier format.
    """
    connection = connections[using]
    with explained(connection, READING):
        backend = get_backend(connection)
        schema = backend.read_schema(connection)
        earlier = backend.compare_earlier(connection, schema)
    if earlier.changes:
        raise not_proved(f'database "{_name(using)}" (alias "{using}")', earlier.changes)
    with explained(connection, "Restarting the sequences of"):
        _execute(connection, _Restarts(schema=schema, statements=earlier.restarts), allow_database)
    logger.warning(
        "%s: the baseline of database %s is of an earlier version of testdb_app. Every table is as its copy: captured anew.",
        using,
        on_one_line(_name(using)),
    )


def prepare_test_databases(aliases: Iterable[str], *, needed: Container[str]) -> None:
    """Prepare those of *aliases* that are *needed*, because tests reset them, before anything is written to them.

    For the others the present state is noted. One of them can be prepared later if it is proved that nothing was
    written since. SQLite has no counters to prove it by, so all its databases are prepared, at little cost.
    """
    names = {_name(alias) for alias in connections if alias in needed}
    for alias in aliases:
        key = (alias, _name(alias))
        if key in _cloned:
            _capture_what_was_written(alias)
        # Another alias may lead to the same database.
        elif key[1] in names:
            prepare_test_database(alias)
        elif key not in _prepared:
            with explained(connections[alias], READING):
                start = get_backend(connections[alias]).note_start(connections[alias])
            if start is None:
                prepare_test_database(alias)
            else:
                _starts[key] = start


def _check_unwritten(using: str, start: Position) -> None:
    connection = connections[using]
    with explained(connection, READING):
        is_unwritten = get_backend(connection).is_unwritten(connection, start)
    if not is_unwritten:
        raise BaselineError(
            f'Database "{connection.settings_dict["NAME"]}" (alias "{using}") has no baseline to go back to: when the test '
            "databases were set up, no test was known to reset it, and something may have been written to it since. "
            f"Nothing was changed. Name the alias where tests are collected: @pytest.mark.testdb(databases=[{using!r}]) with "
            f"reset_db, databases of the test class, or ResetRunnerMixin.reset_aliases.",
        )


def check_set_up(aliases: Iterable[str]) -> None:
    """Raise :class:`ConfigurationError` for what prevents resets of the databases of *aliases*, before any is made."""
    faults = find_faults(aliases)
    if faults:
        raise ConfigurationError(" ".join(faults))


def find_obstacle(using: str) -> UnsupportedError | None:
    """Return why the prepared test database has no baseline: its vendor is not supported, or a table cannot be kept."""
    return _prepared.get((using, _name(using)))


def get_resetter(using: str, to: str, *, allow_database: tuple[str, ...] = ()) -> Resetter:
    """Return this process's resetter for that database and target state. It keeps what it read from one reset to the next."""
    key = (using, to, _name(using), *allow_database)
    if key not in _resetters:
        _resetters[key] = Resetter(using, to=to, allow_database=allow_database)
    return _resetters[key]


def restart_sequences(using: str) -> None:
    """Set the sequences of tables without rows to 1, if the baseline has them elsewhere: migrations may have used them.

    Sequences of tables with rows stay, because the next row would collide with one of these. Usually there is nothing
    to do; that is found out once.
    """
    key = (using, _name(using))
    connection = connections[using]
    with explained(connection, "Restarting the sequences of"):
        if key not in _restarts:
            _restarts[key] = _write_restarts(connection)
        try:
            _execute(connection, _restarts[key])
        except DatabaseError:
            # A test has dropped one of them.
            _restarts[key] = _write_restarts(connection)
            _execute(connection, _restarts[key])


def _execute(connection: BaseDatabaseWrapper, restarts: _Restarts, allow_database: tuple[str, ...] = ()) -> None:
    if restarts.statements:
        backend = get_backend(connection)
        identity = backend.identify(connection)
        guard.check_may_reset(identity, allow=allow_database, act="restart the sequences of")
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            backend.data.prove(connection, identity, restarts.schema)
            for statement in restarts.statements:
                cursor.execute(statement)


def _write_restarts(connection: BaseDatabaseWrapper) -> _Restarts:
    backend = get_backend(connection)
    schema = backend.read_schema(connection)
    baseline = backend.read_baseline(connection)
    return _Restarts(schema=schema, statements=backend.write_restarts(connection, schema, baseline) if baseline else ())


def lacks_rows(using: str) -> bool:
    """Whether rows of the baseline are missing or changed. Costs a comparison with the copies."""
    connection = connections[using]
    with explained(connection, READING):
        baseline = require_baseline(connection, BASELINE)
        changes = get_backend(connection).count_changes(connection, baseline, sorted(baseline.tables)).values()
    return any(change.updated or change.inserted for change in changes)


def refit_baseline(using: str) -> None:
    """Make the baseline fit the present schema; see :func:`testdb_app.resetter.refit`. The baseline must exist."""
    connection = connections[using]
    with explained(connection, "Fitting the baseline to the schema of"):
        backend = get_backend(connection)
        guard.check_may_reset(backend.identify(connection))
        schema = backend.read_schema(connection)
        baseline = require_baseline(connection, BASELINE)
        refit(connection, schema, baseline, backend.read_shape(connection, schema, baseline.tables), before=None)


def restore_kept_databases(aliases: Iterable[str]) -> None:
    """Reset kept test databases to their baselines, and drop the baselines, before migrations run on them.

    Call it before the test runner changes the settings. It keeps rows of a killed run out of the baseline that is
    captured after the migrations. A database that does not exist, or has no baseline, is left alone.
    """
    for alias in aliases:
        connection = connections[alias]
        creation: Any = connection.creation
        name = django_private.get_test_database_name(creation)
        # Skip in-memory databases, which keep nothing, and configured databases, although the settings name them for tests.
        if name == ":memory:" or "mode=memory" in name or guard.is_configured(connection.settings_dict, name):
            continue
        # The test name permits no more here than later: it may be the database of a service file.
        with guard.renamed(connection, name), guard.treated_as_kept(connection, name):
            try:
                try:
                    Resetter(alias, to="baseline", once=True).reset()
                except BaselineFormatError:
                    # If rows of a killed run exist, the baseline stays, and the next capture is refused.
                    _leave_earlier_format(alias)
                except BaselineError as error:
                    # A killed run left or dropped tables: reset without them. A migration may have made rows: raise.
                    if not error.changes or any(change.startswith(MIGRATIONS_IN) for change in error.changes):
                        raise
                    Resetter(alias, to="baseline", once=True).reset(refit=True)
                drop_baseline(alias)
            except (ResetError, UnsupportedError, DatabaseError) as error:
                logger.info("%s: nothing to restore in %s: %s", alias, name, error)


def forget_test_databases() -> None:
    """Forget which databases were prepared, because they are about to be made anew."""
    _prepared.clear()
    _starts.clear()
    _cloned.clear()
    _resetters.clear()
    _restarts.clear()


def _name(using: str) -> str:
    return str(connections[using].settings_dict["NAME"])
