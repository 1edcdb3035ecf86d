"""Whole tests: what a test costs besides its own work, by the class that it is written in, in projects of 200 models.

Django's flush knows the tables of models alone, so the models are there: made up, or read by ``inspectdb`` from the real schema
of NetBox, as far as its dump is at hand and the server has the extension that it needs.
"""

from __future__ import annotations

import json
import re
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.cases_tables import Bench
from tests.benchmarks.results import Case, Series, Target
from tests.guard.conftest import drop_test_databases
from tests.guard.projects import Project, database_settings, make_project
from tests.real.loading import FOLDER, load
from tests.scratch import ScratchDatabase, connect_as_superuser

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
from django.db import connection, models as fields
from django.test import TestCase, TransactionTestCase
from django.test.runner import DiscoverRunner
from django.test.utils import setup_test_environment
from testdb_app.database_setup import get_resetter, prepare_test_database
from testdb_app.testcases import ResetTransactionTestCase

is_real = connection.settings_dict["TEST"]["NAME"] is not None
setup_test_environment()
runner = DiscoverRunner(verbosity=0, interactive=False, keepdb=is_real)
made = runner.setup_databases()
models = sorted(apps.get_app_config("shop").get_models(), key=lambda model: model._meta.db_table)
if not is_real:
    for model in models[-{FILLED}:]:
        model.objects.bulk_create([model(name="kept") for _ in range({ROWS})])
connection._test_serialized_contents = connection.creation.serialize_db_to_string()
prepare_test_database("default")

VALUES = [(fields.JSONField, dict), (fields.BooleanField, bool), (fields.IntegerField, int), (fields.DecimalField, int)]
VALUES += [(fields.CharField, lambda: "w"), (fields.TextField, lambda: "w")]

def values(model):
    \"\"\"What a row needs; None where it refers to another one, or that is not told by the kind of its columns.\"\"\"
    found = {{}}
    for field in model._meta.concrete_fields:
        if field.null or field.has_default() or isinstance(field, fields.AutoField):
            continue
        makers = [make for kind, make in VALUES if isinstance(field, kind) and not field.is_relation and not field.primary_key]
        if not makers:
            return None
        found[field.name] = makers[0]()
    return found

