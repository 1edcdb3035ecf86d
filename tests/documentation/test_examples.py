"""The files of docs/examples run as they stand, and each of them is in a page."""

from __future__ import annotations

import re

from tests.documentation.conftest import Examples
from tests.documentation.pages import DOCS, PAGES


def test_the_examples_pass(examples: Examples) -> None:
    output = examples.pytest("-q", "-rs")
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None
    assert int(passed[1]) >= 50, output


def test_each_file_of_the_examples_is_in_a_page() -> None:
    included = {
        (page.parent / name).resolve()
        for page in PAGES
        for name in re.findall(r"^```\{literalinclude\} (\S+)", page.read_text(), re.MULTILINE)
    }
    assert {path.name for path in (DOCS / "examples").glob("*.*") if path not in included} == set()
