"""What Django's own introspection tells of a database: tables, single-column foreign keys, sequences.

Tables have no schema here: Django names them without. The token is a hash of the tables, their relations and their
sequences; unlike other backends' it misses a change of triggers or of on-delete actions, and costs two queries a table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from testdb_app.backends.base import DatabaseIdentity, Observation
from testdb_app.baseline_state import Baseline
from testdb_app.schema import ForeignKey, LeftOut, QualifiedName, Schema, SequenceUse, Table
from testdb_app.schema import SequenceInfo as SequenceValue

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

LIVE_NAMES = {
    "cockroachdb": "SELECT current_database()",
    "microsoft": "SELECT DB_NAME()",
    "mssql": "SELECT DB_NAME()",
    "mysql": "SELECT DATABASE()",
    # What Django makes and drops for tests on Oracle is a user, not a database.
    "oracle": "SELECT SYS_CONTEXT('USERENV', 'SESSION_USER') FROM DUAL",
}

_QUOTES = frozenset('"`[]')


class _Structure(NamedTuple):
    """What one look at the structure found, by table; ``unquotable`` tables have a name that Django cannot quote."""

    relations: dict[str, dict[str, tuple[str, str]]]
    sequences: dict[str, list[str]]
    unquotable: list[str]

    @property
    def token(self) -> str:
        content = [sorted(self.relations.items()), sorted(self.sequences.items()), self.unquotable]
        return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()


def qualify(table: str) -> QualifiedName:
    """Return the name of a table; it has no schema."""
    return QualifiedName("", table)


def identify(connection: BaseDatabaseWrapper) -> DatabaseIdentity:
    """Ask the live connection where it leads, where the vendor's way to ask is known; the settings otherwise."""
    settings = connection.settings_dict
    is_oracle = connection.vendor == "oracle"
    configured = str(settings["USER"]).upper() if is_oracle else str(settings["NAME"])
    name = configured
    if connection.vendor in LIVE_NAMES:
        with connection.cursor() as cursor:
            cursor.execute(LIVE_NAMES[connection.vendor])
            name = str(cursor.fetchone()[0])
    where = f"{settings.get('HOST') or 'the local host'}" + (f":{settings['PORT']}" if settings.get("PORT") else "")
    return DatabaseIdentity(
        alias=connection.alias,
        vendor=connection.vendor,
        configured=configured,
        name=name,
        server=f"{connection.display_name} on {where}",
        user=str(settings.get("USER") or ""),
        is_live=connection.vendor in LIVE_NAMES,
    )


def read_schema(connection: BaseDatabaseWrapper) -> Schema:
    """Read the map as far as Django tells it. Two queries a table, not from one snapshot."""
    with connection.cursor() as cursor:
        structure = _read_structure(connection, cursor)
    tables = sorted(structure.relations)
    keys = [
        ForeignKey(
            name=f"{table}_{column}_fk",
            table=qualify(table),
            columns=(column,),
            referenced=qualify(referenced),
            referenced_columns=(referenced_column,),
        )
        for table, relations in structure.relations.items()
        for column, (referenced_column, referenced) in relations.items()
        if referenced in structure.relations
    ]
    return Schema(
        vendor=connection.vendor,
        tables=tuple(Table(name=qualify(table)) for table in tables),
        foreign_keys=tuple(sorted(keys, key=lambda key: (key.table, key.name))),
        sequences=tuple(_sequence(table, columns) for table, columns in sorted(structure.sequences.items())),
        left_out=tuple(
            LeftOut(name=qualify(table), reason="Django cannot quote its name") for table in structure.unquotable
        ),
        search_path=("",),
        token=structure.token,
    )


def observe(connection: BaseDatabaseWrapper, *, lock_timeout: float, baseline: Baseline | None = None) -> Observation:
    """Look where rows are. Whether a sequence has moved cannot be asked, so that all are said to have.

    Django has no way to bound a lock wait, so that *lock_timeout* counts for nothing here.
    """
    with connection.cursor() as cursor:
        structure = _read_structure(connection, cursor)
        query = (
            f"SELECT CASE WHEN EXISTS (SELECT 1 FROM {{}}) THEN 1 ELSE 0 END{connection.features.bare_select_suffix}"
        )
        filled = [table for table in sorted(structure.relations) if _ask(connection, cursor, query, table)]
    return Observation(
        identity=identify(connection),
        token=structure.token,
        sizes={qualify(table): 0 for table in filled},
        states={qualify(table): None for table in structure.sequences},
    )


def count_rows(connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> dict[QualifiedName, int]:
    """Count the rows of each of *tables*. One query for each."""
    with connection.cursor() as cursor:
        return {name: _ask(connection, cursor, "SELECT COUNT(*) FROM {}", name.name) for name in tables}


def count_references(
    connection: BaseDatabaseWrapper, keys: Sequence[ForeignKey], baseline: Baseline | None = None
) -> tuple[int, ...]:
    """Count, for each key, the rows of its referencing table that refer to some row. One query for each."""
    query = "SELECT COUNT(*) FROM {} WHERE {} IS NOT NULL"
    with connection.cursor() as cursor:
        return tuple(_ask(connection, cursor, query, key.table.name, *key.columns) for key in keys)


def _ask(connection: BaseDatabaseWrapper, cursor: CursorWrapper, query: str, *names: str) -> int:
    cursor.execute(query.format(*map(connection.ops.quote_name, names)))
    return int(cursor.fetchone()[0])


def _read_structure(connection: BaseDatabaseWrapper, cursor: CursorWrapper) -> _Structure:
    introspection = connection.introspection
    names = introspection.table_names(cursor)
    # Django's quote_name() does not double a quote inside a name.
    tables = [name for name in names if not _QUOTES & set(name)]
    relations: dict[str, dict[str, tuple[str, str]]] = {}
    sequences: dict[str, list[str]] = {}
    for table in tables:
        # Django 6.1 adds the on-delete action to the pair.
        found: dict[str, Any] = introspection.get_relations(cursor, table)
        relations[table] = {column: (to[0], to[1]) for column, to in sorted(found.items())}
        columns = sorted(str(sequence["column"]) for sequence in introspection.get_sequences(cursor, table))
        if columns:
            sequences[table] = columns
    return _Structure(relations, sequences, sorted(set(names) - set(tables)))


def _sequence(table: str, columns: list[str]) -> SequenceValue:
    uses = tuple(SequenceUse(table=qualify(table), column=column, how="identity") for column in columns)
    return SequenceValue(name=qualify(table), uses=uses)
