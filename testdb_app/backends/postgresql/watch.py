"""Finding what was written since the last reset, and resetting that; see :mod:`testdb_app.backends.postgresql.signals`.

A reset is one message that looks, and one that runs; where nothing was written, the first alone. The look reads the
counters of the suspects (:mod:`testdb_app.backends.postgresql.memory`); the transaction that writes first checks, by the
sums of the database, that nothing else was written. If something was, that transaction ends before it writes, every counter
is read, and what is found joins the suspects.

Sequences are set after the commit, by setval(), which costs a tenth of ALTER SEQUENCE and leaves the catalog alone, but is
not undone with a transaction. A sequence that is behind its table would make the next insert collide; one that is ahead
does not, and a reset whose server dies in between is followed by one that remembers nothing and sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import DatabaseIdentity, Observation, Replay, Script
from testdb_app.backends.postgresql import catalog, signals
from testdb_app.backends.postgresql.asking import NOT_PREPARED, Asker
from testdb_app.backends.postgresql.connection import is_idle, rolled_back_on_error, run_sql, send
from testdb_app.backends.postgresql.errors import explain, sqlstate
from testdb_app.backends.postgresql.introspection import parse_identity
from testdb_app.backends.postgresql.looks import Conditions, Look, Relations, are_trusted
from testdb_app.backends.postgresql.memory import Memory, Written
from testdb_app.backends.postgresql.queries import rows_of, sum_changes
from testdb_app.backends.postgresql.quoting import milliseconds
from testdb_app.schema import QualifiedName, Schema
from testdb_app.states import RowChanges

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("testdb_app")

Changes = Mapping[QualifiedName, RowChanges]

_UNFIT = "22012"
"""The SQLSTATE of the division by zero in :func:`signals.insist`."""
_BYTES_A_ROW = 80
# Where more rows were written, or fewer that are slow to delete, the sizes of the tables decide what to do.
_MOST_ROWS = 5_000
_MOST_ROWS_UNINDEXED = 100
_MOST_SKIPPED = 3
_MOST_SCRIPTS = 128
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"


class _UnfitError(Exception):
    """The sums of the database are not what the suspects make them."""


class PostgreSQLWatch:
    """The watch over one database; see :class:`testdb_app.backends.protocols.Watch`. One thread at a time."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._asker: Asker | None = None
        self._identity: DatabaseIdentity | None = None
        self._memory: Memory | None = None
        self._is_trusted = False
        self._skipped, self._to_skip = 0, 0
        self._scripts: dict[tuple[int, ...], Script] = {}

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
        self._identity = observation.identity
        self._renew(connection, conditions)

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
            self._asker = Asker(connection, self._schema)
        if not self._asker.is_ready(connection):
            self._asker.prepare(connection)
        seen = self._asker.see(connection, None, conditions)
        # A pooler between gives out a number of its own, and may change the server's session at any time.
        self._is_trusted = seen.pid == self._asker.pid and seen.conditions == conditions
        if self._memory is None:
            self._memory = Memory(self._asker.relations, seen)
        else:
            self._memory.take(seen)

    def replay(
        self,
        connection: BaseDatabaseWrapper,
        *,
        permit: Callable[[DatabaseIdentity], str],
        write: Callable[[Observation], Script | None],
        lock_timeout: float,
    ) -> Replay | None:
        """Look, and run what *write* makes of what was written; None where another look has to tell.

        Two round trips, or one where nothing was written. Where a table is written for the first time, some more.
        """
        memory, asker = self._memory, self._asker
        if memory is None or asker is None or not self._is_trusted:
            return None
        # Not until this reset has gone well.
        self._is_trusted = False
        seen = self._look_again(connection, memory, asker)
        if seen is None or self._identity is None:
            return None
        rule = permit(self._identity)
        if memory.is_quiet(seen):
            self._is_trusted = True
            return Replay(identity=self._identity, permitted_by=rule)
        try:
            run = self._reset(connection, memory, asker, memory.compare(seen), write, lock_timeout)
        except _UnfitError:
            memory.miss()
            run = self._reset_after_a_look_at_all(connection, memory, asker, write, lock_timeout)
        if run is None:
            return None
        self._to_skip = 0
        return Replay(identity=self._identity, permitted_by=rule, script=run[0], changes=run[1])

    def _look_again(self, connection: BaseDatabaseWrapper, memory: Memory, asker: Asker) -> Look | None:
        """Look, over the connection as it was or over a new one; None where the counters cannot be trusted."""
        identity = self._identity
        if identity is None or identity.configured != str(connection.settings_dict["NAME"] or identity.name):
            return None
        try:
            if not asker.is_ready(connection):
                # A new one of this process, which may lead elsewhere, and which is one session more.
                (row,) = rows_of(run_sql(connection, catalog.IDENTITY)[0])
                self._identity = parse_identity(connection, row)
                asker.prepare(connection)
                memory.join()
            elif not is_idle(connection):
                return None
            seen = asker.see(connection, None if memory.wants_everything else memory, memory.conditions)
        except (DatabaseError, InterfaceError):
            # Whatever it is, the other look meets it too, and says so.
            return None
        is_same = seen.pid == asker.pid and seen.conditions == memory.conditions
        return seen if is_same and seen.catalogs in {"", memory.catalogs} else None

    def _observe(self, relations: Relations, written: Written) -> Observation:
        assert self._identity is not None
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
        what = (*written.tables, 0, *written.sequences)
        if rows <= _MOST_ROWS_UNINDEXED and what in self._scripts:
            return self._scripts[what]
        script = write(self._observe(relations, written))
        if script is not None and rows <= _MOST_ROWS_UNINDEXED:
            if len(self._scripts) >= _MOST_SCRIPTS:
                self._scripts.clear()
            self._scripts[what] = script
        return script

    def _reset_after_a_look_at_all(
        self,
        connection: BaseDatabaseWrapper,
        memory: Memory,
        asker: Asker,
        write: Callable[[Observation], Script | None],
        lock_timeout: float,
    ) -> tuple[Script, Changes] | None:
        """Reset what the counters of everything show: this session has reported all, and they are of one moment."""
        seen = asker.see(connection, None, memory.conditions)
        if seen.conditions != memory.conditions or seen.catalogs != memory.catalogs:
            return None
        try:
            return self._reset(connection, memory, asker, memory.compare(seen, seen.sums), write, lock_timeout)
        except _UnfitError:
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
        sums, xmax, changes = _run(connection, asker.statements.insist, script, written, lock_timeout)
        if script.is_plain:
            self._is_trusted = True
            memory.follow(written, sums, xmax, changes, script.restarted)
        else:
            # The statements that switch triggers write to the catalogs, and so does TRUNCATE.
            self._renew(connection, memory.conditions)
        return script, changes


def _run(
    connection: BaseDatabaseWrapper, insist: str, script: Script, written: Written, lock_timeout: float
) -> tuple[tuple[int, int], str, Changes]:
    rows, blocks = written.sums if written.sums is not None else ("NULL", "NULL")
    check = f"EXECUTE {insist} ('{milliseconds(lock_timeout)}ms', {rows}, {blocks})"
    parts = (_BEGIN, check, *(statement.sql for statement in script.statements))
    try:
        with rolled_back_on_error(connection):
            results = send(connection, ";\n".join(parts))
    except (DatabaseError, InterfaceError) as error:
        if sqlstate(error) in {_UNFIT, NOT_PREPARED}:
            raise _UnfitError from error
        raise explain(connection, error, script) from error
    _, _, found_rows, found_blocks, _ = rows_of(results[1])[0]
    ((*_, xmax),) = rows_of(results[-1])
    return (found_rows, found_blocks), xmax, sum_changes(script.statements, results[2:])
