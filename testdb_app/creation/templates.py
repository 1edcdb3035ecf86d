"""Test databases from templates: Django's migrations run once, and each run and each worker gets a clone.

:class:`TemplateMaker` takes the place of Django's ``create_test_db()`` and ``clone_test_db()``. For each database:

1. The key of what the migrations depend on is read; see :mod:`testdb_app.creation.key`.
2. A template with that key is looked up. If there is none, Django makes a database under a scratch name, which is then
   renamed to be the template. One process builds it, and others with that key wait.
3. The template is cloned, and the clone gets the name that Django uses. If pytest has had the clone made while it
   collected the tests, only the name changes.

What cannot have a template goes on as without this package, and one line says why.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.test.utils import setup_test_environment, teardown_test_environment

from testdb_app import _django_private as django_private
from testdb_app import database_setup, guard
from testdb_app.backends import get_backend
from testdb_app.baseline import capture_baseline
from testdb_app.conf import get_settings
from testdb_app.creation.ahead import SpareMaker
from testdb_app.creation.key import (
    Manifest,
    StaticKey,
    describe_differences,
    full_digest,
    project_root,
    read_static_key,
    read_used_parts,
)
from testdb_app.creation.progress import Progress
from testdb_app.creation.template import Template, describe_seconds
from testdb_app.creation.trace import Trace
from testdb_app.exceptions import ArchiveError, TestDBError, UnsupportedError, first_line_of
from testdb_app.post_migrate import call_named_receivers, find_foreign_receivers
from testdb_app.resetter import Resetter
from testdb_app.schema import list_some

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.creation.store import Spare, TemplateStore

logger = logging.getLogger("testdb_app")

CLONES_ARE_CHEAPER = 512 * 1024 * 1024
"""Bytes of a template up to which a kept clone is replaced and not reset, where the server does not wait for a disk.

