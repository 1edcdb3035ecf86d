"""Read PostgreSQL's catalog in one round trip: the schema, the identity, sizes, details, sequence states.

Names are joined on OIDs throughout: a constraint's name is unique only within its table, and ``information_schema`` shows
no foreign key at all to a role that owns nothing.

The sequences that are not at their start are found exactly, including those that setval(…, false) or RESTART WITH moved.
From PostgreSQL 18 on one function returns the state. Before, each sequence must be read itself. Each read keeps a
sequence locked to the end of the message, so many sequences are read in parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Sequence as Rows
from functools import partial
from typing import TYPE_CHECKING, Any

from testdb_app.backends.base import OWN_SCHEMA, DatabaseIdentity, Mark
from testdb_app.backends.postgresql import catalog
from testdb_app.backends.postgresql.baseline_shape import is_baseline_table
from testdb_app.backends.postgresql.catalog import USER_SCHEMAS
from testdb_app.backends.postgresql.connection import server_version
from testdb_app.backends.postgresql.preconditions import OWNERS
from testdb_app.backends.postgresql.queries import chunks, read_rows
from testdb_app.backends.postgresql.sql import qualify, quote, quote_literal
from testdb_app.baseline_state import SequenceState
from testdb_app.exceptions import UnsupportedError
from testdb_app.schema import (
    Column,
    DerivedRelation,
    ForeignKey,
    LeftOut,
    OnDelete,
    QualifiedName,
    ReplicaIdentity,
    Rule,
    Schema,
    SequenceInfo,
    SequenceUse,
    Table,
    TableDetails,
    TableKind,
    Trigger,
    UniqueKey,
    gather_details,
    show_part,
)

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_ON_DELETE = {
    "a": OnDelete.NO_ACTION,
    "r": OnDelete.RESTRICT,
    "c": OnDelete.CASCADE,
    "n": OnDelete.SET_NULL,
    "d": OnDelete.SET_DEFAULT,
}
_ENABLED = {"O": "origin", "A": "always", "R": "replica", "D": "disabled"}
_TRIGGER_EVENTS = ((4, "INSERT"), (8, "DELETE"), (16, "UPDATE"), (32, "TRUNCATE"))
_RULE_EVENTS = {"2": "UPDATE", "3": "INSERT", "4": "DELETE"}
_LEFT_OUT = {"f": "foreign table", "t": "temporary table", "own": "kept by testdb_app itself"}


_NO_IDENTIFIER = (
    "The role may not execute pg_control_system(), so this server is identified only by the time of its start. Have a "
    "superuser run: GRANT EXECUTE ON FUNCTION pg_control_system() TO the role."
)
_SLOTS = (
    "The logical replication slots of this database ({slots}) pass its changes on: a subscriber also deletes the rows that a "
    "reset deletes. If that is not intended, drop the subscription or the publication."
)


def read_schema(connection: BaseDatabaseWrapper) -> Schema:
    """Read the whole schema from one snapshot, with its token.

    One round trip, and another if there are publications, or if an extension keeps rows elsewhere. 10,000 tables with
    20,000 foreign keys take about a second.
    """
    queries = [
        catalog.TOKEN,
        catalog.EVENT_TRIGGERS,
        OWNERS,
        catalog.TABLES,
        catalog.foreign_keys(server_version(connection)),
        catalog.SEQUENCES,
        catalog.TRIGGERS,
        catalog.RULES,
        catalog.MATERIALIZED_VIEWS,
        catalog.STORES,
        catalog.HAS_PUBLICATIONS,
    ]
    read = partial(read_rows, connection, first=[catalog.SEARCH_PATH], one_snapshot=True)
    rows = read(queries)
    published_rows: Rows[Rows[Any]] = []
    if rows.pop()[0][0]:
        # Planning that query takes as long as a quarter of the others. All of them run again, for one snapshot.
        *rows, published_rows = read([*queries[:-1], catalog.PUBLISHED])
    (
        path,
        token,
        event_triggers,
        owner_rows,
        table_rows,
        key_rows,
        sequence_rows,
        trigger_rows,
        rule_rows,
        view_rows,
        store_rows,
    ) = rows
    names = {row[0]: QualifiedName(row[1], row[2]) for row in table_rows}
    kept = {row[0]: row for row in table_rows if _reason_to_leave_out(row) is None}
    return Schema(
        vendor="postgresql",
        token=parse_token(path, token),
        search_path=tuple(path[0][0]),
        has_ddl_event_triggers=event_triggers[0][0],
        trusted_owners=tuple(owner_rows[0][0]),
        tables=_tables(
            kept.values(),
            names,
            trigger_rows,
            rule_rows,
            published_rows,
            _read_stored_by(connection, [name for (name,) in store_rows]),
        ),
        foreign_keys=_foreign_keys(key_rows, names, kept),
        sequences=_sequences(sequence_rows, names),
        materialized_views=_materialized_views(view_rows, names),
        left_out=tuple(
            sorted(
                LeftOut(name=names[row[0]], reason=reason)
                for row in table_rows
                if (reason := _reason_to_leave_out(row)) is not None
            )
        ),
    )


def parse_token(path: Rows[Rows[Any]], digest: Rows[Rows[Any]]) -> str:
    """Make the token from the rows of :data:`catalog.SEARCH_PATH` and :data:`catalog.TOKEN`."""
    return f"{digest[0][0]}/{','.join(path[0][0])}"


def _reason_to_leave_out(row: Rows[Any]) -> str | None:
    _, schema, name, kind, persistence, *_ = row
    if persistence == "t":
        return _LEFT_OUT["t"]
    if kind == "f":
        return _LEFT_OUT["f"]
    # Somebody else may have a schema of that name, with tables that keys connect with the others.
    is_own = schema == OWN_SCHEMA and (name in set(Mark) or is_baseline_table(name))
    return _LEFT_OUT["own"] if is_own else None


def _tables(
    rows: Iterable[Rows[Any]],
    names: Mapping[int, QualifiedName],
    trigger_rows: Iterable[Rows[Any]],
    rule_rows: Iterable[Rows[Any]],
    published_rows: Iterable[Rows[Any]],
    stored_by: Mapping[QualifiedName, str],
) -> tuple[Table, ...]:
    identities = parse_replica_identities(published_rows)
    triggers: dict[int, list[Trigger]] = {}
    for oid, name, kind, enabled in trigger_rows:
        events = tuple(event for bit, event in _TRIGGER_EVENTS if kind & bit)
        triggers.setdefault(oid, []).append(Trigger(name=name, events=events, enabled=_ENABLED[enabled]))
    rules: dict[int, list[Rule]] = {}
    for oid, name, event, enabled in rule_rows:
        rules.setdefault(oid, []).append(Rule(name=name, event=_RULE_EVENTS[event], enabled=_ENABLED[enabled]))
    tables = [
        Table(
            name=names[oid],
            oid=oid,
            kind=TableKind.PARTITIONED if kind == "p" else TableKind.ORDINARY,
            is_partition=is_partition,
            inherits=tuple(sorted(names[parent] for parent in parents if parent in names)),
            extension=extension,
            owner=owner,
            owned=owned,
            unlogged=persistence == "u",
            hides_rows=hides_rows,
            row_security_forced=forced,
            triggers=tuple(sorted(triggers.get(oid, ()))),
            rules=tuple(sorted(rules.get(oid, ()))),
            replica_identity=identities.get(oid),
            access_method=access_method,
            stored_by=stored_by.get(names[oid]),
        )
        for (
            oid,
            _,
            _,
            kind,
            persistence,
            is_partition,
            parents,
            extension,
            owner,
            owned,
            hides_rows,
            forced,
            access_method,
        ) in rows
    ]
    return tuple(sorted(tables, key=lambda table: table.name))


def _read_stored_by(connection: BaseDatabaseWrapper, catalogs: Iterable[str]) -> dict[QualifiedName, str]:
    """Read which tables an extension keeps elsewhere, from those of its *catalogs* that exist."""
    found: dict[QualifiedName, str] = {}
    for name in catalogs:
        what, query = catalog.STORED_BY[name]
        found |= {QualifiedName(*row): what for row in read_rows(connection, [query])[0]}
    return found


def parse_replica_identities(rows: Iterable[Rows[Any]]) -> dict[int, ReplicaIdentity]:
    """Make the replica identities from the rows of :data:`catalog.PUBLISHED`, as CheckCmdReplicaIdentity() checks them."""
    found: dict[int, ReplicaIdentity] = {}
    for oid, publication, updates, deletes, generated, identity, index, *columns, may_truncate in rows:
        events = frozenset(event for event, is_published in (("UPDATE", updates), ("DELETE", deletes)) if is_published)
        if not (events and _is_refused(identity, index, generated, *columns)):
            continue
        before = found.get(oid)
        clause = {"d": "DEFAULT", "n": "NOTHING", "i": f"USING INDEX {quote(index)}" if index else None}.get(identity)
        # Nothing restores an identity whose index was dropped.
        if _is_refused("f", None, generated, *columns) or (before is not None and before.clause is None):
            clause = None
        found[oid] = ReplicaIdentity(
            publications=tuple(sorted({publication, *(before.publications if before is not None else ())})),
            refused=events | (before.refused if before is not None else frozenset()),
            clause=clause,
            may_truncate=may_truncate,
        )
    return found


def _is_refused(
    identity: str,
    index: str | None,
    published_generated: str | None,
    keys: Rows[str],
    filtered: Rows[str],
    listed: Rows[str] | None,
    stored: Rows[str],
    virtual: Rows[str],
) -> bool:
    """Whether the server refuses to delete from a published table with that replica identity, and to update it."""
    # Before PostgreSQL 18 generated columns play no part.
    lacks_stored = published_generated is not None and published_generated != "s"
    if identity == "f":
        return listed is not None or bool(stored and lacks_stored) or bool(virtual and published_generated is not None)
    if index is None or not set(filtered) <= set(keys):
        return True
    if listed is None:
        return lacks_stored and not set(keys).isdisjoint(stored)
    return not set(keys) <= set(listed)


def _foreign_keys(
    rows: Iterable[Rows[Any]], names: Mapping[int, QualifiedName], kept: Mapping[int, Any]
) -> tuple[ForeignKey, ...]:
    keys = [
        ForeignKey(
            name=name,
            table=names[table],
            columns=tuple(columns),
            referenced=names[referenced],
            referenced_columns=tuple(referenced_columns),
            on_delete=_ON_DELETE[action],
            on_update=_ON_DELETE[on_update],
            deferrable=deferrable,
            initially_deferred=deferred,
            match_full=match == "f",
            inherited=inherited,
            indexed=indexed,
            operators=tuple(operators),
            has_period=has_period,
            enforced=enforced,
        )
        for (
            name,
            table,
            columns,
            referenced,
            referenced_columns,
            action,
            on_update,
            deferrable,
            deferred,
            match,
            inherited,
            indexed,
            operators,
            has_period,
            enforced,
        ) in rows
        if table in kept and referenced in kept
    ]
    return tuple(sorted(keys, key=lambda key: (key.table, key.columns, key.referenced, key.name)))


def _sequences(rows: Iterable[Rows[Any]], names: Mapping[int, QualifiedName]) -> tuple[SequenceInfo, ...]:
    sequences = [
        SequenceInfo(
            name=QualifiedName(schema, name),
            data_type=data_type,
            start=start,
            increment=increment,
            minimum=minimum,
            maximum=maximum,
            cache=cache,
            cycle=cycle,
            extension=extension,
            owned=owned,
            readable=readable,
            uses=tuple(
                sorted(
                    {
                        SequenceUse(table=names[use["table"]], column=use["column"], how=use["how"])
                        for use in uses or ()
                        if use["table"] in names
                    }
                )
            ),
        )
        for schema, name, data_type, start, increment, minimum, maximum, cache, cycle, extension, owned, readable, uses in rows
    ]
    return tuple(sorted(sequences, key=lambda sequence: sequence.name))


def _materialized_views(rows: Iterable[Rows[Any]], names: Mapping[int, QualifiedName]) -> tuple[DerivedRelation, ...]:
    views = [
        DerivedRelation(
            name=QualifiedName(schema, name),
            tables=tuple(sorted(names[oid] for oid in tables if oid in names)),
        )
        for schema, name, tables in rows
    ]
    return tuple(sorted(views, key=lambda view: view.name))


def parse_identity(connection: BaseDatabaseWrapper, row: Rows[Any]) -> DatabaseIdentity:
    """Make the identity from the one row of :data:`catalog.IDENTITY`."""
    name, oid, system_identifier, server_started, user, address, port, *rest = row
    is_standby, is_read_only, isolation, role, slots, protected, has_test_mark, binding = rest
    if not isinstance(name, str):
        # The driver returns bytes in this case.
        raise UnsupportedError(
            f'The session of the connection "{connection.alias}" has client_encoding SQL_ASCII, in which names cannot be read. '
            "Django sets UTF8: close the connection, or remove the statement that changed it."
        )
    host = str(connection.settings_dict.get("HOST") or "")
    misfit = (
        explain_misfit(binding, database=name, oid=oid, system_identifier=system_identifier) if has_test_mark else ""
    )
    found = ((Mark.PROTECTED, protected), (Mark.TEST, has_test_mark and not misfit))
    return DatabaseIdentity(
        alias=connection.alias,
        vendor="postgresql",
        configured=str(connection.settings_dict["NAME"] or name),
        name=name,
        server=f"{address}:{port}" if address else (f"socket {host}" if host else "local socket"),
        oid=oid,
        system_identifier=system_identifier,
        server_started=server_started,
        warning=" ".join(_warnings(system_identifier, slots)) or None,
        user=user,
        is_standby=is_standby,
        is_read_only=is_read_only,
        has_fixed_snapshot=isolation in {"repeatable read", "serializable"},
        is_replica=role == "replica",
        marks=frozenset(mark for mark, holds in found if holds),
        misfit=misfit,
    )


def _warnings(system_identifier: str, slots: Iterable[str]) -> Iterator[str]:
    if not system_identifier:
        yield _NO_IDENTIFIER
    if slots:
        yield _SLOTS.format(slots=", ".join(show_part(slot) for slot in slots))


def write_binding(identity: DatabaseIdentity) -> str:
    """Write the binding of a test mark: the name of the database, its OID, and the cluster's system identifier."""
    return json.dumps({"database": identity.name, "oid": identity.oid, "system_identifier": identity.system_identifier})


