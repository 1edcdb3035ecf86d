"""The baseline inside a SQLite database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testdb_app.exceptions import UnsupportedError
from testdb_app.states import Baseline, describe_tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.schema import QualifiedName, Schema


def read_baseline(connection: BaseDatabaseWrapper) -> Baseline | None:
    """Read the baseline; None where there is none."""
    return None


def read_shape(connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]) -> dict[str, str]:
    """Describe what a baseline depends on."""
    return describe_tables(schema)


def write_baseline(
    connection: BaseDatabaseWrapper,
    schema: Schema,
    *,
    tables: Iterable[QualifiedName],
    sequences: Iterable[QualifiedName],
    excluded: frozenset[QualifiedName],
    lock_timeout: float,
) -> Baseline:
    """Capture."""
    raise UnsupportedError("not yet")


def drop_baseline(connection: BaseDatabaseWrapper) -> None:
    """Take the baseline out of the database."""
