"""Share the rows of function-scoped fixtures between the tests of a module or a class.

pytest sets up each test as ever, in its own order. Where everything before a fixture was shared too, a fixture that has
made rows is kept: as a *layer*, a savepoint below that of the test. The next test that requests it gets a copy of the
value instead. Before a test, the layers that it does not request in the same order are rolled back; so it sees the rows of
its own fixtures, and of no others.

A layer costs one statement. The savepoint of the test is made a second time under its own name, and the first one stays below
it: PostgreSQL and SQLite keep both, and the newer one is what Django rolls back to. So a fixture that fails, or that turns out
not to be one for sharing, has run exactly as it would without.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from testdb_app.deep_copies import deep_copy
from testdb_app.exceptions import SessionBrokenError
from testdb_app.plugin import _pytest_private, requests
from testdb_app.plugin._pytest_private import DB_HELPER, collected_definitions, find_definitions, request_of
from testdb_app.plugin.scopes import Kind, OpenScope, ScopeStack
from testdb_app.plugin.sharing import Examination, Judgements, is_inert, set_up_order, wide_values
from testdb_app.side_effects import ACTIVATES, SETS

if TYPE_CHECKING:
    from testdb_app.plugin.fixtures import Copies
    from testdb_app.transactions import OuterTransaction

_Hook = Generator[None, object, object]
_Plan = dict[Any, tuple[Any, ...]]
"""The fixtures that a test can share, in the order of their set-up, and those before each that only set."""


class Layer(OpenScope):
    """The rows of one shared fixture. ``values`` are copies of its value and of those below, as they were when it was made.

    *settings* are the fixtures that only set, and that were set up before it: they are part of what it was made from.
    *savepoints* are what its rows are above: a connection, and the name of the savepoint. *finalizers* are those of the
    fixture.
    """

    def __init__(
        self,
        fixturedef: Any,
        request: Any,
        *,
        settings: tuple[Any, ...],
        values: list[Any],
        savepoints: Iterable[tuple[Any, str]],
        finalizers: Iterable[Callable[[], object]],
        held: Iterable[OuterTransaction],
    ) -> None:
        super().__init__(Kind.SHARED, fixturedef, request)
        self.settings = settings
        self.values = values
        self._savepoints = list(savepoints)
        self._finalizers = list(finalizers)
        self._held = list(held)
        self._blocker = request.getfixturevalue("django_db_blocker")

    def finish(self) -> None:
        """Run the finalizers, and roll the rows back, unless the scope around has ended. Two statements a database."""
        with self._blocker.unblock(), ExitStack() as stack:
            stack.callback(self._roll_back)
            for each in self._finalizers:
                stack.callback(each)

    def _roll_back(self) -> None:
        if all(each.is_open and each.find_fault() is None for each in self._held):
            for connection, name in reversed(self._savepoints):
                connection.savepoint_rollback(name)
                connection.savepoint_commit(name)


class _Test:
    """The test that is being set up: what it can share, and what it has got so far."""

    def __init__(self, item: Any, plan: _Plan, *, wanted: int) -> None:
        self.item = item
        self.plan = plan
        # How many of the plan's fixtures the next test wants.
        self.wanted = wanted
        # The layers that were there before the test, and the values that it has got, in the order of the plan.
        self.kept = 0
        self.values: list[Any] = []
        # Its savepoints, and the number of statements that were sent when the last one was made.
        self.savepoints: list[tuple[Any, str]] = []
        self.statements = 0
        self.is_open = False


class SharingReport:
    """What was shared in one run, by node and fixture; as plain values, which travel between processes."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[str, dict[str, Any]]] = {}
        # How many tests of each node cannot share, by what kind of test they are.
        self._barred: dict[str, dict[str, int]] = {}

    def note_used(self, item: Any, name: str) -> None:
        """Note that *item* has requested a fixture that nothing forbids to share."""
        self._of(item, name)["used"] += 1

    def note_made(self, item: Any, name: str) -> None:
        """Note that such a fixture was made for *item*."""
        self._of(item, name)["made"] += 1

    def note_refused(self, item: Any, name: str, reason: str) -> None:
        """Note why a fixture is made for *item* alone. The first reason of a node is kept."""
        entry = self._of(item, name)
        entry["why"] = entry["why"] or reason

    def note_barred(self, item: Any, share: requests.Share, kind: str) -> None:
        """Note that *item* was to *share* and cannot: it is *kind*, such as "a test that commits"."""
        self._count_barred(_node_of(item, share), kind, 1)

    def add_fixture(self, node: str, name: str, *, used: int, made: int, why: str | None) -> None:
        """Add that *name* was *used* by so many tests of *node*, how often it was *made*, and why it was not shared by all."""
        entry = self._entry(node, name)
        entry["used"] += used
        entry["made"] += made
        entry["why"] = entry["why"] or why

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"nodes": self._nodes, "barred": self._barred}

    def add(self, other: dict[str, Any]) -> None:
        """Add what another process has shared, as :meth:`as_dict` returns it."""
        for node, fixtures in other["nodes"].items():
            for name, entry in fixtures.items():
                self.add_fixture(node, name, **entry)
        for node, kinds in other["barred"].items():
            for kind, count in kinds.items():
                self._count_barred(node, kind, count)

    def write(self, terminal: Any, *, explains: bool) -> None:
        """Write how often shared fixtures were made, and with *explains* each fixture of each node."""
        if explains and (self._nodes or self._barred):
            terminal.write_sep("=", "shared fixtures")
            for line in self._lines():
                terminal.write_line(line)
        total = self._total()
        if total is not None:
            terminal.write_line(total)

    def _lines(self) -> Iterator[str]:
        """Yield what is shared, how often it was made, and what is not shared and why."""
        for node in sorted({*self._nodes, *self._barred}):
            yield node
            fixtures = self._nodes.get(node, {})
            for name, entry in sorted(fixtures.items(), key=lambda each: (-each[1]["used"], each[0])):
                is_shared = entry["made"] < entry["used"]
                if is_shared:
                    yield f"  shared: {name}, made {_times(entry['made'])} for {entry['used']} tests"
                why = entry["why"]
                if not is_shared and not why:
                    why = "is used by one test" if entry["used"] == 1 else "is not used by tests that follow each other"
                if why:
                    yield f"  not shared{' by all' * is_shared}: {name} {why}"
            for kind, count in self._barred.get(node, {}).items():
                yield f"  not shared by {'1 test' if count == 1 else f'{count} tests, each'}: {kind}"

    def _total(self) -> str | None:
        """Return how often shared fixtures were made, in one line; None if nothing was shared."""
        entries = [
            entry for fixtures in self._nodes.values() for entry in fixtures.values() if entry["made"] < entry["used"]
        ]
        if not entries:
            return None
        made, used = (sum(entry[key] for entry in entries) for key in ("made", "used"))
        what = "1 shared fixture was" if len(entries) == 1 else f"{len(entries)} shared fixtures were"
        return f"testdb_app: {what} made {_times(made)} instead of {_times(used)}"

    def _of(self, item: Any, name: str) -> dict[str, Any]:
        return self._entry(_node_of(item, _share(item)), name)

    def _entry(self, node: str, name: str) -> dict[str, Any]:
        return self._nodes.setdefault(node, {}).setdefault(name, {"used": 0, "made": 0, "why": None})

    def _count_barred(self, node: str, kind: str, count: int) -> None:
        kinds = self._barred.setdefault(node, {})
        kinds[kind] = kinds.get(kind, 0) + count


