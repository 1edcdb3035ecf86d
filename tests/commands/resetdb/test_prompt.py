"""What the command asks before it removes anything, and which answers it takes."""

from __future__ import annotations

from typing import Any

import pytest

from testdb_app.resetter import Resetter
from tests.commands.resetdb.running import content, place, resetdb
from tests.scratch import ScratchDatabase


def test_the_question_shows_the_live_database_the_server_and_the_rows(allowed: ScratchDatabase) -> None:
    outcome = resetdb(answer=f"{allowed.name}\n")
    assert outcome.stderr == (
        f"About to empty database {place(allowed)}:\n"
        "  6 rows in 3 tables will be deleted, 3 sequences set back.\n"
        "This cannot be undone.\n"
        "Type the name of the database to go on, anything else to cancel:\n"
    )
    assert "6 rows in 3 tables deleted" in outcome.stdout
    assert content(allowed)["item"] == []


def test_the_question_says_where_there_is_a_baseline_to_go_back_to(allowed: ScratchDatabase) -> None:
    resetdb("--capture")
    allowed.execute("INSERT INTO item (shelf_id) VALUES (1); UPDATE shelf SET name = 'other' WHERE id = 1")
    outcome = resetdb(answer="no\n")
    assert outcome.stderr.startswith(
        f"About to reset database {place(allowed)} to its baseline:\n"
        "  1 row in 1 table will be deleted, 1 row put back, 1 sequence set back.\n"
        "This cannot be undone.\n"
    )
    assert resetdb("--dry-run").stdout.startswith(
        f"Database {place(allowed)} to baseline: 1 row in 1 table would be deleted, 1 row put back.\n"
    )
    assert resetdb("--to", "empty", answer="no\n").stderr.startswith(f"About to empty database {place(allowed)}:\n")


@pytest.mark.parametrize(
    "answer", ["\n", "yes\n", "y\n", "{upper}\n", "{name}x\n", "scratch\n", "no\n{name}\n", "\0\n"]
)
def test_any_other_answer_cancels_and_changes_nothing(allowed: ScratchDatabase, answer: str) -> None:
    before = content(allowed)
    outcome = resetdb(answer=answer.format(name=allowed.name, upper=allowed.name.upper()))
    assert (outcome.status, outcome.stdout) == (0, "")
    assert outcome.stderr.endswith("Cancelled. Nothing was changed.\n")
    assert content(allowed) == before


def test_a_mark_that_is_not_there_is_not_removed(allowed: ScratchDatabase) -> None:
    for option, mark in (("--unmark-test", "test"), ("--unmark-protected", "protected")):
        outcome = resetdb(option, "--no-input")
        assert (outcome.stdout, outcome.status) == (
            f'Database {place(allowed)} has no mark "{mark}". Nothing was changed.\n',
            0,
        )
    assert allowed.query("SELECT count(*) FROM pg_namespace WHERE nspname = 'testdb'") == [(0,)]


@pytest.mark.parametrize("option", [(), ("--mark-test",)], ids=["reset", "mark"])
def test_without_an_answer_it_is_an_error_and_nothing_changes(
    allowed: ScratchDatabase, option: tuple[str, ...]
) -> None:
    before = content(allowed)
    outcome = resetdb(*option, answer="")
    assert (outcome.status, outcome.stdout) == (1, "")
    assert "--no-input" in outcome.error
    assert "Cancelled" not in outcome.stderr
    assert content(allowed) == before


def test_blanks_around_the_name_do_not_matter(allowed: ScratchDatabase) -> None:
    assert resetdb(answer=f"  {allowed.name} \r\n").status == 0
    assert content(allowed)["item"] == []


@pytest.mark.parametrize("flag", ["--no-input", "--noinput"])
def test_no_input_asks_nothing(allowed: ScratchDatabase, flag: str) -> None:
    assert resetdb(flag, answer="no\n").stderr == ""
    assert content(allowed)["item"] == []


def test_no_input_answers_the_question_and_nothing_else(library: ScratchDatabase) -> None:
    before = content(library)
    outcome = resetdb("--no-input")
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.error.startswith("Refusing to reset database")
    assert content(library) == before


def test_nothing_is_asked_where_there_is_nothing_to_do(scratch: ScratchDatabase) -> None:
    outcome = resetdb("--allow-database", scratch.name, answer="no\n")
    assert outcome.stderr == ""
    assert outcome.stdout.startswith("Nothing to do")


@pytest.mark.parametrize("flag", ["--dry-run", "--sql"])
def test_nothing_is_asked_where_nothing_is_changed(allowed: ScratchDatabase, flag: str) -> None:
    assert resetdb(flag, answer="no\n").stderr == ""


def test_rows_that_came_while_the_question_stood_go_too(
    allowed: ScratchDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer() -> str:
        allowed.execute("INSERT INTO unused DEFAULT VALUES")
        return allowed.name

    monkeypatch.setattr("builtins.input", answer)
    assert "7 rows in 4 tables deleted" in resetdb().stdout
    assert content(allowed)["unused"] == []


def test_a_protection_that_came_while_the_question_stood_holds(
    allowed: ScratchDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer() -> str:
        allowed.execute("CREATE SCHEMA testdb; CREATE TABLE testdb.protected ()")
        return allowed.name

    monkeypatch.setattr("builtins.input", answer)
    before = content(allowed)
    assert "it is marked as protected" in resetdb().error
    assert content(allowed) == before


MARKS = {
    "--mark-test": ("About to mark {} as a test database", "Marked {} as a test database"),
    "--unmark-protected": ('About to remove the mark "protected" from {}', 'Removed the mark "protected" from {}'),
}


@pytest.mark.parametrize("flag", MARKS)
def test_a_mark_that_opens_a_database_to_resets_is_asked_about(
    library: ScratchDatabase, flag: str, settings: Any
) -> None:
    if flag.startswith("--unmark"):
        resetdb("--mark-protected")
    marks = Resetter("scratch").identify().marks
    cancelled = resetdb(flag, answer="yes\n")
    question, told = (text.format(f"database {place(library)}") for text in MARKS[flag])
    assert cancelled.stderr.startswith(f"{question}. Resets may empty it then.\n")
    assert cancelled.stderr.endswith("Cancelled. Nothing was changed.\n")
    assert (cancelled.stdout, cancelled.status) == ("", 0)
    assert Resetter("scratch").identify().marks == marks
    done = resetdb(flag, answer=f"{library.name}\n")
    assert done.stdout == f"{told}.\n"
    assert Resetter("scratch").identify().marks != marks


@pytest.mark.parametrize(
    ("flag", "told"),
    [("--mark-protected", "Marked {} as protected.\n"), ("--unmark-test", 'Removed the mark "test" from {}.\n')],
)
def test_a_mark_that_closes_a_database_is_not_asked_about(library: ScratchDatabase, flag: str, told: str) -> None:
    if flag == "--unmark-test":
        assert resetdb("--mark-test", "--no-input").status == 0
    outcome = resetdb(flag, answer="no\n")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert outcome.stdout == told.format(f"database {place(library)}")


def test_a_mark_with_v0_prints_nothing(library: ScratchDatabase) -> None:
    assert resetdb("--mark-protected", "-v0").stdout == ""
    assert {mark.value for mark in Resetter("scratch").identify().marks} == {"protected"}
