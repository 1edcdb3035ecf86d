"""The baseline inside a PostgreSQL database: tables ``testdb.baseline_1`` … with copies of rows, and ``testdb.baseline``.

The state after a flush is kept in the same way, in ``testdb.flushed_1`` … and ``testdb.flushed``.

The copies are ordinary, logged tables, so that they survive a crash, and a dump, a template copy and a rename of the
database include them. ``testdb.baseline`` has one row, a JSON document. It says what they are copies of, where the
sequences were and what all that depends on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError

from testdb_app.backends.base import OWN_SCHEMA, Capture, DatabaseIdentity, has_autocommit
from testdb_app.backends.postgresql.baseline_shape import (
    EXACT_TEXT,
    PLAIN_SPELLING,
    is_baseline_table,
    make_shape,
    parse_shape,
    parse_tables,
    shape_queries,
)
from testdb_app.backends.postgresql.connection import WITHOUT_JIT, Result, is_nested, rolled_back_on_error, run_sql
from testdb_app.backends.postgresql.counters import writes
from testdb_app.backends.postgresql.errors import ABOUT_OBJECTS, describe_database, sqlstate, translate
from testdb_app.backends.postgresql.operations import (
    DROP_SCHEMA,
    SHARED,
    checksum,
    copy,
    count_unreadable,
    fill_copy,
    make_copies,
    read_values,
    set_sequence,
    temporary_copy,
)
from testdb_app.backends.postgresql.preconditions import (
    Precondition,
    explain_refusal,
    find_refusal,
    own_faults,
    prove_own_schema,
)
from testdb_app.backends.postgresql.queries import chunks, read_rows, rows_of, scalars
from testdb_app.backends.postgresql.sql import milliseconds, qualify, quote, quote_literal
from testdb_app.baseline_state import (
    BASELINE,
    KEPT_STATES,
    Baseline,
    BaselineTable,
    EarlierFormat,
    SequenceState,
    from_document,
    from_earlier_document,
    migration_tables,
    not_as_captured,
    not_proved,
    to_document,
)
from testdb_app.exceptions import (
    BaselineError,
    MissingPrivilegeError,
    TransactionStateError,
    UnsupportedError,
    first_line_of,
)
from testdb_app.schema import QualifiedName, Schema
from testdb_app.selection import make_scope

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# whether there is such a state, whether this role may read it, what is wrong with the schema, the copies
_EXISTS = f"""
SELECT pg_catalog.count(*) > 0,
       coalesce(pg_catalog.bool_and(pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                                    AND pg_catalog.has_table_privilege(c.oid, 'SELECT')), false),
       ({own_faults()}),
       ARRAY(SELECT k.relname::text FROM pg_catalog.pg_class k
               JOIN pg_catalog.pg_namespace s ON s.oid = k.relnamespace
              WHERE s.nspname = 'testdb' AND k.relkind = 'r' AND k.relname ~ '^{{state}}_[0-9]+$')
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'testdb' AND c.relname = '{{state}}'
"""


# The database and its server, and of each copy its columns, its file and what was ever written to it; then the same of
# the document. While this is the same, nobody has written to them. Writes that other sessions have not reported yet are
# missing.
_COUNTERS = """
SELECT pg_catalog.concat_ws('/', pg_catalog.current_database(), pg_catalog.pg_postmaster_start_time(),
           pg_catalog.string_agg(k.counters, ' ' ORDER BY k.relname) FILTER (WHERE k.relname <> '{state}'),
           pg_catalog.max(k.counters) FILTER (WHERE k.relname = '{state}'))
  FROM (SELECT c.relname, pg_catalog.concat_ws(':', c.relname, c.oid, c.relfilenode, {writes},
                   (SELECT pg_catalog.bit_xor(pg_catalog.hash_record_extended((a.attname, a.attnum, a.atttypid), 0))
                      FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)) AS counters
          FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'testdb' AND c.relkind = 'r' AND c.relname ~ '^{state}(_[0-9]+)?$') k
