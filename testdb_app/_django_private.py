"""The private API of Django that this package uses, in one place; read on 5.2.19 and 6.1.3.

``tests/test_private_api.py`` fails when one of these names is gone. Documented names that begin with an underscore, such
as ``_meta`` and ``_state``, are public API and do not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import connections
from django.db.backends.utils import strip_quotes

OVERRIDDEN = {
    "_pre_setup": "runs before the set-up of a test: databases are prepared here",
    "_fixture_setup": "loads the fixtures of a test: rows that are there are not loaded again",
    "_fixture_teardown": "flushes after a test: a reset takes its place",
    "_reset_sequences": "resets the sequences: a baseline has the values they go back to",
    "_should_reload_connections": "closes connections after a test: those that were made as good as new stay open",
}
"""The methods of ``TransactionTestCase`` that ``testcases`` overrides, by name in its classes, and why.

Django has no public hook between the end of a test and its flush.
"""
ATTRIBUTES_OF_WRAPPERS = frozenset({"_test_serialized_contents", "isolation_level", "_named_cursor_idx"})
"""What Django's runner and test classes put on a connection's wrapper."""
AROUND_TESTS = ("_pre_setup", "_post_teardown", "_fixture_setup", "_fixture_teardown")
"""The methods of ``TransactionTestCase`` that run around each test, before ``setUp()`` and after ``tearDown()``."""
NAMES_OF_TEST = ("_testMethodName", "_testMethodDoc")
"""The attributes of unittest's ``TestCase`` that tell one test of a class from another."""
CLEANUPS = "_cleanups"
"""The attribute of unittest's ``TestCase`` with what ``addCleanup()`` has registered."""
MEMO_OF_TEST_DATA = "_testdata_memo"
"""The attribute of a test with the memo of its copies of what ``setUpTestData()`` has set on the class."""
CREATE_METHOD, CLONE_METHOD = "_create_test_db", "_clone_test_db"
"""The methods of ``DatabaseCreation`` that make a test database, and one for a parallel worker."""

_handler: Any = connections


def get_test_database_name(creation: Any) -> str:
    """Return the name that the test database gets."""
    return str(creation._get_test_db_name())


def is_method_of_django(creation: Any, method: str) -> bool:
    """Whether Django itself defines that method of *creation*, and not a project."""
    return bool(getattr(type(creation), method).__module__.startswith("django."))


def can_find_databases(creation: Any) -> bool:
    """Whether *creation* can ask the server for a database by name: only PostgreSQL's can."""
    return hasattr(creation, "_database_exists")


def database_exists(creation: Any, name: str) -> bool:
    """Whether the server has a database of that name, asked without a connection to it."""
    with creation._nodb_cursor() as cursor:
        return bool(creation._database_exists(cursor, name))


def use_test_database(creation: Any) -> Any:
    """Have the connection lead to the test database by its name in the settings, which may be a path; return that name."""
    name = creation._get_test_db_name()
    settings.DATABASES[creation.connection.alias]["NAME"] = creation.connection.settings_dict["NAME"] = name
    return name


@contextmanager
def creation_observed(creation: Any, note: Callable[[Any, str], None]) -> Iterator[None]:
    """Call *note* with the cursor and the name for each database that PostgreSQL really makes while the block runs.

    Django makes each one by ``_execute_create_test_db()``, which calls ``_database_exists()`` for a database to keep.
    """
    original = getattr(creation, "_execute_create_test_db", None)
    if original is None or creation.connection.vendor != "postgresql":
        yield
        return

    def execute(cursor: Any, parameters: Any, *arguments: Any, **options: Any) -> Any:
        name = strip_quotes(parameters["dbname"])
        existed = creation._database_exists(cursor, name)
        result = original(cursor, parameters, *arguments, **options)
        if not existed and creation._database_exists(cursor, name):
            note(cursor, name)
        return result

    with _in_place_of_execute(creation, execute):
        yield


@contextmanager
def databases_created_by(creation: Any, create: Callable[[str, str], None]) -> Iterator[None]:
    """Have *create* run CREATE DATABASE while the block runs, with the name and the rest of the statement."""

    def execute(cursor: Any, parameters: Any, keepdb: bool = False) -> None:
        create(strip_quotes(parameters["dbname"]), parameters["suffix"])

    with _in_place_of_execute(creation, execute):
        yield


@contextmanager
def _in_place_of_execute(creation: Any, execute: Callable[..., Any]) -> Iterator[None]:
    outer = vars(creation).get("_execute_create_test_db")
    creation._execute_create_test_db = execute
    try:
        yield
    finally:
        del creation._execute_create_test_db
        if outer is not None:
            creation._execute_create_test_db = outer