def explain_misfit(comment: str | None, *, database: str, oid: int, system_identifier: str) -> str:
    """Return why a test mark with this comment does not hold for that database; '' if it does.

    If the role may not read the system identifier, now or when the mark was made, name and OID have to suffice.
    """
    try:
        given = json.loads(comment or "")
        name, number, cluster = given["database"], given["oid"], given["system_identifier"]
    except (ValueError, TypeError, KeyError):
        return "its test mark has an older format, which identifies a database only by its name"
    shown = json.dumps(
        name, ensure_ascii=False
    )  # with its control characters escaped: somebody else may have written it
    if cluster and system_identifier and cluster != system_identifier:
        return (
            f"its test mark belongs to database {shown} of another cluster: this one was restored from a dump of that one, or "
            "the cluster went through pg_upgrade"
        )
    if number != oid:
        return (
            f"its test mark belongs to database {shown} with OID {number}, and this one has OID {oid}: it was copied from that "
            "one, as a template or by a dump"
        )
    if name != database:
        return f"its test mark belongs to the name {shown}, which this database had earlier"
    return ""


# No query here waits for a session that holds a table, because the schema may be wanted just then. So a default is read
# without its table (it has no columns in it), the expressions of generated columns and indexes are not read, and neither
# are sizes.

# schema, table, column, type, nullable, default, generated
#
# Types and defaults are spelled for the session's search path, so the query must see that path.
COLUMNS = qualify(f"""
SELECT n.nspname::text, c.relname::text, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
       NOT a.attnotnull, CASE WHEN a.attgenerated = '' THEN coalesce(pg_catalog.pg_get_expr(f.adbin, 0), '') ELSE '' END,
       CASE WHEN a.attidentity <> '' THEN 'identity' WHEN a.attgenerated <> '' THEN 'generated' ELSE '' END
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
 WHERE c.relkind = ANY ('{{r,p}}') AND c.relpersistence <> 't' AND {USER_SCHEMAS}
 ORDER BY a.attrelid, a.attnum
""")

