"""What a template database depends on: the static key, and what a traced build used.

A template may be cloned while both are as they were when it was built:

- the *static key*, which is known without a build: migration files, installed apps, models of apps without migrations,
  versions, settings (:func:`read_static_key`);
- the *used parts*: files, settings and variables that the build really used. A :class:`Manifest` names them,
  :func:`read_used_parts` reads their present state, and :class:`testdb_app.creation.trace.Trace` finds them.

Both are mappings of names to short texts. A text that begins with ``#`` is a digest, any other is meant for people. Names are
paths relative to :func:`project_root`, or begin with a word: ``setting LANGUAGES``, ``variable SHOP_MODE``, ``distribution
psycopg``. :func:`describe_differences` tells a person what changed. Nothing here connects to a database.
"""

from __future__ import annotations

import datetime
import enum
import functools
import glob
import json
import os
import re
import sys
import sysconfig
import tempfile
import types
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
from django.apps import apps
from django.conf import settings
from django.db.migrations.loader import MigrationLoader
from django.db.models.signals import post_migrate, pre_migrate
from django.utils.functional import Promise

from testdb_app.conf import get_settings
from testdb_app.exceptions import ConfigurationError
from testdb_app.post_migrate import find_package, receiver_names

if TYPE_CHECKING:
    from django.apps import AppConfig
    from django.db.backends.base.base import BaseDatabaseWrapper

FORMAT = 1
"""Raise it when templates of an earlier version of this package must not be used any more."""

GONE = "gone"
"""The text of a file that does not exist."""

# Settings that shape the schema or the rows of every project. Migrations and the trace name more.
_BASE_SETTINGS = (
    *("INSTALLED_APPS", "AUTH_USER_MODEL", "DEFAULT_AUTO_FIELD", "DATABASE_ROUTERS", "LANGUAGES", "LANGUAGE_CODE"),
    *("TIME_ZONE", "USE_TZ", "USE_I18N", "SITE_ID", "DEFAULT_TABLESPACE", "DEFAULT_INDEX_TABLESPACE"),
)
IGNORED_SETTINGS = frozenset(
    {
        *(
            "SECRET_KEY",
            "SECRET_KEY_FALLBACKS",
            "LOGGING",
            "LOGGING_CONFIG",
            "DATABASES",
            "CACHES",
            "MIGRATION_MODULES",
        ),
        *("EMAIL_BACKEND", "ALLOWED_HOSTS", "TEST_RUNNER", "TEST_NON_SERIALIZED_APPS", "FORCE_SCRIPT_NAME", "TESTDB"),
        *("CONFIGURED", "SETTINGS_MODULE"),
    }
)
"""Settings that are read at each start, differ between runs, or have parts of their own in the key."""
IGNORED_VARIABLES = frozenset(
    {
        *("PYTEST_CURRENT_TEST", "PYTEST_VERSION", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"),
        *("PYTEST_XDIST_TESTRUNUID", "PWD", "OLDPWD", "SHLVL", "COLUMNS", "LINES", "TMPDIR", "TEMP", "TMP"),
    }
)
"""Environment variables that differ between processes of one run, or between terminals."""
_OPTIONS = ("options", "assume_role", "isolation_level", "init_command")
_TEST_OPTIONS = ("CHARSET", "COLLATION", "TEMPLATE", "MIGRATE")

# Each begins with a literal, for which the search is fast.
_NAMED_SETTINGS = (
    re.compile(rb"settings\.([A-Z][A-Z0-9_]+)\b"),
    re.compile(rb"""getattr\(\s*settings,\s*["']([A-Z][A-Z0-9_]+)["']"""),
)
_NAMED_VARIABLES = (
    # os.environ["A"], environ.get("A"), os.getenv("A"), and of libraries env("A"), env.bool("A"), config("A")
    re.compile(rb"""env(?:iron)?(?:\.\w+)?\s*[\[(]\s*["']([A-Za-z_][A-Za-z0-9_]*)["']"""),
    re.compile(rb"""config\(\s*["']([A-Za-z_][A-Za-z0-9_]*)["']"""),
)
_BY_EDITORS = re.compile(r"\.py[co]$|~$|\.sw[opx]$|^\.#|^#.*#$|^\.DS_Store$|^\.nfs")
_LIBRARY_FOLDERS = re.compile(r"[/\\](?:site|dist)-packages(?:[/\\]|$)")
_CACHES_WITHOUT_TABLE = re.compile(r"^django\.core\.cache\.backends\.(?!db\.)")


def project_root() -> Path:
    """Return the real path of the folder that holds the settings module, or its top package if it is in one.

    Without a settings module, or where it has no file, that is the working directory.
    """
    return _find_root().resolve()


def _find_root() -> Path:
    name = getattr(settings, "SETTINGS_MODULE", None) or os.environ.get("DJANGO_SETTINGS_MODULE") or ""
    top = sys.modules.get(name.partition(".")[0])
    # A link to the module itself is not followed: the project is where the link is.
    for place in (*getattr(top, "__path__", ()), getattr(top, "__file__", None)):
        if place:
            return Path(place).parent
    return Path.cwd()


@dataclass(frozen=True, slots=True)
class StaticKey:
    """What a template depends on, as far as it is known without a build: names of parts and their texts."""

    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Return 32 hexadecimal digits: equal for equal parts."""
        return _digest_of_parts(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a build used.

    - ``files``: paths relative to :func:`project_root`, with ``..`` where they are outside of it;
    - ``listings``: patterns of files that were listed, likewise;
    - ``settings`` and ``environment``: names.
    """

    files: tuple[str, ...] = ()
    listings: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, list[str]]:
        """Return the manifest as JSON takes it."""
        return {field.name: list(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Iterable[str]]) -> Manifest:
        """Return the manifest of :meth:`as_dict`. Fields that are missing are empty."""
        return cls(**{field.name: tuple(values.get(field.name, ())) for field in fields(cls)})


