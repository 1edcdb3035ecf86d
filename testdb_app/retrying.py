"""Trying again: after a deadlock, a serialization failure, a lock time-out, or a row that could not be put back by itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from testdb_app.exceptions import ConcurrencyError, LockTimeoutError, RestoreConflictError

logger = logging.getLogger("testdb_app")

_T = TypeVar("_T")

RETRIES = 3
"""How often a reset is tried again."""


def run_with_retries(
    run: Callable[[str, bool], _T], *, name: str, strategy: str, lock_timeout: float, may_retry: bool
) -> tuple[_T, int]:
    """Call *run* with a strategy and whether to put all rows in anew; return its result and the number of attempts.

    Parameters: *name*, for the log; *strategy* to begin with; *lock_timeout*, seconds in which a next attempt may begin;
    *may_retry*, off inside the caller's transaction, which may have to end first. Raises what the last attempt raises.
    """
    deadline = time.perf_counter() + lock_timeout
    rewrites = False
    for attempt in range(1, RETRIES + 2):
        try:
            return run(strategy, rewrites), attempt
        except RestoreConflictError as error:
            if rewrites or attempt > RETRIES:
                raise
            rewrites = True
            logger.info("Reset of %s, attempt %d: %s", name, attempt, error)
        except (LockTimeoutError, ConcurrencyError) as error:
            if isinstance(error, ConcurrencyError):
                error.attempts = attempt
            can_wait = time.perf_counter() < deadline
            # A truncation that did not get its lock at once is not waited for: DELETE does not need that lock.
            impatient = strategy == "auto" and isinstance(error, LockTimeoutError)
            if attempt > RETRIES or not may_retry or not (can_wait or impatient):
                raise
            strategy = "delete" if impatient else strategy
            logger.info("Reset of %s, attempt %d: %s", name, attempt, error)
    raise AssertionError("the last attempt returns or raises")
