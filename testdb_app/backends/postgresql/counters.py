"""PostgreSQL's counters: the queries that find what was written, and why they are exact.

- **Nothing was written** if no transaction has completed with an id of its own since the last reset.
- **Written tables** are those whose counters of rows have moved, the counts that this session has not reported included.
- **Nothing else was written** if the database's sums have moved by as much as the counters of these tables together.
- **The condition**: nobody else may have written unseen. Other sessions are absent or visibly idle, and the server, its
  statistics and ``track_counts`` are as they were. Where the condition does not hold, the resetter takes a full scan.

``docs/explanation/exactness.md`` has the whole proof, with the PostgreSQL versions and source functions it was
read from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testdb_app.backends.base import DatabaseState
from testdb_app.backends.postgresql.sql import qualify
from testdb_app.schema import QualifiedName, Schema

FORCE_FLUSH = "SELECT pg_catalog.pg_stat_force_next_flush()"

COUNTING = "counting"
"""The first word of the conditions in a session that counts, and that fires triggers and checks keys as usual."""

# A plan or a baseline depends on these catalogs; pg_description holds the name that a test mark is for.
SCHEMA_CATALOGS = (
    "pg_attrdef",
    "pg_attribute",
    "pg_class",
    "pg_constraint",
    "pg_depend",
    "pg_description",
    "pg_enum",
    "pg_event_trigger",
    "pg_index",
    "pg_inherits",
    "pg_namespace",
    "pg_partitioned_table",
    "pg_policy",
    "pg_publication",
    "pg_publication_namespace",
    "pg_publication_rel",
    "pg_rewrite",
    "pg_sequence",
    "pg_trigger",
    "pg_type",
)

# oid, schema, name, kind, toast table, whether it must always be read
RELATIONS = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, c.reltoastrelid::bigint,
       c.relkind = 'S' AND (c.relpersistence = 'u' OR s.seqcycle)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
 WHERE c.relkind IN ('r', 'S') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

# oid of those of some sequences that were called, or that this role may not check
CALLED = """
SELECT o::bigint
  FROM pg_catalog.unnest('{oids}'::oid[]) o
 WHERE CASE WHEN pg_catalog.has_sequence_privilege(o, 'USAGE, SELECT')
            THEN pg_catalog.pg_sequence_last_value(o) IS NOT NULL ELSE true END
"""
CALLED_18 = """
SELECT o::bigint
  FROM pg_catalog.unnest('{oids}'::oid[]) o, pg_catalog.pg_get_sequence_data(o) s
 WHERE s.is_called IS DISTINCT FROM false
"""

# oid of the database, whether prepared transactions are possible, whether writes may be hidden from the counters (a
# superuser's writes always may be)
DATABASE = """
SELECT d.oid::bigint, pg_catalog.current_setting('max_prepared_transactions') <> '0',
       EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.proconfig::text LIKE '%track_counts=%')
       OR (pg_catalog.current_setting('is_superuser') = 'off'
           AND pg_catalog.has_parameter_privilege('track_counts', 'SET'))
  FROM pg_catalog.pg_database d
 WHERE d.datname = pg_catalog.current_database()
