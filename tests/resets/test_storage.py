"""Tables of another access method, of extensions that keep rows elsewhere, and of the extensions that Debian has."""

from __future__ import annotations

import pytest

from testdb_app.backends.base import Action
from testdb_app.baseline import capture_baseline
from testdb_app.database_setup import refit_baseline
from testdb_app.exceptions import StorageError

HEAP_2 = "CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler"
ITEMS = "CREATE TABLE item (id int PRIMARY KEY, name text) USING heap2; INSERT INTO item VALUES (1, 'one'), (2, 'two');"


@pytest.fixture
def scratch(scratch):
    with scratch.superuser() as superuser:
        superuser.execute(HEAP_2)
    return scratch


@pytest.mark.parametrize("strategy", ["auto", "delete", "truncate"])
def test_a_table_of_another_access_method_is_truncated_and_filled_at_every_reset(scratch, strategy):
    scratch.execute(
        ITEMS + "CREATE TABLE beside (id int PRIMARY KEY); CREATE TABLE empty (id int) USING heap2;"
        "CREATE TABLE line (id serial PRIMARY KEY, item_id int REFERENCES item); INSERT INTO line (item_id) VALUES (1)"
    )
    baseline = capture_baseline("scratch", allow_database=scratch.name)
    assert {name.name for name in baseline.tables} == {"item", "line"}
    resetter = scratch.resetter(strategy=strategy)
    for statement in (
        "INSERT INTO item VALUES (3, 'three'); INSERT INTO line (item_id) VALUES (3)",
        "TRUNCATE line, item",
        "DELETE FROM line; UPDATE item SET name = 'x'; INSERT INTO empty VALUES (1)",
        "SELECT",
    ):
        scratch.execute(statement)
        truncated = {
            n.name for step in resetter.plan().plan.steps if step.action is Action.TRUNCATE for n in step.names
        }
        assert truncated >= {"item", "line", "empty"}
        resetter.reset()
        assert scratch.query("SELECT * FROM item ORDER BY 1") == [(1, "one"), (2, "two")]
        assert scratch.query("SELECT item_id FROM line") == [(1,)]
        assert scratch.count("empty") == 0


def test_the_counters_are_not_asked_whether_such_a_table_was_written(scratch):
    scratch.execute(ITEMS + "CREATE TABLE beside (id int PRIMARY KEY)")
    resetter, of_heap = scratch.resetter(), scratch.resetter(exclude=["public.item"])
    for number in range(4):
        scratch.execute(f"INSERT INTO beside VALUES ({number})")
        resetter.reset()
    assert [table.name.name for table in resetter.reset().tables] == ["item"]
    # Where such tables are left alone, the counters tell of the others.
    scratch.execute("INSERT INTO item VALUES (1); INSERT INTO beside VALUES (1)")
    for expected in (["beside"], []):
        assert [table.name.name for table in of_heap.reset().tables] == expected
    assert scratch.count("item") == 1


def test_a_table_that_stays_and_references_one_of_another_access_method_is_refused_at_the_capture(scratch):
    scratch.execute(ITEMS + "CREATE TABLE stays (item_id int REFERENCES item)")
    with pytest.raises(
        StorageError, match=r"public\.item are stored by the access method heap2.* public\.stays .*EXCLUDE"
    ) as refusal:
        capture_baseline("scratch", allow_database=scratch.name, exclude="public.stays")
    assert refusal.value.tables == ["public.item"]


def test_the_packages_own_tables_are_in_heap_whatever_the_default_is(scratch):
    scratch.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)")
    with scratch.superuser() as superuser:
        superuser.execute(f"ALTER DATABASE {scratch.name} SET default_table_access_method = heap2")
    scratch.connection.close()
    capture_baseline("scratch", allow_database=scratch.name)
    scratch.resetter().backend.set_mark(scratch.connection, "test", present=True)
    kinds = "SELECT DISTINCT amname FROM pg_class c JOIN pg_am m ON m.oid = relam WHERE relnamespace = 'testdb'::regnamespace"
    assert scratch.query(f"{kinds} AND relkind = 'r'") == [("heap",)]


