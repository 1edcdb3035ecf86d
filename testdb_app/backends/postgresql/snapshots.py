"""Snapshots: states of tables that are kept, and the differences between two of them or from the live rows.

Small tables are kept in this process, as the text that PostgreSQL makes of their rows; large ones as temporary tables. A
kept table stays valid while a :class:`CounterReading` shows that nothing was written to it. The next snapshot over the same
connection then costs one round trip, whatever is in the small tables. A comparison reads only the tables that may have
changed.

**Counters** show, without reading rows, that tables are as they were at an earlier moment
(:mod:`testdb_app.backends.postgresql.counters`): each write moves the sum of a table's counters, also inside an open
transaction. The other sessions must have been idle all the while, and the catalogs must not have been written to. A
snapshot may be taken in the middle of a transaction, so three things differ from a reset:

- A rollback takes rows back, and no counter shows it. So a table with counts that this session has not reported yet, of
  this transaction or an earlier one, is compared by its rows. The same holds for all tables if the catalogs have such
  counts: TRUNCATE sets the counts of its own transaction to 0, and leaves no other sign in a table that was truncated
  before.
- In a transaction of repeatable read or serializable, others may have committed what it does not see. Then nothing is
  trusted.
- Counters that were read once in a transaction are kept to its end, unless pg_stat_clear_snapshot() is called.

**Differences** pair the rows of two states by the table's key, and compare them byte by byte (record_image_ne), as a
restoration does. Without a key, rows are paired by their text, numbered among their equals. The result is bounded: some
rows of each kind, and the number of rows. These functions are pure: they send nothing.
"""

from __future__ import annotations

import itertools
import json
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import OWN_SCHEMA, Mark, StoredState, has_autocommit
from testdb_app.backends.postgresql.baseline_shape import PLAIN_SPELLING, TABLE_SHAPES, TableShape, is_baseline_table
from testdb_app.backends.postgresql.connection import (
    NOT_PREPARED,
    Command,
    Result,
    is_idle,
    pipeline_of,
    rolled_back_on_error,
    run_sql,
)
from testdb_app.backends.postgresql.counters import CounterReading, reading_within
from testdb_app.backends.postgresql.errors import LOCK_NOT_AVAILABLE, sqlstate, translate
from testdb_app.backends.postgresql.preconditions import explain_refusal, find_refusal
from testdb_app.backends.postgresql.queries import chunks, read_rows, rows_of
from testdb_app.backends.postgresql.sql import equals, milliseconds, quote, quote_literal
from testdb_app.diff import RowDifference, TableDifference
from testdb_app.exceptions import SnapshotError, UnsupportedError
from testdb_app.schema import QualifiedName
from testdb_app.selection import ALWAYS_KEPT

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_COMPARISONS_A_MESSAGE = 20
_UNDEFINED_TABLE = "42P01"

_numbers = itertools.count(1)


def store_state(connection: BaseDatabaseWrapper, tables: frozenset[QualifiedName] | None) -> PostgreSQLState:
    """Keep the rows of *tables*, or of all. One round trip for the counters, and others for what was not kept before."""
    connection.ensure_connection()
    record = SessionRecord.of(connection)
    drop_litter(connection, record)
    guesses = (
        [] if record.relations is None else [oid for oid in _choose(record.relations, tables) if oid in record.usual]
    )
    questions = [] if record.relations is None else text_commands(record.relations, guesses)
    read = see(connection, record, questions)
    relations, seen = read.relations, read.counters
    chosen = _choose(relations, tables)
    refuse_hidden(connection, [relations.tables[oid] for oid in chosen], relations)
    before, kept = record.rows_seen, {}
    if before is not None and before.is_comparable(seen):
        kept = {oid: rows for oid, rows in record.rows.items() if before.is_same(seen, oid)}
    if read.guessed:
        kept |= parse_texts(guesses, read.guessed)
    kept.update(read_texts(connection, relations, [oid for oid in chosen if oid not in kept]))
    record.rows, record.rows_seen = kept, seen
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
        seen = _after_copying(seen, see(connection, record).counters)
        record.counters = seen
    texts = {oid: rows for oid in chosen if oid not in copies and (rows := kept[oid])}
    return PostgreSQLState(record, relations, seen, chosen=tables, texts=texts, copies=copies)


