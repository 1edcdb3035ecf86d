"""Differences between database states as values with their text: rows, violated constraints, sequences. Pure.

The text is for the output of a failed test: ``+`` and ``-`` lines as pytest writes them, cut to a readable length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from testdb_app.schema import QualifiedName

MOST_LINES = 80
_MOST_CHARACTERS = 80

Row = Mapping[str, str | None]
"""The columns of a row and their values as the database's text; None is NULL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDifference:
    """One row that differs. ``before`` is None for an added row, ``after`` for a removed one.

    ``key`` names the key columns, empty if the table has no key; ``changed`` names the columns that differ. Long values
    are cut.
    """

    before: Row | None = None
    after: Row | None = None
    key: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Yield the row as lines that begin with ``+`` or ``-``; a changed row first has a line with its key."""
        if self.before is None and self.after is not None:
            yield f"+ {_show_row(self.after)}"
        elif self.after is None and self.before is not None:
            yield f"- {_show_row(self.before)}"
        elif self.before is not None and self.after is not None:
            yield f"  {_show_row({name: self.after[name] for name in self.key})}"
            yield f"- {_show_row({name: self.before[name] for name in self.changed})}"
            yield f"+ {_show_row({name: self.after[name] for name in self.changed})}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDifference:
    """The numbers of added, changed and removed rows of a table, and some of these rows (``rows``)."""

    table: QualifiedName
    added: int = 0
    changed: int = 0
    removed: int = 0
    rows: tuple[RowDifference, ...] = ()
    labels: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Yield a headline with the numbers, then the rows."""
        counts = ", ".join(
            f"{number} {what}"
            for number, what in ((self.added, "added"), (self.changed, "changed"), (self.removed, "removed"))
            if number
        )
        yield f"{self.table}{f' ({self.labels[0]})' if self.labels else ''}: {counts}"
        for row in self.rows:
            yield from row.lines()
        if more := self.added + self.changed + self.removed - len(self.rows):
            yield f"  … and {more} more"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDifference:
    """The differences between two states of a database, by table. False if there are none; its text is a diff."""

    tables: tuple[TableDifference, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tables)

    def __str__(self) -> str:
        return "\n".join(cut(line for table in self.tables for line in table.lines())) or "nothing differs"

    def find(self, name: str) -> TableDifference:
        """Return the difference of one table. *name* is its name, with or without schema, or its model's label.

        Raises :class:`KeyError` if that table does not differ.
        """
        for table in self.tables:
            if name in {table.table.name, str(table.table), *table.labels}:
                return table
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A constraint that rows violate. ``kind`` is "foreign key", "unique" or "constraint" (any other, named by the server).

    ``values`` are those of ``columns`` in one such row, ``rows`` the number of rows with these values; ``detail`` is the
    server's text.
    """

    constraint: str
    kind: str
    table: str
    columns: tuple[str, ...] = ()
    values: tuple[str | None, ...] = ()
    referenced: str = ""
    rows: int = 1
    detail: str = ""

    def __str__(self) -> str:
        if not self.columns:
            return f"{self.table}: {self.kind} {self.constraint}: {self.detail}"
        values = ", ".join(map(show_value, self.values))
        what = f"{self.table}: {self.kind} {self.constraint}: ({', '.join(self.columns)}) = ({values})"
        if self.kind == "unique":
            return f"{what} is in {self.rows} rows"
        return f"{what} is not in {self.referenced}; {self.rows} row(s)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LateSequence:
    """A sequence whose next values collide with rows: its column already has values up to ``furthest``."""

    sequence: QualifiedName
    next_value: int
    table: QualifiedName
    column: str
    furthest: int

    def __str__(self) -> str:
        return (
            f"{self.sequence}: its next value is {self.next_value}, and {self.table}({self.column}) has rows up to "
            f"{self.furthest}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceDifference:
    """A sequence that is not in the expected state; both states are text."""

    sequence: QualifiedName
    expected: str
    found: str
    labels: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.sequence}: sequence at {self.found}, not {self.expected}"


def cut(lines: Iterator[str], most: int = MOST_LINES) -> Iterator[str]:
    """Yield at most *most* lines, and then the number of lines left out."""
    more = 0
    for number, line in enumerate(lines):
        if number < most:
            yield line
        else:
            more += 1
    if more:
        yield f"… and {more} more lines"


def show_value(value: object) -> str:
    """Return a value as text on one line, cut to 80 characters."""
    if value is None:
        return "NULL"
    text = str(value)
    shown = text if text.removeprefix("-").replace(".", "", 1).isdigit() else repr(text)
    return shown if len(shown) <= _MOST_CHARACTERS else f"{shown[:_MOST_CHARACTERS]}…"


def _show_row(row: Row) -> str:
    return " ".join(f"{name}={show_value(value)}" for name, value in row.items())
