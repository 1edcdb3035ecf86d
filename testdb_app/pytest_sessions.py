"""Fixtures of pytest for test sessions, over pytest-django: a plugin of its own, which the package's plugin names.

It is imported in every run, so Django is imported inside functions.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from testdb_app.plugin import requests
from testdb_app.plugin.scopes import refuse

if TYPE_CHECKING:
    from testdb_app.sessions import TestSession, TestSessionFactory

MARK = requests.SESSION_MARK
_HOOKS = "testdb_session_hooks"


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line(
        "markers",
        f"{MARK}(**options): options of testdb_app's TestSessionFactory for the fixture test_session, such as "
        'isolation="reset"; the closest mark wins.',
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Have something done around fixtures only where a test names ours."""
    if _uses(item) and not item.config.pluginmanager.has_plugin(_HOOKS):
        item.config.pluginmanager.register(_Hooks(), _HOOKS)


@pytest.fixture(scope="session")
def test_session_factory(django_db_setup: None, django_db_blocker: Any) -> Iterator[TestSessionFactory]:
    """Return a factory of test sessions on the test databases, with no limits. While one is open, access is not blocked.

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
    """Open a test session for the test, which is rolled back after it, or reset if it says ``isolation="reset"``.

    Its options are those of ``test_session_factory``, changed by the marks ``@pytest.mark.test_session(…)``.
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


class _Asking:
    """Stands for the tests with sessions where pytest-django asks which databases the tests of a run need."""

    fixturenames = ()
    cls = None

    def __init__(self, config: pytest.Config, databases: list[str]) -> None:
        self.config = config
        self.databases = databases

    def get_closest_marker(self, name: str) -> Any:
        """Ask for the databases, as the mark ``django_db`` does."""
        return pytest.mark.django_db(databases=self.databases).mark if name == "django_db" else None


class _Hooks:
    """What is done in runs in which a test names one of the fixtures."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Have tests with sessions run first, as pytest-django does it with tests that roll back: it knows only its own.

        A flush of Django's, after a transactional test, would take the rows of the migrations before they see them.
        """
        items.sort(key=lambda item: not _uses(item))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, object, object]:
        """Have pytest-django set up the databases of sessions too: those that no test asks for it leaves as they really are."""
        if fixturedef.argname == "_django_db_helper":
            error = _find_session_in_the_way(request)
            if error is not None:
                return (yield from refuse(fixturedef, request, error))
        if fixturedef.argname != "django_db_setup":
            return (yield)
        items: list[Any] = request.session.items
        stand_in = _Asking(request.config, _databases([item for item in items if _uses(item)]))
        items.append(stand_in)
        try:
            return (yield)
        finally:
            items.remove(stand_in)


def _find_session_in_the_way(request: Any) -> Exception | None:
    """Return why a transactional test cannot run while a wide session is open: its flush would break that."""
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
