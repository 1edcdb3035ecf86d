"""The picture for machines: the documented shape, exactly."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from testdb_app.schema import QualifiedName, Schema
from testdb_app.showdeps import export
from testdb_app.showdeps.picture import Picture
from tests.showdeps.schemas import hostile, key, library, named, partitioned, schema, table

SHOP = Picture(
    whole=library(),
    alias="default",
    database="shop",
    labels={named("copy"): ("shop.Copy",)},
    models_without_table=(("shop.New", "shop_new"),),
)


def load(picture: Picture) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(export.render_json(picture))
    return content


def test_the_shape_is_the_documented_one() -> None:
    whole = schema([table("a"), table("b")], [key("a", "b_id", "b")], sequences=library().sequences[1:])
    picture = Picture(whole=whole, alias="default", database="shop", labels={named("a"): ("shop.A",)})
    assert (
        export.render_json(picture)
        == """\
{
  "schema_version": 1,
  "database": {
    "alias": "default",
    "name": "shop",
    "vendor": "postgresql"
  },
  "tables": [
    {
      "id": "public.a",
      "schema": "public",
      "name": "a",
      "kind": "ordinary",
      "level": 1,
      "models": [
        "shop.A"
      ],
      "inherits": [],
      "is_partition": false,
      "extension": null,
      "unlogged": false
    },
    {
      "id": "public.b",
      "schema": "public",
      "name": "b",
      "kind": "ordinary",
      "level": 0,
      "models": [],
      "inherits": [],
      "is_partition": false,
      "extension": null,
      "unlogged": false
    }
  ],
  "foreign_keys": [
    {
      "name": "a_b_id_fk",
      "table": "public.a",
      "columns": [
        "b_id"
      ],
      "referenced": "public.b",
      "referenced_columns": [
        "id"
      ],
      "on_delete": "NO ACTION",
      "deferrable": false,
      "initially_deferred": false,
      "inherited": false
    }
  ],
  "sequences": [
    {
      "id": "public.spare",
      "schema": "public",
      "name": "spare",
      "data_type": "bigint",
      "start": 1000,
      "increment": -1,
      "minimum": 100,
      "maximum": 9223372036854775807,
      "cycle": true,
      "used_by": []
    }
  ],
  "cycles": [],
  "order": [
    "public.a",
    "public.b"
  ],
  "models_without_table": []
}
"""
    )


def test_cycles_name_their_tables_their_keys_and_whether_they_can_be_deferred() -> None:
    assert load(SHOP)["cycles"] == [
        {
            "tables": ["public.branch", "public.staff"],
            "foreign_keys": [
                {"table": "public.branch", "name": "branch_manager_id_fk"},
                {"table": "public.staff", "name": "staff_branch_id_fk"},
            ],
            "deferrable": True,
        },
        {
            "tables": ["public.genre"],
            "foreign_keys": [{"table": "public.genre", "name": "genre_broader_id_fk"}],
            "deferrable": False,
        },
    ]


def test_keys_say_how_they_defer_and_what_they_do_on_delete() -> None:
    told = {
        item["name"]: (item["on_delete"], item["deferrable"], item["initially_deferred"])
        for item in load(SHOP)["foreign_keys"]
    }
    assert told["branch_manager_id_fk"] == ("SET NULL", True, True)
    assert told["staff_branch_id_fk"] == ("CASCADE", True, False)
    assert told["copy_genre_id_fk"] == ("RESTRICT", False, False)


def test_sequences_say_who_uses_them() -> None:
    assert load(SHOP)["sequences"][0]["used_by"] == [{"table": "public.copy", "column": "id", "how": "identity"}]


def test_models_without_a_table_are_told() -> None:
    assert load(SHOP)["models_without_table"] == [{"model": "shop.New", "db_table": "shop_new"}]


def test_partitions_are_tables_of_their_own_here_and_copied_keys_are_marked() -> None:
    content = load(Picture(whole=partitioned()))
    tables = {item["name"]: item for item in content["tables"]}
    assert (tables["event_3a"]["is_partition"], tables["event_3a"]["inherits"]) == (True, ["public.event_3"])
    assert (tables["vip"]["is_partition"], tables["vip"]["inherits"]) == (False, ["public.users"])
    assert tables["event_3"]["kind"] == "partitioned"
    assert {item["inherited"] for item in content["foreign_keys"]} == {True, False}
    assert len(content["order"]) == len(tables)


def test_reverse_turns_only_the_order() -> None:
    content, turned = load(SHOP), load(replace(SHOP, reverse=True))
    assert turned.pop("order") == content.pop("order")[::-1]
    assert turned == content


def test_only_the_cycles_has_only_their_tables_and_keys() -> None:
    content = load(replace(SHOP, cycles_only=True))
    assert [item["name"] for item in content["tables"]] == ["branch", "genre", "staff"]
    assert len(content["foreign_keys"]) == 3


def test_every_id_leads_to_a_table_also_with_hostile_names_and_the_names_are_exact() -> None:
    whole = hostile()
    text = export.render_json(Picture(whole=whole))
    content = json.loads(text)
    assert text.isascii()
    assert text.endswith("}\n")
    names = {item["id"]: QualifiedName(item["schema"], item["name"]) for item in content["tables"]}
    assert list(names.values()) == [item.name for item in whole.tables]
    assert {names[item["table"]] for item in content["foreign_keys"]} == set(names.values())
    assert [names[item["referenced"]] for item in content["foreign_keys"]] == [k.referenced for k in whole.foreign_keys]
    assert set(content["order"]) == set(content["cycles"][0]["tables"]) == set(names)


def test_the_documentation_names_every_key() -> None:
    content = load(SHOP)
    keys = set(content) | set(content["database"])
    for group in ("tables", "foreign_keys", "sequences", "cycles", "models_without_table"):
        keys |= set(content[group][0])
    keys |= set(content["sequences"][0]["used_by"][0])
    assert export.__doc__ is not None
    assert keys <= set(re.findall(r"``(\w+)``", export.__doc__))


@pytest.mark.parametrize("whole", [library(), partitioned(), hostile()])
def test_the_text_depends_on_the_schema_alone(whole: Schema) -> None:
    assert export.render_json(Picture(whole=whole)) == export.render_json(Picture(whole=replace(whole)))
