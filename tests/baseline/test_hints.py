"""The names that the statements of this process seem to write to are a hint: whatever they are, the reset is exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testdb_app.backends.postgresql.sent_statements import judge_statement
from tests.baseline.conftest import InThread, content
from tests.baseline.test_change_tracker import make_resetter

TABLES = """
CREATE TABLE a (id serial PRIMARY KEY, v text);
CREATE TABLE b (id serial PRIMARY KEY, v text);
CREATE TABLE kept (id serial PRIMARY KEY, v text);
INSERT INTO kept (v) VALUES ('one'), ('two'), ('three');
CREATE TABLE "a.b" (id serial PRIMARY KEY, v text);
CREATE TABLE "say ""INSERT INTO a"" now" (id serial PRIMARY KEY, v text);
CREATE TABLE "B" (id serial PRIMARY KEY, v text);
CREATE SCHEMA shop; CREATE TABLE shop.b (id serial PRIMARY KEY, v text);
CREATE TABLE split (id integer, v text) PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF split FOR VALUES FROM (0) TO (10);
CREATE TABLE high PARTITION OF split FOR VALUES FROM (10) TO (100) PARTITION BY LIST (id);
CREATE TABLE high_rest PARTITION OF high DEFAULT;
INSERT INTO split VALUES (1, 'low'), (11, 'high');
CREATE TABLE parent (id serial, v text); CREATE TABLE child () INHERITS (parent); INSERT INTO child (v) VALUES ('of child');
CREATE VIEW seen AS SELECT id, v FROM kept;
CREATE VIEW strange AS SELECT 1 AS id, 'x' AS v;
CREATE FUNCTION divert() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO b (v) VALUES (NEW.v); UPDATE kept SET v = NEW.v; RETURN NEW; END';
CREATE TRIGGER divert INSTEAD OF INSERT ON strange FOR EACH ROW EXECUTE FUNCTION divert();
CREATE TABLE watched (id serial PRIMARY KEY, v text);
CREATE TRIGGER divert AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION divert();
CREATE FUNCTION writes(text) RETURNS bigint LANGUAGE sql AS 'INSERT INTO b (v) VALUES ($1); SELECT nextval(''b_id_seq'')';
CREATE PROCEDURE commits() LANGUAGE plpgsql AS
    'BEGIN INSERT INTO b (v) VALUES (''1''); COMMIT; DELETE FROM kept; COMMIT; INSERT INTO a (v) VALUES (''2''); ROLLBACK; END';
