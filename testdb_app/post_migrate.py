"""Find data migrations, and call receivers of ``post_migrate``. Both write rows that a reset to empty deletes.

Receivers can be called again, as Django's ``flush`` does. Data migrations run only once.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType

from django.apps import apps
from django.conf import settings
from django.core.management.sql import emit_post_migrate_signal
from django.db import DatabaseError, connections, router
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import RunPython, RunSQL
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.signals import post_migrate
from django.dispatch import Signal

from testdb_app.backends import get_backend
from testdb_app.conf import ALL_APPS, get_settings
from testdb_app.exceptions import PostMigrateError
from testdb_app.schema import list_some

if TYPE_CHECKING:
    from types import TracebackType

    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("testdb_app")

_WRITES_ROWS = re.compile(
    r"\bINSERT\s+INTO\b(?!\s+sqlite_sequence)|\bUPDATE\s+(?!ON\b|OR\b|OF\b)|\bCOPY\s|\bMERGE\s+INTO\b|\bREPLACE\s+INTO\b|\bSELECT\s.*\sINTO\s",
    re.IGNORECASE | re.DOTALL,
)
# Names in code that may write rows: methods of managers, instances, cursors and files with SQL, and calls of commands.
_WRITING_NAMES = {
    *("create", "acreate", "bulk_create", "get_or_create", "update_or_create", "save", "asave", "save_base", "update"),
    *("bulk_update", "add", "set", "call_command", "executemany", "copy", "copy_from", "copy_expert", "read_text"),
}


def was_migrated(connection: BaseDatabaseWrapper) -> bool:
    """Whether ``migrate`` was run on the database, so that receivers of ``post_migrate`` find their tables."""
    try:
        with get_backend(connection).catalog_first(connection):
            if MigrationRecorder(connection).applied_migrations():
                return True
            managed = set(connection.introspection.django_table_names(only_existing=False, include_views=False))
            return bool(managed) and managed <= set(connection.introspection.table_names())
    except DatabaseError as error:
        logger.info("%s: no record of migrations: %s", connection.alias, error)
        return False


def find_data_migrations(connection: BaseDatabaseWrapper) -> tuple[tuple[str, str], ...]:
    """Return the app labels and names of the applied migrations that may have written rows, sorted.

    These are migrations of installed apps with a ``RunPython`` whose code may write rows, or a ``RunSQL`` that inserts or
    updates rows. Migrations of Django's own apps are left out, because receivers of ``post_migrate`` create their rows.
    Cost: the import of every migration, and two queries.
    """
    try:
        with get_backend(connection).catalog_first(connection):
            loader = MigrationLoader(connection, ignore_no_migrations=True)
    except Exception as error:  # noqa: BLE001 - the import of a project's migrations may raise any error
        logger.info("%s: the migrations cannot be read: %s", connection.alias, error)
        return ()
    return tuple(
        sorted(
            (label, name)
            for label, name in loader.applied_migrations
            if (label, name) in loader.graph.nodes
            and not apps.get_app_config(label).name.startswith("django.contrib.")
            and any(_may_write_rows(each, connection.alias, label) for each in _operations(loader, label, name))
        )
    )


def _operations(loader: MigrationLoader, label: str, name: str) -> Iterator[Any]:
    pending: list[Any] = list(loader.graph.nodes[label, name].operations)
    while pending:
        operation = pending.pop()
        yield operation
        pending.extend(getattr(operation, "database_operations", ()))


def _may_write_rows(operation: Any, using: str, label: str) -> bool:
    if isinstance(operation, RunPython):
        writes = _code_may_write(operation.code, set())
    elif isinstance(operation, RunSQL):
        writes = _WRITES_ROWS.search(str(operation.sql)) is not None
    else:
        return False
    hints: dict[str, Any] = operation.hints or {}
    return writes and router.allow_migrate(using, label, **hints)


def _code_may_write(function: Any, seen: set[Any]) -> bool:
    """Whether *function*, or a function that it calls by name, may write rows. True if its code cannot be read."""
    if not isinstance(function, FunctionType):
        return not (inspect.isbuiltin(function) or inspect.ismodule(function))
    pending, names = [function.__code__], set[str]()
    while pending:
        code = pending.pop()
        names.update(code.co_names)
        for value in code.co_consts:
            if isinstance(value, CodeType):
                pending.append(value)
            elif isinstance(value, str) and value != function.__doc__ and _WRITES_ROWS.search(value):
                return True
    seen.add(function)
    called = [
        found for name in names if callable(found := function.__globals__.get(name)) and not isinstance(found, type)
    ]
    return bool(names & _WRITING_NAMES) or any(_code_may_write(each, seen) for each in called if each not in seen)


def find_package(module: str | None) -> tuple[list[str], bool]:
    """Return the folders of a package, and whether Django finds migrations in it: not in one without ``__init__.py``.

    The package of migrations is not imported, but the one around it is.
    """
    try:
        spec = find_spec(module) if module else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.submodule_search_locations is None:
        return [], False
    return list(spec.submodule_search_locations), spec.origin is not None


def send_post_migrate(using: str, *, verbosity: int = 0, interactive: bool = False) -> None:
    """Call the receivers of ``post_migrate`` for the alias *using*, as ``flush`` does.

    Raises :class:`PostMigrateError` for the first receiver that fails, chained to its error. Rows that were written before
    stay.
    """
    with _explaining(using):
        emit_post_migrate_signal(verbosity, interactive, using)


@contextmanager
def _explaining(using: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        receiver = _find_receiver(error.__traceback__)
        raise PostMigrateError(
            f'The receiver of post_migrate {receiver} failed for the alias "{using}": {type(error).__name__}: '
            f"{str(error).strip()}",
            receiver=receiver,
        ) from error


def call_named_receivers(using: str) -> None:
    """Call the receivers of ``post_migrate`` in the apps of ``TESTDB["POST_MIGRATE"]``, as ``flush`` does for the alias *using*.

    Each receiver is called once for each installed app with models, with the arguments that
    :func:`django.core.management.sql.emit_post_migrate_signal` passes. Raises :class:`PostMigrateError`.
    """
    named = get_settings().post_migrate
    signal = Signal()
    signal.receivers = [
        entry
        for entry in _entries()
        if (label := _label_of(entry)) is not None and (label in named or named == (ALL_APPS,))
    ]
    if not signal.receivers:
        return
    with _explaining(using):
        for config in apps.get_app_configs():
            if config.models_module is not None:
                signal.send(sender=config, app_config=config, verbosity=0, interactive=False, using=using)


def find_uncalled_receivers() -> list[str]:
    """Return the names of the receivers outside of Django that resets do not call. Empty if ``POST_MIGRATE`` is set."""
    get_settings()
    if "POST_MIGRATE" in getattr(settings, "TESTDB", {}):
        return []
    return find_foreign_receivers()


def find_foreign_receivers() -> list[str]:
    """Return the names of the receivers of ``post_migrate`` outside of Django."""
    return sorted({_name_of(_receiver_of(entry)) for entry in _entries() if _label_of(entry) is not None})


def receiver_names(*signals: Signal) -> list[str]:
    """Return the names of all receivers of *signals* but this package's own, sorted."""
    names = {_name_of(_receiver_of(entry)) for signal in signals for entry in _entries(signal)}
    return sorted(name for name in names if not name.startswith("testdb_app."))


