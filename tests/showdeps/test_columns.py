"""Where the tables of a page stand."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from testdb_app.schema import Schema
from testdb_app.showdeps.html import FEWEST_ROWS, MOST_ROWS, Column, arrange
from testdb_app.showdeps.picture import Picture
from tests.showdeps.schemas import hostile, key, library, named, partitioned, schema, table


def bare(columns: tuple[Column, ...]) -> list[tuple[int, tuple[str, ...]]]:
    return [(column.level, tuple(name.name for name in column.tables)) for column in columns]


def crossings(columns: tuple[Column, ...], whole: Schema) -> int:
    """Count the pairs of keys between neighbouring columns that cross."""
    place = {name: (x, y) for x, column in enumerate(columns) for y, name in enumerate(column.tables)}
    lines = [(place[item.table], place[item.referenced]) for item in whole.foreign_keys]
    near = [(a, b) for a, b in lines if b[0] - a[0] == 1]
    return sum(
        (a[1] - c[1]) * (b[1] - d[1]) < 0
        for index, (a, b) in enumerate(near)
        for c, d in near[index + 1 :]
        if a[0] == c[0]
    )


def test_levels_are_columns_with_what_references_to_the_left() -> None:
    assert bare(arrange(Picture(whole=library()))) == [(1, ("copy",)), (0, ("branch", "genre", "staff", "legacy"))]


def test_reversed_the_first_column_is_level_0() -> None:
    assert [column.level for column in arrange(Picture(whole=library(), reverse=True))] == [0, 1]


def test_tables_without_a_key_stand_below_the_others() -> None:
    whole = schema([table(name) for name in ("a_alone", "b", "c", "z")], [key("z", "x", "c"), key("z", "y", "b")])
    assert bare(arrange(Picture(whole=whole)))[-1] == (0, ("b", "c", "a_alone"))


def test_a_table_stands_beside_what_it_references() -> None:
    whole = schema(
        [table(name) for name in ("a1", "a2", "a3", "b1", "b2", "b3")],
        [key("b1", "x", "a3"), key("b2", "x", "a2"), key("b3", "x", "a1")],
    )
    columns = arrange(Picture(whole=whole))
    assert crossings(columns, whole) == 0
    assert len(columns) == 2


def test_curves_cross_less_often_than_in_alphabetical_order() -> None:
    chance = random.Random(5)
    names = [[f"t{level}_{number:02}" for number in range(12)] for level in range(4)]
    keys = [
        key(name, f"c{step}", chance.choice(names[level - 1]))
        for level in range(1, 4)
        for name in names[level]
        for step in range(2)
    ]
    whole = schema([table(name) for level in names for name in level], keys)
    columns = arrange(Picture(whole=whole))
    by_name = tuple(Column(column.level, tuple(sorted(column.tables))) for column in columns)
    assert crossings(columns, whole) < 0.7 * crossings(by_name, whole)


@pytest.mark.parametrize("number", [FEWEST_ROWS, FEWEST_ROWS + 1, 500, 5_000])
def test_a_level_with_many_tables_is_cut_into_columns_of_like_height(number: int) -> None:
    whole = schema([table(f"t{each:04}") for each in range(number)])
    columns = arrange(Picture(whole=whole))
    heights = [len(column.tables) for column in columns]
    assert sum(heights) == number
    assert max(heights) - min(heights) <= 1
    assert max(heights) <= MOST_ROWS
    assert {column.level for column in columns} == {0}
    assert (len(columns) == 1) is (number <= FEWEST_ROWS)


@pytest.mark.parametrize("whole", [library(), partitioned(), hostile()])
@pytest.mark.parametrize("cycles_only", [False, True])
def test_every_table_that_people_know_stands_once(whole: Schema, cycles_only: bool) -> None:
    picture = Picture(whole=whole, cycles_only=cycles_only)
    placed = [name for column in arrange(picture) for name in column.tables]
    assert sorted(placed) == list(picture.tables)


def test_the_places_depend_on_the_schema_alone() -> None:
    whole = hostile()
    turned = replace(whole, tables=whole.tables[::-1], foreign_keys=whole.foreign_keys[::-1])
    assert arrange(Picture(whole=whole)) == arrange(Picture(whole=turned))


def test_nothing_has_no_columns() -> None:
    assert arrange(Picture(whole=schema([]))) == ()
    assert arrange(Picture(whole=schema([table("a")]), cycles_only=True)) == ()
    assert bare(arrange(Picture(whole=schema([table("a")]), shown=frozenset({named("a")})))) == [(0, ("a",))]
