"""The baseline as a value: its tables, sequences and shape; and the JSON document that stores it in the database. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from testdb_app.exceptions import BaselineDamagedError, BaselineFormatError
from testdb_app.schema import QualifiedName, Schema, SequenceInfo, Table, list_some

MIGRATIONS_TABLE = "django_migrations"
"""The table of applied migrations, in any schema. Without its rows every migration would run again."""

BASELINE, FLUSHED = "baseline", "flushed"
"""The states that a database keeps, one of each: the baseline, and the state after a flush; see :mod:`testdb_app.teardown`."""
KEPT_STATES = (BASELINE, FLUSHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceState:
    """The state of a sequence: the next value is ``last_value``, or the one after it if ``is_called``."""

    last_value: int
    is_called: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineColumn:
    """A column whose values a baseline keeps.

    - ``is_fixed``: an UPDATE cannot set it (GENERATED ALWAYS AS IDENTITY).
    - ``type``: the type, as SQL, to which a kept text is cast back.
    - ``kept_as``: the built-in type of the copy, as SQL, if the column's own type is user-defined; otherwise empty.
    - ``collation``: the column's collation, as SQL, if it is user-defined; otherwise empty.
    - ``is_exact``: equal hashes of values mean equal texts.
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
    """The comparison of a database with a baseline of an earlier format: ``changes``, and SQL that sets its sequences back."""

    changes: tuple[str, ...]
    restarts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineTable:
    """A table that had rows when the baseline was captured, their number, and the table ``copy`` with their copies.

    - ``key``: the columns that identify a row; empty if there is no primary key or similar key.
    - ``operators``: the equality operator of each of these columns, as SQL.
    - ``checksum``: the checksum of the copy.
    - ``loading``: the statements that make the copy as a temporary table, in each transaction that reads it; empty if
      the database keeps the copy.
    """

    name: QualifiedName
    copy: QualifiedName
    rows: int
    columns: tuple[BaselineColumn, ...] = ()
    key: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    checksum: str = ""
    loading: tuple[str, ...] = ()

    def operator(self, column: str) -> str:
        """Return the equality operator of *column*, as SQL."""
        found = dict(zip(self.key, self.operators, strict=False))
        return found.get(column, "OPERATOR(pg_catalog.=)")


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The captured state, as kept inside the database.

    - ``captured_at``: the server's time, in ISO 8601.
    - ``tables``: the tables that had rows. Every other table in scope was empty.
    - ``sequences``: the sequences that were not at their start.
    - ``excluded``: tables that were left alone, and that resets to this baseline leave alone.
    - ``shape``: the parts of the schema that the baseline depends on, by name ("table public.book") with a description.
      It is compared before every use.
    - ``migrations``: the tables that list applied migrations.
    - ``counters``: the counters of the copies when their checksums were last verified. While they are the same, nobody
      has written to a copy.
    - ``document``: the table that this baseline was read from.
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
        """The tables whose counters prove that it is intact: the document, the copies, and the lists of applied migrations."""
        own = {table.copy for table in self.tables.values()} | ({self.document} if self.document is not None else set())
        return frozenset({*self.migrations, *own})

    @property
    def loading(self) -> tuple[str, ...]:
        """The statements that make its copies; empty if the database keeps them."""
        return tuple(sql for table in self.tables.values() for sql in table.loading)

    @property
    def rows(self) -> int:
        """The number of all rows in it."""
        return sum(table.rows for table in self.tables.values())


MIGRATIONS_IN = "the list of migrations in "
"""The prefix of the entries of a shape that list applied migrations."""

KIND_OF = "the kind of "
"""The prefix of the entries of a shape that describe the kind of a table and its parents."""


def describe_tables(schema: Schema) -> dict[str, str]:
    """Return the entries of a shape for all tables and sequences, with or without rows."""
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
    """Return the tables in which Django lists the applied migrations."""
    return tuple(table.name for table in schema.tables if table.name.name == MIGRATIONS_TABLE)


def compare_shapes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """Yield each difference between the shape at the capture and the present one as a clause, in order."""
    for what in sorted({*before, *after}, key=lambda what: (what.removeprefix(KIND_OF), what)):
        if what not in before or what not in after:
            # The entry of a new or dropped table itself says enough.
            if not what.startswith(KIND_OF):
                yield f"{what} is {'new' if what in after else 'gone'}"
        elif not is_same_shape(before[what], after[what]):
            yield f"{what} has changed{_first_difference(before[what], after[what])}"


_ENUM = "(enum) "


def is_same_shape(before: str, after: str) -> bool:
    """Whether two descriptions are the same, apart from values that were added to an enum since."""
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


class RowChanges(NamedTuple):
    """The numbers of rows of a table that a reset removed, updated to their old values, and inserted again."""

    removed: int = 0
    updated: int = 0
    inserted: int = 0

    def __bool__(self) -> bool:
        return bool(self.removed or self.updated or self.inserted)


_VERSION = 2
_EARLIER = 1
"""The format without checksums: a copy has the columns of its table, with the same types."""


def to_document(baseline: Baseline) -> dict[str, Any]:
    """Return *baseline* as JSON's types, with a digest of the whole document."""
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
    listed = list_some(changes, between="; ")
    return BaselineDamagedError(
        f"The baseline of {where} is damaged: {listed}. Nothing was changed. Create the database again (--create-db, or "
        "without --keepdb). Or bring it to the intended state and capture that: resetdb --recapture, or "
        "capture_baseline(replace=True).",
        changes=changes,
    )


def from_document(document: Mapping[str, Any], *, where: str = "this database") -> Baseline:
    """Return the baseline of a document. *where* names the database for messages.

    Raises :class:`BaselineFormatError` for a document of another version, and :class:`BaselineDamagedError` for an edited
    or unreadable one.
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
    """Return the baseline of a document of the previous format, to compare the database with its copies.

    Raises :class:`BaselineFormatError` for any other document.
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
    """Return the error for a baseline of another format in a database that may have changed since the capture."""
    found = list(changes)
    listed = list_some(found, between="; ")
    return BaselineFormatError(
        f"The baseline of {where} was captured by another version of testdb_app, and the database may have rows of an "
        f"earlier run: {listed}. Nothing was changed. Create the database again (--create-db, or without --keepdb). Or "
        "bring it to the intended state and capture that: resetdb --recapture.",
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
