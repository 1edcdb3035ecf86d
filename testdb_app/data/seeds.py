"""Named data sets that build on each other, made once per ledger."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar

from testdb_app.exceptions import ConfigurationError, SeedError, UnknownNameError

Seed = Callable[[Any], Any]
"""A function that accepts a :class:`~testdb_app.data.DataLedger`."""
_F = TypeVar("_F", bound=Callable[..., Any])


class SeedRegistry:
    """The seeds of a project: functions that accept a ledger and make rows with it. The default registry is :data:`seeds`."""

    def __init__(self) -> None:
        self._seeds: dict[str, tuple[Seed, tuple[str, ...]]] = {}

    def register(self, name: str, *, after: str | Iterable[str] = ()) -> Callable[[_F], _F]:
        """Register the decorated function under *name*; the seeds in *after* are made before it.

        Raises :class:`~testdb_app.exceptions.ConfigurationError` for a name that another function has.
        """

        def add(function: _F) -> _F:
            known = self._seeds.get(name)
            if known is not None and _place(known[0]) != _place(function):
                raise ConfigurationError(
                    f'There are two seeds "{name}": {_place(known[0])} and {_place(function)}. Give one of them another name.'
                )
            self._seeds[name] = (function, (after,) if isinstance(after, str) else tuple(after))
            return function

        return add

    def order(self, name: str) -> list[str]:
        """Return the names of all seeds to make for *name*, in order, itself last.

        Raises :class:`~testdb_app.exceptions.UnknownNameError`, with the nearest names, and
        :class:`~testdb_app.exceptions.SeedError` for seeds whose order has a cycle.
        """
        needed: dict[str, tuple[str, ...]] = {}
        work = [name]
        while work:
            current = work.pop()
            if current not in needed:
                needed[current] = self._get(current)[1]
                work += needed[current]
        try:
            return list(TopologicalSorter(needed).static_order())
        except CycleError as error:
            cycle = error.args[1][::-1]  # there each comes before the next
            raise SeedError(
                f"The order of the seeds has a cycle: {' after '.join(cycle)}. Nothing was made. Remove one of these "
                "from after=.",
                cycle=cycle,
            ) from None

    def make(self, name: str, ledger: Any) -> Any:
        """Make that one seed with *ledger*."""
        return self._get(name)[0](ledger)

    def _get(self, name: str) -> tuple[Seed, tuple[str, ...]]:
        if name not in self._seeds:
            nearest = difflib.get_close_matches(name, self._seeds, n=3, cutoff=0.5)
            known = (
                f"Did you mean {', '.join(nearest)}?"
                if nearest
                else f"There are: {', '.join(sorted(self._seeds)) or 'none'}."
            )
            raise UnknownNameError(
                f'There is no seed "{name}". {known} Import the module that registers it first.',
                name=name,
                nearest=nearest,
            )
        return self._seeds[name]


def _place(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"


seeds = SeedRegistry()
"""The registry that ledgers use by default."""
