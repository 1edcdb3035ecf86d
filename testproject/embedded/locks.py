"""Kernel file locks, which end with the process that holds them, however that ends.

``flock`` belongs to the *open file*: a forked child and a program that is handed the descriptor hold it too,
and a program started otherwise does not, because Python opens files close-on-exec.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def open_lock(path: Path) -> int:
    """Open (or create) a lock file and return its descriptor; nothing is locked yet."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def lock_shared(descriptor: int) -> None:
    """Wait for a shared lock."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def try_exclusive(descriptor: int, *, seconds: float = 0.0) -> bool:
    """Try for ``seconds`` to get an exclusive lock; say whether it was got."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def unlock(descriptor: int) -> None:
    """Let go of a lock without closing its file."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_held(path: Path) -> bool:
    """Say whether anybody holds the lock exclusively.

    The look itself takes the lock for a moment, so look only where nobody else may be trying at that time.
    """
    descriptor = open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a lock file for the block; what is locked in it is free after it."""
    descriptor = open_lock(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock exclusively within the block, after waiting for it."""
    with opened(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
