"""The database that resets are killed on: a bit of everything that a reset switches off, moves or does in one statement."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from testdb_app.resetter import Resetter
from tests.real.loading import Content, read_content
from tests.scratch import ScratchDatabase

TABLES = """
CREATE TABLE region (id integer GENERATED ALWAYS AS IDENTITY (START 1000) PRIMARY KEY, name text);
CREATE TABLE city (id serial PRIMARY KEY, region_id integer NOT NULL REFERENCES region ON DELETE RESTRICT);
CREATE TABLE node (id serial PRIMARY KEY, parent_id integer REFERENCES node);
CREATE TABLE person (id serial PRIMARY KEY, team_id integer);
CREATE TABLE team (id serial PRIMARY KEY, head_id integer NOT NULL REFERENCES person ON DELETE RESTRICT);
ALTER TABLE person ADD FOREIGN KEY (team_id) REFERENCES team;
CREATE SEQUENCE numbers START 500 INCREMENT 5;
CREATE TABLE ticket (number integer PRIMARY KEY DEFAULT nextval('numbers'), body text);

CREATE TABLE log (id serial PRIMARY KEY, what text);
CREATE TABLE audited (id serial PRIMARY KEY);
CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql
    AS $$BEGIN INSERT INTO log (what) VALUES (TG_OP); RETURN NULL; END$$;
CREATE TRIGGER audit AFTER INSERT OR DELETE ON audited FOR EACH ROW EXECUTE FUNCTION record();

CREATE TABLE append_only (id serial PRIMARY KEY);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'append only'; END$$;
CREATE TRIGGER refuse BEFORE DELETE ON append_only FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER disabled BEFORE INSERT ON append_only FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE append_only ENABLE ALWAYS TRIGGER refuse, DISABLE TRIGGER disabled;

CREATE TABLE ruled (id serial PRIMARY KEY);
CREATE RULE stay AS ON DELETE TO ruled DO INSTEAD NOTHING;

CREATE TABLE hidden (id serial PRIMARY KEY);
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY write_only ON hidden FOR INSERT WITH CHECK (true);

CREATE TABLE kept (id serial PRIMARY KEY, region_id integer REFERENCES region);
INSERT INTO kept (region_id) VALUES (NULL), (NULL);
"""
ROWS = """
INSERT INTO region (name) VALUES ('north'), ('south');
INSERT INTO city (region_id) VALUES (1000), (1001), (1000);
INSERT INTO node (parent_id) VALUES (NULL), (1), (2), (2);
INSERT INTO person DEFAULT VALUES;
INSERT INTO team (head_id) VALUES (1);
UPDATE person SET team_id = 1;
INSERT INTO ticket (body) VALUES ('a'), ('b');
INSERT INTO audited DEFAULT VALUES;
INSERT INTO append_only DEFAULT VALUES;
INSERT INTO ruled DEFAULT VALUES;
INSERT INTO hidden DEFAULT VALUES;
"""
_SWITCHES = """
SELECT 'trigger', tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
 UNION ALL SELECT 'rule', rulename, ev_enabled::text FROM pg_rewrite WHERE oid >= 16384
 UNION ALL SELECT 'row security', relname, concat(relrowsecurity, relforcerowsecurity) FROM pg_class WHERE oid >= 16384
 UNION ALL SELECT 'validated', conname, convalidated::text FROM pg_constraint WHERE oid >= 16384
 ORDER BY 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a reset might leave half-done: rows, sequences, and what it switches off meanwhile."""

    content: Content
    switches: list[tuple[Any, ...]]


class Victim:
    """A filled database with its state before and after a reset. *keeps* tells whether the table ``kept`` is excluded:
    only with an exclusion is a reset more than one message to the server."""

    def __init__(self, database: ScratchDatabase, *, keeps: bool) -> None:
        self.database = database
        self.exclude = ("public.kept",) if keeps else ()
        database.execute(TABLES)
        # A vacuum in between would give pages back, and with them change how many messages a reset needs.
        for (table,) in database.query("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid >= 16384"):
            database.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        self.fill()
        self.old = self.read()
        self.reset()
        self.new = self.read()
        assert self.new.content.filled == ({"public.kept"} if keeps else set())
        assert self.new.switches == self.old.switches
        assert self.new != self.old
        self.refill()

    def read(self) -> State:
        return State(read_content(self.database), self.database.query(_SWITCHES))

    def fill(self) -> None:
        self.database.execute(ROWS)

    def resetter(self, **options: Any) -> Resetter:
        return self.database.resetter(exclude=self.exclude, **options)

    def reset(self, **options: Any) -> None:
        self.resetter(**options).reset()

    def refill(self) -> None:
        """Go from the new state to the old one."""
        if not self.exclude:
            self.database.execute("INSERT INTO kept (region_id) VALUES (NULL), (NULL)")
        self.fill()
        assert self.read() == self.old

    def sessions(self) -> int:
        """Count the sessions of others than this very question."""
        return int(
            self.database.value(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        )

    def wait_until_alone(self, seconds: float = 10) -> None:
        """Wait until the server has noticed that its client is gone, and has ended what it was doing."""
        self.database.connection.close()
        deadline = time.monotonic() + seconds
        while self.sessions():
            assert time.monotonic() < deadline, "a session outlives its client"
            time.sleep(0.01)

    def check_whole(self, *, allowed: str = "old or new") -> str:
        """Assert that nothing is half-done, that the next reset works, and fill again; return which state it was."""
        state = self.read()
        found = "old" if state == self.old else "new" if state == self.new else "half-done"
        assert found in allowed.split(), (found, state)
        self.reset()
        assert self.read() == self.new
        self.refill()
        return found
