"""What a run measured: values that are printed, drawn, and kept as JSON."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import percentile


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The times of one candidate in one case, in milliseconds; ``role`` is "ours", "floor" or "rival"."""

    name: str
    role: str
    times: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the resets took longer."""
        return statistics.median(self.times)

    @property
    def p95(self) -> float:
        """One reset in twenty took longer."""
        return percentile(list(self.times), 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure beside its limit: at most that, or with ``at_least`` no less."""

    text: str
    measured: float
    limit: float
    unit: str
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the figure keeps within the limit."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One situation: everybody's times in it, and what is asked of them. Ratios are to the series named ``base``."""

    key: str
    title: str
    series: tuple[Series, ...]
    base: str
    targets: tuple[Target, ...] = ()
    note: str = ""

    def find(self, name: str) -> Series:
        """Return the series of that name."""
        return next(series for series in self.series if series.name == name)

    def ratio(self, name: str, to: str | None = None) -> float:
        """Return how many times the median of one goes into that of another (of the base, if none is named)."""
        return self.find(name).median / self.find(to or self.base).median


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A whole run; ``about`` says on what: versions, settings, machine."""

    about: str
    cases: tuple[Case, ...] = field(default=())

    def save(self, path: Path) -> None:
        """Write it as JSON, with every single time."""
        path.write_text(json.dumps(asdict(self), separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read what :meth:`save` wrote."""
        data = json.loads(path.read_text())
        return cls(about=data["about"], cases=tuple(_case(case) for case in data["cases"]))


def _case(data: dict[str, Any]) -> Case:
    series = tuple(Series(**{**each, "times": tuple(each["times"])}) for each in data["series"])
    return Case(**{**data, "series": series, "targets": tuple(Target(**each) for each in data["targets"])})
