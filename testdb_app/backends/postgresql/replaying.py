"""Running a script in a transaction that first insists: on who is connected, and on what was written and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import Script
from testdb_app.backends.postgresql import signals
from testdb_app.backends.postgresql.asking import NOT_PREPARED, Asker, array
from testdb_app.backends.postgresql.connection import rolled_back_on_error
from testdb_app.backends.postgresql.errors import explain, sqlstate
from testdb_app.backends.postgresql.looks import parse_numbers
from testdb_app.backends.postgresql.memory import Memory, Outcome, Written
from testdb_app.backends.postgresql.pipeline import Command
from testdb_app.backends.postgresql.queries import rows_of, sum_changes
from testdb_app.backends.postgresql.quoting import milliseconds
from testdb_app.baseline_state import RowChanges
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

Changes = Mapping[QualifiedName, RowChanges]

_UNFIT = "22012"
"""The SQLSTATE of the division by zero in :func:`signals.insist`."""
_BEGIN = Command("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
_REPORT = Command(signals.FORCE_FLUSH)
_ANY_NUMBER = 2**62


class UnfitError(Exception):
    """The counters are not as expected. Nothing was written."""


def run_script(
    connection: BaseDatabaseWrapper,
    asker: Asker,
    memory: Memory,
    script: Script,
    written: Written,
    lock_timeout: float,
    *,
    unseen_below: int | None = None,
) -> Outcome:
    """Run *script*, which is for what was *written*. One round trip.

    With *unseen_below* nobody has looked: the session reports first, nobody else may be connected, and every table
    has to have been written, by fewer rows than that each. Nothing is locked beforehand then, as nobody is there.
    Raises :class:`UnfitError` where the counters do not fit, and the package's errors; with nothing written.
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
    asker: Asker, memory: Memory, written: Written, lock_timeout: float, unseen_below: int | None
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


def _found(memory: Memory, written: Written, writes: Sequence[int], calls: Sequence[int]) -> Written:
    tables, sequences = memory.remembered(written.tables, written.sequences)
    return Written(
        tables={oid: now - was for oid, now, was in zip(written.tables, writes, tables, strict=True)},
        sequences={oid: now - was for oid, now, was in zip(written.sequences, calls, sequences, strict=True)},
        sums=None,
    )
