"""Throw-away Django projects: what an installation does can only be seen in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from textwrap import dedent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = """
SECRET_KEY = "of a test"
USE_TZ = True
INSTALLED_APPS = {installed_apps}
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {database!r}}}}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project with a SQLite database of its own, which stays from one run to the next."""

    directory: Path

    def run(self, source: str) -> subprocess.CompletedProcess[str]:
        """Run Python code after `django.setup()`, with `call_command` at hand and warnings as errors."""
        prelude = "import django; django.setup(); from django.core.management import call_command\n"
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", prelude + dedent(source)],
            env=os.environ
            | {
                "DJANGO_SETTINGS_MODULE": "settings",
                "PYTHONPATH": os.pathsep.join([str(self.directory), *sys.path]),
            },
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def ask(self, source: str) -> object:
        """Run Python code that prints one JSON value as its last line; return the value."""
        result = self.run("import json\n" + dedent(source))
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])


def make_project(directory: Path, *, installed_apps: list[str]) -> Project:
    (directory / "settings.py").write_text(
        SETTINGS.format(installed_apps=installed_apps, database=str(directory / "db.sqlite3"))
    )
    return Project(directory=directory)
