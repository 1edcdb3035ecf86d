"""Each condition of the proof in ``docs/explanation/exactness.md`` is broken: the reset takes the full scan, and is as exact."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
import pytest

from testdb_app.exceptions import ReadOnlyError, TestDBError
from testdb_app.resetter import Resetter
from tests.baseline.conftest import InThread, content, is_fast, leave, scans, wait_until_gone
from tests.baseline.test_change_tracker import TABLES, make_resetter, run
from tests.scratch import ScratchDatabase, connect_as_superuser

SCHEMA = f"{TABLES} CREATE SCHEMA aside; CREATE SEQUENCE aside.lone;"


@pytest.fixture
def before(captured: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return captured(SCHEMA)


def warm(scratch: ScratchDatabase) -> Resetter:
    """Make a resetter that is on the fast path, and write nothing more."""
    resetter = make_resetter(scratch, 3)
    run(scratch, "INSERT INTO a (v) VALUES ('x')")
    assert is_fast(resetter)
    return resetter


def admin(scratch: ScratchDatabase, *statements: str) -> None:
    """Run statements in a superuser's session that ends, in another database: it is none of those that a reset looks for."""
    with connect_as_superuser("postgres") as session:
        for statement in statements:
            session.execute(statement)


@contextmanager
def role_of_its_own(scratch: ScratchDatabase, attributes: str = "LOGIN") -> Iterator[str]:
    """Make a role that may do what the owner may."""
    role = f"{scratch.name}_other"
    admin(scratch, f"CREATE ROLE {role} {attributes} IN ROLE {owner(scratch)}")
    try:
        yield role
    finally:
        with scratch.superuser() as session:
            session.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def owner(scratch: ScratchDatabase) -> str:
    return str(scratch.connection.get_connection_params()["user"])


def visit(scratch: ScratchDatabase, *statements: str, **parameters: Any) -> None:
    """Run statements in a session that comes and goes."""
    with scratch.connect(**parameters) as session:
        for statement in statements:
            session.execute(statement)
        leave(session)


# What a superuser, a role or a setting does to the counters ----------------------------------------------------------


def by_superuser(*statements: str) -> Callable[[ScratchDatabase], AbstractContextManager[None]]:
    @contextmanager
    def change(scratch: ScratchDatabase) -> Iterator[None]:
        with scratch.superuser() as session:
            for statement in statements:
                session.execute(statement)
            leave(session)
        yield

    return change


@contextmanager
def a_function_stops_counting(scratch: ScratchDatabase) -> Iterator[None]:
    with scratch.superuser() as session:
        session.execute(
            "CREATE FUNCTION hidden() RETURNS void LANGUAGE sql SECURITY DEFINER SET track_counts = off "
            "AS 'DELETE FROM public.kept; INSERT INTO public.b (v) VALUES (1)'"
        )
        leave(session)
    visit(scratch, "SELECT hidden()")
    yield


@contextmanager
def the_session_is_a_replica(scratch: ScratchDatabase) -> Iterator[None]:
    admin(scratch, f"ALTER DATABASE {scratch.name} SET session_replication_role = replica")
    scratch.connection.close()
    run(scratch, "UPDATE kept SET v = 'of a replica'")
    yield


@contextmanager
def the_connection_does_not_count(scratch: ScratchDatabase) -> Iterator[None]:
    admin(scratch, f"ALTER DATABASE {scratch.name} SET track_counts = off")
    scratch.connection.close()
    run(scratch, "DELETE FROM kept; INSERT INTO b (v) VALUES ('uncounted')")
    yield


def in_own_session(statement: str) -> Callable[[ScratchDatabase], AbstractContextManager[None]]:
    @contextmanager
    def change(scratch: ScratchDatabase) -> Iterator[None]:
        run(scratch, statement)
        yield

    return change


def by_visitor(*statements: str) -> Callable[[ScratchDatabase], AbstractContextManager[None]]:
    @contextmanager
    def change(scratch: ScratchDatabase) -> Iterator[None]:
        visit(scratch, *statements)
        yield

    return change


@contextmanager
def a_transaction_is_prepared(scratch: ScratchDatabase) -> Iterator[None]:
    # It locks no table, which the full scan would wait for.
    visit(scratch, f"BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '{scratch.name}'")
    try:
        yield
    finally:
        visit(scratch, f"ROLLBACK PREPARED '{scratch.name}'")


CONDITIONS = {
    "all counters are reset": by_superuser("SELECT pg_stat_reset()"),
    "those of one table are": by_superuser("SELECT pg_stat_reset_single_table_counters('public.kept'::regclass)"),
    "the connection does not count": the_connection_does_not_count,
    "a function stops counting": a_function_stops_counting,
    "the session is a replica": the_session_is_a_replica,
    "another search path": in_own_session("SET search_path = aside, public"),
    "another default isolation": in_own_session("SET default_transaction_isolation = 'repeatable read'"),
    "a transaction is prepared": a_transaction_is_prepared,
    "a table is made and dropped": in_own_session("CREATE TABLE made (id integer); DROP TABLE made"),
    "a visitor makes and drops one": by_visitor("CREATE TABLE made (id integer)", "DROP TABLE made"),
    "a visitor truncates": by_visitor("TRUNCATE kept, a"),
    "a visitor restarts a sequence": by_visitor("ALTER SEQUENCE lone RESTART WITH 7"),
    "a visitor makes a temporary table": by_visitor(
        "CREATE TEMPORARY TABLE t AS SELECT 1; INSERT INTO b (v) VALUES ('x')"
    ),
}


