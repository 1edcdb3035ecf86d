"""What a reader finds on the page, and what a click and a search do."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import connections

from testdb_app.backends import get_backend
from testdb_app.graph import DependencyGraph
from testdb_app.schema import QualifiedName
from testdb_app.showdeps.picture import Picture
from tests.browser.driving import Keys, Reader
from tests.showdeps.schemas import hostile, library, partitioned

Demo = Callable[..., Path]
WritePage = Callable[[Picture], Path]


def graph() -> DependencyGraph[QualifiedName]:
    return DependencyGraph.from_schema(get_backend(connections["default"]).read_schema(connections["default"]))


def names(found: frozenset[QualifiedName]) -> set[str]:
    return {name.name for name in found}


def drawn_keys(reader: Reader) -> list[dict[str, Any]]:
    """Every curve with the boxes at its ends, as the places of the browser tell; None where there is no box."""
    script = """
        const boxes = [...document.querySelectorAll('.node.table')].map((node) => ({
            name: node.querySelector('.name').textContent, box: node.querySelector('rect').getBoundingClientRect() }));
        const at = (curve, place) => {
            const { x, y } = curve.getPointAtLength(place).matrixTransform(curve.getScreenCTM());
            return boxes.find(({ box }) => (Math.abs(box.left - x) < 2 || Math.abs(box.right - x) < 2)
                && y > box.top - 1 && y < box.bottom + 1)?.name ?? null;
        };
        return [...document.querySelectorAll('#canvas .curve[data-source]')].map((curve) => {
            // The line ends where its head begins, at the second "M".
            const line = document.createElementNS('http://www.w3.org/2000/svg', 'path');
            line.setAttribute('d', curve.getAttribute('d').split(/(?=M)/)[0]);
            curve.parentNode.append(line);
            const found = { kind: curve.classList[1], rigid: curve.classList.contains('rigid'),
                source: at(line, 0), target: at(line, line.getTotalLength()) };
            line.remove();
            return found;
        });"""
    return list(reader.run(script))


def test_every_table_is_a_box_to_the_left_of_what_it_references(reader: Reader, demo: Demo) -> None:
    reader.open(demo())
    whole = graph()
    assert sorted(reader.labels) == sorted(name.name for name in whole.nodes)
    script = """
        return [...document.querySelectorAll('.node.table')].map((node) => [
            node.querySelector('.name').textContent, node.getBoundingClientRect().left])"""
    lefts = dict(reader.run(script))
    in_cycles = {name for cycle in whole.cycles() for name in cycle}
    for name in whole.nodes:
        for other in whole.references(name):
            if not {name, other} <= in_cycles:
                assert lefts[name.name] < lefts[other.name]
    assert reader.text("#summary") == f"{len(reader.labels)} tables, 25 foreign keys, 2 cycles"


def test_every_foreign_key_is_a_curve_from_box_to_box(reader: Reader, demo: Demo) -> None:
    reader.open(demo())
    keys = get_backend(connections["default"]).read_schema(connections["default"]).declared_foreign_keys
    drawn = drawn_keys(reader)
    # Several keys from one table to another are one curve.
    pairs = {(key.table.name, key.referenced.name) for key in keys}
    assert sorted((key["source"], key["target"]) for key in drawn) == sorted(pairs)
    assert {key["source"] for key in drawn if key["kind"] == "ring"} == {
        "testdb_demo_branch",
        "testdb_demo_genre",
        "testdb_demo_staff",
    }


def test_cycles_are_marked_on_the_boxes_on_the_curves_and_in_words(reader: Reader, write_page: WritePage) -> None:
    reader.open(write_page(Picture(whole=library())))
    marks = "return [...arguments[0].querySelectorAll('.mark')].map((mark) => mark.textContent)"
    assert {label: reader.run(marks, reader.box(label)) for label in reader.labels} == {
        "copy": [],
        "branch": ["cycle 1"],
        "staff": ["cycle 1"],
        "genre": ["cycle 2"],
        "legacy": [],
    }
    assert {(key["source"], key["target"]) for key in drawn_keys(reader) if key["rigid"]} == {
        ("copy", "genre"),
        ("genre", "genre"),
    }
    assert {(key["kind"], key["source"]) for key in drawn_keys(reader)} == {
        ("plain", "copy"),
        ("ring", "branch"),
        ("ring", "staff"),
        ("stuck-ring", "genre"),
    }
    assert reader.part("Cycles") == [
        "Cycle 1: public.branch → public.staff → public.branch deferrable",
        "Cycle 2: public.genre → itself not deferrable",
    ]


def test_the_curves_stay_on_the_boxes_whatever_the_zoom(reader: Reader, demo: Demo) -> None:
    reader.open(demo())
    expected = sorted((key["source"], key["target"]) for key in drawn_keys(reader))
    for button in ("fit", "larger", "actual", "smaller"):
        reader.driver.find_element("id", button).click()
        assert sorted((key["source"], key["target"]) for key in drawn_keys(reader)) == expected, button
    reader.driver.find_element("id", "fit").click()
    sight = "const [m, c] = ['map', 'canvas'].map((id) => document.getElementById(id).getBoundingClientRect());"
    assert reader.run(f"{sight} return c.width <= m.width + 1 && c.height <= m.height + 1")


def test_a_click_shows_all_that_a_table_depends_on_and_all_that_depends_on_it(reader: Reader, demo: Demo) -> None:
    reader.open(demo())
    whole = graph()
    for name in ("testdb_demo_loan", "testdb_demo_branch", "testdb_demo_work", "django_site"):
        table = QualifiedName("public", name)
        reader.click(name)
        assert reader.title == f"public.{name}"
        assert reader.marked("towards") == names(whole.dependencies(table)) - {name}
        assert reader.marked("from") == names(whole.dependents(table)) - {name}
        towards, back = reader.part("Depends on"), reader.part("What depends on it")
        assert {line.split()[0].removeprefix("public.") for line in towards} == names(whole.dependencies(table))
        assert {line.split()[0].removeprefix("public.") for line in back} == names(whole.dependents(table))
    reader.click("testdb_demo_loan")
    assert reader.part("Depends on")[:2] == ["public.testdb_demo_card by card_id", "public.testdb_demo_copy by copy_id"]


def test_a_click_shows_columns_keys_sequences_and_rows(reader: Reader, demo: Demo) -> None:
    call_command("loaddemo", size=100, verbosity=0)
    reader.open(demo(count_rows=True))
    reader.click("testdb_demo_loan")
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM testdb_demo_loan")
        (count,) = cursor.fetchone()
    assert f"{count} rows" in reader.text("#panel")
    assert "testdb_demo.Loan" in reader.text("#panel")
    assert reader.part("Columns")[:3] == [
        "Column Type Null Default",
        "id bigint not null identity",
        "copy_id bigint not null",
    ]
    keys = reader.part("Keys")
    assert "primary key (id)" in keys
    assert any(
        line.startswith("(copy_id) → public.testdb_demo_copy (id) Django PROTECT, server NO ACTION, deferred")
        for line in keys
    )
    assert reader.part("Sequences") == ["public.testdb_demo_loan_id_seq for id (identity, bigint, from 1 by 1)"]


def test_the_order_is_that_of_the_command_and_a_cycle_is_one_step(reader: Reader, demo: Demo) -> None:
    reader.open(demo())
    out = StringIO()
    call_command("showdeps", format="order", stdout=out)
    shown = reader.part("The order to delete in")
    steps = [line.removesuffix(" (a cycle: one statement)").split(", ") for line in shown]
    assert [name for step in steps for name in step] == out.getvalue().splitlines()
    assert [step for step in steps if len(step) > 1] == [["public.testdb_demo_branch", "public.testdb_demo_staff"]]
    reader.click("testdb_demo_copy")
    assert reader.part("Order in which a reset would empty it") == [
        "public.testdb_demo_fine",
        "public.testdb_demo_loan",
        "public.testdb_demo_copy",
    ]


def test_a_name_in_the_panel_leads_to_its_table(reader: Reader, demo: Demo) -> None:
    reader.open(demo())
    reader.click("testdb_demo_loan")
    reader.driver.find_element("css selector", "#panel [data-table]").click()
    assert reader.title == "public.testdb_demo_card"
    assert reader.focused == "public.testdb_demo_card"
    reader.driver.find_element("css selector", "#panel .plain").click()
    assert reader.title == "Dependency graph"
    assert reader.marked("towards") == set()


def test_a_search_finds_tables_by_name_model_and_column(reader: Reader, demo: Demo) -> None:
    reader.open(demo())
    for text, found in {
        "loan": {"testdb_demo_loan", "testdb_demo_fine"},
        "DEMO.LOAN": {"testdb_demo_loan"},
        "session_data": {"django_session"},
        "auth perm": {"auth_permission", "auth_group_permissions", "auth_user_user_permissions"},
        "nothing at all": set(),
    }.items():
        reader.search(text)
        assert reader.marked("hit") == found, text
        assert len(reader.driver.find_elements("css selector", "#panel li")) == len(found)
    reader.search("loan")
    assert reader.text("#status") == "2 tables found; Enter chooses the first"
    reader.press(Keys.ENTER)
    assert reader.title == "public.testdb_demo_loan"
    assert reader.text("#status") == "testdb_demo_loan depends on 8 tables; 1 depends on it"


def test_a_search_that_finds_nothing_says_so(reader: Reader, demo: Demo) -> None:
    reader.open(demo())
    reader.search("<b>nothing</b>")
    assert reader.text("#status") == "No tables found"
    assert reader.title == "No tables for “<b>nothing</b>”"


def test_the_address_names_the_table_and_the_browser_goes_back(reader: Reader, demo: Demo) -> None:
    path = demo()
    reader.open(path, address="#public.testdb_demo_copy")
    assert reader.title == "public.testdb_demo_copy"
    reader.click("testdb_demo_loan")
    assert reader.driver.current_url.endswith("#public.testdb_demo_loan")
    reader.driver.back()
    assert reader.title == "public.testdb_demo_copy"
    for address in ("#no.such", "#%", "#"):
        reader.open(path, address=address)
        assert reader.title == "Dependency graph"


def test_hostile_names_are_shown_as_they_are_and_lead_where_they_say(reader: Reader, write_page: WritePage) -> None:
    whole = hostile()
    path = write_page(Picture(whole=whole, title="</title><script>throw 1</script>"))
    reader.open(path)
    ids = sorted(str(name) for name in whole.by_name)
    assert sorted(reader.labels) == ids
    assert len(drawn_keys(reader)) == len(ids)
    assert reader.text("h1") == "</title><script>throw 1</script>"
    for name in ids:
        reader.run("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", reader.box(name))
        assert reader.title == name
        assert len(reader.marked("towards")) == len(ids) - 1
    last = reader.driver.current_url
    reader.open(path, address=last[last.index("#") :])
    assert reader.title == ids[-1]


def test_a_part_of_the_map_says_that_it_is_one(reader: Reader, demo: Demo) -> None:
    reader.open(demo("testdb_demo.Copy"))
    total = len(graph().nodes)
    assert reader.text("#summary") == f"6 of {total} tables, 6 foreign keys, 1 cycle"
    reader.click("testdb_demo_copy")
    assert "nothing of what is shown" in reader.text("#panel")


def test_reversed_what_is_referenced_stands_to_the_left(reader: Reader, demo: Demo) -> None:
    reader.open(demo("testdb_demo.Series", reverse=True))
    left = "return arguments[0].getBoundingClientRect().left"
    names = ("testdb_demo_series", "testdb_demo_work", "testdb_demo_fine")
    lefts = [reader.run(left, reader.box(name)) for name in names]
    assert lefts == sorted(lefts)
    assert reader.part("The order to insert in")[0] == "public.testdb_demo_series"
    assert {(key["source"], key["target"]) for key in drawn_keys(reader)} >= {
        ("testdb_demo_fine", "testdb_demo_loan"),
        ("testdb_demo_work", "testdb_demo_series"),
    }


def test_only_the_cycles(reader: Reader, demo: Demo) -> None:
    reader.open(demo(cycles=True))
    assert reader.title == "Cycles of the dependency graph"
    assert sorted(reader.labels) == ["testdb_demo_branch", "testdb_demo_genre", "testdb_demo_staff"]
    reader.open(demo("auth", cycles=True))
    assert reader.labels == []


def test_partitions_are_told_with_their_table(reader: Reader, write_page: WritePage) -> None:
    reader.open(write_page(Picture(whole=partitioned())))
    assert sorted(reader.labels) == ["event", "report", "users", "venue", "vip"]
    reader.search("event_3a")
    assert reader.marked("hit") == {"event"}
    reader.click("event")
    assert len(reader.part("Partitions")) == 5
    assert "public.event_3a" in reader.part("Order in which a reset would empty it")


def test_the_data_of_the_page_are_json_that_any_program_reads(reader: Reader, demo: Demo) -> None:
    reader.open(demo())
    text = reader.run("return document.getElementById('data').textContent")
    assert len(json.loads(text)["tables"]) == len(reader.labels)
