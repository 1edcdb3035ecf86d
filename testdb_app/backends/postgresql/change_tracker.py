"""The change tracker: finds what was written since the last reset, and runs the reset in the same round trips.

There is one way. A set of tables and sequences is chosen, and the transaction that resets them first proves, by the sums
of the database, that nothing outside of the set was written. If something was, it ends before it writes, and a larger
set follows:

1. what the statements of this process name, with what was written beside that last time. Nothing is read first, so the whole
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
from collections import Counter
from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
    run_sql,
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
from testdb_app.backends.postgresql.operations import FORGET_SEQUENCES, SET_SEQUENCES
from testdb_app.backends.postgresql.preconditions import Precondition
from testdb_app.backends.postgresql.queries import chunks, read_rows, rows_of, scalars, sum_changes
from testdb_app.backends.postgresql.sql import milliseconds, quote
from testdb_app.baseline_state import RowChanges
from testdb_app.exceptions import ConnectionLostError
from testdb_app.schema import QualifiedName, Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.backends.postgresql.sent_statements import WrittenName

logger = logging.getLogger("testdb_app")

_BYTES_A_ROW = 80
# If more rows were written, or fewer that are slow to delete, a full scan reads the sizes of the tables.
_MOST_ROWS = 5_000
_MOST_ROWS_UNINDEXED = 100
_MOST_CANDIDATES = 256
_MOST_SKIPPED = 31
_SEQUENCES_A_MESSAGE = 2_000
_UNFIT = "22012"
"""The SQLSTATE of the division by zero in :func:`counters.write_proof`."""
_BEGIN = Command("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", often=True)
_COMMIT = Command("COMMIT", often=True)
_FORGET_SEQUENCES = Command(FORGET_SEQUENCES, often=True)
_MAY_HIDE = Command(counters.MAY_HIDE, often=True)
_ANY_NUMBER = 2**62
_MOST_BATCHES = 256
_MANY_DEAD_ROWS = 500
_EXPECTED_VACUUM = 0.002
_PAUSES = (0.0005, 0.001, 0.002)
_MANY_TABLES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedChanges(FoundChanges):
    """A set to reset: how often each of its tables and sequences was written, by OID; 0 each if that is a guess.

    ``named`` are those that statements of this process name.
    """

    tables: Mapping[int, int]
    sequences: Mapping[int, int]
    is_guess: bool = False
    named: frozenset[int] = frozenset()


class PostgreSQLChangeTracker(ChangeTracker):
    """The change tracker of one database; see :class:`testdb_app.backends.base.ChangeTracker`. Not thread-safe."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._memory: Memory | None = None
        # Whether the remembered counters are those right after the last reset; if not, a full scan is needed.
        self._is_known = False
        self._skipped, self._to_skip = 0, 0
        self._vacuum = _Vacuum(schema)
        self._others: tuple[str, ...] = ()
        observe_from_now_on()

    def renew(self, connection: BaseDatabaseWrapper, observation: DatabaseState) -> None:
        """Remember the present state, unless somebody else may have written since *observation* began."""
        self._is_known = False
        session = observe(connection)
        take_written(session)
        if not isinstance(observation, CountedState) or not observation.conditions.are_trusted:
            return
        before, self._others = self._others, observation.conditions.others
        if self._skipped < self._to_skip and before != self._others:
            # The last attempts were of no use, and another session has run something again.
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
        guess = memory.guess(take_written(session))
        with reported(session) as memory.held:
            if not (guess.named or memory.reads_first) and memory.glance(connection):
                self._is_known = True
                yield memory.make_changes({}, guess.named)
                return
            if memory.may_miss:
                # Somebody may have taken a transaction id, and the counters need not show what for.
                return
            if guess.named:
                yield guess
            for every in (False, True) if len(memory.writes) > _MOST_CANDIDATES else (True,):
                if connection.connection is None:
                    return
                moved = memory.read(connection, every=every)
                if moved is not None:
                    self._is_known = not moved
                    yield memory.make_changes(moved, guess.named)

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
        started = time.perf_counter()
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
        self._vacuum.note(connection, done.changes, seconds=time.perf_counter() - started)
        return done

    def _remember(self, connection: BaseDatabaseWrapper, identity: DatabaseIdentity, conditions: Conditions) -> None:
        """Remember every counter of the database of *identity*; forget another database, or another run of its server."""
        memory = self._memory
        if memory is None or _place(identity) != _place(memory.identity):
            memory = self._memory = Memory(connection, self._schema, identity)
        if memory.identity != identity:
            memory.identity = identity
            memory.guesses.clear()
        memory.use(connection)
        self._is_known = memory.read_all(connection, conditions)


