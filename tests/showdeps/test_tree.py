"""The picture for people, exactly."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import pytest

from testdb_app.schema import OnDelete, show_part
from testdb_app.showdeps.picture import Paint, Picture, cells
from testdb_app.showdeps.text import render_tree
from tests.showdeps.schemas import hostile, key, library, named, partitioned, schema, table

if TYPE_CHECKING:
    from collections.abc import Callable

SHOP = Picture(
    whole=library(),
    title='PostgreSQL database "shop" (alias "default")',
    labels={
        named("branch"): ("shop.Branch",),
        named("copy"): ("shop.Copy", "shop.CopyView", "shop.OldCopy"),
        named("genre"): ("shop.Genre",),
        named("staff"): ("shop.Staff",),
    },
    tables_without_model=frozenset({named("legacy")}),
    models_without_table=(("shop.New", "shop_new"), ("shop.Report", "shop_report")),
    unmanaged=frozenset({"shop.CopyView", "shop.Report"}),
)


def test_the_tree_shows_levels_models_keys_cycles_and_what_is_missing() -> None:
    assert (
        render_tree(SHOP)
        == """\
PostgreSQL database "shop" (alias "default")
5 tables, 5 foreign keys, 2 cycles
Referencing tables first: the order to delete in.

Level 1
  public.copy  shop.Copy  shop.CopyView  shop.OldCopy  (unmanaged)
  ├─ branch_id → public.branch  NO ACTION, deferred
  └─ genre_id → public.genre  RESTRICT

Level 0
  public.branch  shop.Branch  [cycle 1]
  └─ manager_id → public.staff  SET NULL, deferred  [cycle 1]
  public.genre  shop.Genre  [cycle 2]
  └─ broader_id → public.genre  NO ACTION  [cycle 2]
  public.legacy  [no model]
  public.staff  shop.Staff  [cycle 1]
  └─ branch_id → public.branch  CASCADE, deferrable  [cycle 1]

Cycles
  1  public.branch → public.staff → public.branch  deferrable
  2  public.genre → itself  not deferrable

Models without a table
  shop.New  shop_new  (not migrated)
  shop.Report  shop_report  (unmanaged, perhaps a view)
"""
    )


def test_reversed_it_starts_with_what_references_nothing() -> None:
    whole = schema([table("a"), table("b")], [key("a", "x", "b")])
    assert (
        render_tree(Picture(whole=whole, title="A database", reverse=True))
        == """\
A database
2 tables, 1 foreign key, no cycles
Referenced tables first: the order to insert in.

Level 0
  public.b

Level 1
  public.a
  └─ x → public.b  NO ACTION
"""
    )


def test_only_the_cycles_each_with_its_keys() -> None:
    picture = Picture(whole=library(), title="A database", cycles_only=True, models_without_table=(("a.B", "b"),))
    assert (
        render_tree(picture)
        == """\
A database
3 of 5 tables, 3 foreign keys, 2 cycles

Cycle 1: 2 tables, 2 foreign keys, deferrable
  ├─ public.branch(manager_id) → public.staff  SET NULL, deferred
  └─ public.staff(branch_id) → public.branch  CASCADE, deferrable

Cycle 2: 1 table, 1 foreign key, not deferrable
  └─ public.genre(broader_id) → public.genre  NO ACTION
"""
    )


def test_without_cycles_it_says_so() -> None:
    picture = Picture(whole=schema([table("a")]), title="A database", cycles_only=True)
    assert render_tree(picture) == "A database\n0 of 1 table, no foreign keys, no cycles\n"


def test_partitions_are_told_with_their_root_and_copies_of_keys_are_not() -> None:
    whole = partitioned()
    assert (
        render_tree(Picture(whole=whole, title="A database"))
        == """\
A database
5 tables, 5 foreign keys, no cycles
Referencing tables first: the order to delete in.
In the database, unless noted: NO ACTION.

Level 2
  public.report
  └─ event_id → public.event

Level 1
  public.event  (4 partitions)
  ├─ user_id → public.users
  ├─ 2 partitions: venue_id → public.venue
  └─ partition public.event_3a: user_id → public.users  CASCADE

Level 0
  public.users
  public.venue
  public.vip  (inherits public.users)
