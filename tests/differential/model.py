"""What is known of a random schema while statements are written for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from testdb_app.backends.postgresql.sql import quote, quote_literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: its name, quoted; its type; literals for its values; how it gets one by itself.

    ``source`` is "", "serial", "always", "by default" (identities), "shared" (the default is a sequence of its own) or
    "generated".
    """

    name: str
    type: str
    values: tuple[str, ...]
    source: str = ""
    nullable: bool = True

    @property
    def has_default(self) -> bool:
        return self.source not in {"", "generated"}


@dataclass(slots=True, kw_only=True)
class Table:
    """A table: its name as SQL writes it, its columns, its key (columns), and what kind of table it is.

    ``kind`` is "plain", "unlogged", "partitioned", "partition", "branch", "ancestor" or "heir".
    """

    schema: str
    name: str
    columns: list[Column]
    key: tuple[str, ...] = ()
    key_is: str = "no key"
    kind: str = "plain"
    is_referable: bool = False
    heirs: list[Table] = field(default_factory=list)

    @property
    def sql(self) -> str:
        """Its qualified name."""
        return f"{quote(self.schema)}.{quote(self.name)}"

    @property
    def literal(self) -> str:
        """Its qualified name as a text."""
        return quote_literal(self.sql)

    @property
    def settable(self) -> list[Column]:
        """The columns that take values."""
        return [column for column in self.columns if column.source != "generated"]

    @property
    def keys(self) -> list[Column]:
        """The columns of the key."""
        return [column for column in self.columns if column.name in self.key]

    @property
    def plain(self) -> list[Column]:
        """The columns that take any value of their type, by INSERT and UPDATE."""
        return [column for column in self.settable if column.source != "always" and column.name not in self.key]

    @property
    def stores_rows(self) -> bool:
        return self.kind not in {"partitioned", "branch"}


@dataclass(slots=True, kw_only=True)
class Model:
    """The whole schema: tables, sequences (as SQL writes them), triggers and functions, and what makes it all."""

    schemas: tuple[str, ...]
    tables: list[Table] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    triggers: list[tuple[Table, str]] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    partitions: list[tuple[Table, Table, str]] = field(default_factory=list)
    made: list[tuple[str, str]] = field(default_factory=list)

    def add(self, what: str, sql: str) -> None:
        """Remember a statement that makes something, and what that is."""
        self.made.append((what, sql))

    @property
    def home(self) -> str:
        """The schema of types and functions."""
        return self.schemas[-1]

    @property
    def storing(self) -> list[Table]:
        return [table for table in self.tables if table.stores_rows]
