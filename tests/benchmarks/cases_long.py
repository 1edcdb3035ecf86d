"""The cases of a connection's life: after thousands of resets, and the first reset on a fresh one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from testdb_app import guard
from testdb_app.database_setup import forget_test_databases, prepare_test_database
from testdb_app.teardown import reset_databases
from tests.benchmarks import candidates as who
from tests.benchmarks.cases_tables import Bench, take_part
from tests.benchmarks.results import Case, Series, Target
from tests.benchmarks.rounds import changing, measure, same
from tests.scratch import ScratchDatabase, connect

RESETS_A_ROUND = 100


def run_endurance(bench: Bench) -> Iterator[Case]:
    """Reset 20,000 times (100 a round) after the same five tables were written, and as often after five of all."""
    tables = 1_000
    total = max(400, RESETS_A_ROUND * bench.rounds)
    # A hundred resets around "no. 100", and as many at the end.
    windows = {"no. 100": range(50, 150), f"no. {total:,}": range(total - 100, total)}
    for key, title, choose in (("same", "the same five written", same), ("random", "five of all at random", changing)):
        with ExitStack() as stack:
            pair = take_part(stack, bench, [who.Floor, who.Ours], tables=tables)
            times, sizes = _reset_often(pair, total, windows, choose(tables))
            for candidate in pair:
                candidate.check_empty(range(tables))
        first, last = windows
        series = tuple(
            Series(name=f"{candidate.name}, {window}", role=candidate.role, times=tuple(times[candidate.name, window]))
            for candidate in pair
            for window in windows
        )
        case = Case(
            key=f"endurance-{key}",
            title=f"1,000 tables, {title}, after many resets",
            series=series,
            base=f"floor, {first}",
            note="MB of the database at the start, after 100 resets and at the end: "
            + "; ".join(f"{name} {', '.join(f'{size / 1e6:.1f}' for size in each)}" for name, each in sizes.items()),
        )
        ratio = case.ratio(f"testdb_app, {last}", f"testdb_app, {first}")
        targets = [Target(text=f"reset {last} against {first}, {title}", measured=ratio, limit=1.1, unit="×")]
        if key == "same":
            # At random each table and index keeps the first page that it was ever given.
            text = f"the database after {total:,} resets against the start, {title}"
            grown = sizes["testdb_app"][-1] / sizes["testdb_app"][0]
            targets.append(Target(text=text, measured=grown, limit=1.3, unit="× the size"))
        yield replace(case, targets=tuple(targets))


def _reset_often(
    pair: Sequence[who.Candidate], total: int, windows: dict[str, range], choose: Callable[[], Sequence[int]]
) -> tuple[dict[tuple[str, str], list[float]], dict[str, list[int]]]:
    """Return the times by candidate and window, and the sizes of each database."""
    times: dict[tuple[str, str], list[float]] = {
        (candidate.name, window): [] for candidate in pair for window in windows
    }
    sizes: dict[str, list[int]] = {candidate.name: [] for candidate in pair}
    for number in range(total):
        if number in {0, 100}:
            _note_sizes(pair, sizes)
        tables = choose()
        for candidate in pair:
            candidate.write(tables)
            run = candidate.ready(tables)
            started = time.perf_counter()
            run()
            elapsed = (time.perf_counter() - started) * 1000
            for window, numbers in windows.items():
                if number in numbers:
                    times[candidate.name, window].append(elapsed)
    _note_sizes(pair, sizes)
    return times, sizes


def _note_sizes(pair: Sequence[who.Candidate], sizes: dict[str, list[int]]) -> None:
    # From outside of their databases, where another session would change what is measured.
    with connect("postgres") as connection:
        for candidate in pair:
            (size,) = connection.execute("SELECT pg_database_size(%s)", [candidate.database.name]).fetchone()
            sizes[candidate.name].append(size)


class FreshFloor(who.Floor):
    """On a connection that is opened within the time."""

    name = "floor on a fresh connection"

    def ready(self, tables: Sequence[int]) -> Callable[[], object]:
        run = super().ready(tables)
        self.connection.close()
        return run


class FreshSelect(who.SelectOne):
    """Opening a connection, and no more."""

    name = "a connection and SELECT 1"

    def ready(self, tables: Sequence[int]) -> Callable[[], object]:
        run = super().ready(tables)
        self.send(who.delete_written(tables))
        self.connection.close()
        return run


class FreshOurs(who.Ours):
    """The same resetter on a new connection."""

    name = "testdb_app, the same resetter"

    def ready(self, tables: Sequence[int]) -> Callable[[], object]:
        self.connection.close()
        return super().ready(tables)


class FreshResetter(who.Ours):
    """A new resetter on a new connection: it reads the schema."""

    name = "testdb_app, a new resetter"

    def ready(self, tables: Sequence[int]) -> Callable[[], object]:
        self.connection.close()
        return lambda: self.make_resetter().reset()


def run_fresh(bench: Bench) -> Iterator[Case]:
    """Write, close the connection, and measure the first reset on the next one, with the opening."""
    with ExitStack() as stack:
        classes = [FreshFloor, FreshSelect, FreshOurs, FreshResetter]
        series = measure(take_part(stack, bench, classes, tables=300), rounds=bench.rounds, choose=same(300))
    case = Case(
        key="fresh", title="300 tables, the first reset on a fresh connection", series=series, base=FreshFloor.name
    )
    median = case.find(FreshOurs.name).median
    text = "first reset on a fresh connection, 300 tables"
    beside = Target(text=text, measured=case.ratio(FreshOurs.name), limit=1.2, unit="× floor")
    yield replace(case, targets=(Target(text=text, measured=median, limit=10, unit="ms"), beside))


TESTS_THAT_LEAVE, LEFT = 16, 100


def run_left_tables(bench: Bench) -> Iterator[Case]:
    """Have 16 tests one after the other leave 100 tables with a row each, and measure what the reset after each costs."""
    times: dict[int, list[float]] = {0: [], TESTS_THAT_LEAVE - 1: []}
    for _ in range(max(3, bench.rounds // 10)):
        database = ScratchDatabase("left")
        database.create()
        guard.trust_test_database(database.alias, database.name)
        try:
            database.execute(";".join(f"CREATE TABLE kept{n} (id serial PRIMARY KEY)" for n in range(200)))
            prepare_test_database(database.alias)
            for number in range(TESTS_THAT_LEAVE):
                made = (f"left{number}_{n}" for n in range(LEFT))
                with database.connection.cursor() as cursor:
                    cursor.execute(
                        ";".join(
                            f"CREATE TABLE {n} (id serial PRIMARY KEY); INSERT INTO {n} DEFAULT VALUES" for n in made
                        )
                    )
                started = time.perf_counter()
                reset_databases([database.alias])
                if number in times:
                    times[number].append((time.perf_counter() - started) * 1000)
        finally:
            forget_test_databases()
            database.drop()
    series = tuple(
        Series(name=f"test no. {number + 1}", role="ours" if number else "floor", times=tuple(found))
        for number, found in times.items()
    )
    first, last = (each.name for each in series)
    title = f"Tests that leave {LEFT} tables each: the reset after the first and after no. {TESTS_THAT_LEAVE}"
    case = Case(key="left-tables", title=title, series=series, base=first)
    target = Target(
        text="the last test that leaves tables, beside the first", measured=case.ratio(last, first), limit=2, unit="×"
    )
    yield replace(case, targets=(target,))
