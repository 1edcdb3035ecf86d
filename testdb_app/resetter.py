"""The reset, from top to bottom: find what was written, ask the guard, plan, run, report."""

from __future__ import annotations

import logging
import random
import time
import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from django.db import DEFAULT_DB_ALIAS, DatabaseError, Error, InterfaceError, connections

from testdb_app import guard
from testdb_app.backends import backend_of, get_backend
from testdb_app.backends.base import (
    BaseBackend,
    Capture,
    ChangeTracker,
    DatabaseIdentity,
    DatabaseState,
    ResetPlan,
    Restoration,
    Script,
    ScriptContext,
    baseline_unsupported,
    has_autocommit,
)
from testdb_app.baseline_state import (
    BASELINE,
    KEPT_STATES,
    KIND_OF,
    Baseline,
    RowChanges,
    compare_shapes,
    is_same_shape,
    migration_tables,
)
from testdb_app.conf import ResetOptions, check_options
from testdb_app.exceptions import (
    BaselineError,
    ConcurrencyError,
    LockTimeoutError,
    RestoreConflictError,
    TransactionStateError,
)
from testdb_app.graph import DependencyGraph
from testdb_app.guard import check_transaction_state
from testdb_app.model_tables import index_models
from testdb_app.plan import check_references, check_storage, find_refused, plan_reset
from testdb_app.report import ResetPreview, ResetReport, make_report
from testdb_app.schema import QualifiedName, Schema, list_some
from testdb_app.selection import Scope, make_scope, select_tables
from testdb_app.signals import clear_caches, database_reset, reset_finished

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("testdb_app")

_T = TypeVar("_T")

WAITS = 3
"""The lock timeout is divided into this many waits for locks."""
MOST_ATTEMPTS = 10
_MOST_SCRIPTS = 128
_LONGEST_PAUSE = 0.2

READING, RESETTING, CAPTURING = "Reading the state of", "The reset of", "Capturing the baseline of"
"""How an error message begins: what was being done."""


