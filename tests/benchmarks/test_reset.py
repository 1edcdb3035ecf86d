"""Where the time of a reset goes: 1,000 tables, 5 of them written. Beside others it is in ``python -m tests.benchmarks``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from testdb_app.backends.postgresql import catalog
from testdb_app.backends.postgresql.connection import run_sql
from tests.benchmarks.measuring import interleaved, print_table
from tests.benchmarks.schemas import make_tables
from tests.scratch import ScratchDatabase

pytestmark = pytest.mark.benchmark

TABLES, KEYS, WRITTEN, ROWS = 1_000, 1_500, 5, 3


@pytest.fixture
def database(scratch: ScratchDatabase) -> ScratchDatabase:
    make_tables(scratch, tables=TABLES, keys=KEYS)
    return scratch


def sender(database: ScratchDatabase, statements: list[str]) -> Callable[[], object]:
    """Return a function that sends statements as one message."""
    message = ";\n".join(statements)
    return lambda: run_sql(database.connection, message)


def writer(database: ScratchDatabase, numbers: list[int]) -> Callable[[], object]:
    rows = ", ".join(["('a')"] * ROWS)
    return sender(database, [f"INSERT INTO t{number} (name) VALUES {rows}" for number in numbers])


def server(database: ScratchDatabase) -> str:
    return f"PostgreSQL {database.value('SHOW server_version')}"


def test_parts_of_a_reset(database: ScratchDatabase) -> None:
    resetter = database.resetter()
    connection = database.connection
    write = writer(database, list(range(WRITTEN)))
    write()
    resetter.reset()
    parts: dict[str, Callable[[], object]] = {
        name: sender(database, [query])
        for name, query in {
            "round trip": "SELECT 1",
            "identity": catalog.IDENTITY,
            "token": catalog.TOKEN,
            "sizes": catalog.SIZES,
        }.items()
    }
    states = catalog.SEQUENCE_STATES_18 if connection.pg_version >= 18_00_00 else catalog.SEQUENCES_TO_READ
    parts["sequence states"] = sender(database, [states])
    parts["observe"] = lambda: resetter.backend.read_state(connection, lock_timeout=5)
    parts["reset"] = resetter.reset
    print_table(
        f"Parts of a reset, {TABLES} tables; {server(database)}",
        interleaved(parts, rounds=40, prepare=write),
        base="reset",
    )
    print_sides(resetter, write)


def print_sides(resetter: Any, write: Callable[[], object]) -> None:
    """Print how much of a reset is spent waiting for the server."""
    import psycopg

    waited = 0.0
    execute = psycopg.Cursor.execute

    def timed(*args: Any, **options: Any) -> Any:
        nonlocal waited
        started = time.perf_counter()
        try:
            return execute(*args, **options)
        finally:
            waited += time.perf_counter() - started

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", timed)
        total = 0.0
        for number in range(21):
            patch.undo()
            write()
            patch.setattr(psycopg.Cursor, "execute", timed)
            if number == 1:
                waited = total = 0.0
            started = time.perf_counter()
            resetter.reset()
            total += time.perf_counter() - started
    print(f"of a reset's {total / 20 * 1000:.2f} ms, {waited / 20 * 1000:.2f} are waiting for the server")
