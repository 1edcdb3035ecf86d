"""PostgreSQL's counters: the queries that tell what was written, and the proof that they are exact.

**Nothing was written** if no transaction has completed with an id of its own since the last reset:
``pg_snapshot_xmax(pg_current_snapshot())`` is one more than the latest completed id of the whole cluster. Whoever writes a
row takes an id (heap_insert(), heap_update() and heap_delete() call GetCurrentTransactionId()). A sequence takes one when
its page is logged (nextval_internal() and do_setval() in sequence.c), and nextval() logs if the sequence was not called
yet or its ``log_cnt`` is used up. setval() sets ``log_cnt`` to 0, and a reset ends by setval() of what moved: the next
nextval() is therefore logged. Sequences whose ``log_cnt`` was not 0 when the counts were remembered (one may have moved and
come back by itself), unlogged ones, and those that may CYCLE are always looked at themselves.

**Where something was written** the cumulative statistics tell. ``pg_stat_get_tuples_inserted/updated/deleted`` are what
sessions have reported; ``pg_stat_get_xact_tuples_*`` what this one has not reported yet. Their sum moves with every row
that this session writes, also where it is rolled back (pgstat_count_heap_insert() and its like count at once, and
AtEOXact_PgStat_Relations() keeps them). Sessions that are gone have reported all: pgstat_shutdown_hook() is a
before_shmem_exit callback, and the entry in pg_stat_activity is cleared later, by an on_shmem_exit one.

**Which tables need no look**: the counters of the database are the sums over its tables, as
pgstat_relation_flush_cb() adds each table's counts to both. None of them ever goes down but by a reset, which the
database's ``stat_reset_time`` shows. So if the database's sum has moved by as much as those of some tables together,
nothing else has moved. The same holds for the blocks fetched of all sequences: each call fetches the sequence's page.
For the sum to be complete this session has to report first: ``pg_stat_force_next_flush()`` before a sync of the protocol
(PostgresMain() calls pgstat_report_stat() where it is ready for the next query), the sum after it, before the first write
and in its transaction; if it does not fit, that transaction ends there. So the same proof serves where nobody has looked
before, and the tables are those that the last two resets found written.

**The condition** for all of it is that nobody else may have written unseen since the last reset. Either no other session
is connected to this database, and none has been but those that this process opened through Django
(``pg_stat_get_db_sessions`` as it was or as many more, so that not even one with ``track_counts`` off has come and gone), or
those that are connected are idle, visibly, since before that reset: their
``state_change`` has not moved. Prepared transactions are the ones that there were, the counters were not reset,
``track_counts`` is on, and the server has not restarted, nor recovered from a crash, which empties unlogged tables and
discards all counters (pgstat_reset_after_failure() dates those of the background writer). Whatever does not hold sends
the resetter to the look that needs no condition. Who is connected is read before the counters are, in the same message: a
session that ends in between has reported by then. As one that idles may report at any time, between two counters too, the sums
prove something only where nobody is connected; otherwise every counter is read.

**What no counter shows** is written with ``track_counts`` off in between. Only a superuser may switch it, whoever was granted SET
on that parameter, and a function that a superuser made with ``SET track_counts = off``. Where this role was granted that, or
there is such a function, every transaction id that was taken since sends the resetter to the full scan. A role or a database
that has it off shows in the session's own setting. What is left is a superuser who, in a session of this process, or in one for
replication, switches it off, writes, and switches it on again; and such a function made since the schema was read.

Measured at 1,000 tables: about 0.1 microseconds a counter read after ``stats_fetch_consistency = none``, three times that
with the default, which copies each entry first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testdb_app.backends.postgresql.sql import qualify
from testdb_app.schema import QualifiedName, Schema

FORCE_FLUSH = "SELECT pg_catalog.pg_stat_force_next_flush()"

COUNTING = "counting"
"""How the conditions begin where the session counts, and fires and checks what sessions usually do."""

# Those that a plan or a baseline depends on; a comment holds the name that a test mark is for.
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

# oid, schema, name, kind, toast table, is to be looked at always
RELATIONS = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, c.reltoastrelid::bigint,
       c.relkind = 'S' AND (c.relpersistence = 'u' OR s.seqcycle)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
 WHERE c.relkind IN ('r', 'S') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

# oid; of some sequences those that were called, or of which this role cannot know
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

# oid of the database, whether prepared transactions are possible, whether writes may be hidden from the counters (a superuser's
# always may be)
DATABASE = """
SELECT d.oid::bigint, pg_catalog.current_setting('max_prepared_transactions') <> '0',
       EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.proconfig::text LIKE '%track_counts=%')
       OR (pg_catalog.current_setting('is_superuser') = 'off'
           AND pg_catalog.has_parameter_privilege('track_counts', 'SET'))
  FROM pg_catalog.pg_database d
 WHERE d.datname = pg_catalog.current_database()
