"""What the signals say, as values: the relations they are about, and one look at them. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testdb_app.backends.postgresql import signals
from testdb_app.schema import QualifiedName, Schema

Conditions = tuple[str, int | None, tuple[str, ...]]
"""What must be the same at two looks for the counters between them to be trusted: what holds, sessions ever, others now."""

PREFIX = "testdb_"
"""How the names of all prepared statements of this package begin."""


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
        slow = {key.referenced for key in schema.foreign_keys if not key.indexed}
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
class Statements:
    """The names of the prepared statements of one watch, and the SQL that prepares them."""

    look: str
    look_at_all: str
    insist: str
    prepare: str

    @classmethod
    def of(cls, relations: Relations, database: int, prepared: bool) -> Statements:
        """Write them for the database with that OID; *prepared* tells whether it can have prepared transactions."""
        # A name of its own: another program behind the same pooler may prepare statements too.
        look, look_at_all, insist = (f"{PREFIX}{uuid.uuid4().hex[:12]}_{name}" for name in ("look", "all", "insist"))
        everything = signals.look_at_all(database, relations.counted, relations.sequences, prepared=prepared)
        return cls(
            look=look,
            look_at_all=look_at_all,
            insist=insist,
            prepare=";\n".join(
                (
                    f"PREPARE {look} (oid[], oid[]) AS {signals.look(database, prepared=prepared)}",
                    f"PREPARE {look_at_all} AS {everything}",
                    f"PREPARE {insist} (text, bigint, bigint) AS {signals.insist(database, relations.sequences)}",
                )
            ),
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


def parse_look(row: Sequence[Any], others: tuple[str, ...] = ()) -> Look:
    """Make a look of the row of :func:`signals.look` or :func:`signals.look_at_all`, and the *others* connected."""
    _, pid, epoch, sessions, _, xmax, writes, calls, *rest = row
    return Look(
        pid=pid,
        conditions=(epoch, sessions, others),
        xmax=xmax,
        writes=_numbers(writes),
        calls=_numbers(calls),
        catalogs=rest[0] if len(rest) > 1 else "",
        sums=(rest[1], rest[2]) if len(rest) > 1 else (0, 0),
    )


def _numbers(array: str) -> list[int]:
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
