"""Read SQL statements: what they can leave in their session, and which tables they seem to write to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

WrittenName = tuple[str | None, str]
"""The name of a table as a statement gives it: the schema, or None, and the name."""

_LONGEST_REMEMBERED = 20_000

# Strings, names in quotes, dollar quotes and comments, as PostgreSQL's scanner finds them.
_TOKENS = re.compile(
    r"""(?P<text>\b[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|(?<![\w$])\$(?P<tag>(?:[A-Za-z_\x80-\uffff][\w\x80-\uffff]*)?)\$.*?\$(?P=tag)\$)"""
    r"""|(?P<comment>--[^\n\r]*|/\*.*?\*/)"""
    r"""|(?P<name>"(?:[^"]|"")*")""",
    re.DOTALL,
)
_WORD = re.compile(r"[^\W\d][\w$]*")
# A name with Unicode escapes may be any name; another reading of backslashes may end a string elsewhere; a nested
# comment.
UNREADABLE = re.compile(r"""\bu&["']|standard_conforming_strings|/\*""", re.IGNORECASE)
CUSTOM_SETTING = re.compile(
    r"""\b(?:re)?set\s+(?:session\s+|local\s+)?(?:"[^"]*\.[^"]*"|(?:"[^"]*"|[\w$]+)\s*\.)""", re.IGNORECASE
)
# Only at the beginning of a statement: elsewhere it may be the name of a column.
SEED = re.compile(
    r"""(?:^|;|>>|\b(?:begin|then|else|loop|atomic)\b)\s*set\s+(?:session\s+|local\s+)?"?seed\b""", re.IGNORECASE
)
DO_BLOCK = re.compile(r"\bdo\b(?!\s+(?:nothing|update|instead|also)\b)", re.IGNORECASE)

_IDENTIFIER = r"""("(?:[^"]|"")+"|[^\W\d][\w$]*)"""
_WRITES = re.compile(
    r"\b(?:(?:insert|merge)\s+into|update|delete\s+from|copy)\s+(?:only\s+)?"
    + _IDENTIFIER
    + r"(?:\s*\.\s*"
    + _IDENTIFIER
    + ")?",
    re.IGNORECASE,
)

_HARMLESS = frozenset(
    {
        *("select", "insert", "update", "delete", "merge", "with", "values", "table", "copy", "explain", "show"),
        *("savepoint", "release", "rollback", "begin", "start", "commit", "end", "abort", "set", "reset", "lock"),
        *("fetch", "move", "close", "declare", "notify", "listen", "unlisten", "discard", "deallocate", "checkpoint"),
        *("truncate", "analyze", "analyse", "vacuum", "reindex", "cluster", "refresh", "comment", "grant", "revoke"),
        *("create", "alter", "drop", "reassign"),
    }
)
"""First words of statements that leave nothing in the session except what the renewal undoes; see :func:`judge_statement`."""
# What CREATE, ALTER and DROP may bring: other settings for new sessions, code of others, connections.
BRINGS_STATE = frozenset(
    {
        *("role", "user", "group", "database", "system", "extension", "language", "transform", "access", "server"),
        *("subscription", "function", "procedure", "routine", "aggregate"),
    }
)
RUNS_TEXT = frozenset({"execute", "call", "load", "prepare", "deallocate", "discard", "import"})


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What a statement can leave in its session: a ``reason`` to close that, or None; ``words``, the names in it.

    ``written`` are the names of the tables that it seems to write to, as (schema or None, name). That is a guess: triggers,
    functions and views write to others.
    """

    reason: str | None
    words: frozenset[str] = frozenset()
    written: frozenset[WrittenName] = frozenset()


UNKNOWN = Verdict("it ran something that cannot be read")


def judge_statement(statement: str | None) -> Verdict:
    """Return what *statement*, one or several separated by semicolons, can leave in a session."""
    if statement is None:
        return UNKNOWN
    return _judge(statement) if len(statement) > _LONGEST_REMEMBERED else _judge_again(statement)


def _judge(statement: str) -> Verdict:
    text = without_texts(statement)
    return Verdict(_find_state(text), words_of(text), frozenset(_find_written(text)))


def _find_state(text: str) -> str | None:
    if UNREADABLE.search(text) or "'" in text.replace("''", ""):
        return UNKNOWN.reason
    for part in text.split(";"):
        words = [word.lower() for word in _WORD.findall(part)]
        if words and (reason := _find_reason(words)) is not None:
            return reason
    if CUSTOM_SETTING.search(text):
        return "it set a custom setting, which reads as '' afterwards and not as NULL"
    return "it set the seed of random()" if SEED.search(text) else None


def _find_written(text: str) -> Iterator[WrittenName]:
    for found in _WRITES.finditer(text):
        first, second = map(_name, found.groups())
        yield (first, second) if second else (None, first)


def _name(text: str | None) -> str:
    """Return an identifier as the catalog has it."""
    if text is None:
        return ""
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.lower()


_judge_again = lru_cache(maxsize=4096)(_judge)


def _find_reason(words: list[str]) -> str | None:
    first = words[0]
    if first not in _HARMLESS or (first == "explain" and "execute" in words):
        return f"it ran {first.upper()}"
    if first in {"create", "alter", "drop"}:
        # CREATE OR REPLACE TRUSTED LANGUAGE, DROP FUNCTION: the kind comes before the name.
        kinds = BRINGS_STATE.intersection(words[1:4]) - ({"role", "user", "group"} if first != "alter" else set())
        if kinds:
            return f"it ran {first.upper()} {min(kinds).upper()}"
    return None


def words_of(text: str) -> frozenset[str]:
    """Return the words of a statement without its texts, in lower case."""
    return frozenset(word.lower() for word in _WORD.findall(text))


def without_texts(statement: str) -> str:
    """Return *statement* without its comments and with its strings empty."""
    if not any(mark in statement for mark in ("'", "--", "/*", "$")):
        return statement
    return _TOKENS.sub(_replacement, statement)


def _replacement(token: re.Match[str]) -> str:
    if token["comment"]:
        # Comments nest, and a pattern does not find the end of a nested one.
        return "/*" if "/*" in token["comment"][2:] else " "
    return token["name"] or "''"
