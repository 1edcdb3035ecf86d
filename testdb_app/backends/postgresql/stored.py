"""States of tables, kept for a snapshot, and what differs between two of them or from what is there now.

Small tables are kept in this process, as the text that PostgreSQL makes of their rows; large ones as temporary tables. What was
kept once is kept on as long as the signs (:mod:`testdb_app.backends.postgresql.signs`) show that nothing was written to it, so
the next snapshot over the same connection costs a look, whatever is in the small tables. A comparison reads only the tables
that the signs do not clear.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import StoredState
from testdb_app.backends.postgresql import differing
from testdb_app.backends.postgresql.connection import run_sql
from testdb_app.backends.postgresql.errors import sqlstate
from testdb_app.backends.postgresql.known import KnownSession, Seen, ask, refuse_hidden, see
from testdb_app.backends.postgresql.pipeline import Command
from testdb_app.backends.postgresql.queries import chunks
from testdb_app.backends.postgresql.quoting import quote
from testdb_app.backends.postgresql.row_texts import find_large, parse_texts, read_texts, text_commands
from testdb_app.backends.postgresql.signs import Relations, Signs
from testdb_app.diff import TableDifference
from testdb_app.exceptions import SnapshotError
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_COMPARISONS_A_MESSAGE = 20
_UNDEFINED_TABLE = "42P01"

_numbers = itertools.count(1)


class PostgreSQLState:
    """The rows of tables as one look saw them; see :class:`testdb_app.backends.base.StoredState`."""

    def __init__(
        self,
        known: KnownSession,
        relations: Relations,
        seen: Signs,
        *,
        chosen: frozenset[QualifiedName] | None,
        texts: Mapping[int, str],
        copies: Mapping[int, str],
    ) -> None:
        self.relations = relations
        self.signs = seen
        self.is_open = True
        self._known = known
        self._chosen = chosen
        self._texts = texts
        self._copies = copies
        # Whoever forgets it without closing it may be in the middle of a query: what it leaves is dropped at the next look.
        self._finalizer = weakref.finalize(self, known.litter.extend, list(copies.values()))

    @property
    def oids(self) -> list[int]:
        """The tables that it is about."""
        return _choose(self.relations, self._chosen)

    def has_rows(self, oid: int) -> bool:
        """Whether that table had any."""
        return oid in self._texts or oid in self._copies

    def source(self, oid: int, table: QualifiedName, parameters: list[str | None]) -> str:
        """Write where the rows of that table are kept; those that are kept as text join *parameters*."""
        if oid in self._copies:
            return self._copies[oid]
        if oid not in self._texts:
            return differing.no_rows(table)
        parameters.append(self._texts[oid])
        return differing.kept_as_text(table, len(parameters))

    def is_large(self, oid: int) -> bool:
        """Whether the rows of that table are kept in the database."""
        return oid in self._copies

    def text(self, oid: int) -> str | None:
        """Return the rows of that table as text, where they are kept so."""
        return self._texts.get(oid)

    def compare(self, connection: BaseDatabaseWrapper, later: StoredState | None, limit: int) -> list[TableDifference]:
        """Return what differs. One round trip for a look, and others for the tables that the look does not clear."""
        connection.ensure_connection()
        self.check_usable(connection)
        known = KnownSession.of(connection)
        guesses: list[int] = []
        if later is None:
            if known.relations is not None:
                guesses = [oid for oid in _choose(known.relations, self._chosen) if oid in known.usual]
            seen = see(connection, known, [self._question(known.relations, oid, None, limit) for oid in guesses])
        else:
            assert isinstance(later, PostgreSQLState)
            later.check_usable(connection)
            seen = Seen(relations=later.relations, signs=later.signs)
        _refuse_other_tables(self, seen.relations)
        answers = dict(zip(guesses, seen.guessed, strict=False))
        suspects = self._suspects(connection, seen, later)
        open_questions = [oid for oid in suspects if oid not in answers]
        try:
            answers |= self._ask(connection, seen.relations, open_questions, later, limit)
        except DatabaseError as error:
            if sqlstate(error) != _UNDEFINED_TABLE:
                raise
            raise SnapshotError(
                f'The rows that a snapshot of "{connection.alias}" kept are gone: the transaction or savepoint in which it was '
                "taken was rolled back. Take the snapshot before it, or compare inside."
            ) from error
        if later is None:
            known.expect(oid for oid in suspects if answers[oid])
        tables = ((seen.relations.tables[oid], answers[oid]) for oid in suspects)
        found = (differing.parse_differences(name, seen.relations.columns[name], rows) for name, rows in tables)
        return [difference for difference in found if difference is not None]

    def _suspects(self, connection: BaseDatabaseWrapper, seen: Seen, later: PostgreSQLState | None) -> list[int]:
        """Return the tables that the signs do not clear."""
        suspects = _choose(seen.relations, self._chosen)
        if self.signs.is_comparable(seen.signs):
            suspects = [oid for oid in suspects if not self.signs.is_same(seen.signs, oid)]
        elif later is None:
            suspects = _without_equal(connection, self, seen.relations, suspects)
        if later is not None:
            suspects = [oid for oid in suspects if self.has_rows(oid) or later.has_rows(oid)]
        return suspects

    def _question(self, relations: Relations | None, oid: int, later: PostgreSQLState | None, limit: int) -> Command:
        """Write the query of what differs in that table."""
        assert relations is not None
        table, parameters = relations.tables[oid], list[str | None]()
        before = self.source(oid, table, parameters)
        now = differing.live(table) if later is None else later.source(oid, table, parameters)
        return Command(differing.differences(relations.columns[table], before, now, limit), tuple(parameters))

    def _ask(
        self,
        connection: BaseDatabaseWrapper,
        relations: Relations,
        oids: Sequence[int],
        later: PostgreSQLState | None,
        limit: int,
    ) -> dict[int, list[tuple[Any, ...]]]:
        answers: dict[int, list[tuple[Any, ...]]] = {}
        for chunk in chunks(oids, _COMPARISONS_A_MESSAGE):
            questions = [self._question(relations, oid, later, limit) for oid in chunk]
            answers.update(zip(chunk, ask(connection, questions), strict=True))
        return answers

    def check_usable(self, connection: BaseDatabaseWrapper) -> None:
        """Raise :class:`SnapshotError` if it is closed, or its copies went with the session that made them."""
        if not self.is_open:
            raise SnapshotError("The snapshot is closed. Compare before it is closed.")
        if self._copies and KnownSession.of(connection) is not self._known:
            raise SnapshotError(
                f'The snapshot of "{connection.alias}" was taken over another session, in which its copies of large tables were '
                "kept. Compare over the same connection, before it is closed."
            )

    def close(self, connection: BaseDatabaseWrapper) -> None:
        """Drop the copies, if their session is still there."""
        if not self.is_open:
            return
        self.is_open = False
        self._finalizer.detach()
        if self._copies and connection.connection is not None and KnownSession.of(connection) is self._known:
            self._known.litter.extend(self._copies.values())
            # In an aborted transaction it has to wait for the next look.
            with suppress(DatabaseError, InterfaceError):
                drop_litter(connection, self._known)


def store_state(connection: BaseDatabaseWrapper, tables: frozenset[QualifiedName] | None) -> PostgreSQLState:
    """Keep the rows of *tables*, or of all. A round trip for a look, and others for what was not kept before."""
    connection.ensure_connection()
    known = KnownSession.of(connection)
    drop_litter(connection, known)
    guesses = [] if known.relations is None else [oid for oid in _choose(known.relations, tables) if oid in known.usual]
    questions = [] if known.relations is None else text_commands(known.relations, guesses)
    look = see(connection, known, questions)
    relations, seen = look.relations, look.signs
    chosen = _choose(relations, tables)
    refuse_hidden(connection, [relations.tables[oid] for oid in chosen], relations)
    before, kept = known.rows_seen, {}
    if before is not None and before.is_comparable(seen):
        kept = {oid: rows for oid, rows in known.rows.items() if before.is_same(seen, oid)}
    if look.guessed:
        kept |= parse_texts(guesses, look.guessed)
    kept.update(read_texts(connection, relations, [oid for oid in chosen if oid not in kept]))
    known.rows, known.rows_seen = kept, seen
    large = find_large(kept, chosen)
    copies: dict[int, str] = {}
    if large:
        copies = {oid: f"pg_temp.testdb_snapshot_{next(_numbers)}" for oid in large}
        run_sql(
            connection,
            ";\n".join(
                f"CREATE TEMPORARY TABLE {copies[oid].removeprefix('pg_temp.')} USING heap AS SELECT * FROM ONLY "
                f"{quote(relations.tables[oid])}"
                for oid in large
            ),
        )
        seen = _after_copying(seen, see(connection, known).signs)
        known.signs = seen
    texts = {oid: rows for oid in chosen if oid not in copies and (rows := kept[oid])}
    return PostgreSQLState(known, relations, seen, chosen=tables, texts=texts, copies=copies)


def drop_litter(connection: BaseDatabaseWrapper, known: KnownSession) -> None:
    """Drop the copies of snapshots that are closed or forgotten."""
    if known.litter:
        run_sql(connection, ";\n".join(f"DROP TABLE IF EXISTS {name}" for name in known.litter))
        known.litter.clear()


def _choose(relations: Relations, tables: frozenset[QualifiedName] | None) -> list[int]:
    if tables is None:
        return list(relations.usual)
    return [oid for oid, name in relations.tables.items() if name in tables]


def _after_copying(before: Signs, after: Signs) -> Signs:
    """Return the signs of the moment between two looks, between which only copies were made."""
    is_quiet = before.conditions == after.conditions and before.writes == after.writes
    return replace(before, is_trusted=before.is_trusted and is_quiet, catalogs=after.catalogs)


def _without_equal(
    connection: BaseDatabaseWrapper, state: PostgreSQLState, relations: Relations, suspects: list[int]
) -> list[int]:
    """Leave out tables whose rows read the same, which is cheaper to find out than where they differ."""
    now = read_texts(connection, relations, [oid for oid in suspects if not state.is_large(oid)])
    return [oid for oid in suspects if oid not in now or now[oid] != (state.text(oid) or "")]


def _refuse_other_tables(state: PostgreSQLState, relations: Relations) -> None:
    if state.relations is relations:
        return
    changed = [
        str(state.relations.tables[oid])
        for oid in state.oids
        if relations.tables.get(oid) != (name := state.relations.tables[oid])
        or relations.columns[name] != state.relations.columns[name]
    ]
    if changed:
        raise SnapshotError(
            f"Since the snapshot was taken, tables were dropped, renamed or altered: {', '.join(sorted(changed))}. Their rows "
            "cannot be compared. Take the snapshot after the change.",
            tables=sorted(changed),
        )
