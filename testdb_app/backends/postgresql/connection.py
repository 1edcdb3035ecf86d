"""Send several SQL statements to PostgreSQL in one round trip, by simple messages or in libpq's pipeline mode.

:func:`run_sql` sends one message of the simple protocol. The server parses and plans all its statements each time.
:class:`Pipeline` sends each statement by itself, and prepares those that it sends again. The server then only executes
those. Both work below the cursors of psycopg, which would add as much time as the server needs.

:mod:`testdb_app.backends.postgresql.queries` reads rows through this module.
"""

from __future__ import annotations

import itertools
import uuid
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import TransactionStatus, has_autocommit
from testdb_app.backends.postgresql._psycopg_private import load_rows, own_statements
from testdb_app.exceptions import UnsupportedError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

SAFE_PATH = "SET LOCAL search_path = pg_catalog, pg_temp"
"""Makes a transaction take operators, functions and types from the catalog. Temporary tables come last and hide nothing in it."""

WITHOUT_JIT = "SET LOCAL jit = off"
"""Turns off JIT for a transaction. The planner overrates queries of the catalog, and to compile one takes seconds."""

# libpq's PQTRANS_IDLE, PQTRANS_ACTIVE, PQTRANS_INTRANS and PQTRANS_INERROR; psycopg is imported late, because it is optional.
_IDLE = 0
_STATUS = {
    _IDLE: TransactionStatus.NONE,
    1: TransactionStatus.OPEN,
    2: TransactionStatus.OPEN,
    3: TransactionStatus.FAILED,
}


class Result(NamedTuple):
    """The result of one statement: its rows (None if it returns none) and its row count."""

    rows: list[tuple[Any, ...]] | None
    row_count: int


@contextmanager
def raw_cursor(connection: BaseDatabaseWrapper) -> Iterator[Any]:
    """Yield the psycopg cursor below Django's cursor. Connects first if necessary; errors become Django's.

    With ``prepare_threshold`` set, Django's cursor would let psycopg prepare a statement that runs often. But several
    statements in one string cannot be prepared.

    Raises :class:`~testdb_app.exceptions.UnsupportedError` for another driver than psycopg 3.
    """
    with connection.cursor() as cursor, connection.wrap_database_errors:
        if (pipeline := _PIPELINES.get(connection.connection)) is not None:
            pipeline.run_queued(connection)
        raw = cursor.cursor
        if not _is_psycopg_3(raw):
            raise _other_driver()
        with own_statements():
            yield raw


def _other_driver() -> UnsupportedError:
    return UnsupportedError(
        "testdb_app needs psycopg 3 on PostgreSQL, and this connection uses another driver. "
        'Install it with: pip install "django-testdb-app[postgresql]"'
    )


def _is_psycopg_3(cursor: object) -> bool:
    try:
        from psycopg import Cursor  # noqa: PLC0415 - the driver is optional
    except ImportError:
        return False
    return isinstance(cursor, Cursor)


def run_sql(connection: BaseDatabaseWrapper, sql: str) -> list[Result]:
    """Send one or several statements without parameters, and return one result for each. One round trip.

    ``%`` in *sql* is literal. Raises Django's database errors.
    """
    results: list[Result] = []
    with raw_cursor(connection) as cursor:
        cursor.execute(sql, prepare=False)
        while True:
            results.append(Result(cursor.fetchall() if cursor.description else None, cursor.rowcount))
            if not cursor.nextset():
                return results


def server_version(connection: BaseDatabaseWrapper) -> int:
    """Return the version of the present server, such as 180000. Django remembers the version of the first server."""
    connection.ensure_connection()
    with connection.wrap_database_errors:
        return int(connection.connection.info.server_version)


def is_nested(connection: BaseDatabaseWrapper) -> bool:
    """Whether our next message would be part of a transaction: an open one, or one that the driver begins."""
    raw = connection.connection
    return not has_autocommit(connection) or (raw is not None and not raw.closed and not is_idle(connection))


def is_idle(connection: BaseDatabaseWrapper) -> bool:
    """Whether no transaction is open on the connection, as the driver reports it. This includes one begun behind Django.

    Raises :class:`~testdb_app.exceptions.UnsupportedError` for another driver than psycopg 3.
    """
    try:
        return bool(connection.connection.pgconn.transaction_status == _IDLE)
    except AttributeError:
        if connection.connection is None:
            raise
        raise _other_driver() from None


