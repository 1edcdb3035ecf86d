"""The hooks around fixtures and tests, registered only in a run in which something is asked for that needs them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from testdb_app.plugin import run, transactional

_Hook = Generator[None, object, object]


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> _Hook:
    """Look after the databases, the scopes and the wide fixtures with rows."""
    its_run = run.of(request.config)
    if its_run.may_leave_alone(fixturedef):
        # Some twenty of each test's.
        return its_run.copies.keep(fixturedef, (yield))
    return (yield from its_run.set_up_fixture(fixturedef, request))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> _Hook:
    """Replace the flush of ``TransactionTestCase`` while a test runs that is to end otherwise."""
    with transactional.ending_as_asked(item):
        return (yield)


class Beginning:
    """What comes before the set-up of a test, in a hook that may fail: one around the others would leave theirs undone."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """End the scopes that the test cannot be in, before its fixtures are set up."""
        run.of(item.config).begin_test(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> _Hook:
    """Set up again what the test had already, when it was ended for the sake of something wider."""
    return (yield from run.of(item.config).set_up_test(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> _Hook:
    """Find out what the test has done to the scopes that it was in."""
    return (yield from run.of(item.config).tear_down_test(item, nextitem))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind for another run in this process."""
    run.of(config).stop()
