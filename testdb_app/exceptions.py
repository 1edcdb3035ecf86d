"""The error tree. Every message says what was refused, which object is meant, and what to do next.

::

    TestDBError
    ├── ConfigurationError        the TESTDB setting, or an argument, is wrong
    ├── UnknownNameError          a name or pattern matches no table
    ├── UnsafeDatabaseError       the guard refused: the database is not known to be a test database
    ├── UnsupportedError          this database, server or schema does not support the operation
    ├── DataError                 data could not be set up, deleted or kept
    │   ├── DependentRowsError    remaining rows refer to rows that were set up and would be deleted
    │   ├── SeedError             the order of the seeds has a cycle
    │   ├── MakeError             no row can be made without more values
    │   └── SnapshotError         the snapshot is gone, or belongs to another schema
    ├── ArchiveError              the archive of a template cannot be written, read or restored
    ├── PostMigrateError          a receiver of post_migrate failed after a reset; the reset is committed
    ├── VerificationError         an assertion of testdb_app.data failed; also an AssertionError
    ├── ResetError                the reset was refused or failed; nothing was changed
    │   ├── ExclusionError        remaining rows refer to rows that would be deleted
    │   ├── TransactionStateError the connection is inside a transaction, or an aborted one
    │   ├── ReadOnlyError         a standby server, or a read-only session
    │   ├── MissingPrivilegeError the role lacks a privilege
    │   ├── LockTimeoutError      a lock timeout; the session that holds the lock is named
    │   ├── ConcurrencyError      deadlocks or serialization failures, more often than the retries allow
    │   ├── TooManyLocksError     the server's lock table is too small for one transaction
    │   ├── PublicationError      the server refuses to delete rows of a published table
    │   ├── StorageError          rows are stored where this package cannot restore them
    │   ├── RowsRemainError       tables had rows again after the reset
    │   ├── BaselineError         there is no baseline, or it belongs to another schema
    │   │   ├── BaselineDamagedError its copies or its document changed after the capture
    │   │   └── BaselineFormatError another version of this package captured it
    │   ├── RestoreConflictError  rows of the baseline could not be restored
    │   └── ConnectionLostError   the server or the network went away
    └── TestSessionError          a test session, or a scope of a pytest run, cannot go on
        ├── ScopeError            a pytest scope was requested too late, or with a conflicting one
        ├── LeakError             a test or fixture leaked rows into the database
        ├── SessionNestingError   it was ended before one that was opened inside it
        ├── SessionBrokenError    its transaction or its connection ended before it
        ├── SessionClosedError    it was used after its end, perhaps by a thread that shared it
        ├── SessionLeakError      its work was committed, or is still open after its end
        ├── UnsafeSessionError    the guard refused its database; also an UnsafeDatabaseError
        └── SessionTimeoutError   one of its limits was reached
            ├── StatementTimeoutError    a statement ran too long
            ├── SessionLockTimeoutError  a lock was not granted in time; the holder is named
            ├── IdleTimeoutError         it was idle for too long, and the server ended it
            ├── OwnershipTimeoutError    it was open for too long
            ├── PoolTimeoutError         no connection was free; the holders are named
            └── LendingTimeoutError      another thread used its connection for too long

All errors can be pickled, because pytest-xdist and Django's parallel runner send them between processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testdb_app.schema import on_one_line


def reason_of(error: BaseException) -> str:
    """Return the text of the database's *error* as a part of a sentence: on one line, without a mark at its end."""
    return " ".join(str(error).split()).rstrip(".?! ")


def first_line_of(error: BaseException) -> str:
    """Return the first line of the database's *error*; those after it quote the statement and the place in it."""
    return str(error).strip().split("\n")[0]


class TestDBError(Exception):
    """Base of all errors that this package raises itself.

    Parameters: *message*, the whole text, whose control characters are escaped; keyword arguments become attributes.
    """

    __test__ = False

    def __init__(self, message: str, **details: Any) -> None:
        # The message may quote text from the server, other sessions or a command line.
        message = on_one_line(message, keep="\n\t")
        super().__init__(message)
        self.message = message
        self.__dict__.update(details)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message), self.__dict__)