empty = [model for model in models if not model.objects.exists() and values(model) is not None]
written = empty[:: len(empty) // 5][:5]
rows = {{model: model.objects.count() for model in apps.get_models()}}
counted = len(connection.introspection.django_table_names(only_existing=True)), sum(rows.values())
print(json.dumps([*counted, [model._meta.db_table for model in written]]))

def nothing(self):
    pass

own = []

def write(self):
    started = time.perf_counter()
    for model in written:
        model.objects.create(**values(model))
    own.append((time.perf_counter() - started) * 1000)

def make(base, body, number, **attributes):
    tests = {{f"test_{{n}}": body for n in range(number)}}
    return type(base.__name__ + body.__name__, (base,), {{**tests, **attributes}})

CASES = {{
    "TestCase": make(TestCase, nothing, 40),
    "ResetTransactionTestCase": make(ResetTransactionTestCase, nothing, 40),
    "the same, to empty": make(ResetTransactionTestCase, nothing, 40, reset_to="empty"),
    "TestCase that writes": make(TestCase, write, 40),
    "ResetTransactionTestCase that writes": make(ResetTransactionTestCase, write, 40),
    "TransactionTestCase": make(TransactionTestCase, nothing, 3),
    "serialized_rollback": make(TransactionTestCase, nothing, 2, serialized_rollback=True),
}}
UNMEASURED = make(ResetTransactionTestCase, nothing, 2)
UNMEASURED_EMPTY = make(ResetTransactionTestCase, nothing, 2, reset_to="empty")

def run(case):
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    result = unittest.TestResult()
    started = time.perf_counter()
    suite.run(result)
    elapsed = time.perf_counter() - started
    assert result.wasSuccessful(), result.errors
    return elapsed * 1000 / suite.countTestCases()

times = {{name: [] for name in [*CASES, "its own writes"]}}
for number in range(int(sys.argv[1]) + 1):
    for name, case in CASES.items():
        if name == "the same, to empty":
            # From the baseline to there is what only the first of these tests does.
            run(UNMEASURED_EMPTY)
        own.clear()
        elapsed = run(case)
        if number:
            times[name].append(elapsed)
            if name == "ResetTransactionTestCase that writes":
                times["its own writes"].append(sum(own) / len(own))
        if not name.startswith(("TestCase", "Reset")):
            # What Django's flush took, and a test unmeasured in which caches fill again.
            get_resetter("default", "baseline").reset()
            run(UNMEASURED)
        assert {{model: model.objects.count() for model in rows}} == rows, name
runner.teardown_databases(made)
print(json.dumps(times))
"""


def run_testcases(bench: Bench) -> Iterator[Case]:
    """Measure tests that do nothing, and tests that write a row to each of five tables; the figures are a test's share."""
    name = f"testcases_{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        project = _make_project(folder, NAME=name)
        project.write("shop/models.py", _MODELS)
        try:
            yield _measure(bench, project, "testcases", "made up")
        finally:
            drop_test_databases(name)


def run_testcases_of_netbox(bench: Bench) -> Iterator[Case]:
    """Measure the same with the schema of NetBox, and the rows that its migrations leave."""
    with connect_as_superuser("postgres") as connection:
        extension = "SELECT FROM pg_available_extensions WHERE name = 'ltree'"
        if not (FOLDER / "netbox.sql").exists() or connection.execute(extension).fetchone() is None:
            return
    database = ScratchDatabase("netbox")
    database.create()
    try:
        load("netbox", database)
        with tempfile.TemporaryDirectory() as folder:
            project = _make_project(folder, NAME=database.name)
            models = project.manage("inspectdb").must_pass().stdout
            project.write("shop/models.py", _of_installed_apps(models))
            name = f"testcases_{uuid.uuid4().hex[:8]}"
            settings = {"default": database_settings("default", NAME=name, TEST={"NAME": database.name})}
            project.write("databases.json", json.dumps(settings))
            # NetBox has no table for Django's own users.
            project.add_settings("AUTH_USER_MODEL = 'shop.UsersUser'\n")
            yield _measure(bench, project, "testcases-netbox", "NetBox's schema")
    finally:
        database.drop()


def _make_project(folder: str, **database: Any) -> Project:
    project = make_project(Path(folder), {"default": database_settings("default", **database)})
    project.add_settings("INSTALLED_APPS += ['django.contrib.contenttypes', 'django.contrib.auth']\n")
    project.write("measure.py", _MEASURE)
    return project


def _of_installed_apps(models: str) -> str:
    """Have Django's own models in place of those that ``inspectdb`` makes of their tables, and its flush empty the others."""
    models = models.replace("managed = False", "managed = True")
    own = {
        "DjangoContentType": "contenttypes.ContentType",
        "AuthPermission": "auth.Permission",
        "AuthGroup": "auth.Group",
    }
    for name, label in own.items():
        models = models.replace(f"({name}, ", f"('{label}', ").replace(f"('{name}', ", f"('{label}', ")
    gone = "|".join([*own, "AuthGroupPermissions", "DjangoMigrations"])
    return re.sub(rf"^class ({gone})\(.*?(?=^class )", "", models, flags=re.MULTILINE | re.DOTALL)


def _measure(bench: Bench, project: Project, key: str, about: str) -> Case:
    done = project.run("-W", "ignore", "measure.py", str(max(5, bench.rounds // 10)), seconds=1_200).must_pass()
    *_, counted, told = done.stdout.splitlines()
    tables, rows, written = json.loads(counted)
    times = {who: tuple(measured) for who, measured in json.loads(told).items()}
    roles = {"TestCase": "floor", "ResetTransactionTestCase": "ours", "ResetTransactionTestCase that writes": "ours"}
    series = tuple(Series(name=who, role=roles.get(who, "rival"), times=measured) for who, measured in times.items())
    title = f"A test, {about}: {tables} tables of models, {rows:,} rows in the baseline"
    case = Case(key=key, title=title, series=series, base="TestCase", note=f"written: {', '.join(written)}")
    return replace(case, targets=_targets(case))


def _targets(case: Case) -> tuple[Target, ...]:
    ours, writes = case.find("ResetTransactionTestCase"), case.find("ResetTransactionTestCase that writes")
    return (
        Target(text="an empty test, beside TestCase", measured=case.ratio(ours.name), limit=1, unit="× TestCase"),
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
        Target(
            text="a row written to each of five tables, besides its own writes",
            measured=writes.median - case.find("its own writes").median,
            limit=4,
            unit="ms",
        ),
    )