"""

_DATABASE_OID = qualify("(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())")
# Each by its id and its time, as one may end while another begins; a name of theirs may hold anything.
_PREPARED = (
    "CASE WHEN pg_catalog.current_setting('max_prepared_transactions') <> '0' "
    "THEN (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', p.transaction, EXTRACT(EPOCH FROM p.prepared)), '+' "
    "ORDER BY p.transaction::text) FROM pg_catalog.pg_prepared_xacts p WHERE p.database = pg_catalog.current_database()) END"
)
_WRITES = " + ".join(
    f"pg_catalog.pg_stat_get_{kind}tuples_{verb}(o)"
    for kind in ("", "xact_")
    for verb in ("inserted", "updated", "deleted")
)
_CALLS = "pg_catalog.pg_stat_get_blocks_fetched(o) + pg_catalog.pg_stat_get_xact_blocks_fetched(o)"
# That of the transaction that writes is not the one of the looks.
_ISOLATION = "default_transaction_isolation"
_WITHOUT_COPIES = "pg_catalog.set_config('stats_fetch_consistency', 'none', true)"


def _epoch(database: str, *, prepared: bool) -> str:
    """A text that must not change."""
    return qualify(f"""pg_catalog.concat_ws(' ',
           CASE WHEN pg_catalog.current_setting('track_counts') = 'on'
                 AND NOT pg_catalog.current_setting('session_replication_role') = 'replica' THEN '{COUNTING}' ELSE 'blind' END,
           EXTRACT(EPOCH FROM pg_catalog.pg_stat_get_db_stat_reset_time({database})),
           EXTRACT(EPOCH FROM pg_catalog.pg_postmaster_start_time()),
           EXTRACT(EPOCH FROM pg_catalog.pg_stat_get_bgwriter_stat_reset_time()),
           pg_catalog.current_setting('default_transaction_read_only'), pg_catalog.current_setting('{_ISOLATION}'),
           current_user, pg_catalog.current_schemas(false){", " + _PREPARED if prepared else ""})""")


def _conditions(database: str, *, prepared: bool) -> str:
    """Columns: what must not change, sessions ever, sessions now, the next transaction id."""
    return f"""{_epoch(database, prepared=prepared)},
       pg_catalog.pg_stat_get_db_sessions({database}),
       pg_catalog.pg_stat_get_db_numbackends({database}),
       pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text"""


CONDITIONS = qualify(f"SELECT {_conditions(_DATABASE_OID, prepared=True)}")
"""The conditions alone, for any database."""

# An autovacuum worker has no user, and writes no rows.
OTHERS = qualify("""
SELECT pg_catalog.concat_ws('/', a.pid, EXTRACT(EPOCH FROM a.backend_start), EXTRACT(EPOCH FROM a.state_change),
                            coalesce(a.state, 'hidden'))
  FROM pg_catalog.pg_stat_get_activity(NULL) a
 WHERE a.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
   AND a.usesysid IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
 ORDER BY a.pid
