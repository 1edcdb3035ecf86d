"""``--capture``, ``--recapture``, ``--drop-baseline`` and ``--to``."""

from __future__ import annotations

import json
import re

import pytest

from tests.commands.resetdb.running import content, place, resetdb
from tests.scratch import ScratchDatabase

CAPTURED = r"The baseline, captured \S+, keeps 6 rows of 3 tables and 3 sequences in database "


def test_the_captured_rows_are_what_resets_go_back_to(allowed: ScratchDatabase) -> None:
    before = content(allowed)
    outcome = resetdb("--capture")
    assert re.fullmatch(CAPTURED + re.escape(place(allowed)) + r"\.\n", outcome.stdout)
    assert (outcome.stderr, outcome.status) == ("", 0)
    allowed.execute("DELETE FROM item; INSERT INTO shelf (name) VALUES ('new')")
    outcome = resetdb("--no-input", "-v2")
    assert outcome.stdout.startswith(
        f"Reset database {place(allowed)} to baseline: 1 row in 1 table deleted, 3 rows put back, 1 sequence set back, in N ms.\n"
    )
    assert "  restore   0  public.item  (0 put back, 3 put in again)\n" in outcome.stdout
    assert content(allowed) == before
    assert resetdb("--no-input").stdout.startswith("Nothing to do: ")


def test_a_second_capture_keeps_the_first_and_recapture_does_not(allowed: ScratchDatabase) -> None:
    resetdb("--capture")
    allowed.execute("DELETE FROM item")
    assert re.match(CAPTURED, resetdb("--capture").stdout)
    assert "keeps 3 rows of 2 tables" in resetdb("--recapture").stdout
    resetdb("--no-input")
    assert content(allowed)["item"] == []


def test_dropped_it_is_gone(allowed: ScratchDatabase) -> None:
    resetdb("--capture")
    assert resetdb("--drop-baseline").stdout == f"There is no baseline now in database {place(allowed)}.\n"
    outcome = resetdb("--no-input", "--to", "baseline")
    assert outcome.status == 1
    assert "has no baseline to go back to. Nothing was changed." in outcome.error
    assert content(allowed)["item"] != []


def test_to_empty_leaves_the_baseline_alone(allowed: ScratchDatabase) -> None:
    before = content(allowed)
    resetdb("--capture")
    assert " to empty: 6 rows in 3 tables deleted, " in resetdb("--no-input", "--to", "empty").stdout
    assert content(allowed)["item"] == []
    resetdb("--no-input")
    assert content(allowed) == before


def test_a_changed_schema_is_refused_by_name(allowed: ScratchDatabase) -> None:
    resetdb("--capture")
    allowed.execute("ALTER TABLE item ADD w integer")
    for arguments in (["--no-input"], ["--capture"]):
        outcome = resetdb(*arguments)
        assert outcome.status == 1
        assert "table public.item has changed (+ w integer)" in outcome.error
        assert "resetdb --recapture" in outcome.error


def test_json_tells_what_is_kept(allowed: ScratchDatabase) -> None:
    found = json.loads(resetdb("--capture", "--format", "json").stdout)
    assert found["tables"] == [
        {"name": "public.django_site", "rows": 1},
        {"name": "public.item", "rows": 3},
        {"name": "public.shelf", "rows": 2},
    ]
    assert found["captured_at"]
    assert json.loads(resetdb("--drop-baseline", "--format", "json").stdout)["captured_at"] is None


@pytest.mark.parametrize("option", ["--capture", "--recapture", "--drop-baseline"])
def test_the_guard_decides(library: ScratchDatabase, option: str) -> None:
    outcome = resetdb(option)
    assert outcome.status == 1
    assert "it is not known to be a test database" in outcome.error


@pytest.mark.parametrize("with_what", [["app"], ["--dry-run"], ["--sql"]])
def test_it_is_of_the_whole_database_and_at_once(allowed: ScratchDatabase, with_what: list[str]) -> None:
    outcome = resetdb("--capture", *with_what)
    assert outcome.status == 2
    assert outcome.error.startswith("A baseline is of the whole database, and captured or dropped at once: leave out ")


def test_a_dry_run_counts_what_differs(allowed: ScratchDatabase) -> None:
    resetdb("--capture")
    assert resetdb("--dry-run").stdout.startswith("Nothing to do: ")
    allowed.execute("INSERT INTO shelf (name) VALUES ('new')")
    assert ": 1 row in 1 table would be deleted, 0 rows put back.\n" in resetdb("--dry-run").stdout


def test_a_dry_run_tells_the_rows_that_would_be_put_back(allowed: ScratchDatabase) -> None:
    resetdb("--capture")
    allowed.execute(
        "DELETE FROM item WHERE id = (SELECT min(id) FROM item); UPDATE shelf SET name = 'other' WHERE id = 1;"
        " INSERT INTO shelf (name) VALUES ('new')"
    )
    shown = resetdb("--dry-run").stdout
    assert ": 1 row in 1 table would be deleted, 2 rows put back.\n" in shown
    assert "public.shelf  (1 put back, 0 put in again)\n" in shown
    assert "public.item  (0 put back, 1 put in again)\n" in shown
    told = json.loads(resetdb("--dry-run", "--format", "json").stdout)
    assert told["target"] == "baseline"
    counted = {table["name"]: (table["rows"], table["updated"], table["inserted"]) for table in told["tables"]}
    assert counted == {"public.shelf": (1, 1, 0), "public.item": (0, 0, 1)}
    done = json.loads(resetdb("--no-input", "--format", "json").stdout)
    assert {table["name"]: (table["rows"], table["updated"], table["inserted"]) for table in done["tables"]} == counted
