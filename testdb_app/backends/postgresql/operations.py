"""Writing a plan as PostgreSQL's SQL. Pure: nothing is sent from here.

- Tables are locked in SHARE ROW EXCLUSIVE mode first: writers of other sessions, finished or not, conflict with it and
  are waited for; readers do not. READ COMMITTED, so that every statement sees what those writers committed.
- Truncations come before deletions, which may leave trigger events pending that TRUNCATE refuses.
- A cycle is one statement with a DELETE per common table expression: NO ACTION and RESTRICT alike are checked at the
  end of the whole statement.
- What would fire on, hide from or rewrite the DELETE (user triggers, forced row security, rules) is switched off for
  this transaction and put back as it was; the owner of the table may do that.
- Sequences restart by ALTER SEQUENCE, which is transactional and also voids other sessions' cached values; setval() is
  neither. It is used only by a role that does not own the sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many

from testdb_app.backends.base import Action, Mark, Script, Statement, Step
from testdb_app.schema import ForeignKey, QualifiedName, Schema, Table

SHARED = "SHARE ROW EXCLUSIVE"
EXCLUSIVE = "ACCESS EXCLUSIVE"

_RESTORE = {"origin": "ENABLE", "always": "ENABLE ALWAYS"}


def quote(name: QualifiedName | str) -> str:
    """Quote an identifier, or a qualified one, for SQL."""
    if isinstance(name, QualifiedName):
        return f"{quote(name.schema)}.{quote(name.name)}"
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a text for SQL, whatever ``standard_conforming_strings`` says."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'" if "\\" in text else f"'{escaped}'"


def milliseconds(seconds: float) -> int:
    """Return *seconds* as the server takes a time-out: 0 would mean none."""
    return max(1, round(seconds * 1000))


def write_script(
    schema: Schema,
    steps: Many[Step],
    *,
    checks: Many[ForeignKey],
    verify: Many[QualifiedName],
    lock_timeout: float,
    within_transaction: bool,
) -> Script:
    """Write *steps* as one transaction, or inside the caller's as one savepoint."""
    deleted = [name for step in steps if step.action is Action.DELETE for name in step.names]
    off, on = _switches(schema, steps)
    locks = _locks(schema, steps, checks)
    body = [
        *(Statement(sql=sql) for sql in off),
        *_truncations(schema, steps),
        *(_delete(step) for step in steps if step.action is Action.DELETE),
    ]
    if on:
        # A table with pending events of deferred keys cannot be altered.
        body.append(Statement(sql="SET CONSTRAINTS ALL IMMEDIATE"))
        body.extend(Statement(sql=sql) for sql in on)
    body.extend(_restart(schema, step) for step in steps if step.action is Action.RESTART)
    return Script(
        opening=tuple(
            Statement(sql=sql)
            for sql in (
                *_begin(lock_timeout, within_transaction),
                *_lock_statements(schema, steps, deleted, checks),
            )
        ),
        body=tuple(body),
        closing=tuple(Statement(sql=sql) for sql in _end(within_transaction)),
        checks=tuple(checks),
        verify=tuple(verify),
        locks=locks,
    )


def write_mark(mark: Mark, database: str, *, present: bool) -> str:
    """Write the making or dropping of the table ``testdb.protected`` or ``testdb.test``; a dump or a copy carries it along.

    The name of the *database* that a test mark is for is the table's comment. Needs CREATE on the database.
    """
    if present:
        return (
            "CREATE SCHEMA IF NOT EXISTS testdb;\n"
            f"CREATE TABLE IF NOT EXISTS testdb.{mark} ();\n"
            f"COMMENT ON TABLE testdb.{mark} IS {quote_literal(database)}"
        )
    # The schema stays where it is somebody else's, or has something else in it.
    return (
        f"DROP TABLE IF EXISTS testdb.{mark};\n"
        "DO $$BEGIN DROP SCHEMA IF EXISTS testdb RESTRICT; "
        "EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN END$$"
    )


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
    # A policy that would hide rows from us becomes an error.
    yield "SET LOCAL row_security = off"


def _end(within_transaction: bool) -> Iterator[str]:
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
            needs_more = step.action is Action.DELETE and _needs_exclusive(schema.by_name[name])
            locks[name] = EXCLUSIVE if needs_more else mode
    return locks


def _needs_exclusive(table: Table) -> bool:
    return table.owned and (
        table.hides_rows or any(_fires(rule.enabled) for rule in table.rules if rule.event == "DELETE")
    )


def _lock_statements(
    schema: Schema, steps: Many[Step], deleted: Many[QualifiedName], checks: Many[ForeignKey]
) -> Iterator[str]:
    impatient = [name for step in steps if step.action is Action.TRUNCATE and not step.waits for name in step.names]
    if impatient:
        yield f"LOCK TABLE {_only(schema, impatient)} IN {EXCLUSIVE} MODE NOWAIT"
    stay = [name for name in dict.fromkeys(key.table for key in checks) if schema.by_name[name].stores_rows]
    exclusive = [name for name in deleted if _needs_exclusive(schema.by_name[name])]
    shared = [name for name in (*deleted, *stay) if name not in set(exclusive)]
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


def _restart(schema: Schema, step: Step) -> Statement:
    sequence = schema.sequences_by_name[step.names[0]]
    if sequence.owned:
        return Statement(sql=f"ALTER SEQUENCE {quote(sequence.name)} RESTART")
    return Statement(
        sql=f"SELECT pg_catalog.setval({quote_literal(quote(sequence.name))}::pg_catalog.regclass, {sequence.start}, false)"
    )


def _fires(enabled: str) -> bool:
    return enabled in _RESTORE


def _switches(schema: Schema, steps: Many[Step]) -> tuple[list[str], list[str]]:
    """Return what to switch off before the rows go, and what puts it back exactly as it was."""
    off: list[str] = []
    on: list[str] = []
    for step in steps:
        if step.action is Action.RESTART:
            continue
        event = step.action.value.upper()
        for name in step.names:
            table = schema.by_name[name]
            if not table.owned:
                continue
            switches = [
                (
                    f"DISABLE TRIGGER {quote(trigger.name)}",
                    f"{_RESTORE[trigger.enabled]} TRIGGER {quote(trigger.name)}",
                )
                for trigger in table.triggers
                if trigger.fires_on(event)
            ]
            if step.action is Action.DELETE:
                switches += [
                    (f"DISABLE RULE {quote(rule.name)}", f"{_RESTORE[rule.enabled]} RULE {quote(rule.name)}")
                    for rule in table.rules
                    if rule.event == "DELETE" and _fires(rule.enabled)
                ]
                if table.hides_rows and table.row_security_forced:
                    switches.append(("NO FORCE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY"))
            if switches:
                off.append(f"ALTER TABLE ONLY {quote(name)} " + ", ".join(switch[0] for switch in switches))
                on.append(f"ALTER TABLE ONLY {quote(name)} " + ", ".join(switch[1] for switch in switches))
    return off, on
