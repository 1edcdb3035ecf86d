"""A copy for each test of what a wide fixture made, as ``setUpTestData()`` gives: a test may change it, or delete it."""

from __future__ import annotations

import copy
from typing import Any


class CopiedPerTest:
    """A value of which each test gets a copy of its own; see :func:`copied_per_test`."""

    def __init__(self, value: Any) -> None:
        self.value = value


def copied_per_test(value: Any) -> Any:
    """Have each test get a deep copy of *value*, which a fixture of a wide scope returns or yields.

    ::

        @pytest.fixture(scope="module")
        def catalogue(db_module):
            return copied_per_test(Catalogue.objects.create(name="spring"))

    So a test that calls ``save()`` or ``delete()``, which change the object in memory too, does it for itself. What several
    fixtures share stays shared within a test. Costs a ``copy.deepcopy()`` a test.
    """
    return CopiedPerTest(value)


class Copies:
    """The values to be copied, and the copies of the test that runs.

    Wide fixtures build on the values themselves, so that what they share stays shared; the test, and what is made for it
    alone, get the copies.
    """

    def __init__(self) -> None:
        self._originals: dict[Any, tuple[Any, Any]] = {}
        self._copies: dict[Any, Any] = {}
        self._memo: dict[int, Any] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be copied."""
        return not self._originals

    def start_test(self) -> None:
        """Forget the copies of the test before."""
        self._memo, self._copies = {}, {}
        self.hand_out_originals()

    def keep(self, fixturedef: Any, value: Any) -> Any:
        """Return what *fixturedef* has made, out of the wrapping that it has returned it in, if it has."""
        if not isinstance(value, CopiedPerTest):
            return value
        key = fixturedef.cached_result[1]
        fixturedef.cached_result = (value.value, key, None)
        if fixturedef.scope != "function":
            self._originals[fixturedef] = (value.value, key)
        return value.value

    def hand_out_originals(self) -> None:
        """Have fixtures that are set up from now on get the values themselves."""
        self._forget_ended()
        for fixturedef, (original, key) in self._originals.items():
            fixturedef.cached_result = (original, key, None)

    def hand_out_copies(self, item: Any = None) -> None:
        """Have fixtures that are set up from now on get the copies, and *item*, which has been set up."""
        self._forget_ended()
        for fixturedef, (original, key) in self._originals.items():
            if fixturedef not in self._copies:
                self._copies[fixturedef] = copy.deepcopy(original, self._memo)
            copied = self._copies[fixturedef]
            fixturedef.cached_result = (copied, key, None)
            arguments = getattr(item, "funcargs", {})
            if arguments.get(fixturedef.argname) is original:
                arguments[fixturedef.argname] = copied

    def _forget_ended(self) -> None:
        for fixturedef in [each for each in self._originals if each.cached_result is None]:
            del self._originals[fixturedef]
            self._copies.pop(fixturedef, None)
