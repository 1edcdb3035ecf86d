"""What the signals say, as values: the relations they are about, and one look at them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testdb_app.backends.postgresql import signals
from testdb_app.schema import QualifiedName, Schema

Conditions = tuple[str, int | None, tuple[str, ...]]
"""What must be the same at two looks for the counters between them to be trusted: what holds, sessions ever, others now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relations:
    """The tables and sequences of a database by OID, all of them, whether in scope or not.

    ``toasts`` are the tables with their long values; ``always`` the sequences that every look must include;
    ``unindexed`` the tables that are referenced without an index, so that a DELETE may be slow.
    """

    tables: Mapping[int, QualifiedName]
    sequences: Mapping[int, QualifiedName]
    toasts: Mapping[int, int]
    always: tuple[int, ...]
    unindexed: frozenset[int]

    @property
    def counted(self) -> tuple[int, ...]:
        """What a look at all counts the writes of."""
        return (*self.tables, *self.toasts.values())

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[Any, ...]], schema: Schema) -> Relations:
        """Make them of the rows of :data:`signals.RELATIONS`."""
        slow = {key.referenced for key in schema.enforced_foreign_keys if not key.indexed}
        tables: dict[int, QualifiedName] = {}
        sequences: dict[int, QualifiedName] = {}
        toasts: dict[int, int] = {}
        always: list[int] = []
        for oid, namespace, name, kind, toast, is_special in sorted(rows):
            (sequences if kind == "S" else tables)[oid] = QualifiedName(namespace, name)
            if toast:
                toasts[oid] = toast
            if is_special:
                always.append(oid)
        return cls(
            tables=tables,
            sequences=sequences,
            toasts=toasts,
            always=tuple(always),
            unindexed=frozenset(oid for oid, name in tables.items() if name in slow),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look: process id, conditions, next transaction id, and counts of writes and of calls, in the order asked for.

    A look at all has the counts of the ``catalogs`` too, and the ``sums`` of the database, without what the session had
    not reported.
    """

    pid: int
    conditions: Conditions
    xmax: str
    writes: Sequence[int]
    calls: Sequence[int]
    catalogs: str = ""
    sums: tuple[int, int] = (0, 0)


def parse_look(row: Sequence[str | None], others: tuple[str, ...] = ()) -> Look:
    """Make a look of the row of :func:`signals.look` or :func:`signals.look_at_all`, and the *others* connected."""
    _, pid, epoch, sessions, _, xmax, writes, calls, *rest = row
    return Look(
        pid=int(pid or 0),
        conditions=(epoch or "", None if sessions is None else int(sessions), others),
        xmax=xmax or "",
        writes=parse_numbers(writes or ""),
        calls=parse_numbers(calls or ""),
        catalogs=rest[0] or "" if len(rest) > 1 else "",
        sums=(int(rest[1] or 0), int(rest[2] or 0)) if len(rest) > 1 else (0, 0),
    )


def parse_numbers(array: str) -> list[int]:
    """Read an array of numbers; NULL is -1."""
    return [int(number) if number != "NULL" else -1 for number in array[1:-1].split(",")] if array != "{}" else []


def parse_conditions(row: Sequence[Any], others: Iterable[Sequence[Any]]) -> Conditions:
    """Make of the row of :data:`signals.CONDITIONS` and those of :data:`signals.OTHERS` what :attr:`Look.conditions` is."""
    return row[0], row[1], tuple(text for (text,) in others)


def are_trusted(conditions: Conditions) -> bool:
    """Whether the counters can tell at all: they count, and every other session is idle and shows it."""
    epoch, sessions, others = conditions
    return (
        epoch.startswith(signals.COUNTING)
        and sessions is not None
        and all(session.endswith("/idle") for session in others)
    )
