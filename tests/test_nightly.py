"""What the gate leaves out, and what it keeps of that, is there: a name that is misspelt, or of old, would select nothing and fail nothing."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.nightly import IN_THE_GATE, NIGHTLY, is_nightly

TESTS = Path(__file__).parent


def test_every_file_that_is_left_to_the_night_is_there() -> None:
    assert [path for path in NIGHTLY if not (TESTS / path).exists()] == []


def test_every_test_that_runs_in_the_gate_all_the_same_is_there_and_of_a_file_that_does_not() -> None:
    functions = {
        f"{path.name}::{node.name}"
        for path in TESTS.rglob("test_*.py")
        if is_nightly(path.relative_to(TESTS).as_posix(), "any")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert sorted({name.partition("[")[0] for name in IN_THE_GATE} - functions) == []
