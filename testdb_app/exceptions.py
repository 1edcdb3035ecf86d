"""The error tree. Every message says what was refused, which object is meant, and what to do next.

::

    TestDBError
    ├── ConfigurationError        the TESTDB setting, or an argument, is wrong
    ├── UnknownNameError          a name or pattern matches no table
    ├── UnsafeDatabaseError       the guard does not know this database to be a test database
    ├── UnsupportedError          this database, server or schema cannot do what was asked
    ├── DataError                 data could not be set up, taken away or kept
    │   ├── DependentRowsError    rows that stay refer to rows that were set up and would be deleted
    │   ├── SeedError             seeds that come after each other in a circle
    │   ├── MakeError             a row cannot be made up
    │   └── SnapshotError         the snapshot is gone, or belongs to another schema
    ├── PostMigrateError          a receiver of post_migrate failed after a reset, which stays
    ├── VerificationError         what a test verifies does not hold; an AssertionError too
    ├── ResetError                the reset was refused or failed; nothing was changed
    │   ├── ExclusionError        rows that stay refer to rows that would be deleted
    │   ├── TransactionStateError the connection is inside a transaction, or an aborted one
    │   ├── ReadOnlyError         a standby server, or a session that is read-only
    │   ├── MissingPrivilegeError the role lacks a privilege
    │   ├── LockTimeoutError      another session holds a lock; it is named
    │   ├── ConcurrencyError      deadlocks or serialization failures, more often than the retries allow
    │   ├── TooManyLocksError     the server's lock table is too small for one transaction
    │   ├── PublicationError      the server refuses to delete rows of a published table
    │   ├── StorageError          rows are stored where this package cannot put them back
    │   ├── RowsRemainError       rows were there again after the reset
    │   ├── BaselineError         there is no baseline, or it belongs to another schema
    │   │   ├── BaselineDamagedError its copies or its document are not as they were captured
    │   │   └── BaselineFormatError another version of this package captured it
    │   ├── RestoreConflictError  rows of the baseline could not be put back
    │   └── ConnectionLostError   the server or the network went away
    └── TestSessionError          a test session, or a scope of a run of pytest, cannot go on
        ├── ScopeError            a scope of pytest was asked for too late, or with one that excludes it
        ├── LeakError             a test, or a fixture, has left rows that others see
        ├── SessionNestingError   it was to end before one that was opened inside it
        ├── SessionBrokenError    its transaction or its connection came to an end before it
        ├── SessionClosedError    it is used after its end, perhaps by a thread that it was shared with
        ├── SessionLeakError      what was done in it was committed, or stays open after it
        ├── UnsafeSessionError    the guard does not know its database: an UnsafeDatabaseError too
        └── SessionTimeoutError   one of its limits was reached
            ├── StatementTimeoutError    a statement ran too long
            ├── SessionLockTimeoutError  a lock was not granted in time; who holds it is named
            ├── IdleTimeoutError         it did nothing for too long, and the server ended it
            ├── OwnershipTimeoutError    it was open for too long
            ├── PoolTimeoutError         no connection was free; who holds them is named
            └── LendingTimeoutError      another thread used its connection for too long

All of them can be pickled, because xdist and Django's parallel runner send them between processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testdb_app.schema import on_one_line


def reason_of(error: BaseException) -> str:
    """Return the text of the database's *error* as a part of a sentence: on one line, without a mark at its end."""
    return " ".join(str(error).split()).rstrip(".?! ")


class TestDBError(Exception):
    """Base of all errors that this package raises itself.

    Parameters: *message*, the whole text, in which control characters are escaped; keyword arguments become attributes.
    """

    __test__ = False

    def __init__(self, message: str, **details: Any) -> None:
        # Text of the server, of other sessions or of a command line may be in it.
        message = on_one_line(message, keep="\n\t")
        super().__init__(message)
        self.message = message
        self.__dict__.update(details)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message), self.__dict__)


def _rebuild(cls: type[TestDBError], message: str) -> TestDBError:
    return cls(message)


class ConfigurationError(TestDBError):
    """The TESTDB setting or an argument has a value that cannot be meant."""


class UnknownNameError(TestDBError):
    """A label or pattern matches nothing; ``name`` and ``nearest`` (list of str) tell which, and what is near."""

    name: str
    nearest: list[str]


class UnsafeDatabaseError(TestDBError):
    """The guard refused; ``rule`` is the name of the rule, ``database`` the live name, ``alias`` Django's."""

    rule: str
    database: str
    alias: str


class UnsupportedError(TestDBError):
    """The database cannot do this; the message says which feature is missing."""


class DataError(TestDBError):
    """Data could not be set up, taken away or kept. Nothing was changed."""


class DependentRowsError(DataError):
    """Rows that were not set up refer to ones that were; ``dependents`` lists the foreign keys, and the keys of their rows."""

    dependents: list[Any]


class SeedError(DataError):
    """Seeds come after each other in a circle; ``cycle`` (list of str) is the way round."""

    cycle: list[str]


class MakeError(DataError):
    """A row cannot be made without more being given; ``model`` is the label, ``field`` the name of what to give."""

    model: str
    field: str


class SnapshotError(DataError):
    """A snapshot is closed or lost, or the schema has changed since; ``tables`` (list of str) names the tables, if any."""

    tables: list[str] = []  # noqa: RUF012 - the default of an attribute that the constructor sets


