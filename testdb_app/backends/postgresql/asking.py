"""Asking a connection for the signals, one look after the other, by statements that are prepared on it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError

from testdb_app.backends.base import DatabaseIdentity
from testdb_app.backends.postgresql import signals
from testdb_app.backends.postgresql.connection import Result, run_sql, server_version
from testdb_app.backends.postgresql.errors import sqlstate
from testdb_app.backends.postgresql.looks import Conditions, Look, Relations, parse_look
from testdb_app.backends.postgresql.memory import Memory
from testdb_app.backends.postgresql.pipeline import Command, Pipeline
from testdb_app.backends.postgresql.preconditions import Precondition
from testdb_app.backends.postgresql.queries import chunks, read_rows, rows_of, scalars
from testdb_app.backends.postgresql.quoting import quote
from testdb_app.schema import Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

NOT_PREPARED = "26000"
"""The SQLSTATE of an execution of what is not prepared."""
_OTHERS = Command(signals.OTHERS, often=True)
# What is known of each of the driver's connections, whichever asker uses it.
_PIPELINES: weakref.WeakKeyDictionary[Any, Pipeline] = weakref.WeakKeyDictionary()
# Of the columns of a look, the number of sessions that are connected, this one among them.
_SESSIONS_NOW = 4
_SEQUENCES_A_MESSAGE = 2_000


class Asker:
    """Asks one connection at a time. One round trip a look."""

    def __init__(self, connection: BaseDatabaseWrapper, schema: Schema, identity: DatabaseIdentity) -> None:
        relations, database = read_rows(connection, [signals.RELATIONS, signals.DATABASE])
        self.relations = Relations.from_rows(relations, schema)
        oid, prepared, self.may_miss = database[0]
        everything = signals.look_at_all(oid, self.relations.counted, self.relations.sequences, prepared=prepared)
        self._look_at_all = Command(everything, often=True)
        self._look = signals.look(oid, prepared=prepared)
        holds = Precondition.of(identity, owners=schema.trusted_owners).holds()
        self._insist = signals.insist(oid, self.relations.sequences, prepared=prepared, holds=holds)
        self._raw: weakref.ref[Any] | None = None
        self.pid = 0

    def is_ready(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether *connection* is the one that was asked last."""
        return self._raw is not None and self._raw() is connection.connection is not None

    def turn_to(self, connection: BaseDatabaseWrapper) -> None:
        """Ask *connection* from now on. Sends nothing."""
        raw = connection.connection
        self._pipeline = pipeline_of(connection)
        self._raw, self.pid = weakref.ref(raw), raw.info.backend_pid

    def insist(self, arguments: Sequence[str | None]) -> Command:
        """Return the first query of the transaction that writes, see :func:`signals.insist`, with its arguments."""
        return Command(self._insist, tuple(arguments), often=True)

    def run(self, connection: BaseDatabaseWrapper, *batches: Sequence[Command]) -> list[Result]:
        """Run batches of commands; see :meth:`Pipeline.run`."""
        return self._pipeline.run(connection, *batches)

    def see_all(self, connection: BaseDatabaseWrapper, memory: Memory, expected: Conditions) -> tuple[Look, list[int]]:
        """Look at everything, to be remembered, and find the sequences whose next call may take no transaction id."""
        seen = self.see(connection, None, expected)
        unproven = memory.unproven(seen)
        if not unproven:
            return seen, []
        unlogged = self._find_unlogged(connection, unproven)
        return self.see(connection, None, expected), unlogged

    def _find_unlogged(self, connection: BaseDatabaseWrapper, sequences: Sequence[int]) -> list[int]:
        """Return those of *sequences* whose next call may not be logged; then have the session report, as reading counts.

        A round trip for every 2,000: each of them is locked to the end of its message. And another for those of them that
        were called: nextval() alone leaves another ``log_cnt`` than 0, and sets ``is_called``; what takes that back sets both.
        """
        called = signals.CALLED_18 if server_version(connection) >= 18_00_00 else signals.CALLED
        found: list[int] = []
        for every in chunks(sequences, _SEQUENCES_A_MESSAGE):
            (rows,) = read_rows(connection, [called.format(oids=array(every))])
            part = [oid for (oid,) in rows]
            queries = [f"SELECT log_cnt FROM {quote(self.relations.sequences[oid])}" for oid in part]
            counts = scalars(connection, queries)
            found += [oid for oid, count in zip(part, counts, strict=True) if count]
        run_sql(connection, signals.FORCE_FLUSH)
        return found

    def see(self, connection: BaseDatabaseWrapper, suspects: Memory | None, expected: Conditions) -> Look:
        """Look at the *suspects*, or at everything, and ask who else is connected where somebody is."""
        try:
            return self._see(connection, suspects, expected)
        except DatabaseError as error:
            if sqlstate(error) != NOT_PREPARED:
                raise
        return self._see(connection, suspects, expected)

    def _see(self, connection: BaseDatabaseWrapper, suspects: Memory | None, expected: Conditions) -> Look:
        look = self._look_at_all
        if suspects is not None:
            look = Command(self._look, (array(suspects.tables), array(suspects.sequences)), often=True)
        if not expected[2]:
            (row,) = rows_of(self.run(connection, [look])[0])
            if row[_SESSIONS_NOW] == "1":
                return parse_look(row)
        # Who is connected is asked before the counters are read: a session that ends in between has reported by then.
        others, result = self.run(connection, [_OTHERS, look])
        return parse_look(rows_of(result)[0], tuple(text for (text,) in rows_of(others)))


def pipeline_of(connection: BaseDatabaseWrapper) -> Pipeline:
    """Return the pipeline over the driver's connection, which must be open: it knows what is prepared there."""
    raw = connection.connection
    if raw not in _PIPELINES:
        _PIPELINES[raw] = Pipeline()
    return _PIPELINES[raw]


def array(numbers: Iterable[int]) -> str:
    """Write an array of numbers as PostgreSQL does."""
    return "{" + ",".join(map(str, numbers)) + "}"
