"""The contract of a backend: base classes with working defaults, and the values that they take and return.

A backend is stateless and knows one vendor. *Introspection* reads the catalog, *operations* writes SQL. A backend never
decides what may be reset or in what order: the guard and the plan do.

:class:`BaseBackend` is the part that a reset needs. :class:`BaseDataBackend` is the part for set-up, teardown and
verification in :mod:`testdb_app.data`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
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
    """Whether *connection* commits each statement, or will when it is opened. Opens nothing, unlike Django's own method."""
    if connection.in_atomic_block:
        return False
    return bool(connection.autocommit if connection.connection is not None else connection.settings_dict["AUTOCOMMIT"])


@dataclass(frozen=True, slots=True)
class FileName:
    """The meaning of a SQLite database's name: a path and the options of a URI (https://www.sqlite.org/uri.html)."""

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
        # Of several options of one name the last one is valid. The text after a NUL is ignored.
        options = dict(parse_qsl(query, keep_blank_values=True))
        return cls(unquote(path).partition("\0")[0], options)

    @property
    def is_in_memory(self) -> bool:
        """Whether it means a database in memory, or a temporary one."""
        is_temporary = self.path in {"", ":memory:"}
        return is_temporary or self.options.get("mode") == "memory" or self.options.get("vfs") == "memdb"


def is_same_file(path: str, other: str) -> bool:
    """Whether two paths lead to one file: by device and inode if it exists, otherwise by the path behind the links."""
    try:
        return Path(path).samefile(other)
    except FileNotFoundError:
        # An existing file differs from a missing one; and resolving the links of a path takes a call for each of its
        # folders.
        if Path(path).exists() or Path(other).exists():
            return False
    except OSError:
        pass
    return os.path.realpath(path) == os.path.realpath(other)


def baseline_unsupported(connection: BaseDatabaseWrapper) -> UnsupportedError:
    """Return the error of a vendor that cannot copy and compare rows exactly."""
    return UnsupportedError(
        f"A baseline is not supported on {connection.display_name}. Nothing was changed. Reset to empty, and make the rows "
        "that every test needs in a fixture."
    )


class TransactionStatus(StrEnum):
    """The state of the transaction on a connection, as the driver knows it."""

    NONE = "none"
    OPEN = "open"
    FAILED = "failed"
    LOST = "lost"


class Failure(StrEnum):
    """The reasons for a refused statement that a test session tells apart."""

    STATEMENT_TIMEOUT = "statement time-out"
    LOCK_TIMEOUT = "lock time-out"
    IDLE_TIMEOUT = "idle time-out"
    ABORTED = "the transaction is aborted"
    OTHER = "something else"


class Mark(StrEnum):
    """A mark inside a database. PROTECTED holds in every copy of it; TEST only in the database that it was given to."""

    PROTECTED = "protected"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseIdentity:
    """The database that a connection really leads to, read over the live connection.

    ``configured`` is the name in the connection's settings, ``name`` the live one. ``server`` is text for people.
    ``warning`` says what is unknown about it; None for nothing. ``marks`` are those inside the database that hold for it.
    With ``has_fixed_snapshot`` the transaction does not see what others commit. With ``is_replica`` the session fires
    other triggers and rules than usual, and checks no foreign key (PostgreSQL's ``session_replication_role``).
    ``is_live`` is off if the live connection cannot be queried, and ``name`` is the settings'.

    The rest differs in a copy of the database: ``oid``, the database's own number in its server (0 if there is none);
    ``system_identifier``, the server's ('' if it has none, or the role may not read it); ``server_started``, when the
    server began to run, as a text to compare ('' if unknown); ``file``, the file of a SQLite database that is not in
    memory. ``misfit`` says why a test mark inside the database does not count: it was given to another one.
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

    - ``token``: equal to the ``Schema.token`` read earlier exactly if the schema has not changed since.
    - ``sizes``: the tables that may hold rows, with their bytes (0: unknown). A superset, never too small. If
      ``is_precise``, instead those that were written since the last reset of the same resetter.
    - ``states``: the sequences that are not at their start, and where they are (None: unknown).
    - ``shape``: what a baseline depends on besides the schema, as it is now; see
      :class:`testdb_app.baseline_state.Baseline`.
    - ``copies``: the counters of the baseline's copies, as ``Baseline.counters`` has them.
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

    @property
    def moved(self) -> frozenset[QualifiedName]:
        """The sequences that are not at their start."""
        return frozenset(self.states)


class Action(StrEnum):
    """The actions of a step: empty tables by DELETE or TRUNCATE, restore their baseline's rows, or put sequences back."""

    DELETE = "delete"
    TRUNCATE = "truncate"
    RESTORE = "restore"
    RESTART = "restart"