There a clone with the later DROP takes 3 to 4 ms for 1 MB, and the first reset of a process 4 to 6. Both databases exist until
the end of the run. With ``fsync`` on, the DROP takes 0.2 s on a quiet disk and was seen to take 7.
"""


class TemplateMaker:
    """Makes the test databases of one run from templates. The guard's hooks call it; see :func:`testdb_app.guard.made_by`.

    Parameters:

    - *progress*: where to write what is done.
    - *not_before*: seconds since the epoch; an older template is built anew.
    - *spares*: the clones that are made ahead.
    """

    def __init__(self, progress: Progress, *, not_before: float = 0.0, spares: SpareMaker | None = None) -> None:
        self.progress = progress
        self.not_before = not_before
        self.spares = spares
        # By alias: the template of its test database in this run.
        self.templates: dict[str, Template] = {}
        self.aliases: set[str] = set()

    def __call__(self, creation: Any, method: str, call: Callable[[], Any], given: Mapping[str, Any]) -> Any:
        """Make a test database, or a clone for a parallel worker, as the hook of the guard asks for it."""
        if method == "clone_test_db":
            return self._clone_for_worker(creation, call, given)
        return self._create(creation, call, given)

    def finish(self) -> None:
        """Do what need not be done before the first test: store the use of the templates, drop replaced databases.

        Never raises: what fails is done by a later run.
        """
        for alias, template in self.templates.items():
            with suppress(Exception), open_store(connections[alias]) as store:
                store.touch(template.with_use())
                store.drop_left_over()
                archive_once(store, template, self.progress)
        self.templates.clear()

    def _create(self, creation: Any, call: Callable[[], Any], given: Mapping[str, Any]) -> Any:
        connection = creation.connection
        self.aliases.add(connection.alias)
        self.templates.pop(connection.alias, None)
        name = django_private.get_test_database_name(creation)
        try:
            template, is_built, is_reset = self._make(creation, name, given)
        except _NoTemplateError as why:
            self.progress.report(connection.alias, f'no template for "{connection.alias}": {why}')
            if given.get("keepdb"):
                database_setup.restore_kept_databases([connection.alias])
            return call()
        self.templates[connection.alias] = template
        given_name = django_private.use_test_database(creation)
        connection.ensure_connection()
        if given.get("serialize"):
            django_private.set_serialized_contents(connection, creation.serialize_db_to_string())
        if os.environ.get("RUNNING_DJANGOS_TEST_SUITE") == "true":
            creation.mark_expected_failures_and_skips()
        if template.baseline:
            guard.mark_kept_database(connection)
            if given.get("keepdb"):
                with suppress(DatabaseError, connection.Database.Error), open_store(connection) as store:
                    store.note_schema(name)
            database_setup.note_cloned(connection.alias)
        if not is_built:
            call_named_receivers(connection.alias)
            kept = ", kept and reset" if is_reset else ""
            self.progress.report(connection.alias, describe_use(template) + kept, about=template.key)
        return given_name

    def _make(self, creation: Any, name: str, given: Mapping[str, Any]) -> tuple[Template, bool, bool]:
        """Make the database *name*; return its template, whether that was built now, and whether a kept clone was reset.

        Raises :class:`_NoTemplateError`.
        """
        with _opened_store(creation) as store:
            template, is_built = self.find_or_build(store, creation, verbosity=int(given.get("verbosity", 1)))
            if template.elsewhere and not is_built:
                aliases = ", ".join(f'"{alias}"' for alias in template.elsewhere)
                raise _NoTemplateError(f"its migrations write to {aliases} too")
            is_reset = self._provide(store, creation, template, name, given)
        return template, is_built, is_reset

    def _clone_for_worker(self, creation: Any, call: Callable[[], Any], given: Mapping[str, Any]) -> Any:
        connection = creation.connection
        template = self.templates.get(connection.alias)
        is_in_memory = connection.vendor == "sqlite" and connection.is_in_memory_db()
        if template is None or is_in_memory:  # Django copies the memory of this process
            return call()
        name = str(creation.get_test_db_clone_settings(given["suffix"])["NAME"])
        # As Django: the runner may have written to the test database, and clones are replaced without a question.
        source = str(connection.settings_dict["NAME"])
        try:
            with _opened_store(creation) as store:
                self._provide(store, creation, template, name, {**given, "autoclobber": True}, source=source)
        except _NoTemplateError as why:
            self.progress.report(connection.alias, f'no template for "{name}": {why}')
            return call()
        return None

    def _provide(
        self,
        store: TemplateStore,
        creation: Any,
        template: Template,
        name: str,
        given: Mapping[str, Any],
        *,
        source: str = "",
    ) -> bool:
        """Make *name* a fresh clone of *template*, or reset it if it is kept and that is cheaper; return whether it was reset.

        With *source*, the name of a test database from *template*, it is a clone of that.
        """
        connection = creation.connection
        keeps = bool(given.get("keepdb"))
        present = store.find_present(name) if keeps else None
        if present is not None and not present.is_clone:
            raise _NoTemplateError(
                f'"{name}" is kept, and was not made from a template: pytest --create-db, or manage.py test without --keepdb, '
                "replaces it"
            )
        if present is not None and present.is_in_use and source:
            raise _NoTemplateError(f'"{name}" is kept, and somebody is connected to it')
        with nullcontext() if source else self._taken_spare(connection.alias, template) as spare:
            if not source and present is not None and present.is_clone_of(template):
                is_costly = spare is None and not is_clone_cheap(store, template)
                if (is_costly or present.is_in_use) and _reset(store, name, template):
                    return True
            guard.close(connection)
            store.clone(
                creation,
                template,
                name,
                spare=spare,
                source=source,
                verbosity=int(given.get("verbosity", 1)),
                replaces=keeps or bool(given.get("autoclobber")),
            )
        guard.record_made(connection.alias, name)
        return False

    @contextmanager
    def _taken_spare(self, alias: str, template: Template) -> Iterator[Spare | None]:
        if self.spares is None:
            yield None
        else:
            with self.spares.taken(alias, template) as spare:
                yield spare

    # Templates --------------------------------------------------------------------------------------------------------

    def find_or_build(self, store: TemplateStore, creation: Any, *, verbosity: int = 0) -> tuple[Template, bool]:
        """Return the template of the database that *creation* makes, and whether it was built now.

        From a *verbosity* of 2 on, Django's output of a build is shown.
        """
        connection = creation.connection
        static = read_key(store)
        found, why = find_for(store, static, not_before=self.not_before)
        if found is not None:
            return found, False

        def wait() -> None:
            self.progress.say(f'waiting for another process that builds the template of "{connection.alias}"')
            get_backend(connection)  # its import takes as long as all else before the first test

        with store.lock(f"{connection.alias}:{static.digest}", wait):
            found, why = find_for(store, static, not_before=self.not_before)
            if found is not None:
                return found, False
            restored = self._restore(store, static)
            if restored is not None:
                return restored, False
            self.progress.say(f'building the template of "{connection.alias}" ({why})')
            template = self._build(store, creation, static, verbosity)
        took = f'template {template.short_name} of "{connection.alias}" built in {describe_seconds(template.seconds)}'
        frozen = (
            f"; in each clone, these columns hold the time of this build: {', '.join(template.frozen)}"
            if template.frozen
            else ""
        )
        self.progress.say(took + frozen)
        if template.outside:
            self.progress.say(
                f"a clone does not repeat what migrations did outside of the database: {'; '.join(template.outside)}"
            )
        return template, True

    def _restore(self, store: TemplateStore, static: StaticKey) -> Template | None:
        """Make the template from its files in ``TESTDB["TEMPLATE_CACHE"]``; None if it is not there, or cannot be restored."""
        try:
            template = find_archived(store, static, self.progress.say, not_before=self.not_before)
            folder = find_cache_folder()
            return None if template is None or folder is None else self._restore_now(store, template, folder)
        except ArchiveError as error:
            self.progress.say(error.message)
            return None

    def _restore_now(self, store: TemplateStore, template: Template, folder: Path) -> Template:
        connection, begun = store.connection, time.perf_counter()
        scratch = store.begin(template)
        try:
            store.restore(scratch, template, folder, self.progress.say)
            guard.record_made(connection.alias, scratch)
            with guard.renamed(connection, scratch):
                baseline = _capture(connection)
                server_started = store.read_start_if_unlogged()
            template = replace(
                template,
                server_started=server_started,
                name=store.name_template(template.key),
                project=str(project_root()),
                baseline=baseline,
                used=time.time(),
                uses=0,
            )
            store.commit(scratch, template)
        except BaseException:
            with suppress(Exception):  # the first error is the one to report
                store.drop(scratch)
            raise
        finally:
            guard.forget_made(connection.alias, scratch)
        self.progress.say(
            f'template {template.short_name} of "{connection.alias}" restored from {folder} in '
            f"{describe_seconds(time.perf_counter() - begun)}"
        )
        return template

    def _build(self, store: TemplateStore, creation: Any, static: StaticKey, verbosity: int) -> Template:
        """Have Django make and migrate a database under a scratch name, and make it the template."""
        connection = creation.connection
        started = time.time()
        template = Template(
            name="",
            alias=connection.alias,
            project=str(project_root()),
            static=static.digest,
            parts=static.parts,
            key="",
            manifest=Manifest(files=(), settings=(), environment=()),
            used_parts={},
            made=started,
            used=started,
            seconds=0.0,
        )
        store.collect(template)
        scratch = store.begin(template)
        try:
            with _named_for_tests(connection, scratch):
                template = self._migrate(store, creation, template, static, verbosity)
            store.commit(scratch, template)
        except BaseException:
            guard.close(connection)
            with suppress(Exception):  # the error of the build is the one to report
                store.drop(scratch)
            raise
        finally:
            guard.forget_made(connection.alias, scratch)
        return template

    def _migrate(
        self, store: TemplateStore, creation: Any, template: Template, static: StaticKey, verbosity: int
    ) -> Template:
        connection = creation.connection
        scratch = django_private.get_test_database_name(creation)
        # Django 6.0 serializes elsewhere, and deprecates the argument.
        options = {"serialize": False} if django.VERSION < (6, 0) else {}
        elsewhere: set[str] = set()
        begun = time.perf_counter()
        total = sum(name.endswith(".py") for name in static.parts)  # nearly: helpers beside the migrations count
        with (
            store.creating(creation, template),
            Trace() as trace,
            _writes_noted(connection.alias, elsewhere),
            self.progress.of_migrations(connection, total),
        ):
            creation.create_test_db(verbosity=verbosity if verbosity > 1 else 0, autoclobber=True, **options)
        seconds = time.perf_counter() - begun
        baseline = _capture(connection)
        manifest = trace.manifest()
        if trace.note is not None:
            self.progress.say(
                f"the code of migrations could not be observed, all modules of the project count: {trace.note}"
            )
        template = replace(
            template,
            manifest=manifest,
            server_started=store.read_start_if_unlogged(),
            extensions=store.read_extensions(),
            frozen=store.find_frozen(seconds),
            baseline=baseline,
            elsewhere=tuple(sorted(elsewhere)),
            outside=trace.outside,
            receivers=tuple(find_foreign_receivers()),
            seconds=seconds,
            made=time.time(),
        )
        guard.close(connection)
        used = trace.mark_changed(read_parts_now(store, template))
        key = full_digest(static, used)
        properties = store.read_properties(scratch)
        return replace(template, used_parts=used, key=key, name=store.name_template(key), properties=properties)


class _NoTemplateError(Exception):
    """The test database is made as without templates. The message says why."""


@contextmanager
def _opened_store(creation: Any) -> Iterator[TemplateStore]:
    """Open the store. Raises :class:`_NoTemplateError` if there can be no template, or the server refuses what it needs."""
    obstacle = find_obstacle(creation)
    if obstacle is not None:
        raise _NoTemplateError(obstacle)
    with _named_errors(creation.connection), open_store(creation.connection) as store:
        obstacle = store.find_obstacle()
        if obstacle is not None:
            raise _NoTemplateError(obstacle)
        yield store


@contextmanager
def _named_errors(connection: Any) -> Iterator[None]:
    try:
        yield
    except connection.Database.Error as error:  # the driver's: a migration's error is Django's
        raise _NoTemplateError(first_line_of(error)) from error


@contextmanager
def migrated_database(
    connection: BaseDatabaseWrapper, *, say: Callable[[str], None]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield a readable scratch database with the state of a fresh ``migrate``: its name, or the path of a SQLite file.

    With it comes :attr:`Template.frozen`. It is a clone of the template, which is built if need be, and it is dropped at
    the end. Nobody may be connected to it then. Raises :class:`UnsupportedError` if there can be no template.
    """
    with _as_unsupported(connection), ExitStack() as stack:
        store = stack.enter_context(_opened_store(connection.creation))
        template, _ = _find_or_build_alone(store, Progress(say))
        scratch = store.make_spare(template)
        stack.callback(store.drop, scratch)
        opened = stack.pop_all()
    with opened:
        yield scratch, template.frozen


