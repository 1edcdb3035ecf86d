"""Where PostgreSQL's counters do not tell that rows are other ones, a snapshot looks at the rows."""

from __future__ import annotations

import pytest
from django.db import connections, transaction

from testdb_app.data import diff, snapshot
from testdb_app.exceptions import SnapshotError, UnsupportedError

pytestmark = pytest.mark.postgresql

TABLES = """
CREATE TABLE a (id int PRIMARY KEY, body text);
CREATE TABLE b (id int PRIMARY KEY, a_id int REFERENCES a);
INSERT INTO a VALUES (1, 'one'), (2, 'two');
"""


@pytest.fixture
def tables(scratch):
    scratch.execute(TABLES)
    with snapshot(using=scratch.alias):
        pass  # what is known from here on is what could be wrong
    return scratch


def run(database, *statements):
    with database.connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def counts(found):
    return {table.table.name: (table.added, table.changed, table.removed) for table in found.tables}


def test_a_truncation_that_sets_the_counters_of_its_transaction_back(tables):
    with transaction.atomic(using=tables.alias):
        with snapshot(using=tables.alias) as before:
            run(tables, "INSERT INTO a VALUES (3, 'x')", "TRUNCATE a, b")
            assert counts(diff(before)) == {"a": (0, 0, 2)}
        transaction.set_rollback(True, using=tables.alias)


def test_a_second_truncation_in_place_writes_to_no_catalog(tables):
    with transaction.atomic(using=tables.alias):
        run(tables, "TRUNCATE a, b", "INSERT INTO a VALUES (3, 'x')")
        with snapshot(using=tables.alias) as before:
            run(tables, "TRUNCATE a, b", "INSERT INTO a VALUES (4, 'y')")
            assert counts(diff(before)) == {"a": (1, 0, 1)}
        transaction.set_rollback(True, using=tables.alias)


def test_a_truncation_that_is_rolled_back_brings_rows_back(tables):
    connection = connections[tables.alias]
    with transaction.atomic(using=tables.alias):
        point = connection.savepoint()
        run(tables, "TRUNCATE a, b")
        with snapshot(using=tables.alias) as before:
            connection.savepoint_rollback(point)
            assert counts(diff(before)) == {"a": (2, 0, 0)}


def test_the_rows_known_from_a_transaction_that_was_rolled_back_are_not_used_again(tables):
    with transaction.atomic(using=tables.alias):
        run(tables, "UPDATE a SET body = 'changed' WHERE id = 1")
        with snapshot(using=tables.alias):
            pass
        transaction.set_rollback(True, using=tables.alias)
    with snapshot(using=tables.alias) as before:
        run(tables, "UPDATE a SET body = 'changed' WHERE id = 1")
        assert counts(diff(before)) == {"a": (0, 1, 0)}


def test_a_schema_change_that_was_rolled_back_leaves_no_table_behind(tables):
    with transaction.atomic(using=tables.alias):
        run(tables, "CREATE TABLE c (id int)", "INSERT INTO c VALUES (1)")
        with snapshot(using=tables.alias):
            pass
        transaction.set_rollback(True, using=tables.alias)
    with snapshot(using=tables.alias) as before:
        run(tables, "INSERT INTO b VALUES (1, 1)")
        assert counts(diff(before)) == {"b": (1, 0, 0)}


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_with_a_fixed_snapshot_sees_others_only_after_it(tables, level):
    with transaction.atomic(using=tables.alias):
        run(tables, f"SET TRANSACTION ISOLATION LEVEL {level}", "SELECT 1")
        tables.execute("UPDATE a SET body = 'theirs' WHERE id = 1")
        before = snapshot(using=tables.alias)
        assert not diff(before)
    assert counts(diff(before)) == {"a": (0, 1, 0)}
    before.close()


def test_a_session_that_stays_connected_may_write_whenever_it_likes(tables):
    with tables.connect() as other:
        other.execute("SELECT 1")
        with snapshot(using=tables.alias) as before:
            assert not diff(before)
            other.execute("INSERT INTO b VALUES (1, 1)")
            assert counts(diff(before)) == {"b": (1, 0, 0)}
        other.execute("BEGIN; UPDATE a SET body = 'open' WHERE id = 1")
        with snapshot(using=tables.alias) as before:
            assert not diff(before)
            other.execute("COMMIT")
            assert counts(diff(before)) == {"a": (0, 1, 0)}


def test_the_session_may_count_nothing_at_all(tables):
    with tables.superuser() as session:
        session.execute(
            f"ALTER ROLE {session.execute('SELECT tableowner FROM pg_tables WHERE tablename = %s', ('a',)).fetchone()[0]} IN DATABASE {tables.name} SET track_counts = off"
        )
    connections[tables.alias].close()
    with snapshot(using=tables.alias) as before:
        run(tables, "INSERT INTO b VALUES (1, 1)", "DELETE FROM a WHERE id = 2")
        assert counts(diff(before)) == {"a": (0, 0, 1), "b": (1, 0, 0)}


def test_statements_that_were_prepared_may_be_dropped_meanwhile(tables):
    with snapshot(using=tables.alias) as before:
        for _ in range(3):
            assert not diff(before)
        run(tables, "DEALLOCATE ALL", "INSERT INTO b VALUES (1, 1)")
        assert counts(diff(before)) == {"b": (1, 0, 0)}
        with transaction.atomic(using=tables.alias):
            run(tables, "DEALLOCATE ALL", "INSERT INTO b VALUES (2, 1)")
            assert counts(diff(before)) == {"b": (2, 0, 0)}
            run(tables, "SELECT 1")