def _rebuild(cls: type[TestDBError], message: str) -> TestDBError:
    return cls(message)


class ConfigurationError(TestDBError):
    """The TESTDB setting or an argument has an invalid value."""


class UnknownNameError(TestDBError):
    """A label or pattern matches nothing; ``name`` is the pattern, ``nearest`` (list of str) has similar names."""

    name: str
    nearest: list[str]


class UnsafeDatabaseError(TestDBError):
    """The guard refused; ``rule`` names the rule, ``database`` the live database, ``alias`` Django's alias."""

    rule: str
    database: str
    alias: str


class UnsupportedError(TestDBError):
    """The database cannot do this; the message says which feature is missing."""


class DataError(TestDBError):
    """Data could not be set up, deleted or kept. Nothing was changed."""


class DependentRowsError(DataError):
    """Unregistered rows refer to rows that were set up; ``dependents`` lists the foreign keys and the rows' primary keys."""

    dependents: list[Any]


class SeedError(DataError):
    """The order of the seeds has a cycle; ``cycle`` (list of str) names its seeds in order."""

    cycle: list[str]


class MakeError(DataError):
    """A row cannot be made without more values; ``model`` is the model's label, ``field`` the field to pass a value for."""

    model: str
    field: str


class SnapshotError(DataError):
    """A snapshot is closed or lost, or the schema has changed since. ``tables`` (list of str) names the tables, if any."""

    tables: list[str] = []  # noqa: RUF012 - the default of an attribute that the constructor sets


class ArchiveError(TestDBError):
    """The archive of a template cannot be written, read or restored; a run then goes on without it."""


class PostMigrateError(TestDBError):
    """A receiver of ``post_migrate`` failed after a reset, and the reset is committed; ``receiver`` names the function."""


class VerificationError(TestDBError, AssertionError):
    """An assertion of a test failed; ``check`` names the assertion, ``failures`` lists what it found."""

    check: str
    failures: list[Any]


class ResetError(TestDBError):
    """A reset was refused or failed. Nothing was changed."""


class ExclusionError(ResetError):
    """Remaining rows refer to rows that would be deleted; ``references`` lists each foreign key and its number of rows."""

    references: list[Any]


class TransactionStateError(ResetError):
    """The connection is in a transaction that the caller did not declare, or in a failed one."""


class ReadOnlyError(ResetError):
    """The server or the session refuses writes."""


class MissingPrivilegeError(ResetError):
    """The role lacks privileges; ``missing`` maps the name of each object to the privilege."""

    missing: dict[str, str] = {}  # noqa: RUF012 - the default of an attribute that the constructor sets


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """A session that holds a lock and blocks a reset.

    ``age_seconds`` counts from the start of its transaction. ``query`` is its current or last statement, or None where the
    role may not see it. For a prepared transaction ``pid`` is None, and ``prepared`` is its identifier.
    """

    pid: int | None
    user: str | None
    application: str | None
    state: str | None
    age_seconds: float | None
    query: str | None
    table: str
    lock: str
    prepared: str | None = None

    def __str__(self) -> str:
        who = f"process {self.pid}" if self.pid is not None else "a prepared transaction"
        if self.prepared is not None:
            who = f"the prepared transaction {self.prepared!r}"
        if self.application:
            who += f" ({self.application})"
        parts = [f"{who} holds {self.lock} on {self.table}"]
        if self.state:
            parts.append(self.state)
        if self.age_seconds is not None:
            parts.append(f"transaction open for {self.age_seconds:.1f} s")
        if self.query:
            parts.append("last query: " + " ".join(self.query.split())[:200])
        return on_one_line(", ".join(parts))


class LockTimeoutError(ResetError):
    """A lock was not granted in time; ``blockers`` (list of :class:`Blocker`) are the holders."""

    blockers: list[Blocker]


