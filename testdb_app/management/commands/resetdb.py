"""``manage.py resetdb``: empty a database in the order of its foreign keys."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error, connections

from testdb_app.backends import get_backend
from testdb_app.backends.base import Mark
from testdb_app.baseline import capture_baseline, drop_baseline
from testdb_app.exceptions import ConfigurationError, PostMigrateError, TestDBError, UnknownNameError
from testdb_app.guard import check_may_mark_as_test
from testdb_app.management.progress import elapsed_time
from testdb_app.management.reset_arguments import add_arguments
from testdb_app.management.reset_text import (
    MigratedRows,
    baseline_as_dict,
    describe_baseline,
    describe_database,
    describe_loss,
    describe_post_migrate,
    describe_preview,
    describe_report,
)
from testdb_app.management.terminal import explained, folded, paint_for, write_text
from testdb_app.model_tables import index_models
from testdb_app.post_migrate import find_data_migrations, send_post_migrate, was_migrated
from testdb_app.report import ResetPreview, ResetReport
from testdb_app.resetter import Resetter
from testdb_app.schema import QualifiedName

# Models of Django whose rows receivers of post_migrate make again.
_REMADE = {"contenttypes.ContentType", "auth.Permission", "sites.Site"}
_MARKS = {
    "mark_protected": (Mark.PROTECTED, True),
    "unmark_protected": (Mark.PROTECTED, False),
    "mark_test": (Mark.TEST, True),
    "unmark_test": (Mark.TEST, False),
}


class Command(BaseCommand):
    """The command; see ``--help``."""

    help = (
        "Empties the tables of a test database in the order of its foreign keys and puts its sequences back to their "
        "start, or brings both back to a captured baseline, in one transaction. A database that is not known to be a "
        "test database is refused unless you name it. "
        "Exit status: 0 done or cancelled, 1 refused or failed, 2 wrong usage."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's attribute

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the arguments."""
        add_arguments(parser)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Honour NO_COLOR (https://no-color.org), which Django does not, as ``--no-color``."""
        if os.environ.get("NO_COLOR") and not options["force_color"]:
            options["no_color"] = True
        return super().execute(*args, **options)

    def handle(self, *labels: str, **options: Any) -> None:
        """Run the command."""
        try:
            resetter = Resetter(
                options["database"],
                include=options["labels"] or labels,
                exclude=options["exclude"],
                to=options["to"],
                strategy=options["strategy"],
                reset_sequences=options["reset_sequences"],
                allow_database=options["allow_database"],
                lock_timeout=options["lock_timeout"],
                once=True,
            )
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
        what = f'{"Put" if present else "Take away"} the mark "{mark}" of {describe_database(identity)}'
        if (
            loosens
            and options["interactive"]
            and not self._confirm([f"{what}. Resets may empty it then."], identity.name)
        ):
            self.stderr.write("Cancelled. Nothing was changed.", self.style.NOTICE)
            return
        get_backend(resetter.connection).set_mark(resetter.connection, mark, present=present, identity=identity)
        if options["verbosity"] > 0:
            is_weak = mark is Mark.TEST and present and identity.oid and not identity.system_identifier
            weakness = (
                f' The role "{identity.user}" may not read the cluster\'s system identifier (pg_control_system()): a '
                "database of another cluster with this name and OID would pass for this one."
            )
            self._show([f"{what}: done.{weakness if is_weak else ''}"])

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
        """Ask on standard error, so that standard output stays the report's alone."""
        first, *rest = what
        rest.append("Type the name of the database to go on, anything else to cancel:")
        # Only what is about to happen, and to which database, stands out.
        self.stderr.write(folded(first, self.stderr), self.style.ERROR)
        self.stderr.write(folded("\n".join(rest), self.stderr), str)
        is_typed = self.stderr.isatty() and sys.stdin.isatty()
        if is_typed:
            self.stderr.write("> ", str, ending="")
            self.stderr.flush()
        try:
            return input().strip() == name
        except EOFError:
            if is_typed:
                self.stderr.write("", str)  # Ctrl-D ends no line.
            return False

    def _elapsed(self, text: str, **options: Any) -> Any:
        return elapsed_time(sys.stderr, text, color=not options["no_color"], silent=options["verbosity"] == 0)


def _find_migrated_rows(resetter: Resetter, reset: ResetPreview | ResetReport, **options: Any) -> MigratedRows:
    """Find out which rows of ``migrate`` the reset to empty deletes, or has deleted; none where a baseline keeps them."""
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
        # The tables of other apps stay, perhaps.
        apps = {label.partition(".")[0] for label in found}
        migrations = tuple(each for each in migrations if each[0] in apps)
    return MigratedRows(
        data_migrations=tuple(map(".".join, migrations)),
        remade=tuple(sorted(found & _REMADE)),
        sends=options["post_migrate"] and options["to"] is None and not resetter.options.include,
    )


def _send_post_migrate(resetter: Resetter, **options: Any) -> tuple[dict[QualifiedName, int], CommandError | None]:
    """Call the receivers of ``post_migrate``; return the rows that they made, by table, and what one of them failed with."""
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
        f'Database "{name}" (alias "{alias}") answered with an error: {str(error).strip()}. Nothing was changed. '
        f'Check settings.DATABASES["{alias}"] and that the server runs.'
    )
