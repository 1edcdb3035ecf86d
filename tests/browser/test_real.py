"""The pages of real schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from testdb_app.graph import DependencyGraph
from testdb_app.schema import Schema
from testdb_app.showdeps.picture import partition_roots
from tests.browser.driving import Reader
from tests.real.loading import load, skip_without
from tests.scratch import ScratchDatabase, connect_as_superuser

# Partitions and a materialized view; several schemas; cycles of several tables; the most tables.
NAMES = ("pagila", "adventureworks", "pretix", "netbox", "musicbrainz")


@pytest.fixture(params=NAMES)
def real(request: pytest.FixtureRequest, make_scratch: Callable[..., ScratchDatabase]) -> Iterator[ScratchDatabase]:
    """A database with each of the schemas in turn."""
    with connect_as_superuser("postgres") as connection:
        skip_without(request.param, connection)
    database = make_scratch()
    load(request.param, database)
    yield database


def graph_of_roots(schema: Schema) -> DependencyGraph[str]:
    """The graph that the page shows: partitions are one with their root, and the copies of keys for them left out."""
    roots = partition_roots(schema)
    return DependencyGraph(
        {str(roots.get(table.name, table.name)) for table in schema.tables},
        (
            (str(roots.get(key.table, key.table)), str(roots.get(key.referenced, key.referenced)))
            for key in schema.declared_foreign_keys
        ),
    )


def test_a_click_on_each_table_shows_its_closure_and_its_columns(
    reader: Reader, real: ScratchDatabase, tmp_path: Path
) -> None:
    path = tmp_path / "map.html"
    call_command("showdeps", database=real.alias, format="html", output=str(path), count_rows=True, verbosity=0)
    reader.open(path)
    schema = real.schema()
    graph = graph_of_roots(schema)
    columns = dict(
        real.query(
            "SELECT c.oid::regclass::text, count(*) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
            "WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p') GROUP BY 1"
        )
    )
    shown = click_all(reader)
    assert sorted(shown) == list(graph.nodes)
    for name, found in shown.items():
        assert set(found["towards"]) == graph.dependencies(name), name
        assert set(found["from"]) == graph.dependents(name), name
        assert found["columns"] in {
            columns.get(name),
            columns.get(name.removeprefix("public.")),
            columns.get(name.split(".")[1]),
        }


def click_all(reader: Reader) -> dict[str, Any]:
    """Click every box, and return by the panel's title what stands in it: one call, as there are hundreds."""
    script = """
        const found = {};
        const part = (title) => {
            const all = [...document.getElementById('panel').children];
            const start = all.findIndex((each) => each.textContent.startsWith(title)) + 1;
            const end = all.findIndex((each, place) => place >= start && ['H3', 'DETAILS'].includes(each.tagName));
            return all.slice(start, end < 0 ? undefined : end).flatMap(
                (each) => [...each.querySelectorAll('li > [data-table]')].map((link) => link.textContent));
        };
        // The list beside the drawing has all tables; those of a large schema are in closed groups.
        document.querySelectorAll('#panel details').forEach((each) => { each.open = true; each.dispatchEvent(new Event('toggle')); });
        const count = JSON.parse(document.getElementById('data').textContent).tables.length;
        const links = [...document.querySelectorAll('#panel .list [data-table]')];
        if (links.length !== count) throw new Error(`${links.length} of ${count} tables are in the list`);
        for (const link of links) {
            document.getElementById('panel').append(link);
            link.click();
            found[document.querySelector('#panel h2').textContent] = {
                towards: part('Depends on'), from: part('What depends on it'),
                columns: document.querySelectorAll('#panel tbody tr').length };
        }
        return found;"""
    return dict(reader.run(script))


def test_a_search_finds_what_a_reader_would_look_for(reader: Reader, real: ScratchDatabase, tmp_path: Path) -> None:
    path = tmp_path / "map.html"
    call_command("showdeps", database=real.alias, format="html", output=str(path), verbosity=0)
    reader.open(path)
    tables = [table.name.name for table in real.schema().tables if not table.is_partition]
    for name in tables[:: max(1, len(tables) // 10)]:
        reader.search(name)
        assert name in reader.text("#panel ul")
