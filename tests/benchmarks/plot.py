"""A run as an SVG: bars on a logarithmic scale, the median of each candidate, with a line to its 95th percentile.

Text is text, and the colours follow the reader's light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from xml.sax.saxutils import escape

from tests.benchmarks.results import Run, Series

CASES = (
    *("nothing", "tables-100", "tables-300", "tables-1000", "tables-10000", "life-1000-idle"),
    *("life-1000-writing", "baseline", "fresh", "sqlite-file", "sqlite-memory", "disk-300"),
)
"""What is drawn, in this order, where it was measured."""

WIDTH, LEFT, RIGHT = 760, 232, 70
BAR, GAP, TITLE, TOP, BOTTOM = 12, 5, 22, 52, 40

HEAD = "How long a reset takes"
STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.head { font-size: 15px; font-weight: 600 } .case { font-weight: 600 } .small { font-size: 11px; fill: #59636e }
.ours { fill: #0969da } .floor { fill: #818b98 } .rival { fill: #d4a15a }
.grid { stroke: #d1d9e0 } .tail { stroke: #1f2328; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .small { fill: #9198a1 }
  .ours { fill: #4493f8 } .floor { fill: #6e7681 } .rival { fill: #a8783a }
  .grid { stroke: #3d444d } .tail { stroke: #f0f6fc }
}
"""


def draw(run: Run) -> str:
    """Return the picture of a run.

    Raises ValueError if the run has none of the cases that are drawn.
    """
    by_key = {case.key: case for case in run.cases}
    cases = [by_key[key] for key in CASES if key in by_key]
    if not cases:
        raise ValueError(f"There is nothing to draw: the plot shows {', '.join(CASES)}.")
    scale = _Scale([value for case in cases for series in case.series for value in (series.median, series.p95)])
    height = TOP + sum(TITLE + len(case.series) * (BAR + GAP) + 8 for case in cases) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" aria-label="{HEAD}">',
        f"<style>{STYLE}</style>",
        f'<text x="12" y="22" class="head">{HEAD}</text>',
        _legend(),
        *_grid(scale, height),
    ]
    top = TOP
    for case in cases:
        parts.append(f'<text x="12" y="{top + 15}" class="case">{escape(case.title)}</text>')
        top += TITLE
        for series in case.series:
            parts += _bar(series, scale, top)
            top += BAR + GAP
        top += 8
    parts += [f'<text x="12" y="{height - 8}" class="small">{escape(run.about)}</text>', "</svg>\n"]
    return "\n".join(parts)


class _Scale:
    """From milliseconds to places, by whole powers of ten at both ends."""

    def __init__(self, values: Iterable[float]) -> None:
        exponents = [math.log10(value) for value in values]
        self.first = math.floor(min(exponents))
        self.last = max(math.ceil(max(exponents)), self.first + 1)

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.first) / (self.last - self.first)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _legend() -> str:
    items = (("ours", "testdb_app", 240), ("floor", "floor", 345), ("rival", "others", 415))
    boxes = "".join(
        f'<rect x="{x}" y="12" width="12" height="12" class="{role}"/><text x="{x + 17}" y="22">{label}</text>'
        for role, label, x in items
    )
    return boxes + '<text x="490" y="22" class="small">median; the line: to the 95th percentile</text>'


def _grid(scale: _Scale, height: int) -> Iterable[str]:
    for exponent in range(scale.first, scale.last + 1):
        x = scale(10.0**exponent)
        yield f'<line x1="{x}" y1="{TOP - 4}" x2="{x}" y2="{height - BOTTOM}" class="grid"/>'
        yield f'<text x="{x}" y="{height - BOTTOM + 14}" text-anchor="middle" class="small">{_label(10.0**exponent)}</text>'


def _bar(series: Series, scale: _Scale, top: int) -> Iterable[str]:
    end, tail, middle = scale(series.median), scale(series.p95), top + BAR / 2
    yield f'<text x="{LEFT - 8}" y="{top + 10}" text-anchor="end">{escape(series.name)}</text>'
    yield f'<rect x="{LEFT}" y="{top}" width="{max(1, round(end - LEFT, 1))}" height="{BAR}" class="{series.role}"/>'
    yield f'<line x1="{end}" y1="{middle}" x2="{tail}" y2="{middle}" class="tail"/>'
    yield f'<text x="{max(end, tail) + 6}" y="{top + 10}" class="small">{_label(series.median)}</text>'


def _label(milliseconds: float) -> str:
    """Write a time with two digits that say something."""
    if milliseconds >= 1_000:
        return f"{milliseconds / 1_000:.2g} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2g} ms"