""")
"""One text for each other session that is connected to the database."""


def _rows(database: int | str) -> str:
    """The rows ever written in the database."""
    return " + ".join(
        f"pg_catalog.pg_stat_get_db_tuples_{verb}({database})" for verb in ("inserted", "updated", "deleted")
    )


COUNTED = qualify(
    f"SELECT {_conditions(_DATABASE_OID, prepared=True)}, {_rows(_DATABASE_OID)}, "
    f"(SELECT pg_catalog.sum({_WRITES}) FROM (SELECT c.oid AS o FROM pg_catalog.pg_class c "
    "WHERE c.relnamespace = 'pg_catalog'::pg_catalog.regnamespace AND c.relkind = 'r' AND NOT c.relisshared) w)"
)
"""The conditions, the rows ever written in the database, and those of its catalogs."""

WRITTEN = qualify(f"""
SELECT c.oid::bigint, {_WRITES.replace("(o)", "(c.oid)")}
       + CASE WHEN c.reltoastrelid = 0 THEN 0 ELSE {_WRITES.replace("(o)", "(c.reltoastrelid)")} END
  FROM pg_catalog.pg_class c
 WHERE c.relkind = ANY ('{{r,m}}') AND c.relnamespace <> 'pg_catalog'::pg_catalog.regnamespace
""")
"""Every table that is no catalog: its OID, and the rows ever written to it and to the table of its long values."""


def look(database: int, *, prepared: bool) -> str:
    """Write the look as a query with two parameters, arrays of OIDs: tables, sequences. It makes the session report.

    Columns: (settings), process id, the four of the conditions, the counts of writes and of calls as texts.
    """
    return qualify(
        f"SELECT {_WITHOUT_COPIES}, pg_catalog.pg_backend_pid(), {_conditions(str(database), prepared=prepared)}, "
        f"ARRAY(SELECT {_WRITES} FROM pg_catalog.unnest($1::oid[]) o)::text, "
        f"ARRAY(SELECT {_CALLS} FROM pg_catalog.unnest($2::oid[]) o)::text, pg_catalog.pg_stat_force_next_flush()"
    )


def full_reading(database: int, tables: Iterable[int], sequences: Iterable[int], *, prepared: bool) -> str:
    """Write the look at every table and sequence. Columns as of :func:`look`, then the counts of the catalogs, and the two sums.

    What the session has not reported is in these counts, and not in the sums of the database.
    """
    catalogs = ", ".join(f"'pg_catalog.{name}'::pg_catalog.regclass" for name in SCHEMA_CATALOGS)
    return qualify(
        f"SELECT {_WITHOUT_COPIES}, pg_catalog.pg_backend_pid(), {_conditions(str(database), prepared=prepared)}, "
        f"ARRAY(SELECT {_WRITES} FROM pg_catalog.unnest({_oids(tables)}) o)::text, "
        f"ARRAY(SELECT {_CALLS} FROM pg_catalog.unnest({_oids(sequences)}) o)::text, "
        f"ARRAY(SELECT {_WRITES} FROM pg_catalog.unnest(ARRAY[{catalogs}]::oid[]) o)::text, "
        f"{_rows(database)}, {_blocks(sequences)}, pg_catalog.pg_stat_force_next_flush()"
    )


def _blocks(sequences: Iterable[int]) -> str:
    """The blocks ever fetched of all its sequences."""
    fetched = (
        f"pg_catalog.sum(pg_catalog.pg_stat_get_blocks_fetched(o))::bigint FROM pg_catalog.unnest({_oids(sequences)}) o"
    )
    return f"coalesce((SELECT {fetched}), 0)"


def insist(database: int, sequences: Iterable[int], *, prepared: bool, holds: str) -> str:
    """Write the first query of the transaction that writes: settings, and what must hold. Where it does not, a division
    by zero ends that transaction. *holds* is the condition that it is where it was permitted to write.

    Parameters: (1) the lock time-out; (2) the process id; (3) the text of the conditions, (4) sessions ever, (5) sessions
    now or NULL; (6, 7) the OIDs of the tables that were written, and their counts as remembered; (8, 9) the same of
    sequences; (10, 11) the sums as remembered, or NULL; (12) the most that may have been written to one table. The session
    must have reported. Columns: (settings), the counts of tables and of sequences as texts, the two sums.
    """
    now, calls = (
        " + ".join(f"pg_catalog.pg_stat_get_{kind}(o)" for kind in kinds)
        for kinds in (("tuples_inserted", "tuples_updated", "tuples_deleted"), ("blocks_fetched",))
    )
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
       LATERAL ({_moved(now, "$6", "$7")}) t,
       LATERAL ({_moved(calls, "$8", "$9")}) s""")
    # It bears the name of the database.
    return query.replace("{holds}", holds)


