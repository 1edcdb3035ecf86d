"""A plan and a report as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from testdb_app.backends.base import Action, DatabaseIdentity
from testdb_app.baseline_state import Baseline, RowChanges
from testdb_app.rendering import PLAIN, Paint
from testdb_app.report import ResetPreview, ResetReport, ResetTable
from testdb_app.schema import LeftOut, QualifiedName, on_one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class MigratedRows:
    """Rows that a reset to empty deletes although ``migrate`` made them.

    ``data_migrations`` made rows that do not come back; ``remade`` are labels of models whose rows receivers of
    ``post_migrate`` make. ``sends`` tells whether the command calls them after the reset.
    """

    data_migrations: tuple[str, ...] = ()
    remade: tuple[str, ...] = ()
    sends: bool = False

    def describe(self) -> Iterator[str]:
        """Yield what a reset does, or has done, to these rows, and how to keep them."""
        if self.data_migrations:
            yield (
                f"Rows that data migrations made ({_listed(self.data_migrations, 5)}) will not come back. To keep them, "
                "capture a baseline after the migrations, before anything else is written: resetdb --capture; or leave "
                "their tables out: --exclude."
            )
        if self.remade and self.sends:
            yield f"Rows of {_listed(self.remade, 5)} are made again by post_migrate after the reset, perhaps with other ids."
        elif self.remade:
            yield f"Rows of {_listed(self.remade, 5)} come back with the next manage.py migrate, perhaps with other ids."


def describe_post_migrate(made: Mapping[QualifiedName, int]) -> Iterator[str]:
    """Yield the line of the rows that receivers of ``post_migrate`` made after the reset, by table."""
    if made:
        tables = tuple(f"{name} {rows:,}" for name, rows in sorted(made.items()))
        total = plural(sum(made.values()), "row")
        yield f"Then post_migrate made {total} in {plural(len(made), 'table')}: {_listed(tables, 5)}."


def describe_database(identity: DatabaseIdentity) -> str:
    """Say where a connection leads: the live name, the alias, the server."""
    return f'database "{on_one_line(identity.name)}" (alias "{identity.alias}", {identity.server})'


def plural(number: int, noun: str) -> str:
    """Return "1 row", "2 rows", "1,234 rows"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def describe_baseline(baseline: Baseline | None) -> str:
    """Say what a baseline holds, and since when; None is one that was dropped."""
    if baseline is None:
        return "There is no baseline now"
    return (
        f"The baseline, captured {baseline.captured_at}, keeps {plural(baseline.rows, 'row')} of "
        f"{plural(len(baseline.tables), 'table')} and {plural(len(baseline.sequences), 'sequence')}"
    )


def baseline_as_dict(identity: DatabaseIdentity, baseline: Baseline | None) -> dict[str, Any]:
    """Return as JSON's types what a baseline holds; None is one that was dropped."""
    tables = baseline.tables.values() if baseline is not None else ()
    return {
        "alias": identity.alias,
        "database": identity.name,
        "server": identity.server,
        "captured_at": baseline.captured_at if baseline is not None else None,
        "tables": [{"name": str(table.name), "rows": table.rows} for table in tables],
        "sequences": [str(name) for name in baseline.sequences] if baseline is not None else [],
    }


def describe_loss(preview: ResetPreview, migrated: MigratedRows = MigratedRows()) -> Iterator[str]:
    """Yield the lines of what somebody is asked to confirm: where, to what state, what goes."""
    tables = sum(1 for rows in preview.rows.values() if rows)
    what = f"{plural(preview.total_rows, 'row')} in {plural(tables, 'table')} will be removed, "
    sequences = plural(len(preview.plan.sequences), "sequence")
    where = describe_database(preview.identity)
    if preview.target == "baseline":
        yield f"About to reset {where} to its baseline:"
        yield f"  {what}{plural(preview.restored, 'row')} of the baseline put back, {sequences} set back."
    else:
        yield f"About to empty {where}:"
        yield f"  {what}{sequences} restarted."
    for line in migrated.describe():
        yield f"  {line}"
    yield "This cannot be undone."


