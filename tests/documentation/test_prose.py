"""The prose of the pages is short: average words in a sentence, words in a page. Code, tables and headings are no sentences."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.documentation.pages import PAGES, name_of

WORDS_IN_A_SENTENCE = 20
WORDS_IN_A_PAGE = 1500
AS_LONG_AS_THEY_ARE = {"docs/reference/api.md", "docs/reference/changelog.md", "CHANGELOG.md"}
END = re.compile(r"(?<=[.!?:])\)?\s+(?=[A-Z\"“(‘`])")
"""A sentence ends before a capital letter, a quotation mark, a bracket or a word in code."""


def sentences(text: str) -> list[str]:
    """Return the sentences of paragraphs and list items. A word in code is one word, an image none."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = parser.parse(re.sub(r"^: +", "\n", text, flags=re.MULTILINE))  # what a definition list defines
    found: list[str] = []
    for before, token in pairwise(tokens):
        if token.type != "inline" or before.type != "paragraph_open":
            continue
        plain = "".join(word(each) for each in token.children or [])
        found += [each.strip() for each in END.split(plain)]
    return [sentence for sentence in found if count(sentence) > 2]


def word(token: Token) -> str:
    """Return what is read of an inline token."""
    return {"text": token.content, "softbreak": " ", "code_inline": "`code`"}.get(token.type, "")


def count(sentence: str) -> int:
    return len(re.findall(r"[\w'’%…-]+", sentence))


def worst(found: dict[str, list[str]]) -> str:
    """Return the ten longest sentences, the longest first, each with its page."""
    every = sorted(((count(each), name, each) for name, of_page in found.items() for each in of_page), reverse=True)
    return "\n" + "\n".join(f"{length} words, {name}: {sentence}" for length, name, sentence in every[:10])


def average(of_page: list[str]) -> float:
    return sum(map(count, of_page)) / len(of_page)


@pytest.fixture(scope="module")
def prose() -> dict[str, list[str]]:
    found = {name_of(page): sentences(page.read_text("utf-8")) for page in PAGES}
    return {name: of_page for name, of_page in found.items() if of_page}


def test_sentences_are_told_apart_as_a_reader_does() -> None:
    text = "One `a.b c` is *short*. Two: it\nends here!\n\n| no | sentence at all |\n|---|---|\n\n- An item is one\n\n    code\n"
    assert sentences(text) == ["One `code` is short.", "Two: it ends here!", "An item is one"]


@pytest.mark.parametrize("name", [name_of(page) for page in PAGES])
def test_the_sentences_of_a_page_are_short(name: str, prose: dict[str, list[str]]) -> None:
    of_page = prose.get(name, [])
    assert not of_page or average(of_page) < WORDS_IN_A_SENTENCE, worst({name: of_page})


def test_the_sentences_of_all_pages_are_short(prose: dict[str, list[str]]) -> None:
    every = [sentence for of_page in prose.values() for sentence in of_page]
    assert len(every) > 1000
    print(f"{average(every):.1f} words in a sentence; the longest:{worst(prose)}")
    assert average(every) < WORDS_IN_A_SENTENCE, worst(prose)


@pytest.mark.parametrize("page", [page for page in PAGES if name_of(page) not in AS_LONG_AS_THEY_ARE], ids=name_of)
def test_a_page_is_read_at_one_sitting(page: Path) -> None:
    without_code = re.sub(r"^( *)```.*?^\1```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    length = len(re.findall(r"\w+", without_code))
    assert length <= WORDS_IN_A_PAGE, f"{name_of(page)} has {length} words"
