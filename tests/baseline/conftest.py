"""Helpers of the baseline's tests: what a database holds, byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testdb_app.backends.postgresql.sql import quote
from testdb_app.baseline import capture_baseline
from tests.scratch import ScratchDatabase


def content(database: ScratchDatabase, *, physical: bool = False) -> dict[str, Any]:
    """Return every row of every user table as its text, sorted, and every sequence's state.

    With *physical* also where each row lies, which transaction wrote it, and the table's file.
    """
    found: dict[str, Any] = {}
    with database.superuser() as session:
        relations = session.execute(
            "SELECT n.nspname, c.relname, c.relkind::text, c.relfilenode FROM pg_class c JOIN pg_namespace n ON n.oid = "
            "c.relnamespace WHERE c.relkind IN ('r', 'S') AND n.nspname !~ '^pg_' AND n.nspname NOT IN "
            "('information_schema', 'testdb') ORDER BY 1, 2"
        ).fetchall()
        for schema, name, kind, node in relations:
            qualified = f"{quote(schema)}.{quote(name)}"
            if kind == "S":
                query = f"SELECT last_value, is_called FROM {qualified}"
            elif physical:
                query = f"SELECT t.ctid::text, t.xmin::text, t::text FROM ONLY {qualified} t ORDER BY 3, 1"
            else:
                query = f"SELECT t::text FROM ONLY {qualified} t ORDER BY 1"
            rows = session.execute(query, prepare=False).fetchall()
            found[qualified] = (node, rows) if physical and kind == "r" else rows
    return found


@pytest.fixture
def captured(scratch: ScratchDatabase) -> Callable[..., dict[str, Any]]:
    """Return a function that runs statements, captures the baseline and returns the content."""

    def capture(statements: str, **options: Any) -> dict[str, Any]:
        scratch.execute(statements)
        capture_baseline(scratch.alias, **{"allow_database": scratch.name, **options})
        return content(scratch)

    return capture
