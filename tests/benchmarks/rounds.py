"""Rounds: every candidate writes and takes back what it wrote, in turn, so that what disturbs one disturbs all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from tests.benchmarks.candidates import Candidate
from tests.benchmarks.results import Series

Write = Callable[[Candidate, Sequence[int]], object]

WARM_UP = 5
"""Rounds that are not measured."""

WRITTEN = 5
"""How many tables are written in a round."""


def five_of(tables: int) -> list[int]:
    """Return five tables of so many, always the same, descending."""
    return sorted(random.Random(2).sample(range(tables), WRITTEN), reverse=True)


def same(tables: int) -> Callable[[], list[int]]:
    """Choose the same five of so many tables each time."""
    chosen = five_of(tables)
    return lambda: chosen


def changing(tables: int, *, of: int | None = None) -> Callable[[], list[int]]:
    """Choose other five each time: of all the tables, or of a working set."""
    chance = random.Random(3)
    working_set = chance.sample(range(tables), of or tables)
    return lambda: sorted(chance.sample(working_set, WRITTEN), reverse=True)


def write_itself(candidate: Candidate, tables: Sequence[int]) -> None:
    """Have the candidate write over the connection that it resets over."""
    candidate.write(tables)


def measure(
    candidates: Sequence[Candidate], *, rounds: int, choose: Callable[[], Sequence[int]], write: Write = write_itself
) -> tuple[Series, ...]:
    """Let every candidate write to the tables that *choose* names for the round, and time how it takes that back.

    The quiet ones take turns in being the first. Those that disturb come after them, and then the quiet ones have an
    unmeasured round, in which they learn again what they had to forget. At the end all tables must be empty.
    """
    quiet = [candidate for candidate in candidates if not candidate.disturbs]
    loud = [candidate for candidate in candidates if candidate.disturbs]
    times: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    seen: set[int] = set()
    for number in range(-min(WARM_UP, rounds), rounds):
        tables = choose()
        seen.update(tables)
        turn = number % len(quiet)
        due = [candidate for candidate in loud if number % candidate.every == 0]
        for candidate in [*quiet[turn:], *quiet[:turn], *due]:
            elapsed = _time(candidate, tables, write)
            if number >= 0:
                times[candidate.name].append(elapsed)
        for candidate in quiet if due else ():
            _time(candidate, tables, write)
    for candidate in candidates:
        candidate.check_empty(sorted(seen))
    return tuple(
        Series(name=candidate.name, role=candidate.role, times=tuple(times[candidate.name])) for candidate in candidates
    )


def _time(candidate: Candidate, tables: Sequence[int], write: Write) -> float:
    """Write, reset and look; return the milliseconds of the reset."""
    write(candidate, tables)
    run = candidate.ready(tables)
    started = time.perf_counter()
    result = run()
    elapsed = (time.perf_counter() - started) * 1000
    candidate.verify(tables, result)
    return elapsed
