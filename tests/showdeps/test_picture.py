"""What is shown: cycles, rings, levels, partitions, parts of a map."""

from __future__ import annotations

import time

import pytest

from testdb_app.showdeps import FORMATS
from testdb_app.showdeps.html import read_assets
from testdb_app.showdeps.picture import Picture, reach
from tests.showdeps.schemas import key, library, named, partitioned, schema, table


def names(*bare: str) -> frozenset[object]:
    return frozenset(map(named, bare))


def shown_cycles(*keys: object, tables: str = "abc") -> list[tuple[int, list[str], list[str], bool]]:
    picture = Picture(whole=schema([table(name) for name in tables], list(keys)))  # type: ignore[arg-type]
    return [
        (cycle.number, [name.name for name in cycle.tables], [key.name for key in cycle.ring], cycle.deferrable)
        for cycle in picture.cycles
    ]


def test_a_ring_with_one_deferrable_key_is_deferrable() -> None:
    keys = (key("a", "x", "b"), key("b", "x", "c", deferrable=True), key("c", "x", "a"))
    assert shown_cycles(*keys) == [(1, ["a", "b", "c"], ["a_x_fk", "b_x_fk", "c_x_fk"], True)]


def test_a_component_is_stuck_if_any_of_its_rings_has_no_deferrable_key_and_that_ring_is_named() -> None:
    keys = (
        key("a", "x", "b", deferrable=True),
        key("b", "x", "a"),
        key("b", "y", "c"),
        key("c", "x", "b"),
    )
    assert shown_cycles(*keys) == [(1, ["a", "b", "c"], ["b_y_fk", "c_x_fk"], False)]


def test_a_second_key_that_is_not_deferrable_closes_the_ring_again() -> None:
    keys = (key("a", "x", "b", deferrable=True), key("a", "y", "b"), key("b", "x", "a"))
    assert shown_cycles(*keys) == [(1, ["a", "b"], ["a_y_fk", "b_x_fk"], False)]


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_table_that_references_itself_is_a_cycle_of_one(deferrable: bool) -> None:
    assert shown_cycles(key("b", "x", "b", deferrable=deferrable)) == [(1, ["b"], ["b_x_fk"], deferrable)]


def test_the_ring_is_a_shortest_one() -> None:
    long = (key("a", "x", "b"), key("b", "x", "c"), key("c", "x", "a"))
    assert shown_cycles(*long, key("b", "y", "a"))[0][2] == ["a_x_fk", "b_y_fk"]
    assert shown_cycles(*long, key("a", "y", "d"), key("d", "x", "a"), tables="abcd")[0][2] == ["a_y_fk", "d_x_fk"]


def test_a_ring_through_partitions_is_shown_through_their_root() -> None:
    whole = schema(
        [table("p", kind="partitioned"), table("p1", is_partition=True, inherits=["p"]), table("q")],
        [
            key("p", "q_id", "q"),
            key("p1", "q_id", "q", inherited=True),
            key("q", "p_id", "p"),
            key("q", "p_id", "p1", inherited=True, name="copy"),
        ],
    )
    (cycle,) = Picture(whole=whole).cycles
    assert cycle.members == (named("p"), named("p1"), named("q"))
    assert cycle.tables == (named("p"), named("q"))
    assert [part.name for part in cycle.ring] == ["p_q_id_fk", "q_p_id_fk"]
    assert {part.name for part in cycle.keys} == {"p_q_id_fk", "q_p_id_fk"}


def test_a_cycle_made_by_copies_alone_is_shown_without_a_ring() -> None:
    whole = schema([table("a"), table("b")], [key("a", "x", "b", inherited=True), key("b", "x", "a", inherited=True)])
    picture = Picture(whole=whole, assets=read_assets())
    assert picture.cycles[0].ring == ()
    assert all(draw(picture) for draw in FORMATS.values())


def test_levels_are_those_of_the_whole_map_whatever_part_is_shown() -> None:
    whole = schema([table(name) for name in "abc"], [key("a", "x", "b"), key("b", "x", "c")])
    assert Picture(whole=whole, shown=names("a", "b")).levels == ((2, (named("a"),)), (1, (named("b"),)))
    assert Picture(whole=whole, reverse=True).levels[0] == (0, (named("c"),))


