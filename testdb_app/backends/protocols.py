"""What a backend is: the protocols that the resetter speaks.

A backend is stateless and knows one vendor. *Introspection* reads the catalog, *operations* writes SQL.
It never decides what may be reset or in what order: the guard and the plan do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from testdb_app.backends.base import (
    DatabaseIdentity,
    Failure,
    Mark,
    Observation,
    Replay,
    Restoration,
    Script,
    Step,
    TransactionStatus,
)
from testdb_app.backends.data_protocols import DataBackend
from testdb_app.baseline_state import BASELINE, Baseline, EarlierFormat, RowChanges
from testdb_app.exceptions import Blocker, TestDBError
from testdb_app.schema import ForeignKey, QualifiedName, Schema, TableDetails

if TYPE_CHECKING:
    from django.db import Error
    from django.db.backends.base.base import BaseDatabaseWrapper


class Watch(Protocol):
    """What is remembered of a database from one reset to the next, to know what was written in between.

    It belongs to one resetter, and is good only while the map and the options that it was made with are.
    """

    def renew(self, connection: BaseDatabaseWrapper, observation: Observation) -> None:
        """Remember the state of the database right after a reset that *observation* led to.

        Nothing is remembered where somebody else may have written meanwhile.
        """
        ...

    def replay(
        self,
        connection: BaseDatabaseWrapper,
        *,
        permit: Callable[[DatabaseIdentity], str],
        write: Callable[[Observation], Script | None],
        lock_timeout: float,
    ) -> Replay | None:
        """Find what was written since the last reset, have *write* make a script of it, and run that.

        *permit* is asked each time before anything is written, and returns the guard's rule or raises.
        Returns None, with nothing changed, where it cannot be sure, or *write* returns None: another look has to tell.
        Raises what those two raise, and what :meth:`Backend.run` does, with nothing changed.
        """
        ...


class Backend(Protocol):
    """One vendor.

    ``warning`` says what this backend cannot promise; None where it keeps every promise. ``has_local_limits`` tells that
    limits can end with a transaction. ``ways_to_restore`` are the ways to put rows back, in the order to try them in.
    """

    vendor: str
    warning: str | None
    has_local_limits: bool
    ways_to_restore: tuple[Restoration, ...]

    @property
    def data(self) -> DataBackend:
        """What the data helpers ask of this vendor."""
        ...

    def identify(self, connection: BaseDatabaseWrapper) -> DatabaseIdentity:
        """Ask the live connection where it leads. One round trip; reads only."""
        ...

    def read_schema(self, connection: BaseDatabaseWrapper) -> Schema:
        """Read the whole map, with its token, from one snapshot."""
        ...

    def read_details(
        self, connection: BaseDatabaseWrapper, schema: Schema, *, count_rows: bool
    ) -> Mapping[QualifiedName, TableDetails]:
        """Read, for pictures, what the map lacks: the columns, unique keys and rows of each table of *schema*.

        Rows are the server's estimate where it keeps one, with no table read or waited for; with *count_rows* every
        table is read. Raises :class:`~testdb_app.exceptions.LockTimeoutError` where one cannot be.
        """
        ...

    def observe(
        self, connection: BaseDatabaseWrapper, *, lock_timeout: float, baseline: Baseline | None = None
    ) -> Observation:
        """Look where rows may be and which sequences have moved. Reads only; waits at most *lock_timeout* seconds for locks.

        With the *baseline* that is known, also what that depends on.

        Raises :class:`~testdb_app.exceptions.LockTimeoutError`, and Django's database errors.
        """
        ...

    def count_rows(self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> dict[QualifiedName, int]:
        """Count the rows of each of *tables* itself (without partitions and inheritance children)."""
        ...

    def count_references(
        self, connection: BaseDatabaseWrapper, keys: Sequence[ForeignKey], baseline: Baseline | None = None
    ) -> tuple[int, ...]:
        """Count, for each key, the rows of its referencing table that refer to some row, but for rows of *baseline*."""
        ...

    def script(
        self,
        connection: BaseDatabaseWrapper,
        schema: Schema,
        steps: Sequence[Step],
        *,
        baseline: Baseline | None = None,
        checks: Sequence[ForeignKey],
        verify: Sequence[QualifiedName],
        lock_timeout: float,
        within_transaction: bool,
        for_watch: bool = False,
        identity: DatabaseIdentity | None = None,
    ) -> Script:
        """Write the SQL of a plan that leads to *baseline*, or to no rows. *lock_timeout* in seconds.

        Its transaction first proves that it is where *identity* was read, and that nothing forbids a reset there by now.

        Raises :class:`~testdb_app.exceptions.UnsupportedError` for a step that this vendor cannot do.
        """
        ...

    def run(
        self, connection: BaseDatabaseWrapper, script: Script, *, within_transaction: bool
    ) -> dict[QualifiedName, RowChanges]:
        """Run *script*, all or nothing, and return what was changed per table, where the server tells.

        Raises an error of :mod:`testdb_app.exceptions`, chained to the database's own, with everything rolled back.
        """
        ...

    def watch(self, schema: Schema) -> Watch | None:
        """Return a watch over a database with that schema, which remembers nothing yet; None where there is no such thing."""
        ...

    def renew_session(self, connection: BaseDatabaseWrapper) -> bool:
        """Leave *connection* with a session that is as good as a new one, or closed. No transaction may be open.

        Returns whether the session that it has after the reset may stay open for the next test.
        """
        ...

    def release_session(self, connection: BaseDatabaseWrapper, *, keep: bool) -> None:
        """Close the session after the reset unless *keep*, what :meth:`renew_session` said; else prepare it for its first use."""
        ...

    def drop_stale_session(self, connection: BaseDatabaseWrapper) -> None:
        """Close a session that :meth:`renew_session` left open, if what has happened since makes it other than a new one."""
        ...

    def transaction_status(self, connection: BaseDatabaseWrapper) -> TransactionStatus:
        """Return what the driver knows of the transaction on *connection*, which is open. Sends nothing."""
        ...

    def look_for_commits(self, connection: BaseDatabaseWrapper, since: object | None) -> tuple[object, bool]:
        """Return where the database is now, and whether rows may have been committed since *since*, an earlier answer.

        Never no where some were. Two round trips at most; reads only, also inside a transaction.
        """
        ...

    def is_schema_same(self, before: object | None, after: object) -> bool:
        """Whether it is certain that nothing was made, dropped or altered between two answers of :meth:`look_for_commits`."""
        ...

    def find_written(self, before: object | None, after: object) -> frozenset[int] | None:
        """Return the OIDs of all tables that were written between two such answers; None where that is not certain."""
        ...

    def read_objects(self, connection: BaseDatabaseWrapper) -> frozenset[str]:
        """Return the tables, sequences, triggers and what else there is, each by its kind and name. Reads only."""
        ...

    def note_start(self, connection: BaseDatabaseWrapper) -> object | None:
        """Return where the counters of the database are before anybody writes; None where the vendor has no such counters.

        Two round trips, on a connection that is in no transaction.
        """
        ...

    def is_unwritten(self, connection: BaseDatabaseWrapper, start: object) -> bool:
        """Whether the counters prove that nothing was committed, and no sequence moved, since :meth:`note_start`."""
        ...

    def begin(self, connection: BaseDatabaseWrapper, savepoint: str, limits: Mapping[str, int]) -> None:
        """Begin the transaction that Django has announced, with a savepoint, and *limits* that end with it. One round trip.

        *limits* are milliseconds by PostgreSQL's names: ``statement_timeout``, ``lock_timeout``,
        ``idle_in_transaction_session_timeout``. Raises :class:`~testdb_app.exceptions.UnsupportedError` for others than
        the vendor has, and Django's database errors.
        """
        ...

    def undo(self, connection: BaseDatabaseWrapper, savepoint: str) -> None:
        """Undo what was done since :meth:`begin`. One round trip. Raises Django's database errors if the savepoint is gone."""
        ...

    def limit(
        self, connection: BaseDatabaseWrapper, limits: Mapping[str, int], *, local: bool = False
    ) -> Mapping[str, str]:
        """Set *limits* as for :meth:`begin`, for the connection or (*local*) the transaction, and return the earlier ones.

        One round trip.
        """
        ...

    def lift(self, connection: BaseDatabaseWrapper, earlier: Mapping[str, str]) -> None:
        """Put back what :meth:`limit` returned. One round trip."""
        ...

    def classify(self, error: BaseException) -> Failure:
        """Return why the database raised Django's *error*."""
        ...

    def explain(self, connection: BaseDatabaseWrapper, error: Error, *, doing: str) -> TestDBError:
        """Return the package's error for Django's *error*, which a statement of ours met; *doing* begins its message.

        Nothing was changed, and nothing is open.
        """
        ...

    def find_blockers(
        self, connection: BaseDatabaseWrapper, pid: object, sql: str, error: BaseException
    ) -> list[Blocker]:
        """Return who holds locks that the session *pid* may have waited for with *sql*, asked over a new *connection*."""
        ...

    def check_deferred(self, connection: BaseDatabaseWrapper) -> None:
        """Check the constraints that wait for the commit; may leave them immediate. Inside a transaction.

        Raises Django's :class:`~django.db.IntegrityError`, which names table, key and value.
        """
        ...

    def set_mark(
        self,
        connection: BaseDatabaseWrapper,
        mark: Mark,
        *,
        present: bool,
        identity: DatabaseIdentity | None = None,
    ) -> None:
        """Put a mark inside the database, or take it away. Twice is once."""
        ...

    def count_changes(
        self, connection: BaseDatabaseWrapper, baseline: Baseline, tables: Iterable[QualifiedName]
    ) -> dict[QualifiedName, RowChanges]:
        """Count what a restoration of *tables* would change now, by comparing each with its copy. Reads only."""
        ...

    def read_baseline(self, connection: BaseDatabaseWrapper, state: str = BASELINE) -> Baseline | None:
        """Read what the database keeps of its baseline, or of another *state*, without the rows; None for none. Reads only."""
        ...

    def compare_earlier(self, connection: BaseDatabaseWrapper, schema: Schema) -> EarlierFormat:
        """Compare every table with its copy in a baseline of the format before this one. Reads only; costs all rows.

        Raises :class:`~testdb_app.exceptions.BaselineFormatError` where that cannot be done.
        """
        ...

    def read_shape(
        self, connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
    ) -> dict[str, str]:
        """Describe what a baseline with rows of *tables* depends on; see ``Baseline.shape``."""
        ...

    def write_baseline(
        self,
        connection: BaseDatabaseWrapper,
        schema: Schema,
        *,
        tables: Iterable[QualifiedName],
        sequences: Iterable[QualifiedName],
        excluded: frozenset[QualifiedName],
        lock_timeout: float,
        state: str = BASELINE,
        identity: DatabaseIdentity | None = None,
    ) -> Baseline:
        """Capture the rows of *tables* and the state of *sequences*, in place of any earlier *state*, all or nothing.

        Here and below the transaction that writes proves what :meth:`script` says of *identity*, where one is given.

        Raises an error of :mod:`testdb_app.exceptions`, with nothing changed.
        """
        ...

    def rewrite_baseline(
        self,
        connection: BaseDatabaseWrapper,
        baseline: Baseline,
        state: str = BASELINE,
        *,
        identity: DatabaseIdentity | None = None,
    ) -> Baseline:
        """Replace what the database keeps of that *state*, but for the rows, by *baseline*. All or nothing.

        Returns it with the counters that are right from then on.
        """
        ...

    def catalog_first(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """Have Django's own queries of the catalog find the database's operators before those of any schema of the user's."""
        ...

    def write_restarts(self, connection: BaseDatabaseWrapper, schema: Schema, baseline: Baseline) -> tuple[str, ...]:
        """Write the statements that set to 1 the sequences of tables without rows that the *baseline* has elsewhere."""
        ...

    def drop_baseline(self, connection: BaseDatabaseWrapper, *, identity: DatabaseIdentity | None = None) -> None:
        """Take all that :meth:`write_baseline` has captured out of the database. Without any nothing happens."""
        ...
