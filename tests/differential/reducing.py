"""Making a scenario that fails smaller: steps are left out as long as it still fails in the same way.

Hypothesis shrinks what was drawn; here steps go that others seem to need, and the rest shows whether they did. After the
algorithm ddmin of Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.differential.scenario import Scenario, Step

Fails = Callable[[Scenario], bool]


def reduce_scenario(scenario: Scenario, fails: Fails) -> Scenario:
    """Return a scenario of fewer steps, with shorter headers, that *fails* too."""
    steps = list(scenario.steps)
    size = max(1, len(steps) // 2)
    while True:
        shorter = _without_one_part(steps, size, fails)
        if shorter is not None:
            steps = shorter
        elif size == 1:
            break
        size = max(1, min(size, len(steps)) // 2) if shorter is None else min(size, max(1, len(steps)))
    return Scenario(steps=tuple(_with_fewer_words(steps, fails)))


def _without_one_part(steps: list[Step], size: int, fails: Fails) -> list[Step] | None:
    # From the end: what comes later depends on what comes first.
    for start in range((len(steps) - 1) // size * size, -1, -size):
        shorter = steps[:start] + steps[start + size :]
        if shorter and fails(Scenario(steps=tuple(shorter))):
            return shorter
    return None


def _with_fewer_words(steps: list[Step], fails: Fails) -> list[Step]:
    for number, step in enumerate(steps):
        for other in _simpler(step):
            simpler = [*steps[:number], other, *steps[number + 1 :]]
            if fails(Scenario(steps=tuple(simpler))):
                steps = simpler
                break
    return steps


def _simpler(step: Step) -> Iterator[Step]:
    if step.actor == "reset":
        for what in ("", "empty", *(" ".join(step.words - {word}) for word in ("watched", "again"))):
            if what != step.what:
                yield Step(actor="reset", what=what)
    elif step.sql and step.actor != "own" and "copy" not in step.words:
        yield Step(actor="own", what=step.what, sql=step.sql)
