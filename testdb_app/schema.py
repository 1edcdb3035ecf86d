"""The schema of a database as frozen values: tables, keys, sequences, triggers, rules, and how names are shown.

Pure values: no Django, no I/O. A backend's introspection makes them; the graph, the plan and the pictures read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import NamedTuple


@lru_cache(maxsize=4096)
def show_part(part: str) -> str:
    """Return one identifier: bare where that is plain, else in double quotes as in SQL.

    What cannot be seen (control characters, line ends, bidirectional marks, unusual spaces) is escaped in
    SQL's own ``U&"…"`` form, so that every name is one line and none hides a character.
    """
    if part.isidentifier() and part == part.lower():
        return part
    if part.isprintable():
        return '"' + part.replace('"', '""') + '"'
    return 'U&"' + "".join(map(_escaped, part)) + '"'


def on_one_line(text: str, *, keep: str = "") -> str:
    """Return *text* with what cannot be seen escaped, as in a Python string, but for the characters of *keep*.

    Control characters would command the terminal, and bidirectional marks turn round what follows.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


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

    A tuple, because names are hashed and compared all the time, and tuples do that ten times as fast as data classes.
    """

    schema: str
    name: str

    @lru_cache(maxsize=4096)  # noqa: B019 - names are small, and written again and again
    def __str__(self) -> str:
        # Backends of other vendors know no schema.
        return ".".join(show_part(part) for part in (self.schema, self.name) if part or part is self.name)


HEAP = "heap"
"""The access method of PostgreSQL's own tables. What the server tells of sizes and of writes holds for it alone."""


class TableKind(StrEnum):
    """What a table is: one that stores rows, the root or branch of partitions, or a virtual one (SQLite)."""

    ORDINARY = "ordinary"
    PARTITIONED = "partitioned"
    VIRTUAL = "virtual"


class OnDelete(StrEnum):
    """The action of a foreign key when a referenced row is deleted, or its key updated."""

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
        """Whether a statement of that kind ("DELETE", "TRUNCATE" …) of an ordinary session fires it."""
        return event in self.events and self.enabled in {"origin", "always"}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Rule:
    """A rewrite rule on a table: ``event`` is "INSERT", "UPDATE" or "DELETE"; ``enabled`` as for a trigger."""

    name: str
    event: str
    enabled: str = "origin"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaIdentity:
    """The server refuses some statements on a published table, because a subscriber could not tell its rows apart.

    ``publications`` name the publications for which it does; ``refused`` are the events, "DELETE" and "UPDATE". ``clause`` is
    what puts the replica identity back after ``REPLICA IDENTITY FULL``; None where FULL does not help, or nothing would put
    it back. ``may_truncate`` tells whether the connected role may truncate the table.
    """

    publications: tuple[str, ...]
    refused: frozenset[str]
    clause: str | None = None
    may_truncate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table. ``inherits`` names the tables it is a partition or an inheritance child of.

    ``owned`` tells whether the connected role may alter it; ``hides_rows`` whether row security applies to that
    role; ``row_security_forced`` whether it applies to owners too. ``extension`` names the extension it belongs to.
    ``access_method`` names what stores its rows; ``stored_by`` says what the table is to an extension that does so elsewhere.
    ``replica_identity`` is there where a publication has the server refuse statements. ``oid`` stays when it is renamed;
    None where the vendor has no such number.
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
        """The events that a publication has the server refuse, and that this role cannot make it accept."""
        identity = self.replica_identity
        if identity is None or (self.owned and identity.clause is not None):
            return frozenset()
        return identity.refused

    @property
    def stores_rows(self) -> bool:
        """Whether rows live in this very relation (a partitioned table's live in its partitions)."""
        return self.kind is not TableKind.PARTITIONED


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A foreign key from the referencing ``table`` to the ``referenced`` one.

    ``inherited`` marks the copies that PostgreSQL keeps for partitions: they constrain, but nobody declared them.
    ``indexed`` tells whether an index leads to the rows that refer to a given one. ``operators`` are the ones by which the
    server compares a referenced column with a referencing one, as its SQL writes them; none where it has but one.
    ``has_period`` marks a temporal key, whose last column is a range that several rows cover together. One that is not
    ``enforced`` is only told: no row has to obey it, and the server does nothing for it.
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
    """A column that uses a sequence: ``how`` is "identity", "owned", "default" or "rowid" (SQLite)."""

    table: QualifiedName
    column: str
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceInfo:
    """A sequence and who uses it. ``owned`` as for a table."""

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
    uses: tuple[SequenceUse, ...] = ()

    @property
    def tables(self) -> frozenset[QualifiedName]:
        """The tables that use it."""
        return frozenset(use.table for use in self.uses)


