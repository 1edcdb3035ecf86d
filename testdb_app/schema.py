"""The schema of a database as frozen values: tables, keys, sequences, triggers, rules; and the display of names.

Pure: no Django, no I/O. A backend's introspection makes the values; the graph, the plan and ``showdeps`` read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import NamedTuple


@lru_cache(maxsize=4096)
def show_part(part: str) -> str:
    """Return one identifier: bare if it is plain, otherwise in double quotes as in SQL.

    Invisible characters (control characters, line ends, bidirectional marks, unusual spaces) are escaped in
    SQL's own ``U&"…"`` form. So every name is on one line, and none hides a character.
    """
    if part.isidentifier() and part == part.lower():
        return part
    if part.isprintable():
        return '"' + part.replace('"', '""') + '"'
    return 'U&"' + "".join(map(_escaped, part)) + '"'


def on_one_line(text: str, *, keep: str = "") -> str:
    """Return *text* with invisible characters escaped as in a Python string, except the characters of *keep*.

    Control characters would command the terminal, and bidirectional marks would reverse the text after them.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


def list_some(words: Iterable[str], *, most: int = 5, between: str = ", ") -> str:
    """Return the first *most* of *words*, with *between* them, and the number of the others."""
    found = list(words)
    listed, others = between.join(found[:most]), len(found) - most
    return f"{listed}{between.strip(', ')} and {others} more" if others > 0 else listed


def _escaped(char: str) -> str:
    if char == '"':
        return '""'
    if char == "\\":
        return r"\\"
    if char.isprintable():
        return char
    return f"\\{ord(char):04X}" if ord(char) <= 0xFFFF else f"\\+{ord(char):06X}"


class QualifiedName(NamedTuple):
    """The name of a relation with its schema, as the catalog spells it (unquoted, no case folding).

    A tuple, because names are often hashed and compared: tuples do that ten times as fast as data classes.
    """

    schema: str
    name: str

    @lru_cache(maxsize=4096)  # noqa: B019 - names are small, and written again and again
    def __str__(self) -> str:
        # Other vendors have no schemas.
        return ".".join(show_part(part) for part in (self.schema, self.name) if part or part is self.name)


HEAP = "heap"
"""The access method of PostgreSQL's own tables. The server reports sizes and writes reliably only for this one."""


class TableKind(StrEnum):
    """The kind of a table: it stores rows, it is divided into partitions, or it is virtual (SQLite)."""

    ORDINARY = "ordinary"
    PARTITIONED = "partitioned"
    VIRTUAL = "virtual"


