"""``manage.py resetdb``: empty a database in the order of its foreign keys."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, Error, connections

from testdb_app.backends import get_backend
from testdb_app.backends.base import Action, DatabaseIdentity, Mark
from testdb_app.baseline import capture_baseline, drop_baseline
from testdb_app.baseline_state import Baseline, RowChanges
from testdb_app.conf import MIGRATED, STRATEGIES, TARGETS
from testdb_app.exceptions import ConfigurationError, PostMigrateError, TestDBError, UnknownNameError, reason_of
from testdb_app.guard import check_may_mark_as_test
from testdb_app.management.terminal import (
    TerminalCommand,
    confirmed,
    elapsed_time,
    explained,
    folded,
    paint_for,
    write_text,
)
from testdb_app.model_tables import index_models
from testdb_app.post_migrate import find_data_migrations, send_post_migrate, was_migrated
from testdb_app.report import ResetPreview, ResetReport, ResetTable
from testdb_app.resetter import Resetter
from testdb_app.schema import LeftOut, QualifiedName, list_some, on_one_line
from testdb_app.showdeps.picture import PLAIN, Paint

# Django's models whose rows are recreated by receivers of post_migrate.
_REMADE = {"contenttypes.ContentType", "auth.Permission", "sites.Site"}
_OPTIONS_OF_RESETTER = ("exclude", "strategy", "reset_sequences", "allow_database", "lock_timeout")
_MARKS = {
    "mark_protected": (Mark.PROTECTED, True),
    "unmark_protected": (Mark.PROTECTED, False),
    "mark_test": (Mark.TEST, True),
    "unmark_test": (Mark.TEST, False),
}


class Command(TerminalCommand):
    """Empties a database, or resets it to its baseline; see ``--help``."""

    help = (
        "Empties the tables of a test database in the order of its foreign keys and puts its sequences back to their "
        "start, or brings both back to a captured baseline or to the state after migrate, in one transaction. A database "
        "that is not known to be a test database is refused unless you name it. "
        "Exit status: 0 done or cancelled, 1 refused or failed, 2 wrong usage."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's attribute

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the arguments."""
        add_arguments(parser)

    def handle(self, *labels: str, **options: Any) -> None:
        """Run the command."""
        try:
            resetter = self._make_resetter(options["labels"] or labels, **options)
            mark = next((mark for option, mark in _MARKS.items() if options[option]), None)
            if mark is not None:
                _check_is_alone(
                    "A mark is put or taken away at once, and for the whole database", "labels", "exclude", **options
                )
                self._set_mark(resetter, *mark, **options)
            elif options["capture"] or options["recapture"] or options["drop_baseline"]:
                _check_is_alone(
                    "A baseline is of the whole database, and captured or dropped at once", "labels", **options
                )
                self._keep_baseline(resetter, **options)
            elif options["dry_run"] or options["sql"]:
                self._preview(resetter, **options)
            else:
                self._reset(resetter, **options)
        except (ConfigurationError, UnknownNameError) as error:
            raise CommandError(explained(error.message, self.stderr), returncode=2) from error
        except TestDBError as error:
            raise CommandError(explained(error.message, self.stderr)) from error
        except Error as error:
            message = _database_error(options["database"], error)
            raise CommandError(explained(message, self.stderr)) from error
        except KeyboardInterrupt as error:
            raise CommandError(
                "Interrupted. The database is as it was, or wholly reset: a reset is one transaction.", returncode=130
            ) from error

    def _make_resetter(self, include: Iterable[str], **options: Any) -> Resetter:
        what: dict[str, Any] = {name: options[name] for name in _OPTIONS_OF_RESETTER}
        if options["to"] != MIGRATED:
            return Resetter(options["database"], include=include, to=options["to"], once=True, **what)
        # It needs template databases, which nothing else here does.
        from testdb_app.creation.migrated import MigratedResetter  # noqa: PLC0415

        return MigratedResetter(options["database"], include=include, say=partial(self._say, **options), **what)

    def _say(self, line: str, **options: Any) -> None:
        if options["verbosity"] > 0:
            # It replaces the elapsed time.
            self.stderr.write(("\r\x1b[K" if self.stderr.isatty() else "") + folded(line, self.stderr), str)

    def _preview(self, resetter: Resetter, **options: Any) -> None:
        with self._elapsed("Planning", **options):
            preview = resetter.plan()
        if options["sql"]:
            write_text(self.stdout, "".join(f"{statement};\n" for statement in preview.sql if preview.plan.steps))
            return
        migrated = _find_migrated_rows(resetter, preview, **options)
        if options["format"] == "json":
            values = {**preview.as_dict(), "data_migrations": migrated.data_migrations, "refused": _refusal(resetter)}
            self.stdout.write(json.dumps(values, indent=2))
            return
        if options["verbosity"] > 0:
            paint = paint_for(self.stdout, self.style, options)
            lines = [*describe_preview(preview, paint), *map(paint.warning, migrated.describe())]
            lines += ["", "Nothing was changed: this is a dry run."]
            if refusal := _refusal(resetter):
                lines.append(paint.warning(f"A real run would be refused. {refusal}"))
            self._show(lines)

    def _reset(self, resetter: Resetter, **options: Any) -> None:
        resetter.check_may_reset()
        if options["interactive"]:
            with self._elapsed("Counting rows", **options):
                preview = resetter.plan()
            loss = list(describe_loss(preview, _find_migrated_rows(resetter, preview, **options)))
            if preview.plan.steps and not self._confirm(loss, preview.identity.name):
                self.stderr.write("Cancelled. Nothing was changed.", self.style.NOTICE)
                return
        with self._elapsed("Resetting", **options):
            report = resetter.reset()
        migrated = _find_migrated_rows(resetter, report, **options)
        made, error = _send_post_migrate(resetter, **options) if migrated.sends else ({}, None)
        if options["format"] == "json":
            values = {
                **report.as_dict(),
                "data_migrations": migrated.data_migrations,
                "post_migrate": {str(name): rows for name, rows in sorted(made.items())} if migrated.sends else None,
            }
            self.stdout.write(json.dumps(values, indent=2))
        elif options["verbosity"] > 0:
            paint = paint_for(self.stdout, self.style, options)
            lines = [*describe_report(report, options["verbosity"], paint), *map(paint.warning, migrated.describe())]
            self._show([*lines, *describe_post_migrate(made)])
        if error is not None:
            raise error
        if report.warning and options["verbosity"] > 0:
            self.stderr.write(folded(f"Warning: {report.warning}", self.stderr), self.style.NOTICE)

    def _set_mark(self, resetter: Resetter, mark: Mark, present: bool, **options: Any) -> None:
        identity = resetter.identify()
        loosens = (mark is Mark.TEST) == present
        if mark is Mark.TEST and present:
            check_may_mark_as_test(identity)
        if not present and mark not in identity.marks:
            self._show([f'{_capital(describe_database(identity))} has no mark "{mark}". Nothing was changed.'])
            return
        question = f"About to {_describe_marking(identity, mark, present)}. Resets may empty it then."
        if loosens and options["interactive"] and not self._confirm([question], identity.name):
            self.stderr.write("Cancelled. Nothing was changed.", self.style.NOTICE)
            return
        get_backend(resetter.connection).set_mark(resetter.connection, mark, present=present, identity=identity)
        if options["verbosity"] > 0:
            is_weak = mark is Mark.TEST and present and identity.oid and not identity.system_identifier
            weakness = (
                f' The role "{identity.user}" may not read the cluster\'s system identifier (pg_control_system()): a '
                "database of another cluster with this name and OID would pass for this one."
            )
            done = _describe_marking(identity, mark, present, done=True)
            self._show([f"{_capital(done)}.{weakness if is_weak else ''}"])

    def _keep_baseline(self, resetter: Resetter, **options: Any) -> None:
        database, allow = options["database"], options["allow_database"]
        baseline = None
        if options["drop_baseline"]:
            drop_baseline(database, allow_database=allow)
        else:
            with self._elapsed("Capturing", **options):
                baseline = capture_baseline(
                    database,
                    exclude=options["exclude"],
                    replace=options["recapture"],
                    allow_database=allow,
                    lock_timeout=options["lock_timeout"],
                )
        identity = resetter.identify()
        if options["format"] == "json":
            self.stdout.write(json.dumps(baseline_as_dict(identity, baseline), indent=2))
        elif options["verbosity"] > 0:
            self._show([f"{describe_baseline(baseline)} in {describe_database(identity)}."])

    def _show(self, lines: Iterable[str]) -> None:
        write_text(self.stdout, folded("\n".join(lines), self.stdout) + "\n")

    def _confirm(self, what: list[str], name: str) -> bool:
        question = "Type the name of the database to go on, anything else to cancel:"
        return confirmed(self, [*what, question], name)

    def _elapsed(self, text: str, **options: Any) -> Any:
        return elapsed_time(sys.stderr, text, silent=options["verbosity"] == 0)