def _node_of(item: Any, share: requests.Share) -> str:
    node = item.getparent(pytest.Class if share.scope == "class" else pytest.Module) or item
    return str(node.nodeid)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


class Sharing:
    """The layers of one run. *copies* has the values of wide fixtures."""

    def __init__(self, stack: ScopeStack, copies: Copies) -> None:
        self.stack = stack
        self.copies = copies
        self.report = SharingReport()
        self._test: _Test | None = None
        self._context: tuple[Any, ...] = ()
        self._judgements = Judgements()
        self._blamed: Any = None
        # The test after the present one.
        self.next: Any = None
        # The fixture that a layer answers now.
        self.answered: Any = None

    @property
    def layers(self) -> list[Layer]:
        """The shared fixtures whose rows are there, in the order in which they were made."""
        return [entry for entry in self.stack.entries if isinstance(entry, Layer)]

    def has_blamed(self, item: Any) -> bool:
        """Whether a fixture of *item* was blamed for what is wrong with its scope."""
        return self._blamed is item

    def begin_test(self, item: Any) -> None:
        """Roll back the layers that *item* does not request in the same order. It costs two statements for each."""
        self._test = None
        share = requests.share_of(item)
        if share is None:
            barred = requests.barred_from_sharing(item)
            if barred is not None:
                self.report.note_barred(item, *barred)
            if _sees_database(item):
                self._drop(0)
            return
        context, plan, refused = self._plan(item, share)
        for name, reason in refused.items():
            self.report.note_refused(item, name, reason)
        if context != self._context:
            self._drop(0)
        self._context = context
        self._drop(_common({each.fixturedef: each.settings for each in self.layers}, plan))
        self._test = _Test(item, plan, wanted=self._count_wanted(context, plan))

    def _count_wanted(self, context: tuple[Any, ...], plan: _Plan) -> int:
        """Return how many fixtures of *plan* the next test requests too. A layer of another one would not be used."""
        item = self.next
        share = None if item is None else requests.share_of(item)
        if item is not None and share is None and not _sees_database(item):
            return len(plan)
        if item is None or share is None:
            return 0
        of_next, wanted, _ = self._plan(item, share)
        return _common(wanted, plan) if of_next == context else 0

    def note_savepoints(self, before: dict[Any, int]) -> None:
        """Note the savepoints of the test, which has just begun. *before* is how many were open on each connection."""
        test, held = self._test, self._held()
        if test is None or not held:
            return
        connections = [each.connection for each in held]
        test.savepoints = [
            (each, each.savepoint_ids[-1])
            for each in connections
            if len(each.savepoint_ids) == before.get(each, -1) + 1 and each.savepoint_ids[-1] is not None
        ]
        test.statements = _count(held)
        test.kept = len(self.layers)
        test.values = self._hand_out(test.item) if test.kept else []
        test.is_open = bool(test.savepoints)

    def count_savepoints(self) -> dict[Any, int]:
        """Return how many savepoints are open on each connection of the scope."""
        if self._test is None:
            return {}
        return {each.connection: len(each.connection.savepoint_ids) for each in self._held()}

    def set_up(self, fixturedef: Any, request: Any) -> _Hook:
        """Answer a fixture of function scope from its layer, or make it, and a layer of it. The body of a hook."""
        test = self._test
        if test is None or request.node is not test.item or fixturedef not in test.plan:
            return self.copies.keep(fixturedef, (yield))
        if not test.is_open:
            request.getfixturevalue(DB_HELPER)
        position = list(test.plan).index(fixturedef)
        self.report.note_used(test.item, fixturedef.argname)
        if position < test.kept:
            self.answered = fixturedef
            try:
                return (yield from _answer(fixturedef, test.values[position]))
            finally:
                self.answered = None
        self.report.note_made(test.item, fixturedef.argname)
        if position != len(test.values) or position >= test.wanted or not test.is_open:
            # One before it could not be shared, or the next test does not want it.
            result = self.copies.keep(fixturedef, (yield))
            self._check(test, fixturedef, self._held())
            return result
        return (yield from self._make(test, fixturedef, request))

    def _make(self, test: _Test, fixturedef: Any, request: Any) -> _Hook:
        """Make a fixture as pytest makes it, and then a layer of it if that is possible."""
        held = self._held()
        is_first = test.statements == _count(held)
        finalizers = _pytest_private.finalizers_of(fixturedef)
        known = len(finalizers)
        examination = Examination(fixturedef, test.item, [each.connection for each in held])
        with examination:
            result = self.copies.keep(fixturedef, (yield))
        self._check(test, fixturedef, held)
        made = _count(held) > test.statements
        reason = _find_fault(test, held)
        is_named = fixturedef.argname in _share(test.item).fixtures
        values, snapshot = [*test.values, result], list[Any]()
        if reason is None:
            memo = self._wide_originals(test.item)
            snapshot, reason = examination.judge(values, memo, sends_statements=made, is_named=is_named)
        if reason is not None:
            self._judgements.refuse(examination, reason)
        elif not is_first:
            # Where it comes first in another test, it can be shared.
            reason = "is set up after one that sends statements and is not shared"
        if reason is not None:
            self.report.note_refused(test.item, fixturedef.argname, reason)
            return result
        savepoints = test.savepoints if made or is_named else []
        for connection, name in savepoints:
            with connection.cursor() as cursor:
                cursor.execute(connection.ops.savepoint_create_sql(name))
        layer = Layer(
            fixturedef,
            request,
            settings=test.plan[fixturedef],
            values=snapshot,
            savepoints=savepoints,
            finalizers=finalizers[known:],
            held=held,
        )
        del finalizers[known:]
        self.stack.push_below_test(layer)
        test.statements, test.values = _count(held), values
        return result

    def _check(self, test: _Test, fixturedef: Any, held: list[OuterTransaction]) -> None:
        """Raise :class:`SessionBrokenError` if a fixture has ended the transaction of its scope."""
        for transaction in held:
            fault = transaction.find_fault()
            if fault is not None and fault.is_fatal:
                self._blamed = test.item
                name = fixturedef.argname
                raise SessionBrokenError(
                    f'The fixture "{name}" (function scope) has broken the transaction that its rows are in: {fault}. The tests '
                    "that request it cannot run in one transaction with others. Mend the fixture, or give its tests a module "
                    f"without the mark {requests.SHARE_MARK}.",
                    owner=str(test.item.nodeid),
                )

    def _held(self) -> list[OuterTransaction]:
        """Return the transactions that the rows are in."""
        return [each for scope in self.stack.of_kind(Kind.ROLLBACK) for each in scope.transactions]

    def _drop(self, kept: int) -> None:
        """Roll back the layers after the first *kept*."""
        self.stack.finish(self.layers[kept:])

    def _hand_out(self, item: Any) -> list[Any]:
        """Return copies of the values of all layers for *item*, with one memo, so that objects they share are still shared."""
        memo = self.copies.memo
        for value in wide_values(item):
            memo.setdefault(id(value), value)
        return [deep_copy(each, memo) for each in self.layers[-1].values]

    def _wide_originals(self, item: Any) -> dict[int, Any]:
        """Return a memo with which a copy refers to the values of wide fixtures themselves."""
        memo = {id(value): value for value in wide_values(item)}
        memo.update(self.copies.originals())
        return memo

    def _plan(self, item: Any, share: requests.Share) -> tuple[tuple[Any, ...], _Plan, dict[str, str]]:
        """Return the context of *item*, the fixtures that it can share in the order of their set-up, and why others cannot be."""
        judged = self._judgements.of(item, share)
        plan: _Plan = {}
        settings: tuple[Any, ...] = ()
        for fixturedef, reason in judged.items():
            if reason is None:
                plan[fixturedef] = settings
            elif reason in {SETS, ACTIVATES}:
                settings += (fixturedef,)
        refused = {each.argname: reason for each, reason in judged.items() if reason is not None}
        # What is activated stays, also for tests after this one that do not activate it.
        active = tuple(each for each in settings if judged[each] == ACTIVATES)
        return (*_context_of(item, share), active), plan, refused