# The catalogs as the extensions have them, in as far as they are read. The extensions themselves were not run.
CITUS = """
SET allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass NOT NULL, partmethod "char" NOT NULL);
INSERT INTO pg_catalog.pg_dist_partition VALUES ('public.item', 'h');
GRANT SELECT ON pg_catalog.pg_dist_partition TO PUBLIC
"""
TIMESCALEDB = """
CREATE SCHEMA _timescaledb_catalog;
CREATE TABLE _timescaledb_catalog.hypertable (id serial PRIMARY KEY, schema_name name, table_name name);
CREATE TABLE _timescaledb_catalog.chunk (id serial, hypertable_id int, schema_name name, table_name name, compressed_chunk_id int);
INSERT INTO _timescaledb_catalog.hypertable (schema_name, table_name) VALUES ('public', 'item'), ('public', 'beside');
INSERT INTO _timescaledb_catalog.chunk (hypertable_id, compressed_chunk_id) VALUES (1, NULL), (1, 7), (2, NULL);
GRANT USAGE ON SCHEMA _timescaledb_catalog TO PUBLIC; GRANT SELECT ON ALL TABLES IN SCHEMA _timescaledb_catalog TO PUBLIC
"""


@pytest.mark.parametrize(
    ("catalogs", "what"), [(CITUS, "distributed table of Citus"), (TIMESCALEDB, "hypertable of TimescaleDB")]
)
def test_tables_that_an_extension_keeps_elsewhere_are_found_and_refused_by_name(scratch, catalogs, what):
    scratch.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE beside (id int PRIMARY KEY)")
    with scratch.superuser() as superuser:
        superuser.execute(catalogs)
    # The extension owns its catalog, and it stays; so does this one here, which the superuser owns.
    labels = ["public.*"]
    with pytest.raises(StorageError, match=rf"public\.item \(a {what}.*EXCLUDE") as refusal:
        capture_baseline("scratch", allow_database=scratch.name)
    assert refusal.value.tables == ["public.item"]
    with pytest.raises(StorageError):
        scratch.reset(include=labels)
    scratch.execute("INSERT INTO beside VALUES (1)")
    scratch.reset(include=labels, exclude=["public.item"])
    assert scratch.count("beside") == 0


def install(scratch, *extensions):
    """Install extensions as a superuser, or skip the test where the server has not got them."""
    with scratch.superuser() as superuser:
        found = {name for (name,) in superuser.execute("SELECT name FROM pg_available_extensions").fetchall()}
        missing = sorted(set(extensions) - found)
        if missing:
            pytest.skip(f"the server has no extension {', '.join(missing)}")
        for extension in extensions:
            schema = ""
            if extension == "pg_partman":
                superuser.execute("CREATE SCHEMA partman")
                schema = " SCHEMA partman"
            superuser.execute(f"CREATE EXTENSION {extension}{schema}")
        role = scratch.value("SELECT current_user")
        for name, place in (("pg_partman", "partman"), ("postgis_topology", "topology")):
            if name in extensions:
                superuser.execute(
                    f'GRANT ALL ON SCHEMA {place} TO "{role}"; GRANT ALL ON ALL TABLES IN SCHEMA {place} TO "{role}";'
                    f'GRANT ALL ON ALL SEQUENCES IN SCHEMA {place} TO "{role}"'
                )


PARTMAN = """
CREATE TABLE event (id bigint NOT NULL, line text) PARTITION BY RANGE (id);
SELECT partman.create_parent('public.event', 'id', 'native', '10');
INSERT INTO event SELECT g, 'of a migration' FROM generate_series(1, 25) g
"""


def test_tables_that_pg_partman_manages_are_reset_and_its_own_configuration_is_left_alone(scratch):
    install(scratch, "pg_partman")
    scratch.execute(PARTMAN)
    capture_baseline("scratch", allow_database=scratch.name)
    resetter = scratch.resetter()
    before = scratch.query("SELECT tableoid::regclass::text, * FROM event ORDER BY id")
    configuration = scratch.query("SELECT * FROM partman.part_config")
    for statement in (
        "INSERT INTO event VALUES (26, 'of a test'), (1000, 'in the default partition')",
        "DELETE FROM event WHERE id < 15; UPDATE event SET line = 'x'",
        "TRUNCATE event",
    ):
        scratch.execute(statement)
        report = resetter.reset()
        assert scratch.query("SELECT tableoid::regclass::text, * FROM event ORDER BY id") == before
        assert scratch.query("SELECT * FROM partman.part_config") == configuration
    assert ("partman.part_config", "belongs to the extension pg_partman") in {
        (str(k.name), k.reason) for k in report.kept
    }


