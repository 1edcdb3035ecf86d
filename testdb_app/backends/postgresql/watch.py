"""Finding what was written since the last reset, and resetting that; see :mod:`testdb_app.backends.postgresql.signals`.

A reset is one round trip that looks, and one that runs; where nothing was written, the first alone. The look reads the
counters of the suspects (:mod:`testdb_app.backends.postgresql.memory`); the transaction that writes first checks, by the
sums of the database, that nothing else was written. If something was, that transaction ends before it writes, every counter
is read, and what is found joins the suspects. After two resets of the same tables and sequences the next one runs without
a look: if just these were written again, the check says so, and all of it was one round trip.

Sequences are set after the commit, by setval(), which costs a tenth of ALTER SEQUENCE and leaves the catalog alone, but is
not undone with a transaction. A sequence that is behind its table would make the next insert collide; one that is ahead
does not, and a reset whose server dies in between is followed by one that remembers nothing and sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import DatabaseIdentity, Observation, Replay, Script
from testdb_app.backends.postgresql import catalog, signals
from testdb_app.backends.postgresql.asking import Asker
from testdb_app.backends.postgresql.connection import is_idle, run_sql
from testdb_app.backends.postgresql.introspection import parse_identity
from testdb_app.backends.postgresql.looks import Conditions, Look, Relations, are_trusted
from testdb_app.backends.postgresql.memory import Memory, Written
from testdb_app.backends.postgresql.opened import sessions_opened
from testdb_app.backends.postgresql.queries import read_rows
from testdb_app.backends.postgresql.replaying import Changes, UnfitError, run_script
from testdb_app.exceptions import ConnectionLostError
from testdb_app.schema import Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("testdb_app")

_BYTES_A_ROW = 80
# Where more rows were written, or fewer that are slow to delete, the sizes of the tables decide what to do.
_MOST_ROWS = 5_000
_MOST_ROWS_UNINDEXED = 100
_MOST_SKIPPED = 3
_MOST_SCRIPTS = 128

_What = tuple[tuple[int, ...], tuple[int, ...]]
"""The OIDs of the tables and of the sequences that were written."""


class PostgreSQLWatch:
    """The watch over one database; see :class:`testdb_app.backends.base.Watch`. One thread at a time."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._asker: Asker | None = None
        self._identity: DatabaseIdentity
        self._memory: Memory | None = None
        self._is_trusted = False
        self._skipped, self._to_skip = 0, 0
        self._scripts: dict[_What, Script] = {}
        self._last: _What | None = None
        self._expected: _What | None = None

    def renew(self, connection: BaseDatabaseWrapper, observation: Observation) -> None:
        """Remember the present state, unless somebody else may have written since *observation* began."""
        conditions: Conditions = observation.conditions  # type: ignore[assignment]
        self._is_trusted = False
        if not are_trusted(conditions):
            return
        if self._skipped < self._to_skip:
            # The last times this was of no use.
            self._skipped += 1
            return
        self._skipped, self._to_skip = 0, min(2 * self._to_skip + 1, _MOST_SKIPPED)
        self._become(observation.identity)
        self._renew(connection, conditions)

    def _become(self, identity: DatabaseIdentity) -> None:
        """Go on with that database; what is known of another one, or of another run of its server, is of no use there."""
        if self._asker is not None and _place(identity) != _place(self._identity):
            self._asker = self._memory = None
            self._scripts.clear()
            self._last = self._expected = None
        self._identity = identity

    def _renew(self, connection: BaseDatabaseWrapper, conditions: Conditions) -> None:
        try:
            self._take(connection, conditions)
        except (DatabaseError, InterfaceError) as error:
            # The reset itself is done; the next one looks by itself.
            self._is_trusted = False
            logger.info("Connection %s: the counters could not be read: %s", connection.alias, error)

    def _take(self, connection: BaseDatabaseWrapper, conditions: Conditions) -> None:
        # What this session has not reported yet is missing in the sums.
        run_sql(connection, signals.FORCE_FLUSH)
        if self._asker is None:
            self._asker = Asker(connection, self._schema, self._identity)
        if not self._asker.is_ready(connection):
            self._asker.turn_to(connection)
        memory = self._memory or Memory(self._asker.relations)
        seen, unlogged = self._asker.see_all(connection, memory, conditions)
        # A pooler between gives out a number of its own, and changes the server's session at will.
        self._is_trusted = seen.pid == self._asker.pid and seen.conditions == conditions
        memory.take(seen, unlogged, sessions_opened(connection))
        self._memory = memory

    def replay(
        self,
        connection: BaseDatabaseWrapper,
        *,
        permit: Callable[[DatabaseIdentity], str],
        write: Callable[[Observation], Script | None],
        lock_timeout: float,
    ) -> Replay | None:
        """Look, and run what *write* makes of what was written; None where another look has to tell.

        One round trip where nothing was written, or the same tables as the last two times; else two. Where a table is
        written for the first time, some more.
        """
        memory, asker = self._memory, self._asker
        if memory is None or asker is None or not self._is_trusted:
            return None
        identity = self._identity
        # Not until this reset has gone well.
        self._is_trusted = False
        if identity.configured != str(connection.settings_dict["NAME"] or identity.name):
            return None
        rule = permit(identity)
        run = None if asker.may_miss else self._reset_the_same_again(connection, memory, asker, lock_timeout)
        if run is None:
            seen = self._look_again(connection, memory, asker)
            if seen is None:
                return None
            if identity is not self._identity:
                # A new connection was asked where it leads.
                identity = self._identity
                rule = permit(identity)
            if memory.is_quiet(seen):
                self._is_trusted = True
                return Replay(identity=identity, permitted_by=rule)
            if not asker.may_miss:
                # Else somebody has taken a transaction id, and the counters need not show what for.
                run = self._reset_what_was_seen(connection, memory, asker, seen, write, lock_timeout)
        if run is None:
            return None
        self._to_skip = 0
        return Replay(identity=identity, permitted_by=rule, script=run[0], changes=run[1])

    def _look_again(self, connection: BaseDatabaseWrapper, memory: Memory, asker: Asker) -> Look | None:
        """Look, over the connection as it was or over a new one; None where the counters cannot be trusted."""
        try:
            if not asker.is_ready(connection):
                # A new one of this process, which may lead elsewhere, and which is one session more.
                ((row,),) = read_rows(connection, [catalog.IDENTITY])
                identity = parse_identity(connection, row)
                if _place(identity) != _place(self._identity):
                    return None
                self._identity = identity
                asker.turn_to(connection)
            elif not is_idle(connection):
                return None
            memory.join(sessions_opened(connection))
            seen = asker.see(connection, None if memory.wants_everything else memory, memory.conditions)
        except (DatabaseError, InterfaceError):
            # Whatever it is, the other look meets it too, and says so.
            return None
        is_same = seen.pid == asker.pid and seen.conditions == memory.conditions
        return seen if is_same and seen.catalogs in {"", memory.catalogs} else None

    def _observe(self, relations: Relations, written: Written) -> Observation:
        return Observation(
            identity=self._identity,
            token=self._schema.token,
            is_precise=True,
            sizes={
                relations.tables[oid]: rows * _BYTES_A_ROW
                for oid, rows in written.tables.items()
                if oid in relations.tables
            },
            states=dict.fromkeys(relations.sequences[oid] for oid in written.sequences),
        )

    def _write(
        self, relations: Relations, written: Written, write: Callable[[Observation], Script | None]
    ) -> Script | None:
        """Have a script written, or take the one that was for the same tables and sequences."""
        rows = max(written.tables.values(), default=0)
        if rows > _MOST_ROWS or any(
            count > _MOST_ROWS_UNINDEXED for oid, count in written.tables.items() if oid in relations.unindexed
        ):
            return None
        what = _what(written)
        if rows <= _MOST_ROWS_UNINDEXED and what in self._scripts:
            return self._scripts[what]
        script = write(self._observe(relations, written))
        if script is not None and rows <= _MOST_ROWS_UNINDEXED:
            if len(self._scripts) >= _MOST_SCRIPTS:
                self._scripts.clear()
            self._scripts[what] = script
        return script

    def _reset_what_was_seen(
        self,
        connection: BaseDatabaseWrapper,
        memory: Memory,
        asker: Asker,
        seen: Look,
        write: Callable[[Observation], Script | None],
        lock_timeout: float,
    ) -> tuple[Script, Changes] | None:
        try:
            return self._reset(connection, memory, asker, memory.compare(seen), write, lock_timeout)
        except UnfitError:
            memory.miss()
        # Everything: this session has reported all, and the counters are of one moment.
        seen = asker.see(connection, None, memory.conditions)
        if seen.conditions != memory.conditions or seen.catalogs != memory.catalogs:
            return None
        try:
            return self._reset(connection, memory, asker, memory.compare(seen, seen.sums), write, lock_timeout)
        except UnfitError:
            return None

    def _reset(
        self,
        connection: BaseDatabaseWrapper,
        memory: Memory,
        asker: Asker,
        written: Written,
        write: Callable[[Observation], Script | None],
        lock_timeout: float,
    ) -> tuple[Script, Changes] | None:
        script = self._write(memory.relations, written, write)
        if script is None:
            return None
        outcome = run_script(connection, asker, memory, script, written, lock_timeout)
        what = _what(written)
        self._expected = what if what == self._last and what in self._scripts and script.is_plain else None
        self._last = what
        if script.is_plain:
            self._is_trusted = True
            memory.follow(outcome, script.restarted)
        else:
            # The statements that switch triggers write to the catalogs, and so does TRUNCATE.
            self._renew(connection, memory.conditions)
        return script, outcome.changes

    def _reset_the_same_again(
        self, connection: BaseDatabaseWrapper, memory: Memory, asker: Asker, lock_timeout: float
    ) -> tuple[Script, Changes] | None:
        """Reset what the last two resets did, without a look, if just that was written again; None if not."""
        expected, self._expected = self._expected, None
        if expected is None or memory.conditions[2] or not (asker.is_ready(connection) and is_idle(connection)):
            return None
        memory.join(sessions_opened(connection))
        written = memory.expect(*expected)
        if written is None:
            return None
        script = self._scripts[expected]
        try:
            outcome = run_script(
                connection, asker, memory, script, written, lock_timeout, unseen_below=_MOST_ROWS_UNINDEXED
            )
        except (UnfitError, ConnectionLostError):
            return None
        self._is_trusted = True
        self._expected = expected
        memory.follow(outcome, script.restarted)
        return script, outcome.changes


def _place(identity: DatabaseIdentity) -> tuple[object, ...]:
    return identity.name, identity.oid, identity.system_identifier, identity.server_started


def _what(written: Written) -> _What:
    return tuple(sorted(written.tables)), tuple(sorted(written.sequences))
