"""``dot``: the map for Graphviz.

Nodes are called ``t0``, ``t1``, …, so a table's name is only ever a label. Inside a label Graphviz reads
backslashes (``\\N`` is the node's name) and HTML entities, so both are escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from testdb_app.rendering.names import counted, show_parts
from testdb_app.schema import on_one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testdb_app.rendering.picture import Picture
    from testdb_app.schema import ForeignKey, QualifiedName

CYCLE_COLOR = "#b35900"
STUCK_COLOR = "#c00000"


def render(picture: Picture) -> str:
    """Write a directed graph: arrows go from the referencing to the referenced table.

    Cycles are orange, those that are not deferrable red; tables that no model knows are dashed; the tooltip
    of a table names its models, that of an arrow what happens on delete.
    """
    return "\n".join(["digraph dependencies {", *_body(picture), "}"]) + "\n"


def _body(picture: Picture) -> Iterator[str]:
    direction = "RL" if picture.reverse else "LR"
    yield f"  graph [rankdir={direction}, label={quote(on_one_line(picture.title))}, labelloc=t];"
    yield '  node [shape=box, fontname="Helvetica", fontsize=10];'
    yield '  edge [fontname="Helvetica", fontsize=8];'
    ids = {name: f"t{number}" for number, name in enumerate(picture.tables)}
    for name, identifier in ids.items():
        yield f"  {identifier} [{_node(name, picture)}];"
    for arrow in picture.arrows:
        yield f"  {ids[arrow.source]} -> {ids[arrow.target]} [{_edge(arrow.key, picture)}];"


def _node(name: QualifiedName, picture: Picture) -> str:
    models = picture.labels.get(name, ())
    count = picture.partition_counts.get(name)
    lines = [str(name)] if count is None else [str(name), f"({counted(count, 'partition')})"]
    attributes = [f"label={quote(*lines)}", f"tooltip={quote(*(models or ['no model']))}"]
    if name in picture.tables_without_model:
        attributes.append("style=dashed")
    if cycle := picture.cycle_of.get(name):
        attributes.append(f'color="{CYCLE_COLOR if cycle.deferrable else STUCK_COLOR}"')
    return ", ".join(attributes)


def _edge(key: ForeignKey, picture: Picture) -> str:
    action = f"ON DELETE {key.on_delete.value}" + (", deferrable" if key.deferrable else ", not deferrable")
    attributes = [
        f"label={quote(show_parts(key.columns))}",
        f"tooltip={quote(on_one_line(key.name), action)}",
    ]
    if cycle := picture.cycle_of_key(key):
        attributes.append(f'color="{CYCLE_COLOR if cycle.deferrable else STUCK_COLOR}", penwidth=2')
    return ", ".join(attributes)


def quote(*lines: str) -> str:
    """Return *lines* as one string of the DOT language, shown as they are, one below the other."""
    escaped = (line.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