class PostMigrateError(TestDBError):
    """A receiver of ``post_migrate`` failed after a reset, which is committed; ``receiver`` names the function."""


class VerificationError(TestDBError, AssertionError):
    """What a test verifies does not hold; ``check`` is the name of the assertion, ``failures`` lists what it found."""

    check: str
    failures: list[Any]


class ResetError(TestDBError):
    """A reset was refused or failed. Nothing was changed."""


class ExclusionError(ResetError):
    """Rows that stay refer to rows that would be deleted; ``references`` lists the foreign-key paths and their rows."""

    references: list[Any]


class TransactionStateError(ResetError):
    """The connection is in a transaction that the caller did not declare, or in an aborted one."""


class ReadOnlyError(ResetError):
    """The server or the session refuses writes."""


class MissingPrivilegeError(ResetError):
    """The role lacks privileges; ``missing`` maps the name of the object to the privilege."""

    missing: dict[str, str] = {}  # noqa: RUF012 - the default of an attribute that the constructor sets


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """A session that holds a lock which a reset waits for.

    ``age_seconds`` counts from the start of its transaction; ``query`` is its current or last statement
    (None where the role may not see it); ``pid`` is None for a prepared transaction, whose identifier is ``prepared``.
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
    """A lock was not granted in time; ``blockers`` (list of :class:`Blocker`) names who holds it."""

    blockers: list[Blocker]


class ConcurrencyError(ResetError):
    """The server ended the transaction in favour of another one, in every attempt (``attempts``)."""

    attempts: int


class TooManyLocksError(ResetError):
    """One transaction cannot lock all the tables that hold rows; ``tables`` says how many there are."""

    tables: int


class PublicationError(ResetError):
    """The server refuses to delete or update rows of published tables, and they cannot be truncated.

    ``publications`` and ``tables`` (lists of str) name both.
    """

    publications: list[str]
    tables: list[str]


class StorageError(ResetError):
    """Rows are stored by an access method or an extension where they cannot be put back; ``tables`` (list of str) names them."""

    tables: list[str]


class RowsRemainError(ResetError):
    """After the reset rows were there again; ``tables`` names where."""

    tables: list[str]


class BaselineError(ResetError):
    """There is no baseline, or the one there is does not fit; ``changes`` (list of str) says what is different."""

    changes: list[str] = []  # noqa: RUF012 - the default of an attribute that the constructor sets


class BaselineDamagedError(BaselineError):
    """A copy, or the document, is not as it was captured; ``changes`` (list of str) says what is wrong."""


class BaselineFormatError(BaselineError):
    """Another version of this package captured it; ``changes`` (list of str) says which tables are not as they were then."""


class RestoreConflictError(ResetError):
    """Rows of the baseline conflict with rows that are there, or with a constraint, in whatever order they are put back.

    ``table`` is the table, ``constraint`` the constraint and ``row`` the text of the row, shortened; empty where unknown.
    """

    table: str = ""
    constraint: str = ""
    row: str = ""


class ConnectionLostError(ResetError):
    """The connection broke. The server has rolled back what was open, or had already committed all of it."""


class TestSessionError(TestDBError):
    """A test session, or a scope of a run of pytest, cannot be opened, used or ended as it should."""

    __test__ = False


class ScopeError(TestSessionError):
    """A scope of a run of pytest was asked for too late, or together with another that excludes it."""


class LeakError(TestSessionError):
    """Rows, or tables, were left where others see them; ``owner`` names the test, fixture or session that left them."""

    owner: str


class SessionNestingError(TestSessionError):
    """One was to end before another that was opened inside it; ``ending`` and ``still_open`` name the two."""

    ending: str
    still_open: str


class SessionBrokenError(TestSessionError):
    """Its transaction, or its connection, came to an end before it did; ``owner`` names it."""

    owner: str


class SessionClosedError(TestSessionError):
    """It is used after its end, or before it was opened; ``owner`` names it."""

    owner: str


class SessionLeakError(TestSessionError):
    """What was done in it was committed, or is still going on; ``owner`` names it."""

    owner: str


class UnsafeSessionError(TestSessionError, UnsafeDatabaseError):
    """It was not opened, as the guard refused its database; caught as either of the two that it is."""


class SessionTimeoutError(TestSessionError):
    """One of its limits was reached; ``owner`` names it, ``limit`` is the limit's name, ``seconds`` its value."""

    owner: str
    limit: str
    seconds: float


class StatementTimeoutError(SessionTimeoutError):
    """A statement took longer than ``statement_timeout``; ``statement`` is its text."""

    statement: str


class SessionLockTimeoutError(SessionTimeoutError):
    """A lock was not granted within ``lock_timeout``; ``blockers`` (list of :class:`Blocker`) names who holds it.

    ``statement`` is the text of the statement that waited.
    """

    statement: str
    blockers: list[Blocker]


class IdleTimeoutError(SessionTimeoutError):
    """The server has ended it, as it did nothing within its transaction for longer than ``idle_in_transaction_timeout``."""


class OwnershipTimeoutError(SessionTimeoutError):
    """It has been open for longer than ``ownership_timeout``; ``opened_at`` is file and line."""

    opened_at: str


class PoolTimeoutError(SessionTimeoutError):
    """The pool had no connection for it; ``holders`` (list of str) tells who has them, opened where, for how long."""

    holders: list[str]


class LendingTimeoutError(SessionTimeoutError):
    """Its connection, which it shares with other threads, was in use for too long; ``holder`` tells by whom."""

    holder: str