def read_static_key(connection: BaseDatabaseWrapper, server: Mapping[str, str]) -> StaticKey:
    """Read what a template of the alias of *connection* depends on. Connects to no database.

    *server* has parts that were read from the server, by name: its version, the version of its collations.

    Raises :class:`ConfigurationError` for a glob of ``TESTDB["TEMPLATE_DEPENDS"]`` that matches no file. Cost: each migration
    file is read once.
    """
    reader = _Reader()
    parts = {
        "format": str(FORMAT),
        "Django": django.get_version(),
        "Python": "{}.{}".format(*sys.version_info),
        "alias": connection.alias,
        **server,
        **_distributions(reader.root),
        **_apps(reader, migrate=connection.settings_dict["TEST"].get("MIGRATE") is not False),
        "receivers of migrate signals": _hash("\n".join(receiver_names(pre_migrate, post_migrate))),
        "database options": _hash(reader.text_of(_database_options(connection))),
        "cache tables": _hash(reader.text_of(_cache_tables())),
        # The baseline in the template was captured without these tables.
        'TESTDB["EXCLUDE"]': _hash(reader.text_of(get_settings().exclude)),
        **reader.settings((*_BASE_SETTINGS, *_swappable_settings(), *reader.named_settings)),
        **reader.variables(reader.named_variables),
        **reader.depends_on(),
    }
    return StaticKey(reader.without_ignored(parts))


def read_used_parts(manifest: Manifest) -> dict[str, str]:
    """Read the present state of what *manifest* names. Cost: each of its files is read once."""
    reader = _Reader()
    return reader.without_ignored(
        {
            **{path: reader.read(os.path.join(reader.root, path)) for path in manifest.files},
            **{f"list of {pattern}": reader.list_files(pattern) for pattern in manifest.listings},
            **reader.settings(manifest.settings),
            **reader.variables(manifest.environment),
        }
    )


def full_digest(static: StaticKey, used: Mapping[str, str]) -> str:
    """Return 32 hexadecimal digits for a static key and the used parts together."""
    return _digest_of_parts({"static": static.digest, **{f"used {name}": text for name, text in used.items()}})


