"""The command as a process: exit statuses, standard output and error, signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands.resetdb.running import content
from tests.guard.projects import Project, database_settings, make_project
from tests.scratch import ScratchDatabase


@pytest.fixture
def project(library: ScratchDatabase, tmp_path: Path) -> Project:
    """A project whose database is the library; its settings allow it."""
    made = make_project(tmp_path, {"default": database_settings("scratch")})
    made.add_settings(f'TESTDB = {{"ALLOWED_DATABASES": ["{library.name}"]}}\n')
    return made


def test_done_is_0_and_only_the_report_is_on_standard_output(project: Project, library: ScratchDatabase) -> None:
    run = project.manage("resetdb", "--no-input", "--format", "json")
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout)["database"] == library.name
    assert content(library)["item"] == []


def test_the_right_answer_is_0_and_done(project: Project, library: ScratchDatabase) -> None:
    run = project.manage("resetdb", feed=f"{library.name}\n")
    assert run.returncode == 0
    assert "6 rows in 3 tables deleted" in run.stdout
    assert content(library)["item"] == []


def test_cancelled_is_0_and_nothing_changed(project: Project, library: ScratchDatabase) -> None:
    before = content(library)
    run = project.manage("resetdb", feed="no\n")
    assert (run.returncode, run.stdout) == (0, "")
    assert run.stderr.endswith("Cancelled. Nothing was changed.\n")
    assert content(library) == before


def test_a_question_that_nobody_can_answer_is_1_and_names_the_option(
    project: Project, library: ScratchDatabase
) -> None:
    before = content(library)
    run = project.manage("resetdb", feed="")
    assert (run.returncode, run.stdout) == (1, "")
    *_, last = run.stderr.splitlines()
    assert last.startswith("CommandError: Nothing was changed: standard input has ended")
    assert last.endswith("Add --no-input to go on without the question.")
    closed = subprocess.run(
        ["sh", "-c", 'exec "$0" manage.py resetdb <&-', sys.executable],
        env=project.full_environment(),
        cwd=project.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (closed.returncode, closed.stdout, closed.stderr.splitlines()[-1]) == (1, "", last)
    assert content(library) == before


def test_refused_is_1_in_one_line(project: Project, library: ScratchDatabase) -> None:
    project.add_settings("TESTDB = {}\n")
    before = content(library)
    run = project.manage("resetdb", "--no-input")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(f'CommandError: Refusing to reset database "{library.name}" (alias "default", ')
    assert run.stderr.count("\n") == 1
    assert content(library) == before


def test_allow_database_names_it_for_this_run(project: Project, library: ScratchDatabase) -> None:
    project.add_settings("TESTDB = {}\n")
    assert project.manage("resetdb", "--no-input", "--allow-database", library.name).returncode == 0
    assert content(library)["item"] == []


EACH = """
import contextlib, io, json, sys
from django.core.management import execute_from_command_line

ends = []
for arguments in json.load(sys.stdin):
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            execute_from_command_line(["manage.py", "resetdb", *arguments])
            status = 0
        except SystemExit as end:
            status = end.code
    ends.append([status, stdout.getvalue(), stderr.getvalue()])
print(json.dumps(ends))
"""


def run_each(project: Project, lines: list[list[str]]) -> list[list[Any]]:
    """Run the command with each of the lists of arguments in one process; return how each ended, and what it printed."""
    project.write("each.py", EACH)
    run = project.run("each.py", feed=json.dumps(lines), DJANGO_SETTINGS_MODULE="settings").must_pass()
    ends: list[list[Any]] = json.loads(run.stdout)
    return ends


def test_a_server_that_is_not_there_is_1_without_a_traceback(tmp_path: Path) -> None:
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": "shop", "HOST": str(tmp_path), "PORT": "1"}
    project = make_project(tmp_path, {"default": database})
    lines: list[list[str]] = [[], ["--no-input"], ["--dry-run"], ["--sql"], ["--mark-test"]]
    for arguments, (status, stdout, stderr) in zip(lines, run_each(project, lines), strict=True):
        assert (status, stdout) == (1, ""), arguments
        assert stderr.startswith("CommandError: ")
        assert 'database "shop" (alias "default")' in stderr.replace("Database", "database")
        assert "Traceback" not in stderr


WRONG = [
    ["--nonsense"],
    ["--database", "elsewhere"],
    ["--strategy", "cascade"],
    ["--lock-timeout", "soon"],
    ["--lock-timeout", "0"],
    ["--mark-test", "--mark-protected"],
    ["--mark-test", "--dry-run"],
    ["shpo"],
    ["--exclude", "shop.Itme"],
]


def test_wrong_usage_is_2_and_changes_nothing(project: Project, library: ScratchDatabase) -> None:
    before = content(library)
    run = project.manage("resetdb", "--no-input", *WRONG[0])
    assert (run.returncode, run.stdout) == (2, "")
    ends = run_each(project, [["--no-input", *arguments] for arguments in WRONG])
    for arguments, (status, stdout, stderr) in zip(WRONG, ends, strict=True):
        assert (status, stdout) == (2, ""), arguments
        assert "Traceback" not in stderr
    assert content(library) == before


def test_wrong_settings_are_2(project: Project, library: ScratchDatabase) -> None:
    project.add_settings('TESTDB = {"ALLOWED": []}\n')
    run = project.manage("resetdb", "--no-input")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("CommandError: settings.TESTDB has an unknown key 'ALLOWED'.")


def test_an_interrupt_at_the_question_changes_nothing(project: Project, library: ScratchDatabase) -> None:
    before = content(library)
    process = subprocess.Popen(
        [sys.executable, "manage.py", "resetdb"],
        cwd=project.directory,
        env=project.full_environment(PYTHONUNBUFFERED="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        while "Type the name" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.startswith("CommandError: Interrupted.")
    assert "Traceback" not in stderr
    assert content(library) == before


def test_the_sql_goes_through_a_pipe_as_it_is(project: Project, library: ScratchDatabase) -> None:
    run = project.manage("resetdb", "--sql", "--force-color").must_pass()
    assert run.stdout.startswith("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;\n")
    assert "\x1b" not in run.stdout
    assert run.stderr == ""