# schema, table, columns (null: an expression), is primary, the index if it is partial
UNIQUE_KEYS = f"""
SELECT n.nspname::text, c.relname::text,
       ARRAY(SELECT a.attname::text
               FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY u(number, place)
               LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.number AND u.number > 0
              WHERE u.place <= i.indnkeyatts
              ORDER BY u.place),
       i.indisprimary, CASE WHEN i.indpred IS NULL THEN '' ELSE x.relname::text END
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE i.indisunique AND i.indisvalid AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {USER_SCHEMAS}
"""

# schema, table, rows by the server's statistics; null if they have nothing
#
# A copy of a database has the statistics of the last ANALYZE and no counters yet.
ESTIMATES = f"""
SELECT n.nspname::text, c.relname::text,
       CASE WHEN pg_catalog.pg_stat_get_tuples_inserted(c.oid) > 0 THEN pg_catalog.pg_stat_get_live_tuples(c.oid)
            WHEN c.reltuples >= 0 THEN c.reltuples::bigint END
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {USER_SCHEMAS}
"""

# schema, table, whether the role may read it
READABLE = f"""
SELECT n.nspname::text, c.relname::text,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {USER_SCHEMAS}
"""

# Each table that is read stays locked to the end of its message.
_TABLES_A_MESSAGE = 500
LOCK_TIMEOUT = 5.0
"""Seconds to wait for a session that holds a table."""