def describe_preview(preview: ResetPreview, paint: Paint = PLAIN) -> Iterator[str]:
    """Yield the lines of a plan: every table that would be emptied, in order, how and why; sequences; what stays."""
    if not preview.plan.steps:
        yield f"Nothing to do: no row and no moved sequence in scope in {describe_database(preview.identity)}."
    else:
        to = " to baseline" if preview.target == "baseline" else ""
        yield paint.heading(
            f"{_capital(describe_database(preview.identity))}{to}: {plural(preview.total_rows, 'row')} in "
            f"{plural(sum(1 for rows in preview.rows.values() if rows), 'table')} would be deleted"
            f"{_would_be_put_back(preview)}."
        )
        yield ""
    width = max((len(f"{rows:,}") for rows in preview.rows.values()), default=1)
    for number, step in enumerate((step for step in preview.plan.steps if step.action is not Action.RESTART), 1):
        for name in step.names:
            rows = preview.rows.get(name)
            count = f"{rows:,}" if rows is not None else ""
            models = ", ".join(preview.labels.get(name, ())[:1])
            model = f"  {paint.model(f'({models})')}" if models else ""
            back = _rows_back(preview.changes[name]) if name in preview.changes else ""
            yield f"  {number:>3}  {step.action.value:<8}  {count:>{width}}  {paint.table(str(name))}{model}{back}"
        if step.reason:
            yield f"       {step.reason}"
    if preview.plan.sequences:
        yield f"  {plural(len(preview.plan.sequences), 'sequence')} would be set back: {_names(preview.plan.sequences)}"
    yield from _describe_kept(preview.plan.kept)
    yield from _describe_stale(preview.plan.stale_views)


def describe_report(report: ResetReport, verbosity: int, paint: Paint = PLAIN) -> Iterator[str]:
    """Yield the lines of a report; with *verbosity* 2 and more also each table, each sequence and what stayed."""
    where = f'database "{on_one_line(report.database)}" (alias "{report.alias}", {report.server})'
    if not report.tables and not report.sequences:
        yield f"Nothing to do: no row and no moved sequence in scope in {where}."
    else:
        yield (
            f"Reset {where} to {report.target}: {plural(report.rows, 'row')} of {plural(len(report.tables), 'table')} "
            f"removed, {_put_back(report)}{plural(len(report.sequences), 'sequence')} restarted, "
            f"in {report.seconds * 1000:,.0f} ms."
        )
    if verbosity >= 2:
        width = max((len(f"{table.rows:,}") for table in report.tables if table.rows is not None), default=1)
        for table in report.tables:
            count = f"{table.rows:,}" if table.rows is not None else ""
            back = _rows_back(table) if table.action is Action.RESTORE else ""
            yield f"  {table.action.value:<8}  {count:>{width}}  {paint.table(str(table.name))}{back}"
        for name in report.sequences:
            yield f"  restart   {'':>{width}}  {paint.table(str(name))}"
        yield from _describe_kept(report.kept)
        yield f"  permitted by the rule {report.permitted_by}"
    yield from _describe_stale(report.stale_views)


def _would_be_put_back(preview: ResetPreview) -> str:
    return f", {plural(preview.restored, 'row')} put back" if preview.target == "baseline" else ""


def _rows_back(changes: RowChanges | ResetTable) -> str:
    return f"  ({changes.updated:,} put back, {changes.inserted:,} put in again)"


def _put_back(report: ResetReport) -> str:
    return f"{plural(report.restored, 'row')} put back, " if report.target == "baseline" else ""


def _describe_kept(kept: tuple[LeftOut, ...]) -> Iterator[str]:
    reasons: dict[str, list[QualifiedName]] = {}
    for item in kept:
        reasons.setdefault(item.reason, []).append(item.name)
    for reason, names in sorted(reasons.items()):
        yield f"  stays ({reason}): {_names(tuple(names))}"


def _describe_stale(views: tuple[QualifiedName, ...]) -> Iterator[str]:
    if views:
        yield f"  stale now, REFRESH MATERIALIZED VIEW would mend it: {_names(views)}"


def _names(names: tuple[QualifiedName, ...], most: int = 3) -> str:
    return _listed(tuple(map(str, names)), most)


def _listed(names: tuple[str, ...], most: int) -> str:
    listed = ", ".join(names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
