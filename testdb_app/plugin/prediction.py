"""Whether the mark ``testdb_share`` would share a fixture, judged by the rules of the mark in a run that profiles.

What the definition of a fixture does not show is found out when it is made first, as by the mark.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import ExitStack
from typing import Any

import pytest

from testdb_app.plugin import requests
from testdb_app.plugin.sharing import is_inert, judge


class TestContext:
    """What the prediction needs of a test. ``owner`` and ``module`` tell the nodes apart that could share."""

    __test__ = False

    def __init__(self, item: Any) -> None:
        cls, module = (item.getparent(kind) or item for kind in (pytest.Class, pytest.Module))
        self.item = item
        self.obstacle = requests.find_obstacle(item)
        self.share = requests.share_of(item) or requests.Share()
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
        self._examined.add(fixturedef)
        return Examination(fixturedef, context, self._refused)


class Examination:
    """What one fixture does besides rows while it is made. It begins at once, and :meth:`close` ends it."""

    def __init__(self, fixturedef: Any, context: TestContext, refused: dict[Any, str]) -> None:
        from django.db import connections  # noqa: PLC0415 - Django is imported where it is used

        from testdb_app.plugin.layers import wide_values  # noqa: PLC0415
        from testdb_app.side_effects import shallow, watched  # noqa: PLC0415

        self._fixturedef = fixturedef
        self._context = context
        self._refused = refused
        used = [each for each in connections.all(initialized_only=True) if each.in_atomic_block]
        self._blocks = {each: len(each.savepoint_ids) for each in used}
        self._wide = [(value, shallow(value)) for value in wide_values(context.item)]
        self._changed: list[str] = []
        self._stack = ExitStack()
        self._stack.enter_context(watched(self._changed, used))

    def close(self) -> None:
        """Stop watching."""
        self._stack.close()

    def judge(self, value: Any, *, sends_statements: bool) -> None:
        """Note why the fixture cannot be shared, if it cannot, after it has returned or yielded *value*."""
        from testdb_app.deep_copies import deep_copy  # noqa: PLC0415 - Django is imported where it is used
        from testdb_app.plugin.layers import find_side_effect  # noqa: PLC0415
        from testdb_app.side_effects import is_same, shallow  # noqa: PLC0415
        from testdb_app.transactions import has_failed  # noqa: PLC0415

        if any(not is_same(shallow(each), before) for each, before in self._wide):
            self._changed.append("changes the value of a wider fixture")
        is_named = self._fixturedef.argname in self._context.share.fixtures
        reason = None
        if any(map(has_failed, self._blocks)):
            reason = "has broken its transaction: a statement has failed in it"
        elif any(len(each.savepoint_ids) != count for each, count in self._blocks.items()):
            reason = "leaves an atomic() block open"
        elif not is_named:
            reason = find_side_effect(self._fixturedef, self._changed, sends_statements=sends_statements)
        if reason is None:
            try:
                deep_copy(value, {id(each): each for each, _ in self._wide})
            except Exception as error:  # noqa: BLE001 - any object may refuse to be copied, by any error
                reason = f"has a value that cannot be copied ({type(error).__name__}: {error})"
        if reason is not None:
            self._refused[self._fixturedef] = reason
