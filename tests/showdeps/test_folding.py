"""Long lines on a narrow terminal."""

from __future__ import annotations

import pytest

from testdb_app.management.terminal import fold


def test_a_line_that_fits_stays_as_it_is() -> None:
    for line in ("", "  ", "one two", '  1  delete    3  public."a b"  (shop.A)'):
        assert fold(line, 60) == line.rstrip(" ")


def test_it_is_broken_between_words_and_the_rest_is_indented() -> None:
    assert fold("one two three four", 9) == "one two\n  three\n  four"
    assert fold("    one  two  three", 12) == "    one  two\n        three"


def test_a_name_is_never_broken_though_it_has_spaces() -> None:
    line = 'in database "a b c" (alias "x y"): U&"q\\2028 r".\'s "t""u v"'
    words = ["in", "database", '"a b c"', "(alias", '"x y"):', 'U&"q\\2028 r".\'s', '"t""u v"']
    assert fold(line, 1).replace("\n  ", "|").split("|") == words


def test_a_quote_without_an_end_ends_nothing() -> None:
    assert fold('5" wide and "so on"', 1).replace("\n  ", "|").split("|")[-1].endswith('"')


def test_a_word_too_long_for_any_line_stays_whole() -> None:
    assert fold("a " + "x" * 30 + " b", 10) == "a\n  " + "x" * 30 + "\n  b"


def test_wide_characters_take_two_columns_and_colours_none() -> None:
    assert fold("名前 名前", 9) == "名前 名前"
    assert fold("名前 名前", 8) == "名前\n  名前"
    assert fold("\x1b[1mone\x1b[0m two", 7) == "\x1b[1mone\x1b[0m two"


@pytest.mark.parametrize(("used", "folded"), [(0, "one two"), (1, "one\n  two"), (20, "one\n  two")])
def test_what_stands_before_the_line_counts(used: int, folded: str) -> None:
    assert fold("one two", 7, used=used) == folded
