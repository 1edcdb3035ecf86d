"""The change tracker: proves that nothing was written since the last reset, or finds what was, in a fraction of a full scan.

Everything is read in one transaction that keeps other writers out. ``docs/explanation/exactness-sqlite.md`` has the proof, and
each condition of it. Where one does not hold, the full scan follows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from django.db import Error

from testdb_app.backends.base import ChangeTracker, DatabaseIdentity, DatabaseState, Done, FoundChanges, Script
from testdb_app.backends.sqlite.baseline_copies import describe, find_differing, read_comparison
from testdb_app.backends.sqlite.catalog import Catalog, read_kept_catalog
from testdb_app.backends.sqlite.connection import execute, fetch, in_transaction, insist
from testdb_app.backends.sqlite.introspection import displaced, read_filled, read_identity, read_states
from testdb_app.backends.sqlite.operations import SQLiteScript
from testdb_app.baseline_state import Baseline, RowChanges, SequenceState
from testdb_app.exceptions import ResetError, TestDBError
from testdb_app.schema import QualifiedName, Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

_Position = tuple[int, int]
"""How many rows this connection has changed, and a number that moves when another one commits."""

_States = dict[QualifiedName, SequenceState | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLiteChanges(FoundChanges):
    """The state that was found, none if it is the one after the last reset; and the position at which it was read."""

    state: DatabaseState | None
    position: _Position
    catalog: Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clean:
    """The database right after a reset: its position, and where its sequences were.

    The ``catalog`` is another object after a change of the schema, and for another connection.
    """

    catalog: Catalog
    position: _Position
    states: _States


class SQLiteChangeTracker(ChangeTracker):
    """The change tracker of one database; see :class:`testdb_app.backends.base.ChangeTracker`. Not thread-safe."""

    def __init__(self, schema: Schema, baseline: Baseline | None) -> None:
        self._schema = schema
        self._baseline = baseline
        self._identity: DatabaseIdentity | None = None
        self._clean: _Clean | None = None

    def renew(self, connection: BaseDatabaseWrapper, observation: DatabaseState) -> None:
        """Remember the identity of the database. Somebody may have written since the commit: its rows are read the next time."""
        self._identity = observation.identity
        self._clean = None

    def find_changes(self, connection: BaseDatabaseWrapper) -> Generator[SQLiteChanges]:
        """Yield what was written, if that can be said. Other connections cannot write until the generator is closed.

        Costs six short queries, and another for every fifty tables unless nothing was written.
        """
        identity = self._identity
        if identity is None or identity.configured != str(connection.settings_dict["NAME"]):
            return
        try:
            if in_transaction(connection):
                return
            reading = _Reading(connection)
        except (Error, TestDBError):
            # Whatever the error is, the full scan meets it too, and reports it.
            return
        try:
            try:
                with connection.wrap_database_errors:
                    found = self._find(connection, reading.begin(), identity)
            except (Error, TestDBError):
                return
            if found is not None:
                yield found
        finally:
            insist(reading.end)

    def describe(self, found: FoundChanges) -> DatabaseState:
        """Return the state that was found."""
        assert isinstance(found, SQLiteChanges)
        assert found.state is not None
        return found.state

    def run(
        self, connection: BaseDatabaseWrapper, found: FoundChanges, script: Script, *, lock_timeout: float
    ) -> Done | None:
        """Run *script*, if it is plain, in the transaction in which *found* was read."""
        assert isinstance(found, SQLiteChanges)
        if not (isinstance(script, SQLiteScript) and script.is_plain):
            return None
        try:
            with connection.cursor() as cursor:
                execute(connection, cursor, f"PRAGMA busy_timeout = {round(lock_timeout * 1000)}")
                return self._run(connection, cursor, found, script)
        except ResetError as error:
            if type(error) is not ResetError:  # a lock, or a lost file
                raise
            # A foreign key refuses it, for one. The full scan switches them off.
            return None

    def _find(
        self, connection: BaseDatabaseWrapper, cursor: CursorWrapper, identity: DatabaseIdentity
    ) -> SQLiteChanges | None:
        catalog = read_kept_catalog(connection, cursor)
        if catalog is None or catalog.token != self._schema.token:
            return None
        position = _read_position(connection, cursor)
        states = read_states(connection, cursor, catalog)
        # A blob that is written to in place is in no count.
        if not self._is_baseline_intact(connection, cursor, catalog):
            return None
        clean = self._clean
        is_nothing = (
            clean is not None and clean.catalog is catalog and (clean.position, clean.states) == (position, states)
        )
        if not identity.in_memory:
            # The file may be another one, or protected, by now.
            identity = read_identity(connection, cursor, catalog)
        if is_nothing:
            return SQLiteChanges(identity=identity, is_nothing=True, state=None, position=position, catalog=catalog)
        return self._find_written(connection, cursor, catalog, identity, position, states)

    def _is_baseline_intact(self, connection: BaseDatabaseWrapper, cursor: CursorWrapper, catalog: Catalog) -> bool:
        """Whether the tables that have rows in the baseline have just these, and no migration was applied since."""
        if self._baseline is None:
            return True
        comparison = read_comparison(connection, cursor, catalog, self._baseline)
        if not comparison.is_possible or find_differing(connection, cursor, comparison):
            return False
        shape = self._baseline.shape
        return all(shape.get(what) == text for what, text in describe(connection, cursor, comparison).items())

    def _find_written(
        self,
        connection: BaseDatabaseWrapper,
        cursor: CursorWrapper,
        catalog: Catalog,
        identity: DatabaseIdentity,
        position: _Position,
        states: _States,
    ) -> SQLiteChanges:
        # These are as they were.
        kept = {*self._baseline.tables, *self._baseline.migrations} if self._baseline is not None else set()
        sizes = {name: 0 for name in read_filled(connection, cursor, catalog) if name not in kept}
        if self._baseline is not None:
            states = displaced(states, self._baseline.sequences)
        state = DatabaseState(
            identity=identity,
            token=catalog.token,
            sizes=sizes,
            is_precise=self._baseline is not None,
            states=states,
        )
        key = tuple(sizes), tuple(sorted(states))
        return SQLiteChanges(identity=identity, key=key, state=state, position=position, catalog=catalog)

    def _run(
        self, connection: BaseDatabaseWrapper, cursor: CursorWrapper, found: SQLiteChanges, script: SQLiteScript
    ) -> Done | None:
        changes: dict[QualifiedName, RowChanges] = {}
        changed, version = found.position
        for statement in script.body:
            execute(connection, cursor, statement.sql)
            changed += cursor.rowcount
            for name in statement.counts:
                changes[name] = RowChanges(removed=cursor.rowcount)
        if _read_position(connection, cursor) != (changed, version):
            # The action of a foreign key changed other rows, or another thread wrote over this connection.
            return None
        states = read_states(connection, cursor, found.catalog)
        execute(connection, cursor, "COMMIT")
        self._clean = _Clean(catalog=found.catalog, position=(changed, version), states=states)
        return Done(changes=changes, restarted=script.sequences)


@cache
def names_deserialized() -> bool:
    """Whether this SQLite gives a database that ``deserialize()`` has made a name of its own. Its numbers may be those before."""
    with closing(sqlite3.connect(":memory:")) as raw:
        raw.execute("CREATE TABLE t (id)")
        if hasattr(raw, "deserialize"):
            raw.deserialize(raw.serialize())
            return bool(raw.execute("PRAGMA database_list").fetchall()[0][2])
    return True


def _read_position(connection: BaseDatabaseWrapper, cursor: CursorWrapper) -> _Position:
    ((version,),) = fetch(connection, cursor, "PRAGMA data_version")
    return connection.connection.total_changes, version


class _Reading:
    """A transaction that keeps other writers out. It waits for nobody: the full scan does.

    A statement that was not fetched to its end has written rows which are in no count yet. The rollback at the end takes
    them back, as it does after a full scan, and a commit fails.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        # Django's cursor would take twice the time.
        self._raw = connection.connection
        with connection.wrap_database_errors:
            ((self._timeout,),) = self._raw.execute("PRAGMA busy_timeout").fetchall()

    def begin(self) -> Any:
        """Begin, and return a cursor of the driver."""
        cursor = self._raw.cursor()
        cursor.execute("PRAGMA busy_timeout = 0")
        cursor.execute("BEGIN IMMEDIATE")
        return cursor

    def end(self) -> None:
        """Roll back what was not committed, and restore the timeout. A lost connection has nothing to restore."""
        with suppress(sqlite3.Error):
            if self._raw.in_transaction:
                self._raw.execute("ROLLBACK")
            self._raw.execute(f"PRAGMA busy_timeout = {self._timeout}")