def find_or_build_outside_of_tests(connection: BaseDatabaseWrapper, progress: Progress) -> tuple[Template, bool]:
    """Return the template that fits now, and whether it was built now, in a process that runs no tests.

    It is written to ``TESTDB["TEMPLATE_CACHE"]`` if it is not there. Raises :class:`UnsupportedError` if there can be none.
    """
    with _as_unsupported(connection), _opened_store(connection.creation) as store:
        template, is_built = _find_or_build_alone(store, progress)
        archive_once(store, template, progress)
        return template, is_built


def _find_or_build_alone(store: TemplateStore, progress: Progress) -> tuple[Template, bool]:
    """Find or build where the other aliases lead to their real databases: none of them may be used meanwhile."""
    with as_in_tests(), _others_refused(store.connection.alias):
        return TemplateMaker(progress).find_or_build(store, store.connection.creation)


@contextmanager
def _as_unsupported(connection: BaseDatabaseWrapper) -> Iterator[None]:
    try:
        yield
    except _NoTemplateError as why:
        raise UnsupportedError(f'There can be no template for alias "{connection.alias}": {why}.') from why


@contextmanager
def as_in_tests() -> Iterator[None]:
    """Have the settings that a run of tests has while the block runs: no DEBUG, and mail stays in memory."""
    with ExitStack() as stack:
        with suppress(RuntimeError):  # they are so already
            setup_test_environment(debug=False)
            stack.callback(teardown_test_environment)
        yield


