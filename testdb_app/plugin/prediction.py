"""Whether the mark ``testdb_share`` would share a fixture, judged by the rules of the mark in a run that profiles.

What the definition of a fixture does not show is found out when it is made first, as by the mark.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest

from testdb_app.plugin import requests
from testdb_app.plugin.sharing import Examination, is_inert, judge, wide_values


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
        # Tests of one class or module see the same fixtures, but for their own parameters.
        parameters = tuple(getattr(getattr(item, "callspec", None), "params", ()))
        self.judged: tuple[Hashable, ...] = (id(item.parent), parameters, requests.names_of(item), self.share)
        # The judgement of its fixtures, and how many fixtures were refused by then.
        self.judgement: dict[Any, str | None] = {}
        self.refused = -1


class Prediction:
    """What was found out about the fixtures of one run."""

    def __init__(self) -> None:
        self._refused: dict[Any, str] = {}
        self._examined: set[Any] = set()
        self._judged: dict[Hashable, dict[Any, str | None]] = {}

    def find_reason(self, fixturedef: Any, context: TestContext) -> str | None:
        """Return why the mark would not share a fixture of the test; None if it would. The text completes "it …"."""
        if context.obstacle is not None:
            return context.obstacle
        if fixturedef.scope != "function":
            return f"has {fixturedef.scope} scope"
        if context.refused != len(self._refused):
            context.refused = len(self._refused)
            key = (context.judged, context.refused)
            if key not in self._judged:
                self._judged[key] = judge(context.item, context.share, self._refused)
            context.judgement = self._judged[key]
        return context.judgement.get(fixturedef, "is requested by getfixturevalue()")

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

        self._examined.add(fixturedef)
        used = [each for each in connections.all(initialized_only=True) if each.in_atomic_block]
        return Examination(fixturedef, context.item, used)

    def judge(self, examination: Examination, context: TestContext, value: object, *, sends_statements: bool) -> None:
        """Note why the fixture that was examined cannot be shared, if it cannot. It has returned or yielded *value*."""
        fixturedef, memo = examination.fixturedef, {id(each): each for each in wide_values(context.item)}
        is_named = fixturedef.argname in context.share.fixtures
        _, reason = examination.judge([value], memo, sends_statements=sends_statements, is_named=is_named)
        if reason is not None:
            self._refused[fixturedef] = reason
