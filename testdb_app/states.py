"""The states that a database is put to: what a baseline holds, and what a reset changed on the way there. Pure values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from testdb_app.schema import QualifiedName, Schema

MIGRATIONS_TABLE = "django_migrations"
"""The name of Django's list of applied migrations, in whatever schema: without its rows each would run again."""

BASELINE, FLUSHED = "baseline", "flushed"
"""The states that a database keeps, one of each: the baseline, and what a flush leaves; see :mod:`testdb_app.flushing`."""
KEPT_STATES = (BASELINE, FLUSHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceState:
    """Where a sequence stands: the next value is ``last_value`` itself, or the one after it if ``is_called``."""

    last_value: int
    is_called: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineColumn:
    """A column whose values a baseline keeps. ``is_fixed``: it takes no value in an UPDATE (GENERATED ALWAYS AS IDENTITY)."""

    name: str
    is_generated: bool = False
    is_fixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineTable:
    """A table that had rows when the baseline was captured: how many, and the table that keeps their copies.

    ``key`` names the columns that tell its rows apart; empty where it has no primary key or the like.
    """

    name: QualifiedName
    copy: QualifiedName
    rows: int
    columns: tuple[BaselineColumn, ...] = ()
    key: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The state that was captured, as kept inside the database.

    ``tables`` are those with rows, ``sequences`` those that were not at their start; every other one in scope was
    empty, or at its start. ``excluded`` tables were left alone and stay so. ``migrations`` are the tables that list what
    was applied. ``shape`` is what the baseline depends on, by what people call it ("table public.book") with a
    description; it is compared before every use. ``captured_at`` is the server's time in ISO 8601.
    """

    captured_at: str
    tables: Mapping[QualifiedName, BaselineTable]
    sequences: Mapping[QualifiedName, SequenceState]
    excluded: frozenset[QualifiedName] = frozenset()
    shape: Mapping[str, str] = field(default_factory=dict)

    migrations: tuple[QualifiedName, ...] = ()

    @property
    def rows(self) -> int:
        """The rows that it holds, in all."""
        return sum(table.rows for table in self.tables.values())


def describe_tables(schema: Schema) -> dict[str, str]:
    """Describe which tables and sequences there are, whether or not they hold rows."""
    shape = {
        f"table {table.name}": f"{'partition of' if table.is_partition else 'inherits'} {', '.join(map(str, table.inherits))}"
        if table.inherits
        else str(table.kind)
        for table in schema.tables
    }
    return shape | {f"sequence {sequence.name}": sequence.data_type for sequence in schema.sequences}


def migration_tables(schema: Schema) -> tuple[QualifiedName, ...]:
    """Return the tables in which Django lists the migrations that were applied."""
    return tuple(table.name for table in schema.tables if table.name.name == MIGRATIONS_TABLE)


def compare_shapes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """Yield, in order, what differs between the shape at the capture and the present one, as people say it."""
    for what in sorted({*before, *after}):
        if what not in after:
            yield f"{what} is gone"
        elif what not in before:
            yield f"{what} is new"
        elif before[what] != after[what]:
            yield f"{what} has changed" + _first_difference(before[what], after[what])


def _first_difference(before: str, after: str) -> str:
    old, new = before.split("\n"), after.split("\n")
    gone = [line for line in old if line not in set(new)]
    came = [line for line in new if line not in set(old)]
    if not gone and not came:
        return ""
    return f" ({', '.join([f'- {line}' for line in gone[:3]] + [f'+ {line}' for line in came[:3]])})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChanges:
    """How many rows of a table a reset removed, put back as they were, and put in again."""

    removed: int = 0
    updated: int = 0
    inserted: int = 0

    def __bool__(self) -> bool:
        return bool(self.removed or self.updated or self.inserted)
