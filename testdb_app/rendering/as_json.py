"""``json``: the map for machines. ASCII only, so that it survives every terminal and pipe.

The shape is stable; a change that breaks a reader raises ``schema_version``. Tables and sequences have an
``id``, their qualified name quoted as in SQL where it needs to be, by which everything else names them;
``schema`` and ``name`` are the bare text. Lists are sorted by name, except for ``order`` and the columns of
a key.

- ``schema_version``: 1.
- ``database``: ``alias``, ``name`` (where the connection leads), ``vendor`` ("postgresql", "sqlite", …).
- ``tables``: ``id``, ``schema``, ``name``, ``kind`` ("ordinary", "partitioned", "virtual"), ``level`` (0:
  references nothing but itself), ``models`` (labels; empty if no model knows the table), ``inherits`` (ids
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testdb_app.rendering.cycles import Cycle
    from testdb_app.rendering.picture import Picture
    from testdb_app.schema import ForeignKey, SequenceInfo, Table

SCHEMA_VERSION = 1


def render(picture: Picture) -> str:
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
