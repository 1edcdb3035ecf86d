"""Pytest hooks around fixtures and tests. They are registered only in a run that uses the plugin."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from testdb_app.exceptions import LeakError, ScopeError, SessionBrokenError, TestSessionError
from testdb_app.plugin import options, requests, transactional
from testdb_app.plugin._pytest_private import CLASS_FIXTURE, DB_HELPER, request_of
from testdb_app.plugin.fixtures import Copies, DataFixtures
from testdb_app.plugin.layers import Sharing
from testdb_app.plugin.reporting import LeakFinder
from testdb_app.plugin.scopes import Kind, OpenScope, refuse, roll_back, stack_of

if TYPE_CHECKING:
    from testdb_app.transactions import OuterTransaction

_RUN = pytest.StashKey["TestdbPlugin"]()
_OWN = frozenset({*requests.ROLLBACK, *requests.COMMITTED})
_Hook = Generator[None, object, object]


class TestdbPlugin:
    """The plugin's work in one run. Each method is the body of a hook."""

    __test__ = False

    def __init__(self, config: pytest.Config) -> None:
        self.stack = stack_of(config)
        self.data = DataFixtures(self.stack)
        self.copies = Copies()
        self.sharing = Sharing(self.stack, self.copies)
        self.leaks: LeakFinder | None = None
        self._uses_scopes: bool | None = None
        self._last: pytest.Item | None = None
        # The statements that each open transaction had seen before the present test.
        self._statements: dict[OuterTransaction, int] = {}

    def stop(self) -> None:
        """Remove the hooks that were set outside of pytest."""
        if self.leaks is not None:
            self.leaks.stop()
            self.leaks = None

    def may_leave_alone(self, fixturedef: Any) -> bool:
        """Whether a fixture needs nothing around its set-up: it has function scope, and no scope is open."""
        if fixturedef.scope != "function" or fixturedef.argname == DB_HELPER:
            return False
        return self.stack.is_quiet and self.copies.is_empty

    def set_up_fixture(self, fixturedef: Any, request: Any) -> _Hook:
        """Run the set-up of a fixture with what it needs around it."""
        self.stack.in_progress.append(fixturedef)
        try:
            name = fixturedef.argname
            if name == "django_db_setup":
                return (yield from self._set_up_databases(fixturedef, request))
            if name in _OWN:
                return (yield from _set_up_scope(fixturedef, request))
            if name.startswith(CLASS_FIXTURE) and self._scopes_are_used(request):
                return (yield from self._set_up_class(fixturedef, request))
            if fixturedef.scope == "function":
                return (yield from self._set_up_for_one_test(fixturedef, request))
            self.copies.hand_out_originals()
            if self.data.has_rows(fixturedef, request):
                result = yield from self.data.set_up(fixturedef, request)
            else:
                result = yield
            if self.leaks is not None and not self.stack.of_kind(Kind.COMMITTED) and _is_of_the_project(fixturedef):
                self.leaks.check(request.node, f'The fixture "{name}" ({fixturedef.scope} scope)', fixturedef.func)
            return self.copies.keep(fixturedef, result)
        finally:
            self.stack.in_progress.remove(fixturedef)

    def _set_up_databases(self, fixturedef: Any, request: Any) -> _Hook:
        """Capture the baselines right after pytest-django has set up the test databases, before anything is written to them."""
        config = request.config
        mode = options.leaks(config)
        needs_baseline = any(map(transactional.wants_baseline, request.session.items))
        blocker = request.getfixturevalue("django_db_blocker")
        transactional.before_the_databases(config, blocker, restores=needs_baseline)
        if not needs_baseline:
            return (yield)
        with transactional.setting_up_databases(config):
            result = yield
        aliases = transactional.prepare_databases(config, blocker, request.session.items)
        if mode is not None:
            self.leaks = LeakFinder(aliases, blocker, fails=mode == "fail")
            # Before the databases are gone.
            fixturedef.addfinalizer(self._check_and_stop)
        return result

    def begin_test(self, item: pytest.Item) -> None:
        """End the scopes that *item* cannot run in. Raises :class:`ScopeError` if its fixtures exclude each other."""
        self._last = item
        if requests.uses_ours(item):
            conflict = requests.find_conflict(item)
            if conflict is not None:
                raise ScopeError(conflict)
        if self.stack.entries:
            self._leave_packages(item)
            if requests.commits(item):
                self.stack.finish_from_first(Kind.ROLLBACK)
                if not requests.committed_scopes(item):
                    self.stack.finish_from_first(Kind.COMMITTED)
        self.sharing.begin_test(item)
        self._note_statements()
        self.copies.start_test()

    def set_up_test(self, item: pytest.Item) -> _Hook:
        """Set up *item*, set up again the fixtures that were ended meanwhile, and then hand out copies."""
        self.stack.is_setting_up = True
        try:
            result = yield
            self.stack.refill(item)
            self.copies.hand_out_copies(item)
        finally:
            self.stack.end_set_up()
        return result

    def tear_down_test(self, item: pytest.Item, nextitem: pytest.Item | None) -> _Hook:
        """Check whether *item* has broken a scope or left rows, and tear it down. A package's scope ends with its last test."""
        wrong = None
        if requests.unittest_kind(item) is not None:
            wrong = self._find_fault(item)
        elif self.stack.entries and not self.stack.of_kind(Kind.TEST):
            wrong = self._find_broken(item)  # a test that names no database
        with transactional.resetting_late(item):
            result = yield
        if nextitem is not None and self.stack.entries:
            self._leave_packages(nextitem)
        if wrong is not None:
            raise wrong
        if nextitem is not None and nextitem.parent is not item.parent:
            self._check_ended_fixtures()
        return result

    def _check_ended_fixtures(self) -> None:
        # Rows that a committed scope will reset later are no leak.
        if self.leaks is not None and self._last is not None and not self.stack.of_kind(Kind.COMMITTED):
            self.leaks.check(self._last, f"The end of a fixture, after the test {self._last.nodeid},")

    def _check_and_stop(self) -> None:
        try:
            self._check_ended_fixtures()
        finally:
            self.stop()

    def _find_fault(self, item: pytest.Item) -> TestSessionError | None:
        """Return the error of *item* if it broke a scope or left rows."""
        broken = self._find_broken(item)
        if broken is None and self.leaks is not None and not self.stack.of_kind(Kind.COMMITTED):
            try:
                self.leaks.check(item, f"The test {item.nodeid}")
            except LeakError as error:
                return error
        return broken

    def _set_up_for_one_test(self, fixturedef: Any, request: Any) -> _Hook:
        """Set up a function-scoped fixture after all wider ones, also where these have to be set up again."""
        error = self.stack.refill_wide(request)
        if error is not None:
            return (yield from refuse(fixturedef, request, error))
        self.copies.hand_out_copies()
        if fixturedef.argname != DB_HELPER:
            return (yield from self.sharing.set_up(fixturedef, request))
        error = transactional.reset_if_requested_late(request)
        if error is not None:
            return (yield from refuse(fixturedef, request, error))
        # The transaction of pytest-django for one test is the innermost one that is open.
        entry = OpenScope(Kind.TEST, fixturedef, request)
        fixturedef.addfinalizer(lambda: self._end_test_level(entry))
        savepoints = self.sharing.count_savepoints()
        self._note_statements()
        result = yield
        self.stack.push(entry)
        self.sharing.note_savepoints(savepoints)
        return result

    def _end_test_level(self, entry: OpenScope) -> None:
        self.stack.remove(entry)
        wrong = self._find_fault(entry.node)
        if wrong is not None and not self.sharing.has_blamed(entry.node):
            raise wrong

    def _set_up_class(self, fixturedef: Any, request: Any) -> _Hook:
        """Set up a class of Django's ``TestCase``: it opens a transaction for the class, and closes all connections after it."""
        from testdb_app.transactions import connections_kept_open  # noqa: PLC0415 - Django is imported where it is used

        entry, kept = OpenScope(Kind.CLASS, fixturedef, request), ExitStack()
        fixturedef.addfinalizer(kept.close)
        result = yield
        self.stack.push(entry)

        def start_end() -> None:
            self.stack.finish_above(entry)
            self.stack.remove(entry)
            kept.enter_context(connections_kept_open())

        fixturedef.addfinalizer(start_end)
        return result

    def _scopes_are_used(self, request: Any) -> bool:
        if self._uses_scopes is None:
            self._uses_scopes = any(requests.rollback_scopes(item) for item in request.session.items)
        return self._uses_scopes

    def _leave_packages(self, item: pytest.Item) -> None:
        """End the scope of a package if *item* is outside of that package."""
        around = item.listchain()
        for entry in self.stack.entries:
            if entry.fixturedef.argname == "db_package" and entry.node not in around:
                self.stack.finish_from(entry)
                return

    def _note_statements(self) -> None:
        self._statements = {each: each.statements for entry in self.stack.entries for each in entry.transactions}

    def _find_broken(self, item: pytest.Item) -> SessionBrokenError | None:
        """Return the error of *item* if it has broken a scope around it. That scope is ended first."""
        for transaction, statements in self._statements.items():
            # What pytest-django or Django refused has broken nothing.
            transaction.forget_refused(statements)
        for number, entry in enumerate(self.stack.entries):
            faults = [found for each in entry.transactions if (found := each.find_fault())]
            if faults:
                return self._take_down(item, self.stack.entries[number:], faults[0])
        return None

    def _take_down(self, item: pytest.Item, entries: list[OpenScope], fault: object) -> SessionBrokenError:
        names = ", ".join(map(str, entries))
        found = SessionBrokenError(
            f"The test {item.nodeid} has broken the transaction of {entries[0]}: {fault}. Taken down, and made again for the "
            f"tests that need them: {names}. A test that closes its connection, or commits by SQL, needs reset_db.",
            owner=str(entries[0]),
        )
        with request_of(item).getfixturevalue("django_db_blocker").unblock():
            for entry in reversed(entries):
                try:
                    roll_back(entry)
                except SessionBrokenError as error:
                    found.add_note(str(error))
        try:
            self.stack.finish(entries)
        except Exception as error:  # noqa: BLE001 - finalizers of fixtures may fail when their rows are gone
            found.add_note(f"Then: {error}")
        return found


