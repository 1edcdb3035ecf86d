"""Write the format ``html``: the dependency graph as one page that any browser opens, without the network.

The data is JSON inside the page. The page's script inserts it into the document as text, never as markup. The page's
content security policy permits only this script and this style, identified by their hashes
(https://www.w3.org/TR/CSP3/).

dagre computes the layout in the browser (https://github.com/dagrejs/dagre, MIT); ``tests/vendor.py`` fetches it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from testdb_app.schema import NO_DETAILS, TableDetails, on_one_line, show_part
from testdb_app.showdeps.picture import Assets, notes, show_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from testdb_app.schema import QualifiedName, SequenceInfo
    from testdb_app.showdeps.picture import Arrow, Cycle, Picture

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def render_html(picture: Picture) -> str:
    """Write the page. Raises ``ValueError`` if the picture has no ``assets``."""
    assets = picture.assets
    if assets is None:
        raise ValueError("The picture has no assets: pass those of testdb_app.showdeps.html.")
    parts = {
        "title": escape(on_one_line(picture.title)),
        "policy": _policy(assets),
        "style": assets.style,
        "data": as_script_data(page_data(picture)),
        "script": assets.script,
    }
    # One pass replaces everything, so that inserted text is not searched again.
    return _PLACE.sub(lambda match: parts[match[1]], assets.template)


def as_script_data(content: Any) -> str:
    """Return *content* as ASCII JSON in which no HTML parser finds the end of a script."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _policy(assets: Assets) -> str:
    return (
        f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(assets.style)}'; script-src '{_hash(assets.script)}'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def page_data(picture: Picture) -> dict[str, Any]:
    """Return the data that the page's script draws. A table is a number: its position in ``tables``, which is sorted by name.

    Texts are for people. Names are quoted as in SQL where necessary.
    """
    number_of = {name: number for number, name in enumerate(picture.tables)}
    return {
        "title": on_one_line(picture.title),
        "total": len({picture.root(table.name) for table in picture.whole.tables}),
        "reverse": picture.reverse,
        "cyclesOnly": picture.cycles_only,
        "tables": list(_tables(picture)),
        "keys": [_key(arrow, number_of, picture) for arrow in picture.arrows],
        "cycles": [_cycle(cycle, picture) for cycle in picture.cycles],
        "order": list(_order(picture, number_of)),
        "modelsWithoutTable": [
            {
                "model": label,
                "table": on_one_line(db_table),
                "reason": "unmanaged, perhaps a view" if label in picture.unmanaged else "not migrated",
            }
            for label, db_table in picture.models_without_table
        ],
    }


def _tables(picture: Picture) -> Iterator[dict[str, Any]]:
    has_one_schema = len({name.schema for name in picture.tables}) == 1
    app_of = apps(picture)
    level_of = {name: number for number, names in picture.levels for name in names}
    partitions: dict[QualifiedName, list[QualifiedName]] = {}
    for table in picture.schema.tables:
        if table.name in picture.root_of:
            partitions.setdefault(picture.root(table.name), []).append(table.name)
    sequences: dict[QualifiedName, list[tuple[SequenceInfo, str, str]]] = {}
    for sequence in picture.schema.sequences:
        for use in sequence.uses:
            sequences.setdefault(picture.root(use.table), []).append((sequence, use.column, use.how))
    for name in picture.tables:
        cycle = picture.cycle_of.get(name)
        parts = partitions.get(name, [])
        yield {
            "id": str(name),
            "label": show_part(name.name) if has_one_schema else str(name),
            "app": app_of[name],
            "level": level_of[name],
            "models": list(picture.labels.get(name, ())),
            "noModel": name in picture.tables_without_model,
            "notes": list(notes(name, picture)),
            "cycle": cycle.number if cycle else 0,
            "partitions": [str(part) for part in parts],
            "sequences": [
                {
                    "id": str(sequence.name),
                    "column": show_part(column),
                    "how": how,
                    "type": sequence.data_type,
                    "start": str(sequence.start),
                    "increment": str(sequence.increment),
                }
                for sequence, column, how in dict.fromkeys(sequences.get(name, []))
            ],
            **_details(picture.details.get(name, NO_DETAILS)),
            **_rows([name, *parts], picture.details),
        }


LARGE_SCHEMA = 60


