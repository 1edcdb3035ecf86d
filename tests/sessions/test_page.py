"""The page docs/reference/sessions.md: its code runs, and it tells every option, method, fixture and error."""

from __future__ import annotations

import inspect
import re
import threading
import unittest
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections

from testdb_app import exceptions, pytest_sessions
from testdb_app.demo.models import Author
from testdb_app.exceptions import TestSessionError
from testdb_app.sessions import TestSession, TestSessionFactory
from tests.guard.projects import Project
from tests.testcases.conftest import project  # noqa: F401 - a fixture

PAGE = (Path(__file__).resolve().parents[2] / "docs/reference/sessions.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
OF_PYTEST = [block for block in BLOCKS if "pytest" in block]
OTHERS = [block for block in BLOCKS if "pytest" not in block]

PRELUDE = """
import pytest
from shop.models import Shelf

def make_author(name):
    return Shelf.objects.create(name=name)
"""


def test_the_code_of_the_page_does_what_it_says(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    call_command("migrate", database=database.alias, verbosity=0)
    # What the page calls "default" is the scratch database here.
    default = connections["default"]
    monkeypatch.setitem(connections.settings, "default", connections.settings[database.alias])
    connections["default"] = connection = type(default)(connections.settings["default"], "default")
    namespace: dict[str, Any] = {
        "Author": Author,
        "import_orders": lambda: Author.objects.get(name="Ada"),
        "make_author": lambda name: Author.objects.create(name=name),
        "place_order": lambda author: author.save(),
        "threading": threading,
        "unittest": unittest,
    }
    try:
        monkeypatch.setattr(TestSessionFactory.__init__, "__kwdefaults__", allowing(database.name))
        assert len(OTHERS) == 4
        for block in OTHERS:
            if database.connection.vendor == "sqlite":
                block = block.replace('statement_timeout="30s", ', "")  # noqa: PLW2901
            exec(compile(block, "docs/reference/sessions.md", "exec"), namespace)
        namespace["check_totals"]()
        result = unittest.TestResult()
        case = namespace["CheckoutTest"]
        case.test = lambda self: self.session.verify_constraints()
        case("test").run(result)
        assert result.wasSuccessful(), result.errors
        assert Author.objects.count() == 0
    finally:
        connection.close()
        connections["default"] = default


def allowing(name: str) -> dict[str, Any]:
    return {**(TestSessionFactory.__init__.__kwdefaults__ or {}), "allow_database": name}


def test_the_code_for_pytest_runs(project: Project) -> None:  # noqa: F811
    (block,) = OF_PYTEST
    if "sqlite" in connections["default"].vendor:
        block = block.replace('statement_timeout="30s"', "ownership_timeout=30")
    use = "\n\ndef test_library(library):\n    assert Shelf.objects.filter(name='Grace').exists()\n"
    project.write("page.py", PRELUDE + block + use)
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\naddopts = --strict-markers\n")
    assert "3 passed" in project.pytest("page.py").must_pass().stdout


def test_the_page_tells_every_option_method_fixture_and_error() -> None:
    options = set(inspect.signature(TestSessionFactory.__init__).parameters) - {"self"}
    methods = {name for name, _ in inspect.getmembers(TestSession) if not name.startswith("_")}
    own = methods - {"is_open", "connection"}
    errors = {
        name for name, each in vars(exceptions).items() if isinstance(each, type) and issubclass(each, TestSessionError)
    }
    errors -= {"ScopeError", "LeakError"}  # of the scopes of pytest
    words = {*options, *own, *errors, *pytest_sessions._FIXTURES}
    assert {word for word in words if not re.search(rf"\b{word}\b", PAGE)} == set()
