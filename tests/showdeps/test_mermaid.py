"""The picture for pages that draw Mermaid.

Mermaid's own parser needs a browser's document, so it is no part of the tests. These check that nothing reaches it that
it could read: a label has only characters and entity codes that mean themselves.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from testdb_app.showdeps.export import MAX_CHARACTERS, MAX_EDGES, escape, render_mermaid
from testdb_app.showdeps.picture import Picture, show_parts
from tests.showdeps.schemas import HOSTILE, hostile, key, library, named, partitioned, schema, table

SHOP = Picture(
    whole=library(),
    title='PostgreSQL database "shop"',
    labels={named("copy"): ("shop.Copy", "shop.CopyView")},
    tables_without_model=frozenset({named("legacy")}),
)

_NODE = re.compile(r'  t\d+\["([^"]*)"\](:::(cycle|stuck|unknown))?')
_ARROW = re.compile(r'  t\d+ -->\|"([^"]*)"\| t\d+')
_STYLE = re.compile(r"  (linkStyle [\d,]+|classDef \w+) [\w:#,-]+")
_MEANS_ITSELF = re.compile(r"(?:[0-9A-Za-z., ()]|(?<=[0-9A-Za-z])_(?=[0-9A-Za-z])|#\d+;)*")


def unescape(label: str) -> str:
    """Read entity codes as Mermaid does."""
    return re.sub(r"#(\d+);", lambda match: chr(int(match[1])), label)


def labels(text: str) -> list[str]:
    return [unescape(found[0]) for found in _NODE.findall(text)]


def test_the_flowchart_has_tables_models_arrows_and_coloured_cycles() -> None:
    assert (
        render_mermaid(SHOP)
        == """\
flowchart LR
%% PostgreSQL database "shop"
  t0["public.branch"]:::cycle
  t1["public.copy<br>shop.Copy<br>shop.CopyView"]
  t2["public.genre"]:::stuck
  t3["public.legacy"]:::unknown
  t4["public.staff"]:::cycle
  t0 -->|"manager_id"| t4
  t1 -->|"branch_id"| t0
  t1 -->|"genre_id"| t2
  t2 -->|"broader_id"| t2
  t4 -->|"branch_id"| t0
  linkStyle 0,4 stroke:#b35900,stroke-width:2px
  linkStyle 3 stroke:#c00000,stroke-width:2px
  classDef cycle stroke:#b35900,stroke-width:2px
  classDef stuck stroke:#c00000,stroke-width:2px
  classDef unknown stroke-dasharray:4
"""
    )


def test_several_keys_between_two_tables_are_one_arrow_and_colours_hit_the_right_ones() -> None:
    keys = [key("a", "x", "b"), key("a", "y", "b"), key("a", "z", "c"), key("b", "x", "a"), key("c", "x", "c")]
    lines = render_mermaid(Picture(whole=schema([table(name) for name in "abc"], keys))).splitlines()
    assert [line for line in lines if "-->" in line] == [
        '  t0 -->|"x<br>y"| t1',
        '  t0 -->|"z"| t2',
        '  t1 -->|"x"| t0',
        '  t2 -->|"x"| t2',
    ]
    assert "  linkStyle 0,2,3 stroke:#c00000,stroke-width:2px" in lines


def test_like_keys_of_partitions_are_one_label() -> None:
    text = render_mermaid(Picture(whole=partitioned()))
    assert '["public.event<br>(4 partitions)"]' in text
    assert '|"user_id"|' in text
    assert '|"venue_id"|' in text


def test_reverse_turns_the_picture_and_not_the_arrows() -> None:
    assert render_mermaid(replace(SHOP, reverse=True)) == render_mermaid(SHOP).replace("flowchart LR", "flowchart RL")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_label_is_characters_that_mean_themselves_and_reads_back_exactly(name: str) -> None:
    assert _MEANS_ITSELF.fullmatch(escape(name))
    assert unescape(escape(name)) == name


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("auth_user_groups", "auth_user_groups"),
        ("__init__", "#95;#95;init#95;#95;"),
        ("a._b_.c", "a.#95;b#95;.c"),
        ('"A"', "#34;A#34;"),
        ("#35;", "#35;35#59;"),
    ],
)
def test_only_what_could_be_read_as_markup_is_a_code(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_hostile_names_add_no_line_and_no_syntax() -> None:
    whole = hostile()
    text = render_mermaid(Picture(whole=whole, title="evil\nt0 --> t1 %%{init: {}}%%"))
    first, second, *lines = text.splitlines()
    assert first == "flowchart LR"
    assert second == "%% evil\\nt0 --> t1 %%{init: {}}%%"
    assert all(_NODE.fullmatch(line) or _ARROW.fullmatch(line) or _STYLE.fullmatch(line) for line in lines)
    assert labels(text) == [str(item.name) for item in whole.tables]
    assert [unescape(label) for label in _ARROW.findall(text)] == [show_parts(k.columns) for k in whole.foreign_keys]


@pytest.mark.parametrize(("arrows", "warned"), [(MAX_EDGES, False), (MAX_EDGES + 1, True)])
def test_too_many_arrows_for_a_page_are_drawn_with_a_warning(arrows: int, warned: bool) -> None:
    whole = schema(
        [table("hub"), *(table(f"t{number}") for number in range(arrows))],
        [key(f"t{number}", "h", "hub") for number in range(arrows)],
    )
    text = render_mermaid(Picture(whole=whole))
    assert text.count("-->") == arrows
    assert ("pages draw at most 500" in text) is warned


def test_too_much_text_for_a_page_is_drawn_with_a_warning() -> None:
    whole = schema([table(f"{number:060}") for number in range(700)])
    text = render_mermaid(Picture(whole=whole))
    assert len(text) > MAX_CHARACTERS
    assert "Name apps or models to draw a part." in text.splitlines()[2]


def test_an_empty_database_is_an_empty_flowchart() -> None:
    assert render_mermaid(Picture(whole=schema([]), title="nothing")).startswith("flowchart LR\n%% nothing\n  classDef")
