"""The page without a mouse, and for those who hear it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testdb_app.showdeps.picture import Picture
from tests.browser.driving import Keys, Reader
from tests.showdeps.schemas import key, library, schema, table

GRID = schema(
    [table(name) for name in ("a1", "a2", "a3", "b1", "b2", "b3", "c1")],
    [key("b1", "x", "a1"), key("b2", "x", "a2"), key("b3", "x", "a3"), key("c1", "x", "b1")],
)


@pytest.fixture
def grid(reader: Reader, write_page: Callable[[Picture], Path]) -> Reader:
    """A reader with c1 | b1 b2 b3 | a1 a2 a3 in columns, who has tabbed to the first of them."""
    reader.open(write_page(Picture(whole=GRID)))
    reader.run("document.getElementById('filtering').focus()")
    reader.press(Keys.TAB)
    return reader


def test_the_tab_key_stops_at_the_search_the_zoom_the_map_and_the_panel(
    reader: Reader, write_page: Callable[[Picture], Path]
) -> None:
    reader.open(write_page(Picture(whole=GRID)))
    stops = []
    for _ in range(12):
        reader.press(Keys.TAB)
        stops.append(reader.focused)
    zoom = ["Smaller", "100 %, original size", "Larger", "Fit the whole graph in"]
    # The drawing is one stop, whatever the number of its tables; then its bar, then the panel's own list begins.
    assert stops[:7] == ["Search", *zoom, "Filter and view", "c1"]
    assert stops[9:] == ["Play", "Tables (7)", "a1"]


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ([Keys.ARROW_RIGHT], "b1"),
        ([Keys.ARROW_RIGHT, Keys.ARROW_DOWN], "b2"),
        ([Keys.ARROW_RIGHT, Keys.ARROW_UP], "b1"),
        ([Keys.ARROW_RIGHT, Keys.END], "b3"),
        ([Keys.ARROW_RIGHT, Keys.END, Keys.ARROW_DOWN], "b3"),
        ([Keys.ARROW_RIGHT, Keys.END, Keys.HOME], "b1"),
        ([Keys.ARROW_RIGHT, Keys.ARROW_RIGHT], "a1"),
        ([Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT], "a1"),
        ([Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_LEFT], "b2"),
        ([Keys.ARROW_LEFT], "c1"),
    ],
)
def test_the_arrows_go_to_the_table_beside(grid: Reader, keys: list[str], name: str) -> None:
    for each in keys:
        grid.press(each)
    assert grid.focused == name


@pytest.mark.parametrize("choosing", [Keys.ENTER, Keys.SPACE])
def test_enter_and_space_choose_and_escape_goes_back(grid: Reader, choosing: str) -> None:
    grid.press(Keys.ARROW_RIGHT, Keys.ARROW_UP)
    grid.press(choosing)
    assert (grid.title, grid.marked("towards"), grid.marked("from")) == ("public.b1", {"a1"}, {"c1"})
    assert grid.focused == "b1"
    assert grid.text("#status") == "b1 depends on 1 table; 1 depends on it"
    grid.press(Keys.ESCAPE)
    assert (grid.title, grid.text("#status"), grid.focused) == ("Dependency graph", "", "b1")


def test_one_comes_back_to_the_table_where_one_was(grid: Reader) -> None:
    grid.press(Keys.ARROW_RIGHT, Keys.END)
    grid.press(Keys.SHIFT, Keys.TAB)
    grid.press(Keys.TAB)
    assert grid.focused == "b3"


def test_the_slash_goes_to_the_search_and_escape_ends_it(grid: Reader) -> None:
    grid.press("/")
    assert grid.focused == "Search"
    grid.press("a/")
    assert grid.run("return document.getElementById('query').value") == "a/"
    grid.press(Keys.ESCAPE)
    assert grid.run("return document.getElementById('query').value") == ""
    assert grid.marked("hit") == set()


def test_what_a_search_chooses_gets_the_focus(grid: Reader) -> None:
    grid.press("/")
    grid.press("b2")
    grid.press(Keys.ENTER)
    assert (grid.title, grid.focused) == ("public.b2", "public.b2")
    grid.press(Keys.TAB)
    assert grid.focused == "Close: back to the whole graph"
    grid.press(Keys.ENTER)
    # The search is still there, and so is what it found.
    assert grid.title == "1 table for “b2”"
    assert grid.focused == grid.title


def test_keys_zoom(grid: Reader) -> None:
    percents = []
    for pressed in ("+", "-", "-", "0", "f"):
        grid.press(pressed)
        percents.append(grid.text("#actual"))
    assert percents[:4] == ["125 %", "100 %", "80 %", "100 %"]


def test_every_table_can_be_brought_into_sight_by_keys(reader: Reader, write_page: Callable[[Picture], Path]) -> None:
    tables = [table(f"t{number:03}") for number in range(300)]
    whole = schema(tables, [key(f"t{n:03}", "x", f"t{n // 3:03}") for n in range(1, 300)])
    reader.open(write_page(Picture(whole=whole)), width=800, height=600, prefers_reduced_motion="reduce")
    reader.run("document.querySelector('.node[tabindex=\"0\"]').focus()")
    sight = """
        const box = document.activeElement.getBoundingClientRect();
        const map = document.getElementById('map').getBoundingClientRect();
        return box.left >= map.left && box.right <= map.right && box.top >= map.top && box.bottom <= map.bottom"""
    for pressed in (*[Keys.ARROW_RIGHT] * 5, Keys.END, Keys.ARROW_RIGHT, Keys.END, Keys.HOME, *[Keys.ARROW_LEFT] * 4):
        reader.press(pressed)
        assert reader.run(sight), reader.focused


def test_the_focus_is_seen(grid: Reader) -> None:
    outline = """
        const rect = document.activeElement.querySelector('rect');
        if (rect) return ['solid', parseFloat(getComputedStyle(rect).strokeWidth)];
        const style = getComputedStyle(document.activeElement);
        return [style.outlineStyle, parseFloat(style.outlineWidth)]"""
    for _ in range(2):
        style, width = grid.run(outline)
        assert style == "solid"
        assert width >= 2
        grid.press(Keys.TAB)


def nodes(tree: list[dict[str, Any]], role: str) -> Iterator[dict[str, Any]]:
    return (node for node in tree if node["role"]["value"] == role)


def name(node: dict[str, Any]) -> str:
    return str(node["name"]["value"])


def properties(node: dict[str, Any]) -> dict[str, Any]:
    return {given["name"]: given["value"].get("value") for given in node.get("properties", ())}


def test_a_screen_reader_is_told_of_buttons_in_lists_below_headings(
    reader: Reader, write_page: Callable[[Picture], Path]
) -> None:
    picture = Picture(whole=library(), title="The shop", tables_without_model=frozenset({library().tables[3].name}))
    reader.open(write_page(picture))
    tree = reader.accessible()
    buttons = {name(node): properties(node) for node in nodes(tree, "button")}
    # Its level, cycle and missing model are told with the name of a table.
    boxes = {"copy #1", "branch cycle 1 #2", "staff cycle 1 #2", "genre cycle 2 #3"}
    assert boxes <= {label.split(" ←")[0] for label in buttons}
    assert any(label.startswith("legacy") and label.endswith(" no model") for label in buttons)
    assert "" not in buttons
    assert {"Smaller", "Larger", "100 %, original size", "Fit the whole graph in"} <= set(buttons)
    headings = [(properties(node)["level"], name(node)) for node in nodes(tree, "heading")]
    assert [heading for heading in headings if heading[0] < 3] == [(1, "The shop"), (2, "Dependency graph")]
    assert {level for level, _ in headings} == {1, 2, 3}
    assert len(list(nodes(tree, "list"))) >= 3
    # The list beside the drawing has the same tables.
    assert {name(node) for node in nodes(tree, "rowheader")} == {
        "copy",
        "branch cycle 1",
        "staff cycle 1",
        "genre cycle 2",
        "legacy",
    }
    assert [name(node) for node in nodes(tree, "searchbox")] == ["Search"]
    assert {name(node) for node in nodes(tree, "region")} >= {"Dependency graph", "Details"}
    # The curves say nothing that the panel does not say in words.
    assert not [node for node in tree if node["role"]["value"] in {"image", "graphics-document", "SvgRoot"}]


def test_a_screen_reader_is_told_what_is_pressed_and_what_a_search_has_found(
    reader: Reader, write_page: Callable[[Picture], Path]
) -> None:
    reader.open(write_page(Picture(whole=library())))
    reader.click("genre")
    pressed = {
        name(node).split(" ←")[0]: properties(node).get("pressed") for node in nodes(reader.accessible(), "button")
    }
    assert pressed["genre cycle 2 #3"] == "true"
    assert pressed["copy #1"] == "false"
    reader.press(Keys.ESCAPE)
    reader.search("gen")
    (status,) = nodes(reader.accessible(), "status")
    assert properties(status)["live"] == "polite"
    assert reader.text("#status") == "1 table found; Enter chooses the first"
