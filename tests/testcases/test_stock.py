"""Stock behaviour is the measure: one suite observes the same with Django's classes and with ours, however it is run."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.guard.projects import Project

TESTS = 31


def run(project: Project, base: str, *options: str) -> dict[str, Any]:
    """Run the suite on that base class; return what each test observed. One test raises on purpose."""
    # Django cannot send an error to another process without a package more.
    errors = 0 if "--parallel" in options else 1
    done = project.run("manage.py", "test", "--noinput", *options, SUITE_BASE=base, SUITE_ERRORS=str(errors))
    assert f"Ran {TESTS} tests" in done.stderr, done.stderr
    assert ("FAILED (errors=1)" if errors else "OK") in done.stderr.splitlines(), done.stderr
    assert ("RuntimeError: on purpose" in done.stderr) is bool(errors)
    found: dict[str, Any] = {}
    for each in done.found:
        found.setdefault(each.pop("test"), []).append(each)
    return found


@pytest.fixture
def stock(project: Project) -> dict[str, Any]:
    found = run(project, "stock")
    assert len(found) > 25
    return found


@pytest.mark.parametrize("base", ["ours-empty", "ours-baseline"])
def test_the_same_is_observed_with_our_classes(project: Project, stock: dict[str, Any], base: str) -> None:
    assert run(project, base) == expected(stock, base)


DJANGO, OURS = "django.test.runner.DiscoverRunner", "testdb_app.runner.ResetDiscoverRunner"


@pytest.mark.parametrize(
    ("runner", "options"),
    [
        (DJANGO, ("--parallel", "2")),
        (OURS, ("--parallel", "2")),
        (OURS, ("--shuffle", "7")),
        (OURS, ("--keepdb", "--reverse")),
    ],
    ids=["Django's --parallel", "--parallel", "--shuffle", "--keepdb --reverse"],
)
def test_it_is_the_same_however_the_tests_are_run(project: Project, runner: str, options: tuple[str, ...]) -> None:
    """In whatever order: only the numbered methods of a class count on what those before them have left."""
    project.add_settings(f"TEST_RUNNER = {runner!r}\n")
    once = run(project, "ours-baseline", *options)
    again = run(project, "ours-baseline", *options)
    assert once == again
    for test, found in once.items():
        for look in found:
            if "WithSetUp" not in test and "users" in look:
                assert look["users"] == 0, test
                assert not re.search("by setUp|closed|async", " ".join(look["shelves"])), test


def expected(stock: dict[str, Any], base: str) -> dict[str, Any]:
    """Return what ours should observe: the same; but to go back to the baseline keeps what handlers of post_migrate made.

    Django's flush does not have these rows made again after a test with ``available_apps``, and the next test misses them.
    """
    first = stock["shop.tests.Plain.test_1_writes"][0]
    after = "shop.tests.WithFixtures.test_1"
    assert stock[after][0]["types"] == []
    if base == "ours-empty":
        return stock
    changed = {**stock[after][0], "types": first["types"], "permissions": first["permissions"]}
    return {**stock, after: [changed]}
