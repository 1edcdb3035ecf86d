"""The Python of the pages, run by pytest in the project of the examples: blocks with tests as they are, others as one test each."""

from __future__ import annotations

import re
import textwrap
from importlib.util import find_spec

import pytest
from django.db import connection

from tests.documentation.conftest import Examples
from tests.documentation.pages import DOCS, PAGES, Block, blocks, name_of

TUTORIAL = "docs/tutorial/"
"""Has a test of its own, which follows it word by word."""
NOT_OF_SQLITE = ('statement_timeout="30s", ', 'statement_timeout="30s"')
"""Limits that it refuses."""
NOT_IN_MEMORY = "factory.independent("
"""A second connection cannot read there what the first has written to."""


RECIPES = [
    block
    for block in blocks(DOCS / "how-to/recipes.md", "python")
    if block.needs and "settings" not in block.info.split()
]
"""They run where what they need is installed."""


def module_of(page_blocks: list[Block]) -> str:
    """Write the test module of a page. Its blocks share their names, in the order of the page."""
    parts = ["import pytest\n"]
    for block in page_blocks:
        if re.search(r"^(async )?def test|^    (async )?def test|^class \w+\(|^@pytest", block.text, re.MULTILINE):
            parts.append(block.text)
        else:
            body = f"exec(compile({block.text!r}, {str(block)!r}, 'exec'), globals())"
            parts.append(f"def test_line_{block.line}(reset_db):\n    {body}\n")
    return "\n".join(parts)


def test_the_python_of_the_pages_runs(examples: Examples) -> None:
    for path in examples.directory.glob("test_*.py"):
        path.unlink()
    number = 0
    for page in PAGES:
        chosen = [block for block in blocks(page, "python") if "settings" not in block.info.split() and not block.needs]
        if connection.vendor == "sqlite":
            chosen = [block for block in chosen if NOT_IN_MEMORY not in block.text]
        if chosen and not name_of(page).startswith(TUTORIAL):
            number += len(chosen)
            name = re.sub(r"\W", "_", name_of(page).removesuffix(".md"))
            module = textwrap.dedent(module_of(chosen))
            for words in NOT_OF_SQLITE if connection.vendor == "sqlite" else ():
                module = module.replace(words, "")
            (examples.directory / f"test_{name}.py").write_text(module)
    assert number >= 7
    # That print() in a page prints is no matter.
    output = examples.pytest("-q", "-rA")
    assert re.search(r"\d+ passed", output), output
    printed = [block for page in PAGES for block in blocks(page, "text") if "printed" in block.info.split()]
    assert len(printed) >= 2
    # Names and keys are as PostgreSQL has them.
    if connection.vendor == "postgresql":
        assert [str(block) for block in printed if block.text not in output] == []


@pytest.mark.postgresql
@pytest.mark.parametrize("needed", sorted({",".join(block.needs) for block in RECIPES}))
def test_a_recipe_runs(needed: str, examples: Examples) -> None:
    recipe = [block for block in RECIPES if ",".join(block.needs) == needed]
    if missing := recipe[0].missing:
        pytest.skip(f"{missing[0]} is not installed")
    for path in examples.directory.glob("test_*.py"):
        path.unlink()
    (examples.directory / "test_recipe.py").write_text(module_of(recipe))
    # pytest-asyncio warns without it, wherever it is installed.
    options = ["-o", "asyncio_default_fixture_loop_scope=function"] if find_spec("pytest_asyncio") else []
    assert " passed" in examples.pytest("-q", "-W", "default", *options, "test_recipe.py")
