"""The pytest plugin: its options, fixtures and marks, which build on pytest-django.

pytest imports it in every run if the package is installed. So it imports Django inside functions only. It registers no
hook around fixtures and tests until a test, an option or an ini key uses the plugin. ``testdb_app.plugin`` does the work.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from testdb_app.plugin import options, requests
from testdb_app.plugin._pytest_private import DB_HELPER
from testdb_app.plugin.fixtures import copied_per_test
from testdb_app.plugin.reporting import LeakWarning
from testdb_app.plugin.scopes import refuse

if TYPE_CHECKING:
    from testdb_app.sessions import TestSession, TestSessionFactory

_FAULT = "testdb_fault"
_SHARED_ORDER = "testdb_shared_order"
_SHARED_SET_UPS = "testdb_shared_set_ups"
_FOUND = pytest.StashKey[str]()

__all__ = ["LeakWarning", "copied_per_test"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and ini keys, beside those of pytest-django."""
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks, and check the options."""
    config.addinivalue_line(
        "markers",
        f"{requests.MARK}(databases): the databases, a list of aliases or '__all__', that db_class, db_module, db_package, "
        "db_session, reset_db_class and reset_db_module open for the test.",
    )
    config.addinivalue_line(
        "markers",
        f'{requests.SHARE_MARK}(scope="module", fixtures=(), except_=()): make the rows of function-scoped fixtures once for the '
        'tests of the module, or of the "class"; each test still sees only the rows of its own fixtures, and may change them.',
    )
    _configure_sessions(config)
    options.check_options(config)
    if options.resets_all(config) or options.leaks(config):
        _register_hooks(config)
    if config.getoption(options.VERIFY):
        from testdb_app.plugin import verification  # noqa: PLC0415

        verification.register(config)
    most = options.durations(config)
    if most is not None:
        from testdb_app.plugin.reporting import SlowestResets  # noqa: PLC0415

        config.pluginmanager.register(SlowestResets(most), "testdb_durations")
    profile = options.profile(config)
    if profile is not None:
        from testdb_app.plugin.profiler import FixtureProfiler  # noqa: PLC0415

        config.pluginmanager.register(FixtureProfiler(config, profile), "testdb_profile")


def _register_hooks(config: pytest.Config) -> None:
    """Register the hooks that a run needs only if it uses the plugin."""
    from testdb_app.plugin import hooks  # noqa: PLC0415

    if not config.pluginmanager.is_registered(hooks):
        config.pluginmanager.register(hooks, options.HOOKS)
        config.pluginmanager.register(hooks.Beginning())


def pytest_report_header(config: pytest.Config) -> str | None:
    """Return the header's line, which lists what is switched on."""
    return options.header(config)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> str | None:
    """Return a line with the receivers of ``post_migrate`` that resets do not call, if tests reset."""
    if not config.pluginmanager.has_plugin(options.HOOKS):
        return None
    from testdb_app.plugin import transactional  # noqa: PLC0415

    return transactional.describe_uncalled_receivers(items)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Add pytest-django's marks for our fixtures, and register the hooks if *item* needs them."""
    _collect_session_test(item)
    _collect_shared_test(item)
    # Without pytest-django there is one error, after the collection.
    if requests.uses_ours(item) and item.config.pluginmanager.hasplugin("django"):
        requests.add_mark(item)
        _register_hooks(item.config)
    elif requests.is_of_our_class(item) and item.config.pluginmanager.hasplugin("django"):
        _register_hooks(item.config)


def _collect_shared_test(item: pytest.Item) -> None:
    """Have *item* share fixtures, if its mark or the ini key says so, and register what its class needs to share ``setUp()``."""
    config = item.config
    if requests.shares_set_up(item) and not config.pluginmanager.has_plugin(_SHARED_SET_UPS):
        from testdb_app.plugin.shared_set_ups import SharedSetUps  # noqa: PLC0415 - only a run with such a class

        config.pluginmanager.register(SharedSetUps(), _SHARED_SET_UPS)
    if not config.getoption(options.SHARE) or not config.pluginmanager.hasplugin("django"):
        return
    if requests.add_share(item, config.getini(options.SHARE)) and not config.pluginmanager.has_plugin(_SHARED_ORDER):
        from testdb_app.plugin.layers import SharedOrder  # noqa: PLC0415 - only a run that shares

        config.pluginmanager.register(SharedOrder(), _SHARED_ORDER)
    if config.getoption(options.EXPLAIN) and requests.barred_from_sharing(item) is not None:
        _register_hooks(config)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse a set-up that cannot work, once and before anything else. A worker of xdist leaves this to its controller."""
    config = session.config
    if not options.is_worker(config) and not config.option.collectonly:
        _refuse(options.find_fault(config))
    if not config.option.collectonly and options.uses_templates(config):
        from testdb_app.plugin.creation_hooks import CreationHooks  # noqa: PLC0415 - only a run that uses templates

        config.pluginmanager.register(CreationHooks(config), options.CREATION_HOOKS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse such a set-up also if only the tests, or their fixtures, use the plugin."""
    config = session.config
    if not config.option.collectonly and not session.testsfailed:
        fault = options.find_fault(config, session.items)
        if fault is not None and options.is_worker(config):
            # The controller reports it, once for all workers.
            config.workeroutput[_FAULT] = fault  # type: ignore[attr-defined]
            session.items.clear()
        else:
            _refuse(fault)


