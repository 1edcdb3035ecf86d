"""The logical fingerprint of a PostgreSQL database: its schema, rows and sequences, without OIDs and physical order.

Two databases of one major version have equal fingerprints if they are logically the same. The names of their owners
may differ: what belongs to the current role counts as its own. Left out are the schema ``testdb``, members of extensions
(but for their rows), internal triggers that are enabled, planner statistics, subscriptions, and what PostgreSQL itself
brings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any

import psycopg
from psycopg import sql

from testdb_app.backends.base import OWN_SCHEMA
from testdb_app.schema import list_some

_BATCH = 100
"""Tables, or sequences, a query."""

# Texts of values and definitions depend on these. With an empty search path all names are qualified in them, and every
# name and operator below is that of pg_catalog.
_SETTINGS = {
    "search_path": "",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "quote_all_identifiers": "off",
    "row_security": "off",
    "jit": "off",
    "statement_timeout": "30min",
    "client_encoding": "UTF8",
}


def _role(oid: str) -> str:
    """SQL: the name of a role; "" for the current one."""
    return (
        f"CASE {oid} WHEN 0 THEN 'PUBLIC' WHEN (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user) THEN '' "
        f"ELSE pg_get_userbyid({oid})::text END"
    )


def _grants(kind: str, acl: str, owner: str) -> str:
    """SQL: the grants of an object, in the order of their texts. *kind* is as ``acldefault()`` takes it."""
    grant = f"concat_ws(' ', {_role('a.grantee')}, a.privilege_type, {_role('a.grantor')}, a.is_grantable)"
    return (
        f"(SELECT string_agg({grant}, ', ' ORDER BY {grant} COLLATE \"C\") "
        f"FROM aclexplode(coalesce({acl}, acldefault({kind}, {owner}))) a)"
    )


def _user_objects(catalog: str, alias: str, schema: str | None) -> str:
    """SQL: conditions for objects of users. *schema* is the column with the OID of the schema."""
    where = f"{schema} = ANY ({_OWN_SCHEMAS})" if schema else f"{alias}.oid >= 16384"
    return f"{where} AND {_NO_MEMBER.format(catalog=catalog, oid=f'{alias}.oid')}"


_NO_MEMBER = """NOT EXISTS (SELECT FROM pg_depend e
           WHERE e.classid = '{catalog}'::regclass AND e.objid = {oid} AND e.deptype = 'e')"""
_OWN_SCHEMAS = f"""SELECT s.oid FROM pg_namespace s
           WHERE s.nspname !~ '^pg_' AND s.nspname NOT IN ('information_schema', '{OWN_SCHEMA}')"""
_RELATION = "format('%I.%I', n.nspname, c.relname)"
_FROM_RELATION = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
_IS_OWN_RELATION = _user_objects("pg_class", "c", "c.relnamespace")
_RELATION_GRANTS = _grants("CASE c.relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r' END", "c.relacl", "c.relowner")
_OPTIONS = "(SELECT string_agg(o, ', ' ORDER BY o COLLATE \"C\") FROM unnest({}) o)"
# The others are the server's own: some builds of PostgreSQL count versions there.
_COLUMN_OPTIONS = _OPTIONS.format("a.attoptions").replace(" o)", " o WHERE starts_with(o, 'n_distinct'))")


def _of_relation(kind: str, source: str, name: str, definition: str, condition: str = "true") -> str:
    """SQL: objects that belong to a relation, which *source* joins as ``c``."""
    return (
        f"SELECT '{kind}', format('%I on %s', {name}, {_RELATION}), {definition} FROM {source} "
        f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_IS_OWN_RELATION} AND {condition}"
    )


# Definitions that hold expressions: the server's text of an expression changes once when it is read again.
_WITH_EXPRESSIONS = (
    f"""SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
               WHEN 'c' THEN 'type' WHEN 'S' THEN 'sequence' ELSE 'table' END, {_RELATION},
           concat_ws('|', c.relkind, c.relpersistence, (SELECT m.amname FROM pg_am m WHERE m.oid = c.relam),
               {_OPTIONS.format("c.reloptions")}, c.relrowsecurity, c.relforcerowsecurity, c.relreplident, c.relispopulated,
               nullif(c.reloftype, 0)::regtype, (SELECT t.spcname FROM pg_tablespace t WHERE t.oid = c.reltablespace),
               pg_get_expr(c.relpartbound, c.oid), CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END,
               (SELECT string_agg(h.inhparent::regclass::text, ', ' ORDER BY h.inhseqno) FROM pg_inherits h
                 WHERE h.inhrelid = c.oid),
               CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
               (SELECT concat_ws(' ', format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache,
                       q.seqcycle) FROM pg_sequence q WHERE q.seqrelid = c.oid),
               (SELECT string_agg(format('%s.%I', d.refobjid::regclass, u.attname), ', ') FROM pg_depend d
                  JOIN pg_attribute u ON u.attrelid = d.refobjid AND u.attnum = d.refobjsubid
                 WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND c.relkind = 'S'),
               (SELECT concat_ws(' ', v.srvname, {_OPTIONS.format("f.ftoptions")}) FROM pg_foreign_table f
                  JOIN pg_foreign_server v ON v.oid = f.ftserver WHERE f.ftrelid = c.oid),
               {_role("c.relowner")}, {_RELATION_GRANTS})
      FROM {_FROM_RELATION}
     WHERE {_IS_OWN_RELATION} AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c', 'S')""",
    f"""SELECT 'columns of', {_RELATION}, string_agg(concat_ws('|', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, nullif(a.attcollation, 0)::regcollation,
               a.attstorage, a.attcompression, nullif(a.attstattarget, -1), {_COLUMN_OPTIONS},
               {_OPTIONS.format("a.attfdwoptions")},
               CASE WHEN a.attacl IS NOT NULL THEN {_grants("'c'", "a.attacl", "c.relowner")} END), E'\\n' ORDER BY a.attnum)
      FROM {_FROM_RELATION} JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE {_IS_OWN_RELATION} AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') GROUP BY 2""",
    # Foreign keys to a partitioned table have rows of the server's own for each partition.
    _of_relation(
        "constraint",
        "pg_constraint k JOIN pg_class c ON c.oid = k.conrelid",
        "k.conname",
        "concat_ws('|', k.contype, pg_get_constraintdef(k.oid))",
        "k.contype <> 't' AND NOT (k.contype = 'f' AND k.conparentid <> 0)",
    ),
    _of_relation(
        "index",
        "pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid",
        "x.relname",
        "concat_ws('|', pg_get_indexdef(x.oid), i.indisvalid, i.indisclustered, i.indisreplident, "
        "(SELECT t.spcname FROM pg_tablespace t WHERE t.oid = x.reltablespace))",
        "c.relkind <> 't'",
    ),
    _of_relation(
        "trigger",
        "pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid",
        "t.tgname",
        "concat_ws('|', t.tgenabled, pg_get_triggerdef(t.oid))",
        "NOT t.tgisinternal",
    ),
    _of_relation(
        "rule",
        "pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class",
        "w.rulename",
        "concat_ws('|', w.ev_enabled, pg_get_ruledef(w.oid))",
        "w.rulename <> '_RETURN'",
    ),
    _of_relation(
        "policy",
        "pg_policy p JOIN pg_class c ON c.oid = p.polrelid",
        "p.polname",
        f"concat_ws('|', p.polcmd, p.polpermissive, "
        f"(SELECT string_agg({_role('o')}, ', ' ORDER BY {_role('o')} COLLATE \"C\") FROM unnest(p.polroles) o), "
        f"pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))",
    ),
    f"""SELECT 'statistics', format('%I.%I', n.nspname, x.stxname),
           concat_ws('|', pg_get_statisticsobjdef(x.oid), nullif(x.stxstattarget, -1), {_role("x.stxowner")})
      FROM pg_statistic_ext x JOIN pg_namespace n ON n.oid = x.stxnamespace
     WHERE {_user_objects("pg_statistic_ext", "x", "x.stxnamespace")}""",
    f"""SELECT 'domain', t.oid::regtype::text, concat_ws('|', format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typdefault,
           nullif(t.typcollation, 0)::regcollation,
           (SELECT string_agg(concat_ws(' ', k.conname, pg_get_constraintdef(k.oid)), ', ' ORDER BY k.conname)
              FROM pg_constraint k WHERE k.contypid = t.oid), {_role("t.typowner")}, {_grants("'T'", "t.typacl", "t.typowner")})
      FROM pg_type t WHERE {_user_objects("pg_type", "t", "t.typnamespace")} AND t.typtype = 'd'""",
    f"""SELECT 'function', p.oid::regprocedure::text, concat_ws('|', p.prokind, {_role("p.proowner")},
           {_grants("'f'", "p.proacl", "p.proowner")},
           sha256(convert_to(p.prosrc, 'UTF8')), CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END,
           (SELECT concat_ws(' ', g.aggkind, g.aggnumdirectargs, g.aggtransfn, g.aggfinalfn, g.aggcombinefn, g.aggserialfn,
                   g.aggdeserialfn, g.aggmtransfn, g.aggminvtransfn, g.aggmfinalfn, g.aggfinalextra, g.aggfinalmodify,
                   nullif(g.aggsortop, 0)::regoperator, g.aggtranstype::regtype, g.agginitval, g.aggminitval)
              FROM pg_aggregate g WHERE g.aggfnoid = p.oid))
      FROM pg_proc p WHERE {_user_objects("pg_proc", "p", "p.pronamespace")}""",
)
_EXACT = (
    f"""SELECT 'schema', n.nspname::text, concat_ws('|', {_role("n.nspowner")}, {_grants("'n'", "n.nspacl", "n.nspowner")})
      FROM pg_namespace n WHERE n.oid = ANY ({_OWN_SCHEMAS})
       AND {_NO_MEMBER.format(catalog="pg_namespace", oid="n.oid")}""",
    """SELECT 'locale of', 'the database', concat_ws('|', pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
           d.datlocprovider, to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale')
      FROM pg_database d WHERE d.datname = current_database()""",
    """SELECT 'extension', e.extname::text, concat_ws('|', e.extversion, e.extnamespace::regnamespace) FROM pg_extension e""",
    # Other internal triggers come with their constraint.
    _of_relation(
        "triggers of constraint",
        "pg_trigger t JOIN pg_constraint k ON k.oid = t.tgconstraint JOIN pg_class c ON c.oid = t.tgrelid",
        "k.conname",
        "string_agg(concat_ws(' ', t.tgfoid::regproc, t.tgenabled), ', ' ORDER BY t.tgfoid::regproc::text COLLATE \"C\")",
        "t.tgisinternal AND t.tgenabled <> 'O' GROUP BY 2",
    ),
    f"""SELECT 'type', t.oid::regtype::text, concat_ws('|', t.typtype, t.typcategory, t.typdelim,
           (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e
             WHERE e.enumtypid = t.oid),
           (SELECT concat_ws(' ', g.rngsubtype::regtype, nullif(g.rngcollation, 0)::regcollation, g.rngcanonical, g.rngsubdiff,
                   g.rngmultitypid::regtype, (SELECT o.opcname FROM pg_opclass o WHERE o.oid = g.rngsubopc))
              FROM pg_range g WHERE g.rngtypid = t.oid),
           CASE WHEN t.typtype = 'b'
                THEN concat_ws(' ', t.typlen, t.typinput, t.typoutput, t.typreceive, t.typsend, t.typalign) END,
           {_role("t.typowner")}, {_grants("'T'", "t.typacl", "t.typowner")})
      FROM pg_type t WHERE {_user_objects("pg_type", "t", "t.typnamespace")} AND t.typtype IN ('b', 'e', 'r', 'p')
       AND NOT EXISTS (SELECT FROM pg_type i WHERE i.typarray = t.oid)""",
    f"""SELECT 'collation', format('%I.%I', n.nspname, c.collname), (to_jsonb(c)
           - '{{oid,collnamespace,collowner,collversion}}'::text[])::text || {_role("c.collowner")}
      FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
     WHERE {_user_objects("pg_collation", "c", "c.collnamespace")}""",
    f"""SELECT 'operator', o.oid::regoperator::text, concat_ws('|', o.oprcode, o.oprrest, o.oprjoin, o.oprcanmerge, o.oprcanhash,
           nullif(o.oprcom, 0)::regoperator, nullif(o.oprnegate, 0)::regoperator)
      FROM pg_operator o WHERE {_user_objects("pg_operator", "o", "o.oprnamespace")}""",
    f"""SELECT 'text search configuration', x.oid::regconfig::text, concat_ws('|', (SELECT s.prsname FROM pg_ts_parser s
             WHERE s.oid = x.cfgparser), (SELECT string_agg(concat_ws(' ', m.maptokentype, m.mapdict::regdictionary), ', '
             ORDER BY m.maptokentype, m.mapseqno) FROM pg_ts_config_map m WHERE m.mapcfg = x.oid))
      FROM pg_ts_config x WHERE {_user_objects("pg_ts_config", "x", "x.cfgnamespace")}""",
    f"""SELECT 'text search dictionary', x.oid::regdictionary::text, concat_ws('|', (SELECT t.tmplname FROM pg_ts_template t
             WHERE t.oid = x.dicttemplate), x.dictinitoption)
      FROM pg_ts_dict x WHERE {_user_objects("pg_ts_dict", "x", "x.dictnamespace")}""",
    f"""SELECT 'cast', format('%s AS %s', k.castsource::regtype, k.casttarget::regtype),
           concat_ws('|', nullif(k.castfunc, 0)::regprocedure, k.castcontext, k.castmethod)
      FROM pg_cast k WHERE {_user_objects("pg_cast", "k", None)}""",
    f"""SELECT 'event trigger', t.evtname::text,
           concat_ws('|', t.evtevent, t.evtfoid::regprocedure, t.evtenabled, t.evttags::text)
      FROM pg_event_trigger t WHERE {_user_objects("pg_event_trigger", "t", None)}""",
    f"""SELECT 'publication', p.pubname::text, concat_ws('|', to_jsonb(p) - '{{oid,pubowner}}'::text[], (SELECT
             string_agg(concat_ws(' ', r.prrelid::regclass, pg_get_expr(r.prqual, r.prrelid), r.prattrs::text), ', '
             ORDER BY r.prrelid::regclass::text COLLATE "C") FROM pg_publication_rel r WHERE r.prpubid = p.oid),
           (SELECT string_agg(s.pnnspid::regnamespace::text, ', ' ORDER BY s.pnnspid::regnamespace::text COLLATE "C")
              FROM pg_publication_namespace s WHERE s.pnpubid = p.oid))
      FROM pg_publication p WHERE {_user_objects("pg_publication", "p", None)}""",
    f"""SELECT 'default privileges', concat_ws(' ', {_role("d.defaclrole")}, nullif(d.defaclnamespace, 0)::regnamespace,
           d.defaclobjtype), {_grants("d.defaclobjtype", "d.defaclacl", "d.defaclrole")} FROM pg_default_acl d""",
    f"""SELECT 'foreign server', v.srvname::text,
           concat_ws('|', w.fdwname, v.srvtype, v.srvversion, {_OPTIONS.format("v.srvoptions")})
      FROM pg_foreign_server v JOIN pg_foreign_data_wrapper w ON w.oid = v.srvfdw
     WHERE {_user_objects("pg_foreign_server", "v", None)}""",
    # Rarer kinds: that they exist.
    *(
        f"""SELECT i.type, i.identity, '' FROM {catalog} o, pg_identify_object('{catalog}'::regclass, o.oid, 0) i
             WHERE {_user_objects(catalog, "o", None)} AND i.schema IS DISTINCT FROM '{OWN_SCHEMA}'"""
        for catalog in (
            *("pg_language", "pg_opclass", "pg_opfamily", "pg_conversion", "pg_am", "pg_transform"),
            *("pg_ts_parser", "pg_ts_template", "pg_foreign_data_wrapper"),
        )
    ),
    f"""SELECT 'comment on ' || i.type, i.identity, d.description FROM pg_description d,
           pg_identify_object(d.classoid, d.objoid, d.objsubid) i
     WHERE (d.objoid >= 16384 OR d.objoid = 'public'::regnamespace) AND i.schema IS DISTINCT FROM '{OWN_SCHEMA}'
       AND NOT (i.type = 'schema' AND i.identity = '{OWN_SCHEMA}')
       AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.classoid AND e.objid = d.objoid AND e.deptype = 'e')""",
    """SELECT 'security label on ' || i.type, i.identity, concat_ws('|', l.provider, l.label) FROM pg_seclabel l,
           pg_identify_object(l.classoid, l.objoid, l.objsubid) i""",
    f"""SELECT 'large object', m.oid::text, concat_ws('|', sha256(lo_get(m.oid)), {_role("m.lomowner")},
           {_grants("'L'", "m.lomacl", "m.lomowner")}) FROM pg_largeobject_metadata m""",
)