class Resetter:
    """Empties the tables of one database in the order of its foreign keys, and restarts its sequences.

    Make one and keep it. The first call reads the schema; later calls read it again only after it has changed.

    Parameters:

    - *using*: the alias of the database.
    - *include*, *exclude*: labels and patterns (see :func:`testdb_app.selection.select_tables`); nothing included
      means every table. ``TESTDB["EXCLUDE"]`` is added to *exclude*.
    - *to*: the target state, "baseline" or "empty". None means the baseline if the database has one, else empty.
    - *strategy*: "auto", "delete" or "truncate"; None for the setting.
    - *reset_sequences*: whether sequences go back to their start.
    - *allow_database*: one name or several, of databases that may be reset although nothing marks them as test
      databases.
    - *lock_timeout*: seconds to wait for locks, over all retries; None for the setting.
    - *within_transaction*: run in a savepoint of the caller's transaction, and leave the commit to the caller.
    - *once*: this resetter makes a single reset, so it remembers nothing for a next one.

    Raises :class:`ConfigurationError` for invalid arguments. Not thread-safe: use it in one thread at a time.
    """

    def __init__(
        self,
        using: str = DEFAULT_DB_ALIAS,
        *,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        to: str | None = None,
        strategy: str | None = None,
        reset_sequences: bool = True,
        allow_database: str | Iterable[str] = (),
        lock_timeout: float | None = None,
        within_transaction: bool = False,
        once: bool = False,
    ) -> None:
        self.options = check_options(
            using=using,
            include=include,
            exclude=exclude,
            to=to,
            strategy=strategy,
            reset_sequences=reset_sequences,
            allow_database=allow_database,
            lock_timeout=lock_timeout,
        )
        self.using = using
        self.within_transaction = within_transaction
        self.once = once
        self._context: ResetContext | None = None
        self._tracker: ChangeTracker | None = None
        # What was planned and written for the tracker, by what it found.
        self._scripts: dict[Hashable, tuple[ResetPlan, Script]] = {}

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """This thread's connection for the alias."""
        return connections[self.using]

    @property
    def backend(self) -> BaseBackend:
        """The backend of the connection."""
        return get_backend(self.connection)

    @property
    def schema_token(self) -> str | None:
        """A text that changes with the schema, as the last reset or plan found it; None before the first."""
        return self._context.schema.token if self._context is not None else None

    def reset(self, *, refit: bool = False) -> ResetReport:
        """Reset the database and return a report of what was done.

        The guard checks the live connection before the first write. The reset is one transaction, all or nothing. It
        is retried after a deadlock, a serialization failure or a lock timeout: ten attempts at most, within the lock
        timeout.

        With *refit*, a baseline that was captured from another schema is made to fit the present one, as far as
        possible. Use this between two tests: Django's flush also accepts tables that were created or dropped.

        Raises errors of :mod:`testdb_app.exceptions`. Nothing was changed if it raises.
        """
        started = time.perf_counter()
        connection = self.connection
        check_transaction_state(connection, within_transaction=self.within_transaction)
        report, attempts = run_with_retries(
            partial(self._try, connection, started, refit),
            name=self.using,
            strategy=self.options.strategy,
            lock_timeout=self.options.lock_timeout,
            may_retry=not self.within_transaction,
            ways=get_backend(connection).ways_to_restore,
        )
        if attempts > 1:
            report = replace(report, attempts=attempts)
        logger.debug("%s", report)
        if not self.once:
            warn_of_stale_views(report)
        announce(type(self), report)
        return report

    def plan(self) -> ResetPreview:
        """Return what :meth:`reset` would do now: the plan, its SQL, and the rows that would be deleted. Changes nothing.

        Works for any database, because it does not ask the guard. Counts the rows of every written table. Raises what
        :meth:`reset` would raise for a plan that cannot be made.
        """
        check_transaction_state(self.connection, within_transaction=self.within_transaction)
        return read_with_retries(
            self._preview_once,
            name=self.using,
            lock_timeout=self.options.lock_timeout,
            may_retry=not self.within_transaction,
        )

    def count_changes(self, oids: Collection[int]) -> dict[QualifiedName, RowChanges] | None:
        """Compare only the tables with these OIDs with the baseline. Changes nothing. None means: call :meth:`plan` instead.

        The schema must be as the last reset or plan found it. One round trip, or two. Raises what :meth:`plan`
        raises.
        """
        context = self._context
        if context is None or context.baseline is None:
            return None
        names = {table.oid: table.name for table in context.schema.tables}
        if not names.keys() >= set(oids):
            return None
        written = {names[oid] for oid in oids}
        if not written.isdisjoint(context.baseline.kept_in):
            # The baseline may be damaged.
            return None
        written &= context.scope.tables
        with explained(self.connection, READING):
            changes = self._count_changes(context, written)
            others = [name for name in sorted(written) if name not in context.baseline.tables]
            rows = self.backend.count_rows(self.connection, others)
        return (
            dict.fromkeys(written, RowChanges()) | changes | {name: RowChanges(removed=rows[name]) for name in others}
        )

    def identify(self) -> DatabaseIdentity:
        """Return the server and the database that the live connection leads to. Does not ask the guard."""
        with explained(self.connection, READING):
            return self.backend.identify(self.connection)

    def check_may_reset(self) -> str:
        """Ask the guard about the live connection. Return the name of the rule that permits a reset, or raise."""
        return self._permit(self.identify())

    def _try(
        self, connection: BaseDatabaseWrapper, started: float, refit: bool, strategy: str, restoration: Restoration
    ) -> ResetReport:
        with explained(connection, RESETTING, permit=self._permit):
            return self._attempt(connection, started, strategy, restoration, refit=refit)

    def _attempt(
        self, connection: BaseDatabaseWrapper, started: float, strategy: str, restoration: Restoration, *, refit: bool
    ) -> ResetReport:
        # Several attempts share the timeout: a failed attempt releases its locks, so that other sessions can finish.
        timeout = self.options.lock_timeout / WAITS
        is_first = restoration is Restoration.DIFFERENCES and strategy == self.options.strategy
        if is_first and not self.within_transaction:
            report = self._reset_written(connection, started, timeout)
            if report is not None:
                return report
        observation, context = self._read_state(refit=refit, permit=True)
        if self.within_transaction and observation.identity.has_fixed_snapshot:
            raise TransactionStateError(
                f'Refusing to reset: the transaction of the connection "{self.using}" is repeatable read or serializable, and '
                "would not see the rows that others committed since it began. Use read committed, or reset outside of it."
            )
        rule = self._permit(observation.identity)
        counted = self._count_changes(context) if restoration is not Restoration.DIFFERENCES else None
        differing = None
        if counted is not None:
            # Rows that this role cannot see may differ, so a table that hides rows counts as different.
            differing = frozenset(counted) | {table.name for table in context.schema.tables if table.hides_rows}
        new_tables = frozenset() if self.within_transaction else context.new_tables
        plan = context.plan(
            observation,
            strategy=strategy,
            truncate_above=self.options.truncate_above,
            restoration=restoration,
            differing=differing,
            new_tables=new_tables,
        )
        self._check_references(context, plan)
        changes: Mapping[QualifiedName, RowChanges] = {}
        if plan.steps:
            script = self._write_sql(context, plan, timeout, observation.identity)
            changes = self.backend.run(connection, script, within_transaction=self.within_transaction)
            if counted is not None and restoration is Restoration.IN_PASSES:
                # The server does not report what it did.
                changes = {**{name: done for name, done in counted.items() if name in plan.tables}, **changes}
        if context.new_tables:
            # The next report counts the rows that are deleted from these tables.
            self._context = replace(context, new_tables=frozenset())
        if self._tracker is not None and not (self.once or self.within_transaction):
            self._tracker.renew(connection, observation)
        return self._report(started, observation.identity, plan, changes, rule, full_scan=True)

    def _reset_written(
        self, connection: BaseDatabaseWrapper, started: float, lock_timeout: float
    ) -> ResetReport | None:
        """Reset what the tracker finds written, in few round trips; return None if a full scan is needed."""
        tracker, context = self._tracker, self._context
        if tracker is None or context is None:
            return None
        findings = tracker.find_changes(connection)
        try:
            for found in findings:
                rule = self._permit(found.identity)
                if found.is_nothing:
                    nothing = ResetPlan(steps=(), kept=context.scope.kept)
                    return self._report(started, found.identity, nothing, {}, rule)
                written = self._scripts.get(found.key) or self._write_for_tracker(context, tracker.describe(found))
                if written is None:
                    return None
                if found.key is not None:
                    if len(self._scripts) >= _MOST_SCRIPTS:
                        self._scripts.clear()
                    self._scripts[found.key] = written
                plan, script = written
                done = tracker.run(connection, found, script, lock_timeout=lock_timeout)
                if done is not None:
                    return self._report(started, found.identity, plan, done.changes, rule, done.restarted)
        finally:
            findings.close()
        return None

    def _write_for_tracker(self, context: ResetContext, state: DatabaseState) -> tuple[ResetPlan, Script] | None:
        """Plan, and write the SQL that empties or restores the written tables; None if that needs a full scan."""
        baseline = context.baseline
        if baseline is not None and not state.sizes.keys().isdisjoint(baseline.kept_in):
            # The baseline may be out of date, or damaged.
            return None
        options = self.options
        plan = context.plan(state, strategy=options.strategy, truncate_above=options.truncate_above)
        if plan.checks or plan.verify:
            return None
        return plan, self._write_sql(context, plan, options.lock_timeout, state.identity, for_tracker=True)

    def _read_state(self, *, refit: bool = False, permit: bool = False) -> tuple[DatabaseState, ResetContext]:
        """Read the state, ask the guard if *permit*, and read the context if there is none or the schema has changed."""
        for _ in range(MOST_ATTEMPTS):
            baseline = self._context.baseline if self._context is not None else None
            schema = self._context.schema if self._context is not None else None
            timeout = self.options.lock_timeout / WAITS
            observation = read_state(self.connection, lock_timeout=timeout, baseline=baseline, schema=schema)
            if permit:
                self._permit(observation.identity)
            if self._context is not None and self._context.is_still_true(observation):
                return observation, self._context
            before = self._context.schema if self._context is not None else None
            self._context = self._read_context(refits=refit, before=before)
            # Counters do not cover tables of other access methods.
            can_watch = self._context.schema.outside_heap.isdisjoint(self._context.scope.tables)
            self._tracker = (
                self.backend.change_tracker(self._context.schema, self._context.baseline) if can_watch else None
            )
            self._scripts.clear()
        raise ConcurrencyError(
            f'The schema of database "{observation.identity.name}" changes faster than it can be read. Nothing was changed. '
            "Wait until the migrations that run on it have ended.",
            attempts=MOST_ATTEMPTS,
        )

    def _read_context(self, *, refits: bool, before: Schema | None) -> ResetContext:
        return read_context(self.connection, self.options, refits=refits, before=before)

    def _permit(self, identity: DatabaseIdentity) -> str:
        return guard.check_may_reset(identity, allow=self.options.allow_database)

    def _count_changes(
        self, context: ResetContext, among: Collection[QualifiedName] | None = None
    ) -> dict[QualifiedName, RowChanges]:
        """Return what a restoration would change, for each table that differs from the baseline. *among* limits the tables."""
        if context.baseline is None:
            return {}
        tables = context.baseline.tables.keys() & context.scope.tables
        if among is not None:
            tables &= set(among)
        counted = self.backend.count_changes(self.connection, context.baseline, sorted(tables))
        return {name: changes for name, changes in counted.items() if changes}

    def _check_references(self, context: ResetContext, plan: ResetPlan) -> None:
        """Raise :class:`ExclusionError` if rows of tables that stay refer to rows that *plan* deletes."""
        if plan.checks:
            counts = self.backend.count_references(self.connection, plan.checks, context.baseline)
            check_references(context.schema, context.scope, plan.checks, counts)

    def _write_sql(
        self,
        context: ResetContext,
        plan: ResetPlan,
        lock_timeout: float,
        identity: DatabaseIdentity,
        *,
        for_tracker: bool = False,
    ) -> Script:
        script_context = ScriptContext(
            schema=context.schema,
            baseline=context.baseline,
            identity=identity,
            lock_timeout=lock_timeout,
            within_transaction=self.within_transaction,
            for_tracker=for_tracker,
        )
        return self.backend.write_sql(self.connection, plan, script_context)

    def _report(
        self,
        started: float,
        identity: DatabaseIdentity,
        plan: ResetPlan,
        changes: Mapping[QualifiedName, RowChanges],
        rule: str,
        restarted: tuple[QualifiedName, ...] | None = None,
        *,
        full_scan: bool = False,
    ) -> ResetReport:
        assert self._context is not None
        report = make_report(
            identity,
            plan,
            changes,
            restarted=plan.sequences if restarted is None else restarted,
            target=self._target(self._context),
            permitted_by=rule,
            warning=backend_of(identity.vendor).warning or identity.warning,
            full_scan=full_scan,
            seconds=time.perf_counter() - started,
        )
        if not plan.stale_views:
            return report
        # The plan lists the views over all tables that may have been written.
        changed = {table.name for table in report.tables}
        views = self._context.schema.materialized_views
        return replace(report, stale_views=tuple(view.name for view in views if not changed.isdisjoint(view.tables)))

    def _target(self, context: ResetContext) -> str:
        return "empty" if context.baseline is None else self.options.to or BASELINE

    def _preview_once(self) -> ResetPreview:
        with explained(self.connection, READING):
            return self._preview()

    def _preview(self) -> ResetPreview:
        observation, context = self._read_state()
        changes = self._count_changes(context)
        options = self.options
        plan = context.plan(
            observation,
            strategy=options.strategy,
            truncate_above=options.truncate_above,
            differing=frozenset(changes),
        )
        self._check_references(context, plan)
        emptied = [name for name in plan.tables if context.schema.by_name[name].stores_rows and name not in changes]
        removed = {name: changes[name].removed for name in plan.tables if name in changes}
        script = self._write_sql(context, plan, options.lock_timeout, observation.identity)
        return ResetPreview(
            identity=observation.identity,
            plan=plan,
            rows=self.backend.count_rows(self.connection, emptied) | removed,
            sql=tuple(statement.sql for statement in script.statements if not statement.is_proof),
            target=self._target(context),
            labels=index_models(self.connection, context.schema).labels_by_table,
            changes=changes,
        )


