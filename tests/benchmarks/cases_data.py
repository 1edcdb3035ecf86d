"""Data helpers: rows in bulk beside Django's, and a snapshot with its comparison beside a reset."""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from typing import Any

from django.db import models

from testdb_app import guard
from testdb_app.data import bulk, diff, snapshot
from tests.benchmarks.cases_tables import Bench
from tests.benchmarks.databases import BenchmarkDatabase
from tests.benchmarks.results import Case, Series, Target
from tests.benchmarks.rounds import WARM_UP, five_of

TABLES = 200
ROWS = 100_000


class Sale(models.Model):
    """A row as applications have many of: a key of the database's, text, numbers, a day, an instant, no foreign key."""

    number = models.CharField(max_length=20)
    customer = models.CharField(max_length=100)
    amount = models.DecimalField(max_digits=10, decimal_places=2)
    pieces = models.IntegerField()
    day = models.DateField()
    paid_at = models.DateTimeField(null=True)
    is_open = models.BooleanField(default=True)
    note = models.TextField(default="")

    class Meta:
        app_label = "benchmarks"

    def __str__(self) -> str:
        return self.number


def run_data(bench: Bench) -> Iterator[Case]:
    """Measure a snapshot and its comparison, with all tables empty and with rows in each; then rows in bulk."""
    yield _snapshots(bench, rows=0)
    yield _snapshots(bench, rows=20)
    yield _bulk(bench)


def _snapshots(bench: Bench, *, rows: int) -> Case:
    """Every round: a snapshot, a row is written to one table, a comparison, a reset; and the same with five tables."""
    times: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = run()
        times.setdefault(name, []).append((time.perf_counter() - started) * 1000)
        return result

    with ExitStack() as stack:
        database: BenchmarkDatabase = stack.enter_context(bench.databases.copies(tables=TABLES))()
        if rows:
            _fill(database, rows)
        resetter = database.resetter()
        resetter.reset()
        for number in range(-WARM_UP, bench.rounds):
            if not number:
                times.clear()
            for written in (five_of(TABLES)[:1], five_of(TABLES)):
                size = len(written)
                started = time.perf_counter()
                before = timed(f"snapshot, {size}", lambda: snapshot(using=database.alias))
                taken = time.perf_counter() - started
                with database.connection.cursor() as cursor:
                    for table in written:
                        cursor.execute(f"INSERT INTO t{table} (name) VALUES ('written')")
                started = time.perf_counter()
                found = timed(f"diff, {size}", lambda before=before: diff(before))
                both = taken + time.perf_counter() - started
                times.setdefault(f"snapshot and diff, {size} changed", []).append(both * 1000)
                assert [table.added for table in found.tables] == [1] * size
                before.close()
                report = timed(f"reset, {size} written", resetter.reset)
                assert len(report.tables) == size
    case = Case(
        key=f"snapshot-{'filled' if rows else 'empty'}",
        title=f"{TABLES} tables with {rows} rows each: a snapshot, what has changed since, a reset",
        series=tuple(
            Series(name=name, role="rival" if name.startswith("reset") else "ours", times=tuple(values))
            for name, values in times.items()
        ),
        base="reset, 1 written",
    )
    targets = [
        Target(
            text=f"snapshot and diff, one of {TABLES} changed, {rows} rows each, beside a reset of {written}",
            measured=case.ratio("snapshot and diff, 1 changed", f"reset, {written} written"),
            limit=3,
            unit="× one reset",
        )
        for written in (1, 5)
    ]
    return replace(case, targets=tuple(targets))


def _fill(database: BenchmarkDatabase, rows: int) -> None:
    from testdb_app.baseline import capture_baseline

    statements = [
        f"INSERT INTO t{table} (name) SELECT 'row ' || n FROM generate_series(1, {rows}) n" for table in range(TABLES)
    ]
    database.execute(";".join(statements))
    capture_baseline(database.alias, allow_database=database.name)


def _bulk(bench: Bench) -> Case:
    chance = random.Random(4)
    given = [
        {
            "number": f"S-{n}",
            "customer": f"Customer {chance.randrange(1000)}",
            "amount": Decimal(chance.randrange(100_000)).scaleb(-2),
            "pieces": chance.randrange(100),
            "day": datetime.date(2026, 1, 1) + datetime.timedelta(days=n % 300),
            "paid_at": datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC) if n % 2 else None,
            "is_open": True,
            "note": "",
        }
        for n in range(ROWS)
    ]
    times: dict[str, list[float]] = {"bulk_create": [], "bulk": []}
    with ExitStack() as stack:
        database: BenchmarkDatabase = stack.enter_context(bench.databases.copies(tables=2))()
        guard.trust_test_database(database.alias, database.name)
        with database.connection.schema_editor() as editor:
            editor.create_model(Sale)
        sales = Sale.objects.using(database.alias)
        runs: dict[str, Callable[[Any], Any]] = {
            "bulk_create": sales.bulk_create,
            "bulk": lambda rows: bulk(Sale, rows, using=database.alias),
        }
        for number in range(-1, max(2, min(7, bench.rounds // 20))):
            for name, run in runs.items():
                # The instances that bulk_create() needs are made before its time begins.
                rows: Any = [Sale(**row) for row in given] if name == "bulk_create" else given
                started = time.perf_counter()
                run(rows)
                if number >= 0:
                    times[name].append((time.perf_counter() - started) * 1000)
                assert sales.count() == ROWS
                database.execute("TRUNCATE benchmarks_sale")
    case = Case(
        key="bulk",
        title=f"{ROWS:,} rows of eight columns",
        series=tuple(
            Series(name=name, role="ours" if name == "bulk" else "rival", times=tuple(values))
            for name, values in times.items()
        ),
        base="bulk_create",
    )
    target = Target(
        text=f"{ROWS:,} rows in bulk, beside bulk_create",
        measured=case.ratio("bulk_create", "bulk"),
        limit=5,
        unit="× faster",
        at_least=True,
    )
    return replace(case, targets=(target,))