class Memory:
    """What the tracker remembers of one database: its identity, its counters, and how to read them.

    - ``writes``, ``calls``: the counts of tables and sequences, by OID; ``rows``, ``blocks``: the sums of the database.
    - ``sessions``: how many sessions there have been when the others were listed.
    - ``allowed``: the other sessions, as they were when they had written nothing unseen. ``held``: the process ids of those
      that have reported and that nobody can use meanwhile.
    - ``guesses``: the sets by the names in statements.
    - ``always``: the sequences whose next call may take no transaction id.
    - ``candidates``: the tables and sequences that were written lately, the last ones at the end.
    - ``reads_first``: the last time something was written that no statement of this process named. If they name nothing again,
      the counters are read at once.
    """

    def __init__(self, connection: BaseDatabaseWrapper, schema: Schema, identity: DatabaseIdentity) -> None:
        relations, database = read_rows(connection, [counters.RELATIONS, counters.DATABASE])
        oid, prepared = database[0]
        self.identity = identity
        self.relations = Relations.from_rows(relations, schema)
        sequences = self.relations.sequences
        holds = Precondition.of(identity).holds()
        # By whether this session must be alone.
        self._proof, self._glance = (
            [write(alone=alone) for alone in (False, True)]
            for write in (
                partial(counters.write_proof, oid, sequences, prepared=prepared, holds=holds),
                partial(counters.write_glance, oid, prepared=prepared),
            )
        )
        self._reading = counters.write_reading(oid, sequences, prepared=prepared)
        everything = counters.write_full_reading(oid, self.relations.counted, sequences, prepared=prepared)
        self._full_reading = Command(everything, often=True)
        self.epoch = self.xmax = ""
        self.may_miss = False
        self.allowed: Sequence[str] = ()
        self.held: Sequence[int] = ()
        self.writes: dict[int, int] = {}
        self.calls: dict[int, int] = {}
        self.rows = self.blocks = 0
        self.sessions: int | None = None
        self.always: dict[int, None] = {}
        self.candidates: dict[int, None] = {}
        self.reads_first = False
        self._settled: dict[int, int] = {}
        self._toasts = frozenset(self.relations.toasts.values())
        self._beside: dict[int, frozenset[int]] = {}
        self._moved: frozenset[int] = frozenset()
        self.guesses: dict[frozenset[WrittenName], CountedChanges] = {}
        self._batches: dict[Hashable, _Batch] = {}
        self._pauses: tuple[float, ...] = _PAUSES
        self.use(connection)

    def use(self, connection: BaseDatabaseWrapper) -> None:
        """Use *connection*, which is open, from now on. Sends nothing."""
        self.pipeline = pipeline_of(connection)
        self.pid: int = connection.connection.pgconn.backend_pid

    # Read what was written -------------------------------------------------------------------------------------------

    def glance(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether no transaction has taken an id since, and the sequences that can do without an id have not moved.

        Raises :class:`UnfitError` if that cannot be told.
        """
        always, others = list(self.always), len(self.allowed)
        known = (array(self.held), array(self.allowed))
        messages = [[[Command(self._glance[False], (array(always), *known), often=True)]]]
        if not (self.held or self.allowed):
            messages.insert(0, [[Command(self._glance[True], (array(always),), often=True)]])
        xmax, _, calls, _, _, sessions = self._read(connection, *messages)
        # One that has come or gone may have taken its id before the last reset's own, and ended after: this moves no next id.
        is_same = (xmax, sessions, len(self.allowed)) == (self.xmax, self.sessions, others)
        return is_same and parse_numbers(calls) == [self.calls[oid] for oid in always]

    def read(self, connection: BaseDatabaseWrapper, *, every: bool) -> dict[int, int] | None:
        """Return how often the tables and sequences were written that have moved; None if others were written, too.

        The others are those that are no candidates, unless *every* one is read. Raises :class:`UnfitError` if a full scan
        is needed.
        """
        relations = self.relations
        tables = list(relations.counted) if every else [oid for oid in self.candidates if oid in self.writes]
        sequences = list(relations.sequences) if every else [oid for oid in self.candidates if oid in self.calls]
        reading = Command(
            self._reading, (array(tables), array(sequences), array(self.held), array(self.allowed)), often=True
        )
        xmax, writes, calls, rows, blocks, sessions = self._read(connection, [REPORT, [reading]])
        written = _differences(self.writes, tables, parse_numbers(writes))
        called = _differences(self.calls, sequences, parse_numbers(calls))
        others = int(rows) - self.rows - sum(written.values()), int(blocks) - self.blocks - sum(called.values())
        if others != (0, 0):
            if every:
                raise UnfitError
            return None
        if any(count > self._most_rows(oid) for oid, count in written.items()):
            raise UnfitError
        moved = written | called
        if not moved:
            self.xmax, self.sessions, self.reads_first = xmax, sessions, False
        return moved

    def _read(
        self, connection: BaseDatabaseWrapper, *messages: Sequence[Sequence[Command]]
    ) -> tuple[Any, Any, Any, Any, Any, int]:
        """Return the next id, the counts, the sums and the number of sessions of a reading, if nobody may have written unseen.

        The next message is sent if the one before has found other sessions. One that is just ending is waited for, in a
        large schema, where a full scan takes longer.
        """
        for pause, message in (*((0.0, each) for each in messages), *((each, messages[-1]) for each in self._pauses)):
            if pause:
                time.sleep(pause)
            (row,) = rows_of(run_prepared(connection, self.pipeline, *message)[-1])
            _, pid, epoch, xmax, writes, calls, rows, blocks, others, strangers, sessions = row
            if strangers == "0":
                break
        if (int(pid), epoch, strangers) != (self.pid, self.epoch, "0"):
            # Next time as well it would be in vain.
            self._pauses = ()
            raise UnfitError
        self._pauses = _PAUSES if len(self.writes) > _MANY_TABLES else ()
        self.allowed = _listed(others)
        return xmax, writes, calls, rows, blocks, int(sessions)

    def _most_rows(self, oid: int) -> int:
        return _MOST_ROWS_UNINDEXED if oid in self.relations.unindexed else _MOST_ROWS

    # Choose the set ----------------------------------------------------------------------------------------------------

    def guess(self, names: Iterable[WrittenName]) -> CountedChanges:
        """Return the set that statements with these *names* may have written, and what was written beside it the last time."""
        key = frozenset(names)
        found = self.guesses.get(key)
        if found is None:
            named = self.relations.may_be_written(key)
            guessed = named.union(*(self._beside.get(oid, ()) for oid in named))
            found = self.make_changes(dict.fromkeys(guessed, 0), frozenset(named), is_guess=True)
            if len(self.guesses) >= _MOST_BATCHES:
                self.guesses.clear()
            self.guesses[key] = found
        return found

    def make_changes(
        self, moved: Mapping[int, int], named: frozenset[int], *, is_guess: bool = False
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
            is_nothing=not moved,
            key=(_place(self.identity), what) if is_small else None,
            tables=tables,
            sequences=sequences,
            is_guess=is_guess,
            named=named,
        )

    # Reset ---------------------------------------------------------------------------------------------------------------

    def run(
        self, connection: BaseDatabaseWrapper, found: CountedChanges, script: Script, lock_timeout: float
    ) -> tuple[Done, bool]:
        """Run *script*, which was made for what was *found*. One round trip. Return what it did, and whether all is known.

        Nothing is locked in advance where no other session is connected. Raises :class:`UnfitError` if something else was
        written, and the package's errors. Nothing was written then.
        """
        if self.held and not self.relations.cached.isdisjoint(found.sequences):
            # Only ALTER SEQUENCE voids the values that another session keeps.
            raise UnfitError
        is_alone = not (self.allowed or self.held)
        batch = self._batch_for(found, script, is_alone=is_alone)
        # After a reading others may be here that write nothing, such as an autovacuum worker.
        must_be_alone = is_alone and found.is_guess
        written = [self.writes[oid] for oid in batch.tables]
        proof = Command(
            self._proof[must_be_alone],
            (
                f"{milliseconds(lock_timeout)}ms",
                str(self.pid),
                self.epoch,
                batch.tables_text,
                array(written),
                batch.sequences_text,
                str(self.rows - sum(written)),
                str(self.blocks - sum([self.calls[oid] for oid in batch.sequences])),
                batch.most,
                *(() if must_be_alone else (array(self.held), array(self.allowed))),
            ),
            often=True,
        )
        batches: list[Sequence[Command]] = [[_BEGIN, proof, *batch.commands]]
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
        self.xmax = rows_of(results[len(batch.commands)])[0][-1]
        changes = sum_changes(batch.statements, results[2 : 2 + len(batch.statements)])
        done = self._record(found, batch, rows_of(results[1])[0], changes)
        if script.is_plain:
            return done, True
        # The statements that switch triggers write to the catalogs, and so does TRUNCATE.
        (row,) = rows_of(results[-1])
        conditions = Conditions.from_row(row[2:5])
        is_known = (
            conditions.are_trusted
            and conditions.sessions == self.sessions
            and _names_of(conditions) == sorted(self.allowed)
        )
        if is_known:
            self._record_all(row, conditions)
        return done, is_known

    def _batch_for(self, found: CountedChanges, script: Script, *, is_alone: bool) -> _Batch:
        """Return what is sent for *script* besides the proof; it is kept, because the same tables are often written."""
        key = (found.key, found.is_guess, is_alone)
        batch = self._batches.get(key)
        if batch is None or batch.script is not script:
            most = min(map(self._most_rows, found.tables), default=0) if found.is_guess else _ANY_NUMBER
            batch = _Batch(found, script, self.relations, most, is_alone=is_alone)
            if len(self._batches) >= _MOST_BATCHES:
                self._batches.clear()
            self._batches[key] = batch
        return batch

    def _record(
        self,
        found: CountedChanges,
        batch: _Batch,
        proof: Sequence[Any],
        changes: Mapping[QualifiedName, RowChanges],
    ) -> Done:
        """Remember what was written, by the row of the *proof*, and the *changes* that the reset itself made. Return what it did.

        Its own writes are counted at their minimum: a row once, a call of a sequence as one block. If there were more,
        the next reading finds too much, and never too little.
        """
        _, _, writes, calls, _, _, others, sessions, _ = proof
        rows, blocks, moved = int(proof[4]), int(proof[5]), set()
        for oid, name, count in zip(batch.tables, batch.names, parse_numbers(writes), strict=True):
            if self.writes[oid] != count:
                moved.add(oid)
            own = None if name is None else changes.get(name)
            by_reset = 0 if own is None else own.removed + own.updated + own.inserted
            self.writes[oid] = count + by_reset
            rows += by_reset
        for oid, count in zip(batch.sequences, parse_numbers(calls), strict=True):
            if self.calls[oid] != count:
                moved.add(oid)
            is_set = oid in batch.restarts
            self.calls[oid] = count + is_set
            blocks += is_set
            if not is_set and oid in moved:
                self.always[oid] = None
            elif is_set and oid in self.always and oid not in self.relations.always:
                del self.always[oid]
        self.rows, self.blocks, self.sessions, self.allowed = rows, blocks, int(sessions), _listed(others)
        self._learn(found, frozenset(moved))
        return Done(changes=changes, restarted=tuple([batch.restarts[oid] for oid in batch.restarts if oid in moved]))

    def _learn(self, found: CountedChanges, moved: frozenset[int]) -> None:
        """Remember what was written beside what the statements name, and the candidates of later readings."""
        unnamed = moved - found.named - self._toasts
        for oid in found.named:
            if self._beside.get(oid, frozenset()) != unnamed:
                self._beside[oid] = unnamed
                self.guesses.clear()
        self.reads_first = bool(unnamed)
        if moved == self._moved:
            return
        self._moved = moved
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
        full_reading = REPORT, [self._full_reading]
        results = run_prepared(connection, self.pipeline, [_MAY_HIDE], *full_reading)
        ((may_hide,),), (row,) = rows_of(results[0]), rows_of(results[-1])
        calls = dict(zip(self.relations.sequences, parse_numbers(row[-1]), strict=True))
        unproven = [oid for oid, count in calls.items() if self._settled.get(oid) != count]
        unlogged = self._find_unlogged(connection, unproven) if unproven else []
        if unproven:
            (row,) = rows_of(run_prepared(connection, self.pipeline, *full_reading)[-1])
        # A pooler in between reports a process id of its own, and changes the server's session at will.
        if int(row[1]) != self.pid or Conditions.from_row(row[2:5]) != conditions:
            return False
        self._record_all(row, conditions)
        # A session that was opened under such a setting goes on without counting when the setting is gone.
        self.may_miss = may_hide != "f" or (self.may_miss and bool(conditions.others))
        self.always = dict.fromkeys((*self.relations.always, *unlogged))
        self._settled = {oid: count for oid, count in self.calls.items() if oid not in self.always}
        return True

    def _record_all(self, row: Sequence[Any], conditions: Conditions) -> None:
        _, _, _, _, _, xmax, rows, blocks, writes, calls = row
        self.epoch, self.xmax, self.rows, self.blocks = conditions.epoch, xmax, int(rows), int(blocks)
        self.sessions = conditions.sessions
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


class _Vacuum:
    """Vacuums the tables that resets have left many dead rows in, in at most a hundredth of the time of the resets.

    Autovacuum comes once a minute, too late for tests: after some thousand resets of the same tables each costs twice as much.
    """

    def __init__(self, schema: Schema) -> None:
        self._owned = frozenset(table.name for table in schema.tables if table.owned)
        self._dead: Counter[QualifiedName] = Counter()
        self._budget, self._cost = 0.0, _EXPECTED_VACUUM

    def note(
        self, connection: BaseDatabaseWrapper, changes: Mapping[QualifiedName, RowChanges], *, seconds: float
    ) -> None:
        """Count what a reset has done in so many *seconds*, and vacuum if it is time. One round trip then, otherwise none."""
        self._budget += seconds / 100
        for name, done in changes.items():
            self._dead[name] += done.removed + done.updated
        if self._budget < self._cost:
            return
        due = sorted(name for name, rows in self._dead.items() if rows >= _MANY_DEAD_ROWS and name in self._owned)
        if not due:
            return
        started = time.perf_counter()
        try:
            run_sql(connection, f"VACUUM (SKIP_LOCKED, TRUNCATE false) {', '.join(map(quote, due))}")
        except (DatabaseError, InterfaceError) as error:
            # The reset is done, and the next statement meets whatever the error is.
            logger.info("Connection %s: no VACUUM: %s", connection.alias, error)
        self._cost = time.perf_counter() - started
        self._budget -= self._cost
        for name in due:
            del self._dead[name]


class _Batch:
    """The commands that follow the proof, and the parts of its arguments that stay the same; see :meth:`Memory.run`."""

    def __init__(
        self, found: CountedChanges, script: Script, relations: Relations, most: int, *, is_alone: bool
    ) -> None:
        self.script = script
        self.statements = [each for each in script.statements if not (is_alone and each.is_lock)]
        self.tables, self.sequences = tuple(found.tables), tuple(found.sequences)
        # None for a toast table: the reset counts the rows of its table.
        self.names = tuple([relations.tables.get(oid) for oid in self.tables])
        self.tables_text, self.sequences_text, self.most = array(self.tables), array(self.sequences), str(most)
        self.restarts = {
            oid: relations.sequences[oid] for oid in self.sequences if relations.sequences[oid] in script.restarted
        }
        states = [script.restarted[name] for name in self.restarts.values()]
        targets = (
            array(self.restarts),
            array(state.last_value for state in states),
            array("t" if state.is_called else "f" for state in states),
        )
        self.commands = (
            *(Command(each.sql) for each in self.statements),
            _COMMIT,
            Command(SET_SEQUENCES, targets, often=True),
            _FORGET_SEQUENCES,
        )


def _differences(before: Mapping[int, int], oids: Iterable[int], now: Iterable[int]) -> dict[int, int]:
    return {oid: count - before[oid] for oid, count in zip(oids, now, strict=True) if count != before[oid]}


def _listed(others: str) -> Sequence[str]:
    return others.split(",") if others else ()


def _names_of(conditions: Conditions) -> list[str]:
    """Return the other sessions without their states."""
    return sorted(other.rpartition("/")[0] for other in conditions.others)


def _place(identity: DatabaseIdentity) -> tuple[str, int, str, str]:
    return identity.name, identity.oid, identity.system_identifier, identity.server_started


class UnfitError(Exception):
    """Something else was written, or may have been. Nothing was changed."""
