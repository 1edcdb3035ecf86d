"""One table a line."""

from __future__ import annotations

from dataclasses import replace

from testdb_app.showdeps.picture import Picture
from testdb_app.showdeps.text import render_order
from tests.showdeps.schemas import hostile, library, named, partitioned, schema

SHOP = Picture(whole=library())


def test_referencing_tables_come_before_those_they_reference() -> None:
    assert render_order(SHOP) == "public.copy\npublic.branch\npublic.staff\npublic.genre\npublic.legacy\n"


def test_reversed_it_is_the_order_to_insert_in() -> None:
    assert render_order(replace(SHOP, reverse=True)).splitlines() == render_order(SHOP).splitlines()[::-1]


def test_a_part_and_the_cycles_only_keep_the_order_of_the_whole() -> None:
    assert (
        render_order(replace(SHOP, shown=frozenset({named("copy"), named("genre")}))) == "public.copy\npublic.genre\n"
    )
    assert render_order(replace(SHOP, cycles_only=True)) == "public.branch\npublic.staff\npublic.genre\n"


def test_every_partition_has_its_line() -> None:
    assert len(render_order(Picture(whole=partitioned())).splitlines()) == len(partitioned().tables)


def test_an_empty_database_has_no_line() -> None:
    assert render_order(Picture(whole=schema([]))) == ""


def test_hostile_names_have_one_line_each_and_no_two_the_same() -> None:
    text = render_order(Picture(whole=hostile()))
    lines = text.split("\n")
    assert lines.pop() == ""
    assert text.splitlines() == lines
    assert len(set(lines)) == len(hostile().tables)
