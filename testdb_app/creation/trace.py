"""What a build really used: code that ran, files and lists of files, settings and environment variables that were read.

::

    with Trace() as trace:
        ...  # Django's create_test_db()
    manifest = trace.manifest()

Only what belongs to the project is named: Python and installed distributions have their versions in the key.

Modules that this code imports count too, because their constants may have been computed before. This is not followed through
modules that define models, behind which the whole project is; such a module counts where data is taken from it by name.

What is not seen: attributes of model classes, data of modules that are imported under a computed name, environment
variables that were read before the build under a computed name, whether a file exists that is not opened, and what other programs
read. ``TESTDB["TEMPLATE_DEPENDS"]`` is for these.
"""

from __future__ import annotations

import ast
import datetime
import enum
import glob
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Self

from django.apps import apps
from django.conf import global_settings
from django.db.models.signals import post_migrate, pre_migrate
from django.utils.functional import Promise

from testdb_app import _django_private as django_private
from testdb_app.creation.key import (
    IGNORED_SETTINGS,
    IGNORED_VARIABLES,
    Manifest,
    is_library,
    is_standard_library,
    named_settings,
    named_variables,
    project_root,
)
from testdb_app.post_migrate import receiver_modules

# The code that observes is no part of what is observed.
_OWN_FOLDER = os.path.dirname(os.path.realpath(__file__))
_OWN_FILE = os.path.realpath(django_private.__file__)
_SYSTEM = ("/dev/", "/proc/", "/sys/", "/etc/", "/usr/share/zoneinfo/")
_NO_SOURCE = (".pyc", ".pyo", ".so", ".pyd")
# These read environment variables for others: the code that calls them is what counts.
_READS_FOR_OTHERS = frozenset({"os", "collections", "_collections_abc", "environ", "environs", "decouple"})
_TOOLS = frozenset({"django", "testdb_app", "psycopg", "psycopg_pool"})
# Behind these in the stack is the code that runs the tests.
_RUNNERS = frozenset({"django.core.management.commands.migrate", "django.db.backends.base.creation"})
_TOOL_IDS = (4, 3, 5)
_DATA = (str, bytes, int, float, tuple, list, dict, set, frozenset, Decimal, datetime.date, datetime.timedelta, Promise)


