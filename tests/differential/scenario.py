"""One example as a value: steps of SQL, each by one actor, with resets between. Its text is SQL, and can be read again.

A step is a header and its SQL. ``--: ACTOR WHAT`` names who does it and what kind of thing that is:

=============  =========================================================================================================
``setup``      a session that makes the schema and has gone by the next step of another actor
``own``        the connection that resets, Django's
``visitor``    a session that is opened for this step and closed after it, in the ordinary role
``superuser``  the same as a superuser
``mate…``      one of Django's connections in this process, of another alias, which stays until a step ``close``
other names    a session that stays until a step ``close``; as a superuser if the name begins with ``admin``
``capture``    captures the baseline. ``capture again`` replaces it
``reset``      resets; its words are those of :class:`Reset`
=============  =========================================================================================================

What a step does beyond its SQL its last word says: ``close`` closes the session, ``wait`` lets the server notice the
session's end first, ``cut`` has the server end it, ``copy`` sends the lines after the first as the data of COPY.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_HEADER = re.compile(r"^--: (?P<actor>\S+) ?(?P<what>.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one actor does at once. Its SQL is one message to the server."""

    actor: str
    what: str = ""
    sql: str = ""

    @property
    def words(self) -> frozenset[str]:
        """The words of the header after the actor."""
        return frozenset(self.what.split())

    def __str__(self) -> str:
        return f"--: {self.actor} {self.what}".rstrip() + (f"\n{self.sql}" if self.sql else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole example. Its representation is the text that :meth:`from_sql` reads."""

    steps: tuple[Step, ...]

    @classmethod
    def from_sql(cls, text: str) -> Scenario:
        """Read the text of a scenario."""
        return cls(steps=tuple(_read(text)))

    def to_sql(self) -> str:
        """Write it as SQL with headers."""
        return "\n".join(_terminated(step) for step in self.steps)

    def __repr__(self) -> str:
        return f'Scenario.from_sql(r"""\n{self.to_sql()}\n""")'

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Tell hypothesis not to print the fields."""
        printer.text(repr(self))


def _terminated(step: Step) -> str:
    text = str(step)
    return text if not step.sql or step.sql.endswith(";") or "copy" in step.words else f"{text};"


def _read(text: str) -> Iterator[Step]:
    headers = list(_HEADER.finditer(text))
    ends = [header.start() for header in headers[1:]] + [len(text)]
    for header, end in zip(headers, ends, strict=True):
        sql = text[header.end() : end].strip("\n")
        yield Step(actor=header["actor"], what=header["what"].strip(), sql=sql.removesuffix(";"))


RESETTERS = ("warm", "second", "new", "empty", "delete")
"""Which resetter: one that is kept, another one that is kept, a new one, one to no rows, one with the strategy delete."""

KEEPS = ("untouched", "auto", "never", "always")
"""What becomes of the own session, as between two tests: it stays as it is, or ``KEEP_CONNECTIONS`` decides."""

SIGHTS = ("unseen", "seen-by-own", "seen-by-visitor")
"""Who compares afterwards. A visitor is a session more, and reading a sequence counts as a call of it: both may hide a fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """The words of a reset's header: the resetter, the mix of sessions before it, who compares; ``watched``, ``again``.

    *watched*: what lies where is looked at just before, too. *again*: a second reset follows at once and must do nothing.
    *keeps*: the own session is renewed or closed before the reset, and what is kept must be as a new one.
    *refused*: the reset raises BaselineError and changes nothing. *perhaps*: or else it is exact.
    """

    resetter: str = "warm"
    mix: str = "alone"
    keeps: str = "untouched"
    sight: str = "seen-by-visitor"
    watched: bool = False
    again: bool = False
    refused: bool = False
    perhaps: bool = False

    @classmethod
    def from_step(cls, step: Step) -> Reset:
        """Read the words."""
        words = step.words
        return cls(
            resetter=_one(words, RESETTERS, "warm"),
            mix=_one(words, MIXES, "alone"),
            keeps=_one(words, KEEPS, "untouched"),
            sight=_one(words, SIGHTS, "seen-by-visitor"),
            watched="watched" in words,
            again="again" in words,
            refused="refused" in words,
            perhaps="perhaps" in words,
        )

    def to_step(self) -> Step:
        """Write the words."""
        flags = [name for name in ("watched", "again", "refused", "perhaps") if getattr(self, name)]
        return Step(actor="reset", what=" ".join([self.resetter, self.mix, self.keeps, self.sight, *flags]))


MIXES = ("alone", "visitors", "idle", "writer", "mates", "rivals")
"""The other sessions: none; some that come and go; one that stays connected and idle; one that stays and writes; some of this
process that stay and write; those of two other processes, which reset at the same time."""


def _one(words: Iterable[str], choices: tuple[str, ...], otherwise: str) -> str:
    return next((choice for choice in choices if choice in set(words)), otherwise)