def read_details(
    connection: BaseDatabaseWrapper, schema: Schema, *, count_rows: bool
) -> dict[QualifiedName, TableDetails]:
    """Read the details of all tables of *schema*. One round trip, and with *count_rows* another one for every 500 tables.

    Raises :class:`~testdb_app.exceptions.LockTimeoutError` if another session keeps a table from being counted.
    """
    column_rows, key_rows, number_rows = read_rows(
        connection, (UNIQUE_KEYS, READABLE if count_rows else ESTIMATES), first=[COLUMNS], lock_timeout=LOCK_TIMEOUT
    )
    columns: dict[QualifiedName, list[Column]] = {}
    for namespace, table, name, data_type, nullable, default, generated in column_rows:
        column = Column(name=name, data_type=data_type, nullable=nullable, default=default, generated=generated)
        columns.setdefault(QualifiedName(namespace, table), []).append(column)
    keys: dict[QualifiedName, list[UniqueKey]] = {}
    for namespace, table, parts, is_primary, partial_index in key_rows:
        key = UniqueKey(columns=tuple(parts), is_primary=is_primary, partial_index=partial_index)
        keys.setdefault(QualifiedName(namespace, table), []).append(key)
    numbers = {QualifiedName(namespace, table): number for namespace, table, number in number_rows}
    if count_rows:
        numbers = _count(connection, schema, {name for name, is_readable in numbers.items() if is_readable})
    return gather_details(schema.by_name, columns=columns, unique_keys=keys, rows=numbers, is_estimate=not count_rows)