class ConcurrencyError(ResetError):
    """The server aborted the transaction in favour of another one, in each of ``attempts`` attempts."""

    attempts: int


class TooManyLocksError(ResetError):
    """One transaction cannot lock all tables that have rows; ``tables`` is their number."""

    tables: int


class PublicationError(ResetError):
    """The server refuses to delete or update rows of published tables, and they cannot be truncated.

    ``publications`` and ``tables`` (lists of str) name both.
    """

    publications: list[str]
    tables: list[str]


class StorageError(ResetError):
    """An access method or an extension stores rows where they cannot be restored; ``tables`` (list of str) names the tables."""

    tables: list[str]


class RowsRemainError(ResetError):
    """Tables had rows again after the reset; ``tables`` (list of str) names them."""

    tables: list[str]


class BaselineError(ResetError):
    """There is no baseline, or it does not fit the database; ``changes`` (list of str) lists the differences."""

    changes: list[str] = []  # noqa: RUF012 - the default of an attribute that the constructor sets


class BaselineDamagedError(BaselineError):
    """A copy or the document changed after the capture; ``changes`` (list of str) lists the faults."""


class BaselineFormatError(BaselineError):
    """Another version of this package captured the baseline; ``changes`` (list of str) lists what has changed since."""


class RestoreConflictError(ResetError):
    """Rows of the baseline conflict with present rows or with a constraint, in whatever order they are restored.

    ``table``, ``constraint`` and ``row`` (the text of the row, shortened) are empty if unknown.
    """

    table: str = ""
    constraint: str = ""
    row: str = ""


class ConnectionLostError(ResetError):
    """The connection broke. The server rolled back the open transaction, or had already committed all of it."""


class TestSessionError(TestDBError):
    """A test session, or a scope of a pytest run, cannot be opened, used or ended."""

    __test__ = False


class ScopeError(TestSessionError):
    """A scope of a pytest run was requested too late, or together with a conflicting one."""


class LeakError(TestSessionError):
    """Rows or tables leaked into the database; ``owner`` names the test, fixture or session that left them."""

    owner: str


class SessionNestingError(TestSessionError):
    """It was ended before one that was opened inside it; ``ending`` and ``still_open`` name the two."""

    ending: str
    still_open: str


class SessionBrokenError(TestSessionError):
    """Its transaction or its connection ended before it did; ``owner`` names the session or scope."""

    owner: str


class SessionClosedError(TestSessionError):
    """It was used after its end, or before it was opened; ``owner`` names the session."""

    owner: str


class SessionLeakError(TestSessionError):
    """Its work was committed, or is still open after its end; ``owner`` names the session."""

    owner: str


class UnsafeSessionError(TestSessionError, UnsafeDatabaseError):
    """It was not opened, because the guard refused its database."""


class SessionTimeoutError(TestSessionError):
    """One of its limits was reached; ``owner`` names the session, ``limit`` the limit, and ``seconds`` is its value."""

    owner: str
    limit: str
    seconds: float


class StatementTimeoutError(SessionTimeoutError):
    """A statement took longer than ``statement_timeout``; ``statement`` is its text."""

    statement: str


class SessionLockTimeoutError(SessionTimeoutError):
    """A lock was not granted within ``lock_timeout``; ``blockers`` (list of :class:`Blocker`) are the holders.

    ``statement`` is the text of the statement that waited.
    """

    statement: str
    blockers: list[Blocker]


class IdleTimeoutError(SessionTimeoutError):
    """The server ended it, because its transaction was idle for longer than ``idle_in_transaction_timeout``."""


class OwnershipTimeoutError(SessionTimeoutError):
    """It was open for longer than ``ownership_timeout``; ``opened_at`` is the file and line that opened it."""

    opened_at: str


class PoolTimeoutError(SessionTimeoutError):
    """The pool had no free connection; ``holders`` (list of str) describes each holder: where it opened, and how long ago."""

    holders: list[str]


class LendingTimeoutError(SessionTimeoutError):
    """Another thread used its shared connection for too long; ``holder`` describes that thread."""

    holder: str
