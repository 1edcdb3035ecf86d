"""Test databases from templates beside stock Django and pytest-django: set-up, builds, workers, a disk, and kept databases."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from psycopg import sql

from tests.benchmarks.cases_tables import Bench
from tests.benchmarks.disk import filesystem, is_in_memory, own_server
from tests.benchmarks.results import Case, Series, Target
from tests.benchmarks.template_project import IMPORT, Measured, TemplateProject, template_project
from tests.scratch import connect

MIGRATIONS = 34
"""Of the cases that do not depend on the number of migrations. Their first set-up takes long enough."""
_WARM = {200: (100, 250), 550: (150, 500)}
_SHARE_OF_FIRST = {302: 8, 1_000: 20}
_STOCK = ("-p", "no:testdb")
_SIZES = (1, 16, 64, 128, 256, 512)
# As long as a project's imports, so that there is time to make a clone ahead.
_IMPORTS = {"SECONDS_TO_IMPORT": "1"}
_CACHE = {"CACHE": ".testdb"}

_KEY = """
import json, os, time
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.db import connections
from testdb_app.creation.key import Manifest, full_digest, read_static_key, read_used_parts
before = time.process_time(), time.perf_counter()
static = read_static_key(connections["default"], {})
used = read_used_parts(Manifest(files=tuple(json.loads(os.environ["FILES"]))))
full_digest(static, used)
after = time.process_time(), time.perf_counter()
files = sum(name.endswith(".py") and "/migrations/" in name for name in static.parts)
print(json.dumps([(after[0] - before[0]) * 1000, (after[1] - before[1]) * 1000, files]))
"""


def _rounds(bench: Bench, *, share: int = 20, least: int = 3) -> int:
    return max(least, bench.rounds // share)


def _in_turn(candidates: Mapping[str, Callable[[], Mapping[str, float]]], rounds: int) -> dict[str, tuple[float, ...]]:
    """Run the candidates in turn, and once before to warm up; return the times of each, by name and what it measured."""
    times: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            for what, milliseconds in run().items():
                if number:
                    times.setdefault(f"{name}{what}", []).append(milliseconds)
    return {name: tuple(measured) for name, measured in times.items()}


def _series(times: Mapping[str, tuple[float, ...]]) -> tuple[Series, ...]:
    roles = {True: "rival", False: "ours"}
    return tuple(
        Series(name=name, role=roles[name.startswith("stock")], times=measured) for name, measured in times.items()
    )


def _setup(measured: Measured) -> dict[str, float]:
    """Return the set-up by wall clock and by CPU of the process, beside imports, and the whole process."""
    return {
        "": measured.setup,
        ", CPU": measured.only["setup CPU"] - measured.part(IMPORT, cpu=True),
        ", whole process": measured.whole,
    }


def _parts(runs: Iterable[Measured]) -> str:
    """Return the medians of the parts, in milliseconds by wall clock and CPU."""
    found: dict[str, list[tuple[float, float]]] = {}
    for each in runs:
        for name, spent in each.only["parts"].items():
            found.setdefault(name, []).append(spent)
    return ", ".join(
        f"{name} {statistics.median(wall for wall, _ in spent):.1f}/{statistics.median(cpu for _, cpu in spent):.1f}"
        for name, spent in found.items()
    )


def run_templates(bench: Bench) -> Iterator[Case]:
    """Measure the set-up for the first test, warm, with and without a clone made ahead, on 200 and on 550 tables."""
    for tables, limits in _WARM.items():
        with template_project(tables=tables, migrations=MIGRATIONS) as project:
            yield _measure_warm(project, tables, limits, _rounds(bench))
            if tables == min(_WARM):
                yield _measure_unused(project, _rounds(bench))


def _measure_warm(project: TemplateProject, tables: int, limits: tuple[int, int], rounds: int) -> Case:
    runs: dict[str, list[Measured]] = {"ahead": [], "not ahead": []}

    def run(name: str) -> dict[str, float]:
        if name == "not ahead":
            project.forget_last_run()
        runs[name].append(project.from_template("test_first.py", **_IMPORTS))
        return _setup(runs[name][-1])

    def stock(*options: str) -> dict[str, float]:
        return _setup(project.stock(*options, "test_first.py", **_IMPORTS))

    cold = stock("--create-db", "--reuse-db")
    times = _in_turn(
        {
            "made ahead": lambda: run("ahead"),
            "stock, --reuse-db": lambda: stock("--reuse-db"),
            "not ahead": lambda: run("not ahead"),
        },
        rounds,
    )
    times |= {f"stock, first run{what}": (milliseconds,) for what, milliseconds in cold.items()}
    case = Case(
        key=f"templates-{tables}",
        title=f"{tables} tables, the set-up of the databases before the first test",
        series=_series(times),
        base="stock, --reuse-db",
        note="wall/CPU of the parts: " + "; ".join(f"{name}: {_parts(each[1:])}" for name, each in runs.items()),
    )
    return _with(
        case,
        *(
            Target(
                text=f"first test from a warm template, {tables} tables, {name}",
                measured=case.find(name).median,
                limit=limit,
                unit="ms",
            )
            for name, limit in zip(("made ahead", "not ahead"), limits, strict=True)
        ),
    )


def _measure_unused(project: TemplateProject, rounds: int) -> Case:
    """Measure a run that has the plugin and does not use templates: it imports none of them."""
    imported: set[str] = set()

    def run(*options: str) -> dict[str, float]:
        measured = project.run(*options, "test_nothing.py")
        imported.update(measured.only["creation"])
        return {"": measured.whole}

    times = _in_turn({"stock": lambda: run(*_STOCK), "without templates": run}, rounds)
    case = Case(key="templates-unused", title="A run without templates, all of it", series=_series(times), base="stock")
    more = case.find("without templates").median - case.find("stock").median
    return _with(
        case,
        Target(text="modules of templates that it imports", measured=len(imported), limit=0, unit="modules"),
        Target(text="start-up, more than pytest-django alone", measured=more, limit=20, unit="ms"),
    )


def run_migrations(bench: Bench) -> Iterator[Case]:
    """Measure the first set-up, a warm one and one from a file with many migrations, and what the trace adds to the first."""
    for migrations, share in _SHARE_OF_FIRST.items():
        with template_project(tables=200, migrations=migrations) as project:
            # Two of each: they take minutes.
            cold: dict[str, list[Measured]] = {"stock": [], "ours": []}
            for _ in range(2 if bench.rounds >= 20 and migrations < 1_000 else 1):
                cold["stock"].append(project.stock("--create-db", "test_first.py"))
                cold["ours"].append(project.from_template("--create-db", "test_first.py"))
            times = {
                f"{name}, first run{what}": tuple(_setup(each)[what] for each in runs)
                for name, runs in cold.items()
                for what in ("", ", CPU")
            }
            project.from_template("test_first.py", **_CACHE)  # writes the file
            warm = {
                "made ahead": lambda: _setup(project.from_template("test_first.py", **_IMPORTS)),
                "restored from a file": lambda: _setup(_restore(project)),
            }
            times |= _in_turn(warm, _rounds(bench, share=40))
            case = Case(
                key=f"templates-migrations-{migrations}",
                title=f"200 tables, {migrations:,} migrations, Python {sys.version_info[0]}.{sys.version_info[1]}",
                series=_series(times),
                base="stock, first run",
                note="the CPU of the trace: "
                f"{case_ratio(times, 'ours, first run, CPU', 'stock, first run, CPU'):.2f} × that of stock",
            )
            yield _with(
                case,
                Target(
                    text=f"{migrations:,} migrations: the first set-up beside a warm one",
                    measured=case.ratio("ours, first run", "made ahead"),
                    limit=share,
                    unit="× faster",
                    at_least=True,
                ),
                Target(
                    text=f"{migrations:,} migrations: the first set-up of stock beside one from a file, on an empty server",
                    measured=case.ratio("stock, first run", "restored from a file"),
                    limit=10,
                    unit="× faster",
                    at_least=True,
                ),
            )


def _restore(project: TemplateProject) -> Measured:
    """Run it as on another machine of a CI, whose server has no template."""
    project.drop_all()
    return project.from_template("test_first.py", **_CACHE)


def case_ratio(times: Mapping[str, tuple[float, ...]], name: str, to: str) -> float:
    """Return how many times the median of one goes into that of another."""
    return statistics.median(times[name]) / statistics.median(times[to])


def run_workers(bench: Bench) -> Iterator[Case]:
    """Measure four workers that start without a template, and one, four and eight with one."""
    with template_project(tables=200, migrations=MIGRATIONS) as project:
        # Each worker has a test at once: none is handed out twice.
        tests = {"TESTS": "16", "SECONDS_TO_SLEEP": "0.05"}
        late, builds, first = [], [], []
        for _ in range(max(1, min(3, bench.rounds // 20))):
            run = project.from_template("-n", "4", "--create-db", "test_first.py", **tests)
            workers = [each for each in run.processes if "ready" in each]
            builders = [each for each in workers if "built" in each]
            assert len(workers) == 4, run.run.stdout
            builds.append(len(builders))
            first.append(max(each["setup"] for each in workers))
            late.append(max(each["ready"] - builders[0]["built"] for each in workers if each not in builders))
        times: dict[str, tuple[float, ...]] = {
            "the last of 4 workers, after the build": tuple(late),
            "4 workers, first run": tuple(first),
        }
        for number in (1, 4, 8):
            runs = [
                project.from_template("-n", str(number), "test_first.py", **tests, **_IMPORTS)
                for _ in range(_rounds(bench, share=40))
            ]
            workers = [each for run in runs for each in run.processes if "ready" in each]
            times[f"{number} workers, warm"] = tuple(
                each["setup"] + each["parts"].get("wait", [0])[0] for each in workers
            )
            times[f"{number} workers, warm, CPU"] = tuple(each["setup CPU"] for each in workers)
        case = Case(
            key="templates-workers",
            title=f"200 tables, workers of pytest-xdist, {os.cpu_count()} processors",
            series=_series(times),
            base="1 workers, warm",
        )
        yield _with(
            case,
            Target(text="-n 4 cold: builds", measured=max(builds), limit=1, unit="build"),
            Target(
                text="-n 4 cold: the last of the others is ready after the build",
                measured=statistics.median(late),
                limit=500,
                unit="ms",
            ),
        )


def run_key(bench: Bench) -> Iterator[Case]:
    """Measure the key of a project with 500 migrations, with the files in the page cache and without."""
    with template_project(tables=200, migrations=500) as project:
        folder = project.project.directory
        project.project.write("measure_key.py", _KEY)
        files = sorted(str(path.relative_to(folder)) for path in folder.glob("*.py"))
        known: list[float] = []

        def run(*, cold: bool) -> dict[str, float]:
            if cold:
                for path in folder.rglob("*.py"):
                    with path.open("rb") as file:
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            done = project.project.run("measure_key.py", FILES=json.dumps(files)).must_pass()
            cpu, wall, count = json.loads(done.stdout.splitlines()[-1])
            known.append(count)
            return {", CPU": cpu, ", wall": wall}

        candidates = {"cached": lambda: run(cold=False)}
        if hasattr(os, "posix_fadvise"):
            os.sync()  # pages that are not written yet cannot be dropped
            candidates["not cached"] = lambda: run(cold=True)
        times = _in_turn(candidates, _rounds(bench))
        title = f"the key of {known[0]:.0f} migration files of the project and of Django's"
        case = Case(key="templates-key", title=title, series=_series(times), base="cached, CPU")
        target = Target(
            text="key of 500 migration files, CPU", measured=case.find("cached, CPU").median, limit=60, unit="ms"
        )
        yield _with(case, target)


def run_template_disk(bench: Bench) -> Iterator[Case]:
    """Measure the warm set-up on a disk with ``fsync``, and on the server of the tests; and both ways to make a clone."""
    if bench.disk is None or is_in_memory(bench.disk):
        print(f"No disk: {bench.disk} is in memory. Choose a folder on a disk with --disk FOLDER.\n")
        return
    with ExitStack() as stack:
        host = stack.enter_context(own_server(bench.disk, log_statement="all", log_checkpoints="on"))
        disk = stack.enter_context(template_project(tables=200, migrations=MIGRATIONS, host=host))
        memory = stack.enter_context(template_project(tables=200, migrations=MIGRATIONS))
        places = {filesystem(bench.disk) or "disk": disk, "the server of the tests": memory}
        log = Path(host).parent / "log"
        checkpoints: list[str] = []
        drops: list[str] = []

        def warm(project: TemplateProject, *, ahead: bool) -> dict[str, float]:
            if not ahead:
                project.forget_last_run()
            if project is disk:
                start = log.stat().st_size
            measured = project.from_template("test_first.py", **_IMPORTS)
            if project is disk:
                statements = log.read_bytes()[start:].decode(errors="replace")
                until_first_test = statements.partition("the first test")[0]
                assert until_first_test != statements, "the log does not show the first test"
                lines = until_first_test.splitlines()
                drops.extend(line for line in lines if "DROP DATABASE" in line)
                # Those that the server begins by itself are waited for by nobody.
                checkpoints.extend(line for line in lines if "checkpoint starting:" in line and " wait" in line)
            return {"": measured.setup, ", CPU": measured.only["setup CPU"] - measured.part(IMPORT, cpu=True)}

        for project in places.values():
            project.from_template("--create-db", "test_first.py")
            project.from_template("test_first.py")
        candidates: dict[str, Callable[[], Mapping[str, float]]] = {}
        for place, project in places.items():
            candidates[f"made ahead, {place}"] = lambda project=project: warm(project, ahead=True)  # type: ignore[misc]
            candidates[f"not ahead, {place}"] = lambda project=project: warm(project, ahead=False)  # type: ignore[misc]
            for strategy in ("WAL_LOG", "FILE_COPY"):
                candidates[f"{strategy}, {place}"] = (  # type: ignore[misc]
                    lambda project=project, strategy=strategy: _clone(project, strategy)
                )
        times = _in_turn(candidates, _rounds(bench))
        for place, project in places.items():
            measured = [project.stock("--reuse-db", "test_first.py") for _ in range(2)]
            times[f"stock, first run, {place}"], times[f"stock, --reuse-db, {place}"] = (
                (each.setup,) for each in measured
            )
    (base, *_) = places
    case = Case(
        key="templates-disk",
        title="200 tables, warm set-up, and CREATE DATABASE and DROP DATABASE alone",
        series=_series(times),
        base=f"made ahead, {base}",
    )
    yield _with(
        case,
        Target(text="disk: DROP DATABASE before the first test", measured=len(drops), limit=0, unit="statements"),
        Target(text="disk: checkpoints before the first test", measured=len(checkpoints), limit=0, unit="checkpoints"),
    )


def _clone(project: TemplateProject, strategy: str) -> dict[str, float]:
    """Clone the template and drop the clone; return the milliseconds of each."""
    name = f"test_{project.name}_clone"
    marks = []
    with connect("postgres", **project.server) as connection:
        for statement in (f"CREATE DATABASE {{}} TEMPLATE {{}} STRATEGY {strategy}", "DROP DATABASE {}"):
            names = (sql.Identifier(name), sql.Identifier(project.find_template()))[: statement.count("{}")]
            started = time.perf_counter()
            connection.execute(sql.SQL(statement).format(*names))
            marks.append((time.perf_counter() - started) * 1000)
    return {", CREATE": marks[0], ", DROP": marks[1]}


def run_kept(bench: Bench) -> Iterator[Case]:
    """Measure a kept database by its size: a new clone of the template beside the reset of the present one."""
    with ExitStack() as stack:
        hosts: dict[str, str | None] = {"the server of the tests": None}
        if bench.disk is not None and not is_in_memory(bench.disk):
            hosts[filesystem(bench.disk) or "disk"] = stack.enter_context(own_server(bench.disk))
        for place, host in hosts.items():
            for megabytes in _SIZES if bench.rounds >= 20 else _SIZES[:2]:
                with template_project(tables=200, migrations=MIGRATIONS, host=host, megabytes=megabytes) as project:
                    yield _measure_kept(project, place, megabytes, _rounds(bench, share=40))


def _measure_kept(project: TemplateProject, place: str, megabytes: int, rounds: int) -> Case:
    def run(cheap: str, part: str) -> dict[str, float]:
        project.forget_last_run()
        measured = project.from_template("--reuse-db", "test_first.py", CLONES_ARE_CHEAP=cheap)
        assert measured.part(part), measured.only["parts"]
        return {"": measured.setup, f", {part}": measured.part(part), ", at the end": measured.part("at the end")}

    times = _in_turn({"a clone": lambda: run("yes", "clone"), "a reset": lambda: run("no", "reset")}, rounds)
    with connect("postgres", **project.server) as connection:
        (size,) = connection.execute("SELECT pg_database_size(%s)", [project.find_template()]).fetchone()
    return Case(
        key=f"templates-kept-{uuid.uuid4().hex[:4]}",
        title=f"a kept database with {megabytes} MB of rows, a template of {size / 1024**2:.0f} MB, {place}",
        series=_series(times),
        base="a clone",
    )


def _with(case: Case, *targets: Target) -> Case:
    return Case(key=case.key, title=case.title, series=case.series, base=case.base, note=case.note, targets=targets)