"""

_DATABASE_OID = qualify("(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())")
# Each by its id and its time, because one may end while another begins. The names may hold anything.
_PREPARED = (
    "CASE WHEN pg_catalog.current_setting('max_prepared_transactions') <> '0' "
    "THEN (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', p.transaction, EXTRACT(EPOCH FROM p.prepared)), '+' "
    "ORDER BY p.transaction::text) FROM pg_catalog.pg_prepared_xacts p WHERE p.database = pg_catalog.current_database()) END"
)
REPORTED, UNREPORTED = "", "xact_"
"""The kinds of counters: what sessions have reported, and what this session has not reported yet."""
_VERBS = ("inserted", "updated", "deleted")


def writes(oid: str, *kinds: str) -> str:
    """Write the number of rows ever written to the table *oid*, an expression; without *kinds* the sum of both."""
    return " + ".join(
        f"pg_catalog.pg_stat_get_{kind}tuples_{verb}({oid})"
        for kind in kinds or (REPORTED, UNREPORTED)
        for verb in _VERBS
    )


_WRITES = writes("o")
_CALLS = "pg_catalog.pg_stat_get_blocks_fetched(o) + pg_catalog.pg_stat_get_xact_blocks_fetched(o)"
# The default, because the transaction that writes has another isolation level than the readings.
_ISOLATION = "default_transaction_isolation"
_WITHOUT_COPIES = "pg_catalog.set_config('stats_fetch_consistency', 'none', true)"


def _epoch(database: str, *, prepared: bool) -> str:
    """Write the expression of a text that must not change."""
    return qualify(f"""pg_catalog.concat_ws(' ',
           CASE WHEN pg_catalog.current_setting('track_counts') = 'on'
                 AND NOT pg_catalog.current_setting('session_replication_role') = 'replica' THEN '{COUNTING}' ELSE 'blind' END,
           EXTRACT(EPOCH FROM pg_catalog.pg_stat_get_db_stat_reset_time({database})),
           EXTRACT(EPOCH FROM pg_catalog.pg_postmaster_start_time()),
           EXTRACT(EPOCH FROM pg_catalog.pg_stat_get_bgwriter_stat_reset_time()),
           pg_catalog.current_setting('default_transaction_read_only'), pg_catalog.current_setting('{_ISOLATION}'),
           current_user, pg_catalog.current_schemas(false){", " + _PREPARED if prepared else ""})""")


# One text for each other session that is connected to the database. An autovacuum worker has no user, and writes no rows.
_OTHERS = """
SELECT pg_catalog.concat_ws('/', a.pid, EXTRACT(EPOCH FROM a.backend_start), EXTRACT(EPOCH FROM a.state_change),
                            coalesce(a.state, 'hidden'))
  FROM pg_catalog.pg_stat_get_activity(NULL) a
 WHERE a.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
   AND a.usesysid IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
 ORDER BY a.pid
"""
OTHERS = qualify(_OTHERS)


def _conditions(database: str, *, prepared: bool) -> str:
    """Write the columns: the text that must not change, sessions ever, sessions now, the others, the next transaction id.

    The sessions are listed before any counter is read: one that ends in between has reported by then.
    """
    return f"""{_epoch(database, prepared=prepared)},
       pg_catalog.pg_stat_get_db_sessions({database}),
       pg_catalog.pg_stat_get_db_numbackends({database}),
       CASE WHEN pg_catalog.pg_stat_get_db_numbackends({database}) <> 1
            THEN pg_catalog.array_to_string(ARRAY({_OTHERS}), ',') END,
       pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text"""


CONDITIONS = qualify(f"SELECT {_conditions(_DATABASE_OID, prepared=True)}")
"""The conditions alone, for any database."""


def _rows(database: int | str) -> str:
    """Write the number of rows ever written in the database."""
    return " + ".join(f"pg_catalog.pg_stat_get_db_tuples_{verb}({database})" for verb in _VERBS)


def _reading(database: str, *columns: str, prepared: bool = True) -> str:
    """Write a reading: what :func:`parse_conditions` takes, and then *columns*."""
    before = f"SELECT {_WITHOUT_COPIES}, pg_catalog.pg_backend_pid(), {_conditions(database, prepared=prepared)}"
    return qualify(", ".join((before, *columns)))


def _each(source: str, *kinds: str) -> str:
    """Write the array of the rows ever written to each table of *source*."""
    return f"ARRAY(SELECT {writes('o', *kinds)} FROM {source})::text"


def _total(source: str, *kinds: str) -> str:
    """Write the sum of the rows ever written to the tables of *source*."""
    return f"(SELECT pg_catalog.sum({writes('o', *kinds)}) FROM {source})"


_CATALOGS = (
    "pg_catalog.unnest(ARRAY[" + ", ".join(f"'pg_catalog.{name}'::regclass" for name in SCHEMA_CATALOGS) + "]::oid[]) o"
)

COUNTED = _reading(
    _DATABASE_OID,
    _rows(_DATABASE_OID),
    _total(
        "(SELECT c.oid AS o FROM pg_catalog.pg_class c WHERE c.relnamespace = 'pg_catalog'::pg_catalog.regnamespace "
        "AND c.relkind = 'r' AND NOT c.relisshared) w"
    ),
)
"""The reading of the rows ever written in the database, and of those ever written in all its catalogs."""

WRITTEN = qualify(f"""
SELECT c.oid::bigint, {writes("c.oid")} + CASE WHEN c.reltoastrelid = 0 THEN 0 ELSE {writes("c.reltoastrelid")} END
  FROM pg_catalog.pg_class c
 WHERE c.relkind = ANY ('{{r,m}}') AND c.relnamespace <> 'pg_catalog'::pg_catalog.regnamespace
""")
"""Every table that is no catalog: its OID, and the rows ever written to it and to its toast table."""

SEQUENCES = """
SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ', s.schemaname, s.sequencename, s.last_value), ','
                                            ORDER BY s.schemaname, s.sequencename))
  FROM pg_catalog.pg_sequences s
