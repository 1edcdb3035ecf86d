"""What a build really used: code that ran, files, folders, settings and environment variables that were read.

::

    with Trace() as trace:
        ...  # Django's create_test_db()
    manifest = trace.manifest()

Only what belongs to the project is named: files of Python and of installed distributions have their versions in the key. Modules
that this code imports count too, because their constants may have been computed before. This is not followed through modules that
define models, behind which the whole project is. So a change of a constant in such a module is not seen.
"""

from __future__ import annotations

import ast
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Self

from django.apps import apps

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

_ELSEWHERE = ("/dev/", "/proc/", "/sys/", "/etc/", "/usr/share/zoneinfo/")
_NO_SOURCE = (".pyc", ".pyo", ".so", ".pyd")
# Libraries that read environment variables for a project: the code that calls them is what counts.
_ENVIRONMENT_LIBRARIES = frozenset({"environ", "environs", "decouple", "os", "_collections_abc", "collections"})
# The code that observes is no part of what is observed.
_OWN_FOLDER = os.path.dirname(os.path.realpath(__file__))
_OWN_FILE = os.path.realpath(django_private.__file__)
_TOOL_IDS = (4, 3, 5)
_LISTINGS = frozenset({"os.listdir", "os.scandir"})


class Trace:
    """Observes the process while its block runs, all threads of it. One at a time.

    ``note`` says, after the block, why code could not be observed; None if it was. Then each module of the project that is
    loaded counts. Cost: about a third of the CPU time of migrations on Python 3.11, next to nothing on 3.12 and later; and for
    the rest of the process 0.1 microseconds for each event that Python audits.
    """

    def __init__(self) -> None:
        self.note: str | None = None
        self._code: set[str] = set()
        self._read: set[str] = set()
        self._written: set[str] = set()
        self._listed: set[str] = set()
        self._settings: set[str] = set()
        self._environment: set[str] = set()
        self._is_of_project: dict[str, bool] = {}
        self._root = str(project_root())
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(_audited(self))
            stack.enter_context(django_private.settings_observed(self._note_setting))
            stack.enter_context(_environment_observed(self._note_variable))
            stack.enter_context(_code_observed(self))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def manifest(self) -> Manifest:
        """Return what was used. Cost: each file of the project that ran is parsed, and those that they import."""
        modules = _modules_by_file()
        code = {place for each in self._code if (place := self._place_of(each))}
        if self.note is not None:
            code |= {place for each in modules if (place := self._place_of(each))}
        read = {place for each in self._read - self._written if (place := self._place_of(each))}
        files = {each for each in code | read if os.path.isfile(each) or each.startswith(self._root + os.sep)}
        models = {_file_of(sys.modules.get(model.__module__)) for model in apps.get_models()}
        files |= self._imported_by({each for each in files if each.endswith(".py")}, models, modules)
        settings, environment = set(self._settings), set(self._environment)
        for each in files:
            if each.endswith(".py"):
                with suppress(OSError):
                    data = Path(each).read_bytes()
                    settings |= named_settings(data)
                    environment |= named_variables(data)
        folders = {place for each in self._listed if (place := self._place_of(each))}
        return Manifest(
            files=tuple(sorted(map(self._relative, files))),
            folders=tuple(sorted(map(self._relative, folders))),
            settings=tuple(sorted(settings - IGNORED_SETTINGS)),
            environment=tuple(sorted(environment - IGNORED_VARIABLES)),
        )

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._root).replace(os.sep, "/")

    def _place_of(self, path: str) -> str | None:
        """Return the path without links to folders, or None unless it belongs to the project.

        A link to a file is kept: it may be changed to lead elsewhere.
        """
        place = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        is_inside = place.startswith(self._root + os.sep)
        temporary = os.path.join(os.path.realpath(tempfile.gettempdir()), "pytest-of-")
        if (
            path.startswith("<")
            or place.endswith(_NO_SOURCE)
            or is_library(place)
            or place.startswith(_ELSEWHERE)
            or f"{os.sep}__pycache__{os.sep}" in place
            or f"{os.sep}.git{os.sep}" in place
            or (place.startswith(temporary) and not is_inside)
            or place.startswith(_OWN_FOLDER + os.sep)
            or place == _OWN_FILE
        ):
            return None
        return place

    def _belongs_to_project(self, filename: str) -> bool:
        found = self._is_of_project.get(filename)
        if found is None:
            found = self._is_of_project[filename] = self._place_of(filename) is not None
        return found

    def _note_setting(self, name: str) -> None:
        # Django reads it for each statement; test environments change it.
        if name != "DEBUG" or self._is_asked_by_project(sys._getframe(3), {"environ"}):
            self._settings.add(name)

    def _note_variable(self, name: str) -> None:
        if self._is_asked_by_project(sys._getframe(3), _ENVIRONMENT_LIBRARIES):
            self._environment.add(name)

    def _is_asked_by_project(self, frame: FrameType | None, between: frozenset[str] | set[str]) -> bool:
        while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in between:
            frame = frame.f_back
        return frame is not None and self._belongs_to_project(frame.f_code.co_filename)

    def note_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note an event that Python audits: a file that is opened, or a folder that is listed."""
        if event == "open":
            path, flags = arguments[0], arguments[2]
            if isinstance(path, int):
                return
            is_read = not isinstance(flags, int) or flags & (os.O_WRONLY | os.O_RDWR) == 0
            (self._read if is_read else self._written).add(os.path.abspath(os.fsdecode(path)))
        elif self._is_listed_by_project(sys._getframe(2)):
            path = arguments[0]
            if not isinstance(path, int):
                self._listed.add(os.path.abspath(os.fsdecode(path if path is not None else os.curdir)))

    def _is_listed_by_project(self, frame: FrameType | None) -> bool:
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith("<frozen importlib") or frame.f_globals.get("__name__") == "pkgutil":
                return False  # the import of a module
            if not name.startswith("<") and not is_standard_library(name):
                return self._belongs_to_project(name)
            frame = frame.f_back
        return False

    def _imported_by(self, files: set[str], models: set[str], modules: dict[str, str]) -> set[str]:
        """Return the files of the project that *files* import, and so on, but not through *models*."""
        found: set[str] = set()
        pending = list(files)
        while pending:
            each = pending.pop()
            if each in models:
                continue
            for name in _imported_names(each, modules.get(each, "")):
                place = self._place_of(_file_of(sys.modules.get(name)))
                if place and place.endswith(".py") and place not in files | found | models:
                    found.add(place)
                    pending.append(place)
        return found


def _file_of(module: ModuleType | None) -> str:
    """Return the path of a module's file without links to folders; "" if it has none."""
    path = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    if not isinstance(path, str):
        return ""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _modules_by_file() -> dict[str, str]:
    return {path: name for name, module in list(sys.modules.items()) if (path := _file_of(module))}