def create_as_django_does(creation: Any, name: str, *, verbosity: int, autoclobber: bool, suffix: str) -> None:
    """Have Django make the test database *name*, with *suffix* after CREATE DATABASE, and replace an existing one.

    Unless *autoclobber*, Django asks first, and ends the process if the answer is no.
    """
    creation.sql_table_creation_suffix = lambda: suffix
    creation._get_test_db_name = lambda: name
    try:
        creation._create_test_db(verbosity, autoclobber, False)
    finally:
        del creation.sql_table_creation_suffix, creation._get_test_db_name


def set_serialized_contents(connection: Any, contents: str) -> None:
    """Keep the rows of the migrations for ``serialized_rollback``, as Django's ``create_test_db()`` does."""
    connection._test_serialized_contents = contents


def find_pool(connection: Any) -> Any:
    """Return the open psycopg pool of a connection's alias, or None."""
    return getattr(connection, "_connection_pools", {}).get(connection.alias)


def set_pool(connection: Any, pool: Any) -> None:
    """Have a connection of PostgreSQL, and all of its alias, use *pool*."""
    connection._connection_pools[connection.alias] = pool


def forget_pool(connection: Any) -> None:
    """Forget the pool of a connection's alias, and leave it open."""
    connection._connection_pools.pop(connection.alias, None)


def get_connection_storage() -> Any:
    """Return the thread-local storage behind ``django.db.connections``."""
    return _handler._connections


def set_connection_storage(storage: Any) -> None:
    """Replace it."""
    _handler._connections = storage


def mark_as_of_test_case(block: Any) -> None:
    """Mark an ``atomic()`` block as one of a test case's: durable blocks may be nested in it."""
    block._from_testcase = True


def is_of_test_case(block: Any) -> bool:
    """Whether an ``atomic()`` block is marked as one of a test case's."""
    return bool(block._from_testcase)


def copy_results(queryset: Any, copied: Any, copy: Callable[[Any], Any]) -> None:
    """Give *copied* what *queryset* has fetched, copied by *copy*."""
    copied._result_cache = copy(queryset._result_cache)
    copied._prefetch_done = queryset._prefetch_done


def content_type_cache(manager: Any) -> dict[str, dict[Any, Any]]:
    """Return the cache of the manager of content types, by alias."""
    cache: dict[str, dict[Any, Any]] = manager._cache
    return cache


def databases_of(case: Any, *, include_mirrors: bool = True) -> list[str]:
    """Return the aliases that a ``TransactionTestCase`` names."""
    return list(case._databases_names(include_mirrors=include_mirrors))


def supports_transactions(case: Any) -> bool:
    """Whether all databases of a ``TestCase`` have transactions, so that it rolls back."""
    return bool(case._databases_support_transactions())


def was_set_up_early(case: type[Any]) -> bool:
    """Whether ``setUpClass()`` has run the set-up of the first test of *case*, and that test has not begun."""
    return bool(vars(case).get("_pre_setup_ran_eagerly"))


def find_owner_of_teardown(case: type[Any]) -> type[Any]:
    """Return the class whose ``_fixture_teardown()`` ends the tests of *case*."""
    return next(each for each in case.__mro__ if "_fixture_teardown" in vars(each))


def has_serialized_contents(connection: Any) -> bool:
    """Whether the runner has kept the rows of the migrations for ``serialized_rollback``."""
    return hasattr(connection, "_test_serialized_contents")


def data_of(value: Any) -> Any:
    """Return what ``setUpTestData()`` has set on a class, from that attribute; any other *value* as it is."""
    from django.test import testcases  # noqa: PLC0415 - only tests need it

    return value.data if isinstance(value, testcases.TestData) else value  # type: ignore[attr-defined]


def settings_in_force() -> Any:
    """Return the object behind ``django.conf.settings``, whose attributes are the settings that were set."""
    return settings._wrapped  # type: ignore[misc]


def overridden_settings() -> dict[str, Any]:
    """Return all that ``override_settings`` has changed, the innermost value of each."""
    found: dict[str, Any] = {}
    layer: Any = settings._wrapped  # type: ignore[misc]
    while hasattr(layer, "default_settings"):
        found = {**vars(layer), **found}
        layer = layer.default_settings
    return found


@contextmanager
def settings_observed(note: Callable[[str], None]) -> Iterator[None]:
    """Call *note* with the name of each setting that is read from ``django.conf.settings`` while the block runs.

    Values that were read before are kept in the object's ``__dict__``: only ``__getattribute__`` sees each read.
    """
    kind: Any = type(settings)
    own, inherited = vars(kind).get("__getattribute__"), kind.__getattribute__

    def get(lazy: Any, name: str) -> Any:
        if name.isupper():
            note(name)
        return inherited(lazy, name)

    kind.__getattribute__ = get
    try:
        yield
    finally:
        if own is None:
            del kind.__getattribute__
        else:
            kind.__getattribute__ = own


def primary_key_as(instance: Any, model: Any) -> Any:
    """Return the primary key that *instance* has as a row of *model*, its own class or a parent."""
    return instance._get_pk_val(model._meta)
