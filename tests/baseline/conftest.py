"""Helpers of the baseline's tests: what a database holds, byte by byte."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from django.db import connections

from testdb_app.backends.postgresql.connection import Pipeline
from testdb_app.backends.postgresql.sql import quote
from testdb_app.baseline import capture_baseline
from testdb_app.resetter import Resetter
from tests.scratch import ScratchDatabase, connect_as_superuser


@contextmanager
def messages() -> Iterator[list[str]]:
    """Collect what this thread sends to the server, one item for each round trip."""
    sent: list[str] = []
    execute, run, thread = psycopg.Cursor.execute, Pipeline.run_locked, threading.get_ident()

    def collect(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        if threading.get_ident() == thread:
            sent.append(query)
        return execute(self, query, *arguments, **options)

    def collect_batches(self: Any, raw: Any, batches: Any, *load: Any) -> Any:
        if threading.get_ident() == thread:
            sent.append(";\n".join(command.sql for batch in batches for command in batch))
        return run(self, raw, batches, *load)

    patch = pytest.MonkeyPatch()
    patch.setattr(psycopg.Cursor, "execute", collect)
    patch.setattr(Pipeline, "run_locked", collect_batches)
    try:
        yield sent
    finally:
        patch.undo()


def scans(resetter: Resetter, *, refused: type[Exception] | None = None) -> bool:
    """Reset, and return whether that took a full scan; *refused*: whether or not it is."""
    with messages() as sent, suppress(*([refused] if refused else [])):
        resetter.reset()
    return any("pg_relation_size" in message for message in sent)


def is_fast(resetter: Resetter) -> bool:
    """Reset, and return whether that took no full scan, or one because of what happens beside a test.

    Other tests change a role's settings, at the same time, in databases of their own; the catalogs of settings and grants are
    the cluster's. And autoanalyze writes to a catalog.
    """
    before = _conditions(resetter)
    return not scans(resetter) or sum(map(operator.ne, before, _conditions(resetter))) == 1 or _was_analyzed(resetter)


def _was_analyzed(resetter: Resetter) -> bool:
    """Whether an autovacuum worker has been here lately."""
    last = "greatest(last_autoanalyze, last_autovacuum) > now() - interval '1 minute'"
    with resetter.connection.cursor() as cursor:
        cursor.execute(f"SELECT EXISTS (SELECT FROM pg_stat_all_tables WHERE {last})")
        return bool(cursor.fetchone()[0])


def _conditions(resetter: Resetter) -> list[str]:
    """Return what the resetter remembers of the conditions; the settings and grants are one number there."""
    return resetter._tracker._memory.epoch.split()  # type: ignore[union-attr]


class InThread:
    """A thread with Django's connection of its own, which stays open from one call to the next."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> InThread:
        return self

    def __exit__(self, *_: object) -> None:
        self.call(lambda connection: connection.close())
        self._pool.shutdown()

    def call(self, function: Callable[[Any], Any]) -> Any:
        """Call *function* with the thread's connection, and return what it returns."""
        return self.start(function).result(30)

    def start(self, function: Callable[[Any], Any]) -> Any:
        """Let the thread call *function*, and do not wait for it."""

        def connected() -> Any:
            connections[self._alias].ensure_connection()
            return function(connections[self._alias])

        return self._pool.submit(connected)

    def run(self, *statements: str) -> None:
        """Run statements over the thread's connection."""

        def execute(connection: Any) -> None:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)

        self.call(execute)


def content(database: ScratchDatabase, *, physical: bool = False) -> dict[str, Any]:
    """Return every row of every user table as its text, sorted, and every sequence's state.

    With *physical* also where each row lies, which transaction wrote it, and the table's file.
    """
    found: dict[str, Any] = {}
    with database.superuser() as session:
        relations = session.execute(
            "SELECT n.nspname, c.relname, c.relkind::text, c.relfilenode FROM pg_class c JOIN pg_namespace n ON n.oid = "
            "c.relnamespace WHERE c.relkind IN ('r', 'S') AND n.nspname !~ '^pg_' AND n.nspname NOT IN "
            "('information_schema', 'testdb') ORDER BY 1, 2"
        ).fetchall()
        for schema, name, kind, node in relations:
            qualified = f"{quote(schema)}.{quote(name)}"
            if kind == "S":
                query = f"SELECT last_value, is_called FROM {qualified}"
            elif physical:
                query = f"SELECT t.ctid::text, t.xmin::text, t::text FROM ONLY {qualified} t ORDER BY 3, 1"
            else:
                query = f"SELECT t::text FROM ONLY {qualified} t ORDER BY 1"
            rows = session.execute(query, prepare=False).fetchall()
            found[qualified] = (node, rows) if physical and kind == "r" else rows
        leave(session)
    return found


def leave(session: psycopg.Connection[Any]) -> None:
    """Close a session, and wait until the server has forgotten it."""
    pid = session.info.backend_pid
    session.close()
    wait_until_gone(pid)


def wait_until_gone(pid: int) -> None:
    """Wait until the server has forgotten the session."""
    with connect_as_superuser("postgres") as outside:
        while outside.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).rowcount:
            time.sleep(0.001)


@pytest.fixture
def captured(scratch: ScratchDatabase) -> Callable[..., dict[str, Any]]:
    """Return a function that runs statements, captures the baseline and returns the content."""

    def capture(statements: str, **options: Any) -> dict[str, Any]:
        scratch.execute(statements)
        capture_baseline(scratch.alias, **{"allow_database": scratch.name, **options})
        return content(scratch)

    return capture