# Retries and errors ---------------------------------------------------------------------------------------------------


def run_with_retries(
    run: Callable[[str, Restoration], _T],
    *,
    name: str,
    strategy: str,
    lock_timeout: float,
    may_retry: bool,
    ways: Sequence[Restoration],
) -> tuple[_T, int]:
    """Call *run* with a strategy and a way to restore rows. Return its result and the number of attempts.

    Parameters:

    - *name*: for the log.
    - *strategy*: the strategy of the first attempt.
    - *lock_timeout*: seconds in which another attempt may begin.
    - *may_retry*: off inside the caller's transaction, because that transaction may have to end first.
    - *ways*: ways to restore rows. The next one is tried if rows conflict with each other, or a constraint refuses
      them.

    There are at most ``MOST_ATTEMPTS``. After a deadlock the next attempt waits for a random time, so that the two
    sessions do not collide again. Raises the error of the last attempt.
    """
    deadline = time.perf_counter() + lock_timeout
    ways = list(ways)
    for attempt in range(1, MOST_ATTEMPTS + 1):
        try:
            return run(strategy, ways[0]), attempt
        except RestoreConflictError as error:
            if len(ways) == 1 or attempt == MOST_ATTEMPTS:
                raise
            del ways[0]
            logger.info("Reset of %s, attempt %d: %s", name, attempt, error)
        except (LockTimeoutError, ConcurrencyError) as error:
            if isinstance(error, ConcurrencyError):
                error.attempts = attempt
            can_wait = time.perf_counter() < deadline
            # Do not wait for a truncation that did not get its lock at once: DELETE does not need that lock.
            impatient = strategy == "auto" and isinstance(error, LockTimeoutError)
            if attempt == MOST_ATTEMPTS or not may_retry or not (can_wait or impatient):
                raise
            strategy = "delete" if impatient else strategy
            logger.info("Reset of %s, attempt %d: %s", name, attempt, error)
            if isinstance(error, ConcurrencyError):
                time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - nothing secret
    raise AssertionError("the last attempt returns or raises")


