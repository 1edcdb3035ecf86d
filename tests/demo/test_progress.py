"""The progress bar of `loaddemo`."""

from __future__ import annotations

import sys
from io import StringIO

import pytest

from testdb_app.demo.management.commands import loaddemo as progress_module
from testdb_app.demo.management.commands.loaddemo import progress


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setattr(progress_module, "SECONDS_BEFORE_SHOWN", 0)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


@pytest.fixture
def without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)


def has_color(text: str) -> bool:
    return "\x1b[3" in text


def test_without_rich_the_bar_is_a_line_of_text_that_is_gone_in_the_end(terminal: Terminal, without_rich: None) -> None:
    with progress(2000, stream=terminal, color=True) as advance:
        advance(500)
        advance(1500)
    assert terminal.getvalue() == (
        "\rLoading rows:  25 % (500 of 2,000)"
        "\rLoading rows: 100 % (2,000 of 2,000)"
        "\r                                    \r"
    )


def test_the_line_of_text_is_gone_after_an_error_too(terminal: Terminal, without_rich: None) -> None:
    with pytest.raises(KeyboardInterrupt), progress(2000, stream=terminal, color=True) as advance:
        advance(500)
        raise KeyboardInterrupt
    assert terminal.getvalue().endswith("\r" + " " * len("Loading rows:  25 % (500 of 2,000)") + "\r")


def test_with_rich_the_bar_counts_rows_in_color(terminal: Terminal) -> None:
    pytest.importorskip("rich")
    with progress(2000, stream=terminal, color=True) as advance:
        advance(2000)
    assert "2000/2000" in terminal.getvalue()
    assert has_color(terminal.getvalue())


def test_the_bar_has_no_color_with_no_color(terminal: Terminal) -> None:
    with progress(2000, stream=terminal, color=False) as advance:
        advance(2000)
    assert not has_color(terminal.getvalue())


def test_the_bar_has_no_color_where_the_environment_says_no_color(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with progress(2000, stream=terminal, color=True) as advance:
        advance(2000)
    assert not has_color(terminal.getvalue())


def test_nothing_is_shown_in_the_first_second(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "SECONDS_BEFORE_SHOWN", 1)
    with progress(2000, stream=terminal, color=True) as advance:
        advance(2000)
    assert terminal.getvalue() == ""


@pytest.mark.usefixtures("terminal")
def test_nothing_is_shown_where_nobody_watches() -> None:
    pipe = StringIO()
    with progress(2000, stream=pipe, color=True) as advance:
        advance(2000)
    assert pipe.getvalue() == ""
