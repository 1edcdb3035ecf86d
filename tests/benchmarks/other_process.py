"""A process of its own, with a session of its own in each database that it is told to work in.

A module of its own, because that process imports it, without Django.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import psycopg

_sessions: dict[str, psycopg.Connection[Any]] = {}


class OtherProcess:
    """Sends statements from another process, each committed (a context manager, whose end closes the sessions).

    *parameters* are libpq's, without the name of the database.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._parameters = parameters
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._observer = psycopg.connect(dbname="postgres", autocommit=True, **parameters)

    def __enter__(self) -> OtherProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._observer.close()
        self._pool.shutdown()

    def query(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a statement; the session is opened if there is none, and stays."""
        return self._pool.submit(_query, {**self._parameters, "dbname": database}, statement).result()

    def leave(self, database: str) -> None:
        """Close the session, and wait until the server has ended it."""
        pid = self._pool.submit(_leave, database).result()
        while self._observer.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() is not None:
            time.sleep(0.001)


def _query(parameters: dict[str, Any], statement: str) -> list[tuple[Any, ...]]:
    if parameters["dbname"] not in _sessions:
        _sessions[parameters["dbname"]] = psycopg.connect(autocommit=True, **parameters)
    return _sessions[parameters["dbname"]].execute(statement, prepare=False).fetchall()


def _leave(database: str) -> int:
    session = _sessions.pop(database)
    pid = session.info.backend_pid
    session.close()
    return pid