def open_store(connection: BaseDatabaseWrapper) -> TemplateStore:
    """Return the store of templates for *connection*: its server's, or a folder. Raises the driver's errors."""
    if connection.vendor == "postgresql":
        from testdb_app.creation.postgresql_store import PostgreSQLStore  # noqa: PLC0415 - it imports the driver

        return PostgreSQLStore(connection)
    from testdb_app.creation.sqlite_store import SQLiteStore  # noqa: PLC0415

    return SQLiteStore(connection)


def find_obstacle(creation: Any) -> str | None:
    """Return why the test database of *creation* cannot come from a template, or None. Connects to nothing."""
    if creation.connection.vendor not in {"postgresql", "sqlite"}:
        return f"{creation.connection.vendor} is not supported"
    driver = creation.connection.Database.__name__
    if creation.connection.vendor == "postgresql" and driver != "psycopg":
        return f"it uses {driver}, and templates need psycopg 3"
    methods = ("create_test_db", "clone_test_db", django_private.CREATE_METHOD, django_private.CLONE_METHOD)
    for method in methods:
        if not django_private.is_method_of_django(creation, method):
            return f"{type(creation).__module__}.{type(creation).__qualname__} overrides {method}()"
    return None


def find_for(
    store: TemplateStore, static: StaticKey | None = None, *, not_before: float = 0.0
) -> tuple[Template | None, str]:
    """Return the template that fits now, and is not older than *not_before*; or None, and why there is none.

    *static* is what :func:`read_key` returns.
    """
    static = static or read_key(store)
    present = store.list_templates()
    found, why = _choose(store, present, static, not_before)
    own = str(project_root()), store.connection.alias
    related = [template for template in present if (template.project, template.alias) == own]
    if found is not None or why or not related:
        return found, why or "there is none yet"
    nearest = max(related, key=lambda each: each.used)
    return None, describe_changes(find_changes(store, nearest, static))


