"""The command on a terminal: colours, and a sign of life where it takes longer than a second."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from testdb_app.management.commands.resetdb import describe_database
from testdb_app.showdeps.picture import cells
from tests.commands.resetdb.running import content
from tests.guard.projects import Project, database_settings, make_project
from tests.scratch import ScratchDatabase
from tests.terminals import open_terminal

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def project(library: ScratchDatabase, tmp_path: Path) -> Project:
    return make_project(tmp_path, {"default": database_settings("scratch")})


@contextmanager
def locked(library: ScratchDatabase) -> Iterator[Callable[[], None]]:
    """Hold a lock; yield a function that waits until somebody has waited for it for a good second, and lets go."""
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'item'::regclass AND NOT granted)"
    with library.connect() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE item IN ROW EXCLUSIVE MODE")

        def let_go() -> None:
            deadline = time.monotonic() + 30
            while not other.execute(waiting).fetchone()[0] and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(1.7)
            other.execute("ROLLBACK")

        yield let_go


def on_a_terminal(
    project: Project,
    *arguments: str,
    meanwhile: Callable[[], None] = lambda: None,
    answer: str = "",
    **environment: str,
) -> str:
    """Run ``manage.py resetdb`` with a terminal for standard input, output and error; return what it shows.

    *answer* is typed as soon as a question stands there.
    """
    master, slave = open_terminal()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "resetdb", *arguments],
        cwd=project.directory,
        # So wide that no line is broken, unless a test wants it so.
        env=project.full_environment(**{"TERM": "xterm", "COLUMNS": "300", **environment}),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    meanwhile()
    shown = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            try:
                part = os.read(master, 4096)
            except OSError:  # Linux's way to say that nobody has the other end any more
                break
            if not part:
                break
            shown += part
            if answer and shown.endswith(b"> "):
                os.write(master, answer.encode())
                answer = ""
    os.close(master)
    process.wait(10)
    return shown.decode()


def options(library: ScratchDatabase) -> list[str]:
    return ["--no-input", "--lock-timeout", "30", "--allow-database", library.name]


def slow(project: Project, library: ScratchDatabase, *arguments: str, **environment: str) -> str:
    """Run it on a terminal while another session makes it wait for a good second."""
    with locked(library) as let_go:
        return on_a_terminal(project, *options(library), *arguments, meanwhile=let_go, **environment)


def test_a_reset_that_waits_shows_the_seconds_and_wipes_them_away(project: Project, library: ScratchDatabase) -> None:
    shown = slow(project, library)
    assert re.search(r"\rResetting … [12] s", shown)
    assert re.search(r"\r {15,}\rReset database ", shown), "the line was not wiped away"
    assert "6 rows in 3 tables deleted" in shown.rsplit("Resetting", 1)[1]
    assert content(library)["item"] == []


def test_v0_shows_nothing_however_long_it_takes(project: Project, library: ScratchDatabase) -> None:
    assert slow(project, library, "-v0") == ""
    assert content(library)["item"] == []


def test_a_reset_that_is_quick_shows_its_report_alone(project: Project, library: ScratchDatabase) -> None:
    shown = on_a_terminal(project, "--no-input", "--allow-database", library.name)
    assert shown.count("\r\n") == 1
    assert shown.startswith(f'Reset database "{library.name}"')
    assert "Resetting" not in shown


def test_nothing_is_shown_to_a_pipe_however_long_it_takes(project: Project, library: ScratchDatabase) -> None:
    with locked(library) as let_go:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "resetdb", *options(library)],
            cwd=project.directory,
            env=project.full_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        let_go()
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr, stdout.count(b"\n")) == (0, b"", 1)


@pytest.mark.parametrize(("flags", "environment"), [(["--no-color"], {}), ([], {"NO_COLOR": "1"}), ([], {})])
def test_an_error_is_coloured_unless_that_is_switched_off(
    project: Project, library: ScratchDatabase, flags: list[str], environment: dict[str, str]
) -> None:
    shown = on_a_terminal(project, "--no-input", *flags, **environment)
    assert "Refusing to reset database" in shown
    assert bool(COLOUR.search(shown)) is (not flags and not environment)


def columns(line: str) -> int:
    return cells(COLOUR.sub("", line))


@pytest.fixture
def wide(library: ScratchDatabase) -> ScratchDatabase:
    """The library with names that are long, wide and of several words."""
    for name in ("名前テーブル_注文明細の長い長い名前", "a table of " + "several words " * 3, "x" * 50):
        library.execute(f'CREATE TABLE "{name}" (id serial); INSERT INTO "{name}" DEFAULT VALUES')
    return library


@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_line_is_wider_than_the_terminal_and_no_name_is_broken(
    project: Project, wide: ScratchDatabase, width: int
) -> None:
    preview = on_a_terminal(project, "--dry-run", NO_COLOR="1", COLUMNS=str(width))
    assert re.search(r" public\.名前テーブル_注文明細の長い長い名前\r\n", preview)
    assert f' public."a table of {"several words " * 3}"\r\n' in preview
    for arguments in (["--dry-run"], ["--no-input"], options(wide)):
        shown = on_a_terminal(project, *arguments, COLUMNS=str(width)).split("\r\n")
        # Some names are words that a line of 60 columns has no room for.
        longest = max(columns(word) for line in shown for word in re.findall(r'(?:"[^"]*"|[^\s"])+', line))
        assert max(map(columns, shown)) <= max(width, longest + 12), arguments


def test_lines_are_whole_in_a_pipe_whatever_the_width(project: Project, wide: ScratchDatabase) -> None:
    def piped(width: str) -> str:
        return subprocess.run(
            [sys.executable, "manage.py", "resetdb", "--dry-run"],
            cwd=project.directory,
            env=project.full_environment(COLUMNS=width, TERM="xterm"),
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert piped("40") == piped("300")
    assert not COLOUR.search(piped("40"))


def test_a_dry_run_has_its_tables_in_bold_and_nothing_in_yellow(project: Project, library: ScratchDatabase) -> None:
    shown = on_a_terminal(project, "--dry-run")
    assert "\x1b[1mpublic.item\x1b[0m" in shown
    assert not re.search(r"\x1b\[[0-9;]*33", shown), "yellow cannot be read on a light background"
    plain = on_a_terminal(project, "--dry-run", NO_COLOR="1")
    assert not COLOUR.search(plain)
    assert COLOUR.sub("", shown) == plain


def test_the_question_has_what_will_happen_and_where_in_red_and_the_answer_on_a_line_of_its_own(
    project: Project, library: ScratchDatabase
) -> None:
    shown = on_a_terminal(project, "--allow-database", library.name, answer=f"{library.name}\n").split("\r\n")
    assert shown[0].startswith(f'\x1b[31;1mAbout to empty database "{library.name}"')
    # Django ends the colour after the end of the line.
    assert shown[1].startswith("\x1b[0m")
    assert not COLOUR.search("".join(shown[2:5]))
    assert [COLOUR.sub("", line) for line in shown[1:4]] == [
        "  6 rows in 3 tables will be deleted, 3 sequences set back.",
        "This cannot be undone.",
        "Type the name of the database to go on, anything else to cancel:",
    ]
    assert shown[4] == f"> {library.name}"
    assert content(library)["item"] == []


def test_the_end_of_the_input_is_no_answer_and_ends_the_line(project: Project, library: ScratchDatabase) -> None:
    shown = on_a_terminal(project, "--allow-database", library.name, answer="\x04", NO_COLOR="1")
    assert shown.endswith("> \r\nCancelled. Nothing was changed.\r\n")
    assert len(content(library)["item"]) == 3


def test_yes_is_no_answer(project: Project, library: ScratchDatabase) -> None:
    shown = on_a_terminal(project, "--allow-database", library.name, answer="yes\n")
    assert "Cancelled. Nothing was changed." in shown
    assert len(content(library)["item"]) == 3


def test_a_name_that_would_write_over_the_line_is_escaped(scratch: ScratchDatabase) -> None:
    identity = replace(scratch.resetter().identify(), name="prod\rtest\x1b[2K\u202e")
    assert describe_database(identity).startswith('database "prod\\rtest\\x1b[2K\\u202e" ')


def test_a_reader_that_has_seen_enough_is_no_error(project: Project, library: ScratchDatabase) -> None:
    for arguments in (["--dry-run"], ["--sql"], [*options(library), "-v2"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "manage.py", "resetdb", *arguments],
            cwd=project.directory,
            env=project.full_environment(),
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, b""), arguments


def test_an_output_that_cannot_show_a_character_gets_it_escaped(project: Project, wide: ScratchDatabase) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "resetdb", "--dry-run"],
        cwd=project.directory,
        env=project.full_environment(PYTHONIOENCODING="ascii", PYTHONUTF8="0"),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"public.\\u540d\\u524d" in done.stdout
