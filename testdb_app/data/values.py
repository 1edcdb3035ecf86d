"""Values that are the same in every run: numbers in sequence, and chance with a seed. Pure."""

from __future__ import annotations

import random


class Values:
    """Sequences and seeded randoms, by name; each ledger has its own, so they begin anew with it.

    Parameters: *seed*, a text that the randoms depend on besides their name. Nothing depends on the process, the time or
    ``PYTHONHASHSEED``.
    """

    def __init__(self, seed: str = "") -> None:
        self._seed = seed
        self._last: dict[str, int] = {}
        self._randoms: dict[str, random.Random] = {}

    def next(self, name: str = "") -> int:
        """Return the next number of the sequence of that name: 1, 2, 3 and so on."""
        self._last[name] = self._last.get(name, 0) + 1
        return self._last[name]

    def random(self, name: str = "") -> random.Random:
        """Return the source of chance of that name: the same one each time, seeded from the name."""
        if name not in self._randoms:
            # A text is hashed by SHA-512 here, not by hash().
            self._randoms[name] = random.Random(f"{self._seed}\0{name}")  # noqa: S311 - to be foreseen is what it is for
        return self._randoms[name]