def _find_migrated_rows(resetter: Resetter, reset: ResetPreview | ResetReport, **options: Any) -> MigratedRows:
    """Return the rows made by ``migrate`` that a reset to empty deletes, or has deleted; none if a baseline keeps them."""
    connection, backend = resetter.connection, get_backend(resetter.connection)
    is_empty = reset.target == "empty" and (options["to"] is None or backend.read_baseline(connection) is None)
    if not is_empty or not was_migrated(connection):
        return MigratedRows()
    if isinstance(reset, ResetPreview):
        emptied = {name for name, rows in reset.rows.items() if rows}
    else:
        emptied = {table.name for table in reset.tables if table.rows != 0}
    labels = index_models(connection, backend.read_schema(connection)).labels_by_table
    found = {label for name in emptied for label in labels.get(name, ())[:1]}
    migrations: tuple[tuple[str, str], ...] = ()
    if found - _REMADE or any(name not in labels for name in emptied):
        migrations = find_data_migrations(connection)
    if resetter.options.include or resetter.options.exclude:
        # The tables of other apps may stay.
        apps = {label.partition(".")[0] for label in found}
        migrations = tuple(each for each in migrations if each[0] in apps)
    return MigratedRows(
        data_migrations=tuple(map(".".join, migrations)),
        remade=tuple(sorted(found & _REMADE)),
        sends=options["post_migrate"] and options["to"] is None and not resetter.options.include,
        can_capture=backend.supports_baseline,
    )


