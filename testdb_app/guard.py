"""The guard decides whether a database may be reset, by what the live connection reports before the first write.

The rules, in this order; the first that applies decides:

======================  ====  ==========================================================================
``standby``             no    the server is a standby
``protected``           no    the database bears the mark "protected"
``names-differ``        no    the settings name another database than the connection leads to
``read-only``           no    the session is read-only by default
``in-memory``           yes   an in-memory SQLite database
``test-runner``         yes   hooks saw that this run made the database for tests under this alias, and no
                              alias had it configured as its own when the app became ready
``marked-as-test``      yes   the database bears the mark "test", given to this very database
``allowed``             yes   the caller named this database, or ``TESTDB["ALLOWED_DATABASES"]`` or
                              :func:`trust_test_database` does
``unknown``             no    none of the above
======================  ====  ==========================================================================

**Databases that this run made.** Hooks around Django's ``create_test_db()``, ``clone_test_db()``,
``set_as_test_mirror()`` and ``setup_worker_connection()`` record them. Django's runner, pytest-django and xdist all
call these methods. A worker of ``--parallel`` inherits the records of its parent: in memory after a fork, in the
settings that Django hands to its workers after spawn or forkserver. A name alone proves nothing: code that changes
``settings_dict["NAME"]`` permits nothing. The first check of such a database stores its OID and its server, and no
other database is accepted under its name.

**Databases that an alias had configured.** They are compared by name and not by server, because one server has many
names. SQLite files are compared by device and inode. The comparison opens no connection.

**The mark "test"** holds for one database: by name, OID and the cluster's system identifier, or by path and inode. A
copy of the database has no valid mark. The mark "protected" holds in every copy.

Environment variables and host names play no part. They show where somebody meant to connect, not where the connection
leads.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, DatabaseError, InterfaceError, connections
from django.db.backends.base.creation import BaseDatabaseCreation
from django.db.utils import load_backend

from testdb_app import _django_private as django_private
from testdb_app.backends import backend_of, get_backend
from testdb_app.backends.base import DatabaseIdentity, FileName, Mark, has_autocommit, is_same_file
from testdb_app.conf import get_settings
from testdb_app.exceptions import ReadOnlyError, TransactionStateError, UnsafeDatabaseError, UnsupportedError
from testdb_app.schema import on_one_line

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("testdb_app")


class UnmarkedDatabaseWarning(UserWarning):
    """A kept test database without this package's mark was accepted, because the test runner named it."""


def check_may_reset(identity: DatabaseIdentity, *, allow: str | Iterable[str] = (), act: str = "reset") -> str:
    """Return the name of the rule that permits a reset of the database that *identity* describes.

    Parameters:

    - *identity*: what the live connection reported.
    - *allow*: one or more names that the caller gives.
    - *act*: the verb in the error message.

    Raises :class:`UnsafeDatabaseError` with the rule that refused, or :class:`ReadOnlyError`.
    """
    refusal = _find_refusal(identity, act)
    if refusal is not None:
        raise refusal
    if identity.in_memory:
        return "in-memory"
    is_marked = Mark.TEST in identity.marks
    made = find_made(identity)
    if made is not None and (is_marked or not made.is_kept):
        return "test-runner"
    if made is not None and not _unknown_aliases():
        _warn_of_unmarked(identity)
        return "test-runner"
    if is_marked:
        if identity.oid and not identity.system_identifier:
            logger.info(
                "%s: the role may not read the system identifier; the mark fits by name and OID", identity.alias
            )
        return "marked-as-test"
    allowed = (allow,) if isinstance(allow, str) else allow
    named = allowed, get_settings().allowed_databases, _trusted_names.get(identity.alias, ())
    if any(identity.name in names for names in named):
        return "allowed"
    raise _unsafe(identity, "unknown", _explain_unknown(identity, set().union(*named)), act)


def check_may_mark_as_test(identity: DatabaseIdentity) -> None:
    """Raise, like :func:`check_may_reset`, for a database that no permission could open to resets."""
    refusal = _find_refusal(identity, act="mark")
    if refusal is not None:
        raise refusal


# For each connection: the driver's connection that was checked last, the name in the settings then, and its identity.
_permitted: WeakKeyDictionary[BaseDatabaseWrapper, tuple[Any, str, DatabaseIdentity]] = WeakKeyDictionary()


