"""Classes with ``ShareFixtures`` under pytest: fixtures that stand in the way, and what the report says of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from testdb_app.plugin import hooks, options, requests
from testdb_app.plugin._pytest_private import set_up_method_of
from testdb_app.plugin.sharing import is_inert, set_up_order
from testdb_app.shared_set_up import SWITCHED_OFF, SharedSetUp, refuse


class SharedSetUps:
    """The hooks of runs with such classes."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Have classes not share whose tests use fixtures that may change what ``setUp()`` does, or without sharing at all."""
        shares = session.config.getoption(options.SHARE)
        for item in session.items:
            cls: Any = getattr(item, "cls", None)
            if requests.shares_set_up(item):
                name = next(_fixtures_in_the_way(item), None)
                if not shares:
                    refuse(cls, SWITCHED_OFF)
                elif name is not None:
                    refuse(cls, f'is run after "{name}"')

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Add the classes to the report of this process, which a worker of pytest-xdist hands to its controller."""
        report = hooks.of(session.config).sharing.report
        classes = {item.getparent(pytest.Class): item for item in session.items if requests.shares_set_up(item)}
        for node in classes:
            shared: SharedSetUp | None = vars(node.obj).get("_shared_set_up") if node is not None else None
            if node is not None and shared is not None and shared.used:
                report.add_fixture(node.nodeid, "setUp", used=shared.used, made=shared.made, why=shared.reason)
        if options.is_worker(session.config):
            session.config.workeroutput[options.SHARED] = report.as_dict()  # type: ignore[attr-defined]


def _fixtures_in_the_way(item: pytest.Item) -> Iterator[str]:
    """Yield the fixtures of function scope, and methods of pytest's, that are set up before ``setUp()``."""
    for fixturedef in set_up_order(item):
        method = set_up_method_of(fixturedef.argname)
        if method is not None or not is_inert(fixturedef):
            yield method or fixturedef.argname
