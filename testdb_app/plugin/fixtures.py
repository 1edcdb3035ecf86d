"""Wide fixtures with rows: each gets a savepoint, and each test can get copies of their objects.

A fixture counts as one with rows if it depends on a fixture of a scope. In a committed scope no transaction is open. Rows of
one fixture cannot be told from those of another there, so all of them are removed together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

from testdb_app.exceptions import SessionBrokenError
from testdb_app.plugin import requests
from testdb_app.plugin._pytest_private import find_definitions
from testdb_app.plugin.scopes import Kind, OpenScope, ScopeStack, check_in_time, open_transactions, refuse, roll_back


class DataFixtures:
    """Begins and ends the savepoints of the wide fixtures of one run."""

    def __init__(self, stack: ScopeStack) -> None:
        self.stack = stack
        self._known: dict[Any, bool] = {}

    def has_rows(self, fixturedef: Any, request: Any) -> bool:
        """Whether a wide fixture depends on a fixture of a scope, directly or through others."""
        if fixturedef.scope == "function" or fixturedef.argname in {*requests.ROLLBACK, *requests.COMMITTED}:
            return False
        if fixturedef not in self._known:
            self._known[fixturedef] = _depends_on_scope(fixturedef, request, set())
        return self._known[fixturedef]

    def set_up(self, fixturedef: Any, request: Any) -> Generator[None, object, object]:
        """Run the set-up of *fixturedef*, which has rows, in a savepoint of its own. The body of a hook."""
        begun = self._begin(fixturedef, request)
        if isinstance(begun, Exception):
            return (yield from refuse(fixturedef, request, begun))
        entry, unblocked = begun
        try:
            result = yield
            _check(entry)
        except BaseException as error:
            self._abandon(entry, error)
            raise
        finally:
            unblocked.__exit__(None, None, None)
        blocker = request.getfixturevalue("django_db_blocker")
        fixturedef.addfinalizer(lambda: self._start_end(entry, blocker))
        return result

    def _begin(self, fixturedef: Any, request: Any) -> tuple[OpenScope, AbstractContextManager[Any]] | Exception:
        """End narrower scopes and make a savepoint. Return the error, if any: the hook that calls this must not raise."""
        try:
            check_in_time(self.stack, fixturedef)
            return self._open(fixturedef, request)
        except Exception as error:  # noqa: BLE001 - the function of the fixture raises it
            return error

    def _open(self, fixturedef: Any, request: Any) -> tuple[OpenScope, AbstractContextManager[Any]]:
        self.stack.make_room(requests.RANKS[fixturedef.scope])
        self.stack.forget_ended(request)
        for name in fixturedef.argnames:
            request.getfixturevalue(name)  # a fixture that it depends on may have been ended meanwhile
        held = [each for scope in self.stack.of_kind(Kind.ROLLBACK) for each in scope.transactions]
        entry = OpenScope(Kind.DATA, fixturedef, request, in_commits=not held)
        unblocked: AbstractContextManager[Any] = request.getfixturevalue("django_db_blocker").unblock()
        unblocked.__enter__()
        try:
            open_transactions(entry, dict.fromkeys(each.connection.alias for each in held))
        except BaseException:
            unblocked.__exit__(None, None, None)
            raise
        self.stack.push(entry)
        fixturedef.addfinalizer(lambda: self._end(entry))
        return entry, unblocked

    def _abandon(self, entry: OpenScope, error: BaseException) -> None:
        """Remove the rows of a fixture that failed half-way, and record the failure for pytest."""
        fixturedef, request = entry.fixturedef, entry.request
        failed = (None, fixturedef.cache_key(request), (error, error.__traceback__))
        fixturedef.cached_result = failed
        steps: list[Callable[[], object]] = [
            lambda: self.stack.finish_above(entry),
            lambda: self.stack.remove(entry),
            lambda: fixturedef.finish(request),
            lambda: roll_back(entry),
            lambda: self._abandon_scope(entry, request),
        ]
        for step in steps:
            try:
                step()
            except Exception as other:  # noqa: BLE001 - the first error is the one that matters
                error.add_note(f"Then: {other}")
        fixturedef.cached_result = failed

    def _abandon_scope(self, entry: OpenScope, request: Any) -> None:
        """End the scope, too, if its transaction is broken or the rows of the fixture are committed."""
        broken = [
            scope
            for scope in self.stack.of_kind(Kind.ROLLBACK)
            if any(each.find_fault() for each in scope.transactions)
        ]
        base = broken[0] if broken else self._committed_base(entry)
        if base is not None:
            self.stack.finish_from(base)
            self.stack.forget_ended(request)

    def _start_end(self, entry: OpenScope, blocker: Any) -> None:
        """Prepare the finalizers of a fixture: end what was set up after it, and let them use the database."""
        self.stack.finish_above(entry)
        entry.unblocked = blocker.unblock()
        entry.unblocked.__enter__()

    def _end(self, entry: OpenScope) -> None:
        """Roll back the rows of a fixture after its finalizers."""
        if entry not in self.stack.entries:
            return
        self.stack.remove(entry)
        try:
            roll_back(entry)
        finally:
            entry.unblocked.__exit__(None, None, None)
        base = self._committed_base(entry)
        if base is not None and (self.stack.is_setting_up or entry.rank > base.rank):
            self.stack.finish_from(base)

    def _committed_base(self, entry: OpenScope) -> OpenScope | None:
        bases = self.stack.of_kind(Kind.COMMITTED)
        return bases[0] if bases and entry.in_commits else None


def _depends_on_scope(fixturedef: Any, request: Any, seen: set[str]) -> bool:
    for name in fixturedef.argnames:
        if name in requests.ROLLBACK or name in requests.COMMITTED:
            return True
        if name not in seen:
            seen.add(name)
            others = find_definitions(request, name)
            if any(_depends_on_scope(other, request, seen) for other in others if other is not fixturedef):
                return True
    return False


def _check(entry: OpenScope) -> None:
    """Raise :class:`SessionBrokenError` if the fixture has broken its transaction, or left rows that no commit would accept."""
    for each in entry.transactions:
        fault = each.find_fault() or each.find_dangling_rows()
        if fault is not None:
            raise SessionBrokenError(
                f'{entry.title} has broken the transaction that its rows are in (alias "{each.connection.alias}"): {fault}. '
                "They were rolled back, and the tests that use it do not run. Mend the fixture.",
                owner=str(entry),
            )


class CopiedPerTest:
    """A value of which each test gets a copy of its own; see :func:`copied_per_test`."""

    def __init__(self, value: Any) -> None:
        self.value = value


def copied_per_test(value: Any) -> Any:
    """Give each test a deep copy of *value*, which a wide fixture returns or yields.

    ::

        @pytest.fixture(scope="module")
        def catalogue(db_module):
            return copied_per_test(Catalogue.objects.create(name="spring"))

    ``save()`` and ``delete()`` also change the object in memory; with a copy, a test changes its own. Objects that several
    fixtures share are still shared within a test. Costs one ``copy.deepcopy()`` a test.
    """
    return CopiedPerTest(value)


class Copies:
    """The values to copy, and their copies for the test that runs.

    Wide fixtures use the values themselves, so that they share them. The test and its function-scoped fixtures get the
    copies.
    """

    def __init__(self) -> None:
        self._originals: dict[Any, tuple[Any, Any]] = {}
        self._copies: dict[Any, Any] = {}
        self._memo: dict[int, Any] = {}

    @property
    def memo(self) -> dict[int, Any]:
        """The memo of all copies for the present test."""
        return self._memo

    def originals(self) -> dict[int, Any]:
        """Return the values of which the present test has copies, by the identities of these."""
        return {id(copied): self._originals[fixturedef][0] for fixturedef, copied in self._copies.items()}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be copied."""
        return not self._originals

    def start_test(self) -> None:
        """Forget the copies of the last test."""
        self._memo, self._copies = {}, {}
        self.hand_out_originals()

    def keep(self, fixturedef: Any, value: Any) -> Any:
        """Return the value of *fixturedef*. If it is wrapped by :func:`copied_per_test`, remember and unwrap it."""
        if not isinstance(value, CopiedPerTest):
            return value
        key = fixturedef.cached_result[1]
        fixturedef.cached_result = (value.value, key, None)
        if fixturedef.scope != "function":
            self._originals[fixturedef] = (value.value, key)
        return value.value

    def hand_out_originals(self) -> None:
        """Give the values themselves to fixtures that are set up from now on."""
        self._forget_ended()
        for fixturedef, (original, key) in self._originals.items():
            fixturedef.cached_result = (original, key, None)

    def hand_out_copies(self, item: Any = None) -> None:
        """Give the copies to fixtures that are set up from now on, and to *item*, which was set up before."""
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
