"""Templates as SQLite files in a folder: ``TESTDB["TEMPLATE_CACHE"]``, or ``.testdb`` in the project.

A template is ``<16 hex of its key>_<alias>.sqlite3``, with its document, the size and the digest of the file in a ``.json``
beside it. The document is written first. ``os.replace()`` of the file is the commit, and nothing writes to the file
afterwards: what another program has changed does not fit the digest, and is not used. Both may be copied to another machine.

SQLite's online backup makes templates from migrated databases, and clones from templates, be they in files or in memory.
It copies all pages, with the settings that a database keeps: page size, encoding, ``user_version``, WAL. A clone in
a file gets a table ``testdb_clone`` with its path and inode. So a copy of it is not taken for it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from testdb_app import _django_private as django_private
from testdb_app.backends.base import OWN_SCHEMA, FileName, binding_of
from testdb_app.conf import get_settings
from testdb_app.creation.key import project_root
from testdb_app.creation.store import (
    BUILDING,
    PREFIX,
    OtherDatabase,
    OtherKind,
    PresentDatabase,
    TemplateStore,
    poll,
    unique_suffix,
)
from testdb_app.creation.template import Template

if TYPE_CHECKING:
    from testdb_app.creation.store import Spare

FOLDER = ".testdb"
_CLONE = f"{OWN_SCHEMA}_clone"
"""The table that tells which template a file is a clone of."""
_SCRATCH_LOCK = re.compile(rf"{PREFIX}.*\.lock")
_TEMPLATE = re.compile(r"[0-9a-f]{16}_[^.]*\.sqlite3")
_STALE = 86_400.0
"""Seconds after which a lock file that nobody holds is deleted: a process that waits for it opens it anew each time."""
_SIDECARS = ("", "-journal", "-wal", "-shm")

_TIMES = """
SELECT m.name, c.name
  FROM sqlite_master AS m JOIN pragma_table_xinfo(m.name) AS c
 WHERE m.type = 'table' AND m.rootpage > 0 AND m.name NOT LIKE 'testdb\\_%' ESCAPE '\\' AND m.name <> 'django_migrations'
   AND lower(c.type) IN ('datetime', 'timestamp')
 ORDER BY 1, 2
