"""Test sessions beside ``atomic()`` and ``set_rollback(True)``: times, round trips, and what a thousand of them leave behind."""

from __future__ import annotations

import gc
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from typing import Any

from django.db import transaction

from testdb_app.sessions import TestSessionFactory
from tests.benchmarks.cases_tables import Bench
from tests.benchmarks.measuring import interleaved
from tests.benchmarks.results import Case, Series, Target

LIMITS: dict[str, Any] = {
    "statement_timeout": "30s",
    "lock_timeout": "5s",
    "idle_in_transaction_timeout": "60s",
    "ownership_timeout": 120,
}
ENDURING = 1_000
ATOMIC, SESSION, LIMITED = "atomic(), set_rollback", "session", "session with all limits"
Way = Callable[[], object]


def run_sessions(bench: Bench) -> Iterator[Case]:
    """Measure a transaction in which one row is written, opened and undone on a warm connection.

    ``atomic()`` alone sends nothing, so with nothing written in it there is nothing to compare with; the figures for that
    are in a case of their own, without a target.
    """
    with ExitStack() as stack:
        database = stack.enter_context(bench.databases.copies(tables=10))()
        factory = stack.enter_context(TestSessionFactory(database.alias, allow_database=database.name))
        limited = stack.enter_context(factory.replace(**LIMITS))
        ways = _ways(database, factory, limited, lambda: _write(database))
        series = _measure(ways, bench.rounds)
        case = Case(key="sessions", title="One row written in a transaction, and undone", series=series, base=ATOMIC)
        trips = {name: count_round_trips(database, way) for name, way in ways.items()}
        yield replace(
            case, targets=(*_time_targets(case), *_trip_targets(trips), *_endurance_targets(database, limited))
        )
        empty = _ways(database, factory, limited, lambda: None)
        yield Case(
            key="sessions-empty",
            title="Nothing done in a transaction",
            series=_measure(empty, bench.rounds),
            base=ATOMIC,
            note="psycopg sends BEGIN with the first statement: an empty atomic() is no round trip",
        )
        assert database.count("t0") == 0


def _ways(database: Any, factory: TestSessionFactory, limited: TestSessionFactory, body: Way) -> dict[str, Way]:
    def in_atomic() -> None:
        with transaction.atomic(using=database.alias):
            body()
            transaction.set_rollback(True, using=database.alias)

    def in_session(factory: TestSessionFactory) -> None:
        with factory("benchmark"):
            body()

    return {ATOMIC: in_atomic, SESSION: lambda: in_session(factory), LIMITED: lambda: in_session(limited)}


def _write(database: Any) -> None:
    with database.connection.cursor() as cursor:
        cursor.execute("INSERT INTO t0 (name) VALUES ('a')")


def _measure(ways: dict[str, Way], rounds: int) -> tuple[Series, ...]:
    times = interleaved(ways, rounds=rounds * 5, prepare=lambda: None)
    return tuple(
        Series(name=name, role="floor" if name == ATOMIC else "ours", times=tuple(each)) for name, each in times.items()
    )


def count_round_trips(database: Any, way: Way) -> int:
    """Return how often the server has said that it is ready, as libpq has traced it."""
    way()
    pgconn = database.connection.connection.pgconn
    with tempfile.TemporaryFile() as file:
        pgconn.trace(file.fileno())
        try:
            way()
        finally:
            pgconn.untrace()
        file.seek(0)
        return file.read().count(b"ReadyForQuery")


def _time_targets(case: Case) -> Iterator[Target]:
    yield Target(text="a session, opened and closed", measured=case.ratio(SESSION), limit=1.5, unit="× atomic()")


def _trip_targets(trips: dict[str, int]) -> Iterator[Target]:
    yield Target(text="with all limits", measured=trips[LIMITED] - trips[SESSION], limit=1, unit="round trips more")
    yield Target(
        text="a session", measured=trips[SESSION] - trips[ATOMIC], limit=1, unit="round trips more than atomic()"
    )


def _endurance_targets(database: Any, factory: TestSessionFactory) -> Iterator[Target]:
    left = what_is_left(database, factory, ENDURING)
    for name, measured in left.items():
        yield Target(text=f"left by {ENDURING:,} sessions", measured=measured, limit=0, unit=name)


def what_is_left(database: Any, factory: TestSessionFactory, sessions: int) -> dict[str, int]:
    """Open and close so many sessions, every tenth independent; return what there is more of than after the first ones.

    Memory is counted in whole bytes for each session: what a counter's greater number takes is none.
    """

    def go(times: int) -> None:
        for number in range(times):
            make = factory.independent if number % 10 == 0 else factory
            with make("enduring") as session, session.connection.cursor() as cursor:
                cursor.execute("INSERT INTO t0 (name) VALUES ('a')")

    go(max(200, sessions // 5))
    before = _server(database)
    tracemalloc.start()
    try:
        go(50)
        sizes = [_memory()]
        for _ in range(3):
            go(sessions)
            sizes.append(_memory())
        # A table that grew once, for all that follow, is no leak: that grows every time.
        grown = min(later - earlier for earlier, later in pairwise(sizes))
    finally:
        tracemalloc.stop()
    after = _server(database)
    return {
        "server sessions": after[0] - before[0],
        "prepared statements": after[1] - before[1],
        "bytes a session": max(0, grown) // sessions,
    }


def _memory() -> int:
    """Return the bytes in use, without what the regular expressions of psycopg's conninfo.py keep for each new connection."""
    gc.collect()
    snapshot = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.Filter(False, "*/psycopg/conninfo.py"), tracemalloc.Filter(False, tracemalloc.__file__)]
    )
    return sum(statistic.size for statistic in snapshot.statistics("filename"))


def _server(database: Any) -> tuple[int, int]:
    with database.connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type = 'client backend'), (SELECT count(*) FROM pg_prepared_statements)"
        )
        found = cursor.fetchone()
    return int(found[0]), int(found[1])
