"""Values for any column, by its type."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Column:
    """A column as far as a value for it matters. ``words`` are an enum's labels and the texts that its checks name."""

    name: str
    not_null: bool
    counts: bool
    has_default: bool
    type: str
    category: str
    modifier: int
    words: list[str]


def make_value(column: Column, number: int, chance: random.Random, *, strange: bool) -> Any:
    """Return a value for *column*: another one for another *number*, except for what checks tend to ask for, if *strange*."""
    if strange and column.category in _STRANGE and column.type not in _BY_TYPE:
        return chance.choice(_STRANGE[column.category])
    if column.words and column.category in "SE" and not (strange and chance.random() < 0.3):
        return chance.choice(column.words)
    by_type = _BY_TYPE.get(column.type)
    if by_type is not None:
        return by_type(number, column.modifier)
    return _BY_CATEGORY.get(column.category, _text)(number, column.modifier)


def as_text(value: Any) -> str:
    """Return the value as the text that PostgreSQL reads."""
    return value if isinstance(value, str) else json.dumps(value)


def _text(number: int, modifier: int) -> str:
    text = f"t{number}"
    return text[-(modifier - 4) :] if modifier > 4 else text


def _numeric(number: int, modifier: int) -> int:
    if modifier < 0:
        return number
    digits = ((modifier - 4) >> 16) - ((modifier - 4) & 0x7FF)
    return number % 10 ** max(digits, 0)


_BY_CATEGORY: dict[str, Callable[[int, int], Any]] = {
    "A": lambda *_: "{}",
    "B": lambda number, _: bool(number % 2),
    "D": lambda number, _: f"2022-0{1 + number % 7}-1{number % 10} 00:0{number % 10}:00",
    "N": lambda number, _: 1 + number % 30_000,
    "R": lambda number, _: f"[{number},{number + 1})",
    "S": _text,
    "T": lambda number, _: f"{number} seconds",
}
# What checks tend to ask for: a state, a share, a birthday.
_STRANGE: dict[str, list[Any]] = {
    "B": [True, False],
    "D": ["1970-01-01", "2001-01-01", "2022-01-15"],
    "N": [0, 1, 2, 7, 150],
}
_BY_TYPE: dict[str, Callable[[int, int], Any]] = {
    "bit": lambda *_: "1",
    "bytea": lambda number, _: f"\\x{number:08x}",
    "char": lambda number, _: chr(97 + number % 26),
    "cidr": lambda number, _: f"10.0.{number // 256 % 256}.{number % 256}/32",
    "cube": lambda number, _: f"({number})",
    "daterange": lambda *_: "[2022-01-01,2022-02-01)",
    "hstore": lambda number, _: f"a=>{number}",
    "inet": lambda number, _: f"10.0.{number // 256 % 256}.{number % 256}",
    "json": lambda number, _: {"a": number},
    "jsonb": lambda number, _: {"a": number},
    "ltree": lambda number, _: f"a.b{number}",
    "macaddr": lambda number, _: f"08:00:2b:01:{number // 256 % 256:02x}:{number % 256:02x}",
    "macaddr8": lambda number, _: f"08:00:2b:01:02:03:{number // 256 % 256:02x}:{number % 256:02x}",
    "numeric": _numeric,
    "oid": lambda number, _: number,
    "point": lambda number, _: f"({number % 90},{number % 90})",
    "tid": lambda number, _: f"({number},1)",
    "time": lambda number, _: f"10:00:{number % 60:02d}",
    "timetz": lambda number, _: f"10:00:{number % 60:02d}+00",
    "tsrange": lambda *_: "[2022-01-01,2022-02-01)",
    "tstzrange": lambda *_: "[2022-01-01,2022-02-01)",
    "tsvector": lambda number, _: f"t{number}",
    "uuid": lambda number, _: str(uuid.UUID(int=number)),
    "xml": lambda number, _: f"<a>{number}</a>",
}