def pytest_exception_interact(node: Any, call: Any) -> None:
    """End the run after the first test if this package refused to set up the databases: every other test would repeat it."""
    ours: Any = sys.modules.get("testdb_app.exceptions")
    if ours is None or not isinstance(node, pytest.Item) or not isinstance(call.excinfo.value, ours.TestDBError):
        return
    if any(entry.name == "django_db_setup" for entry in call.excinfo.traceback):
        node.session.shouldfail = "stopping: the test databases cannot be set up, see the error above"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist when the run began: with ``--create-db``, one of them builds a template anew."""
    node.workerinput[options.STARTED] = options.started(node.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep the fault that a worker of xdist has found."""
    output = getattr(node, "workeroutput", {})
    if _FAULT in output:
        node.config.stash[_FOUND] = output[_FAULT]
    options.note_seconds(node.config, output.get(options.SECONDS, 0.0))
    if options.SHARED in output:
        from testdb_app.plugin import hooks  # noqa: PLC0415

        hooks.of(node.config).sharing.report.add(output[options.SHARED])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End a run that a worker refused with the exit status of a usage error. Store how long the databases took."""
    options.store_seconds(session.config)
    fault = session.config.stash.get(_FOUND, None)
    if fault is not None:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the fault that a worker found."""
    fault = config.stash.get(_FOUND, None)
    if fault is not None:
        terminalreporter.write_line(f"ERROR: {fault}", red=True)
    hooks = sys.modules.get("testdb_app.plugin.hooks")
    if hooks is not None:
        hooks.of(config).sharing.report.write(terminalreporter, explains=bool(config.getoption(options.EXPLAIN)))


def _refuse(fault: str | None) -> None:
    if fault is not None:
        raise pytest.UsageError(fault)


def _hold_scope(request: Any, blocker: Any) -> Generator[None]:
    from testdb_app.plugin.scopes import hold_scope  # noqa: PLC0415

    yield from hold_scope(request, blocker)


@pytest.fixture
def reset_db(request: Any, transactional_db: None) -> None:
    """Let the test commit to a test database, and reset that to the baseline after the test.

    Like ``transactional_db``, but the cost depends on what the test writes, and the next test finds the rows that migrations
    made.
    """
    if "reset_db" not in requests.names_of(request.node):
        from testdb_app.plugin import scopes  # noqa: PLC0415

        scopes.check_hooked(request.config, "reset_db")


@pytest.fixture(scope="class")
def reset_db_class(request: Any, django_db_setup: None, django_db_blocker: Any) -> Generator[None]:
    """Let the tests of the class commit to a test database, and reset that to the baseline after the last one."""
    yield from _hold_scope(request, django_db_blocker)


@pytest.fixture(scope="module")
def reset_db_module(request: Any, django_db_setup: None, django_db_blocker: Any) -> Generator[None]:
    """Let the tests of the module commit to a test database, and reset that to the baseline after the last one."""
    yield from _hold_scope(request, django_db_blocker)


@pytest.fixture(scope="class")
def db_class(request: Any, django_db_setup: None, django_db_blocker: Any) -> Generator[None]:
    """Run the tests of the class in one transaction, which is rolled back at the end. Each test is a savepoint in it.

    Use it in class-scoped fixtures that make rows once for all tests of the class.
    """
    yield from _hold_scope(request, django_db_blocker)


@pytest.fixture(scope="module")
def db_module(request: Any, django_db_setup: None, django_db_blocker: Any) -> Generator[None]:
    """Run the tests of the module in one transaction, which is rolled back at the end. Each test is a savepoint in it.

    Use it in module-scoped fixtures that make rows once for all tests of the module.
    """
    yield from _hold_scope(request, django_db_blocker)


@pytest.fixture(scope="package")
def db_package(request: Any, django_db_setup: None, django_db_blocker: Any) -> Generator[None]:
    """Run the tests of the package in one transaction, which is rolled back at the end. Each test is a savepoint in it.

    The package is the folder with an ``__init__.py`` around the first test that requests the fixture. Packages inside that
    folder belong to it.
    """
    yield from _hold_scope(request, django_db_blocker)