def _imported_names(path: str, module: str) -> Iterator[str]:
    """Yield the names of what the file *path* imports, which may be modules. *module* is its own name."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    package = module.split(".") if path.endswith("__init__.py") else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                yield from (".".join(parts[: index + 1]) for index in range(len(parts)))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


# An audit hook cannot be removed: there is one in a process, and this says for whom.
_audience: list[Trace | None] = []


@contextmanager
def _audited(trace: Trace) -> Iterator[None]:
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


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    trace = _audience[0]
    if trace is not None and (event == "open" or event in _LISTINGS):
        with suppress(Exception):  # or the project's open() would fail
            trace.note_event(event, arguments)


@contextmanager
def _environment_observed(note: Callable[[str], None]) -> Iterator[None]:
    kind: Any = type(os.environ)
    original = kind.__getitem__

    def get(environment: Any, key: Any) -> Any:
        note(os.fsdecode(key) if isinstance(key, str | bytes) else "")
        return original(environment, key)

    kind.__getitem__ = get
    try:
        yield
    finally:
        kind.__getitem__ = original


@contextmanager
def _code_observed(trace: Trace) -> Iterator[None]:
    """Add the file of each function that is called to the trace, in all threads that are started meanwhile."""
    if sys.version_info >= (3, 12):
        with _monitored(trace):
            yield
    else:
        with _profiled(trace):
            yield


if sys.version_info >= (3, 12):

    @contextmanager
    def _monitored(trace: Trace) -> Iterator[None]:
        monitoring = sys.monitoring
        tool = next((each for each in _TOOL_IDS if monitoring.get_tool(each) is None), None)
        if tool is None:
            trace.note = "all tool identifiers of sys.monitoring are in use"
            yield
            return

        def start(code: Any, _: int) -> Any:
            trace._code.add(code.co_filename)
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

    @contextmanager
    def _profiled(trace: Trace) -> Iterator[None]:
        """Use the trace function, or where a debugger or coverage has it, the profile function."""
        code = trace._code

        def observe(frame: FrameType, event: str, _: Any) -> None:
            if event == "call":
                code.add(frame.f_code.co_filename)

        ways = (
            (sys.gettrace, sys.settrace, threading.gettrace, threading.settrace),
            (sys.getprofile, sys.setprofile, threading.getprofile, threading.setprofile),
        )
        way = next((each for each in ways if each[0]() is None), None)
        if way is None:
            trace.note = "another tool has the trace function, and another the profile function"
            yield
            return
        get, put, get_for_threads, put_for_threads = way
        for_threads = get_for_threads()
        put(observe)
        if for_threads is None:
            put_for_threads(observe)
        try:
            yield
        finally:
            if get() is observe:
                put(None)
            else:
                trace.note = "another tool took the place of the trace function"
            if for_threads is None:
                put_for_threads(None)
