"""Loading the dumps of real schemas, and looking at a database from outside: psql, pg_dump, and SQL of our own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from testproject.embedded import shared_server
from tests.scratch import ScratchDatabase

FOLDER = Path(os.environ.get("TESTPROJECT_SCHEMAS") or Path(__file__).resolve().parents[3] / "shared" / "schemas")
"""Dumps of real schemas, ``NAME.sql`` and ``NAME.data.sql``, no part of the checkout: beside it, or where the variable says."""

NAMES = ("pagila", "adventureworks", "rdmo", "saleor", "pretix", "netbox", "musicbrainz")

_EXTENSION = re.compile(r'^CREATE EXTENSION IF NOT EXISTS "?([\w-]+)"?', re.MULTILINE)
_EXTENSION_COMMENT = re.compile(r"^COMMENT ON EXTENSION .*;\n", re.MULTILINE)
# pg_dump of August 2025 and later writes a random word there.
_RANDOM = re.compile(r"^\\(un)?restrict .*\n", re.MULTILINE)

# Not the introspection under test: what the tests believe is read by their own queries.
_TABLES = """
SELECT c.oid, n.nspname, c.relname
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 2, 3
"""
_SEQUENCES = """
SELECT n.nspname, c.relname, s.seqstart
  FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 ORDER BY 1, 2
"""


def skip_without(name: str, connection: psycopg.Connection[Any]) -> None:
    """Skip the test if the dump is not there, or the server lacks what it needs."""
    if not all((FOLDER / f"{name}{kind}.sql").exists() for kind in ("", ".data")):
        pytest.skip(f"the dumps of real schemas are not in {FOLDER} (TESTPROJECT_SCHEMAS)")
    text = (FOLDER / f"{name}.sql").read_text()
    available = {row[0] for row in connection.execute("SELECT name FROM pg_available_extensions")}
    missing = sorted(set(_EXTENSION.findall(text)) - available)
    if missing:
        pytest.skip(f"this server lacks the extension(s) {', '.join(missing)}, which {name} needs")
    if "provider = icu" in text and not _has_icu(connection):
        pytest.skip(f"this server was built without ICU, which {name} needs")


def _has_icu(connection: psycopg.Connection[Any]) -> bool:
    return connection.execute("SELECT EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i')").fetchone() == (True,)


def load(name: str, database: ScratchDatabase) -> None:
    """Load a schema as the ordinary role, which owns it then, and its rows as superuser."""
    text = (FOLDER / f"{name}.sql").read_text()
    with database.superuser() as connection:
        # Not every version of every extension is trusted; the others' comments are their owner's to change.
        for extension in _EXTENSION.findall(text):
            connection.execute(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(extension)))
    text = _EXTENSION_COMMENT.sub("", text)
    with database.connect() as connection:
        run_client("psql", connection, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", feed=text)
    with database.superuser() as connection:
        # Not everything in one transaction: its last line is a SET.
        run_client("psql", connection, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", FOLDER / f"{name}.data.sql")


def run_client(program: str, connection: psycopg.Connection[Any], *arguments: object, feed: str = "") -> str:
    """Run a program of PostgreSQL against the database, and as the role, of *connection*; return what it printed."""
    info = connection.info
    where = {"PGHOST": info.host, "PGPORT": str(info.port), "PGUSER": info.user, "PGDATABASE": info.dbname}
    if info.password:
        where["PGPASSWORD"] = info.password
    done = subprocess.run(
        [find_client(program), *map(str, arguments)],
        input=feed,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **where},
    )
    assert done.returncode == 0, f"{program} failed:\n{done.stderr[-2000:]}"
    return done.stdout


def find_client(program: str) -> str:
    """Return the program that belongs to the server, or the one on PATH for a server of the user's."""
    if not os.environ.get("DATABASE_URL"):
        found = shared_server().installation.program(program)
        if found.exists():
            return str(found)
    on_path = shutil.which(program)
    if on_path is None:
        pytest.skip(f"there is no {program} here")
    return on_path


def dump_structure(database: ScratchDatabase) -> str:
    """Return what ``pg_dump --schema-only`` prints: every object, which triggers are enabled, row security, owners."""
    with database.superuser() as connection:
        return _RANDOM.sub("", run_client("pg_dump", connection, "--schema-only"))


@dataclass(frozen=True, kw_only=True)
class Content:
    """What is in a database: a hash over each table's rows, their number, and each sequence's state."""

    hashes: dict[str, str]
    rows: dict[str, int]
    sequences: dict[str, tuple[int, bool]]
    starts: dict[str, int]

    @property
    def filled(self) -> set[str]:
        """The tables with rows."""
        return {name for name, rows in self.rows.items() if rows}

    @property
    def moved(self) -> set[str]:
        """The sequences that are not at their start."""
        return {name for name, state in self.sequences.items() if state != (self.starts[name], False)}


def read_content(database: ScratchDatabase) -> Content:
    """Read everything, as superuser, whom no row security hides rows from."""
    hashes: dict[str, str] = {}
    rows: dict[str, int] = {}
    with database.superuser() as connection:
        for _, schema, name in connection.execute(_TABLES).fetchall():
            query = sql.SQL("SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM ONLY {} t")
            count, digest = _one(connection, query.format(sql.Identifier(schema, name)))
            rows[f"{schema}.{name}"], hashes[f"{schema}.{name}"] = count, digest or ""
        starts, sequences = {}, {}
        for schema, name, start in connection.execute(_SEQUENCES).fetchall():
            query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(schema, name))
            starts[f"{schema}.{name}"] = start
            sequences[f"{schema}.{name}"] = _one(connection, query)
    return Content(hashes=hashes, rows=rows, sequences=sequences, starts=starts)


def _one(connection: psycopg.Connection[Any], query: sql.Composed) -> Any:
    return connection.execute(query).fetchone()