class Trace:
    """Observes the process while its block runs, all threads of it. Raises RuntimeError where another trace is on.

    After the block, ``note`` says why code could not be observed; it is None where it was. Then each module of the project
    that is loaded counts.

    Cost: on Python 3.11, the CPU time of the migrations once more; on 3.12 and later, a twentieth of it. An audit hook cannot be
    removed: in the rest of the process it takes some tenths of a microsecond for each event that Python audits.
    """

    def __init__(self) -> None:
        self.note: str | None = None
        self._code: set[str] = set()
        self._read: set[str] = set()
        self._written: set[str] = set()
        self._listed: set[str] = set()
        self._settings: set[str] = set()
        self._variables: set[str] = set()
        self._outside: set[str] = set()
        self._places: dict[str, str | None] = {}
        self._root = os.path.join(project_root(), "")
        self._stack = ExitStack()
        self._thread, self._begun = 0, 0.0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(_events_observed(self))
            stack.enter_context(django_private.settings_observed(self._note_setting))
            stack.enter_context(_variables_observed(self._note_variable))
            self._thread, self._begun = threading.get_ident(), time.time()
            stack.enter_context(_code_observed(self))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def outside(self) -> tuple[str, ...]:
        """Return what was done outside of the database, which a clone cannot repeat: files, connections, programs.

        For example ``shop/migrations/0002_logos.py writes media/logo.png``. It is not complete: only calls that Python audits
        are seen, and only in the thread of the block.
        """
        return tuple(sorted(self._outside))

    def manifest(self) -> Manifest:
        """Return what was used. Cost: each source file that ran is parsed, and each that these import."""
        imports = _Imports()
        ran = {place for each in self._code if (place := self._place_of(each))}
        if self.note is not None:
            ran |= {place for each in imports.modules if (place := self._place_of(each))}
        read = {place for each in self._read - self._written if (place := self._place_of(each))}
        # A file that was looked for in vain may be there the next time.
        files = {each for each in ran | read if os.path.isfile(each) or each.startswith(self._root)}
        files |= imports.follow(files, self._place_of)
        settings, variables = set(self._settings), set(self._variables)
        for data in _sources(files):
            settings |= named_settings(data)
            variables |= named_variables(data)
        settings |= self._settings_of_libraries(imports)
        return Manifest(
            files=tuple(sorted(map(self._relative, files))),
            listings=tuple(sorted(map(self._relative, self._listed))),
            settings=tuple(sorted(settings - IGNORED_SETTINGS)),
            environment=tuple(sorted(variables - IGNORED_VARIABLES)),
        )

    def mark_changed(self, used: Mapping[str, str]) -> dict[str, str]:
        """Return the used parts, with a text that fits never again for each file that was changed after it was used.

        What was built is not what such a file says now. Modules may have been imported at any time since the process began.
        """
        changed = {}
        for name in used:
            with suppress(OSError):
                state = os.stat(os.path.join(self._root, name))
                since = _process_start() if name.endswith(".py") else self._begun
                if max(state.st_mtime, state.st_ctime) > since:
                    changed[name] = "changed during the build"
        return {**used, **changed}

    def _settings_of_libraries(self, imports: _Imports) -> set[str]:
        """Return the settings that the migrations and receivers of libraries name, and modules of their package that they import.

        They may have been read when these were imported. Only settings of their own count: Django's are named at many places.
        """
        packages = {config.name.partition(".")[0] for config in apps.get_app_configs()} - _TOOLS
        receivers = {_file_of(sys.modules.get(name)) for name in receiver_modules(pre_migrate, post_migrate)}

        def place_of(path: str) -> str | None:
            return path if imports.modules.get(path, "").partition(".")[0] in packages else None

        ran = {place for each in self._code if (place := place_of(_real_place(each)))}
        files = {each for each in ran if each in receivers or os.path.basename(os.path.dirname(each)) == "migrations"}
        named = {name for data in _sources(files | imports.follow(files, place_of)) for name in named_settings(data)}
        return {name for name in named if not hasattr(global_settings, name)}

    def _relative(self, path: str) -> str:
        inside = path.removeprefix(glob.escape(self._root)).removeprefix(self._root)
        return (os.path.relpath(path, self._root) if inside == path else inside).replace(os.sep, "/")

    def _place_of(self, path: str) -> str | None:
        """Return the path without links to folders, or None unless it belongs to the project.

        A link to a file stays: it may lead elsewhere the next time.
        """
        if path not in self._places:
            place = _real_place(path)
            is_outside = (
                path.startswith("<")
                or is_library(place)
                or place.startswith((*_SYSTEM, _OWN_FOLDER + os.sep, _OWN_FILE))
                or place.endswith(_NO_SOURCE)
                or not {"__pycache__", ".git"}.isdisjoint(place.split(os.sep))
                or (place.startswith(_pytest_folders()) and not place.startswith(self._root))
            )
            self._places[path] = None if is_outside else place
        return self._places[path]

    def _note_setting(self, name: str) -> None:
        # Django reads it at each statement, and runners change it.
        if name != "DEBUG" or self._is_read_by_project(sys._getframe(2), frozenset()):
            self._settings.add(name)

    def _note_variable(self, name: str) -> None:
        if self._is_read_by_project(sys._getframe(2), _READS_FOR_OTHERS):
            self._variables.add(name)

    def _is_read_by_project(self, frame: FrameType | None, between: frozenset[str]) -> bool:
        while frame is not None and _top_package(frame) in between:
            frame = frame.f_back
        return frame is not None and self._place_of(frame.f_code.co_filename) is not None

    def note_event(self, event: str, arguments: tuple[Any, ...], frame: FrameType) -> None:
        """Note an event that Python audits, which *frame* caused: see :data:`_EVENTS`."""
        if event == "open":
            self._note_opened(arguments[0], arguments[2], frame)
        elif event == "glob.glob":
            self._note_listing(os.path.abspath(os.fsdecode(arguments[0])))
        elif event in {"os.listdir", "os.scandir"}:
            if not isinstance(arguments[0], int) and self._is_listed_by_project(frame):
                folder = os.path.abspath(os.fsdecode(os.curdir if arguments[0] is None else arguments[0]))
                self._note_listing(os.path.join(glob.escape(folder), "*"))
        elif event == "socket.connect":
            address = arguments[1]
            self._note_outside(
                frame, f"connects to {':'.join(map(str, address[:2])) if isinstance(address, tuple) else address}"
            )
        else:
            self._note_outside(frame, f"runs {os.path.basename(os.fsdecode(arguments[0] or arguments[1][0]))}")

    def _note_opened(self, path: Any, flags: int, frame: FrameType) -> None:
        if isinstance(path, int):
            return
        full = os.path.abspath(os.fsdecode(path))
        if not flags & (os.O_WRONLY | os.O_RDWR):
            self._read.add(full)
            return
        self._written.add(full)
        place = self._place_of(full)
        if place is not None:
            self._note_outside(frame, f"writes {self._relative(place)}")

    def _note_listing(self, pattern: str) -> None:
        if (place := self._place_of(pattern)) is not None:
            self._listed.add(place)

    def _is_listed_by_project(self, frame: FrameType | None) -> bool:
        while frame is not None:
            path = frame.f_code.co_filename
            if path.startswith("<frozen importlib") or _top_package(frame) == "pkgutil":
                return False  # the import of a module
            if not path.startswith("<") and not is_standard_library(path):
                return self._place_of(path) is not None
            frame = frame.f_back
        return False

    def _note_outside(self, frame: FrameType | None, what: str) -> None:
        """Note *what* a migration or receiver did, unless Django or this package did it for itself."""
        if threading.get_ident() != self._thread:
            return
        while frame is not None:
            path, package = frame.f_code.co_filename, _top_package(frame)
            if frame.f_globals.get("__name__") in _RUNNERS:
                return
            if not path.startswith("<") and not is_standard_library(path) and package not in _TOOLS:
                place = self._place_of(path)
                who = str(frame.f_globals.get("__name__")) if place is None else self._relative(place)
                self._outside.add(f"{who} {what}")
                return
            frame = frame.f_back


