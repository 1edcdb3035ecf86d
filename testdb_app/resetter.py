"""The reset: look, ask the guard, plan, run, report. The map is read once and replayed until the schema changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from django.db import DEFAULT_DB_ALIAS, connections

from testdb_app import guard
from testdb_app.announcing import announce, warn_of_stale_views
from testdb_app.backends import get_backend
from testdb_app.backends.base import DatabaseIdentity, Observation, Restoration, Script
from testdb_app.backends.protocols import Backend, Watch
from testdb_app.exceptions import (
    ConcurrencyError,
    TransactionStateError,
)
from testdb_app.known_map import KnownMap, read_map
from testdb_app.labels import index_models
from testdb_app.looking import READING, RESETTING, explained, observe
from testdb_app.options import check_options
from testdb_app.plan import ResetPlan
from testdb_app.references import check_references
from testdb_app.report import ResetPreview, ResetReport, make_report
from testdb_app.retrying import MOST_ATTEMPTS, WAITS, read_with_retries, run_with_retries
from testdb_app.schema import QualifiedName
from testdb_app.states import BASELINE, RowChanges
from testdb_app.transaction_state import check_transaction_state

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("testdb_app")


class Resetter:
    """Empties the tables of one database in the order of its foreign keys, and restarts its sequences.

    Make one and keep it: the map of the schema is read at the first call and again only when the schema has changed.

    Parameters:

    - *using*: the alias of the database.
    - *include*, *exclude*: labels and patterns (see :func:`testdb_app.selection.select_tables`); nothing included
      means every table. ``TESTDB["EXCLUDE"]`` is added to *exclude*.
    - *to*: the state to go to, "baseline" or "empty"; None for the baseline where the database has one, else empty.
    - *strategy*: "auto", "delete" or "truncate"; None for the setting.
    - *reset_sequences*: whether sequences go back to their start.
    - *allow_database*: the name of a database, or several, that may be reset although nothing marks them as test ones.
    - *lock_timeout*: seconds to wait for locks, over all retries; None for the setting.
    - *within_transaction*: run inside the caller's transaction, in a savepoint, and leave the commit to the caller.

    - *once*: whether it is made for a single reset, so that nothing has to be remembered for a next one.

    Raises :class:`ConfigurationError` for arguments that cannot be meant. One thread at a time.
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
        self._map: KnownMap | None = None
        self._watch: Watch | None = None

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """This thread's connection for the alias."""
        return connections[self.using]

    @property
    def schema_token(self) -> str | None:
        """What changes with the schema that the last reset or plan found; None before the first."""
        return self._map.schema.token if self._map is not None else None

    @property
    def backend(self) -> Backend:
        """The backend for that connection."""
        return get_backend(self.connection)

    def identify(self) -> DatabaseIdentity:
        """Ask the live connection where it leads. Does not ask the guard."""
        with explained(self.connection, READING):
            return self.backend.identify(self.connection)

    def check_may_reset(self) -> str:
        """Ask the guard about the live connection; return the rule that permits, or raise."""
        return self._permit(self.identify())

    def _permit(self, identity: DatabaseIdentity) -> str:
        return guard.check_may_reset(identity, allow=self.options.allow_database)

    def plan(self) -> ResetPreview:
        """Return what :meth:`reset` would do now: the plan, its SQL, and the rows that would be deleted. Changes nothing.

        Does not ask the guard, so that a plan can be read for any database. Costs a count of every written table.
        Raises what :meth:`reset` would raise for a plan that cannot be made.
        """
        check_transaction_state(self.connection, within_transaction=self.within_transaction)
        return read_with_retries(
            self._preview_once,
            name=self.using,
            lock_timeout=self.options.lock_timeout,
            may_retry=not self.within_transaction,
        )

    def _preview_once(self) -> ResetPreview:
        with explained(self.connection, READING):
            return self._preview()

    def _preview(self) -> ResetPreview:
        observation, known = self._look()
        changes = self._count_changes(known)
        plan = self._plan(observation, known, self.options.strategy, differing=frozenset(changes))
        emptied = [name for name in plan.tables if known.schema.by_name[name].stores_rows and name not in changes]
        removed = {name: changes[name].removed for name in plan.tables if name in changes}
        script = self._script(known, plan, self.options.lock_timeout, observation.identity)
        return ResetPreview(
            identity=observation.identity,
            plan=plan,
            rows=self.backend.count_rows(self.connection, emptied) | removed,
            sql=tuple(statement.sql for statement in script.statements if not statement.is_proof),
            target="empty" if known.baseline is None else "baseline",
            labels=index_models(self.connection, known.schema).labels_by_table,
            changes=changes,
        )

    def count_changes(self, oids: Collection[int]) -> dict[QualifiedName, RowChanges] | None:
        """Compare only the tables of these OIDs with the baseline, and change nothing; None where :meth:`plan` has to tell.

        For a schema that is as the last reset or plan found it. One round trip, or two. Raises as :meth:`plan`.
        """
        known = self._map
        if known is None or known.baseline is None:
            return None
        names = {table.oid: table.name for table in known.schema.tables}
        if not names.keys() >= set(oids):
            return None
        written = {names[oid] for oid in oids}
        if not written.isdisjoint(known.baseline.kept_in):
            # The baseline may be damaged.
            return None
        written &= known.scope.tables
        with explained(self.connection, READING):
            changes = self._count_changes(known, written)
            others = [name for name in sorted(written) if name not in known.baseline.tables]
            rows = self.backend.count_rows(self.connection, others)
        return (
            dict.fromkeys(written, RowChanges()) | changes | {name: RowChanges(removed=rows[name]) for name in others}
        )

    def reset(self, *, refit: bool = False) -> ResetReport:
        """Reset the database and return what was done.

        With *refit* a baseline that was captured from another schema is made to fit the present one, as far as that is
        possible: for the time between two tests, as Django's flush does not mind tables that came or went.

        Before the first write the guard asks the live connection. All or nothing, in one transaction. After a
        deadlock, a serialization failure or a lock time-out it is tried again, ten times at most in all, within the
        lock time-out. Raises errors of :mod:`testdb_app.exceptions`; with any of them nothing was changed.
        """
        started = time.perf_counter()
        check_transaction_state(self.connection, within_transaction=self.within_transaction)
        report, attempts = run_with_retries(
            partial(self._try, refit),
            name=self.using,
            strategy=self.options.strategy,
            lock_timeout=self.options.lock_timeout,
            may_retry=not self.within_transaction,
            ways=self.backend.ways_to_restore,
        )
        report = replace(report, attempts=attempts, seconds=time.perf_counter() - started)
        logger.debug("%s", report)
        if not self.once:
            warn_of_stale_views(report)
        announce(type(self), report)
        return report

    def _try(self, refit: bool, strategy: str, restoration: Restoration) -> ResetReport:
        with explained(self.connection, RESETTING, permit=self._permit):
            return self._attempt(strategy, restoration, refit=refit)

    def _attempt(self, strategy: str, restoration: Restoration, *, refit: bool) -> ResetReport:
        # Several attempts share the time-out: an attempt that gives its locks back lets others go on.
        timeout = self.options.lock_timeout / WAITS
        is_first = restoration is Restoration.DIFFERENCES and strategy == self.options.strategy
        if self._watch is not None and is_first and not self.within_transaction:
            replay = self._watch.replay(
                self.connection, permit=self._permit, write=self._write_replay, lock_timeout=timeout
            )
            if replay is not None:
                plan = ResetPlan(steps=(), kept=self._map.scope.kept) if self._map is not None else ResetPlan(steps=())
                if replay.script is not None:
                    plan = cast("ResetPlan", replay.script.origin)
                return self._report(replay.identity, plan, replay.changes, replay.permitted_by)
        observation, known = self._look(refit=refit, permit=True)
        if self.within_transaction and observation.identity.has_fixed_snapshot:
            raise TransactionStateError(
                f'Refusing to reset: the transaction of the connection "{self.using}" is repeatable read or serializable, and '
                "would not see the rows that others committed since it began. Use read committed, or reset outside of it."
            )
        rule = self._permit(observation.identity)
        counted = self._count_changes(known) if restoration is not Restoration.DIFFERENCES else None
        differing = None
        if counted is not None:
            # Of a table that hides rows from this role some may differ unseen.
            differing = frozenset(counted) | {table.name for table in known.schema.tables if table.hides_rows}
        new_tables = frozenset() if self.within_transaction else known.new_tables
        plan = self._plan(
            observation, known, strategy, restoration=restoration, differing=differing, new_tables=new_tables
        )
        changes: Mapping[QualifiedName, RowChanges] = {}
        if plan.steps:
            script = self._script(known, plan, timeout, observation.identity)
            changes = self.backend.run(self.connection, script, within_transaction=self.within_transaction)
            if counted is not None and restoration is Restoration.IN_PASSES:
                # The server does not tell what it did.
                changes = {**{name: done for name, done in counted.items() if name in plan.tables}, **changes}
        if known.new_tables:
            # They are known now; from here on the report counts what is deleted from them.
            self._map = replace(known, new_tables=frozenset())
        if self._watch is not None and not (self.once or self.within_transaction):
            self._watch.renew(self.connection, observation)
        return self._report(observation.identity, plan, changes, rule)

    def _write_replay(self, observation: Observation) -> Script | None:
        """Write what empties or restores the tables that were written; None where that takes another look."""
        assert self._map is not None
        baseline = self._map.baseline
        if baseline is not None and not observation.sizes.keys().isdisjoint(baseline.kept_in):
            # The baseline may be out of date, or damaged.
            return None
        options = self.options
        plan = self._map.plan(observation, strategy=options.strategy, truncate_above=options.truncate_above)
        if plan.checks or plan.verify:
            return None
        script = self._script(self._map, plan, options.lock_timeout, observation.identity, for_watch=True)
        return replace(script, origin=plan)

    def _report(
        self, identity: DatabaseIdentity, plan: ResetPlan, changes: Mapping[QualifiedName, RowChanges], rule: str
    ) -> ResetReport:
        assert self._map is not None
        report = make_report(
            identity,
            plan,
            changes,
            target="empty" if self._map.baseline is None else self.options.to or BASELINE,
            permitted_by=rule,
            warning=self.backend.warning or identity.warning,
        )
        if not plan.stale_views:
            return report
        # The plan has those over tables that may have been written.
        changed = {table.name for table in report.tables}
        views = self._map.schema.materialized_views
        return replace(report, stale_views=tuple(view.name for view in views if not changed.isdisjoint(view.tables)))

    def _look(self, *, refit: bool = False, permit: bool = False) -> tuple[Observation, KnownMap]:
        """Observe, ask the guard where *permit* says so, and read the map where it is missing or older than the schema."""
        for _ in range(MOST_ATTEMPTS):
            baseline = self._map.baseline if self._map is not None else None
            timeout = self.options.lock_timeout / WAITS
            observation = observe(self.connection, lock_timeout=timeout, baseline=baseline)
            if permit:
                self._permit(observation.identity)
            if self._map is not None and self._map.is_still_true(observation):
                return observation, self._map
            before = self._map.schema if self._map is not None else None
            self._map = read_map(self.connection, self.options, refits=refit, before=before)
            # Of what another access method stores no counter tells.
            can_watch = self._map.schema.outside_heap.isdisjoint(self._map.scope.tables)
            self._watch = self.backend.watch(self._map.schema) if can_watch else None
        raise ConcurrencyError(
            f'The schema of database "{observation.identity.name}" changes faster than it can be read. Nothing was changed. '
            "Wait until the migrations that run on it have ended.",
            attempts=MOST_ATTEMPTS,
        )

    def _count_changes(
        self, known: KnownMap, among: Collection[QualifiedName] | None = None
    ) -> dict[QualifiedName, RowChanges]:
        """Return what a restoration would change, by the tables of the baseline that differ; of *among* alone if given."""
        if known.baseline is None:
            return {}
        tables = known.baseline.tables.keys() & known.scope.tables
        if among is not None:
            tables &= set(among)
        counted = self.backend.count_changes(self.connection, known.baseline, sorted(tables))
        return {name: changes for name, changes in counted.items() if changes}

    def _plan(self, observation: Observation, known: KnownMap, strategy: str, **options: Any) -> ResetPlan:
        plan = known.plan(observation, strategy=strategy, truncate_above=self.options.truncate_above, **options)
        if plan.checks:
            counts = self.backend.count_references(self.connection, plan.checks, known.baseline)
            check_references(known.schema, known.scope, plan.checks, counts)
        return plan

    def _script(
        self,
        known: KnownMap,
        plan: ResetPlan,
        lock_timeout: float,
        identity: DatabaseIdentity,
        *,
        for_watch: bool = False,
    ) -> Script:
        return self.backend.script(
            self.connection,
            known.schema,
            plan.steps,
            baseline=known.baseline,
            checks=plan.checks,
            verify=plan.verify,
            lock_timeout=lock_timeout,
            within_transaction=self.within_transaction,
            for_watch=for_watch,
            identity=identity,
        )
