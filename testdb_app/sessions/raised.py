"""Errors of a session that are the database's too: code under test catches them as it would without a session."""

from __future__ import annotations

from typing import Any

from testdb_app.exceptions import TestSessionError

_made: dict[Any, Any] = {}


def _combine(ours: Any, theirs: Any) -> Any:
    if (ours, theirs) in _made:
        return _made[ours, theirs]

    def reduce(self: TestSessionError) -> tuple[Any, ...]:
        # A class that is made while the program runs is made again where it arrives.
        return _rebuild, (ours, theirs, self.message), self.__dict__

    # Of this module, so that nobody takes it for the plain one.
    made = type(
        ours.__name__,
        (ours, theirs),
        {"__module__": __name__, "__doc__": ours.__doc__, "__test__": False, "__reduce__": reduce},
    )
    return _made.setdefault((ours, theirs), made)


def _rebuild(ours: type[TestSessionError], theirs: type[BaseException], message: str) -> TestSessionError:
    error: TestSessionError = _combine(ours, theirs)(message)
    return error


def make_error(ours: type[TestSessionError], error: BaseException, message: str, **details: Any) -> TestSessionError:
    """Return an error of the class *ours* that is caught as Django's *error* too, and whose cause is that of *error*.

    So ``except OperationalError`` in the code under test does what it does without a session, and its look at
    ``error.__cause__`` sees the driver's own.
    """
    made: TestSessionError = _combine(ours, type(error))(message, **details)
    made.__cause__ = error.__cause__ or error
    return made