def check_may_write(connection: BaseDatabaseWrapper, allow: str | Iterable[str] = ()) -> DatabaseIdentity:
    """Raise :class:`UnsafeDatabaseError`, as :func:`check_may_reset` does, unless *connection* leads to a test database.

    Returns the identity of that database. The transaction that writes proves that the connection still leads to it.
    One round trip for a new connection of the driver; none for one that was already checked.
    """
    connection.ensure_connection()
    name = str(connection.settings_dict["NAME"])
    raw, named, identity = _permitted.get(connection, (None, "", None))
    if identity is not None and raw is connection.connection and named == name:
        return identity
    identity = get_backend(connection).identify(connection)
    check_may_reset(identity, allow=(allow,) if isinstance(allow, str) else tuple(allow), act="write to")
    _permitted[connection] = connection.connection, name, identity
    return identity


# What the aliases had configured --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredDatabase:
    """The database that an alias had configured as its own when the app became ready.

    - ``other_names``: the names in the driver's options, which override ``NAME``.
    - ``files``: the path of a SQLite file, and the path with its links resolved.
    - ``inode``: the device and inode of that file; they stay the same if the file is moved.
    - ``is_unknown``: the driver finds the name elsewhere, in a service file or its environment.
    """

    name: str
    other_names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    inode: tuple[int, int] | None = None
    is_unknown: bool = False

    def is_named(self, name: str, file: str) -> bool:
        """Whether a database with that *name*, or in that *file*, is this one."""
        if file:
            moved = self.inode is not None and self.inode == _read_inode(file)
            return moved or any(is_same_file(path, file) for path in self.files)
        return bool(name) and name in _also_cut((self.name, *self.other_names))


@functools.cache
def _also_cut(names: tuple[str, ...]) -> frozenset[str]:
    # PostgreSQL cuts a longer name; Django's limit counts characters.
    return frozenset(names) | {each.encode()[:63].decode(errors="ignore") for each in names}


_configured_names: dict[str, ConfiguredDatabase] = {}


def remember_configured_names(databases: Mapping[str, Mapping[str, Any]]) -> None:
    """Store the database of each alias before a test runner replaces it. Called when the app is ready."""
    for alias, configuration in databases.items():
        if alias not in _configured_names:
            _configured_names[alias] = _read_configuration(configuration)


def _read_inode(file: str) -> tuple[int, int] | None:
    """Return the device and the inode of a file; None if there is none."""
    try:
        status = Path(file).stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _read_configuration(configuration: Mapping[str, Any]) -> ConfiguredDatabase:
    name = str(configuration.get("NAME") or "")
    options = configuration.get("OPTIONS") or {}
    others = tuple(str(options[key]) for key in ("dbname", "database", "db") if options.get(key))
    files = _find_files(configuration, name)
    return ConfiguredDatabase(
        name=name,
        other_names=others,
        files=files,
        inode=_read_inode(files[0]) if files else None,
        is_unknown=not name and not others and vendor_of(configuration) == "postgresql",
    )


def _unknown_aliases() -> list[str]:
    """Return the aliases whose own database has an unknown name: any kept database may be that one."""
    return [alias for alias, configured in _configured_names.items() if configured.is_unknown]


