"""Who takes part: the package, the floor, and what people do without the package. Each has a database of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from django.core.management.color import no_style
from django.db import connections

from testdb_app.baseline import capture_baseline
from testdb_app.resetter import Resetter
from tests.benchmarks.databases import BenchmarkDatabase

ROWS = 3
"""How many rows are written to a table in each round."""

VALUES = ", ".join(["('a')"] * ROWS)


class Candidate:
    """Writes rows over a connection of its own, each statement committed, and takes them back.

    The tables of a round are given by their numbers, descending: a table references smaller numbers only.
    """

    name = ""
    role = "rival"
    disturbs = False
    """Whether it makes the other sessions of the *server* forget what they know, by flooding them with invalidations."""
    restarts_sequences = True

    def __init__(self, database: BenchmarkDatabase, *, tables: int, alias: str | None = None, every: int = 1) -> None:
        self.database = database
        self.tables = tables
        self.alias = alias or database.alias
        self.every = every
        self.other: Callable[[str], list[tuple[Any, ...]]] | None = None
        self.tables_of_other: Sequence[int] = ()
        self.prepare()

    def prepare(self) -> None:
        """Do what is done once."""

    @property
    def connection(self) -> Any:
        """Django's connection."""
        return connections[self.alias]

    def send(self, message: str) -> list[tuple[Any, ...]]:
        """Send one message over the driver's cursor below Django's; return the rows of its first statement."""
        with self.connection.cursor() as cursor:
            cursor.cursor.execute(message, prepare=False)
            return cursor.cursor.fetchall() if cursor.cursor.description else []

    def write(self, tables: Sequence[int]) -> None:
        """Write to the tables; prove that the reset before emptied them and put their sequences back."""
        for table in tables:
            send = self.other if self.other and table in self.tables_of_other else self.send
            rows = send(f"INSERT INTO t{table} (name) VALUES {VALUES} RETURNING id")
            expected = list(range(1, ROWS + 1))
            assert not self.restarts_sequences or [row[0] for row in rows] == expected, (self.name, table, rows)

    def ready(self, tables: Sequence[int]) -> Callable[[], object]:
        """Return what is timed, which undoes what was written to the tables."""
        raise NotImplementedError

    def verify(self, tables: Sequence[int], result: object) -> None:
        """Look at what was returned, after each reset."""

    def check_empty(self, tables: Sequence[int]) -> None:
        """Count the rows, at the end."""
        with self.database.connect() as connection:
            for table in tables:
                (rows,) = connection.execute(f"SELECT count(*) FROM t{table}").fetchone()
                assert rows == 0, f"{self.name} left {rows} rows in t{table}"


class Ours(Candidate):
    """The package, with a baseline captured and a warm resetter."""

    name = "testdb_app"
    role = "ours"

    def prepare(self) -> None:
        capture_baseline(self.database.alias, allow_database=self.database.name)
        if self.alias != self.database.alias:
            self.database.connection.close()  # or it would be another session
        self.resetter = self.make_resetter()

    def make_resetter(self) -> Resetter:
        """Make one that may reset this database."""
        return Resetter(self.alias, allow_database=self.database.name)

    def ready(self, tables: Sequence[int]) -> Callable[[], object]:
        return self.resetter.reset

    def verify(self, tables: Sequence[int], result: Any) -> None:
        assert len(result.tables) == len(tables), (result.tables, tables)


class Sender(Candidate):
    """One message, ready before the clock starts."""

    def message(self, tables: Sequence[int]) -> str:
        """Return it."""
        raise NotImplementedError

    def ready(self, tables: Sequence[int]) -> Callable[[], object]:
        message = self.message(tables)
        return lambda: self.send(message)


def delete_written(tables: Sequence[int], *, first: str = "") -> str:
    """Return the message of someone who knows what was written: exactly the DELETEs and the setvals."""
    deletes = "; ".join(f"DELETE FROM t{table}" for table in tables)
    values = ", ".join(f"setval('t{table}_id_seq', 1, false)" for table in tables)
    return f"BEGIN; {first}{deletes}; SELECT {values}; COMMIT"


class Floor(Sender):
    """Knows which tables were written."""

    name = "floor"
    role = "floor"

    def message(self, tables: Sequence[int]) -> str:
        return delete_written(tables)


class SelectOne(Sender):
    """Asks the server for nothing."""

    name = "SELECT 1"
    role = "floor"

    def message(self, tables: Sequence[int]) -> str:
        return "SELECT 1"


class DeleteAll(Sender):
    """Deletes from every table, in order; sequences stay where they are."""

    name = "DELETE of all"
    restarts_sequences = False

    def message(self, tables: Sequence[int]) -> str:
        return "BEGIN; " + "; ".join(f"DELETE FROM t{table}" for table in reversed(range(self.tables))) + "; COMMIT"


class TruncateWritten(Sender):
    """Truncates the tables that were written, and so by CASCADE all that reference them."""

    name = "TRUNCATE of the written"
    disturbs = True

    def message(self, tables: Sequence[int]) -> str:
        return f"TRUNCATE {', '.join(f't{table}' for table in tables)} RESTART IDENTITY CASCADE"


class Flush(Candidate):
    """What Django's ``flush`` executes, without its look at the catalog before and ``post_migrate`` after it."""

    name = "Django's flush"
    disturbs = True

    def ready(self, tables: Sequence[int]) -> Callable[[], object]:
        names = [f"t{table}" for table in range(self.tables)]
        operations = self.connection.ops

        def flush() -> None:
            statements = operations.sql_flush(no_style(), names, reset_sequences=True, allow_cascade=False)
            operations.execute_sql_flush(statements)

        return flush


class Superuser(Candidate):
    """Resets over a superuser's session of its own, which does nothing else."""

    session: psycopg.Connection[Any]

    def ask(self, message: str) -> list[tuple[Any, ...]]:
        """Send one message over that session; return the rows of its first statement."""
        cursor = self.session.execute(message, prepare=False)
        return cursor.fetchall() if cursor.description else []


class ExistsQuery(Superuser):
    """Probes every table in one query, then deletes with triggers off: what companies wrote for themselves."""

    name = "EXISTS probe, one query"

    def ready(self, tables: Sequence[int]) -> Callable[[], object]:
        probe = " UNION ALL ".join(
            f"SELECT {table} WHERE EXISTS (SELECT FROM t{table})" for table in reversed(range(self.tables))
        )

        def reset() -> None:
            if found := [table for (table,) in self.ask(probe)]:
                self.ask(delete_written(found, first="SET LOCAL session_replication_role = replica; "))

        return reset


class ExistsFunction(Superuser):
    """The same as one call of a function on the server: the best that can be made of it.

    Triggers are off for the session, not in the function: to change that throws all plans away.
    """

    name = "EXISTS probe, a function"

    def prepare(self) -> None:
        body = "\n".join(
            f"IF EXISTS (SELECT FROM t{table}) THEN DELETE FROM t{table}; "
            f"PERFORM setval('t{table}_id_seq', 1, false); END IF;"
            for table in reversed(range(self.tables))
        )
        self.database.execute(f"CREATE FUNCTION probe_all() RETURNS void LANGUAGE plpgsql AS $$ BEGIN\n{body}\nEND $$")

    def ready(self, tables: Sequence[int]) -> Callable[[], object]:
        self.session.execute("SET session_replication_role = replica")
        return lambda: self.ask("SELECT probe_all()")