class Restoration(StrEnum):
    """The ways to restore rows: those that differ, by one statement a group of tables; all anew; or row by row, in passes."""

    DIFFERENCES = "differences"
    ANEW = "anew"
    IN_PASSES = "in passes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a plan: ``names`` are tables that are handled together (a cycle, a truncation's closure), or a sequence.

    ``reason`` says why the step is done this way, unless that is plain. With ``waits`` off, a lock that is not free at
    once is an error: the plan has another way. With ``rewrites`` on, a restoring step deletes and inserts all rows. With
    ``in_passes`` on, it and the others like it continue without the rows that are refused, and retry these.
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
    - ``checks`` are foreign keys of tables that stay; no row may refer to an emptied table by them.
    - ``verify`` are tables to read once more before the commit: a trigger that this role cannot switch off may write
      to them.
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

    The plan leads to the rows of ``baseline``, or to no rows. The transaction first proves that it is where ``identity``
    was read, and that nothing forbids a reset there by now. ``lock_timeout`` is in seconds. ``within_transaction``: in a
    savepoint of the caller's transaction. ``for_tracker``: see :class:`Script`.
    """

    schema: Schema
    baseline: Baseline | None = None
    identity: DatabaseIdentity | None = None
    lock_timeout: float
    within_transaction: bool = False
    for_tracker: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What a capture keeps as ``state``: the rows of ``tables``, and where ``sequences`` are.

    ``excluded`` are the tables that no reset to it may touch. ``lock_timeout`` is in seconds. The transaction proves of
    ``identity`` what that of a reset does.
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

    ``counts`` names the tables whose removed rows its result reports, in the order of the columns, or, for a single
    table, by its row count. ``changes`` names those whose removed, updated and inserted rows it reports, in three columns
    each. With ``is_lock`` it only takes locks before others need them. With ``is_proof`` it fails, and its transaction
    with it, if the script must not run.
    """

    sql: str
    counts: tuple[QualifiedName, ...] = ()
    changes: tuple[QualifiedName, ...] = ()
    is_lock: bool = False
    is_proof: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A whole reset as SQL, in one transaction.

    ``opening`` begins it and takes the ``locks`` (relation → mode). Then, under the locks, ``checks`` (foreign keys of
    tables that stay) must have no row; ``body`` empties and restarts; the tables of ``verify`` must be empty now; and
    ``closing`` commits. If there is nothing to check or verify, all of it is one round trip. A script for a change
    tracker lacks the beginning and has sequences set after the commit: ``restarted``; it ``is_plain`` if it writes to no
    catalog.
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
class FoundChanges:
    """What a change tracker found written since the last reset, in the database of ``identity``.

    With ``is_nothing`` it is proved that nothing was. ``key`` is equal for the same tables and sequences of the same
    database, so that a script for them can be used again; None if the script should be written anew.
    """

    identity: DatabaseIdentity
    key: Hashable | None = None
    is_nothing: bool = False


