"""The scopes and the fixtures with rows that are open in a run of pytest, as a stack: what was opened last ends first.

Below pytest's own order of fixtures there is that of the database: a savepoint can be rolled back only with all that came
after it. So where pytest ends a fixture, those above it end first, and where a wide fixture begins, the narrower ones end
first; pytest makes them again for the next test that asks for them, or for the one that is being set up.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from testdb_app.plugin.asking import FUNCTION, RANKS

if TYPE_CHECKING:
    from testdb_app.transactions import OuterTransaction


class Kind(StrEnum):
    """What an entry of the stack is: one of our scopes, a fixture with rows in one, a class of unittest, a test."""

    ROLLBACK = "rollback"
    COMMITTED = "committed"
    DATA = "data"
    CLASS = "class"
    TEST = "test"


class Entry:
    """One thing that is open. ``transactions`` are rolled back when it ends; ``rank`` is that of its scope.

    ``in_commits`` tells of a fixture that its rows are committed.
    """

    def __init__(self, kind: Kind, fixturedef: Any, request: Any, *, in_commits: bool = False) -> None:
        self.kind = kind
        self.fixturedef = fixturedef
        self.request = request
        self.in_commits = in_commits
        self.rank = FUNCTION if kind is Kind.TEST else RANKS[fixturedef.scope]
        self.node = request.node
        self.transactions: list[OuterTransaction] = []
        # What lets the end of a fixture use the database.
        self.unblocked: AbstractContextManager[Any] = nullcontext()

    @property
    def title(self) -> str:
        """Its text, for the beginning of a sentence."""
        return str(self).replace("the", "The", 1)

    def __str__(self) -> str:
        if self.kind is Kind.TEST:
            return f"the test {self.node.nodeid}"
        if self.kind is Kind.CLASS:
            return f"the class {self.node.nodeid}"
        return f'the fixture "{self.fixturedef.argname}" ({self.fixturedef.scope} scope)'


class ScopeStack:
    """All that is open, the widest first. ``is_setting_up`` tells whether a test is being set up just now."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.is_setting_up = False
        # Fixtures whose functions run, the outermost first.
        self.in_progress: list[Any] = []
        self._has_dropped = False
        # Those that the test at hand had already, when they ended.
        self._dropped: list[Any] = []

    def push(self, entry: Entry) -> None:
        """Add what has just been opened."""
        self.entries.append(entry)

    def remove(self, entry: Entry) -> None:
        """Take away what has ended, from wherever it is."""
        if entry in self.entries:
            self.entries.remove(entry)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is open but a test, perhaps, and nothing has to be made again."""
        return not self._has_dropped and all(entry.kind is Kind.TEST for entry in self.entries)

    def of_kind(self, *kinds: Kind) -> list[Entry]:
        """Return the entries of these kinds, the widest first."""
        return [entry for entry in self.entries if entry.kind in kinds]

    def find_obstacle(self, rank: int, fixturedef: Any) -> Entry | Any | None:
        """Return what keeps a fixture of that rank from beginning now: the test that runs, or a narrower fixture that does.

        They asked for it dynamically: what is open and narrower cannot be ended below them.
        """
        tests = self.of_kind(Kind.TEST)
        if tests and rank < FUNCTION:
            return tests[0]
        if not self._narrower(rank):
            return None
        running = [each for each in self.in_progress if each is not fixturedef and RANKS[each.scope] > rank]
        return running[0] if running else None

    def make_room(self, rank: int) -> None:
        """End all that is narrower than *rank*, the last first."""
        self.finish(self._narrower(rank))

    def finish_above(self, entry: Entry) -> None:
        """End all that was opened after *entry*, the last first."""
        if entry in self.entries:
            self.finish(self.entries[self.entries.index(entry) + 1 :])

    def finish_from(self, entry: Entry) -> None:
        """End *entry* and all that was opened after it, the last first."""
        if entry in self.entries:
            self.finish(self.entries[self.entries.index(entry) :])

    def finish_from_first(self, *kinds: Kind) -> None:
        """End the widest entry of one of these kinds, and all that was opened after it, the last first."""
        found = self.of_kind(*kinds)
        if found:
            self.finish_from(found[0])

    def has(self, name: str) -> bool:
        """Whether the fixture of that name is open."""
        return any(entry.fixturedef.argname == name for entry in self.entries)

    def finish(self, entries: Iterable[Entry]) -> None:
        """End *entries*, the last first, as pytest ends fixtures. Raises what their ends raised, after all of them."""
        errors: list[BaseException] = []
        for entry in reversed(list(entries)):
            if entry in self.entries and entry.fixturedef not in self.in_progress:
                self._finish(entry, errors)
        if errors:
            for other in errors[1:]:
                errors[0].add_note(f"Then: {other!r}")
            raise errors[0]

    def _finish(self, entry: Entry, errors: list[BaseException]) -> None:
        try:
            entry.fixturedef.finish(entry.request)
        except BaseException as error:  # noqa: BLE001 - pytest's own outcomes are among them, and others have to end too
            errors.append(error)
        self.remove(entry)

    def forget_ended(self, request: Any) -> None:
        """Have the test that is being set up ask again for the fixtures that were ended while it had them already."""
        item = request._pyfuncitem
        for name, fixturedef in list(request._fixture_defs.items()):
            if getattr(fixturedef, "cached_result", True) is None and fixturedef not in self.in_progress:
                del request._fixture_defs[name]
                getattr(item, "funcargs", {}).pop(name, None)
                self._dropped.append(fixturedef)
                self._has_dropped = True
        for fixturedef in self._dropped:
            if fixturedef.cached_result is None and fixturedef not in self.in_progress:
                # pytest registers the end of a fixture with those that it depends on, also where these have just ended.
                fixturedef._finalizers.clear()

    def refill_wide(self, request: Any) -> Exception | None:
        """Set up again the wide fixtures that the test at hand has lost that way. Returns what went wrong; see the hook."""
        if not self._has_dropped:
            return None
        self._has_dropped = False
        item = request._pyfuncitem
        try:
            for name in item.fixturenames:
                known = request._arg2fixturedefs.get(name)
                if known and known[-1].scope != "function":
                    item.funcargs[name] = item._request.getfixturevalue(name)
        except Exception as error:  # noqa: BLE001 - the fixture that is set up next raises it
            return error
        return None

    def refill(self, item: Any) -> None:
        """Set up again whatever it has lost. After its own set-up."""
        while self._has_dropped:
            self._has_dropped = False
            item._request._fillfixtures()

    def end_set_up(self) -> None:
        """Forget what the test at hand has lost: it has that again, or its set-up has failed."""
        self.is_setting_up = self._has_dropped = False
        self._dropped.clear()

    def _narrower(self, rank: int) -> list[Entry]:
        return [entry for entry in self.entries if entry.rank > rank]


def refuse(fixturedef: Any, request: Any, error: Exception) -> Generator[None, object, object]:
    """Have the fixture's own function raise *error*, and pytest forget that: it was this request that was wrong."""
    own = fixturedef.func
    fixturedef.func = _raising(error)
    try:
        return (yield)
    except BaseException:
        fixturedef.finish(request)
        raise
    finally:
        fixturedef.func = own


def _raising(error: Exception) -> Callable[..., Any]:
    """Return a function in place of a fixture's own that raises *error*: a hook around it must not."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    return refuse
