"""What a test, or an administrator, may do to a database between two resets: the next reset works, or says what is the matter.

Each situation is met by a resetter that has reset before, by one that is new, and at the capture. None of them may end in an
error of the database or the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from testdb_app.baseline import capture_baseline, drop_baseline
from testdb_app.database_setup import forget_test_databases, prepare_test_database, refit_baseline
from testdb_app.exceptions import BaselineError, TestDBError
from testdb_app.teardown import reset_databases
from tests.scratch import ScratchDatabase, connect_as_superuser

pytestmark = pytest.mark.postgresql

TABLES = """
CREATE SCHEMA tenant;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE FUNCTION even(integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 % 2 = 0';
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TABLE django_migrations (id serial PRIMARY KEY, app text, name text, applied timestamptz);
CREATE TABLE tenant.django_migrations (id serial PRIMARY KEY, app text, name text, applied timestamptz);
CREATE TABLE shelf (id serial PRIMARY KEY, name text, mood mood, number integer CHECK (even(number)));
CREATE TABLE book (id serial PRIMARY KEY, shelf_id integer REFERENCES shelf (id), raw bytea);
CREATE TABLE tenant.item (id serial PRIMARY KEY, name text);
CREATE TABLE nokey (name text);
CREATE TABLE spelled (t timestamptz, i interval, f float8, m money, a mood[], r tstzrange);
CREATE TRIGGER noted AFTER INSERT ON book FOR EACH ROW EXECUTE FUNCTION noted();
INSERT INTO django_migrations (app, name) VALUES ('shop', '0001');
INSERT INTO tenant.django_migrations (app, name) VALUES ('shop', '0001');
INSERT INTO shelf (name, mood, number) VALUES ('café', 'good', 2), ('b\\c''d', 'bad', 4);
INSERT INTO book (shelf_id, raw) VALUES (1, '\\x00ff');
INSERT INTO nokey VALUES ('x'), ('x');
INSERT INTO spelled VALUES
    ('2001-02-03 04:05Z', '1 mon -2 days 3 s', 1e-10 / 3, 12.34, '{NULL,good}', '[2001-02-03 04:05Z,)');
"""
WRITES = "INSERT INTO shelf (name) VALUES ('test'); INSERT INTO book (shelf_id) VALUES (1)"


@dataclass(frozen=True)
class Situation:
    """What happens, by a superuser's *statements* (``{name}`` is the database's), or otherwise."""

    name: str
    statements: str = ""
    # Over Django's own session, and from another database.
    session: str = ""
    outside: tuple[str, ...] = ()
    # The connection is made anew afterwards, so that settings of the database are read.
    reconnects: bool = False
    # Whether resets work, where that is known beforehand.
    works: bool | None = None
    since: int = 15

    def __str__(self) -> str:
        return self.name


END = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
)


def setting(assignment: str, **options: Any) -> Situation:
    """A setting of the database, which new sessions begin with."""
    return Situation(
        assignment,
        outside=(f"ALTER DATABASE {{name}} SET {assignment}",),
        reconnects=True,
        **options,
    )


SITUATIONS = [
    Situation("a schema with a list of migrations is dropped", "DROP SCHEMA tenant CASCADE"),
    Situation("the list of migrations is dropped", "DROP TABLE django_migrations"),
    Situation("the list of migrations is renamed", "ALTER TABLE tenant.django_migrations RENAME TO old"),
    Situation("the schema is renamed", "ALTER SCHEMA tenant RENAME TO landlord"),
    Situation(
        "the list of migrations is a view",
        "ALTER TABLE tenant.django_migrations RENAME TO old; CREATE VIEW tenant.django_migrations AS SELECT * FROM tenant.old",
    ),
    Situation(
        "the list of migrations has no columns", "ALTER TABLE django_migrations DROP COLUMN app, DROP COLUMN name"
    ),
    Situation(
        "the list of migrations may not be read",
        "ALTER TABLE tenant.django_migrations OWNER TO CURRENT_USER; REVOKE ALL ON tenant.django_migrations FROM PUBLIC",
    ),
    Situation("the schema may not be used", "ALTER SCHEMA tenant OWNER TO CURRENT_USER"),
    Situation(
        "a policy hides the list of migrations",
        "ALTER TABLE django_migrations ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    ),
    Situation("a copy is dropped", "DROP TABLE testdb.baseline_1"),
    Situation("the copies are dropped", "DROP TABLE testdb.baseline_1, testdb.baseline_2, testdb.baseline_3"),
    Situation("a copy has lost a column", "ALTER TABLE testdb.baseline_2 DROP COLUMN name"),
    Situation("a copy may not be read", "ALTER TABLE testdb.baseline_1 OWNER TO CURRENT_USER"),
    Situation("the baseline's document is dropped", "DROP TABLE testdb.baseline"),
    Situation("the baseline's document is empty", "DELETE FROM testdb.baseline"),
    Situation("the baseline's document is nonsense", "UPDATE testdb.baseline SET document = '{\"version\": 1}'"),
    Situation("the baseline's document is an array", "UPDATE testdb.baseline SET document = '[1]'"),
    Situation("the app's schema is dropped", "DROP SCHEMA testdb CASCADE"),
    Situation("the app's schema is renamed", "ALTER SCHEMA testdb RENAME TO other"),
    Situation("the app's schema may not be used", "ALTER SCHEMA testdb OWNER TO CURRENT_USER"),
    Situation("a sequence is dropped", "DROP SEQUENCE shelf_id_seq CASCADE"),
    Situation("a sequence has another type", "ALTER SEQUENCE shelf_id_seq AS smallint"),
    Situation("a sequence is renamed", "ALTER SEQUENCE shelf_id_seq RENAME TO renamed"),
    Situation("a sequence may not be read", "ALTER TABLE tenant.item OWNER TO CURRENT_USER"),
    Situation("a type is dropped", "DROP TYPE mood CASCADE"),
    Situation("a value of an enum is renamed", "ALTER TYPE mood RENAME VALUE 'good' TO 'fine'"),
    Situation("a column has another type", "ALTER TABLE shelf ALTER name TYPE varchar(100)"),
    Situation("a column is renamed", "ALTER TABLE shelf RENAME name TO title"),
    Situation("a table is dropped", "DROP TABLE book"),
    Situation("a table has become a view", "ALTER TABLE nokey RENAME TO old; CREATE VIEW nokey AS SELECT * FROM old"),
    Situation("a table is another with its name", "DROP TABLE book; CREATE TABLE book (id integer)"),
    Situation("a function of a check is dropped", "DROP FUNCTION even CASCADE"),
    Situation("a function of a trigger is dropped", "DROP FUNCTION noted CASCADE"),
    Situation(
        "a check fails by an error of its own",
        "CREATE OR REPLACE FUNCTION even(integer) RETURNS boolean LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END$$",
    ),
    Situation("the language is dropped", "DROP EXTENSION plpgsql CASCADE"),
    Situation("a table may not be written", "ALTER TABLE book OWNER TO CURRENT_USER"),
    Situation(
        "the session has another role",
        outside=("CREATE ROLE {name}_role", "GRANT {name}_role TO {user}"),
        session="SET ROLE {name}_role",
        works=False,
    ),
    Situation("the session has another encoding", session="SET client_encoding = 'LATIN1'", works=True),
    Situation("the session has no encoding", session="SET client_encoding = 'SQL_ASCII'"),
    Situation("the session's statements are gone", session="DEALLOCATE ALL"),
    Situation("the session is discarded", session="DISCARD ALL"),
    Situation("the session is ended", outside=(END,), works=True),
    Situation("the database is renamed", outside=(END, "ALTER DATABASE {name} RENAME TO {name}_renamed"), works=False),
    Situation(
        "the database allows no connections",
        outside=("ALTER DATABASE {name} ALLOW_CONNECTIONS false", END),
        works=False,
    ),
    Situation(
        "the database has too many connections", outside=("ALTER DATABASE {name} CONNECTION LIMIT 0", END), works=False
    ),
    Situation(
        "an event trigger refuses DDL",
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no DDL'; END$$; "
        "CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()",
    ),
    setting("search_path = ''", works=True),
    setting("search_path = nowhere", works=True),
    setting("default_transaction_read_only = on", works=False),
    setting("statement_timeout = 1"),
    setting("lock_timeout = 1", works=True),
    setting("idle_in_transaction_session_timeout = 1"),
    setting("idle_session_timeout = 1"),
    setting("transaction_timeout = 1", since=17),
    setting("default_transaction_isolation = serializable", works=True),
    setting("default_transaction_deferrable = on", works=True),
    setting("standard_conforming_strings = off", works=True),
    setting("client_encoding = 'LATIN1'", works=True),
    setting("bytea_output = escape", works=True),
    setting("row_security = off", works=True),
    setting("session_replication_role = replica", works=True),
    setting("plan_cache_mode = force_generic_plan", works=True),
    setting("check_function_bodies = off", works=True),
    setting("quote_all_identifiers = on", works=True),
    setting("extra_float_digits = -15", works=True),
    setting("intervalstyle = 'sql_standard'", works=True),
    setting("datestyle = 'SQL, DMY'", works=True),
    setting("array_nulls = off", works=True),
    setting("transform_null_equals = on", works=True),
    setting("exit_on_error = on"),
    setting("default_tablespace = 'nowhere'"),
    setting("default_table_access_method = 'nothing'"),
    setting("track_counts = off", works=True),
    setting("track_activities = off", works=True),
    setting("stats_fetch_consistency = snapshot", works=True),
    setting("role = pg_monitor"),
    setting("event_triggers = off", works=True, since=17),
    setting("restrict_nonsystem_relation_kind = 'view'", works=True),
    setting("vacuum_cost_delay = 0", works=True),
    setting("max_parallel_workers_per_gather = 0", works=True),
    setting("lc_messages = 'C'", works=True),
    setting("temp_tablespaces = 'nowhere'", works=True),
    setting("gin_fuzzy_search_limit = 1", works=True),
    setting("xmloption = document", works=True),
    setting("lo_compat_privileges = on", works=True),
    setting("timezone = 'Asia/Kathmandu'", works=True),
    setting("lc_monetary = 'C.UTF-8'", works=True),
    setting("backslash_quote = off", works=True),
    setting("plpgsql.extra_errors = 'all'", works=True),
    setting("plpgsql.variable_conflict = use_column", works=True),
    setting("enable_seqscan = off", works=True),
    setting("client_min_messages = error", works=True),
]


@pytest.fixture
def arise(scratch: ScratchDatabase) -> Iterator[Callable[[Situation], None]]:
    """Return a function that has a situation arise; the database has its name again afterwards."""
    renamed = f"{scratch.name}_renamed"

    def arise(situation: Situation) -> None:
        names = {"name": scratch.name, "user": scratch.connection.get_connection_params()["user"]}
        if situation.statements:
            with scratch.superuser() as session:
                session.execute(situation.statements)
        with connect_as_superuser("postgres") as session:
            for statement in situation.outside:
                session.execute(statement.format(**names))
        if situation.session:
            with scratch.connection.cursor() as cursor:
                cursor.execute(situation.session.format(**names))
        if situation.reconnects:
            scratch.connection.close()

    yield arise
    scratch.connection.close()
    with connect_as_superuser("postgres") as session:
        if session.execute("SELECT FROM pg_database WHERE datname = %s", [renamed]).fetchone():
            session.execute(f"ALTER DATABASE {renamed} RENAME TO {scratch.name}")
        session.execute(f"DROP ROLE IF EXISTS {scratch.name}_role")


@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
def test_a_reset_works_or_names_what_is_the_matter(scratch, arise, situation, settings):
    skip_before(scratch, situation.since)
    settings.TESTDB = {"ALLOWED_DATABASES": [scratch.name]}
    scratch.execute(TABLES)
    capture_baseline(scratch.alias)
    before = content_of_baseline(scratch)
    warm = scratch.resetter(to="baseline", lock_timeout=2)
    for _ in range(3):
        warm.reset()
        with scratch.connection.cursor() as cursor:
            cursor.execute(WRITES)
    arise(situation)
    told = []
    for number, act in enumerate(acts(scratch, warm)):
        told.append(tell(scratch, act))
        if number < 2 and told[-1] is None and situation.works:
            assert content_of_baseline(scratch) == before
    print(*told, sep="\n")
    if situation.works is not None:
        assert [text is None for text in told[:2]] == [situation.works] * 2, told


def acts(scratch: ScratchDatabase, warm: Any) -> Iterator[Callable[[], object]]:
    """Yield the ways to a reset: one that remembers, a new one to the baseline and one to what there is, a plan, a capture."""
    yield warm.reset
    yield scratch.resetter(to="baseline", lock_timeout=2).reset
    yield scratch.resetter(lock_timeout=2).plan
    yield partial(refit_baseline, scratch.alias)
    yield partial(capture_baseline, scratch.alias, replace=True, allow_database=scratch.name, lock_timeout=2)
    yield scratch.resetter(to="empty", lock_timeout=2).reset
    yield partial(drop_baseline, scratch.alias, allow_database=scratch.name)


def tell(scratch: ScratchDatabase, act: Callable[[], object]) -> str | None:
    """Do it, and return the text of its error, which has to be one of the package's that says what is meant and what to do."""
    try:
        act()
    except TestDBError as error:
        text = str(error)
        assert scratch.name in text or f'"{scratch.alias}"' in text, f"which database? {text}"
        assert "See the chained error" not in text, f"what next? {text}"
        assert "\n" not in text.strip()
        return f"{type(error).__name__}: {text}"
    return None


