"""Kept sessions: whatever a test left in its session, the next one finds what a really new one has. Each kind of state by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import DataError, connections, transaction
from django.db.backends.postgresql import base
from django.db.backends.signals import connection_created

from testdb_app import teardown
from testdb_app.backends import get_backend
from testdb_app.backends.postgresql import session_reset
from testdb_app.backends.postgresql.connection import Command, pipeline_of
from testdb_app.backends.postgresql.sent_statements import judge_statement
from testdb_app.baseline import capture_baseline
from testdb_app.conf import get_settings
from testdb_app.exceptions import ConfigurationError
from testdb_app.resetter import Resetter
from tests.baseline.conftest import messages
from tests.scratch import default_parameters
from tests.testcases.kept import differences, observe_new, read_state

pytestmark = pytest.mark.postgresql

TABLES = """
CREATE TABLE t (id serial PRIMARY KEY, body text NOT NULL DEFAULT '', seed integer);
CREATE FUNCTION add_one(i integer) RETURNS integer LANGUAGE sql AS 'SELECT i + 1';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Dynamic statements (EXECUTE, set_config) are not used here.
    NEW.body := coalesce(current_setting('app.x', true), 'none') || ' set_config(';
    PERFORM pg_notify('touched', NEW.id::text);
    UPDATE t SET seed = 1 WHERE id = -1;
    RETURN NEW;
