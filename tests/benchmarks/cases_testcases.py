"""Whole tests: what a test costs besides its own work, by the class that it is written in, in a project of 200 models."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.cases_tables import Bench
from tests.benchmarks.results import Case, Series, Target
from tests.guard.conftest import drop_test_databases
from tests.guard.projects import database_settings, make_project

MODELS = 200
FILLED = 50
ROWS = 20

_MODELS = f"""
from django.db import models

for number in range({MODELS}):
    body = {{"__module__": __name__, "name": models.CharField(max_length=20)}}
    if number:
        body["above"] = models.ForeignKey(f"shop.M{{number // 2}}", models.CASCADE, null=True)
    globals()[f"M{{number}}"] = type(f"M{{number}}", (models.Model,), body)
"""

_MEASURE = f"""
import json, os, sys, time, unittest
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.apps import apps
from django.db import connection
from django.test import TestCase, TransactionTestCase
from django.test.runner import DiscoverRunner
from django.test.utils import setup_test_environment
from testdb_app.preparing import get_resetter, prepare_test_database
from testdb_app.testcases import ResetTransactionTestCase

setup_test_environment()
runner = DiscoverRunner(verbosity=0, interactive=False)
made = runner.setup_databases()
models = [apps.get_model("shop", f"M{{number}}") for number in range({MODELS})]
for model in models[-{FILLED}:]:
    model.objects.bulk_create([model(name="kept") for _ in range({ROWS})])
connection._test_serialized_contents = connection.creation.serialize_db_to_string()
prepare_test_database("default")

def nothing(self):
    pass

def write(self):
    for model in models[3:8]:
        model.objects.create(name="written")

def make(base, body, number, **attributes):
    tests = {{f"test_{{n}}": body for n in range(number)}}
    return type(base.__name__ + body.__name__, (base,), {{**tests, **attributes}})

CASES = {{
    "TestCase": make(TestCase, nothing, 40),
    "ResetTransactionTestCase": make(ResetTransactionTestCase, nothing, 40),
    "TestCase that writes": make(TestCase, write, 40),
    "ResetTransactionTestCase that writes": make(ResetTransactionTestCase, write, 40),
    "TransactionTestCase": make(TransactionTestCase, nothing, 3),
    "serialized_rollback": make(TransactionTestCase, nothing, 2, serialized_rollback=True),
}}

def run(case):
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    result = unittest.TestResult()
    started = time.perf_counter()
    suite.run(result)
    elapsed = time.perf_counter() - started
    assert result.wasSuccessful(), result.errors
    return elapsed * 1000 / suite.countTestCases()

times = {{name: [] for name in CASES}}
for number in range(int(sys.argv[1]) + 1):
    for name, case in CASES.items():
        elapsed = run(case)
        if number:
            times[name].append(elapsed)
        if not case.__name__.startswith(("TestCase", "Reset")):
            # What Django's flush took, and a test unmeasured in which caches fill again.
            get_resetter("default", "baseline").reset()
            run(CASES["ResetTransactionTestCase"])
        assert models[-1].objects.count() == {ROWS} and models[3].objects.count() == 0, name
runner.teardown_databases(made)
print(json.dumps(times))
"""


def run_testcases(bench: Bench) -> Iterator[Case]:
    """Measure tests that do nothing, and tests that write a row to each of five tables; the figures are a test's share."""
    name = f"testcases_{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder), {"default": database_settings("default", NAME=name)})
        project.add_settings("INSTALLED_APPS += ['django.contrib.contenttypes', 'django.contrib.auth']\n")
        project.write("shop/models.py", _MODELS)
        project.write("measure.py", _MEASURE)
        try:
            done = project.run("measure.py", str(max(5, bench.rounds // 10))).must_pass()
        finally:
            drop_test_databases(name)
    times = {who: tuple(measured) for who, measured in json.loads(done.stdout.splitlines()[-1]).items()}
    roles = {"TestCase": "floor", "ResetTransactionTestCase": "ours", "ResetTransactionTestCase that writes": "ours"}
    series = tuple(Series(name=who, role=roles.get(who, "rival"), times=measured) for who, measured in times.items())
    case = Case(
        key="testcases",
        title=f"A test, {MODELS} models, {FILLED * ROWS:,} rows in the baseline",
        series=series,
        base="TestCase",
    )
    ours, writes = case.find("ResetTransactionTestCase"), case.find("ResetTransactionTestCase that writes")
    targets = (
        Target(text="an empty test, beside TestCase", measured=case.ratio(ours.name), limit=3, unit="× TestCase"),
        Target(
            text="an empty test, beside TransactionTestCase",
            measured=case.ratio("TransactionTestCase", ours.name),
            limit=70,
            unit="× less",
            at_least=True,
        ),
        Target(
            text="with baseline rows, beside serialized_rollback",
            measured=case.ratio("serialized_rollback", ours.name),
            limit=200,
            unit="× less",
            at_least=True,
        ),
        Target(text="a row written to each of five tables", measured=writes.median, limit=4, unit="ms"),
    )
    yield replace(case, targets=targets)