Sequence = SequenceInfo
"""The earlier name of :class:`SequenceInfo`, until the first release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedRelation:
    """A materialized view and the tables that its rows come from."""

    name: QualifiedName
    tables: tuple[QualifiedName, ...]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class LeftOut:
    """A relation that a reset never looks at, and why."""

    name: QualifiedName
    reason: str


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Everything that a reset has to know of a database's structure.

    ``token`` is the backend's cheap sign of change: equal tokens, equal schema. ``search_path`` resolves bare names.
    ``trusted_owners`` are the OIDs of the roles whose relations in the app's own schema this role may read (PostgreSQL).
    All tuples are sorted by name.
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
        """For every referenced table, the foreign keys that point at it and are enforced."""
        found: dict[QualifiedName, list[ForeignKey]] = {}
        for key in self.enforced_foreign_keys:
            found.setdefault(key.referenced, []).append(key)
        return {name: tuple(keys) for name, keys in found.items()}

    @cached_property
    def refusing(self) -> tuple[Table, ...]:
        """The tables on which a publication has the server refuse statements of this role."""
        return tuple(table for table in self.tables if table.refused)

    @cached_property
    def outside_heap(self) -> frozenset[QualifiedName]:
        """The tables whose rows another access method stores: nothing tells whether they were written to."""
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
        """The foreign keys that rows have to obey."""
        return tuple(key for key in self.foreign_keys if key.enforced)

    @property
    def declared_foreign_keys(self) -> tuple[ForeignKey, ...]:
        """The foreign keys as declared, without the copies for partitions."""
        return tuple(key for key in self.foreign_keys if not key.inherited)

    def resolve(self, schema: str | None, name: str) -> QualifiedName | None:
        """Find a table by a name with or without schema; a bare one along the search path. None if there is none."""
        for candidate in [schema] if schema is not None else self.search_path:
            qualified = QualifiedName(candidate, name)
            if qualified in self.by_name:
                return qualified
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column as the catalog tells it.

    ``data_type`` and ``default`` are the vendor's own text; ``default`` is empty where there is none. ``generated`` says
    what gives the value where no one may: "identity" or "generated", else empty.
    """

    name: str
    data_type: str
    nullable: bool = True
    default: str = ""
    generated: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueKey:
    """What no two rows have alike: columns, or None for an expression.

    ``partial_index`` names the index whose condition the rows must meet, where not all of them count.
    """

    columns: tuple[str | None, ...]
    is_primary: bool = False
    partial_index: str = ""

    @property
    def place(self) -> tuple[bool, tuple[str, ...], str]:
        """What keys are sorted by: the primary one first, then by columns."""
        return not self.is_primary, tuple(column or "" for column in self.columns), self.partial_index


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDetails:
    """The columns in their order, the primary key before other unique keys, and the rows of the very table.

    ``rows`` is None where nobody knows them without counting, or may not count; ``is_estimate`` tells that the server
    guesses.
    """

    columns: tuple[Column, ...] = ()
    unique_keys: tuple[UniqueKey, ...] = ()
    rows: int | None = None
    is_estimate: bool = False


NO_DETAILS = TableDetails()
"""What is known of a table that nobody asked about."""


def gather_details(
    tables: Iterable[QualifiedName],
    *,
    columns: Mapping[QualifiedName, list[Column]],
    unique_keys: Mapping[QualifiedName, list[UniqueKey]],
    rows: Mapping[QualifiedName, int | None],
    is_estimate: bool = False,
) -> dict[QualifiedName, TableDetails]:
    """Put together what was read of each of *tables*; what is missing is empty, or not known."""
    return {
        name: TableDetails(
            columns=tuple(columns.get(name, ())),
            unique_keys=tuple(sorted(unique_keys.get(name, ()), key=lambda key: key.place)),
            rows=rows.get(name),
            is_estimate=is_estimate and rows.get(name) is not None,
        )
        for name in tables
    }