def read_with_retries(run: Callable[[], _T], *, name: str, lock_timeout: float, may_retry: bool) -> _T:
    """Call *run*, which restores no rows, with the retries of :func:`run_with_retries`."""
    result, _ = run_with_retries(
        lambda *_: run(),
        name=name,
        strategy="delete",
        lock_timeout=lock_timeout,
        may_retry=may_retry,
        ways=tuple(Restoration)[:1],
    )
    return result


class explained:  # noqa: N801 - it is written like contextlib's, and each reset enters it: a generator takes ten times as long
    """Replace database errors that leave the block by errors of this package; *doing* begins the message.

    With *permit* the guard is asked first, and its error wins: a query for one server may fail because the connection
    now leads to another.
    """

    __slots__ = ("_connection", "_doing", "_permit")

    def __init__(
        self, connection: BaseDatabaseWrapper, doing: str, *, permit: Callable[[DatabaseIdentity], str] | None = None
    ) -> None:
        self._connection, self._doing, self._permit = connection, doing, permit

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Error):
            return
        backend = get_backend(self._connection)
        failure = backend.explain(self._connection, error, doing=self._doing)
        if self._permit is not None and self._connection.connection is not None:
            with suppress(Error):
                self._permit(backend.identify(self._connection))
        raise failure from error


