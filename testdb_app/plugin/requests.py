"""The requests of a test: its scopes, its databases, and whether it commits.

A scope is *wider* the smaller its rank is. Function scope is pytest-django's own.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testdb_app.plugin._pytest_private import DB_HELPER, collected_definitions, request_of

RANKS = {"session": 0, "package": 1, "module": 2, "class": 3, "function": 4}
"""The rank of each of pytest's scopes."""
ROLLBACK = {"db_session": 0, "db_package": 1, "db_module": 2, "db_class": 3}
"""The fixtures of scopes that are rolled back, and their ranks, the widest first."""
COMMITTED = {"reset_db_module": 2, "reset_db_class": 3}
"""The fixtures of scopes that commit and are reset."""
FUNCTION = RANKS["function"]
MARK = "testdb"
"""The mark that names databases: ``@pytest.mark.testdb(databases=["default", "other"])``."""

SESSION_MARK = "test_session"
"""The mark whose arguments change the options of the test sessions of a test, a class or a module."""

# The fixtures that make a test one that commits.
_COMMITTING = ("transactional_db", "live_server", "reset_db")
SESSIONS = frozenset({"test_session", "test_session_factory"})
"""The fixtures of test sessions."""
SHARE_MARK = "testdb_share"
"""The mark, and the ini key, that have the tests of a node share their fixtures."""
_USED_BY = "is used by "
COMMITS = f"{_USED_BY}a test that commits"
"""Why a fixture of such a test is not shared."""
SHARE_SCOPES = {"module": "db_module", "class": "db_class"}
"""The scopes in which tests share, and the fixture that opens the transaction of each."""

