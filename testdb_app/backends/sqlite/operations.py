"""The SQL of a reset on SQLite: pure text, the same that ``--sql`` prints.

Outside a transaction, foreign keys are switched off for the connection, so that order, cycles and on-delete actions do not
matter; that nothing which stays refers to a row that goes is what the checks prove, under the lock. Inside a transaction
SQLite ignores that switch: there the order counts, the checks of a cycle are deferred, and references that act at once
are set to NULL first.

SQLite cannot disable a trigger. Those that fire on DELETE are dropped and made again, from their own text, in the same
transaction, so that nobody ever sees the database without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from testdb_app.backends.base import Action, Script, Statement, Step
from testdb_app.backends.sqlite.at_once import broken_references, cascading, needs_deferral, set_null
from testdb_app.backends.sqlite.catalog import read_catalog
from testdb_app.backends.sqlite.snapshot import snapshot
from testdb_app.backends.sqlite.sql import (
    chunks,
    quote_literal,
    quote_name,
    quote_qualified,
    trigger_schema,
)
from testdb_app.exceptions import UnsupportedError
from testdb_app.schema import ForeignKey, QualifiedName, Schema, TableKind, Trigger
from testdb_app.states import Baseline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.backends.sqlite.virtual import VirtualTable

SAVEPOINT = "testdb_reset"
_NAMES = 400
"""Names in one IN list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLiteScript(Script):
    """A script that notices, under the lock, what has changed since the look.

    ``token`` is that of the schema it was written for. By the foreign keys of ``unexpected`` no row refers to a table that
    is emptied, or one was written meanwhile; with foreign keys off nothing else would notice.
    """

    token: str
    unexpected: tuple[ForeignKey, ...]


def script(
    connection: BaseDatabaseWrapper,
    schema: Schema,
    steps: Sequence[Step],
    *,
    baseline: Baseline | None = None,
    checks: Sequence[ForeignKey],
    verify: Sequence[QualifiedName],
    lock_timeout: float,
    within_transaction: bool,
) -> SQLiteScript:
    """Write the SQL of a plan. *lock_timeout* in seconds. Reads the catalog for virtual tables and cycles only.

    Raises :class:`~testdb_app.exceptions.UnsupportedError` for TRUNCATE and, within a transaction, for a cycle
    that SQLite cannot delete there.
    """
    tables = _tables(steps)
    breaks = broken_references(connection, schema, steps) if within_transaction else ()
    cascaded = cascading(schema, steps, breaks) if within_transaction else frozenset()
    triggers = _triggers(schema, tables, breaks)
    before = [*map(_drop, triggers), *(set_null(key, column) for key, column in breaks)]
    deletes = _deletes(tables, _virtual(connection, schema, tables), cascaded)
    after = [*_restarts(steps), *(trigger.definition for _, trigger in triggers)]
    return SQLiteScript(
        opening=tuple(
            _plain(_opening(lock_timeout, breaks, within=within_transaction, deferred=needs_deferral(schema, steps)))
        ),
        body=(*_plain(before), *deletes, *_plain(after)),
        closing=tuple(_plain([f"RELEASE {SAVEPOINT}" if within_transaction else "COMMIT"])),
        checks=tuple(checks),
        verify=tuple(verify),
        token=schema.token,
        unexpected=tuple(key for key in _keys_from_outside(schema, tables) if key not in set(checks)),
    )


def _plain(statements: Iterable[str]) -> Iterator[Statement]:
    return (Statement(sql=sql) for sql in statements)


def _keys_from_outside(schema: Schema, tables: Iterable[QualifiedName]) -> Iterator[ForeignKey]:
    emptied = frozenset(tables)
    for name in sorted(emptied):
        yield from (key for key in schema.referencing.get(name, ()) if key.table not in emptied)


def _opening(lock_timeout: float, breaks: Sequence[object], *, within: bool, deferred: bool) -> Iterator[str]:
    yield f"PRAGMA busy_timeout = {round(lock_timeout * 1000)}"
    if within:
        yield f"SAVEPOINT {SAVEPOINT}"
        # It stays on until the transaction ends: to switch it off would set one of SQLite's two counters of violations
        # to 0, which may have counted down for what the caller's own rows had counted up in the other.
        if deferred:
            yield "PRAGMA defer_foreign_keys = ON"
        if breaks:
            yield "PRAGMA ignore_check_constraints = ON"
    else:
        yield "PRAGMA foreign_keys = OFF"
        yield "BEGIN IMMEDIATE"


def _tables(steps: Iterable[Step]) -> list[QualifiedName]:
    """Return the tables to empty, in order."""
    tables: list[QualifiedName] = []
    for step in steps:
        if step.action is Action.TRUNCATE:
            raise UnsupportedError(
                f"SQLite has no TRUNCATE, which the plan wants for {', '.join(map(str, step.names))}. Use the strategy "
                '"delete" or "auto": SQLite frees the pages of a whole table at once when it is deleted.'
            )
        if step.action is Action.DELETE:
            tables += step.names
    return tables


def _deletes(
    tables: Iterable[QualifiedName],
    virtual: Mapping[QualifiedName, VirtualTable],
    cascading: frozenset[QualifiedName],
) -> Iterator[Statement]:
    for name in tables:
        commands = virtual[name].emptying if name in virtual else ()
        yield from (Statement(sql=sql) for sql in commands)
        if not commands:
            yield Statement(sql=f"DELETE FROM {quote_qualified(name)}", counts=() if name in cascading else (name,))


def _restarts(steps: Iterable[Step]) -> Iterator[str]:
    by_schema: dict[str, list[str]] = {}
    for step in steps:
        if step.action is Action.RESTART:
            for name in step.names:
                by_schema.setdefault(name.schema, []).append(quote_literal(name.name))
    for schema, names in by_schema.items():
        for chunk in chunks(names, _NAMES):
            yield f"DELETE FROM {quote_name(schema)}.sqlite_sequence WHERE name IN ({', '.join(chunk)})"


def _virtual(
    connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
) -> dict[QualifiedName, VirtualTable]:
    by_name = schema.by_name
    if all(by_name[name].kind is not TableKind.VIRTUAL for name in tables):
        return {}
    with snapshot(connection) as cursor:
        return read_catalog(connection, cursor).virtual


def _triggers(
    schema: Schema, tables: Iterable[QualifiedName], breaks: Iterable[tuple[ForeignKey, str]]
) -> list[tuple[QualifiedName, Trigger]]:
    """Return the triggers that would fire: on DELETE, and on UPDATE where references are set to NULL."""
    updated = {key.table for key, _ in breaks}
    return [
        (name, trigger)
        for name in tables
        for trigger in schema.by_name[name].triggers
        if trigger.fires_on("DELETE") or (name in updated and trigger.fires_on("UPDATE"))
    ]


def _drop(owned: tuple[QualifiedName, Trigger]) -> str:
    name, trigger = owned
    return f"DROP TRIGGER {quote_name(trigger_schema(trigger.definition, name))}.{quote_name(trigger.name)}"