def transaction_status(connection: BaseDatabaseWrapper) -> TransactionStatus:
    """Return the transaction state as the driver reports it; see :class:`testdb_app.backends.base.BaseBackend`."""
    return _STATUS.get(connection.connection.pgconn.transaction_status, TransactionStatus.LOST)


def read_safely(
    connection: BaseDatabaseWrapper,
    queries: Sequence[str],
    *,
    first: Sequence[str] = (),
    settings: Sequence[str] = (),
    safe_path: bool = True,
    one_snapshot: bool = False,
    often: bool = False,
) -> list[Result]:
    """Run queries that change nothing; return the results of *first*, then those of *queries*. One round trip.

    Parameters:

    - *queries*: their operators and types come from ``pg_catalog``, whatever the ``search_path`` has.
    - *first*: queries that use the ``search_path`` as it is, so each operator and type must be qualified.
    - *settings*: statements for the transaction. No setting stays.
    - *safe_path*: if off, *queries* use the ``search_path`` as *first* does.
    - *one_snapshot*: all queries see the same snapshot, unless a transaction is open.
    - *often*: each query is prepared, unless a transaction is open. For texts that stay the same.

    Raises Django's database errors, with the transaction rolled back, or the savepoint in the caller's transaction.
    """
    nested = is_nested(connection)
    # Several statements in one message are one transaction, in which SET LOCAL holds.
    before, after = [WITHOUT_JIT, *settings], list[str]()
    if nested:
        before.insert(0, "SAVEPOINT testdb_reset")
        after = ["ROLLBACK TO SAVEPOINT testdb_reset", "RELEASE SAVEPOINT testdb_reset"]
    elif one_snapshot or often:
        before.insert(0, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if one_snapshot else "BEGIN")
        after = ["COMMIT"]
    pin = [SAFE_PATH] if safe_path else []
    statements = (*before, *first, *pin, *queries, *after)
    with rolled_back_on_error(connection, savepoint=nested):
        if often and not nested:
            connection.ensure_connection()
            results = pipeline_of(connection).read(connection, [Command(sql, often=True) for sql in statements])
        else:
            results = run_sql(connection, ";\n".join(statements))
    start = len(before)
    then = start + len(first) + len(pin)
    return results[start : start + len(first)] + results[then : then + len(queries)]


@contextmanager
def rolled_back_on_error(connection: BaseDatabaseWrapper, *, savepoint: bool = False) -> Iterator[None]:
    """Roll back our transaction if the block raises; with *savepoint*, roll the caller's back to our savepoint."""
    try:
        yield
    except BaseException:
        with suppress(DatabaseError, InterfaceError):
            if savepoint:
                run_sql(connection, "ROLLBACK TO SAVEPOINT testdb_reset;\nRELEASE SAVEPOINT testdb_reset")
            elif has_autocommit(connection) and connection.connection is not None and not connection.connection.closed:
                run_sql(connection, "ROLLBACK")
        raise


NOT_PREPARED = "26000"
"""The SQLSTATE if an executed statement is not prepared."""
PREFIX = "testdb_"
"""All prepared statements of this package have names that begin with this."""
_MOST_PREPARED = 128
_MOST_SEEN = 1024

# libpq's numbers; psycopg is imported late, because it is optional.
_CONNECTION_OK = 0
COMMAND_OK, TUPLES_OK, _SINGLE_TUPLE, _SYNC = 1, 2, 9, 10
_READ, _READ_OR_WRITE = 1, 3

_Sent = tuple[str, bytes] | None
_Load = Callable[[Any], list[tuple[Any, ...]]]


def unique_prefix() -> str:
    """Return a unique prefix for the names of prepared statements: another program behind the same pooler may prepare too."""
    return f"{PREFIX}{uuid.uuid4().hex[:12]}_"


class Command(NamedTuple):
    """One statement, with its arguments as PostgreSQL's texts (None: NULL). With *often* it is prepared at the first use."""

    sql: str
    arguments: tuple[str | None, ...] = ()
    often: bool = False


