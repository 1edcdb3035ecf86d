"""What rows, columns and tables a baseline must survive: types, triggers, rules, row security, partitions, names."""

from __future__ import annotations

import pytest

from tests.baseline.conftest import content

# Values whose equality is not that of their bytes, or that have none; types with long values; every way to be generated.
TYPES = {
    "numeric": ("numeric", "1.0", "1.00"),
    "numeric NaN": ("numeric", "'NaN'", "0"),
    "float zero": ("float8", "0.0", "'-0'"),
    "float": ("float8", "0.1", "0.1::float8 + 1e-17"),
    "real": ("real", "'NaN'", "'Infinity'"),
    "json": ("json", """'{"a": 1}'""", """'{"a":  1}'"""),
    "jsonb": ("jsonb", """'{"a": 1}'""", """'{"a": 1.0}'"""),
    "xml": ("text", "'<a/>'", "'<a />'"),
    "bytea": ("bytea", r"'\x00ff'", r"'\x00fe'"),
    "text": ("text", "'a'", "'A'"),
    "empty text": ("text", "''", "NULL"),
    "char": ("char(4)", "'a'", "'a  b'"),
    "array": ("integer[]", "'{1,2}'", "'{2,1}'"),
    "array bounds": ("integer[]", "'{1,2}'", "'[0:1]={1,2}'"),
    "range": ("int4range", "'[1,3)'", "'[1,4)'"),
    "multirange": ("int4multirange", "'{[1,3)}'", "'{}'"),
    "interval": ("interval", "'1 day'", "'24 hours'"),
    "timestamptz": ("timestamptz", "'2020-01-01 00:00:00.000001+00'", "'2020-01-01 00:00:00.000002+00'"),
    "infinity": ("timestamp", "'infinity'", "'-infinity'"),
    "point": ("point", "'(1,2)'", "'(1,3)'"),
    "polygon": ("polygon", "'((0,0),(1,1),(1,0))'", "'((1,1),(1,0),(0,0))'"),
    "box": ("box", "'(1,1),(0,0)'", "'(2,0.5),(0,0)'"),
    "circle": ("circle", "'<(0,0),1>'", "'<(1,1),1>'"),
    "line": ("line", "'{1,2,3}'", "'{2,4,6}'"),
    "inet": ("inet", "'10.0.0.1/8'", "'10.0.0.1'"),
    "macaddr": ("macaddr", "'08:00:2b:01:02:03'", "'08:00:2b:01:02:04'"),
    "bit": ("bit varying(8)", "B'101'", "B'1010'"),
    "money": ("money", "'12.34'", "'12.35'"),
    "tsvector": ("tsvector", "'a:1 b:2'", "'a:1 b:3'"),
    "tsquery": ("tsquery", "'a & b'", "'b & a'"),
    "uuid": ("uuid", "'00000000-0000-0000-0000-000000000001'", "'00000000-0000-0000-0000-000000000002'"),
    "enum": ("mood", "'sad'", "'ok'"),
    "domain": ("positive", "1", "2"),
    "composite": ("pair", "'(1,a)'", "'(1,)'"),
    "oid": ("oid", "1", "2"),
    "regclass": ("regclass", "'pg_class'", "'pg_type'"),
    "name": ("name", "'a'", "'b'"),
    "xid": ("xid8", "'1'", "'2'"),
    "pg_lsn": ("pg_lsn", "'0/1'", "'0/2'"),
    "jsonpath": ("jsonpath", "'$.a'", "'$.b'"),
    "long text": ("text", "repeat('ab', 5000000)", "repeat('ab', 5000000) || 'c'"),
    "long and random": ("text", "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 3000) n)", "'short'"),
    "long bytes": ("bytea", "decode(repeat('00', 10000000), 'hex')", "'x'"),
}
PREAMBLE = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN positive AS integer CHECK (VALUE > 0); CREATE TYPE pair AS (n integer, t text);"


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("name", TYPES)
def test_bytes_are_equal_before_and_after(scratch, captured, name, keyed):
    kind, value, other = TYPES[name]
    key = "PRIMARY KEY" if keyed else ""
    before = captured(
        f"{PREAMBLE} CREATE TABLE t (id integer {key}, v {kind}); INSERT INTO t VALUES (1, {value}), (2, {other}), (3, NULL)"
    )
    scratch.execute(
        f"UPDATE t SET v = {other} WHERE id = 1; DELETE FROM t WHERE id = 2; UPDATE t SET v = {value} WHERE id = 3"
    )
    scratch.reset()
    assert content(scratch) == before
    scratch.execute(f"TRUNCATE t; INSERT INTO t VALUES (7, {value})")
    scratch.reset()
    assert content(scratch) == before


