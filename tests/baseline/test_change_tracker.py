"""Resets by PostgreSQL's counters: what they cost in round trips, and everything that must not escape them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper

from testdb_app.backends.postgresql import change_tracker, connection, counters
from testdb_app.backends.postgresql.connection import Pipeline
from testdb_app.resetter import Resetter
from tests.baseline.conftest import content, messages
from tests.scratch import connect, connect_as_superuser

TABLES = """
CREATE TABLE a (id serial PRIMARY KEY, v text);
CREATE TABLE b (id serial PRIMARY KEY, v text);
CREATE TABLE kept (id serial PRIMARY KEY, v text);
CREATE TABLE other (id integer, v text);
CREATE UNLOGGED TABLE quick (id serial, v text);
CREATE SEQUENCE lone;
CREATE SEQUENCE around MAXVALUE 3 CYCLE;
SELECT nextval('around'), nextval('around'), nextval('around');
INSERT INTO kept (v) VALUES ('one'), ('two'), ('three');
"""


@pytest.fixture
def before(captured: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return captured(TABLES)


def make_resetter(scratch: Any, times: int) -> Resetter:
    """Make a resetter that has found the tables a and kept written so many times."""
    made = scratch.resetter()
    made.reset()
    for _ in range(times):
        with scratch.connection.cursor() as cursor:
            cursor.execute("INSERT INTO a (v) VALUES ('x'); UPDATE kept SET v = 'y' WHERE id = 1")
        made.reset()
    return made


@pytest.fixture
def resetter(scratch: Any, before: dict[str, Any]) -> Resetter:
    """A resetter that has to look."""
    return make_resetter(scratch, 1)


@pytest.fixture
def expecting(scratch: Any, before: dict[str, Any]) -> Resetter:
    """A resetter that expects the tables a and kept to be written again."""
    return make_resetter(scratch, 3)


def run(scratch: Any, sql: str) -> None:
    """Run statements over the connection that the resets go over."""
    with scratch.connection.cursor() as cursor:
        cursor.execute(sql)


def test_nothing_written_costs_one_round_trip(scratch, resetter, before):
    lengths = []
    for _ in range(20):
        with messages() as sent:
            report = resetter.reset()
        assert (report.tables, report.sequences) == ((), ())
        lengths.append(len(sent))
    # Two where a test in another process has written to its database just then.
    assert min(lengths) == 1
    assert max(lengths) <= 2


@contextmanager
def leaving_after_the_first_look(visitor: BaseDatabaseWrapper) -> Iterator[None]:
    """Have *visitor* end its session between the first message of a reset and the second."""
    run_batches = Pipeline.run

    def run_then_leave(self: Any, connection: Any, *batches: Any) -> Any:
        results = run_batches(self, connection, *batches)
        if visitor.connection is not None:
            pid = visitor.connection.info.backend_pid
            visitor.close()
            with connect("postgres") as session:
                while session.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchall():
                    time.sleep(0.001)
        return results

    patch = pytest.MonkeyPatch()
    patch.setattr(Pipeline, "run", run_then_leave)
    try:
        yield
    finally:
        patch.undo()


@pytest.mark.parametrize("is_known", [False, True], ids=["nobody else was there", "another session idles"])
@pytest.mark.parametrize("maker", ["resetter", "expecting"])
def test_a_session_that_ends_between_two_messages_of_a_reset_does_not_hide_what_it_wrote(
    request, scratch, before, maker, is_known
):
    """As the thread of a live server does, which closes its connection while the test that called it is torn down."""
    with scratch.connect() if is_known else nullcontext() as idler:
        if idler is not None:
            idler.execute("SELECT 1")
        resetter = request.getfixturevalue(maker)
        visitor = scratch.connection.copy()
        try:
            with visitor.cursor() as cursor:
                # It reports its session at once, and what it writes within the next second not before it ends.
                cursor.execute("SELECT 1")
                cursor.execute("INSERT INTO b (v) VALUES ('of a visitor')")
            with leaving_after_the_first_look(visitor):
                resetter.reset()
        finally:
            visitor.close()
    assert content(scratch) == before


def test_tables_that_a_statement_names_cost_one_round_trip(scratch, resetter, before):
    for _ in range(3):
        run(scratch, "INSERT INTO a (v) VALUES ('x'); DELETE FROM kept WHERE id = 2; SELECT nextval('a_id_seq')")
        with messages() as sent:
            report = resetter.reset()
        assert len(sent) == 1
        assert [(str(table.name), table.rows, table.inserted) for table in report.tables] == [
            ("public.a", 1, 0),
            ("public.kept", 0, 1),
        ]
        assert [str(name) for name in report.sequences] == ["public.a_id_seq"]
    assert content(scratch) == before


@pytest.mark.parametrize(
    ("writes", "tables"),
    [
        ("SELECT 1", []),
        ("INSERT INTO a (v) VALUES ('x')", ["public.a"]),
        ("DELETE FROM kept", ["public.kept"]),
        (
            "INSERT INTO a (v) VALUES ('x'); DELETE FROM kept; INSERT INTO b (v) VALUES ('x')",
            ["public.a", "public.b", "public.kept"],
        ),
        ("INSERT INTO a (v) SELECT 'x' FROM generate_series(1, 1000); DELETE FROM kept", ["public.a", "public.kept"]),
        ("INSERT INTO a VALUES (1, 'x'); DELETE FROM kept; SELECT nextval('lone')", ["public.a", "public.kept"]),
    ],
)
def test_what_was_not_expected_is_found_too(scratch, expecting, before, writes, tables):
    run(scratch, writes)
    report = expecting.reset()
    assert sorted(str(table.name) for table in report.tables) == tables
    assert content(scratch) == before
    run(scratch, writes)
    expecting.reset()
    assert content(scratch) == before


def test_a_table_that_was_expected_and_not_written_is_not_touched(scratch, expecting, before):
    run(scratch, "INSERT INTO a (v) VALUES ('x')")
    with scratch.connection.cursor() as cursor:
        cursor.execute("SELECT xmin, ctid FROM kept ORDER BY id")
        rows = cursor.fetchall()
        expecting.reset()
        cursor.execute("SELECT xmin, ctid FROM kept ORDER BY id")
        assert cursor.fetchall() == rows


def test_a_connection_that_is_lost_meanwhile_is_made_again_and_the_expected_is_reset(scratch, expecting, before):
    run(scratch, "INSERT INTO a (v) VALUES ('x'); UPDATE kept SET v = 'y' WHERE id = 1")
    with scratch.superuser() as session:
        pid = scratch.connection.connection.info.backend_pid
        session.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    expecting.reset()
    assert content(scratch) == before


def test_a_table_that_is_written_for_the_first_time_costs_no_more(scratch, resetter, before):
    lengths = []
    for _ in range(3):
        run(scratch, "INSERT INTO b (v) VALUES ('x')")
        with messages() as sent:
            assert [str(table.name) for table in resetter.reset().tables] == ["public.b"]
        lengths.append(len(sent))
    assert content(scratch) == before
    assert lengths == [1, 1, 1]


@pytest.mark.parametrize("is_alone", [True, False], ids=["nobody else is there", "another session idles"])
def test_locks_are_taken_on_the_written_tables_alone_and_only_beside_other_sessions(scratch, before, is_alone):
    with nullcontext() if is_alone else scratch.connect() as session:
        if session is not None:
            session.execute("SELECT 1")
        resetter = make_resetter(scratch, 1)
        run(scratch, "INSERT INTO a (v) VALUES ('x')")
        with messages() as sent:
            resetter.reset()
    locks = [line for message in sent for line in message.split("\n") if line.startswith("LOCK")]
    assert locks == ([] if is_alone else ['LOCK TABLE ONLY "public"."a" IN SHARE ROW EXCLUSIVE MODE;'])


def test_catalogs_are_not_written(scratch, resetter, before):
    with scratch.connection.cursor() as cursor:
        cursor.execute("SELECT max(xmin::text::bigint) FROM pg_class")
        newest = cursor.fetchone()
        for _ in range(5):
            cursor.execute("INSERT INTO a (v) VALUES ('x'); UPDATE kept SET v = 'z'")
            resetter.reset()
        cursor.execute("SELECT max(xmin::text::bigint) FROM pg_class")
        assert cursor.fetchone() == newest


OWN_WRITES = {
    "an insert": "INSERT INTO other VALUES (1, 'x')",
    "an update": "UPDATE kept SET v = 'x'",
    "a delete": "DELETE FROM kept",
    "an insert that is rolled back": "BEGIN; INSERT INTO b (v) VALUES ('x'); ROLLBACK",
    "a savepoint": "BEGIN; SAVEPOINT s; INSERT INTO b (v) VALUES ('x'); ROLLBACK TO s; INSERT INTO a (v) VALUES ('y'); COMMIT",
    "truncate": "TRUNCATE kept, a",
    "truncate and insert as many": "TRUNCATE kept; INSERT INTO kept VALUES (1, 'x'), (2, 'y'), (3, 'z')",
    "a sequence alone": "SELECT nextval('lone')",
    "setval alone": "SELECT setval('b_id_seq', 40)",
    "setval false": "SELECT setval('b_id_seq', 40, false)",
    "a sequence restarted": "ALTER SEQUENCE b_id_seq RESTART WITH 30",
    "an unlogged sequence": "SELECT nextval('quick_id_seq')",
    "a sequence that comes round": "SELECT nextval('around'), nextval('around'), nextval('around')",
    "a sequence that comes round and on": "SELECT nextval('around') FROM generate_series(1, 4)",
    "a cached sequence": "ALTER SEQUENCE lone CACHE 5; SELECT nextval('lone'); ALTER SEQUENCE lone CACHE 1",
    "a large value": "INSERT INTO other SELECT 1, string_agg(md5(n::text), '') FROM generate_series(1, 5000) n",
    "many rows": "INSERT INTO other SELECT n, 'x' FROM generate_series(1, 20000) n",
    "a temporary table": "CREATE TEMPORARY TABLE t (id integer); INSERT INTO t VALUES (1); INSERT INTO b (v) VALUES ('x'); "
    "DROP TABLE t",
    "a rewrite": "ALTER TABLE kept ALTER v TYPE varchar; UPDATE kept SET v = 'x'; ALTER TABLE kept ALTER v TYPE text",
    "vacuum full after it": "INSERT INTO b (v) VALUES ('x'); VACUUM FULL b",
    "vacuum and analyze after it": "DELETE FROM kept WHERE id = 3; VACUUM ANALYZE kept; VACUUM ANALYZE a",
    "statistics reported meanwhile": "INSERT INTO b (v) VALUES ('x'); SELECT pg_stat_force_next_flush()",
    "discard all": "INSERT INTO b (v) VALUES ('x'); DISCARD ALL",
    "deallocate all": "INSERT INTO a (v) VALUES ('x'); DEALLOCATE ALL",
    "another search path": "CREATE SCHEMA s; SET search_path TO s; INSERT INTO public.b (v) VALUES ('x'); DROP SCHEMA s",
    "a function": "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'INSERT INTO b (v) VALUES (1)'; SELECT f(); DROP FUNCTION f()",
    "a table made and dropped": "CREATE TABLE n (id serial); INSERT INTO n DEFAULT VALUES; INSERT INTO b (v) VALUES ('x'); DROP TABLE n",
    "a table swapped for another": "ALTER TABLE b RENAME TO c; ALTER TABLE a RENAME TO b; ALTER TABLE c RENAME TO a; "
    "INSERT INTO a (v) VALUES ('x'); ALTER TABLE a RENAME TO c; ALTER TABLE b RENAME TO a; ALTER TABLE c RENAME TO b",
    "nothing": "SELECT 1",
}


@pytest.mark.parametrize("expects", [False, True], ids=["looking", "expecting"])
@pytest.mark.parametrize("writes", OWN_WRITES.values(), ids=OWN_WRITES.keys())
def test_what_the_own_session_does_is_found(scratch, before, writes, expects):
    resetter = make_resetter(scratch, 3 if expects else 1)
    for _ in range(3):
        for statement in writes.split("; "):
            run(scratch, statement)
        resetter.reset()
        assert content(scratch) == before


@pytest.mark.parametrize("expects", [False, True], ids=["looking", "expecting"])
@pytest.mark.parametrize("writes", OWN_WRITES.values(), ids=OWN_WRITES.keys())
def test_what_a_session_does_that_comes_and_goes_is_found(scratch, before, writes, expects):
    resetter = make_resetter(scratch, 3 if expects else 1)
    for _ in range(2):
        with scratch.connect() as session:
            for statement in writes.split("; "):
                session.execute(statement)
        resetter.reset()
        assert content(scratch) == before


@pytest.mark.parametrize("writes", OWN_WRITES.values(), ids=OWN_WRITES.keys())
def test_what_a_session_does_that_stays_connected_is_found(scratch, resetter, before, writes):
    with scratch.connect() as session:
        for _ in range(2):
            resetter.reset()
            for statement in writes.split("; "):
                session.execute(statement)
            resetter.reset()
            assert content(scratch) == before


def test_a_session_that_is_connected_and_idle_costs_no_more_round_trips(scratch, resetter, before):
    with scratch.connect() as session:
        session.execute("INSERT INTO b (v) VALUES ('x')")
        for _ in range(3):
            run(scratch, "INSERT INTO a (v) VALUES ('x')")
            resetter.reset()
        run(scratch, "INSERT INTO a (v) VALUES ('x')")
        with messages() as sent:
            assert [str(table.name) for table in resetter.reset().tables] == ["public.a"]
        assert len(sent) == 1
        session.execute("INSERT INTO b (v) VALUES ('x')")
        assert [str(table.name) for table in resetter.reset().tables] == ["public.b"]
    assert content(scratch) == before


def test_a_superuser_that_counts_nothing_is_found_while_connected_and_when_gone(scratch, resetter, before):
    for _ in range(2):
        with scratch.superuser() as session:
            session.execute("SET track_counts = off; DELETE FROM kept; INSERT INTO b (v) VALUES ('x')")
            resetter.reset()
            assert content(scratch) == before
            session.execute("INSERT INTO b (v) VALUES ('x')")
        resetter.reset()
        assert content(scratch) == before


def test_without_counters_the_reset_is_as_exact(scratch, resetter, before):
    # In this database alone: tests of other processes use the role, too, and expect the sessions that it always had.
    alter = f"ALTER ROLE {scratch.connection.settings_dict['USER']} IN DATABASE {scratch.name}"
    with scratch.superuser() as session:
        session.execute(f"{alter} SET track_counts = off")
    try:
        scratch.connection.close()
        for _ in range(2):
            run(scratch, "DELETE FROM kept; INSERT INTO b (v) VALUES ('x')")
            resetter.reset()
            assert content(scratch) == before
    finally:
        with scratch.superuser() as session:
            session.execute(f"{alter} RESET track_counts")


@pytest.mark.parametrize("reset", ["pg_stat_reset()", "pg_stat_reset_single_table_counters('kept'::regclass)"])
def test_counters_that_are_reset_hide_nothing(scratch, resetter, before, reset):
    """After it the counter of a table may come back to the very number that was remembered."""
    run(scratch, "UPDATE kept SET v = 'x' WHERE id = 1")
    with scratch.superuser() as session:
        session.execute(f"SELECT {reset}")
    run(scratch, "UPDATE kept SET v = 'y' WHERE id = 2")
    resetter.reset()
    assert content(scratch) == before


def test_a_new_connection_of_the_same_process_goes_on_where_the_last_one_was(scratch, resetter, before):
    for _ in range(3):
        run(scratch, "INSERT INTO a (v) VALUES ('x')")
        pid = scratch.connection.connection.info.backend_pid
        scratch.connection.close()
        with connect_as_superuser("postgres") as outside:
            while outside.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).rowcount:
                time.sleep(0.001)
        run(scratch, "UPDATE kept SET v = 'x'")
        with messages() as sent:
            resetter.reset()
        assert len(sent) <= 4
        assert "pg_relation_size" not in "".join(sent)
    assert content(scratch) == before


def test_a_new_connection_that_leads_elsewhere_is_noticed(scratch, make_scratch, resetter, before):
    elsewhere = make_scratch("elsewhere")
    elsewhere.execute("CREATE TABLE a (id serial, v text); INSERT INTO a (v) VALUES ('precious')")
    scratch.connection.close()
    name = scratch.connection.settings_dict["NAME"]
    scratch.connection.settings_dict["NAME"] = elsewhere.name
    try:
        with pytest.raises(Exception, match=elsewhere.name):
            resetter.reset()
    finally:
        scratch.connection.close()
        scratch.connection.settings_dict["NAME"] = name
    assert elsewhere.count("a") == 1


def test_a_mark_that_is_put_later_is_seen_by_the_very_next_reset(scratch, resetter, before):
    run(scratch, "INSERT INTO a (v) VALUES ('x')")
    run(scratch, "CREATE TABLE testdb.protected ()")
    with pytest.raises(Exception, match="protected"):
        resetter.reset()
    assert scratch.count("a") == 1


def test_a_lock_that_is_held_elsewhere_is_waited_for_and_its_holder_named(scratch, before):
    resetter = scratch.resetter(lock_timeout=0.6)
    with scratch.connect(application_name="leftover") as session:
        resetter.reset()
        run(scratch, "INSERT INTO a (v) VALUES ('x')")
        resetter.reset()
        session.execute("BEGIN; LOCK TABLE a IN SHARE MODE")
        run(scratch, "SELECT 1")
        with pytest.raises(Exception, match="leftover"):
            with session.pipeline():
                pass
            session.execute("SAVEPOINT s")
            scratch.execute("SELECT 1")
            run(scratch, "UPDATE kept SET v = 'x'")
            session.execute("LOCK TABLE kept IN SHARE MODE")
            resetter.reset()
        session.execute("ROLLBACK")
    resetter.reset()
    assert content(scratch) == before


def test_dead_rows_are_vacuumed_now_and_then_where_the_role_owns_the_table(scratch, resetter, before, monkeypatch):
    monkeypatch.setattr(change_tracker, "_MANY_DEAD_ROWS", 50)
    resetter._tracker._vacuum._budget = 100
    vacuumed = 0
    for _ in range(40):
        run(scratch, "INSERT INTO a (v) SELECT repeat('x', 500) FROM generate_series(1, 10)")
        with messages() as sent:
            assert resetter.reset().rows == 10
        vacuumed += any("VACUUM" in message for message in sent)
    assert 0 < vacuumed <= 8
    assert scratch.value("SELECT pg_relation_size('a') / 8192") < 10, "without it there would be 27 pages"
    assert content(scratch) == before


def test_many_resets_and_resetters_of_many_tables_leave_a_bounded_number_of_prepared_statements(
    scratch, captured, monkeypatch
):
    monkeypatch.setattr(connection, "_MOST_PREPARED", 20)
    before = captured("".join(f"CREATE TABLE t{number} (id serial PRIMARY KEY);" for number in range(30)))
    resetter = scratch.resetter()
    resetter.reset()
    chance = random.Random(4)
    for number in range(150):
        for table in chance.sample(range(30), 3):
            run(scratch, f"INSERT INTO t{table} DEFAULT VALUES")
        resetter.reset()
        if number % 50 == 25:
            resetter = scratch.resetter()
        with scratch.connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_prepared_statements")
            (prepared,) = cursor.fetchone()
        assert prepared <= 20 + 10
    assert prepared > 5
    assert content(scratch) == before


def test_two_resetters_over_one_connection_do_not_get_in_each_others_way(scratch, resetter, before):
    second = scratch.resetter()
    second.reset()
    for _ in range(3):
        for each in (resetter, second):
            run(scratch, "INSERT INTO a (v) VALUES ('x')")
            each.reset()
    run(scratch, "INSERT INTO a (v) VALUES ('x')")
    with messages() as sent:
        resetter.reset()
        second.reset()
    assert len(sent) <= 5
    assert content(scratch) == before


def test_rows_that_a_policy_hides_are_an_error_and_no_success(scratch):
    with scratch.superuser() as session:
        session.execute(
            "CREATE TABLE t (id integer PRIMARY KEY); ALTER TABLE t ENABLE ROW LEVEL SECURITY;"
            "CREATE POLICY p ON t USING (id < 10) WITH CHECK (true); GRANT ALL ON t TO PUBLIC"
        )
    resetter = scratch.resetter()
    resetter.reset()
    run(scratch, "INSERT INTO t VALUES (20)")
    with pytest.raises(Exception, match="row-level security"):
        resetter.reset()
    with scratch.superuser() as session:
        assert session.execute("SELECT id FROM t").fetchall() == [(20,)]


def test_counters_that_cannot_be_read_after_a_reset_do_not_undo_its_success(scratch, before, monkeypatch):
    resetter = scratch.resetter()
    resetter.reset()
    run(scratch, "INSERT INTO a (v) VALUES ('x')")
    monkeypatch.setattr(counters, "REPORT", [connection.Command("SELECT no_such_function()")])
    fresh = scratch.resetter()
    assert fresh.reset().rows == 1
    assert fresh.reset().tables == ()
    assert content(scratch) == before


@pytest.mark.alone
@pytest.mark.parametrize("way", ["function", "grant"])
def test_writes_that_the_counters_miss_are_reset_where_the_role_may_hide_them(scratch, captured, way):
    before = captured("CREATE TABLE a (id integer PRIMARY KEY); CREATE TABLE b (id integer); INSERT INTO a VALUES (1)")
    role = scratch.connection.get_connection_params()["user"]
    with scratch.superuser() as session:
        if way == "grant":
            session.execute(f"GRANT SET ON PARAMETER track_counts TO {role}")
        else:
            session.execute(
                "CREATE FUNCTION hidden() RETURNS void LANGUAGE sql SECURITY DEFINER SET track_counts = off "
                "AS 'INSERT INTO public.a VALUES (2); INSERT INTO public.b VALUES (1)'"
            )
    try:
        resetter = scratch.resetter(to="baseline")
        for _ in range(4):
            resetter.reset()
            with scratch.connection.cursor() as cursor:
                if way == "function":
                    cursor.execute("SELECT hidden()")
                else:
                    cursor.execute("SET track_counts = off; INSERT INTO a VALUES (2); INSERT INTO b VALUES (1)")
                    cursor.execute("SET track_counts = on")
        resetter.reset()
        assert content(scratch) == before
    finally:
        if way == "grant":
            with scratch.superuser() as session:
                session.execute(f"REVOKE SET ON PARAMETER track_counts FROM {role}")


def test_a_prepared_transaction_that_takes_the_place_of_another_changes_the_conditions(scratch, before):
    if scratch.value("SELECT current_setting('max_prepared_transactions')::int") == 0:
        pytest.skip("the server allows no prepared transactions (max_prepared_transactions = 0)")

    def prepare(name: str) -> str:
        scratch.execute(f"BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION '{scratch.name} {name}'")
        found = scratch.value(counters.CONDITIONS)
        assert scratch.value(counters.CONDITIONS) == found
        scratch.execute(f"ROLLBACK PREPARED '{scratch.name} {name}'")
        return str(found)

    none = scratch.value(counters.CONDITIONS)
    assert len({none, prepare("one"), prepare("two"), prepare("two")}) == 4
    assert scratch.value(counters.CONDITIONS) == none
