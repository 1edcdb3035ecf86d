"""The change tracker: finds what was written since the last reset, and runs the reset in the same round trips.

Changes are found in three ways, the cheapest first. The transaction that writes then checks, by the sums of the database,
that nothing else was written; if something was, it ends before it writes, and the next way follows.

- *Prediction*: the last two resets found the same tables and sequences, so the next one assumes them. Nothing is read
  first, so the whole reset is one round trip.
- *Candidates*: the counters of the tables and sequences that earlier resets found written (:class:`CounterHistory`). One
  round trip, and one to write. If nothing was written, the first is all.
- *Everything*: every counter. What has moved joins the candidates.

Sequences are set after the commit, by setval(). That costs a tenth of ALTER SEQUENCE and leaves the catalog alone, but a
rollback does not undo it. A sequence that is behind its table would make the next insert collide; one that is ahead does
not. If the server dies in between, the next reset remembers nothing, and sees that the sequence moved.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import ChangeTracker, DatabaseIdentity, DatabaseState, FoundChanges, Script
from testdb_app.backends.postgresql import catalog, counters
from testdb_app.backends.postgresql.connection import (
    NOT_PREPARED,
    Command,
    is_idle,
    pipeline_of,
    rolled_back_on_error,
    server_version,
)
from testdb_app.backends.postgresql.counters import (
    Conditions,
    CountedState,
    CounterReading,
    Relations,
    array,
    parse_numbers,
    read_counters,
)
from testdb_app.backends.postgresql.errors import explain, sqlstate
from testdb_app.backends.postgresql.introspection import parse_identity
from testdb_app.backends.postgresql.preconditions import Precondition
from testdb_app.backends.postgresql.queries import chunks, read_rows, rows_of, scalars, sum_changes
from testdb_app.backends.postgresql.session_reset import sessions_opened
from testdb_app.backends.postgresql.sql import milliseconds, quote
from testdb_app.baseline_state import RowChanges
from testdb_app.exceptions import ConnectionLostError
from testdb_app.schema import QualifiedName, Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("testdb_app")

_BYTES_A_ROW = 80
# If more rows were written, or fewer that are slow to delete, a full scan reads the sizes of the tables.
_MOST_ROWS = 5_000
_MOST_ROWS_UNINDEXED = 100
_MOST_SKIPPED = 3

_What = tuple[tuple[int, ...], tuple[int, ...]]
"""The OIDs of the tables and of the sequences that were written."""


class Source(Enum):
    """How changes were found: assumed to be the same as the last two times, by the candidates' counters, or by all counters."""

    PREDICTION = "prediction"
    CANDIDATES = "candidates"
    EVERYTHING = "everything"


class TrackerState(Enum):
    """Whether the remembered counters are those right after the last reset; if not, a full scan is needed."""

    KNOWN = "known"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedChanges(FoundChanges):
    """What the counters show, and from which source. ``what`` are the OIDs of the written tables and sequences."""

    written: Written
    what: _What = ((), ())
    source: Source


class Memory:
    """What the tracker remembers of one database: its identity, its counters and how to read them.

    ``last`` was written before the last reset. ``predicted`` is the same if that was so twice, and is assumed once more.
    """

    def __init__(self, identity: DatabaseIdentity, reader: CounterReader, history: CounterHistory) -> None:
        self.identity = identity
        self.reader = reader
        self.history = history
        self.last: _What | None = None
        self.predicted: _What | None = None