# The state, and the context of a plan ---------------------------------------------------------------------------------


def read_state(
    connection: BaseDatabaseWrapper,
    *,
    lock_timeout: float,
    baseline: Baseline | None = None,
    schema: Schema | None = None,
) -> DatabaseState:
    """Read which tables may have rows and which sequences have moved.

    See :meth:`testdb_app.backends.base.BaseBackend.read_state`. If the server has dropped the connection since its
    last use, a new one is made, once: nothing was written yet. Raises :class:`ConnectionLostError` if no connection
    can be made, and Django's database errors otherwise.
    """
    backend = get_backend(connection)
    read = partial(backend.read_state, connection, lock_timeout=lock_timeout, baseline=baseline, schema=schema)
    was_open = connection.connection is not None
    try:
        return read()
    except (DatabaseError, InterfaceError) as error:
        if not has_autocommit(connection):
            raise
        if connection.connection is None:
            raise backend.explain(connection, error, doing=READING) from error
        if not was_open or connection.is_usable():
            raise
        logger.info("Connection %s was lost (%s); connecting again", connection.alias, error)
    connection.close()
    try:
        return read()
    except (DatabaseError, InterfaceError) as error:
        raise backend.explain(connection, error, doing=READING) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetContext:
    """The values that a reset with certain options depends on.

    ``baseline`` is None if the target state has no rows. ``new_tables`` were created after the baseline, which was
    made to fit them; the set is empty after the first reset.
    """

    schema: Schema
    graph: DependencyGraph[QualifiedName]
    scope: Scope
    baseline: Baseline | None
    new_tables: frozenset[QualifiedName] = frozenset()

    def is_still_true(self, observation: DatabaseState) -> bool:
        """Whether everything that this depends on is unchanged, as far as *observation* shows."""
        if self.schema.token != observation.token:
            return False
        if self.baseline is None:
            return not observation.shape
        if self.baseline.counters != observation.copies:
            # The copies are verified when the context is read again.
            return False
        shape = self.baseline.shape
        return all(what in shape and is_same_shape(shape[what], text) for what, text in observation.shape.items())

    def plan(
        self,
        observation: DatabaseState,
        *,
        strategy: str,
        truncate_above: int,
        restoration: Restoration = Restoration.DIFFERENCES,
        differing: frozenset[QualifiedName] | None = None,
        new_tables: frozenset[QualifiedName] = frozenset(),
    ) -> ResetPlan:
        """Plan the steps from *observation* to the target state; see :func:`testdb_app.plan.plan_reset`."""
        return plan_reset(
            self.schema,
            self.graph,
            self.scope,
            observation,
            strategy=strategy,
            truncate_above=truncate_above,
            baseline=self.baseline,
            restoration=restoration,
            differing=differing,
            new_tables=new_tables,
        )

    def capture(self, observation: DatabaseState, lock_timeout: float, state: str = BASELINE) -> Capture:
        """Return what a capture stores of the database in the state *observation*: all that this may reset."""
        tables = (frozenset(observation.sizes) | self.schema.outside_heap) & self.scope.tables
        stored = {table.name for table in self.schema.tables if table.stores_rows}
        return Capture(
            schema=self.schema,
            tables=tables,
            sequences=self.scope.sequences,
            excluded=frozenset(stored - self.scope.tables),
            lock_timeout=lock_timeout,
            state=state,
            identity=observation.identity,
        )


