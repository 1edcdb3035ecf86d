"""The open scopes of a run of pytest, as a stack: the last one that was opened ends first.

Fixtures have the order of pytest and that of the database: a savepoint can be rolled back only together with everything
after it. So before pytest ends a fixture, those above it end. Before a wide fixture begins, the narrower ones end; pytest
sets them up again for the test that is being set up, or the next one that uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pytest

from testdb_app.exceptions import ConfigurationError, ScopeError, SessionBrokenError
from testdb_app.plugin import _pytest_private, options, requests
from testdb_app.plugin.requests import FUNCTION, RANKS

if TYPE_CHECKING:
    from testdb_app.transactions import OuterTransaction


class Kind(StrEnum):
    """The kind of an entry: one of our scopes, a fixture with rows, a unittest class, a shared fixture, or a test."""

    ROLLBACK = "rollback"
    COMMITTED = "committed"
    DATA = "data"
    CLASS = "class"
    SHARED = "shared"
    TEST = "test"


class OpenScope:
    """An open scope, fixture, class or test. ``transactions`` are rolled back when it ends; ``rank`` is that of its scope.

    With ``in_commits`` the rows of the fixture are committed.
    """

    def __init__(self, kind: Kind, fixturedef: Any, request: Any, *, in_commits: bool = False) -> None:
        self.kind = kind
        self.fixturedef = fixturedef
        self.request = request
        self.in_commits = in_commits
        self.rank = FUNCTION if kind in {Kind.SHARED, Kind.TEST} else RANKS[fixturedef.scope]
        self.node = request.node
        self.transactions: list[OuterTransaction] = []
        # Lets the finalizers of a fixture use the database.
        self.unblocked: AbstractContextManager[Any] = nullcontext()

    @property
    def title(self) -> str:
        """Its description, for the beginning of a sentence."""
        return str(self).replace("the", "The", 1)

    def finish(self) -> None:
        """End it, as pytest ends the fixture."""
        self.fixturedef.finish(self.request)

    def __str__(self) -> str:
        if self.kind is Kind.TEST:
            return f"the test {self.node.nodeid}"
        if self.kind is Kind.CLASS:
            return f"the class {self.node.nodeid}"
        return f'the fixture "{self.fixturedef.argname}" ({self.fixturedef.scope} scope)'


class ScopeStack:
    """Everything that is open, the widest first. ``is_setting_up`` is on while a test is being set up."""

    def __init__(self) -> None:
        self.entries: list[OpenScope] = []
        self.is_setting_up = False
        # Fixtures whose functions run, the outermost first.
        self.in_progress: list[Any] = []
        self._has_dropped = False
        # Fixtures that the present test had already when they were ended.
        self._dropped: list[Any] = []

    def push(self, entry: OpenScope) -> None:
        """Add an entry that was just opened."""
        self.entries.append(entry)

    def push_below_test(self, entry: OpenScope) -> None:
        """Add an entry that was opened before the savepoint of the present test, which is the last one."""
        self.entries.insert(len(self.entries) - 1, entry)

    def remove(self, entry: OpenScope) -> None:
        """Remove an entry that has ended, wherever it is."""
        if entry in self.entries:
            self.entries.remove(entry)

    @property
    def is_quiet(self) -> bool:
        """Whether at most a test is open, and no fixture has to be set up again."""
        return not self._has_dropped and all(entry.kind is Kind.TEST for entry in self.entries)

    def of_kind(self, *kinds: Kind) -> list[OpenScope]:
        """Return the entries of these kinds, the widest first."""
        return [entry for entry in self.entries if entry.kind in kinds]

    def find_obstacle(self, rank: int, fixturedef: Any) -> OpenScope | Any | None:
        """Return what keeps a fixture of that rank from beginning: the test or the narrower fixture that runs.

        These have requested it dynamically, so narrower entries cannot be ended below them.
        """
        tests = self.of_kind(Kind.TEST)
        if tests and rank < FUNCTION:
            return tests[0]
        if not self._narrower(rank):
            return None
        running = [each for each in self.in_progress if each is not fixturedef and RANKS[each.scope] > rank]
        return running[0] if running else None

    def make_room(self, rank: int) -> None:
        """End the entries that are narrower than *rank*, the last first."""
        self.finish(self._narrower(rank))

    def finish_above(self, entry: OpenScope) -> None:
        """End the entries that were opened after *entry*, the last first."""
        if entry in self.entries:
            self.finish(self.entries[self.entries.index(entry) + 1 :])

    def finish_from(self, entry: OpenScope) -> None:
        """End *entry* and those opened after it, the last first."""
        if entry in self.entries:
            self.finish(self.entries[self.entries.index(entry) :])

    def finish_from_first(self, *kinds: Kind) -> None:
        """End the widest entry of these kinds and those opened after it, the last first."""
        found = self.of_kind(*kinds)
        if found:
            self.finish_from(found[0])

    def has(self, name: str) -> bool:
        """Whether the fixture of that name is open."""
        return any(entry.fixturedef.argname == name for entry in self.entries)

    def finish(self, entries: Iterable[OpenScope]) -> None:
        """End *entries*, the last first, as pytest ends fixtures. Raises their first error after all have ended."""
        errors: list[BaseException] = []
        for entry in reversed(list(entries)):
            if entry in self.entries and entry.fixturedef not in self.in_progress:
                self._finish(entry, errors)
        if errors:
            for other in errors[1:]:
                errors[0].add_note(f"Then: {other!r}")
            raise errors[0]

    def _finish(self, entry: OpenScope, errors: list[BaseException]) -> None:
        try:
            entry.finish()
        except BaseException as error:  # noqa: BLE001 - it may be an outcome of pytest, and the others have to end too
            errors.append(error)
        self.remove(entry)

    def forget_ended(self, request: Any) -> None:
        """Have the test that is being set up request again the fixtures that were ended although it had them."""
        item = _pytest_private.item_of(request)
        used = _pytest_private.fixtures_set_up(request)
        for name, fixturedef in list(used.items()):
            if getattr(fixturedef, "cached_result", True) is None and fixturedef not in self.in_progress:
                del used[name]
                getattr(item, "funcargs", {}).pop(name, None)
                self._dropped.append(fixturedef)
                self._has_dropped = True
        for fixturedef in self._dropped:
            if fixturedef.cached_result is None and fixturedef not in self.in_progress:
                # pytest registers the finalizer of a fixture with those that it depends on, even if these have just ended.
                _pytest_private.forget_finalizers(fixturedef)

    def refill_wide(self, request: Any) -> Exception | None:
        """Set up again the wide fixtures that the present test has lost. Return the error, if any."""
        if not self._has_dropped:
            return None
        self._has_dropped = False
        item = _pytest_private.item_of(request)
        try:
            for name in item.fixturenames:
                known = _pytest_private.collected_definitions(request, name)
                if known and known[-1].scope != "function":
                    item.funcargs[name] = _pytest_private.request_of(item).getfixturevalue(name)
        except Exception as error:  # noqa: BLE001 - the fixture that is set up next raises it
            return error
        return None

    def refill(self, item: Any) -> None:
        """Set up again every fixture that *item* has lost. Call it after its own set-up."""
        while self._has_dropped:
            self._has_dropped = False
            _pytest_private.fill_fixtures(item)

    def end_set_up(self) -> None:
        """Forget the fixtures that the present test has lost: it has them again, or its set-up has failed."""
        self.is_setting_up = self._has_dropped = False
        self._dropped.clear()

    def _narrower(self, rank: int) -> list[OpenScope]:
        return [entry for entry in self.entries if entry.rank > rank]


def refuse(fixturedef: Any, request: Any, error: Exception) -> Generator[None, object, object]:
    """Have the function of the fixture raise *error*, and pytest forget it: only this request was wrong."""
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
    """Return a function that raises *error*, in place of the function of a fixture. The hook around it must not raise."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    return refuse


