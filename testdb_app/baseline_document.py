"""A baseline as JSON's types, the form in which a database keeps it, and back. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from testdb_app.exceptions import BaselineDamagedError, BaselineFormatError
from testdb_app.schema import QualifiedName
from testdb_app.states import Baseline, BaselineColumn, BaselineTable, SequenceState

_VERSION = 2
_EARLIER = 1
"""The format without checksums: a copy has the columns of its table, of the types of that time."""


def to_document(baseline: Baseline) -> dict[str, Any]:
    """Return *baseline* as JSON's types, with a digest of it all."""
    document = {
        "version": _VERSION,
        "captured_at": baseline.captured_at,
        "tables": [
            {
                "name": [table.name.schema, table.name.name],
                "copy": [table.copy.schema, table.copy.name],
                "rows": table.rows,
                "columns": [
                    [c.name, c.is_generated, c.is_fixed, c.type, c.kept_as, c.collation, c.is_exact]
                    for c in table.columns
                ],
                "checksum": table.checksum,
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
    return {**document, "digest": _digest(document)}


def _digest(document: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in document.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def damaged(where: str, faults: Iterable[str]) -> BaselineDamagedError:
    """Return the error for a baseline with these *faults*, in the database that *where* names."""
    changes = list(faults)
    listed = "; ".join(changes[:5]) + (f"; and {len(changes) - 5} more" if len(changes) > 5 else "")
    return BaselineDamagedError(
        f"The baseline of {where} is damaged: {listed}. Nothing was changed. Have the database made anew (--create-db, or "
        "without --keepdb), or bring it to the state that is meant and capture that: resetdb --recapture, or "
        "capture_baseline(replace=True).",
        changes=changes,
    )


def from_document(document: Mapping[str, Any], *, where: str = "this database") -> Baseline:
    """Return the baseline of a document. Raises :class:`BaselineFormatError` for one of another version.

    *where* names the database for the message. Raises :class:`BaselineDamagedError` for a document that somebody has edited.
    """
    try:
        baseline = _parse(document, where)
        if document["digest"] == _digest(document):
            return baseline
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(where, [f"its document cannot be read ({type(error).__name__}: {error})"]) from error
    raise damaged(where, ["its document was edited"])


def _parse(document: Mapping[str, Any], where: str) -> Baseline:
    if document.get("version") != _VERSION:
        raise BaselineFormatError(
            f"The baseline in {where} was captured by another version of testdb_app (format {document.get('version')}, this "
            f"one reads {_VERSION}). Nothing was changed. Capture it again: resetdb --recapture."
        )
    tables = [
        BaselineTable(
            name=QualifiedName(*table["name"]),
            copy=QualifiedName(*table["copy"]),
            rows=table["rows"],
            columns=tuple(
                BaselineColumn(name=n, is_generated=g, is_fixed=f, type=t, kept_as=k, collation=c, is_exact=e)
                for n, g, f, t, k, c, e in table["columns"]
            ),
            checksum=table["checksum"],
            key=tuple(table["key"]),
            operators=tuple(table["operators"]),
        )
        for table in document["tables"]
    ]
    return _assemble(document, tables)


def from_earlier_document(document: Mapping[str, Any], *, where: str) -> Baseline:
    """Return the baseline of a document of the format before this one, to compare what is there with its copies.

    Raises :class:`BaselineFormatError` for a document that is none.
    """
    try:
        if document["version"] == _EARLIER:
            tables = [
                BaselineTable(
                    name=QualifiedName(*table["name"]),
                    copy=QualifiedName(*table["copy"]),
                    rows=table["rows"],
                    columns=tuple(BaselineColumn(name=n, is_generated=g, is_fixed=f) for n, g, f in table["columns"]),
                    key=tuple(table["key"]),
                )
                for table in document["tables"]
            ]
            return _assemble(document, tables)
        why = f"its format is {document['version']}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = f"its document cannot be read ({type(error).__name__}: {error})"
    raise not_proved(where, [why])


def not_proved(where: str, changes: Iterable[str]) -> BaselineFormatError:
    """Return the error for a baseline of another format in a database that may not be as it was captured."""
    found = list(changes)
    listed = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
    return BaselineFormatError(
        f"The baseline of {where} was captured by another version of testdb_app, and what is there now may hold rows of an "
        f"earlier run: {listed}. Nothing was changed. Have the database made anew (--create-db, or without --keepdb), or "
        "bring it to the state that is meant and capture that: resetdb --recapture.",
        changes=found,
    )


def _assemble(document: Mapping[str, Any], tables: Iterable[BaselineTable]) -> Baseline:
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
