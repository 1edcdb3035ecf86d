"""A project in one file with a SQLite database, run as a process of its own: exit codes, pipes, encodings, speed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

MANAGE = """
import sys
from django.conf import settings
from django.core.management import execute_from_command_line
settings.configure(
    INSTALLED_APPS=["testdb_app"],
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {name!r}}}}},
)
execute_from_command_line(sys.argv)
"""


@dataclass(frozen=True)
class BareProject:
    """The project; ``database`` is the path of its database, which nothing makes unless :meth:`execute` does."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "shop.sqlite3"

    def execute(self, script: str) -> None:
        """Run SQL on the database."""
        connection = sqlite3.connect(self.database)
        with connection:
            connection.executescript(f"BEGIN;{script};COMMIT;")
        connection.close()

    def command(self, *arguments: str) -> list[str]:
        manage = self.folder / "manage.py"
        manage.write_text(MANAGE.format(name=str(self.database)))
        return [sys.executable, str(manage), "showdeps", *arguments]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[Any]:
        """Run showdeps and return what it printed, as bytes."""
        return subprocess.run(
            self.command(*arguments), capture_output=True, check=False, env={**os.environ, **environment}
        )
