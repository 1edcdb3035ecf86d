"""Write the SQL of a reset: deletions, truncations, restorations, sequences, and the switches around them. Pure.

**The transaction**

- Tables are first locked in SHARE ROW EXCLUSIVE mode. Writers of other sessions, finished or not, conflict with it and
  are waited for; readers do not. The level is READ COMMITTED, so that each statement sees what those writers committed.
  Referenced tables are locked before referencing ones. Applications insert in that order, so no deadlock with them
  arises.
- Truncations come before deletions, which may leave trigger events pending that TRUNCATE refuses.
- A cycle is one statement with a DELETE per common table expression: NO ACTION and RESTRICT alike are checked at the end
  of the whole statement.
- Triggers, forced row security and rules that would fire on, hide from or rewrite a statement are switched off for this
  transaction, and put back as they were. Only the owner of the table may do that. For another role, the plan checks the
  tables once more instead.
- Sequences restart by ALTER SEQUENCE, which is transactional and also voids other sessions' cached values; setval() is
  neither. Only a role that does not own the sequence uses setval().

**Restoring a baseline's rows**

A table is compared with its copy by a full join on its key, and only the rows that differ are written: new rows are
deleted, changed rows are updated in place, missing rows are inserted. Rows are compared byte by byte (record_image_ne,
the operator ``*<>``), so that every type has an answer, also types without equality. A table without a key is compared by
the text of its rows, numbered among their equals.

A copy has columns of PostgreSQL's own types only, and no collation of the user's, so that no object of the user's depends
on it. A domain is kept as its base type, any other type of the user's as its text. The text is compared as it is, and
cast back where it is written. Keys are compared by the operators of their own index, in whatever schema these are.

Tables that immediate foreign keys tie together (not deferrable, or RESTRICT) are one statement: the checks run at its
end. In it deletions come first, then updates, then insertions, because unique keys are checked row by row. Each part
reads the count of the parts before, which makes PostgreSQL finish those first. All parts of a statement see the same
snapshot, so none is confused by another.

A function in a CHECK, or in an index, may read other tables, which ties them too; no catalog records that. If a
constraint refuses a row, a block of PL/pgSQL continues without it, and retries it when others are back, until nothing
more can be put back. Rows that did not change are never written, so that they may violate a constraint that is NOT VALID.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many

from testdb_app.backends.base import Action, Mark, ResetPlan, Script, ScriptContext, Statement, Step
from testdb_app.backends.postgresql.baseline_shape import EXACT_TEXT, KEEP_SETTINGS, PUT_SETTINGS_BACK
from testdb_app.backends.postgresql.preconditions import CHANGED_COPY, Precondition, counted_or_changed
from testdb_app.backends.postgresql.sql import EQUALS, equals, milliseconds, quote, quote_literal
from testdb_app.baseline_state import Baseline, BaselineColumn, BaselineTable, SequenceState
from testdb_app.graph import events_of_action
from testdb_app.schema import ForeignKey, QualifiedName, Schema, Table

SHARED = "SHARE ROW EXCLUSIVE"
EXCLUSIVE = "ACCESS EXCLUSIVE"

_ROLE = "session_replication_role"

# A policy that would hide rows from this role becomes an error.
_REFUSE_TO_HIDE = "SET LOCAL row_security = off"

DROP_SCHEMA = (
    "DO $$BEGIN DROP SCHEMA IF EXISTS testdb RESTRICT; "
    "EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN END$$"
)
"""Drops the schema of the package's own tables. It stays if it belongs to somebody else, or contains something else."""


def write_script(plan: ResetPlan, context: ScriptContext) -> Script:
    """Write *plan* as one transaction, or inside the caller's as one savepoint. For a tracker, see :class:`Script`."""
    schema, baseline, steps, identity = context.schema, context.baseline, plan.steps, context.identity
    truncated = {name for step in steps if step.action is Action.TRUNCATE for name in step.names}
    deleted = [name for step in steps if step.action in BY_ROW for name in step.names if name not in truncated]
    restarted = [name for step in steps if step.action is Action.RESTART for name in step.names]
    off, on = switches(schema, steps)
    begin = _begin(context)
    is_replica = identity is not None and identity.is_replica
    if is_replica:
        begin = itertools.chain(begin, [_leave_replica(schema)])
    if context.for_tracker:
        hides = any(schema.by_name[name].hides_rows for name in (*deleted, *truncated))
        begin = iter([_REFUSE_TO_HIDE] if hides else [])
    body = [
        *(Statement(sql=sql) for sql in off),
        *_truncations(schema, steps),
        *_writes(plan, context),
    ]
    if on:
        # A table with pending events of deferred keys cannot be altered.
        body.append(Statement(sql="SET CONSTRAINTS ALL IMMEDIATE"))
        body.extend(Statement(sql=sql) for sql in on)
    states = {name: _target(schema, name, baseline) for name in restarted}
    proof = None
    if identity is not None:
        restored = (name for step in steps if step.action is Action.RESTORE for name in step.names)
        copies = [table.copy.name for name in restored if baseline and (table := baseline.tables.get(name)) is not None]
        proof = Precondition.of(identity, owners=schema.trusted_owners, reads=copies)
    if not context.for_tracker:
        body.extend(Statement(sql=sql) for name in restarted for sql in _restart(schema, name, states[name]))
    end = () if context.for_tracker else _end(context.within_transaction, is_replica)
    return Script(
        opening=(
            *(Statement(sql=sql) for sql in begin),
            *([] if context.for_tracker or proof is None else [Statement(sql=proof.prove(), is_proof=True)]),
            *(Statement(sql=sql) for sql in make_copies(baseline)),
            *(Statement(sql=sql, is_lock=True) for sql in _lock_statements(schema, steps, deleted, plan.checks)),
        ),
        body=tuple(body),
        closing=tuple(Statement(sql=sql) for sql in end),
        checks=plan.checks,
        verify=plan.verify,
        locks=_locks(schema, steps, plan.checks),
        baseline=baseline,
        restarted=states,
        is_plain=not (off or on or truncated),
    )


