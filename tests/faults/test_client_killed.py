"""The process that resets is killed with SIGKILL, at each message and at each statement in turn."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.dying import MOMENTS
from tests.faults.victim import Victim

ROOT = Path(__file__).resolve().parents[2]
KILLED = -9

Kill = Callable[[int | None, str | int | None], tuple[int, list[int] | None]]


@pytest.fixture
def kill(victim: Victim) -> Iterator[Kill]:
    """Return a function that resets the victim in a process which dies at the moment given of the message given."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.dying"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(message: int | None, moment: str | int | None) -> tuple[int, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        order = {"name": victim.database.name, "exclude": victim.exclude, "message": message, "moment": moment}
        print(json.dumps(order), file=process.stdin, flush=True)
        status, counted = json.loads(process.stdout.readline())
        victim.wait_until_alone()
        return status, counted

    yield run
    process.communicate()


def count_statements(victim: Victim, kill: Kill) -> list[int]:
    """Run a reset to its end, and return how many statements each of its messages had."""
    status, counted = kill(None, None)
    assert status == 0
    assert counted is not None
    assert victim.check_whole() == "new"
    return counted


@pytest.mark.parametrize("moment", MOMENTS)
def test_reset_killed_at_any_message_is_whole_or_not_at_all(victim: Victim, kill: Kill, moment: str) -> None:
    messages = count_statements(victim, kill)
    states = []
    for message in range(len(messages)):
        status, _ = kill(message, moment)
        assert status == KILLED
        states.append(victim.check_whole())
    # Nothing is committed before the last message, and it commits although nobody waits for the answer.
    last = "old" if moment == "before it is sent" else "new"
    assert states == ["old"] * (len(messages) - 1) + [last]


def test_reset_killed_after_any_statement_is_whole_or_not_at_all(victim: Victim, kill: Kill) -> None:
    messages = count_statements(victim, kill)
    assert max(messages) > 15
    for message, statements in enumerate(messages):
        for done in range(1, statements):
            status, _ = kill(message, done)
            assert status == KILLED
            assert victim.check_whole() == "old", (message, done)
