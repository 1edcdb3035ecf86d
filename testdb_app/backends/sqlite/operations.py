"""Write the SQL of a reset on SQLite: pure text, the same that ``--sql`` prints.

Outside a transaction, foreign keys are switched off for the connection, so that order, cycles and on-delete actions do
not matter. The checks prove, under the lock, that no row that stays refers to a deleted row. Inside a transaction SQLite
ignores that switch. There the order matters, and the checks of a cycle are deferred.

Some foreign keys act at once inside a transaction, even if their checks are deferred: RESTRICT refuses, SET NULL and SET
DEFAULT fire triggers on UPDATE, and CASCADE ends at SQLite's trigger depth of 1,000. This matters inside a cycle, and for
references to restored rows. A key that refers to nothing does none of it, so inside a cycle such
references are set to NULL first.

To restore the rows of a baseline, the rows that differ are deleted in all tables, then the missing rows are inserted.

SQLite cannot disable a trigger. Triggers that would fire are dropped and created again, from their own text, in the same
transaction, so that nobody ever sees the database without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from testdb_app.backends.base import Action, ResetPlan, Script, ScriptContext, Statement, Step
from testdb_app.backends.sqlite.baseline_copies import put_in, read_comparison, take_out
from testdb_app.backends.sqlite.catalog import read_catalog
from testdb_app.backends.sqlite.connection import fetch, snapshot
from testdb_app.backends.sqlite.introspection import REQUIRED_COLUMNS, put_back, read_states, restart
from testdb_app.backends.sqlite.parser import quote_literal, quote_name, quote_qualified, trigger_schema
from testdb_app.baseline_state import Baseline, BaselineTable, SequenceState
from testdb_app.exceptions import UnsupportedError
from testdb_app.schema import ForeignKey, OnDelete, QualifiedName, Schema, TableKind, Trigger

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.backends.sqlite.baseline_shape import TableShape
    from testdb_app.backends.sqlite.catalog import VirtualTable
    from testdb_app.baseline_state import Baseline

SAVEPOINT = "testdb_reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLiteScript(Script):
    """A script that detects, under the lock, what has changed since the full scan.

    ``token`` is that of the schema it was written for. By the foreign keys of ``unexpected`` no row refers to an emptied
    table; a row that does was written meanwhile, and with foreign keys off nothing else would detect it. ``restored`` are
    the tables whose copies must have all their rows. ``sequences`` are those that are put back.
    """

    token: str
    unexpected: tuple[ForeignKey, ...]
    restored: tuple[BaselineTable, ...] = ()
    sequences: tuple[QualifiedName, ...] = ()


def write_script(connection: BaseDatabaseWrapper, plan: ResetPlan, context: ScriptContext) -> SQLiteScript:
    """Write the SQL of a plan. Reads the catalog for virtual tables and cycles only.

    Raises :class:`~testdb_app.exceptions.UnsupportedError` for TRUNCATE. Within a transaction also for a cycle that
    SQLite cannot delete there, and for rows that it cannot restore there.
    """
    schema, baseline, steps, within = context.schema, context.baseline, plan.steps, context.within_transaction
    tables = _tables(steps)
    copies = baseline.tables if baseline is not None else {}
    restored = {
        name: copies[name] for step in steps if step.action is Action.RESTORE for name in step.names if name in copies
    }
    if within:
        refuse_actions(connection, schema, steps, baseline)
    breaks = broken_references(connection, schema, steps) if within else ()
    cascaded = cascading(schema, steps, breaks) if within else frozenset()
    # Within a transaction a key may also set columns of deleted rows.
    updated = {key.table for key, _ in breaks} | (restored.keys() if within else set())
    triggers = _triggers(schema, tables, inserted=restored, updated=updated)
    before = [*map(_drop, triggers), *(set_null(key, column) for key, column in breaks)]
    inputs = _read_inputs(connection, schema, tables, steps, baseline if restored else None)
    deletes = _deletes(tables, inputs, restored, cascaded)
    inserts = (put_in(table) for table in restored.values())
    sequences = [*put_back(inputs.moved), *restart(steps, baseline.sequences if baseline is not None else {})]
    after = [*sequences, *(trigger.definition for _, trigger in triggers)]
    opening = _opening(
        context.lock_timeout,
        within=within,
        deferred=needs_deferral(schema, steps),
        unchecked=bool(breaks or restored),
    )
    loading = baseline.loading if baseline is not None else ()
    unloading = (f"DROP TABLE {quote_qualified(table.copy)}" for table in copies.values() if table.loading)
    return SQLiteScript(
        opening=() if context.for_tracker else tuple(_plain([*opening, *loading])),
        body=(*_plain(before), *deletes, *inserts, *_plain(after)),
        closing=()
        if context.for_tracker
        else tuple(_plain([*unloading, f"RELEASE {SAVEPOINT}" if within else "COMMIT"])),
        checks=plan.checks,
        verify=plan.verify,
        baseline=baseline,
        restored=tuple(restored.values()),
        token=schema.token,
        unexpected=tuple(key for key in _keys_from_outside(schema, tables) if key not in set(plan.checks)),
        sequences=plan.sequences,
        is_plain=not (triggers or restored),
    )


def _plain(statements: Iterable[str]) -> Iterator[Statement]:
    return (Statement(sql=sql) for sql in statements)


def _keys_from_outside(schema: Schema, tables: Iterable[QualifiedName]) -> Iterator[ForeignKey]:
    emptied = frozenset(tables)
    for name in sorted(emptied):
        yield from (key for key in schema.referencing.get(name, ()) if key.table not in emptied)


def _opening(lock_timeout: float, *, within: bool, deferred: bool, unchecked: bool) -> Iterator[str]:
    yield f"PRAGMA busy_timeout = {round(lock_timeout * 1000)}"
    if within:
        yield f"SAVEPOINT {SAVEPOINT}"
        # It stays on until the transaction ends. Switching it off would set one of SQLite's two counters of violations to
        # 0. That one may have counted down for the caller's own rows, which the other had counted up.
        if deferred:
            yield "PRAGMA defer_foreign_keys = ON"
    else:
        yield "PRAGMA foreign_keys = OFF"
        yield "BEGIN IMMEDIATE"
    if unchecked:
        yield "PRAGMA ignore_check_constraints = ON"


def _tables(steps: Iterable[Step]) -> list[QualifiedName]:
    """Return the tables to empty or restore, in order."""
    tables: list[QualifiedName] = []
    for step in steps:
        if step.action is Action.TRUNCATE:
            raise UnsupportedError(
                f"SQLite has no TRUNCATE, which the plan needs for {', '.join(map(str, step.names))}. Use the strategy "
                '"delete" or "auto": SQLite frees the pages of a whole table at once when it is deleted.'
            )
        if step.action in {Action.DELETE, Action.RESTORE}:
            tables += step.names
    return tables


class _Inputs(NamedTuple):
    """The facts that the SQL depends on besides the plan.

    Virtual tables, the shapes of tables to restore, and the sequences that move by inserting although they must stay.
    """

    virtual: Mapping[QualifiedName, VirtualTable]
    shapes: Mapping[QualifiedName, TableShape]
    moved: Mapping[QualifiedName, SequenceState | None]


def _read_inputs(
    connection: BaseDatabaseWrapper,
    schema: Schema,
    tables: Iterable[QualifiedName],
    steps: Sequence[Step],
    baseline: Baseline | None,
) -> _Inputs:
    if baseline is None and all(schema.by_name[name].kind is not TableKind.VIRTUAL for name in tables):
        return _Inputs({}, {}, {})
    with snapshot(connection) as cursor:
        catalog = read_catalog(connection, cursor)
        if baseline is None:
            return _Inputs(catalog.virtual, {}, {})
        restarted = {name for step in steps if step.action is Action.RESTART for name in step.names}
        states = read_states(connection, cursor, catalog)
        counted = {name for name in tables if name in schema.sequences_by_name and name in baseline.tables}
        return _Inputs(
            virtual=catalog.virtual,
            shapes=read_comparison(connection, cursor, catalog, baseline).tables,
            moved={name: states.get(name) for name in sorted(counted - restarted)},
        )


def _deletes(
    tables: Iterable[QualifiedName],
    inputs: _Inputs,
    restored: Mapping[QualifiedName, BaselineTable],
    cascading: frozenset[QualifiedName],
) -> Iterator[Statement]:
    for name in tables:
        if name in restored:
            yield from take_out(restored[name], inputs.shapes[name])
            continue
        commands = inputs.virtual[name].emptying if name in inputs.virtual else ()
        yield from (Statement(sql=sql) for sql in commands)
        if not commands:
            yield Statement(sql=f"DELETE FROM {quote_qualified(name)}", counts=() if name in cascading else (name,))


def _triggers(
    schema: Schema,
    tables: Iterable[QualifiedName],
    *,
    inserted: Container[QualifiedName],
    updated: Container[QualifiedName],
) -> list[tuple[QualifiedName, Trigger]]:
    """Return the triggers that would fire: on DELETE, and on INSERT and UPDATE if rows are inserted or changed."""
    return [
        (name, trigger)
        for name in tables
        for trigger in schema.by_name[name].triggers
        if trigger.fires_on("DELETE")
        or (name in inserted and trigger.fires_on("INSERT"))
        or (name in updated and trigger.fires_on("UPDATE"))
    ]


def _drop(owned: tuple[QualifiedName, Trigger]) -> str:
    name, trigger = owned
    return f"DROP TRIGGER {quote_name(trigger_schema(trigger.definition, name))}.{quote_name(trigger.name)}"


def _keys_inside(schema: Schema, steps: Iterable[Step]) -> Iterator[ForeignKey]:
    """Yield the foreign keys of cycles and self-references."""
    for step in steps:
        if step.action is Action.DELETE:
            inside = set(step.names)
            for name in step.names:
                yield from (key for key in schema.referencing.get(name, ()) if key.table in inside)


def needs_deferral(schema: Schema, steps: Sequence[Step]) -> bool:
    """Whether a cycle of several tables, or a table to restore, has a key that is checked after each statement."""
    restored = {name for step in steps if step.action is Action.RESTORE for name in step.names}
    return any(
        key.table != key.referenced and not key.initially_deferred for key in _keys_inside(schema, steps)
    ) or any(
        not key.initially_deferred and not restored.isdisjoint((key.table, key.referenced))
        for key in (schema.foreign_keys if restored else ())
    )


def cascading(
    schema: Schema, steps: Iterable[Step], broken: Iterable[tuple[ForeignKey, str]]
) -> frozenset[QualifiedName]:
    """Return the tables whose rows a cascade may still delete, which no row count shows."""
    keys = {key for key in _keys_inside(schema, steps) if key.on_delete is OnDelete.CASCADE}
    return frozenset(key.table for key in keys - {key for key, _ in broken})


def broken_references(
    connection: BaseDatabaseWrapper, schema: Schema, steps: Sequence[Step]
) -> tuple[tuple[ForeignKey, str], ...]:
    """Return the keys of cycles that act at once, also when deferred, each with a column that may be NULL."""
    keys = [key for key in _keys_inside(schema, steps) if key.on_delete is not OnDelete.NO_ACTION]
    found = []
    if not keys:
        return ()
    with snapshot(connection) as cursor:
        if not fetch(connection, cursor, "PRAGMA foreign_keys")[0][0]:
            return ()
        for key in keys:
            query = REQUIRED_COLUMNS.format(table=quote_literal(key.table.name), schema=quote_literal(key.table.schema))
            required = {name for (name,) in fetch(connection, cursor, query)}
            free = [column for column in key.columns if column not in required]
            if free:
                found.append((key, free[0]))
            elif key.on_delete in {OnDelete.RESTRICT, OnDelete.SET_NULL}:
                raise UnsupportedError(
                    f"Within a transaction SQLite cannot empty {', '.join(map(str, {key.table, key.referenced}))}: the "
                    f"foreign key {key} is part of a cycle, is ON DELETE {key.on_delete} and cannot be NULL. Nothing was "
                    "changed. Reset outside of a transaction, where SQLite can switch foreign keys off."
                )
    return tuple(found)


def refuse_actions(
    connection: BaseDatabaseWrapper, schema: Schema, steps: Sequence[Step], baseline: Baseline | None
) -> None:
    """Raise :class:`UnsupportedError` for rows that refer to a table to restore by a key that acts at once.

    A changed row of it is deleted and inserted again, and what the key does in between cannot be deferred.
    """
    order = [name for step in steps if step.action in {Action.DELETE, Action.RESTORE} for name in step.names]
    places = {name: place for place, name in enumerate(order)}
    kept = baseline.tables.keys() if baseline is not None else frozenset()
    keys = [
        key
        for step in steps
        if step.action is Action.RESTORE
        for name in step.names
        for key in schema.referencing.get(name, ())
        # If all referring rows are deleted before, nothing refers any more.
        if key.on_delete is not OnDelete.NO_ACTION
        and (places.get(key.table, len(order)) >= places[name] or {key.table, name} <= kept)
    ]
    if not keys:
        return
    with snapshot(connection) as cursor:
        if not fetch(connection, cursor, "PRAGMA foreign_keys")[0][0]:
            return
        for key in keys:
            refers = " AND ".join(f"{quote_name(column)} IS NOT NULL" for column in key.columns)
            query = f"SELECT 1 AS found FROM {quote_qualified(key.table)} WHERE {refers} LIMIT 1"
            if fetch(connection, cursor, query):
                raise UnsupportedError(
                    f"Within a transaction SQLite cannot restore {key.referenced}: rows of {key.table} refer to it by the "
                    f"foreign key {key}, which is ON DELETE {key.on_delete}. Nothing was changed. Reset outside of a "
                    "transaction, where SQLite can switch foreign keys off."
                )


def set_null(key: ForeignKey, column: str) -> str:
    """Return the statement that sets one column of a key to NULL."""
    name = quote_name(column)
    return f"UPDATE {quote_qualified(key.table)} SET {name} = NULL WHERE {name} IS NOT NULL"
