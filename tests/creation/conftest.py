from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from tests.creation.projects import TemplateProject, drop_all, make_template_project


@pytest.fixture
def project(tmp_path: Path, django_db_blocker: Any) -> Iterator[TemplateProject]:
    """A project with a role of its own; what its runs make is dropped afterwards."""
    with django_db_blocker.unblock():
        # A server of this run's own runs as long as somebody is connected.
        connections["default"].ensure_connection()
        made = make_template_project(tmp_path)
        yield made
        drop_all(made)
        connections["default"].close()