class PostgreSQLState:
    """The rows of tables as one reading saw them; see :class:`testdb_app.backends.base.StoredState`."""

    def __init__(
        self,
        record: SessionRecord,
        relations: Relations,
        seen: CounterReading,
        *,
        chosen: frozenset[QualifiedName] | None,
        texts: Mapping[int, str],
        copies: Mapping[int, str],
    ) -> None:
        self.relations = relations
        self.counters = seen
        self.is_open = True
        self._known = record
        self._chosen = chosen
        self._texts = texts
        self._copies = copies
        # A state that is garbage collected without being closed may be so in the middle of a query. Its copies are
        # dropped at the next reading.
        self._finalizer = weakref.finalize(self, record.litter.extend, list(copies.values()))

    @property
    def oids(self) -> list[int]:
        """The tables of this state."""
        return _choose(self.relations, self._chosen)

    def has_rows(self, oid: int) -> bool:
        """Whether that table had any rows."""
        return oid in self._texts or oid in self._copies

    def source(self, oid: int, table: QualifiedName, parameters: list[str | None]) -> str:
        """Write the source of that table's rows; rows that are kept as text are added to *parameters*."""
        if oid in self._copies:
            return self._copies[oid]
        if oid not in self._texts:
            return no_rows(table)
        parameters.append(self._texts[oid])
        return kept_as_text(table, len(parameters))

    def is_large(self, oid: int) -> bool:
        """Whether the rows of that table are kept in the database."""
        return oid in self._copies

    def text(self, oid: int) -> str | None:
        """Return the rows of that table, if they are kept as text."""
        return self._texts.get(oid)

    def compare(self, connection: BaseDatabaseWrapper, later: StoredState | None, limit: int) -> list[TableDifference]:
        """Return what differs. One round trip for the counters, and others for the tables that they do not clear."""
        connection.ensure_connection()
        self.check_usable(connection)
        record = SessionRecord.of(connection)
        guesses: list[int] = []
        if later is None:
            if record.relations is not None:
                guesses = [oid for oid in _choose(record.relations, self._chosen) if oid in record.usual]
            seen = see(connection, record, [self._question(record.relations, oid, None, limit) for oid in guesses])
        else:
            assert isinstance(later, PostgreSQLState)
            later.check_usable(connection)
            seen = Seen(relations=later.relations, counters=later.counters)
        _refuse_other_tables(self, seen.relations)
        answers = dict(zip(guesses, seen.guessed, strict=False))
        suspects = self._suspects(connection, seen, later)
        open_questions = [oid for oid in suspects if oid not in answers]
        try:
            answers |= self._query_differences(connection, seen.relations, open_questions, later, limit)
        except DatabaseError as error:
            if sqlstate(error) != _UNDEFINED_TABLE:
                raise
            raise SnapshotError(
                f'The rows that a snapshot of "{connection.alias}" kept are gone: the transaction or savepoint in which it was '
                "taken was rolled back. Take the snapshot before it, or compare inside."
            ) from error
        if later is None:
            record.expect(oid for oid in suspects if answers[oid])
        tables = ((seen.relations.tables[oid], answers[oid]) for oid in suspects)
        found = (parse_differences(name, seen.relations.columns[name], rows) for name, rows in tables)
        return [difference for difference in found if difference is not None]

    def _suspects(self, connection: BaseDatabaseWrapper, seen: Seen, later: PostgreSQLState | None) -> list[int]:
        """Return the tables that the counters do not clear."""
        suspects = _choose(seen.relations, self._chosen)
        if self.counters.is_comparable(seen.counters):
            suspects = [oid for oid in suspects if not self.counters.is_same(seen.counters, oid)]
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
        now = live(table) if later is None else later.source(oid, table, parameters)
        return Command(differences(relations.columns[table], before, now, limit), tuple(parameters))

    def _query_differences(
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
            answers.update(zip(chunk, run_queries(connection, questions), strict=True))
        return answers

    def check_usable(self, connection: BaseDatabaseWrapper) -> None:
        """Raise :class:`SnapshotError` if it is closed, or its copies ended with the session that made them."""
        if not self.is_open:
            raise SnapshotError("The snapshot is closed. Compare before it is closed.")
        if self._copies and SessionRecord.of(connection) is not self._known:
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
        if self._copies and connection.connection is not None and SessionRecord.of(connection) is self._known:
            self._known.litter.extend(self._copies.values())
            # In an aborted transaction it has to wait for the next reading.
            with suppress(DatabaseError, InterfaceError):
                drop_litter(connection, self._known)


def drop_litter(connection: BaseDatabaseWrapper, record: SessionRecord) -> None:
    """Drop the copies of snapshots that are closed or forgotten."""
    if record.litter:
        run_sql(connection, ";\n".join(f"DROP TABLE IF EXISTS {name}" for name in record.litter))
        record.litter.clear()


def _choose(relations: Relations, tables: frozenset[QualifiedName] | None) -> list[int]:
    if tables is None:
        return list(relations.usual)
    return [oid for oid, name in relations.tables.items() if name in tables]


def _after_copying(before: CounterReading, after: CounterReading) -> CounterReading:
    """Return the reading of the moment between two, between which only copies were made."""
    is_quiet = before.conditions == after.conditions and before.writes == after.writes
    conditions = before.conditions if is_quiet else replace(before.conditions, epoch="")
    return replace(before, conditions=conditions, catalogs=after.catalogs)


def _without_equal(
    connection: BaseDatabaseWrapper, state: PostgreSQLState, relations: Relations, suspects: list[int]
) -> list[int]:
    """Leave out tables whose text is the same, which is cheaper to find out than where they differ."""
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


_MOST_BYTES = 128 * 1024
"""A larger table is kept in the database, a smaller one in this process."""
_MOST_BYTES_IN_ALL = 16 * 1024 * 1024
_TABLES_A_STATEMENT = 40


def read_texts(connection: BaseDatabaseWrapper, relations: Relations, oids: Sequence[int]) -> dict[int, str | None]:
    """Return the rows of tables as text: empty if there are none, None if there are too many."""
    return parse_texts(oids, run_queries(connection, text_commands(relations, oids))) if oids else {}


def text_commands(relations: Relations, oids: Sequence[int]) -> list[Command]:
    """Write the queries of the rows of tables, for :func:`parse_texts`."""
    return [
        Command("SELECT " + ", ".join(rows_as_text(relations.tables[oid], _MOST_BYTES) for oid in chunk))
        for chunk in chunks(oids, _TABLES_A_STATEMENT)
    ]


def parse_texts(oids: Sequence[int], results: Iterable[Sequence[tuple[Any, ...]]]) -> dict[int, str | None]:
    """Return the rows of tables by OID, as :func:`read_texts` does."""
    values = iter([value for rows in results for value in rows[0]])
    pairs = zip(oids, zip(values, values, strict=True), strict=True)
    return {oid: rows or ("" if int(size) <= _MOST_BYTES else None) for oid, (size, rows) in pairs}


def find_large(kept: Mapping[int, str | None], chosen: Iterable[int]) -> list[int]:
    """Return the tables to be kept in the database: the large ones (None), and those that exceed the total."""
    left = _MOST_BYTES_IN_ALL
    large = []
    for oid in sorted(chosen, key=lambda oid: len(kept[oid] or "")):
        rows = kept[oid]
        left -= len(rows or "")
        if rows is None or left < 0:
            large.append(oid)
    return large


CLEAR = "SELECT pg_catalog.pg_stat_clear_snapshot()"
"""Makes the next reading in the same transaction a new one."""

# oid, schema, name, whether row security hides rows from this role
TABLES = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text,
       c.relrowsecurity AND pg_catalog.row_security_active(c.oid)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                      AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relations:
    """The tables of a database by OID, with their columns; ``hidden`` are those of which this role sees only some rows.

    ``usual`` are the tables in a snapshot of everything; ``reading`` is the query of the counters of all of them.
    """

    tables: Mapping[int, QualifiedName]
    columns: Mapping[QualifiedName, Columns]
    hidden: frozenset[QualifiedName]
    usual: tuple[int, ...]
    reading: str


def shapes_of(tables: Iterable[QualifiedName]) -> list[str]:
    """Write the queries of the columns and keys of *tables*, after the settings that they need."""
    names = ", ".join(f"({quote_literal(name.schema)}, {quote_literal(name.name)})" for name in tables)
    return [PLAIN_SPELLING, TABLE_SHAPES.format(names=names)]


def parse_relations(rows: Iterable[Sequence[Any]], shapes: Iterable[Sequence[Any]]) -> Relations:
    """Make the relations from the rows of :data:`TABLES` and the rows of :func:`shapes_of`."""
    tables = {oid: QualifiedName(schema, name) for oid, schema, name, _ in rows}
    columns = {}
    for shape in map(TableShape.from_row, shapes):
        columns[shape.name] = Columns(
            names=tuple(column.name for column in shape.columns),
            key=shape.key,
            operators=shape.operators,
            text=shape.text,
        )
    tables = {oid: name for oid, name in tables.items() if name in columns}
    return Relations(
        tables=tables,
        usual=tuple(oid for oid, name in tables.items() if not _is_left_out(name)),
        reading=reading_within(tables),
        columns=columns,
        hidden=frozenset(tables[oid] for oid, *_, is_hidden in rows if is_hidden),
    )


def _is_left_out(name: QualifiedName) -> bool:
    """Whether a table is left out unless it is named: Django's list of migrations, and the package's own tables."""
    is_own = name.schema == OWN_SCHEMA and (name.name in set(Mark) or is_baseline_table(name.name))
    return is_own or name.name in ALWAYS_KEPT


_LOCK_TIMEOUT = 60.0
"""Seconds to wait for a lock on a catalog: only a change of the schema holds one."""
_MOST_USUAL = 8
_SAVEPOINT = Command("SAVEPOINT testdb_reset")
_SETTINGS = Command(
    f"SELECT pg_catalog.set_config('lock_timeout', '{milliseconds(_LOCK_TIMEOUT)}ms', true), "
    "pg_catalog.set_config('extra_float_digits', '1', true)",
    often=True,
)
_CLEAR = Command(CLEAR, often=True)
_UNDO = (Command("ROLLBACK TO SAVEPOINT testdb_reset"), Command("RELEASE SAVEPOINT testdb_reset"))

_SESSIONS: weakref.WeakKeyDictionary[Any, SessionRecord] = weakref.WeakKeyDictionary()


class SessionRecord:
    """The remembered tables and rows of one of the driver's connections.

    ``rows`` are the rows of its tables at the reading ``rows_seen``, None for a large one; ``usual`` are tables that were
    written to before; ``litter`` are temporary tables that are not needed any more.
    """

    def __init__(self) -> None:
        self.relations: Relations | None = None
        self.counters: CounterReading | None = None
        self.rows: dict[int, str | None] = {}
        self.rows_seen: CounterReading | None = None
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
    def of(cls, connection: BaseDatabaseWrapper) -> SessionRecord:
        """Return what is known of the session behind *connection*, which must be open."""
        raw = connection.connection
        if raw not in _SESSIONS:
            _SESSIONS[raw] = cls()
        return _SESSIONS[raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A reading, and the results of the guesses sent with it: rows as texts for each, none if the tables were read anew."""

    relations: Relations
    counters: CounterReading
    guessed: Sequence[list[tuple[Any, ...]]] = ()


def see(connection: BaseDatabaseWrapper, record: SessionRecord, guesses: Sequence[Command] = ()) -> Seen:
    """Read the counters, and read the tables anew unless the counters show that they are the same.

    One round trip, or two to three more.

    *guesses* are the queries about these tables that come next if nothing else was written than usual.
    """
    before, relations = record.counters, record.relations
    if relations is not None and before is not None:
        try:
            (row,), *guessed = run_queries(connection, [Command(relations.reading, often=True), *guesses])
        except DatabaseError:
            if not guesses:
                raise
            # A table may be gone. The next reading meets any other cause too.
            return see(connection, record)
        seen = record.counters = CounterReading.from_row(row, relations.tables)
        if before.is_comparable(seen):
            return Seen(relations=relations, counters=seen, guessed=guessed)
    relations = record.relations = _read_relations(connection)
    ((row,),) = run_queries(connection, [Command(relations.reading, often=True)])
    record.counters = CounterReading.from_row(row, relations.tables)
    return Seen(relations=relations, counters=record.counters)


def run_queries(connection: BaseDatabaseWrapper, commands: Sequence[Command]) -> list[list[tuple[Any, ...]]]:
    """Run queries with bounded waits and exact texts, and restore the settings; return the rows of each query, as texts.

    One round trip; repeated queries are prepared.
    """
    nested = not has_autocommit(connection)
    if nested and (connection.connection is None or is_idle(connection)):
        # The driver begins the transaction with the first statement of a cursor.
        run_sql(connection, CLEAR)
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
        # The code under test has dropped all prepared statements.
        results = _run(connection, batch, nested=nested)
    return [rows_of(result) for result in results[len(before) : len(before) + len(commands)]]


def _run(connection: BaseDatabaseWrapper, batch: Sequence[Command], *, nested: bool) -> list[Result]:
    with rolled_back_on_error(connection, savepoint=nested):
        return pipeline_of(connection).run(connection, batch)


def _read_relations(connection: BaseDatabaseWrapper) -> Relations:
    (rows,) = read_rows(connection, [TABLES], lock_timeout=_LOCK_TIMEOUT)
    names = [QualifiedName(schema, name) for _, schema, name, _ in rows]
    shapes = read_rows(connection, shapes_of(names), lock_timeout=_LOCK_TIMEOUT)[1] if names else []
    return parse_relations(rows, shapes)


def refuse_hidden(connection: BaseDatabaseWrapper, names: Iterable[QualifiedName], relations: Relations) -> None:
    """Raise :class:`UnsupportedError` for those of *names* of which this role sees only some rows."""
    hidden = sorted(str(name) for name in names if name in relations.hidden)
    if hidden:
        raise UnsupportedError(
            f'Row security hides rows of {", ".join(hidden)} from the role of "{connection.alias}", so that their '
            "state cannot be told. Connect as a role that sees all rows, or name other tables."
        )


_MOST_CHARACTERS = 200

_ADDED, _CHANGED, _REMOVED = "+", "~", "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """A table's columns and key, with the operators by which its values are equal; ``text`` differs if any of these do."""

    names: tuple[str, ...]
    key: tuple[str, ...]
    operators: tuple[str, ...]
    text: str


def live(table: QualifiedName) -> str:
    """Write the rows that are in *table* itself now."""
    return f"ONLY {quote(table)}"


def kept_as_text(table: QualifiedName, parameter: int) -> str:
    """Write the rows of :func:`rows_as_text`, which are given as the parameter of that number."""
    return f"pg_catalog.unnest(${parameter}::{quote(table)}[])"


def no_rows(table: QualifiedName) -> str:
    """Write a source of the table's columns without a row."""
    return f"(SELECT * FROM ONLY {quote(table)} WHERE false)"


def rows_as_text(table: QualifiedName, most_bytes: int) -> str:
    """Write two values: the bytes of *table*, and its rows as the text of an array; NULL if it is empty or too large."""
    # ROW(), because an alias alone may be the name of a column.
    rows = f"SELECT pg_catalog.array_agg(ROW(t.*))::pg_catalog.text FROM ONLY {quote(table)} t"
    size = f"pg_catalog.pg_relation_size({quote_literal(quote(table))}::pg_catalog.regclass)"
    return f"{size}, CASE WHEN {size} OPERATOR(pg_catalog.<=) {most_bytes} THEN ({rows}) END"


def differences(columns: Columns, before: str, after: str, limit: int) -> str:
    """Write the query of the rows that differ between two sources.

    Columns: kind, number of rows of that kind, and as JSON the values before, the values after, and whether each differs.
    """
    kind, pairs = _pairs_by_key(columns, before, after) if columns.key else _pairs_by_text(columns, before, after)
    sorted_by = columns.key or (_free("image", columns),)
    order = ", ".join(f"coalesce(n.{quote(name)}, o.{quote(name)})" for name in sorted_by)
    old, new = (
        ", ".join(
            f"pg_catalog.left({side}.{quote(name)}::pg_catalog.text, {_MOST_CHARACTERS})" for name in columns.names
        )
        for side in "on"
    )
    others = "NULL"
    if columns.key:
        others = (
            "pg_catalog.to_json(ARRAY["
            + ", ".join(
                f"pg_catalog.record_image_ne(ROW(o.{quote(name)}), ROW(n.{quote(name)}))" for name in columns.names
            )
            + "])::pg_catalog.text"
        )
    return f"""SELECT kind, total, before, after, others
  FROM (SELECT {kind} AS kind, pg_catalog.count(*) OVER (PARTITION BY {kind}) AS total,
               pg_catalog.row_number() OVER (PARTITION BY {kind} ORDER BY {order}) AS place,
               pg_catalog.to_json(ARRAY[{old}]::pg_catalog.text[])::pg_catalog.text AS before,
               pg_catalog.to_json(ARRAY[{new}]::pg_catalog.text[])::pg_catalog.text AS after, {others} AS others
          FROM {pairs}) d
 WHERE place OPERATOR(pg_catalog.<=) {limit}
 ORDER BY pg_catalog.strpos('{_ADDED}{_CHANGED}{_REMOVED}', kind), place"""


def _pairs_by_key(columns: Columns, before: str, after: str) -> tuple[str, str]:
    first = quote(columns.key[0])
    old, new = (", ".join(f"{side}.{quote(name)}" for name in columns.names) for side in "on")
    pairs = zip(columns.key, columns.operators, strict=True)
    on = " AND ".join(f"o.{quote(name)} {equals} n.{quote(name)}" for name, equals in pairs)
    kind = f"CASE WHEN o.{first} IS NULL THEN '{_ADDED}' WHEN n.{first} IS NULL THEN '{_REMOVED}' ELSE '{_CHANGED}' END"
    return kind, (
        f"{before} AS o FULL JOIN {after} AS n ON {on} WHERE o.{first} IS NULL OR n.{first} IS NULL "
        f"OR pg_catalog.record_image_ne(ROW({old}), ROW({new}))"
    )


def _pairs_by_text(columns: Columns, before: str, after: str) -> tuple[str, str]:
    image, number = _free("image", columns), _free("number", columns)
    text = f"ROW({', '.join(f'r.{quote(name)}' for name in columns.names)})::pg_catalog.text"
    counted = f"pg_catalog.row_number() OVER (PARTITION BY {text})"
    old, new = (
        f"(SELECT r.*, {text} AS {image}, {counted} AS {number} FROM {source} AS r)" for source in (before, after)
    )
    kind = f"CASE WHEN o.{image} IS NULL THEN '{_ADDED}' ELSE '{_REMOVED}' END"
    return kind, (
        f"{old} AS o FULL JOIN {new} AS n ON {equals(f'o.{image}', f'n.{image}')} "
        f"AND {equals(f'o.{number}', f'n.{number}')} "
        f"WHERE o.{image} IS NULL OR n.{image} IS NULL"
    )


def _free(name: str, columns: Columns) -> str:
    while name in columns.names:
        name += "_"
    return name


def parse_differences(table: QualifiedName, columns: Columns, rows: list[tuple[Any, ...]]) -> TableDifference | None:
    """Make the difference from the rows of :func:`differences`; None if there are none."""
    if not rows:
        return None
    totals = {kind: int(total) for kind, total, *_ in rows}
    return TableDifference(
        table=table,
        added=totals.get(_ADDED, 0),
        changed=totals.get(_CHANGED, 0),
        removed=totals.get(_REMOVED, 0),
        rows=tuple(_row(columns, *row) for row in rows),
    )


def _row(columns: Columns, kind: str, _: str, before: str, after: str, others: str | None) -> RowDifference:
    old, new = (dict(zip(columns.names, json.loads(values), strict=True)) for values in (before, after))
    pairs = zip(columns.names, json.loads(others or "[]"), strict=False)
    return RowDifference(
        before=None if kind == _ADDED else old,
        after=None if kind == _REMOVED else new,
        key=columns.key,
        changed=tuple(name for name, is_other in pairs if is_other) if kind == _CHANGED else (),
    )
