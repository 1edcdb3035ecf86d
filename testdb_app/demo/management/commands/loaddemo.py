"""manage.py loaddemo: fill the demonstration's tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections

from testdb_app.demo.generation.library import load_library
from testdb_app.demo.generation.sizing import SMALLEST_SIZE, rows_per_model
from testdb_app.demo.progress import progress

if TYPE_CHECKING:
    from django.core.management.base import CommandParser
    from django.db.models import Model


class Command(BaseCommand):
    """Adds generated rows and prints how many of each model. Rows that are there already stay."""

    help = (
        "Add generated rows to the tables of the demonstration app, in one transaction. "
        "Rows that are there already stay as they are, so it can be run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the arguments."""
        parser.add_argument(
            "--size",
            type=int,
            default=1000,
            help="How many rows to add, over all tables; a book is two of them, one of Work and one of Book. "
            f"Below {SMALLEST_SIZE}, {SMALLEST_SIZE} are added, so that no table stays empty. Default: 1000.",
        )
        parser.add_argument(
            "--seed",
            type=int,
            default=0,
            help="The same seed gives the same rows on the same database content. Default: 0.",
        )
        parser.add_argument(
            "--database",
            choices=tuple(connections),
            default=DEFAULT_DB_ALIAS,
            help='The alias of the database to add them to. Default: "default".',
        )

    def handle(self, *, size: int, seed: int, database: str, verbosity: int, no_color: bool, **options: Any) -> None:
        """Run the command."""
        if size < 1:
            raise CommandError(
                f"Cannot load {size} rows: --size is the number of rows to add. Give at least 1, "
                "for example --size 1000."
            )
        rows = rows_per_model(size)
        check_tables(database, rows)
        # Not self.stderr, which ends every write with a new line and paints it as an error.
        stream = None if verbosity == 0 else options.get("stderr") or sys.stderr
        with progress(sum(rows.values()), stream=stream, color=not no_color) as advance:
            load_library(using=database, seed=seed, rows=rows, advance=advance)
        if verbosity > 0:
            self.stdout.write(summary(rows))


def check_tables(database: str, rows: dict[type[Model], int]) -> None:
    """Raise CommandError if the demonstration's tables are not all there."""
    connection = connections[database]
    missing = {model._meta.db_table for model in rows} - set(connection.introspection.table_names())
    if missing:
        raise CommandError(
            f'Cannot load rows into database "{database}": it has no table "{min(missing)}". '
            f'Run "manage.py migrate --database {database}" first.'
        )


def summary(rows: dict[type[Model], int]) -> str:
    """Return a table of the models and how many rows of each, with the sum in its last line."""
    lines = [("Model", "Rows")]
    lines += [(model.__name__, f"{number:,}") for model, number in rows.items()]
    lines += [("Total", f"{sum(rows.values()):,}")]
    name_width, number_width = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(f"{name:<{name_width}}  {number:>{number_width}}" for name, number in lines)
