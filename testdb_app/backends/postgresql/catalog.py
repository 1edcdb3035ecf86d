"""The catalog queries, as constants. None has parameters; each returns the columns that its comment names.

They use plain names of operators and types. :func:`~testdb_app.backends.postgresql.queries.read_rows` runs them under a
``search_path`` that has none of the user's schemas.
"""

from __future__ import annotations

# The user's own schemas: neither the system's nor another session's temporary one.
USER_SCHEMAS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
_USER_OR_TEMPORARY = f"(({USER_SCHEMAS}) OR n.oid = pg_catalog.pg_my_temp_schema())"

# A function's privilege is checked where the executor begins, also in the branch of a CASE that is not taken. Only a
# query in a text can be left out. ts_stat() runs one, in every build of the server.
_SYSTEM_IDENTIFIER = """
       CASE WHEN pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
            THEN (SELECT word
                    FROM pg_catalog.ts_stat('SELECT system_identifier::pg_catalog.text::pg_catalog.tsvector
                                               FROM pg_catalog.pg_control_system()'))
            ELSE ''
       END"""

# database, its OID, system identifier ('': no privilege), start of the server, user, server address, port, is standby, is
# read-only, isolation, session_replication_role, logical slots of this database, is protected, bears a test mark, what
# that is bound to
#
# to_regclass() would raise for a schema without USAGE; the catalog never does. Operators and types are qualified: the
# search path is the user's, and may have others before those of pg_catalog.
IDENTITY = f"""
SELECT pg_catalog.current_database(),
       (SELECT d.oid::bigint
          FROM pg_catalog.pg_database d
         WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()),{_SYSTEM_IDENTIFIER},
       EXTRACT(EPOCH FROM pg_catalog.pg_postmaster_start_time())::pg_catalog.text,
       current_user::pg_catalog.text,
       pg_catalog.host(pg_catalog.inet_server_addr()),
       pg_catalog.inet_server_port(),
       pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('default_transaction_read_only')::boolean
           OR pg_catalog.current_setting('transaction_read_only')::boolean,
       pg_catalog.current_setting('transaction_isolation'),
       pg_catalog.current_setting('session_replication_role'),
       ARRAY(SELECT r.slot_name::pg_catalog.text
               FROM pg_catalog.pg_replication_slots r
              WHERE r.slot_type OPERATOR(pg_catalog.=) 'logical'
                AND r.database OPERATOR(pg_catalog.=) pg_catalog.current_database()),
       m.is_protected,
       m.is_marked,
       m.binding
  FROM (SELECT coalesce(pg_catalog.bool_or(c.relname OPERATOR(pg_catalog.=) 'protected'), false) AS is_protected,
               coalesce(pg_catalog.bool_or(c.relname OPERATOR(pg_catalog.=) 'test'), false) AS is_marked,
               pg_catalog.min(pg_catalog.obj_description(c.oid, 'pg_class'))
                   FILTER (WHERE c.relname OPERATOR(pg_catalog.=) 'test') AS binding
          FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE n.nspname OPERATOR(pg_catalog.=) 'testdb'
           AND (c.relname OPERATOR(pg_catalog.=) 'protected' OR c.relname OPERATOR(pg_catalog.=) 'test')) m
"""

_USER_SCHEMA_OIDS = f"ARRAY(SELECT n.oid FROM pg_catalog.pg_namespace n WHERE {_USER_OR_TEMPORARY})"


def _digest(columns: str, source: str) -> str:
    """Write a digest of rows that needs no sort: their number, and the exclusive or of their 64-bit hashes.

    Each row has an OID, so no two are equal and cancel each other.
    """
    hashes = f"pg_catalog.bit_xor(pg_catalog.hash_record_extended(({columns}), 0))"
    return f"(SELECT pg_catalog.concat_ws(':', pg_catalog.count(*), {hashes}) FROM pg_catalog.{source})"


