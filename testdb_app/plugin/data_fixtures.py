"""What is done around the set-up of wide fixtures with rows: each gets a savepoint, and the last to come is the first to go.

A fixture has rows, as far as can be known, if it depends on one of the scopes. Where no transaction is open, because the
scope commits, rows of one fixture cannot be told from those of another, and go all together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from testdb_app.exceptions import SessionBrokenError
from testdb_app.plugin import asking
from testdb_app.plugin.scopes import check_in_time, open_transactions, roll_back
from testdb_app.plugin.stack import Entry, Kind, ScopeStack, refuse


class DataFixtures:
    """The wide fixtures of one run, and how they begin and end."""

    def __init__(self, stack: ScopeStack) -> None:
        self.stack = stack
        self._known: dict[Any, bool] = {}

    def has_rows(self, fixturedef: Any, request: Any) -> bool:
        """Whether a fixture of a wide scope depends on one of ours, directly or not."""
        if fixturedef.scope == "function" or fixturedef.argname in {*asking.ROLLBACK, *asking.COMMITTED}:
            return False
        if fixturedef not in self._known:
            self._known[fixturedef] = _depends_on_scope(fixturedef, request, set())
        return self._known[fixturedef]

    def set_up(self, fixturedef: Any, request: Any) -> Generator[None, object, object]:
        """Be the hook around the set-up of *fixturedef*, which has rows."""
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

    def _begin(self, fixturedef: Any, request: Any) -> tuple[Entry, AbstractContextManager[Any]] | Exception:
        """Make room, and a savepoint. Returns what went wrong: the hook that this is done in must not raise."""
        try:
            check_in_time(self.stack, fixturedef)
            return self._open(fixturedef, request)
        except Exception as error:  # noqa: BLE001 - the fixture's own function raises it
            return error

    def _open(self, fixturedef: Any, request: Any) -> tuple[Entry, AbstractContextManager[Any]]:
        self.stack.make_room(asking.RANKS[fixturedef.scope])
        self.stack.forget_ended(request)
        for name in fixturedef.argnames:
            request.getfixturevalue(name)  # what it depends on may have been ended for the sake of others
        held = [each for scope in self.stack.of_kind(Kind.ROLLBACK) for each in scope.transactions]
        entry = Entry(Kind.DATA, fixturedef, request, in_commits=not held)
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

    def _abandon(self, entry: Entry, error: BaseException) -> None:
        """Leave nothing of a fixture that has failed half-way, and have pytest know that it failed."""
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

    def _abandon_scope(self, entry: Entry, request: Any) -> None:
        """End the scope too where its transaction is broken, or where the fixture's rows are committed."""
        broken = [
            scope
            for scope in self.stack.of_kind(Kind.ROLLBACK)
            if any(each.find_damage() for each in scope.transactions)
        ]
        base = broken[0] if broken else self._committed_base(entry)
        if base is not None:
            self.stack.finish_from(base)
            self.stack.forget_ended(request)

    def _start_end(self, entry: Entry, blocker: Any) -> None:
        """Before a fixture's own end: end what came after it, and let its end use the database."""
        self.stack.finish_above(entry)
        entry.unblocked = blocker.unblock()
        entry.unblocked.__enter__()

    def _end(self, entry: Entry) -> None:
        """After a fixture's own end: undo what it made."""
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

    def _committed_base(self, entry: Entry) -> Entry | None:
        bases = self.stack.of_kind(Kind.COMMITTED)
        return bases[0] if bases and entry.in_commits else None


def _depends_on_scope(fixturedef: Any, request: Any, seen: set[str]) -> bool:
    for name in fixturedef.argnames:
        if name in asking.ROLLBACK or name in asking.COMMITTED:
            return True
        if name not in seen:
            seen.add(name)
            others = _definitions(request, name)
            if any(_depends_on_scope(other, request, seen) for other in others if other is not fixturedef):
                return True
    return False


def _definitions(request: Any, name: str) -> Sequence[Any]:
    manager, item = request._fixturemanager, request._pyfuncitem
    try:
        found = manager.getfixturedefs(name, item)
    except AttributeError:
        found = manager.getfixturedefs(name, item.nodeid)  # pytest 8.0
    return found or ()


def _check(entry: Entry) -> None:
    """Blame the fixture that has broken its transaction, or has left in it what no commit would take."""
    for each in entry.transactions:
        damage = each.find_damage() or each.find_dangling()
        if damage is not None:
            raise SessionBrokenError(
                f'{entry.title} has broken the transaction that its rows are in (alias "{each.connection.alias}"): {damage}. '
                "They were rolled back, and the tests that use it do not run. Mend the fixture.",
                owner=str(entry),
            )
