from __future__ import annotations

from typing import Any

import pytest

from tests.commands.resetdb.running import ROWS
from tests.scratch import ScratchDatabase


@pytest.fixture
def library(scratch: ScratchDatabase) -> ScratchDatabase:
    """A database with rows that nobody may reset."""
    scratch.execute(ROWS)
    return scratch


@pytest.fixture
def allowed(library: ScratchDatabase, settings: Any) -> ScratchDatabase:
    """The same, and the settings allow it."""
    settings.TESTDB = {"ALLOWED_DATABASES": [library.name]}
    return library
