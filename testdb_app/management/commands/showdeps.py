"""``manage.py showdeps``: draw the dependency graph of a database, for people and machines. It only reads."""

from __future__ import annotations

import math
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, Error, connections

from testdb_app.backends import get_backend
from testdb_app.exceptions import TestDBError, reason_of
from testdb_app.management.terminal import (
    TerminalCommand,
    encoding_of,
    explained,
    folded,
    paint_for,
    width_of,
    write_text,
)
from testdb_app.model_tables import foreign_key_disagreements, index_models, on_delete_by_columns
from testdb_app.schema import on_one_line, show_part
from testdb_app.selection import select_tables
from testdb_app.showdeps import FORMATS
from testdb_app.showdeps.html import read_assets
from testdb_app.showdeps.picture import Picture, counted, reach
from testdb_app.showdeps.text import GLYPHS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.backends.base import BaseBackend
    from testdb_app.schema import Schema
    from testdb_app.showdeps.picture import Cycle


class Command(TerminalCommand):
    """Draws the dependency graph of the tables, and checks it."""

    help = (
        "Shows the dependency graph of the tables, in the order in which they can be emptied. Only reads. "
        "With labels, it shows the tables named and all that they depend on; "
        "with --reverse, the tables named and all that depends on them."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own notation

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the arguments."""
        parser.add_argument(
            "args",
            metavar="app_label[.ModelName]",
            nargs="*",
            help="Start from these apps, models or tables (schema.table); shell patterns work. Default: all.",
        )
        parser.add_argument(
            "--database",
            default=DEFAULT_DB_ALIAS,
            choices=tuple(connections),
            help='The database to read. Defaults to the "default" database.',
        )
        parser.add_argument(
            "--format",
            default="tree",
            choices=tuple(FORMATS),
            help="tree: for people (default). order: a table a line, in the order to delete in. "
            "json: for programs. dot: for Graphviz. mermaid: for pages that draw Mermaid. "
            "html: one page for any browser (with --output graph.html).",
        )
        parser.add_argument(
            "--reverse",
            action="store_true",
            help="Referenced tables first: the order to insert in.",
        )
        parser.add_argument("--cycles", action="store_true", help="Only the cycles and their foreign keys.")
        parser.add_argument(
            "--check",
            action="store_true",
            help="Exit with 1 if a cycle is not deferrable, or if models and database disagree about a key.",
        )
        parser.add_argument(
            "--count-rows",
            action="store_true",
            help="With --format html, count the rows of every table, which reads them all and waits for locks at most "
            "5 seconds. Without it, rows are the server's own estimate where it keeps one, as PostgreSQL does.",
        )
        parser.add_argument("--output", metavar="FILE", help="Write to this file instead of standard output.")

    def handle(self, *labels: str, **options: Any) -> None:
        """Run the command: read the dependency graph, draw it and check it."""
        connection = connections[options["database"]]
        if options["count_rows"] and options["format"] != "html":
            raise CommandError("Only --format html shows rows: add it, or leave out --count-rows.", returncode=2)
        if options["format"] == "html" and not options["output"] and self.stdout.isatty():
            raise CommandError("An HTML page cannot be read on a terminal: add --output graph.html.", returncode=2)
        with _errors_explained(connection, self.stderr):
            backend = get_backend(connection)
            picture, problems = self._read(backend, connection, labels, options)
        if backend.warning:
            self._note(backend.warning, options)
        self._deliver(FORMATS[options["format"]](picture), picture, options)
        if options["check"]:
            self._report(problems, picture, options)

    def _read(
        self,
        backend: BaseBackend,
        connection: BaseDatabaseWrapper,
        labels: tuple[str, ...],
        options: dict[str, Any],
    ) -> tuple[Picture, list[str]]:
        identity = backend.identify(connection)
        schema = backend.read_schema(connection)
        index = index_models(connection, schema)
        named = select_tables(schema, index.labels_by_table, labels) if labels else None
        picture = Picture(
            whole=schema,
            title=f'{connection.display_name} database "{identity.name}" (alias "{connection.alias}")',
            alias=connection.alias,
            database=identity.name,
            shown=None if named is None else reach(schema, named, reverse=options["reverse"]),
            labels=index.labels_by_table,
            on_delete=on_delete_by_columns(index),
            tables_without_model=frozenset(index.tables_without_model),
            models_without_table=() if labels else index.models_without_table,
            unmanaged=index.unmanaged,
            reverse=options["reverse"],
            cycles_only=options["cycles"],
            **_for_a_page(backend, connection, schema, options),
            **self._appearance(options),
        )
        problems = [_cycle_problem(cycle, picture) for cycle in picture.cycles if not cycle.deferrable]
        problems += [
            str(disagreement)
            for disagreement in foreign_key_disagreements(index, schema, connection)
            if picture.shown is None or disagreement.table in picture.shown
        ]
        return picture, problems

    def _appearance(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of the picture that fit its target: a file, a pipe or a terminal."""
        if options["output"]:
            return {}
        encoding = encoding_of(self.stdout)
        return {
            "width": width_of(self.stdout) or math.inf,
            "ascii_only": GLYPHS.encode(encoding, "replace").decode(encoding) != GLYPHS,
            "paint": paint_for(self.stdout, self.style, options),
        }

    def _deliver(self, text: str, picture: Picture, options: dict[str, Any]) -> None:
        if picture.cycles_only and not picture.cycles and options["format"] != "tree":
            self._note("There are no cycles.", options)
        if options["output"]:
            _write_file(Path(options["output"]), text)
            tables = counted(len(picture.schema.tables), "table")
            self._note(f"Wrote {options['output']} ({options['format']}, {tables}).", options)
            return
        write_text(self.stdout, text)

    def _note(self, text: str, options: dict[str, Any]) -> None:
        if options["verbosity"] > 0:
            self.stderr.write(folded(text, self.stderr), str)

    def _report(self, problems: list[str], picture: Picture, options: dict[str, Any]) -> None:
        if problems:
            heading = f"{on_one_line(picture.title)}: {counted(len(problems), 'problem')}"
            message = "\n".join([heading, *(f"- {problem}" for problem in problems)])
            raise CommandError(explained(message, self.stderr))
        self._note("No problems: cycles are deferrable, models and database agree on foreign keys.", options)


def _for_a_page(
    backend: BaseBackend, connection: BaseDatabaseWrapper, schema: Schema, options: dict[str, Any]
) -> dict[str, Any]:
    if options["format"] != "html":
        return {}
    details = backend.read_details(connection, schema, count_rows=options["count_rows"])
    return {"details": details, "assets": read_assets()}


def _cycle_problem(cycle: Cycle, picture: Picture) -> str:
    tables = [picture.root(key.table) for key in cycle.ring] or list(cycle.tables)
    ring = " → ".join(map(str, [*tables, tables[0]]))
    names = sorted({show_part(key.name) for key in cycle.ring})
    one = "" if len(names) == 1 else "one of "
    return f"Cycle {cycle.number} is not deferrable: {ring}. Make {one}{', '.join(names)} DEFERRABLE."


@contextmanager
def _errors_explained(connection: BaseDatabaseWrapper, stderr: Any) -> Iterator[None]:
    """Convert errors that the user can fix into messages without a traceback."""
    try:
        yield
    except TestDBError as error:
        raise CommandError(explained(str(error), stderr)) from error
    except (Error, ImproperlyConfigured) as error:
        alias, name = connection.alias, connection.settings_dict["NAME"]
        message = (
            f'Cannot read database "{name}" (alias "{alias}"): {reason_of(error)}. '
            f'Check DATABASES["{alias}"] in the settings, and that the server runs and lets you in.'
        )
        raise CommandError(explained(message, stderr)) from error


def _write_file(path: Path, text: str) -> None:
    """Write the whole file or nothing. It is written under a temporary name beside *path*, and then renamed.

    A device or a named pipe is written to instead of replaced. A symbolic link is followed.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        target = path.resolve()
        temporary = target.with_name(f".showdeps-{secrets.token_hex(6)}")
        try:
            with temporary.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(
            f'Cannot write "{path}": {error.strerror}. Name a file in a folder that exists and that you may write to.'
        ) from error