FORMS = {
    "a composite key": "CREATE TABLE t (a integer, b text, v text, PRIMARY KEY (b, a)); INSERT INTO t VALUES (1, 'x', 'v'), (1, 'y', 'v')",
    "a unique key": "CREATE TABLE t (a integer UNIQUE NOT NULL, b integer UNIQUE, v text); INSERT INTO t VALUES (1, 2, 'v'), (2, NULL, 'w')",
    "a key that may be null": "CREATE TABLE t (a integer UNIQUE, v text); INSERT INTO t VALUES (1, 'v'), (NULL, 'v'), (NULL, 'v')",
    "a deferrable key": "CREATE TABLE t (a integer PRIMARY KEY DEFERRABLE, v text); INSERT INTO t VALUES (1, 'v'), (2, 'w')",
    "a partial key": "CREATE TABLE t (a integer NOT NULL, v text); CREATE UNIQUE INDEX ON t (a) WHERE a > 5; INSERT INTO t VALUES (1, 'v'), (1, 'v')",
    "a key of an expression": "CREATE TABLE t (a text NOT NULL, v text); CREATE UNIQUE INDEX ON t (lower(a)); INSERT INTO t VALUES ('A', 'v')",
    "an exclusion constraint": "CREATE TABLE t (id integer PRIMARY KEY, v int4range, EXCLUDE USING gist (v WITH &&)); "
    "INSERT INTO t VALUES (1, '[1,3)'), (2, '[3,5)')",
    "identity always": "CREATE TABLE t (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text); INSERT INTO t (v) VALUES ('v'), ('w')",
    "identity always beside the key": "CREATE TABLE t (k integer PRIMARY KEY, n integer GENERATED ALWAYS AS IDENTITY, v text); INSERT INTO t (k, v) VALUES (1, 'v')",
    "generated": "CREATE TABLE t (id integer PRIMARY KEY, v text, g text GENERATED ALWAYS AS (v || '!') STORED); INSERT INTO t VALUES (1, 'v')",
    "only generated beside the key": "CREATE TABLE t (id integer PRIMARY KEY, v integer GENERATED ALWAYS AS (id * 2) STORED); INSERT INTO t VALUES (1)",
    "no columns": "CREATE TABLE t (); INSERT INTO t DEFAULT VALUES; INSERT INTO t DEFAULT VALUES; ALTER TABLE t ADD id integer, ADD v text",
    "a dropped column": "CREATE TABLE t (x integer, id integer PRIMARY KEY, v text); INSERT INTO t VALUES (1, 1, 'v'); ALTER TABLE t DROP x",
    "unlogged": "CREATE UNLOGGED TABLE t (id integer PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'v')",
    "a name to quote": 'CREATE SCHEMA "s.%s"; CREATE TABLE "s.%s"."t""%(x)s" ("select" integer PRIMARY KEY, "a\'b" text); '
    'INSERT INTO "s.%s"."t""%(x)s" VALUES (1, \'v\'); CREATE VIEW t AS SELECT "select" AS id, "a\'b" AS v FROM "s.%s"."t""%(x)s"',
    "partitions": "CREATE TABLE t (id integer, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10);"
    "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id); CREATE TABLE t2a PARTITION OF t2 DEFAULT;"
    "CREATE TABLE r (id integer PRIMARY KEY, t_id integer REFERENCES t (id)); INSERT INTO t VALUES (1, 'v'), (11, 'w'); INSERT INTO r VALUES (1, 11)",
    "heirs": "CREATE TABLE t (id integer, v text); CREATE TABLE h (w text) INHERITS (t); INSERT INTO t VALUES (1, 'v'); INSERT INTO h VALUES (2, 'v', 'w')",
    "a not-null check that came later": "CREATE TABLE t (id integer PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'v'); ALTER TABLE t ADD CHECK (id < 100) NOT VALID",
}
WRITES = (
    "UPDATE t SET v = NULL",
    "DELETE FROM t",
    "UPDATE t SET v = v",
)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_tables_of_every_form_come_back(scratch, captured, form):
    before = captured(form)
    resetter = scratch.resetter()
    for write in (*WRITES, *WRITES):
        with scratch.connection.cursor() as cursor:
            if "PARTITION" in form:
                cursor.execute("UPDATE r SET t_id = NULL; UPDATE t SET id = id + 9 WHERE id = 1")
            cursor.execute(
                write.replace("v = v", "v = '[8,9)' WHERE id = 1" if "int4range" in form else "v = '0'")
                if "GENERATED ALWAYS AS (id" not in form
                else "DELETE FROM t"
            )
        resetter.reset()
        assert content(scratch) == before