END $$;
CREATE TRIGGER touch BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION touch();
CREATE FUNCTION remember(v text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('app.x', v, false); END $$;
CREATE FUNCTION remember_too() RETURNS void LANGUAGE sql AS $$ SELECT remember('2') $$;
CREATE FUNCTION run(v text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE v; END $$;
CREATE FUNCTION set_in_sql() RETURNS void LANGUAGE sql AS $$ SET app.x = '3' $$;
CREATE FUNCTION by_name(text, text, boolean) RETURNS text LANGUAGE sql RETURN pg_catalog.set_config($1, $2, $3);
CREATE PROCEDURE proc() LANGUAGE plpgsql AS $$ BEGIN SET app.x = '5'; END $$;
"""


HELD: list[Any] = []


def sql(*statements: str) -> Callable[[Any], None]:
    def run(connection: Any) -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return run


def raw(action: Callable[[Any], object]) -> Callable[[Any], None]:
    return lambda connection: action(connection.connection) and None


def leave_messages(connection: Any) -> None:
    sql("LISTEN jobs", "NOTIFY jobs, 'one'", "SELECT 1")(connection)


def use_atomic(connection: Any) -> None:
    with transaction.atomic(using=connection.alias), transaction.atomic(using=connection.alias):
        sql("INSERT INTO t DEFAULT VALUES", "SELECT * FROM t FOR UPDATE")(connection)


def use_many(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO t (body) VALUES (%s)", [("a;b",), ("set_config(",)])
        with cursor.copy("COPY t (body) FROM STDIN") as copy:
            copy.write_row(("LOAD 'x'",))
        with cursor.copy("COPY t TO STDOUT") as copy:
            list(copy)
    with connection.chunked_cursor() as cursor:
        cursor.execute("SELECT * FROM t")
        cursor.fetchmany(2)


def use_raw(connection: Any) -> None:
    with connection.connection.transaction(), connection.connection.cursor() as cursor:
        cursor.execute(psycopg.sql.SQL("SELECT {}").format(psycopg.sql.Identifier("id")) + psycopg.sql.SQL(" FROM t"))
        list(cursor.stream("SELECT 1"))
    with connection.connection.pipeline():
        connection.connection.execute("SELECT 2")


def register_loader(connection: Any) -> None:
    class Loader(psycopg.types.string.TextLoader):
        def load(self, data: Any) -> Any:
            return "loaded"

    connection.connection.adapters.register_loader("text", Loader)


def register_dumper(connection: Any) -> None:
    class Dumper(psycopg.types.string.StrDumper):
        pass

    connection.connection.adapters.register_dumper(str, Dumper)


def register_type(connection: Any) -> None:
    sql("CREATE TYPE mood AS ENUM ('a')")(connection)
    psycopg.types.TypeInfo.fetch(connection.connection, "mood").register(connection.connection)


def replace_notice_handler(connection: Any) -> None:
    connection.connection.add_notice_handler(print)


def hold_notifies(connection: Any) -> None:
    sql("LISTEN jobs", "NOTIFY jobs, 'one'", "NOTIFY jobs, 'two'")(connection)
    HELD.append(connection.connection.notifies(timeout=1))  # somebody holds the generator, and with it the lock
    next(HELD[-1])


def prepare_a_changed_table(connection: Any) -> None:
    connection.connection.prepare_threshold = 0
    psycopg.Cursor(connection.connection).execute("SELECT * FROM t")
    connection.connection.prepare_threshold = None
    sql("ALTER TABLE t ADD more integer")(connection)


def lock_in_thread(connection: Any) -> None:
    connection.inc_thread_sharing()
    thread = threading.Thread(target=sql("SELECT pg_advisory_lock(7)"), args=(connection,))
    thread.start()
    thread.join()
    connection.dec_thread_sharing()


def in_cursor(each: Any) -> None:
    with each.cursor("c", withhold=True) as cursor:
        cursor.execute("SELECT set_config('app.x', '1', false)")
        cursor.fetchall()


def use_an_error(connection: Any) -> None:
    with pytest.raises(DataError):
        sql("SELECT 1/0")(connection)


KEPT: dict[str, Callable[[Any], None]] = {
    "nothing": lambda connection: None,
    "rows": sql("INSERT INTO t (body) VALUES ('a')", "UPDATE t SET body = 'b'", "SELECT * FROM t", "DELETE FROM t"),
    "atomic blocks": use_atomic,
    "executemany, COPY and a server-side cursor": use_many,
    "the driver's own cursors": use_raw,
    "a savepoint": sql("BEGIN", "SAVEPOINT a", "ROLLBACK TO SAVEPOINT a", "COMMIT"),
    "settings": sql("SET TIME ZONE 'Asia/Tokyo'", "SET search_path TO pg_catalog", "SET statement_timeout = '9s'"),
    "a setting that is reported": sql(
        "SET DateStyle = 'German'", "SET client_min_messages = 'error'", "SET application_name = 'x'"
    ),
    "the isolation level": sql("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY"),
    "a role": lambda connection: sql(f'SET ROLE "{connection.settings_dict["USER"] or "postgres"}"')(connection),
    "session authorization": lambda connection: sql(
        f'SET SESSION AUTHORIZATION "{connection.settings_dict["USER"] or "postgres"}"'
    )(connection),
    "advisory locks": sql("SELECT pg_advisory_lock(42), pg_advisory_lock(42), pg_advisory_lock_shared(7)"),
    "advisory locks of a thread": lock_in_thread,
    "a channel without messages": sql("LISTEN something"),
    "a cursor WITH HOLD": sql("DECLARE held CURSOR WITH HOLD FOR SELECT 1"),
    "values of sequences": sql("SELECT nextval('t_id_seq'), currval('t_id_seq'), lastval()"),
    "a large object": sql("BEGIN", "SELECT lo_open(lo_create(0), 131072)", "COMMIT"),
    "a table": sql("CREATE TABLE made (id integer)", "DROP TABLE made"),
    "deferred constraints": sql("BEGIN", "SET CONSTRAINTS ALL DEFERRED", "COMMIT"),
    "DISCARD ALL": sql("SET statement_timeout = '9s'", "DISCARD ALL"),
    "EXPLAIN ANALYZE": sql("EXPLAIN ANALYZE SELECT 1"),
    "a function that is read": sql("SELECT add_one(1)"),
    "words in a text": sql(
        "SELECT 'LOAD; set_config(', $$DO it$$, E'it\\'s; CALL' -- setseed(\n", "/* SET app.x = 1 */ SELECT 1"
    ),
    "an error": use_an_error,
}
CLOSED: dict[str, Callable[[Any], None]] = {
    "a custom setting": sql("SET app.x = '1'"),
    "a custom setting in a comment's shadow": sql("SET /* a /* nested */ one */ app.x = '1'"),
    "a custom setting in quotes": sql("SET SESSION \"app.x\" TO '1'"),
    "a custom setting, locally": sql("BEGIN", "SET LOCAL app.x = '1'", "COMMIT"),
    "a custom setting that is rolled back": sql("BEGIN", "SET LOCAL app.x = '1'", "ROLLBACK"),
    "a custom setting behind another statement": sql("SELECT 1; SET app.x = '1'"),
    "a custom setting, reset": sql("SET app.x = '1'", "RESET app.x"),
    "set_config()": sql("SELECT set_config('app.x', '1', false)"),
    "set_config() with arguments": lambda connection: connection.cursor().execute(
        "SELECT pg_catalog.set_config(%s, %s, true)", ["app.x", "1"]
    ),
    "set_config() in quotes": sql("SELECT pg_catalog.\"set_config\"('app.x', '1', false)"),
    "set_config() with Unicode escapes": sql("SELECT U&\"set\\005fconfig\"('app.x', '1', false)"),
    "set_config() by the driver": raw(lambda each: each.execute("SELECT set_config('app.x', '1', false)")),
    "set_config() as bytes": raw(lambda each: each.execute(b"SELECT set_config('app.x', '1', false)")),
    "set_config() in a pipeline": lambda connection: in_pipeline(connection.connection),
    "set_config() in COPY": lambda connection: (
        list(connection.connection.cursor().copy("COPY (SELECT set_config('app.x', '1', false)) TO STDOUT").__enter__())
        and None
    ),
    "set_config() in a stream": raw(lambda each: list(each.cursor().stream("SELECT set_config('app.x', '1', false)"))),
    "set_config() in a cursor": raw(in_cursor),
    "set_config() through a text": sql(
        "SELECT * FROM ts_stat('SELECT to_tsvector(set_config(''app.x'', ''1'', false))')"
    ),
    "setseed()": sql("SELECT setseed(0.5)"),
    "SET seed": sql("SET seed = 0.5"),
    "DO": sql("DO $$ BEGIN PERFORM set_config('app.x', '1', false); END $$"),
    "CALL": sql("CALL proc()"),
    "a function": sql("SELECT remember('1')"),
    "a function that calls a function": sql("SELECT remember_too()"),
    "a function that runs a text": sql("SELECT run('SET app.x = 1')"),
    "a function of SQL": sql("SELECT set_in_sql()"),
    "a function with a setting of its own": sql("SELECT its_own()"),
    "a function with a parsed body": sql("SELECT by_name('app.x', '1', false)"),
    "a function that is made and dropped": sql(
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.x', '1', false) $$",
        "SELECT f()",
        "DROP FUNCTION f()",
    ),
    "a temporary table, whose schema stays": sql(
        "CREATE TEMPORARY TABLE kept (id serial)", "INSERT INTO kept VALUES (1)"
    ),
    "PREPARE": sql("PREPARE by_hand AS SELECT 1"),
    "unread messages": leave_messages,
    "a generator of messages": hold_notifies,
    "a loader": register_loader,
    "a dumper": register_dumper,
    "a type": register_type,
    "a notice handler": replace_notice_handler,
    "a notify handler": raw(lambda each: each.add_notify_handler(print)),
    "a row factory": lambda connection: setattr(connection.connection, "row_factory", psycopg.rows.dict_row),
    "a cursor factory": lambda connection: setattr(connection.connection, "cursor_factory", psycopg.ClientCursor),
    "an isolation level": lambda connection: setattr(
        connection.connection, "isolation_level", psycopg.IsolationLevel.SERIALIZABLE
    ),
    "an attribute": lambda connection: setattr(connection.connection, "tenant", "acme"),
    "prepared statements of a changed table": prepare_a_changed_table,
    "the encoding": sql("SET client_encoding TO 'LATIN1'", "SELECT 1"),
    "an execute wrapper": lambda connection: connection.execute_wrappers.append(lambda execute, *rest: execute(*rest)),
    "an attribute of the wrapper": lambda connection: setattr(connection, "tenant", "acme"),
    "a closed socket": lambda connection: connection.connection.close(),
    "another database's defaults": sql("ALTER ROLE CURRENT_USER IN DATABASE postgres SET search_path = 'public'"),
}
# What a new session is given in place of the state that makes it be closed.
_LATER = {"an execute wrapper": lambda connection: connection.execute_wrappers.clear()}


def in_pipeline(each: Any) -> None:
    with each.pipeline():
        each.execute("SELECT set_config('app.x', '1', false)")


@pytest.fixture
def kept(scratch: Any) -> Any:
    """A connection of the scratch database whose session is kept."""
    scratch.execute(TABLES)
    with scratch.superuser() as session:
        session.execute("CREATE FUNCTION its_own() RETURNS integer LANGUAGE sql SET app.x = '4' AS 'SELECT 1'")
    register_with_djangos_engine(scratch)
    renew(scratch.connection)
    scratch.connection.ensure_connection()
    renew(scratch.connection)
    assert is_kept(scratch.connection, lambda connection: None)
    return scratch.connection


def register_with_djangos_engine(scratch: Any) -> None:
    """The engine of the embedded server is a class of its own, whose sessions are closed."""
    parameters = {name.upper(): value for name, value in default_parameters().items()}
    scratch.connection.close()
    del connections[scratch.alias]
    scratch.register(scratch.alias, ENGINE="django.db.backends.postgresql", **parameters)


def renew(connection: Any, between: Callable[[], object] = int) -> bool:
    """End a test's session; *between* is the reset, with whose first message the renewal goes."""
    backend = get_backend(connection)
    keep = backend.renew_session(connection, mode=get_settings().keep_connections)
    between()
    backend.release_session(connection, keep=keep)
    return keep


def is_kept(connection: Any, action: Callable[[Any], None], between: Callable[[], object] = int) -> bool:
    """Run *action* as a test would, renew the session, and return whether the next test has the same one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        ((before,),) = cursor.fetchall()
    action(connection)
    renew(connection, between)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        ((after,),) = cursor.fetchall()
    return bool(before == after)


@pytest.mark.parametrize("between", ["nothing", "a reset"])
@pytest.mark.parametrize("name", [*KEPT, *CLOSED])
def test_the_next_test_finds_what_a_new_session_has(kept: Any, name: str, between: str) -> None:
    resetter = make_resetter(kept)
    was_kept = is_kept(kept, {**KEPT, **CLOSED}[name], resetter.reset if between == "a reset" else int)
    _LATER.get(name, lambda connection: None)(kept)
    assert differences(read_state(kept), observe_new(kept.alias)) == {}
    assert was_kept is (name in KEPT)
    assert is_kept(kept, lambda connection: None) or "wrapper" in name


def make_resetter(connection: Any) -> Resetter:
    resetter = Resetter(connection.alias, to="empty", allow_database=connection.settings_dict["NAME"])
    for _ in range(2):
        resetter.reset()
    return resetter


@pytest.mark.parametrize("writes", [False, True])
def test_the_renewal_goes_with_the_message_of_the_reset(kept: Any, writes: bool) -> None:
    resetter = make_resetter(kept)
    for _ in range(3):
        if writes:
            sql("SET statement_timeout = '9s'", "INSERT INTO t DEFAULT VALUES")(kept)
        with messages() as sent:
            renew(kept, resetter.reset)
        # A renewal that no message has taken along would be an empty one. Others on the server may cause a second reading.
        assert sent
        assert "" not in sent
        assert "RESET ALL" not in "".join(sent)
        assert left_behind(kept) == (0, "0")


@pytest.mark.parametrize("resets", [0, 2], ids=["a full scan", "the fast path"])
def test_the_reset_itself_leaves_no_last_values_in_the_session(kept: Any, scratch: Any, resets: int) -> None:
    """setval() of a sequence that was called in the baseline sets them, and so does a trigger that the reset fires."""
    sql("INSERT INTO t DEFAULT VALUES")(kept)
    capture_baseline(kept.alias, allow_database=scratch.name)
    resetter = Resetter(kept.alias, allow_database=scratch.name)
    renew(kept)
    for _ in range(resets):
        resetter.reset()
    assert is_kept(kept, sql("INSERT INTO t DEFAULT VALUES"), resetter.reset)
    assert differences(read_state(kept), observe_new(kept.alias)) == {}


def left_behind(connection: Any) -> tuple[Any, ...]:
    """Return how many rows the table has, and the setting that the tests here change."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT (SELECT count(*) FROM t), current_setting('statement_timeout')")
        return cursor.fetchone()


def test_what_runs_in_the_session_after_its_renewal_counts_for_the_next_test(kept: Any) -> None:
    resetter = make_resetter(kept)

    def reset() -> None:
        resetter.reset()
        sql("SELECT set_config('app.x', '1', false)")(kept)

    assert is_kept(kept, lambda connection: None, reset)
    assert not is_kept(kept, lambda connection: None)


@pytest.mark.parametrize("dropped", ["DEALLOCATE ALL", "DISCARD ALL"])
def test_prepared_statements_that_a_test_drops_are_prepared_again(kept: Any, dropped: str) -> None:
    resetter = make_resetter(kept)
    is_kept(kept, sql("SET statement_timeout = '9s'", "INSERT INTO t DEFAULT VALUES", dropped), resetter.reset)
    assert differences(read_state(kept), observe_new(kept.alias)) == {}
    assert left_behind(kept) == (0, "0")


def test_a_renewal_that_fails_closes_the_session_and_not_the_reset(kept: Any) -> None:
    resetter = make_resetter(kept)
    with kept.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        before = cursor.fetchone()
    sql("INSERT INTO t DEFAULT VALUES")(kept)
    renewal = session_reset._of_alias[session_reset._key(kept)].commands[-1]
    connection_pipeline = pipeline_of(kept)
    keep = get_backend(kept).renew_session(kept, mode="auto")
    connection_pipeline.queue([Command("SELECT 1 / 0"), renewal])
    report = resetter.reset()
    get_backend(kept).release_session(kept, keep=keep)
    assert [str(table.name) for table in report.tables] == ["public.t"]
    with kept.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        assert cursor.fetchone() != before


@pytest.mark.parametrize("name", CLOSED)
def test_the_comparison_sees_what_is_not_closed(kept: Any, name: str, settings: Any) -> None:
    """Most kinds are seen by the comparison, if the session is kept all the same: it would fail without the proof."""
    unseen = {"setseed()", "SET seed", "a function that is made and dropped"}
    settings.TESTDB = {"KEEP_CONNECTIONS": "always"}
    if is_kept(kept, CLOSED[name]) and name.startswith(("a custom", "set_config", "a function", "DO", "CALL")):
        assert set(differences(read_state(kept), observe_new(kept.alias))) == {"custom"} or name in unseen


def test_never_closes_and_always_keeps_what_can_be_put_back(kept: Any, settings: Any) -> None:
    settings.TESTDB = {"KEEP_CONNECTIONS": "never"}
    renew(kept)
    assert kept.connection is None
    settings.TESTDB = {"KEEP_CONNECTIONS": "always"}
    kept.ensure_connection()
    assert is_kept(kept, sql("SET app.x = '1'", "SET statement_timeout = '9s'"))
    with kept.cursor() as cursor:
        cursor.execute("SELECT current_setting('app.x'), current_setting('statement_timeout')")
        assert cursor.fetchone() == ("", "0")
    assert not is_kept(kept, CLOSED["PREPARE"])
    assert not is_kept(kept, lambda connection: connection.connection.close())
    settings.TESTDB = {"KEEP_CONNECTIONS": "sometimes"}
    with pytest.raises(
        ConfigurationError, match=r"\"KEEP_CONNECTIONS\".*must be one of auto, never, always, not 'sometimes'"
    ):
        renew(kept)


def test_what_a_session_was_kept_with_on_trust_still_counts_later(kept: Any, settings: Any) -> None:
    """A project, or a part of a suite, may change the setting: "auto" keeps no session that nobody has judged."""
    settings.TESTDB = {"KEEP_CONNECTIONS": "always"}
    assert is_kept(kept, sql("SET app.x = '1'"))
    settings.TESTDB = {}
    assert not is_kept(kept, lambda connection: None)
    assert is_kept(kept, lambda connection: None)


def test_a_generator_that_is_left_half_read_does_not_block_the_teardown(kept: Any) -> None:
    """It holds the lock of the driver's connection, for which a rollback would wait for ever."""
    rows = kept.connection.cursor().stream("SELECT generate_series(1, 1000)")
    next(rows)
    kept.inc_thread_sharing()
    worker = threading.Thread(target=teardown._end_use, args=(kept,), daemon=True)
    worker.start()
    worker.join(20)
    kept.dec_thread_sharing()
    assert not worker.is_alive()
    assert is_kept(kept, lambda connection: None)


def test_a_wrapper_of_another_class_is_closed_unless_the_user_vouches_for_it(scratch: Any, settings: Any) -> None:
    class DatabaseWrapper(base.DatabaseWrapper):
        pass

    register_with_djangos_engine(scratch)
    wrapper = DatabaseWrapper({**scratch.connection.settings_dict}, "scratch")
    wrapper.ensure_connection()
    assert renew(wrapper) is False
    assert wrapper.connection is None
    settings.TESTDB = {"KEEP_CONNECTIONS": "always"}
    wrapper.ensure_connection()
    renew(wrapper)
    assert is_kept(wrapper, lambda connection: None)
    wrapper.close()


def test_a_patched_class_is_closed(kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = base.DatabaseWrapper.create_cursor
    monkeypatch.setattr(base.DatabaseWrapper, "create_cursor", lambda self, name=None: own(self, name))
    assert renew(kept) is False
    monkeypatch.undo()
    assert renew(kept) is True


def test_a_handler_of_connection_created_closes_sessions_unless_the_user_vouches_for_it(
    kept: Any, settings: Any
) -> None:
    def configure(connection: Any, **_: Any) -> None:
        connection.cursor().execute("SET app.x = '1'")

    connection_created.connect(configure)
    try:
        assert renew(kept) is False
        settings.TESTDB = {"KEEP_CONNECTIONS": "always"}
        assert renew(kept) is True
    finally:
        connection_created.disconnect(configure)


# A session reports its counts within a second, or when it ends.
REPORT = "; SELECT pg_stat_force_next_flush()"
SCHEMAS = {
    "a trigger": "CREATE TRIGGER r BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION sets()",
    "a default": "ALTER TABLE t ADD other text DEFAULT set_config('app.x', '1', false)",
    "a view": "CREATE VIEW v AS SELECT set_config('app.x', '1', false)",
    "a check": "ALTER TABLE t ADD CHECK (set_config('app.x', '1', false) IS NOT NULL)",
    "a policy": "CREATE POLICY p ON t USING (set_config('app.x', '1', false) = '1')",
    "a rule": "CREATE RULE r AS ON UPDATE TO t DO ALSO SELECT setseed(0.1)",
    "a function's default": "CREATE FUNCTION d(a text DEFAULT set_config('app.x', '1', false)) RETURNS text LANGUAGE sql AS 'SELECT 1'",
    "an operator": "CREATE OPERATOR @@@ (FUNCTION = remembers, LEFTARG = text, RIGHTARG = text)",
    "an operator of a built-in function": "CREATE OPERATOR @@! (FUNCTION = setseed, RIGHTARG = double precision)",
    "an aggregate of a built-in function": "CREATE AGGREGATE g(text, boolean) (sfunc = set_config, stype = text, initcond = 'app.x')",
    "a domain": "CREATE DOMAIN d AS text DEFAULT set_config('app.x', '1', false)",
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_that_calls_such_a_function_by_itself_has_all_sessions_closed(
    kept: Any, scratch: Any, name: str
) -> None:
    scratch.execute(
        "CREATE FUNCTION sets() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SET app.x = '1'; RETURN NEW; END $$;"
        "CREATE FUNCTION remembers(a text, b text) RETURNS text LANGUAGE sql AS $$ SELECT set_config(a, b, false) $$;"
    )
    assert is_kept(kept, sql("UPDATE t SET body = 'x'"))
    scratch.execute(SCHEMAS[name] + REPORT)
    assert not is_kept(kept, sql("UPDATE t SET body = 'x'"))
    assert not is_kept(kept, lambda connection: None)


def test_defaults_of_new_sessions_that_change_close_the_kept_one(kept: Any, scratch: Any) -> None:
    with scratch.superuser() as session:
        session.execute(f"ALTER DATABASE {scratch.name} SET work_mem = '9MB'" + REPORT)
    assert not is_kept(kept, lambda connection: None)
    assert differences(read_state(kept), observe_new(kept.alias)) == {}
    assert is_kept(kept, lambda connection: None)


def test_defaults_that_a_session_without_counters_changes_close_the_kept_one(kept: Any, scratch: Any) -> None:
    with scratch.superuser() as session:
        session.execute(f"SET track_counts = off; ALTER DATABASE {scratch.name} SET work_mem = '9MB'")
    assert not is_kept(kept, lambda connection: None)
    assert differences(read_state(kept), observe_new(kept.alias)) == {}
    assert is_kept(kept, lambda connection: None)


def test_functions_are_read_again_when_the_counters_have_begun_anew(kept: Any, scratch: Any) -> None:
    function = "CREATE FUNCTION {}() RETURNS integer LANGUAGE sql AS '{}'" + REPORT
    with scratch.superuser() as session:
        session.execute("SELECT pg_stat_reset()")
        session.execute(function.format("one", "SELECT 1"))
        assert is_kept(kept, sql("SELECT one()"))
        session.execute("SELECT pg_stat_reset()")
        session.execute(function.format("seeds", "SELECT setseed(0.5); SELECT 1"))
    assert not is_kept(kept, sql("SELECT seeds()"))


def test_a_function_that_another_session_changes_is_read_again(kept: Any, scratch: Any) -> None:
    assert is_kept(kept, sql("SELECT add_one(1)"))
    scratch.execute(
        "CREATE OR REPLACE FUNCTION add_one(i integer) RETURNS integer LANGUAGE sql AS 'SELECT setseed(0.5); SELECT i'"
        + REPORT
    )
    assert not is_kept(kept, sql("SELECT add_one(1)"))


@pytest.mark.parametrize("begin", ["a statement", "atomic()", "select_for_update in atomic()"])
def test_a_session_that_the_server_ended_is_opened_anew_at_its_first_use(kept: Any, scratch: Any, begin: str) -> None:
    renew(kept)
    scratch.execute(f"SELECT pg_terminate_backend({kept.connection.info.backend_pid}, 5000)")
    if begin == "a statement":
        sql("INSERT INTO t DEFAULT VALUES")(kept)
    else:
        with transaction.atomic(using=kept.alias):
            sql("INSERT INTO t DEFAULT VALUES", "SELECT * FROM t FOR UPDATE")(kept)
    assert scratch.count("t") == 1
    assert "close_if_health_check_failed" not in vars(kept)


def test_the_look_at_the_socket_sends_nothing_and_is_for_the_first_use_alone(kept: Any) -> None:
    renew(kept)
    pid = kept.connection.info.backend_pid
    assert "close_if_health_check_failed" in vars(kept)
    kept.ensure_connection()
    with kept.cursor() as cursor:
        assert "close_if_health_check_failed" not in vars(kept)
        cursor.execute("SELECT pg_backend_pid(), (SELECT count(*) FROM t)")
        assert cursor.fetchone() == (pid, 0)


def test_a_statement_that_is_not_understood_counts_as_state() -> None:
    assert judge_statement('UPDATE "a" SET "b" = %s WHERE "a"."id" = %s').reason is None
    assert judge_statement("SELECT 1; SELECT 2;").reason is None
    assert judge_statement("UPDATE a SET b = 'it''s'; LOAD 'x'").reason == "it ran LOAD"
    assert judge_statement("SELECT 'open").reason is not None
    assert judge_statement(None).reason is not None