def read_context(
    connection: BaseDatabaseWrapper, options: ResetOptions, *, refits: bool = False, before: Schema | None = None
) -> ResetContext:
    """Read the context from the live database. A few round trips.

    With *refits*, the baseline is made to fit the present schema; *before* is the schema that it fitted. See
    :func:`refit`.

    Raises:

    - :class:`UnknownNameError` for a label that matches nothing;
    - :class:`BaselineError` if a baseline is required and missing, or belongs to another schema;
    - :class:`PublicationError` if a publication refuses what a reset of some table needs.
    """
    backend = get_backend(connection)
    schema = backend.read_schema(connection)
    new_tables: frozenset[QualifiedName] = frozenset()
    if options.to is not None and options.to in KEPT_STATES:
        baseline: Baseline | None = require_baseline(connection, options.to)
    else:
        baseline = backend.read_baseline(connection) if options.to is None else None
    if baseline is not None:
        shape = backend.read_shape(connection, schema, baseline.tables)
        changes = list(compare_shapes(baseline.shape, shape))
        if changes and refits:
            new_tables = frozenset(table.name for table in schema.tables if f"table {table.name}" not in baseline.shape)
            baseline = refit(connection, schema, baseline, shape, before=before)
        else:
            refuse_changes(connection, baseline, changes)
    return make_context(connection, options, schema, baseline, new_tables=new_tables)


