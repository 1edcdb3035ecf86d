"""What a picture shows of a table besides its keys: columns, unique keys, rows. A reset needs none of it, and reads none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from testdb_app.schema import QualifiedName


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
