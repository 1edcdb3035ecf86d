"""A baseline as JSON's types, the form in which a database keeps it, and back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testdb_app.exceptions import BaselineError
from testdb_app.schema import QualifiedName
from testdb_app.states import Baseline, BaselineColumn, BaselineTable, SequenceState

_VERSION = 2


def to_document(baseline: Baseline) -> dict[str, Any]:
    """Return *baseline* as JSON's types."""
    return {
        "version": _VERSION,
        "captured_at": baseline.captured_at,
        "tables": [
            {
                "name": [table.name.schema, table.name.name],
                "copy": [table.copy.schema, table.copy.name],
                "rows": table.rows,
                "columns": [
                    [c.name, c.is_generated, c.is_fixed, c.type, c.kept_as, c.collation] for c in table.columns
                ],
                "key": list(table.key),
                "operators": list(table.operators),
            }
            for table in baseline.tables.values()
        ],
        "sequences": [
            [name.schema, name.name, state.last_value, state.is_called] for name, state in baseline.sequences.items()
        ],
        "excluded": sorted([name.schema, name.name] for name in baseline.excluded),
        "migrations": [[name.schema, name.name] for name in baseline.migrations],
        "shape": dict(baseline.shape),
    }


def from_document(document: Mapping[str, Any], *, where: str = "this database") -> Baseline:
    """Return the baseline of a document. Raises :class:`BaselineError` for one of another version, or a damaged one.

    *where* names the database for the message.
    """
    try:
        return _parse(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BaselineError(
            f"The document of the baseline in {where} is damaged ({type(error).__name__}: {error}). Nothing was changed. "
            "Capture it again: resetdb --recapture, or capture_baseline(replace=True)."
        ) from error


def _parse(document: Mapping[str, Any]) -> Baseline:
    if document.get("version") != _VERSION:
        raise BaselineError(
            f"The baseline in this database was captured by another version of testdb_app (format {document.get('version')}, "
            f"this one reads {_VERSION}). Nothing was changed. Capture it again: resetdb --recapture."
        )
    tables = [
        BaselineTable(
            name=QualifiedName(*table["name"]),
            copy=QualifiedName(*table["copy"]),
            rows=table["rows"],
            columns=tuple(
                BaselineColumn(name=n, is_generated=g, is_fixed=f, type=t, kept_as=k, collation=c)
                for n, g, f, t, k, c in table["columns"]
            ),
            key=tuple(table["key"]),
            operators=tuple(table["operators"]),
        )
        for table in document["tables"]
    ]
    return Baseline(
        captured_at=document["captured_at"],
        tables={table.name: table for table in tables},
        sequences={
            QualifiedName(schema, name): SequenceState(last_value=value, is_called=called)
            for schema, name, value, called in document["sequences"]
        },
        excluded=frozenset(QualifiedName(*name) for name in document["excluded"]),
        migrations=tuple(QualifiedName(*name) for name in document["migrations"]),
        shape=document["shape"],
    )
