"""Another session writes between the look at the database and the locks of the reset."""

from __future__ import annotations

from typing import Any

import pytest

from testdb_app.backends.base import Script
from testdb_app.backends.postgresql.backend import PostgreSQLBackend
from tests.scratch import ScratchDatabase


@pytest.mark.parametrize("on_delete", ["NO ACTION", "RESTRICT"])
def test_row_written_after_the_look_that_refers_to_rows_that_go_is_taken_along_by_the_next_attempt(
    scratch: ScratchDatabase, monkeypatch: pytest.MonkeyPatch, on_delete: str
) -> None:
    scratch.execute(
        "CREATE TABLE region (id integer PRIMARY KEY); INSERT INTO region VALUES (1);"
        f"CREATE TABLE city (region_id integer REFERENCES region ON DELETE {on_delete})"
    )
    write, attempts = PostgreSQLBackend.script, []

    def script(*args: Any, **options: Any) -> Script:
        attempts.append(options)
        if len(attempts) == 1:
            scratch.execute("INSERT INTO city VALUES (1)")
        return write(*args, **options)

    monkeypatch.setattr(PostgreSQLBackend, "script", script)
    report = scratch.reset()
    assert report.attempts == 2
    assert (scratch.count("city"), scratch.count("region")) == (0, 0)