def _common(one: _Plan, other: _Plan) -> int:
    """Return how many fixtures two plans begin with alike."""
    pairs = enumerate(zip(one.items(), other.items(), strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(other)))


def _sees_database(item: Any) -> bool:
    """Whether *item* could see rows: it may use the database, or let itself do so."""
    return requests.uses_database(item) or "django_db_blocker" in requests.names_of(item)


def _count(held: list[OuterTransaction]) -> int:
    """Return how many statements were sent in the transactions."""
    return sum(each.statements for each in held)


def _find_fault(test: _Test, held: list[OuterTransaction]) -> str | None:
    """Return why no savepoint can be made where a fixture has just been set up."""
    faults = [fault for each in held if (fault := each.find_fault()) is not None]
    if faults:
        return f"has broken its transaction: {faults[0]}"
    vendors = {each.vendor for each, _ in test.savepoints} - _VENDORS
    return f"is on {vendors.pop()}, which has only one savepoint of a name" if vendors else None


_VENDORS = {"postgresql", "sqlite"}


def _share(item: Any) -> requests.Share:
    share = requests.share_of(item)
    assert share is not None
    return share


def _context_of(item: Any, share: requests.Share) -> tuple[Any, ...]:
    """Return what has to be the same for two tests to share: the node, the databases, and the wide fixtures around them."""
    known: tuple[Any, ...] | None = item.stash.get(_CONTEXT, None)
    if known is not None:
        return known
    request, node = request_of(item), item.getparent(pytest.Class if share.scope == "class" else pytest.Module)
    wide: list[Any] = []
    for name in requests.names_of(item):
        found = collected_definitions(request, name)
        if found and found[-1].scope != "function" and not is_inert(found[-1]):
            wide.append(found[-1])
    of_class = item.getparent(pytest.Class) if any(each.scope == "class" for each in wide) else None
    indices = getattr(getattr(item, "callspec", None), "indices", {})
    parameters = tuple((each.argname, indices[each.argname]) for each in wide if each.argname in indices)
    # A test outside of any class has a class scope of its own.
    alone = item if node is None or (of_class is None and any(each.scope == "class" for each in wide)) else None
    marks = (item.get_closest_marker(name) for name in _MARKS)
    settings = [(each.name, each.args, each.kwargs) for each in marks if each is not None]
    item.stash[_CONTEXT] = context = (node, alone, of_class, tuple(wide), parameters, str(settings))
    return context


