"""manage.py loaddemo: fill the demonstration's tables."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections

from testdb_app.demo.generate import SMALLEST_SIZE, load_library, rows_per_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

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


SECONDS_BEFORE_SHOWN = 1.0


class Bar(Protocol):
    """A bar on the screen from the moment it is made until it is closed."""

    def show(self, done: int) -> None:
        """Show that *done* rows are in."""
        ...

    def close(self) -> None:
        """Take the bar off the screen."""
        ...


@contextmanager
def progress(total: int, *, stream: TextIO | None, color: bool) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the number of rows just done; show a bar of `total` rows meanwhile.

    Nothing is written if `stream` is None or not a terminal, nor in the first second. The bar is rich's where
    rich is installed, otherwise plain text, and is gone from the screen in the end, also after an error.
    """
    terminal = stream if stream is not None and stream.isatty() else None
    started = monotonic()
    done = 0
    bar: Bar | None = None

    def advance(rows: int) -> None:
        nonlocal done, bar
        done += rows
        if bar is None and terminal and monotonic() - started >= SECONDS_BEFORE_SHOWN:
            bar = make_bar(total, stream=terminal, color=color)
        if bar is not None:
            bar.show(done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()


def make_bar(total: int, *, stream: TextIO, color: bool) -> Bar:
    """Return rich's bar where rich is installed, else the plain one."""
    try:
        return RichBar(total, stream=stream, color=color)
    except ImportError:
        return PlainBar(total, stream=stream)


class PlainBar:
    """One line of text, written over in place. All it needs of the terminal is a carriage return."""

    def __init__(self, total: int, *, stream: TextIO) -> None:
        self._total = total
        self._stream = stream
        self._width = 0

    def show(self, done: int) -> None:
        """Write the line over the one of before."""
        line = f"Loading rows: {done * 100 // self._total:3} % ({done:,} of {self._total:,})"
        self._stream.write(f"\r{line.ljust(self._width)}")
        self._stream.flush()
        self._width = len(line)

    def close(self) -> None:
        """Write spaces over the line."""
        self._stream.write(f"\r{' ' * self._width}\r")
        self._stream.flush()


class RichBar:
    """Rich's bar with the time that is left. Raises ImportError where rich is not installed."""

    def __init__(self, total: int, *, stream: TextIO, color: bool) -> None:
        # Rich is no dependency of this package.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("Loading rows"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            # None leaves the decision to rich, which knows of NO_COLOR.
            console=Console(file=stream, no_color=None if color else True),
            transient=True,
        )
        self._task = self._progress.add_task("", total=total)
        self._progress.start()

    def show(self, done: int) -> None:
        """Move the bar; rich draws it in its own time."""
        self._progress.update(self._task, completed=done)

    def close(self) -> None:
        """Stop drawing; the bar is transient."""
        self._progress.stop()
