"""Write the formats ``dot``, ``mermaid`` and ``json``: the dependency graph for other programs.

``dot`` is for Graphviz. Nodes are called ``t0``, ``t1``, …, so a table's name occurs only in labels. Inside a label
Graphviz interprets backslashes (``\\N`` is the node's name) and HTML entities, so both are escaped.

``mermaid`` is a flowchart for pages that draw Mermaid, such as those of code hosts. It is not an entity-relationship
diagram, because only a flowchart's labels can hold any name. Nodes are called ``t0``, ``t1``, …. In labels every
character that Mermaid, Markdown or HTML could interpret is an entity code.

``json`` is the graph for machines. It is ASCII only, so that every terminal and pipe can pass it on.

The structure of the JSON is stable; a change that breaks a reader raises ``schema_version``. Tables and sequences
have an ``id``: their qualified name, quoted as in SQL where necessary. References use the ``id``. ``schema`` and
``name`` are not quoted. Lists are sorted by name, except for ``order`` and the columns of a key.

- ``schema_version``: 1.
- ``database``: ``alias``, ``name`` (where the connection leads), ``vendor`` ("postgresql", "sqlite", …).
- ``tables``: ``id``, ``schema``, ``name``, ``kind`` ("ordinary", "partitioned", "virtual"), ``level`` (0:
  references nothing but itself), ``models`` (labels; empty without a model), ``inherits`` (ids
  of the tables that it is a partition or an inheritance child of), ``is_partition``, ``extension`` (name or
  null), ``unlogged``.
- ``foreign_keys``: ``name``, ``table``, ``columns``, ``referenced``, ``referenced_columns``, ``on_delete``
  ("NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"), ``deferrable``, ``initially_deferred``,
  ``inherited`` (a copy that the server keeps for a partition).
- ``sequences``: ``id``, ``schema``, ``name``, ``data_type``, ``start``, ``increment``, ``minimum``,
  ``maximum``, ``cycle``, ``used_by`` (``table``, ``column``, ``how``: "identity", "owned", "default",
  "rowid").
- ``cycles``: ``tables``, ``foreign_keys`` (``table`` and ``name`` of each declared one), ``deferrable``
  (whether each ring has a deferrable key).
- ``order``: ids of tables, in the order to delete in; with ``--reverse`` in the order to insert in.
- ``models_without_table``: ``model``, ``db_table``.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from testdb_app.schema import on_one_line
from testdb_app.showdeps.picture import counted, show_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testdb_app.schema import ForeignKey, QualifiedName, SequenceInfo, Table
    from testdb_app.showdeps.picture import Cycle, Picture

CYCLE_COLOR = "#b35900"
STUCK_COLOR = "#c00000"


def render_dot(picture: Picture) -> str:
    """Write a directed graph. Arrows point from the referencing to the referenced table.

    Cycles are orange, or red if they are not deferrable. Tables without a model are dashed. The tooltip of a table names
    its models. The tooltip of an arrow names its action on delete.
    """
    return "\n".join(["digraph dependencies {", *_dot_body(picture), "}"]) + "\n"


def _dot_body(picture: Picture) -> Iterator[str]:
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
    """Return *lines* as one string of the DOT language, which Graphviz shows literally and one below the other."""
    escaped = (line.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'


MAX_EDGES = 500
MAX_CHARACTERS = 50_000
"""Mermaid's ``maxEdges`` and ``maxTextSize``. Above them a page shows an error, and a diagram cannot raise them."""

_SPECIAL = re.compile(r"[^0-9A-Za-z_., ()]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])", re.ASCII)


def render_mermaid(picture: Picture) -> str:
    """Write a flowchart. One arrow stands for all keys from a referencing to a referenced table.

    Cycles are orange, or red if they are not deferrable. Tables without a model are dashed. If the flowchart is too large
    for a page, it is still written, with a comment that says so.
    """
    lines = list(_mermaid_body(picture))
    head = ["flowchart " + ("RL" if picture.reverse else "LR"), f"%% {on_one_line(picture.title)}"]
    arrows = sum("-->" in line for line in lines)
    characters = sum(len(line) + 1 for line in (*head, *lines))
    if arrows > MAX_EDGES or characters > MAX_CHARACTERS:
        head.append(
            f"%% {arrows:,} arrows, {characters:,} characters: pages draw at most {MAX_EDGES:,} "
            f"and {MAX_CHARACTERS:,}. Name apps or models to draw a part."
        )
    return "\n".join([*head, *lines]) + "\n"


def _mermaid_body(picture: Picture) -> Iterator[str]:
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
    """Return *text* with entity codes (``#34;``) for all but letters, digits and harmless punctuation.

    An underscore inside a word stays. At the edge of a word it is escaped, because Markdown would read it as emphasis.
    """
    return _SPECIAL.sub(lambda match: f"#{ord(match[0])};", text)


SCHEMA_VERSION = 1


def render_json(picture: Picture) -> str:
    """Write the picture as one JSON object."""
    schema = picture.schema
    content = {
        "schema_version": SCHEMA_VERSION,
        "database": {"alias": picture.alias, "name": picture.database, "vendor": schema.vendor},
        "tables": [_table(table, picture) for table in schema.tables],
        "foreign_keys": [_foreign_key(key) for key in schema.foreign_keys],
        "sequences": [_sequence(sequence) for sequence in schema.sequences],
        "cycles": [_cycle(cycle) for cycle in picture.cycles],
        "order": [str(name) for name in picture.order],
        "models_without_table": [
            {"model": label, "db_table": db_table} for label, db_table in picture.models_without_table
        ],
    }
    return json.dumps(content, indent=2) + "\n"


def _table(table: Table, picture: Picture) -> dict[str, Any]:
    return {
        "id": str(table.name),
        "schema": table.name.schema,
        "name": table.name.name,
        "kind": table.kind.value,
        "level": picture.graph.level(table.name),
        "models": list(picture.labels.get(table.name, ())),
        "inherits": [str(name) for name in table.inherits],
        "is_partition": table.is_partition,
        "extension": table.extension,
        "unlogged": table.unlogged,
    }


def _foreign_key(key: ForeignKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "table": str(key.table),
        "columns": list(key.columns),
        "referenced": str(key.referenced),
        "referenced_columns": list(key.referenced_columns),
        "on_delete": key.on_delete.value,
        "deferrable": key.deferrable,
        "initially_deferred": key.initially_deferred,
        "inherited": key.inherited,
    }


def _sequence(sequence: SequenceInfo) -> dict[str, Any]:
    return {
        "id": str(sequence.name),
        "schema": sequence.name.schema,
        "name": sequence.name.name,
        "data_type": sequence.data_type,
        "start": sequence.start,
        "increment": sequence.increment,
        "minimum": sequence.minimum,
        "maximum": sequence.maximum,
        "cycle": sequence.cycle,
        "used_by": [{"table": str(use.table), "column": use.column, "how": use.how} for use in sequence.uses],
    }


def _cycle(cycle: Cycle) -> dict[str, Any]:
    return {
        "tables": [str(name) for name in cycle.members],
        "foreign_keys": [{"table": str(key.table), "name": key.name} for key in cycle.keys],
        "deferrable": cycle.deferrable,
    }