def test_partitions_that_the_maintenance_makes_in_a_test_are_emptied_after_it(scratch):
    install(scratch, "pg_partman")
    scratch.execute(PARTMAN)
    capture_baseline("scratch", allow_database=scratch.name)
    before = scratch.query("SELECT * FROM event ORDER BY id")
    partitions = scratch.count("pg_inherits")
    scratch.execute("INSERT INTO event VALUES (45, 'of a test'); SELECT partman.run_maintenance('public.event')")
    assert scratch.count("pg_inherits") > partitions
    scratch.execute("INSERT INTO event VALUES (75, 'of a test')")
    # As the test cases do it: tables that a test has left count as empty.
    allow(scratch)
    refit_baseline("scratch")
    scratch.reset(to="baseline")
    assert scratch.query("SELECT * FROM event ORDER BY id") == before


def allow(scratch):
    scratch.resetter().backend.set_mark(scratch.connection, "test", present=True)


PLACES = """
CREATE TABLE place (id serial PRIMARY KEY, at geometry(Point, 4326), area geography(Polygon), tile raster, near box2d);
CREATE INDEX ON place USING gist (at);
CREATE TABLE by_place (at geometry(Point, 4326) NOT NULL UNIQUE, name text);
INSERT INTO place (at, area, near) VALUES (ST_SetSRID(ST_MakePoint(13.4, 52.5), 4326), ST_Buffer('POINT(13 52)'::geography, 10), 'BOX(1 2, 3 4)');
INSERT INTO place (tile) VALUES (ST_MakeEmptyRaster(2, 2, 0, 0, 1));
INSERT INTO by_place VALUES ('SRID=4326;POINT(1 2)', 'one'), ('SRID=4326;POINT(3 4)', 'two')
"""


def test_columns_of_postgis_go_back_exactly_and_its_own_tables_are_left_alone(scratch):
    install(scratch, "postgis", "postgis_raster")
    scratch.execute(PLACES)
    with scratch.superuser() as superuser:
        superuser.execute("INSERT INTO spatial_ref_sys (srid, proj4text) VALUES (990001, '+proj=longlat')")
    capture_baseline("scratch", allow_database=scratch.name)
    rows = (
        "SELECT id, ST_AsEWKB(at), ST_AsEWKB(area::geometry), tile::text, near::text FROM place ORDER BY id",
        "SELECT ST_AsText(at), name FROM by_place ORDER BY name",
    )
    before, systems = [scratch.query(query) for query in rows], scratch.count("spatial_ref_sys")
    resetter = scratch.resetter()
    for statement in (
        "INSERT INTO place (at) VALUES ('SRID=4326;POINT(1 1)'); INSERT INTO by_place VALUES ('SRID=4326;POINT(5 6)', 'three')",
        "UPDATE place SET at = ST_SetSRID(ST_MakePoint(13.4, 52.5000000000001), 4326), area = NULL, tile = NULL",
        "DELETE FROM place WHERE tile IS NULL; DELETE FROM by_place; UPDATE place SET near = 'BOX(0 0, 1 1)'",
    ):
        scratch.execute(statement)
        resetter.reset()
        assert [scratch.query(query) for query in rows] == before
    assert scratch.count("spatial_ref_sys") == systems
    assert scratch.sequence_state("place_id_seq") == (2, True)


def test_a_topology_of_postgis_is_put_back_and_stays_registered(scratch):
    install(scratch, "postgis", "postgis_topology")
    scratch.execute(
        "SELECT topology.CreateTopology('town', 4326);"
        "SELECT topology.TopoGeo_AddLineString('town', 'SRID=4326;LINESTRING(0 0, 1 1, 2 0)')"
    )
    capture_baseline("scratch", allow_database=scratch.name)
    rows = [f"SELECT * FROM town.{name} ORDER BY 1" for name in ("edge_data", "node", "face", "relation")]
    before = [scratch.query(query) for query in rows]
    resetter = scratch.resetter()
    for statement in (
        "SELECT topology.TopoGeo_AddLineString('town', 'SRID=4326;LINESTRING(0 0, 5 5, 0 5, 0 0)')",
        "SELECT topology.ST_RemEdgeModFace('town', min(edge_id)) FROM town.edge_data",
    ):
        scratch.execute(statement)
        resetter.reset()
        assert [scratch.query(query) for query in rows] == before
    assert scratch.query("SELECT name FROM topology.topology") == [("town",)]
    assert scratch.value("SELECT count(*) FROM topology.ValidateTopology('town')") == 0
