"""The category of the warnings about rows that were left, for filters: ``ignore::testdb_app.pytest_plugin.LeakWarning``."""

from __future__ import annotations

import pytest


class LeakWarning(pytest.PytestWarning):
    """Rows were left where other tests see them, by the test or the fixture that it names."""

    __module__ = "testdb_app.pytest_plugin"
