"""Whether the mark ``testdb_share`` would share a fixture, judged by the rules of the mark in a run that profiles.

What the definition of a fixture does not show is found out when it is made first, as by the mark.
"""

from __future__ import annotations

from typing import Any

import pytest

from testdb_app.plugin import requests
from testdb_app.plugin.sharing import Examination, Judgements, is_inert, wide_values


class TestContext:
    """What the prediction needs of a test. ``owner`` and ``module`` tell the nodes apart that could share."""

    __test__ = False

    def __init__(self, item: Any) -> None:
        cls, module = (item.getparent(kind) or item for kind in (pytest.Class, pytest.Module))
        self.item = item
        self.obstacle = requests.find_obstacle(item)
        # With --no-testdb-share, the names in a mark count all the same.
        self.share = requests.share_of(item) or requests.read_share(item) or requests.Share()
        self.owner, self.module = id(cls), id(module)


class Prediction:
    """What was found out about the fixtures of one run."""

    def __init__(self) -> None:
        self._judgements = Judgements()
        self._examined: set[Any] = set()

    def find_reason(self, fixturedef: Any, context: TestContext) -> str | None:
        """Return why the mark would not share a fixture of the test; None if it would. The text completes "it …"."""
        if context.obstacle is not None:
            return context.obstacle
        if fixturedef.scope != "function":
            return f"has {fixturedef.scope} scope"
        judged = self._judgements.of(context.item, context.share)
        return judged.get(fixturedef, "is requested by getfixturevalue()")

    def is_examined(self, fixturedef: Any) -> bool:
        """Whether it was found out what the fixture does."""
        return fixturedef in self._examined

    def examine(self, fixturedef: Any, context: TestContext) -> Examination | None:
        """Begin to find out what a fixture does; None if it cannot be shared anyhow."""
        if fixturedef.scope != "function" or is_inert(fixturedef):
            return None
        if self.find_reason(fixturedef, context) is not None:
            return None
        from django.db import connections  # noqa: PLC0415 - Django is imported where it is used

        used = [each for each in connections.all(initialized_only=True) if each.in_atomic_block]
        return Examination(fixturedef, context.item, used)

    def judge(self, examination: Examination, context: TestContext, value: object, *, sends_statements: bool) -> None:
        """Note why the fixture that was examined cannot be shared, if it cannot. It has returned or yielded *value*."""
        fixturedef, memo = examination.fixturedef, {id(each): each for each in wide_values(context.item)}
        is_named = fixturedef.argname in context.share.fixtures
        _, reason = examination.judge([value], memo, sends_statements=sends_statements, is_named=is_named)
        if reason is not None:
            self._judgements.refuse(examination, reason)
        if reason is None or not examination.imports:
            self._examined.add(fixturedef)
