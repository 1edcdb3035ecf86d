"""Which tables of a SQLite catalog a reset may look at, and why the others are left out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testdb_app.backends.base import OWN_SCHEMA
from testdb_app.backends.sqlite.sql import fold
from testdb_app.baseline_state import KEPT_STATES
from testdb_app.schema import QualifiedName

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from testdb_app.backends.sqlite.snapshot import Database
    from testdb_app.backends.sqlite.virtual import VirtualTable

MARK_TABLES = frozenset({f"{OWN_SCHEMA}_protected", f"{OWN_SCHEMA}_test"})
DOCUMENTS = {state: QualifiedName("main", f"{OWN_SCHEMA}_{state}") for state in KEPT_STATES}
"""The tables that say what the baseline is, and the other kept states."""

_BASELINE = re.compile(rf"{OWN_SCHEMA}_({'|'.join(KEPT_STATES)})(_[0-9]+)?\Z")

_SPATIALITE = frozenset(
    {
        "data_licenses", "geometry_columns", "geometry_columns_auth", "geometry_columns_field_infos",
        "geometry_columns_statistics", "geometry_columns_time", "raster_coverages", "spatial_ref_sys",
        "spatial_ref_sys_all", "spatial_ref_sys_aux", "spatialite_history", "sql_statements_log",
        "views_geometry_columns", "views_geometry_columns_auth", "views_geometry_columns_field_infos",
        "views_geometry_columns_statistics", "virts_geometry_columns", "virts_geometry_columns_auth",
        "virts_geometry_columns_field_infos", "virts_geometry_columns_statistics",
    }
)  # fmt: skip
"""What SpatiaLite (GeoDjango's SQLite) needs to work, as ``InitSpatialMetaData()`` makes it."""


def is_baseline_table(folded: str) -> bool:
    """Whether a table of "main" is one that a baseline is kept in, by its folded name."""
    return _BASELINE.match(folded) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of a catalog: a table (``root`` 0: a virtual one) or a trigger."""

    name: QualifiedName
    kind: str
    table: str
    root: int
    sql: str


def reasons_left_out(
    databases: Sequence[Database],
    tables: Sequence[Entry],
    virtual: Mapping[QualifiedName, VirtualTable],
    *,
    broken: Mapping[QualifiedName, str],
    shadows: Collection[QualifiedName],
) -> dict[QualifiedName, str]:
    """Return the tables that no reset touches, each with its reason.

    Parameters: *broken*, the virtual tables that cannot be read, with SQLite's reason; *shadows*, the tables that
    store the rows of virtual ones.
    """
    files = {database.name: database.file for database in databases}
    names = {(entry.name.schema, entry.name.name) for entry in tables}
    spatial = {name for name in files if {(name, "spatial_ref_sys"), (name, "geometry_columns")} <= names}

    def reasons(name: QualifiedName) -> Iterator[str]:
        folded = fold(name.name)
        if name.schema == "temp":
            yield "a temporary table of this connection"
        if name.schema != "main" and files[name.schema]:
            yield f"in the attached file {files[name.schema]}, which is not known to be a test database"
        if folded.startswith("sqlite_"):
            yield "an internal table of SQLite"
        if name.schema == "main" and folded in MARK_TABLES:
            yield "a mark of testdb_app"
        if name.schema == "main" and is_baseline_table(folded):
            yield "kept by testdb_app itself"
        if name in shadows:
            yield "storage of a virtual table"
        if name.schema in spatial and folded in _SPATIALITE:
            yield "metadata of SpatiaLite"
        if name in virtual and virtual[name].shows_other_tables:
            yield f"a virtual table that shows others ({virtual[name].module})"
        if name in broken:
            yield broken[name]

    return {entry.name: why for entry in tables if (why := next(reasons(entry.name), None))}
