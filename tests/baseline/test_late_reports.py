"""Sessions that write at random, then idle, and report what they wrote seconds later or while they end: every reset is exact.

``TESTDB_STRESS_SECONDS`` is how long it runs (5 by default), ``TESTDB_SEED`` what it draws from. A session reports at most once
a second, and ten seconds after its last statement at the latest: a run of a minute has thousands of resets beside such reports.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from tests.baseline.conftest import InThread, leave
from tests.baseline.test_change_tracker import run
from tests.differential.paths import overheard
from tests.scratch import ScratchDatabase

NAMES = [f"t{number}" for number in range(24)]
SCHEMA = (
    "".join(f"CREATE TABLE {name} (id serial PRIMARY KEY, v text);" for name in NAMES)
    + "".join(f"INSERT INTO {name} (v) VALUES ('one'), ('two'), ('three');" for name in NAMES[::2])
    + "CREATE FUNCTION writes(name text) RETURNS void LANGUAGE plpgsql AS "
    "$$BEGIN EXECUTE format('INSERT INTO %I (v) VALUES (1)', name); END$$;"
)
ROWS = "SELECT " + ", ".join(f"(SELECT string_agg(t::text, ',' ORDER BY id) FROM {name} t)" for name in NAMES)
SEQUENCES = "SELECT " + ", ".join(
    f"(SELECT s::text FROM (SELECT last_value, is_called FROM {name}_id_seq) s)" for name in NAMES
)
WRITES = (
    *("INSERT INTO {} (v) VALUES ('x')",) * 4,
    *("UPDATE {} SET v = 'y' WHERE id = 1", "DELETE FROM {} WHERE id = 2", "SELECT nextval('{}_id_seq')"),
    *(
        "SELECT setval('{}_id_seq', 30)",
        "BEGIN; INSERT INTO {} (v) VALUES ('z'); ROLLBACK",
        "SELECT writes('{}')",
        "SELECT 1",
    ),
)
STAYERS = 12

# Sessions of another process, by number: each line is a number, statements, and whether to close it then without a wait.
PROCESS = """
import json, sys
import psycopg
parameters, sessions = json.loads(sys.stdin.readline()), {}
for line in sys.stdin:
    number, statements, ends = json.loads(line)
    session = sessions.get(number) or psycopg.connect(**parameters, autocommit=True)
    sessions[number] = session
    for statement in statements:
        session.execute(statement)
    if ends:
        sessions.pop(number).close()
    print("done", flush=True)
"""


class Stress:
    """The sessions beside the one that resets: of this process by the driver alone and by Django, and of another process."""

    def __init__(self, scratch: ScratchDatabase, chance: random.Random, stack: ExitStack) -> None:
        self._scratch, self._chance = scratch, chance
        parameters = scratch.connection.get_connection_params()
        self._parameters = {key: value for key, value in parameters.items() if isinstance(value, str | int)}
        self._sessions: dict[int, psycopg.Connection[Any]] = {}
        stack.callback(lambda: [each.close() for each in self._sessions.values()])
        self._threads = [stack.enter_context(InThread(scratch.alias)) for _ in range(2)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        stack.callback(self._process.communicate)
        print(json.dumps(self._parameters), file=self._process.stdin, flush=True)
        self.checker = stack.enter_context(InThread(scratch.alias))

    def statements(self) -> list[str]:
        return [
            self._chance.choice(WRITES).format(self._chance.choice(NAMES)) for _ in range(self._chance.randint(1, 3))
        ]

    def own(self) -> None:
        for statement in self.statements():
            run(self._scratch, statement)

    def nothing(self) -> None:
        pass

    def thread(self) -> None:
        self._chance.choice(self._threads).run(*self.statements())

    def thread_comes_and_goes(self) -> None:
        thread = self._chance.choice(self._threads)
        thread.run(*self.statements())
        thread.call(lambda connection: connection.close())

    def visitor(self) -> None:
        with psycopg.connect(**self._parameters, autocommit=True) as session:
            for statement in self.statements():
                session.execute(statement)
            if self._chance.random() < 0.5:
                leave(session)

    def stayer(self, *, ends: bool = False) -> None:
        number = self._chance.randrange(STAYERS)
        if number % 2:
            print(json.dumps([number, self.statements(), ends]), file=self._process.stdin, flush=True)
            assert self._process.stdout is not None
            assert self._process.stdout.readline() == "done\n"
            return
        session = self._sessions.pop(number, None) or psycopg.connect(**self._parameters, autocommit=True)
        self._sessions[number] = session
        for statement in self.statements():
            session.execute(statement)
        if ends:
            self._sessions.pop(number).close()

    def stayer_ends(self) -> None:
        """It writes, and the reset comes while it reports and ends."""
        self.stayer(ends=True)

    def look(self, query: str) -> Any:
        """Look by a session that comes and goes, or by one of this process that stays."""
        if self._chance.random() < 0.5:
            return self.checker.call(lambda connection: connection.connection.execute(query).fetchone())
        with self._scratch.connect() as session:
            found = session.execute(query).fetchone()
            leave(session)
        return found


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.nightly)])
def test_no_reset_beside_sessions_that_report_late_leaves_a_row(scratch, captured: Callable[..., Any], seconds):
    seconds = float(os.environ.get("TESTDB_STRESS_SECONDS", seconds))
    seed = int(os.environ.get("TESTDB_SEED", seconds))
    chance, tally = random.Random(seed), Counter[str]()
    captured(SCHEMA)
    resetter = scratch.resetter()
    resetter.reset()
    with ExitStack() as stack:
        stress = Stress(scratch, chance, stack)
        rows, sequences = stress.look(ROWS), stress.look(SEQUENCES)
        stack.enter_context(overheard(lambda path: tally.update([path])))
        often = [stress.own] * 6 + [stress.nothing] * 3 + [stress.thread] * 6 + [stress.visitor] * 2
        rare = [stress.stayer] * 6 + [stress.stayer_ends] * 2 + [stress.thread_comes_and_goes] * 2
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            # Sessions that have run something cost a full scan: after some of these rounds there are many without.
            acts = [chance.choice(often)] if chance.random() < 0.85 else chance.choices(rare, k=3)
            for act in acts:
                act()
            before = tally.copy()
            report = resetter.reset()
            tally["resets"] += 1
            where = (
                f"seed {seed}, reset {tally['resets']}, {[act.__name__ for act in acts]}, {tally - before}: {report!r}"
            )
            assert stress.look(ROWS) == rows, where
            # To read a sequence counts as a call of it, which hides others.
            if chance.random() < 0.1:
                assert stress.look(SEQUENCES) == sequences, where
    print(dict(tally))
    assert tally["tracker: the counters proved what was written"] > 0
