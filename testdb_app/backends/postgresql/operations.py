"""Writing a plan as PostgreSQL's SQL. Pure: nothing is sent from here.

- Tables are locked in SHARE ROW EXCLUSIVE mode first: writers of other sessions, finished or not, conflict with it and
  are waited for; readers do not. READ COMMITTED, so that every statement sees what those writers committed. Referenced
  tables are locked before referencing ones, the order in which applications insert: no deadlock with those.
- Truncations come before deletions, which may leave trigger events pending that TRUNCATE refuses.
- A cycle is one statement with a DELETE per common table expression: NO ACTION and RESTRICT alike are checked at the
  end of the whole statement.
- What would fire on, hide from or rewrite the DELETE (user triggers, forced row security, rules) is switched off for
  this transaction and put back as it was; the owner of the table may do that.
- Sequences restart by ALTER SEQUENCE, which is transactional and also voids other sessions' cached values; setval() is
  neither. It is used only by a role that does not own the sequence.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many

from testdb_app.backends.base import Action, DatabaseIdentity, Mark, Script, Statement, Step
from testdb_app.backends.postgresql.preconditions import Precondition
from testdb_app.backends.postgresql.quoting import milliseconds, quote, quote_literal
from testdb_app.backends.postgresql.restoring import needs_exact_text, restore, restore_in_passes, rewrite
from testdb_app.backends.postgresql.shapes import EXACT_TEXT, KEEP_SETTINGS, PUT_SETTINGS_BACK
from testdb_app.backends.postgresql.switches import BY_ROW, events_of, needs_exclusive, switches
from testdb_app.baseline_state import Baseline, SequenceState
from testdb_app.schema import ForeignKey, QualifiedName, Schema

SHARED = "SHARE ROW EXCLUSIVE"
EXCLUSIVE = "ACCESS EXCLUSIVE"

_ROLE = "session_replication_role"

# A policy that would hide rows from us becomes an error.
_REFUSE_TO_HIDE = "SET LOCAL row_security = off"

DROP_SCHEMA = (
    "DO $$BEGIN DROP SCHEMA IF EXISTS testdb RESTRICT; "
    "EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN END$$"
)
"""Drops the schema of the package's own tables; it stays where it is somebody else's, or has something else in it."""


def write_script(
    schema: Schema,
    steps: Many[Step],
    *,
    baseline: Baseline | None = None,
    checks: Many[ForeignKey],
    verify: Many[QualifiedName],
    lock_timeout: float,
    within_transaction: bool,
    for_watch: bool = False,
    identity: DatabaseIdentity | None = None,
) -> Script:
    """Write *steps* as one transaction, or inside the caller's as one savepoint; *for_watch*, see :class:`Script`."""
    truncated = {name for step in steps if step.action is Action.TRUNCATE for name in step.names}
    deleted = [name for step in steps if step.action in BY_ROW for name in step.names if name not in truncated]
    restarted = [name for step in steps if step.action is Action.RESTART for name in step.names]
    off, on = switches(schema, steps)
    begin = _begin(lock_timeout, within_transaction)
    is_replica = identity is not None and identity.is_replica
    if is_replica:
        begin = itertools.chain(begin, [_leave_replica(schema)])
    if for_watch:
        hides = any(schema.by_name[name].hides_rows for name in (*deleted, *truncated))
        begin = iter([_REFUSE_TO_HIDE] if hides else [])
    body = [
        *(Statement(sql=sql) for sql in off),
        *_truncations(schema, steps),
        *_writes(schema, steps, baseline, within_transaction=within_transaction),
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
    if not for_watch:
        body.extend(Statement(sql=sql) for name in restarted for sql in _restart(schema, name, states[name]))
    end = ("COMMIT", set_sequences(states, proof)) if for_watch else _end(within_transaction, is_replica)
    return Script(
        opening=(
            *(Statement(sql=sql) for sql in begin),
            *([] if for_watch or proof is None else [Statement(sql=proof.prove(), is_proof=True)]),
            *(Statement(sql=sql, is_lock=True) for sql in _lock_statements(schema, steps, deleted, checks)),
        ),
        body=tuple(body),
        closing=tuple(Statement(sql=sql) for sql in end),
        checks=tuple(checks),
        verify=tuple(verify),
        locks=_locks(schema, steps, checks),
        baseline=baseline,
        restarted=tuple(restarted),
        is_plain=not (off or on or truncated),
    )


def write_mark(mark: Mark, binding: str, *, present: bool) -> str:
    """Write the making or dropping of the table ``testdb.protected`` or ``testdb.test``; a dump or a copy carries it along.

    The table's comment is the *binding*: which database the mark was given to. Needs CREATE on the database.
    """
    if present:
        return (
            "CREATE SCHEMA IF NOT EXISTS testdb;\n"
            f"CREATE TABLE IF NOT EXISTS testdb.{mark} () USING heap;\n"
            f"COMMENT ON TABLE testdb.{mark} IS {quote_literal(binding)}"
        )
    return f"DROP TABLE IF EXISTS testdb.{mark};\n{DROP_SCHEMA}"


def _begin(lock_timeout: float, within_transaction: bool) -> Iterator[str]:
    if within_transaction:
        yield "SAVEPOINT testdb_reset"
        # SET LOCAL would last to the end of the caller's transaction: keep what to go back to.
        yield (
            "SELECT pg_catalog.set_config('testdb.lock_timeout', pg_catalog.current_setting('lock_timeout'), true), "
            "pg_catalog.set_config('testdb.row_security', pg_catalog.current_setting('row_security'), true)"
        )
    else:
        yield "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
        # A crash of the server within the next second may undo the whole reset, never half of it.
        yield "SET LOCAL synchronous_commit = off"
    yield f"SET LOCAL lock_timeout = '{milliseconds(lock_timeout)}ms'"
    yield _REFUSE_TO_HIDE


def _leave_replica(schema: Schema) -> str:
    """Write what has the transaction fire triggers and rules, and check foreign keys, as in any other session.

    That takes a privilege. A role without it goes on unless a table has what fires in such a session alone. Keys that are not
    checked do no harm: the rows of a baseline keep them, and a query looks for rows that stay and refer to rows which go.
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
    """List tables, each without its inheritance children; a partitioned one stands for its partitions."""
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


def _writes(
    schema: Schema, steps: Many[Step], baseline: Baseline | None, *, within_transaction: bool
) -> Iterator[Statement]:
    exact = False
    if any(step.action is Action.RESTORE for step in steps):
        assert baseline is not None
        # Checks that can wait see the end of it all, in whatever order the rows come.
        yield Statement(sql="SET CONSTRAINTS ALL DEFERRED")
        exact = any(
            needs_exact_text(table) for step in steps for name in step.names if (table := baseline.tables.get(name))
        )
    if exact:
        if within_transaction:
            yield Statement(sql=KEEP_SETTINGS)
        yield Statement(sql=EXACT_TEXT)
    yield from (_delete(step) for step in steps if step.action is Action.DELETE)
    if baseline is not None:
        yield from _restorations(schema, steps, baseline)
    if exact and within_transaction:
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
    # A key that was put back may have changed rows that refer to it, also restored ones: these are put back once more.
    restored = [step.names for step in restores if not step.rewrites]
    if any(
        key.on_update.changes_rows for names in restored for name in names for key in schema.referencing.get(name, ())
    ):
        for names in restored:
            # One that the server refuses to update was not changed by a key.
            accepting = [name for name in names if not schema.by_name[name].refused]
            if accepting:
                yield restore(accepting, baseline)


def _target(schema: Schema, name: QualifiedName, baseline: Baseline | None) -> SequenceState:
    """Return where a sequence belongs: at the baseline's state, or at its start."""
    start = SequenceState(last_value=schema.sequences_by_name[name].start, is_called=False)
    return baseline.sequences.get(name, start) if baseline is not None else start


def _restart(schema: Schema, name: QualifiedName, state: SequenceState) -> Iterator[str]:
    """Put a sequence back, with the transaction: a value set in the new file of a restarted one is undone with it."""
    sequence = schema.sequences_by_name[name]
    if sequence.owned:
        yield f"ALTER SEQUENCE {quote(name)} RESTART"
    if not sequence.owned or state.is_called or state.last_value != sequence.start:
        yield f"SELECT {set_sequence(name, state)}"


def set_sequence(name: QualifiedName, state: SequenceState) -> str:
    """Write the setting of a sequence, which no rollback undoes, as an expression."""
    return (
        f"pg_catalog.setval({quote_literal(quote(name))}::pg_catalog.regclass, {state.last_value}, "
        f"{str(state.is_called).lower()})"
    )


def set_sequences(states: Mapping[QualifiedName, SequenceState], proof: Precondition | None = None) -> str:
    """Write the setting of sequences as one statement; its last column is the transaction id that follows it.

    As it is a transaction of its own, it has a proof of its own: a division by zero where that does not hold.
    """
    if not states:
        return "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text"
    values = ", ".join(set_sequence(name, state) for name, state in states.items())
    # A transaction of its own: it should not wait for the disk.
    return (
        f"SELECT {'' if proof is None else 'p.holds, '}pg_catalog.set_config('synchronous_commit', 'off', true), {values}, "
        "(pg_catalog.pg_current_xact_id()::pg_catalog.text::bigint OPERATOR(pg_catalog.+) 1)::pg_catalog.text"
        + (
            f" FROM (SELECT 1 OPERATOR(pg_catalog./) {proof.holds()}::integer AS holds OFFSET 0) p"
            if proof is not None
            else ""
        )
    )