def make_context(
    connection: BaseDatabaseWrapper,
    options: ResetOptions,
    schema: Schema,
    baseline: Baseline | None,
    *,
    new_tables: frozenset[QualifiedName] = frozenset(),
) -> ResetContext:
    """Make the context of resets to *baseline*, which fits *schema*. Raises as :func:`read_context` does."""
    labels = index_models(connection, schema).labels_by_table
    scope = make_scope(
        schema,
        included=select_tables(schema, labels, options.include) if options.include else None,
        excluded=select_tables(schema, labels, options.exclude),
        uncaptured=baseline.excluded if baseline is not None else frozenset(),
        reset_sequences=options.reset_sequences,
    )
    check_storage(schema, scope.tables)
    # Refuse at the first reset what a reset of any table could not do, instead of at the test that writes to it.
    find_refused(schema, scope.tables, scope.tables, frozenset(baseline.tables if baseline is not None else ()))
    graph = DependencyGraph.from_schema(schema)
    return ResetContext(schema=schema, graph=graph, scope=scope, baseline=baseline, new_tables=new_tables)


def require_baseline(connection: BaseDatabaseWrapper, state: str) -> Baseline:
    """Read the baseline, or another kept *state*.

    Raises :class:`BaselineError` if there is none, :class:`UnsupportedError` if the vendor cannot have one.
    """
    backend = get_backend(connection)
    if not backend.supports_baseline:
        raise baseline_unsupported(connection)
    baseline = backend.read_baseline(connection, state)
    if baseline is None:
        raise BaselineError(
            f'Database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") has no baseline to go back to. '
            "Nothing was changed. Capture one after the migrations: resetdb --capture, or capture_baseline()."
        )
    return baseline


# A baseline of another schema -----------------------------------------------------------------------------------------