# Rows of an extension's tables count, as far as the role may read them.
_TABLES = f"""
SELECT n.nspname, c.relname, pg_relation_size(c.oid) > 0
  FROM {_FROM_RELATION}
 WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND c.relpersistence <> 't'
   AND n.oid = ANY ({_OWN_SCHEMAS})
   AND (has_table_privilege(c.oid, 'SELECT') OR {_IS_OWN_RELATION})
 ORDER BY 1, 2
"""
_SEQUENCES = (
    f"SELECT n.nspname, c.relname FROM {_FROM_RELATION} WHERE c.relkind = 'S' AND {_IS_OWN_RELATION} ORDER BY 1, 2"
)
_ROWS = "SELECT {}, count(*)::text, coalesce(sum(hashtextextended((t.*)::text, 0)), 0)::text FROM ONLY {} t"
_VALUES = "SELECT {}, s.last_value::text, s.is_called::text FROM {} s"

_TOKEN = re.compile(
    r"""('(?:[^']|'')*'|"(?:[^"]|"")*")"""  # a literal or a quoted name stays as it is
    r"""|::(?:"(?:[^"]|"")*"|\w+)(?:\.(?:"(?:[^"]|"")*"|\w+))?(?:\ varying|\ precision)?"""  # a cast goes
    r"""(?:\(\d+(?:,\d+)?\))?(?:\ with(?:out)?\ time\ zone)?(?:\[\])*"""
    r"""|[()\s]+""",
    re.VERBOSE,
)


