"""Copies have columns of PostgreSQL's own types alone: nothing of the user's is held by them, and every value comes back."""

from __future__ import annotations

import pytest

from testdb_app.baseline import capture_baseline
from testdb_app.exceptions import BaselineError, UnsupportedError
from tests.baseline.conftest import content

# What copies depend on beside the server's own things and the package's schema.
DEPENDENCIES = """
SELECT d.classid::regclass::text, pg_describe_object(d.classid, d.objid, d.objsubid),
       pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
  FROM pg_depend d
  JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'testdb' AND c.relkind = 'r' AND NOT (d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid)
   AND NOT (d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM pg_class WHERE relnamespace = n.oid))
"""
TYPES = """
CREATE SCHEMA s; CREATE SCHEMA hidden; CREATE TABLE hidden."no Way" ();
CREATE TYPE s.mood AS ENUM ('sad', 'so "so", {}', '');
CREATE DOMAIN s.positive AS int CHECK (VALUE > 0);
CREATE DOMAIN s.more AS s.positive CHECK (VALUE > 1);
CREATE DOMAIN s.moods AS s.mood[];
CREATE COLLATION s.plain (locale = 'C');
DO $$BEGIN
    CREATE COLLATION s.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
EXCEPTION WHEN feature_not_supported THEN CREATE COLLATION s.loose (locale = 'C');
END$$;
CREATE DOMAIN s.name AS text COLLATE s.plain;
CREATE TYPE s.inner AS (d date, i interval, at timestamptz, b bytea, f float8, n numeric, m s.mood);
CREATE TYPE s.outer AS (v s.inner, w s.inner[], j json, jb jsonb, x text, a text[], r regclass, c char(4), mo money);
CREATE TYPE s.span AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = s.multispan);
CREATE TYPE s.moods_between AS RANGE (subtype = s.mood);
CREATE TABLE t (
    id int PRIMARY KEY, mood s.mood, moods s.mood[], positive s.positive, more s.more, dm s.moods, positives s.positive[],
    plain text COLLATE s.plain, loose text COLLATE s.loose, name s.name, v s.inner, o s.outer, oo s.outer[], span s.span,
    spans s.multispan, between_moods s.moods_between, r regclass, rt regtype, xmls text, row_of_t s.inner);
CREATE TABLE keyless (m s.mood, o s.inner, n text COLLATE s.loose);
CREATE TABLE by_enum (m s.mood PRIMARY KEY, v text);
CREATE TABLE by_pair (v s.inner, p s.positive, UNIQUE (v, p), x int);
ALTER TABLE by_pair ALTER v SET NOT NULL, ALTER p SET NOT NULL;
CREATE TABLE by_text (n text COLLATE s.loose PRIMARY KEY, m s.mood REFERENCES by_enum (m));
CREATE TABLE refers (id int PRIMARY KEY, n text COLLATE s.loose REFERENCES by_text (n));
"""
INNER = (
    "ROW('infinity', '1 mon -2 days 03:00:00.5', '2020-01-01 00:00:00.000001+09', '\\x00ff5c22', '-0', 'NaN', "
    "'so \"so\", {}')::s.inner"
)
ROWS = f"""
INSERT INTO t VALUES
(1, 'sad', ARRAY['sad', NULL, 'so "so", {{}}', '']::s.mood[], 1, 2, ARRAY['', 'sad']::s.mood[], '{{1,2,NULL}}', 'a', 'A', 'n',
 {INNER}, ROW({INNER}, ARRAY[{INNER}, NULL], '{{"a":  1}}', '{{"a":  1}}', E'tab\\t "q" \\\\ , () \\n', ARRAY['NULL', NULL, ''],
 'hidden."no Way"', 'a b', '12.34')::s.outer, NULL, '[-0,1.1e-300)', '{{[1,2),[3,4)}}', '[sad,"")', 'keyless', 's.mood', '<a/>', ROW(NULL, NULL, NULL, NULL,
 NULL, NULL, NULL)),
(2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(3, '', '{{}}', 7, 9, '[0:1]={{sad,sad}}', '[-1:0]={{5,6}}', '', '', '', ROW('-infinity', '-1 year', '-infinity', '', 'Infinity', '1.00', NULL),
 ROW(NULL, '{{}}', 'null', 'null', '', '{{}}', NULL, '', NULL), ARRAY[ROW({INNER}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::s.outer],
 'empty', '{{}}', 'empty', NULL, NULL, '', NULL);
INSERT INTO keyless SELECT mood, v, loose FROM t UNION ALL SELECT mood, v, loose FROM t;
INSERT INTO by_enum VALUES ('sad', 'a'), ('', 'b');
INSERT INTO by_pair VALUES ({INNER}, 1, 1), ({INNER}, 2, 2);
INSERT INTO by_text VALUES ('a', 'sad'), ('b', NULL);
INSERT INTO refers SELECT 1, n FROM (VALUES ('A'), ('a')) v (n) WHERE n = 'a' COLLATE s.loose LIMIT 1;
"""
WRITES = (
    "UPDATE t SET mood = 'sad', v = NULL, o = NULL, moods = '{}', more = 5, name = 'N', plain = 'b', span = NULL",
    "DELETE FROM refers; DELETE FROM by_text; DELETE FROM by_enum; DELETE FROM by_pair; DELETE FROM keyless WHERE m = 'sad'; DELETE FROM t",
    "UPDATE keyless SET m = ''; UPDATE by_pair SET p = p + 5; INSERT INTO by_text VALUES ('c'); UPDATE t SET id = id + 10",
    "DO $$BEGIN UPDATE by_text SET n = upper(n); EXCEPTION WHEN foreign_key_violation THEN END$$; UPDATE t SET loose = lower(loose), o.x = 'x', v.f = '0' WHERE v IS NOT NULL",
)
# What a session may have set, and what the text of values depends on.
SETTINGS = {
    "none": "SELECT 1",
    "all": "SET DateStyle TO 'SQL, DMY'; SET IntervalStyle TO 'sql_standard'; SET TimeZone TO 'Asia/Kathmandu';"
    "SET extra_float_digits TO -10; SET bytea_output TO 'escape'; SET array_nulls TO off; SET search_path TO s, public;"
    "SET quote_all_identifiers TO on; SET xmloption TO document",
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_values_of_the_users_types_come_back_to_the_byte(scratch, captured, settings):
    before = captured(TYPES + ROWS)
    assert scratch.query(DEPENDENCIES) == []
    with scratch.connection.cursor() as cursor:
        cursor.execute(settings)
    resetter = scratch.resetter(to="baseline")
    assert not resetter.plan().changes
    for write in WRITES:
        scratch.execute(write)
        resetter.reset()
        assert content(scratch) == before
        assert not resetter.plan().changes
        scratch.execute(write)
        scratch.reset(to="baseline", once=True)
        assert content(scratch) == before
    capture_baseline(scratch.alias, replace=True, allow_database=scratch.name)
    with scratch.connection.cursor() as cursor:
        cursor.execute("DELETE FROM refers; DELETE FROM by_text; DELETE FROM public.t; DELETE FROM keyless")
    scratch.reset(to="baseline")
    assert content(scratch) == before


def test_a_reset_within_the_callers_transaction_leaves_its_settings(scratch, captured):
    from django.db import transaction

    before = captured(TYPES + ROWS)
    names = (
        "DateStyle",
        "IntervalStyle",
        "TimeZone",
        "extra_float_digits",
        "bytea_output",
        "array_nulls",
        "search_path",
        "xmloption",
    )
    with scratch.connection.cursor() as cursor:
        cursor.execute(SETTINGS["all"])
    with transaction.atomic(using=scratch.alias), scratch.connection.cursor() as cursor:

        def read() -> list[str]:
            cursor.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
            return list(cursor.fetchone())

        settings = read()
        cursor.execute("DELETE FROM keyless; UPDATE public.t SET v = NULL")
        resetter = scratch.resetter(to="baseline", within_transaction=True)
        resetter.plan()
        assert read() == settings
        resetter.reset()
        assert read() == settings
    assert content(scratch) == before


def test_differences_from_the_baseline_are_told_by_the_kept_texts(scratch, captured):
    captured(TYPES + ROWS)
    backend = scratch.resetter().backend
    baseline = backend.read_baseline(scratch.connection)

    def compare() -> dict[str, tuple[int, int, int]]:
        found = backend.data.compare_with_baseline(scratch.connection, baseline, baseline.tables, 5)
        return {each.table.name: (each.added, each.changed, each.removed) for each in found}

    with scratch.connection.cursor() as cursor:
        cursor.execute(SETTINGS["all"])
    assert compare() == {}
    scratch.execute(
        "UPDATE t SET more = 5, v.f = 1 WHERE id = 3; UPDATE by_pair SET p = p + 5; DELETE FROM by_enum WHERE m = ''"
    )
    assert compare() == {"t": (0, 1, 0), "by_pair": (2, 0, 2), "by_enum": (0, 0, 1)}


DROPS = {
    "the schema": "DROP SCHEMA s CASCADE",
    "the schema public": "DROP SCHEMA public CASCADE; CREATE SCHEMA public",
    "an enum": "ALTER TABLE t DROP mood, DROP moods, DROP v, DROP o, DROP oo, DROP row_of_t, DROP dm, DROP between_moods; DROP TABLE keyless, refers,"
    "by_pair, by_text, by_enum; DROP DOMAIN s.moods; DROP TYPE s.outer, s.inner, s.moods_between; DROP TYPE s.mood",
    "a domain": "ALTER TABLE t DROP more; DROP DOMAIN s.more",
    "a collation": "ALTER TABLE t DROP plain, DROP name; DROP DOMAIN s.name; DROP COLLATION s.plain",
    "a range": "ALTER TABLE t DROP span, DROP spans; DROP TYPE s.span",
}


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS.keys())
def test_what_a_baseline_has_copies_of_can_be_dropped(scratch, captured, drop):
    captured(TYPES + ROWS)
    resetter = scratch.resetter(to="baseline")
    resetter.reset()
    scratch.execute("GRANT ALL ON SCHEMA public TO CURRENT_USER" if "SCHEMA public" not in drop else "SELECT 1")
    with scratch.superuser() as session:
        session.execute(
            "DO $$BEGIN EXECUTE format('ALTER SCHEMA public OWNER TO %I', (SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 's')); END$$"
        )
    scratch.execute(drop)
    before = content(scratch)
    for each in (resetter, scratch.resetter(to="baseline")):
        with pytest.raises(BaselineError) as refusal:
            each.reset()
        assert any(change.startswith("table public.t ") for change in refusal.value.changes)
    assert content(scratch) == before
    capture_baseline(scratch.alias, replace=True, allow_database=scratch.name)
    if '"public"."t"' in before:
        scratch.execute("INSERT INTO t (id) VALUES (77); DELETE FROM t WHERE id = 1")
    scratch.reset(to="baseline")
    assert content(scratch) == before