def refit(
    connection: BaseDatabaseWrapper,
    schema: Schema,
    baseline: Baseline,
    shape: Mapping[str, str],
    *,
    before: Schema | None,
) -> Baseline:
    """Make *baseline* fit *schema*, the present schema with this *shape*, and return the new baseline.

    A test may create or drop tables and sequences, or record a migration. Created ones count as empty and as new from
    then on; dropped ones are removed from the baseline. A warning names each dropped table that has rows in the
    baseline, if *before* shows that it was dropped and not renamed. A missing table stops no later test.

    Raises :class:`BaselineError` if any other table with rows in the baseline has changed or is missing, or if a
    partition was detached or the like. Raises the guard's :class:`UnsafeDatabaseError`.
    """
    backend = get_backend(connection)
    identity = backend.identify(connection)
    guard.check_may_reset(identity)
    oids = {table.oid for table in schema.tables}
    dropped = {
        name
        for name in baseline.tables
        if name not in schema.by_name
        and before is not None
        and name in before.by_name
        and before.by_name[name].oid not in {None, *oids}
    }
    # Empty tables may be dropped and any table may be created. The others must keep their kind and their place.
    kept = {f"table {name}" for name in baseline.tables if name not in dropped}
    kept |= {what for what in baseline.shape.keys() & shape.keys() if what.startswith(KIND_OF)}
    was, now = ({name: each[name] for name in kept if name in each} for each in (baseline.shape, shape))
    refuse_changes(connection, baseline, list(compare_shapes(was, now)))
    changes = "; ".join(compare_shapes(baseline.shape, shape))
    logger.info("%s: the baseline is for another schema now: %s", connection.alias, changes)
    if dropped:
        rows = sum(baseline.tables[name].rows for name in dropped)
        warnings.warn(
            f'In database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") tables were dropped that have '
            f"{rows} rows in the baseline: {', '.join(map(str, sorted(dropped)))}. Resets go on without them. A test that drops "
            "tables should make them again, or use a database of its own.",
            stacklevel=2,
        )
    fitted = replace(
        baseline,
        shape=shape,
        tables={name: table for name, table in baseline.tables.items() if name not in dropped},
        sequences={name: state for name, state in baseline.sequences.items() if name in schema.sequences_by_name},
        migrations=migration_tables(schema),
    )
    return backend.rewrite_baseline(connection, fitted, identity=identity)


def check_shape(connection: BaseDatabaseWrapper, schema: Schema, baseline: Baseline) -> None:
    """Raise :class:`BaselineError`, with the changes, if *baseline* was captured from another schema."""
    shape = get_backend(connection).read_shape(connection, schema, baseline.tables)
    refuse_changes(connection, baseline, list(compare_shapes(baseline.shape, shape)))


def refuse_changes(connection: BaseDatabaseWrapper, baseline: Baseline, changes: list[str]) -> None:
    """Raise :class:`BaselineError` if the schema has *changes* since *baseline* was captured."""
    if changes:
        listed = list_some(changes, between="; ")
        raise BaselineError(
            f'The baseline of database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}"), captured '
            f"{baseline.captured_at}, belongs to another schema: {listed}. Nothing was changed. Undo the change, or bring "
            "the database to the state that is meant and capture it again: resetdb --recapture, or "
            "capture_baseline(replace=True).",
            changes=changes,
        )


# After a reset --------------------------------------------------------------------------------------------------------


# Materialized views that this process has warned of, with their databases.
_named: set[tuple[str, QualifiedName]] = set()


def warn_of_stale_views(report: ResetReport) -> None:
    """Warn of the materialized views over the tables that were reset, once for each view in a process."""
    views = [view for view in report.stale_views if (report.database, view) not in _named]
    if not views:
        return
    _named.update((report.database, view) for view in views)
    listed = ", ".join(map(str, views))
    message = (
        f'Resets of database "{report.database}" (alias "{report.alias}") do not refresh its materialized views over the tables '
        f"that they reset: {listed}. A view that a test has refreshed goes on showing the rows of that test. Run REFRESH "
        f"MATERIALIZED VIEW {views[0]} at the end of such a test, or in a receiver of testdb_app.signals.database_reset."
    )
    try:
        warnings.warn(message, stacklevel=2)
    except UserWarning:
        # The reset has succeeded. It must not fail because of a view where warnings are errors.
        logger.warning("%s", message)


def announce(sender: type, report: ResetReport) -> None:
    """Clear caches over the tables of *report*, and send the signals of :mod:`testdb_app.signals` from *sender*."""
    if report.tables:
        tables = frozenset(table.name for table in report.tables)
        clear_caches(tables)
        database_reset.send(sender, using=report.alias, tables=tables, report=report)
    reset_finished.send(sender, using=report.alias, report=report)
