"""``showdeps`` draws each real schema in every format, with the figures that a count by hand gives."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from dataclasses import dataclass

import pytest
from django.core.management import call_command

from tests.real.loading import dump_structure, read_content
from tests.scratch import ScratchDatabase


@dataclass(frozen=True)
class Facts:
    """What is known of a schema, counted apart from this package; cycles are those of several tables."""

    tables: int
    keys: int
    self_references: int
    cycles: int
    sequences: int
    deferrable: int


FACTS = {
    "pagila": Facts(22, 36, 0, 0, 13, 0),
    "adventureworks": Facts(68, 89, 0, 0, 36, 0),
    "rdmo": Facts(84, 130, 2, 0, 82, 130),
    "saleor": Facts(145, 264, 4, 2, 132, 263),
    "pretix": Facts(155, 317, 5, 2, 151, 317),
    "netbox": Facts(208, 555, 20, 5, 204, 555),
    "musicbrainz": Facts(519, 889, 59, 0, 240, 0),
}


def showdeps(database: ScratchDatabase, output_format: str) -> str:
    out = io.StringIO()
    call_command("showdeps", database=database.alias, format=output_format, stdout=out, no_color=True)
    return out.getvalue()


def test_json_has_the_tables_keys_cycles_and_sequences_that_there_are(real: ScratchDatabase, real_name: str) -> None:
    picture = json.loads(showdeps(real, "json"))
    keys = [key for key in picture["foreign_keys"] if not key["inherited"]]
    found = Facts(
        tables=len(picture["tables"]),
        keys=len(keys),
        self_references=sum(key["table"] == key["referenced"] for key in keys),
        cycles=sum(len(cycle["tables"]) > 1 for cycle in picture["cycles"]),
        sequences=len(picture["sequences"]),
        deferrable=sum(key["deferrable"] for key in keys),
    )
    assert found == FACTS[real_name]
    assert sorted(picture["order"]) == sorted(table["id"] for table in picture["tables"])


def test_order_names_every_table_once_and_referencing_ones_first(real: ScratchDatabase) -> None:
    lines = showdeps(real, "order").splitlines()
    picture = json.loads(showdeps(real, "json"))
    assert lines == picture["order"]
    place = {name: number for number, name in enumerate(lines)}
    in_cycles = {name: number for number, cycle in enumerate(picture["cycles"]) for name in cycle["tables"]}
    for key in picture["foreign_keys"]:
        table, referenced = key["table"], key["referenced"]
        together = table == referenced or in_cycles.get(table, -1) == in_cycles.get(referenced, -2)
        assert together or place[table] < place[referenced]


def test_tree_dot_and_mermaid_show_every_table(real: ScratchDatabase) -> None:
    query = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND oid >= 16384 AND NOT relispartition"
    names = [row[0] for row in real.query(query)]
    for output_format in ("tree", "dot", "mermaid"):
        text = showdeps(real, output_format)
        assert not [name for name in names if name not in text], output_format


def test_dot_is_accepted_by_graphviz(real: ScratchDatabase) -> None:
    program = shutil.which("dot")
    if program is None:
        pytest.skip("Graphviz is not installed")
    done = subprocess.run(
        [program, "-Tcanon"], input=showdeps(real, "dot"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_showdeps_changes_nothing(real: ScratchDatabase) -> None:
    before, structure = read_content(real), dump_structure(real)
    for output_format in ("tree", "order", "json", "dot", "mermaid", "html"):
        assert showdeps(real, output_format)
    assert read_content(real) == before
    assert dump_structure(real) == structure