_STACK = pytest.StashKey[ScopeStack]()


def stack_of(config: pytest.Config) -> ScopeStack:
    """Return the stack of the run with this *config*."""
    return config.stash.setdefault(_STACK, ScopeStack())


def hold_scope(request: Any, blocker: Any) -> Generator[None]:
    """Hold a scope open. This is the body of its fixture, with its *request*; *blocker* is pytest-django's.

    Raises :class:`ScopeError` if it was requested too late, :class:`ConfigurationError` without the app, and what
    :meth:`OuterTransaction.open` raises. At its end it raises :class:`SessionBrokenError` if its transaction has ended early.
    """
    stack, fixturedef = stack_of(request.config), _pytest_private.definition_of(request)
    rank, name = requests.RANKS[fixturedef.scope], fixturedef.argname
    check_hooked(request.config, name)
    check_in_time(stack, fixturedef)
    _check_access(request, name)
    _check_installed(name)
    users = _users(request, name)
    _open_wider(stack, request, rank, users)
    aliases = _aliases(users)
    entry = OpenScope(Kind.COMMITTED if name in requests.COMMITTED else Kind.ROLLBACK, fixturedef, request)
    if name == "db_package":
        # pytest treats a package-scoped fixture of a plugin as one of the session.
        entry.node = _pytest_private.item_of(request).getparent(pytest.Package) or request.node
    if entry.kind is Kind.COMMITTED:
        # Nothing can be committed inside their transactions.
        stack.finish_from_first(Kind.ROLLBACK)
        stack.forget_ended(request)
        with blocker.unblock():
            _prepare(aliases)
    else:
        with blocker.unblock():
            open_transactions(entry, aliases)
    stack.push(entry)
    yield
    stack.finish_above(entry)
    stack.remove(entry)
    with blocker.unblock():
        if entry.kind is Kind.ROLLBACK:
            roll_back(entry)
        else:
            _reset(aliases)
        _close_mirrors(aliases)
    if entry.kind is Kind.COMMITTED:
        # The rows of wider committed scopes were deleted, too.
        stack.finish_from_first(Kind.COMMITTED)