@pytest.mark.parametrize("break_it", CONDITIONS.values(), ids=CONDITIONS.keys())
@pytest.mark.parametrize("writes", ["a named table", "nothing"])
def test_a_broken_condition_leads_to_the_full_scan(scratch, before, break_it, writes):
    resetter = warm(scratch)
    with break_it(scratch):
        if writes == "a named table":
            run(scratch, "BEGIN READ WRITE; INSERT INTO public.a (v) VALUES ('x'); COMMIT")
        assert scans(resetter)
        assert content(scratch) == before
        run(scratch, "BEGIN READ WRITE; DELETE FROM public.kept WHERE id = 2; COMMIT")
        resetter.reset()
        assert content(scratch) == before


HIDING = {
    "of the database": "ALTER DATABASE {name} SET track_counts = off",
    "of another role": "ALTER ROLE {role} SET track_counts = off",
    "of another role here": "ALTER ROLE {role} IN DATABASE {name} SET track_counts = off",
    "that another role may make": "GRANT SET ON PARAMETER track_counts TO {role}",
}


def write_uncounted(scratch: ScratchDatabase, statement: str, role: str) -> None:
    """Write in a session of *role* that does not count, as *statement* has let it. One with a grant switches it off by itself."""
    stop = ["SET track_counts = off"] if "GRANT" in statement else []
    visit(scratch, *stop, "DELETE FROM kept; INSERT INTO b (v) VALUES ('uncounted')", user=role)


@pytest.mark.alone
@pytest.mark.parametrize("statement", HIDING.values(), ids=HIDING.keys())
@pytest.mark.parametrize("is_new", [True, False], ids=["known from the start", "known since a full scan"])
def test_where_a_setting_hides_what_others_write_each_write_leads_to_the_full_scan(scratch, before, statement, is_new):
    with role_of_its_own(scratch) as role:
        try:
            resetter = None if is_new else warm(scratch)
            admin(scratch, statement.format(name=scratch.name, role=role))
            if resetter is None:
                resetter = scratch.resetter()
                resetter.reset()
            else:
                run(scratch, "CREATE TABLE made (id integer); DROP TABLE made")
                assert scans(resetter)
            for _ in range(2):
                write_uncounted(scratch, statement, role)
                assert scans(resetter)
                assert content(scratch) == before
        finally:
            admin(scratch, f"REVOKE SET ON PARAMETER track_counts FROM {role}")


@pytest.mark.alone
@pytest.mark.parametrize("statement", HIDING.values(), ids=HIDING.keys())
def test_a_setting_made_since_the_last_full_scan_leads_to_one(scratch, before, statement):
    with role_of_its_own(scratch) as role:
        resetter = warm(scratch)
        try:
            with by_superuser(statement.format(name=scratch.name, role=role))(scratch):
                write_uncounted(scratch, statement, role)
            assert scans(resetter)
            assert content(scratch) == before
        finally:
            admin(scratch, f"REVOKE SET ON PARAMETER track_counts FROM {role}")


def test_a_session_that_was_opened_while_a_setting_hid_its_writes_is_never_trusted(scratch, before):
    setting = f"ALTER DATABASE {scratch.name} {{}} track_counts"
    resetter = warm(scratch)
    admin(scratch, setting.format("SET") + " = off")
    with InThread(scratch.alias) as thread, scratch.connect() as visitor:
        pid = thread.call(lambda connection: connection.connection.info.backend_pid)
        visitor.execute("SELECT 1")
        assert scans(resetter)
        admin(scratch, setting.format("RESET"))
        assert scans(resetter)
        thread.run("DELETE FROM kept", "INSERT INTO b (v) VALUES ('uncounted')")
        resetter.reset()
        assert content(scratch) == before
        visitor.execute("DELETE FROM kept; INSERT INTO b (v) VALUES ('uncounted')")
        leave(visitor)
        resetter.reset()
        assert content(scratch) == before
    wait_until_gone(pid)
    for _ in range(2):
        run(scratch, "INSERT INTO a (v) VALUES ('x')")
        resetter.reset()
    run(scratch, "INSERT INTO a (v) VALUES ('x')")
    assert is_fast(resetter)


def test_another_role_of_the_session_leads_to_the_full_scan(scratch, before):
    """What that role may see and do is another matter: the reset may be refused."""
    resetter = warm(scratch)
    with role_of_its_own(scratch, "NOLOGIN") as role:
        admin(scratch, f"REVOKE {owner(scratch)} FROM {role}", f"GRANT {role} TO {owner(scratch)}")
        scratch.execute(
            f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
        )
        resetter.reset()
        assert is_fast(resetter)
        run(scratch, f"SET ROLE {role}; INSERT INTO a (v) VALUES ('x')")
        assert scans(resetter, refused=TestDBError)
        run(scratch, "RESET ROLE")
        assert scans(resetter)
        assert content(scratch) == before