def write_mark(mark: Mark, binding: str, *, present: bool) -> str:
    """Write the creation or removal of the table ``testdb.protected`` or ``testdb.test``. A dump or a copy includes it.

    The table's comment is the *binding*: the database that the mark was given to. Needs CREATE on the database.
    """
    if present:
        return (
            "CREATE SCHEMA IF NOT EXISTS testdb;\n"
            f"CREATE TABLE IF NOT EXISTS testdb.{mark} () USING heap;\n"
            f"COMMENT ON TABLE testdb.{mark} IS {quote_literal(binding)}"
        )
    return f"DROP TABLE IF EXISTS testdb.{mark};\n{DROP_SCHEMA}"


def _begin(context: ScriptContext) -> Iterator[str]:
    if context.within_transaction:
        yield "SAVEPOINT testdb_reset"
        # SET LOCAL would last to the end of the caller's transaction, so the earlier values are kept.
        yield (
            "SELECT pg_catalog.set_config('testdb.lock_timeout', pg_catalog.current_setting('lock_timeout'), true), "
            "pg_catalog.set_config('testdb.row_security', pg_catalog.current_setting('row_security'), true)"
        )
    else:
        yield "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
        # A crash of the server within the next second may undo the whole reset, never half of it.
        yield "SET LOCAL synchronous_commit = off"
    yield f"SET LOCAL lock_timeout = '{milliseconds(context.lock_timeout)}ms'"
    yield _REFUSE_TO_HIDE


def _leave_replica(schema: Schema) -> str:
    """Write the statement that makes the transaction fire triggers and rules, and check foreign keys, as in any other session.

    That takes a privilege. A role without it continues, unless a table has triggers or rules that fire only in such a
    session. Unchecked keys do no harm: the rows of a baseline keep them, and a query finds rows that stay and refer to
    deleted rows.
    """
    enabled = {each.enabled for table in schema.tables for each in table.triggers}
    enabled |= {each.enabled for table in schema.tables for each in table.rules}
    where = "" if "replica" in enabled else f" WHERE pg_catalog.has_parameter_privilege('{_ROLE}', 'SET')"
    return f"SELECT pg_catalog.set_config('{_ROLE}', 'origin', true){where}"


def _end(within_transaction: bool, is_replica: bool) -> Iterator[str]:
    if within_transaction and is_replica:
        changed = f"pg_catalog.current_setting('{_ROLE}') OPERATOR(pg_catalog.<>) 'replica'"
        yield f"SELECT pg_catalog.set_config('{_ROLE}', 'replica', true) WHERE {changed}"
    if within_transaction:
        yield (
            "SELECT pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('testdb.lock_timeout'), true), "
            "pg_catalog.set_config('row_security', pg_catalog.current_setting('testdb.row_security'), true)"
        )
        yield "RELEASE SAVEPOINT testdb_reset"
    else:
        yield FORGET_SEQUENCES
        yield "COMMIT"


def _locks(schema: Schema, steps: Many[Step], checks: Many[ForeignKey]) -> dict[QualifiedName, str]:
    locks = {key.table: SHARED for key in checks}
    for step in steps:
        mode = EXCLUSIVE if step.action is Action.TRUNCATE else SHARED
        for name in step.names:
            needs_more = step.action in BY_ROW and needs_exclusive(schema.by_name[name], events_of(step))
            locks[name] = EXCLUSIVE if needs_more or locks.get(name) == EXCLUSIVE else mode
    return locks


def _lock_statements(
    schema: Schema, steps: Many[Step], deleted: Many[QualifiedName], checks: Many[ForeignKey]
) -> Iterator[str]:
    impatient = [name for step in steps if step.action is Action.TRUNCATE and not step.waits for name in step.names]
    if impatient:
        yield f"LOCK TABLE {_only(schema, impatient)} IN {EXCLUSIVE} MODE NOWAIT"
    stay = [name for name in dict.fromkeys(key.table for key in checks) if schema.by_name[name].stores_rows]
    events = {name: events_of(step) for step in steps if step.action in BY_ROW for name in step.names}
    exclusive = [name for name in reversed(deleted) if needs_exclusive(schema.by_name[name], events[name])]
    shared = [name for name in (*reversed(deleted), *stay) if name not in set(exclusive)]
    if exclusive:
        yield f"LOCK TABLE {_only(schema, exclusive)} IN {EXCLUSIVE} MODE"
    if shared:
        yield f"LOCK TABLE {_only(schema, shared)} IN {SHARED} MODE"


