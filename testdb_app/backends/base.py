"""The values that go to and fro between the resetter and a backend; see :mod:`testdb_app.backends.protocols`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from testdb_app.baseline_state import Baseline, RowChanges, SequenceState
from testdb_app.exceptions import ExclusionError
from testdb_app.schema import ForeignKey, QualifiedName

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

OWN_SCHEMA = "testdb"
"""The schema (PostgreSQL) or table prefix (SQLite) of the marks that this package keeps inside a database."""


def has_autocommit(connection: BaseDatabaseWrapper) -> bool:
    """Whether *connection* commits each statement, or will when it is opened. Opens nothing, unlike Django's own."""
    if connection.in_atomic_block:
        return False
    return bool(connection.autocommit if connection.connection is not None else connection.settings_dict["AUTOCOMMIT"])


@dataclass(frozen=True, slots=True)
class FileName:
    """What the name of a SQLite database means: a path and the options of a URI (https://www.sqlite.org/uri.html)."""

    path: str
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str) -> FileName:
        """Read a name as SQLite does; Django always allows URIs."""
        if not name.startswith("file:"):
            return cls(name)
        path, _, query = name.removeprefix("file:").partition("#")[0].partition("?")
        if path.startswith("//"):
            path = "/" + path[2:].partition("/")[2]
        # The last of several counts, and what follows a NUL does not.
        options = dict(parse_qsl(query, keep_blank_values=True))
        return cls(unquote(path).partition("\0")[0], options)

    @property
    def is_in_memory(self) -> bool:
        """Whether it means a database in memory, or a temporary one."""
        is_temporary = self.path in {"", ":memory:"}
        return is_temporary or self.options.get("mode") == "memory" or self.options.get("vfs") == "memdb"


def is_same_file(path: str, other: str) -> bool:
    """Whether two paths lead to one file: by device and inode where it exists, by the path behind the links otherwise."""
    try:
        return Path(path).samefile(other)
    except FileNotFoundError:
        # One that is there is not one that is not; and to follow the links of a path takes a call for each of its folders.
        if Path(path).exists() or Path(other).exists():
            return False
    except OSError:
        pass
    return os.path.realpath(path) == os.path.realpath(other)


class TransactionStatus(StrEnum):
    """What the driver knows of the transaction on its connection."""

    NONE = "none"
    OPEN = "open"
    FAILED = "failed"
    LOST = "lost"


class Failure(StrEnum):
    """Why the database refused a statement, as far as a test session tells it apart."""

    STATEMENT_TIMEOUT = "statement time-out"
    LOCK_TIMEOUT = "lock time-out"
    IDLE_TIMEOUT = "idle time-out"
    ABORTED = "the transaction is aborted"
    OTHER = "something else"


class Mark(StrEnum):
    """A mark inside a database. PROTECTED holds in every copy of it; TEST only in the very database that it was given to."""

    PROTECTED = "protected"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseIdentity:
    """Where a connection really leads, as the live connection says.

    ``configured`` is the name in the connection's settings, ``name`` the live one. ``server`` is text for people.
    ``warning`` says what cannot be told of it; None for nothing. ``marks`` are those inside the database that hold for it.
    ``has_fixed_snapshot`` tells that the transaction does not see what others commit, ``is_replica`` that the session fires
    other triggers and rules than usual, and checks no foreign key (PostgreSQL's ``session_replication_role``).
    ``is_live`` is off where nobody can ask the live connection, and ``name`` is the settings'.

    What a copy of the database does not share: ``oid``, the database's own number in its server (0 where there is none);
    ``system_identifier``, the server's ('' where it has none, or the role may not read it); ``server_started``, when the
    server began to run, as a text to compare ('' where it does not tell); ``file``, the file of a SQLite database that is not
    in memory. ``misfit`` says why a test mark that is inside the database is not counted: it was given to another one.
    """

    alias: str
    vendor: str
    configured: str
    name: str
    server: str
    oid: int = 0
    system_identifier: str = ""
    server_started: str = ""
    file: str = ""
    user: str = ""
    in_memory: bool = False
    is_standby: bool = False
    is_read_only: bool = False
    has_fixed_snapshot: bool = False
    is_replica: bool = False
    is_live: bool = True
    warning: str | None = None
    marks: frozenset[Mark] = frozenset()
    misfit: str = ""

    @property
    def names_differ(self) -> bool:
        """Whether the settings name another database than the connection leads to."""
        return self.configured != self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look at the live database.

    - ``token``: equal to the ``Schema.token`` read earlier exactly if the schema has not changed since.
    - ``sizes``: the tables that may hold rows, with their bytes (0: unknown). A superset, never too small. If
      ``is_precise``, instead those that were written since the last reset of the same resetter.
    - ``states``: the sequences that are not at their start, and where they are (None: unknown).
    - ``shape``: what a baseline depends on besides the schema, as it is now; see :class:`testdb_app.baseline_state.Baseline`.
    - ``copies``: the counters of the baseline's copies, as ``Baseline.counters`` has them.
    - ``conditions``: the backend's own, for :meth:`Backend.watch`.
    - ``missing``: relations for which the role lacks a privilege that emptying them would need, and which.
    """

    identity: DatabaseIdentity
    token: str
    sizes: Mapping[QualifiedName, int]
    is_precise: bool = False
    states: Mapping[QualifiedName, SequenceState | None] = field(default_factory=dict)
    missing: Mapping[QualifiedName, str] = field(default_factory=dict)
    shape: Mapping[str, str] = field(default_factory=dict)
    copies: str = ""
    conditions: object = None

    @property
    def moved(self) -> frozenset[QualifiedName]:
        """The sequences that are not at their start."""
        return frozenset(self.states)


class Action(StrEnum):
    """What a step does: empty tables by DELETE or TRUNCATE, put their baseline's rows back, or put sequences back."""

    DELETE = "delete"
    TRUNCATE = "truncate"
    RESTORE = "restore"
    RESTART = "restart"


