"""Playing many random scenarios on one server, in batches that hypothesis shrinks one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.differential.examples import scenarios
from tests.differential.playing import play
from tests.differential.scenario import Scenario
from tests.differential.stage import Stage
from tests.differential.tally import Tally
from tests.scratch import ScratchDatabase

BATCH = 1_000
"""Examples that hypothesis knows of at a time: it remembers them all, and stops at the first that fails."""

_FRESH_AFTER = 250
"""Examples after which the database is made anew, as the catalog grows."""


class Theatre:
    """A stage on a scratch database, both made anew from time to time."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self._database: ScratchDatabase | None = None
        self._stage: Stage | None = None
        self._played = 0

    def play(self, scenario: Scenario) -> None:
        """Play *scenario*."""
        if self._stage is None or self._played % _FRESH_AFTER == 0:
            self.close()
            self._database = ScratchDatabase("differential")
            self._database.create()
            self._stage = Stage(self._database, self.tally)
        self._played += 1
        play(scenario, self._stage, self.tally)

    @property
    def version(self) -> int:
        """The server's major version."""
        database = ScratchDatabase("default")
        return int(database.connection.pg_version // 10_000)

    def close(self) -> None:
        """Drop the database."""
        if self._stage is not None:
            self._stage.close()
        if self._database is not None:
            self._database.drop()
        self._stage = self._database = None


@contextmanager
def theatre() -> Iterator[Theatre]:
    """Make a theatre, and close it."""
    made = Theatre(Tally())
    try:
        yield made
    finally:
        made.close()


def batches(examples: int, start: int | None) -> Iterator[tuple[int, int | None]]:
    """Yield the size and the seed of each batch."""
    for number, done in enumerate(range(0, examples, BATCH)):
        yield min(BATCH, examples - done), None if start is None else start * 1_000 + number


def make_test(stage: Theatre, examples: int, number: int | None) -> Callable[[], None]:
    """Return a test of *examples* random scenarios; *number* is its seed."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(scenario=scenarios(version=stage.version))
    def test(scenario: Scenario) -> None:
        stage.play(scenario)

    return seed(number)(test) if number is not None else test