def _only(schema: Schema, names: Many[QualifiedName]) -> str:
    """List tables, each without its inheritance children. A partitioned table stands for its partitions."""
    return ", ".join(f"ONLY {quote(name)}" if schema.by_name[name].stores_rows else quote(name) for name in names)


def _truncations(schema: Schema, steps: Many[Step]) -> Iterator[Statement]:
    for step in steps:
        if step.action is Action.TRUNCATE:
            yield Statement(sql=f"TRUNCATE {_only(schema, step.names)} CONTINUE IDENTITY RESTRICT")


def _delete(step: Step) -> Statement:
    if len(step.names) == 1:
        return Statement(sql=f"DELETE FROM ONLY {quote(step.names[0])}", counts=step.names)
    deletes = ",\n".join(
        f"d{number} AS (DELETE FROM ONLY {quote(name)} RETURNING 1)" for number, name in enumerate(step.names)
    )
    counts = ", ".join(f"(SELECT pg_catalog.count(*) FROM d{number})" for number in range(len(step.names)))
    return Statement(sql=f"WITH {deletes}\nSELECT {counts}", counts=step.names)


def _writes(plan: ResetPlan, context: ScriptContext) -> Iterator[Statement]:
    steps, baseline, exact = plan.steps, context.baseline, False
    if any(step.action is Action.RESTORE for step in steps):
        assert baseline is not None
        # Checks that can wait see the final state, in whatever order the rows come.
        yield Statement(sql="SET CONSTRAINTS ALL DEFERRED")
        exact = any(
            needs_exact_text(table) for step in steps for name in step.names if (table := baseline.tables.get(name))
        )
    if exact:
        if context.within_transaction:
            yield Statement(sql=KEEP_SETTINGS)
        yield Statement(sql=EXACT_TEXT)
    yield from (_delete(step) for step in steps if step.action is Action.DELETE)
    if baseline is not None:
        yield from _restorations(context.schema, steps, baseline)
    if exact and context.within_transaction:
        # SET LOCAL would last to the end of the caller's transaction.
        yield Statement(sql=PUT_SETTINGS_BACK)


def _restorations(schema: Schema, steps: Many[Step], baseline: Baseline) -> Iterator[Statement]:
    truncated = frozenset(name for step in steps if step.action is Action.TRUNCATE for name in step.names)
    restores = [step for step in steps if step.action is Action.RESTORE]
    groups = [step.names for step in restores if step.in_passes]
    if groups:
        yield restore_in_passes(groups, baseline, truncated=truncated)
    restores = [step for step in restores if not step.in_passes]
    for step in restores:
        if step.rewrites:
            yield from rewrite(step.names, baseline, truncated=truncated)
        else:
            yield restore(step.names, baseline, truncated=truncated)
    # A restored key may have changed rows that refer to it, also restored ones: these are restored once more.
    restored = [step.names for step in restores if not step.rewrites]
    if any(
        key.on_update.changes_rows for names in restored for name in names for key in schema.referencing.get(name, ())
    ):
        for names in restored:
            # A table that the server refuses to update was not changed by a key.
            accepting = [name for name in names if not schema.by_name[name].refused]
            if accepting:
                yield restore(accepting, baseline)


def _target(schema: Schema, name: QualifiedName, baseline: Baseline | None) -> SequenceState:
    """Return the state that a sequence goes back to: the baseline's state, or its start."""
    start = SequenceState(last_value=schema.sequences_by_name[name].start, is_called=False)
    return baseline.sequences.get(name, start) if baseline is not None else start


def _restart(schema: Schema, name: QualifiedName, state: SequenceState) -> Iterator[str]:
    """Put a sequence back. A rollback also undoes a value that is set in the new file of a restarted sequence."""
    sequence = schema.sequences_by_name[name]
    if sequence.owned:
        yield f"ALTER SEQUENCE {quote(name)} RESTART"
    if not sequence.owned or state.is_called or state.last_value != sequence.start:
        yield f"SELECT {set_sequence(name, state)}"


def set_sequence(name: QualifiedName, state: SequenceState) -> str:
    """Write the setval() of a sequence as an expression. No rollback undoes it."""
    return (
        f"pg_catalog.setval({quote_literal(quote(name))}::pg_catalog.regclass, {state.last_value}, "
        f"{str(state.is_called).lower()})"
    )


SET_SEQUENCES = """
SELECT pg_catalog.set_config('synchronous_commit', 'off', true),
       pg_catalog.count(pg_catalog.setval(u.o::pg_catalog.regclass, u.value, u.called)),
       (pg_catalog.pg_current_xact_id()::pg_catalog.text::bigint OPERATOR(pg_catalog.+) 1)::pg_catalog.text
  FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.oid[]), pg_catalog.unnest($2::bigint[]),
                  pg_catalog.unnest($3::boolean[])) u(o, value, called)
"""
"""Sets sequences after the commit of a tracker's reset. It needs no proof of its own.

It is in the same batch of the protocol: a proof that fails has the server skip the whole batch, and no pool can lead a part of
it elsewhere, because no ReadyForQuery comes before its end. Parameters, as arrays: the OIDs, the last values, whether these are
called. Columns: (a setting, their number), the transaction id that follows.
"""

