"""The counters as they were at the last reset, and which of them are worth a look at the next. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from testdb_app.backends.postgresql.looks import Conditions, Look, Relations
from testdb_app.baseline_state import RowChanges
from testdb_app.schema import QualifiedName

_MOST_SUSPECTS = 256
_MOST_SCANS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written since: how often, by OID; and what the sums of the database are if that is all (None: unknown)."""

    tables: Mapping[int, int]
    sequences: Mapping[int, int]
    sums: tuple[int, int] | None

    def __bool__(self) -> bool:
        return bool(self.tables or self.sequences)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A reset: what was ``written`` before it, what it did, and the ``sums`` and the transaction id between the two."""

    written: Written
    sums: tuple[int, int]
    xmax: str
    changes: Mapping[QualifiedName, RowChanges]


class Memory:
    """What one watch remembers of the counters.

    The *suspects* are the tables, with their toast tables, and the sequences that were found written before. A look at
    them is enough as long as nothing else is written; after one that was not enough, the next looks are at all, twice as
    many each time that it happens in a row.
    """

    def __init__(self, relations: Relations) -> None:
        self.relations = relations
        self.tables: dict[int, None] = {}
        self.sequences: dict[int, None] = {}
        self._settled: dict[int, int] = {}
        self.always: dict[int, None] = {}
        self._scans_left, self._scans = 0, 1

    def unproven(self, look: Look) -> list[int]:
        """Return the sequences of which a look at all does not tell whether their next call takes a transaction id."""
        return [
            oid
            for oid, count in zip(self.relations.sequences, look.calls, strict=True)
            if self._settled.get(oid) != count
        ]

    def take(self, look: Look, unlogged: Iterable[int], opened: int) -> None:
        """Remember a look at all, before which this session had reported everything.

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
        """Expect as many sessions more as this process has *opened*, in all. What those that are gone did is in the counters."""
        more, self._opened = opened - self._opened, opened
        epoch, sessions, others = self.conditions
        self.conditions = (epoch, None if sessions is None else sessions + more, others)
        if more:
            self._sums = None

    @property
    def wants_everything(self) -> bool:
        """Whether the next look should be at all."""
        # One that is connected may report between the reading of the sums and that of the tables.
        return self._sums is None or self._scans_left > 0 or bool(self.conditions[2])

    def miss(self) -> None:
        """Take note that something else than the suspects was written."""
        self._scans_left, self._scans = self._scans, min(2 * self._scans, _MOST_SCANS)

    def is_quiet(self, look: Look) -> bool:
        """Whether no transaction has had an id since, and the sequences that can do without one have not moved."""
        if look.xmax != self.xmax:
            return False
        calls = zip(self._sequences_of(look), look.calls, strict=True)
        return all(self._calls[oid] == count for oid, count in calls if oid in self.always)

    def compare(self, look: Look, sums: tuple[int, int] | None = None) -> Written:
        """Return what *look* shows to have been written; *sums*, those of the same moment where they are known."""
        tables = dict(_changes(self._writes, self._tables_of(look), look.writes))
        sequences = dict(_changes(self._calls, self._sequences_of(look), look.calls))
        if sums is None and not look.catalogs and self._sums is not None:
            sums = (self._sums[0] + sum(tables.values()), self._sums[1] + sum(sequences.values()))
        return Written(tables=tables, sequences=sequences, sums=sums)

    def remembered(self, tables: Iterable[int], sequences: Iterable[int]) -> tuple[list[int], list[int]]:
        """Return the counts of tables and sequences as they were."""
        return [self._writes[oid] for oid in tables], [self._calls[oid] for oid in sequences]

    def expect(self, tables: Iterable[int], sequences: Iterable[int]) -> Written | None:
        """Return that these, and nothing else, were written, once each at least; None where that could not be told."""
        if self.wants_everything or self._sums is None:
            return None
        return Written(tables=dict.fromkeys(tables, 0), sequences=dict.fromkeys(sequences, 0), sums=self._sums)

    def follow(self, outcome: Outcome, restarted: Sequence[QualifiedName]) -> None:
        """Remember what was written, and what the reset itself then did: its changes and the *restarted* sequences.

        What a reset does is counted at its least (a row once, a call of
        a sequence as one block): were it more, the next look would see too much, and never too little.
        """
        written, sums, changes = outcome.written, outcome.sums, outcome.changes
        self.xmax = outcome.xmax
        own_rows = own_calls = 0
        for oid, count in written.tables.items():
            done = changes.get(self.relations.tables[oid]) if oid in self.relations.tables else None
            own = done.removed + done.updated + done.inserted if done is not None else 0
            own_rows += own
            self._writes[oid] += count + own
            self._suspect(oid)
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

    def _suspect(self, oid: int) -> None:
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

    def _tables_of(self, look: Look) -> Sequence[int]:
        return self.relations.counted if look.catalogs else list(self.tables)

    def _sequences_of(self, look: Look) -> Sequence[int]:
        return list(self.relations.sequences) if look.catalogs else list(self.sequences)


def _changes(before: Mapping[int, int], oids: Sequence[int], counts: Sequence[int]) -> list[tuple[int, int]]:
    return [(oid, count - before[oid]) for oid, count in zip(oids, counts, strict=True) if count != before[oid]]