"""
_IS_RECENT = "SELECT 1 FROM {0} WHERE {1} > ? AND {1} <= ? LIMIT 1"


@contextmanager
def _as_driver_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise sqlite3.OperationalError(str(error)) from error


class SQLiteStore(TemplateStore):
    """The templates in the folder of the project of *connection*."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__(connection)
        self.folder = project_root() / (get_settings().template_cache or FOLDER)
        self._locks: dict[Path, sqlite3.Connection] = {}

    def close(self) -> None:
        """Release the locks of scratch files, and delete these."""
        for scratch in list(self._locks):
            self._drop_scratch(scratch)

    def find_obstacle(self) -> str | None:
        """Return why there can be no clone under the name of the test database, or None. Writes nothing."""
        connection: Any = self.connection
        name = django_private.get_test_database_name(connection.creation)
        named = FileName.parse(name)
        if connection.Database is not sqlite3.dbapi2:
            return f"its driver is {connection.Database.__name__}, not Python's sqlite3"
        if named.is_in_memory != connection.creation.is_in_memory_db(name):
            return f'Django and SQLite do not agree whether "{name}" is in memory'
        if connection.connection is not None and connection.is_in_memory_db() and _has_tables(connection.connection):
            return "its database in memory has tables already"
        present = self.find_present(name) if name.startswith("file:") else None
        if present is not None and not present.is_clone:
            return f'"{name}" exists, and Django deletes no file that is named by a URI'
        return None

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    def read_server_parts(self) -> dict[str, str]:
        """Return the version and the options of the library, and whether the test database is in memory."""
        name = django_private.get_test_database_name(self.connection.creation)
        with closing(sqlite3.connect(":memory:")) as connection:
            options = [option for (option,) in connection.execute("PRAGMA compile_options")]
        built_with = "\n".join(option for option in options if not option.startswith("COMPILER="))
        return {
            "SQLite": sqlite3.sqlite_version,
            "options of SQLite": f"#{blake2b(built_with.encode(), digest_size=8).hexdigest()}",
            "test database": "in memory" if FileName.parse(name).is_in_memory else "in a file",
        }

    # Templates --------------------------------------------------------------------------------------------------------

    def name_template(self, key: str) -> str:
        """Return the path of the template with that key."""
        alias = quote(self.connection.alias, safe="").replace(".", "%2E")
        return str(self.folder / f"{key[:16]}_{alias}.sqlite3")

    def list_templates(self) -> list[Template]:
        """Return the templates in the folder that have a document. Others are never returned."""
        found = (_read_document(path)[0] for path in self._find(_TEMPLATE))
        return [template for template in found if template is not None]

    def list_others(self) -> list[OtherDatabase]:
        """Return scratch files, and templates whose document cannot be read."""
        found = []
        for path in self._find(_SCRATCH_LOCK):
            held = _try_lock(path)
            if held is not None:
                held.close()
            kind = OtherKind.HELD if held is None else OtherKind.LEFT_OVER
            found.append(OtherDatabase(str(path.with_suffix("")), kind, "scratch file"))
        unreadable = (path for path in self._find(_TEMPLATE) if _read_document(path)[0] is None)
        return found + [
            OtherDatabase(str(path), OtherKind.UNREADABLE, "template")
            for path in unreadable
            if path.with_suffix(".json").exists()
        ]

    def find_fault(self, template: Template) -> str | None:
        """Return why the file of *template* cannot be used, or None. Reads all of it: 1 ms a megabyte."""
        path = Path(template.name)
        with suppress(OSError):
            if _read_document(path)[1] == _describe_content(path):
                return None
        return f"{path.name} is not as it was written"

    @contextmanager
    def lock(self, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold a lock file; see :meth:`TemplateStore.lock`. It is released when the process dies.

        Makes the folder, and raises :class:`sqlite3.OperationalError` if nothing can be written to it or locked there.
        """
        path = self.folder / f"{blake2b(key.encode(), digest_size=8).hexdigest()}.lock"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError), (self.folder / ".gitignore").open("x", encoding="ascii") as file:
                file.write("*\n")
            self._drop_scratch(self._make_scratch())
            held = poll(partial(_try_lock, path), on_wait)
        except (OSError, sqlite3.Error) as error:
            raise sqlite3.OperationalError(f"the folder {self.folder} cannot be written to ({error})") from error
        with closing(held):
            os.utime(path)
            yield

    @_as_driver_error()
    def begin(self, template: Template) -> str:
        """Return a scratch name of the kind that the test database has: in memory, or a file, with the options of its URI."""
        name = django_private.get_test_database_name(self.connection.creation)
        options = name.partition("?")[2] if name.startswith("file:") else ""
        if FileName.parse(name).is_in_memory:
            return f"file:{PREFIX}{unique_suffix()}{BUILDING}?{options}"
        scratch = self._make_scratch()
        return f"{scratch.as_uri()}?{options}" if options else str(scratch)

    def find_frozen(self, seconds: float) -> tuple[str, ...]:
        """Return the columns with times of the build; see :meth:`TemplateStore.find_frozen`. One query a column."""
        connection: Any = self.connection
        now, adapt = timezone.now(), connection.ops.adapt_datetimefield_value
        limits = [adapt(now - timedelta(seconds=seconds + 60)), adapt(now + timedelta(seconds=1))]
        return tuple(
            f"{table}.{column}"
            for table, column in connection.connection.execute(_TIMES).fetchall()
            if connection.connection.execute(_IS_RECENT.format(_quote(table), _quote(column)), limits).fetchone()
        )

    @_as_driver_error()
    def commit(self, scratch: str, template: Template) -> None:
        """Copy it into the folder, write the document, and rename the copy; see :meth:`TemplateStore.commit`."""
        path = Path(template.name)
        earlier, _ = _read_document(path)
        if earlier is None or earlier.made < template.made - template.seconds or self.find_fault(earlier):
            copy = self._make_scratch()
            with self._reading(scratch) as source, closing(_connect(copy)) as target:
                _copy(source, target)
            self._write_document(template, _describe_content(copy))
            copy.replace(path)
            self._drop_scratch(copy)
        self.drop(scratch)

    @contextmanager
    def _reading(self, scratch: str) -> Iterator[sqlite3.Connection]:
        named = FileName.parse(scratch)
        if named.is_in_memory:
            connection: Any = self.connection
            yield connection.connection
        else:
            with closing(_connect(Path(named.path))) as source:
                yield source

    def drop(self, name: str) -> None:
        """Delete the files of a template or of a scratch database, or the scratch database in memory."""
        named = FileName.parse(name)
        if named.is_in_memory:
            BaseDatabaseWrapper.close(self.connection)  # Django's own close() leaves it open
            return
        path = Path(named.path)
        _delete(path)
        path.with_suffix(".json").unlink(missing_ok=True)
        if path in self._locks:
            self._drop_scratch(path)
        _lock_of(path).unlink(missing_ok=True)

    def touch(self, template: Template) -> None:
        """Write the document again, unless the template was built anew; see :meth:`TemplateStore.touch`."""
        present, content = _read_document(Path(template.name))
        if present is not None and present.made == template.made:
            self._write_document(template, content)

    def collect(self, template: Template) -> list[str]:
        """Delete templates and left-over files; see :meth:`TemplateStore.collect`."""
        dropped = [each.name for each in self.unneeded(self.list_templates(), template.family)]
        for name in dropped:
            self.drop(name)
        self.drop_left_over()
        return dropped

    def drop_left_over(self) -> None:
        """Delete the scratch files whose lock nobody holds, and the old files of locks and of commits that came to nothing."""
        for path in self._find(_SCRATCH_LOCK):
            scratch = path.with_suffix("")
            if scratch not in self._locks and (held := _try_lock(path)):
                self._locks[scratch] = held
                self._drop_scratch(scratch)
        for path in self._find(re.compile(r"[0-9a-f]{16}(_[^.]*\.json|\.lock)")):
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - _STALE and not path.with_suffix(".sqlite3").exists():
                    path.unlink()

    # Clones -----------------------------------------------------------------------------------------------------------

    def read_size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return Path(name).stat().st_size

    def find_present(self, name: str) -> PresentDatabase | None:
        """Read the table that tells a clone; see :meth:`TemplateStore.find_present`."""
        named = FileName.parse(name)
        path = Path(named.path)
        if named.is_in_memory or not path.exists():
            return None
        # Not for reading alone: the journal of a killed process may have to be rolled back.
        with suppress(sqlite3.Error), closing(_connect(path, "mode=rw")) as connection:
            for template, made, *place in connection.execute(f"SELECT template, made, path, inode FROM {_CLONE}"):
                if tuple(place) == binding_of(str(path)):
                    return PresentDatabase(template, made)
        return PresentDatabase()

    @_as_driver_error()
    def make_spare(self, template: Template, source: str = "") -> str:
        """Copy the file of *template*; see :meth:`TemplateStore.make_spare`."""
        spare = self._make_scratch()
        shutil.copyfile(source or template.name, spare)
        return str(spare)

    @_as_driver_error()
    def clone(
        self,
        creation: Any,
        template: Template,
        name: str,
        *,
        spare: Spare | None,
        source: str = "",
        verbosity: int,
        replaces: bool,
    ) -> None:
        """Fill a new file, or Django's database in memory; see :meth:`TemplateStore.clone`.

        A process that is killed leaves a file that is not marked as a clone, and that SQLite rolls back to an empty one or
        that equals the template.
        """
        connection: Any = self.connection
        named = FileName.parse(name)
        copied = _connect(Path(FileName.parse(source).path)) if source else _connect(Path(template.name), "immutable=1")
        with closing(copied) as original:
            if named.is_in_memory:
                BaseDatabaseWrapper.close(connection)
                connection.settings_dict["NAME"] = name
                connection.ensure_connection()
                original.backup(connection.connection)
                return
            present = self.find_present(name)
            if present is not None and not (present.is_clone and replaces):
                django_private.create_as_django_does(
                    creation, name, verbosity=verbosity, autoclobber=replaces, suffix=""
                )
            path = Path(os.path.realpath(named.path))
            _delete(path)
            with closing(_connect(path)) as target:
                _copy(original, target)
                target.execute(f"DROP TABLE IF EXISTS {_CLONE}")
                target.execute(
                    f"CREATE TABLE {_CLONE} "
                    "(template TEXT NOT NULL, made REAL NOT NULL, path TEXT NOT NULL, inode INTEGER NOT NULL)"
                )
                row = (template.name, template.made, *binding_of(str(path)))
                target.execute(f"INSERT INTO {_CLONE} VALUES (?, ?, ?, ?)", row)

    # Files ------------------------------------------------------------------------------------------------------------

    def _find(self, pattern: re.Pattern[str]) -> list[Path]:
        return [path for path in sorted(self.folder.glob("*")) if pattern.fullmatch(path.name)]

    def _make_scratch(self) -> Path:
        """Return the path of a new scratch file, and hold its lock until it is dropped."""
        scratch = self.folder / f"{PREFIX}{unique_suffix()}{BUILDING}.sqlite3"
        held = _try_lock(_lock_of(scratch))
        if held is None:
            raise OSError(f"{_lock_of(scratch).name} cannot be locked")
        self._locks[scratch] = held
        return scratch

    def _drop_scratch(self, scratch: Path) -> None:
        _delete(scratch)
        scratch.with_suffix(".json").unlink(missing_ok=True)
        self._locks.pop(scratch).close()
        _lock_of(scratch).unlink(missing_ok=True)

    def _write_document(self, template: Template, content: dict[str, Any]) -> None:
        scratch = self._make_scratch()
        written = scratch.with_suffix(".json")
        written.write_text(json.dumps({**content, "template": template.as_document()}), encoding="utf-8")
        written.replace(Path(template.name).with_suffix(".json"))
        self._drop_scratch(scratch)


def _connect(path: Path, options: str = "mode=rwc") -> sqlite3.Connection:
    """Connect outside of Django, waiting for nobody."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, timeout=0, isolation_level=None)


def _copy(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copy a database into a new file. If the machine stops meanwhile, the file does not fit its digest, or has no mark."""
    target.execute("PRAGMA synchronous = OFF")
    source.backup(target)


def _try_lock(path: Path) -> sqlite3.Connection | None:
    """Return a connection that holds the lock file *path* until it is closed; None if another one does.

    The lock is SQLite's own, which every system has and which ends with the process.
    """
    connection = _connect(path)
    try:
        connection.execute("PRAGMA journal_mode = OFF")  # or a killed process would leave a journal
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        connection.close()
        if error.sqlite_errorname == "SQLITE_BUSY":
            return None
        raise
    return connection


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _lock_of(scratch: Path) -> Path:
    return scratch.with_name(f"{scratch.name}.lock")


def _delete(path: Path) -> None:
    """Delete a database and what SQLite keeps beside it: a journal that stays would be applied to the next one."""
    for end in _SIDECARS:
        path.with_name(path.name + end).unlink(missing_ok=True)


def _describe_content(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"size": len(data), "digest": blake2b(data, digest_size=16).hexdigest()}


def _read_document(path: Path) -> tuple[Template | None, dict[str, Any]]:
    """Return the template in the file *path*, and the size and digest that were written with it; None if there is none."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        given = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        template = Template.from_document(str(path), given.pop("template"))
        return (template if path.exists() else None), given
    return None, {}


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None