def skip_before(scratch: ScratchDatabase, version: int) -> None:
    """Skip on an older server."""
    scratch.connection.ensure_connection()
    if scratch.connection.pg_version < version * 10_000:
        pytest.skip(f"needs PostgreSQL {version}")


def content_of_baseline(scratch: ScratchDatabase) -> dict[str, Any]:
    """Return the rows of the tables that the baseline has rows of, spelled as a new session of no settings would."""
    with scratch.superuser() as session:
        session.execute(
            "RESET ALL; SET standard_conforming_strings = on; SET client_encoding = 'UTF8'; SET bytea_output = hex; SET TimeZone = UTC; "
            "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = postgres; SET extra_float_digits = 1; SET lc_monetary = 'C'"
        )
        return {
            name: session.execute(f"SELECT t::text FROM {name} t ORDER BY 1").fetchall()
            for name in ("public.shelf", "public.book", "public.nokey", "public.spelled")
            if session.execute("SELECT pg_catalog.to_regclass(%s)", [name]).fetchone() != (None,)
        }


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_is_reset(scratch, settings, encoding):
    settings.TESTDB = {"ALLOWED_DATABASES": [scratch.name]}
    with connect_as_superuser("postgres") as session:
        session.execute(f"DROP DATABASE {scratch.name}")
        session.execute(
            f"CREATE DATABASE {scratch.name} OWNER {scratch.connection.get_connection_params()['user']} "
            f"ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        )
    with scratch.connect(client_encoding="UTF8") as session:
        session.execute(TABLES)
    capture_baseline(scratch.alias)
    before = content_of_baseline(scratch)
    resetter = scratch.resetter(to="baseline")
    for _ in range(3):
        with scratch.connect(client_encoding="UTF8") as session:
            session.execute("UPDATE shelf SET name = 'naïve'; DELETE FROM nokey; INSERT INTO nokey VALUES ('ü')")
        resetter.reset()
        assert content_of_baseline(scratch) == before


@pytest.fixture
def prepared(scratch: ScratchDatabase, settings: Any) -> Iterator[ScratchDatabase]:
    """A database with a baseline, prepared as a test runner does it."""
    settings.TESTDB = {"ALLOWED_DATABASES": [scratch.name]}
    scratch.execute(TABLES)
    prepare_test_database(scratch.alias)
    yield scratch
    forget_test_databases()


@pytest.mark.parametrize("statement", ["DROP TABLE book", "DROP SCHEMA tenant CASCADE; DROP TABLE book"])
def test_tables_with_rows_that_a_test_drops_are_told_once_and_stop_no_later_test(prepared, statement):
    before = content_of_baseline(prepared)
    prepared.execute(f"{statement}; UPDATE shelf SET name = 'other'")
    with pytest.warns(UserWarning, match=r"1 rows in the baseline: public\.book\. Resets go on without"):
        reset_databases([prepared.alias])
    del before["public.book"]
    for _ in range(2):
        assert content_of_baseline(prepared) == before
        prepared.execute("DELETE FROM shelf; INSERT INTO nokey VALUES ('y')")
        reset_databases([prepared.alias])
    prepared.execute("CREATE TABLE book (id integer); INSERT INTO book VALUES (1)")
    reset_databases([prepared.alias])
    assert prepared.count("book") == 0


def test_a_table_with_rows_that_a_test_renames_is_refused_until_it_has_its_name_again(prepared):
    before = content_of_baseline(prepared)
    prepared.execute("ALTER TABLE book RENAME TO other")
    for _ in range(2):
        with pytest.raises(BaselineError, match=r"table public\.book is gone"):
            reset_databases([prepared.alias])
        assert prepared.count("other") == 1
    prepared.execute("ALTER TABLE other RENAME TO book; DELETE FROM book")
    reset_databases([prepared.alias])
    assert content_of_baseline(prepared) == before
