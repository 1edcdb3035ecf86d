"""Playing many random scenarios on one server: all of them, also after one has failed."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

from tests.differential.examples import scenarios
from tests.differential.paths import overheard
from tests.differential.playing import play
from tests.differential.reducing import reduce_scenario
from tests.differential.scenario import Scenario
from tests.differential.stage import Stage
from tests.differential.tally import Tally
from tests.scratch import ScratchDatabase, default_parameters

BATCH = 1_000
"""Examples that hypothesis knows of at a time, as it remembers them all."""

_FRESH_AFTER = 250
"""Examples after which the database is made anew, as the catalog grows."""

_MOST_LOOKS = 600
"""How often a scenario that fails is played again, to make it smaller."""

_LOCK_TABLE_FULL = "53200"
_NAME = re.compile(r'"[^"]*("|$)')


class _FreshProvider(HypothesisProvider):
    """Draws as hypothesis does. As a backend of its own it has every example drawn anew.

    By default five of six are variations of the one before, of which many do the same.
    """


AVAILABLE_PROVIDERS["fresh"] = _FreshProvider


@dataclass(slots=True)
class Failure:
    """One way to fail: how often it occurred, and the shortest scenario that did."""

    scenario: Scenario
    trace: str
    times: int = 1


class Theatre:
    """A stage on a scratch database, both made anew from time to time; and what failed on it."""

    def __init__(self, without: tuple[str, ...] = (), *, pooled: bool = False) -> None:
        self.tally = Tally()
        self._pooled = pooled
        self.failures: dict[str, Failure] = {}
        self._without = without
        self._database: ScratchDatabase | None = None
        self._stage: Stage | None = None
        self._played = 0

    def try_out(self, scenario: Scenario) -> None:
        """Play *scenario*; remember it if it fails."""
        if self._without:
            steps = tuple(step for step in scenario.steps if not any(text in str(step) for text in self._without))
            scenario = Scenario(steps=steps)
        error = self._error(scenario, self.tally)
        if error is None:
            return
        failure = self.failures.get(way := _way(error))
        if failure is None:
            self.failures[way] = Failure(scenario, _trace(error))
            # It is made small when all have been played, which may be hours later.
            print(f"=== new: {way}\n{_trace(error)}\n{scenario.to_sql()}\n", flush=True)
        else:
            failure.times += 1
            if len(scenario.to_sql()) < len(failure.scenario.to_sql()):
                failure.scenario, failure.trace = scenario, _trace(error)

    def explain(self) -> Iterator[str]:
        """Yield each way to fail with a small scenario that does."""
        for way, failure in sorted(self.failures.items(), key=lambda pair: -pair[1].times):
            small, trace = self._reduced(way, failure)
            yield f"=== {failure.times} times: {way}\n{trace}\nA small scenario that fails so:\n{small.to_sql()}\n"

    def _reduced(self, way: str, failure: Failure) -> tuple[Scenario, str]:
        traces = [failure.trace]
        looks = iter(range(_MOST_LOOKS))

        def fails(scenario: Scenario) -> bool:
            if next(looks, None) is None:
                return False
            error = self._error(scenario, Tally())
            if error is None or _way(error) != way:
                return False
            traces.append(_trace(error))
            return True

        return reduce_scenario(failure.scenario, fails), traces[-1]

    def _error(self, scenario: Scenario, tally: Tally) -> Exception | None:
        error = self._error_of(scenario, tally)
        while error is not None and _is_of_others(error):
            # Whoever fills the lock table of the server does so for all its databases.
            tally.count("played again", "the lock table was full")
            time.sleep(1)
            error = self._error_of(scenario, Tally())
        return error

    def _error_of(self, scenario: Scenario, tally: Tally) -> Exception | None:
        if self._stage is None or self._played % _FRESH_AFTER == 0:
            self.close()
            self._database = ScratchDatabase("differential")
            self._database.create()
            if self._pooled:
                self._database.register("differential", OPTIONS={"pool": {"min_size": 1, "max_size": 2}})
            else:
                # The embedded server's own engine is a class of which no session is kept.
                server = {name.upper(): value for name, value in default_parameters().items()}
                self._database.register("differential", ENGINE="django.db.backends.postgresql", **server)
            self._stage = Stage(self._database, pooled=self._pooled)
        self._played += 1
        try:
            with overheard(lambda path: tally.count("paths of resets", path)):
                play(scenario, self._stage, tally)
        except Exception as error:
            return error
        return None

    @property
    def version(self) -> int:
        """The server's major version."""
        connection = ScratchDatabase("default").connection
        connection.ensure_connection()
        return int(connection.pg_version // 10_000)

    def close(self) -> None:
        """Drop the database."""
        if self._stage is not None:
            self._stage.close()
        if self._database is not None:
            self._database.drop()
        self._stage = self._database = None


def _way(error: Exception) -> str:
    """Tell ways to fail apart, roughly."""
    line = str(error).split("\n")[0]
    if line.startswith("After the reset: "):
        # The names are of this example alone.
        line = line.partition(" in ")[0] + (" of the log" if '."log %s"' in line else "")
    elif "failed: " in line or "belongs to" in line:
        line = line.partition("failed: ")[2] or "belongs to another schema"
    return f"{type(error).__name__}: {_NAME.sub('…', line)[:60]}"


def _is_of_others(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "sqlstate", None) == _LOCK_TABLE_FULL:
            return True
        error = error.__cause__
    return False


def _trace(error: Exception) -> str:
    return "".join(traceback.format_exception(error, limit=-3))[-4000:]


@contextmanager
def theatre(without: tuple[str, ...] = (), *, pooled: bool = False) -> Iterator[Theatre]:
    """Make a theatre, and close it.

    *without*: texts; steps that contain one are left out. *pooled*: the own connection comes from Django's pool.
    """
    made = Theatre(without, pooled=pooled)
    try:
        yield made
    finally:
        made.close()


def batches(examples: int, start: int | None) -> Iterator[tuple[int, int | None]]:
    """Yield the size and the seed of each batch."""
    for number, done in enumerate(range(0, examples, BATCH)):
        yield min(BATCH, examples - done), None if start is None else start * 1_000 + number


def make_test(stage: Theatre, examples: int, number: int | None) -> Callable[[], None]:
    """Return a function that tries out *examples* random scenarios; *number* is the seed."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        backend="fresh",
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(scenario=scenarios(version=stage.version))
    def test(scenario: Scenario) -> None:
        stage.try_out(scenario)

    return seed(number)(test) if number is not None else test
