"""The cases of a schema with many empty tables of which five are written: nobody else there, nothing written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.benchmarks import candidates as who
from tests.benchmarks.databases import Databases
from tests.benchmarks.results import Case, Target
from tests.benchmarks.rounds import measure, same


@dataclass(slots=True, kw_only=True)
class Bench:
    """What a case is given: how many rounds, the databases, and the folder on a disk (None: no such case)."""

    rounds: int
    databases: Databases = field(default_factory=Databases)
    disk: Path | None = None


RIVALS: tuple[type[who.Candidate], ...] = (
    who.ExistsFunction,
    who.ExistsQuery,
    who.DeleteAll,
    who.TruncateWritten,
    who.Flush,
)
TIMES_FLOOR = {100: 1.3, 1_000: 1.6, 10_000: 2.5}
TIMES_FASTER_THAN_FLUSH = {300: 150, 1_000: 400}


def run_tables(bench: Bench, tables: int) -> Iterator[Case]:
    """Measure everybody on a schema of that size."""
    floor_and_ours = [who.Floor, who.Ours]
    # One transaction that locks 10,000 tables and their indexes fills the lock table of a server as it comes.
    rivals = () if tables >= 10_000 else RIVALS
    with ExitStack() as stack:
        everybody = take_part(stack, bench, [*floor_and_ours, *rivals], tables=tables)
        series = measure(everybody, rounds=bench.rounds, choose=same(tables))
        note = (
            ""
            if rivals
            else "the rivals fail: one transaction that locks every table needs more lock table than there is"
        )
        case = Case(
            key=f"tables-{tables}",
            title=f"{tables:,} tables, the same five written",
            series=series,
            base="floor",
            note=note,
        )
        yield replace(case, targets=tuple(_targets(case, tables)))


def take_part(
    stack: ExitStack,
    bench: Bench,
    classes: Sequence[type[who.Candidate]],
    *,
    tables: int,
    host: str | None = None,
    every: int = 1,
) -> list[who.Candidate]:
    """Give each candidate a copy of its own, and a superuser's session to those that need one."""
    make = stack.enter_context(bench.databases.copies(tables=tables, host=host))
    made = [chosen(make(), tables=tables, every=every) for chosen in classes]
    for candidate in made:
        if isinstance(candidate, who.Superuser):
            candidate.session = stack.enter_context(candidate.database.superuser())
    return made


def times_floor(case: Case, text: str, limit: float) -> Target:
    """Ask for at most so many times the floor, as medians."""
    return Target(text=text, measured=case.ratio("testdb_app"), limit=limit, unit="× floor")


def _targets(case: Case, tables: int) -> Iterator[Target]:
    if tables in TIMES_FLOOR:
        yield times_floor(case, f"{tables:,} tables, no other session", TIMES_FLOOR[tables])
    if tables in TIMES_FASTER_THAN_FLUSH:
        yield _faster(case, "Django's flush", tables, TIMES_FASTER_THAN_FLUSH[tables])
    if tables == 1_000:
        yield _faster(case, "DELETE of all", tables, 10)


def _faster(case: Case, rival: str, tables: int, limit: float) -> Target:
    return Target(
        text=f"against {rival}, {tables:,} tables",
        measured=case.ratio(rival, "testdb_app"),
        limit=limit,
        unit="× faster",
        at_least=True,
    )


def run_nothing(bench: Bench) -> Iterator[Case]:
    """Measure with nothing written; then while another database of the same server is written to."""
    with ExitStack() as stack:
        pair = take_part(stack, bench, [who.SelectOne, who.Ours], tables=1_000)
        elsewhere = stack.enter_context(bench.databases.copies(tables=1_000))()
        busy = stack.enter_context(elsewhere.connect())
        nothing: Callable[[], list[int]] = list

        def write_elsewhere() -> list[int]:
            busy.execute("INSERT INTO t0 (name) VALUES ('elsewhere')")
            return []

        series = measure(pair, rounds=bench.rounds, choose=nothing)
        case = Case(key="nothing", title="1,000 tables, nothing written", series=series, base="SELECT 1")
        target = Target(
            text="nothing written, 1,000 tables", measured=case.ratio("testdb_app"), limit=2, unit="× SELECT 1"
        )
        yield replace(case, targets=(target,))
        yield Case(
            key="nothing-busy",
            title="1,000 tables, nothing written, another database of the server written to",
            series=measure(pair, rounds=bench.rounds, choose=write_elsewhere),
            base="SELECT 1",
        )
