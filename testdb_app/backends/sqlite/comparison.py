"""Whether tables are as the baseline has them. What that takes is written once, and kept until the schema changes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testdb_app.backends.sqlite.errors import fetch
from testdb_app.backends.sqlite.restoring import SIGN, probe
from testdb_app.backends.sqlite.shapes import TableShape, describe_shapes, read_migrations, read_shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

    from testdb_app.backends.sqlite.catalog import Catalog
    from testdb_app.baseline_state import Baseline
    from testdb_app.schema import QualifiedName

_KNOWN = "_testdb_known_comparison"
"""The attribute of a connection that keeps the last comparison."""

_LENGTH = 100_000
"""Characters of one compound query, and its terms: SQLite's limits are 1,000,000 and 500."""
_TERMS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How to compare the tables of a ``baseline``, in the schema of ``token`` and over one ``connection``.

    ``names`` are the tables in order, and ``probes`` the queries that return the numbers of those that differ. It is not
    ``is_possible`` where the tables, or their copies, are not those of the capture any more. ``has_sign`` tells whether the
    connection has the function for it.
    """

    connection: object
    baseline: Baseline
    token: str
    tables: Mapping[QualifiedName, TableShape]
    migrations: Mapping[QualifiedName, TableShape]
    names: tuple[QualifiedName, ...]
    probes: tuple[str, ...]
    is_possible: bool
    has_sign: bool


def read_comparison(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, catalog: Catalog, baseline: Baseline
) -> Comparison:
    """Return the comparison with *baseline*: the one kept from the last look, or a new one."""
    raw = connection.connection
    known: Comparison | None = getattr(connection, _KNOWN, None)
    if known is not None and known.connection is not raw:
        known = None
    if known is not None and known.token == catalog.token and known.baseline == baseline:
        return known
    names = tuple(sorted(baseline.tables))
    tables = read_shapes(connection, cursor, catalog, names)
    is_same = all(baseline.shape.get(what) == text for what, text in describe_shapes(tables).items())
    own = {left.name for left in catalog.left_out}
    are_there = tables.keys() == set(names) and {table.copy for table in baseline.tables.values()} <= own
    is_captured = any(baseline.captured_at in capture for capture in catalog.captures)
    is_possible = is_same and are_there and is_captured
    has_sign = known is not None and known.has_sign
    if not has_sign and any(shape.loose for shape in tables.values()):
        raw.create_function(SIGN, 1, _is_negative, deterministic=True)
        has_sign = True
    probes = (probe(number, baseline.tables[name], tables[name]) for number, name in enumerate(names))
    found = Comparison(
        connection=raw,
        baseline=baseline,
        token=catalog.token,
        tables=tables,
        migrations=read_shapes(connection, cursor, catalog, baseline.migrations),
        names=names,
        probes=tuple(_compound(probes)) if is_possible else (),
        is_possible=is_possible,
        has_sign=has_sign,
    )
    setattr(connection, _KNOWN, found)
    return found


def _is_negative(number: float) -> bool:
    return math.copysign(1, number) < 0


def _compound(terms: Iterable[str]) -> Iterator[str]:
    chunk: list[str] = []
    for term in terms:
        if chunk and (len(chunk) == _TERMS or sum(map(len, chunk)) + len(term) > _LENGTH):
            yield " UNION ALL ".join(chunk)
            chunk = []
        chunk.append(term)
    if chunk:
        yield " UNION ALL ".join(chunk)


def find_differing(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, comparison: Comparison
) -> list[QualifiedName]:
    """Return the tables that are not as the baseline has them. Cost: one reading of their rows, and of the copies'."""
    return [comparison.names[number] for query in comparison.probes for (number,) in fetch(connection, cursor, query)]


def describe(connection: BaseDatabaseWrapper, cursor: CursorWrapper, comparison: Comparison) -> dict[str, str]:
    """Describe what the baseline depends on, as it is now: its tables, and the list of migrations."""
    migrations = read_migrations(connection, cursor, comparison.migrations)
    return describe_shapes(comparison.tables) | migrations