def describe_differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return what differs between two mappings of parts, in words for a person, the most telling first.

    Examples: ``shop/migrations/0012_price.py``, ``setting LANGUAGES``, ``Django 5.2.19 -> 6.0``, ``new shop/pricing.py``.
    """
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [
        _describe(name, _unless_gone(before.get(name)), _unless_gone(now.get(name)))
        for name in sorted(changed, key=lambda name: (_rank(name), name))
    ]


_GROUPS = {
    "distribution ": "distributions",
    "setting ": "settings",
    "variable ": "variables",
    "models of ": "models without migrations",
    "list of ": "lists of files",
    "extension ": "extensions",
}
_CONFIGURATION = ("receivers of ", "database options", "cache tables", "TESTDB[")


def group_parts(parts: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names of *parts* by what they are, with the texts that are meant for people.

    Files of migrations are counted for each app.
    """
    modules = {name.removeprefix("app "): text for name, text in parts.items() if name.startswith("app ")}
    groups: dict[str, list[str]] = {}
    migrations: dict[str, int] = {}
    for name, text in sorted(parts.items()):
        start = next((start for start in _GROUPS if name.startswith(start)), "")
        label = next((label for label, module in modules.items() if _is_in(module, name)), None)
        if name.startswith("app ") or name in {"format", "alias"}:
            continue
        if not start and label is not None:
            migrations[label] = migrations.get(label, 0) + 1
            continue
        is_digest = text.startswith("#") or text == GONE
        kind = _GROUPS.get(start) or ("files" if is_digest else "versions")
        group = "configuration" if name.startswith(_CONFIGURATION) else kind
        shown = os.fsencode(name.removeprefix(start)).decode("utf-8", "backslashreplace")
        groups.setdefault(group, []).append(shown if is_digest else f"{shown} {text}".rstrip())
    if migrations:
        groups["files of migrations"] = [f"{label} {number}" for label, number in sorted(migrations.items())]
    return groups


def _is_in(module: str, name: str) -> bool:
    return name.startswith(f"{module}: ") or f"/{module.replace('.', '/')}/" in f"/{name}"


def _unless_gone(text: str | None) -> str | None:
    return None if text == GONE else text


# How telling a part is: by the beginning of its name.
_RANKS = {
    **dict.fromkeys(("Django", "Python", "format", "alias"), 0),
    **dict.fromkeys(("setting ", "TESTDB["), 3),
    "variable ": 4,
    "models of ": 5,
    "app ": 6,
    "receivers of ": 6,
    "distribution ": 7,
    **dict.fromkeys(("database options", "cache tables", "list of "), 3),
}


def _rank(name: str) -> int:
    known = next((rank for start, rank in _RANKS.items() if name.startswith(start)), None)
    if known is not None:
        return known
    # Files of libraries come last, after their distributions. What the server reports has neither a folder nor an ending.
    return 8 if ": " in name else 2 if re.search(r"[./]", name) else 1


def _describe(name: str, before: str | None, now: str | None) -> str:
    word, _, rest = name.partition(" ")
    shown = f'{name.removesuffix(rest)}"{rest}"' if word == "app" else rest if word == "distribution" else name
    if name.startswith("models of "):
        shown = f'models of "{name.removeprefix("models of ")}"'
    shown = os.fsencode(shown).decode("utf-8", "backslashreplace")
    if before is None:
        return f"new {shown}"
    if now is None:
        return f"removed {shown}"
    is_plain = not now.startswith("#") and not before.startswith(("#", "changed"))
    return f"{shown} {before} -> {now}" if is_plain else shown


