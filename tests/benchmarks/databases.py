"""Databases for the candidates: one with the tables is made once, and each candidate has a copy of its own.

One candidate's TRUNCATE makes every session of its database forget what it knows of the tables, hence the copies.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
from django.db import connections

from testproject.embedded import ROLE, SUPERUSER
from tests.benchmarks.schemas import make_tables
from tests.scratch import ScratchDatabase, connect, connect_as_superuser

_numbers = itertools.count()


class BenchmarkDatabase(ScratchDatabase):
    """A database under Django's own engine; on the server whose socket is in the folder *host*, if there is one."""

    def __init__(self, *, template: str | None = None, host: str | None = None) -> None:
        super().__init__(f"benchmark{next(_numbers)}", template=template)
        self.host = host
        self.server = {} if host is None else {"host": host, "port": "5432", "user": ROLE, "password": None}

    def create(self) -> None:
        connections["default"].ensure_connection()
        # To copy files is faster for thousands of tables than to log every page.
        template = f" TEMPLATE {self.template} STRATEGY file_copy" if self.template else ""
        with connect("postgres", **self.server) as connection:
            connection.execute(f"CREATE DATABASE {self.name}{template}")
        self.register(self.alias)

    def register(self, alias: str, **changes: Any) -> None:
        # The embedded server's engine looks after the server at every connection, which nobody else has to pay for.
        if connections.settings["default"]["ENGINE"] == "testproject.embedded":
            changes = {"ENGINE": "django.db.backends.postgresql", **changes}
        if self.host is not None:
            changes = {"HOST": self.host, "PORT": "5432", "USER": ROLE, "PASSWORD": "", **changes}
        super().register(alias, **changes)

    def drop(self) -> None:
        if self.host is None:
            super().drop()
            return
        for alias in self._aliases:  # the database goes with its server
            connections[alias].close()
            del connections[alias]
            del connections.settings[alias]

    def connect(self, **parameters: Any) -> Any:
        return super().connect(**{**self.server, **parameters})

    @contextmanager
    def superuser(self) -> Iterator[psycopg.Connection[Any]]:
        if self.host is None:
            with connect_as_superuser(self.name) as connection:
                yield connection
        else:
            with connect(self.name, **{**self.server, "user": SUPERUSER}) as connection:
                yield connection


class Databases:
    """The databases of a run; templates stay until the end of it, copies until the end of their case."""

    def __init__(self) -> None:
        self._templates: dict[tuple[int, Any, str | None], BenchmarkDatabase] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Databases:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def copies(
        self, *, tables: int, fill: Callable[[BenchmarkDatabase], None] | None = None, host: str | None = None
    ) -> Iterator[Callable[[], BenchmarkDatabase]]:
        """Yield a function that makes a copy of the database with so many tables, and half as many again foreign keys."""
        template = self._template(tables, fill, host)
        with ExitStack() as stack:

            def make() -> BenchmarkDatabase:
                return _made(stack, BenchmarkDatabase(template=template.name, host=host))

            yield make

    def _template(self, tables: int, fill: Any, host: str | None) -> BenchmarkDatabase:
        key = (tables, fill, host)
        if key not in self._templates:
            database = _made(self._stack, BenchmarkDatabase(host=host))
            make_tables(database, tables=tables, keys=tables * 3 // 2)
            if fill is not None:
                fill(database)
            self._templates[key] = database
        return self._templates[key]


def _made(stack: ExitStack, database: BenchmarkDatabase) -> BenchmarkDatabase:
    database.create()
    stack.callback(database.drop)
    return database