# The packages whose fixtures write no rows, and that set up nothing by an autouse fixture but what a mark says.
_OF_OTHERS = frozenset(
    (
        "pytest_django",
        "_pytest",
        "testdb_app",
        "xdist",
        "pytest_cov",
        "anyio",
        "pytest_asyncio",
        "pytest_mock",
        "pytest_socket",
        "pytest_subtests",
        "pytest_randomly",
        "pytest_timeout",
        "pytest_benchmark",
        "faker",
    )
)
# Fixtures of other packages that do nothing for a test without the mark "vcr", or the same for each with "block_network".
_OF_VCR = frozenset(
    {
        ("pytest_recording.plugin", "block_network"),
        ("pytest_recording.plugin", "vcr"),
        ("pytest_recording.plugin", "vcr_markers"),
        ("pytest_vcr", "_vcr_marker"),
    }
)
_OURS = frozenset({*ROLLBACK, *COMMITTED, "reset_db"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What the mark ``testdb_share`` says of a test: the scope, the fixtures to share in any case, and those not to share."""

    scope: str = "module"
    fixtures: frozenset[str] = frozenset()
    except_: frozenset[str] = frozenset()


_SHARE = pytest.StashKey[Share]()
_BARRED = pytest.StashKey[tuple[Share, str]]()
_NO_DATABASE = f"{_USED_BY}a test without a database"


def share_of(item: pytest.Item) -> Share | None:
    """Return how *item* shares fixtures; None if it does not."""
    return item.stash.get(_SHARE, None)


def barred_from_sharing(item: pytest.Item) -> tuple[Share, str] | None:
    """Return how *item* was told to share fixtures, and what kind of test it is that cannot; None for others."""
    return item.stash.get(_BARRED, None)


def add_share(item: pytest.Item, paths: Iterable[Path]) -> bool:
    """Have *item* share fixtures if its closest mark says so, or it is below one of *paths*. Return whether it does.

    It gets the fixture of the scope, as if it had requested that after its other wide fixtures. Raises
    :class:`pytest.UsageError` for a mark with invalid arguments.
    """
    share = read_share(item)
    if share is None and any(item.path.is_relative_to(path) for path in paths):
        share = Share()
    if share is None:
        return False
    obstacle = find_obstacle(item)
    if obstacle is not None:
        if obstacle != _NO_DATABASE and not shares_set_up(item):
            item.stash[_BARRED] = share, obstacle.removeprefix(_USED_BY)
        return False
    assert isinstance(item, pytest.Function)
    item.stash[_SHARE] = share
    names, scope = item.fixturenames, SHARE_SCOPES[share.scope]
    if scope not in names:
        ranks = [_rank_of(item, name) for name in names]
        narrower = (place for place, rank in enumerate(ranks) if rank > RANKS[share.scope])
        names.insert(next(narrower, len(names)), scope)
    return True


def read_share(item: pytest.Item) -> Share | None:
    """Return what the closest mark of *item* says of sharing, also in a run without sharing; None without a mark.

    Raises :class:`pytest.UsageError` for a mark with invalid arguments.
    """
    mark = item.get_closest_marker(SHARE_MARK)
    return None if mark is None else _read_share(item, *mark.args, **mark.kwargs)


def find_obstacle(item: pytest.Item) -> str | None:
    """Return why *item* cannot share fixtures, as what its fixtures are used by: "is used by …"; None if it can."""
    if commits(item) or committed_scopes(item):
        return COMMITS
    if not isinstance(item, pytest.Function) or unittest_kind(item) is not None:
        return f"{_USED_BY}a method of TestCase"
    if is_native_async(item):
        return f"{_USED_BY}an async test"
    if item.get_closest_marker("vcr") is not None:
        return f"{_USED_BY}a test that records requests"
    return None if uses_database(item) else _NO_DATABASE


def _rank_of(item: pytest.Item, name: str) -> int:
    found = collected_definitions(request_of(item), name)
    return RANKS[found[-1].scope] if found else FUNCTION


def _read_share(item: pytest.Item, scope: str = "module", *args: Any, **options: Any) -> Share:
    lists = {key: options.pop(key, ()) for key in ("fixtures", "except_")}
    wrong = next((key for key, given in lists.items() if isinstance(given, str)), None)
    if args or options or wrong or scope not in SHARE_SCOPES:
        raise pytest.UsageError(
            f'The mark {SHARE_MARK} of {item.nodeid} has invalid arguments. It takes a scope, "module" or "class", and lists of '
            'names: testdb_share("module", fixtures=["customer"], except_=["gateway"]).'
        )
    return Share(scope=scope, **{key: frozenset(given) for key, given in lists.items()})


def names_of(item: pytest.Item) -> tuple[str, ...]:
    """Return the names of all fixtures that *item* uses, also through others or by autouse."""
    return tuple(getattr(item, "fixturenames", ()))


def is_of_others(function: Any) -> bool:
    """Whether the function of a fixture is pytest's, or that of a plugin whose fixtures write no rows."""
    module = getattr(function, "__module__", None) or ""
    return module.partition(".")[0] in _OF_OTHERS or (module, getattr(function, "__name__", None)) in _OF_VCR


def rollback_scopes(item: pytest.Item) -> list[str]:
    """Return the fixtures of rolled-back scopes that *item* uses, the widest first."""
    names = names_of(item)
    return [name for name in ROLLBACK if name in names]


def committed_scopes(item: pytest.Item) -> list[str]:
    """Return the fixtures of committed scopes that *item* uses, the widest first."""
    names = names_of(item)
    return [name for name in COMMITTED if name in names]


def commits(item: pytest.Item) -> bool:
    """Whether *item* commits: by its fixtures, its mark, or as a ``TransactionTestCase``."""
    kind = unittest_kind(item)
    if kind is not None:
        return kind == "TransactionTestCase"
    names, mark = names_of(item), item.get_closest_marker("django_db")
    if any(name in names for name in _COMMITTING):
        return True
    return mark is not None and bool(
        mark.kwargs.get("transaction") or mark.kwargs.get("reset_sequences") or any(mark.args[:2])
    )


def unittest_kind(item: pytest.Item) -> str | None:
    """Return "TestCase" or "TransactionTestCase" for a test of one of Django's classes, None for any other."""
    cls = getattr(item, "cls", None)
    if cls is None or not any(base.__module__ == "django.test.testcases" for base in cls.__mro__):
        return None
    from django.test import TestCase, TransactionTestCase  # noqa: PLC0415 - Django is imported where it is used

    if not issubclass(cls, TransactionTestCase):
        return None
    return "TestCase" if issubclass(cls, TestCase) else "TransactionTestCase"


def session_options(item: pytest.Item) -> dict[str, Any]:
    """Return the options that the marks of *item* give its test session; the closest mark wins."""
    options: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers(SESSION_MARK))):
        options |= mark.kwargs
    return options


def databases_of(item: pytest.Item) -> list[str] | str:
    """Return the aliases of the databases that *item* uses, or ``"__all__"``."""
    named = _named_databases(item)
    if named is not None:
        return named
    testcases = sys.modules.get("django.test.testcases")
    if testcases is None:
        return ["default"]
    # pytest-django's class for such a test inherits this attribute, which a project may have set.
    every = _listed(testcases.TestCase.databases)
    if every == "__all__":
        return every
    from django.db import connections  # noqa: PLC0415 - Django is imported where it is used

    # A mirror is in the transaction of its primary.
    return sorted(each for each in every if not connections.settings[each].get("TEST", {}).get("MIRROR"))


def _named_databases(item: pytest.Item) -> list[str] | str | None:
    """Return the aliases that the class or a mark of *item* names; None if nothing names any."""
    cls = getattr(item, "cls", None)
    if unittest_kind(item) is not None and cls is not None:
        return _listed(cls.databases)
    for name, place in ((MARK, 0), ("django_db", 2)):
        mark = item.get_closest_marker(name)
        if mark is not None:
            given = mark.kwargs.get("databases", mark.args[place] if len(mark.args) > place else None)
            if given is not None:
                return _listed(given)
    return None