def _hash(data: str | bytes) -> str:
    """Return the text of a part that is compared and not shown."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    return "#" + blake2b(data, digest_size=8).hexdigest()


def _digest_of_parts(parts: Mapping[str, str]) -> str:
    text = "".join(f"{name}\0{text}\0" for name, text in sorted(parts.items()))
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


class _Reader:
    """Reads files, settings and variables, with the root and ``TESTDB["TEMPLATE_DEPENDS"]`` as they are now."""

    def __init__(self) -> None:
        self.root = os.path.join(project_root(), "")
        self.roots = (self.root, os.path.join(_find_root(), ""))
        self.named_settings: set[str] = set()
        self.named_variables: set[str] = set()
        depends = get_settings().template_depends
        self.depends = [item for item in depends if not item.startswith("!")]
        self.ignored = [item.removeprefix("!") for item in depends if item.startswith("!")]
        temporary = tempfile.gettempdir()
        self.temporary = tuple({temporary + os.sep, os.path.realpath(temporary) + os.sep})

    def text_of(self, value: Any) -> str:
        return _text_of(value, self.roots, self.temporary)

    def read(self, path: str, *, naming: bool = False) -> str:
        """Return the digest of a file. With *naming*, note the settings and variables that it names."""
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return GONE
        except OSError as error:
            return f"unreadable ({type(error).__name__})"
        if naming:
            self.named_settings.update(named_settings(data))
            self.named_variables.update(named_variables(data))
        return _hash(data)

    def list_files(self, pattern: str) -> str:
        """Return the digest of the names that a pattern matches."""
        found = glob.glob(pattern, root_dir=self.root)
        names = (
            name for path in found if (name := os.path.basename(path)) != "__pycache__" and not _BY_EDITORS.search(name)
        )
        return _hash("\0".join(sorted(names)))

    def settings(self, names: Iterable[str]) -> dict[str, str]:
        return {f"setting {name}": self.setting(name) for name in names if name not in IGNORED_SETTINGS}

    def setting(self, name: str) -> str:
        try:
            return _hash(self.text_of(getattr(settings, name, None)))
        except Exception as error:  # noqa: BLE001 - a project's own lazy value
            return f"unreadable ({type(error).__name__})"

    def variables(self, names: Iterable[str]) -> dict[str, str]:
        return {
            f"variable {name}": _hash(self.text_of(os.environ.get(name)))
            for name in names
            if name not in IGNORED_VARIABLES
        }

    def depends_on(self) -> dict[str, str]:
        """Return the parts that ``TESTDB["TEMPLATE_DEPENDS"]`` adds."""
        parts: dict[str, str] = {}
        for item in self.depends:
            kind, _, name = item.partition(":")
            if kind == "env":
                parts[f"variable {name}"] = _hash(self.text_of(os.environ.get(name)))
            elif kind == "setting":
                parts[f"setting {name}"] = self.setting(name)
            else:
                found = [path for path in glob.glob(item, root_dir=self.root, recursive=True) if self._is_file(path)]
                if not found:
                    raise ConfigurationError(
                        f'settings.TESTDB["TEMPLATE_DEPENDS"] names {item!r}, which matches no file below {self.root}. '
                        "Correct the pattern, or remove it."
                    )
                parts |= {path.replace(os.sep, "/"): self.read(os.path.join(self.root, path)) for path in found}
        return parts

    def _is_file(self, path: str) -> bool:
        return os.path.isfile(os.path.join(self.root, path)) and "__pycache__" not in path

    def without_ignored(self, parts: dict[str, str]) -> dict[str, str]:
        """Return *parts* without those that ``TESTDB["TEMPLATE_DEPENDS"]`` names with a "!"."""
        if not self.ignored:
            return parts
        names = {
            f"{'variable' if kind == 'env' else kind} {name}"
            for kind, _, name in (item.partition(":") for item in self.ignored)
            if kind in {"env", "setting"}
        }
        files = [re.compile(_translate(item)) for item in self.ignored if not item.startswith(("env:", "setting:"))]
        return {
            name: text
            for name, text in parts.items()
            if name not in names and not any(pattern.fullmatch(name.removeprefix("list of ")) for pattern in files)
        }


def _translate(pattern: str) -> str:
    """Return the regular expression of a glob; ``**`` stands for any number of folders."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\])", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        known.get(piece) or (piece.replace("[!", "[^") if piece.startswith("[") and index % 2 else re.escape(piece))
        for index, piece in enumerate(pieces)
    )


def named_settings(source: bytes) -> set[str]:
    """Return the names of the settings that *source* names, as ``settings.NAME`` or ``getattr(settings, "NAME")``."""
    return {name.decode() for pattern in _NAMED_SETTINGS for name in pattern.findall(source)}


def named_variables(source: bytes) -> set[str]:
    """Return the names of the environment variables that *source* names."""
    return {name.decode() for pattern in _NAMED_VARIABLES for name in pattern.findall(source)}