def test_a_dropped_type_that_is_made_anew_is_gone_back_over(scratch, captured):
    before = captured(TYPES + ROWS)
    resetter = scratch.resetter(to="baseline")
    resetter.reset()
    scratch.execute(
        "BEGIN; ALTER TABLE t DROP row_of_t; ALTER TABLE t DROP span; ALTER TABLE t DROP spans; DROP TYPE s.span;"
        "CREATE TYPE s.span AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = s.multispan); ALTER TABLE t ADD span s.span; "
        "ALTER TABLE t ADD spans s.multispan, ADD row_of_t s.inner; COMMIT"
    )
    with pytest.raises(BaselineError, match=r"table public\.t has changed"):
        resetter.reset()  # the columns are in another order
    scratch.execute(
        "CREATE TABLE u AS SELECT id, mood, moods, positive, more, dm, positives, plain, loose, name, v, o, oo, span, spans, between_moods,"
        "r, rt, xmls, row_of_t FROM t; DROP TABLE t; ALTER TABLE u RENAME TO t; ALTER TABLE t ADD PRIMARY KEY (id)"
    )
    for each in (resetter, scratch.resetter(to="baseline")):
        each.reset()
    after = content(scratch)
    assert after == before


CASTS = """
CREATE TYPE mood AS ENUM ('sad', 'fine');
CREATE FUNCTION shout(mood) RETURNS text IMMUTABLE LANGUAGE sql AS $$SELECT CASE $1 WHEN 'sad' THEN 'SAD' ELSE 'FINE' END$$;
CREATE FUNCTION hear(text) RETURNS mood IMMUTABLE LANGUAGE sql AS $$SELECT CASE $1 WHEN 'SAD' THEN 'fine'::mood ELSE 'sad' END$$;
CREATE CAST (mood AS text) WITH FUNCTION shout(mood);
CREATE CAST (text AS mood) WITH FUNCTION hear(text);
CREATE TABLE t (id int PRIMARY KEY, m mood);
INSERT INTO t VALUES (1, 'sad'), (2, 'fine');
"""


