"""A session around each call of a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import ParamSpec, TypeVar

from testdb_app.exceptions import ConfigurationError

P = ParamSpec("P")
R = TypeVar("R")


def decorate(function: Callable[P, R], make: Callable[[], AbstractContextManager[object]]) -> Callable[P, R]:
    """Return *function* with what *make* makes around each call.

    Raises :class:`ConfigurationError` for functions whose body does not run while they are called.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{function.__qualname__}() is async: its body runs after the call, and Django's connections are for synchronous "
            "code. Open the session around sync_to_async() or async_to_sync(), in the thread that the queries run in."
        )
    if inspect.isgeneratorfunction(function):
        raise ConfigurationError(
            f"{function.__qualname__}() is a generator: its body runs after the call. Use with, in its body."
        )

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with make():
            return function(*args, **kwargs)

    return call