FORGET_SEQUENCES = "DISCARD SEQUENCES"
"""Has the session forget ``currval()`` and ``lastval()``. It may have them from the reset itself: from a trigger or setval()."""

BY_ROW = frozenset({Action.DELETE, Action.RESTORE})
"""The actions that work row by row, so that row-level triggers, rules and keys apply."""

_ENABLE = {"origin": "ENABLE", "always": "ENABLE ALWAYS"}


def needs_exclusive(table: Table, events: frozenset[str]) -> bool:
    """Whether switching for *events* takes a lock that readers wait for, too."""
    return table.owned and (
        table.hides_rows
        or _needs_identity(table, events)
        or any(_fires(rule.enabled) for rule in table.rules if rule.event in events)
    )


def events_of(step: Step) -> frozenset[str]:
    """Return what the step does to a table, as triggers and rules call it."""
    if step.action is Action.RESTORE:
        return frozenset({"DELETE", "UPDATE", "INSERT"})
    return frozenset({step.action.value.upper()})


def _needs_identity(table: Table, events: Iterable[str]) -> bool:
    """Whether the server refuses these events as long as the table has no other replica identity."""
    identity = table.replica_identity
    return identity is not None and identity.clause is not None and not identity.refused.isdisjoint(events)


def _fires(enabled: str) -> bool:
    return enabled in _ENABLE


def switches(schema: Schema, steps: Many[Step]) -> tuple[list[str], list[str]]:
    """Return the statements that switch off what would interfere, and those that put it back exactly as it was."""
    off: list[str] = []
    on: list[str] = []
    by_row = {name for step in steps if step.action in BY_ROW for name in step.names}
    for name, events in _events_by_table(schema, steps).items():
        table = schema.by_name[name]
        pairs = dict(_switches_of(table, events)) if table.owned else {}
        if table.owned and name in by_row and table.hides_rows and table.row_security_forced:
            pairs["NO FORCE ROW LEVEL SECURITY"] = "FORCE ROW LEVEL SECURITY"
        if pairs:
            off.append(f"ALTER TABLE ONLY {quote(name)} {', '.join(pairs)}")
            on.append(f"ALTER TABLE ONLY {quote(name)} {', '.join(pairs.values())}")
    return off, on


def accept_deletes(schema: Schema, names: Iterable[QualifiedName]) -> tuple[list[str], list[str]]:
    """Return the statements that allow deletes from published tables without a key, and those that restore the identity."""
    tables = sorted({*names, *(below for name in names for below in _partitions_below(schema, name))})
    steps = [Step(action=Action.DELETE, names=(name,)) for name in tables]
    found = [
        schema.by_name[name]
        for name, events in _events_by_table(schema, steps).items()
        if schema.by_name[name].owned and _needs_identity(schema.by_name[name], events)
    ]
    return (
        [f"ALTER TABLE ONLY {quote(table.name)} REPLICA IDENTITY FULL" for table in found],
        [
            f"ALTER TABLE ONLY {quote(table.name)} REPLICA IDENTITY {table.replica_identity.clause}"
            for table in found
            if table.replica_identity is not None
        ],
    )


def _events_by_table(schema: Schema, steps: Many[Step]) -> dict[QualifiedName, set[str]]:
    found: dict[QualifiedName, set[str]] = {}
    for step in steps:
        if step.action is Action.RESTART or schema.inert.issuperset(step.names):
            continue
        # The queries of foreign keys read the partitioned table, and obey its rules.
        for name in (*step.names, *_partitioned_above(schema, step.names)):
            found.setdefault(name, set()).update(events_of(step))
        if step.action in BY_ROW:
            for name in step.names:
                for key in schema.referencing.get(name, ()):
                    if events := events_of_action(key, restored=step.action is Action.RESTORE):
                        found.setdefault(key.table, set()).update(events)
                        # Its query reads the partitioned table, and the server checks the identity of every partition.
                        for below in _partitions_below(schema, key.table):
                            if schema.by_name[below].replica_identity is not None:
                                found.setdefault(below, set()).update(events)
    return found


def _switches_of(table: Table, events: set[str]) -> Iterator[tuple[str, str]]:
    for trigger in table.triggers:
        if any(trigger.fires_on(event) for event in events):
            yield f"DISABLE TRIGGER {quote(trigger.name)}", f"{_ENABLE[trigger.enabled]} TRIGGER {quote(trigger.name)}"
    for rule in table.rules:
        if rule.event in events and _fires(rule.enabled):
            yield f"DISABLE RULE {quote(rule.name)}", f"{_ENABLE[rule.enabled]} RULE {quote(rule.name)}"
    if table.replica_identity is not None and _needs_identity(table, events):
        yield "REPLICA IDENTITY FULL", f"REPLICA IDENTITY {table.replica_identity.clause}"


def _partitions_below(schema: Schema, name: QualifiedName) -> list[QualifiedName]:
    """Return the partitions of a table, at every level."""
    found: list[QualifiedName] = []
    work = [name]
    while work:
        below = schema.partitions.get(work.pop(), ())
        found += below
        work += below
    return sorted(found)


