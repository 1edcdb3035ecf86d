"""The preview and the report of a reset, as values with text and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from testdb_app.backends.base import Action, DatabaseIdentity, ResetPlan
from testdb_app.baseline_state import RowChanges
from testdb_app.schema import LeftOut, QualifiedName

_UNCHANGED = RowChanges()


class ResetTable(NamedTuple):
    """A table that was reset, by which action, and the number of deleted rows (None if the server does not report it).

    A table with a baseline also has numbers of rows that were ``updated`` to their old values and ``inserted`` again.
    """

    name: QualifiedName
    action: Action
    rows: int | None
    updated: int = 0
    inserted: int = 0


def list_tables(plan: ResetPlan, changes: Mapping[QualifiedName, RowChanges]) -> tuple[ResetTable, ...]:
    """Return the tables of *plan* whose rows changed, in order, and those for which the server reports no number."""
    actions: dict[QualifiedName, Action] = {}
    # A truncated table whose baseline's rows were put in again was restored.
    unknown: set[QualifiedName] = set()
    for step in plan.steps:
        if step.action is not Action.RESTART:
            actions |= dict.fromkeys(step.names, step.action)
            if step.action is Action.TRUNCATE:
                unknown.update(step.names)
    tables = []
    for name, action in actions.items():
        done = changes.get(name)
        if done is None or name in unknown:
            inserted = done.inserted if done is not None else 0
            tables.append(ResetTable(name=name, action=action, rows=None, inserted=inserted))
        elif done:
            tables.append(
                ResetTable(name=name, action=action, rows=done.removed, updated=done.updated, inserted=done.inserted)
            )
    return tuple(tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPreview:
    """A preview of a reset.

    - ``rows``: the number of rows that would be deleted, by table.
    - ``sql``: the statements that the reset would run.
    - ``target``: "baseline", "empty" or "migrated".
    - ``labels``: the labels of the models behind each table.
    - ``changes``: for tables with a baseline, the numbers of rows that would be deleted, updated and inserted.
    """

    identity: DatabaseIdentity
    plan: ResetPlan
    rows: Mapping[QualifiedName, int]
    sql: tuple[str, ...]
    target: str = "empty"
    labels: Mapping[QualifiedName, tuple[str, ...]] = field(default_factory=dict)
    changes: Mapping[QualifiedName, RowChanges] = field(default_factory=dict)

    @property
    def total_rows(self) -> int:
        """The number of all rows that would be deleted."""
        return sum(self.rows.values())

    @property
    def restored(self) -> int:
        """The number of rows of the baseline that would be restored: updated or inserted."""
        return sum(changes.updated + changes.inserted for changes in self.changes.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the preview as JSON's types."""
        return {
            "alias": self.identity.alias,
            "database": self.identity.name,
            "server": self.identity.server,
            "dry_run": True,
            "target": self.target,
            "tables": [
                {
                    "name": str(name),
                    "action": step.action.value,
                    "rows": self.rows.get(name),
                    "updated": self.changes.get(name, _UNCHANGED).updated,
                    "inserted": self.changes.get(name, _UNCHANGED).inserted,
                    "reason": step.reason,
                }
                for step in self.plan.steps
                if step.action is not Action.RESTART
                for name in step.names
            ],
            "sequences": [str(name) for name in self.plan.sequences],
            "kept": _kept(self.plan.kept),
            "stale_materialized_views": [str(name) for name in self.plan.stale_views],
            "sql": list(self.sql),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetReport:
    """The report of a reset.

    - ``target``: "baseline", "empty" or "migrated".
    - ``permitted_by``: the guard's rule.
    - ``tables``: in the order in which they were reset.
    - ``sequences``: those that were set back; some may not have moved.
    - ``kept``: the relations that were left alone, each with the reason.
    - ``stale_views``: materialized views that still show the old rows.
    - ``full_scan``: whether every table was looked at. The first reset of a
      :class:`~testdb_app.resetter.Resetter` does so; a later one only where counters cannot tell what was written.
    - ``attempts``: counted from 1.
    - ``seconds``: the time of the whole call.
    """

    alias: str
    database: str
    server: str
    target: str
    permitted_by: str
    tables: tuple[ResetTable, ...]
    sequences: tuple[QualifiedName, ...]
    kept: tuple[LeftOut, ...]
    stale_views: tuple[QualifiedName, ...]
    warning: str | None
    full_scan: bool = True
    attempts: int = 1
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """The number of deleted rows, as far as the server reports it."""
        return sum(table.rows or 0 for table in self.tables)

    @property
    def restored(self) -> int:
        """The number of rows of the baseline that were restored: updated or inserted."""
        return sum(table.updated + table.inserted for table in self.tables)

    def __str__(self) -> str:
        return (
            f'Reset of "{self.database}" (alias "{self.alias}") to {self.target}: {len(self.tables)} tables, '
            f"{self.rows} rows, {len(self.sequences)} sequences in {self.seconds * 1000:.1f} ms"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON's types."""
        return {
            "alias": self.alias,
            "database": self.database,
            "server": self.server,
            "dry_run": False,
            "target": self.target,
            "permitted_by": self.permitted_by,
            "tables": [
                {
                    "name": str(table.name),
                    "action": table.action.value,
                    "rows": table.rows,
                    "updated": table.updated,
                    "inserted": table.inserted,
                }
                for table in self.tables
            ],
            "sequences": [str(name) for name in self.sequences],
            "kept": _kept(self.kept),
            "stale_materialized_views": [str(name) for name in self.stale_views],
            "warning": self.warning,
            "full_scan": self.full_scan,
            "attempts": self.attempts,
            "seconds": self.seconds,
        }


def make_report(
    identity: DatabaseIdentity,
    plan: ResetPlan,
    changes: Mapping[QualifiedName, RowChanges],
    *,
    restarted: tuple[QualifiedName, ...],
    target: str,
    permitted_by: str,
    warning: str | None,
    full_scan: bool,
    seconds: float,
) -> ResetReport:
    """Return the report of a reset by *plan* that made *changes* and put back the sequences *restarted* at the first attempt."""
    return ResetReport(
        alias=identity.alias,
        database=identity.name,
        server=identity.server,
        target=target,
        permitted_by=permitted_by,
        tables=list_tables(plan, changes),
        sequences=restarted,
        kept=plan.kept,
        stale_views=plan.stale_views,
        warning=warning,
        full_scan=full_scan,
        seconds=seconds,
    )


def _kept(kept: tuple[LeftOut, ...]) -> list[dict[str, str]]:
    return [{"name": str(item.name), "reason": item.reason} for item in kept]
