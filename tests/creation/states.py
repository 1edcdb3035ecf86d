"""All that a reset may change or leave in a database: rows, sequences, objects, schemas, triggers."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

from psycopg import sql

if TYPE_CHECKING:
    from pathlib import Path

_USER = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
_OBJECTS = f"""
SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relrowsecurity, c.relforcerowsecurity,
       ARRAY(SELECT concat(t.tgname, ' ', t.tgenabled) FROM pg_trigger t
              WHERE t.tgrelid = c.oid AND NOT t.tgisinternal ORDER BY t.tgname),
       ARRAY(SELECT concat(k.conname, ' ', pg_get_constraintdef(k.oid)) FROM pg_constraint k
              WHERE k.conrelid = c.oid ORDER BY k.conname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE {_USER} ORDER BY 1, 2
"""
_SCHEMAS = f"SELECT n.nspname::text FROM pg_namespace n WHERE {_USER} ORDER BY 1"


def state_of(session: Any) -> dict[str, Any]:
    """Return the state of the PostgreSQL database of a psycopg *session*, whatever its tables are."""
    session.execute("SET search_path = pg_catalog; SET row_security = off")
    objects = session.execute(_OBJECTS).fetchall()
    found: dict[str, Any] = {"schemas": session.execute(_SCHEMAS).fetchall(), "objects": objects}
    for schema, name, kind, *_ in objects:
        relation = sql.Identifier(schema, name)
        query = None
        if kind == "S":
            query = sql.SQL("SELECT last_value, is_called FROM {}").format(relation)
        elif name == "django_migrations":
            query = sql.SQL("SELECT app, name FROM {} ORDER BY 1, 2").format(relation)
        elif kind == "r":
            query = sql.SQL('SELECT ROW(t.*)::text COLLATE "C" FROM ONLY {} t ORDER BY 1').format(relation)
        if query is not None and name != "django_migrations_id_seq":
            found[f"{schema}.{name}"] = session.execute(query).fetchall()
    return found


def state_of_file(path: Path) -> dict[str, Any]:
    """Return the state of a SQLite file."""
    with contextlib.closing(sqlite3.connect(path)) as session:
        objects = session.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()
        found: dict[str, Any] = {"objects": objects}
        # The index of full-text tables is written in parts: equal rows have other ones.
        for name in (name for kind, name, *_ in objects if kind == "table" and not name.startswith("words_")):
            rows = session.execute('SELECT * FROM "{}"'.format(name.replace('"', '""')))
            if name == "django_migrations":
                found[name] = sorted(row[1:3] for row in rows)
            elif name == "sqlite_sequence":
                found[name] = sorted(row for row in rows if row[0] != "django_migrations")
            else:
                found[name] = sorted(map(repr, rows))
        return found
