"""A reset of 1,000 tables, 5 of them written, beside what one would do without the package.

python -m pytest tests/benchmarks -m benchmark -s
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management.color import no_style

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


def test_reset_beside_flush_delete_all_and_the_floor(
    database: ScratchDatabase, make_scratch: Callable[..., ScratchDatabase]
) -> None:
    written = sorted(random.Random(2).sample(range(TABLES), WRITTEN), reverse=True)
    everything = [f"t{number}" for number in reversed(range(TABLES))]
    # A copy for each: a TRUNCATE of all tables makes every session forget what it knows of them.
    names = ("reset", "Django's flush", "DELETE all, one batch", "floor")
    copies = {name: make_scratch(f"copy{number}", template=database.name) for number, name in enumerate(names)}
    connection = copies["Django's flush"].connection
    resetter = copies["reset"].resetter()

    def flush() -> None:
        statements = connection.ops.sql_flush(no_style(), everything, reset_sequences=True, allow_cascade=False)
        connection.ops.execute_sql_flush(statements)

    candidates: dict[str, Callable[[], object]] = {
        "reset": resetter.reset,
        "Django's flush": flush,
        "DELETE all, one batch": sender(
            copies["DELETE all, one batch"], ["BEGIN", *(f"DELETE FROM {name}" for name in everything), "COMMIT"]
        ),
        "floor": sender(
            copies["floor"],
            [
                "BEGIN",
                *(f"DELETE FROM t{number}" for number in written),
                *(f"ALTER SEQUENCE t{number}_id_seq RESTART" for number in written),
                "COMMIT",
            ],
        ),
    }
    write = {name: writer(copies[name], written) for name in names}
    times = interleaved(candidates, rounds=20, prepare=write)
    title = f"{TABLES} tables, {KEYS} keys, {WRITTEN} tables written with {ROWS} rows each; {server(database)}"
    print_table(title, times, base="Django's flush")
    print_table("The same", times, base="DELETE all, one batch")

    write["reset"]()
    assert resetter.reset().rows == WRITTEN * ROWS
    assert resetter.reset().tables == ()


def test_reset_with_nothing_written(database: ScratchDatabase) -> None:
    resetter = database.resetter()
    resetter.reset()
    times = interleaved({"reset": resetter.reset}, rounds=40, prepare=lambda: None)
    print_table(f"{TABLES} tables, nothing written; {server(database)}", times, base="reset")


def test_reset_after_many_resets_of_other_tables(database: ScratchDatabase) -> None:
    resetter = database.resetter()
    chance = random.Random(3)
    write_same = writer(database, list(range(WRITTEN)))
    times: dict[str, list[float]] = {}
    for before in (0, 50, 100, 200):
        for _ in range(before):
            writer(database, chance.sample(range(TABLES), WRITTEN))()
            resetter.reset()
        label = f"after {before} more resets"
        times |= interleaved({label: resetter.reset}, rounds=15, prepare=write_same)
    print_table(
        f"{WRITTEN} tables written, others each time before; {server(database)}", times, base="after 0 more resets"
    )


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
    states = catalog.SEQUENCE_STATES_18 if connection.pg_version >= 18_00_00 else catalog.SEQUENCE_STATES
    parts["sequence states"] = sender(database, [states])
    parts["observe"] = lambda: resetter.backend.observe(connection, lock_timeout=5)
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
