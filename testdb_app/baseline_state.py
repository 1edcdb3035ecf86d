"""The baseline as a value: its tables, sequences and shape, and the document that a database keeps of it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from testdb_app.exceptions import BaselineDamagedError, BaselineFormatError
from testdb_app.schema import QualifiedName, Schema, SequenceInfo, Table

MIGRATIONS_TABLE = "django_migrations"
"""The name of Django's list of applied migrations, in whatever schema: without its rows each would run again."""

BASELINE, FLUSHED = "baseline", "flushed"
"""The states that a database keeps, one of each: the baseline, and what a flush leaves; see :mod:`testdb_app.teardown`."""
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


def _sequence(sequence: SequenceInfo) -> str:
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


_VERSION = 2
_EARLIER = 1
"""The format without checksums: a copy has the columns of its table, of the types of that time."""


def to_document(baseline: Baseline) -> dict[str, Any]:
    """Return *baseline* as JSON's types, with a digest of it all."""
    document = {
        "version": _VERSION,
        "captured_at": baseline.captured_at,
        "tables": [
            {
                "name": [table.name.schema, table.name.name],
                "copy": [table.copy.schema, table.copy.name],
                "rows": table.rows,
                "columns": [
                    [c.name, c.is_generated, c.is_fixed, c.type, c.kept_as, c.collation, c.is_exact]
                    for c in table.columns
                ],
                "checksum": table.checksum,
                "key": list(table.key),
                "operators": list(table.operators),
            }
            for table in baseline.tables.values()
        ],
        "sequences": [
            [name.schema, name.name, state.last_value, state.is_called] for name, state in baseline.sequences.items()
        ],
        "excluded": sorted([name.schema, name.name] for name in baseline.excluded),
        "migrations": [[name.schema, name.name] for name in baseline.migrations],
        "shape": dict(baseline.shape),
    }
    return {**document, "digest": _digest(document)}


def _digest(document: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in document.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def not_as_captured(where: str, faults: Iterable[str]) -> BaselineDamagedError:
    """Return the error for a baseline with these *faults*, in the database that *where* names."""
    changes = list(faults)
    listed = "; ".join(changes[:5]) + (f"; and {len(changes) - 5} more" if len(changes) > 5 else "")
    return BaselineDamagedError(
        f"The baseline of {where} is damaged: {listed}. Nothing was changed. Have the database made anew (--create-db, or "
        "without --keepdb), or bring it to the state that is meant and capture that: resetdb --recapture, or "
        "capture_baseline(replace=True).",
        changes=changes,
    )


def from_document(document: Mapping[str, Any], *, where: str = "this database") -> Baseline:
    """Return the baseline of a document. Raises :class:`BaselineFormatError` for one of another version.

    *where* names the database for the message. Raises :class:`BaselineDamagedError` for a document that somebody has edited.
    """
    try:
        baseline = _parse(document, where)
        if document["digest"] == _digest(document):
            return baseline
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise not_as_captured(where, [f"its document cannot be read ({type(error).__name__}: {error})"]) from error
    raise not_as_captured(where, ["its document was edited"])


def _parse(document: Mapping[str, Any], where: str) -> Baseline:
    if document.get("version") != _VERSION:
        raise BaselineFormatError(
            f"The baseline in {where} was captured by another version of testdb_app (format {document.get('version')}, this "
            f"one reads {_VERSION}). Nothing was changed. Capture it again: resetdb --recapture."
        )
    tables = [
        BaselineTable(
            name=QualifiedName(*table["name"]),
            copy=QualifiedName(*table["copy"]),
            rows=table["rows"],
            columns=tuple(
                BaselineColumn(name=n, is_generated=g, is_fixed=f, type=t, kept_as=k, collation=c, is_exact=e)
                for n, g, f, t, k, c, e in table["columns"]
            ),
            checksum=table["checksum"],
            key=tuple(table["key"]),
            operators=tuple(table["operators"]),
        )
        for table in document["tables"]
    ]
    return _assemble(document, tables)


def from_earlier_document(document: Mapping[str, Any], *, where: str) -> Baseline:
    """Return the baseline of a document of the format before this one, to compare what is there with its copies.

    Raises :class:`BaselineFormatError` for a document that is none.
    """
    try:
        if document["version"] == _EARLIER:
            tables = [
                BaselineTable(
                    name=QualifiedName(*table["name"]),
                    copy=QualifiedName(*table["copy"]),
                    rows=table["rows"],
                    columns=tuple(BaselineColumn(name=n, is_generated=g, is_fixed=f) for n, g, f in table["columns"]),
                    key=tuple(table["key"]),
                )
                for table in document["tables"]
            ]
            return _assemble(document, tables)
        why = f"its format is {document['version']}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = f"its document cannot be read ({type(error).__name__}: {error})"
    raise not_proved(where, [why])


def not_proved(where: str, changes: Iterable[str]) -> BaselineFormatError:
    """Return the error for a baseline of another format in a database that may not be as it was captured."""
    found = list(changes)
    listed = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
    return BaselineFormatError(
        f"The baseline of {where} was captured by another version of testdb_app, and what is there now may hold rows of an "
        f"earlier run: {listed}. Nothing was changed. Have the database made anew (--create-db, or without --keepdb), or "
        "bring it to the state that is meant and capture that: resetdb --recapture.",
        changes=found,
    )


def _assemble(document: Mapping[str, Any], tables: Iterable[BaselineTable]) -> Baseline:
    return Baseline(
        captured_at=document["captured_at"],
        tables={table.name: table for table in tables},
        sequences={
            QualifiedName(schema, name): SequenceState(last_value=value, is_called=called)
            for schema, name, value, called in document["sequences"]
        },
        excluded=frozenset(QualifiedName(*name) for name in document["excluded"]),
        migrations=tuple(QualifiedName(*name) for name in document["migrations"]),
        shape=document["shape"],
    )