def _partitioned_above(schema: Schema, names: Many[QualifiedName]) -> list[QualifiedName]:
    """Return the tables that *names* are partitions of, at every level."""
    found: list[QualifiedName] = []
    work = [name for name in names if schema.by_name[name].is_partition]
    while work:
        for above in schema.by_name[work.pop()].inherits:
            if above in schema.by_name and above not in found:
                found.append(above)
                work.append(above)
    return sorted(found)


def needs_exact_text(table: BaselineTable) -> bool:
    """Whether rows of the table are compared by a text, which depends on the session's settings."""
    return not table.key or any(column.type for column in table.columns)


def copy(table: BaselineTable) -> str:
    """Write the creation of a table's copy. The role's default access method is not used."""
    columns = ", ".join(f"{_kept(column, 't', neutral=True)} AS {quote(column.name)}" for column in table.columns)
    return f"CREATE TABLE {quote(table.copy)} USING heap AS SELECT {columns} FROM ONLY {quote(table.name)} AS t"


def make_copies(baseline: Baseline | None) -> tuple[str, ...]:
    """Return the statements that make the copies that the database does not keep."""
    loading = baseline.loading if baseline is not None else ()
    # The texts of the values are read under the settings that they were written under.
    # The tablespace of the database is permitted whoever owns it, and pg_default may be another one.
    return (EXACT_TEXT, "SET LOCAL temp_tablespaces = ''", *loading) if loading else ()


def temporary_copy(table: BaselineTable) -> str:
    """Write the creation of a copy without rows that is gone at the end of the transaction."""
    columns = ", ".join(f"{_kept(column, 't', neutral=True)} AS {quote(column.name)}" for column in table.columns)
    return (
        f"CREATE TEMPORARY TABLE {quote(table.copy)} USING heap ON COMMIT DROP "
        f"AS SELECT {columns} FROM ONLY {quote(table.name)} AS t WITH NO DATA"
    )


_VALUES_A_CALL = 90
_CHARACTERS_A_STATEMENT = 100_000


def read_values(table: BaselineTable) -> str:
    """Write the query that returns the rows of a copy as SQL, each as its values in parentheses."""
    columns = [f"c.{quote(column.name)}" for column in table.columns]
    # format() takes 100 arguments at most. Unlike a cast, it gives the very text that reads back as the value.
    values = [
        f"pg_catalog.format('{', '.join(['%L'] * len(chunk))}', {', '.join(chunk)})"
        for start in range(0, len(columns), _VALUES_A_CALL)
        if (chunk := columns[start : start + _VALUES_A_CALL])
    ]
    listed = ", ', ', ".join(values)
    return f"SELECT pg_catalog.concat('(', {listed}, ')') FROM {quote(table.copy)} AS c"


def fill_copy(table: BaselineTable, rows: Iterable[str]) -> Iterator[str]:
    """Write the insertion of *rows*, as the query of :func:`read_values` returns them, into the copy."""
    if not table.columns:
        yield f"INSERT INTO {quote(table.copy)} SELECT FROM pg_catalog.generate_series(1, {table.rows})"
        return
    chunk: list[str] = []
    size = 0
    for row in rows:
        if size > _CHARACTERS_A_STATEMENT:
            yield f"INSERT INTO {quote(table.copy)} VALUES {', '.join(chunk)}"
            chunk, size = [], 0
        chunk.append(row)
        size += len(row)
    if chunk:
        yield f"INSERT INTO {quote(table.copy)} VALUES {', '.join(chunk)}"


def count_unreadable(table: BaselineTable) -> str | None:
    """Write the query that counts kept texts which do not give the same text again; None if there can be none."""
    changed = [
        f'{_live(column, "c")}::{column.kept_as} COLLATE "C" OPERATOR(pg_catalog.<>) c.{quote(column.name)} COLLATE "C"'
        for column in table.columns
        if column.type
    ]
    return f"SELECT pg_catalog.count(*) FROM {quote(table.copy)} AS c WHERE {' OR '.join(changed)}" if changed else None


def _kept(column: BaselineColumn, source: str, *, neutral: bool = False) -> str:
    """Write the value of a live column as its copy keeps it; with *neutral* without its collation, a dependency."""
    value = f"{source}.{quote(column.name)}"
    if column.kept_as:
        value = f"{value}::{column.kept_as}"
    return f'{value} COLLATE "C"' if neutral and (column.type or column.collation) else value


def _live(column: BaselineColumn, source: str) -> str:
    """Write the value of a column of the copy as the live one."""
    value = f"{source}.{quote(column.name)}"
    if column.type:
        value = f"{value}::{column.type}"
    return f"({value} COLLATE {column.collation})" if column.collation else value


def live_value(table: BaselineTable, column: str, source: str) -> str:
    """Write the live value that *column* of the copy, called *source*, stands for."""
    return _live(next(found for found in table.columns if found.name == column), source)


def comparable_rows(table: BaselineTable) -> str:
    """Write the rows of the table itself with the types that its copy has."""
    values = ", ".join(f"{_kept(column, 't', neutral=True)} AS {quote(column.name)}" for column in table.columns)
    return f"(SELECT {values} FROM ONLY {quote(table.name)} AS t)"


def comparable_operators(table: BaselineTable) -> tuple[str, ...]:
    """Return the operators by which the key's values are equal in the copy: those of text where they are kept as text."""
    texts = {column.name for column in table.columns if column.type}
    return tuple(EQUALS if name in texts else table.operator(name) for name in table.key)


