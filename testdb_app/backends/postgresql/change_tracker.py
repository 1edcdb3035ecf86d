"""The change tracker: finds what was written since the last reset, and runs the reset in the same round trips.

There is one way. A set of tables and sequences is chosen, and the transaction that resets them first proves, by the sums
of the database, that nothing outside of the set was written. If something was, it ends before it writes, and a larger
set follows:

1. what the statements of this process name, with what was written beside that twice. Nothing is read first, so the whole
   reset is one round trip. If they name nothing, one reading shows whether anything was written at all;
2. what the counters of the tables and sequences that were written lately show;
3. what all counters show.

Then the resetter takes its full scan.

Sequences are set after the commit, by setval(). That costs a tenth of ALTER SEQUENCE and leaves the catalog alone, but a
rollback does not undo it. A sequence that is behind its table would make the next insert collide; one that is ahead does
not. If the server dies in between, the next reset remembers nothing, and sees that the sequence moved.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import ChangeTracker, DatabaseIdentity, DatabaseState, Done, FoundChanges, Script
from testdb_app.backends.postgresql import counters
from testdb_app.backends.postgresql.connection import (
    NOT_PREPARED,
    Command,
    is_idle,
    pipeline_of,
    rolled_back_on_error,
    server_version,
)
from testdb_app.backends.postgresql.counters import (
    REPORT,
    Conditions,
    CountedState,
    Relations,
    array,
    parse_numbers,
    run_prepared,
)
from testdb_app.backends.postgresql.errors import explain, sqlstate
from testdb_app.backends.postgresql.open_sessions import observe, observe_from_now_on, reported, take_written
from testdb_app.backends.postgresql.operations import write_set_sequences
from testdb_app.backends.postgresql.preconditions import Precondition
from testdb_app.backends.postgresql.queries import chunks, read_rows, rows_of, scalars, sum_changes
from testdb_app.backends.postgresql.sql import milliseconds, quote
from testdb_app.exceptions import ConnectionLostError
from testdb_app.schema import Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("testdb_app")

_BYTES_A_ROW = 80
# If more rows were written, or fewer that are slow to delete, a full scan reads the sizes of the tables.
_MOST_ROWS = 5_000
_MOST_ROWS_UNINDEXED = 100
_MOST_CANDIDATES = 256
_MOST_SKIPPED = 3
_SEQUENCES_A_MESSAGE = 2_000
_UNFIT = "22012"
"""The SQLSTATE of the division by zero in :func:`counters.write_proof`."""
_BEGIN = Command("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", often=True)
_COMMIT = Command("COMMIT", often=True)
_ANY_NUMBER = 2**62
_PAUSES = (0.0005, 0.001, 0.002)
_MANY_TABLES = 50
_NOBODY = 0
"""Stands for what is written though no statement of this process names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedChanges(FoundChanges):
    """A set to reset: how often each of its tables and sequences was written, by OID; 0 each if that is a guess.

    ``named`` are those that statements of this process name. ``held`` are the sessions that nobody can use meanwhile.
    """

    tables: Mapping[int, int]
    sequences: Mapping[int, int]
    is_guess: bool = False
    named: frozenset[int] = frozenset()
    held: Sequence[int] = ()