def apps(picture: Picture) -> dict[QualifiedName, str]:
    """Return the group of each table: the app of its first model.

    Without a model it is the schema, if there are several. In a single or a large schema it is the first word of the
    name, if another table or an app has it too.
    """
    by_model = {name: picture.labels[name][0].split(".")[0] for name in picture.tables if picture.labels.get(name)}
    sizes = Counter(name.schema for name in picture.tables)
    words = {name: name.name.split("_")[0] for name in picture.tables}
    counts = Counter((name.schema, word) for name, word in words.items())
    known = set(by_model.values())

    def group(name: QualifiedName) -> str:
        word = words[name]
        if len(sizes) > 1 and sizes[name.schema] <= LARGE_SCHEMA:
            return show_part(name.schema)
        is_shared = bool(word) and (word in known or counts[name.schema, word] > 1)
        label = show_part(word) if is_shared else "other"
        return label if len(sizes) == 1 else f"{show_part(name.schema)}.{label}"

    return {name: by_model.get(name) or group(name) for name in picture.tables}


def _details(details: TableDetails) -> dict[str, Any]:
    return {
        "columns": [
            {
                "name": show_part(column.name),
                "type": on_one_line(column.data_type),
                "nullable": column.nullable,
                "default": on_one_line(column.default),
                "generated": column.generated,
            }
            for column in details.columns
        ],
        "unique": [
            {
                "columns": ", ".join("an expression" if name is None else show_part(name) for name in key.columns),
                "primary": key.is_primary,
                "partialIndex": show_part(key.partial_index) if key.partial_index else "",
            }
            for key in details.unique_keys
        ],
    }


def _rows(names: list[QualifiedName], details: Mapping[QualifiedName, TableDetails]) -> dict[str, Any]:
    """Return the sum of the rows of a table and its partitions. A partitioned table itself stores no rows."""
    known = [details[name] for name in names if name in details and details[name].rows is not None]
    return {
        "rows": sum(each.rows or 0 for each in known) if known else None,
        "isEstimate": any(each.is_estimate for each in known),
    }


def _key(arrow: Arrow, number_of: Mapping[QualifiedName, int], picture: Picture) -> dict[str, Any]:
    key, cycle = arrow.key, picture.cycle_of_key(arrow.key)
    owners = [str(each.table) for each in arrow.keys if each.table != arrow.source]
    return {
        "name": show_part(key.name),
        "source": number_of[arrow.source],
        "target": number_of[arrow.target],
        "columns": show_parts(key.columns),
        "referenced": show_parts(key.referenced_columns),
        "onDelete": key.on_delete.value,
        "django": picture.on_delete.get((key.table, key.columns), ""),
        "timing": ("deferred" if key.initially_deferred else "deferrable") if key.deferrable else "not deferrable",
        "owners": owners,
        "cycle": cycle.number if cycle else 0,
    }


def _cycle(cycle: Cycle, picture: Picture) -> dict[str, Any]:
    ring = [str(picture.root(key.table)) for key in cycle.ring]
    end = ring[:1] if len(ring) > 1 else ["itself"] * len(ring)
    return {
        "number": cycle.number,
        "tables": [str(name) for name in cycle.tables],
        "ring": ring + end,
        "deferrable": cycle.deferrable,
    }


def _order(picture: Picture, number_of: Mapping[QualifiedName, int]) -> Iterator[list[dict[str, Any]]]:
    """Yield the steps with the tables that store rows. The tables of a cycle are one step, because one statement empties them."""
    group_of = {name: group for group, names in enumerate(picture.graph.deletion_groups()) for name in names}
    steps: dict[int, list[dict[str, Any]]] = {}
    for name in picture.order:
        if picture.whole.by_name[name].stores_rows:
            entry = {"id": str(name), "table": number_of[picture.root(name)]}
            steps.setdefault(group_of[name], []).append(entry)
    yield from steps.values()


SCRIPTS = (
    "vendor/dagre.LICENSE.txt",
    "vendor/dagre.min.js",
    "model.js",
    "elements.js",
    "layout.js",
    "drawing.js",
    "panel.js",
    "export.js",
    "main.js",
)
"""The files of the page's script. In this order they are one module."""


def read_assets() -> Assets:
    """Read the template, the style and the script from the installed package, even from inside an archive."""
    folder = files("testdb_app.showdeps") / "page"
    return Assets(
        template=(folder / "page.html").read_text("utf-8"),
        style=(folder / "page.css").read_text("utf-8"),
        script="\n".join((folder / name).read_text("utf-8") for name in SCRIPTS),
    )