def _same_key(table: BaselineTable, names: Iterable[str]) -> str:
    """Write the condition under which a row ``t`` of the table and a row ``c`` of its copy have the same key."""
    return " AND ".join(f"t.{quote(name)} {table.operator(name)} {live_value(table, name, 'c')}" for name in names)


def restore(
    names: Many[QualifiedName], baseline: Baseline, *, truncated: frozenset[QualifiedName] = frozenset()
) -> Statement:
    """Write the one statement that puts tables back to *baseline*, or to no rows if it has none of them.

    Into tables that were *truncated* just before it only inserts: the server may refuse to delete from and to update
    them.
    """
    kept = [baseline.tables.get(name) for name in names]
    written = [number for number, name in enumerate(names) if name not in truncated]
    parts: list[str] = []
    for number in written:
        name, table = names[number], kept[number]
        if table is None:
            parts.append(f"d{number} AS (DELETE FROM ONLY {quote(name)} RETURNING 1)")
        else:
            parts.append(f"x{number} AS MATERIALIZED ({_differences(table)})")
            parts.append(
                f"d{number} AS (DELETE FROM ONLY {quote(name)} "
                f"WHERE {equals('ctid', _found(number, 'old', 'new IS NULL'))} RETURNING 1)"
            )
    first = _after("d", written, parts)
    updates = [number for number in written if (table := kept[number]) is not None and table.key]
    for number in updates:
        table = kept[number]
        assert table is not None
        if update := _update(table, number, first):
            parts.append(f"u{number} AS ({update})")
        else:
            parts.append(f"u{number} AS (SELECT 1 WHERE false)")
    then = [part for part in (first, _after("u", updates, parts)) if part]
    for number, table in enumerate(kept):
        if table is not None:
            missing = [equals("c.ctid", _found(number, "new", "old IS NULL"))] if number in written else []
            where = f" WHERE {' AND '.join([*missing, *then])}" if missing or then else ""
            parts.append(f"n{number} AS ({_insert(table)}{where} RETURNING 1)")
    return Statement(
        sql="WITH " + ",\n".join(parts) + "\nSELECT " + ", ".join(_counts(kept, written)),
        changes=tuple(names),
    )


def count_changes(table: BaselineTable) -> str:
    """Write the query that counts the new, the changed and the missing rows."""
    return (
        "SELECT pg_catalog.count(*) FILTER (WHERE new IS NULL), "
        "pg_catalog.count(*) FILTER (WHERE old IS NOT NULL AND new IS NOT NULL), "
        f"pg_catalog.count(*) FILTER (WHERE old IS NULL) FROM ({_differences(table)}) x"
    )


def rewrite(
    names: Many[QualifiedName], baseline: Baseline, *, truncated: frozenset[QualifiedName] = frozenset()
) -> Iterator[Statement]:
    """Write two statements that delete all rows of the tables and insert the baseline's. This always works."""
    deleted = [name for name in names if name not in truncated]
    if deleted:
        deletes = ",\n".join(f"d{n} AS (DELETE FROM ONLY {quote(name)} RETURNING 1)" for n, name in enumerate(deleted))
        yield Statement(
            sql=f"WITH {deletes}\nSELECT "
            + ", ".join(f"(SELECT pg_catalog.count(*) FROM d{n}), 0, 0" for n in range(len(deleted))),
            changes=tuple(deleted),
        )
    kept = [baseline.tables[name] for name in names if name in baseline.tables]
    inserts = ",\n".join(f"n{n} AS ({_insert(table)} RETURNING 1)" for n, table in enumerate(kept))
    yield Statement(
        sql=f"WITH {inserts}\nSELECT "
        + ", ".join(
            _with_proof(table, "0") + f", 0, (SELECT pg_catalog.count(*) FROM n{n})" for n, table in enumerate(kept)
        ),
        changes=tuple(table.name for table in kept),
    )


def _differences(table: BaselineTable) -> str:
    """Select the places of rows that differ: ``old`` in the table, ``new`` in the copy, NULL if there is none."""
    columns = [column for column in table.columns if not column.is_generated]
    left = ", ".join(_kept(column, "t") for column in columns)
    right = ", ".join(f"c.{quote(column.name)}" for column in columns)
    if not table.key:
        rows = (
            "SELECT {side}.ctid, {image} AS image, pg_catalog.row_number() OVER (PARTITION BY {image}) AS number "
            "FROM {source} AS {side}"
        )
        text = 'ROW({})::pg_catalog.text COLLATE "C"'.format
        old = rows.format(side="t", image=text(left), source=f"ONLY {quote(table.name)}")
        new = rows.format(side="c", image=text(right), source=quote(table.copy))
        return (
            f"SELECT t.ctid AS old, c.ctid AS new FROM ({old}) AS t FULL JOIN ({new}) AS c "
            f"ON {equals('t.image', 'c.image')} AND {equals('t.number', 'c.number')} WHERE t.ctid IS NULL OR c.ctid IS NULL"
        )
    # No UPDATE can set some columns; another value in one of them is another row.
    on = dict.fromkeys([*table.key, *(column.name for column in table.columns if column.is_fixed)])
    return (
        f"SELECT t.ctid AS old, c.ctid AS new FROM ONLY {quote(table.name)} AS t FULL JOIN {quote(table.copy)} AS c "
        f"ON {_same_key(table, on)} "
        f"WHERE t.ctid IS NULL OR c.ctid IS NULL OR pg_catalog.record_image_ne(ROW({left}), ROW({right}))"
    )


