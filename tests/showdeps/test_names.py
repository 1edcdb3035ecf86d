"""Names as pictures show them."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from testdb_app.schema import QualifiedName, on_one_line, show_part
from testdb_app.showdeps.picture import cells, counted


def read_back(text: str) -> str:
    """Read one identifier as PostgreSQL does: bare, in double quotes, or with Unicode escapes."""
    if text.startswith('U&"'):
        body = text[3:-1].replace('""', '"')
        return re.sub(r"\\(\\|[0-9A-F]{4}|\+[0-9A-F]{6})", lambda m: _unescaped(m[1]), body)
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def _unescaped(code: str) -> str:
    return code if code == "\\" else chr(int(code.removeprefix("+"), 16))


@settings(deadline=None)
@given(st.text())
@example("U&")
@example('u&"x"')
@example("\\000A")
@example("\n\\000A")
@example("\U000e0001\ud800")
def test_a_name_can_be_read_back_from_one_visible_line(name: str) -> None:
    text = show_part(name)
    assert read_back(text) == name
    assert text.isprintable()


def test_a_table_is_named_with_its_schema_where_it_has_one() -> None:
    assert str(QualifiedName("s p", "t")) == '"s p".t'
    assert str(QualifiedName("", "t")) == "t"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("loan", "loan"),
        ("Loan", '"Loan"'),
        ("new\nline", 'U&"new\\000Aline"'),
        ("\u202egnihsiv", 'U&"\\202Egnihsiv"'),
        ("\U000e0041", 'U&"\\+0E0041"'),
    ],
)
def test_what_cannot_be_seen_is_escaped_as_in_sql(name: str, text: str) -> None:
    assert show_part(name) == text


def test_other_text_stays_on_one_line() -> None:
    assert on_one_line('database "a\nb\x1b[31m é"') == 'database "a\\nb\\x1b[31m é"'


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("名前", 4), ("e\u0301", 1), ("→ ü", 3), ("🐘", 2), ("☃\ufe0f", 1)]
)
def test_the_width_is_counted_in_columns_of_the_terminal(text: str, width: int) -> None:
    assert cells(text) == width


def test_counts_read_as_a_person_would_say_them() -> None:
    assert [counted(number, "table") for number in (0, 1, 2, 2000)] == [
        "no tables",
        "1 table",
        "2 tables",
        "2,000 tables",
    ]
