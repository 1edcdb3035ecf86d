"""Many statements in one round trip by libpq's pipeline mode, below the driver's cursors; what is sent again is prepared.

A message of the simple protocol has all its statements parsed and planned each time. In a pipeline each goes by itself, and
those that were sent before are only executed. The cursors of psycopg would add as much time as the server needs.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from testdb_app.backends.postgresql.connection import Result

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

PREFIX = "testdb_"
"""How the names of all prepared statements of this package begin."""
_MOST_PREPARED = 128
_MOST_SEEN = 1024

# libpq's numbers; psycopg is imported late, because it is optional.
_CONNECTION_OK = 0
COMMAND_OK, TUPLES_OK, _SYNC = 1, 2, 10
_READ, _READ_OR_WRITE = 1, 3

_Sent = tuple[str, bytes] | None


def unique_prefix() -> str:
    """Return how names of prepared statements may begin: another program behind the same pooler may prepare too."""
    return f"{PREFIX}{uuid.uuid4().hex[:12]}_"


@dataclass(frozen=True, slots=True)
class Command:
    """One statement, with its arguments as PostgreSQL writes them (None: NULL); *often* prepares it the first time."""

    sql: str
    arguments: tuple[str | None, ...] = ()
    often: bool = False


class Pipeline:
    """Sends batches of commands over one connection of the driver, and knows what it has prepared there.

    Statements are prepared when they come the second time, 128 at most; those not used for the longest time give way.
    """

    def __init__(self) -> None:
        self._encoding = "utf-8"
        self._prefix = unique_prefix()
        self._numbers = itertools.count(1)
        self._seen: set[str] = set()
        self._names: dict[str, bytes] = {}

    def run(self, connection: BaseDatabaseWrapper, *batches: Sequence[Command]) -> list[Result]:
        """Run the batches, each ended by a sync: the session reports its counts there, and an error skips the rest of it.

        Returns the results of all commands. Raises Django's database errors, for the first command that failed.
        One round trip.
        """
        connection.validate_thread_sharing()
        raw = connection.connection
        with connection.wrap_database_errors, raw.lock:
            room = self._make_room()
            return self._run(raw, [room, *batches] if room else batches)[len(room) :]

    def _make_room(self) -> list[Command]:
        if len(self._names) <= _MOST_PREPARED:
            return []
        oldest = list(itertools.islice(self._names, _MOST_PREPARED // 2))
        return [Command(f"DEALLOCATE {self._names.pop(sql).decode()}") for sql in oldest]

    def _run(self, raw: Any, batches: Sequence[Sequence[Command]]) -> list[Result]:
        conn = raw.pgconn
        self._encoding = raw.info.encoding
        sent: list[_Sent] = []
        conn.enter_pipeline_mode()
        try:
            for batch in batches:
                for command in batch:
                    sent.extend(self._send(conn, command))
                conn.pipeline_sync()
            # The class's own: what watches the statements of the user's is not asked about ours.
            answers = type(raw).wait(raw, _receive(conn, len(batches)))
        finally:
            if conn.status == _CONNECTION_OK:
                conn.exit_pipeline_mode()
        return self._read(sent, answers)

    def _send(self, conn: Any, command: Command) -> Iterator[_Sent]:
        """Send *command*; yield, for each answer that will come, what it prepares, or None for the command's own."""
        arguments = [None if argument is None else argument.encode() for argument in command.arguments]
        name = self._names.pop(command.sql, None)
        if name is not None:
            self._names[command.sql] = name
        elif command.often or command.sql in self._seen:
            name = f"{self._prefix}{next(self._numbers)}".encode()
            conn.send_prepare(name, command.sql.encode(self._encoding))
            yield command.sql, name
        else:
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen.add(command.sql)
            conn.send_query_params(command.sql.encode(self._encoding), arguments)
            yield None
            return
        conn.send_query_prepared(name, arguments)
        yield None

    def _read(self, sent: Sequence[_Sent], answers: Sequence[Any]) -> list[Result]:
        from psycopg import OperationalError  # noqa: PLC0415 - the driver is optional
        from psycopg.errors import InvalidSqlStatementName, error_from_result  # noqa: PLC0415

        results = []
        for prepared, answer in zip(sent, answers, strict=False):
            if answer.status not in {COMMAND_OK, TUPLES_OK}:
                error = error_from_result(answer, encoding=self._encoding)
                if isinstance(error, InvalidSqlStatementName):
                    # DISCARD ALL and DEALLOCATE ALL drop what was prepared.
                    self._names.clear()
                raise error
            if prepared is None:
                results.append(self._result(answer))
            else:
                self._names[prepared[0]] = prepared[1]
        if len(answers) < len(sent):
            raise OperationalError("the connection is lost")
        return results

    def _result(self, answer: Any) -> Result:
        rows = None
        if answer.status == TUPLES_OK:
            columns = range(answer.nfields)
            rows = [
                tuple(self._text(answer.get_value(row, column)) for column in columns) for row in range(answer.ntuples)
            ]
        return Result(rows, answer.command_tuples or 0)

    def _text(self, value: bytes | None) -> str | None:
        return None if value is None else value.decode(self._encoding, "surrogateescape")


def _receive(conn: Any, syncs: int) -> Generator[int, int, list[Any]]:
    """Send what is left to send and collect all answers; a generator for the driver's ``wait()``, which heeds Ctrl-C."""
    while conn.flush():
        if (yield _READ_OR_WRITE) & _READ:
            conn.consume_input()
    answers: list[Any] = []
    while True:
        while not conn.is_busy():
            answer = conn.get_result()
            if answer is None:
                if conn.status != _CONNECTION_OK:
                    return answers
            elif answer.status == _SYNC:
                syncs -= 1
                if not syncs:
                    return answers
            else:
                answers.append(answer)
        while not (yield _READ):
            pass
        conn.consume_input()
