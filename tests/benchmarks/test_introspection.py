"""Reading the schema of 10,000 tables with 20,000 foreign keys; ``showdeps`` on some hundred tables, as a whole process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.benchmarks.measuring import interleaved, print_table
from tests.benchmarks.schemas import make_tables
from tests.real.loading import load, skip_without
from tests.scratch import ScratchDatabase

pytestmark = pytest.mark.benchmark

ROOT = Path(__file__).resolve().parents[2]


def test_reading_the_schema_of_10_000_tables_with_20_000_keys(scratch: ScratchDatabase) -> None:
    started = time.perf_counter()
    make_tables(scratch, tables=10_000, keys=20_000, indexes=False)
    print(f"\nPostgreSQL {scratch.value('SHOW server_version')}; made in {time.perf_counter() - started:.0f} s")
    command = [sys.executable, "-m", "tests.benchmarks.reading", scratch.name]
    runs = [
        json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    for name in runs[0]:
        values = [run[name] for run in runs]
        print(f"{name:16} median {statistics.median(values):10.2f}   worst {max(values):10.2f}")


def test_reset_of_10_000_tables_of_which_5_are_written(scratch: ScratchDatabase) -> None:
    make_tables(scratch, tables=10_000, keys=20_000, indexes=False)
    resetter = scratch.resetter()
    resetter.reset()

    def write() -> None:
        scratch.execute("; ".join(f"INSERT INTO t{number} (name) VALUES ('a'), ('b'), ('c')" for number in range(5)))

    times = interleaved({"reset": resetter.reset}, rounds=10, prepare=write)
    print_table("10,000 tables, 5 written by another session", times, base="reset")


@pytest.mark.parametrize("name", ["400 tables", "netbox", "musicbrainz"])
def test_showdeps_as_a_whole_process(scratch: ScratchDatabase, name: str) -> None:
    if name == "400 tables":
        make_tables(scratch, tables=400, keys=800)
    else:
        with scratch.superuser() as connection:
            skip_without(name, connection)
        load(name, scratch)
    with scratch.connect() as connection:
        info = connection.info
        url = f"postgres://{quote(info.user)}:{quote(info.password)}@{quote(info.host, safe='')}:{info.port}/{scratch.name}"
    environment = {**os.environ, "DATABASE_URL": url}

    def run(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    # What every command costs: Python, Django, the apps, a connection.
    floor = "shell", "-v0", "-c", "from django.db import connection; connection.ensure_connection()"
    candidates = {"connect only": lambda: run("manage.py", *floor)}
    for output_format in ("tree", "order", "json", "dot", "mermaid"):
        candidates[f"showdeps --format {output_format}"] = lambda chosen=output_format: run(  # type: ignore[misc]
            "manage.py", "showdeps", "--format", chosen
        )
    times = interleaved(candidates, rounds=5, prepare=lambda: None)
    tables = scratch.value("SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p') AND oid >= 16384")
    print_table(f"{name}: {tables} tables, whole processes", times, base="connect only")