# token
#
# Only rows that a plan or a baseline depends on are hashed: a TRUNCATE changes relfilenode and xmin, but not the plan. Of a
# foreign key only what ALTER can change: its tables, columns and actions are those of its OID.
TOKEN = f"""
SELECT pg_catalog.concat_ws('/',
    {_digest("oid, nspname, nspowner", "pg_namespace")},
    {
    _digest(
        "oid, relname, relnamespace, relkind, relowner, relpersistence, relrowsecurity, relforcerowsecurity, "
        "relhasrules, relispartition, relispopulated, relreplident, relam, relpartbound::text",
        f"pg_class WHERE relkind IN ('r', 'p', 'f', 'S', 'm') AND relnamespace = ANY ({_USER_SCHEMA_OIDS})",
    )
},
    {_digest("oid, conname, condeferrable, condeferred, convalidated", "pg_constraint WHERE contype = 'f'")},
    {_digest("oid, tgname, tgrelid, tgenabled, tgtype", "pg_trigger WHERE NOT tgisinternal")},
    {_digest("oid, rulename, ev_class, ev_type, ev_enabled", "pg_rewrite WHERE oid >= 16384")},
    {_digest("s.seqrelid, s.seqstart, s.seqincrement, s.seqmin, s.seqmax", "pg_sequence s")},
    {_digest("inhrelid, inhparent", "pg_inherits")},
    {_digest("oid, xmin::text", "pg_attrdef")},
    {
    _digest(
        "objid, refobjid",
        "pg_depend WHERE refclassid = 'pg_catalog.pg_extension'::regclass "
        "AND classid = 'pg_catalog.pg_class'::regclass",
    )
},
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D'),
    CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_publication) THEN pg_catalog.concat_ws('/',
    {_digest("oid, xmin::text", "pg_publication")},
    {_digest("oid, xmin::text", "pg_publication_rel")},
    {_digest("oid, xmin::text", "pg_publication_namespace")},
    {_digest("indexrelid, indisprimary, indisreplident", "pg_index WHERE indisprimary OR indisreplident")}) END,
    current_user)
"""

# kind, name of each object that a test may leave or remove; an index of a constraint comes and goes with its table
OBJECTS = f"""
SELECT CASE c.relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'i' THEN 'index'
                      WHEN 'I' THEN 'index' WHEN 'c' THEN 'type' WHEN 'f' THEN 'foreign table' ELSE 'table' END,
       pg_catalog.concat(n.nspname, '.', c.relname)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE {USER_SCHEMAS} AND n.nspname <> 'testdb' AND c.relkind <> 't'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = c.oid)
 UNION ALL
SELECT 'trigger', pg_catalog.concat(t.tgname, ' on ', n.nspname, '.', c.relname)
  FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT t.tgisinternal AND {USER_SCHEMAS}
 UNION ALL
SELECT 'function', pg_catalog.concat(n.nspname, '.', p.proname, '(', pg_catalog.pg_get_function_identity_arguments(p.oid), ')')
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE {USER_SCHEMAS}
 UNION ALL
SELECT 'type', pg_catalog.concat(n.nspname, '.', t.typname)
  FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
 WHERE t.typtype IN ('d', 'e', 'r') AND {USER_SCHEMAS}
 UNION ALL
SELECT 'schema', n.nspname::text
  FROM pg_catalog.pg_namespace n
 WHERE {USER_SCHEMAS} AND n.nspname <> 'testdb'
"""

# search path, as the session has it, before it is set to a safe one
SEARCH_PATH = "SELECT pg_catalog.current_schemas(false)::pg_catalog.text[]"

# whether an event trigger fires on DDL
EVENT_TRIGGERS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtenabled IN ('O', 'A'))"

# which of the catalogs of STORED_BY exist, as tables of an extension or of a superuser: no other is read
STORES = """
SELECT n.nspname || '.' || c.relname
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE (n.nspname, c.relname) IN (('pg_catalog', 'pg_dist_partition'), ('_timescaledb_catalog', 'chunk')) AND c.relkind = 'r'
   AND (EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                   AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e')
        OR EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = c.relowner AND r.rolsuper))
"""

# Some extensions list tables whose rows they keep elsewhere. By the catalog with that list: what the tables are called,
# and the query of schema, name. Columns that a version of the extension may lack are read as JSON.
STORED_BY = {
    "pg_catalog.pg_dist_partition": (
        "a distributed table of Citus",
        """
SELECT n.nspname::text, c.relname::text
  FROM pg_catalog.pg_dist_partition p
  JOIN pg_catalog.pg_class c ON c.oid = p.logicalrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
""",
    ),
    "_timescaledb_catalog.chunk": (
        "a hypertable of TimescaleDB with compressed chunks",
        """
SELECT DISTINCT h.schema_name::text, h.table_name::text
  FROM _timescaledb_catalog.chunk c
  JOIN _timescaledb_catalog.hypertable h ON h.id = c.hypertable_id
 WHERE pg_catalog.to_jsonb(c) ->> 'compressed_chunk_id' IS NOT NULL
""",
    ),
}