def is_library(path: str) -> bool:
    """Whether *path*, which is absolute, belongs to Python or to an installed distribution, whose version is in the key."""
    return path.startswith(_library_folders()) or _LIBRARY_FOLDERS.search(path) is not None


def is_standard_library(path: str) -> bool:
    """Whether *path*, which is absolute, belongs to Python's standard library."""
    return path.startswith(_library_folders()) and _LIBRARY_FOLDERS.search(path) is None


@functools.cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    places = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple({place + os.sep for name in places for place in (name, os.path.realpath(name))})


def _distributions(root: str) -> dict[str, str]:
    """Return the installed distributions with their versions, by the names of the folders that describe them."""
    found: dict[str, str] = {}
    for place in dict.fromkeys(os.path.realpath(entry or os.curdir) for entry in sys.path):
        # A project's own folder is on the path or not, depending on how Python was started. Its code is traced.
        if not _LIBRARY_FOLDERS.search(place) and (
            f"{place}{os.sep}".startswith(root) or root.startswith(f"{place}{os.sep}")
        ):
            continue
        try:
            names = os.listdir(place)
        except OSError:
            continue
        here: dict[str, str] = {}
        for name in sorted(names):
            if name.endswith((".dist-info", ".egg-info")):
                project, version = _distribution(place, name)
                part = f"distribution {project}"
                # An upgrade that was broken off leaves both.
                here[part] = f"{here[part]}, {version}" if part in here else version
        found = {**here, **found}
    return found


def _distribution(place: str, name: str) -> tuple[str, str]:
    stem, _, kind = name.rpartition(".")
    project, _, version = stem.partition("-")
    folder = os.path.join(place, name)
    if kind == "egg-info":
        version = re.sub(r"-py\d.*$", "", version)
        if not version:
            read = re.search(rb"^Version: *(\S+)", _read_if_there(os.path.join(folder, "PKG-INFO")), re.MULTILINE)
            version = read[1].decode("utf-8", "replace") if read else ""
    version += _origin(_read_if_there(os.path.join(folder, "direct_url.json")))
    return re.sub(r"[-_.]+", "-", project).lower(), version


def _origin(direct_url: bytes) -> str:
    """Return what tells two installations of one version apart, from a repository or an archive; "" for any other."""
    try:
        origin = json.loads(direct_url or b"{}")
        found = origin.get("vcs_info", {}).get("commit_id") or origin.get("archive_info", {}).get("hashes")
    except (ValueError, AttributeError):
        return ""
    return f" ({found[:10] if isinstance(found, str) else _hash(str(found))[1:11]})" if found else ""


