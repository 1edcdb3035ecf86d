"""The cases of the fast path as life is: other tables each time, threads and servers beside, nothing written.

Beside others, five of a working set of 50 tables are written each round, as the tests of one part of a suite do; and, for the
smallest floor, the same five.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tests.benchmarks import candidates as who
from tests.benchmarks.cases_elsewhere import run_sqlite
from tests.benchmarks.cases_long import run_fresh
from tests.benchmarks.cases_tables import Bench, take_part
from tests.benchmarks.cases_testcases import run_testcases
from tests.benchmarks.other_process import OtherProcess
from tests.benchmarks.results import Case, Target
from tests.benchmarks.rounds import Write, changing, measure, same, write_itself
from tests.scratch import default_parameters

SIZES = (100, 1_000, 10_000)


class RawSelectOne(who.SelectOne):
    """Asks over libpq, below the driver's cursor: the round trip and no more."""

    name = "SELECT 1 over libpq"

    def prepare(self) -> None:
        self.connection.ensure_connection()

    def send(self, message: str) -> list[tuple[Any, ...]]:
        self.connection.connection.pgconn.exec_(message.encode())
        return []


def _alone(stack: ExitStack, pair: Sequence[who.Candidate]) -> Write:
    return write_itself


def _reconnects(stack: ExitStack, pair: Sequence[who.Candidate]) -> Write:
    def write(candidate: who.Candidate, tables: Sequence[int]) -> None:
        candidate.connection.close()
        candidate.write(tables)

    return write


def _thread(stack: ExitStack, pair: Sequence[who.Candidate]) -> Write:
    thread = stack.enter_context(ThreadPoolExecutor(1))
    for candidate in pair:
        stack.callback(thread.submit, _close, candidate)
    return lambda candidate, tables: thread.submit(candidate.write, tables).result()


def _close(candidate: who.Candidate) -> None:
    candidate.connection.close()  # Django has one for each thread


def _other(stack: ExitStack, pair: Sequence[who.Candidate]) -> OtherProcess:
    process = stack.enter_context(OtherProcess(default_parameters()))
    for candidate in pair:
        candidate.other = partial(process.query, candidate.database.name)
        candidate.other("SELECT 1")
    return process


def _idle(stack: ExitStack, pair: Sequence[who.Candidate]) -> Write:
    _other(stack, pair)
    return write_itself


def _writes(stack: ExitStack, pair: Sequence[who.Candidate]) -> Write:
    _other(stack, pair)

    def write(candidate: who.Candidate, tables: Sequence[int]) -> None:
        candidate.tables_of_other = tables[-1:]
        candidate.write(tables)

    return write


def _leaves(stack: ExitStack, pair: Sequence[who.Candidate]) -> Write:
    process = _other(stack, pair)
    for candidate in pair:
        process.leave(candidate.database.name)

    def write(candidate: who.Candidate, tables: Sequence[int]) -> None:
        candidate.tables_of_other = tables
        candidate.write(tables)
        process.leave(candidate.database.name)

    return write


def _nothing(tables: int) -> Callable[[], list[int]]:
    return list


_of_50 = partial(changing, of=50)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: which tables are written, by whom (*begin* prepares that), and the most times the floor at each size."""

    key: str
    title: str
    choose: Callable[[int], Callable[[], list[int]]] = _of_50
    begin: Callable[[ExitStack, Sequence[who.Candidate]], Write] = _alone
    goals: tuple[float | None, float | None, float | None]
    floor: type[who.Candidate] = who.Floor


_COMPANY = (
    ("idle", "another process's session connected and idle", _idle, (2.5, 3, 6)),
    ("thread", "a thread wrote, its connection stays open", _thread, (2.5, 3, 6)),
    ("left", "another process's session came, wrote and left", _leaves, (2.5, 3, 6)),
    ("writing", "another process's session wrote one of them and stays", _writes, (None, 20, None)),
)
ROWS = (
    Row(key="same", title="the same five written", choose=same, goals=(1.4, 1.8, 2.5)),
    Row(key="of-50", title="five of 50 written, a working set", goals=(2, 2.5, 4)),
    Row(key="random", title="five of all written, at random", choose=changing, goals=(2, 2.5, 4)),
    *(
        Row(key=f"{key}{suffix}", title=f"{written}, {title}", choose=choose, begin=begin, goals=goals)
        for key, title, begin, goals in _COMPANY
        for suffix, written, choose in (("", "five of 50", _of_50), ("-same", "the same five", same))
    ),
    Row(key="nothing", title="nothing written", choose=_nothing, goals=(3, 3, 3), floor=RawSelectOne),
    Row(
        key="never",
        title='five of 50, KEEP_CONNECTIONS = "never": a new connection each round, opening not measured',
        begin=_reconnects,
        goals=(None, None, None),
    ),
)


def run_size(bench: Bench, tables: int) -> Iterator[Case]:
    """Measure each row on a schema of that size, the floor and ourselves in the same company."""
    for row in ROWS:
        with ExitStack() as stack:
            pair = take_part(stack, bench, [row.floor, who.Ours], tables=tables)
            write = row.begin(stack, pair)
            series = measure(pair, rounds=bench.rounds, choose=row.choose(tables), write=write)
        title = f"{tables:,} tables, {row.title}"
        case = Case(key=f"life-{tables}-{row.key}", title=title, series=series, base=row.floor.name)
        goal = dict(zip(SIZES, row.goals, strict=True))[tables]
        ratio, unit = case.ratio("testdb_app"), f"× {row.floor.name}"
        yield replace(
            case, targets=() if goal is None else (Target(text=title, measured=ratio, limit=goal, unit=unit),)
        )


def run_life(bench: Bench) -> Iterator[Case]:
    """Measure all rows but the long ones: two sizes, the first reset on a connection, whole tests, SQLite."""
    for run in (*(partial(run_size, tables=tables) for tables in SIZES[:2]), run_fresh, run_testcases, run_sqlite):
        yield from run(bench)