def _send_post_migrate(resetter: Resetter, **options: Any) -> tuple[dict[QualifiedName, int], CommandError | None]:
    """Call the receivers of ``post_migrate``. Return the rows that they made, by table, and the error of a failed receiver."""
    error = None
    verbosity = options["verbosity"] if options["format"] == "text" else 0
    try:
        send_post_migrate(resetter.using, verbosity=verbosity, interactive=options["interactive"])
    except PostMigrateError as caught:
        error = CommandError(
            f"{caught.message}. The reset itself is committed, and so is what receivers wrote before. Correct the receiver "
            "and run manage.py migrate, which calls it again; or leave it out with --no-post-migrate."
        )
        error.__cause__ = caught
        resetter.connection.close()
    try:
        return {name: rows for name, rows in resetter.plan().rows.items() if rows}, error
    except (TestDBError, Error) as caught:
        found = CommandError(f"The reset is committed, but the rows that post_migrate made cannot be counted: {caught}")
        return {}, error or found


def _refusal(resetter: Resetter) -> str | None:
    try:
        resetter.check_may_reset()
    except TestDBError as error:
        return error.message
    return None


def _check_is_alone(why: str, *names: str, **options: Any) -> None:
    for option in (*names, "dry_run", "sql"):
        if options[option]:
            raise ConfigurationError(f"{why}: leave out {option.replace('_', '-')}.")


