"""PostgreSQL's counters: the queries that find what was written, and why they are exact.

- **Nothing was written** if no transaction has completed with an id of its own since the last reset.
- **Nothing outside of a set was written** if the database's sums, less the counters of the set, are what they were.
- **The condition**: whoever may have written has reported. This session and the others of this process are made to; those of
  other processes have ended, or are idle and have run nothing. Where that does not hold, the resetter takes a full scan.

``docs/explanation/exactness.md`` has the whole proof, with the PostgreSQL versions and source functions it was
read from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError

from testdb_app.backends.base import DatabaseState
from testdb_app.backends.postgresql.connection import NOT_PREPARED, Command, Pipeline, Result
from testdb_app.backends.postgresql.errors import sqlstate
from testdb_app.backends.postgresql.queries import rows_of
from testdb_app.backends.postgresql.sent_statements import WrittenName
from testdb_app.backends.postgresql.sql import qualify
from testdb_app.schema import QualifiedName, Schema

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_FLUSH = "pg_catalog.pg_stat_force_next_flush()"
REPORT = [Command(f"SELECT {_FLUSH}", often=True)]
"""A batch after which this session has reported its counts."""

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

# oid, schema, name, kind, toast table, whether it must always be read, whether sessions keep values of it in advance
RELATIONS = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, c.reltoastrelid::bigint,
       c.relkind = 'S' AND (c.relpersistence = 'u' OR s.seqcycle), coalesce(s.seqcache > 1, false)
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

# oid of the database, whether prepared transactions are possible
DATABASE = """
SELECT d.oid::bigint, pg_catalog.current_setting('max_prepared_transactions') <> '0'
  FROM pg_catalog.pg_database d
 WHERE d.datname = pg_catalog.current_database()
"""

# whether writes may be hidden from the counters (a superuser's writes always may be)
MAY_HIDE = qualify("""
SELECT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE pg_catalog.strpos(p.proconfig::text, 'track_counts=') > 0)
       OR EXISTS (SELECT FROM pg_catalog.pg_db_role_setting r
                   WHERE (r.setdatabase = 0 OR r.setdatabase = d.oid)
                     AND pg_catalog.strpos(r.setconfig::text, 'track_counts=') > 0)
       OR EXISTS (SELECT FROM pg_catalog.pg_parameter_acl a WHERE a.parname = 'track_counts')
  FROM pg_catalog.pg_database d
 WHERE d.datname = pg_catalog.current_database()
""")

DATABASE_OID = qualify("(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())")
"""An expression: the OID of the database of the session."""
# Each by its id and its time, because one may end while another begins. The names may hold anything.
_PREPARED = (
    "CASE WHEN pg_catalog.current_setting('max_prepared_transactions') <> '0' "
    "THEN (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', p.transaction, EXTRACT(EPOCH FROM p.prepared)), '+' "
    "ORDER BY p.transaction::text) FROM pg_catalog.pg_prepared_xacts p WHERE p.database = pg_catalog.current_database()) END"
)
NEXT_ID = "pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text"
"""The next transaction id, as far as transactions have completed."""
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


def counting_since(database: str) -> str:
    """Write the expressions of the times that change when the counters of a database, an expression of its OID, begin anew."""
    return (
        f"EXTRACT(EPOCH FROM pg_catalog.pg_stat_get_db_stat_reset_time({database})), "
        "EXTRACT(EPOCH FROM pg_catalog.pg_postmaster_start_time()), "
        "EXTRACT(EPOCH FROM pg_catalog.pg_stat_get_bgwriter_stat_reset_time())"
    )


# The default, because the transaction that writes has another isolation level than the readings.
_ISOLATION = "default_transaction_isolation"
_WITHOUT_COPIES = "pg_catalog.set_config('stats_fetch_consistency', 'none', true)"


# Whoever lets others write without counting, by a setting or a grant, writes to one of these. They are shared by all databases.
_ALLOWING = " + ".join(
    writes(f"'pg_catalog.{name}'::pg_catalog.regclass", REPORTED) for name in ("pg_db_role_setting", "pg_parameter_acl")
)


def _epoch(database: str, *, prepared: bool, within: bool = False) -> str:
    """Write the expression of a text that must not change. *Within* a transaction, its isolation level must be read committed."""
    isolation = " AND pg_catalog.current_setting('transaction_isolation') = 'read committed'" if within else ""
    return qualify(f"""pg_catalog.concat_ws(' ',
           CASE WHEN pg_catalog.current_setting('track_counts') = 'on'
                 AND NOT pg_catalog.current_setting('session_replication_role') = 'replica'{isolation}
                THEN '{COUNTING}' ELSE 'blind' END,
           {counting_since(database)}, {_ALLOWING},
           pg_catalog.current_setting('default_transaction_read_only'), pg_catalog.current_setting('{_ISOLATION}'),
           pg_catalog.current_database(), current_user,
           pg_catalog.current_schemas(false){", " + _PREPARED if prepared else ""})""")


# One text for each other session that is connected to the database. An autovacuum worker has no user, and writes no rows.
_OTHERS = """
SELECT pg_catalog.concat_ws('/', a.pid, EXTRACT(EPOCH FROM a.backend_start), EXTRACT(EPOCH FROM a.state_change),
                            coalesce(a.state, 'hidden'))
  FROM pg_catalog.pg_stat_get_activity(NULL) a
 WHERE a.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
   AND a.usesysid IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
 ORDER BY a.pid
