"""A SQLite database of a test's own, through Django's own wrapper, and a reset of it by the backend alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from django.db.utils import ConnectionHandler

from testdb_app.backends.base import Action, Script, Step
from testdb_app.backends.sqlite import BACKEND
from testdb_app.graph import DependencyGraph
from testdb_app.schema import ForeignKey, QualifiedName, Schema


class SQLiteDatabase:
    """A connection to *name*; every helper works on that connection, with Django's settings of it."""

    def __init__(self, name: str | Path, **settings: Any) -> None:
        configuration = {"ENGINE": "django.db.backends.sqlite3", "NAME": name, **settings}
        self.connection = ConnectionHandler({"default": configuration})["default"]
        self.connection.ensure_connection()

    def close(self) -> None:
        # Django's close() keeps an in-memory database open.
        if self.connection.connection is not None:
            self.connection.connection.close()

    def run(self, *statements: str) -> None:
        """Execute statements one by one, literally."""
        with self.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def value(self, query: str) -> Any:
        return self.rows(query)[0][0]

    def count(self, table: str) -> int:
        return int(self.value(f"SELECT COUNT(*) FROM {table}"))

    def dump(self) -> list[tuple[Any, ...]]:
        """All schema objects of all databases with their text; triggers on DELETE in the order that they fire in."""
        found: list[tuple[Any, ...]] = []
        for _, name, _ in self.rows("PRAGMA database_list"):
            catalog = "sqlite_temp_master" if name == "temp" else '"' + name.replace('"', '""') + '".sqlite_master'
            rows = self.rows(f"SELECT type, name, tbl_name, sql FROM {catalog} ORDER BY rowid")
            firing = [row for row in rows if row[0] == "trigger" and " DELETE ON" in row[3]]
            found += [(name, *row) for row in firing]
            found += sorted((name, *map(str, row)) for row in rows if row not in firing)
        return found

    def schema(self) -> Schema:
        return BACKEND.read_schema(self.connection)

    def table(self, name: str, schema: str = "main") -> QualifiedName:
        return QualifiedName(schema, name)

    def keys(self, *, to: Iterable[str]) -> tuple[ForeignKey, ...]:
        """The foreign keys to the named tables, from any other."""
        names = set(to)
        return tuple(
            key for key in self.schema().foreign_keys if key.referenced.name in names and key.table.name not in names
        )

    def steps(self, only: Sequence[str] = ()) -> tuple[Step, ...]:
        """What a plan would do: all tables with rows (or those named), and the sequences that moved."""
        schema, seen = self.schema(), BACKEND.observe(self.connection, lock_timeout=5)
        chosen = {name for name in seen.sizes if not only or name.name in only}
        groups = DependencyGraph.from_schema(schema).deletion_groups()
        deletes = [tuple(name for name in group if name in chosen) for group in groups]
        restarts = sorted(name for name in seen.moved if not only or name.name in only)
        return (
            *(Step(action=Action.DELETE, names=names) for names in deletes if names),
            *(Step(action=Action.RESTART, names=(name,)) for name in restarts),
        )

    def script(
        self,
        only: Sequence[str] = (),
        *,
        checks: Sequence[ForeignKey] = (),
        lock_timeout: float = 0.2,
        within_transaction: bool = False,
    ) -> Script:
        schema = self.schema()
        return BACKEND.script(
            self.connection,
            schema,
            self.steps(only),
            checks=checks,
            verify=[] if only else [table.name for table in schema.tables],
            lock_timeout=lock_timeout,
            within_transaction=within_transaction,
        )

    def reset(self, only: Sequence[str] = (), **options: Any) -> dict[str, int]:
        """Reset by the backend and return the rows removed by bare name."""
        script = self.script(only, **options)
        removed = BACKEND.run(self.connection, script, within_transaction=options.get("within_transaction", False))
        return {name.name: rows for name, rows in removed.items()}


_others: list[sqlite3.Connection] = []


def other_connection(path: str | Path) -> sqlite3.Connection:
    """Another connection, outside of Django, that waits for nothing; it is closed after the test."""
    _others.append(sqlite3.connect(path, isolation_level=None, timeout=0, uri=True, check_same_thread=False))
    return _others[-1]


def close_other_connections() -> None:
    while _others:
        _others.pop().close()
