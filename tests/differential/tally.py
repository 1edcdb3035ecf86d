"""How often each kind of thing occurred, to be read after a long run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator


class Tally:
    """Counts by group and kind. One for a run."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._started = time.monotonic()

    def count(self, group: str, kind: str, number: int = 1) -> None:
        """Count one thing, or *number* of them."""
        self._counts[group, kind] += number

    def total(self, group: str) -> int:
        """Return the sum of a group."""
        return sum(number for (its_group, _), number in self._counts.items() if its_group == group)

    def lines(self) -> Iterator[str]:
        """Yield the summary, a line per group."""
        seconds = time.monotonic() - self._started
        examples = self.total("examples")
        yield (
            f"{examples} examples in {seconds:.0f} s ({seconds * 1000 / max(1, examples):.0f} ms each), "
            f"{self.total('resets by')} resets"
        )
        for group in sorted({group for group, _ in self._counts} - {"examples"}):
            kinds = [(number, kind) for (its_group, kind), number in self._counts.items() if its_group == group]
            listed = ", ".join(
                f"{kind} {number}" for number, kind in sorted(kinds, key=lambda pair: (-pair[0], pair[1]))
            )
            yield f"- {group} ({self.total(group)}): {listed}"
