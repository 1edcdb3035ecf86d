"""The colours of a terminal, as functions, so that a picture needs no framework to be colourful."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _unpainted(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Paint:
    """Colours for people: functions that wrap a text in a terminal's codes. The default is no colour."""

    heading: Callable[[str], str] = _unpainted
    table: Callable[[str], str] = _unpainted
    model: Callable[[str], str] = _unpainted
    column: Callable[[str], str] = _unpainted
    cycle: Callable[[str], str] = _unpainted
    warning: Callable[[str], str] = _unpainted


PLAIN = Paint()
