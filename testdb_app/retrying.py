"""Trying again: after a deadlock, a serialization failure, a lock time-out, or a row that could not be put back by itself."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from testdb_app.backends.base import Restoration
from testdb_app.exceptions import ConcurrencyError, LockTimeoutError, RestoreConflictError

logger = logging.getLogger("testdb_app")

_T = TypeVar("_T")

WAITS = 3
"""Into how many waits for locks the lock time-out is divided."""
MOST_ATTEMPTS = 10
_LONGEST_PAUSE = 0.2


def read_with_retries(run: Callable[[], _T], *, name: str, lock_timeout: float, may_retry: bool) -> _T:
    """Call *run*, which puts no rows back, as :func:`run_with_retries` does."""
    result, _ = run_with_retries(
        lambda *_: run(),
        name=name,
        strategy="delete",
        lock_timeout=lock_timeout,
        may_retry=may_retry,
        ways=tuple(Restoration)[:1],
    )
    return result


def run_with_retries(
    run: Callable[[str, Restoration], _T],
    *,
    name: str,
    strategy: str,
    lock_timeout: float,
    may_retry: bool,
    ways: Sequence[Restoration],
) -> tuple[_T, int]:
    """Call *run* with a strategy and a way to put rows back; return its result and the number of attempts.

    Parameters: *name*, for the log; *strategy* to begin with; *lock_timeout*, seconds in which a next attempt may begin;
    *may_retry*, off inside the caller's transaction, which may have to end first; *ways*, to put rows back, one after the
    other where rows are in each other's way, or a constraint refuses them. There are at most ``MOST_ATTEMPTS``;
    before another a deadlock's is given a random moment, so that the two do not meet again. Raises what the last one raises.
    """
    deadline = time.perf_counter() + lock_timeout
    ways = list(ways)
    for attempt in range(1, MOST_ATTEMPTS + 1):
        try:
            return run(strategy, ways[0]), attempt
        except RestoreConflictError as error:
            if len(ways) == 1 or attempt == MOST_ATTEMPTS:
                raise
            del ways[0]
            logger.info("Reset of %s, attempt %d: %s", name, attempt, error)
        except (LockTimeoutError, ConcurrencyError) as error:
            if isinstance(error, ConcurrencyError):
                error.attempts = attempt
            can_wait = time.perf_counter() < deadline
            # A truncation that did not get its lock at once is not waited for: DELETE does not need that lock.
            impatient = strategy == "auto" and isinstance(error, LockTimeoutError)
            if attempt == MOST_ATTEMPTS or not may_retry or not (can_wait or impatient):
                raise
            strategy = "delete" if impatient else strategy
            logger.info("Reset of %s, attempt %d: %s", name, attempt, error)
            if isinstance(error, ConcurrencyError):
                time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - nothing secret
    raise AssertionError("the last attempt returns or raises")
