"""Databases to kill resets on."""

from __future__ import annotations

import pytest

from tests.faults.victim import Victim
from tests.scratch import ScratchDatabase


@pytest.fixture(params=[False, True], ids=["one message", "several messages"])
def victim(request: pytest.FixtureRequest, scratch: ScratchDatabase) -> Victim:
    """A filled database, to be reset in one message to the server and in several."""
    return Victim(scratch, keeps=request.param)
