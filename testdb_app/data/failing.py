"""How a verification fails."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from testdb_app.exceptions import VerificationError


def fail(check: str, what: str, failures: Iterable[Any], lines: str) -> NoReturn:
    """Raise the error of the assertion *check*: *what* is wrong, and under it the *lines* that show it.

    pytest leaves the frames of this package out, so that the line of the test is what it points at.
    """
    __tracebackhide__ = True
    raise VerificationError(f"{what}:\n{lines}", check=check, failures=list(failures))