class PostgreSQLChangeTracker(ChangeTracker):
    """The change tracker of one database; see :class:`testdb_app.backends.base.ChangeTracker`. Not thread-safe."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._memory: Memory | None = None
        self._state = TrackerState.UNKNOWN
        self._skipped, self._to_skip = 0, 0

    def renew(self, connection: BaseDatabaseWrapper, observation: DatabaseState) -> None:
        """Remember the present state, unless somebody else may have written since *observation* began."""
        self._state = TrackerState.UNKNOWN
        if not isinstance(observation, CountedState) or not observation.conditions.are_trusted:
            return
        if self._skipped < self._to_skip:
            # The last attempts were of no use.
            self._skipped += 1
            return
        self._skipped, self._to_skip = 0, min(2 * self._to_skip + 1, _MOST_SKIPPED)
        self._remember(connection, observation.identity, observation.conditions)

    def find_changes(
        self, connection: BaseDatabaseWrapper, *, after: FoundChanges | None = None
    ) -> FoundChanges | None:
        """Find what was written. No round trip for a prediction, otherwise one, and some more on a new connection."""
        memory = self._memory
        if after is None:
            if self._state is TrackerState.UNKNOWN:
                return None
            # Known again only after this reset has succeeded.
            self._state = TrackerState.UNKNOWN
        if memory is None or memory.identity.configured != str(
            connection.settings_dict["NAME"] or memory.identity.name
        ):
            return None
        if after is None:
            return self._predict(connection, memory) or self._read_candidates(connection, memory)
        assert isinstance(after, CountedChanges)
        if after.source is Source.PREDICTION:
            return self._read_candidates(connection, memory)
        return self._read_everything(connection, memory) if after.source is Source.CANDIDATES else None

    def describe(self, found: FoundChanges) -> DatabaseState | None:
        """Return what was found as a state to plan from; None for a prediction."""
        assert isinstance(found, CountedChanges)
        assert self._memory is not None
        if found.source is Source.PREDICTION:
            return None
        relations, written = self._memory.history.relations, found.written
        return DatabaseState(
            identity=found.identity,
            token=self._schema.token,
            is_precise=True,
            sizes={
                relations.tables[oid]: rows * _BYTES_A_ROW
                for oid, rows in written.tables.items()
                if oid in relations.tables
            },
            states=dict.fromkeys(relations.sequences[oid] for oid in written.sequences),
        )

    def run(
        self, connection: BaseDatabaseWrapper, found: FoundChanges, script: Script, *, lock_timeout: float
    ) -> Mapping[QualifiedName, RowChanges] | None:
        """Run *script* if nothing but what was *found* was written. One round trip."""
        assert isinstance(found, CountedChanges)
        memory = self._memory
        assert memory is not None
        unseen_below = _MOST_ROWS_UNINDEXED if found.source is Source.PREDICTION else None
        try:
            outcome = run_script(
                connection, memory.reader, memory.history, script, found.written, lock_timeout, unseen_below
            )
        except UnfitError:
            return None
        except ConnectionLostError:
            if found.source is not Source.PREDICTION:
                raise
            # Nothing was read before, which would have found the connection lost.
            return None
        self._to_skip = 0
        what = found.what
        memory.predicted = what if what == memory.last and found.key is not None and script.is_plain else None
        memory.last = what
        if script.is_plain:
            self._state = TrackerState.KNOWN
            memory.history.record_reset(outcome, script.restarted)
        else:
            # The statements that switch triggers write to the catalogs, and so does TRUNCATE.
            self._remember(connection, memory.identity, memory.history.conditions)
        return outcome.changes

    def _remember(self, connection: BaseDatabaseWrapper, identity: DatabaseIdentity, conditions: Conditions) -> None:
        try:
            self._read_all(connection, identity, conditions)
        except (DatabaseError, InterfaceError) as error:
            # The reset itself is done, and the next one takes a full scan.
            logger.info("Connection %s: the counters could not be read: %s", connection.alias, error)

    def _read_all(self, connection: BaseDatabaseWrapper, identity: DatabaseIdentity, conditions: Conditions) -> None:
        """Remember every counter of the database of *identity*; forget another database, or another run of its server."""
        memory = self._memory
        if memory is not None and _place(identity) != _place(memory.identity):
            memory = self._memory = None
        reader = memory.reader if memory is not None else CounterReader(connection, self._schema, identity)
        reading, unlogged = reader.read_all(connection, memory.history if memory is not None else None)
        opened = sessions_opened(connection)
        if memory is None:
            history = CounterHistory(reader.relations, reading, unlogged, opened)
            self._memory = Memory(identity, reader, history)
        else:
            memory.identity = identity
            memory.history.record(reading, unlogged, opened)
        # A pooler in between reports a process id of its own, and changes the server's session at will.
        if reading.pid == reader.pid and reading.conditions == conditions:
            self._state = TrackerState.KNOWN

    def _predict(self, connection: BaseDatabaseWrapper, memory: Memory) -> CountedChanges | None:
        """Assume that what was written the last two times, and nothing else, was written again. Sends nothing."""
        predicted, memory.predicted = memory.predicted, None
        reader, history = memory.reader, memory.history
        if predicted is None or reader.may_miss or history.conditions.others:
            return None
        if not (reader.is_ready(connection) and is_idle(connection)):
            return None
        history.add_sessions(sessions_opened(connection))
        written = history.predict(*predicted)
        if written is None:
            return None
        key = (_place(memory.identity), predicted)
        return CountedChanges(
            identity=memory.identity, key=key, written=written, what=predicted, source=Source.PREDICTION
        )

    def _read_candidates(self, connection: BaseDatabaseWrapper, memory: Memory) -> CountedChanges | None:
        reading = self._read_again(connection, memory)
        if reading is None:
            return None
        if memory.history.is_quiet(reading):
            self._state = TrackerState.KNOWN
            return CountedChanges(identity=memory.identity, is_nothing=True, written=_NOTHING, source=Source.CANDIDATES)
        if memory.reader.may_miss:
            # Somebody has taken a transaction id, and the counters need not show what for.
            return None
        return _changes_of(memory, memory.history.compare(reading), Source.CANDIDATES)

    def _read_again(self, connection: BaseDatabaseWrapper, memory: Memory) -> CounterReading | None:
        """Read the counters, over the same connection or a new one; return None if they cannot be trusted."""
        reader, history = memory.reader, memory.history
        try:
            if not reader.is_ready(connection):
                # A new connection of this process is one session more, and may lead elsewhere.
                ((row,),) = read_rows(connection, [catalog.IDENTITY])
                identity = parse_identity(connection, row)
                if _place(identity) != _place(memory.identity):
                    return None
                memory.identity = identity
                reader.use(connection)
            elif not is_idle(connection):
                return None
            history.add_sessions(sessions_opened(connection))
            reading = reader.read(connection, None if history.wants_everything else history)
        except (DatabaseError, InterfaceError):
            # Whatever the error is, the full scan meets it too, and reports it.
            return None
        is_same = reading.pid == reader.pid and reading.conditions == history.conditions
        return reading if is_same and reading.catalogs in {None, history.catalogs} else None

    def _read_everything(self, connection: BaseDatabaseWrapper, memory: Memory) -> CountedChanges | None:
        """Read every counter. This session has reported all, and the counters are of one moment."""
        history = memory.history
        history.widen()
        reading = memory.reader.read(connection, None)
        if reading.conditions != history.conditions or reading.catalogs != history.catalogs:
            return None
        return _changes_of(memory, history.compare(reading, reading.sums), Source.EVERYTHING)


def _changes_of(memory: Memory, written: Written, source: Source) -> CountedChanges | None:
    """Return what was written; None if a full scan should read the sizes of the tables."""
    rows = max(written.tables.values(), default=0)
    unindexed = memory.history.relations.unindexed
    if rows > _MOST_ROWS or any(
        count > _MOST_ROWS_UNINDEXED for oid, count in written.tables.items() if oid in unindexed
    ):
        return None
    what = tuple(sorted(written.tables)), tuple(sorted(written.sequences))
    key = (_place(memory.identity), what) if rows <= _MOST_ROWS_UNINDEXED else None
    return CountedChanges(identity=memory.identity, key=key, written=written, what=what, source=source)


def _place(identity: DatabaseIdentity) -> tuple[str, int, str, str]:
    return identity.name, identity.oid, identity.system_identifier, identity.server_started


_SEQUENCES_A_MESSAGE = 2_000


class CounterReader:
    """Reads the counters over one connection at a time. One round trip a reading."""

    def __init__(self, connection: BaseDatabaseWrapper, schema: Schema, identity: DatabaseIdentity) -> None:
        relations, database = read_rows(connection, [counters.RELATIONS, counters.DATABASE])
        self.relations = Relations.from_rows(relations, schema)
        oid, prepared, self.may_miss = database[0]
        everything = counters.full_reading(oid, self.relations.counted, self.relations.sequences, prepared=prepared)
        self._full_reading = Command(everything, often=True)
        self._candidate_reading = counters.candidate_reading(oid, prepared=prepared)
        holds = Precondition.of(identity, owners=schema.trusted_owners).holds()
        self._check = counters.insist(oid, self.relations.sequences, prepared=prepared, holds=holds)
        self.pipeline = pipeline_of(connection)
        self._raw: weakref.ref[Any] = weakref.ref(connection.connection)
        self.pid: int = connection.connection.info.backend_pid

    def is_ready(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether *connection* is the one that was used last."""
        return self._raw() is connection.connection is not None

    def use(self, connection: BaseDatabaseWrapper) -> None:
        """Use *connection* from now on. Sends nothing."""
        raw = connection.connection
        self.pipeline = pipeline_of(connection)
        self._raw, self.pid = weakref.ref(raw), raw.info.backend_pid

    def check(self, arguments: Sequence[str | None]) -> Command:
        """Return the first query of the transaction that writes, see :func:`counters.insist`, with its arguments."""
        return Command(self._check, tuple(arguments), often=True)

    def read_all(
        self, connection: BaseDatabaseWrapper, history: CounterHistory | None
    ) -> tuple[CounterReading, list[int]]:
        """Read every counter, to be remembered, and find the sequences whose next call may take no transaction id.

        The session reports before, because the sums lack what it has not reported.
        """
        if not self.is_ready(connection):
            self.use(connection)
        reading = self.read(connection, None, flush=True)
        unproven = list(self.relations.sequences) if history is None else history.unproven(reading)
        if not unproven:
            return reading, []
        unlogged = self._find_unlogged(connection, unproven)
        return self.read(connection, None, flush=True), unlogged

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

    def read(
        self, connection: BaseDatabaseWrapper, candidates: CounterHistory | None, *, flush: bool = False
    ) -> CounterReading:
        """Read the counters of the *candidates*, or every counter."""
        tables: Collection[int] = self.relations.counted
        sequences: Collection[int] = self.relations.sequences
        reading = self._full_reading
        if candidates is not None:
            tables, sequences = candidates.tables, candidates.sequences
            reading = Command(self._candidate_reading, (array(tables), array(sequences)), often=True)
        return read_counters(connection, self.pipeline, reading, tables, sequences, flush=flush)