def test_a_partitioned_table_is_above_what_any_of_its_partitions_references() -> None:
    whole = partitioned()
    chain = [table("far"), *whole.tables]
    whole = schema(chain, [*whole.foreign_keys, key("venue", "far_id", "far")])
    levels = {name.name: number for number, found in Picture(whole=whole).levels for name in found}
    assert levels == {"far": 0, "users": 0, "vip": 0, "venue": 1, "event": 2, "report": 3}


def test_the_order_has_the_partitions_too_and_is_right_although_tables_between_are_hidden() -> None:
    assert len(Picture(whole=partitioned()).order) == len(partitioned().tables)
    whole = schema([table(name) for name in "abc"], [key("c", "x", "b"), key("b", "x", "a")])
    assert Picture(whole=whole, shown=names("a", "c")).order == (named("c"), named("a"))
    assert Picture(whole=whole, shown=names("a", "c"), reverse=True).order == (named("a"), named("c"))


def test_like_keys_of_several_partitions_are_one_arrow_and_the_odd_one_is_its_own() -> None:
    parts = [table(f"p{number}", is_partition=True, inherits=["p"]) for number in range(3)]
    keys = [key(part.name.name, "q_id", "q") for part in parts]
    whole = schema([table("p", kind="partitioned"), *parts, table("q")], [*keys, key("p1", "other_id", "q")])
    arrows = list(Picture(whole=whole).arrows)
    assert [(arrow.key.columns, len(arrow.keys), arrow.source, arrow.target) for arrow in arrows] == [
        (("q_id",), 3, named("p"), named("q")),
        (("other_id",), 1, named("p"), named("q")),
    ]


def test_reach_follows_references_down_and_in_reverse_up() -> None:
    assert reach(library(), names("branch")) == names("branch", "staff")  # type: ignore[arg-type]
    assert reach(library(), names("staff"), reverse=True) == names("branch", "staff", "copy")  # type: ignore[arg-type]
    assert reach(library(), names("legacy")) == names("legacy")  # type: ignore[arg-type]
    assert reach(library(), ()) == frozenset()


def test_a_partition_stands_for_its_whole_table_and_what_any_partition_references() -> None:
    events = ("event", "event_1", "event_2", "event_3", "event_3a", "event_3b")
    assert reach(partitioned(), names("event_3a")) == names(*events, "users", "venue")  # type: ignore[arg-type]
    assert reach(partitioned(), names("venue"), reverse=True) == names(*events, "venue", "report")  # type: ignore[arg-type]


def test_only_cycles_leaves_the_keys_between_two_cycles_out() -> None:
    whole = schema(
        [table(name) for name in "abcd"],
        [key("a", "x", "a"), key("b", "x", "b"), key("a", "y", "b"), key("c", "x", "d")],
    )
    picture = Picture(whole=whole, cycles_only=True)
    assert [item.name for item in picture.schema.tables] == [named("a"), named("b")]
    assert [item.name for item in picture.schema.foreign_keys] == ["a_x_fk", "b_x_fk"]


def test_a_part_of_the_map_has_the_sequences_of_its_tables_only() -> None:
    assert [s.name.name for s in Picture(whole=library(), shown=names("copy")).schema.sequences] == ["copy_id_seq"]
    assert Picture(whole=library(), shown=names("genre")).schema.sequences == ()
    assert len(Picture(whole=library()).schema.sequences) == 2


LARGE = [
    pytest.param(draw, id=name, marks=() if name in {"tree", "html"} else pytest.mark.nightly)
    for name, draw in FORMATS.items()
]


@pytest.mark.parametrize("draw", LARGE)
def test_ten_thousand_tables_are_drawn_in_seconds(draw: object) -> None:
    tables = [table(f"t{number:05}") for number in range(10_000)]
    keys = [key(f"t{n:05}", f"c{step}", f"t{(n * 7 + step) % 10_000:05}") for n in range(10_000) for step in (1, 2)]
    picture = Picture(whole=schema(tables, keys), assets=read_assets())
    begin = time.process_time()
    assert draw(picture)  # type: ignore[operator]
    assert time.process_time() - begin < 5