CREATE TABLE owner (id integer PRIMARY KEY); CREATE TABLE owned (id integer REFERENCES owner ON DELETE CASCADE ON UPDATE CASCADE);
INSERT INTO owner VALUES (1), (2); INSERT INTO owned VALUES (1), (1), (2);
CREATE RULE also AS ON UPDATE TO a DO ALSO DELETE FROM kept WHERE id = 1;
"""

TEXTS = {
    "a name in quotes with a dot": """INSERT INTO "a.b" (v) VALUES ('x')""",
    "a name that holds a statement": """INSERT INTO "say ""INSERT INTO a"" now" (v) VALUES ('x')""",
    "upper case that folds": "INSERT INTO B (v) VALUES ('x')",
    "upper case in quotes": """INSERT INTO "B" (v) VALUES ('x'); DELETE FROM public."B" """,
    "another schema": "INSERT INTO shop . b (v) VALUES ('x')",
    "comments between": "INSERT /* INTO a */ INTO -- a\n b /* . */ (v) VALUES ('x')",
    "a nested comment": "/* /* */ INSERT INTO a */ DELETE FROM kept WHERE id = 2",
    "strings that hold a statement": "UPDATE kept SET v = 'INSERT INTO a (v) VALUES (1)'",
    "a dollar quote that does": "UPDATE kept SET v = $x$; DELETE FROM a; $x$ WHERE id = 1",
    "a string with a backslash": r"UPDATE kept SET v = E'\'; INSERT INTO a (v) VALUES (1); --'",
    "a Unicode name": r"""INSERT INTO U&"\0062" (v) VALUES ('x')""",
    "an insert in a CTE": "WITH x AS (INSERT INTO a (v) VALUES ('x') RETURNING v) INSERT INTO b (v) SELECT v FROM x",
    "writes in a SELECT": "WITH x AS (DELETE FROM kept RETURNING *), y AS (INSERT INTO b (v) SELECT v FROM x) SELECT 1",
    "MERGE": "MERGE INTO kept k USING (VALUES (1), (9)) s (id) ON k.id = s.id WHEN MATCHED THEN DELETE "
    "WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, 'new')",
    "a partitioned table": "INSERT INTO split VALUES (2, 'x'), (12, 'y'); UPDATE split SET id = id + 9",
    "a partition of a partition": "DELETE FROM ONLY high_rest; INSERT INTO high VALUES (20, 'x')",
    "a parent by inheritance": "UPDATE parent SET v = 'x'; INSERT INTO parent (v) VALUES ('y')",
    "a view that can be written": "UPDATE seen SET v = 'x'; DELETE FROM seen WHERE id = 3",
    "a view with a trigger": "INSERT INTO strange VALUES (7, 'x')",
    "a table with a trigger": "INSERT INTO watched (v) VALUES ('x')",
    "a table with a rule": "INSERT INTO a (v) VALUES ('x'); UPDATE a SET v = 'y'",
    "a function": "SELECT writes('x')",
    "a function in an insert": "INSERT INTO a (v) SELECT writes('x')::text",
    "a procedure that commits": "CALL commits()",
    "DO": "DO $$BEGIN EXECUTE 'INS' || 'ERT INTO b (v) VALUES (1)'; END$$",
    "a key that deletes": "DELETE FROM owner WHERE id = 1",
    "a key that updates": "UPDATE owner SET id = id + 10",
    "PREPARE": "PREPARE p AS INSERT INTO b (v) VALUES ('x'); EXECUTE p; DEALLOCATE p",
    "SELECT INTO another name": "CREATE TEMPORARY TABLE kept_too AS SELECT * FROM kept; UPDATE kept SET v = 'x'; DROP TABLE kept_too",
    "a temporary table of that name": "CREATE TEMPORARY TABLE b (id integer); INSERT INTO b VALUES (1); "
    "INSERT INTO public.b (v) VALUES ('x'); DROP TABLE pg_temp.b",
    "a search path": "SET search_path = shop, public; INSERT INTO b (v) VALUES ('x'); RESET search_path",
    "nothing after all": "INSERT INTO b (v) SELECT v FROM kept WHERE false",
    "another table than it names": "UPDATE b SET v = 'x'; SELECT setval('a_id_seq', 9)",
    "a rollback": "BEGIN; INSERT INTO b (v) VALUES ('x'); ROLLBACK; DELETE FROM kept WHERE id = 1",
    "TRUNCATE": "TRUNCATE kept; INSERT INTO kept (v) VALUES ('x')",
    "rubbish": "SELECT 1 AS \"INSERT INTO kept\", 'DELETE FROM' AS b",
}


def _copy(cursor: Any) -> None:
    with cursor.copy("COPY b (v) FROM STDIN") as copy:
        copy.write_row(("copied",))
    with cursor.copy("COPY (DELETE FROM kept WHERE id = 1 RETURNING v) TO STDOUT") as copy:
        list(copy)


def _stream(cursor: Any) -> None:
    list(cursor.stream("WITH x AS (INSERT INTO b (v) VALUES ('x') RETURNING id) SELECT id FROM x"))


def _server_side(cursor: Any) -> None:
    with cursor.connection.transaction(), cursor.connection.cursor(name="by_name") as named:
        named.execute("SELECT writes(v) FROM kept")
        named.fetchmany(2)


def _pipeline(cursor: Any) -> None:
    with cursor.connection.pipeline():
        cursor.connection.execute("INSERT INTO a (v) VALUES ('x')")
        cursor.connection.execute("DELETE FROM kept WHERE id = %s", [2])


def _below_the_driver(cursor: Any) -> None:
    cursor.connection.pgconn.exec_(b"INSERT INTO b (v) VALUES ('x'); DELETE FROM kept WHERE id = 2")


CALLS = {
    "executemany": lambda cursor: cursor.executemany("INSERT INTO b (v) VALUES (%s)", [("x",), ("y",)]),
    "bytes": lambda cursor: cursor.execute(b"INSERT INTO b (v) VALUES ('x')"),
    "stream": _stream,
    "copy": _copy,
    "a server-side cursor": _server_side,
    "pipeline": _pipeline,
    "below the driver": _below_the_driver,
}


def _texts(text: str) -> Callable[[Any], None]:
    def send(cursor: Any) -> None:
        for part in text.split("; ") if "CALL" in text or "BEGIN" in text[:5] else [text]:
            cursor.execute(part)

    return send


@pytest.mark.parametrize("write", [*map(_texts, TEXTS.values()), *CALLS.values()], ids=[*TEXTS.keys(), *CALLS.keys()])
def test_whatever_a_statement_names_the_reset_is_exact(scratch, captured, write):
    """By the own connection, by a thread's, by both, and beside something that is named."""
    before = captured(TABLES)
    resetter = make_resetter(scratch, 2)
    with InThread(scratch.alias) as thread:
        for who in ("own", "own", "thread", "both", "own"):
            if who != "thread":
                with scratch.connection.cursor() as cursor:
                    write(cursor.cursor)
            if who != "own":
                thread.call(lambda connection: write(connection.connection.cursor()))
            if who == "both":
                thread.run("INSERT INTO a (v) VALUES ('named')")
            resetter.reset()
            assert content(scratch) == before, who


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("insert into a.b select 1", {("a", "b")}),
        ('UPDATE ONLY "A ""b""" SET x = 1', {(None, 'A "b"')}),
        ("SELECT 'INSERT INTO a'", set()),
        ("WITH x AS (DELETE FROM a RETURNING 1) INSERT INTO b SELECT 1", {(None, "a"), (None, "b")}),
    ],
)
def test_the_names_that_are_found(text, names):
    assert judge_statement(text).written == names