class ChangeTracker(ABC):
    """Remembers a database from one reset to the next, to find what was written in between.

    It belongs to one resetter, and is valid as long as the schema and the options that it was made with. It never writes
    by itself: the resetter asks it what was written, asks the guard, plans, and has it run the script.
    """

    @abstractmethod
    def renew(self, connection: BaseDatabaseWrapper, observation: DatabaseState) -> None:
        """Remember the state of the database right after a reset that *observation* led to.

        Nothing is remembered if somebody else may have written meanwhile.
        """
        ...

    @abstractmethod
    def find_changes(
        self, connection: BaseDatabaseWrapper, *, after: FoundChanges | None = None
    ) -> FoundChanges | None:
        """Find what was written since the last reset. Reads only. None: a full scan is needed.

        *after* is what was found before, if :meth:`run` has shown that it was not all, or there is no script for it: more
        is read then.
        """
        ...

    @abstractmethod
    def describe(self, found: FoundChanges) -> DatabaseState | None:
        """Return what was *found* as a state to plan from; None if only a script that was written before can be used."""
        ...

    @abstractmethod
    def run(
        self, connection: BaseDatabaseWrapper, found: FoundChanges, script: Script, *, lock_timeout: float
    ) -> Mapping[QualifiedName, RowChanges] | None:
        """Run *script*, and return the changes; None if something else than *found* was written, with nothing changed.

        *lock_timeout* in seconds. Raises what :meth:`BaseBackend.run` raises, with nothing changed.
        """
        ...