@pytest.fixture(scope="session")
def db_session(request: Any, django_db_setup: None, django_db_blocker: Any) -> Generator[None]:
    """Run all tests of the process in one transaction, which is rolled back at the end. Each test is a savepoint in it."""
    yield from _hold_scope(request, django_db_blocker)


_SESSION_HOOKS = "testdb_session_hooks"


def _configure_sessions(config: pytest.Config) -> None:
    """Declare the mark of test sessions."""
    config.addinivalue_line(
        "markers",
        f"{requests.SESSION_MARK}(**options): options of testdb_app's TestSessionFactory for the fixture test_session, such as "
        'isolation="reset"; the closest mark wins.',
    )


def _collect_session_test(item: pytest.Item) -> None:
    """Register the hooks of test sessions, once a test uses one of their fixtures."""
    if _uses(item) and not item.config.pluginmanager.has_plugin(_SESSION_HOOKS):
        item.config.pluginmanager.register(_SessionHooks(), _SESSION_HOOKS)


@pytest.fixture(scope="session")
def test_session_factory(django_db_setup: None, django_db_blocker: Any) -> Iterator[TestSessionFactory]:
    """Return a factory of test sessions on the test databases, without limits. An open session unblocks database access.

    Override it in a module, a class or a conftest.py, at any scope, to change its options::

        @pytest.fixture(scope="module")
        def test_session_factory(test_session_factory):
            with test_session_factory.replace(statement_timeout="30s") as factory:
                yield factory
    """
    from testdb_app.sessions import TestSessionFactory  # noqa: PLC0415 - Django is imported where it is used

    with TestSessionFactory(around=django_db_blocker.unblock) as factory:
        yield factory


@pytest.fixture
def test_session(request: pytest.FixtureRequest, test_session_factory: TestSessionFactory) -> Iterator[TestSession]:
    """Open a test session for the test, and roll it back afterwards; with ``isolation="reset"``, reset the databases.

    The marks ``@pytest.mark.test_session(…)`` override the options of ``test_session_factory``.
    """
    changes = requests.session_options(request.node)
    path, line, _ = request.node.location
    opened_at = f"{path}:{(line or 0) + 1}"
    factory = test_session_factory.replace(**changes) if changes else test_session_factory
    try:
        with factory(request.node.nodeid, opened_at=opened_at) as session:
            yield session
    finally:
        if factory is not test_session_factory:
            factory.close()


def _uses(item: Any) -> bool:
    return not requests.SESSIONS.isdisjoint(getattr(item, "fixturenames", ()))


class _StandIn:
    """Represents the tests with sessions when pytest-django collects the databases that a run needs."""

    fixturenames = ()
    cls = None

    def __init__(self, config: pytest.Config, databases: list[str]) -> None:
        self.config = config
        self.databases = databases

    def get_closest_marker(self, name: str) -> Any:
        """Return a mark ``django_db`` that names the databases; None for other names."""
        return pytest.mark.django_db(databases=self.databases).mark if name == "django_db" else None


class _SessionHooks:
    """Hooks of runs in which a test uses a fixture of test sessions."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Run tests with sessions first, as pytest-django orders tests that roll back: it knows only its own.

        Otherwise Django's flush after a transactional test would delete the rows of the migrations before them.
        """
        items.sort(key=lambda item: not _uses(item))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, object, object]:
        """Make pytest-django set up the databases of sessions, too: it leaves an unneeded alias at the real database."""
        if fixturedef.argname == DB_HELPER:
            error = _find_session_in_the_way(request)
            if error is not None:
                return (yield from refuse(fixturedef, request, error))
        if fixturedef.argname != "django_db_setup":
            return (yield)
        items: list[Any] = request.session.items
        stand_in = _StandIn(request.config, _databases([item for item in items if _uses(item)]))
        items.append(stand_in)
        try:
            return (yield)
        finally:
            items.remove(stand_in)


def _find_session_in_the_way(request: Any) -> Exception | None:
    """Return the error of a transactional test while a wide session is open: its flush would break that session."""
    opened: Any = sys.modules.get("testdb_app.sessions.registry")
    if opened is None or not requests.commits(request.node):
        return None
    for session in opened.open_sessions():
        if session.options.isolation == "rollback":
            from testdb_app.exceptions import SessionNestingError  # noqa: PLC0415

            return SessionNestingError(
                f"The test {request.node.nodeid} is transactional, and would be a part of {session}, which is open. Put it into "
                "another module, or use a session with isolation='reset' around it.",
                ending=request.node.nodeid,
                still_open=session.owner,
            )
    return None


def _databases(items: list[Any]) -> list[str]:
    """Return the aliases that the marks name, and the default one."""
    from django.db import connections  # noqa: PLC0415

    found = {"default"}
    for item in items:
        named = requests.session_options(item).get("databases", ())
        found |= set(connections) if named == "__all__" else {named} if isinstance(named, str) else set(named)
    return sorted(found)