class PostgreSQLChangeTracker(ChangeTracker):
    """The change tracker of one database; see :class:`testdb_app.backends.base.ChangeTracker`. Not thread-safe."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._memory: Memory | None = None
        # Whether the remembered counters are those right after the last reset; if not, a full scan is needed.
        self._is_known = False
        self._skipped, self._to_skip = 0, 0
        observe_from_now_on()

    def renew(self, connection: BaseDatabaseWrapper, observation: DatabaseState) -> None:
        """Remember the present state, unless somebody else may have written since *observation* began."""
        self._is_known = False
        session = observe(connection)
        take_written(session)
        if not isinstance(observation, CountedState) or not observation.conditions.are_trusted:
            return
        if self._skipped < self._to_skip:
            # The last attempts were of no use.
            self._skipped += 1
            return
        self._skipped, self._to_skip = 0, min(2 * self._to_skip + 1, _MOST_SKIPPED)
        try:
            self._remember(connection, observation.identity, observation.conditions)
        except (DatabaseError, InterfaceError) as error:
            # The reset itself is done, and the next one takes a full scan.
            logger.info("Connection %s: the counters could not be read: %s", connection.alias, error)

    def find_changes(self, connection: BaseDatabaseWrapper) -> Generator[CountedChanges]:
        """Yield sets to reset. No round trip for a guess, otherwise one for each."""
        memory = self._memory
        if memory is None or not self._is_known:
            return
        # Known again only after this reset has succeeded.
        self._is_known = False
        if memory.identity.configured != str(connection.settings_dict["NAME"] or memory.identity.name):
            return
        try:
            connection.ensure_connection()
            if is_idle(connection):
                yield from self._find(connection, memory)
        except (UnfitError, DatabaseError, InterfaceError):
            # Whatever the error is, the full scan meets it too, and reports it.
            return

    def _find(self, connection: BaseDatabaseWrapper, memory: Memory) -> Generator[CountedChanges]:
        memory.use(connection)
        session = observe(connection)
        named = memory.relations.may_be_written(take_written(session))
        with reported(session) as held:
            if not named and memory.glance(connection, held):
                self._is_known = True
                yield CountedChanges(identity=memory.identity, is_nothing=True, tables={}, sequences={})
                return
            if memory.may_miss:
                # Somebody may have taken a transaction id, and the counters need not show what for.
                return
            if guess := memory.guess(named):
                yield memory.make_changes(dict.fromkeys(guess, 0), named, held, is_guess=True)
            for every in (False, True) if len(memory.writes) > _MOST_CANDIDATES else (True,):
                if connection.connection is None:
                    return
                moved = memory.read(connection, held, every=every)
                if moved is not None:
                    yield memory.make_changes(moved, named, held)

    def describe(self, found: FoundChanges) -> DatabaseState:
        """Return what was found as a state to plan from."""
        assert isinstance(found, CountedChanges)
        assert self._memory is not None
        relations = self._memory.relations
        return DatabaseState(
            identity=found.identity,
            token=self._schema.token,
            is_precise=True,
            sizes={
                relations.tables[oid]: rows * _BYTES_A_ROW
                for oid, rows in found.tables.items()
                if oid in relations.tables
            },
            states=dict.fromkeys(relations.sequences[oid] for oid in found.sequences),
        )

    def run(
        self, connection: BaseDatabaseWrapper, found: FoundChanges, script: Script, *, lock_timeout: float
    ) -> Done | None:
        """Run *script* if nothing outside of what was *found* was written. One round trip."""
        assert isinstance(found, CountedChanges)
        memory = self._memory
        assert memory is not None
        try:
            done, is_known = memory.run(connection, found, script, lock_timeout)
        except UnfitError:
            return None
        except ConnectionLostError:
            if not found.is_guess:
                raise
            # Nothing was read before, which would have found the connection lost.
            return None
        self._to_skip = 0
        self._is_known = is_known
        return done

    def _remember(self, connection: BaseDatabaseWrapper, identity: DatabaseIdentity, conditions: Conditions) -> None:
        """Remember every counter of the database of *identity*; forget another database, or another run of its server."""
        memory = self._memory
        if memory is None or _place(identity) != _place(memory.identity):
            memory = self._memory = Memory(connection, self._schema, identity)
        memory.identity = identity
        memory.use(connection)
        self._is_known = memory.read_all(connection, conditions)


class Memory:
    """What the tracker remembers of one database: its identity, its counters, and how to read them.

    - ``writes``, ``calls``: the counts of tables and sequences, by OID; ``rows``, ``blocks``: the sums of the database.
    - ``allowed``: the other sessions, as they were when they had written nothing unseen.
    - ``always``: the sequences whose next call may take no transaction id.
    - ``candidates``: the tables and sequences that were written lately, the last ones at the end.
    """

    def __init__(self, connection: BaseDatabaseWrapper, schema: Schema, identity: DatabaseIdentity) -> None:
        relations, database = read_rows(connection, [counters.RELATIONS, counters.DATABASE])
        oid, prepared, self.may_miss = database[0]
        self.identity = identity
        self.relations = Relations.from_rows(relations, schema)
        sequences = self.relations.sequences
        holds = Precondition.of(identity, owners=schema.trusted_owners).holds()
        self._proof = counters.write_proof(oid, sequences, prepared=prepared, holds=holds)
        self._reading = counters.write_reading(oid, prepared=prepared)
        self._glance = counters.write_glance(oid, prepared=prepared)
        everything = counters.write_full_reading(oid, self.relations.counted, sequences, prepared=prepared)
        self._full_reading = Command(everything, often=True)
        self._set_sequences = write_set_sequences(holds)
        self.epoch = self.xmax = ""
        self.allowed: Sequence[str] = ()
        self.writes: dict[int, int] = {}
        self.calls: dict[int, int] = {}
        self.rows = self.blocks = 0
        self.always: dict[int, None] = {}
        self.candidates: dict[int, None] = {}
        self._settled: dict[int, int] = {}
        self._toasts = frozenset(self.relations.toasts.values())
        self._beside: dict[int, frozenset[int]] = {}
        self._unnamed: frozenset[int] = frozenset()
        self._pauses: tuple[float, ...] = _PAUSES
        self.use(connection)

    def use(self, connection: BaseDatabaseWrapper) -> None:
        """Use *connection*, which is open, from now on. Sends nothing."""
        self.pipeline = pipeline_of(connection)
        self.pid: int = connection.connection.info.backend_pid

    # Read what was written -------------------------------------------------------------------------------------------

    def glance(self, connection: BaseDatabaseWrapper, held: Sequence[int]) -> bool:
        """Whether no transaction has taken an id since, and the sequences that can do without an id have not moved.

        Raises :class:`UnfitError` if that cannot be told.
        """
        always = list(self.always)
        glance = Command(self._glance, (array(held), array(self.allowed), array(always)), often=True)
        xmax, _, calls, _ = self._read(connection, [glance])
        return bool(xmax == self.xmax and parse_numbers(calls) == [self.calls[oid] for oid in always])

    def read(self, connection: BaseDatabaseWrapper, held: Sequence[int], *, every: bool) -> dict[int, int] | None:
        """Return how often the tables and sequences were written that have moved; None if others were written, too.

        The others are those that are no candidates, unless *every* one is read. Raises :class:`UnfitError` if a full scan
        is needed.
        """
        relations = self.relations
        tables = list(relations.counted) if every else [oid for oid in self.candidates if oid in self.writes]
        sequences = list(relations.sequences) if every else [oid for oid in self.candidates if oid in self.calls]
        reading = Command(
            self._reading, (array(held), array(self.allowed), array(tables), array(sequences)), often=True
        )
        _, writes, calls, rows = self._read(connection, REPORT, [reading])
        moved = _differences(self.writes, tables, parse_numbers(writes))
        if int(rows) - self.rows != sum(moved.values()):
            if every:
                raise UnfitError
            return None
        if any(count > self._most_rows(oid) for oid, count in moved.items()):
            raise UnfitError
        return moved | _differences(self.calls, sequences, parse_numbers(calls))

    def _read(self, connection: BaseDatabaseWrapper, *batches: Sequence[Command]) -> tuple[Any, Any, Any, Any]:
        """Return the next id, the counts and the rows of a reading, if nobody may have written unseen.

        A session that is just ending is waited for, in a large schema, where a full scan takes longer.
        """
        for pause in (*self._pauses, 0):
            ((_, pid, epoch, xmax, writes, calls, rows, others, strangers),) = run_prepared(
                connection, self.pipeline, *batches
            )
            if strangers == "0":
                break
            time.sleep(pause)
        if (int(pid), epoch, strangers) != (self.pid, self.epoch, "0"):
            # Next time as well it would be in vain.
            self._pauses = ()
            raise UnfitError
        self._pauses = _PAUSES if len(self.writes) > _MANY_TABLES else ()
        self.allowed = others.split(",") if others else ()
        return xmax, writes, calls, rows

    def _most_rows(self, oid: int) -> int:
        return _MOST_ROWS_UNINDEXED if oid in self.relations.unindexed else _MOST_ROWS

    # Choose the set ----------------------------------------------------------------------------------------------------

    def guess(self, named: Iterable[int]) -> set[int]:
        """Return *named*, and what was written beside one of them the last time; without them what was written twice."""
        found = set(named)
        return found.union(*(self._beside.get(oid, ()) for oid in found or {_NOBODY}))

    def make_changes(
        self, moved: Mapping[int, int], named: Iterable[int], held: Sequence[int], *, is_guess: bool = False
    ) -> CountedChanges:
        """Return the set of what has *moved*."""
        relations = self.relations
        tables = {oid: count for oid, count in moved.items() if oid in self.writes}
        sequences = {oid: count for oid, count in moved.items() if oid in self.calls}
        what = (*sorted(oid for oid in tables if oid in relations.tables), *sorted(sequences))
        if is_guess:
            tables |= {relations.toasts[oid]: 0 for oid in tables if oid in relations.toasts}
        is_small = max(tables.values(), default=0) <= _MOST_ROWS_UNINDEXED
        return CountedChanges(
            identity=self.identity,
            key=(_place(self.identity), what) if is_small else None,
            tables=tables,
            sequences=sequences,
            is_guess=is_guess,
            named=frozenset(named),
            held=held,
        )

    # Reset ---------------------------------------------------------------------------------------------------------------

    def run(
        self, connection: BaseDatabaseWrapper, found: CountedChanges, script: Script, lock_timeout: float
    ) -> tuple[Done, bool]:
        """Run *script*, which was made for what was *found*. One round trip. Return what it did, and whether all is known.

        Nothing is locked in advance where no other session is connected. Raises :class:`UnfitError` if something else was
        written, and the package's errors. Nothing was written then.
        """
        if found.held and not self.relations.cached.isdisjoint(found.sequences):
            # Only ALTER SEQUENCE voids the values that another session keeps.
            raise UnfitError
        is_alone = not (self.allowed or found.held)
        statements = [statement for statement in script.statements if not (is_alone and statement.is_lock)]
        proof = Command(self._proof, self._arguments(found, lock_timeout), often=True)
        restarts = [
            (oid, state)
            for oid in found.sequences
            if (state := script.restarted.get(self.relations.sequences[oid])) is not None
        ]
        set_sequences = Command(
            self._set_sequences,
            (
                array(oid for oid, _ in restarts),
                array(state.last_value for _, state in restarts),
                array("t" if state.is_called else "f" for _, state in restarts),
                array(self.calls[oid] for oid, _ in restarts),
            ),
            often=True,
        )
        batches = [[_BEGIN, proof, *(Command(each.sql) for each in statements), _COMMIT, set_sequences]]
        if found.is_guess:
            # After a reading it has reported already.
            batches.insert(0, REPORT)
        if not script.is_plain:
            batches += [REPORT, [self._full_reading]]
        try:
            with rolled_back_on_error(connection):
                results = self.pipeline.run(connection, *batches)
        except (DatabaseError, InterfaceError) as error:
            if sqlstate(error) in {_UNFIT, NOT_PREPARED}:
                raise UnfitError from error
            raise explain(connection, error, script) from error
        if found.is_guess:
            del results[: len(REPORT)]
        end = 2 + len(statements)
        changes = sum_changes(statements, results[2:end])
        *_, set_back, xmax = rows_of(results[end + 1])[0]
        done = Done(changes=changes, restarted=tuple(self.relations.sequences[oid] for oid in parse_numbers(set_back)))
        _, _, writes, calls, rows, blocks, others, sessions, _ = rows_of(results[1])[0]
        self.xmax = xmax
        self.allowed = others.split(",") if others else ()
        self._record(found, done, parse_numbers(writes), parse_numbers(calls), int(rows), int(blocks))
        if script.is_plain:
            return done, True
        # The statements that switch triggers write to the catalogs, and so does TRUNCATE.
        (row,) = rows_of(results[-1])
        conditions = Conditions.from_row(row[2:5])
        is_known = (
            conditions.are_trusted
            and conditions.sessions == int(sessions)
            and _names_of(conditions) == sorted(self.allowed)
        )
        if is_known:
            self._record_all(row, conditions)
        return done, is_known

    def _arguments(self, found: CountedChanges, lock_timeout: float) -> tuple[str | None, ...]:
        tables, sequences = list(found.tables), list(found.sequences)
        written = [self.writes[oid] for oid in tables]
        called = sum(self.calls[oid] for oid in sequences)
        most = min(map(self._most_rows, tables), default=0) if found.is_guess else _ANY_NUMBER
        return (
            f"{milliseconds(lock_timeout)}ms",
            str(self.pid),
            self.epoch,
            array(found.held),
            array(self.allowed),
            array(tables),
            array(written),
            array(sequences),
            str(self.rows - sum(written)),
            str(self.blocks - called),
            str(most),
        )

    def _record(
        self, found: CountedChanges, done: Done, writes: Sequence[int], calls: Sequence[int], rows: int, blocks: int
    ) -> None:
        """Remember what was written, and what the reset itself then did.

        Its own writes are counted at their minimum: a row once, a call of a sequence as one block. If there were more,
        the next reading finds too much, and never too little.
        """
        moved = {
            oid
            for oids, known, now in ((found.tables, self.writes, writes), (found.sequences, self.calls, calls))
            for oid, count in zip(oids, now, strict=True)
            if known[oid] != count
        }
        self.writes.update(zip(found.tables, writes, strict=True))
        self.calls.update(zip(found.sequences, calls, strict=True))
        self.rows, self.blocks = rows, blocks
        for oid in found.tables:
            own = done.changes.get(self.relations.tables[oid]) if oid in self.relations.tables else None
            if own is not None:
                count = own.removed + own.updated + own.inserted
                self.writes[oid] += count
                self.rows += count
        set_back = set(done.restarted)
        for oid in found.sequences:
            if self.relations.sequences[oid] in set_back:
                self.calls[oid] += 1
                self.blocks += 1
                if oid not in self.relations.always:
                    self.always.pop(oid, None)
            elif oid in moved:
                self.always[oid] = None
        self._learn(found, frozenset(moved))

    def _learn(self, found: CountedChanges, moved: frozenset[int]) -> None:
        """Remember what was written beside what the statements name, and the candidates of later readings."""
        unnamed = moved - found.named - self._toasts
        for oid in found.named:
            self._beside[oid] = unnamed
        if not found.named:
            self._beside[_NOBODY] = unnamed & self._unnamed
            self._unnamed = unnamed
        for oid in moved:
            for each in (oid, self.relations.toasts.get(oid)):
                if each is not None:
                    self.candidates.pop(each, None)
                    self.candidates[each] = None
        while len(self.candidates) > _MOST_CANDIDATES:
            del self.candidates[next(iter(self.candidates))]

    # Remember everything -----------------------------------------------------------------------------------------------

    def read_all(self, connection: BaseDatabaseWrapper, conditions: Conditions) -> bool:
        """Remember every counter, and find the sequences whose next call may take no transaction id.

        Return whether the *conditions* still hold: nobody else may have written since they were read. The session reports
        before, because the sums lack what it has not reported.
        """
        (row,) = run_prepared(connection, self.pipeline, REPORT, [self._full_reading])
        calls = dict(zip(self.relations.sequences, parse_numbers(row[-1]), strict=True))
        unproven = [oid for oid, count in calls.items() if self._settled.get(oid) != count]
        unlogged = self._find_unlogged(connection, unproven) if unproven else []
        if unproven:
            (row,) = run_prepared(connection, self.pipeline, REPORT, [self._full_reading])
        # A pooler in between reports a process id of its own, and changes the server's session at will.
        if int(row[1]) != self.pid or Conditions.from_row(row[2:5]) != conditions:
            return False
        self._record_all(row, conditions)
        self.always = dict.fromkeys((*self.relations.always, *unlogged))
        self._settled = {oid: count for oid, count in self.calls.items() if oid not in self.always}
        return True

    def _record_all(self, row: Sequence[Any], conditions: Conditions) -> None:
        _, _, _, _, _, xmax, rows, blocks, writes, calls = row
        self.epoch, self.xmax, self.rows, self.blocks = conditions.epoch, xmax, int(rows), int(blocks)
        self.allowed = _names_of(conditions)
        self.writes = dict(zip(self.relations.counted, parse_numbers(writes), strict=True))
        self.calls = dict(zip(self.relations.sequences, parse_numbers(calls), strict=True))

    def _find_unlogged(self, connection: BaseDatabaseWrapper, sequences: Sequence[int]) -> list[int]:
        """Return those of *sequences* whose next call may not be logged. Reading them counts as a call.

        One round trip for every 2,000 sequences, because each is locked to the end of its message. One more for those
        that were called: nextval() alone leaves a ``log_cnt`` other than 0, and sets ``is_called``; what takes that back
        sets both.
        """
        called = counters.CALLED_18 if server_version(connection) >= 18_00_00 else counters.CALLED
        found: list[int] = []
        for every in chunks(sequences, _SEQUENCES_A_MESSAGE):
            (rows,) = read_rows(connection, [called.format(oids=array(every))])
            part = [oid for (oid,) in rows]
            queries = [f"SELECT log_cnt FROM {quote(self.relations.sequences[oid])}" for oid in part]
            counts = scalars(connection, queries)
            found += [oid for oid, count in zip(part, counts, strict=True) if count]
        return found


def _differences(before: Mapping[int, int], oids: Iterable[int], now: Iterable[int]) -> dict[int, int]:
    return {oid: count - before[oid] for oid, count in zip(oids, now, strict=True) if count != before[oid]}


def _names_of(conditions: Conditions) -> list[str]:
    """Return the other sessions without their states."""
    return sorted(other.rpartition("/")[0] for other in conditions.others)


def _place(identity: DatabaseIdentity) -> tuple[str, int, str, str]:
    return identity.name, identity.oid, identity.system_identifier, identity.server_started


class UnfitError(Exception):
    """Something else was written, or may have been. Nothing was changed."""
