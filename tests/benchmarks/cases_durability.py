"""What it gains to put the data of a test server into memory, or not to wait for the disk: whole tests, and a new test database."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.cases_tables import Bench
from tests.benchmarks.cases_testcases import _MODELS, MODELS
from tests.benchmarks.disk import filesystem, is_in_memory, own_server
from tests.benchmarks.results import Case, Series
from tests.guard.projects import database_settings, make_project

ROUNDS = 5
MEMORY = Path("/dev/shm")
AS_IT_COMES = "a disk, as it comes"
_NO_FSYNC = {"fsync": "off", "full_page_writes": "off"}

_MEASURE = """
import json, os, time, unittest
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.apps import apps
from django.test import TestCase, TransactionTestCase
from django.test.runner import DiscoverRunner
from django.test.utils import setup_test_environment
from testdb_app.database_setup import get_resetter, prepare_test_database
from testdb_app.testcases import ResetTransactionTestCase

setup_test_environment()
runner = DiscoverRunner(verbosity=0, interactive=False)
started = time.perf_counter()
made = runner.setup_databases()
times = {"a new test database": [(time.perf_counter() - started) * 1000]}
prepare_test_database("default")
models = list(apps.get_app_config("shop").get_models())

def nothing(self):
    pass

def write(self):
    for model in models[3:8]:
        model.objects.create(name="written")

CASES = {
    "TransactionTestCase": (TransactionTestCase, nothing, 3),
    "ResetTransactionTestCase that writes": (ResetTransactionTestCase, write, 40),
    "TestCase that writes": (TestCase, write, 40),
}
for turn in range(3):
    for name, (base, body, number) in CASES.items():
        case = type("Case", (base,), {f"test_{n}": body for n in range(number)})
        result = unittest.TestResult()
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
        started = time.perf_counter()
        suite.run(result)
        assert result.wasSuccessful(), result.errors
        if turn:
            times.setdefault(name, []).append((time.perf_counter() - started) * 1000 / number)
        get_resetter("default", "baseline").reset()
runner.teardown_databases(made)
print(json.dumps(times))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    name: str
    folder: Path
    changes: dict[str, str]


def run_durability(bench: Bench) -> Iterator[Case]:
    """Measure the same tests on servers that differ in where their data are, and in what they wait for.

    They take turns, so that what disturbs one disturbs all.
    """
    if bench.disk is None or is_in_memory(bench.disk) or not is_in_memory(MEMORY):
        print("No disk, or no memory disk, to compare. Choose a folder on a disk with --disk FOLDER.\n")
        return
    servers = [
        _Server(name=AS_IT_COMES, folder=bench.disk, changes={}),
        _Server(name="a disk, synchronous_commit=off", folder=bench.disk, changes={"synchronous_commit": "off"}),
        _Server(name="a disk, fsync=off, full_page_writes=off", folder=bench.disk, changes=_NO_FSYNC),
        _Server(name="memory, as it comes", folder=MEMORY, changes={}),
        _Server(name="memory, fsync=off, full_page_writes=off", folder=MEMORY, changes=_NO_FSYNC),
    ]
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        hosts = [stack.enter_context(own_server(server.folder, **server.changes)) for server in servers]
        for _ in range(ROUNDS):
            for server, host in zip(servers, hosts, strict=True):
                for case, measured in _measure(host).items():
                    found.setdefault(case, {}).setdefault(server.name, []).extend(measured)
    for number, (case, by_server) in enumerate(found.items()):
        series = [Series(name=name, role="rival", times=tuple(times)) for name, times in by_server.items()]
        yield Case(
            key=f"durability-{number}",
            title=f"{case}, {MODELS} models, {filesystem(bench.disk)} and {filesystem(MEMORY)}",
            series=tuple(series),
            base=AS_IT_COMES,
        )


def _measure(host: str) -> dict[str, list[float]]:
    """Make a test database there and run the tests in it; return the milliseconds of each case."""
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder), {"default": database_settings("default", NAME="durability", HOST=host)})
        project.add_settings("INSTALLED_APPS += ['django.contrib.contenttypes', 'django.contrib.auth']\n")
        project.write("shop/models.py", _MODELS)
        project.write("measure.py", _MEASURE)
        done = project.run("measure.py").must_pass()
    return dict(json.loads(done.stdout.splitlines()[-1]))