def test_a_session_that_is_read_only_by_now_is_refused_and_nothing_is_lost(scratch, before):
    resetter = warm(scratch)
    run(scratch, "INSERT INTO a (v) VALUES ('x'); SET default_transaction_read_only = on")
    with pytest.raises(ReadOnlyError):
        resetter.reset()
    run(scratch, "RESET default_transaction_read_only")
    resetter.reset()
    assert content(scratch) == before


# Sessions of others -------------------------------------------------------------------------------------------------------


def test_a_session_that_is_active_leads_to_the_full_scan(scratch, before):
    with scratch.connect() as session:
        session.execute("SELECT 1")
        resetter = warm(scratch)
        session.pgconn.send_query(b"SELECT pg_sleep(60)")
        with connect_as_superuser("postgres") as outside:
            state = "SELECT state FROM pg_stat_activity WHERE pid = %s"
            while outside.execute(state, [session.info.backend_pid]).fetchone() != ("active",):
                time.sleep(0.001)
        run(scratch, "INSERT INTO a (v) VALUES ('x')")
        assert scans(resetter)
        assert content(scratch) == before
        session.close()


SESSIONS = {
    "it is in a transaction": ["BEGIN", "SELECT 1"],
    "it has run a query": ["SELECT 1"],
    "it has written": ["INSERT INTO b (v) VALUES ('late')"],
    "it has called a sequence": ["SELECT nextval('lone')"],
    "it has rolled back to a savepoint": ["BEGIN", "SAVEPOINT s; INSERT INTO other VALUES (1); ROLLBACK TO s"],
}


@pytest.mark.parametrize("statements", SESSIONS.values(), ids=SESSIONS.keys())
@pytest.mark.parametrize("comes", ["was there", "is new"])
def test_a_session_that_has_run_something_leads_to_the_full_scan(scratch, before, statements, comes):
    resetter = warm(scratch) if comes == "is new" else None
    with scratch.connect() as session:
        session.execute("SELECT 1")
        resetter = resetter or warm(scratch)
        for statement in statements:
            session.execute(statement)
        run(scratch, "INSERT INTO a (v) VALUES ('x')")
        assert scans(resetter)
        if len(statements) == 1:
            assert content(scratch) == before
            run(scratch, "INSERT INTO a (v) VALUES ('x')")
            assert is_fast(resetter)
        else:
            session.execute("COMMIT")
            resetter.reset()
        assert content(scratch) == before


def test_a_session_whose_state_is_hidden_leads_to_the_full_scan_each_time(scratch, before):
    with scratch.superuser() as session:
        session.execute("SELECT 1")
        resetter = make_resetter(scratch, 3)
        for _ in range(3):
            session.execute("INSERT INTO b (v) VALUES ('hidden')")
            assert scans(resetter)
            assert content(scratch) == before


def test_a_session_that_shows_no_activity_leads_to_the_full_scan_each_time(scratch, before):
    admin(scratch, f"ALTER ROLE {owner(scratch)} IN DATABASE {scratch.name} SET track_activities = off")
    with scratch.connect() as session:
        resetter = make_resetter(scratch, 3)
        for _ in range(3):
            session.execute("INSERT INTO b (v) VALUES ('hidden')")
            assert scans(resetter)
            assert content(scratch) == before


# An id that was taken before, of a transaction that ends after -----------------------------------------------------------

SLOW = f"""{TABLES}
CREATE FUNCTION slow(text) RETURNS boolean LANGUAGE sql AS $$SELECT $1 <> 'one' OR pg_sleep(0.5) IS NOT NULL$$;
ALTER TABLE kept ADD CHECK (slow(v));
"""


@pytest.mark.parametrize("ends", ["COMMIT", "PREPARE TRANSACTION 'late'; COMMIT PREPARED 'late'"])
@pytest.mark.parametrize("comes", ["was there", "is new"])
def test_a_transaction_that_began_during_a_reset_and_ends_after_it_is_found(scratch, captured, ends, comes):
    """Its id is lower than the last one of the reset, so the next id does not move when it ends."""
    before = captured(SLOW)
    session = (
        psycopg.connect(**scratch.connection.get_connection_params(), autocommit=True) if comes == "was there" else None
    )
    resetter = make_resetter(scratch, 2)
    run(scratch, "UPDATE kept SET v = 'y' WHERE id = 1")
    has_begun, is_reset = threading.Event(), threading.Event()

    def write() -> None:
        time.sleep(0.2)
        with session or psycopg.connect(**scratch.connection.get_connection_params(), autocommit=True) as writer:
            writer.execute("BEGIN; INSERT INTO b (v) VALUES ('late')")
            has_begun.set()
            is_reset.wait(30)
            for statement in ends.replace("late", scratch.name).split("; "):
                writer.execute(statement)
            leave(writer)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        resetter.reset()
        assert has_begun.is_set()
    finally:
        is_reset.set()
        thread.join(30)
    resetter.reset()
    assert content(scratch) == before