def _process_start() -> float:
    """Return when this process began, in seconds since the epoch: nearly, when ``logging`` was imported."""
    record = logging.makeLogRecord({})
    return record.created - record.relativeCreated / 1000


def _top_package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _real_place(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _pytest_folders() -> str:
    return os.path.join(os.path.realpath(tempfile.gettempdir()), "pytest-of-")


def _file_of(module: ModuleType | None) -> str:
    """Return the path of a module's file without links to folders; "" if it has none."""
    path = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    return _real_place(path) if isinstance(path, str) else ""


def _sources(files: set[str]) -> Iterator[bytes]:
    for path in files:
        if path.endswith(".py"):
            with suppress(OSError):
                yield Path(path).read_bytes()


@dataclass(frozen=True, slots=True)
class _Import:
    """A module that a source imports, with the names that the source takes from it: None for all of them."""

    module: str
    names: frozenset[str] | None
    bound: frozenset[str]
    """The names that the statement makes in the source; empty for ``import *``."""


class _Imports:
    """The imports of the modules that are loaded."""

    def __init__(self) -> None:
        self.modules = {path: name for name, module in list(sys.modules.items()) if (path := _file_of(module))}
        self._models = {_file_of(sys.modules.get(model.__module__)) for model in apps.get_models(include_swapped=True)}

    def follow(self, files: set[str], place_of: Callable[[str], str | None]) -> set[str]:
        """Return the files of the modules that *files* import, and so on, as far as *place_of* returns a path for them.

        A module that defines models is followed only as far as it has data that is taken from it by name.
        """
        found: set[str] = set()
        pending: list[tuple[str, frozenset[str] | None]] = [(each, None) for each in files if each not in self._models]
        seen = set(pending)
        while pending:
            path, names = pending.pop()
            for each in _imports_of(path, self.modules.get(path, "")):
                if names is not None and each.bound and each.bound.isdisjoint(names):
                    continue
                module = sys.modules.get(each.module)
                place = place_of(_file_of(module))
                if module is None or place is None or not place.endswith(".py"):
                    continue
                wanted = None
                if place in self._models:
                    wanted = frozenset(_data_of(module, each.names))
                    if not wanted:
                        continue
                found.add(place)
                if (place, wanted) not in seen:
                    seen.add((place, wanted))
                    pending.append((place, wanted))
        return found


def _data_of(module: ModuleType, names: frozenset[str] | None) -> Iterator[str]:
    """Yield those of *names* under which *module* has data, and not a class, a function or a module."""
    for name, value in vars(module).items():
        is_data = isinstance(value, _DATA) or (isinstance(value, type) and issubclass(value, enum.Enum))
        if is_data and (names is None or name in names) and not name.startswith("__"):
            yield name


def _imports_of(path: str, module: str) -> Iterator[_Import]:
    """Yield what the file *path* imports, at any place in it. *module* is its own name."""
    try:
        nodes = list(ast.walk(ast.parse(Path(path).read_bytes())))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    package = module.split(".") if os.path.basename(path) == "__init__.py" else module.split(".")[:-1]
    attributes = frozenset(node.attr for node in nodes if isinstance(node, ast.Attribute))
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = frozenset({alias.asname or alias.name.partition(".")[0]})
                parts = alias.name.split(".")
                for index in range(len(parts)):
                    yield _Import(".".join(parts[: index + 1]), attributes, bound)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = frozenset(alias.name for alias in node.names)
            if "*" in names:
                yield _Import(base, None, frozenset())
            else:
                bound = frozenset(alias.asname or alias.name for alias in node.names)
                yield _Import(base, names, bound)
                yield from (_Import(f"{base}.{name}", attributes, bound) for name in names)


_EVENTS = frozenset(
    {"open", "glob.glob", "os.listdir", "os.scandir", "socket.connect", "subprocess.Popen", "os.system"}
)
# An audit hook cannot be removed: there is one in a process, and this says for which trace.
_audience: list[Trace | None] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    # id() is an audited event. A hook that does nothing takes six sevenths of this one's time: 290 of 340 ns.
    trace = _audience[0]
    if trace is not None and event in _EVENTS:
        with suppress(Exception):  # or the project's own open() would fail
            trace.note_event(event, arguments, sys._getframe(1))


@contextmanager
def _events_observed(trace: Trace) -> Iterator[None]:
    if not _audience:
        _audience.append(None)
        sys.addaudithook(_audit)
    if _audience[0] is not None:
        raise RuntimeError("Another trace is on: build one template after the other.")
    _audience[0] = trace
    try:
        yield
    finally:
        _audience[0] = None


@contextmanager
def _variables_observed(note: Callable[[str], None]) -> Iterator[None]:
    kind: Any = type(os.environ)
    original = kind.__getitem__

    def get(environment: Any, key: Any) -> Any:
        if isinstance(key, str | bytes):
            note(os.fsdecode(key))
        return original(environment, key)

    kind.__getitem__ = get
    try:
        yield
    finally:
        kind.__getitem__ = original


if sys.version_info >= (3, 12):

    @contextmanager
    def _code_observed(trace: Trace) -> Iterator[None]:
        """Have the trace note the file of each function that is called."""
        monitoring, code = sys.monitoring, trace._code
        tool = next((each for each in _TOOL_IDS if monitoring.get_tool(each) is None), None)
        if tool is None:
            trace.note = "other tools have all free identifiers of sys.monitoring"
            yield
            return

        def start(called: Any, _: int) -> Any:
            code.add(called.co_filename)
            return monitoring.DISABLE

        monitoring.use_tool_id(tool, "testdb_app")
        try:
            monitoring.restart_events()  # those that an earlier trace has disabled
            monitoring.register_callback(tool, monitoring.events.PY_START, start)
            monitoring.set_events(tool, monitoring.events.PY_START)
            yield
        finally:
            monitoring.set_events(tool, monitoring.events.NO_EVENTS)
            monitoring.register_callback(tool, monitoring.events.PY_START, None)
            monitoring.free_tool_id(tool)

else:
    # Cheaper first: the profile function is called for functions of C, too. Coverage and debuggers have the first.
    _WAYS = (
        (sys.gettrace, sys.settrace, threading.gettrace, threading.settrace),
        (sys.getprofile, sys.setprofile, threading.getprofile, threading.setprofile),
    )

    @contextmanager
    def _code_observed(trace: Trace) -> Iterator[None]:
        """Have the trace note the file of each function that is called, here and in threads that are started meanwhile."""
        code = trace._code
        way = next((each for each in _WAYS if each[0]() is None and each[2]() is None), None)
        if way is None:
            trace.note = "other tools have the trace function and the profile function"
            yield
            return

        def observe(frame: FrameType, event: str, _: Any) -> None:
            if event == "call":
                code.add(frame.f_code.co_filename)

        get, put, _, put_for_threads = way
        put_for_threads(observe)
        put(observe)
        try:
            yield
        finally:
            put_for_threads(None)
            if get() is observe:
                put(None)
            else:
                trace.note = "another tool took the trace function"