class OnDelete(StrEnum):
    """The action of a foreign key when a referenced row is deleted or its key is updated."""

    NO_ACTION = "NO ACTION"
    RESTRICT = "RESTRICT"
    CASCADE = "CASCADE"
    SET_NULL = "SET NULL"
    SET_DEFAULT = "SET DEFAULT"

    @property
    def changes_rows(self) -> bool:
        """Whether the action writes to the referencing table instead of refusing."""
        return self in {OnDelete.CASCADE, OnDelete.SET_NULL, OnDelete.SET_DEFAULT}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Trigger:
    """A user's trigger. ``enabled`` is "origin", "always", "replica" or "disabled"; ``definition`` is SQL or empty."""

    name: str
    events: tuple[str, ...]
    enabled: str = "origin"
    definition: str = ""

    def fires_on(self, event: str) -> bool:
        """Whether a statement of the kind *event* ("DELETE", "TRUNCATE" …) fires it in an ordinary session."""
        return event in self.events and self.enabled in {"origin", "always"}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Rule:
    """A rewrite rule on a table: ``event`` is "INSERT", "UPDATE" or "DELETE"; ``enabled`` as for a trigger."""

    name: str
    event: str
    enabled: str = "origin"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaIdentity:
    """The events that the server refuses on a published table, because a subscriber could not identify its rows.

    - ``publications``: the names of the publications that cause it.
    - ``refused``: the events, "DELETE" and "UPDATE".
    - ``clause``: the SQL that restores the replica identity after ``REPLICA IDENTITY FULL``; None if FULL does not help,
      or if no SQL restores it.
    - ``may_truncate``: whether the connected role may truncate the table.
    """

    publications: tuple[str, ...]
    refused: frozenset[str]
    clause: str | None = None
    may_truncate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table.

    - ``inherits``: the tables that it is a partition or an inheritance child of.
    - ``extension``: the extension that it belongs to.
    - ``owned``: whether the connected role may alter it.
    - ``hides_rows``: whether row security applies to the connected role.
    - ``row_security_forced``: whether row security applies to the owner too.
    - ``replica_identity``: set if the server refuses statements because of a publication.
    - ``access_method``: the access method that stores its rows.
    - ``stored_by``: the role of the table in an extension that stores its rows elsewhere.
    - ``oid``: the same after a rename; None if the vendor has no OIDs.
    """

    name: QualifiedName
    kind: TableKind = TableKind.ORDINARY
    is_partition: bool = False
    inherits: tuple[QualifiedName, ...] = ()
    extension: str | None = None
    owner: str = ""
    owned: bool = True
    unlogged: bool = False
    hides_rows: bool = False
    row_security_forced: bool = False
    triggers: tuple[Trigger, ...] = ()
    rules: tuple[Rule, ...] = ()
    replica_identity: ReplicaIdentity | None = None
    access_method: str = HEAP
    stored_by: str | None = None
    oid: int | None = field(default=None, compare=False)

    @property
    def refused(self) -> frozenset[str]:
        """The events that the server refuses because of a publication, and that this role cannot make it accept."""
        identity = self.replica_identity
        if identity is None or (self.owned and identity.clause is not None):
            return frozenset()
        return identity.refused

    @property
    def stores_rows(self) -> bool:
        """Whether this relation itself stores rows; a partitioned table's rows are in its partitions."""
        return self.kind is not TableKind.PARTITIONED


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A foreign key from the referencing ``table`` to the ``referenced`` one.

    - ``inherited``: a copy that PostgreSQL keeps for partitions. It constrains rows, but nobody declared it.
    - ``indexed``: whether an index finds the rows that refer to a given row.
    - ``operators``: the SQL operators that compare each referenced column with its referencing one; empty if the vendor
      has only one.
    - ``has_period``: a temporal key; its last column is a range that several referenced rows may cover together.
    - ``enforced``: whether the server checks the key. If not, rows may break it, and it has no actions.
    """

    name: str
    table: QualifiedName
    columns: tuple[str, ...]
    referenced: QualifiedName
    referenced_columns: tuple[str, ...]
    on_delete: OnDelete = OnDelete.NO_ACTION
    on_update: OnDelete = OnDelete.NO_ACTION
    deferrable: bool = False
    initially_deferred: bool = False
    match_full: bool = False
    inherited: bool = False
    indexed: bool = True
    operators: tuple[str, ...] = ()
    has_period: bool = False
    enforced: bool = True

    def __str__(self) -> str:
        return f"{self.table}({', '.join(self.columns)}) → {self.referenced}({', '.join(self.referenced_columns)})"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SequenceUse:
    """A column that uses a sequence; ``how`` is "identity", "owned", "default" or "rowid" (SQLite)."""

    table: QualifiedName
    column: str
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceInfo:
    """A sequence and the columns that use it. ``owned``, ``readable``: whether the connected role may alter it, and read it."""

    name: QualifiedName
    start: int = 1
    increment: int = 1
    minimum: int = 1
    maximum: int = 2**63 - 1
    cache: int = 1
    cycle: bool = False
    data_type: str = "bigint"
    extension: str | None = None
    owned: bool = True
    readable: bool = True
    uses: tuple[SequenceUse, ...] = ()

    @property
    def tables(self) -> frozenset[QualifiedName]:
        """The tables that use it."""
        return frozenset(use.table for use in self.uses)


Sequence = SequenceInfo
"""The earlier name of :class:`SequenceInfo`, until the first release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedRelation:
    """A materialized view and the tables that it reads."""

    name: QualifiedName
    tables: tuple[QualifiedName, ...]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class LeftOut:
    """A relation that a reset leaves alone, and the reason."""

    name: QualifiedName
    reason: str


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The structure of a database, as far as a reset depends on it. All tuples are sorted by name.

    - ``token``: a cheap check for changes; equal tokens mean equal schemas.
    - ``search_path``: the schemas in which bare names are resolved.
    - ``trusted_owners``: OIDs of the roles whose relations in the app's own schema this role may read (PostgreSQL).
    """

    vendor: str
    tables: tuple[Table, ...]
    foreign_keys: tuple[ForeignKey, ...] = ()
    sequences: tuple[SequenceInfo, ...] = ()
    materialized_views: tuple[DerivedRelation, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    search_path: tuple[str, ...] = ()
    has_ddl_event_triggers: bool = False
    trusted_owners: tuple[int, ...] = field(default=(), compare=False)
    token: str = field(default="", compare=False)

    @cached_property
    def by_name(self) -> Mapping[QualifiedName, Table]:
        """The tables by qualified name."""
        return {table.name: table for table in self.tables}

    @cached_property
    def sequences_by_name(self) -> Mapping[QualifiedName, SequenceInfo]:
        """The sequences by qualified name."""
        return {sequence.name: sequence for sequence in self.sequences}

    @cached_property
    def referencing(self) -> Mapping[QualifiedName, tuple[ForeignKey, ...]]:
        """For every referenced table, the enforced foreign keys that reference it."""
        found: dict[QualifiedName, list[ForeignKey]] = {}
        for key in self.enforced_foreign_keys:
            found.setdefault(key.referenced, []).append(key)
        return {name: tuple(keys) for name, keys in found.items()}

    @cached_property
    def inert(self) -> frozenset[QualifiedName]:
        """The tables whose rows can be written without any effect elsewhere that a reset must prevent.

        Neither they nor the tables that reference them have triggers, rules, row security, a replica identity or a parent.
        """
        quiet = {
            table.name
            for table in self.tables
            if table.stores_rows
            and not (table.triggers or table.rules or table.hides_rows or table.replica_identity or table.inherits)
        }
        return frozenset(name for name in quiet if all(key.table in quiet for key in self.referencing.get(name, ())))

    @cached_property
    def refusing(self) -> tuple[Table, ...]:
        """The tables on which the server refuses statements of this role because of a publication."""
        return tuple(table for table in self.tables if table.refused)

    @cached_property
    def outside_heap(self) -> frozenset[QualifiedName]:
        """The tables whose rows another access method stores; nothing shows whether they were written to."""
        return frozenset(table.name for table in self.tables if table.stores_rows and table.access_method != HEAP)

    @cached_property
    def partitions(self) -> Mapping[QualifiedName, tuple[QualifiedName, ...]]:
        """For every partitioned table, its direct partitions."""
        found: dict[QualifiedName, list[QualifiedName]] = {}
        for table in self.tables:
            if table.is_partition:
                for root in table.inherits:
                    found.setdefault(root, []).append(table.name)
        return {name: tuple(children) for name, children in found.items()}

    @cached_property
    def enforced_foreign_keys(self) -> tuple[ForeignKey, ...]:
        """The foreign keys that the server enforces."""
        return tuple(key for key in self.foreign_keys if key.enforced)

    @property
    def declared_foreign_keys(self) -> tuple[ForeignKey, ...]:
        """The foreign keys as declared, without the copies for partitions."""
        return tuple(key for key in self.foreign_keys if not key.inherited)

    def resolve(self, schema: str | None, name: str) -> QualifiedName | None:
        """Return the table with that name, None if there is none. Without *schema* the search path is used."""
        for candidate in [schema] if schema is not None else self.search_path:
            qualified = QualifiedName(candidate, name)
            if qualified in self.by_name:
                return qualified
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column as the catalog describes it.

    ``data_type`` and ``default`` are the vendor's own text; ``default`` is empty if there is none. ``generated`` is
    "identity" or "generated" if the server gives the value, otherwise empty.
    """

    name: str
    data_type: str
    nullable: bool = True
    default: str = ""
    generated: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueKey:
    """A unique key: its columns, with None for an expression.

    ``partial_index`` names a partial unique index, which only covers the rows that meet its condition.
    """

    columns: tuple[str | None, ...]
    is_primary: bool = False
    partial_index: str = ""

    @property
    def place(self) -> tuple[bool, tuple[str, ...], str]:
        """The sort key: the primary key comes first, then the columns decide."""
        return not self.is_primary, tuple(column or "" for column in self.columns), self.partial_index


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDetails:
    """The columns of a table in their order, its unique keys with the primary one first, and its number of rows.

    ``rows`` is None if the number is unknown without counting, or may not be read. ``is_estimate``: the server
    estimates it.
    """

    columns: tuple[Column, ...] = ()
    unique_keys: tuple[UniqueKey, ...] = ()
    rows: int | None = None
    is_estimate: bool = False


NO_DETAILS = TableDetails()
"""The details of a table for which none were read."""


def gather_details(
    tables: Iterable[QualifiedName],
    *,
    columns: Mapping[QualifiedName, list[Column]],
    unique_keys: Mapping[QualifiedName, list[UniqueKey]],
    rows: Mapping[QualifiedName, int | None],
    is_estimate: bool = False,
) -> dict[QualifiedName, TableDetails]:
    """Combine the columns, keys and numbers of rows that were read for *tables*; missing ones stay empty or None."""
    return {
        name: TableDetails(
            columns=tuple(columns.get(name, ())),
            unique_keys=tuple(sorted(unique_keys.get(name, ()), key=lambda key: key.place)),
            rows=rows.get(name),
            is_estimate=is_estimate and rows.get(name) is not None,
        )
        for name in tables
    }
