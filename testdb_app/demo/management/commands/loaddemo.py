"""``manage.py loaddemo``: fill the tables of the demonstration app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections

from testdb_app.demo.generate import SMALLEST_SIZE, load_library, rows_per_model

if TYPE_CHECKING:
    from django.core.management.base import CommandParser
    from django.db.models import Model


class Command(BaseCommand):
    """Adds generated rows, and prints the number of rows of each model. Existing rows are not changed."""

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

    def handle(self, *, size: int, seed: int, database: str, verbosity: int, **options: Any) -> None:
        """Run the command. Print a line for each model as soon as its rows are inserted, and the sum after the commit."""
        if size < 1:
            raise CommandError(
                f"Cannot load {size} rows: --size is the number of rows to add. Give at least 1, "
                "for example --size 1000."
            )
        rows = rows_per_model(size)
        check_tables(database, rows)
        total = f"{sum(rows.values()):,}"
        name_width = max(len(model.__name__) for model in rows)
        number_width = max(len("Rows"), len(total))
        missing = dict(rows)

        def show(name: str, number: str) -> None:
            if verbosity > 0:
                self.stdout.write(f"{name:<{name_width}}  {number:>{number_width}}")

        def inserted(model: type[Model], number: int) -> None:
            missing[model] -= number
            if not missing[model]:
                show(model.__name__, f"{rows[model]:,}")

        show("Model", "Rows")
        load_library(using=database, seed=seed, rows=rows, inserted=inserted)
        show("Total", total)


def check_tables(database: str, rows: dict[type[Model], int]) -> None:
    """Raise CommandError if a table of the demonstration app is missing."""
    connection = connections[database]
    missing = {model._meta.db_table for model in rows} - set(connection.introspection.table_names())
    if missing:
        raise CommandError(
            f'Cannot load rows into database "{database}": it has no table "{min(missing)}". '
            f'Run "manage.py migrate --database {database}" first.'
        )