class Restoration(StrEnum):
    """How rows are put back: those that differ, by one statement a group of tables; all anew; or row by row, in passes."""

    DIFFERENCES = "differences"
    ANEW = "anew"
    IN_PASSES = "in passes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a plan: ``names`` are tables that go together (a cycle, a truncation's closure), or a sequence.

    ``reason`` says why it is done this way, where that is not plain. With ``waits`` off, a lock that is not free at
    once is an error: the plan has another way. With ``rewrites`` on, a restoring step puts all rows in anew; with
    ``in_passes`` on, it and the others like it go on without the rows that are refused, and try these again.
    """

    action: Action
    names: tuple[QualifiedName, ...]
    reason: str = ""
    waits: bool = True
    rewrites: bool = False
    in_passes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One SQL statement.

    ``counts`` names the tables whose removed rows its result tells, in order of the columns, or, for a single table, by
    its row count. ``changes`` names those whose removed, updated and inserted rows it tells, in three columns each.
    ``is_lock`` tells that it does nothing but take locks before others need them; ``is_proof`` that it fails, and with it the
    transaction, where the script must not run.
    """

    sql: str
    counts: tuple[QualifiedName, ...] = ()
    changes: tuple[QualifiedName, ...] = ()
    is_lock: bool = False
    is_proof: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A whole reset as SQL, in one transaction.

    ``opening`` begins it and takes the ``locks`` (relation → mode); then, under the locks, ``checks`` (foreign keys of
    tables that stay) must have no row; ``body`` empties and restarts; the tables of ``verify`` must be empty now; and
    ``closing`` commits. Where there is nothing to check or verify, all of it is one round trip. A script for a watch
    lacks the beginning and has sequences set after the commit: ``restarted``; it ``is_plain`` if it writes to no catalog.
    ``origin`` is what the resetter wrote it from.
    """

    opening: tuple[Statement, ...]
    body: tuple[Statement, ...]
    closing: tuple[Statement, ...]
    checks: tuple[ForeignKey, ...] = ()
    verify: tuple[QualifiedName, ...] = ()
    locks: Mapping[QualifiedName, str] = field(default_factory=dict)
    baseline: Baseline | None = None
    restarted: tuple[QualifiedName, ...] = ()
    is_plain: bool = False
    origin: object = None

    @property
    def statements(self) -> tuple[Statement, ...]:
        """All statements in order."""
        return self.opening + self.body + self.closing

    def refuse_references(self, counts: Iterable[int]) -> None:
        """Raise :class:`ExclusionError` if any of *counts*, the rows that refer by each of ``checks``, is not 0."""
        found = [(str(key), rows) for key, rows in zip(self.checks, counts, strict=True) if rows]
        if found:
            raise ExclusionError(
                "Rows of tables that this reset leaves alone refer to rows that would be deleted: "
                + "; ".join(f"{key}: {rows} row(s)" for key, rows in found)
                + ". Nothing was changed. Reset the referencing tables too, or leave the referenced ones alone.",
                references=found,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A reset that a watch made: where, permitted by what, the script that ran (None: nothing was written), what changed."""

    identity: DatabaseIdentity
    permitted_by: str
    script: Script | None = None
    changes: Mapping[QualifiedName, RowChanges] = field(default_factory=dict)
