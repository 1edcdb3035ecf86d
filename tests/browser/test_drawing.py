"""The drawing: groups, neighbours, filters, columns, the order, moving, and files."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.support.ui import Select, WebDriverWait

from testdb_app.schema import Column, Schema, TableDetails, UniqueKey
from testdb_app.showdeps.picture import Picture
from tests.browser.driving import Keys, Reader
from tests.showdeps.schemas import key, library, named, schema, table

WritePage = Callable[[Picture], Path]

CHAIN = schema(
    [table(name) for name in ("a", "b", "c", "d", "e")],
    [key("a", "b_id", "b"), key("b", "c_id", "c"), key("c", "d_id", "d"), key("d", "e_id", "e")],
)


def apps(count: int) -> Schema:
    """Tables of two apps, each with a chain; the first of one references the first of the other."""
    names = [f"{app}_{number:02}" for app in ("crm", "shop") for number in range(count)]
    chains = [key(one, "x", other) for one, other in pairwise(names) if one[:3] == other[:3]]
    return schema(list(map(table, names)), [*chains, key("crm_00", "y", "shop_00")])


def groups(reader: Reader) -> list[str]:
    return sorted(reader.run("return [...document.querySelectorAll('[data-group]')].map((each) => each.dataset.group)"))


def press_group(reader: Reader, name: str) -> None:
    script = """
        document.querySelector(`[data-group="${arguments[0]}"]`).dispatchEvent(new MouseEvent('click', {bubbles: true}))"""
    reader.run(script, name)


def steps_of_neighbours(reader: Reader, value: str) -> None:
    Select(reader.driver.find_element("id", "around")).select_by_value(value)


def set_value(reader: Reader, identifier: str, value: str) -> None:
    script = """
        const control = document.getElementById(arguments[0]);
        control.value = arguments[1];
        control.dispatchEvent(new Event('input'));"""
    reader.run(script, identifier, value)


def listed(reader: Reader) -> list[str]:
    return sorted(
        reader.run("return [...document.querySelectorAll('.list [data-table]')].map((each) => each.textContent)")
    )


@pytest.mark.parametrize(("count", "grouped"), [(30, False), (31, True)])
def test_above_60_tables_the_apps_are_boxes(reader: Reader, write_page: WritePage, count: int, grouped: bool) -> None:
    reader.open(write_page(Picture(whole=apps(count))))
    assert groups(reader) == (["crm", "shop"] if grouped else [])
    assert len(reader.labels) == (0 if grouped else 60)


def test_an_app_opens_and_closes_by_click_and_key(reader: Reader, write_page: WritePage) -> None:
    reader.open(write_page(Picture(whole=apps(31))))
    press_group(reader, "crm")
    assert sorted(reader.labels) == [f"crm_{number:02}" for number in range(31)]
    assert reader.focused == "crm"
    reader.press(Keys.ENTER)
    assert reader.labels == []
    reader.press(Keys.SPACE)
    assert len(reader.labels) == 31
    reader.run("document.getElementById('expand').click()")
    assert len(reader.labels) == 62
    reader.run("document.getElementById('expand').click()")
    assert (reader.labels, groups(reader)) == ([], ["crm", "shop"])


def test_a_table_in_a_closed_app_is_shown_with_its_neighbours(reader: Reader, write_page: WritePage) -> None:
    reader.open(write_page(Picture(whole=apps(31))))
    reader.search("shop_00")
    reader.press(Keys.ENTER)
    assert reader.title == "public.shop_00"
    assert sorted(reader.labels) == ["crm_00", "shop_00", "shop_01"]
    reader.press(Keys.ESCAPE)
    assert groups(reader) == ["crm", "shop"]


def test_neighbours_of_so_many_steps_are_shown_and_the_rest_hidden(reader: Reader, write_page: WritePage) -> None:
    reader.open(write_page(Picture(whole=CHAIN)))
    assert not reader.driver.find_element("id", "around").is_enabled()
    reader.click("c")
    for steps, shown in {"1": "bcd", "2": "abcde", "99": "abcde", "0": "abcde"}.items():
        steps_of_neighbours(reader, steps)
        assert sorted(reader.labels) == list(shown), steps
    reader.run("document.querySelector('[data-number=\"2\"]').focus()")
    reader.press("1")
    assert sorted(reader.labels) == ["b", "c", "d"]
    # Another table keeps the number of steps.
    reader.click("d")
    assert sorted(reader.labels) == ["c", "d", "e"]
    reader.press(Keys.ESCAPE)
    assert sorted(reader.labels) == ["a", "b", "c", "d", "e"]


def test_more_neighbours_than_can_be_read_are_grouped_by_side_and_app(reader: Reader, write_page: WritePage) -> None:
    names = [f"crm_{number:02}" for number in range(70)]
    whole = schema(
        list(map(table, ("hub", "base_one", "base_two", *names))),
        [*(key(name, "hub_id", "hub") for name in names), key("hub", "base_id", "base_one")],
    )
    reader.open(write_page(Picture(whole=whole)), address="#public.hub")
    assert (reader.labels, groups(reader)) == (["hub"], ["from crm", "towards base"])
    press_group(reader, "towards base")
    assert sorted(reader.labels) == ["base_one", "hub"]


def test_the_filter_is_for_the_drawing_and_the_list(reader: Reader, write_page: WritePage) -> None:
    reader.open(
        write_page(Picture(whole=library(), labels={named("copy"): ("shop.Copy",), named("genre"): ("shop.G",)}))
    )
    everything = ["branch", "copy", "genre", "legacy", "staff"]
    for control, value, expected in (
        ("filter-app", "shop", ["copy", "genre"]),
        ("filter-name", "STA", ["staff"]),
        ("filter-low", "1", ["copy"]),
        ("filter-high", "0", ["branch", "genre", "legacy", "staff"]),
    ):
        set_value(reader, control, value)
        assert sorted(reader.labels) == [name.split(" ")[0] for name in listed(reader)] == expected, control
        reader.run("document.getElementById('clear').click()")
        assert sorted(reader.labels) == everything
    for control, expected in (("filter-cycles", ["branch", "genre", "staff"]), ("filter-rigid", ["copy", "genre"])):
        reader.run("document.getElementById(arguments[0]).click()", control)
        assert sorted(reader.labels) == listed(reader) == expected
        reader.run("document.getElementById(arguments[0]).click()", control)


def test_columns_are_shown_on_demand(reader: Reader, write_page: WritePage) -> None:
    columns = tuple(Column(name=name, data_type="bigint") for name in ("id", "b_id", "note"))
    details = {named("a"): TableDetails(columns=columns, unique_keys=(UniqueKey(columns=("id",), is_primary=True),))}
    reader.open(write_page(Picture(whole=CHAIN, details=details)))
    rows = "return [...arguments[0].querySelectorAll('.column, .type')].map((each) => each.textContent)"
    assert reader.run(rows, reader.box("a")) == []
    reader.driver.find_element("id", "columns").click()
    assert reader.run(rows, reader.box("a")) == ["PK", "id", "bigint", "FK", "b_id", "bigint", "note", "bigint"]


def test_beside_a_table_its_keys_have_both_actions(reader: Reader, write_page: WritePage) -> None:
    reader.open(write_page(Picture(whole=CHAIN, on_delete={(named("b"), ("c_id",)): "CASCADE"})))
    reader.click("c")
    steps_of_neighbours(reader, "1")
    labels = reader.run("return [...document.querySelectorAll('#canvas .label')].map((each) => each.textContent)")
    assert sorted(labels) == ["c_id: CASCADE / NO ACTION, not deferrable", "d_id: NO ACTION, not deferrable"]


def test_the_order_is_on_the_boxes_and_is_played(reader: Reader, write_page: WritePage) -> None:
    reader.open(write_page(Picture(whole=CHAIN)))
    subs = "return [...document.querySelectorAll('.node .sub')].map((each) => each.textContent.split(' ')[0]).sort()"
    assert reader.run(subs) == ["#1", "#2", "#3", "#4", "#5"]
    set_value(reader, "step", "3")
    assert (reader.marked("emptied"), reader.marked("current")) == ({"a", "b"}, {"c"})
    assert reader.text("#step-name") == "3 of 5: public.c"
    reader.driver.find_element("id", "play").click()
    WebDriverWait(reader.driver, 20).until(lambda _: reader.text("#step-name").startswith("5 of 5"))
    assert reader.text("#play") == "Play"
    assert reader.marked("emptied") == {"a", "b", "c", "d"}
    set_value(reader, "step", "0")
    assert reader.marked("emptied") == reader.marked("current") == set()


def test_a_box_is_dragged_and_its_curves_follow(reader: Reader, write_page: WritePage) -> None:
    reader.open(write_page(Picture(whole=CHAIN)))
    end = """
        const curve = document.querySelector('.curve[data-source="0"]');
        const { x, y } = curve.getPointAtLength(0).matrixTransform(curve.getScreenCTM());
        const box = arguments[0].querySelector('rect').getBoundingClientRect();
        return [x - box.right, box.top <= y && y <= box.bottom, box.top]"""
    before = reader.run(end, reader.box("a"))
    ActionChains(reader.driver).drag_and_drop_by_offset(reader.box("a"), 0, 120).perform()
    after = reader.run(end, reader.box("a"))
    assert abs(after[0]) < 1
    assert after[1]
    assert 100 < after[2] - before[2] < 140
    # It was moved, not chosen.
    assert reader.title == "Dependency graph"


def test_the_ground_is_dragged_and_a_wheel_zooms_at_the_pointer(reader: Reader, write_page: WritePage) -> None:
    reader.open(write_page(Picture(whole=CHAIN)), width=900, height=400)
    for _ in range(3):
        reader.driver.find_element("id", "larger").click()
    reader.run("document.getElementById('map').scrollTo(0, 0)")
    ground = reader.driver.find_element("id", "map")
    (
        ActionChains(reader.driver)
        .move_to_element(ground)
        .move_by_offset(0, 60)
        .click_and_hold()
        .move_by_offset(-80, 0)
        .release()
        .perform()
    )
    assert reader.run("return document.getElementById('map').scrollLeft") == pytest.approx(80, abs=3)
    below = """
        const map = document.getElementById('map').getBoundingClientRect();
        const scale = parseFloat(document.getElementById('actual').textContent) / 100;
        return (document.getElementById('map').scrollLeft + 200) / scale"""
    before = reader.run(below)
    reader.run(
        """const map = document.getElementById('map'), box = map.getBoundingClientRect();
        map.dispatchEvent(new WheelEvent('wheel', {ctrlKey: true, deltaY: -30, clientX: box.left + 200,
            clientY: box.top + 50, bubbles: true, cancelable: true}))"""
    )
    assert reader.text("#actual") != "195 %"
    assert reader.run(below) == pytest.approx(before, rel=0.02)


def touch(reader: Reader, kind: str, *fingers: tuple[float, float]) -> None:
    """Have the browser see fingers at those places of the window: "touchStart", "touchMove" or "touchEnd"."""
    points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(fingers)]
    reader.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_two_fingers_zoom_about_the_place_between_them(reader: Reader, write_page: WritePage) -> None:
    reader.open(write_page(Picture(whole=CHAIN)), width=390, height=844)
    box = reader.run("return document.getElementById('map').getBoundingClientRect().toJSON()")
    middle, y = box["left"] + 150, box["top"] + 60
    below = f"""
        const scale = parseFloat(document.getElementById('actual').textContent) / 100;
        return (document.getElementById('map').scrollLeft + {middle - box["left"]}) / scale"""
    scale = "return parseFloat(document.getElementById('actual').textContent)"
    before, was = reader.run(below), reader.run(scale)
    reader.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})
    try:
        touch(reader, "touchStart", (middle - 30, y), (middle + 30, y))
        for apart in (40, 50, 60):
            touch(reader, "touchMove", (middle - apart, y), (middle + apart, y))
        touch(reader, "touchEnd")
    finally:
        reader.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    assert reader.run(scale) == pytest.approx(2 * was, rel=0.03)
    assert reader.run(below) == pytest.approx(before, rel=0.05)
    # The page itself was not zoomed, and nothing was chosen.
    assert reader.run("return window.visualViewport.scale") == 1
    assert reader.title == "Dependency graph"


def saved(reader: Reader, folder: Path, button: str) -> Path:
    """Press a button, and wait for the file that it saves."""
    reader.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    reader.run("document.getElementById(arguments[0]).click()", button)
    path = folder / f"dependencies.{button}"
    end = time.monotonic() + 20
    while not (path.exists() and path.stat().st_size > 0) and time.monotonic() < end:
        time.sleep(0.05)
    return path


def test_the_drawing_is_saved_as_svg_and_as_png(reader: Reader, write_page: WritePage, tmp_path: Path) -> None:
    reader.open(write_page(Picture(whole=library())), prefers_color_scheme="dark")
    root = ElementTree.parse(saved(reader, tmp_path, "svg")).getroot()
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"branch", "copy", "genre", "legacy", "staff", "cycle 1"} <= set(texts)
    style = root.find("{http://www.w3.org/2000/svg}style")
    assert style is not None
    assert "--stuck: #ff8a80" in str(style.text)
    content = saved(reader, tmp_path, "png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert [width, height] == [2 * int(root.attrib["width"]), 2 * int(root.attrib["height"])]
