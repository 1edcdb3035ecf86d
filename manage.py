#!/usr/bin/env python
"""Run a command of the test project."""

import os
import sys

from django.core.management import execute_from_command_line

from testproject.databases import DATABASE_VARIABLE, postgresql_is_missing
from testproject.embedded import EmbeddedPostgresError


def main() -> None:
    """Run the command. Where there is no PostgreSQL the project goes on with SQLite; only tests do not."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    try:
        if sys.argv[1:2] != ["test"] and postgresql_is_missing():
            sys.stderr.write("No PostgreSQL was found: going on with SQLite (testproject.sqlite3).\n")
            os.environ[DATABASE_VARIABLE] = "sqlite"
        execute_from_command_line(sys.argv)
    except EmbeddedPostgresError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