# oid, schema, name, kind, persistence, is partition, parents, extension, owner, owned, hides rows, forced, access method
TABLES = f"""
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relispartition,
       ARRAY(SELECT i.inhparent::bigint FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid),
       e.extname::text,
       pg_catalog.pg_get_userbyid(c.relowner)::text,
       pg_catalog.pg_has_role(c.relowner, 'USAGE'),
       c.relrowsecurity AND pg_catalog.row_security_active(c.oid),
       c.relrowsecurity AND c.relforcerowsecurity,
       coalesce(m.amname::text, 'heap')
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam
  LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                                  AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
  LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
 WHERE c.relkind IN ('r', 'p', 'f') AND {_USER_OR_TEMPORARY}
"""

# name, table, columns, referenced table, referenced columns, on delete, on update, deferrable, initially deferred, match,
# inherited, indexed (an index of the referencing table starts with a column of the key), the operators of the comparison,
# has period, enforced
_FOREIGN_KEYS = """
SELECT k.conname::text, k.conrelid::bigint,
       ARRAY(SELECT a.attname::text
               FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u(number, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number
              ORDER BY u.place),
       k.confrelid::bigint,
       ARRAY(SELECT a.attname::text
               FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY u(number, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number
              ORDER BY u.place),
       k.confdeltype::text, k.confupdtype::text, k.condeferrable, k.condeferred, k.confmatchtype::text, k.conparentid <> 0,
       EXISTS (SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = k.conrelid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = ANY (k.conkey)),
       ARRAY(SELECT pg_catalog.format('OPERATOR(%I.%s)', s.nspname, o.oprname)
               FROM pg_catalog.unnest(k.conpfeqop) WITH ORDINALITY u(operator, place)
               JOIN pg_catalog.pg_operator o ON o.oid = u.operator
               JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace
              ORDER BY u.place),
       {since_18}
  FROM pg_catalog.pg_constraint k
 WHERE k.contype = 'f'
"""

_FOREIGN_KEYS_18 = _FOREIGN_KEYS.format(since_18="k.conperiod, k.conenforced")
_FOREIGN_KEYS_15 = _FOREIGN_KEYS.format(since_18="false, true")


def foreign_keys(version: int) -> str:
    """Return the query of the foreign keys for a server of that version (180001)."""
    return _FOREIGN_KEYS_18 if version >= 18_00_00 else _FOREIGN_KEYS_15


# schema, name, type, start, increment, minimum, maximum, cache, cycle, extension, owned, readable, uses
SEQUENCES = f"""
SELECT n.nspname::text, c.relname::text, s.seqtypid::regtype::text, s.seqstart, s.seqincrement, s.seqmin, s.seqmax,
       s.seqcache, s.seqcycle, e.extname::text, pg_catalog.pg_has_role(c.relowner, 'USAGE'),
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_sequence_privilege(c.oid, 'SELECT'), u.uses
  FROM pg_catalog.pg_sequence s
  JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                                  AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
  LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
  LEFT JOIN (
      SELECT x.sequence, pg_catalog.json_agg(pg_catalog.json_build_object(
                 'table', a.attrelid::bigint, 'column', a.attname, 'how', x.how)) AS uses
        FROM (SELECT o.objid AS sequence, o.refobjid AS relation, o.refobjsubid AS number,
                     CASE o.deptype WHEN 'i' THEN 'identity' ELSE 'owned' END AS how
                FROM pg_catalog.pg_depend o
               WHERE o.classid = 'pg_catalog.pg_class'::regclass AND o.refclassid = 'pg_catalog.pg_class'::regclass
                 AND o.deptype IN ('a', 'i') AND o.refobjsubid > 0
               UNION ALL
              SELECT o.refobjid, f.adrelid, f.adnum, 'default'
                FROM pg_catalog.pg_attrdef f
                JOIN pg_catalog.pg_depend o ON o.classid = 'pg_catalog.pg_attrdef'::regclass AND o.objid = f.oid
                                           AND o.refclassid = 'pg_catalog.pg_class'::regclass
                                           AND o.refobjid <> f.adrelid) x
        JOIN pg_catalog.pg_attribute a ON a.attrelid = x.relation AND a.attnum = x.number
       GROUP BY x.sequence) u ON u.sequence = c.oid
 WHERE {USER_SCHEMAS}
"""