def find_changes(store: TemplateStore, template: Template, static: StaticKey) -> list[str]:
    """Return what has changed since *template* was built, the most telling first; nothing if its key fits now."""
    parts = read_parts_now(store, template)
    if template.static == static.digest and full_digest(static, parts) == template.key:
        return []
    return describe_differences({**template.parts, **template.used_parts}, {**static.parts, **parts}) or ["the key"]


def describe_changes(changed: list[str]) -> str:
    """Return what :func:`find_changes` found, in one line."""
    return f"changed: {list_some(changed, most=3)}"


def describe_too_old(template: Template, *, not_before: float = 0.0) -> str:
    """Return why *template* is too old, "" if it is not."""
    if template.made < not_before:
        return "it was asked for"
    max_age = get_settings().template_max_age
    if max_age is not None and template.made < time.time() - max_age:
        return f"the present one is older than {describe_seconds(max_age)}"
    return ""


def _choose(
    store: TemplateStore, templates: Iterable[Template], static: StaticKey, not_before: float
) -> tuple[Template | None, str]:
    """Return the one of *templates* that fits and is not too old; or None, with the reason if one is not to be used."""
    for template in templates:
        if template.static == static.digest and not find_changes(store, template, static):
            why_not = describe_too_old(template, not_before=not_before) or store.find_fault(template)
            return (None, why_not) if why_not else (template, "")
    return None, ""


def find_archived(
    store: TemplateStore, static: StaticKey, say: Callable[[str], None], *, not_before: float = 0.0
) -> Template | None:
    """Return the template in ``TESTDB["TEMPLATE_CACHE"]`` that fits now, and is not older than *not_before*.

    *say* is called with why a file there is of no use. Raises :class:`ArchiveError` for a folder that is not safe.
    """
    folder = find_cache_folder()
    if folder is None or not store.supports_archives:
        return None
    return _choose(store, store.list_archived(folder, say), static, not_before)[0]


def archive_once(store: TemplateStore, template: Template, progress: Progress) -> None:
    """Write *template* to ``TESTDB["TEMPLATE_CACHE"]``, unless it is there or there is no such folder."""
    folder = find_cache_folder()
    if folder is None or not store.supports_archives or template.elsewhere:
        return
    try:
        # The workers of a run end at about the same time.
        with store.lock(f"archive of {template.name}", lambda: None):
            if template.name not in {each.name for each in store.list_archived(folder, lambda _: None)}:
                store.archive(template, folder)
                progress.say(f"template {template.short_name} written to {folder}")
    except ArchiveError as error:
        progress.say(error.message)