def _database_error(alias: str, error: Error) -> str:
    name = connections[alias].settings_dict["NAME"]
    return (
        f'Database "{name}" (alias "{alias}") answered with an error: {reason_of(error)}. Nothing was changed. '
        f'Check settings.DATABASES["{alias}"] and that the server runs.'
    )


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of ``resetdb``."""
    parser.add_argument(
        "labels",
        nargs="*",
        metavar="app_label[.Model]",
        help="What to empty: app labels, models, schema.table, or shell patterns of them. Default: every table.",
    )
    parser.add_argument(
        "--database",
        default=DEFAULT_DB_ALIAS,
        choices=tuple(connections),
        help='The alias of the database. Default: "default".',
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="LABEL",
        help="What to leave as it is; may be given several times.",
    )
    parser.add_argument(
        "--to",
        choices=(*TARGETS, MIGRATED),
        help="The state to reset to: the captured baseline, no rows, or the rows of a fresh migrate, which are read from a "
        "scratch database on the same server. Default: the baseline if there is one, else empty.",
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help='How to empty tables: auto deletes, and truncates large tables. Default: TESTDB["STRATEGY"], else auto.',
    )
    parser.add_argument(
        "--no-reset-sequences",
        action="store_false",
        dest="reset_sequences",
        help="Leave the sequences where they are.",
    )
    parser.add_argument(
        "--no-post-migrate",
        action="store_false",
        dest="post_migrate",
        help="Do not send post_migrate after a reset to empty; flush always sends it. With --to empty nothing is sent anyway.",
    )
    parser.add_argument("--dry-run", action="store_true", help="Show what would be done, and change nothing.")
    parser.add_argument("--sql", action="store_true", help="Print the reset as SQL, and change nothing.")
    parser.add_argument(
        "--allow-database",
        action="append",
        default=[],
        metavar="NAME",
        help="Permit this database, by name, although nothing marks it as a test database.",
    )
    parser.add_argument(
        "--lock-timeout",
        type=float,
        metavar="SECONDS",
        help='How long to wait for locks of other sessions. Default: TESTDB["LOCK_TIMEOUT"], else 5.',
    )
    parser.add_argument(
        "--no-input",
        "--noinput",
        action="store_false",
        dest="interactive",
        help="Do not ask for confirmation.",
    )
    parser.add_argument(
        "--format",
        default="text",
        choices=("text", "json"),
        help="json prints the report and nothing else.",
    )
    _add_what_is_kept(parser)


def _add_what_is_kept(parser: ArgumentParser) -> None:
    baseline = parser.add_argument_group("the baseline, kept inside the database").add_mutually_exclusive_group()
    baseline.add_argument(
        "--capture",
        action="store_true",
        help="Capture the present rows and sequences as the baseline of resets. An existing baseline stays as it is.",
    )
    baseline.add_argument("--recapture", action="store_true", help="Capture them in place of an existing baseline.")
    baseline.add_argument("--drop-baseline", action="store_true", help="Remove the baseline from the database.")
    marks = parser.add_argument_group("marks inside the database").add_mutually_exclusive_group()
    marks.add_argument(
        "--mark-protected",
        action="store_true",
        help="Mark the database, and every copy of it, as never to be reset.",
    )
    marks.add_argument("--unmark-protected", action="store_true", help="Remove that mark.")
    marks.add_argument(
        "--mark-test", action="store_true", help="Mark this database, and no copy of it, as a test database."
    )
    marks.add_argument("--unmark-test", action="store_true", help="Remove that mark.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MigratedRows:
    """Rows that ``migrate`` made and that a reset to empty deletes.

    Nothing recreates the rows of ``data_migrations``. ``remade`` has the labels of models whose rows are recreated by
    receivers of ``post_migrate``. If ``sends``, the command calls these receivers after the reset. If ``can_capture``,
    the database can have a baseline.
    """

    data_migrations: tuple[str, ...] = ()
    remade: tuple[str, ...] = ()
    sends: bool = False
    can_capture: bool = True

    def describe(self) -> Iterator[str]:
        """Yield lines about the effect of the reset on these rows, before it or after it, and about how to keep them."""
        if self.data_migrations:
            keep = (
                "To have them afterwards, reset to the rows of a fresh migrate: --to migrated; or capture a baseline after the "
                "migrations, before anything else is written: resetdb --capture; or leave their tables out: --exclude."
                if self.can_capture
                else "To keep them, leave their tables out: --exclude."
            )
            yield f"Rows that data migrations made ({list_some(self.data_migrations)}) will not come back. {keep}"
        if self.remade and self.sends:
            yield f"Rows of {list_some(self.remade)} are made again by post_migrate after the reset, perhaps with other ids."
        elif self.remade:
            yield f"Rows of {list_some(self.remade)} come back with the next manage.py migrate, perhaps with other ids."


def _describe_marking(identity: DatabaseIdentity, mark: Mark, present: bool, *, done: bool = False) -> str:
    where = describe_database(identity)
    if not present:
        return f'{"removed" if done else "remove"} the mark "{mark}" from {where}'
    return f"{'marked' if done else 'mark'} {where} as {'a test database' if mark is Mark.TEST else 'protected'}"


def describe_post_migrate(made: Mapping[QualifiedName, int]) -> Iterator[str]:
    """Yield the line with the rows that receivers of ``post_migrate`` made after the reset, by table."""
    if made:
        tables = tuple(f"{name} {rows:,}" for name, rows in sorted(made.items()))
        total = plural(sum(made.values()), "row")
        yield f"Then post_migrate made {total} in {plural(len(made), 'table')}: {list_some(tables)}."


def describe_database(identity: DatabaseIdentity) -> str:
    """Return the database that a connection leads to: its live name, the alias and the server."""
    return f'database "{on_one_line(identity.name)}" (alias "{identity.alias}", {identity.server})'


def plural(number: int, noun: str) -> str:
    """Return "1 row", "2 rows", "1,234 rows"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def describe_baseline(baseline: Baseline | None) -> str:
    """Return the contents of a baseline and the time of its capture. None stands for a dropped baseline."""
    if baseline is None:
        return "There is no baseline now"
    return (
        f"The baseline, captured {baseline.captured_at}, keeps {plural(baseline.rows, 'row')} of "
        f"{plural(len(baseline.tables), 'table')} and {plural(len(baseline.sequences), 'sequence')}"
    )