"""
"""A digest of the positions of all sequences."""


def reading_inside(tables: Iterable[int]) -> str:
    """Write the reading of *tables* in the middle of a transaction, which shows what this session has not reported.

    Columns: the isolation level, the counts that are reported, and those that are not, as pairs of OID and count; the
    sums of the catalogs, the same.
    """
    source = f"pg_catalog.unnest({_oids(tables)}) o"
    found = f"SELECT o, {writes('o', UNREPORTED)} AS number FROM {source} OFFSET 0"
    return _reading(
        _DATABASE_OID,
        "pg_catalog.current_setting('transaction_isolation')",
        _each(source, REPORTED),
        f"ARRAY(SELECT v FROM ({found}) p, LATERAL (VALUES (p.o::bigint), (p.number)) l (v) WHERE p.number <> 0)::text",
        _total(_CATALOGS, REPORTED),
        _total(_CATALOGS, UNREPORTED),
    )


def look(database: int, *, prepared: bool) -> str:
    """Write the reading as a query with two parameters, arrays of OIDs: tables, sequences. It makes the session report."""
    return _reading(
        str(database),
        _each("pg_catalog.unnest($1::oid[]) o"),
        f"ARRAY(SELECT {_CALLS} FROM pg_catalog.unnest($2::oid[]) o)::text",
        "pg_catalog.pg_stat_force_next_flush()",
        prepared=prepared,
    )


def full_reading(database: int, tables: Iterable[int], sequences: Iterable[int], *, prepared: bool) -> str:
    """Write the reading of every table and sequence.

    Columns: those of :func:`look`, then the counts of the catalogs, and the two sums. The counts include what the session has
    not reported; the sums of the database do not.
    """
    return _reading(
        str(database),
        _each(f"pg_catalog.unnest({_oids(tables)}) o"),
        f"ARRAY(SELECT {_CALLS} FROM pg_catalog.unnest({_oids(sequences)}) o)::text",
        _each(_CATALOGS),
        _rows(database),
        _blocks(sequences),
        "pg_catalog.pg_stat_force_next_flush()",
        prepared=prepared,
    )


def _blocks(sequences: Iterable[int]) -> str:
    """Write the sum of the blocks ever fetched of all *sequences*."""
    fetched = (
        f"pg_catalog.sum(pg_catalog.pg_stat_get_blocks_fetched(o))::bigint FROM pg_catalog.unnest({_oids(sequences)}) o"
    )
    return f"coalesce((SELECT {fetched}), 0)"


def insist(database: int, sequences: Iterable[int], *, prepared: bool, holds: str) -> str:
    """Write the first query of the transaction that writes: settings, and the conditions that must hold.

    If a condition does not hold, a division by zero ends that transaction. *holds* is the condition that the transaction
    is in the database where the guard permitted the write. The session must have reported.

    Parameters: (1) the lock time-out; (2) the process id; (3) the text of the conditions, (4) sessions ever, (5) sessions
    now or NULL; (6, 7) the OIDs of the tables that were written, and their counts as remembered; (8, 9) the same of
    sequences; (10, 11) the sums as remembered, or NULL; (12) the most that may have been written to one table. Columns:
    (settings), the counts of tables and of sequences as texts, the two sums.
    """
    query = qualify(f"""SELECT pg_catalog.set_config('synchronous_commit', 'off', true),
       pg_catalog.set_config('lock_timeout', $1, true), t.counts, s.counts, d.rows, d.blocks,
       1 / ({{holds}} AND pg_catalog.pg_backend_pid() = $2::integer AND {_epoch(str(database), prepared=prepared)} = $3
            AND pg_catalog.pg_stat_get_db_sessions({database}) = $4::bigint
            AND ($5::integer IS NULL OR d.connected = $5::integer)
            AND t.least > 0 AND t.most <= $12::bigint AND s.least > 0
            AND ($10::bigint IS NULL
                 OR ((d.rows - $10::bigint) = t.total AND (d.blocks - $11::bigint) = s.total)))::integer
  FROM (SELECT {_WITHOUT_COPIES} AS mode, pg_catalog.pg_stat_get_db_numbackends({database}) AS connected,
               {_rows(database)} AS rows, {_blocks(sequences)} AS blocks OFFSET 0) d,
       LATERAL ({_moved(writes("o", REPORTED), "$6", "$7")}) t,
       LATERAL ({_moved("pg_catalog.pg_stat_get_blocks_fetched(o)", "$8", "$9")}) s""")
    # Inserted last: it contains the name of the database, which qualify() must not change.
    return query.replace("{holds}", holds)


def _moved(count: str, oids: str, remembered: str) -> str:
    """Write the comparison of counts with the remembered ones, after d.mode is set. An empty list of OIDs counts as all moved."""
    return f"""SELECT pg_catalog.array_agg(now)::text AS counts, coalesce(pg_catalog.sum(now - was), 0) AS total,
               coalesce(pg_catalog.min(now - was), 1) AS least, coalesce(pg_catalog.max(now - was), 0) AS most
          FROM (SELECT {count} AS now, was
                  FROM ROWS FROM (pg_catalog.unnest(CASE WHEN d.mode = 'none' THEN {oids}::oid[] END),
                                  pg_catalog.unnest({remembered}::bigint[])) u(o, was)
                OFFSET 0) c"""


def _oids(oids: Iterable[int]) -> str:
    return "'{" + ",".join(map(str, oids)) + "}'::oid[]"


Conditions = tuple[str, int | None, tuple[str, ...]]
"""The conditions, which must be equal in two readings: the text that must not change, sessions ever, other sessions now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedState(DatabaseState):
    """A state, and the conditions under which it was read: a change tracker compares them with those of its readings."""

    conditions: Conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class Relations:
    """All tables and sequences of a database by OID, whether in scope or not.

    ``toasts`` are the toast tables by table; ``always`` the sequences that every reading must include; ``unindexed`` the
    tables that are referenced without an index, so that a DELETE may be slow.
    """

    tables: Mapping[int, QualifiedName]
    sequences: Mapping[int, QualifiedName]
    toasts: Mapping[int, int]
    always: tuple[int, ...]
    unindexed: frozenset[int]

    @property
    def counted(self) -> tuple[int, ...]:
        """The tables whose writes a full reading counts."""
        return (*self.tables, *self.toasts.values())

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[Any, ...]], schema: Schema) -> Relations:
        """Make them from the rows of :data:`RELATIONS`."""
        slow = {key.referenced for key in schema.enforced_foreign_keys if not key.indexed}
        tables: dict[int, QualifiedName] = {}
        sequences: dict[int, QualifiedName] = {}
        toasts: dict[int, int] = {}
        always: list[int] = []
        for oid, namespace, name, kind, toast, is_special in sorted(rows):
            (sequences if kind == "S" else tables)[oid] = QualifiedName(namespace, name)
            if toast:
                toasts[oid] = toast
            if is_special:
                always.append(oid)
        return cls(
            tables=tables,
            sequences=sequences,
            toasts=toasts,
            always=tuple(always),
            unindexed=frozenset(oid for oid, name in tables.items() if name in slow),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterReading:
    """One reading: process id, conditions, next transaction id, and counts of writes and of calls, in the order of the query.

    A full reading also has the counts of the ``catalogs``, and the ``sums`` of the database, without what the session had
    not reported.
    """

    pid: int
    conditions: Conditions
    xmax: str
    writes: Sequence[int]
    calls: Sequence[int]
    catalogs: str = ""
    sums: tuple[int, int] = (0, 0)


def parse_reading(row: Sequence[str | None], _others: tuple[str, ...] = ()) -> CounterReading:
    """Make a reading from the row of :func:`look` or :func:`full_reading`."""
    _, pid, _, _, _, _, xmax, writes, calls, *rest = row
    return CounterReading(
        pid=int(pid or 0),
        conditions=parse_conditions(row[2:7]),
        xmax=xmax or "",
        writes=parse_numbers(writes or ""),
        calls=parse_numbers(calls or ""),
        catalogs=rest[0] or "" if len(rest) > 1 else "",
        sums=(int(rest[1] or 0), int(rest[2] or 0)) if len(rest) > 1 else (0, 0),
    )


def parse_numbers(array: str) -> list[int]:
    """Parse an array of numbers; NULL becomes -1."""
    return [int(number) if number != "NULL" else -1 for number in array[1:-1].split(",")] if array != "{}" else []


def parse_conditions(row: Sequence[Any]) -> Conditions:
    """Make the conditions from the row of :data:`CONDITIONS`."""
    epoch, sessions, _, others, _ = row
    return epoch or "", None if sessions is None else int(sessions), tuple(others.split(",")) if others else ()


def are_trusted(conditions: Conditions) -> bool:
    """Whether the counters can be trusted: they count, and every other session is idle and shows it."""
    epoch, sessions, others = conditions
    return epoch.startswith(COUNTING) and sessions is not None and all(session.endswith("/idle") for session in others)
