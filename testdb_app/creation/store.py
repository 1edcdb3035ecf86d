"""The contract of a store of templates: where they are kept, how they are committed, cloned and dropped."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from testdb_app.creation.template import DatabaseProperties

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.creation.template import Template

_T = TypeVar("_T")

PREFIX = "testdb_tpl_"
BUILDING = "_building"
_POLL = 0.05
"""Seconds between two attempts to get a lock."""
KEPT = 3
"""The number of templates that a collection leaves, of one project, alias, Django and Python."""
UNUSED_DAYS = 14.0


@dataclass(frozen=True, slots=True)
class PresentDatabase:
    """A database that already has the name of a test database.

    - ``template``, ``made``: the name of the template that it is a clone of, and when that was made; "" if it is no clone.
    - ``is_in_use``: whether somebody is connected to a clone, so that it cannot be replaced.
    """

    template: str = ""
    made: float = 0.0
    is_in_use: bool = False

    @property
    def is_clone(self) -> bool:
        """Whether this package made it."""
        return bool(self.template)

    def is_clone_of(self, template: Template) -> bool:
        """Whether it was made from *template*, and not from an earlier one with that key."""
        return (self.template, self.made) == (template.name, template.made)


class OtherKind(Enum):
    """What a database is that has a name of this package and is no complete template."""

    LEFT_OVER = "left over"
    HELD = "in use by a run"
    UNREADABLE = "of another version of testdb_app"
    FOREIGN = "not ours"


@dataclass(frozen=True, slots=True)
class OtherDatabase:
    """A database, or file, that has a name of this package and is no complete template. *what* says more in words."""

    name: str
    kind: OtherKind
    what: str


class TemplateStore(ABC):
    """The templates of one server, or of one folder, that this role may use. A context manager.

    Each method raises the driver's own errors, and has changed nothing that matters then.
    """

    supports_archives = False
    """Whether templates can be written into files, beside the store."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Release what the store holds."""

    def find_obstacle(self) -> str | None:
        """Return why templates cannot be kept here, or None."""
        return None

    @property
    def place(self) -> str:
        """Where the templates are, in words: equal for stores that list the same templates."""
        return str(self.connection.display_name)

    # The key ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def read_server_parts(self) -> dict[str, str]:
        """Return the parts of the key that only the server knows."""

    def read_available_extensions(self, names: list[str]) -> dict[str, str]:
        """Return the versions of these extensions that the server would install today."""
        return {}

    # Templates --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def name_template(self, key: str) -> str:
        """Return the name of the template with that key."""

    @abstractmethod
    def list_templates(self) -> list[Template]:
        """Return the complete templates of this role. Others are never returned, so they are never dropped."""

    def list_others(self) -> list[OtherDatabase]:
        """Return what else has a name of this package: half-built, left over, or not made by it."""
        return []

    def find_fault(self, template: Template) -> str | None:
        """Return why *template* cannot be cloned although it is complete, or None."""
        return None

    @abstractmethod
    def lock(self, key: str, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """Hold the lock of *key* while the block runs. *on_wait* is called once if another process holds it.

        The lock saves work and nothing else depends on it.
        """

    @abstractmethod
    def begin(self, template: Template) -> str:
        """Return the name under which a template is to be built; *template* is what is known of it."""

    def creating(self, creation: Any, template: Template) -> AbstractContextManager[None]:
        """Have the database that Django makes while the block runs marked at once, so that a collection knows it."""
        return nullcontext()

    def read_start_if_unlogged(self) -> str:
        """Return when the server started, if the database that the connection leads to now has unlogged tables; else ""."""
        return ""

    def read_extensions(self) -> dict[str, str]:
        """Return the extensions in the database that the connection leads to now, with their available versions."""
        return {}

    def find_frozen(self, seconds: float) -> tuple[str, ...]:
        """Return the columns that hold a time of the last *seconds* in the database that the connection leads to now."""
        return ()

    def read_properties(self, scratch: str) -> DatabaseProperties:
        """Return what a clone of that database would lose."""
        return DatabaseProperties()

    @abstractmethod
    def commit(self, scratch: str, template: Template) -> None:
        """Make the migrated database *scratch* the template, by a rename as the last step. Nobody may be connected to it.

        If a template of that name was made since this build began, it stays, and *scratch* is dropped.
        """

    @abstractmethod
    def drop(self, name: str) -> None:
        """Drop a template, a spare clone or a scratch database, if it still exists. Raises if it is in use."""

    @abstractmethod
    def touch(self, template: Template) -> None:
        """Store *template*'s document again: its use has changed. A conflict with another process is ignored."""

    @abstractmethod
    def collect(self, template: Template) -> list[str]:
        """Drop what is not needed beside *template*, which is about to be built. Return the names of templates dropped.

        That is: all but the newest templates of its family, those unused for long, and what :meth:`drop_left_over` drops.
        """

    @abstractmethod
    def drop_left_over(self) -> None:
        """Drop replaced test databases, and the half-built templates and spare clones of killed processes."""

    def unneeded(self, templates: Iterable[Template], family: object) -> list[Template]:
        """Return those of *templates* that a collection drops before one more of *family* is built."""
        newest = sorted(templates, key=lambda each: each.used, reverse=True)
        ranked = [each for each in newest if each.family == family]
        oldest = time.time() - UNUSED_DAYS * 86_400
        return [each for each in newest if each.used < oldest or each in ranked[KEPT - 1 :]]

    # Archives ---------------------------------------------------------------------------------------------------------

    def list_archived(self, folder: Path, say: Callable[[str], None]) -> list[Template]:
        """Return the templates that are kept as files in *folder*. *say* gets a line about each damaged one.

        Raises :class:`ArchiveError` if the folder cannot be trusted.
        """
        return []

    def restore(self, scratch: str, template: Template, folder: Path, say: Callable[[str], None]) -> None:
        """Make the database *scratch* from the files of *template*. Raises :class:`ArchiveError`."""
        raise NotImplementedError

    def archive(self, template: Template, folder: Path) -> None:
        """Write *template* into files in *folder*, and delete those of earlier templates. Raises :class:`ArchiveError`."""
        raise NotImplementedError

    # Clones -----------------------------------------------------------------------------------------------------------

    def waits_for_disk(self) -> bool:
        """Whether to drop a database takes long, because the server waits until the files of all others are on a disk."""
        return False

    @abstractmethod
    def read_size(self, name: str) -> int:
        """Return the size of a template in bytes."""

    @abstractmethod
    def find_present(self, name: str) -> PresentDatabase | None:
        """Return what has the name of a test database now; None if nothing has."""

    def note_schema(self, name: str) -> None:  # noqa: B027 - where nothing is noted, clones are not reset
        """Note the schema of the clone *name*, which the connection leads to now, for :meth:`has_noted_schema`."""

    def has_noted_schema(self, name: str) -> bool:
        """Whether that schema is as it was noted. A reset proves this of tables only. False if that is not known."""
        return False

    @abstractmethod
    def make_spare(self, template: Template, source: str = "") -> str:
        """Make a clone under a name of its own, and return that name. No collection takes it until the store is closed.

        *source* is the test database from *template* to clone, if it is not the template itself.
        """

    @abstractmethod
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
        """Make *name* a clone of *template*, or of *source* as in :meth:`make_spare`: *spare*, or a new one.

        A database of that name that this package made is replaced if *replaces*, and dropped by a later
        :meth:`drop_left_over`. Any other is replaced by Django, which
        asks first unless *replaces*, and ends the process if the answer is no.
        """


@dataclass(frozen=True, slots=True)
class Spare:
    """A clone of *template* under a spare *name*. *store* holds the lock of that name."""

    name: str
    template: Template
    store: TemplateStore


def poll(attempt: Callable[[], _T | None], on_wait: Callable[[], None]) -> _T:
    """Call *attempt* until it returns something true, and return that. *on_wait* is called once if the first one fails.

    For locks: the server's timeouts would end waiting inside of it.
    """
    found = attempt()
    if not found:
        on_wait()
        while not (found := attempt()):
            time.sleep(_POLL)
    return found


def unique_suffix() -> str:
    """Return a text that no other process uses at this time."""
    return f"{os.getpid()}_{time.time_ns() % 10**9}"