def read_fingerprint(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return a digest for each object of the database, and for the rows of each table, by a name for people.

    The connection must be in autocommit mode; its settings are changed. About 40 round trips, and one more for each 100
    tables with rows or sequences. Raises the driver's errors, among them one for rows that a policy would hide.
    """
    connection.execute(
        sql.SQL("SELECT {}").format(
            sql.SQL(", ").join(
                sql.SQL("pg_catalog.set_config({}, {}, false)").format(sql.Literal(name), sql.Literal(value))
                for name, value in _SETTINGS.items()
            )
        )
    )
    found: dict[str, str] = {}
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for queries, normalized in ((_WITH_EXPRESSIONS, True), (_EXACT, False)):
            for query in queries:
                for kind, name, definition in cursor.execute(query.encode()):
                    found[f"{kind} {name}"] = _digest(_normalize(definition) if normalized else definition)
        tables = cursor.execute(_TABLES.encode()).fetchall()
        found |= {f"rows of {_label(schema, name)}": "0 0" for schema, name, _ in tables}
        for batch in _each_of(_ROWS, [(schema, name) for schema, name, has_pages in tables if has_pages]):
            found |= {f"rows of {name}": f"{count} {checksum}" for name, count, checksum in cursor.execute(batch)}
        for batch in _each_of(_VALUES, cursor.execute(_SEQUENCES.encode()).fetchall()):
            found |= {f"value of {name}": f"{value} {is_called}" for name, value, is_called in cursor.execute(batch)}
    return found


def describe_differences(before: Mapping[str, str], now: Mapping[str, str], limit: int = 5) -> str:
    """Return what differs between two fingerprints: "index a on public.b is missing, …". Empty if nothing does."""
    words = [
        f"{name} {'is missing' if name not in now else 'is new' if name not in before else 'differs'}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    return list_some(words, most=limit)


def _digest(definition: str | None) -> str:
    return blake2b((definition or "").encode(), digest_size=6).hexdigest()


def _normalize(definition: str | None) -> str:
    """Return a definition without casts, parentheses and white space.

    ``pg_get_constraintdef()`` writes ``x IN ('a', 'b')`` of a varchar with other casts once that text was read again.
    """
    return _TOKEN.sub(lambda match: match[1] or "", definition or "")


def _label(schema: str, name: str) -> str:
    return f"{schema}.{name}"


def _each_of(query: str, relations: Iterable[tuple[str, str]]) -> Iterator[sql.Composed]:
    """Yield queries for the relations, each for up to ``_BATCH`` of them."""
    parts = [sql.SQL(query).format(sql.Literal(_label(*relation)), sql.Identifier(*relation)) for relation in relations]
    for start in range(0, len(parts), _BATCH):
        yield sql.SQL(" UNION ALL ").join(parts[start : start + _BATCH])
