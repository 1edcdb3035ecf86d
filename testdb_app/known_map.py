"""What is read once and replayed: the map, the order, the scope and the baseline, as they are for certain options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from testdb_app.states import KEPT_STATES, Baseline, compare_shapes
from testdb_app.truncation import find_refused

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownMap:
    """What a reset with certain options has to know. ``baseline`` is None where the way leads to no rows."""

    schema: Schema
    graph: DependencyGraph[QualifiedName]
    scope: Scope
    baseline: Baseline | None

    def is_still_true(self, observation: Observation) -> bool:
        """Whether nothing that it depends on has changed since, as far as *observation* saw."""
        if self.schema.token != observation.token:
            return False
        shape = self.baseline.shape if self.baseline is not None else {}
        return all(shape.get(what) == text for what, text in observation.shape.items())

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


def read_map(connection: BaseDatabaseWrapper, options: ResetOptions) -> KnownMap:
    """Read the map from the live database. A few round trips.

    Raises :class:`UnknownNameError` for a label that matches nothing, and :class:`BaselineError` where a baseline is
    asked for and there is none, or the one there is belongs to another schema; and :class:`PublicationError`.
    """
    backend = get_backend(connection)
    schema = backend.read_schema(connection)
    if options.to is not None and options.to in KEPT_STATES:
        baseline: Baseline | None = require_baseline(connection, options.to)
    else:
        baseline = backend.read_baseline(connection) if options.to is None else None
    if baseline is not None:
        check_shape(connection, schema, baseline)
    labels = index_models(connection, schema).labels_by_table
    scope = make_scope(
        schema,
        included=select_tables(schema, labels, options.include) if options.include else None,
        excluded=select_tables(schema, labels, options.exclude),
        uncaptured=baseline.excluded if baseline is not None else frozenset(),
        reset_sequences=options.reset_sequences,
    )
    # What a reset of some table could not do is refused at the first one, whatever was written, and not test by test.
    find_refused(schema, scope.tables, scope.tables, frozenset(baseline.tables if baseline is not None else ()))
    return KnownMap(schema=schema, graph=DependencyGraph.from_schema(schema), scope=scope, baseline=baseline)


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