def check_in_time(stack: ScopeStack, fixturedef: Any) -> None:
    """Raise :class:`ScopeError` if a wide fixture begins inside a narrower one that cannot be ended."""
    obstacle = stack.find_obstacle(requests.RANKS[fixturedef.scope], fixturedef)
    if obstacle is None:
        return
    where = (
        str(obstacle)
        if isinstance(obstacle, OpenScope)
        else f'the fixture "{obstacle.argname}" ({obstacle.scope} scope)'
    )
    raise ScopeError(
        f'The fixture "{fixturedef.argname}" ({fixturedef.scope} scope) was asked for inside {where}, whose part of the '
        "database is narrower and open already: its rows would vanish with that. Name it before: as an argument of "
        f'{where}, or by @pytest.mark.usefixtures("{fixturedef.argname}").'
    )


def open_transactions(entry: OpenScope, aliases: Iterable[str]) -> None:
    """Open an outer transaction for each alias, all or none, and add it to *entry*."""
    from django.db import connections  # noqa: PLC0415 - Django is imported where it is used

    from testdb_app.transactions import OuterTransaction  # noqa: PLC0415

    try:
        for alias in aliases:
            transaction = OuterTransaction(connections[alias], str(entry))
            transaction.open()
            entry.transactions.append(transaction)
    except BaseException:
        for transaction in reversed(entry.transactions):
            transaction.roll_back()
        raise


def roll_back(entry: OpenScope) -> None:
    """Roll back the transactions of *entry*. Raises :class:`SessionBrokenError` if one of them has ended early."""
    transactions, entry.transactions = entry.transactions, []
    faults = [
        f'{fault} (alias "{each.connection.alias}")' for each in reversed(transactions) if (fault := each.roll_back())
    ]
    if faults:
        raise SessionBrokenError(
            f"{entry.title} could not be rolled back as it should: {'; '.join(faults)}.", owner=str(entry)
        )