def _find_files(configuration: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return the paths of a SQLite file that *name* means, as given and without links, which may change later."""
    if vendor_of(configuration) != "sqlite":
        return ()
    named = FileName.parse(name)
    path = Path.cwd() / named.path
    # A URI may name an in-memory database, and another program may read the same text as a file.
    return () if named.is_in_memory else (str(path), str(path.resolve()))


def vendor_of(configuration: Mapping[str, Any]) -> str:
    """Return the vendor in an alias's settings, without a connection; '' if Django cannot load its backend."""
    wrapper = _load_wrapper(configuration)
    return str(wrapper.vendor) if wrapper is not None else ""


def _load_wrapper(configuration: Mapping[str, Any]) -> Any:
    """Return the connection class, without an instance; None if Django cannot load it. Django reports that itself."""
    with suppress(ImproperlyConfigured, ImportError, AttributeError):
        return load_backend(str(configuration.get("ENGINE") or "django.db.backends.dummy")).DatabaseWrapper
    return None


def get_configured_name(alias: str) -> str | None:
    """Return the name that *alias* had before any test runner replaced it; None before the app was ready."""
    configured = _configured_names.get(alias)
    return configured.name if configured is not None else None


def find_configured(name: str, file: str = "") -> str | None:
    """Return the alias that had the database with that *name*, or that SQLite *file*, configured as its own."""
    return next((alias for alias, configured in _configured_names.items() if configured.is_named(name, file)), None)


def is_configured_for(alias: str, settings: Mapping[str, Any], name: str) -> bool:
    """Whether *alias* had configured as its own the database that *name* means in *settings*. Opens no connection."""
    configured = _configured_names.get(alias)
    if configured is None or vendor_of(settings) != "sqlite":
        return configured is not None and configured.is_named(name, "")
    named = FileName.parse(name)
    return not named.is_in_memory and configured.is_named(name, str(Path.cwd() / named.path))


def is_configured(settings: Mapping[str, Any], name: str) -> bool:
    """Whether any alias had configured that database as its own; see :func:`is_configured_for`."""
    return any(is_configured_for(alias, settings, name) for alias in _configured_names)


# What the run has made ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeDatabase:
    """A database that hooks recorded as made for tests, under one alias and name.

    - ``is_kept``: it existed before this run, or no hook saw that this run made it.
    - ``stays``: it will exist after this run.
    - ``server``: identifier and start of the server that made it in this run.
    - ``place``: what distinguishes it from another database of that name; None until the first check.
    """

    is_kept: bool = False
    stays: bool = False
    server: tuple[str, str] | None = None
    place: tuple[str, ...] | None = None


_made: dict[tuple[str, str], MadeDatabase] = {}
_mirrored: dict[str, str] = {}
_trusted_names: dict[str, set[str]] = {}
_warned: set[tuple[str, str]] = set()

_INHERITED = "TESTDB_MADE"
"""A key of ``DATABASES[alias]["TEST"]``. A worker that does not share its parent's memory reads the records from it."""


def trust_test_database(alias: str, name: str) -> None:
    """Permit resets of the database *name* under *alias*. It counts as naming the database, for this process only.

    For suites that override pytest-django's ``django_db_setup``, and for runners that do not call Django's
    ``create_test_db()``.
    """
    _trusted_names.setdefault(alias, set()).add(name)


def add_mirror(alias: str, primary: str) -> None:
    """Record that the connection *alias* is one more to the database of *primary*.

    If *primary* has a test database of this run, the permission covers the server and database that *primary* really
    leads to.
    """
    _mirrored[alias] = primary
    if primary in _trusted_names:
        _trusted_names[alias] = _trusted_names[primary]


def is_set_up(alias: str) -> bool:
    """Whether a test database for *alias* was recorded in this process, other than as a mirror."""
    return alias in {alias for alias, _ in _made} and alias not in _mirrored


def find_made(identity: DatabaseIdentity) -> MadeDatabase | None:
    """Return the record of this live database; None if there is none, or if an alias had it configured as its own."""
    if not identity.is_live or find_configured(identity.name, identity.file) is not None:
        return None
    alias = _mirrored.get(identity.alias, identity.alias)
    made = _made.get((alias, identity.name))
    if made is None:
        return None
    if made.place is None:
        # Compare the mirror with the mirrored database, not the other way round.
        original = identity if alias == identity.alias else get_backend(connections[alias]).identify(connections[alias])
        if original.name != identity.name or not _is_same_server(made.server, original):
            return None
        made = _made[alias, identity.name] = replace(made, place=_place_of(original))
    return made if _is_same_place(made.place, identity) else None


def is_made_by_this_run(connection: BaseDatabaseWrapper) -> bool:
    """Whether hooks saw that this run made the database that *connection* leads to. One round trip."""
    made = find_made(get_backend(connection).identify(connection))
    return made is not None and not made.is_kept


def _place_of(identity: DatabaseIdentity) -> tuple[str, ...]:
    # Another SQLite file may replace this one. Each check tests that it is not a configured file.
    if identity.oid:
        return str(identity.oid), identity.system_identifier, identity.server_started
    return (identity.server,) if not identity.file else ()


def _is_same_server(server: tuple[str, str] | None, identity: DatabaseIdentity) -> bool:
    here = identity.system_identifier, identity.server_started
    # The start of the server identifies it if the role may not read the system identifier.
    which = 1 if server is not None and "" in {server[0], here[0]} else 0
    return server is None or server[which] == here[which]


def _is_same_place(place: tuple[str, ...] | None, identity: DatabaseIdentity) -> bool:
    here = _place_of(identity)
    if place is not None and identity.oid and len(place) == len(here):
        # New servers number databases alike.
        return place[0] == here[0] and _is_same_server((place[1], place[2]), identity)
    return place == here


def _warn_of_unmarked(identity: DatabaseIdentity) -> None:
    """Warn, once in a process, that an unmarked database counts as a test database because the runner keeps it."""
    if (identity.alias, identity.name) in _warned:
        return
    _warned.add((identity.alias, identity.name))
    has_marks = backend_of(identity.vendor).supports_marks
    why = f" ({identity.misfit})" if identity.misfit else ""
    unmarked = f", and has no valid test mark of testdb_app{why}" if has_marks else ""
    text = (
        f'Database "{identity.name}" (alias "{identity.alias}", {identity.server}) existed before this run{unmarked}. It counts '
        "as a test database, because the test runner keeps it under that name and no alias has it configured as its own. "
        "Where rows of migrations are missing, as after a flush, have it made anew once: --create-db, or without --keepdb. "
        'If you need its rows, stop the run, and give the test database another TEST["NAME"].'
    )
    try:
        warnings.warn(text, UnmarkedDatabaseWarning, stacklevel=2)
    except UnmarkedDatabaseWarning:
        # Log it: warnings are errors here, and this is not an error.
        logger.warning(text)


def mark_kept_database(connection: BaseDatabaseWrapper) -> None:
    """Mark a test database that stays after this run as "test", so that the next run recognizes it."""
    made = _made.get((connection.alias, str(connection.settings_dict["NAME"])))
    if made is None or not made.stays:
        return
    backend = get_backend(connection)
    identity = backend.identify(connection)
    if identity.in_memory or Mark.TEST in identity.marks or find_made(identity) is None:
        return
    try:
        backend.set_mark(connection, Mark.TEST, present=True, identity=identity)
    except (DatabaseError, UnsupportedError, UnsafeDatabaseError) as error:
        logger.info("%s: the kept test database could not be marked: %s", connection.alias, error)


# The hooks ------------------------------------------------------------------------------------------------------------

_refuses = False
_stays = False

Maker = Callable[[Any, str, Callable[[], Any], Mapping[str, Any]], Any]
"""Makes a test database in place of Django. It gets Django's object, the name of the method, that method as a function
without arguments, and the arguments by name; it returns what the method returns."""
_maker: ContextVar[Maker | None] = ContextVar("testdb_maker", default=None)


@contextmanager
def made_by(maker: Maker) -> Iterator[None]:
    """Have *maker* make the test databases while the block runs, and their clones for parallel workers.

    The hooks refuse and record as for Django's own methods. A test database that *maker* itself has made by these methods
    is made by Django.
    """
    token = _maker.set(maker)
    try:
        yield
    finally:
        _maker.reset(token)


def record_made(alias: str, name: str) -> None:
    """Record that this run made the database *name* for tests. The caller has made it, where no database was.

    For a maker whose CREATE DATABASE the hooks cannot see. The next check of the live connection stores where it is.
    """
    before = _made.get((alias, name), MadeDatabase(stays=_stays))
    _made[alias, name] = replace(before, is_kept=False, place=None)


def forget_made(alias: str, name: str) -> None:
    """Forget a database that was dropped, or has another name now."""
    _made.pop((alias, name), None)


@contextmanager
def setting_up_databases(*, stays: bool = False) -> Iterator[None]:
    """Make the hooks refuse configured databases while the block runs, because this run resets its databases.

    They refuse to create or keep a database that an alias has configured as its own, unless it is named or marked.
    The reset would be refused anyway; so the refusal comes before anything is written. *stays* means that the run
    leaves its databases for the next.
    """
    global _refuses, _stays  # hooks have no other way to learn what run they are in
    before = _refuses, _stays
    _refuses, _stays = True, stays
    try:
        yield
    finally:
        _refuses, _stays = before


def install_hooks(databases: Mapping[str, Mapping[str, Any]]) -> None:
    """Hook into Django's class that makes test databases, and into the vendors' that override it. Idempotent."""
    classes: set[type] = {BaseDatabaseCreation}
    for configuration in databases.values():
        wrapper = _load_wrapper(configuration)
        creation = getattr(wrapper, "creation_class", None)
        if isinstance(creation, type):
            classes |= {base for base in creation.__mro__ if issubclass(base, BaseDatabaseCreation)}
    for name, hook in _HOOKS.items():
        signature = inspect.signature(getattr(BaseDatabaseCreation, name))
        for each in classes:
            original = vars(each).get(name)
            if callable(original) and not hasattr(original, "__testdb_hook__"):
                setattr(each, name, _wrap(original, hook, signature))


def _wrap(original: Callable[..., Any], hook: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    @functools.wraps(original)
    def hooked(creation: Any, *arguments: Any, **options: Any) -> Any:
        def call() -> Any:
            return original(creation, *arguments, **options)

        connection = creation.connection
        # A copy of a connection, or a connection without an alias, belongs to no test database.
        is_own = connection.alias in connections and connections[connection.alias] is connection
        key = connection.alias, django_private.get_test_database_name(creation) if is_own else ""
        if not is_own or key in _hooked:
            return call()
        given = _arguments(signature, creation, *arguments, **options)
        maker = _maker.get() if original.__name__ in _MADE_BY else None
        make = call if maker is None else functools.partial(_make, maker, creation, original.__name__, call, given)
        _hooked.add(key)
        try:
            return hook(creation, make, given)
        finally:
            _hooked.discard(key)

    hooked.__testdb_hook__ = True  # type: ignore[attr-defined]
    return hooked


def _arguments(signature: inspect.Signature, *arguments: Any, **options: Any) -> Mapping[str, Any]:
    """Return the arguments by the names of Django's base class; a vendor's method may accept others besides."""
    try:
        bound = signature.bind_partial(*arguments, **options)
    except TypeError:
        return options
    bound.apply_defaults()
    return bound.arguments


_hooked: set[tuple[str, str]] = set()
"""The aliases, and their names for tests, whose hooks run now. A method that calls the one it overrides is recorded once."""


def _make(maker: Maker, creation: Any, method: str, call: Callable[[], Any], given: Mapping[str, Any]) -> Any:
    token = _maker.set(None)  # Django makes what the maker itself asks for
    try:
        return maker(creation, method, call, given)
    finally:
        _maker.reset(token)


def _create_test_db(creation: Any, call: Callable[[], Any], given: Mapping[str, Any]) -> Any:
    connection = creation.connection
    # An alias that was added after the app was ready also has a database of its own.
    remember_configured_names({connection.alias: connection.settings_dict})
    name = django_private.get_test_database_name(creation)
    keeps = bool(given.get("keepdb"))
    with _recorded(creation, name, keeps=keeps):
        if _refuses or not keeps:
            _refuse_configured(creation, name, act="run tests in" if keeps else "drop", loses_all=not keeps)
        started = time.monotonic()
        result = call()
        seconds_to_create[connection.alias] = time.monotonic() - started
        # A vendor's override may have used another name.
        final = str(connection.settings_dict["NAME"])
        if final != name:
            made = _made.pop((connection.alias, name))
            _made.setdefault((connection.alias, final), replace(made, is_kept=True, server=None))
    if connection.vendor != "sqlite":  # a file has no server to identify
        # From now on no other database is accepted under that name. An error here appears again where it matters.
        with suppress(Exception):
            find_made(get_backend(connection).identify(connection))
    return result


def _clone_test_db(creation: Any, call: Callable[[], Any], given: Mapping[str, Any]) -> Any:
    if "suffix" not in given:
        return call()
    name = str(creation.get_test_db_clone_settings(given["suffix"])["NAME"])
    keeps = bool(given.get("keepdb"))
    with _recorded(creation, name, keeps=keeps, how=django_private.CLONE_METHOD):
        if not keeps:
            _refuse_configured(creation, name, act="drop", loses_all=True)
        result = call()
    made = _made[creation.connection.alias, name]
    _inherited(creation.connection).setdefault("databases", {})[name] = [made.is_kept, made.stays, made.server]
    return result


@contextmanager
def _recorded(creation: Any, name: str, *, keeps: bool, how: str = django_private.CREATE_METHOD) -> Iterator[None]:
    """Record that *name* is made for tests, before it is made, because migrations may check; undo that on failure."""
    alias = creation.connection.alias
    _made[alias, name] = MadeDatabase(is_kept=_may_be_kept(creation, name, how), stays=keeps or _stays)
    try:
        with _noting_creation(creation, name):
            yield
    except BaseException:
        _made.pop((alias, name), None)
        raise


def _may_be_kept(creation: Any, name: str, how: str) -> bool:
    """Whether *name* counts as kept until a hook has seen that it was made."""
    if creation.connection.vendor != "postgresql":
        return creation.connection.vendor == "sqlite" and _exists(creation, name)
    # Hooks see Django's own method. They cannot see into a project's own, which may make nothing.
    is_django_own = django_private.is_method_of_django(creation, how)
    return is_django_own or _exists(creation, name)


def _exists(creation: Any, name: str) -> bool:
    """Whether the database exists, as far as that shows without a connection to it; True if it does not show.

    A connection attempt could do harm: a pooler remembers for a while that it failed, and the database is made a
    moment later.
    """
    if creation.connection.vendor == "sqlite":
        named = FileName.parse(name)
        return not named.is_in_memory and Path(named.path).exists()
    return not django_private.can_find_databases(creation) or django_private.database_exists(creation, name)


def _opened(path: str) -> AbstractContextManager[Any]:
    """Open a file if that is possible and does not keep it from being removed."""
    if os.name != "nt":
        with suppress(OSError):
            return Path(path).open("rb")
    return nullcontext()


@contextmanager
def _noting_creation(creation: Any, name: str) -> Iterator[None]:
    """Record which databases are really made while the block runs, and on which server.

    On PostgreSQL they are seen where Django makes them. A SQLite file is new unless it is still the same file: an
    open file keeps its inode.
    """
    alias = creation.connection.alias
    if creation.connection.vendor == "sqlite":
        with _opened(FileName.parse(name).path) if _made[alias, name].is_kept else nullcontext() as before:
            yield
            if before is not None:
                now = Path(FileName.parse(name).path).stat()
                is_same = os.path.samestat(os.fstat(before.fileno()), now)
                _made[alias, name] = replace(_made[alias, name], is_kept=is_same)
        return

    def note(cursor: Any, made: str) -> None:
        server = None
        with suppress(Exception):  # what fails here fails again where it matters
            identity = get_backend(cursor.db).identify(cursor.db)
            server = identity.system_identifier, identity.server_started
        stays = _made[alias, name].stays
        _made[alias, made] = MadeDatabase(is_kept=False, stays=stays, server=server)

    with django_private.creation_observed(creation, note):
        yield


@contextmanager
def treated_as_kept(connection: BaseDatabaseWrapper, name: str) -> Iterator[None]:
    """Apply the rules for a kept test database to *name* while the block runs, before any hook was called."""
    key = connection.alias, name
    before = _made.get(key)
    _made[key] = before or MadeDatabase(is_kept=True, stays=True)
    try:
        yield
    finally:
        if before is None:
            _made.pop(key, None)


def _refuse_configured(creation: Any, name: str, *, act: str, loses_all: bool) -> None:
    """Raise the guard's error for a name that means a configured database, unless it is named or marked.

    With *loses_all*, Django is about to drop it. A database without tables then passes too, if this run will not
    reset it.
    """
    connection = creation.connection
    if not is_configured(connection.settings_dict, name) or not _exists(creation, name):
        return
    with renamed(connection, name):
        try:
            backend = get_backend(connection)
            identity = backend.identify(connection)
            if loses_all and not _refuses and not _has_tables(connection):
                return
        except DatabaseError as error:
            if not loses_all or connection.vendor != "postgresql":
                return  # Django says what is wrong; elsewhere there may be no such database
            raise UnsafeDatabaseError(
                f'Refusing to {act} database "{name}" (alias "{connection.alias}"): an alias has it configured as its own, and '
                f"its tables cannot be read ({on_one_line(str(error))}). If it may be dropped, drop it yourself.",
                rule="unknown",
                database=name,
                alias=connection.alias,
            ) from error
        check_may_reset(identity, act=act)


def _has_tables(connection: BaseDatabaseWrapper) -> bool:
    """Whether there are tables, other than those of an extension, which may come with a database image."""
    tables = get_backend(connection).read_schema(connection).tables
    return any(table.stores_rows and table.extension is None for table in tables)


@contextmanager
def renamed(connection: BaseDatabaseWrapper, name: str) -> Iterator[None]:
    """Point the connection at the database *name* while the block runs."""
    configured = connection.settings_dict["NAME"]
    close(connection)
    connection.settings_dict["NAME"] = name
    try:
        yield
    finally:
        close(connection)
        connection.settings_dict["NAME"] = configured


def close(connection: BaseDatabaseWrapper) -> None:
    """Close a connection and its pool. An open pool would still lead to the database that it was opened for."""
    connection.close()
    close_pool = getattr(connection, "close_pool", None)
    if close_pool is not None:
        close_pool()


def _set_as_test_mirror(creation: Any, call: Callable[[], Any], given: Mapping[str, Any]) -> Any:
    result = call()
    connection = creation.connection
    settings = given.get("primary_settings_dict")
    primary = next((alias for alias in connections if connections[alias].settings_dict is settings), None)
    primary = primary or connection.settings_dict.get("TEST", {}).get("MIRROR")
    if primary and primary != connection.alias:
        _mirrored[connection.alias] = primary
        _inherited(connection)["mirrors"] = primary
    return result


def _setup_worker_connection(creation: Any, call: Callable[[], Any], _given: Mapping[str, Any]) -> Any:
    result = call()
    alias = creation.connection.alias
    test = creation.connection.settings_dict.get("TEST", {})
    # A process without a parent inherits nothing; the key came into its settings in another way.
    inherited = (parent_process() and test.get(_INHERITED)) or {}
    for name, (is_kept, stays, server) in inherited.get("databases", {}).items():
        _made.setdefault((alias, name), MadeDatabase(is_kept=is_kept, stays=stays, server=server and tuple(server)))
    if "mirrors" in inherited:
        _mirrored[alias] = inherited["mirrors"]
    return result


def _destroy_test_db(creation: Any, call: Callable[[], Any], given: Mapping[str, Any]) -> Any:
    connection = creation.connection
    suffix = given.get("suffix")
    settings = connection.settings_dict if suffix is None else creation.get_test_db_clone_settings(suffix)
    name = str(settings["NAME"])
    made = _made.get((connection.alias, name))
    if not given.get("keepdb") and (made is None or made.is_kept):
        _refuse_configured(creation, name, act="drop", loses_all=True)
    result = call()
    if not given.get("keepdb"):
        _made.pop((connection.alias, name), None)
        _inherited(connection).get("databases", {}).pop(name, None)
    return result


def _inherited(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    test = connection.settings_dict.setdefault("TEST", {})
    found: dict[str, Any] = test.setdefault(_INHERITED, {})
    return found


seconds_to_create: dict[str, float] = {}
"""How long each alias's test database took in this process, with its migrations."""

_HOOKS: dict[str, Callable[[Any, Callable[[], Any], Mapping[str, Any]], Any]] = {
    "create_test_db": _create_test_db,
    "clone_test_db": _clone_test_db,
    "set_as_test_mirror": _set_as_test_mirror,
    "setup_worker_connection": _setup_worker_connection,
    "destroy_test_db": _destroy_test_db,
}
_MADE_BY = ("create_test_db", "clone_test_db")


# The refusals ---------------------------------------------------------------------------------------------------------


def _find_refusal(identity: DatabaseIdentity, act: str = "reset") -> UnsafeDatabaseError | ReadOnlyError | None:
    if identity.is_standby:
        return _unsafe(identity, "standby", "its server is a standby. Connect to the test server itself.", act)
    if Mark.PROTECTED in identity.marks:
        return _unsafe(
            identity,
            "protected",
            "it is marked as protected, here or in the database that it was copied from. If that is wrong, remove the "
            f"mark: resetdb{_database_option(identity.alias)} --unmark-protected.",
            act,
        )
    if identity.names_differ:
        return _unsafe(
            identity,
            "names-differ",
            f'the settings name "{identity.configured}", but the connection leads to "{identity.name}". The cause is a '
            "connection pool that was opened before the test runner changed the name, or a proxy that renames databases. Close "
            "the pools (connection.close_pool()) and connect again, or connect without the proxy.",
            act,
        )
    if identity.is_read_only:
        return ReadOnlyError(
            f'Refusing to {act} database "{identity.name}" (alias "{identity.alias}"): the session is read-only by default. '
            "If you mean this database, connect with a role or options that allow writes."
        )
    return None


def _explain_unknown(identity: DatabaseIdentity, named: Iterable[str]) -> str:
    reasons = [*_reasons(identity), *_nearly_named(identity, named)]
    owner = find_configured(identity.name, identity.file)
    mark = ""
    if backend_of(identity.vendor).supports_marks and (owner is not None or identity.alias not in _configured_names):
        # Otherwise a test runner has changed the name, and the command would mark the database that the settings name.
        option = _database_option(owner or identity.alias)
        mark = f", or mark it {'anew' if identity.misfit else 'once'} with resetdb{option} --mark-test"
    return (
        "it is not known to be a test database. "
        + "".join(f"{reason[0].upper()}{reason[1:]}. " for reason in reasons)
        + f'If it may be emptied, name it: resetdb{_database_option(identity.alias)} --allow-database "{identity.name}", or add '
        f"this line to the settings: {settings_line(identity.name)}{mark}."
    )


def _reasons(identity: DatabaseIdentity) -> Iterator[str]:
    """Yield the reasons why a database that may look like a test database does not count as one."""
    owner = find_configured(identity.name, identity.file)
    alias = _mirrored.get(identity.alias, identity.alias)
    made = _made.get((alias, identity.name))
    if made is not None and owner is not None:
        yield f'the test runner uses it, but alias "{owner}" has it configured as its own'
        yield f'set DATABASES["{alias}"]["TEST"]["NAME"] to another name'
    elif made is not None and not (
        _is_same_server(made.server, identity) and (made.place is None or _is_same_place(made.place, identity))
    ):
        yield "the test database that this run made has the same name, but is another one, or on another server"
    elif made is not None and made.is_kept and _unknown_aliases():
        listed = ", ".join(f'"{each}"' for each in _unknown_aliases())
        yield (
            "the test runner keeps it, but it has no valid mark. It may be the database of alias "
            f"{listed}, whose settings name no database"
        )
    elif made is None and owner is None and _configured_names.get(identity.alias) is not None:
        yield (
            "no hook saw this process create it: its name was put into the settings in another way. If a fixture or runner of "
            f'your own did that, call testdb_app.guard.trust_test_database("{identity.alias}", "{identity.name}") there'
        )
    if identity.misfit:
        yield identity.misfit


def _nearly_named(identity: DatabaseIdentity, named: Iterable[str]) -> Iterator[str]:
    near = difflib.get_close_matches(identity.name, sorted(named), n=1)
    if near:
        yield f'"{near[0]}" is allowed, but that is not its name (did you mean "{identity.name}"?)'


def settings_line(name: str) -> str:
    """Return the line that allows *name*, to be added at the end of the present settings."""
    names = json.dumps([*get_settings().allowed_databases, name], ensure_ascii=False)
    if getattr(django_settings, "TESTDB", None):
        return f'TESTDB["ALLOWED_DATABASES"] = {names}'
    return f'TESTDB = {{"ALLOWED_DATABASES": {names}}}'


def _unsafe(identity: DatabaseIdentity, rule: str, why: str, act: str = "reset") -> UnsafeDatabaseError:
    return UnsafeDatabaseError(
        f'Refusing to {act} database "{identity.name}" (alias "{identity.alias}", {identity.server}): {why}',
        rule=rule,
        database=identity.name,
        alias=identity.alias,
    )


def _database_option(alias: str) -> str:
    return "" if alias == DEFAULT_DB_ALIAS else f" --database {alias}"


def check_no_transaction(connection: BaseDatabaseWrapper, doing: str) -> None:
    """Raise :class:`TransactionStateError` if *connection* is in a transaction, or would be at its next statement."""
    if connection.in_atomic_block or not has_autocommit(connection):
        raise TransactionStateError(
            f'Refusing to {doing}: the connection "{connection.alias}" is in a transaction, or has autocommit off. The '
            "result must be committed for other connections to see it. Do this outside of atomic(), with autocommit on."
        )


def check_transaction_state(connection: BaseDatabaseWrapper, *, within_transaction: bool) -> None:
    """Raise :class:`TransactionStateError` unless *connection* is in a transaction exactly if *within_transaction* is true.

    Checks Django's wrapper, not the server: no round trip, and a closed connection stays closed.
    """
    what = None
    if connection.in_atomic_block and connection.needs_rollback:
        what = "is in a transaction that has failed. Leave its atomic() block first"
    elif not within_transaction and connection.in_atomic_block:
        what = (
            "is inside atomic(). A reset commits, and would see the rows of that transaction but not end it. Call it "
            "outside, or pass within_transaction=True to make it part of that transaction"
        )
    elif not within_transaction and not has_autocommit(connection):
        what = "has autocommit off. Commit and switch it on, or pass within_transaction=True and commit yourself"
    elif within_transaction and has_autocommit(connection):
        what = "is in no transaction, though within_transaction=True says so. Wrap the call in atomic()"
    if what is not None:
        raise TransactionStateError(f'Refusing to reset: the connection "{connection.alias}" {what}.')


def leave_blocks(connection: BaseDatabaseWrapper, *, above: object = None) -> bool:
    """Roll back and leave the ``atomic()`` blocks that a test entered by hand. Return whether there was any.

    *above* is the block to stop at. If that block was left already, nothing is done.
    """
    blocks = connection.atomic_blocks
    if not blocks or blocks[-1] is above or (above is not None and above not in blocks):
        return False
    while blocks and blocks[-1] is not above:
        connection.needs_rollback = True
        with suppress(DatabaseError, InterfaceError):
            blocks[-1].__exit__(None, None, None)
    return True


def end_transaction(connection: BaseDatabaseWrapper) -> None:
    """Undo what a test has left uncommitted outside of ``atomic()``, as Django does by closing the connection."""
    if connection.connection is None or connection.in_atomic_block:
        return
    try:
        # The driver skips the round trip if there is nothing to undo.
        connection.rollback()
        if not connection.get_autocommit():
            connection.set_autocommit(True)
    except (DatabaseError, InterfaceError):
        # The connection is lost. The reset makes a new one.
        connection.close()
