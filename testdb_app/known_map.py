"""What is read once and replayed: the map, the order, the scope and the baseline, as they are for certain options."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from testdb_app import guard
from testdb_app.backends import get_backend
from testdb_app.backends.base import Observation
from testdb_app.exceptions import BaselineError
from testdb_app.graph import DependencyGraph
from testdb_app.labels import index_models
from testdb_app.options import ResetOptions
from testdb_app.plan import ResetPlan, plan_reset
from testdb_app.schema import QualifiedName, Schema
from testdb_app.scope import Scope, make_scope
from testdb_app.selection import select_tables
from testdb_app.states import KEPT_STATES, KIND_OF, Baseline, compare_shapes, is_same_shape, migration_tables
from testdb_app.truncation import check_storage, find_refused

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


logger = logging.getLogger("testdb_app")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownMap:
    """What a reset with certain options has to know. ``baseline`` is None where the way leads to no rows.

    ``new_tables`` came after the baseline, which was made to fit them when this was read; none after the first reset.
    """

    schema: Schema
    graph: DependencyGraph[QualifiedName]
    scope: Scope
    baseline: Baseline | None
    new_tables: frozenset[QualifiedName] = frozenset()

    def is_still_true(self, observation: Observation) -> bool:
        """Whether nothing that it depends on has changed since, as far as *observation* saw."""
        if self.schema.token != observation.token:
            return False
        if self.baseline is None:
            return not observation.shape
        if self.baseline.counters != observation.copies:
            # They are verified anew when the map is read.
            return False
        shape = self.baseline.shape
        return all(what in shape and is_same_shape(shape[what], text) for what, text in observation.shape.items())

    def plan(self, observation: Observation, *, strategy: str, truncate_above: int, **options: Any) -> ResetPlan:
        """Plan the way from what *observation* saw to the target; see :func:`testdb_app.plan.plan_reset`."""
        return plan_reset(
            self.schema,
            self.graph,
            self.scope,
            observation,
            strategy=strategy,
            truncate_above=truncate_above,
            baseline=self.baseline,
            **options,
        )


def read_map(
    connection: BaseDatabaseWrapper, options: ResetOptions, *, refits: bool = False, before: Schema | None = None
) -> KnownMap:
    """Read the map from the live database. A few round trips.

    With *refits* the baseline is made to fit the present schema; *before* is the one that it fitted; see :func:`refit`.

    Raises :class:`UnknownNameError` for a label that matches nothing, and :class:`BaselineError` where a baseline is
    asked for and there is none, or the one there is belongs to another schema; and :class:`PublicationError`.
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
    labels = index_models(connection, schema).labels_by_table
    scope = make_scope(
        schema,
        included=select_tables(schema, labels, options.include) if options.include else None,
        excluded=select_tables(schema, labels, options.exclude),
        uncaptured=baseline.excluded if baseline is not None else frozenset(),
        reset_sequences=options.reset_sequences,
    )
    check_storage(schema, scope.tables)
    # What a reset of some table could not do is refused at the first one, whatever was written, and not test by test.
    find_refused(schema, scope.tables, scope.tables, frozenset(baseline.tables if baseline is not None else ()))
    graph = DependencyGraph.from_schema(schema)
    return KnownMap(schema=schema, graph=graph, scope=scope, baseline=baseline, new_tables=new_tables)


def require_baseline(connection: BaseDatabaseWrapper, state: str) -> Baseline:
    """Read the baseline, or another kept *state*; raise :class:`BaselineError` where there is none."""
    baseline = get_backend(connection).read_baseline(connection, state)
    if baseline is None:
        raise BaselineError(
            f'Database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") has no baseline to go back to. '
            "Nothing was changed. Capture one after the migrations: resetdb --capture, or capture_baseline()."
        )
    return baseline


def check_shape(connection: BaseDatabaseWrapper, schema: Schema, baseline: Baseline) -> None:
    """Raise :class:`BaselineError`, with what has changed, if *baseline* was captured from another schema."""
    shape = get_backend(connection).read_shape(connection, schema, baseline.tables)
    refuse_changes(connection, baseline, list(compare_shapes(baseline.shape, shape)))


def refit(
    connection: BaseDatabaseWrapper,
    schema: Schema,
    baseline: Baseline,
    shape: Mapping[str, str],
    *,
    before: Schema | None,
) -> Baseline:
    """Have *baseline* hold for *schema* as it is now, whose *shape* this is, and return it so.

    For test runs in which a test has left tables or sequences, taken some away, or recorded a migration: those that came
    count as empty and as new from then on, those that went are forgotten. Of a table with rows in the baseline that is
    known by *before*, and was dropped and not renamed, a warning tells; that it is missing stops no later test.
    Raises :class:`BaselineError` if another table that it has rows of has changed or is gone, or a partition was detached or
    the like, and the guard's
    :class:`UnsafeDatabaseError`.
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
    # A table that was empty may go, and any may come; what is there still has to be of the same kind, and in the same place.
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


def refuse_changes(connection: BaseDatabaseWrapper, baseline: Baseline, changes: list[str]) -> None:
    """Raise :class:`BaselineError` if there are *changes* of the schema since *baseline* was captured."""
    if changes:
        listed = "; ".join(changes[:5]) + (f"; and {len(changes) - 5} more" if len(changes) > 5 else "")
        raise BaselineError(
            f'The baseline of database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}"), captured '
            f"{baseline.captured_at}, belongs to another schema: {listed}. Nothing was changed. Undo the change, or bring "
            "the database to the state that is meant and capture it again: resetdb --recapture, or "
            "capture_baseline(replace=True).",
            changes=changes,
        )
