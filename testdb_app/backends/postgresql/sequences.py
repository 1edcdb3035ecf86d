"""Which sequences are not at their start: exactly, also those that setval(…, false) or RESTART WITH moved.

From PostgreSQL 18 on one function tells. Before, a sequence that was never called has to be read itself, and each look
at a sequence keeps it locked to the end of the message, so many of them are looked at in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from testdb_app.backends.postgresql import catalog
from testdb_app.backends.postgresql.connection import server_version
from testdb_app.backends.postgresql.queries import chunks
from testdb_app.backends.postgresql.quoting import quote
from testdb_app.baseline_state import SequenceState
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# The lock table holds some 10,000 at its default, for all sessions together.
_SEQUENCES_A_MESSAGE = 2_000
# Scalar subqueries in one statement: planning costs more than linearly in their number; 20 is the cheapest.
_SEQUENCES_A_STATEMENT = 20

Read = Callable[[Sequence[str]], list[list[tuple[Any, ...]]]]
"""Runs queries in one round trip and returns the rows of each."""


def sequence_states(connection: BaseDatabaseWrapper) -> tuple[str, ...]:
    """Return the queries that tell the states, for :func:`read_all_states` to read."""
    if server_version(connection) >= 18_00_00:
        return (catalog.SEQUENCE_STATES_18,)
    return (catalog.SEQUENCE_STATES_IF_FEW.format(most=_SEQUENCES_A_MESSAGE), catalog.SEQUENCE_COUNT)


def read_all_states(
    read: Read, results: Sequence[list[tuple[Any, ...]]]
) -> tuple[dict[QualifiedName, SequenceState], list[QualifiedName]]:
    """Return the states of the sequences that are not at their start, and those that the role may not read.

    *results* are those of :func:`sequence_states`; asks for more where they were too many, or not enough.
    """
    states: dict[QualifiedName, SequenceState] = {}
    unread: list[tuple[QualifiedName, int]] = []
    unreadable: list[QualifiedName] = []
    for schema, name, state, start, value, called in _all_rows(read, results):
        sequence = QualifiedName(schema, name)
        if state == "moved":
            states[sequence] = SequenceState(last_value=value, is_called=called)
        elif state == "unread":
            unread.append((sequence, start))
        else:
            unreadable.append(sequence)
    states.update(_displaced(read, unread))
    return states, unreadable


def _all_rows(read: Read, results: Sequence[list[tuple[Any, ...]]]) -> Iterator[tuple[Any, ...]]:
    yield from results[0]
    if len(results) == 1:
        return
    ((number,),) = results[1]
    if number > _SEQUENCES_A_MESSAGE:
        parts = -(-number // _SEQUENCES_A_MESSAGE)
        for part in range(parts):
            (rows,) = read([catalog.SEQUENCE_STATES_OF_PART.format(parts=parts, part=part)])
            yield from rows


def _displaced(
    read: Read, sequences: Sequence[tuple[QualifiedName, int]]
) -> Iterator[tuple[QualifiedName, SequenceState]]:
    """Yield those of *sequences* (name, start), none of which was called, whose next value is not their start."""
    for message in chunks(sequences, _SEQUENCES_A_MESSAGE):
        queries = [
            "SELECT ARRAY[" + ", ".join(f"(SELECT last_value FROM {quote(name)})" for name, _ in chunk) + "]::bigint[]"
            for chunk in chunks(message, _SEQUENCES_A_STATEMENT)
        ]
        values = [value for rows in read(queries) for value in rows[0][0]]
        for (name, start), value in zip(message, values, strict=True):
            if value != start:
                yield name, SequenceState(last_value=value, is_called=False)
