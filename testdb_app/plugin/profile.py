"""The profile of fixtures and factories: how often each wrote rows, how long that took, and what sharing would save.

:class:`Profile` adds up and renders, and knows nothing of pytest. :mod:`testdb_app.plugin.recorder` measures, and
:mod:`testdb_app.plugin.profiler` has the hooks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import Any, ClassVar, Self

_VERSION = 1
_INDENT = " " * 4


class _Record:
    """What is added up for one name. ``IDENTITY``, ``SUMS`` and ``COUNTS`` are its attributes, of which the last are counters."""

    IDENTITY: ClassVar[tuple[str, ...]]
    SUMS: ClassVar[tuple[str, ...]]
    COUNTS: ClassVar[tuple[str, ...]]
    rows: Counter[str]

    def __init__(self, *identity: str) -> None:
        for name, value in zip(self.IDENTITY, identity, strict=True):
            setattr(self, name, value)
        for name in self.SUMS:
            setattr(self, name, 0)
        for name in self.COUNTS:
            setattr(self, name, Counter())

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the record of another process, as :meth:`as_dict` returns it."""
        for name in self.SUMS:
            setattr(self, name, getattr(self, name) + other[name])
        for name in self.COUNTS:
            getattr(self, name).update(other[name])

    def as_dict(self) -> dict[str, Any]:
        """Return it as values of JSON; counters have their largest numbers first."""
        found = {name: getattr(self, name) for name in (*self.IDENTITY, *self.SUMS)}
        return found | {name: dict(getattr(self, name).most_common()) for name in self.COUNTS}


class FixtureRecord(_Record):
    """What a fixture, a ``setUp()``, a ``setUpClass()`` or a ``setUpTestData()`` cost in the run.

    ``handed_out`` is how often the mark ``testdb_share`` answered a test with a copy instead.
    ``shareable`` is how often it wrote rows and could have been shared, and ``shareable_seconds`` the own time of that.
    ``classes`` and ``modules`` are how often it would have been made for that, once for each class or module, and for each
    parameter. ``saved_by_class`` and ``saved_by_module`` are the seconds of all others: the first making of a run is often
    the dearest, as it fills caches, and sharing cannot save it. ``reasons`` say why it could not be shared, with the number
    of times.
    """

    IDENTITY = ("name", "scope", "place")
    SUMS = (
        *("made", "handed_out", "failed", "seconds", "own_seconds", "statements", "changed"),
        *("shareable", "shareable_seconds", "classes", "modules", "saved_by_class", "saved_by_module"),
    )
    COUNTS = ("rows", "reasons")
    name: str
    scope: str
    place: str
    made: int
    handed_out: int
    failed: int
    seconds: float
    own_seconds: float
    statements: int
    changed: int
    shareable: int
    shareable_seconds: float
    classes: int
    modules: int
    saved_by_class: float
    saved_by_module: float
    reasons: Counter[str]

    def __init__(self, *identity: str) -> None:
        super().__init__(*identity)
        self._classes: set[Hashable] = set()
        self._modules: set[Hashable] = set()

    def add_shareable(self, seconds: float, owner: Hashable, module: Hashable) -> tuple[bool, bool]:
        """Count one making that could have been shared in the class *owner*, or in *module*.

        Return whether it was the first of each, as :meth:`add_shareable_seconds` wants to know for the end of the fixture.
        """
        self.shareable += 1
        first = owner not in self._classes, module not in self._modules
        self._classes.add(owner)
        self._modules.add(module)
        self.classes, self.modules = len(self._classes), len(self._modules)
        self.add_shareable_seconds(seconds, first)
        return first

    def add_shareable_seconds(self, seconds: float, first: tuple[bool, bool]) -> None:
        """Add the time of such a making, which sharing saves unless it is the *first* of its class, or of its module."""
        self.shareable_seconds += seconds
        self.saved_by_class += 0.0 if first[0] else seconds
        self.saved_by_module += 0.0 if first[1] else seconds

    @property
    def has_written(self) -> bool:
        """Whether it has written rows."""
        return bool(self.rows or self.changed)


class FactoryRecord(_Record):
    """How often a factory made a row, and what that cost.

    ``rows`` and ``seconds`` are those of the ``top_level`` calls, which no other factory made, with all that they caused.
    ``own_seconds`` are those of all calls, without the factories that they called. ``tests`` are the calls by test.
    """

    IDENTITY = ("name", "library")
    SUMS = ("calls", "top_level", "seconds", "own_seconds")
    COUNTS = ("rows", "tests")
    name: str
    library: str
    calls: int
    top_level: int
    seconds: float
    own_seconds: float
    tests: Counter[str]