_MOST_CANDIDATES = 256
_MOST_SCANS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The writes since the last reset: how often, by OID; and the database's sums if that is all (None: unknown)."""

    tables: Mapping[int, int]
    sequences: Mapping[int, int]
    sums: tuple[int, int] | None

    def __bool__(self) -> bool:
        return bool(self.tables or self.sequences)


_NOTHING = Written(tables={}, sequences={}, sums=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A reset: what was ``written`` before it, what it did, and the ``sums`` and transaction id between the two."""

    written: Written
    sums: tuple[int, int]
    xmax: str
    changes: Mapping[QualifiedName, RowChanges]


class CounterHistory:
    """The counters that one change tracker remembers.

    The *candidates* are the tables, with their toast tables, and the sequences that were found written before. It is
    enough to read their counters as long as nothing else is written. After a reading that was not enough, the next
    readings are full ones, twice as many each time that it happens in a row.
    """

    def __init__(self, relations: Relations, reading: CounterReading, unlogged: Iterable[int], opened: int) -> None:
        """Begin with a full reading; see :meth:`record`."""
        self.relations = relations
        self.tables: dict[int, None] = {}
        self.sequences: dict[int, None] = {}
        self.always: dict[int, None] = {}
        self.conditions: Conditions = reading.conditions
        self.xmax = reading.xmax
        self.catalogs = reading.catalogs
        self._writes: dict[int, int] = {}
        self._calls: dict[int, int] = {}
        self._settled: dict[int, int] = {}
        self._sums: tuple[int, int] | None = None
        self._opened = opened
        self._scans_left, self._scans = 0, 1
        self.record(reading, unlogged, opened)

    def unproven(self, reading: CounterReading) -> list[int]:
        """Return the sequences of which a full reading does not show whether their next call takes a transaction id."""
        return [oid for oid, count in reading.calls.items() if self._settled.get(oid) != count]

    def record(self, reading: CounterReading, unlogged: Iterable[int], opened: int) -> None:
        """Remember a full reading. This session must have reported everything before it.

        *unlogged* are the sequences whose next call may take no transaction id; *opened* counts this process's sessions.
        """
        self._opened = opened
        self.always = dict.fromkeys((*self.relations.always, *unlogged))
        self.sequences = {**self.always, **self.sequences}
        self.conditions = reading.conditions
        self.xmax = reading.xmax
        self.catalogs = reading.catalogs
        self._writes = dict(reading.writes)
        self._calls = dict(reading.calls)
        self._settled = {oid: count for oid, count in self._calls.items() if oid not in self.always}
        self._sums = reading.sums

    def add_sessions(self, opened: int) -> None:
        """Expect as many more sessions as this process has *opened*, in all. The counters include what ended sessions did."""
        more, self._opened = opened - self._opened, opened
        self.conditions = self.conditions.with_more(more)
        if more:
            self._sums = None

    @property
    def wants_everything(self) -> bool:
        """Whether the next reading should be a full one."""
        # A connected session may report between the reading of the sums and that of the tables.
        return self._sums is None or self._scans_left > 0 or bool(self.conditions.others)

    def widen(self) -> None:
        """Have the next readings be full ones: something other than the candidates was written."""
        self._scans_left, self._scans = self._scans, min(2 * self._scans, _MOST_SCANS)

    def is_quiet(self, reading: CounterReading) -> bool:
        """Whether no transaction has taken an id since, and the sequences that can do without an id have not moved."""
        if reading.xmax != self.xmax:
            return False
        return all(self._calls[oid] == count for oid, count in reading.calls.items() if oid in self.always)

    def compare(self, reading: CounterReading, sums: tuple[int, int] | None = None) -> Written:
        """Return the writes that the reading *reading* shows; *sums* are those of the same moment, if they are known."""
        tables, sequences = _changes(self._writes, reading.writes), _changes(self._calls, reading.calls)
        if sums is None and reading.catalogs is None and self._sums is not None:
            sums = (self._sums[0] + sum(tables.values()), self._sums[1] + sum(sequences.values()))
        return Written(tables=tables, sequences=sequences, sums=sums)

    def remembered(self, tables: Iterable[int], sequences: Iterable[int]) -> tuple[list[int], list[int]]:
        """Return the remembered counts of tables and sequences."""
        return [self._writes[oid] for oid in tables], [self._calls[oid] for oid in sequences]

    def predict(self, tables: Iterable[int], sequences: Iterable[int]) -> Written | None:
        """Return that these, and nothing else, were written, at least once each; None if a reading has to come first."""
        if self.wants_everything or self._sums is None:
            return None
        return Written(tables=dict.fromkeys(tables, 0), sequences=dict.fromkeys(sequences, 0), sums=self._sums)

    def record_reset(self, outcome: Outcome, restarted: Sequence[QualifiedName]) -> None:
        """Remember what was written, and what the reset itself then did: its changes and the *restarted* sequences.

        The reset's own writes are counted at their minimum: a row once, a call of a sequence as one block. If there were
        more, the next reading would find too much, and never too little.
        """
        written, sums, changes = outcome.written, outcome.sums, outcome.changes
        self.xmax = outcome.xmax
        own_rows = own_calls = 0
        for oid, count in written.tables.items():
            done = changes.get(self.relations.tables[oid]) if oid in self.relations.tables else None
            own = done.removed + done.updated + done.inserted if done is not None else 0
            own_rows += own
            self._writes[oid] += count + own
            self._candidates_of(oid)
        set_back = set(restarted)
        for oid, count in written.sequences.items():
            own = int(self.relations.sequences[oid] in set_back)
            own_calls += own
            self._calls[oid] += count + own
            if not own:
                self.always[oid] = None
            elif oid not in self.relations.always:
                self.always.pop(oid, None)
            self.sequences.pop(oid, None)
            self.sequences[oid] = None
        self._sums = (sums[0] + own_rows, sums[1] + own_calls)
        if self._scans_left:
            self._scans_left -= 1
        else:
            self._scans = 1
        self._forget_oldest()

    def _candidates_of(self, oid: int) -> None:
        toast = self.relations.toasts.get(oid)
        for each in (oid,) if toast is None else (oid, toast):
            self.tables.pop(each, None)
            self.tables[each] = None

    def _forget_oldest(self) -> None:
        while len(self.tables) > _MOST_CANDIDATES:
            del self.tables[next(iter(self.tables))]
        if len(self.sequences) > _MOST_CANDIDATES + len(self.always):
            kept = [oid for oid in self.sequences if oid not in self.always][-_MOST_CANDIDATES:]
            self.sequences = dict.fromkeys([*self.always, *kept])


def _changes(before: Mapping[int, int], after: Mapping[int, int]) -> dict[int, int]:
    return {oid: count - before[oid] for oid, count in after.items() if count != before[oid]}


_UNFIT = "22012"
"""The SQLSTATE of the division by zero in :func:`counters.insist`."""
_BEGIN = Command("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
_ANY_NUMBER = 2**62


class UnfitError(Exception):
    """The counters are not as expected. Nothing was written."""


def run_script(
    connection: BaseDatabaseWrapper,
    reader: CounterReader,
    history: CounterHistory,
    script: Script,
    written: Written,
    lock_timeout: float,
    unseen_below: int | None,
) -> Outcome:
    """Run *script*, which was made for what was *written*. One round trip.

    With *unseen_below* no counters were read before. Then the session reports first, nobody else may be connected, and
    each table must have been written, by fewer rows than that. Nothing is locked in advance, because no other session is
    there. Raises :class:`UnfitError` if the counters do not fit, and the package's errors. Nothing was written then.
    """
    was_read = unseen_below is None
    statements = [statement for statement in script.statements if was_read or not statement.is_lock]
    check = reader.check(_arguments(reader, history, written, lock_timeout, unseen_below))
    batch = [_BEGIN, check, *(Command(statement.sql) for statement in statements)]
    try:
        with rolled_back_on_error(connection):
            run = reader.pipeline.run
            results = run(connection, batch) if was_read else run(connection, counters.REPORT, batch)[1:]
    except (DatabaseError, InterfaceError) as error:
        if sqlstate(error) in {_UNFIT, NOT_PREPARED}:
            raise UnfitError from error
        raise explain(connection, error, script) from error
    *_, writes, calls, rows, blocks, _ = rows_of(results[1])[0]
    return Outcome(
        written=_found(history, written, parse_numbers(writes or "{}"), parse_numbers(calls or "{}")),
        sums=(int(rows), int(blocks)),
        xmax=rows_of(results[-1])[0][-1],
        changes=sum_changes(statements, results[2:]),
    )


def _arguments(
    reader: CounterReader, history: CounterHistory, written: Written, lock_timeout: float, unseen_below: int | None
) -> list[str | None]:
    tables, sequences = history.remembered(written.tables, written.sequences)
    sums: list[str | None] = [None, None]
    if written.sums is not None:
        counts = sum(written.tables.values()), sum(written.sequences.values())
        sums = [str(total - count) for total, count in zip(written.sums, counts, strict=True)]
    return [
        f"{milliseconds(lock_timeout)}ms",
        str(reader.pid),
        history.conditions.epoch,
        str(history.conditions.sessions),
        None if unseen_below is None else "1",
        array(written.tables),
        array(tables),
        array(written.sequences),
        array(sequences),
        *sums,
        str(_ANY_NUMBER if unseen_below is None else unseen_below),
    ]


def _found(history: CounterHistory, written: Written, writes: Sequence[int], calls: Sequence[int]) -> Written:
    tables, sequences = history.remembered(written.tables, written.sequences)
    return Written(
        tables={oid: now - was for oid, now, was in zip(written.tables, writes, tables, strict=True)},
        sequences={oid: now - was for oid, now, was in zip(written.sequences, calls, sequences, strict=True)},
        sums=None,
    )
