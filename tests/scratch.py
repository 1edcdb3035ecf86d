"""A scratch database on the server that the tests run on: made for one test, owned by an ordinary role, dropped after it."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings
from django.db import connections
from psycopg import sql

from testdb_app import guard
from testdb_app.graph import DependencyGraph
from testdb_app.resetter import Resetter
from testdb_app.schema import QualifiedName, Schema
from testproject.embedded import superuser_dsn

_numbers = itertools.count(1)


def default_parameters() -> dict[str, Any]:
    """Return libpq's parameters of the default alias, which is connected as an ordinary role."""
    # Starts the embedded server, where that is what the tests run on.
    parameters = connections["default"].get_connection_params()
    return {name: parameters[name] for name in ("host", "port", "user", "password") if parameters.get(name)}


@contextmanager
def connect(dbname: str, **parameters: Any) -> Iterator[psycopg.Connection[Any]]:
    """Connect as the ordinary role of the default alias, with autocommit."""
    with psycopg.connect(dbname=dbname, autocommit=True, **{**default_parameters(), **parameters}) as connection:
        yield connection


@contextmanager
def connect_as_superuser(dbname: str) -> Iterator[psycopg.Connection[Any]]:
    """Connect as a superuser: to the embedded server, or as the user of DATABASE_URL if that is one."""
    if os.environ.get("DATABASE_URL"):
        with connect(dbname) as connection:
            yield connection
        return
    with psycopg.connect(superuser_dsn(dbname), autocommit=True) as connection:
        yield connection


def _forget(alias: str) -> None:
    """Take an alias out of the settings, and out of what the guard knows of them: the next test's has the same name."""
    del connections.settings[alias]
    guard._configured_names.pop(alias, None)


class ScratchDatabase:
    """A database of its own, known to Django under the alias ``scratch`` (or another one)."""

    def __init__(self, alias: str = "scratch", *, template: str | None = None) -> None:
        self.alias = alias
        self.name = f"scratch_{os.getpid()}_{next(_numbers)}"
        self.template = template

    def create(self) -> None:
        template = sql.SQL(" TEMPLATE {}").format(sql.Identifier(self.template)) if self.template else sql.SQL("")
        connections["default"].ensure_connection()
        with connect("postgres") as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.name)) + template)
        self.register(self.alias)

    def register(self, alias: str, **changes: Any) -> None:
        """Make the database known to Django under *alias*, with the default alias's other settings."""
        configuration = {**connections.settings["default"], "NAME": self.name, "OPTIONS": {}, **changes}
        configuration["TEST"] = {**configuration["TEST"], "NAME": None}
        connections.settings[alias] = configuration
        self._aliases = {*getattr(self, "_aliases", ()), alias}

    def drop(self) -> None:
        for alias in self._aliases:
            connection = connections[alias]
            connection.close()
            if hasattr(connection, "close_pool"):
                connection.close_pool()
            del connections[alias]
            _forget(alias)
        # An autovacuum worker may be in it, which only a superuser may end.
        with connect_as_superuser("postgres") as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self.name)))

    @property
    def connection(self) -> Any:
        """Django's connection."""
        return connections[self.alias]

    def connect(self, **parameters: Any) -> Any:
        """Open another session of the same ordinary role (a context manager)."""
        return connect(self.name, **parameters)

    def superuser(self) -> Any:
        """Open a superuser's session (a context manager)."""
        return connect_as_superuser(self.name)

    def execute(self, statements: str) -> None:
        """Run statements in a session of their own, committed."""
        with self.connect() as connection:
            connection.execute(statements)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query in a session of its own."""
        with self.connect() as connection:
            return connection.execute(statement).fetchall()

    def value(self, statement: str) -> Any:
        """Return the one value of a query."""
        return self.query(statement)[0][0]

    def count(self, table: str) -> int:
        """Count the rows of a table, its name as SQL writes it."""
        return int(self.value(f"SELECT count(*) FROM {table}"))

    def resetter(self, **options: Any) -> Resetter:
        """Make a resetter that is allowed to reset this database."""
        return Resetter(self.alias, **{"allow_database": self.name, **options})

    def reset(self, **options: Any) -> Any:
        """Reset this database with a new resetter."""
        return self.resetter(**options).reset()

    @contextmanager
    def in_tablespace(self) -> Iterator[None]:
        """Have it in a tablespace of its own: there its role may make tables, and not in pg_default."""
        with connect_as_superuser("postgres") as connection:
            connection.execute("SET allow_in_place_tablespaces = on")
            connection.execute(f"CREATE TABLESPACE {self.name} LOCATION ''")
            connection.execute(f"ALTER DATABASE {self.name} SET TABLESPACE {self.name}")
            yield
            self.connection.close()
            connection.execute(f"ALTER DATABASE {self.name} SET TABLESPACE pg_default")
            connection.execute(f"DROP TABLESPACE {self.name}")

    def schema(self) -> Schema:
        """Read the schema."""
        return self.resetter().backend.read_schema(self.connection)

    def graph(self) -> DependencyGraph[QualifiedName]:
        """Read the schema and make the graph of it."""
        return DependencyGraph.from_schema(self.schema())

    def sequence_state(self, name: str) -> tuple[int, bool]:
        """Return (last_value, is_called) of a sequence, its name as SQL writes it."""
        return tuple(self.query(f"SELECT last_value, is_called FROM {name}")[0])  # type: ignore[return-value]


def is_postgresql() -> bool:
    """Whether this run is on PostgreSQL."""
    engine = settings.DATABASES["default"]["ENGINE"]
    return "sqlite" not in engine


class ScratchFile:
    """A SQLite file with the interface of :class:`ScratchDatabase`, for the tests that every backend must pass."""

    def __init__(self, path: Path, alias: str = "scratch") -> None:
        self.alias = alias
        self.path = path
        self.name = str(path)

    def create(self) -> None:
        default = connections.settings["default"]
        connections.settings[self.alias] = {
            **default,
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": self.name,
            "OPTIONS": {},
            "TEST": {**default["TEST"], "NAME": None},
        }

    def drop(self) -> None:
        connections[self.alias].close()
        del connections[self.alias]
        _forget(self.alias)

    @property
    def connection(self) -> Any:
        """Django's connection."""
        return connections[self.alias]

    def execute(self, statements: str) -> None:
        """Run statements over a connection of their own, committed."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(f"PRAGMA foreign_keys = ON; {statements}")
            connection.commit()

    def count(self, table: str) -> int:
        """Count the rows of a table, its name as SQL writes it."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def resetter(self, **options: Any) -> Resetter:
        """Make a resetter that is allowed to reset this database."""
        return Resetter(self.alias, **{"allow_database": self.name, **options})

    def reset(self, **options: Any) -> Any:
        """Reset this database with a new resetter."""
        return self.resetter(**options).reset()