def of(config: pytest.Config) -> TestdbPlugin:
    """Return the plugin of the run with this *config*."""
    found = config.stash.get(_RUN, None)
    if found is None:
        found = config.stash[_RUN] = TestdbPlugin(config)
    return found


def _set_up_scope(fixturedef: Any, request: Any) -> _Hook:
    try:
        return (yield)
    except ScopeError:
        # Only this request was wrong: the next one must not get the cached error.
        fixturedef.finish(request)
        raise


def _is_of_the_project(fixturedef: Any) -> bool:
    return not requests.is_of_others(fixturedef.func)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> _Hook:
    """Prepare databases, open scopes, and save the rows of wide fixtures."""
    its_run = of(request.config)
    if its_run.may_leave_alone(fixturedef):
        # The usual case: about twenty fixtures a test.
        return its_run.copies.keep(fixturedef, (yield))
    return (yield from its_run.set_up_fixture(fixturedef, request))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> _Hook:
    """Replace the flush of ``TransactionTestCase`` for a test that ends with a reset, or in a committed scope."""
    of(item.config).sharing.next = nextitem
    with transactional.ending_without_flush(item):
        return (yield)


class Beginning:
    """Checks before the set-up of a test. They may fail, and a failing wrapper would keep the other hooks from their work."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """End the scopes that the test cannot run in, before its fixtures are set up."""
        of(item.config).begin_test(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> _Hook:
    """Set up again the fixtures of the test that were ended so that a wider one could be set up."""
    return (yield from of(item.config).set_up_test(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> _Hook:
    """Check whether the test has broken a scope around it, or left rows."""
    return (yield from of(item.config).tear_down_test(item, nextitem))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a worker of pytest-xdist has shared to its controller."""
    if options.is_worker(session.config):
        output: dict[str, Any] = session.config.workeroutput  # type: ignore[attr-defined]
        output[options.SHARED] = of(session.config).sharing.report.as_dict()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove all hooks, so that another run in this process begins clean."""
    of(config).stop()