# table, name, type bits, enabled
TRIGGERS = """
SELECT t.tgrelid::bigint, t.tgname::text, t.tgtype::integer, t.tgenabled::text
  FROM pg_catalog.pg_trigger t
 WHERE NOT t.tgisinternal
"""

# table, name, event, enabled
RULES = """
SELECT r.ev_class::bigint, r.rulename::text, r.ev_type::text, r.ev_enabled::text
  FROM pg_catalog.pg_rewrite r
  JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
 WHERE c.relkind IN ('r', 'p') AND r.ev_type <> '1'
"""

HAS_PUBLICATIONS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_publication)"

# table, publication, publishes UPDATE, publishes DELETE, generated columns that it publishes (PostgreSQL 18 on: "n" or
# "s"), replica identity, its index, the columns of that, the columns of the publication's row filter, its column list,
# columns that are stored generated ones, and virtual ones, may truncate
#
# A partition is published with its partitioned table. Where publish_via_partition_root is on, the filter and the list are
# those of the topmost table of the publication; columns are matched by name. The filter's columns are read from its
# expression tree, as in pub_rf_contains_invalid_column().
PUBLISHED = f"""
SELECT t.oid::bigint, p.pubname::text, p.pubupdate, p.pubdelete, pg_catalog.to_jsonb(p) ->> 'pubgencols',
       t.relreplident::text, i.name,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.oid AND a.attnum = ANY (i.columns)),
       ARRAY(SELECT DISTINCT a.attname::text
               FROM pg_catalog.regexp_matches(r.prqual::text, ':varattno ([0-9]+)', 'g') m
               JOIN pg_catalog.pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = m[1]::integer),
       CASE WHEN r.prattrs IS NOT NULL THEN
           ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[])) END,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = t.oid AND a.attgenerated = 's' AND NOT a.attisdropped),
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = t.oid AND a.attgenerated = 'v' AND NOT a.attisdropped),
       pg_catalog.has_table_privilege(t.oid, 'TRUNCATE')
  FROM (SELECT c.oid, c.relispartition, c.relreplident
          FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND {USER_SCHEMAS}) t
 CROSS JOIN pg_catalog.pg_publication p
  LEFT JOIN LATERAL (
      SELECT l.oid
        FROM (SELECT t.oid, 0 AS place
               UNION ALL
              SELECT above.oid, above.place
                FROM pg_catalog.pg_partition_ancestors(t.oid) WITH ORDINALITY above (oid, place)
               WHERE t.relispartition) l
       WHERE EXISTS (SELECT FROM pg_catalog.pg_publication_rel x WHERE x.prpubid = p.oid AND x.prrelid = l.oid)
          OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace x
                       JOIN pg_catalog.pg_class c ON c.relnamespace = x.pnnspid
                      WHERE x.pnpubid = p.oid AND c.oid = l.oid)
       ORDER BY l.place DESC
       LIMIT 1) top ON true
  LEFT JOIN pg_catalog.pg_publication_rel r
         ON r.prpubid = p.oid AND r.prrelid = CASE WHEN p.pubviaroot THEN coalesce(top.oid, t.oid) ELSE t.oid END
  LEFT JOIN LATERAL (
      SELECT c.relname::text AS name, x.indkey::int2[] AS columns
        FROM pg_catalog.pg_index x
        JOIN pg_catalog.pg_class c ON c.oid = x.indexrelid
       WHERE x.indrelid = t.oid AND x.indisvalid AND x.indisunique AND x.indimmediate
         AND CASE t.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident ELSE false END) i ON true
 WHERE p.puballtables OR top.oid IS NOT NULL
"""