def _count(
    connection: BaseDatabaseWrapper, schema: Schema, readable: set[QualifiedName]
) -> dict[QualifiedName, int | None]:
    # If row security hides rows from the role, a count would include only the visible ones.
    names = [table.name for table in schema.tables if table.name in readable and not table.hides_rows]
    found: dict[QualifiedName, int | None] = {}
    for part in chunks(names, _TABLES_A_MESSAGE):
        queries = [f"SELECT pg_catalog.count(*) FROM ONLY {quote(name)}" for name in part]
        results = read_rows(connection, queries, lock_timeout=LOCK_TIMEOUT, safe_path=False)
        found |= {name: rows[0][0] for name, rows in zip(part, results, strict=True)}
    return found


# The lock table holds some 10,000 locks at its default, for all sessions together.
_SEQUENCES_A_MESSAGE = 2_000
# Sequences in one statement. Planning time grows faster than their number; 20 is the cheapest.
_SEQUENCES_A_STATEMENT = 20

Read = Callable[[Sequence[str]], list[list[tuple[Any, ...]]]]
"""Runs queries in one round trip and returns the rows of each."""

# By version and token of a schema: the queries of its state.
_known: dict[str, tuple[str, ...]] = {}
_MOST_KNOWN = 16


def sizes_and_states(connection: BaseDatabaseWrapper, schema: Schema | None) -> tuple[str, ...]:
    """Return the queries of the sizes of tables and of the states of sequences.

    With the known *schema* they read its tables and sequences alone. So they are right only where its token is still
    right, and fail if a sequence is gone. They are the same texts each time, so that they can stay prepared.
    """
    version = server_version(connection)
    if schema is None:
        return (catalog.SIZES, *sequence_states(connection))
    key = f"{version} {schema.token}"
    if key not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        oids = ",".join(str(table.oid) for table in schema.tables if table.stores_rows)
        start = [(sequence.name, sequence.start) for sequence in schema.sequences if sequence.readable]
        can_read = version < 18_00_00 and len(start) == len(schema.sequences) <= _SEQUENCES_A_MESSAGE
        _known[key] = (
            catalog.SIZES_OF.format(oids=f"'{{{oids}}}'::oid[]"),
            *(_read_each(start) if can_read else sequence_states(connection)),
        )
    return _known[key]


