"""Measuring candidates side by side: interleaved, in one run, so that what disturbs one disturbs all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    prepare: Callable[[], object] | Mapping[str, Callable[[], object]],
) -> dict[str, list[float]]:
    """Run every candidate once to warm up, then *rounds* times in turn; return their times in milliseconds.

    *prepare*, or the candidate's own of it, runs before each of them, unmeasured.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            (prepare[name] if isinstance(prepare, Mapping) else prepare)()
            started = time.perf_counter()
            run()
            if number:
                times[name].append((time.perf_counter() - started) * 1000)
    return times


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least *share* of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def print_table(title: str, times: Mapping[str, list[float]], *, base: str) -> None:
    """Print least, median and 95th percentile, and how often each median goes into that of *base*."""
    reference = statistics.median(times[base])
    width = max(map(len, times))
    print(f"\n{title}\n{'':{width}}   least ms  median ms     p95 ms   {base} / it")
    for name, values in times.items():
        median = statistics.median(values)
        figures = f"{min(values):10.2f} {median:10.2f} {percentile(values, 0.95):10.2f} {reference / median:10.2f}"
        print(f"{name:{width}} {figures}")