"""
    )


def test_what_is_special_about_a_table_is_noted() -> None:
    whole = schema(
        [
            table("lost", is_partition=True, inherits=["gone"]),
            table("log", unlogged=True),
            table("ref", extension="postgis"),
            table("root", kind="partitioned"),
            table("search", kind="virtual"),
        ]
    )
    assert render_tree(Picture(whole=whole)).splitlines()[4:] == [
        "Level 0",
        "  public.log  (unlogged)",
        "  public.lost  (partition of public.gone)",
        "  public.ref  (extension postgis)",
        "  public.root  (no partitions)",
        "  public.search  (virtual)",
    ]


def test_a_ring_inside_a_larger_cycle_says_how_many_tables_more_there_are() -> None:
    keys = [key("a", "x", "b"), key("b", "x", "a"), key("b", "y", "c"), key("c", "x", "b")]
    lines = render_tree(Picture(whole=schema([table(name) for name in "abc"], keys))).splitlines()
    assert lines[-1] == "  1  public.a → public.b → public.a  and 1 more table  not deferrable"


def test_without_line_drawing_it_is_ascii() -> None:
    text = render_tree(Picture(whole=library(), ascii_only=True))
    assert text.isascii()
    assert "  |- branch_id -> public.branch  NO ACTION, deferred\n  `- genre_id -> public.genre  RESTRICT\n" in text
    assert "  1  public.branch -> public.staff -> public.branch  deferrable\n" in text


def long_names() -> Picture:
    """Names of 63 bytes that differ in the last character only."""
    one, other = "A" * 62 + "1", "A" * 62 + "2"
    whole = schema([table(one), table(other)], [key(one, other, other), key(one, one, other)])
    return Picture(whole=whole, width=80, title="A database", labels={named(one): ("an_app.AModelWithALongName",)})


def test_what_most_keys_do_is_said_once_and_django_s_on_delete_after_each() -> None:
    keys = [key("a", "x", "b"), key("a", "y", "b"), key("a", "z", "b", on_delete=OnDelete.SET_NULL)]
    whole = schema([table("a"), table("b")], keys)
    on_delete = {(named("a"), ("x",)): "CASCADE", (named("a"), ("z",)): "DB_SET_NULL"}
    assert (
        render_tree(Picture(whole=whole, title="A database", on_delete=on_delete)).split("\n\nLevel 0")[0]
        == """\
A database
2 tables, 3 foreign keys, no cycles
Referencing tables first: the order to delete in.
After a key: Django's on_delete. In the database, unless noted: NO ACTION.

Level 1
  public.a
  ├─ x → public.b  CASCADE
  ├─ y → public.b
  └─ z → public.b  DB_SET_NULL  (in the database: SET NULL)"""
    )


def test_long_names_are_put_on_lines_of_their_own_and_never_cut() -> None:
    one, other = "A" * 62 + "1", "A" * 62 + "2"
    assert render_tree(long_names()).splitlines()[5:] == [
        "Level 1",
        f'  public."{one}"',
        "      an_app.AModelWithALongName",
        f'  ├─ "{one}" →',
        f'  │      public."{other}"',
        f'  └─ "{other}" →',
        f'         public."{other}"',
        "",
        "Level 0",
        f'  public."{other}"',
    ]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_line_is_too_wide_only_if_it_holds_a_single_name(width: int) -> None:
    for picture in (SHOP, Picture(whole=hostile()), long_names()):
        names = {str(item.name) for item in picture.whole.tables}
        names |= {show_part(item.name.name) for item in picture.whole.tables}
        names |= {f"(extension {show_part(item.name.name)})" for item in picture.whole.tables}
        header, body = render_tree(replace(picture, width=width)).split("\n\n", 1)
        assert len(header.splitlines()) in {3, 4}
        for line in body.splitlines():
            content = line.lstrip(" │├└─").removesuffix(" →").removesuffix(", id")
            assert cells(line) <= width or content in names, line


def test_no_two_hostile_names_look_alike_and_no_line_is_broken_by_one() -> None:
    whole = hostile()
    shown = [str(item.name) for item in whole.tables]
    assert len(set(shown)) == len(shown)
    text = render_tree(Picture(whole=whole, width=10_000))
    lines = text.splitlines()
    assert all(line.isprintable() for line in lines)
    assert all(any(line.startswith(f"  {name}  ") for line in lines) for name in shown)
    assert len(lines) == 4 + 1 + 1 + 2 * len(shown) + 1 + 1 + 1


def test_colours_change_nothing_but_the_colours() -> None:
    def pen(name: str) -> Callable[[str], str]:
        return lambda text: f"<{name}>{text}</>"

    paint = Paint(**{field.name: pen(field.name) for field in fields(Paint)})
    painted = render_tree(replace(SHOP, width=60, paint=paint))
    assert set(re.findall(r"<(\w+)>", painted)) == {field.name for field in fields(Paint)}
    assert re.sub(r"<\w+>|</>", "", painted) == render_tree(replace(SHOP, width=60))
    assert "<warning>[no model]</>" in painted
    assert "<warning>[cycle 2]</>" in painted
    assert "<cycle>[cycle 1]</>" in painted