def _update(table: BaselineTable, number: int, condition: str) -> str | None:
    columns = [column for column in table.columns if not (column.is_generated or column.is_fixed)]
    if not columns:
        return None
    changed = "old IS NOT NULL AND new IS NOT NULL"
    values = ", ".join(f"{quote(column.name)} = {_live(column, 'c')}" for column in columns)
    return (
        f"UPDATE ONLY {quote(table.name)} AS t SET {values} "
        f"FROM {quote(table.copy)} AS c WHERE {equals('t.ctid', _found(number, 'old', changed))} "
        f"AND {equals('c.ctid', _found(number, 'new', changed))} "
        f"AND {_same_key(table, table.key)} AND {condition} RETURNING 1"
    )


def _insert(table: BaselineTable) -> str:
    columns = [column for column in table.columns if not column.is_generated]
    listed = f" ({', '.join(quote(column.name) for column in columns)})" if columns else ""
    values = ", ".join(_live(column, "c") for column in columns)
    # Without it a column GENERATED ALWAYS AS IDENTITY takes no value.
    overriding = " OVERRIDING SYSTEM VALUE" if any(column.is_fixed for column in table.columns) else ""
    return f"INSERT INTO {quote(table.name)}{listed}{overriding} SELECT {values} FROM {quote(table.copy)} AS c"


def _with_proof(table: BaselineTable, value: str) -> str:
    return counted_or_changed(
        quote(table.copy), quote_literal(f"{table.copy}, the copy of {table.name},"), table.rows, value
    )


def checksum(table: BaselineTable) -> str:
    """Write the query of the number of rows in a table's copy, and of a checksum that does not depend on their order.

    It is the sum of 64-bit hashes of the rows: of a value where equal hashes mean equal values, otherwise of its text.
    """
    values = ", ".join(
        f"c.{quote(column.name)}" if column.is_exact else f"c.{quote(column.name)}::pg_catalog.text"
        for column in table.columns
    )
    return (
        f"SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hash_record_extended(ROW({values}), 0))::pg_catalog.text "
        f"FROM {quote(table.copy)} AS c"
    )


def _found(number: int, place: str, condition: str) -> str:
    return f"ANY (ARRAY(SELECT {place} FROM x{number} WHERE {condition}))"


def _after(kind: str, numbers: Many[int], parts: list[str]) -> str:
    """Write a condition that is always true, and that makes PostgreSQL finish those parts of the statement first.

    Many parts are counted once, in a part of their own. Otherwise each later part would repeat all their counts.
    """
    if not numbers:
        return ""
    counted = f"{kind}{numbers[0]}"
    if len(numbers) > 1:
        rows = " UNION ALL ".join(f"SELECT FROM {kind}{number}" for number in numbers)
        counted = f"all_{kind}"
        parts.append(f"{counted} AS MATERIALIZED (SELECT pg_catalog.count(*) AS rows FROM ({rows}) r)")
    return f"(SELECT pg_catalog.count(*) FROM {counted}) OPERATOR(pg_catalog.>=) 0"


def _counts(kept: Many[BaselineTable | None], written: Many[int]) -> Iterator[str]:
    for number, table in enumerate(kept):
        deletes = number in written
        removed = f"(SELECT pg_catalog.count(*) FROM d{number})" if deletes else "0"
        yield removed if table is None else _with_proof(table, removed)
        yield f"(SELECT pg_catalog.count(*) FROM u{number})" if deletes and table is not None and table.key else "0"
        yield f"(SELECT pg_catalog.count(*) FROM n{number})" if table is not None else "0"


REFUSED_ROW = "TDB01"
"""The SQLSTATE of a row that cannot be put back in any order; the detail is JSON."""

_MOST_PASSES = 1_000
_MOST_CHARACTERS = 200


def restore_in_passes(
    groups: Many[Many[QualifiedName]], baseline: Baseline, *, truncated: frozenset[QualifiedName] = frozenset()
) -> Statement:
    """Write a block that restores *groups* of tables one after the other, and retries refused rows after the others.

    A group is first tried as the one statement of :func:`restore`, then table by table, then row by row. The block ends
    when all rows are as they should be. If nothing more can be put back, it raises an error with the SQLSTATE
    ``REFUSED_ROW``.
    """
    # Referenced tables first, as applications insert.
    ordered = [list(reversed(group)) for group in reversed(groups)]
    passes = "\n".join(_group_in_passes(n, group, baseline, truncated) for n, group in enumerate(ordered, 1))
    return Statement(
        sql="DO "
        + quote_literal(f"""DECLARE
    is_done pg_catalog.bool[] := pg_catalog.array_fill(false, ARRAY[{len(ordered)}]);
    has_failed pg_catalog.bool; has_moved pg_catalog.bool; is_well pg_catalog.bool;
    rows pg_catalog.int8; place pg_catalog.record; row_text pg_catalog.text;
    state pg_catalog.text; reason pg_catalog.text; name pg_catalog.text; refusal pg_catalog.json;
BEGIN
    FOR pass IN 1..{_MOST_PASSES} LOOP
        has_failed := false; has_moved := false; refusal := NULL;
{passes}
        IF NOT has_failed THEN RETURN; END IF;
        EXIT WHEN NOT has_moved;
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = {quote_literal(REFUSED_ROW)}, MESSAGE = coalesce(reason, ''),
        DETAIL = coalesce(refusal::pg_catalog.text, '{{}}');
END""")
    )


