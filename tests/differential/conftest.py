"""The fixture that plays a scenario from its text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.differential.playing import play
from tests.differential.scenario import Scenario
from tests.differential.stage import Stage
from tests.differential.tally import Tally
from tests.scratch import ScratchDatabase


@pytest.fixture
def play_sql(scratch: ScratchDatabase) -> Any:
    """Return a function that plays the text of a scenario, and checks what each reset in it does."""
    stage = Stage(scratch)

    def run(text: str) -> Tally:
        tally = Tally()
        play(Scenario.from_sql(text), stage, tally)
        return tally

    yield run
    stage.close()


PlaySQL = Callable[[str], Tally]
