"""The page: what is in it, and that nothing of a database can get out of its place. What it does, the browser tests show."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from testdb_app.schema import Column, QualifiedName, Schema, TableDetails, UniqueKey
from testdb_app.showdeps import html
from testdb_app.showdeps.html import read_assets
from testdb_app.showdeps.picture import Assets, Picture
from tests.showdeps.schemas import HOSTILE, hostile, key, library, named, partitioned, schema, table
from tests.vendor import FOLDER, MEMBERS, PACKAGE, VERSION, checksum

ASSETS = read_assets()
SHOP = Picture(
    whole=library(),
    title='PostgreSQL database "shop" (alias "default")',
    labels={named("copy"): ("shop.Copy",)},
    tables_without_model=frozenset({named("legacy")}),
    models_without_table=(("shop.New", "shop_new"), ("shop.View", "shop_view")),
    unmanaged=frozenset({"shop.View"}),
    details={
        named("copy"): TableDetails(
            columns=(
                Column(name="id", data_type="bigint", nullable=False, generated="identity"),
                Column(name="Note", data_type="text", default="''::text"),
            ),
            unique_keys=(
                UniqueKey(columns=("id",), is_primary=True),
                UniqueKey(columns=("branch_id", None, "Note"), partial_index="Some"),
            ),
            rows=1_234,
            is_estimate=True,
        )
    },
    assets=ASSETS,
)


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text inside scripts, styles and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements:
            self.texts.append((self.elements[-1][0], data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> str:
        return "".join(text for name, text in self.texts if name == tag).strip()

    @property
    def data(self) -> dict[str, Any]:
        (text,) = [text for tag, text in self.texts if tag == "script" and text.startswith("{")]
        content: dict[str, Any] = json.loads(text)
        return content


def load(picture: Picture) -> dict[str, Any]:
    return Page(html.render_html(replace(picture, assets=ASSETS))).data


def test_the_page_is_one_file_that_loads_nothing() -> None:
    page = Page(html.render_html(SHOP))
    sources = [
        (tag, name, value) for tag, given in page.elements for name, value in given.items() if name in {"src", "href"}
    ]
    assert sources == [("link", "href", "data:,")]
    assert "url(" not in ASSETS.style
    assert "@import" not in ASSETS.style
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|WebSocket|sendBeacon)\b", ASSETS.script)


def test_its_policy_lets_its_own_script_and_style_run_and_nothing_else() -> None:
    page = Page(html.render_html(SHOP))
    (policy,) = [given["content"] for given in page.all("meta") if given.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (ASSETS.style, ASSETS.script)
    ]
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        f"style-src 'sha256-{hashes[0]}'",
        f"script-src 'sha256-{hashes[1]}'",
    ]
    assert not [given for _, given in page.elements if "style" in given or any(name.startswith("on") for name in given)]


def test_without_assets_it_says_where_they_are() -> None:
    with pytest.raises(ValueError, match=r"testdb_app\.showdeps\.html"):
        html.render_html(replace(SHOP, assets=None))


def test_the_title_is_text_also_where_it_is_markup() -> None:
    title = '</title><script>alert(1)</script> & "x" {{data}} \u202e\n'
    page = Page(html.render_html(replace(SHOP, title=title)))
    shown = '</title><script>alert(1)</script> & "x" {{data}} \\u202e\\n'
    assert page.text("title") == page.text("h1") == shown
    assert len(page.all("script")) == 2
    assert page.data["title"] == shown


def test_nothing_that_is_put_in_is_searched_for_places_again() -> None:
    assets = Assets(template="{{title}}|{{style}}|{{script}}", style="{{script}}", script="{{title}}")
    assert html.render_html(replace(SHOP, title="{{style}}", assets=assets)) == "{{style}}|{{script}}|{{title}}"


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "]]>", "&lt;", "\u2028\u2029", "\ud800", "é☃🐘", '"\\'])
def test_data_survive_inside_a_script_and_end_nothing(text: str) -> None:
    written = html.as_script_data({text: [text]})
    assert json.loads(written) == {text: [text]}
    assert written.isascii()
    assert not set("<>&") & set(written)


def test_hostile_names_are_all_there_and_make_no_element() -> None:
    whole = hostile()
    details = {
        name: TableDetails(
            columns=tuple(Column(name=text, data_type=text, default=text) for text in HOSTILE),
            unique_keys=(UniqueKey(columns=HOSTILE, partial_index="</script><b>"),),
        )
        for name in whole.by_name
    }
    picture = replace(SHOP, whole=whole, labels={}, details=details, models_without_table=(("a.B", "</script><b>"),))
    text = html.render_html(picture)
    page = Page(text)
    assert [given["id"] for given in page.data["tables"]] == [str(name) for name in sorted(whole.by_name)]
    assert len(page.elements) == len(Page(html.render_html(SHOP)).elements)
    assert text.encode("utf-8")


def test_a_table_has_its_columns_keys_sequences_and_rows() -> None:
    (copy,) = [given for given in load(SHOP)["tables"] if given["label"] == "copy"]
    assert copy == {
        "id": "public.copy",
        "label": "copy",
        "app": "shop",
        "level": 1,
        "models": ["shop.Copy"],
        "noModel": False,
        "notes": [],
        "cycle": 0,
        "partitions": [],
        "sequences": [
            {
                "id": "public.copy_id_seq",
                "column": "id",
                "how": "identity",
                "type": "bigint",
                "start": "1",
                "increment": "1",
            }
        ],
        "columns": [
            {"name": "id", "type": "bigint", "nullable": False, "default": "", "generated": "identity"},
            {"name": '"Note"', "type": "text", "nullable": True, "default": "''::text", "generated": ""},
        ],
        "unique": [
            {"columns": "id", "primary": True, "partialIndex": ""},
            {"columns": 'branch_id, an expression, "Note"', "primary": False, "partialIndex": '"Some"'},
        ],
        "rows": 1_234,
        "isEstimate": True,
    }


def test_what_nobody_knows_of_a_table_is_not_made_up() -> None:
    (legacy,) = [given for given in load(SHOP)["tables"] if given["label"] == "legacy"]
    assert (legacy["noModel"], legacy["rows"], legacy["columns"], legacy["unique"]) == (True, None, [], [])


def test_keys_say_where_they_lead_what_they_do_and_which_cycle_they_are_on() -> None:
    content = load(SHOP)
    names = [given["label"] for given in content["tables"]]
    told = {
        (names[given["source"]], names[given["target"]]): (
            given["columns"],
            given["onDelete"],
            given["timing"],
            given["cycle"],
        )
        for given in content["keys"]
    }
    assert told == {
        ("branch", "staff"): ("manager_id", "SET NULL", "deferred", 1),
        ("staff", "branch"): ("branch_id", "CASCADE", "deferrable", 1),
        ("copy", "branch"): ("branch_id", "NO ACTION", "deferred", 0),
        ("copy", "genre"): ("genre_id", "RESTRICT", "not deferrable", 0),
        ("genre", "genre"): ("broader_id", "NO ACTION", "not deferrable", 2),
    }


def test_cycles_are_told_as_rings() -> None:
    assert [(given["ring"], given["deferrable"]) for given in load(SHOP)["cycles"]] == [
        (["public.branch", "public.staff", "public.branch"], True),
        (["public.genre", "itself"], False),
    ]


def steps(picture: Picture) -> list[list[str]]:
    return [[entry["id"].removeprefix("public.") for entry in step] for step in load(picture)["order"]]


def test_the_order_has_the_tables_of_a_cycle_as_one_step() -> None:
    assert steps(SHOP) == [["copy"], ["branch", "staff"], ["genre"], ["legacy"]]
    assert steps(replace(SHOP, reverse=True)) == [["legacy"], ["genre"], ["staff", "branch"], ["copy"]]


def test_partitions_are_steps_of_the_order_and_belong_to_the_table_that_people_know() -> None:
    content = load(Picture(whole=partitioned()))
    tables = [given["label"] for given in content["tables"]]
    assert tables == ["event", "report", "users", "venue", "vip"]
    assert content["tables"][0]["partitions"] == [f"public.event_{name}" for name in ("1", "2", "3", "3a", "3b")]
    entries = {entry["id"]: tables[entry["table"]] for step in content["order"] for entry in step}
    # A table that is partitioned stores no rows, so that nothing empties it.
    assert "public.event" not in entries
    assert entries["public.event_3a"] == "event"


def test_the_rows_of_a_partitioned_table_are_those_of_its_partitions() -> None:
    counts = {named("event"): None, named("event_1"): 10, named("event_3a"): 5, named("event_2"): None}
    details = {name: TableDetails(rows=rows, is_estimate=rows == 5) for name, rows in counts.items()}
    content = load(Picture(whole=partitioned(), details=details))
    assert [(given["label"], given["rows"], given["isEstimate"]) for given in content["tables"]][:2] == [
        ("event", 15, True),
        ("report", None, False),
    ]


def test_several_keys_of_partitions_are_one_curve_that_names_them() -> None:
    keys = [given for given in load(Picture(whole=partitioned()))["keys"] if given["columns"] == "venue_id"]
    assert [given["owners"] for given in keys] == [["public.event_1", "public.event_2"]]


def test_names_have_their_schema_where_there_are_several() -> None:
    whole = schema([table("a")])
    two = replace(whole, tables=(*whole.tables, replace(whole.tables[0], name=QualifiedName("sales", "a"))))
    assert [given["label"] for given in load(Picture(whole=two))["tables"]] == ["public.a", "sales.a"]


def test_a_part_of_the_map_says_how_large_the_whole_is() -> None:
    content = load(replace(SHOP, shown=frozenset({named("genre"), named("legacy")})))
    assert (len(content["tables"]), content["total"]) == (2, 5)
    assert [given["ring"][0] for given in content["cycles"]] == ["public.genre"]


def test_only_the_cycles_has_only_their_tables_and_keys() -> None:
    content = load(replace(SHOP, cycles_only=True))
    assert [given["label"] for given in content["tables"]] == ["branch", "genre", "staff"]
    assert len(content["keys"]) == 3


def test_models_without_a_table_are_told_with_the_reason() -> None:
    assert [(given["model"], given["reason"]) for given in load(SHOP)["modelsWithoutTable"]] == [
        ("shop.New", "not migrated"),
        ("shop.View", "unmanaged, perhaps a view"),
    ]


def test_a_cycle_without_a_ring_of_declared_keys_has_none() -> None:
    whole = schema(
        [table("p", kind="partitioned"), table("p1", is_partition=True, inherits=["p"])],
        [key("p1", "x", "p1", inherited=True)],
    )
    assert [given["ring"] for given in load(Picture(whole=whole))["cycles"]] == [[]]


@pytest.mark.parametrize("whole", [library(), partitioned(), hostile(), schema([])])
def test_the_page_depends_on_the_schema_alone(whole: Schema) -> None:
    assert html.render_html(replace(SHOP, whole=whole)) == html.render_html(replace(SHOP, whole=replace(whole)))


def test_the_parts_of_the_page_end_nothing_early() -> None:
    assert "</script" not in ASSETS.script
    assert "</style" not in ASSETS.style
    assert set(re.findall(r"\{\{(\w+)\}\}", ASSETS.template)) == {"title", "policy", "style", "data", "script"}


def test_a_table_belongs_to_its_models_app_or_to_what_its_name_begins_with() -> None:
    names = ("shop_item", "shop_item_tags", "crm_a", "crm_b", "lonely", "single_name", "users")
    picture = Picture(whole=schema(list(map(table, names))), labels={named("shop_item"): ("shop.Item",)})
    assert {given["label"]: given["app"] for given in load(picture)["tables"]} == {
        "shop_item": "shop",
        "shop_item_tags": "shop",
        "crm_a": "crm",
        "crm_b": "crm",
        "lonely": "other",
        "single_name": "other",
        "users": "other",
    }


def test_tables_of_several_schemas_belong_to_their_schema() -> None:
    whole = schema([table("a")])
    two = replace(whole, tables=(*whole.tables, replace(whole.tables[0], name=QualifiedName("sales", "a"))))
    assert [given["app"] for given in load(Picture(whole=two))["tables"]] == ["public", "sales"]


def test_djangos_on_delete_is_beside_the_servers() -> None:
    picture = replace(SHOP, on_delete={(named("copy"), ("genre_id",)): "PROTECT"})
    told = {given["columns"]: (given["django"], given["onDelete"]) for given in load(picture)["keys"]}
    assert told["genre_id"] == ("PROTECT", "RESTRICT")
    assert told["manager_id"] == ("", "SET NULL")


def test_the_library_is_the_one_that_was_fetched_and_its_licence_is_in_the_page() -> None:
    record = json.loads((FOLDER / "vendor.json").read_text())
    assert (record["package"], record["version"]) == (PACKAGE, VERSION)
    assert {name: checksum((FOLDER / name).read_bytes()) for name in MEMBERS.values()} == record["sha256"]
    assert (FOLDER / "dagre.LICENSE.txt").read_text() in ASSETS.script