def receiver_modules(*signals: Signal) -> set[str]:
    """Return the names of the modules that define the receivers of *signals*."""
    return {_module_of(_receiver_of(entry)) for signal in signals for entry in _entries(signal)}


def describe_uncalled_receivers() -> str | None:
    """Return a message with the receivers of :func:`find_uncalled_receivers`, for the start of a run. None if there are none."""
    # Without a baseline, every receiver is called after each flush.
    has_baseline = any(get_backend(connections[alias]).supports_baseline for alias in connections)
    found = find_uncalled_receivers() if has_baseline else []
    if not found:
        return None
    listed = list_some(found)
    return (
        f"resets do not call these receivers of post_migrate, which Django's flush calls: {listed}. If your tests need them, set "
        'TESTDB["POST_MIGRATE"] to their apps, or to "all"; otherwise set it to []'
    )


def _entries(signal: Signal = post_migrate) -> list[Any]:
    """Return Django's entries for receivers of *signal*. Item 1 of each is the receiver, or a weak reference to it."""
    return [entry for entry in list(signal.receivers) if _receiver_of(entry) is not None]


def _receiver_of(entry: Any) -> Any:
    receiver = entry[1]
    return receiver() if isinstance(receiver, ReferenceType) else receiver


def _label_of(entry: Any) -> str | None:
    """Return the label of the app that defines a receiver; "" if no app does, and None for Django's own receivers."""
    module = _module_of(_receiver_of(entry))
    if module.partition(".")[0] == "django":
        return None
    config = apps.get_containing_app_config(module)
    return config.label if config is not None else ""


def _module_of(receiver: Any) -> str:
    while isinstance(receiver, partial):
        receiver = receiver.func
    found = getattr(receiver, "__module__", None)
    return str(found if isinstance(found, str) else type(receiver).__module__)


def _name_of(receiver: Any) -> str:
    while isinstance(receiver, partial):
        receiver = receiver.func
    return f"{_module_of(receiver)}.{getattr(receiver, '__qualname__', type(receiver).__qualname__)}"


def _find_receiver(traceback: TracebackType | None) -> str:
    """Return the name of the receiver that Django's dispatcher called, from *traceback*."""
    is_next = False
    while traceback is not None:
        code = traceback.tb_frame.f_code
        module = str(traceback.tb_frame.f_globals.get("__name__"))
        if is_next and module != "django.dispatch.dispatcher":
            return f"{module}.{code.co_qualname}"
        is_next = is_next or module == "django.dispatch.dispatcher"
        traceback = traceback.tb_next
    return "(unknown)"
