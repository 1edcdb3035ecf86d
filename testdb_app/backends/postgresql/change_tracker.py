"""The change tracker: finds what was written since the last reset, and runs the reset in the same round trips.

A reset is two round trips. The first reads the counters of the candidates (:class:`CounterHistory`), the tables and
sequences that earlier resets found written. The second writes. Its transaction first checks, by the sums of the database,
that nothing else was written. Two cases differ:

- If nothing was written, the first round trip is all.
- If something else was written, the transaction ends before it writes. Then every counter is read, and what has moved
  joins the candidates.

After two resets of the same tables and sequences the next one does not read first. It assumes that just these were
written again, and the check in the transaction proves it: one round trip.

Sequences are set after the commit, by setval(). That costs a tenth of ALTER SEQUENCE and leaves the catalog alone, but a
rollback does not undo it. A sequence that is behind its table would make the next insert collide; one that is ahead does
not. If the server dies in between, the next reset remembers nothing, and sees that the sequence moved.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import DatabaseIdentity, DatabaseState, Replay, Script
from testdb_app.backends.postgresql import catalog, counters
from testdb_app.backends.postgresql.connection import (
    Command,
    Pipeline,
    Result,
    is_idle,
    rolled_back_on_error,
    run_sql,
    server_version,
)
from testdb_app.backends.postgresql.counters import (
    Conditions,
    CounterReading,
    Relations,
    are_trusted,
    parse_numbers,
    parse_reading,
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
_MOST_SCRIPTS = 128

_What = tuple[tuple[int, ...], tuple[int, ...]]
"""The OIDs of the tables and of the sequences that were written."""


class PostgreSQLChangeTracker:
    """The change tracker of one database; see :class:`testdb_app.backends.base.ChangeTracker`. Not thread-safe."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._asker: Asker | None = None
        self._identity: DatabaseIdentity
        self._memory: CounterHistory | None = None
        self._is_trusted = False
        self._skipped, self._to_skip = 0, 0
        self._scripts: dict[_What, Script] = {}
        self._last: _What | None = None
        self._expected: _What | None = None

    def renew(self, connection: BaseDatabaseWrapper, observation: DatabaseState) -> None:
        """Remember the present state, unless somebody else may have written since *observation* began."""
        conditions: Conditions = observation.conditions  # type: ignore[assignment]
        self._is_trusted = False
        if not are_trusted(conditions):
            return
        if self._skipped < self._to_skip:
            # The last attempts were of no use.
            self._skipped += 1
            return
        self._skipped, self._to_skip = 0, min(2 * self._to_skip + 1, _MOST_SKIPPED)
        self._become(observation.identity)
        self._renew(connection, conditions)

    def _become(self, identity: DatabaseIdentity) -> None:
        """Continue with the database of *identity*; forget another database, or another run of its server."""
        if self._asker is not None and _place(identity) != _place(self._identity):
            self._asker = self._memory = None
            self._scripts.clear()
            self._last = self._expected = None
        self._identity = identity

    def _renew(self, connection: BaseDatabaseWrapper, conditions: Conditions) -> None:
        try:
            self._take(connection, conditions)
        except (DatabaseError, InterfaceError) as error:
            # The reset itself is done, and the next one takes a full scan.
            self._is_trusted = False
            logger.info("Connection %s: the counters could not be read: %s", connection.alias, error)

    def _take(self, connection: BaseDatabaseWrapper, conditions: Conditions) -> None:
        # The sums lack what this session has not reported yet.
        run_sql(connection, counters.FORCE_FLUSH)
        if self._asker is None:
            self._asker = Asker(connection, self._schema, self._identity)
        if not self._asker.is_ready(connection):
            self._asker.turn_to(connection)
        memory = self._memory or CounterHistory(self._asker.relations)
        seen, unlogged = self._asker.see_all(connection, memory, conditions)
        # A pooler in between reports a process id of its own, and changes the server's session at will.
        self._is_trusted = seen.pid == self._asker.pid and seen.conditions == conditions
        memory.take(seen, unlogged, sessions_opened(connection))
        self._memory = memory

    def replay(
        self,
        connection: BaseDatabaseWrapper,
        *,
        permit: Callable[[DatabaseIdentity], str],
        write: Callable[[DatabaseState], Script | None],
        lock_timeout: float,
    ) -> Replay | None:
        """Find what was written, and run the script that *write* makes of it; return None where a full scan is needed.

        One round trip if nothing was written, or the same tables as the last two times; otherwise two. Some more if a
        table was written for the first time.
        """
        memory, asker = self._memory, self._asker
        if memory is None or asker is None or not self._is_trusted:
            return None
        identity = self._identity
        # Trusted again only after this reset has succeeded.
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
                # The connection is new, and its identity was read again.
                identity = self._identity
                rule = permit(identity)
            if memory.is_quiet(seen):
                self._is_trusted = True
                return Replay(identity=identity, permitted_by=rule)
            if not asker.may_miss:
                # Otherwise somebody has taken a transaction id, and the counters need not show what for.
                run = self._reset_what_was_seen(connection, memory, asker, seen, write, lock_timeout)
        if run is None:
            return None
        self._to_skip = 0
        return Replay(identity=identity, permitted_by=rule, script=run[0], changes=run[1])

    def _look_again(
        self, connection: BaseDatabaseWrapper, memory: CounterHistory, asker: Asker
    ) -> CounterReading | None:
        """Read the counters, over the same connection or a new one; return None if they cannot be trusted."""
        try:
            if not asker.is_ready(connection):
                # A new connection of this process is one session more, and may lead elsewhere.
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
            # Whatever the error is, the full scan meets it too, and reports it.
            return None
        is_same = seen.pid == asker.pid and seen.conditions == memory.conditions
        return seen if is_same and seen.catalogs in {"", memory.catalogs} else None

    def _observe(self, relations: Relations, written: Written) -> DatabaseState:
        return DatabaseState(
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
        self, relations: Relations, written: Written, write: Callable[[DatabaseState], Script | None]
    ) -> Script | None:
        """Have a script written, or reuse the one for the same tables and sequences."""
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
        memory: CounterHistory,
        asker: Asker,
        seen: CounterReading,
        write: Callable[[DatabaseState], Script | None],
        lock_timeout: float,
    ) -> tuple[Script, Changes] | None:
        try:
            return self._reset(connection, memory, asker, memory.compare(seen), write, lock_timeout)
        except UnfitError:
            memory.miss()
        # Every counter. This session has reported all, and the counters are of one moment.
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
        memory: CounterHistory,
        asker: Asker,
        written: Written,
        write: Callable[[DatabaseState], Script | None],
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
        self, connection: BaseDatabaseWrapper, memory: CounterHistory, asker: Asker, lock_timeout: float
    ) -> tuple[Script, Changes] | None:
        """Reset what the last two resets did, without reading first, if just that was written again; otherwise return None."""
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


