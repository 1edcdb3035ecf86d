"""Pseudo-terminals, which a container may not have."""

from __future__ import annotations

import os
import pty

import pytest


def open_terminal() -> tuple[int, int]:
    """Return the two ends of a new pseudo-terminal, ours first, or skip the test. With ``CI=true`` it fails instead."""
    try:
        return pty.openpty()
    except OSError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"there is no pseudo-terminal here ({error})")


def skip_without_terminals() -> None:
    """Skip the test where there is no pseudo-terminal."""
    for end in open_terminal():
        os.close(end)
