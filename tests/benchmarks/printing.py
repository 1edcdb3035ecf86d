"""A run as text: a table for each case, and at the end what was asked and what came of it."""

from __future__ import annotations

from collections.abc import Iterable

from tests.benchmarks.results import Case, Target


def case_text(case: Case) -> str:
    """Return the table of one case: times in milliseconds, and ratios of medians and of 95th percentiles to the base."""
    width = max(len(series.name) for series in case.series)
    base = case.find(case.base)
    lines = [
        f"{case.title}  [{case.key}]",
        f"  {'':{width}}  resets   median      p95      max   × {case.base} (median, p95)",
    ]
    lines += [
        f"  {series.name:{width}}  {len(series.times):6}  {series.median:7.2f}  {series.p95:7.2f}  "
        f"{max(series.times):7.2f}  {series.median / base.median:8.2f}  {series.p95 / base.p95:8.2f}"
        for series in case.series
    ]
    if case.note:
        lines.append(f"  {case.note}")
    return "\n".join(lines)


def targets_text(cases: Iterable[Case]) -> str:
    """Return the table of all targets."""
    targets = [target for case in cases for target in case.targets]
    if not targets:
        return "No targets among these cases."
    width = max(len(target.text) for target in targets)
    lines = [_target_line(target, width) for target in targets]
    met = sum(target.is_met for target in targets)
    return "\n".join([f"Targets: {met} of {len(targets)} met", *lines])


def _target_line(target: Target, width: int) -> str:
    sign = "≥" if target.at_least else "≤"
    asked = f"{sign} {target.limit:g} {target.unit}"
    return f"  {target.text:{width}}  {target.measured:8.2f}   {asked:22}  {'met' if target.is_met else 'MISSED'}"