NOT_PREPARED = "26000"
"""The SQLSTATE of the execution of a statement that is not prepared."""
_OTHERS = Command(counters.OTHERS, often=True)
# The pipeline of each of the driver's connections, whichever reader uses it.
_PIPELINES: weakref.WeakKeyDictionary[Any, Pipeline] = weakref.WeakKeyDictionary()
# The column of a reading that holds the number of connected sessions, this one included.
_SESSIONS_NOW = 4
_SEQUENCES_A_MESSAGE = 2_000


class Asker:
    """Reads the counters over one connection at a time. One round trip a reading."""

    def __init__(self, connection: BaseDatabaseWrapper, schema: Schema, identity: DatabaseIdentity) -> None:
        relations, database = read_rows(connection, [counters.RELATIONS, counters.DATABASE])
        self.relations = Relations.from_rows(relations, schema)
        oid, prepared, self.may_miss = database[0]
        everything = counters.full_reading(oid, self.relations.counted, self.relations.sequences, prepared=prepared)
        self._look_at_all = Command(everything, often=True)
        self._look = counters.look(oid, prepared=prepared)
        holds = Precondition.of(identity, owners=schema.trusted_owners).holds()
        self._insist = counters.insist(oid, self.relations.sequences, prepared=prepared, holds=holds)
        self._raw: weakref.ref[Any] | None = None
        self.pid = 0

    def is_ready(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether *connection* is the one that was used last."""
        return self._raw is not None and self._raw() is connection.connection is not None

    def turn_to(self, connection: BaseDatabaseWrapper) -> None:
        """Use *connection* from now on. Sends nothing."""
        raw = connection.connection
        self._pipeline = pipeline_of(connection)
        self._raw, self.pid = weakref.ref(raw), raw.info.backend_pid

    def insist(self, arguments: Sequence[str | None]) -> Command:
        """Return the first query of the transaction that writes, see :func:`counters.insist`, with its arguments."""
        return Command(self._insist, tuple(arguments), often=True)

    def run(self, connection: BaseDatabaseWrapper, *batches: Sequence[Command]) -> list[Result]:
        """Run batches of commands; see :meth:`Pipeline.run`."""
        return self._pipeline.run(connection, *batches)

    def see_all(
        self, connection: BaseDatabaseWrapper, memory: CounterHistory, expected: Conditions
    ) -> tuple[CounterReading, list[int]]:
        """Read every counter, to be remembered, and find the sequences whose next call may take no transaction id."""
        seen = self.see(connection, None, expected)
        unproven = memory.unproven(seen)
        if not unproven:
            return seen, []
        unlogged = self._find_unlogged(connection, unproven)
        return self.see(connection, None, expected), unlogged

    def _find_unlogged(self, connection: BaseDatabaseWrapper, sequences: Sequence[int]) -> list[int]:
        """Return those of *sequences* whose next call may not be logged. Then have the session report, because reading counts.

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
        run_sql(connection, counters.FORCE_FLUSH)
        return found

    def see(
        self, connection: BaseDatabaseWrapper, candidates: CounterHistory | None, expected: Conditions
    ) -> CounterReading:
        """Read the counters of the *suspects*, or every counter; and the other sessions, if any are connected."""
        try:
            return self._see(connection, candidates, expected)
        except DatabaseError as error:
            if sqlstate(error) != NOT_PREPARED:
                raise
        return self._see(connection, candidates, expected)

    def _see(
        self, connection: BaseDatabaseWrapper, candidates: CounterHistory | None, expected: Conditions
    ) -> CounterReading:
        look = self._look_at_all
        if candidates is not None:
            look = Command(self._look, (array(candidates.tables), array(candidates.sequences)), often=True)
        if not expected[2]:
            (row,) = rows_of(self.run(connection, [look])[0])
            if row[_SESSIONS_NOW] == "1":
                return parse_reading(row)
        # The list of sessions is read before the counters: a session that ends in between has reported by then.
        others, result = self.run(connection, [_OTHERS, look])
        return parse_reading(rows_of(result)[0], tuple(text for (text,) in rows_of(others)))


def pipeline_of(connection: BaseDatabaseWrapper) -> Pipeline:
    """Return the pipeline over the driver's connection, which must be open. It remembers what is prepared there."""
    raw = connection.connection
    if raw not in _PIPELINES:
        _PIPELINES[raw] = Pipeline()
    return _PIPELINES[raw]


def array(numbers: Iterable[int]) -> str:
    """Write an array of numbers as PostgreSQL does."""
    return "{" + ",".join(map(str, numbers)) + "}"


_MOST_SUSPECTS = 256
_MOST_SCANS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The writes since the last reset: how often, by OID; and the database's sums if that is all (None: unknown)."""

    tables: Mapping[int, int]
    sequences: Mapping[int, int]
    sums: tuple[int, int] | None

    def __bool__(self) -> bool:
        return bool(self.tables or self.sequences)


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

    def __init__(self, relations: Relations) -> None:
        self.relations = relations
        self.tables: dict[int, None] = {}
        self.sequences: dict[int, None] = {}
        self._settled: dict[int, int] = {}
        self.always: dict[int, None] = {}
        self._scans_left, self._scans = 0, 1

    def unproven(self, look: CounterReading) -> list[int]:
        """Return the sequences of which a full reading does not show whether their next call takes a transaction id."""
        return [
            oid
            for oid, count in zip(self.relations.sequences, look.calls, strict=True)
            if self._settled.get(oid) != count
        ]

    def take(self, look: CounterReading, unlogged: Iterable[int], opened: int) -> None:
        """Remember a full reading. This session must have reported everything before it.

        *unlogged* are the sequences whose next call may take no transaction id; *opened* counts this process's sessions.
        """
        self._opened = opened
        self.always = dict.fromkeys((*self.relations.always, *unlogged))
        self.sequences = {**self.always, **self.sequences}
        self.conditions: Conditions = look.conditions
        self.xmax = look.xmax
        self.catalogs = look.catalogs
        self._writes = dict(zip(self.relations.counted, look.writes, strict=True))
        self._calls = dict(zip(self.relations.sequences, look.calls, strict=True))
        self._settled = {oid: count for oid, count in self._calls.items() if oid not in self.always}
        self._sums: tuple[int, int] | None = look.sums

    def join(self, opened: int) -> None:
        """Expect as many more sessions as this process has *opened*, in all. The counters include what ended sessions did."""
        more, self._opened = opened - self._opened, opened
        epoch, sessions, others = self.conditions
        self.conditions = (epoch, None if sessions is None else sessions + more, others)
        if more:
            self._sums = None

    @property
    def wants_everything(self) -> bool:
        """Whether the next reading should be a full one."""
        # A connected session may report between the reading of the sums and that of the tables.
        return self._sums is None or self._scans_left > 0 or bool(self.conditions[2])

    def miss(self) -> None:
        """Note that something other than the candidates was written."""
        self._scans_left, self._scans = self._scans, min(2 * self._scans, _MOST_SCANS)

    def is_quiet(self, look: CounterReading) -> bool:
        """Whether no transaction has taken an id since, and the sequences that can do without an id have not moved."""
        if look.xmax != self.xmax:
            return False
        calls = zip(self._sequences_of(look), look.calls, strict=True)
        return all(self._calls[oid] == count for oid, count in calls if oid in self.always)

    def compare(self, look: CounterReading, sums: tuple[int, int] | None = None) -> Written:
        """Return the writes that the reading *look* shows; *sums* are those of the same moment, if they are known."""
        tables = dict(_changes(self._writes, self._tables_of(look), look.writes))
        sequences = dict(_changes(self._calls, self._sequences_of(look), look.calls))
        if sums is None and not look.catalogs and self._sums is not None:
            sums = (self._sums[0] + sum(tables.values()), self._sums[1] + sum(sequences.values()))
        return Written(tables=tables, sequences=sequences, sums=sums)

    def remembered(self, tables: Iterable[int], sequences: Iterable[int]) -> tuple[list[int], list[int]]:
        """Return the remembered counts of tables and sequences."""
        return [self._writes[oid] for oid in tables], [self._calls[oid] for oid in sequences]

    def expect(self, tables: Iterable[int], sequences: Iterable[int]) -> Written | None:
        """Return that these, and nothing else, were written, at least once each; None if a reading has to come first."""
        if self.wants_everything or self._sums is None:
            return None
        return Written(tables=dict.fromkeys(tables, 0), sequences=dict.fromkeys(sequences, 0), sums=self._sums)

    def follow(self, outcome: Outcome, restarted: Sequence[QualifiedName]) -> None:
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
        for suspect in (oid,) if toast is None else (oid, toast):
            self.tables.pop(suspect, None)
            self.tables[suspect] = None

    def _forget_oldest(self) -> None:
        while len(self.tables) > _MOST_SUSPECTS:
            del self.tables[next(iter(self.tables))]
        if len(self.sequences) > _MOST_SUSPECTS + len(self.always):
            kept = [oid for oid in self.sequences if oid not in self.always][-_MOST_SUSPECTS:]
            self.sequences = dict.fromkeys([*self.always, *kept])

    def _tables_of(self, look: CounterReading) -> Sequence[int]:
        return self.relations.counted if look.catalogs else list(self.tables)

    def _sequences_of(self, look: CounterReading) -> Sequence[int]:
        return list(self.relations.sequences) if look.catalogs else list(self.sequences)


def _changes(before: Mapping[int, int], oids: Sequence[int], counts: Sequence[int]) -> list[tuple[int, int]]:
    return [(oid, count - before[oid]) for oid, count in zip(oids, counts, strict=True) if count != before[oid]]


Changes = Mapping[QualifiedName, RowChanges]

_UNFIT = "22012"
"""The SQLSTATE of the division by zero in :func:`counters.insist`."""
_BEGIN = Command("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
_REPORT = Command(counters.FORCE_FLUSH)
_ANY_NUMBER = 2**62


class UnfitError(Exception):
    """The counters are not as expected. Nothing was written."""


def run_script(
    connection: BaseDatabaseWrapper,
    asker: Asker,
    memory: CounterHistory,
    script: Script,
    written: Written,
    lock_timeout: float,
    *,
    unseen_below: int | None = None,
) -> Outcome:
    """Run *script*, which was made for what was *written*. One round trip.

    With *unseen_below* no counters were read before. Then the session reports first, nobody else may be connected, and
    each table must have been written, by fewer rows than that. Nothing is locked in advance, because no other session is
    there. Raises :class:`UnfitError` if the counters do not fit, and the package's errors. Nothing was written then.
    """
    looked = unseen_below is None
    statements = [statement for statement in script.statements if looked or not statement.is_lock]
    insist = asker.insist(_arguments(asker, memory, written, lock_timeout, unseen_below))
    batch = [_BEGIN, insist, *(Command(statement.sql) for statement in statements)]
    try:
        with rolled_back_on_error(connection):
            results = asker.run(connection, batch) if looked else asker.run(connection, [_REPORT], batch)[1:]
    except (DatabaseError, InterfaceError) as error:
        if sqlstate(error) in {_UNFIT, NOT_PREPARED}:
            raise UnfitError from error
        raise explain(connection, error, script) from error
    *_, writes, calls, rows, blocks, _ = rows_of(results[1])[0]
    return Outcome(
        written=_found(memory, written, parse_numbers(writes or "{}"), parse_numbers(calls or "{}")),
        sums=(int(rows), int(blocks)),
        xmax=rows_of(results[-1])[0][-1],
        changes=sum_changes(statements, results[2:]),
    )


def _arguments(
    asker: Asker, memory: CounterHistory, written: Written, lock_timeout: float, unseen_below: int | None
) -> list[str | None]:
    epoch, sessions, _ = memory.conditions
    tables, sequences = memory.remembered(written.tables, written.sequences)
    sums: list[str | None] = [None, None]
    if written.sums is not None:
        counts = sum(written.tables.values()), sum(written.sequences.values())
        sums = [str(total - count) for total, count in zip(written.sums, counts, strict=True)]
    return [
        f"{milliseconds(lock_timeout)}ms",
        str(asker.pid),
        epoch,
        str(sessions),
        None if unseen_below is None else "1",
        array(written.tables),
        array(tables),
        array(written.sequences),
        array(sequences),
        *sums,
        str(_ANY_NUMBER if unseen_below is None else unseen_below),
    ]


def _found(memory: CounterHistory, written: Written, writes: Sequence[int], calls: Sequence[int]) -> Written:
    tables, sequences = memory.remembered(written.tables, written.sequences)
    return Written(
        tables={oid: now - was for oid, now, was in zip(written.tables, writes, tables, strict=True)},
        sequences={oid: now - was for oid, now, was in zip(written.sequences, calls, sequences, strict=True)},
        sums=None,
    )