def sequence_states(connection: BaseDatabaseWrapper) -> tuple[str, ...]:
    """Return the queries of the states, for :func:`read_all_states` to read."""
    return (catalog.SEQUENCE_STATES_18 if server_version(connection) >= 18_00_00 else catalog.SEQUENCES_TO_READ,)


def read_all_states(
    read: Read, results: Iterable[list[tuple[Any, ...]]]
) -> tuple[dict[QualifiedName, SequenceState], list[QualifiedName]]:
    """Return the states of the sequences that are not at their start, and the sequences that the role may not read.

    *results* are the results of :func:`sequence_states`. Before PostgreSQL 18, reads each sequence itself.
    """
    states: dict[QualifiedName, SequenceState] = {}
    unread: list[tuple[QualifiedName, int]] = []
    unreadable: list[QualifiedName] = []
    rows = [row for rows in results for row in rows]
    for schema, name, state, value, called in rows:
        sequence = QualifiedName(schema, name)
        if state == "moved":
            states[sequence] = SequenceState(last_value=value, is_called=called)
        elif state == "unread":
            unread.append((sequence, value))
        else:
            unreadable.append(sequence)
    for part in chunks(unread, _SEQUENCES_A_MESSAGE):
        states |= read_all_states(read, read(_read_each(part)))[0]
    return states, unreadable


def _read_each(sequences: Sequence[tuple[QualifiedName, int]]) -> list[str]:
    """Write queries as :data:`catalog.SEQUENCE_STATES_18` for *sequences*, each with its start."""
    return [
        " UNION ALL ".join(
            f"SELECT {quote_literal(name.schema)}, {quote_literal(name.name)}, 'moved', last_value, is_called "
            f"FROM {quote(name)} WHERE is_called OR last_value <> {start}"
            for name, start in chunk
        )
        for chunk in chunks(sequences, _SEQUENCES_A_STATEMENT)
    ]