class BaseBackend(ABC):
    """One vendor.

    ``warning`` says what this backend cannot promise; None if it keeps every promise. With ``has_local_limits`` limits
    can end with a transaction. ``ways_to_restore`` are the ways to restore rows, in the order to try them in. The
    defaults of the methods about baselines and marks are those of a vendor that supports neither.
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
        """Read, for pictures, what the schema lacks: the columns, unique keys and rows of each table of *schema*.

        Rows are the server's estimate if it keeps one, with no table read or waited for; with *count_rows* every table is
        read. Raises :class:`~testdb_app.exceptions.LockTimeoutError` if one cannot be read.
        """
        ...

    @abstractmethod
    def read_state(
        self, connection: BaseDatabaseWrapper, *, lock_timeout: float, baseline: Baseline | None = None
    ) -> DatabaseState:
        """Find the tables that may hold rows and the sequences that have moved. Waits at most *lock_timeout* seconds for locks.

        Reads only. With the known *baseline*, also reads what that depends on.

        Raises :class:`~testdb_app.exceptions.LockTimeoutError`, and Django's database errors.
        """
        ...

    @abstractmethod
    def count_rows(self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> dict[QualifiedName, int]:
        """Count the rows of each of *tables* itself (without partitions and inheritance children)."""
        ...

    @abstractmethod
    def count_references(
        self, connection: BaseDatabaseWrapper, keys: Sequence[ForeignKey], baseline: Baseline | None = None
    ) -> tuple[int, ...]:
        """Count, for each key, the rows of its referencing table that refer to some row, except to rows of *baseline*."""
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
        """Run *script*, all or nothing, and return what was changed per table, if the server reports it.

        Raises an error of :mod:`testdb_app.exceptions`, chained to the database's own, with everything rolled back.
        """
        ...

    def change_tracker(self, schema: Schema) -> ChangeTracker | None:
        """Return a change tracker for a database with that schema, which remembers nothing yet; None if the vendor has none."""
        return None

    def renew_session(self, connection: BaseDatabaseWrapper, *, mode: str) -> bool:
        """Leave *connection* with a session that is as good as a new one, or closed. No transaction may be open.

        *mode* is ``TESTDB["KEEP_CONNECTIONS"]``: "auto", "never" or "always". Returns whether the session that
        *connection* has after the reset may stay open for the next test.

        By default the session is closed. The session that the reset then opens is as good as new for the next test.
        """
        connection.close()
        return True

    def release_session(self, connection: BaseDatabaseWrapper, *, keep: bool) -> None:
        """Close the session after the reset unless *keep*, the result of :meth:`renew_session`; otherwise prepare its first use.

        By default nothing is done.
        """

    def drop_stale_session(self, connection: BaseDatabaseWrapper) -> None:
        """Close a session that :meth:`renew_session` left open, if it is no longer as good as a new one.

        By default nothing is done: sessions are closed after each test.
        """

    def transaction_status(self, connection: BaseDatabaseWrapper) -> TransactionStatus:
        """Return the state of the transaction on *connection*, which is open, as the driver knows it. Sends nothing.

        By default it is what Django believes.
        """
        return TransactionStatus.OPEN if connection.in_atomic_block else TransactionStatus.NONE

    def look_for_commits(self, connection: BaseDatabaseWrapper, since: Position | None) -> tuple[Position | None, bool]:
        """Return the present position of the database, and whether rows may have been committed since *since*, an earlier one.

        Never no if rows were committed. Two round trips at most; reads only, also inside a transaction.

        By default rows may always have been committed.
        """
        return None, True

    def is_schema_same(self, before: Position | None, after: Position | None) -> bool:
        """Whether it is certain that nothing was created, dropped or altered between two positions of :meth:`look_for_commits`.

        By default nothing is certain.
        """
        return False

    def find_written(self, before: Position | None, after: Position | None) -> frozenset[int] | None:
        """Return the OIDs of all tables that were written between two such positions; None if that is not certain.

        By default it is unknown.
        """

    def read_objects(self, connection: BaseDatabaseWrapper) -> frozenset[str]:
        """Return the tables, sequences, triggers and other objects, each by its kind and name. Reads only.

        By default it is what Django's introspection lists.
        """
        with connection.cursor() as cursor:
            found = connection.introspection.get_table_list(cursor)
        return frozenset(f"{'view' if each.type == 'v' else 'table'} {each.name}" for each in found)

    def note_start(self, connection: BaseDatabaseWrapper) -> Position | None:
        """Return the position of the database before anybody writes; None if the vendor has no counters to prove it later.

        Some round trips, on a connection that is in no transaction.
        """
        return None

    def is_unwritten(self, connection: BaseDatabaseWrapper, start: Position) -> bool:
        """Whether the counters prove that nothing was committed, and no sequence moved, since :meth:`note_start`.

        By default nothing is proved.
        """
        return False

    def begin(self, connection: BaseDatabaseWrapper, savepoint: str, limits: Mapping[str, int]) -> None:
        """Begin the transaction that Django has announced, with a savepoint, and *limits* that end with it. One round trip.

        *limits* are milliseconds by PostgreSQL's names: ``statement_timeout``, ``lock_timeout``,
        ``idle_in_transaction_session_timeout``. Raises :class:`~testdb_app.exceptions.UnsupportedError` for limits that
        the vendor does not have, and Django's database errors.

        By default Django begins, and the savepoint is made as Django's own are.
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
        """Set *limits* as for :meth:`begin`, for the connection or (*local*) the transaction, and return the earlier ones.

        One round trip.

        By default there are no limits, and each is refused.
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
        """Return why the database raised Django's *error*."""
        return Failure.OTHER

    def explain(self, connection: BaseDatabaseWrapper, error: Error, *, doing: str) -> TestDBError:
        """Return the package's error for Django's *error*, raised by a statement of this package; *doing* begins its message.

        Nothing was changed, and nothing is open.

        By default the error contains what the database said.
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
        """Return the sessions with locks that the session *pid* may have waited for with *sql*. Reads over a new *connection*.

        By default none are found.
        """
        return []

    def check_deferred(self, connection: BaseDatabaseWrapper) -> None:
        """Check the constraints that wait for the commit; may leave them immediate. Inside a transaction.

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
        """Set a mark inside the database, or remove it. Idempotent."""
        raise UnsupportedError(
            f'The mark "{mark}" is not supported on {connection.display_name}. Name the databases that may be reset in '
            'TESTDB["ALLOWED_DATABASES"] or with --allow-database instead.'
        )

    def count_changes(
        self, connection: BaseDatabaseWrapper, baseline: Baseline, tables: Iterable[QualifiedName]
    ) -> dict[QualifiedName, RowChanges]:
        """Count what a restoration of *tables* would change now, by comparing each with its copy. Reads only."""
        raise baseline_unsupported(connection)

    def read_baseline(self, connection: BaseDatabaseWrapper, state: str = BASELINE) -> Baseline | None:
        """Read the database's baseline, or another *state*, without the rows; None if there is none. Reads only."""
        return None

    def compare_earlier(self, connection: BaseDatabaseWrapper, schema: Schema) -> EarlierFormat:
        """Compare every table with its copy in a baseline of the earlier format. Reads only; costs all rows.

        Raises :class:`~testdb_app.exceptions.BaselineFormatError` if that cannot be done.

        By default there are no changes: the vendor keeps no baseline.
        """
        return EarlierFormat(changes=(), restarts=())

    def read_contents(
        self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]
    ) -> Mapping[QualifiedName, object]:
        """Return all rows of *tables* and where their sequences are, to compare; nothing if that cannot be read. Reads only.

        For a vendor without a baseline, and for small tables. By default it cannot be read.
        """
        return {}

    def read_shape(
        self, connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
    ) -> dict[str, str]:
        """Describe what a baseline with rows of *tables* depends on; see ``Baseline.shape``."""
        raise baseline_unsupported(connection)

    def write_baseline(self, connection: BaseDatabaseWrapper, capture: Capture) -> Baseline:
        """Capture, in place of what is kept as that state. All or nothing.

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
        """Replace everything that the database keeps of that *state*, except the rows, by *baseline*. All or nothing.

        Here and below the transaction proves that it is where *identity* was read, if one is given.

        Returns the baseline with the counters that are right from then on.
        """
        raise baseline_unsupported(connection)

    def catalog_first(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """Make Django's own queries of the catalog find the database's operators before those of any schema of the user's.

        By default nothing is done: users cannot define operators.
        """
        return nullcontext()

    def write_restarts(self, connection: BaseDatabaseWrapper, schema: Schema, baseline: Baseline) -> tuple[str, ...]:
        """Write the statements that set to 1 the sequences of tables without rows that the *baseline* has elsewhere.

        By default it does as Django does for the vendor.
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
        """Remove all that :meth:`write_baseline` has captured from the database. Does nothing if there is none."""