class Profile:
    """The records of one process, or of all."""

    def __init__(self) -> None:
        self.processes = 1
        self._fixtures: dict[tuple[str, ...], FixtureRecord] = {}
        self._factories: dict[tuple[str, ...], FactoryRecord] = {}

    def fixture(self, name: str, scope: str, place: str) -> FixtureRecord:
        """Return the record of a fixture; a new one at the first time."""
        key = (name, scope, place)
        return self._fixtures.get(key) or self._fixtures.setdefault(key, FixtureRecord(*key))

    def factory(self, name: str, library: str) -> FactoryRecord:
        """Return the record of a factory; a new one at the first time."""
        key = (name, library)
        return self._factories.get(key) or self._factories.setdefault(key, FactoryRecord(*key))

    def ranked_fixtures(self) -> list[FixtureRecord]:
        """Return the fixtures that wrote rows: those first whose sharing saves most, then those that take longest."""
        written = (each for each in self._fixtures.values() if each.has_written)
        return sorted(written, key=lambda each: (-each.saved_by_module, -each.own_seconds, each.name))

    def ranked_factories(self) -> list[FactoryRecord]:
        """Return the factories by their own time, the longest first."""
        return sorted(self._factories.values(), key=lambda each: (-each.own_seconds, each.name))

    def as_dict(self) -> dict[str, Any]:
        """Return the document, as values of JSON. Times are in seconds."""
        return {
            "version": _VERSION,
            "processes": self.processes,
            "fixtures": [each.as_dict() for each in self.ranked_fixtures()],
            "factories": [each.as_dict() for each in self.ranked_factories()],
        }

    @classmethod
    def merged(cls, documents: Collection[Mapping[str, Any]]) -> Self:
        """Return the profile of several processes, each of which made its fixtures for itself."""
        profile = cls()
        profile.processes = len(documents)
        for document in documents:
            for each in document["fixtures"]:
                profile.fixture(*(each[name] for name in FixtureRecord.IDENTITY)).add(each)
            for each in document["factories"]:
                profile.factory(*(each[name] for name in FactoryRecord.IDENTITY)).add(each)
        return profile


def render_fixtures(records: list[FixtureRecord], most: int) -> list[str]:
    """Return the table of the first *most* fixtures, all with 0, as lines of any length."""
    shown = records[:most] if most else records
    rows: list[tuple[str, ...]] = [("by module", "by class", "made", "own", "in all", "rows", "fixture")]
    details = [""]
    for each in shown:
        saved = [f"{seconds:.3f}" if each.shareable else "–" for seconds in (each.saved_by_module, each.saved_by_class)]
        times = f"{each.own_seconds:.3f}", f"{each.seconds:.3f}"
        rows.append((*saved, str(each.made), *times, _mean(sum(each.rows.values()), each.made), each.name))
        parts = [f"{each.place} ({each.scope})", _list_rows(each.rows, each.made)]
        parts.append(f"{each.changed} rows changed" if each.changed else "")
        statements = _mean(each.statements, each.made)
        parts.append(f"{statements} statement{'' if statements == '1' else 's'}")
        parts.append(f"{each.failed} failed" if each.failed else "")
        parts.append(f"{each.handed_out} times handed out" if each.handed_out else "")
        parts += [
            f"not shared ({_part(count, each.made)}): it {reason}" for reason, count in each.reasons.most_common()
        ]
        details.append("; ".join(filter(None, parts)))
    own = sum(each.own_seconds for each in records)
    by_module = sum(each.saved_by_module for each in records)
    by_class = sum(each.saved_by_class for each in records)
    end = f"Sharing would save {by_module:.3f} s by module, or {by_class:.3f} s by class, of {own:.3f} s."
    return [*_interleaved(rows, details), end]


def render_factories(records: list[FactoryRecord], most: int) -> list[str]:
    """Return the table of the first *most* factories, all with 0, as lines of any length."""
    shown = records[:most] if most else records
    rows: list[tuple[str, ...]] = [("calls", "top", "tests", "own", "in all", "rows", "factory")]
    details = [""]
    for each in shown:
        numbers = str(each.calls), str(each.top_level), str(len(each.tests))
        times = f"{each.own_seconds:.3f}", f"{each.seconds:.3f}"
        rows.append((*numbers, *times, _mean(sum(each.rows.values()), each.top_level), each.name))
        ((test, count),) = each.tests.most_common(1) or [("", 0)]
        listed = _list_rows(each.rows, each.top_level) or "only by other factories"
        details.append(f"{listed}; most in {test} ({count})")
    return list(_interleaved(rows, details))


def _interleaved(rows: list[tuple[str, ...]], details: list[str]) -> Iterator[str]:
    """Yield a line for each row, numbers to the right, and then one with its details."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, detail in zip(rows, details, strict=True):
        numbers = [text.rjust(width) for text, width in zip(row[:-1], widths, strict=False)]
        yield "  ".join([*numbers, row[-1]])
        if detail:
            yield f"{_INDENT}{detail}"


def _part(count: int, made: int) -> str:
    return f"{count}" if count == made else f"{count} of {made}"


def _mean(total: int, times: int) -> str:
    return f"{total / times if times else 0:.1f}".removesuffix(".0")


def _list_rows(rows: Counter[str], times: int) -> str:
    return ", ".join(f"{table} {_mean(count, times)}" for table, count in rows.most_common())
