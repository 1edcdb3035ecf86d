"""Running ``resetdb`` in this process, with what it reads, writes and ends with."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from django.core.management import CommandError, call_command

from testdb_app.resetter import Resetter
from tests.scratch import ScratchDatabase

# django_site has a model of an installed app; the others have none.
ROWS = """
CREATE TABLE shelf (id bigserial PRIMARY KEY, name text NOT NULL);
CREATE TABLE item (id bigserial PRIMARY KEY, shelf_id bigint NOT NULL REFERENCES shelf);
CREATE TABLE django_site (id serial PRIMARY KEY, domain text, name text);
CREATE TABLE django_migrations (id bigserial PRIMARY KEY, name text);
CREATE TABLE unused (id bigserial PRIMARY KEY);
INSERT INTO shelf (name) VALUES ('one'), ('two');
INSERT INTO item (shelf_id) VALUES (1), (2), (2);
INSERT INTO django_site (domain) VALUES ('example.com');
INSERT INTO django_migrations (name) VALUES ('0001_initial')
"""

SEQUENCES = ("django_migrations", "django_site", "item", "shelf", "unused")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. The milliseconds in ``stdout`` are masked."""

    stdout: str
    stderr: str
    status: int = 0
    error: str = ""


def resetdb(*arguments: str, answer: str = "", alias: str = "scratch", **options: Any) -> Outcome:
    """Run the command; *answer* is what stands on its standard input."""
    stdout, stderr, status, error = io.StringIO(), io.StringIO(), 0, ""
    with patch.object(sys, "stdin", io.StringIO(answer)):
        try:
            call_command("resetdb", "--database", alias, *arguments, stdout=stdout, stderr=stderr, **options)
        except CommandError as caught:
            status, error = caught.returncode, str(caught)
    shown = re.sub(r"in [\d,]+ ms", "in N ms", stdout.getvalue())
    return Outcome(stdout=shown, stderr=stderr.getvalue(), status=status, error=error)


def content(database: ScratchDatabase) -> dict[str, Any]:
    """Return the rows of every table and where every sequence is."""
    rows = {name: database.query(f"SELECT * FROM {name} ORDER BY id") for name in SEQUENCES}
    return {**rows, **{f"{name}_id_seq": database.sequence_state(f"{name}_id_seq") for name in SEQUENCES}}


def place(database: ScratchDatabase, alias: str = "scratch") -> str:
    """Return what the command says of where it leads."""
    return f'"{database.name}" (alias "{alias}", {Resetter(alias).identify().server})'