"""


def _conditions(database: str, *, prepared: bool, within: bool = False) -> str:
    """Write the columns of :meth:`Conditions.from_row`: the text that must not change, sessions ever, other sessions now.

    The sessions are listed before any counter is read: one that ends in between has reported by then.
    """
    return f"""{_epoch(database, prepared=prepared, within=within)},
       pg_catalog.pg_stat_get_db_sessions({database}),
       CASE WHEN pg_catalog.pg_stat_get_db_numbackends({database}) <> 1
            THEN pg_catalog.array_to_string(ARRAY({_OTHERS}), ',') END"""


CONDITIONS = qualify(f"SELECT {_conditions(DATABASE_OID, prepared=True)}")
"""The conditions alone, for any database."""


def _rows(database: int | str) -> str:
    """Write the number of rows ever written in the database."""
    return " + ".join(f"pg_catalog.pg_stat_get_db_tuples_{verb}({database})" for verb in _VERBS)


def _reading(
    database: int | str = DATABASE_OID,
    *,
    prepared: bool = True,
    within: bool = False,
    writes: str = "NULL",
    unreported: str = "NULL",
    catalogs: str = "NULL",
    unreported_catalogs: str = "NULL",
    rows: str = "NULL",
) -> str:
    """Write a reading as a query with the columns of :meth:`CounterReading.from_row`."""
    return qualify(
        f"SELECT {_WITHOUT_COPIES}, pg_catalog.pg_backend_pid(), "
        f"{_conditions(str(database), prepared=prepared, within=within)}, "
        f"{NEXT_ID}, "
        f"{writes}, {unreported}, {catalogs}, {unreported_catalogs}, {rows}"
    )


def _each(source: str, *kinds: str) -> str:
    """Write the array of the rows ever written to each table of *source*."""
    return f"ARRAY(SELECT {writes('o', *kinds)} FROM {source})::text"


def _calls(oids: str) -> str:
    """Write the array of the blocks ever fetched of each sequence: each call fetches its page."""
    fetched = "pg_catalog.pg_stat_get_blocks_fetched(o) + pg_catalog.pg_stat_get_xact_blocks_fetched(o)"
    return f"ARRAY(SELECT {fetched} FROM pg_catalog.unnest({oids}) o)::text"


def _total(source: str, *kinds: str) -> str:
    """Write the sum of the rows ever written to the tables of *source*."""
    return f"(SELECT pg_catalog.sum({writes('o', *kinds)}) FROM {source})"


_CATALOGS = (
    "pg_catalog.unnest(ARRAY[" + ", ".join(f"'pg_catalog.{name}'::regclass" for name in SCHEMA_CATALOGS) + "]::oid[]) o"
)

COUNTED = _reading(
    catalogs=_total(
        "(SELECT c.oid AS o FROM pg_catalog.pg_class c WHERE c.relnamespace = 'pg_catalog'::pg_catalog.regnamespace "
        "AND c.relkind = 'r' AND NOT c.relisshared) w"
    ),
    rows=_rows(DATABASE_OID),
)
"""The reading of the rows ever written in the database, and of those ever written in all its catalogs."""

WRITTEN = qualify(f"""
SELECT c.oid::bigint, {writes("c.oid")} + CASE WHEN c.reltoastrelid = 0 THEN 0 ELSE {writes("c.reltoastrelid")} END
  FROM pg_catalog.pg_class c
 WHERE c.relkind = ANY ('{{r,m}}') AND c.relnamespace <> 'pg_catalog'::pg_catalog.regnamespace
