"""The states that a database is put to: what a baseline holds, and what a reset changed on the way there. Pure values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from testdb_app.schema import QualifiedName, Schema, Sequence, Table

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
    """A column whose values a baseline keeps. ``is_fixed``: it takes no value in an UPDATE (GENERATED ALWAYS AS IDENTITY).

    ``kept_as`` is the built-in type of the copy where the column's own is the user's, else empty; ``type`` what a kept text
    is cast back to; ``collation`` that of the column where it is the user's. These three are SQL. ``is_exact`` tells that
    a hash of its values is as good as one of their texts.
    """

    name: str
    is_generated: bool = False
    is_fixed: bool = False
    type: str = ""
    kept_as: str = ""
    collation: str = ""
    is_exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierFormat:
    """A database compared with its baseline of an earlier format: what is different, and the SQL that sets its sequences back."""

    changes: tuple[str, ...]
    restarts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineTable:
    """A table that had rows when the baseline was captured: how many, and the table that keeps their copies.

    ``key`` names the columns that tell its rows apart; empty where it has no primary key or the like. ``operators`` are
    those by which the values of these columns are equal, as SQL. ``checksum`` is that of the copy.
    """

    name: QualifiedName
    copy: QualifiedName
    rows: int
    columns: tuple[BaselineColumn, ...] = ()
    key: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    checksum: str = ""

    def operator(self, column: str) -> str:
        """The operator by which values of *column* are equal, as SQL."""
        found = dict(zip(self.key, self.operators, strict=False))
        return found.get(column, "OPERATOR(pg_catalog.=)")


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The state that was captured, as kept inside the database.

    ``tables`` are those with rows, ``sequences`` those that were not at their start; every other one in scope was
    empty, or at its start. ``excluded`` tables were left alone and stay so. ``migrations`` are the tables that list what
    was applied. ``shape`` is what the baseline depends on, by what people call it ("table public.book") with a
    description; it is compared before every use. ``captured_at`` is the server's time in ISO 8601. ``counters`` are those of
    the copies when their checksums were last verified: while they are the same, nobody has written to a copy. ``document``
    is the table that this was read from.
    """

    captured_at: str
    tables: Mapping[QualifiedName, BaselineTable]
    sequences: Mapping[QualifiedName, SequenceState]
    excluded: frozenset[QualifiedName] = frozenset()
    shape: Mapping[str, str] = field(default_factory=dict)

    migrations: tuple[QualifiedName, ...] = ()
    counters: str = field(default="", compare=False)
    document: QualifiedName | None = field(default=None, compare=False)

    @cached_property
    def kept_in(self) -> frozenset[QualifiedName]:
        """The tables without writes to which it still holds: document, copies, and the lists of applied migrations."""
        own = {table.copy for table in self.tables.values()} | ({self.document} if self.document is not None else set())
        return frozenset({*self.migrations, *own})

    @property
    def rows(self) -> int:
        """The rows that it holds, in all."""
        return sum(table.rows for table in self.tables.values())


MIGRATIONS_IN = "the list of migrations in "
"""How the entries of a shape begin that tell which migrations were applied."""

KIND_OF = "the kind of "
"""How the entries of a shape begin that tell what a table is, and where it belongs."""


def describe_tables(schema: Schema) -> dict[str, str]:
    """Describe which tables and sequences there are, whether or not they hold rows, and of what kind."""
    shape = {f"table {table.name}": "" for table in schema.tables}
    shape |= {f"{KIND_OF}table {table.name}": _kind(table) for table in schema.tables}
    return shape | {f"sequence {sequence.name}": _sequence(sequence) for sequence in schema.sequences}


def _kind(table: Table) -> str:
    kind = f"{'unlogged ' if table.unlogged else ''}{table.kind}"
    return "\n".join([kind, *(f"{'partition of' if table.is_partition else 'inherits'} {n}" for n in table.inherits)])


def _sequence(sequence: Sequence) -> str:
    limits = f"minimum {sequence.minimum}\nmaximum {sequence.maximum}{chr(10) + 'cycle' if sequence.cycle else ''}"
    return f"{sequence.data_type}\nstart {sequence.start}\nincrement {sequence.increment}\n{limits}"


def migration_tables(schema: Schema) -> tuple[QualifiedName, ...]:
    """Return the tables in which Django lists the migrations that were applied."""
    return tuple(table.name for table in schema.tables if table.name.name == MIGRATIONS_TABLE)


def compare_shapes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """Yield, in order, what differs between the shape at the capture and the present one, as people say it."""
    for what in sorted({*before, *after}, key=lambda what: (what.removeprefix(KIND_OF), what)):
        if what not in before or what not in after:
            # That of a table that came or went is told with the table.
            if not what.startswith(KIND_OF):
                yield f"{what} is {'new' if what in after else 'gone'}"
        elif not is_same_shape(before[what], after[what]):
            yield f"{what} has changed{_first_difference(before[what], after[what])}"


_ENUM = "(enum) "


def is_same_shape(before: str, after: str) -> bool:
    """Whether two descriptions say the same, but for values that an enum has got since."""
    if before == after or _ENUM not in after:
        return before == after
    known = before.split("\n")
    return known == [line for line in after.split("\n") if line in known or not line.startswith(_ENUM)]


def _first_difference(before: str, after: str) -> str:
    old, new = before.split("\n"), after.split("\n")
    gone = [line for line in old if line and line not in set(new)]
    came = [line for line in new if line and line not in set(old)]
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