# schema, name, the tables that it reads, through any number of views
MATERIALIZED_VIEWS = f"""
WITH RECURSIVE reads AS (
    SELECT r.ev_class AS reader, d.refobjid AS source
      FROM pg_catalog.pg_rewrite r
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
                                 AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> r.ev_class
     WHERE r.oid >= 16384 AND r.ev_type = '1'
     UNION
    SELECT i.inhparent, i.inhrelid FROM pg_catalog.pg_inherits i
), below AS (
    SELECT c.oid AS view, e.source
      FROM pg_catalog.pg_class c JOIN reads e ON e.reader = c.oid
     WHERE c.relkind = 'm' AND c.relispopulated
     UNION
    SELECT b.view, e.source FROM below b JOIN reads e ON e.reader = b.source
)
SELECT n.nspname::text, c.relname::text, pg_catalog.array_agg(b.source::bigint)
  FROM below b
  JOIN pg_catalog.pg_class c ON c.oid = b.view
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE {USER_SCHEMAS}
 GROUP BY 1, 2
"""

# schema, name, bytes, missing privilege; of the tables whose OIDs are in an array
#
# The size is that of the main fork: above zero for every table that may hold rows, whoever wrote them, committed or not.
# OFFSET 0 keeps the planner from calling the size function twice, and from reading the catalog for tables without pages.
SIZES_OF = """
SELECT c.nspname, c.relname, t.bytes,
       CASE WHEN NOT pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') THEN 'USAGE on its schema'
            WHEN NOT pg_catalog.has_table_privilege(t.o, 'SELECT') THEN 'SELECT'
            WHEN NOT pg_catalog.has_table_privilege(t.o, 'DELETE') THEN 'DELETE' END
  FROM (SELECT u.o, pg_catalog.pg_relation_size(u.o) AS bytes
          FROM (SELECT pg_catalog.unnest({oids}) AS o OFFSET 0) u OFFSET 0) t,
       LATERAL (SELECT n.nspname::text, c.relname::text, c.relnamespace
                  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.oid = t.o OFFSET 0) c
 WHERE t.bytes > 0
"""
_TABLE_OIDS = f"""ARRAY(
    SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {USER_SCHEMAS})"""
COPY_OIDS = """ARRAY(
    SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND n.nspname = 'testdb' AND c.relname = ANY ('{names}'))"""
"""The OIDs of copies of a baseline, as such an array."""

# The same for all tables of a schema that is not known.
SIZES = SIZES_OF.format(oids=_TABLE_OIDS)

# schema, name, state: "moved", "unread" (its row must be read), "unreadable"; the last value, or the start of one that is
# unread; is called
#
# Sequences at their start are not returned. An owner's privileges are not checked. From PostgreSQL 18 on one function
# returns both values; they are null where the role may not read them.
SEQUENCE_STATES_18 = f"""
SELECT c.nspname, c.relname, CASE WHEN c.usable AND s.last_value IS NOT NULL THEN 'moved' ELSE 'unreadable' END,
       s.last_value, s.is_called
  FROM (SELECT d.seqrelid, d.seqstart, (d.found).last_value, (d.found).is_called
          FROM (SELECT q.seqrelid, q.seqstart, pg_catalog.pg_get_sequence_data(q.seqrelid) AS found
                  FROM pg_catalog.pg_sequence q OFFSET 0) d) s,
       LATERAL (SELECT n.nspname::text, c.relname::text, pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS usable
                  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.oid = s.seqrelid AND c.relpersistence <> 't' AND {USER_SCHEMAS} OFFSET 0) c
 WHERE s.is_called OR s.last_value <> s.seqstart OR s.last_value IS NULL
"""

# The same before: pg_sequence_last_value() is null for a sequence whose is_called is false, whatever its last_value.
SEQUENCES_TO_READ = f"""
SELECT n.nspname::text, c.relname::text,
       CASE WHEN n.usable AND (c.relowner = n.me OR pg_catalog.has_sequence_privilege(c.oid, 'SELECT'))
            THEN 'unread' ELSE 'unreadable' END,
       s.seqstart, false
  FROM (SELECT n.oid, n.nspname, pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS usable,
               (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = current_user) AS me
          FROM pg_catalog.pg_namespace n
         WHERE {USER_SCHEMAS}
        OFFSET 0) n
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
  JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
 WHERE c.relpersistence <> 't'
"""
