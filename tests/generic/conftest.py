"""A real SQLite database, used through the generic backend: it needs no server, and Django's tools for it are complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

ALIAS = "generic_scratch"


@pytest.fixture
def connection(django_db_blocker: Any, tmp_path: Path) -> Iterator[Any]:
    """Django's connection to an empty database in a file, under an alias that ``atomic()`` knows."""
    connections.settings[ALIAS] = connections.configure_settings(
        {"default": {}, ALIAS: {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "shop.sqlite3"}}
    )[ALIAS]
    with django_db_blocker.unblock():
        yield connections[ALIAS]
        connections[ALIAS].close()
    del connections[ALIAS]
    del connections.settings[ALIAS]