def _listed(databases: Any) -> list[str] | str:
    if databases == "__all__":
        return "__all__"
    return [databases] if isinstance(databases, str) else list(databases)


def uses_ours(item: pytest.Item) -> bool:
    """Whether *item* uses a fixture or the mark of this plugin."""
    return not _OURS.isdisjoint(names_of(item)) or item.get_closest_marker(MARK) is not None


def ours(item: pytest.Item) -> list[str]:
    """Return the fixtures of this plugin that *item* uses, also those of test sessions."""
    return [name for name in names_of(item) if name in _OURS or name in SESSIONS]


def uses_database(item: pytest.Item) -> bool:
    """Whether *item* may use a database, by pytest-django's mark or fixtures, or as one of Django's classes."""
    marked = item.get_closest_marker("django_db") is not None or DB_HELPER in names_of(item)
    return marked or unittest_kind(item) is not None


def is_of_our_class(item: pytest.Item) -> bool:
    """Whether *item* is a method of a class that resets."""
    return _is_of(item, "ResetMixin")


def shares_set_up(item: pytest.Item) -> bool:
    """Whether *item* is a method of a class whose ``setUp()`` may be shared."""
    return _is_of(item, "ShareFixtures")


def _is_of(item: pytest.Item, mixin: str) -> bool:
    testcases = sys.modules.get("testdb_app.testcases")
    cls = getattr(item, "cls", None)
    return testcases is not None and isinstance(cls, type) and issubclass(cls, getattr(testcases, mixin))


def add_mark(item: pytest.Item) -> None:
    """Add the mark ``django_db`` that follows from our fixtures: which databases *item* uses, and whether it commits."""
    if unittest_kind(item) is not None or item.get_closest_marker("django_db") is not None:
        return
    named = _named_databases(item)
    options: dict[str, Any] = {} if named is None else {"databases": named}
    names = names_of(item)
    if any(name in names for name in _COMMITTING) or (committed_scopes(item) and not rollback_scopes(item)):
        # A test that names "db" means to be rolled back by itself.
        options["transaction"] = "db" not in names or any(name in names for name in _COMMITTING)
    item.add_marker(pytest.mark.django_db(**options))


def find_conflict(item: pytest.Item) -> str | None:
    """Return why the fixtures of *item* exclude each other; None if they do not."""
    rolled_back, committed, names = rollback_scopes(item), committed_scopes(item), names_of(item)
    committing = [name for name in _COMMITTING if name in names]
    if rolled_back and commits(item):
        asked = committing or [_why_it_commits(item)]
        user = _find_user(item, rolled_back[0])
        through = "" if user is None else f' ("{rolled_back[0]}" through the fixture "{user}")'
        return (
            f"{item.nodeid} asks for {_quoted(rolled_back)} and for {_quoted(asked)}{through}: what a test commits cannot be "
            f"rolled back with the scope around it. Drop one of them, or use {_quoted(list(COMMITTED))} in its place, which "
            "commit and are reset."
        )
    inside = [(narrow, wide) for narrow in committed for wide in rolled_back if COMMITTED[narrow] >= ROLLBACK[wide]]
    if inside:
        return (
            f"{item.nodeid} asks for {_quoted([inside[0][0]])} inside {_quoted([inside[0][1]])}: nothing can be committed in "
            "a transaction that is rolled back. Drop one of them."
        )
    if committed and "reset_db" in names:
        return (
            f'{item.nodeid} asks for "reset_db" and for {_quoted(committed)}: one resets after the test what the other keeps '
            "to the end of its scope. Drop one of them; in the wider scope tests commit as it is."
        )
    if rolled_back and is_native_async(item):
        return (
            f"{item.nodeid} is an async test, whose queries run in other threads, over connections that know nothing of the "
            f"transaction of {_quoted(rolled_back)}: its rows would be committed. Use reset_db, which takes back what was "
            "committed, or a method of Django's TestCase, or async_to_sync() in a test that is not async."
        )
    return None


def _find_user(item: pytest.Item, name: str) -> str | None:
    """Return the first fixture of *item* that requests the fixture *name* itself; None if only the test does."""
    request = request_of(item)
    found = ((other, collected_definitions(request, other)) for other in names_of(item))
    return next((other for other, definitions in found if definitions and name in definitions[-1].argnames), None)


def is_native_async(item: pytest.Item) -> bool:
    """Whether *item* is a coroutine that a pytest plugin runs. Django makes the methods of its classes synchronous."""
    return unittest_kind(item) is None and inspect.iscoroutinefunction(getattr(item, "obj", None))


def _why_it_commits(item: pytest.Item) -> str:
    return "django_db(transaction=True)" if unittest_kind(item) is None else "TransactionTestCase"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
