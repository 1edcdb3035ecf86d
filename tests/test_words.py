"""The words of the field stand where a stranger reads first: in names, in titles and in ``--help``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from django.core.management import load_command_class

from tests.documentation.pages import PAGES, name_of
from tests.test_architecture import CORE, TREES

# The old words, each with the field's. Data of the demonstration, a lending library, is apart.
WORDS = {
    ("look", "looks", "looking"): "scan, read or check",
    ("map", "maps"): "schema, or dependency graph",
    ("ask", "asks", "asking", "asked"): "query, check or request",
    ("tell", "tells", "telling", "told"): "report",
    ("know", "knows", "knowing", "known"): "recognise, record or cache",
    ("damage", "damages", "damaged"): "changed",
    ("lend", "lends", "lent", "lender", "lending"): "share",
    ("borrow", "borrows", "borrowed", "borrower", "borrowing"): "share",
}
FIELD = {word: better for words, better in WORDS.items() for word in words}
PHRASES = re.compile(
    r"\b(made of nothing|twice is once|in the same breath|would go|ends by a reset|who left rows"
    r"|(dependency|the|whole) map|map of|(a|the|quick|exact) look)\b",
    re.IGNORECASE,
)

# Public names stay as they are.
PUBLIC = {
    "exceptions.BaselineDamagedError",
    "exceptions.LendingTimeoutError",
    "sessions.session.borrower",  # Session.allow()
    "backends.base.look_for_commits",
    "backends.sqlite.backend.look_for_commits",
    "backends.postgresql.backend.look_for_commits",
}


def words_of(name: str) -> list[str]:
    """Return the words of an identifier, in lower case: those of ``look_again`` and of ``LookAgain`` are the same."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def names_of(module: str) -> Iterator[str]:
    """Yield the names of a module that people read: its own, and those of classes, functions and parameters."""
    yield module.rpartition(".")[2]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg


def titles_of(text: str) -> Iterator[str]:
    """Yield the titles of a page, without those in code blocks, and without texts of errors, which are code in the title."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for title in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE):
        yield re.sub(r"`[^`]*`", "", title)


def old_words(text: str) -> list[str]:
    """Return the old words and phrases that *text* has."""
    return [word for word in re.findall(r"[a-z]+", text.lower()) if word in FIELD] + [
        found.group() for found in PHRASES.finditer(text)
    ]


def test_identifiers_are_the_fields_words() -> None:
    found = {
        f"{module}.{name}": FIELD[word]
        for module in CORE
        for name in names_of(module)
        for word in words_of(name)
        if word in FIELD
    }
    assert {name: f"use {better}" for name, better in found.items() if name not in PUBLIC} == {}


def test_every_name_of_the_lists_is_there() -> None:
    names = {f"{module}.{name}" for module in CORE for name in names_of(module)}
    assert sorted(PUBLIC - names) == []


def test_titles_are_the_fields_words() -> None:
    found = {
        f"{name_of(page)}: {title}": old_words(title) for page in PAGES for title in titles_of(page.read_text("utf-8"))
    }
    assert {title: words for title, words in found.items() if words} == {}


def test_pages_have_no_phrases_of_our_own() -> None:
    found = {name_of(page): [match.group() for match in PHRASES.finditer(page.read_text("utf-8"))] for page in PAGES}
    assert {page: phrases for page, phrases in found.items() if phrases} == {}


@pytest.mark.parametrize("command", ["resetdb", "showdeps"])
def test_the_help_is_in_the_fields_words(command: str) -> None:
    text = load_command_class("testdb_app", command).create_parser("manage.py", command).format_help()
    # To ask for confirmation, and what is known of a database, are plain English.
    text = " ".join(text.split()).replace("ask for confirmation", "").replace("not known to be", "")
    assert old_words(text) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("look_again", ["look", "again"]),
        ("KnownSession", ["known", "session"]),
        ("IOMap2", ["io", "map"]),
        ("watchdog", ["watchdog"]),
    ],
)
def test_an_identifier_is_split_into_words(name: str, words: list[str]) -> None:
    assert words_of(name) == words