class Position:
    """A moment in what was committed to a database, by which a later one is judged. Each vendor has a class of its own."""

    __slots__ = ()


class StoredState(Protocol):
    """The rows of some tables as they were, wherever they are kept. It belongs to one session of the database."""

    def compare(self, connection: BaseDatabaseWrapper, later: StoredState | None, limit: int) -> list[TableDifference]:
        """Return what differs from *later*, another state of the same database, or from the present rows.

        At most *limit* rows of each kind and table are reported. Raises :class:`~testdb_app.exceptions.SnapshotError` if
        the kept rows are gone, or the tables are other ones.
        """
        ...

    def close(self, connection: BaseDatabaseWrapper) -> None:
        """Remove what was kept from the database. Idempotent; a session that has ended has nothing left."""
        ...


class BaseDataBackend(ABC):
    """One vendor's part for the data helpers. Stateless; nothing here commits inside the caller's transaction."""

    def quote(self, connection: BaseDatabaseWrapper, name: QualifiedName | str) -> str:
        """Quote an identifier for SQL. In SQL with parameters, ``%`` in it must be doubled.

        By default it does as Django does.
        """
        return connection.ops.quote_name(name.name if isinstance(name, QualifiedName) else name)

    @abstractmethod
    def read_schema(self, connection: BaseDatabaseWrapper, before: Schema | None) -> Schema:
        """Return the schema: *before* itself if it is still valid, which is cheaper to find out than to read it."""
        ...

    @abstractmethod
    def read_keys(
        self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]
    ) -> Mapping[QualifiedName, tuple[str, ...]]:
        """Return the columns that identify the rows of each table; none for a table without such a key."""
        ...

    def prove(self, connection: BaseDatabaseWrapper, identity: DatabaseIdentity, schema: Schema) -> None:
        """Fail, and with it the open transaction, unless it is where *identity* was read and may still write there.

        Raises :class:`~testdb_app.exceptions.UnsafeDatabaseError`.

        By default nothing is done: it is unknown where else a proxy might lead.
        """

    def comparison(self, sign: str) -> str:
        """Write the operator ``=``, ``>=`` or ``<=`` of numbers, whatever operators the session's search path has.

        By default it is the sign: nothing else can have an operator's name.
        """
        return sign

    def read_equality(
        self, connection: BaseDatabaseWrapper, table: QualifiedName, columns: Sequence[str]
    ) -> tuple[str, ...]:
        """Return the operators by which values of key *columns* are equal.

        By default it is the only one.
        """
        return ("=",) * len(columns)

    def accepting_deletes(
        self, connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
    ) -> AbstractContextManager[None]:
        """Let the server delete from *tables*, inside an open transaction, also where a publication makes it refuse.

        Raises :class:`~testdb_app.exceptions.PublicationError` if it would still refuse.

        By default nothing is done: no server refuses.
        """
        return nullcontext()

    @abstractmethod
    def delete_together(
        self, connection: BaseDatabaseWrapper, deletes: Sequence[tuple[QualifiedName, str, Sequence[Any]]]
    ) -> list[int]:
        """Delete rows that may refer to each other, inside an open transaction; return how many of each table.

        Each entry has a table, a condition in which ``%`` is doubled, and its parameters.
        Foreign keys between the tables are checked after all of it.
        """
        ...

    @abstractmethod
    def insert_rows(
        self, connection: BaseDatabaseWrapper, table: QualifiedName | str, columns: Sequence[str], rows: Iterable[Any]
    ) -> int:
        """Insert rows of values for *columns* in the fastest way; return how many. All or nothing."""
        ...

    def reserve_keys(self, connection: BaseDatabaseWrapper, table: str, column: str, number: int) -> Sequence[int]:
        """Take that many values of the sequence behind a column, for rows that are about to be inserted with them.

        *table* is its name as SQL has it.

        By default it is refused, as are the other two below.
        """
        raise _unsupported(connection, "reserving the keys of rows")

    def store_state(self, connection: BaseDatabaseWrapper, tables: frozenset[QualifiedName] | None) -> StoredState:
        """Keep the rows of *tables*, or of all that a reset may touch, as this session sees them now."""
        raise _unsupported(connection, "a snapshot")

    @abstractmethod
    def compare_with_baseline(
        self,
        connection: BaseDatabaseWrapper,
        baseline: Baseline | None,
        tables: Iterable[QualifiedName],
        limit: int,
    ) -> list[TableDifference]:
        """Return what differs in *tables* from the baseline, or from no rows if there is none."""
        ...

    @abstractmethod
    def find_violations(self, connection: BaseDatabaseWrapper, schema: Schema, limit: int) -> list[Violation]:
        """Find constraints that rows break, including those that are checked only at the end of the transaction."""
        ...

    def find_late_sequences(self, connection: BaseDatabaseWrapper, schema: Schema) -> list[LateSequence]:
        """Find sequences whose next value is not beyond all values of a column that uses them."""
        raise _unsupported(connection, "a look at where sequences are")


def _unsupported(connection: BaseDatabaseWrapper, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"Not supported on {connection.display_name}: {what}. Compare what the test is about by queries of its own."
    )