"""

# The counters with which this process has verified the copies of a state, or made them.
_verified: set[tuple[str, str]] = set()


def counters(document: QualifiedName) -> str:
    """Write the query of :attr:`Baseline.counters`. It reads the catalog alone."""
    return _COUNTERS.format(writes=writes("c.oid"), state=document.name)


def _key(baseline: Baseline) -> tuple[str, str]:
    # A document that was made to fit another schema still describes the same copies.
    return baseline.counters.rpartition("/")[0], baseline.captured_at


def read_baseline(connection: BaseDatabaseWrapper, state: str) -> Baseline | None:
    """Read the document; None if there is no such state. Two round trips, and another one to verify the copies.

    The copies are verified at the first use in this process, and after their counters have moved. Raises
    :class:`BaselineDamagedError` if a copy or the document is not as it was captured.
    """
    where = describe_database(connection)
    (((exists, is_readable, faults, copies),),) = read_rows(connection, [_EXISTS.replace("{state}", state)])
    if faults:
        raise explain_refusal(connection, faults)
    if not exists:
        if copies:
            raise not_as_captured(where, [f"its document, {_document(state)}, is gone, and copies are there"])
        return None
    if not is_readable:
        raise MissingPrivilegeError(
            f'The role of the connection "{connection.alias}" may not read the baseline in the schema {OWN_SCHEMA}. Nothing was '
            f"changed. Grant it USAGE on that schema and SELECT on its tables, or connect as the role that captured it.",
            missing={OWN_SCHEMA: "USAGE, SELECT"},
        )
    document = f"SELECT document::text FROM {quote(_document(state))}"
    try:
        queries = [prove_own_schema([state]), document, counters(_document(state))]
        _, rows, ((now,),) = read_rows(connection, queries)
    except DatabaseError as error:
        if sqlstate(error)[:2] not in ABOUT_OBJECTS:
            raise
        raise not_as_captured(where, [f"its document cannot be read ({first_line_of(error)})"]) from error
    if len(rows) != 1:
        raise not_as_captured(where, [f"its document, {_document(state)}, has {len(rows)} rows instead of one"])
    baseline = replace(from_document(json.loads(rows[0][0]), where=where), counters=now, document=_document(state))
    for table in baseline.tables.values():
        # The proofs are about the tables of the schema, and the document must not lead anywhere else.
        if table.copy.schema != OWN_SCHEMA or not is_baseline_table(table.copy.name):
            raise BaselineError(
                f'The baseline of database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") names '
                f"{table.copy} as the copy of a table: it was tampered with. Nothing was "
                "changed. Capture it again: resetdb --recapture."
            )
    missing = [table for table in baseline.tables.values() if table.copy.name not in copies]
    if missing:
        raise not_as_captured(where, [f"{table.copy}, the copy of {table.name}, is gone" for table in missing])
    if _key(baseline) not in _verified:
        _verify(connection, baseline)
        _verified.add(_key(baseline))
    return baseline


def _verify(connection: BaseDatabaseWrapper, baseline: Baseline) -> None:
    """Raise :class:`BaselineDamagedError` if a copy has other rows than when it was made. Costs a scan of all copies."""
    tables, where = list(baseline.tables.values()), describe_database(connection)
    if not tables:
        return
    queries = [prove_own_schema(table.copy.name for table in tables), EXACT_TEXT, *map(checksum, tables)]
    try:
        _, _, *results = read_rows(connection, queries)
    except DatabaseError as error:
        if sqlstate(error)[:2] not in ABOUT_OBJECTS:
            raise
        raise not_as_captured(where, [f"its copies cannot be read ({first_line_of(error)})"]) from error
    faults = []
    for table, ((rows, found),) in zip(tables, results, strict=True):
        if rows != table.rows:
            faults.append(f"{table.copy}, the copy of {table.name}, has {rows} rows instead of {table.rows}")
        elif (found or "") != table.checksum:
            faults.append(f"rows of {table.copy}, the copy of {table.name}, were changed")
    if faults:
        raise not_as_captured(where, faults)


def compare_earlier(connection: BaseDatabaseWrapper, schema: Schema) -> EarlierFormat:
    """Compare every table with its copy in a baseline of the earlier format, by the texts of the rows.

    Raises :class:`BaselineFormatError` if the document or a copy cannot be read.
    """
    where = describe_database(connection)
    try:
        _, _, rows = read_rows(
            connection,
            [
                prove_own_schema([BASELINE]),
                # Nothing can be proved of a table that shows this role only some of its rows: this raises an error.
                "SELECT pg_catalog.set_config('row_security', 'off', true)",
                f"SELECT document::text FROM {quote(_document(BASELINE))}",
            ],
        )
        earlier = from_earlier_document(json.loads(rows[0][0]) if len(rows) == 1 else {}, where=where)
        scope = make_scope(
            schema, included=None, excluded=frozenset(), uncaptured=earlier.excluded, reset_sequences=True
        )
        kept = [table for table in earlier.tables.values() if table.name in scope.tables]
        empty = [name for name in sorted(scope.tables - earlier.tables.keys()) if schema.by_name[name].stores_rows]
        _, _, _, *results = read_rows(
            connection,
            [
                prove_own_schema(table.copy.name for table in kept),
                EXACT_TEXT,
                "SELECT pg_catalog.set_config('row_security', 'off', true)",
                *map(_compare_texts, kept),
                *(f"SELECT EXISTS (SELECT FROM ONLY {quote(name)})" for name in empty),
            ],
            one_snapshot=True,
        )
        states = read_states(connection, sorted(scope.sequences))
    except DatabaseError as error:
        if sqlstate(error)[:2] not in ABOUT_OBJECTS:
            raise
        raise not_proved(where, [first_line_of(error)]) from error
    changes = [f"table {name} is gone" for name in earlier.tables if name not in scope.tables]
    for table, ((is_other, columns),) in zip(kept, results, strict=False):
        if set(columns) != {column.name for column in table.columns}:
            changes.append(f"table {table.name} has other columns")
        elif is_other:
            changes.append(f"table {table.name} has other rows than its copy")
    changes += [
        f"table {name} has rows and had none"
        for name, ((has_rows,),) in zip(empty, results[len(kept) :], strict=True)
        if has_rows
    ]
    restarts = [
        f"SELECT {set_sequence(name, wanted)}"
        for name, state in states.items()
        if state != (wanted := earlier.sequences.get(name) or _start(schema, name))
    ]
    return EarlierFormat(changes=tuple(changes), restarts=tuple(restarts))


def _compare_texts(table: BaselineTable) -> str:
    # Neither side needs an operator of its types, which may be gone, or not on the search path.
    live, copy = (
        f'SELECT ROW(r.*)::text COLLATE pg_catalog."C" FROM ONLY {quote(name)} r' for name in (table.name, table.copy)
    )
    return (
        f"SELECT EXISTS (({live} EXCEPT ALL {copy}) UNION ALL ({copy} EXCEPT ALL {live})), "
        "ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = "
        f"{quote_literal(quote(table.name))}::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped)"
    )


def _start(schema: Schema, name: QualifiedName) -> SequenceState:
    return SequenceState(last_value=schema.sequences_by_name[name].start, is_called=False)


def write_baseline(connection: BaseDatabaseWrapper, capture: Capture) -> Baseline:
    """Capture in one transaction, with writers of *tables* locked out. Costs a copy of every row."""
    if not has_autocommit(connection):
        raise TransactionStateError(
            f'Refusing to capture a baseline: the connection "{connection.alias}" is inside a transaction. Capture it outside.'
        )
    names, state = sorted(capture.tables), capture.state
    try:
        with rolled_back_on_error(connection):
            run_sql(connection, ";\n".join(_opening(names, capture)))
            found = scalars(connection, [f"SELECT EXISTS (SELECT FROM ONLY {quote(name)})::integer" for name in names])
            filled = [name for name, has_rows in zip(names, found, strict=True) if has_rows]
            baseline = _capture(connection, filled, capture)
            run_sql(connection, ";\n".join([*_force_row_security(capture.schema, names, on=True), "COMMIT"]))
            (((now,),),) = read_rows(connection, [counters(_document(state))])
            baseline = replace(baseline, counters=now, document=_document(state))
            _verified.add(_key(baseline))
            return baseline
    except (DatabaseError, InterfaceError) as error:
        if reason := find_refusal(error):
            raise explain_refusal(connection, reason, "capture the baseline of") from error
        raise translate(connection, error, dict.fromkeys(names, SHARED), doing="Capturing the baseline of") from error


def _opening(names: Many[QualifiedName], capture: Capture) -> Iterable[str]:
    yield "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
    yield f"SET LOCAL lock_timeout = '{milliseconds(capture.lock_timeout)}ms'"
    yield "SET LOCAL row_security = off"
    # The tablespace of the database is permitted whoever owns it, and pg_default may be another one.
    yield "SET LOCAL default_tablespace = ''"
    yield WITHOUT_JIT
    yield PLAIN_SPELLING
    yield _prove(capture.identity)
    # Another role may have made a schema of that name just before, and own it.
    yield f"CREATE SCHEMA IF NOT EXISTS {OWN_SCHEMA}"
    yield prove_own_schema()
    yield _drop(capture.state)
    if names:
        yield f"LOCK TABLE {', '.join(f'ONLY {quote(name)}' for name in names)} IN {SHARED} MODE"
    yield from _force_row_security(capture.schema, names, on=False)


def _force_row_security(schema: Schema, names: Many[QualifiedName], *, on: bool) -> Iterable[str]:
    for name in names:
        table = schema.by_name[name]
        if table.owned and table.hides_rows and table.row_security_forced:
            yield f"ALTER TABLE ONLY {quote(name)} {'' if on else 'NO '}FORCE ROW LEVEL SECURITY"


def _capture(connection: BaseDatabaseWrapper, names: Many[QualifiedName], capture: Capture) -> Baseline:
    schema, document, sequences = capture.schema, _document(capture.state), sorted(capture.sequences)
    migrations = migration_tables(schema)
    queries = shape_queries(names, migrations, with_kinds=True)
    results = read_rows(connection, queries)
    shapes = parse_tables(results)
    tables = [
        BaselineTable(
            name=name,
            copy=QualifiedName(OWN_SCHEMA, f"{capture.state}_{number}"),
            rows=0,
            columns=shapes[name].columns,
            key=shapes[name].key,
            operators=shapes[name].operators,
        )
        for number, name in enumerate(names, 1)
    ]
    tables = [replace(table, rows=run_sql(connection, copy(table))[0].row_count) for table in tables]
    _check_readable(connection, tables)
    sums = (
        [rows_of(result)[0][1] for result in run_sql(connection, ";\n".join(map(checksum, tables)))] if tables else []
    )
    tables = [replace(table, checksum=found or "") for table, found in zip(tables, sums, strict=True)]
    states = read_states(connection, sequences)
    (((now,),),) = read_rows(
        connection, ["SELECT pg_catalog.to_char(pg_catalog.now(), 'YYYY-MM-DD\"T\"HH24:MI:SSTZH:TZM')"]
    )
    starts = {name: _start(schema, name) for name in sequences}
    baseline = Baseline(
        captured_at=now,
        tables={table.name: table for table in tables},
        sequences={name: state for name, state in states.items() if state != starts[name]},
        excluded=capture.excluded,
        migrations=migrations,
        shape=make_shape(schema, parse_shape(results)),
    )
    content = quote_literal(json.dumps(to_document(baseline)))
    statements = [
        # The key is for publications of all tables: without one the server refuses every UPDATE.
        (
            f"CREATE TABLE {quote(document)} (id integer PRIMARY KEY DEFAULT 1, document pg_catalog.jsonb NOT NULL) "
            "USING heap"
        ),
        f"INSERT INTO {quote(document)} (document) VALUES ({content})",
        # After setval() the next call of a sequence is certain to be logged, and so takes a transaction id.
        *(f"SELECT {set_sequence(name, state)}" for name, state in states.items() if state.is_called),
    ]
    run_sql(connection, ";\n".join(statements))
    return baseline


def _check_readable(connection: BaseDatabaseWrapper, tables: Iterable[BaselineTable]) -> None:
    """Raise :class:`UnsupportedError` for a table with values of a type whose text cannot be read, or reads as another value."""
    for table in tables:
        query = count_unreadable(table)
        if query is None:
            continue
        why = "it reads back as another value"
        try:
            run_sql(connection, "SAVEPOINT testdb_capture")
            ((unreadable,),) = rows_of(run_sql(connection, query)[0])
        except DatabaseError as error:
            run_sql(connection, "ROLLBACK TO SAVEPOINT testdb_capture")
            unreadable, why = table.rows, first_line_of(error)
        if unreadable:
            kinds = ", ".join(f"{c.name} ({c.type})" for c in table.columns if c.type)
            raise UnsupportedError(
                f'A baseline of database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") cannot keep the rows '
                f"of {table.name}: a baseline keeps values of types that are not PostgreSQL's own as text, here {kinds}, "
                f"and the text of {unreadable} row(s) cannot be read back: {why}. Nothing was changed. Empty this table first, "
                "or exclude it from the baseline."
            )


def read_states(connection: BaseDatabaseWrapper, names: Many[QualifiedName]) -> dict[QualifiedName, SequenceState]:
    """Read the sequences themselves. One round trip per 2,000."""
    states: dict[QualifiedName, SequenceState] = {}
    for chunk in chunks(names, 2_000):
        results = run_sql(connection, ";\n".join(f"SELECT last_value, is_called FROM {quote(name)}" for name in chunk))
        for name, result in zip(chunk, results, strict=True):
            ((value, called),) = rows_of(result)
            states[name] = SequenceState(last_value=value, is_called=called)
    return states


def rewrite_baseline(
    connection: BaseDatabaseWrapper, baseline: Baseline, state: str, identity: DatabaseIdentity | None
) -> Baseline:
    """Replace the document, and return the baseline with the counters that this has moved. One round trip."""
    document = quote_literal(json.dumps(to_document(baseline)))
    results = _write(
        connection,
        f"{_prove(identity, [state])};\nUPDATE {quote(_document(state))} SET document = {document};\n"
        # Several statements in one message are one transaction, and nobody else writes the document in between.
        f"{qualify(counters(_document(state)))}",
        "rewrite",
    )
    ((now,),) = rows_of(results[-1])
    return replace(baseline, counters=now)


def carry_baseline(source: BaseDatabaseWrapper, target: BaseDatabaseWrapper, baseline: Baseline) -> Baseline:
    """Return *baseline* for another database, with copies that are temporary tables there.

    Rows are read in one message for each table.
    """
    numbers = [
        table.name for table in baseline.tables.values() if _NUMBERS_OF_OBJECTS & {c.kept_as for c in table.columns}
    ]
    if numbers:
        raise UnsupportedError(
            f"The rows of {', '.join(map(str, numbers))} name objects of their database (regclass or the like), which have other "
            "numbers in every other one. Nothing was changed. Leave these tables out: --exclude."
        )
    (((may_make,),),) = read_rows(target, [_MAY_MAKE_TEMPORARY])
    if not may_make:
        name = target.settings_dict["NAME"]
        raise MissingPrivilegeError(
            f'The role of the connection "{target.alias}" may not make temporary tables in database "{name}", which hold the '
            f"rows until they are compared. Nothing was changed. GRANT TEMPORARY ON DATABASE {quote(name)} to it.",
            missing={str(name): "TEMPORARY"},
        )
    tables = {}
    for number, table in enumerate(baseline.tables.values(), 1):
        _, rows = read_rows(source, [EXACT_TEXT, read_values(table)]) if table.columns else ([], [])
        carried = replace(table, copy=QualifiedName("pg_temp", f"testdb_migrated_{number}"))
        filling = fill_copy(carried, (row for (row,) in rows))
        tables[table.name] = replace(carried, loading=(temporary_copy(carried), *filling))
    return replace(baseline, tables=tables, counters="", document=None)


_NUMBERS_OF_OBJECTS = {"pg_catalog.oid", "pg_catalog._oid"}
_MAY_MAKE_TEMPORARY = (
    "SELECT pg_catalog.has_database_privilege(d.oid, 'TEMPORARY') FROM pg_catalog.pg_database d "
    "WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"
)


@contextmanager
def copies_made(connection: BaseDatabaseWrapper, baseline: Baseline | None) -> Iterator[None]:
    """Make the copies that the database does not keep, in a transaction that is rolled back after the block.

    In a transaction of ours they are there already.
    """
    copies = make_copies(baseline)
    if not copies or is_nested(connection):
        yield
        return
    with rolled_back_on_error(connection):
        run_sql(connection, ";\n".join(["BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", *copies]))
        yield
        run_sql(connection, "ROLLBACK")


def drop_baseline(connection: BaseDatabaseWrapper, identity: DatabaseIdentity | None) -> None:
    """Drop the documents and the copies, and the schema if it contains nothing else."""
    _write(connection, ";\n".join([_prove(identity), *map(_drop, KEPT_STATES), DROP_SCHEMA]), "drop")


def _prove(identity: DatabaseIdentity | None, reads: Iterable[str] | None = None) -> str:
    """Write the proof that the transaction may write, also to the relations *reads* in the schema (None: to all of it)."""
    return prove_own_schema(reads) if identity is None else Precondition.of(identity, reads=reads).prove()


def _write(connection: BaseDatabaseWrapper, sql: str, doing: str) -> list[Result]:
    try:
        return run_sql(connection, sql)
    except DatabaseError as error:
        if reason := find_refusal(error):
            raise explain_refusal(connection, reason, f"{doing} the baseline of") from error
        raise


def _document(state: str) -> QualifiedName:
    return QualifiedName(OWN_SCHEMA, state)


def _drop(state: str) -> str:
    return (
        "DO $$DECLARE t pg_catalog.name; BEGIN "
        + qualify(
            "FOR t IN SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            f"WHERE n.nspname = 'testdb' AND c.relkind = 'r' AND c.relname ~ '^{state}(_[0-9]+)?$' LOOP "
        )
        + "EXECUTE pg_catalog.format('DROP TABLE testdb.%I', t); END LOOP; END$$"
    )
