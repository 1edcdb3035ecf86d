"""The picture for Graphviz, checked by Graphviz."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from testdb_app.showdeps.export import quote, render_dot
from testdb_app.showdeps.picture import Picture, show_parts
from tests.showdeps.schemas import hostile, library, named, partitioned, schema

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz' dot is not installed")

SHOP = Picture(
    whole=library(),
    title='PostgreSQL database "shop"',
    labels={named("copy"): ("shop.Copy", "shop.CopyView")},
    tables_without_model=frozenset({named("legacy")}),
)


def graphviz(text: str, target: str) -> str:
    """Run dot. It warns about what it cannot read, so a warning is a failure, unless it is about fonts."""
    done = subprocess.run(["dot", f"-T{target}"], input=text, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith(("Warning", "Error"))]
    return done.stdout


def read_by_graphviz(text: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(graphviz(text, "dot_json"))
    return content


def drawn_texts(text: str) -> set[str]:
    """Return the texts that Graphviz draws, one for each line of each label."""
    content = json.loads(graphviz(text, "json"))
    drawings = [
        operation
        for item in [content, *content.get("objects", ()), *content.get("edges", ())]
        for operation in item.get("_ldraw_", ())
    ]
    return {operation["text"] for operation in drawings if operation["op"] == "T"}


def test_the_graph_names_tables_keys_and_models() -> None:
    assert (
        render_dot(SHOP)
        == r"""digraph dependencies {
  graph [rankdir=LR, label="PostgreSQL database \"shop\"", labelloc=t];
  node [shape=box, fontname="Helvetica", fontsize=10];
  edge [fontname="Helvetica", fontsize=8];
  t0 [label="public.branch", tooltip="no model", color="#b35900"];
  t1 [label="public.copy", tooltip="shop.Copy\nshop.CopyView"];
  t2 [label="public.genre", tooltip="no model", color="#c00000"];
  t3 [label="public.legacy", tooltip="no model", style=dashed];
  t4 [label="public.staff", tooltip="no model", color="#b35900"];
  t0 -> t4 [label="manager_id", tooltip="branch_manager_id_fk\nON DELETE SET NULL, deferrable", color="#b35900", penwidth=2];
  t1 -> t0 [label="branch_id", tooltip="copy_branch_id_fk\nON DELETE NO ACTION, deferrable"];
  t1 -> t2 [label="genre_id", tooltip="copy_genre_id_fk\nON DELETE RESTRICT, not deferrable"];
  t2 -> t2 [label="broader_id", tooltip="genre_broader_id_fk\nON DELETE NO ACTION, not deferrable", color="#c00000", penwidth=2];
  t4 -> t0 [label="branch_id", tooltip="staff_branch_id_fk\nON DELETE CASCADE, deferrable", color="#b35900", penwidth=2];
}
"""
    )


def test_reverse_turns_the_picture_and_not_the_arrows() -> None:
    assert render_dot(replace(SHOP, reverse=True)) == render_dot(SHOP).replace("rankdir=LR", "rankdir=RL")


def test_partitions_are_one_node_with_their_root() -> None:
    text = render_dot(Picture(whole=partitioned()))
    assert r'label="public.event\n(4 partitions)"' in text
    assert "event_1" not in text.replace("event_1_venue_id_fk", "")


def test_a_backslash_is_never_graphviz_own_escape() -> None:
    assert quote('a\\N "b" &amp;', "c\\") == r'"a\\N \"b\" &amp;amp;\nc\\"'


@needs_dot
@pytest.mark.parametrize("picture", [SHOP, Picture(whole=partitioned()), Picture(whole=schema([]))])
def test_graphviz_draws_it(picture: Picture) -> None:
    assert graphviz(render_dot(picture), "svg").rstrip().endswith("</svg>")


@needs_dot
def test_graphviz_reads_the_same_tables_and_keys_as_there_are() -> None:
    content = read_by_graphviz(render_dot(SHOP))
    labels = {item["_gvid"]: item["label"] for item in content["objects"]}
    edges = {(labels[edge["tail"]], labels[edge["head"]], edge["label"]) for edge in content["edges"]}
    assert edges == {(str(key.table), str(key.referenced), show_parts(key.columns)) for key in library().foreign_keys}


@needs_dot
def test_graphviz_draws_hostile_names_as_they_are() -> None:
    whole = hostile()
    drawn = drawn_texts(render_dot(Picture(whole=whole, title='the "database" \\N &lt;')))
    assert {str(item.name) for item in whole.tables} <= drawn
    assert {show_parts(key.columns) for key in whole.foreign_keys} <= drawn
    assert 'the "database" \\N &lt;' in drawn