def find_cache_folder() -> Path | None:
    """Return the folder of ``TESTDB["TEMPLATE_CACHE"]``, relative to the project; None without one."""
    folder = get_settings().template_cache
    return None if folder is None else project_root() / folder


def is_clone_cheap(store: TemplateStore, template: Template) -> bool:
    """Whether it costs less to replace a kept clone of *template* than to reset it."""
    return not store.waits_for_disk() and store.read_size(template.name) <= CLONES_ARE_CHEAPER


def describe_use(template: Template) -> str:
    """Return the line of a run that uses *template*."""
    which = "" if template.alias == DEFAULT_DB_ALIAS else f' "{template.alias}"'
    origin = "" if template.project == str(project_root()) else f", by {template.project}"
    return f"test database{which} from template {template.short_name} ({template.describe_age()}{origin})"


def read_key(store: TemplateStore) -> StaticKey:
    """Return what is known of the key before a build."""
    return read_static_key(store.connection, store.read_server_parts())


def read_parts_now(store: TemplateStore, template: Template) -> dict[str, str]:
    """Return what the build of *template* used, with its present contents."""
    available = store.read_available_extensions(sorted(template.extensions))
    return {
        **read_used_parts(template.manifest),
        **{f"extension {name}": version for name, version in available.items()},
    }


def _capture(connection: BaseDatabaseWrapper) -> str:
    """Capture the baseline inside the template; return when that was, or "" if there can be none."""
    try:
        return capture_baseline(connection.alias).captured_at
    except (TestDBError, DatabaseError) as error:  # a run that resets reports it
        logger.info("%s: the template has no baseline: %s", connection.alias, error)
        return ""


def _reset(store: TemplateStore, name: str, template: Template) -> bool:
    """Reset the kept clone *name* to the rows of *template*; False if it cannot be, as after a change of its schema."""
    connection = store.connection
    with guard.renamed(connection, name), guard.treated_as_kept(connection, name):
        try:
            if not store.has_noted_schema(name):
                return False  # also after a change that no reset sees: of a view, a function
            baseline = get_backend(connection).read_baseline(connection)
            if baseline is None or baseline.captured_at != template.baseline:
                return False  # a run without templates has captured its own
            Resetter(connection.alias, to="baseline", once=True).reset()
        except (TestDBError, DatabaseError) as error:
            logger.info("%s: the kept clone is replaced: %s", connection.alias, error)
            return False
    return True


@contextmanager
def _named_for_tests(connection: BaseDatabaseWrapper, name: str) -> Iterator[None]:
    """Have Django make its test database under *name* while the block runs."""
    test = connection.settings_dict["TEST"]
    names = test["NAME"], connection.settings_dict["NAME"], settings.DATABASES[connection.alias]["NAME"]
    test["NAME"] = name
    try:
        yield
    finally:
        guard.close(connection)
        test["NAME"], connection.settings_dict["NAME"], settings.DATABASES[connection.alias]["NAME"] = names


@contextmanager
def _others_refused(alias: str) -> Iterator[None]:
    """Have each statement on another alias than *alias* raise :class:`UnsupportedError` while the block runs."""

    def refuse(other: str, *_: Any) -> Any:
        raise UnsupportedError(
            f'The migrations of alias "{alias}" use alias "{other}", which leads to its real database here. No template is '
            "built: run the tests, which make a test database of it before."
        )

    with ExitStack() as stack:
        for other in connections:
            if other != alias:
                stack.enter_context(connections[other].execute_wrapper(partial(refuse, other)))
        yield


@contextmanager
def _writes_noted(alias: str, elsewhere: set[str]) -> Iterator[None]:
    """Note the aliases that statements other than queries run on while *alias* is migrated."""

    def note(other: str, execute: Any, query: Any, parameters: Any, many: bool, context: Any) -> Any:
        if not str(query).lstrip(" \n(").upper().startswith(("SELECT", "SHOW", "SAVEPOINT", "RELEASE", "PRAGMA")):
            elsewhere.add(other)
        return execute(query, parameters, many, context)

    with ExitStack() as stack:
        for other in connections:
            if other != alias:
                stack.enter_context(connections[other].execute_wrapper(partial(note, other)))
        yield
