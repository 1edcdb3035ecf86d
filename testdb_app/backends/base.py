"""The contract of a backend: base classes with working defaults, and the values that they take and return.

A backend is stateless and serves one vendor. Its *introspection* reads the catalog, its *operations* write SQL. A backend
never decides what may be reset (:mod:`testdb_app.guard`) or in what order (:mod:`testdb_app.plan`).

:class:`BaseBackend` is the part that :mod:`testdb_app.resetter` calls. :class:`BaseDataBackend` is the part for set-up,
teardown and verification in :mod:`testdb_app.data`. The vendors are ``postgresql``,
``sqlite`` and, for all others, ``generic``.

A reset goes through the values in this order: :class:`DatabaseIdentity`, :class:`DatabaseState`, :class:`ResetPlan`,
:class:`Script`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from urllib.parse import parse_qsl, unquote

from testdb_app.baseline_state import BASELINE, Baseline, EarlierFormat, RowChanges, SequenceState
from testdb_app.diff import LateSequence, TableDifference, Violation
from testdb_app.exceptions import (
    Blocker,
    ConnectionLostError,
    ExclusionError,
    ResetError,
    TestDBError,
    UnsupportedError,
    reason_of,
)
from testdb_app.schema import ForeignKey, LeftOut, QualifiedName, Schema, TableDetails

if TYPE_CHECKING:
    from django.db import Error
    from django.db.backends.base.base import BaseDatabaseWrapper

OWN_SCHEMA = "testdb"
"""The schema (PostgreSQL) or table prefix (SQLite) of the marks that this package keeps inside a database."""


def has_autocommit(connection: BaseDatabaseWrapper) -> bool:
    """Whether *connection* commits each statement, or will once it is open. Unlike Django's method, it opens no connection."""
    if connection.in_atomic_block:
        return False
    return bool(connection.autocommit if connection.connection is not None else connection.settings_dict["AUTOCOMMIT"])


@dataclass(frozen=True, slots=True)
class FileName:
    """A SQLite database name, split into a path and the options of its URI (https://www.sqlite.org/uri.html)."""

    path: str
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str) -> FileName:
        """Parse a name as SQLite does. Django always allows URIs."""
        if not name.startswith("file:"):
            return cls(name)
        path, _, query = name.removeprefix("file:").partition("#")[0].partition("?")
        if path.startswith("//"):
            path = "/" + path[2:].partition("/")[2]
        # SQLite uses the last of several options with one name, and ignores the text after a NUL.
        options = dict(parse_qsl(query, keep_blank_values=True))
        return cls(unquote(path).partition("\0")[0], options)

    @property
    def is_in_memory(self) -> bool:
        """Whether the name means an in-memory or a temporary database."""
        is_temporary = self.path in {"", ":memory:"}
        return is_temporary or self.options.get("mode") == "memory" or self.options.get("vfs") == "memdb"


def is_same_file(path: str, other: str) -> bool:
    """Whether two paths lead to one file. Compares device and inode if it exists, otherwise the resolved paths."""
    try:
        return Path(path).samefile(other)
    except FileNotFoundError:
        # An existing file differs from a missing one. This test avoids resolving links, which takes a call for each
        # folder in the path.
        if Path(path).exists() or Path(other).exists():
            return False
    except OSError:
        pass
    return os.path.realpath(path) == os.path.realpath(other)


def binding_of(file: str) -> tuple[str, int]:
    """Return what binds a mark inside a SQLite database to one file: the path behind all links, and the inode.

    Not the number of the device: it changes after a restart on some file systems and in each container.
    """
    if not file:
        return "", 0
    path = os.path.realpath(file)
    try:
        return path, Path(path).stat().st_ino & 0x7FFFFFFFFFFFFFFF  # SQLite's integers have a sign
    except OSError:
        return path, 0


def baseline_unsupported(connection: BaseDatabaseWrapper) -> UnsupportedError:
    """Return the error for a vendor that cannot copy and compare rows exactly."""
    return UnsupportedError(
        f"A baseline is not supported on {connection.display_name}. Nothing was changed. Reset to empty, and make the rows "
        "that every test needs in a fixture."
    )


class TransactionStatus(StrEnum):
    """The transaction state of a connection, as the driver reports it."""

    NONE = "none"
    OPEN = "open"
    FAILED = "failed"
    LOST = "lost"