def _open_wider(stack: ScopeStack, request: Any, rank: int, users: list[pytest.Item]) -> None:
    """Open the wider scopes that tests of this one will use. Opened later, they would end this one first."""
    wider = [
        name
        for name, its_rank in requests.ROLLBACK.items()
        if its_rank < rank and any(name in requests.names_of(item) for item in users)
    ]
    stack.make_room(min([rank, *(requests.ROLLBACK[name] for name in wider if not stack.has(name))]))
    stack.forget_ended(request)
    for name in wider:
        request.getfixturevalue(name)


def check_hooked(config: pytest.Config, name: str) -> None:
    """Raise :class:`ScopeError` if no test of the run names one of our fixtures: nothing was prepared for *name* then."""
    if not config.pluginmanager.has_plugin(options.HOOKS):
        raise ScopeError(
            f'The fixture "{name}" was asked for by getfixturevalue(), and no test of this run names it, so nothing was prepared '
            f'for it. Name it: as an argument of the fixture or the test, or by @pytest.mark.usefixtures("{name}").'
        )


def _check_access(request: Any, name: str) -> None:
    """Raise :class:`ScopeError` if pytest-django blocks the database for the present test, which does not name the scope."""
    item = _pytest_private.item_of(request)
    if requests.uses_database(item) or _pytest_private.DB_HELPER in _pytest_private.fixtures_set_up(request):
        return
    from django.db import connection  # noqa: PLC0415

    try:
        connection.ensure_connection()
    except RuntimeError as error:
        raise ScopeError(
            f'The fixture "{name}" was asked for by getfixturevalue(), and {item.nodeid} does not name it, so pytest-django '
            "does not let that test use the database. Name it: as an argument of the fixture or the test, or by "
            f'@pytest.mark.usefixtures("{name}").'
        ) from error


def _check_installed(name: str) -> None:
    from django.apps import apps  # noqa: PLC0415

    if not apps.is_installed("testdb_app"):
        raise ConfigurationError(
            f'The fixture "{name}" needs "testdb_app" in INSTALLED_APPS of the test settings: without it the guard does '
            "not know the real databases."
        )


def _users(request: Any, name: str) -> list[pytest.Item]:
    """Return the tests below the node of the scope that use it. The present one may have requested it dynamically."""
    item = _pytest_private.item_of(request)
    found = [
        each for each in request.session.items if name in requests.names_of(each) and request.node in each.listchain()
    ]
    return found if item in found else [item, *found]


def _aliases(users: list[pytest.Item]) -> list[str]:
    from django.db import connections  # noqa: PLC0415

    wanted: set[str] = set()
    for item in users:
        databases = requests.databases_of(item)
        wanted.update(connections if databases == "__all__" else databases)
    return [alias for alias in connections if alias in wanted]


def _prepare(aliases: Iterable[str]) -> None:
    from testdb_app.database_setup import prepare_test_database  # noqa: PLC0415

    for alias in aliases:
        if not _is_mirror(alias):
            prepare_test_database(alias)


def _reset(aliases: Iterable[str]) -> None:
    from testdb_app.teardown import reset_databases  # noqa: PLC0415

    reset_databases(alias for alias in aliases if not _is_mirror(alias))


def _close_mirrors(aliases: Iterable[str]) -> None:
    """Close the connections that Django does not close before it destroys the database of another alias."""
    from django.db import connections  # noqa: PLC0415

    for alias in aliases:
        if _is_mirror(alias) and not connections[alias].in_atomic_block:
            connections[alias].close()


def _is_mirror(alias: str) -> bool:
    from django.db import connections  # noqa: PLC0415

    return bool(connections[alias].settings_dict["TEST"]["MIRROR"])
