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
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import DatabaseIdentity, Observation, Replay, Script
from testdb_app.backends.postgresql import catalog, signals
from testdb_app.backends.postgresql.connection import is_idle, rolled_back_on_error, run_sql, send
from testdb_app.backends.postgresql.errors import is_connection_lost, sqlstate, translate
from testdb_app.backends.postgresql.introspection import parse_identity
from testdb_app.backends.postgresql.looks import Conditions, Look, Relations, Statements, are_trusted, parse_look
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
_NOT_PREPARED = "26000"
_BYTES_A_ROW = 80
# Where more rows were written, or fewer that are slow to delete, the sizes of the tables decide what to do.
_MOST_ROWS = 5_000
_MOST_ROWS_UNINDEXED = 100
_MOST_SKIPPED = 3
_MOST_SCRIPTS = 128
# Of the columns of a look, the number of sessions that are connected, this one among them.
_SESSIONS_NOW = 4
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"


class _UnfitError(Exception):
    """The sums of the database are not what the suspects make them."""


class PostgreSQLWatch:
    """The watch over one database; see :class:`testdb_app.backends.protocols.Watch`. One thread at a time."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._relations: Relations | None = None
        self._database: tuple[int, bool] = (0, False)
        self._statements: Statements | None = None
        self._identity: DatabaseIdentity | None = None
        self._memory: Memory | None = None
        self._is_trusted = False
        self._raw: weakref.ref[Any] | None = None
        self._pid = 0
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
        try:
            self._renew(connection, conditions)
        except (DatabaseError, InterfaceError) as error:
            # The reset itself is done; the next one looks by itself.
            self._is_trusted = False
            logger.info("Connection %s: the counters could not be read: %s", connection.alias, error)

    def _renew(self, connection: BaseDatabaseWrapper, conditions: Conditions) -> None:
        # What this session has not reported yet is missing in the sums.
        run_sql(connection, signals.FORCE_FLUSH)
        if self._relations is None:
            relations, database = run_sql(connection, f"{signals.RELATIONS};\n{signals.DATABASE}")
            self._relations = Relations.from_rows(rows_of(relations), self._schema)
            self._database = rows_of(database)[0][0], rows_of(database)[0][1]
        if self._raw is None or self._raw() is not connection.connection:
            self._prepare(connection)
        seen = self._see(connection, None, conditions)
        # A pooler between gives out a number of its own, and may change the server's session at any time.
        self._is_trusted = seen.pid == self._pid and seen.conditions == conditions
        if self._memory is None:
            self._memory = Memory(self._relations, seen)
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
        memory = self._memory
        if memory is None or not self._is_trusted:
            return None
        # Not until this reset has gone well.
        self._is_trusted = False
        seen = self._look_again(connection, memory)
        if seen is None or self._identity is None:
            return None
        rule = permit(self._identity)
        if memory.is_quiet(seen):
            self._is_trusted = True
            return Replay(identity=self._identity, permitted_by=rule)
        try:
            run = self._reset(connection, memory, memory.compare(seen), write, lock_timeout)
        except _UnfitError:
            memory.miss()
            run = self._reset_after_a_look_at_all(connection, memory, write, lock_timeout)
        if run is None:
            return None
        self._to_skip = 0
        return Replay(identity=self._identity, permitted_by=rule, script=run[0], changes=run[1])

    def _look_again(self, connection: BaseDatabaseWrapper, memory: Memory) -> Look | None:
        """Look, over the connection as it was or over a new one; None where the counters cannot be trusted."""
        if self._identity is None or self._identity.configured != str(connection.settings_dict["NAME"]):
            return None
        try:
            if connection.connection is None or self._raw is None or self._raw() is not connection.connection:
                seen = self._join(connection, memory)
            elif not is_idle(connection):
                return None
            else:
                seen = self._see(connection, None if memory.wants_everything else memory, memory.conditions)
        except (DatabaseError, InterfaceError):
            # Whatever it is, the other look meets it too, and says so.
            return None
        is_same = seen.pid == self._pid and seen.conditions == memory.conditions
        return seen if is_same and seen.catalogs in {"", memory.catalogs} else None

    def _prepare(self, connection: BaseDatabaseWrapper) -> None:
        assert self._relations is not None
        database, prepared = self._database
        self._statements = Statements.of(self._relations, database, prepared)
        run_sql(connection, self._statements.prepare)
        raw = connection.connection
        self._raw, self._pid = weakref.ref(raw), raw.info.backend_pid

    def _see(self, connection: BaseDatabaseWrapper, suspects: Memory | None, expected: Conditions) -> Look:
        """Look at the *suspects*, or at everything, and ask who else is connected where somebody is."""
        try:
            return self._look(connection, suspects, expected)
        except DatabaseError as error:
            if sqlstate(error) != _NOT_PREPARED:
                raise
        # DISCARD ALL and DEALLOCATE ALL drop what was prepared.
        self._prepare(connection)
        return self._look(connection, suspects, expected)

    def _look(self, connection: BaseDatabaseWrapper, suspects: Memory | None, expected: Conditions) -> Look:
        assert self._statements is not None
        sql = f"EXECUTE {self._statements.look_at_all}"
        if suspects is not None:
            arguments = f"'{_array(suspects.tables)}', '{_array(suspects.sequences)}'"
            sql = f"EXECUTE {self._statements.look} ({arguments})"
        if expected[2]:
            # Others were connected at the last reset, and are likely to be now.
            result, others = send(connection, f"{sql};\n{signals.OTHERS}")
            return parse_look(rows_of(result)[0], tuple(text for (text,) in rows_of(others)))
        (row,) = rows_of(send(connection, sql)[0])
        if row[_SESSIONS_NOW] == 1:
            return parse_look(row)
        return parse_look(row, tuple(text for (text,) in rows_of(send(connection, signals.OTHERS)[0])))

    def _join(self, connection: BaseDatabaseWrapper, memory: Memory) -> Look:
        """Look over a new connection of this process, where nothing is prepared, and which may lead elsewhere."""
        (identity,) = run_sql(connection, catalog.IDENTITY)
        self._identity = parse_identity(connection, rows_of(identity)[0])
        self._prepare(connection)
        memory.join()
        return self._see(connection, None, memory.conditions)

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
        write: Callable[[Observation], Script | None],
        lock_timeout: float,
    ) -> tuple[Script, Changes] | None:
        """Reset what the counters of everything show: this session has reported all, and they are of one moment."""
        seen = self._see(connection, None, memory.conditions)
        if seen.conditions != memory.conditions or seen.catalogs != memory.catalogs:
            return None
        try:
            return self._reset(connection, memory, memory.compare(seen, seen.sums), write, lock_timeout)
        except _UnfitError:
            return None

    def _reset(
        self,
        connection: BaseDatabaseWrapper,
        memory: Memory,
        written: Written,
        write: Callable[[Observation], Script | None],
        lock_timeout: float,
    ) -> tuple[Script, Changes] | None:
        script = self._write(memory.relations, written, write)
        if script is None:
            return None
        sums, xmax, changes = self._run(connection, script, written, lock_timeout)
        if script.is_plain:
            self._is_trusted = True
            memory.follow(written, sums, xmax, changes, script.restarted)
        else:
            # The statements that switch triggers write to the catalogs, and so does TRUNCATE.
            self._renew(connection, memory.conditions)
        return script, changes

    def _run(
        self, connection: BaseDatabaseWrapper, script: Script, written: Written, lock_timeout: float
    ) -> tuple[tuple[int, int], str, Changes]:
        assert self._statements is not None
        rows, blocks = written.sums if written.sums is not None else ("NULL", "NULL")
        insist = f"EXECUTE {self._statements.insist} ('{milliseconds(lock_timeout)}ms', {rows}, {blocks})"
        parts = (_BEGIN, insist, *(statement.sql for statement in script.statements))
        try:
            with rolled_back_on_error(connection):
                results = send(connection, ";\n".join(parts))
        except (DatabaseError, InterfaceError) as error:
            if sqlstate(error) in {_UNFIT, _NOT_PREPARED}:
                raise _UnfitError from error
            restores = any(statement.changes for statement in script.body)
            failure = translate(connection, error, script.locks, restores=restores)
            if connection.connection is not None and is_connection_lost(connection, error):
                connection.close()
            raise failure from error
        _, _, found_rows, found_blocks, _ = rows_of(results[1])[0]
        ((*_, xmax),) = rows_of(results[-1])
        return (found_rows, found_blocks), xmax, sum_changes(script.statements, results[2:])


def _array(oids: dict[int, None]) -> str:
    return "{" + ",".join(map(str, oids)) + "}"