def _read_if_there(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _apps(reader: _Reader, *, migrate: bool) -> dict[str, str]:
    """Return each installed app with its module of migrations, their files, and the models of apps that have none."""
    parts: dict[str, str] = {}
    for config in apps.get_app_configs():
        # Asked for by the label: settings.MIGRATION_MODULES may be an object that cannot be listed.
        module = MigrationLoader.migrations_module(config.label)[0] if migrate else None
        folders, is_package = find_package(module)
        parts[f"app {config.label}"] = module if module and folders else "without migrations"
        for folder in folders:
            prefix = _prefix_of(folder, module, reader.root)
            for path, relative in _files_below(folder):
                parts[prefix + relative] = reader.read(path, naming=True)
        if not is_package:
            parts[f"models of {config.label}"] = _hash(reader.text_of(_states_of_models(config)))
    return parts


def _prefix_of(folder: str, module: str | None, root: str) -> str:
    """Return what the names of the files below *folder* begin with: its path in the project, or the name of the package."""
    real = os.path.realpath(folder)
    is_inside = real.startswith(root) and not is_library(real)
    return f"{real[len(root) :]}/".replace(os.sep, "/") if is_inside else f"{module}: "


def _files_below(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the path of each file below *folder* and its path relative to it. Each folder is entered once."""
    pending, entered = [(folder, "")], {os.path.realpath(folder)}
    while pending:
        current, prefix = pending.pop()
        try:
            entries = list(os.scandir(current))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir():
                if entry.name == "__pycache__":
                    continue
                if entry.is_symlink():
                    real = os.path.realpath(entry.path)
                    if real in entered:
                        continue
                    entered.add(real)
                pending.append((entry.path, f"{prefix}{entry.name}/"))
            elif entry.is_file() and not _BY_EDITORS.search(entry.name):
                yield entry.path, f"{prefix}{entry.name}"


def _states_of_models(config: AppConfig) -> list[Any]:
    """Return what of the models of an app shapes its tables and the rows that Django makes for them."""
    return [
        (
            *(options.label, options.db_table, options.managed, options.proxy, options.swapped, options.db_tablespace),
            *(list(options.unique_together), options.indexes, options.constraints, list(options.permissions)),
            *(list(options.default_permissions), options.verbose_name, options.db_table_comment),
            [base.__name__ for base in model.__mro__],
            [(field.column, field) for field in (*options.local_fields, *options.local_many_to_many)],
        )
        for model in config.get_models(include_auto_created=True, include_swapped=True)
        for options in (model._meta,)
    ]


def _swappable_settings() -> set[str]:
    models = apps.get_models(include_swapped=True)
    return {str(model._meta.swappable) for model in models if model._meta.swappable}


def _database_options(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    configured = connection.settings_dict
    return {
        "ENGINE": configured["ENGINE"],
        "TIME_ZONE": configured.get("TIME_ZONE"),
        "OPTIONS": {name: value for name, value in configured.get("OPTIONS", {}).items() if name in _OPTIONS},
        "TEST": {name: configured["TEST"].get(name) for name in _TEST_OPTIONS},
    }


def _cache_tables() -> list[str]:
    """Return the tables of the caches in a database, and of caches that may be one."""
    found = [
        str(cache.get("LOCATION", ""))
        for cache in settings.CACHES.values()
        if not _CACHES_WITHOUT_TABLE.search(str(cache.get("BACKEND")))
    ]
    return sorted(name for name in found if re.fullmatch(r'[\w."]+', name))


_PLAIN = (Decimal, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, uuid.UUID, complex, range)
_CALLABLE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_DEEPEST = 20


def _text_of(value: Any, roots: tuple[str, ...], temporary: tuple[str, ...], depth: int = 0) -> str:  # noqa: C901, PLR0911, PLR0912
    """Return a text of *value* that is the same in each process in which it means the same: no addresses, no order of sets."""

    def inner(each: Any) -> str:
        return _text_of(each, roots, temporary, depth + 1)

    if depth > _DEEPEST:
        return "…"
    if isinstance(value, enum.Enum):
        return f"{type(value).__module__}.{type(value).__qualname__}.{value.name}={inner(value.value)}"
    if value is None or isinstance(value, bool | int | float | bytes):
        return repr(value)
    if issubclass(type(value), Promise):
        # By what it is made of: its text depends on the language, and that of reverse_lazy() on all URLs.
        return inner(value.__reduce__()[1])
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return repr(_without_places(str(value), roots, temporary))
    if isinstance(value, Mapping):
        return "{" + ",".join(sorted(f"{inner(key)}:{inner(each)}" for key, each in value.items())) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ",".join(sorted(map(inner, value))) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(inner, value)) + "]"
    if isinstance(value, _CALLABLE):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, re.Pattern):
        return f"{value.pattern!r}/{value.flags}"
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, functools.partial):
        return f"partial({inner([value.func, value.args, value.keywords])})"
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if is_dataclass(value):
        return f"{name}({inner({field.name: getattr(value, field.name, None) for field in fields(value)})})"
    if hasattr(type(value), "deconstruct"):
        with suppress(Exception):  # a project's own method
            return f"{name}({inner(value.deconstruct())})"
    return f"<{name}>"


def _without_places(text: str, roots: tuple[str, ...], temporary: tuple[str, ...]) -> str:
    """Return *text* without the place of the project, and without what is in the temporary folder."""
    for root in roots:
        if f"{text}{os.sep}".startswith(root):
            return f"<project>{os.sep}{text[len(root) :]}"
    return "<tmp>" if text.startswith(temporary) else text
