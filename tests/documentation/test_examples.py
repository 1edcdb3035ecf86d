"""The files of docs/examples run as they stand, and each of them is in a page."""

from __future__ import annotations

import re

from tests.documentation.conftest import Examples
from tests.documentation.pages import DOCS, PAGES, blocks

WHAT_IS_OPEN = """

class TestWhatIsOpen:
    def test_it(self, loan):
        from django.db import connections
        from testdb_app.transactions import open_transactions

        connection = connections["default"]
        found = open_transactions(connection)
        print("open:", *(each.owner.split('"')[1] for each in found), "the test")
        assert len(connection.atomic_blocks) > len(found)
"""


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


def test_the_stack_that_is_drawn_is_what_is_open_in_a_test_of_the_composed_patterns(examples: Examples) -> None:
    (drawn,) = [
        block.text for block in blocks(DOCS / "explanation/scopes-and-leaks.md", "text") if block.text.startswith("db_")
    ]
    with (examples.directory / "test_pattern_scopes.py").open("a") as file:
        file.write(WHAT_IS_OPEN)
    output = examples.pytest("-q", "-rP", "test_pattern_scopes.py")
    names = re.sub(r"[\s└─]+", " ", drawn).strip()
    assert f"open: {names}\n" in output
