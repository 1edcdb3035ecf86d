"""The page in light and dark, on a phone, on paper, and for those whom motion troubles."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from testdb_app.showdeps.picture import Picture
from tests.browser.driving import Reader
from tests.showdeps.schemas import key, schema, table

Demo = Callable[..., Path]

# The ratio of WCAG 2.2 (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio) of every text that is seen, with what is behind it.
CONTRASTS = """
const parse = (color) => color.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
        const color = parse(getComputedStyle(each).backgroundColor);
        if (color.length < 4 || color[3] === 1) return color;
    }
    return [255, 255, 255];
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility() || element.closest('.unseen, script, noscript, title')) continue;
    const style = getComputedStyle(element);
    const ground = element.closest('.node')?.querySelector('rect');
    const [one, other] = element.closest('svg')
        ? [light(parse(style.fill)), light(ground ? parse(getComputedStyle(ground).fill) : behind(element))]
        : [light(parse(style.color)), light(behind(element))];
    found.push([(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), walker.currentNode.textContent]);
}
for (const curve of document.querySelectorAll(arguments[0])) {
    const [one, other] = [light(parse(getComputedStyle(curve).stroke)), light(behind(curve.closest('#map, #panel')))];
    // 3 : 1 is asked of what is not text.
    found.push([1.5 * (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), curve.getAttribute('class')]);
}
return found.filter(([ratio]) => ratio < 4.5)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_contrast_in_every_state(reader: Reader, demo: Demo, scheme: str) -> None:
    reader.open(demo(), prefers_color_scheme=scheme)
    assert reader.run(CONTRASTS, "#map .curve:not(.between), .legend .curve") == []
    reader.search("loan")
    assert reader.run(CONTRASTS, "#map .curve") == []
    for name in ("testdb_demo_loan", "testdb_demo_branch", "testdb_demo_work"):
        reader.click(name)
        # What is neither chosen nor connected steps back, and its curves are meant to be faint.
        assert reader.run(CONTRASTS, "#map .curve.towards, #map .curve.from") == []


def test_dark_is_dark_and_paper_is_always_light(reader: Reader, demo: Demo) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    path = demo()
    reader.open(path, prefers_color_scheme="light")
    light = reader.run(ground)
    reader.set_media(prefers_color_scheme="dark")
    assert reader.run(ground) != light == "rgb(255, 255, 255)"
    reader.set_media("print", prefers_color_scheme="dark")
    assert reader.run(ground) == light


def test_what_is_marked_differs_in_more_than_its_colour(reader: Reader, demo: Demo) -> None:
    reader.open(demo())
    dashes = (
        "return [...document.querySelectorAll('.legend .curve')].map((each) => getComputedStyle(each).strokeDasharray)"
    )
    plain, ring, stuck, towards, back, _ = reader.run(dashes)
    assert len({ring, stuck}) == len({towards, back}) == 2
    assert plain == "none"


def test_nothing_moves_for_those_whom_it_troubles(reader: Reader, demo: Demo) -> None:
    behaviour = "const map = document.getElementById('map'); map.className = 'gliding'; return getComputedStyle(map).scrollBehavior"
    path = demo()
    reader.open(path, prefers_reduced_motion="reduce")
    assert reader.run(behaviour) == "auto"
    reader.open(path, prefers_reduced_motion="no-preference")
    assert reader.run(behaviour) == "smooth"


@pytest.mark.parametrize(("width", "height"), [(320, 640), (390, 844), (844, 390), (1440, 900)])
def test_the_page_fits_the_screen_and_its_parts_scroll(reader: Reader, demo: Demo, width: int, height: int) -> None:
    reader.open(demo(), width=width, height=height)
    for state in (None, "testdb_demo_authorship"):
        if state:
            reader.click(state)
        sizes = "const e = document.scrollingElement; return [e.scrollWidth, e.scrollHeight, innerWidth, innerHeight]"
        assert reader.run(sizes)[:2] == [width, height]
        panel = "const e = document.getElementById('panel'); return e.scrollWidth - e.clientWidth"
        assert reader.run(panel) <= 0
        visible = "const b = document.getElementById(arguments[0]).getBoundingClientRect(); return [b.width, b.height]"
        for part in ("map", "panel", "query"):
            assert min(reader.run(visible, part)) >= 20, part


def test_long_names_are_broken_and_never_cut(reader: Reader, write_page: Callable[[Picture], Path]) -> None:
    long, wide = "a_long_name_" * 5 + "end", "名前テーブル" * 3
    whole = schema([table(long), table(wide), table("b")], [key("b", "x", long), key("b", "y", wide)])
    reader.open(write_page(Picture(whole=whole)), width=390, height=844)
    assert set(reader.labels) == {long, wide, "b"}
    cut = "return [...document.querySelectorAll('.node')].filter((each) => each.querySelector('.name').getBBox().width > each.querySelector('rect').getBBox().width).length"
    assert reader.run(cut) == 0


def pages(pdf: bytes) -> int:
    assert pdf.startswith(b"%PDF")
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def as_printed(reader: Reader, question: str) -> object:
    """Ask the page while it is being printed, and print it."""
    reader.run(
        f"window.addEventListener('beforeprint', () => {{ window.answer = (() => {{ {question} }})(); }}, {{once: true}})"
    )
    reader.print()
    return reader.run("return window.answer")


def test_paper_has_the_map_and_the_order_and_then_the_page_is_as_it_was(reader: Reader, demo: Demo) -> None:
    reader.open(demo())
    before = reader.run("return [document.body.innerHTML, document.documentElement.outerHTML.length]")
    rows = "return [document.documentElement.dataset.paper, document.querySelectorAll('#paper tbody tr').length]"
    assert as_printed(reader, rows) == ["map", len(reader.labels)]
    assert 1 <= pages(reader.print()) <= 4
    assert reader.run("return [document.body.innerHTML, document.documentElement.outerHTML.length]") == before


def test_paper_has_no_controls(reader: Reader, demo: Demo) -> None:
    reader.open(demo())
    reader.set_media("print")
    shown = "return arguments[0].filter((each) => document.querySelector(each).checkVisibility())"
    assert reader.run(shown, [".tools", "#panel", "h1", "#map", "#paper"]) == ["h1", "#map", "#paper"]
    reader.set_media()
    reader.click("testdb_demo_loan")
    reader.set_media("print")
    assert reader.run(shown, ["#panel", "#panel .plain"]) == ["#panel"]


def test_a_map_too_large_for_a_sheet_is_a_table_on_paper(reader: Reader, write_page: Callable[[Picture], Path]) -> None:
    names = [f"a_table_with_a_long_name_{number:03}" for number in range(400)]
    keys = [key(names[n], "x", names[n // 3]) for n in range(1, 400)]
    reader.open(write_page(Picture(whole=schema(list(map(table, names)), keys))))
    assert as_printed(reader, "return document.documentElement.dataset.paper") == "table"
    assert 5 < pages(reader.print()) < 30