class Failure(StrEnum):
    """Why the database refused a statement, as far as a test session distinguishes the reasons."""

    STATEMENT_TIMEOUT = "statement time-out"
    LOCK_TIMEOUT = "lock time-out"
    IDLE_TIMEOUT = "idle time-out"
    ABORTED = "the transaction is aborted"
    OTHER = "something else"


class Mark(StrEnum):
    """A mark inside a database. PROTECTED also holds in every copy; TEST holds only in the database that received it."""

    PROTECTED = "protected"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseIdentity:
    """The database that a connection really leads to, read over the live connection.

    - ``configured``, ``name``: the name in the connection's settings, and the live one.
    - ``server``: a text for people.
    - ``has_fixed_snapshot``: the transaction does not see what others commit.
    - ``is_replica``: the session fires other triggers and rules than usual, and checks no foreign key (PostgreSQL's
      ``session_replication_role``).
    - ``is_live``: False if the live connection cannot be queried; ``name`` then comes from the settings.
    - ``warning``: what is unknown about the database; None for nothing.
    - ``marks``: the marks inside the database that hold for it.
    - ``misfit``: why a test mark inside the database does not count: another database received it.

    A copy of the database differs in these:

    - ``oid``: the number of the database in its server; 0 if there is none.
    - ``system_identifier``: identifies the server; '' if it has none, or the role may not read it.
    - ``server_started``: when the server started, as a text to compare; '' if unknown.
    - ``file``: the file of a SQLite database; '' in memory.
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
class DatabaseState:
    """The state of a database, read once before a reset.

    - ``token``: equals the ``Schema.token`` read earlier if and only if the schema has not changed since.
    - ``sizes``: the tables that may hold rows, with their bytes (0: unknown). The set may be too large, never too small.
    - ``is_precise``: ``sizes`` has instead the tables written since the last reset of the same resetter.
    - ``states``: the sequences that are not at their start, each with its state (None: unknown).
    - ``missing``: the relations that the role lacks a privilege to empty, each with that privilege.
    - ``shape``: what a baseline depends on besides the schema, as it is now; see
      :class:`testdb_app.baseline_state.Baseline`.
    - ``copies``: the counters of the baseline's copies, in the form of ``Baseline.counters``.
    """

    identity: DatabaseIdentity
    token: str
    sizes: Mapping[QualifiedName, int]
    is_precise: bool = False
    states: Mapping[QualifiedName, SequenceState | None] = field(default_factory=dict)
    missing: Mapping[QualifiedName, str] = field(default_factory=dict)
    shape: Mapping[str, str] = field(default_factory=dict)
    copies: str = ""

    @property
    def moved(self) -> frozenset[QualifiedName]:
        """The sequences that are not at their start."""
        return frozenset(self.states)


class Action(StrEnum):
    """What a step does: empty tables by DELETE or TRUNCATE, restore their baseline rows, or restart sequences."""

    DELETE = "delete"
    TRUNCATE = "truncate"
    RESTORE = "restore"
    RESTART = "restart"


class Restoration(StrEnum):
    """How rows are restored: those that differ, by one statement for each group of tables; all anew; or row by row, in passes."""

    DIFFERENCES = "differences"
    ANEW = "anew"
    IN_PASSES = "in passes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a plan.

    - ``names``: the tables that are handled together (a cycle, or a truncation's closure), or one sequence.
    - ``reason``: why the step is done this way, unless that is plain.
    - ``waits``: if off, a lock that is not free at once is an error, because the plan has another way.
    - ``rewrites``: a restoring step deletes and inserts all rows.
    - ``in_passes``: all restoring steps with this flag continue without the rows that are refused, and retry those.
    """

    action: Action
    names: tuple[QualifiedName, ...]
    reason: str = ""
    waits: bool = True
    rewrites: bool = False
    in_passes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPlan:
    """What a reset does, in order.

    - ``steps`` empty tables, referencing tables first, then restart sequences.
    - ``checks`` are foreign keys of tables that stay. By them no row may refer to an emptied table.
    - ``verify`` are tables to read once more before the commit, because a trigger that this role cannot switch off may
      write to them.
    - ``kept`` are relations that the reset leaves alone.
    - ``stale_views`` are materialized views over the emptied tables.
    """

    steps: tuple[Step, ...]
    checks: tuple[ForeignKey, ...] = ()
    verify: tuple[QualifiedName, ...] = ()
    kept: tuple[LeftOut, ...] = ()
    stale_views: tuple[QualifiedName, ...] = ()

    @property
    def tables(self) -> tuple[QualifiedName, ...]:
        """The tables that the plan empties or restores, in order."""
        return tuple(
            dict.fromkeys(name for step in self.steps if step.action is not Action.RESTART for name in step.names)
        )

    @property
    def sequences(self) -> tuple[QualifiedName, ...]:
        """The sequences that the plan restarts."""
        return tuple(name for step in self.steps if step.action is Action.RESTART for name in step.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptContext:
    """What the SQL of a plan depends on besides the plan.

    - ``baseline``: the rows that the plan leads to; None for no rows.
    - ``identity``: the transaction first proves that it runs where this was read, and that nothing forbids a reset there
      by now.
    - ``lock_timeout``: in seconds.
    - ``within_transaction``: run in a savepoint of the caller's transaction.
    - ``for_tracker``: write the script for a change tracker; see :class:`Script`.
    """

    schema: Schema
    baseline: Baseline | None = None
    identity: DatabaseIdentity | None = None
    lock_timeout: float
    within_transaction: bool = False
    for_tracker: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What a capture stores as ``state``: the rows of ``tables`` and the states of ``sequences``.

    No reset to it may touch the tables of ``excluded``. ``lock_timeout`` is in seconds. The transaction proves
    ``identity`` as the transaction of a reset does; see :class:`ScriptContext`.
    """

    schema: Schema
    tables: frozenset[QualifiedName]
    sequences: frozenset[QualifiedName]
    excluded: frozenset[QualifiedName]
    lock_timeout: float
    state: str = BASELINE
    identity: DatabaseIdentity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One SQL statement.

    - ``counts``: the tables whose removed rows the result reports, in the order of the columns. For a single table the
      row count may report them.
    - ``changes``: the tables whose removed, updated and inserted rows the result reports, in three columns each.
    - ``is_lock``: it only takes locks, before later statements need them.
    - ``is_proof``: it fails, and its transaction with it, if the script must not run.
    """

    sql: str
    counts: tuple[QualifiedName, ...] = ()
    changes: tuple[QualifiedName, ...] = ()
    is_lock: bool = False
    is_proof: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A whole reset as SQL, in one transaction.

    1. ``opening`` begins the transaction and takes the ``locks`` (relation → mode).
    2. ``checks`` are foreign keys of tables that stay. Under the locks, no row may refer by them.
    3. ``body`` empties tables and restarts sequences.
    4. The tables of ``verify`` must be empty now.
    5. ``closing`` commits.

    A script with nothing to check or verify takes one round trip. A script for a change tracker neither begins nor commits
    the transaction, and does not set the sequences of ``restarted`` to their states. It ``is_plain`` if it writes to no
    catalog.
    """

    opening: tuple[Statement, ...]
    body: tuple[Statement, ...]
    closing: tuple[Statement, ...]
    checks: tuple[ForeignKey, ...] = ()
    verify: tuple[QualifiedName, ...] = ()
    locks: Mapping[QualifiedName, str] = field(default_factory=dict)
    baseline: Baseline | None = None
    restarted: Mapping[QualifiedName, SequenceState] = field(default_factory=dict)
    is_plain: bool = False

    @property
    def statements(self) -> tuple[Statement, ...]:
        """All statements in order."""
        return self.opening + self.body + self.closing

    def refuse_references(self, counts: Iterable[int]) -> None:
        """Raise :class:`ExclusionError` unless all *counts* are 0: the numbers of rows that refer by each of ``checks``."""
        found = [(str(key), rows) for key, rows in zip(self.checks, counts, strict=True) if rows]
        if found:
            raise ExclusionError(
                "Rows of tables that this reset leaves alone refer to rows that would be deleted: "
                + "; ".join(f"{key}: {rows} row(s)" for key, rows in found)
                + ". Nothing was changed. Reset the referencing tables too, or leave the referenced ones alone.",
                references=found,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundChanges:
    """What a change tracker found written since the last reset, in the database of ``identity``.

    - ``is_nothing``: it is proved that nothing was written.
    - ``key``: equal for the same tables and sequences of the same database, so that their script can be used again. None
      if the script should be written anew.
    """

    identity: DatabaseIdentity
    key: Hashable | None = None
    is_nothing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a change tracker's reset did: the ``changes`` of rows, and the sequences that it put back."""

    changes: Mapping[QualifiedName, RowChanges]
    restarted: tuple[QualifiedName, ...]


class ChangeTracker(ABC):
    """Remembers a database from one reset to the next, to find what was written in between.

    It belongs to one resetter, and is valid as long as the schema and the options that it was made with. It never writes
    by itself. The resetter calls :meth:`find_changes`, asks the guard, plans from :meth:`describe`, and calls :meth:`run`.
    """

    @abstractmethod
    def renew(self, connection: BaseDatabaseWrapper, observation: DatabaseState) -> None:
        """Remember the state of the database right after a reset that *observation* led to.

        It remembers nothing if another session may have written meanwhile.
        """
        ...

    @abstractmethod
    def find_changes(self, connection: BaseDatabaseWrapper) -> Generator[FoundChanges]:
        """Yield what may have been written since the last reset, each time more; at the end a full scan is needed. Reads only.

        The caller closes the generator: it may keep other sessions of this process from writing until then.
        """
        ...

    @abstractmethod
    def describe(self, found: FoundChanges) -> DatabaseState:
        """Return *found* as a state to plan from."""
        ...

    @abstractmethod
    def run(
        self, connection: BaseDatabaseWrapper, found: FoundChanges, script: Script, *, lock_timeout: float
    ) -> Done | None:
        """Run *script* and return what it did; return None, with nothing changed, if something else than *found* was written.

        *lock_timeout* is in seconds. Raises what :meth:`BaseBackend.run` raises, with nothing changed.
        """
        ...


class BaseBackend(ABC):
    """What a reset, a capture and a test session need from one vendor.

    - ``warning``: what this backend cannot promise; None if it keeps every promise.
    - ``has_local_limits``: limits can end with a transaction.
    - ``ways_to_restore``: the ways to restore rows, in the order to try them in.

    The methods about baselines and marks have the defaults of a vendor that supports neither.
    """

    vendor: ClassVar[str]
    warning: ClassVar[str | None] = None
    supports_baseline: ClassVar[bool] = False
    supports_marks: ClassVar[bool] = False
    has_local_limits: ClassVar[bool] = False
    ways_to_restore: ClassVar[tuple[Restoration, ...]] = (Restoration.DIFFERENCES, Restoration.ANEW)
    data: ClassVar[BaseDataBackend]
    """This vendor's part for the data helpers."""

    @abstractmethod
    def identify(self, connection: BaseDatabaseWrapper) -> DatabaseIdentity:
        """Read the identity over the live connection. One round trip; reads only."""
        ...

    @abstractmethod
    def read_schema(self, connection: BaseDatabaseWrapper) -> Schema:
        """Read the whole schema, with its token, from one snapshot."""
        ...

    @abstractmethod
    def read_details(
        self, connection: BaseDatabaseWrapper, schema: Schema, *, count_rows: bool
    ) -> Mapping[QualifiedName, TableDetails]:
        """Read the columns, unique keys and row numbers of each table of *schema*, which pictures show.

        The row numbers are the server's estimates if it keeps them; no table is read or waited for. With *count_rows* every
        table is read. Raises :class:`~testdb_app.exceptions.LockTimeoutError` if one cannot be read.
        """
        ...

    @abstractmethod
    def read_state(
        self,
        connection: BaseDatabaseWrapper,
        *,
        lock_timeout: float,
        baseline: Baseline | None = None,
        schema: Schema | None = None,
    ) -> DatabaseState:
        """Find the tables that may hold rows and the sequences that have moved. Reads only.

        Waits at most *lock_timeout* seconds for locks. With the known *baseline*, also reads what that depends on. With
        the known *schema* the state is right only if it has the token of that.

        Raises :class:`~testdb_app.exceptions.LockTimeoutError`, and Django's database errors.
        """
        ...

    @abstractmethod
    def count_rows(self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> dict[QualifiedName, int]:
        """Count the rows of each of *tables*, without those of its partitions and inheritance children."""
        ...

    @abstractmethod
    def count_references(
        self, connection: BaseDatabaseWrapper, keys: Sequence[ForeignKey], baseline: Baseline | None = None
    ) -> tuple[int, ...]:
        """Count, for each key, the rows of its referencing table that refer to any row, except to rows of *baseline*."""
        ...

    @abstractmethod
    def write_sql(self, connection: BaseDatabaseWrapper, plan: ResetPlan, context: ScriptContext) -> Script:
        """Write the SQL of *plan*.

        Raises :class:`~testdb_app.exceptions.UnsupportedError` for a step that this vendor cannot do.
        """
        ...

    @abstractmethod
    def run(
        self, connection: BaseDatabaseWrapper, script: Script, *, within_transaction: bool
    ) -> dict[QualifiedName, RowChanges]:
        """Run *script*, all or nothing, and return the changes of each table, if the server reports them.

        Raises an error of :mod:`testdb_app.exceptions`, chained to the database's own, with everything rolled back.
        """
        ...

    def change_tracker(self, schema: Schema, baseline: Baseline | None) -> ChangeTracker | None:
        """Return a new change tracker for resets of a database with that schema; None if the vendor has none.

        It remembers nothing yet. *baseline* is the target state; None for no rows.
        """
        return None

    def renew_session(self, connection: BaseDatabaseWrapper, *, mode: str) -> bool:
        """Close the session of *connection*, or make it as good as a new one. No transaction may be open.

        *mode* is ``TESTDB["KEEP_CONNECTIONS"]``: "auto", "never" or "always". Returns whether the session that
        *connection* has after the reset may stay open for the next test.

        By default the session is closed. The reset then opens another, which is as good as new for the next test.
        """
        connection.close()
        return True

    def release_session(self, connection: BaseDatabaseWrapper, *, keep: bool) -> None:
        """Keep the session for its next use after the reset, or close it.

        It is kept if *keep*, the result of :meth:`renew_session`, is true, and if the session is as good as a new one. By default
        nothing is done.
        """

    def drop_stale_session(self, connection: BaseDatabaseWrapper) -> None:
        """Close a session that :meth:`renew_session` left open, if it is no longer as good as a new one.

        By default nothing is done: sessions are closed after each test.
        """

    def transaction_status(self, connection: BaseDatabaseWrapper) -> TransactionStatus:
        """Return the transaction state of the open *connection*, as the driver reports it. Sends nothing.

        By default it is the state that Django assumes.
        """
        return TransactionStatus.OPEN if connection.in_atomic_block else TransactionStatus.NONE

    def look_for_commits(self, connection: BaseDatabaseWrapper, since: Position | None) -> tuple[Position | None, bool]:
        """Return the present position of the database, and whether rows may have been committed after the position *since*.

        The answer is never no if rows were committed. Two round trips at most; reads only, also inside a transaction.

        By default rows may always have been committed.
        """
        return None, True

    def is_schema_same(self, before: Position | None, after: Position | None) -> bool:
        """Whether it is certain that nothing was created, dropped or altered between two positions.

        :meth:`look_for_commits` returns positions. By default nothing is certain.
        """
        return False

    def find_written(self, before: Position | None, after: Position | None) -> frozenset[int] | None:
        """Return the OIDs of all tables that were written between two positions; None if that is not certain.

        By default it is unknown.
        """

    def read_objects(self, connection: BaseDatabaseWrapper) -> frozenset[str]:
        """Return the tables, sequences, triggers and other objects, each as its kind and name. Reads only.

        By default they are those that Django's introspection lists.
        """
        with connection.cursor() as cursor:
            found = connection.introspection.get_table_list(cursor)
        return frozenset(f"{'view' if each.type == 'v' else 'table'} {each.name}" for each in found)

    def note_start(self, connection: BaseDatabaseWrapper) -> Position | None:
        """Return the position of the database before anybody writes; None if the vendor has no counters.

        :meth:`is_unwritten` compares with it later. Takes some round trips. The connection must be in no transaction.
        """
        return None

    def is_unwritten(self, connection: BaseDatabaseWrapper, start: Position) -> bool:
        """Whether the counters prove that nothing was committed, and no sequence moved, since :meth:`note_start`.

        By default nothing is proved.
        """
        return False

    def begin(self, connection: BaseDatabaseWrapper, savepoint: str, limits: Mapping[str, int]) -> None:
        """Begin the transaction that Django has announced, make a savepoint, and set *limits* for it. One round trip.

        *limits* are milliseconds by PostgreSQL's names: ``statement_timeout``, ``lock_timeout``,
        ``idle_in_transaction_session_timeout``. Raises :class:`~testdb_app.exceptions.UnsupportedError` for limits that
        the vendor does not have, and Django's database errors.

        By default Django begins the transaction, and the savepoint is made as Django makes its own.
        """
        if limits:
            self.limit(connection, limits)
        if connection.features.uses_savepoints:
            with connection.cursor() as cursor:
                cursor.execute(f"SAVEPOINT {savepoint}")

    def undo(self, connection: BaseDatabaseWrapper, savepoint: str) -> None:
        """Undo what was done since :meth:`begin`. One round trip. Raises Django's database errors if the savepoint is gone.

        By default Django ends the transaction.
        """
        if connection.features.uses_savepoints:
            with connection.cursor() as cursor:
                cursor.execute(f"ROLLBACK TO SAVEPOINT {savepoint}")

    def limit(
        self, connection: BaseDatabaseWrapper, limits: Mapping[str, int], *, local: bool = False
    ) -> Mapping[str, str]:
        """Set *limits*, as for :meth:`begin`, and return the earlier ones. One round trip.

        They hold for the connection, or with *local* for the transaction. By default each limit is refused.
        """
        if limits:
            names = " and ".join(sorted(limits))
            raise UnsupportedError(
                f'The database "{connection.alias}" ({connection.display_name}) knows no {names}. Leave that out for this '
                "database, or run these tests on PostgreSQL."
            )
        return {}

    def lift(self, connection: BaseDatabaseWrapper, earlier: Mapping[str, str]) -> None:
        """Restore the limits that :meth:`limit` returned. One round trip.

        By default nothing is done.
        """

    def classify(self, error: BaseException) -> Failure:
        """Return why the database refused the statement that raised Django's *error*."""
        return Failure.OTHER

    def explain(self, connection: BaseDatabaseWrapper, error: Error, *, doing: str) -> TestDBError:
        """Return the package's error for Django's *error*, which a statement of this package raised.

        *doing* begins the message. Call it when nothing was changed and no transaction is open. By default the message
        contains the text of the database.
        """
        name, why = connection.settings_dict["NAME"], reason_of(error)
        if connection.connection is None:
            return ConnectionLostError(
                f'Cannot connect to database "{name}" (alias "{connection.alias}"): {why}. Nothing was changed. '
                "Check that the server runs."
            )
        return ResetError(
            f'{doing} database "{name}" (alias "{connection.alias}") failed: {why}. Nothing was changed, as far as the database '
            "takes back what has failed. Correct what the message names."
        )

    def find_blockers(
        self, connection: BaseDatabaseWrapper, pid: object, sql: str, error: BaseException
    ) -> list[Blocker]:
        """Return the sessions whose locks the session *pid* may have waited for with *sql*. Reads over a new *connection*.

        By default none are found.
        """
        return []

    def check_deferred(self, connection: BaseDatabaseWrapper) -> None:
        """Check the constraints that are deferred to the commit, inside a transaction. It may leave them immediate.

        Raises Django's :class:`~django.db.IntegrityError`, which names table, key and value.

        By default it does as Django does for the vendor.
        """
        connection.check_constraints()

    def set_mark(
        self,
        connection: BaseDatabaseWrapper,
        mark: Mark,
        *,
        present: bool,
        identity: DatabaseIdentity | None = None,
    ) -> None:
        """Set a mark inside the database if *present*, else remove it. Idempotent.

        *identity* is the database that the guard has checked, if it was read. By default this raises
        :class:`~testdb_app.exceptions.UnsupportedError`.
        """
        raise UnsupportedError(
            f'The mark "{mark}" is not supported on {connection.display_name}. Name the databases that may be reset in '
            'TESTDB["ALLOWED_DATABASES"] or with --allow-database instead.'
        )

    def count_changes(
        self, connection: BaseDatabaseWrapper, baseline: Baseline, tables: Iterable[QualifiedName]
    ) -> dict[QualifiedName, RowChanges]:
        """Compare each of *tables* with its copy, and count what a restoration would change now. Reads only."""
        raise baseline_unsupported(connection)

    def read_baseline(self, connection: BaseDatabaseWrapper, state: str = BASELINE) -> Baseline | None:
        """Read the baseline, or another *state*, without its rows; None if there is none. Reads only."""
        return None

    def compare_earlier(self, connection: BaseDatabaseWrapper, schema: Schema) -> EarlierFormat:
        """Compare every table with its copy in a baseline of the earlier format. Reads only, and reads all rows.

        Raises :class:`~testdb_app.exceptions.BaselineFormatError` if that cannot be done.

        By default there are no changes: the vendor keeps no baseline.
        """
        return EarlierFormat(changes=(), restarts=())

    def read_contents(
        self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]
    ) -> Mapping[QualifiedName, object]:
        """Return all rows of *tables* and the states of their sequences, to compare; nothing if they cannot be read. Reads only.

        This is for a vendor without a baseline, and for small tables. By default they cannot be read.
        """
        return {}

    def read_shape(
        self, connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
    ) -> dict[str, str]:
        """Describe what a baseline with rows of *tables* depends on; see ``Baseline.shape``."""
        raise baseline_unsupported(connection)

    def write_baseline(self, connection: BaseDatabaseWrapper, capture: Capture) -> Baseline:
        """Capture a state, and replace what the database keeps under its name. All or nothing.

        Raises an error of :mod:`testdb_app.exceptions`, with nothing changed.
        """
        raise baseline_unsupported(connection)

    def rewrite_baseline(
        self,
        connection: BaseDatabaseWrapper,
        baseline: Baseline,
        state: str = BASELINE,
        *,
        identity: DatabaseIdentity | None = None,
    ) -> Baseline:
        """Replace everything except the rows that the database keeps of *state* by *baseline*. All or nothing.

        The transaction proves that it runs where *identity* was read, if one is given. Returns the baseline with the
        counters that are valid from then on.
        """
        raise baseline_unsupported(connection)

    def carry_baseline(self, source: BaseDatabaseWrapper, target: BaseDatabaseWrapper, baseline: Baseline) -> Baseline:
        """Return *baseline*, which the database of *source* keeps, for resets of the database of *target*.

        Its copies are temporary tables there. Each transaction that reads them makes them by the statements in ``loading`` of
        each table. The tables must have the same columns in both databases. Reads only. Costs a query for each table, and holds
        all rows as SQL.

        Raises :class:`~testdb_app.exceptions.UnsupportedError` for values that have another meaning in another database,
        and :class:`~testdb_app.exceptions.MissingPrivilegeError`.
        """
        raise baseline_unsupported(target)

    def catalog_first(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """Make Django's own queries of the catalog find the database's operators before those in a schema of the user.

        By default nothing is done: users cannot define operators.
        """
        return nullcontext()

    def write_restarts(self, connection: BaseDatabaseWrapper, schema: Schema, baseline: Baseline) -> tuple[str, ...]:
        """Write the statements that set sequences to 1, for tables without rows whose sequences have moved in *baseline*.

        By default it does what Django does for the vendor.
        """
        if not connection.features.supports_sequence_reset:
            return ()
        filled = {table.name for table in baseline.tables}
        moved = {name.name for name, state in baseline.sequences.items() if state.is_called or state.last_value != 1}
        listed = [
            sequence
            for sequence in connection.introspection.sequence_list()
            if sequence["table"] not in filled
            and (sequence["name"] if "name" in sequence else sequence["table"]) in moved
        ]
        from django.core.management.color import no_style  # noqa: PLC0415 - plans need no Django

        return tuple(connection.ops.sequence_reset_by_name_sql(no_style(), listed)) if listed else ()

    def drop_baseline(self, connection: BaseDatabaseWrapper, *, identity: DatabaseIdentity | None = None) -> None:
        """Remove everything that :meth:`write_baseline` has captured from the database. Idempotent.

        The transaction proves that it runs where *identity* was read, if one is given.
        """


class Position:
    """What was committed to a database up to one moment, to compare with a later one. Each vendor has its own class."""

    __slots__ = ()


class StoredState(Protocol):
    """The stored rows of some tables, as they were at one moment. It belongs to one session of the database."""

    def compare(self, connection: BaseDatabaseWrapper, later: StoredState | None, limit: int) -> list[TableDifference]:
        """Return the differences from *later*, another state of the same database; None for the present rows.

        Reports at most *limit* rows of each kind and table. Raises :class:`~testdb_app.exceptions.SnapshotError` if the
        stored rows are gone, or the tables are other ones.
        """
        ...

    def close(self, connection: BaseDatabaseWrapper) -> None:
        """Remove the stored rows from the database. Idempotent; a session that has ended has nothing left."""
        ...


class BaseDataBackend(ABC):
    """One vendor's part for the data helpers. Stateless; nothing here commits inside the caller's transaction."""

    def quote(self, connection: BaseDatabaseWrapper, name: QualifiedName | str) -> str:
        """Quote an identifier for SQL. If the SQL has parameters, double each ``%`` in the result.

        By default it does what Django does.
        """
        return connection.ops.quote_name(name.name if isinstance(name, QualifiedName) else name)

    @abstractmethod
    def read_schema(self, connection: BaseDatabaseWrapper, before: Schema | None) -> Schema:
        """Return the schema, or *before* itself if that is still valid. The check is cheaper than reading the schema."""
        ...

    @abstractmethod
    def read_keys(
        self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]
    ) -> Mapping[QualifiedName, tuple[str, ...]]:
        """Return the columns that identify a row, for each of *tables*; none for a table without such a key."""
        ...

    def prove(self, connection: BaseDatabaseWrapper, identity: DatabaseIdentity, schema: Schema) -> None:
        """Fail, and the open transaction with it, unless it runs where *identity* was read and may still write there.

        Raises :class:`~testdb_app.exceptions.UnsafeDatabaseError`.

        By default nothing is done: it is unknown where else a proxy might lead.
        """

    def comparison(self, sign: str) -> str:
        """Return the SQL for the operator ``=``, ``>=`` or ``<=`` of numbers, which no search path can replace by another.

        By default it is the sign itself, because nothing else can have the name of an operator.
        """
        return sign

    def read_equality(
        self, connection: BaseDatabaseWrapper, table: QualifiedName, columns: Sequence[str]
    ) -> tuple[str, ...]:
        """Return the operators by which values of key *columns* are equal.

        By default it is ``=``, the only one.
        """
        return ("=",) * len(columns)

    def accepting_deletes(
        self, connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
    ) -> AbstractContextManager[None]:
        """Let the server delete from *tables*, even where a publication makes it refuse. Inside an open transaction.

        Raises :class:`~testdb_app.exceptions.PublicationError` if it would still refuse.

        By default nothing is done: no server refuses.
        """
        return nullcontext()

    @abstractmethod
    def delete_together(
        self, connection: BaseDatabaseWrapper, deletes: Sequence[tuple[QualifiedName, str, Sequence[Any]]]
    ) -> list[int]:
        """Delete rows that may refer to each other, and return the number for each entry. Inside an open transaction.

        Each entry has a table, a condition in which ``%`` is doubled, and its parameters. Foreign keys between the tables
        are checked after the last deletion.
        """
        ...

    @abstractmethod
    def insert_rows(
        self, connection: BaseDatabaseWrapper, table: QualifiedName | str, columns: Sequence[str], rows: Iterable[Any]
    ) -> int:
        """Insert *rows*, values for *columns*, in the vendor's fastest way, and return their number. All or nothing."""
        ...

    def reserve_keys(self, connection: BaseDatabaseWrapper, table: str, column: str, number: int) -> Sequence[int]:
        """Take *number* values from the sequence of a column, for rows that are about to be inserted with them.

        *table* is its name as it stands in SQL. By default this raises
        :class:`~testdb_app.exceptions.UnsupportedError`.
        """
        raise _unsupported(connection, "reserving the keys of rows")

    def store_state(self, connection: BaseDatabaseWrapper, tables: frozenset[QualifiedName] | None) -> StoredState:
        """Store the rows of *tables* as this session sees them now; with None, of all tables that a reset may touch.

        By default this raises :class:`~testdb_app.exceptions.UnsupportedError`.
        """
        raise _unsupported(connection, "a snapshot")

    @abstractmethod
    def compare_with_baseline(
        self,
        connection: BaseDatabaseWrapper,
        baseline: Baseline | None,
        tables: Iterable[QualifiedName],
        limit: int,
    ) -> list[TableDifference]:
        """Return the differences between *tables* and the baseline, or empty tables if there is no baseline."""
        ...

    @abstractmethod
    def find_violations(self, connection: BaseDatabaseWrapper, schema: Schema, limit: int) -> list[Violation]:
        """Find constraints that rows violate, including those that are checked only at the end of the transaction."""
        ...

    def find_late_sequences(self, connection: BaseDatabaseWrapper, schema: Schema) -> list[LateSequence]:
        """Find sequences whose next value is not beyond all values of a column that uses them.

        By default this raises :class:`~testdb_app.exceptions.UnsupportedError`.
        """
        raise _unsupported(connection, "reading the values of sequences")


def _unsupported(connection: BaseDatabaseWrapper, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"Not supported on {connection.display_name}: {what}. Compare what the test is about by queries of its own."
    )