def _moved(count: str, oids: str, remembered: str) -> str:
    """Compare counts with those that are remembered, after d.mode is set. No OID at all is as good as all that have moved."""
    return f"""SELECT pg_catalog.array_agg(now)::text AS counts, coalesce(pg_catalog.sum(now - was), 0) AS total,
               coalesce(pg_catalog.min(now - was), 1) AS least, coalesce(pg_catalog.max(now - was), 0) AS most
          FROM (SELECT {count} AS now, was
                  FROM ROWS FROM (pg_catalog.unnest(CASE WHEN d.mode = 'none' THEN {oids}::oid[] END),
                                  pg_catalog.unnest({remembered}::bigint[])) u(o, was)
                OFFSET 0) c"""


def _oids(oids: Iterable[int]) -> str:
    return "'{" + ",".join(map(str, oids)) + "}'::oid[]"


Conditions = tuple[str, int | None, tuple[str, ...]]
"""What must be the same at two looks for the counters between them to be trusted: what holds, sessions ever, others now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relations:
    """The tables and sequences of a database by OID, all of them, whether in scope or not.

    ``toasts`` are the tables with their long values; ``always`` the sequences that every look must include;
    ``unindexed`` the tables that are referenced without an index, so that a DELETE may be slow.
    """

    tables: Mapping[int, QualifiedName]
    sequences: Mapping[int, QualifiedName]
    toasts: Mapping[int, int]
    always: tuple[int, ...]
    unindexed: frozenset[int]

    @property
    def counted(self) -> tuple[int, ...]:
        """What a look at all counts the writes of."""
        return (*self.tables, *self.toasts.values())

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[Any, ...]], schema: Schema) -> Relations:
        """Make them of the rows of :data:`RELATIONS`."""
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
    """One look: process id, conditions, next transaction id, and counts of writes and of calls, in the order asked for.

    A look at all has the counts of the ``catalogs`` too, and the ``sums`` of the database, without what the session had
    not reported.
    """

    pid: int
    conditions: Conditions
    xmax: str
    writes: Sequence[int]
    calls: Sequence[int]
    catalogs: str = ""
    sums: tuple[int, int] = (0, 0)


def parse_reading(row: Sequence[str | None], others: tuple[str, ...] = ()) -> CounterReading:
    """Make a look of the row of :func:`signals.look` or :func:`signals.full_reading`, and the *others* connected."""
    _, pid, epoch, sessions, _, xmax, writes, calls, *rest = row
    return CounterReading(
        pid=int(pid or 0),
        conditions=(epoch or "", None if sessions is None else int(sessions), others),
        xmax=xmax or "",
        writes=parse_numbers(writes or ""),
        calls=parse_numbers(calls or ""),
        catalogs=rest[0] or "" if len(rest) > 1 else "",
        sums=(int(rest[1] or 0), int(rest[2] or 0)) if len(rest) > 1 else (0, 0),
    )


def parse_numbers(array: str) -> list[int]:
    """Read an array of numbers; NULL is -1."""
    return [int(number) if number != "NULL" else -1 for number in array[1:-1].split(",")] if array != "{}" else []


def parse_conditions(row: Sequence[Any], others: Iterable[Sequence[Any]]) -> Conditions:
    """Make :attr:`CounterReading.conditions` of the row of :data:`CONDITIONS` and those of :data:`OTHERS`."""
    return row[0], row[1], tuple(text for (text,) in others)


def are_trusted(conditions: Conditions) -> bool:
    """Whether the counters can tell at all: they count, and every other session is idle and shows it."""
    epoch, sessions, others = conditions
    return epoch.startswith(COUNTING) and sessions is not None and all(session.endswith("/idle") for session in others)
