"""What the command does not take, and what its help says."""

from __future__ import annotations

import re

import pytest

from testdb_app.management.commands.resetdb import Command
from testdb_app.resetter import Resetter
from tests.commands.resetdb.running import content, resetdb
from tests.scratch import ScratchDatabase


@pytest.mark.parametrize("flag", [(), ("--dry-run",), ("--sql",), ("--format", "json")])
@pytest.mark.parametrize("where", ["label", "exclude"])
def test_a_label_that_names_nothing_is_wrong_usage(allowed: ScratchDatabase, flag: tuple[str, ...], where: str) -> None:
    before = content(allowed)
    outcome = resetdb("--no-input", *(["site"] if where == "label" else ["--exclude", "site"]), *flag)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert outcome.error == (
        '"site" matches no table: this database has no app label, app_label.Model or schema.table of that name. '
        "Did you mean sites, public.item, sites.Site?"
    )
    assert content(allowed) == before


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "86401"])
def test_a_lock_timeout_that_cannot_be_meant_is_wrong_usage(allowed: ScratchDatabase, value: str) -> None:
    outcome = resetdb("--no-input", f"--lock-timeout={value}")
    assert outcome.status == 2
    assert outcome.error.startswith("lock_timeout must be a number of seconds above 0")
    assert content(allowed)["item"] != []


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--sql"], ["sites"], ["--exclude", "sites"]])
def test_a_mark_takes_nothing_beside_it(library: ScratchDatabase, arguments: list[str]) -> None:
    outcome = resetdb("--mark-protected", "--no-input", *arguments)
    assert outcome.status == 2
    assert outcome.error.startswith("A mark is put or taken away at once, and for the whole database: leave out ")
    assert Resetter("scratch").identify().marks == frozenset()


def help_text(monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    return Command().create_parser("manage.py", "resetdb").format_help()


def test_the_help_names_every_flag_with_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = Command().create_parser("manage.py", "resetdb")
    shown = help_text(monkeypatch)
    for action in parser._actions:
        assert action.help
        for flag in action.option_strings:
            assert re.search(rf"(^|[\s\[|]){re.escape(flag)}\b", shown), flag


def test_the_help_tells_the_exit_statuses_and_names_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = " ".join(help_text(monkeypatch).split())
    assert "Exit status: 0 done or cancelled, 1 refused or failed, 2 wrong usage." in shown
    assert "is refused unless you name it" in shown
    assert "schema.table, or shell patterns" in shown


def test_the_flags_are_those_of_the_design(monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = {"-h", "--help", "--version", "-v", "--verbosity", "--settings", "--pythonpath", "--traceback"}
    inherited |= {"--no-color", "--force-color", "--skip-checks"}
    parser = Command().create_parser("manage.py", "resetdb")
    flags = {flag for action in parser._actions for flag in action.option_strings} - inherited
    assert flags == {
        *("--database", "--exclude", "--to", "--strategy", "--no-reset-sequences", "--dry-run", "--sql"),
        *("--allow-database", "--lock-timeout", "--no-input", "--noinput", "--format", "--no-post-migrate"),
        *("--capture", "--recapture", "--drop-baseline"),
        *("--mark-protected", "--unmark-protected", "--mark-test", "--unmark-test"),
    }