TRIGGERS = """
CREATE TABLE log (what text);
CREATE TABLE t (id integer PRIMARY KEY, v text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO log VALUES (TG_OP); RETURN NULL; END$$;
CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.v := 'changed'; RETURN NEW; END$$;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'append only'; END$$;
INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three');
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER change BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION change();
CREATE TRIGGER always AFTER UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION note();
ALTER TABLE t ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER off BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE t DISABLE TRIGGER off;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
CREATE RULE keep AS ON DELETE TO t DO INSTEAD NOTHING;
CREATE RULE echo AS ON INSERT TO t DO ALSO INSERT INTO log VALUES ('rule');
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
ALTER TABLE t FORCE ROW LEVEL SECURITY;
CREATE POLICY few ON t USING (id <> 3) WITH CHECK (id <> 3);
"""
SWITCHES = """
SELECT (SELECT string_agg(tgname || tgenabled::text, ',' ORDER BY tgname) FROM pg_trigger WHERE NOT tgisinternal),
       (SELECT string_agg(rulename || ev_enabled::text, ',' ORDER BY rulename) FROM pg_rewrite WHERE ev_class = 't'::regclass),
       (SELECT relrowsecurity::text || relforcerowsecurity::text FROM pg_class WHERE oid = 't'::regclass)
"""


def test_triggers_rules_and_row_security_do_not_meddle_and_stay_as_they_were(scratch, captured):
    before = captured(TRIGGERS)
    assert len(before['"public"."t"']) == 3
    switches = scratch.query(SWITCHES)
    resetter = scratch.resetter()
    for _ in range(3):
        with scratch.superuser() as session:
            session.execute(
                "SET session_replication_role = replica; UPDATE t SET v = 'x' WHERE id = 1; ALTER TABLE t DISABLE RULE keep;"
                "DELETE FROM t WHERE id = 3; ALTER TABLE t ENABLE RULE keep; INSERT INTO t VALUES (4, 'four')"
            )
        resetter.reset()
        assert content(scratch) == before
        assert scratch.query(SWITCHES) == switches


def test_a_role_that_may_not_switch_them_off_is_told(scratch, captured):
    captured("CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1)")
    with scratch.superuser() as session:
        session.execute(
            "ALTER TABLE t OWNER TO CURRENT_USER; GRANT SELECT, DELETE ON t TO PUBLIC; INSERT INTO t VALUES (2); DELETE FROM t WHERE id = 1"
        )
    with pytest.raises(Exception, match="permission denied for table t"):
        scratch.reset()
    assert scratch.query("SELECT id FROM t") == [(2,)]


def test_a_large_table_of_which_three_rows_changed_is_not_rewritten(scratch, captured):
    captured(
        "CREATE TABLE t (id serial PRIMARY KEY, v text); INSERT INTO t (v) SELECT md5(n::text) FROM generate_series(1, 100000) n"
    )
    before = scratch.query("SELECT ctid::text, xmin::text FROM t ORDER BY id")
    node = scratch.value("SELECT pg_relation_filenode('t')")
    scratch.execute(
        "UPDATE t SET v = 'x' WHERE id = 5; DELETE FROM t WHERE id = 50000; INSERT INTO t (v) VALUES ('new')"
    )
    report = scratch.reset()
    assert [(table.rows, table.updated, table.inserted) for table in report.tables] == [(1, 1, 1)]
    after = scratch.query("SELECT ctid::text, xmin::text FROM t ORDER BY id")
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 2
    assert scratch.value("SELECT pg_relation_filenode('t')") == node
