"""Asking a connection for the signals: what is prepared on it, and one look after the other."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError

from testdb_app.backends.postgresql import signals
from testdb_app.backends.postgresql.connection import run_sql, send
from testdb_app.backends.postgresql.errors import sqlstate
from testdb_app.backends.postgresql.looks import PREFIX, Conditions, Look, Relations, Statements, parse_look
from testdb_app.backends.postgresql.memory import Memory
from testdb_app.backends.postgresql.queries import rows_of
from testdb_app.schema import Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

NOT_PREPARED = "26000"
"""The SQLSTATE of an EXECUTE of what is not prepared."""
# What is prepared on which of the driver's connections, for whichever asker.
_PREPARED: weakref.WeakKeyDictionary[Any, tuple[tuple[Any, ...], Statements]] = weakref.WeakKeyDictionary()
# Of the columns of a look, the number of sessions that are connected, this one among them.
_SESSIONS_NOW = 4


class Asker:
    """Asks one connection at a time, by statements that are prepared on it. One round trip a look."""

    def __init__(self, connection: BaseDatabaseWrapper, schema: Schema) -> None:
        relations, database = run_sql(connection, f"{signals.RELATIONS};\n{signals.DATABASE}")
        self.relations = Relations.from_rows(rows_of(relations), schema)
        self._database, self._may_be_prepared = rows_of(database)[0]
        self._raw: weakref.ref[Any] | None = None
        self.pid = 0

    def is_ready(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether *connection* is the one that was asked last."""
        return self._raw is not None and self._raw() is connection.connection is not None

    def prepare(self, connection: BaseDatabaseWrapper, *, again: bool = False) -> None:
        """Prepare the statements on a connection that may be a new one, unless another asker of the same schema did.

        Those for another schema go. *again*: whether what was prepared is known to be gone.
        """
        raw = connection.connection
        what = (self._database, self.relations.counted, tuple(self.relations.sequences))
        known, statements = _PREPARED.get(raw, ((), None))
        if statements is None or known != what or again:
            present = f"SELECT name FROM pg_catalog.pg_prepared_statements WHERE name LIKE '{PREFIX}%'"
            # A connection of which nothing is known is new, and has nothing prepared.
            names = [name for (name,) in rows_of(run_sql(connection, present)[0])] if statements is not None else []
            statements = Statements.of(self.relations, self._database, self._may_be_prepared)
            run_sql(connection, ";\n".join([*(f"DEALLOCATE {name}" for name in names), statements.prepare]))
            _PREPARED[raw] = what, statements
        self.statements = statements
        self._raw, self.pid = weakref.ref(raw), raw.info.backend_pid

    def see(self, connection: BaseDatabaseWrapper, suspects: Memory | None, expected: Conditions) -> Look:
        """Look at the *suspects*, or at everything, and ask who else is connected where somebody is."""
        try:
            return self._look(connection, suspects, expected)
        except DatabaseError as error:
            if sqlstate(error) != NOT_PREPARED:
                raise
        # DISCARD ALL and DEALLOCATE ALL drop what was prepared.
        self.prepare(connection, again=True)
        return self._look(connection, suspects, expected)

    def _look(self, connection: BaseDatabaseWrapper, suspects: Memory | None, expected: Conditions) -> Look:
        sql = f"EXECUTE {self.statements.look_at_all}"
        if suspects is not None:
            arguments = f"'{_array(suspects.tables)}', '{_array(suspects.sequences)}'"
            sql = f"EXECUTE {self.statements.look} ({arguments})"
        if expected[2]:
            # Others were connected at the last reset, and are likely to be now.
            result, others = send(connection, f"{sql};\n{signals.OTHERS}")
            return parse_look(rows_of(result)[0], tuple(text for (text,) in rows_of(others)))
        (row,) = rows_of(send(connection, sql)[0])
        if row[_SESSIONS_NOW] == 1:
            return parse_look(row)
        return parse_look(row, tuple(text for (text,) in rows_of(send(connection, signals.OTHERS)[0])))


def _array(oids: Iterable[int]) -> str:
    return "{" + ",".join(map(str, oids)) + "}"