""")
"""Every table that is no catalog: its OID, and the rows ever written to it and to its toast table."""


def reading_within(tables: Iterable[int]) -> str:
    """Write the reading of *tables* and of the catalogs, within a transaction or not.

    It is not trusted in a transaction of repeatable read or serializable, which does not see what others commit.
    """
    source = f"pg_catalog.unnest({_oids(tables)}) o"
    found = f"SELECT o, {writes('o', UNREPORTED)} AS number FROM {source} OFFSET 0"
    return _reading(
        within=True,
        writes=_each(source, REPORTED),
        unreported=f"ARRAY(SELECT v FROM ({found}) p, LATERAL (VALUES (p.o::bigint), (p.number)) l (v) "
        "WHERE p.number <> 0)::text",
        catalogs=_total(_CATALOGS),
        unreported_catalogs=_total(_CATALOGS, UNREPORTED),
    )


def write_proof(database: int, sequences: Iterable[int], *, prepared: bool, holds: str, alone: bool) -> str:
    """Write the first query of the transaction that writes: settings, and the proof that nothing but a set was written.

    If a condition does not hold, a division by zero ends that transaction. *holds* is the condition that the transaction
    is in the database where the guard permitted the write. This session, and those that are held, must have reported. With
    *alone* no other session may be connected. That is half the work where the server's session is new.

    Parameters: (1) the lock time-out; (2) the process id; (3) the text of the conditions; (4) the OIDs of the tables of the
    set, (5) their counts as remembered; (6) the OIDs of its sequences; (7) the rows and (8) the blocks of the database less
    those of the set, as remembered; (9) the most that may have been written to one table; without *alone* also (10) the
    process ids of sessions that are held still, and (11) the other sessions that may be connected. Columns: (settings),
    the counts of tables and of sequences as texts, the rows and the blocks of the database, the other sessions, and how
    many sessions there have been.
    """
    epoch = _epoch(str(database), prepared=prepared)
    others = _others(database, "(t.total + s.total)", None if alone else ("$10", "$11"))
    query = qualify(f"""SELECT pg_catalog.set_config('synchronous_commit', 'off', true),
       pg_catalog.set_config('lock_timeout', $1, true), t.counts, s.counts, d.rows, d.blocks, o.names,
       m.sessions,
       1 / ({{holds}} AND pg_catalog.pg_backend_pid() = $2::integer AND {epoch} = $3
            AND o.strangers = 0 AND t.most <= $9::bigint
            AND (d.rows - t.total) = $7::bigint AND (d.blocks - s.total) = $8::bigint)::integer
  FROM {_set(database, _blocks(sequences), others, "$4", "$6", was="$5")}""")
    # Inserted last: it contains the name of the database, which qualify() must not change.
    return query.replace("{holds}", holds)


def write_reading(database: int, sequences: Iterable[int], *, prepared: bool) -> str:
    """Write the reading of the same, to find what was written. Its parameters (1) to (4) are (4), (6), (10), (11) of the proof.

    Columns: (a setting), the process id, the conditions, the next transaction id, the counts of tables and of sequences,
    the rows and the blocks of the database, the other sessions, how many of these may have written, and how many sessions
    there have been.
    """
    others = _others(database, "(t.total + s.total)", ("$3", "$4"))
    return qualify(
        f"SELECT NULL, pg_catalog.pg_backend_pid(), {_epoch(str(database), prepared=prepared)}, {NEXT_ID}, "
        f"t.counts, s.counts, d.rows, d.blocks, o.names, o.strangers, m.sessions "
        f"FROM {_set(database, _blocks(sequences), others, '$1', '$2')}"
    )


def write_glance(database: int, *, prepared: bool, alone: bool) -> str:
    """Write the reading that shows whether anything was written. The session need not have reported.

    Parameters: (1) the OIDs of sequences; without *alone* also (2, 3) as (10, 11) of the proof. Columns as in
    :func:`write_reading`, without tables and sums.
    """
    others = _others(database, "0", None if alone else ("$2", "$3"))
    return qualify(
        f"SELECT {_WITHOUT_COPIES}, pg_catalog.pg_backend_pid(), {_epoch(str(database), prepared=prepared)}, {NEXT_ID}, "
        f"NULL, {_calls('$1::oid[]')}, NULL, NULL, o.names, o.strangers, pg_catalog.pg_stat_get_db_sessions({database}) "
        f"FROM {others} o"
    )


def write_full_reading(database: int, tables: Iterable[int], sequences: Iterable[int], *, prepared: bool) -> str:
    """Write the reading of the conditions, the sums, and of each table and sequence, in this order, to be remembered.

    The order matters beside idle sessions: what one reports in between is in the counters, and not in the sums. Columns:
    (a setting), the process id, the conditions as of :data:`CONDITIONS`, the next transaction id, rows, blocks, counts of
    tables and of sequences.
    """
    return qualify(
        f"SELECT {_WITHOUT_COPIES}, pg_catalog.pg_backend_pid(), {_conditions(str(database), prepared=prepared)}, {NEXT_ID}, "
        f"{_rows(database)}, {_blocks(sequences)}, "
        f"{_each(f'pg_catalog.unnest({_oids(tables)}) o', REPORTED)}, "
        f"ARRAY(SELECT pg_catalog.pg_stat_get_blocks_fetched(o) FROM pg_catalog.unnest({_oids(sequences)}) o)::text"
    )


def _set(database: int, blocks: str, others: str, tables: str, sequences: str, was: str | None = None) -> str:
    """Write the counts of a set (t, s), then the other sessions (o), then the sums of the database (d).

    Each depends on the one before, so that they are evaluated in this order; the proof of exactness needs it.
    """
    return f"""(SELECT {_WITHOUT_COPIES} AS mode, pg_catalog.pg_stat_get_db_sessions({database}) AS sessions OFFSET 0) m,
       LATERAL ({_counted(writes("o", REPORTED), tables, was)}) t,
       LATERAL ({_counted("pg_catalog.pg_stat_get_blocks_fetched(o)", sequences)}) s,
       LATERAL {others} o,
       LATERAL (SELECT CASE WHEN o.strangers >= 0 THEN {_rows(database)} END AS rows,
                       CASE WHEN o.strangers >= 0 THEN {blocks} END AS blocks OFFSET 0) d"""


def _counted(count: str, oids: str, was: str | None = None) -> str:
    most = "" if was is None else ", coalesce(pg_catalog.max(now - was), 0) AS most"
    source = f"pg_catalog.unnest({oids}::oid[]) u(o)"
    if was is not None:
        source = f"ROWS FROM (pg_catalog.unnest({oids}::oid[]), pg_catalog.unnest({was}::bigint[])) u(o, was)"
    return f"""SELECT pg_catalog.array_agg(now)::text AS counts, coalesce(pg_catalog.sum(now), 0)::bigint AS total{most}
          FROM (SELECT {count} AS now{"" if was is None else ", was"} FROM {source} WHERE m.mode = 'none' OFFSET 0) c"""


def _others(database: int, after: str, parameters: tuple[str, str] | None) -> str:
    """Write the list of the other sessions, as a text and as the number of those that may have written unseen.

    *parameters* are two: the process ids of sessions that are held, and the sessions that have run nothing since
    they were remembered. These have not written if they are idle and wait for their client. Those that are held have
    reported before they were idle, and may enter their wait a moment later. Without *parameters* any other session counts, also
    an autovacuum worker. It is evaluated *after* a number is known.
    """
    connected = f"CASE WHEN {after} >= 0 THEN pg_catalog.pg_stat_get_db_numbackends({database}) END"
    if parameters is None:
        return f"(SELECT '' AS names, {connected} - 1 AS strangers OFFSET 0)"
    held, allowed = parameters
    name = "pg_catalog.concat_ws('/', a.pid, EXTRACT(EPOCH FROM a.backend_start), EXTRACT(EPOCH FROM a.state_change))"
    return f"""(SELECT coalesce(pg_catalog.string_agg(b.name, ',' ORDER BY b.name), '') AS names,
               pg_catalog.count(*) FILTER (WHERE NOT (b.is_idle AND (
                   b.pid = ANY ({held}::integer[]) OR (b.waits AND b.name = ANY ({allowed}::text[])))))::integer AS strangers
          FROM (SELECT a.pid, {name} AS name, coalesce(a.state = 'idle', false) AS is_idle,
                       coalesce(a.wait_event = 'ClientRead', false) AS waits
                  FROM pg_catalog.pg_stat_get_activity(CASE WHEN {connected} = 0 THEN 0 END) a
                 WHERE a.datid = {database} AND a.usesysid IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
                OFFSET 0) b)"""


def _blocks(sequences: Iterable[int]) -> str:
    """Write the sum of the blocks ever fetched of all *sequences*."""
    # Sets in a list of columns are a third cheaper than in FROM.
    return (
        "coalesce((SELECT pg_catalog.sum(n) FROM (SELECT pg_catalog.pg_stat_get_blocks_fetched(o) AS n "
        f"FROM (SELECT pg_catalog.unnest({_oids(sequences)}) AS o OFFSET 0) y OFFSET 0) z), 0)::bigint"
    )


def _oids(oids: Iterable[int]) -> str:
    return f"'{array(oids)}'::oid[]"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must be equal in two readings: the text that must not change, sessions ever, and other sessions now."""

    epoch: str
    sessions: int | None
    others: tuple[str, ...]

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Conditions:
        """Make them from the row of :data:`CONDITIONS`."""
        epoch, sessions, others = row
        return cls(epoch or "", None if sessions is None else int(sessions), tuple(others.split(",")) if others else ())

    def with_more(self, sessions: int) -> Conditions:
        """Return the conditions that are expected after this process has opened so many more sessions."""
        return self if self.sessions is None else replace(self, sessions=self.sessions + sessions)

    @property
    def are_trusted(self) -> bool:
        """Whether the counters can be trusted: they count, and every other session is idle and shows it."""
        is_counting = self.epoch.startswith(COUNTING) and self.sessions is not None
        return is_counting and all(session.endswith("/idle") for session in self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedState(DatabaseState):
    """A state, and the conditions under which it was read: a change tracker compares them with those of its readings."""

    conditions: Conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class Relations:
    """All tables and sequences of a database by OID, whether in scope or not.

    ``toasts`` are the toast tables by table; ``always`` the sequences that every reading must include; ``cached``
    those of which sessions keep values in advance; ``unindexed`` the tables that are referenced without an index, so that
    a DELETE may be slow. ``used`` are the sequences that a table's columns use, and ``by_name`` the OIDs of the tables that
    a name in a statement may stand for: also the partitions.
    """

    tables: Mapping[int, QualifiedName]
    sequences: Mapping[int, QualifiedName]
    toasts: Mapping[int, int]
    always: tuple[int, ...]
    cached: frozenset[int]
    unindexed: frozenset[int]
    used: Mapping[int, tuple[int, ...]]
    by_name: Mapping[WrittenName, tuple[int, ...]]

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
        cached: list[int] = []
        for oid, namespace, name, kind, toast, is_special, is_cached in sorted(rows):
            (sequences if kind == "S" else tables)[oid] = QualifiedName(namespace, name)
            if toast:
                toasts[oid] = toast
            if is_special:
                always.append(oid)
            if is_cached:
                cached.append(oid)
        return cls(
            tables=tables,
            sequences=sequences,
            toasts=toasts,
            always=tuple(always),
            cached=frozenset(cached),
            unindexed=frozenset(oid for oid, name in tables.items() if name in slow),
            used=_find_used(schema, tables, sequences),
            by_name=_find_by_name(schema, tables),
        )

    def may_be_written(self, names: Iterable[WrittenName]) -> set[int]:
        """Return the OIDs of the tables that statements with these *names* may have written to, and of their sequences."""
        found = {oid for name in names for oid in self.by_name.get(name, ())}
        return found.union(*(self.used.get(oid, ()) for oid in found))


def _find_used(
    schema: Schema, tables: Mapping[int, QualifiedName], sequences: Mapping[int, QualifiedName]
) -> dict[int, tuple[int, ...]]:
    by_table: dict[QualifiedName, list[int]] = {}
    for oid, name in sequences.items():
        sequence = schema.sequences_by_name.get(name)
        for table in sequence.tables if sequence is not None else ():
            by_table.setdefault(table, []).append(oid)
    return {oid: tuple(by_table[name]) for oid, name in tables.items() if name in by_table}


def _find_by_name(schema: Schema, tables: Mapping[int, QualifiedName]) -> dict[WrittenName, tuple[int, ...]]:
    oids = {name: oid for oid, name in tables.items()}
    found: dict[WrittenName, list[int]] = {}
    for table in {*oids, *schema.by_name}:
        work, parts = [table], list[int]()
        while work:
            part = work.pop()
            work += schema.partitions.get(part, ())
            parts += [oids[part]] if part in oids else []
        for name in ((None, table.name), (table.schema, table.name)):
            found.setdefault(name, []).extend(parts)
    return {name: tuple(parts) for name, parts in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterReading:
    """One reading: the process id, the conditions, the next transaction id, and the counts that it was to read.

    By OID, ``writes`` are the rows ever written to tables. They include what this session has not reported; ``pending``
    are the tables with such counts. ``catalogs`` are the rows ever written to catalogs: no counter ever goes down, so
    their sum shows as much as each. ``rows`` is the sum of the database, as reported.
    """

    pid: int
    conditions: Conditions
    xmax: str
    writes: Mapping[int, int]
    pending: frozenset[int]
    catalogs: int | None
    has_pending_catalogs: bool
    rows: int

    @classmethod
    def from_row(cls, row: Sequence[str | None], tables: Iterable[int] = ()) -> CounterReading:
        """Make it from the row of a query of this module. *tables* are those of the query, in its order."""
        _, pid, _, _, _, xmax, written, unreported, catalogs, pending_catalogs, rows = row
        writes = dict(zip(tables, parse_numbers(written), strict=True))
        numbers = iter(parse_numbers(unreported) if unreported else ())
        pending = dict(zip(numbers, numbers, strict=True))
        for oid, count in pending.items():
            writes[oid] += count
        return cls(
            pid=int(pid or 0),
            conditions=Conditions.from_row(row[2:5]),
            xmax=xmax or "",
            writes=writes,
            pending=frozenset(pending),
            catalogs=None if catalogs is None else int(catalogs),
            has_pending_catalogs=pending_catalogs not in {None, "0"},
            rows=int(rows or 0),
        )

    def is_comparable(self, later: CounterReading) -> bool:
        """Whether the counts show what was written to tables between this reading and a *later* one within transactions."""
        return (
            self.conditions.are_trusted
            and self.conditions == later.conditions
            and self.catalogs == later.catalogs
            and not self.has_pending_catalogs
        )

    def is_same(self, later: CounterReading, oid: int) -> bool:
        """Whether that table has the same rows, if the two readings are comparable: a rollback may take back what is pending."""
        return oid not in self.pending and self.writes.get(oid) == later.writes.get(oid)


def read_counters(connection: BaseDatabaseWrapper, pipeline: Pipeline, reading: Command) -> CounterReading:
    """Run a reading over the connection's pipeline after this session has reported. One round trip."""
    return CounterReading.from_row(rows_of(run_prepared(connection, pipeline, REPORT, [reading])[-1])[0])


def run_prepared(connection: BaseDatabaseWrapper, pipeline: Pipeline, *batches: Sequence[Command]) -> list[Result]:
    """Run batches that may be run twice: they are run again if something has dropped what was prepared."""
    try:
        return pipeline.run(connection, *batches)
    except DatabaseError as error:
        if sqlstate(error) != NOT_PREPARED:
            raise
        return pipeline.run(connection, *batches)


def parse_numbers(array: str | None) -> list[int]:
    """Parse an array of numbers; NULL in it becomes -1."""
    return (
        [int(number) if number != "NULL" else -1 for number in array[1:-1].split(",")]
        if array not in {None, "{}"}
        else []
    )


def array(values: Iterable[object]) -> str:
    """Write an array of numbers, or of texts that need no quotes, as PostgreSQL does."""
    return "{" + ",".join(map(str, values)) + "}"
