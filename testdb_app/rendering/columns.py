"""Where the tables of a page stand: in columns by level, so ordered that the curves between them cross seldom.

The order inside a level is found by barycenters, swept to and fro: K. Sugiyama, S. Tagawa, M. Toda, "Methods for Visual
Understanding of Hierarchical System Structures", IEEE Trans. SMC 11 (1981).
"""

from __future__ import annotations

from math import ceil, sqrt
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from testdb_app.rendering.picture import Picture
    from testdb_app.schema import QualifiedName

SWEEPS = 4
FEWEST_ROWS = 14
MOST_ROWS = 80


class Column(NamedTuple):
    """One column: its level, and its tables from top to bottom. A level with many tables has several columns."""

    level: int
    tables: tuple[QualifiedName, ...]


def arrange(picture: Picture) -> tuple[Column, ...]:
    """Put the tables that people know into columns, those of the picture's first level to the left.

    Tables without a key stand below the others. Costs O((tables + keys) log tables).
    """
    near = _neighbours(picture)
    levels = [(number, sorted(names, key=lambda name: (not near[name], name))) for number, names in picture.levels]
    place: dict[QualifiedName, float] = {}
    for _, names in levels:
        _place(names, place)
    for _ in range(SWEEPS):
        for direction in (levels, levels[::-1]):
            done: set[QualifiedName] = set()
            for _, names in direction:
                names.sort(key=_by_barycenter(near, place, frozenset(done)))
                _place(names, place)
                done.update(names)
    rows = max(FEWEST_ROWS, min(MOST_ROWS, ceil(sqrt(len(place)) * 2)))
    return tuple(Column(number, part) for number, names in levels for part in _split(names, rows))


def _neighbours(picture: Picture) -> dict[QualifiedName, set[QualifiedName]]:
    near: dict[QualifiedName, set[QualifiedName]] = {name: set() for name in picture.tables}
    for arrow in picture.arrows:
        near[arrow.source].add(arrow.target)
        near[arrow.target].add(arrow.source)
    return near


def _place(names: list[QualifiedName], place: dict[QualifiedName, float]) -> None:
    """Note where each stands, from 0 to 1: levels are of different heights."""
    for number, name in enumerate(names):
        place[name] = (number + 0.5) / len(names)


def _by_barycenter(
    near: dict[QualifiedName, set[QualifiedName]], place: dict[QualifiedName, float], done: frozenset[QualifiedName]
) -> Callable[[QualifiedName], tuple[bool, float, QualifiedName]]:
    def key(name: QualifiedName) -> tuple[bool, float, QualifiedName]:
        # The sum of floats depends on their order, and a set has none.
        placed = sorted(place[other] for other in near[name] if other in done)
        return not near[name], sum(placed) / len(placed) if placed else place[name], name

    return key


def _split(names: list[QualifiedName], rows: int) -> list[tuple[QualifiedName, ...]]:
    """Cut into parts of like length, at most *rows* long."""
    parts = ceil(len(names) / rows)
    return [tuple(names[len(names) * n // parts : len(names) * (n + 1) // parts]) for n in range(parts)]
