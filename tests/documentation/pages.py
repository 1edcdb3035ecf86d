"""The pages as the tests read them: README, CHANGELOG and all of docs/, and the code blocks in them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced code block: the words after the fence, its text, and the line it starts in."""

    page: Path
    line: int
    info: str
    text: str

    @property
    def language(self) -> str:
        """The first word."""
        return self.info.partition(" ")[0]

    @property
    def needs(self) -> list[str]:
        """The modules and programs that a recipe needs, by a word after the fence: ``needs:celery``."""
        words = [word for word in self.info.split() if word.startswith("needs:")]
        return words[0].removeprefix("needs:").split(",") if words else []

    @property
    def missing(self) -> list[str]:
        """Those of them that are not installed."""
        return [name for name in self.needs if find_spec(name) is None and shutil.which(name) is None]

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    """Return the page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the code blocks of a page, indented ones among them, of that language or of all."""
    found = [
        Block(page=page, line=(token.map or [0])[0] + 1, info=token.info.strip(), text=token.content)
        for token in MarkdownIt().parse(page.read_text("utf-8"))
        if token.type in {"fence", "code_block"}
    ]
    return [block for block in found if language is None or block.language == language]


def every_block(language: str | None = None) -> list[Block]:
    """Return those of all pages."""
    return [block for page in PAGES for block in blocks(page, language)]
