"""May this database be reset? Asked of the live connection before the first write of every run.

The rules, in this order; the first that applies decides:

======================  ====  ==========================================================================
``standby``             no    the server is a standby
``protected``           no    the database bears the mark "protected"
``names-differ``        no    the settings name another database than the connection leads to
``read-only``           no    the session is read-only by default
``in-memory``           yes   an in-memory SQLite database
``test-runner``         yes   the name is the one that Django's test runner, pytest-django, xdist or
                              ``--parallel`` gave this alias in this process
``marked-as-test``      yes   the database bears the mark "test", under this very name
``allowed``             yes   the caller named this database, or ``TESTDB["ALLOWED_DATABASES"]`` does
``unknown``             no    none of the above
======================  ====  ==========================================================================

No environment variable and no host name is looked at: both say where somebody meant to be, not where the connection
leads. The marks live inside the database, so they travel with a dump or a copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.db import DEFAULT_DB_ALIAS, connections

from testdb_app.backends.base import DatabaseIdentity, Mark
from testdb_app.conf import get_settings
from testdb_app.exceptions import ReadOnlyError, UnsafeDatabaseError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_configured_names: dict[str, str] = {}
_trusted_names: dict[str, set[str]] = {}
# What follows the test database's name: --parallel appends the number of the worker.
_CLONE_SUFFIX = re.compile(r"_[0-9]+\Z")


def remember_configured_names(databases: dict[str, dict[str, Any]]) -> None:
    """Remember the name that each alias has before a test runner replaces it. Called once, when the app is ready."""
    for alias, configuration in databases.items():
        _configured_names.setdefault(alias, str(configuration.get("NAME") or ""))


def get_configured_name(alias: str) -> str | None:
    """Return the name that *alias* had before any test runner replaced it; None before the app was ready."""
    return _configured_names.get(alias)


def trust_test_database(alias: str, name: str) -> None:
    """Tell the guard that this process made the database *name* for tests, under *alias*.

    For runners and plugins that do not go through Django's ``create_test_db()``. It holds for this process only.
    """
    _trusted_names.setdefault(alias, set()).add(name)


def is_test_runner_name(connection: BaseDatabaseWrapper, name: str) -> bool:
    """Whether *name* is the one that Django's test runner gave this connection's alias in this process.

    That is: the settings were changed since the app was ready, to the name that Django makes of the configured one
    (``TEST["NAME"]``, else ``test_`` and the configured name), perhaps with the number of a parallel clone.
    """
    alias = connection.alias
    if name in _trusted_names.get(alias, ()):
        return True
    mirrored = connection.settings_dict.get("TEST", {}).get("MIRROR")
    if mirrored and mirrored != alias:
        return is_test_runner_name(connections[mirrored], name)
    configured = _configured_names.get(alias)
    if configured is None or name in {*_configured_names.values(), ""}:
        return False
    current = connection.settings_dict
    given = str(current.get("TEST", {}).get("NAME") or f"test_{configured}")
    return name == str(current["NAME"]) and name in {given, _with_clone_suffix(given, name)}


def _with_clone_suffix(given: str, name: str) -> str:
    """Return *name* if it is *given* with a clone's number, before the extension of a file."""
    stem, dot, extension = given.rpartition(".")
    if dot and "/" not in extension and name.startswith(f"{stem}_") and name.endswith(f".{extension}"):
        middle = name[len(stem) : -len(extension) - 1]
        return name if _CLONE_SUFFIX.fullmatch(middle) else given
    return name if name.startswith(given) and _CLONE_SUFFIX.fullmatch(name[len(given) :]) else given


def check_may_reset(identity: DatabaseIdentity, *, allow: Iterable[str] = (), act: str = "reset") -> str:
    """Return the name of the rule that permits a reset of the database that *identity* describes.

    Parameters: *identity*, what the live connection said; *allow*, names that the caller gives; *act*, what the error calls it.
    Raises :class:`UnsafeDatabaseError` with the rule that refused, or :class:`ReadOnlyError`.
    """
    refusal = _find_refusal(identity, act)
    if refusal is not None:
        raise refusal
    if identity.in_memory:
        return "in-memory"
    # A name that only the settings tell proves nothing: there the caller has to give it.
    if identity.is_live and is_test_runner_name(connections[identity.alias], identity.name):
        return "test-runner"
    if Mark.TEST in identity.marks:
        return "marked-as-test"
    if identity.name in {*allow, *get_settings().allowed_databases}:
        return "allowed"
    raise _unsafe(
        identity,
        "unknown",
        "it is not known to be a test database. If it may be emptied, name it: "
        f'resetdb{_database_option(identity)} --allow-database "{identity.name}", or add the name to '
        'TESTDB["ALLOWED_DATABASES"], or mark it once with resetdb --mark-test.',
        act,
    )


def check_may_mark_as_test(identity: DatabaseIdentity) -> None:
    """Raise, like :func:`check_may_reset`, for a database that no permission could open to resets."""
    refusal = _find_refusal(identity, act="mark")
    if refusal is not None:
        raise refusal


def _find_refusal(identity: DatabaseIdentity, act: str = "reset") -> UnsafeDatabaseError | ReadOnlyError | None:
    if identity.is_standby:
        return _unsafe(identity, "standby", "its server is a standby. Connect to the test server itself.", act)
    if Mark.PROTECTED in identity.marks:
        return _unsafe(
            identity,
            "protected",
            "it is marked as protected, here or in the database that it was copied from. If that is wrong, take the mark "
            f"away: resetdb{_database_option(identity)} --unmark-protected.",
            act,
        )
    if identity.names_differ:
        return _unsafe(
            identity,
            "names-differ",
            f'the settings name "{identity.configured}", but the connection leads to "{identity.name}". A connection pool '
            "that was opened before the test runner changed the name does that, or a proxy that renames databases: close the "
            "pools (connection.close_pool()) and connect again, or connect without the proxy.",
            act,
        )
    if identity.is_read_only:
        return ReadOnlyError(
            f'Refusing to {act} database "{identity.name}" (alias "{identity.alias}"): the session is read-only by default. '
            "Connect with a role or options that may write, if this is the database that you mean."
        )
    return None


def _unsafe(identity: DatabaseIdentity, rule: str, why: str, act: str = "reset") -> UnsafeDatabaseError:
    return UnsafeDatabaseError(
        f'Refusing to {act} database "{identity.name}" (alias "{identity.alias}", {identity.server}): {why}',
        rule=rule,
        database=identity.name,
        alias=identity.alias,
    )


def _database_option(identity: DatabaseIdentity) -> str:
    return "" if identity.alias == DEFAULT_DB_ALIAS else f" --database {identity.alias}"
