"""A process whose children reset a database and kill themselves on the way, at the point that each line of input names.

Input and output are a line of JSON each. It hooks into psycopg, not into the package: whatever the package sends is
counted, the statements that Django sends when it connects too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import django
import psycopg
from django.db import connections

MOMENTS = ("before it is sent", "after it is sent", "after the answer")


class Death:
    """Kills this process at one point of the conversation; else counts the statements of each message."""

    def __init__(self, message: int | None, moment: str | int | None) -> None:
        self.message = message
        self.moment = moment
        self.statements: list[int] = []
        self.execute = psycopg.Cursor.execute

    def install(self) -> None:
        death = self

        def execute(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
            return death.pass_on(cursor, query, *args, **options)

        psycopg.Cursor.execute = execute  # type: ignore[method-assign]

    def pass_on(self, cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
        parts = query.split(";\n") if isinstance(query, str) else [query]
        self.statements.append(len(parts))
        if len(self.statements) - 1 != self.message:
            return self.execute(cursor, query, *args, **options)
        if isinstance(self.moment, int):
            for part in parts[: self.moment]:
                self.execute(cursor, part, *args, **options)
        elif self.moment == "after it is sent":
            cursor.connection.pgconn.send_query(query.encode())
            while cursor.connection.pgconn.flush():
                pass
        elif self.moment == "after the answer":
            self.execute(cursor, query, *args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        return None


def reset(name: str, exclude: list[str], message: int | None, moment: str | int | None) -> list[int]:
    """Reset the database; return the number of statements of each message, if still alive."""
    from testdb_app.resetter import Resetter

    connections.settings["default"]["NAME"] = name
    death = Death(message, moment)
    death.install()
    Resetter("default", exclude=exclude, allow_database=name, once=True).reset()
    return death.statements


def main() -> None:
    """Answer line by line: how the child ended, and what it counted."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    django.setup()
    for line in sys.stdin:
        reader, writer = os.pipe()
        if (pid := os.fork()) == 0:
            status = 1
            try:
                os.write(writer, json.dumps(reset(**json.loads(line))).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        _, status = os.waitpid(pid, 0)
        with os.fdopen(reader) as answer:
            print(json.dumps([os.waitstatus_to_exitcode(status), json.loads(answer.read() or "null")]), flush=True)


if __name__ == "__main__":
    main()