class Pipeline:
    """Sends batches of commands over one connection of the driver, and remembers the statements prepared there.

    A statement is prepared when it is sent for the second time. At most 128 stay prepared: those not used for the longest
    time are dropped.
    """

    def __init__(self) -> None:
        from psycopg import OperationalError  # noqa: PLC0415 - the driver is optional
        from psycopg.errors import InvalidSqlStatementName, error_from_result  # noqa: PLC0415

        self._lost, self._not_prepared, self._error_of = OperationalError, InvalidSqlStatementName, error_from_result
        self._encoding, self._encoding_name = "utf-8", b"UTF8"
        self._prefix = unique_prefix()
        self._numbers = itertools.count(1)
        self._seen: set[str] = set()
        self._names: dict[str, bytes] = {}
        self._queued: Sequence[Command] = ()
        self._answer: list[Result] | Exception | None = None

    def queue(self, batch: Sequence[Command]) -> None:
        """Have *batch* run before whatever this package sends next outside of a transaction, in the same round trip."""
        self._queued, self._answer = batch, None

    def take_answer(self, connection: BaseDatabaseWrapper) -> list[Result]:
        """Return the results of the batch that was queued. It is run now, in a round trip, if nothing was sent since.

        Raises Django's database errors of that batch. What was sent after it has run all the same.
        """
        self.run_queued(connection)
        answer, self._answer = self._answer, None
        if isinstance(answer, list):
            return answer
        with connection.wrap_database_errors:
            raise answer or self._lost("interrupted before the answer came")

    def run_queued(self, connection: BaseDatabaseWrapper) -> None:
        """Run the queued batch, if there is one. A second time if something has dropped what was prepared."""
        for _ in range(2):
            if self._queued and is_idle(connection):
                self.run(connection)

    def run(self, connection: BaseDatabaseWrapper, *batches: Sequence[Command]) -> list[Result]:
        """Run the batches and return the results of all commands, with PostgreSQL's texts as values. One round trip.

        A sync ends each batch: there the session reports its counts, and an error skips the rest of the batch. Raises
        Django's database errors, for the first command that failed.
        """
        connection.validate_thread_sharing()
        raw = connection.connection
        with connection.wrap_database_errors, raw.lock:
            return self.run_locked(raw, batches)

    def read(self, connection: BaseDatabaseWrapper, batch: Sequence[Command]) -> list[Result]:
        """Do the same for one batch, with the values that the driver makes of the texts."""
        connection.validate_thread_sharing()
        raw = connection.connection
        with connection.wrap_database_errors, raw.lock:
            return self.run_locked(raw, [batch], partial(load_rows, raw))

    def run_locked(self, raw: Any, batches: Sequence[Sequence[Command]], load: _Load | None = None) -> list[Result]:
        """Do the same over the driver's connection, whose lock the caller holds. Raises the driver's errors."""
        room = self._make_room() if len(self._names) > _MOST_PREPARED else []
        queued: Sequence[Command] = ()
        if raw.pgconn.transaction_status == _IDLE:  # otherwise the transaction is ended first
            queued, self._queued = self._queued, ()
        ahead = [each for each in (room, queued) if each]
        sent, answers = self._exchange(raw, [*ahead, *batches])
        for batch in ahead:
            expected = sent.pop(0)
            came, answers = answers[: len(expected)], answers[len(expected) :]
            try:
                answer: list[Result] | Exception = self._read(expected, came, self._load_texts)
            except Exception as error:  # noqa: BLE001 - it is raised to whoever has queued the batch
                answer = error
            if batch is queued:
                self._answer = answer
                if isinstance(answer, self._not_prepared):
                    self._queued = queued
        return self._read([each for expected in sent for each in expected], answers, load or self._load_texts)

    def _make_room(self) -> list[Command]:
        oldest = list(itertools.islice(self._names, _MOST_PREPARED // 2))
        return [Command(f"DEALLOCATE {self._names.pop(sql).decode()}") for sql in oldest]

    def _exchange(self, raw: Any, batches: Sequence[Sequence[Command]]) -> tuple[list[list[_Sent]], list[Any]]:
        """Send the batches, and return the answers, with what they should be in each batch."""
        conn = raw.pgconn
        named = conn.parameter_status(b"client_encoding")
        if named != self._encoding_name:
            self._encoding_name, self._encoding = named, raw.info.encoding
        sent: list[list[_Sent]] = []
        conn.enter_pipeline_mode()
        try:
            for batch in batches:
                sent.append([])
                for command in batch:
                    self._send(conn, command, sent[-1])
                conn.pipeline_sync()
            # Call the method of the class, so that the observer of the user's statements is not called for ours.
            answers = type(raw).wait(raw, _receive(conn, len(batches)))
        finally:
            if conn.status == _CONNECTION_OK:
                try:
                    conn.exit_pipeline_mode()
                except self._lost:
                    # Interrupted before all answers came. The next statement would take them for its own.
                    raw.close()
        return sent, answers

    def _send(self, conn: Any, command: Command, sent: list[_Sent]) -> None:
        """Send *command*. Add one item for each expected answer: the statement that it prepares, or None for the result."""
        sql, texts, often = command
        arguments = [None if text is None else text.encode() for text in texts] if texts else None
        name = self._names.pop(sql, None)
        if name is not None:
            self._names[sql] = name
        elif often or sql in self._seen:
            name = f"{self._prefix}{next(self._numbers)}".encode()
            conn.send_prepare(name, sql.encode(self._encoding))
            sent.append((sql, name))
        else:
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen.add(sql)
            conn.send_query_params(sql.encode(self._encoding), arguments)
            sent.append(None)
            return
        conn.send_query_prepared(name, arguments)
        sent.append(None)

    def _read(self, sent: Sequence[_Sent], answers: Sequence[Any], load: _Load) -> list[Result]:
        # After the driver's stream() libpq sends the rows of the first command one by one, before its result.
        single = []
        if answers and answers[0].status == _SINGLE_TUPLE:
            single = list(itertools.takewhile(lambda answer: answer.status == _SINGLE_TUPLE, answers))
            answers = answers[len(single) :]
        results = []
        for prepared, answer in zip(sent, answers, strict=False):
            status = answer.status
            if status == TUPLES_OK:
                rows = load(answer)
                results.append(Result(rows, len(rows)))
            elif status != COMMAND_OK:
                error = self._error_of(answer, encoding=self._encoding)
                if isinstance(error, self._not_prepared):
                    # DISCARD ALL and DEALLOCATE ALL drop what was prepared.
                    self._names.clear()
                raise error
            elif prepared is None:
                results.append(Result(None, answer.command_tuples or 0))
            else:
                self._names[prepared[0]] = prepared[1]
        if len(answers) < len(sent):
            raise self._lost("the connection is lost")
        if single:
            results[0] = Result([row for each in single for row in load(each)], len(single))
        return results

    def _load_texts(self, answer: Any) -> list[tuple[Any, ...]]:
        columns, encoding, read = range(answer.nfields), self._encoding, answer.get_value
        rows = []
        for row in range(answer.ntuples):
            values = [read(row, column) for column in columns]
            rows.append(
                tuple([None if value is None else value.decode(encoding, "surrogateescape") for value in values])
            )
        return rows


# For each connection of the driver: its pipeline, which all users share.
_PIPELINES: weakref.WeakKeyDictionary[Any, Pipeline] = weakref.WeakKeyDictionary()


def pipeline_of(connection: BaseDatabaseWrapper) -> Pipeline:
    """Return the pipeline of the driver's connection, which must be open. It is the same one each time."""
    return _pipeline(connection.connection)


def _pipeline(raw: Any) -> Pipeline:
    pipeline = _PIPELINES.get(raw)
    if pipeline is None:
        pipeline = _PIPELINES[raw] = Pipeline()
    return pipeline


def run_if_idle(raw: Any, batch: Sequence[Command]) -> bool:
    """Run *batch* over a driver's connection that nobody uses; the caller holds its lock. Return whether it ran."""
    conn = raw.pgconn
    if conn.transaction_status != _IDLE or conn.pipeline_status:
        return False
    from psycopg import Error  # noqa: PLC0415 - the driver is optional

    try:
        _pipeline(raw).run_locked(raw, [batch])
    except Error:
        return False
    return True


def _receive(conn: Any, syncs: int) -> Generator[int, int, list[Any]]:
    """Send the unsent rest and collect all answers. A generator for the driver's ``wait()``, which obeys Ctrl-C."""
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
                    # What came beside the answers, the driver would wait for at the socket.
                    while (notification := conn.notifies()) is not None:
                        if conn.notify_handler is not None:
                            conn.notify_handler(notification)
                    return answers
            else:
                answers.append(answer)
        while not (yield _READ):
            pass
        conn.consume_input()
