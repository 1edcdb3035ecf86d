"""What goes wrong with scopes, made on purpose: ``test_scope_symptoms.py`` in the project of the examples, and its conftest too.

What pytest would report as an error, or as a warning, goes into a file; ``words`` of a test says which one is meant.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOUND = Path("symptoms.jsonl")


def note(words: str, text: object) -> None:
    """Write down one that was found."""
    with FOUND.open("a") as file:
        file.write(json.dumps([words, str(text)]) + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    """Note the error that was wanted, and have the run count the test as skipped."""
    report = yield
    words = getattr(item.function, "words", None)
    if call.excinfo is not None and words is not None and words in str(call.excinfo.value):
        note(words, call.excinfo.value)
        report.outcome, report.longrepr = "skipped", (str(item.path), 0, words)
    return report


def pytest_warning_recorded(warning_message: Any) -> None:
    """Note the one about rows that were left."""
    if "leaked rows into the database" in str(warning_message.message):
        note("leaked rows into the database", warning_message.message)


def goes_wrong(words: str) -> Any:
    """Say by these words which error a test makes."""

    def mark(function: Any) -> Any:
        function.words = words
        return function

    return mark


def add_branch() -> Any:
    """Make a row."""
    from testdb_app.demo.models import Branch

    return Branch.objects.create(name="Old Town")


@pytest.fixture(scope="module")
def branch(db_module: None) -> Any:
    return add_branch()


@pytest.fixture(scope="module")
def manager(db_module: None) -> None:
    from testdb_app.demo.models import Staff

    Staff.objects.create(name="Ada", branch_id=0)


@goes_wrong("was asked for inside")
def test_opens(db: None, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("branch")


@goes_wrong("what a test commits cannot be rolled back")
def test_page(branch: Any, live_server: Any) -> None: ...


@goes_wrong("has broken the transaction of")
def test_reconnects(branch: Any) -> None:
    from django.db import connection

    connection.close()


@goes_wrong("has broken the transaction that its rows are in")
def test_of_a_manager(manager: None) -> None: ...


def test_that_leaks(db: None, django_db_blocker: Any) -> None:
    from django.db import connections

    own = connections["default"]
    connections["default"] = own.copy()
    add_branch()
    connections["default"].close()
    connections["default"] = own