def baseline_as_dict(identity: DatabaseIdentity, baseline: Baseline | None) -> dict[str, Any]:
    """Return the contents of a baseline as types of JSON. None stands for a dropped baseline."""
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
    """Yield the lines to confirm: the database, the target state, and the rows that would be deleted."""
    tables = sum(1 for rows in preview.rows.values() if rows)
    what = f"{plural(preview.total_rows, 'row')} in {plural(tables, 'table')} will be deleted, "
    sequences = plural(len(preview.plan.sequences), "sequence")
    where = describe_database(preview.identity)
    if preview.target == "empty":
        yield f"About to empty {where}:"
        yield f"  {what}{sequences} set back."
    else:
        state = "the rows of a fresh migrate" if preview.target == MIGRATED else "its baseline"
        yield f"About to reset {where} to {state}:"
        yield f"  {what}{plural(preview.restored, 'row')} put back, {sequences} set back."
    for line in migrated.describe():
        yield f"  {line}"
    yield "This cannot be undone."


def describe_preview(preview: ResetPreview, paint: Paint = PLAIN) -> Iterator[str]:
    """Yield the lines of a plan: each table to be emptied, in order, with method and reason; sequences; tables that stay."""
    if not (preview.total_rows or preview.restored or preview.plan.sequences):
        yield f"Nothing to do: no row and no moved sequence in scope in {describe_database(preview.identity)}."
    else:
        to = f" to {preview.target}" if preview.target != "empty" else ""
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
            if rows == 0 and name not in preview.changes:
                continue  # Rows were deleted from it before, which only a DELETE can tell.
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
    """Yield the lines of a report. From *verbosity* 2 on, list each table, each sequence and the tables that stayed."""
    where = f'database "{on_one_line(report.database)}" (alias "{report.alias}", {report.server})'
    if not report.tables and not report.sequences:
        yield f"Nothing to do: no row and no moved sequence in scope in {where}."
    else:
        # The server does not tell how many rows a TRUNCATE has deleted.
        truncated = sum(1 for table in report.tables if table.rows is None)
        tables = plural(sum(1 for table in report.tables if table.rows), "table")
        emptied = [f"{plural(report.rows, 'row')} in {tables} deleted"] if report.rows or not truncated else []
        emptied += [f"{plural(truncated, 'table')} truncated"] if truncated else []
        yield (
            f"Reset {where} to {report.target}: {', '.join(emptied)}, {_put_back(report)}"
            f"{plural(len(report.sequences), 'sequence')} set back, in {report.seconds * 1000:,.0f} ms."
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
    return f", {plural(preview.restored, 'row')} put back" if preview.target != "empty" else ""


def _rows_back(changes: RowChanges | ResetTable) -> str:
    return f"  ({changes.updated:,} put back, {changes.inserted:,} put in again)"


def _put_back(report: ResetReport) -> str:
    return f"{plural(report.restored, 'row')} put back, " if report.target != "empty" else ""


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
    return list_some(tuple(map(str, names)), most=most)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