def test_a_cast_of_the_users_own_is_not_the_text_of_a_value(scratch, captured):
    before = captured(CASTS)
    scratch.execute("DELETE FROM t WHERE id = 1; UPDATE t SET m = 'sad'")
    scratch.reset(to="baseline")
    assert content(scratch) == before


def test_a_type_whose_text_cannot_be_read_again_is_refused_by_name(scratch):
    scratch.execute(
        "CREATE TYPE odd AS (n int, e pg_node_tree); CREATE TABLE t (id int PRIMARY KEY, o odd);"
        "INSERT INTO t SELECT 1, ROW(1, (SELECT ev_action FROM pg_rewrite LIMIT 1))::odd"
    )
    with pytest.raises(
        UnsupportedError, match=r"cannot keep the rows of public\.t: .* o \(public\.odd\), .*pg_node_tree"
    ):
        capture_baseline(scratch.alias, allow_database=scratch.name)
    assert (
        scratch.query(
            "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'testdb'"
        )
        == []
    )


def test_copies_are_in_a_heap_whatever_the_role_has_set(scratch, captured):
    with scratch.superuser() as session:
        session.execute("CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler")
    with scratch.connection.cursor() as cursor:
        cursor.execute("SET default_table_access_method TO other")
    captured("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    assert (
        scratch.value("SELECT amname FROM pg_class c JOIN pg_am m ON m.oid = relam WHERE relname = 'baseline_1'")
        == "heap"
    )