def test_names_and_values_of_every_kind_are_kept(scratch):
    scratch.execute(
        "CREATE SCHEMA \"S %s\"; CREATE TYPE mood AS ENUM ('so', 'la'); CREATE DOMAIN few AS int CHECK (VALUE < 10);"
        'CREATE TABLE "S %s"."t ""q"" %" (t int PRIMARY KEY, "image" text, "a b" text[], r int4range, j jsonb, x bytea, f float8,'
        " m mood, d few, c char(5), g int GENERATED ALWAYS AS (t * 2) STORED, n numeric);"
        'ALTER TABLE "S %s"."t ""q"" %" ADD dropped int, ADD last int; ALTER TABLE "S %s"."t ""q"" %" DROP dropped;'
        'INSERT INTO "S %s"."t ""q"" %" VALUES (1, \'a"\'\'\\,(){}\', \'{"x,y",NULL,"\\"z"}\', \'[1,5)\', \'{"k": [1, null]}\', \'\\x00ff\','
        " 0.1::float8 + 0.2::float8, 'so', 3, 'ab', DEFAULT, 1.50, 9), (2, NULL, NULL, NULL, NULL, NULL, '-0', NULL, NULL, NULL, DEFAULT, NULL, NULL);"
        "CREATE TABLE \"S %s\".keyless (image text, number int); INSERT INTO \"S %s\".keyless VALUES ('a', 1), ('a', 1), (NULL, NULL)"
    )
    with snapshot(using=scratch.alias) as before:
        assert not diff(before)
        run(
            scratch,
            'UPDATE "S %s"."t ""q"" %" SET f = 0, n = 1 WHERE t = 2',
            'UPDATE "S %s"."t ""q"" %" SET n = 1.5 WHERE t = 1',
            'DELETE FROM "S %s".keyless WHERE ctid = (SELECT min(ctid) FROM "S %s".keyless)',
        )
        found = diff(before)
        with snapshot(using=scratch.alias) as after:
            assert diff(before, after) == found
    assert counts(found) == {'t "q" %': (0, 2, 0), "keyless": (0, 0, 1)}
    changed = found.find('t "q" %').rows
    assert [row.changed for row in changed] == [("n",), ("f", "n")]
    assert "- f=-0 n=NULL\n+ f=0 n=1" in str(found)


def test_rows_that_row_security_hides_are_an_error_and_not_a_difference(scratch):
    scratch.execute(
        "CREATE TABLE secret (id int PRIMARY KEY, owner text); ALTER TABLE secret ENABLE ROW LEVEL SECURITY;"
        "ALTER TABLE secret FORCE ROW LEVEL SECURITY; CREATE POLICY mine ON secret USING (owner = 'me')"
    )
    with pytest.raises(UnsupportedError, match=r"public\.secret"):
        snapshot(using=scratch.alias)


def test_tables_with_partitions_and_children_are_compared_where_their_rows_are(scratch):
    scratch.execute(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF p DEFAULT;"
        "CREATE TABLE mother (id int); CREATE TABLE child () INHERITS (mother)"
    )
    with snapshot(using=scratch.alias) as before:
        run(scratch, "INSERT INTO p VALUES (1), (50)", "INSERT INTO child VALUES (1)")
        assert counts(diff(before)) == {"p1": (1, 0, 0), "p2": (1, 0, 0), "child": (1, 0, 0)}
    with snapshot("public.p", using=scratch.alias) as before:
        run(scratch, "UPDATE p SET id = 60 WHERE id = 1")
        assert counts(diff(before)) == {"p1": (0, 0, 1), "p2": (1, 0, 0)}


def test_nothing_is_left_in_the_transaction_of_the_caller(tables):
    with transaction.atomic(using=tables.alias):
        run(tables, "INSERT INTO b VALUES (1, 1)")
        settings = "SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY name"
        with tables.connection.cursor() as cursor:
            cursor.execute(settings)
            earlier = cursor.fetchall()
            with snapshot(using=tables.alias) as before:
                run(tables, "DELETE FROM b")
                diff(before)
            cursor.execute(settings)
            assert cursor.fetchall() == earlier
            cursor.execute("SELECT count(*) FROM pg_class WHERE relpersistence = 't'")
            assert cursor.fetchone() == (0,)
    assert tables.count("b") == 0


@pytest.mark.parametrize("inside", [False, True], ids=["autocommit", "atomic"])
def test_a_table_that_is_written_again_and_again_may_be_dropped(tables, inside):
    def play():
        for number in range(10, 13):
            with snapshot(using=tables.alias) as before:
                run(tables, f"INSERT INTO b VALUES ({number}, 1)")
                assert counts(diff(before)) == {"b": (1, 0, 0)}
        run(tables, "DROP TABLE b", "INSERT INTO a VALUES (7, 'seven')")
        with snapshot(using=tables.alias) as before:
            run(tables, "DELETE FROM a WHERE id = 7")
            assert counts(diff(before)) == {"a": (0, 0, 1)}

    if inside:
        with transaction.atomic(using=tables.alias):
            play()
            transaction.set_rollback(True, using=tables.alias)
    else:
        play()


def test_copies_that_went_with_a_savepoint_are_said_to_be_gone(tables):
    run(tables, "INSERT INTO a SELECT n, repeat('x', 900) FROM generate_series(100, 400) n")
    connection = connections[tables.alias]
    with transaction.atomic(using=tables.alias):
        point = connection.savepoint()
        before = snapshot(using=tables.alias)
        connection.savepoint_rollback(point)
        run(tables, "DELETE FROM a WHERE id = 1")
        with pytest.raises(SnapshotError, match="rolled back"):
            diff(before)
        run(tables, "SELECT 1")
    before.close()
    with snapshot(using=tables.alias) as before:
        connection.close()
        with pytest.raises(SnapshotError, match="another session"):
            diff(before)
