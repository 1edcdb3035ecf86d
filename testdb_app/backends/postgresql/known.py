"""What a session of PostgreSQL is known to hold: its tables, the last look at their signs, and the rows of small ones then."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError

from testdb_app.backends.base import has_autocommit
from testdb_app.backends.postgresql import signs
from testdb_app.backends.postgresql.asking import NOT_PREPARED, pipeline_of
from testdb_app.backends.postgresql.connection import Result, is_idle, rolled_back_on_error, run_sql
from testdb_app.backends.postgresql.errors import LOCK_NOT_AVAILABLE, sqlstate, translate
from testdb_app.backends.postgresql.pipeline import Command
from testdb_app.backends.postgresql.preconditions import explain_refusal, find_refusal
from testdb_app.backends.postgresql.queries import read_rows, rows_of
from testdb_app.backends.postgresql.quoting import milliseconds
from testdb_app.backends.postgresql.signs import Relations, Signs
from testdb_app.exceptions import UnsupportedError
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_LOCK_TIMEOUT = 60.0
"""Seconds to wait for a lock on a catalog: only a change of the schema holds them."""
_MOST_USUAL = 8
_SAVEPOINT = Command("SAVEPOINT testdb_reset")
_SETTINGS = Command(
    f"SELECT pg_catalog.set_config('lock_timeout', '{milliseconds(_LOCK_TIMEOUT)}ms', true), "
    "pg_catalog.set_config('extra_float_digits', '1', true)",
    often=True,
)
_CLEAR = Command(signs.CLEAR, often=True)
_UNDO = (Command("ROLLBACK TO SAVEPOINT testdb_reset"), Command("RELEASE SAVEPOINT testdb_reset"))

_SESSIONS: weakref.WeakKeyDictionary[Any, KnownSession] = weakref.WeakKeyDictionary()


class KnownSession:
    """Known of one of the driver's connections.

    ``rows`` are those of its tables at the look ``rows_seen``, None for a large one; ``usual`` are tables that were
    written to before; ``litter`` are temporary tables that nobody needs any more.
    """

    def __init__(self) -> None:
        self.relations: Relations | None = None
        self.signs: Signs | None = None
        self.rows: dict[int, str | None] = {}
        self.rows_seen: Signs | None = None
        self.usual: dict[int, None] = {}
        self.litter: list[str] = []

    def expect(self, oids: Iterable[int]) -> None:
        """Expect that these tables will be written to again, because they were now."""
        for oid in oids:
            self.usual.pop(oid, None)
            self.usual[oid] = None
        while len(self.usual) > _MOST_USUAL:
            del self.usual[next(iter(self.usual))]

    @classmethod
    def of(cls, connection: BaseDatabaseWrapper) -> KnownSession:
        """Return what is known of the session behind *connection*, which must be open."""
        raw = connection.connection
        if raw not in _SESSIONS:
            _SESSIONS[raw] = cls()
        return _SESSIONS[raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A look, and what was asked for in the same breath: rows as texts for each guess, none if the look came out otherwise."""

    relations: Relations
    signs: Signs
    guessed: Sequence[list[tuple[Any, ...]]] = ()


def see(connection: BaseDatabaseWrapper, known: KnownSession, guesses: Sequence[Command] = ()) -> Seen:
    """Look, and read the tables anew unless the signs show that they are the same. One round trip, else two or three more.

    *guesses* are queries about these tables that will be asked next, if nothing else was written than what usually is.
    """
    before, relations = known.signs, known.relations
    if relations is not None and before is not None:
        try:
            (row,), *guessed = ask(connection, [Command(relations.look, often=True), *guesses])
        except DatabaseError:
            if not guesses:
                raise
            # A table may be gone. What else it can be, the next look meets it too.
            return see(connection, known)
        seen = known.signs = signs.parse_signs(list(relations.tables), row)
        if before.is_comparable(seen):
            return Seen(relations=relations, signs=seen, guessed=guessed)
    relations = known.relations = _read_relations(connection)
    ((row,),) = ask(connection, [Command(relations.look, often=True)])
    known.signs = signs.parse_signs(list(relations.tables), row)
    return Seen(relations=relations, signs=known.signs)


def ask(connection: BaseDatabaseWrapper, commands: Sequence[Command]) -> list[list[tuple[Any, ...]]]:
    """Run queries with bounded waits and exact texts, and leave no trace of that; return the rows of each, as texts.

    One round trip; what is asked again is prepared.
    """
    nested = not has_autocommit(connection)
    if nested and (connection.connection is None or is_idle(connection)):
        # The driver begins the transaction with the first statement of a cursor.
        run_sql(connection, signs.CLEAR)
    before = (_SAVEPOINT, _CLEAR, _SETTINGS) if nested else (_SETTINGS,)
    batch = [*before, *commands, *(_UNDO if nested else ())]
    try:
        results = _run(connection, batch, nested=nested)
    except DatabaseError as error:
        state = sqlstate(error)
        if state == LOCK_NOT_AVAILABLE:
            raise translate(connection, error, None) from error
        if reason := find_refusal(error):
            raise explain_refusal(connection, reason, "read the baseline of") from error
        if state != NOT_PREPARED:
            raise
        # The code under test has dropped all that was prepared.
        results = _run(connection, batch, nested=nested)
    return [rows_of(result) for result in results[len(before) : len(before) + len(commands)]]


def _run(connection: BaseDatabaseWrapper, batch: Sequence[Command], *, nested: bool) -> list[Result]:
    with rolled_back_on_error(connection, savepoint=nested):
        return pipeline_of(connection).run(connection, batch)


def _read_relations(connection: BaseDatabaseWrapper) -> Relations:
    (rows,) = read_rows(connection, [signs.TABLES], lock_timeout=_LOCK_TIMEOUT)
    names = [QualifiedName(schema, name) for _, schema, name, _ in rows]
    shapes = read_rows(connection, signs.shapes_of(names), lock_timeout=_LOCK_TIMEOUT)[1] if names else []
    return signs.parse_relations(rows, shapes)


def refuse_hidden(connection: BaseDatabaseWrapper, names: Iterable[QualifiedName], relations: Relations) -> None:
    """Raise :class:`UnsupportedError` for those of *names* of which this role sees some rows only."""
    hidden = sorted(str(name) for name in names if name in relations.hidden)
    if hidden:
        raise UnsupportedError(
            f'Row security hides rows of {", ".join(hidden)} from the role of "{connection.alias}", so that their '
            "state cannot be told. Connect as a role that sees all rows, or name other tables."
        )
