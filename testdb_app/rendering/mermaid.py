"""``mermaid``: the map as a flowchart for pages that draw Mermaid, such as those of code hosts.

A flowchart and not an entity-relationship diagram, because only a flowchart's labels can hold any name.
Nodes are called ``t0``, ``t1``, …; in labels every character that Mermaid, Markdown or HTML could read is
an entity code.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from testdb_app.rendering.names import counted, show_parts
from testdb_app.schema import on_one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testdb_app.rendering.picture import Picture
    from testdb_app.schema import QualifiedName

MAX_EDGES = 500
MAX_CHARACTERS = 50_000
"""Mermaid's ``maxEdges`` and ``maxTextSize``: beyond them a page shows an error; a diagram cannot raise
them."""

_SPECIAL = re.compile(r"[^0-9A-Za-z_., ()]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])", re.ASCII)


def render(picture: Picture) -> str:
    """Write a flowchart: arrows go from the referencing to the referenced table, one for all keys between
    the two.

    Cycles are orange, those that are not deferrable red; tables that no model knows are dashed. What is too
    large for a page is drawn all the same, with a comment that says so.
    """
    lines = list(_body(picture))
    head = ["flowchart " + ("RL" if picture.reverse else "LR"), f"%% {on_one_line(picture.title)}"]
    arrows = sum("-->" in line for line in lines)
    characters = sum(len(line) + 1 for line in (*head, *lines))
    if arrows > MAX_EDGES or characters > MAX_CHARACTERS:
        head.append(
            f"%% {arrows:,} arrows, {characters:,} characters: pages draw at most {MAX_EDGES:,} "
            f"and {MAX_CHARACTERS:,}. Name apps or models to draw a part."
        )
    return "\n".join([*head, *lines]) + "\n"


def _body(picture: Picture) -> Iterator[str]:
    ids = {name: f"t{number}" for number, name in enumerate(picture.tables)}
    for name, identifier in ids.items():
        yield f'  {identifier}["{_label(name, picture)}"]{_class_of(name, picture)}'
    arrows: dict[tuple[QualifiedName, QualifiedName], list[str]] = {}
    colored: dict[bool, list[int]] = {True: [], False: []}
    for arrow in picture.arrows:
        pair = (arrow.source, arrow.target)
        if pair not in arrows and (cycle := picture.cycle_of_key(arrow.key)):
            colored[cycle.deferrable].append(len(arrows))
        arrows.setdefault(pair, []).append(escape(show_parts(arrow.key.columns)))
    for (source, target), columns in arrows.items():
        yield f'  {ids[source]} -->|"{"<br>".join(dict.fromkeys(columns))}"| {ids[target]}'
    for is_deferrable, color in ((True, "#b35900"), (False, "#c00000")):
        if colored[is_deferrable]:
            yield f"  linkStyle {','.join(map(str, colored[is_deferrable]))} stroke:{color},stroke-width:2px"
    yield "  classDef cycle stroke:#b35900,stroke-width:2px"
    yield "  classDef stuck stroke:#c00000,stroke-width:2px"
    yield "  classDef unknown stroke-dasharray:4"


def _label(name: QualifiedName, picture: Picture) -> str:
    lines = [escape(str(name)), *map(escape, picture.labels.get(name, ()))]
    count = picture.partition_counts.get(name)
    if count is not None:
        lines.append(f"({counted(count, 'partition')})")
    return "<br>".join(lines)


def _class_of(name: QualifiedName, picture: Picture) -> str:
    if cycle := picture.cycle_of.get(name):
        return ":::cycle" if cycle.deferrable else ":::stuck"
    return ":::unknown" if name in picture.tables_without_model else ""


def escape(text: str) -> str:
    """Return *text* with all but letters, digits and harmless punctuation as entity codes (``#34;``).

    An underscore inside a word stays, one at its edge is Markdown's emphasis.
    """
    return _SPECIAL.sub(lambda match: f"#{ord(match[0])};", text)
