"""Parse SQLite's own SQL: names, tokens, and the properties that no pragma reports.

Pure functions. The catalog keeps the text of each CREATE statement. No pragma reports whether a foreign key is
deferrable, which event fires a trigger, or whether a key is AUTOINCREMENT. REFERENCES, DEFERRABLE, AUTOINCREMENT, ON and
USING are reserved words, so an unquoted token that reads like one is one.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from testdb_app.schema import QualifiedName

_TOKEN = re.compile(
    r"""--[^\n]* | /\*.*?(?:\*/|\Z)
      | '(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\]
      | [A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*
      | [0-9]+ | \S""",
    re.DOTALL | re.VERBOSE,
)
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_CREATE_TRIGGER = "CREATE TRIGGER "
_TEMPORARY = '"temp".'
T = TypeVar("T")


def quote_name(name: str) -> str:
    """Quote an identifier. Statements with identifiers run with ``params=None``, so that ``%`` is literal."""
    return '"' + name.replace('"', '""') + '"'


def quote_qualified(name: QualifiedName) -> str:
    """Quote a table's name with its schema: a temporary table would shadow a bare one."""
    return f"{quote_name(name.schema)}.{quote_name(name.name)}"


def quote_literal(text: str) -> str:
    """Quote a string constant."""
    return "'" + text.replace("'", "''") + "'"


def fold(name: str) -> str:
    """Fold a name as SQLite compares them: ASCII letters only."""
    return name.translate(_ASCII_LOWER)


def chunks(items: Sequence[T], size: int) -> Iterator[tuple[T, ...]]:
    """Cut *items* into tuples of at most *size*."""
    rest = iter(items)
    while chunk := tuple(islice(rest, size)):
        yield chunk


def tokens(sql: str) -> list[str]:
    """Split SQL into tokens without comments; quoted ones keep their quotes."""
    return [token for token in _TOKEN.findall(sql) if not token.startswith(("--", "/*"))]


def unquote(token: str) -> str:
    """Return the name that a token spells."""
    quote = token[0]
    if quote == "[":
        return token[1:-1]
    return token[1:-1].replace(quote * 2, quote) if quote in "\"'`" else token


@lru_cache(maxsize=8192)
def has_autoincrement(sql: str) -> bool:
    """Whether a CREATE TABLE declares AUTOINCREMENT."""
    return any(token.upper() == "AUTOINCREMENT" for token in tokens(sql))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceClause:
    """The text of one foreign key: the name of its constraint, and when it is checked."""

    name: str | None = None
    deferrable: bool = False
    initially_deferred: bool = False


def reference_clauses(sql: str) -> list[ReferenceClause]:
    """Return the clauses of a CREATE TABLE's foreign keys, in the order of the text.

    ``pragma_foreign_key_list`` numbers the same keys from the last one.
    """
    found: list[ReferenceClause] = []
    spelled = tokens(sql)
    words = [token.upper() for token in spelled]
    name: str | None = None
    for number, word in enumerate(words):
        if word == "CONSTRAINT" and words[number + 2 : number + 3] in (["FOREIGN"], ["REFERENCES"]):
            name = unquote(spelled[number + 1])
        elif word == "REFERENCES":
            found.append(ReferenceClause(name=name))
            name = None
        elif word == "DEFERRABLE":
            # SQLite applies it to the last foreign key so far, also with another constraint between the two.
            found[-1] = replace(
                found[-1],
                deferrable=words[number - 1] != "NOT",
                initially_deferred=words[number - 1] != "NOT"
                and words[number + 1 : number + 3] == ["INITIALLY", "DEFERRED"],
            )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerText:
    """The text of a trigger: its event, and the table (with a schema, if it names one)."""

    event: str
    schema: str | None
    table: str


def parse_trigger(sql: str) -> TriggerText:
    """Read the head of a CREATE TRIGGER as the catalog keeps it (the name is the third token, never qualified)."""
    spelled = tokens(sql)
    words = [token.upper() for token in spelled]
    event = next(number for number in range(3, len(words)) if words[number] in {"DELETE", "INSERT", "UPDATE"})
    table = words.index("ON", event) + 1
    if words[table + 1] == ".":
        return TriggerText(event=words[event], schema=unquote(spelled[table]), table=unquote(spelled[table + 2]))
    return TriggerText(event=words[event], schema=None, table=unquote(spelled[table]))


def qualified_definition(schema: str, sql: str) -> str:
    """Return a trigger's text with its schema in it. SQLite then keeps exactly the text that it kept before.

    Without the schema, a temporary table of the same name would get the trigger.
    """
    return f"{_CREATE_TRIGGER}{quote_name(schema)}.{sql.removeprefix(_CREATE_TRIGGER)}"


def trigger_schema(definition: str, table: QualifiedName) -> str:
    """Return the schema that keeps a trigger of *table*, from its qualified definition: the table's, or "temp"."""
    is_temporary = definition.startswith(_CREATE_TRIGGER + _TEMPORARY)
    return "temp" if is_temporary else table.schema


def virtual_module(sql: str) -> tuple[str, frozenset[str]]:
    """Return the module of a CREATE VIRTUAL TABLE (folded) and the names of its options (folded)."""
    spelled = tokens(sql)
    words = [token.upper() for token in spelled]
    module = words.index("USING", 3) + 1
    options = {fold(spelled[number - 1]) for number in range(module + 1, len(words)) if words[number] == "="}
    return fold(unquote(spelled[module])), frozenset(options)
