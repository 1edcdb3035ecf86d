"""The command on a terminal: colours, and a sign of life where it takes longer than a second."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands.resetdb.running import content
from tests.guard.projects import Project, database_settings, make_project
from tests.scratch import ScratchDatabase

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
    project: Project, *arguments: str, meanwhile: Callable[[], None] = lambda: None, **environment: str
) -> str:
    """Run ``manage.py resetdb`` with a terminal for standard input, output and error; return what it shows."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "resetdb", *arguments],
        cwd=project.directory,
        env=project.full_environment(TERM="xterm", **environment),
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
    assert re.search(r"Resetting … [12] s", shown)
    assert COLOUR.search(shown)
    assert "6 rows of 3 tables removed" in shown.rsplit("Resetting", 1)[1]
    assert content(library)["item"] == []


def test_without_rich_it_is_plain_text(project: Project, library: ScratchDatabase) -> None:
    project.write("rich/__init__.py", "raise ImportError('not installed')")
    shown = slow(project, library)
    assert re.search(r"\rResetting … [12] s", shown)
    assert re.search(r"\r {20,}\rReset database ", shown), "the line was not wiped away"
    assert not COLOUR.search(shown)


@pytest.mark.parametrize("how", ["--no-color", "NO_COLOR"])
def test_the_colours_can_be_switched_off(project: Project, library: ScratchDatabase, how: str) -> None:
    shown = slow(
        project, library, *([how] if how.startswith("-") else []), **({} if how.startswith("-") else {how: "1"})
    )
    assert re.search(r"Resetting … [12] s", shown)
    assert not COLOUR.search(shown)


def test_v0_shows_nothing_however_long_it_takes(project: Project, library: ScratchDatabase) -> None:
    assert slow(project, library, "-v0") == ""
    assert content(library)["item"] == []


def test_a_reset_that_is_quick_shows_its_report_alone(project: Project, library: ScratchDatabase) -> None:
    shown = on_a_terminal(project, "--no-input", "--allow-database", library.name)
    assert shown.count("\r\n") == 1
    assert shown.startswith(f'Reset database "{library.name}"')
    assert "Resetting" not in shown


def test_nothing_is_shown_to_a_pipe_however_long_it_takes(project: Project, library: ScratchDatabase) -> None:
    project.write("rich/__init__.py", "raise ImportError('not installed')")  # rich looks for itself
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