_CONTEXT = pytest.StashKey[tuple[Any, ...]]()


# The marks by which pytest-django and pytest-socket set up the process for a test, also for its fixtures.
_MARKS = (
    *("django_db", "urls", "django_isolate_apps", "ignore_template_errors"),
    *("enable_socket", "disable_socket", "allow_hosts", "block_network"),
)


class SharedOrder:
    """Orders the tests that share, and checks the names in their marks. A plugin object of runs in which tests share."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Put the tests of a class, or those of a module outside of its classes, together by what they request.

        The order of tests that request the same stays. Where another plugin or an option orders the tests, nothing is done.
        """
        _check_names(items)
        if _is_ordered(config, items):
            return
        ordered: list[pytest.Item] = []
        for _, group in itertools.groupby(items, key=lambda item: (item.parent, requests.share_of(item) is not None)):
            tests = list(group)
            ordered += _ordered(tests) if requests.share_of(tests[0]) is not None else tests
        items[:] = ordered


def _ordered(items: list[pytest.Item]) -> list[pytest.Item]:
    places: dict[Any, int] = {}
    contexts: dict[Any, int] = {}
    keys: dict[pytest.Item, tuple[Any, ...]] = {}
    for item in items:
        wanted = [each for each in set_up_order(item) if not is_inert(each)]
        context = contexts.setdefault(_context_of(item, _share(item)), len(contexts))
        keys[item] = (context, *(places.setdefault(each, len(places)) for each in wanted))
    return sorted(items, key=keys.__getitem__)