def test_copies_are_in_the_tablespace_of_the_database_whatever_the_role_has_set(scratch, captured):
    with scratch.in_tablespace():
        with scratch.connection.cursor() as cursor:
            cursor.execute("SET default_tablespace TO pg_default")
        captured("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        assert scratch.value("SELECT reltablespace FROM pg_class WHERE relname = 'baseline_1'") == 0


# type with a value and another one, and whether it can be a key
EXTENSIONS = {
    "citext": ("citext", "'a'", "'A'", True),
    "hstore": ("hstore", """'a=>1, b=>NULL, "c d"=>"x\\"y"'""", "'a=>2'", True),
    "ltree": ("ltree", "'a.b.c'", "'a.b'", True),
    "cube": ("cube", "'(1.1,2),(3,4)'", "'(1)'", True),
    "isn": ("isbn", "'0-306-40615-2'", "'0-596-00797-3'", True),
    "seg": ("seg", "'1.0 .. 2'", "'1.00 .. 2'", True),
    "postgis": (
        "geometry(Point, 4326)",
        "'SRID=4326;POINT(0.1 2)'::geometry",
        "'SRID=4326;POINT(1 2)'::geometry",
        False,
    ),
}


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_values_of_an_extension_come_back_and_it_can_be_dropped(scratch, captured, extension):
    """Its operators are in a schema that no search path names: keys are compared all the same."""
    kind, value, other, can_be_key = EXTENSIONS[extension]
    if not scratch.query(f"SELECT FROM pg_available_extensions WHERE name = '{extension}'"):
        pytest.skip(f"the server has no extension {extension}")
    with scratch.superuser() as session:
        session.execute(
            f"CREATE SCHEMA ext; GRANT ALL ON SCHEMA ext TO PUBLIC; CREATE EXTENSION {extension} SCHEMA ext"
        )
    path = "SET search_path TO public, ext;"
    tables = f"{path} CREATE TABLE t (id int PRIMARY KEY, v {kind}, vv {kind}[]); INSERT INTO t VALUES (1, {value}::{kind}, ARRAY[{value}, NULL]::{kind}[]), (2, {other}, NULL);"
    if can_be_key:
        tables += (
            f"CREATE TABLE k (v {kind} PRIMARY KEY, n int); INSERT INTO k VALUES ({value}, 1), ({_distinct(extension)}, 2);"
            f"CREATE TABLE r (id int PRIMARY KEY, v {kind} REFERENCES k); INSERT INTO r VALUES (1, {value});"
        )
    before = captured(tables)
    assert scratch.query(DEPENDENCIES) == []
    resetter = scratch.resetter(to="baseline")
    for _ in range(3):
        scratch.execute(f"{path} UPDATE t SET v = {other}, vv = NULL WHERE id = 1; DELETE FROM t WHERE id = 2")
        if can_be_key:
            scratch.execute(f"{path} DELETE FROM r; UPDATE k SET n = n + 1; DELETE FROM k WHERE n = 2")
        if extension == "citext":
            scratch.execute(f"{path} UPDATE k SET v = upper(v::text)")
        assert scratch.resetter(to="baseline").plan().changes
        resetter.reset()
        assert content(scratch) == before
    with scratch.superuser() as session:
        session.execute(f"DROP EXTENSION {extension} CASCADE")
    for each in (resetter, scratch.resetter(to="baseline")):
        with pytest.raises(BaselineError, match=r"table public\.t has changed"):
            each.reset()
    with scratch.superuser() as session:
        session.execute(f"CREATE EXTENSION {extension} SCHEMA ext")
    scratch.execute(f"{path} DROP TABLE IF EXISTS r, k, t; {tables}")
    scratch.execute("DELETE FROM t")
    for each in (resetter, scratch.resetter(to="baseline")):
        each.reset()
        assert content(scratch) == before


def _distinct(extension: str) -> str:
    """Another key than the first, also where the type takes some texts for equal."""
    return {"citext": "'b'", "seg": "'5'"}.get(extension, EXTENSIONS[extension][2])