def _group_in_passes(
    number: int, names: Many[QualifiedName], baseline: Baseline, truncated: frozenset[QualifiedName]
) -> str:
    whole = restore(names, baseline, truncated=truncated).sql
    # All rows are inserted into a truncated table, once.
    again = "" if truncated.isdisjoint(names) else f"IF NOT is_done[{number}] THEN "
    tables = "\n".join(
        _table_in_passes(name, baseline.tables.get(name), is_truncated=name in truncated) for name in names
    )
    return f"""{again}{_try(whole)}
        IF is_well THEN
            IF NOT is_done[{number}] THEN is_done[{number}] := true; has_moved := true; END IF;
        ELSE
            has_failed := true;
{tables}
        END IF; {"END IF;" if again else ""}"""


def _table_in_passes(name: QualifiedName, table: BaselineTable | None, *, is_truncated: bool) -> str:
    moved = "has_moved := has_moved OR (is_well AND rows OPERATOR(pg_catalog.>) 0);"
    if table is None:
        return f"{_try(f'DELETE FROM ONLY {quote(name)}')} {moved}"
    found = f"WITH x0 AS MATERIALIZED ({_differences(table)})"
    extra, missing = _found(0, "old", "new IS NULL"), _found(0, "new", "old IS NULL")
    delete, insert = f"DELETE FROM ONLY {quote(name)} WHERE ctid", f"{_insert(table)} WHERE c.ctid"
    update = _update(table, 0, "true") if table.key else None
    # Rows that exchange unique values cannot be updated one by one: all changed rows are deleted and inserted.
    changed = f"{found} {delete} {EQUALS} {_found(0, 'old', 'old IS NOT NULL')}"
    fill = f"{found} {insert} {EQUALS} {missing}"
    by_table = [
        *((f"{found} {delete} {EQUALS} {extra}",), *([(f"{found} {update}",)] if update else [])),
        (fill,),
        (changed, fill),
    ]
    if is_truncated:
        by_table = [(fill,)]
    statements = "\n".join(f"{_try(*each)} {moved}" for each in by_table)
    values = ", ".join(f"c.{quote(column.name)}" for column in table.columns)
    row = f"pg_catalog.left(ROW({values})::pg_catalog.text, {_MOST_CHARACTERS})"
    described = f"SELECT {row} FROM {quote(table.copy)} AS c WHERE c.ctid {EQUALS} $1"
    change = _update_one(table) or "SELECT WHERE false AND $1 IS NULL AND $2 IS NULL"
    return f"""{statements}
            FOR place IN EXECUTE {quote_literal(_differences(table))} LOOP
                IF place.new IS NULL THEN {_try(f"{delete} {EQUALS} $1", using="place.old")}
                ELSIF place.old IS NULL THEN {_try(f"{insert} {EQUALS} $1", using="place.new")}
                ELSE {_try(change, using="place.old, place.new")} END IF;
                {moved}
                IF NOT is_well AND refusal IS NULL THEN
                    row_text := NULL;
                    IF place.new IS NOT NULL THEN
                        EXECUTE {quote_literal(described)} INTO row_text USING place.new;
                    END IF;
                    refusal := pg_catalog.json_build_object('table', {quote_literal(str(name))}, 'row', row_text,
                        'constraint', name, 'reason', reason);
                END IF;
            END LOOP;"""


def _update_one(table: BaselineTable) -> str | None:
    columns = [column for column in table.columns if not (column.is_generated or column.is_fixed)]
    values = ", ".join(f"{quote(column.name)} = {_live(column, 'c')}" for column in columns)
    if not values:
        return None
    return (
        f"UPDATE ONLY {quote(table.name)} AS t SET {values} FROM {quote(table.copy)} AS c "
        f"WHERE t.ctid {EQUALS} $1 AND c.ctid {EQUALS} $2"
    )


def _try(*statements: str, using: str = "") -> str:
    """Write the execution of *statements* in a subtransaction.

    An error after which the server cannot continue is raised at once.
    """
    given = f" USING {using}" if using else ""
    executed = "; ".join(f"EXECUTE {quote_literal(sql)}{given}" for sql in statements)
    return f"""BEGIN
            is_well := true; {executed};
            GET DIAGNOSTICS rows = ROW_COUNT;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, reason = MESSAGE_TEXT, name = CONSTRAINT_NAME;
            IF pg_catalog.regexp_like(state, '^(40|53|54|55|57|58|XX)') THEN RAISE; END IF;
            IF pg_catalog.strpos(reason, {quote_literal(CHANGED_COPY)}) OPERATOR(pg_catalog.>) 0 THEN RAISE; END IF;
            is_well := false;
        END;"""