def _is_ordered(config: pytest.Config, items: list[pytest.Item]) -> bool:
    """Whether a plugin, an option or a mark orders the tests."""
    if any(config.pluginmanager.hasplugin(name) for name in _ORDERING_PLUGINS):
        return True
    if any(config.getoption(name, None) for name in ("failedfirst", "newfirst", "stepwise", "random_order", "reverse")):
        return True
    if config.pluginmanager.hasplugin("randomly") and config.getoption("randomly_reorganize", True):
        return True
    return any(item.get_closest_marker(mark) for item in items for mark in ("order", "run", "dependency"))


_ORDERING_PLUGINS = ("random_order", "pytest_order", "pytest_ordering", "reverse", "dependency")


def _check_names(items: list[pytest.Item]) -> None:
    """Raise :class:`pytest.UsageError` if a mark names a fixture that none of its tests can see.

    A run may be of one test of a module, which requests few of the fixtures that the mark names.
    """
    named: dict[str, list[pytest.Item]] = {}
    for item in items:
        share = requests.share_of(item)
        if share is not None:
            for name in (*share.fixtures, *share.except_):
                named.setdefault(name, []).append(item)
    for name, tests in named.items():
        if not any(name in requests.names_of(each) or find_definitions(request_of(each), name) for each in tests):
            raise pytest.UsageError(
                f'The mark {requests.SHARE_MARK} of {tests[0].nodeid} names the fixture "{name}", and no test that it is about '
                "has a fixture of that name. Write the name as a test requests it."
            )


def _answer(fixturedef: Any, value: Any) -> _Hook:
    """Have the function of the fixture return *value*."""
    own = fixturedef.func
    fixturedef.func = lambda **_: value
    try:
        return (yield)
    finally:
        fixturedef.func = own
