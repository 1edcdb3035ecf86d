from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.demo.projects import Project, make_project

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project_without_demo(tmp_path: Path) -> Project:
    return make_project(tmp_path, installed_apps=["django.contrib.contenttypes", "testdb_app"])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, installed_apps=["django.contrib.contenttypes", "testdb_app", "testdb_app.demo"])
